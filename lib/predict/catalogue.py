"""The catalogue of a survey: its columns, and Parquet, FITS and VOTable files of any length.

Files are written shard by shard, so that a catalogue never has to fit into memory.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from lib.evaluation import apply_temperature, decide
from lib.paths import atomic
from lib.predict.inputs import ID, PATH
from lib.predict.package import Package
from lib.receipts import sha256
from lib.schema import probability_columns

NAMES = ("catalogue.parquet", "catalogue.fits", "catalogue.vot")
"""Files that a finished prediction leaves, the same rows in each."""

FITS_BLOCK = 2880


@dataclass(frozen=True)
class Column:
    """A column of the catalogue: `kind` is int, str, float (32 bits) or bool."""

    name: str
    kind: str
    unit: str | None
    description: str


def columns(card: dict, id_kind: str) -> tuple[Column, ...]:
    """Columns of the catalogue of a network with some model card, in order."""
    classes = card["classes"]
    decided = "arm class with the highest probability"
    if card.get("decision"):
        decided = (
            "arm class with the largest log of its probability, before calibration, less the "
            "offset of its class, so that rare ones are found; need not be the most probable"
        )
    probabilities = (
        Column(name, "float", None, f"calibrated probability of arm class {arm_class}")
        for name, arm_class in zip(probability_columns(tuple(classes)), classes)
    )
    return (
        Column(ID, id_kind, None, "identifier from the list, or the name of the file"),
        Column(PATH, "str", None, "file of the cut-out as the list has it"),
        *probabilities,
        Column("predicted", "str", None, decided),
        Column("entropy", "float", "bit", "Shannon entropy of the probabilities"),
        Column(
            "arms_expected",
            "float",
            None,
            "mean arm number if arms can be counted: the mean over all classes but ?, with 5+ as 5 "
            "and a merged class as the middle of its numbers",
        ),
        Column(
            "training_distance",
            "float",
            None,
            "distance to the nearest training galaxy in the space of standardised features",
        ),
        Column(
            "distance_percentile",
            "float",
            None,
            "per cent of the held-out validation galaxies that lie nearer",
        ),
        Column(
            "out_of_distribution",
            "bool",
            None,
            "unlike the training images: farther than FLAGDIST; false without a prediction",
        ),
        Column("reason", "str", None, "why there is no prediction; empty where there is one"),
    )


def arm_number(arm_class: str) -> float:
    """Number of arms that a class stands for; NaN for "?".

    >>> [arm_number(c) for c in ("2", "5+", "3+4", "4+5+", "?")]
    [2.0, 5.0, 3.5, 4.5, nan]
    """
    numbers = [float(n) for n in re.findall(r"\d", arm_class)]
    return sum(numbers) / len(numbers) if numbers else float("nan")


def expected_arms(probabilities: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Mean arm number given that arms can be counted, float, (n,); NaN if that is impossible."""
    numbers = np.array([arm_number(c) for c in classes])
    counted = probabilities[:, np.isfinite(numbers)]
    total = counted.sum(axis=1)
    mean = counted @ numbers[np.isfinite(numbers)]
    return np.divide(mean, total, out=np.full(len(total), np.nan), where=total > 0)


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Shannon entropy in bits, float, (n,).

    >>> entropy(np.array([[0.5, 0.5], [1.0, 0.0]])).tolist()
    [1.0, 0.0]
    """
    logarithms = np.log2(np.where(probabilities > 0, probabilities, 1))
    return -(probabilities * logarithms).sum(axis=1) + 0.0


def table(
    listed: pd.DataFrame,
    reasons: Sequence[str],
    distance: np.ndarray,
    probabilities: np.ndarray,
    package: Package,
    views: int,
) -> pa.Table:
    """Rows of the catalogue.

    Parameters
    ----------
    listed : DataFrame
        `galaxy_id` and `image_path` of all rows.
    reasons : sequence of str
        Per row why there is no prediction, empty where there is one.
    distance : ndarray, float32, (m,)
        To the nearest training galaxy, of the m rows that have a prediction, in their order.
    probabilities : ndarray, float, (m, classes)
        Of the same rows; not calibrated, averaged over `views` views.
    package : Package
    views : int
    """
    read = np.array([not reason for reason in reasons])
    classes = package.classes
    calibrated = apply_temperature(probabilities, package.temperature(views))
    found = {
        **dict(zip(probability_columns(classes), calibrated.T)),
        "entropy": entropy(calibrated),
        "arms_expected": expected_arms(calibrated, classes),
        "training_distance": distance,
        "distance_percentile": package.reference.percentile(distance),
    }
    rows: dict[str, object] = {name: listed[name].to_numpy() for name in (ID, PATH)}
    for name, values in found.items():
        rows[name] = np.full(len(read), np.nan, np.float32)
        rows[name][read] = values
    rows["predicted"] = np.full(len(read), "", object)
    decided = decide(probabilities, package.card.get("decision"))
    rows["predicted"][read] = np.array(classes, object)[decided]
    limit = package.card["out_of_distribution"]["flag_distance"]
    rows["out_of_distribution"] = rows["training_distance"] > limit
    rows["reason"] = list(reasons)
    id_kind = "int" if listed[ID].dtype.kind == "i" else "str"
    schema = arrow_schema(columns(package.card, id_kind))
    return pa.table({name: rows[name] for name in schema.names}, schema=schema)


def arrow_schema(described: Sequence[Column]) -> pa.Schema:
    """Types of the columns in Parquet."""
    kinds = {"int": pa.int64(), "str": pa.string(), "float": pa.float32(), "bool": pa.bool_()}
    return pa.schema([(column.name, kinds[column.kind]) for column in described])


def facts(package: Package, plan: dict) -> dict[str, tuple[object, str]]:
    """What the catalogue says of its making: value and meaning by FITS keyword."""
    card = package.card
    return {
        "MODEL": (card["role"], "role of the network"),
        "BACKBONE": (card["backbone"], "backbone"),
        "CLASSES": (" ".join(card["classes"]), "arm classes"),
        "WEIGHTS": (card["weights_sha256"], "SHA-256 of the weights"),
        "CARD": (sha256(package.folder / "card.json"), "SHA-256 of the model card"),
        "TRAINSET": (card["training_data"]["assignment_sha256"], "SHA-256 of training galaxies"),
        "IMAGES": (card["training_data"]["image_cache_sha256"], "SHA-256 of training images"),
        "COMMIT": (str(card["receipt"]["git"]["commit"]), "commit of the code that trained it"),
        "VIEWS": (plan["views"], "views that are averaged"),
        "TEMPERAT": (package.temperature(plan["views"]), "temperature of calibration"),
        "FLAGDIST": (card["out_of_distribution"]["flag_distance"], "flagged beyond this distance"),
        "LIST": (plan["list_sha256"], "SHA-256 of the list of images"),
    }


def write(
    shards: Callable[[], Iterator[pa.Table]], package: Package, plan: dict, folder: str | Path
) -> None:
    """Write the three files of `NAMES`.

    Parameters
    ----------
    shards : callable
        Gives the shards' tables in order, each time it is called.
    package : Package
    plan : dict
        What ``plan.json`` holds.
    folder : path
    """
    folder = Path(folder)
    first = next(shards())
    id_kind = "int" if pa.types.is_integer(first.schema.field(ID).type) else "str"
    described = columns(package.card, id_kind)
    notes = facts(package, plan)
    widths = _widths(shards(), described)
    with atomic(folder / NAMES[0]) as temporary:
        _write_parquet(shards(), described, notes, widths, package.card, temporary)
    with atomic(folder / NAMES[1]) as temporary:
        _write_fits(shards(), described, notes, widths, plan["galaxies"], temporary)
    with atomic(folder / NAMES[2]) as temporary:
        _write_votable(shards(), described, notes, plan["galaxies"], temporary)


def _template(described: Sequence[Column], notes: dict, widths: dict | None = None):
    """Astropy table of one row with the columns' types, units and descriptions."""
    from astropy.table import Column as AstropyColumn
    from astropy.table import Table

    values = {"int": np.int64(0), "str": "x", "float": np.float32(0), "bool": False}
    made = Table(meta={name: value for name, (value, _) in notes.items()})
    for column in described:
        value = values[column.kind]
        if column.kind == "str" and widths:
            value = "x" * widths[column.name]
        made[column.name] = AstropyColumn([value], unit=column.unit, description=column.description)
    return made


def _write_parquet(tables, described, notes, widths, card, path) -> None:
    """Parquet; the metadata let astropy know units, descriptions and the length of texts."""
    from astropy.table.meta import get_yaml_from_table

    metadata = {
        "table_meta_yaml": "\n".join(get_yaml_from_table(_template(described, notes))),
        "model_card": json.dumps(card, sort_keys=True),
        **{f"table::len::{name}": str(width) for name, width in widths.items()},
    }
    schema = arrow_schema(described).with_metadata(metadata)
    with pa.parquet.ParquetWriter(path, schema) as writer:
        for part in tables:
            writer.write_table(part.replace_schema_metadata(metadata))


def _texts(values: pa.ChunkedArray) -> list[bytes]:
    """Text as FITS keeps it: ASCII, other characters as escapes."""
    return [text.encode("ascii", "backslashreplace") for text in values.to_pylist()]


def _widths(tables, described) -> dict[str, int]:
    """Longest text of each column in bytes, at least 1."""
    widths = {column.name: 1 for column in described if column.kind == "str"}
    for part in tables:
        for name in widths:
            widths[name] = max(widths[name], *(len(text) for text in _texts(part[name])))
    return widths


def _write_fits(tables, described, notes, widths, galaxies: int, path) -> None:
    """Binary table: astropy makes the header, rows are appended in their byte order on disk."""
    from astropy.io import fits

    header = fits.table_to_hdu(_template(described, {}, widths)).header
    header["NAXIS2"] = galaxies
    header["EXTNAME"] = "SPIRAL_ARMS"
    for number, column in enumerate(described, 1):
        header[f"TCOMM{number}"] = column.description
    for keyword, (value, meaning) in notes.items():
        header[keyword] = value
        header.add_comment(f"{keyword}: {meaning}")
    kinds = {"int": ">i8", "float": ">f4", "bool": "S1"}
    dtype = np.dtype([(c.name, kinds.get(c.kind, f"S{widths.get(c.name)}")) for c in described])
    with open(path, "wb") as file:
        file.write(fits.PrimaryHDU().header.tostring().encode("ascii"))
        file.write(header.tostring().encode("ascii"))
        for part in tables:
            rows = np.empty(len(part), dtype)
            for column in described:
                values = part[column.name]
                if column.kind == "str":
                    rows[column.name] = _texts(values)
                elif column.kind == "bool":
                    rows[column.name] = np.where(values.to_numpy(), b"T", b"F")
                else:
                    rows[column.name] = values.to_numpy()
            file.write(rows.tobytes())
        file.write(b"\0" * (-galaxies * dtype.itemsize % FITS_BLOCK))


def _write_votable(tables, described, notes, galaxies: int, path) -> None:
    """VOTable with plain rows: astropy makes all but the rows."""
    from astropy.io.votable import from_table, writeto
    from astropy.io.votable.tree import Info

    frame = from_table(_template(described, {}))
    resource = frame.resources[0]
    for keyword, (value, meaning) in notes.items():
        info = Info(name=keyword, value=str(value))
        info.content = meaning
        resource.infos.append(info)
    for column, field in zip(described, resource.tables[0].fields):
        if column.kind == "str":
            field.datatype, field.arraysize = "unicodeChar", "*"
        elif column.kind == "bool":
            field.datatype = "boolean"
    buffer = io.BytesIO()
    writeto(frame, buffer)
    text = buffer.getvalue().decode().replace('nrows="1"', f'nrows="{galaxies}"')
    before, after = re.split(r"<TR>.*</TR>", text, maxsplit=1, flags=re.DOTALL)
    with open(path, "w", encoding="utf-8") as file:
        file.write(before.rstrip())
        for part in tables:
            cells = [_cells(part[c.name], c.kind) for c in described]
            file.writelines(f"\n<TR>{''.join(row)}</TR>" for row in zip(*cells))
        file.write(after if after.startswith("\n") else f"\n{after}")


def _cells(values: pa.ChunkedArray, kind: str) -> list[str]:
    """Cells of a VOTable's column."""
    if kind == "str":
        return [f"<TD>{escape(value)}</TD>" for value in values.to_pylist()]
    if kind == "bool":
        return [f"<TD>{'true' if value else 'false'}</TD>" for value in values.to_pylist()]
    if kind == "float":
        numbers = values.to_numpy()
        return ["<TD>NaN</TD>" if n != n else f"<TD>{n}</TD>" for n in numbers]
    return [f"<TD>{value}</TD>" for value in values.to_pylist()]
