"""Reading some columns of a table, text, FITS or Parquet, with identifiers kept exact."""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from lib.schema import InputError

LARGEST_EXACT = 2**53 - 1
"""Above it several integers share one double (IEEE 754), so an identifier loses its digits."""

SUFFIXES = (".csv.gz", ".csv", ".fits.gz", ".fits", ".fit", ".parquet")
"""Catalogue formats that can be read, in the order in which a folder is searched."""

_BROKEN = (OSError, EOFError, ValueError, TypeError, IndexError, zlib.error)
"""What the libraries raise on files that are damaged or of another kind; Arrow's are among them."""


def column_names(path: Path) -> list[str]:
    """Names of a table's columns, in the file's own spelling.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        if _is_fits(path):
            from astropy.io import fits  # a quarter of the time of importing lib.surveys

            with fits.open(path) as hdus:
                return list(_first_table(hdus).columns.names)
        if path.suffix == ".parquet":
            return pa.parquet.read_schema(path).names
        return _layout(path)[0]
    except InputError:
        raise
    except _BROKEN as error:
        raise _unreadable(path, error) from error


def read_columns(
    path: Path,
    *,
    ids: Mapping[str, str] | None = None,
    numbers: Mapping[str, str] | None = None,
    fractions: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    optional: Iterable[str] = (),
) -> pd.DataFrame:
    """Read the named columns of a table and nothing else.

    Column names are matched without regard to case. Text may be separated by commas, semicolons
    or tabs, and may begin with comments (SkyServer's ``#Table1``) or a header behind ``#``. Of a
    FITS file the first table is read, and its ``TNULL`` values are missing.

    Parameters
    ----------
    path : Path
        ``.parquet``, ``.fits``, ``.fit`` or else text; all but Parquet also as ``.gz``.
    ids, numbers, fractions, texts, names : mapping, optional
        New name -> name in the file. Identifiers become ``Int64`` (``UInt64`` where one needs it)
        without passing through floating point, numbers float64, fractions float64 in [0, 1] or
        missing, texts `str` (Python's ``b'..'`` marks removed); names are identifiers where all
        are written as whole numbers, else texts, so that ``007`` keeps its zeros.
    optional : iterable of str
        New names that may be absent from the file, and then from the result.

    Returns
    -------
    DataFrame
        Columns under their new names, rows in the order of the file.

    Raises
    ------
    InputError
        If the file cannot be read, lacks a column (all missing ones are named) or has it twice,
        holds text where a number must be, a fraction that is none, or identifiers that have lost
        digits.
    """
    ids, fractions, texts, names = (dict(kind or {}) for kind in (ids, fractions, texts, names))
    wanted = _spelled_as_in_file(
        path, ids | fractions | dict(numbers or {}) | texts | names, set(optional)
    )
    exact = [wanted[new] for new in (*ids, *texts, *names) if new in wanted]
    columns = list(wanted.values())
    if _is_fits(path):
        raw = _read_fits(path, columns)
    elif path.suffix == ".parquet":
        raw = _read_parquet(path, columns)
    else:
        raw = _read_text(path, columns, exact)
    table = {}
    for new, name in wanted.items():
        if new in ids:
            table[new] = exact_ids(raw[name], name, path)
        elif new in texts:
            table[new] = _decoded(raw[name])
        elif new in names:
            table[new] = _names(raw[name], name, path)
        else:
            try:
                table[new] = raw[name].astype("float64")
            except (ValueError, TypeError) as error:
                raise InputError(f"{path}: column {name} must hold numbers ({error})") from error
    table = pd.DataFrame(table)
    for new in fractions:
        if new in table:
            _check_fraction(table, new, wanted[new], path)
    return table


def exact_ids(values: pd.Series, column: str, source: str | Path) -> pd.Series:
    """Identifiers as ``Int64``, refused where floating point has eaten their digits.

    Parameters
    ----------
    values : Series
        Integers, floats or strings; strings may carry Python's ``b'..'`` marks.
    column, source : str
        Where they come from, for the message.

    Returns
    -------
    Series
        ``Int64``, or ``UInt64`` where an identifier is above 2^63 (specObjID of plates from 8192).

    Raises
    ------
    InputError
        If an identifier is no whole number, does not fit in 64 bits, or is written as a float
        (``5.877e17``, ``587722981742084144.0``) that is too large for a double to be exact.
    """
    if pd.api.types.is_integer_dtype(values):
        large = pd.api.types.is_unsigned_integer_dtype(values) and (values > 2**63 - 1).any()
        return values.astype("UInt64" if large else "Int64")
    if pd.api.types.is_float_dtype(values):
        return _ids_of_floats(values, values, column, source)
    text = _decoded(values)
    plain = text.str.fullmatch(r"[+-]?\d+").fillna(False).astype(bool)
    try:
        # As an array: pandas aligns a Series first, and would pass it through floating point.
        try:
            whole = text[plain].astype("int64").to_numpy()
        except (ValueError, OverflowError):
            whole = np.array([int(t) for t in text[plain]], "uint64")
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{source}: column {column} holds an identifier that does not fit in 64 bits "
            f"({error}). Correct the identifiers of that file."
        ) from error
    kind = "UInt64" if whole.dtype == np.uint64 else "Int64"
    result = pd.Series(pd.NA, index=text.index, dtype=kind)
    result[plain] = whole
    other = text[~plain & text.notna()]
    floats = _ids_of_floats(pd.to_numeric(other, errors="coerce"), other, column, source)
    result[other.index] = floats.astype(kind)
    return result


def _ids_of_floats(
    values: pd.Series, shown: pd.Series, column: str, source: str | Path
) -> pd.Series:
    """Floats as identifiers where that is exact; `shown` is how the file writes them."""
    not_whole = shown.notna() & (values.isna() | (values % 1 != 0))
    if not_whole.any():
        raise InputError(
            f"{source}: column {column} holds {shown[not_whole].iloc[0]!r}, which is no whole "
            "number. Correct the identifiers of that file."
        )
    lossy = values.abs() > LARGEST_EXACT
    if lossy.any():
        raise InputError(
            f"{source}: column {column} writes identifiers as floating point "
            f"({shown[lossy].iloc[0]}), so their last digits are lost in {lossy.sum()} rows and "
            "galaxies would be confused. Use the original file, or save it again with that column "
            "as text or integers."
        )
    return values.astype("Int64")


def _names(values: pd.Series, column: str, path: Path) -> pd.Series:
    """Identifiers where each is a whole number as Python would write it, else text."""
    if pd.api.types.is_numeric_dtype(values):
        if pd.api.types.is_float_dtype(values):
            raise InputError(
                f"{path}: column {column} holds floats, which cannot keep 18-digit identifiers "
                "apart. Write it as integers or text."
            )
        return exact_ids(values, column, path)
    text = _decoded(values)
    known = text.dropna()
    if len(known) and known.str.fullmatch(r"0|-?[1-9]\d{0,18}").all():
        return exact_ids(text, column, path)
    if len(known) and not known.str.fullmatch(r"\d+").all():
        as_numbers = pd.to_numeric(known, errors="coerce")
        if as_numbers.notna().all():
            return _names(as_numbers.astype(float), column, path)
    return text


def _check_fraction(table: pd.DataFrame, new: str, column: str, path: Path) -> None:
    outside = ~table[new].between(0, 1) & table[new].notna()
    if outside.any():
        row = int(outside.to_numpy().argmax())
        raise InputError(
            f"{path}: column {column} has {outside.sum()} values outside [0, 1], the first "
            f"{table[new].iloc[row]:g} in row {row + 1} ({table.columns[0]} "
            f"{table.iloc[row, 0]}). A vote fraction cannot be that: correct the file or get it "
            "again."
        )


def _spelled_as_in_file(path: Path, wanted: dict[str, str], optional: set[str]) -> dict[str, str]:
    """The wanted columns in the file's own spelling, without the absent optional ones."""
    in_file: dict[str, list[str]] = {}
    for name in column_names(path):
        in_file.setdefault(name.strip().lower(), []).append(name)
    missing = [
        name for new, name in wanted.items() if new not in optional and name.lower() not in in_file
    ]
    if missing:
        begins = [spelt[0] for spelt in in_file.values()][:6]
        raise InputError(
            f"{path} has no column {', '.join(missing)}; it begins with {', '.join(begins)}. "
            "Is it the right table, and downloaded whole?"
        )
    found = {}
    for new, name in wanted.items():
        spelt = in_file.get(name.lower(), [])
        if len(spelt) > 1:
            raise InputError(
                f"{path} has {len(spelt)} columns {name} ({', '.join(spelt)}): leave the one that "
                "is meant"
            )
        if spelt:
            found[new] = spelt[0]
    return found


def _layout(path: Path) -> tuple[list[str], int, str]:
    """Of a text table: names of the columns, lines before the first row, and what separates.

    The header is the first line that is no comment; a comment right above rows of as many fields
    is the header itself (``#objid,ra,dec``).
    """
    comments, lines = [], 0
    with pa.input_stream(str(path)) as stream:
        for line in _lines(stream, path):
            lines += 1
            if not line.startswith("#") and line.strip():
                break
            comments.append(line.lstrip("#").strip())
        else:
            raise ValueError("no header")
    separator = max(",;\t", key=line.count)
    header = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
    above = next(csv.reader(comments[-1:], delimiter=separator), [])
    a_row = any(re.fullmatch(r"[+-]?\.?\d.*", field.strip()) for field in header)
    if a_row and len(above) == len(header) and not re.fullmatch(r"Table\d+", above[0]):
        return [name.strip() for name in above], lines - 1, separator
    return [name.strip() for name in header], lines, separator


def _lines(stream, path: Path) -> list[str]:
    """The first lines of a file as text."""
    start = stream.read(2**20)
    try:
        text = start.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 4:  # not only a character cut in two
            raise not_utf8(path) from None
        text = start[: error.start].decode("utf-8-sig")
    return text.replace("\r\n", "\n").split("\n")


def not_utf8(path: Path) -> InputError:
    """What to say of text in another encoding."""
    return InputError(f"{path} is not UTF-8 text: convert it, e.g. iconv -f latin1 -t utf-8")


def _read_text(path: Path, columns: list[str], as_text: list[str]) -> pd.DataFrame:
    """Columns of a text table: text for identifiers, float64 for all others.

    pyarrow converts only the wanted columns, block by block: GZ2's table has 231 of them, and
    reading them all takes several times the memory.
    """
    names, lines, separator = _layout(path)
    types = {name: pa.string() if name in as_text else pa.float64() for name in columns}
    options = pyarrow.csv.ConvertOptions(
        include_columns=columns, column_types=types, strings_can_be_null=True
    )
    try:
        table = pyarrow.csv.read_csv(
            path,
            pyarrow.csv.ReadOptions(column_names=names, skip_rows=lines),
            pyarrow.csv.ParseOptions(delimiter=separator),
            options,
        )
    except pa.ArrowInvalid as error:
        found = re.search(r"CSV column #(\d+): (?:Row #\d+: )?.*?: (.*)", str(error))
        if "invalid UTF8" in str(error):
            raise not_utf8(path) from None
        if not found:
            raise _unreadable(path, error) from error
        raise InputError(
            f"{path}: column {names[int(found[1])]} must hold numbers: {found[2]}. "
            "Correct that value, or leave the field empty."
        ) from error
    except (OSError, EOFError) as error:
        raise _unreadable(path, error) from error
    return table.to_pandas(split_blocks=True, self_destruct=True)


def _read_parquet(path: Path, columns: list[str]) -> pd.DataFrame:
    """Columns of a Parquet file; one that pandas had as its index is a column like others."""
    try:
        table = pa.parquet.read_table(path, columns=columns).replace_schema_metadata()
    except _BROKEN as error:
        raise _unreadable(path, error) from error
    # Of integers with gaps pandas would make floats.
    exact = {pa.int64(): pd.Int64Dtype(), pa.uint64(): pd.UInt64Dtype()}
    return table.to_pandas(types_mapper=exact.get)


def _first_table(hdus):
    """The first table among the extensions of a FITS file."""
    from astropy.io import fits

    tables = [hdu for hdu in hdus if isinstance(hdu, (fits.BinTableHDU, fits.TableHDU))]
    if not tables:
        raise ValueError("no extension holds a table")
    return tables[0]


def _read_fits(path: Path, columns: list[str]) -> pd.DataFrame:
    """Columns of the first table of a FITS file, in native byte order."""
    from astropy.io import fits

    try:
        # Text stays bytes until pyarrow takes it: as numpy text it needs four times the memory.
        memmap = not path.name.endswith(".gz")
        with fits.open(path, memmap=memmap, character_as_bytes=True) as hdus:
            hdu = _first_table(hdus)
            # From the header: astropy's columns would keep a copy of every row.
            card, nulls = hdu.header, {}
            for k in range(1, card["TFIELDS"] + 1):
                if f"TNULL{k}" in card:
                    # In the unit of what is stored, before TZERO.
                    nulls[card[f"TTYPE{k}"]] = card[f"TNULL{k}"] + int(card.get(f"TZERO{k}", 0))
            return pd.DataFrame({n: _native(hdu.data[n], nulls.get(n)) for n in columns})
    except _BROKEN as error:
        raise _unreadable(path, error) from error


def _native(values: np.ndarray, null: int | None) -> np.ndarray | pd.Series:
    """A copy in the machine's byte order: FITS is big-endian, and pandas wants native arrays.

    Single precision becomes the shortest decimal that it stands for, as in the CSV file: widened
    bit by bit, 0.43 would turn into 0.43000000715 and pass a cut at > 0.43.
    """
    values = np.asarray(values)
    if values.dtype.kind == "f" and values.dtype.itemsize == 4:
        return values.astype("U16").astype("float64")
    if values.dtype.kind == "S":
        return pd.Series(pa.array(values).cast(pa.string()), dtype="str")
    values = values.astype(values.dtype.newbyteorder("="))
    if null is None or values.dtype.kind not in "iu":
        return values
    return pd.Series(pd.arrays.IntegerArray(values, values == null))


def _decoded(values: pd.Series) -> pd.Series:
    """Text without blanks and Python's ``b'..'`` marks; empty becomes missing."""
    first = values.dropna().head(1)
    if len(first) and isinstance(first.iloc[0], bytes):
        values = values.str.decode("utf-8")
    text = values.astype("str").str.strip().str.replace(r"""^b(['"])(.*)\1$""", r"\2", regex=True)
    return text.mask(text == "")


def _is_fits(path: Path) -> bool:
    return path.name.lower().endswith((".fits", ".fits.gz", ".fit", ".fit.gz"))


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} cannot be read ({error}). It may be broken or only half downloaded: get it again."
    )
