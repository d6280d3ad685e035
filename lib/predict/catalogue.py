"""The catalogue of a survey: its columns, and Parquet, FITS and VOTable files.

Parquet is written shard by shard; the others, by astropy, of catalogues that fit into memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from astropy.io import fits, votable
from astropy.table import Column, Table
from astropy.table.meta import get_yaml_from_table
from scipy.special import entr

from lib.evaluation import apply_temperature, decide
from lib.paths import atomic
from lib.predict.inputs import ID, PATH
from lib.predict.package import Package
from lib.schema import probability_columns
from lib.workflow.receipts import sha256

NAMES = ("catalogue.parquet", "catalogue.fits", "catalogue.vot")
"""Files that a finished prediction leaves, the same rows in each."""

LIMITS = {"catalogue.fits": 10_000_000, "catalogue.vot": 1_000_000}
"""Galaxies at most of which a file is written: of more, it takes minutes and gigabytes."""


def layout(card: dict, id_dtype: str) -> Table:
    """Columns of the catalogue of a network (its card): names, types, units, descriptions.

    Identifiers are of type "i8", or "U1" for text, which may be of any length.
    """
    classes, decided = card["classes"], "arm class with the highest probability"
    if card.get("decision"):
        decided = (
            "arm class with the largest log of its probability, before calibration, less the "
            "offset of its class, so that rare ones are found; need not be the most probable"
        )
    described = {
        ID: (id_dtype, None, "identifier from the list, or the name of the file"),
        PATH: ("U1", None, "file of the cut-out as the list has it"),
    }
    for name, arm_class in zip(probability_columns(tuple(classes)), classes):
        described[name] = ("f4", None, f"calibrated probability of arm class {arm_class}")
    described |= {
        "predicted": ("U1", None, decided),
        "entropy": ("f4", "bit", "Shannon entropy of the probabilities"),
        "arms_expected": (
            *("f4", None),
            "mean arm number if arms can be counted: the mean over all classes but ?, with 5+ as 5 "
            "and a merged class as the middle of its numbers",
        ),
        "training_distance": (
            *("f4", None),
            "distance to the nearest training galaxy in the space of standardised features",
        ),
        "distance_percentile": (
            *("f4", None),
            "per cent of the held-out validation galaxies that lie nearer",
        ),
        "out_of_distribution": (
            *("?", None),
            "unlike the training images: farther than FLAGDIST; false without a prediction",
        ),
        "reason": ("U1", None, "why there is no prediction; empty where there is one"),
    }
    made = Table()
    for name, (dtype, unit, description) in described.items():
        made[name] = Column(dtype=dtype, unit=unit, description=description)
    return made


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
        "entropy": entr(calibrated).sum(axis=1) / np.log(2),
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
    schema = arrow_schema(layout(package.card, "i8" if listed[ID].dtype.kind == "i" else "U1"))
    return pa.table({name: rows[name] for name in schema.names}, schema=schema)


def arrow_schema(columns: Table) -> pa.Schema:
    """Types of the columns in Parquet."""
    kinds = {"i": pa.int64(), "U": pa.string(), "f": pa.float32(), "b": pa.bool_()}
    return pa.schema([(name, kinds[columns[name].dtype.kind]) for name in columns.colnames])


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
    """Write the files of `NAMES`, as far as `LIMITS` allow.

    `shards` gives the shards' tables in order, each time it is called; `plan` is what ``plan.json``
    holds.
    """
    folder, notes = Path(folder), facts(package, plan)
    whole_numbers = pa.types.is_integer(next(shards()).schema.field(ID).type)
    columns = layout(package.card, "i8" if whole_numbers else "U1")
    columns.meta = {keyword: value for keyword, (value, _) in notes.items()}
    texts = [name for name in columns.colnames if columns[name].dtype.kind == "U"]
    lengths = [
        [pc.max(pc.binary_length(part[name])).as_py() for name in texts] for part in shards()
    ]
    # By the metadata astropy knows units, descriptions, and the length of texts.
    metadata = {
        "table_meta_yaml": "\n".join(get_yaml_from_table(columns)),
        "model_card": json.dumps(package.card, sort_keys=True),
        **{f"table::len::{n}": str(max(1, *own)) for n, own in zip(texts, zip(*lengths))},
    }
    schema = arrow_schema(columns).with_metadata(metadata)
    with (
        atomic(folder / NAMES[0]) as temporary,
        pa.parquet.ParquetWriter(temporary, schema) as writer,
    ):
        for part in shards():
            writer.write_table(part.replace_schema_metadata(metadata))
    for (name, limit), encode in zip(LIMITS.items(), (_write_fits, _write_votable)):
        (folder / name).unlink(missing_ok=True)
        if plan["galaxies"] <= limit:
            with atomic(folder / name) as temporary:
                encode(pa.concat_tables(shards()), columns, notes, temporary)


def _filled(rows: pa.Table, columns: Table, texts: Callable) -> Table:
    """Rows as astropy's table; `texts` makes an array of texts."""
    made = Table()
    for name in columns.colnames:
        values = rows[name].to_numpy()
        values = texts(values) if columns[name].dtype.kind == "U" else values
        unit, description = columns[name].unit, columns[name].description
        made[name] = Column(values, unit=unit, description=description)
    return made


def _write_fits(rows: pa.Table, columns: Table, notes, path: Path) -> None:
    """A binary table; FITS keeps ASCII, other characters are escapes."""
    made = _filled(
        rows,
        columns,
        lambda texts: np.array([t.encode("ascii", "backslashreplace") for t in texts]),
    )
    made.meta = {}
    hdu = fits.table_to_hdu(made)
    hdu.name = "SPIRAL_ARMS"
    for number, name in enumerate(columns.colnames, 1):
        hdu.header[f"TCOMM{number}"] = columns[name].description
    for keyword, (value, meaning) in notes.items():
        hdu.header[keyword] = value
        hdu.header.add_comment(f"{keyword}: {meaning}")
    hdu.writeto(path)


def _write_votable(rows: pa.Table, columns: Table, notes, path: Path) -> None:
    """VOTable; what the catalogue says of its making is in INFO elements."""
    file = votable.from_table(_filled(rows, columns, lambda texts: texts.astype(str)))
    for keyword, (value, meaning) in notes.items():
        info = votable.tree.Info(name=keyword, value=str(value))
        info.content = meaning
        file.resources[0].infos.append(info)
    file.to_xml(str(path), tabledata_format="binary")  # plain rows take three times as long
