"""Reading some columns of a large catalogue, CSV or FITS, with identifiers kept exact."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from lib.schema import InputError

LARGEST_EXACT = 2**53 - 1
"""Above it several integers share one double (IEEE 754), so an identifier loses its digits."""

SUFFIXES = (".csv.gz", ".csv", ".fits.gz", ".fits")
"""Catalogue formats that can be read, in the order in which a folder is searched."""


def column_names(path: Path) -> list[str]:
    """Names of a catalogue's columns, in the file's own spelling.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        if _is_fits(path):
            from astropy.io import fits  # a quarter of the time of importing lib.surveys

            with fits.open(path) as hdus:
                return list(hdus[1].columns.names)
        return list(pd.read_csv(path, nrows=0).columns)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise _unreadable(path, error) from error


def read_columns(
    path: Path,
    *,
    ids: Mapping[str, str] | None = None,
    numbers: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
    optional: Iterable[str] = (),
) -> pd.DataFrame:
    """Read the named columns of a CSV or FITS catalogue and nothing else.

    Column names are matched without regard to case.

    Parameters
    ----------
    path : Path
        ``.csv``, ``.csv.gz``, ``.fits`` or ``.fits.gz``.
    ids, numbers, texts : mapping, optional
        New name -> name in the file. Identifiers become ``Int64`` without passing through
        floating point, numbers float64, texts `str` (Python's ``b'..'`` marks removed).
    optional : iterable of str
        New names that may be absent from the file, and then from the result.

    Returns
    -------
    DataFrame
        Columns under their new names, rows in the order of the file.

    Raises
    ------
    InputError
        If the file cannot be read, lacks a column (all missing ones are named), holds text
        where a number must be, or identifiers that have lost digits.
    """
    ids, numbers, texts = dict(ids or {}), dict(numbers or {}), dict(texts or {})
    wanted = _spelled_as_in_file(path, ids | numbers | texts, set(optional))
    exact = [wanted[new] for new in (*ids, *texts) if new in wanted]
    names = list(wanted.values())
    raw = _read_fits(path, names) if _is_fits(path) else _read_csv(path, names, exact)
    table = {}
    for new, name in wanted.items():
        if new in ids:
            table[new] = exact_ids(raw[name], name, path)
        elif new in texts:
            table[new] = _decoded(raw[name])
        else:
            table[new] = raw[name].astype("float64")
    return pd.DataFrame(table)


def exact_ids(values: pd.Series, column: str, source: str | Path) -> pd.Series:
    """Identifiers as ``Int64``, refused where floating point has eaten their digits.

    Parameters
    ----------
    values : Series
        Integers, floats or strings; strings may carry Python's ``b'..'`` marks.
    column, source : str
        Where they come from, for the message.

    Raises
    ------
    InputError
        If an identifier is no whole number, does not fit in 64 bits, or is written as a float
        (``5.877e17``, ``587722981742084144.0``) that is too large for a double to be exact.
    """
    if pd.api.types.is_integer_dtype(values):
        return values.astype("Int64")
    if pd.api.types.is_float_dtype(values):
        return _ids_of_floats(values, values, column, source)
    text = _decoded(values)
    plain = text.str.fullmatch(r"[+-]?\d+").fillna(False).astype(bool)
    result = pd.Series(pd.NA, index=text.index, dtype="Int64")
    try:
        # As an array: pandas aligns a Series first, and would pass it through floating point.
        result[plain] = text[plain].astype("int64").to_numpy()
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{source}: column {column} holds an identifier that does not fit in 64 bits "
            f"({error}). Correct the identifiers of that file."
        ) from error
    other = text[~plain & text.notna()]
    result[other.index] = _ids_of_floats(
        pd.to_numeric(other, errors="coerce"), other, column, source
    )
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


def _spelled_as_in_file(path: Path, wanted: dict[str, str], optional: set[str]) -> dict[str, str]:
    """The wanted columns in the file's own spelling, without the absent optional ones."""
    in_file = {name.strip().lower(): name for name in column_names(path)}
    missing = [
        name for new, name in wanted.items() if new not in optional and name.lower() not in in_file
    ]
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(missing)}; it begins with "
            f"{', '.join(list(in_file.values())[:6])}. "
            "Is it the right table, and downloaded whole?"
        )
    return {new: in_file[name.lower()] for new, name in wanted.items() if name.lower() in in_file}


def _read_csv(path: Path, columns: list[str], as_text: list[str]) -> pd.DataFrame:
    """Columns of a CSV file: text for identifiers, float64 for all others.

    pyarrow converts only the wanted columns, block by block: GZ2's table has 231 of them, and
    reading them all takes several times the memory.
    """
    types = {name: pa.string() if name in as_text else pa.float64() for name in columns}
    options = pyarrow.csv.ConvertOptions(
        include_columns=columns, column_types=types, strings_can_be_null=True
    )
    try:
        table = pyarrow.csv.read_csv(path, convert_options=options)
    except pa.ArrowInvalid as error:
        raise _bad_value(path, error) from error
    except (OSError, EOFError) as error:
        raise _unreadable(path, error) from error
    return table.to_pandas(split_blocks=True, self_destruct=True)


def _bad_value(path: Path, error: pa.ArrowInvalid) -> InputError:
    """Pyarrow's complaint about a value, with the name of the column."""
    found = re.search(r"CSV column #(\d+): (?:Row #\d+: )?.*?: (.*)", str(error))
    if not found:
        return _unreadable(path, error)
    column = column_names(path)[int(found.group(1))]
    return InputError(
        f"{path}: column {column} must hold numbers: {found.group(2)}. "
        "Correct that value, or leave the field empty."
    )


def _read_fits(path: Path, columns: list[str]) -> pd.DataFrame:
    """Columns of the first table of a FITS file, in native byte order."""
    from astropy.io import fits

    try:
        # Text stays bytes until pyarrow takes it: as numpy text it needs four times the memory.
        memmap = not path.name.endswith(".gz")
        with fits.open(path, memmap=memmap, character_as_bytes=True) as hdus:
            return pd.DataFrame({name: _native(hdus[1].data[name]) for name in columns})
    except (OSError, EOFError, ValueError, TypeError, IndexError, zlib.error) as error:
        raise _unreadable(path, error) from error


def _native(values: np.ndarray) -> np.ndarray | pd.Series:
    """A copy in the machine's byte order: FITS is big-endian, and pandas wants native arrays.

    Single precision becomes the shortest decimal that it stands for, as in the CSV file: widened
    bit by bit, 0.43 would turn into 0.43000000715 and pass a cut at > 0.43.
    """
    values = np.asarray(values)
    if values.dtype.kind == "f" and values.dtype.itemsize == 4:
        return values.astype("U16").astype("float64")
    if values.dtype.kind == "S":
        return pd.Series(pa.array(values).cast(pa.string()), dtype="str")
    return values.astype(values.dtype.newbyteorder("="))


def _decoded(values: pd.Series) -> pd.Series:
    """Text without blanks and Python's ``b'..'`` marks; empty becomes missing."""
    first = values.dropna().head(1)
    if len(first) and isinstance(first.iloc[0], bytes):
        values = values.str.decode("utf-8")
    text = values.astype("str").str.strip().str.replace(r"""^b(['"])(.*)\1$""", r"\2", regex=True)
    return text.mask(text == "")


def _is_fits(path: Path) -> bool:
    return path.name.lower().endswith((".fits", ".fits.gz"))


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} cannot be read ({error}). It may be broken or only half downloaded: get it again."
    )
