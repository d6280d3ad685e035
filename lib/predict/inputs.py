"""What to predict: list the cut-outs of a survey, and read one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from lib.images import FITS, Lupton, decode, prepare
from lib.paths import atomic
from lib.schema import InputError
from lib.surveys.tables import not_utf8, read_columns

SUFFIXES = (".jpg", ".jpeg", ".png", *FITS)
"""Suffixes, in lower case, of the files that are taken from a folder."""

TABLES = (".parquet", ".csv", ".csv.gz", ".tsv", *FITS)
"""Suffixes, in lower case, of tables of cut-outs."""

PATH, ID = "image_path", "galaxy_id"
"""Columns of a table of cut-outs; the second may be missing."""


def write_list(images: str | Path, path: str | Path, shard_size: int) -> int:
    """Copy a list of cut-outs into a Parquet file with one row group per shard.

    Parameters
    ----------
    images : path
        Folder (searched with its sub-folders, in the order of names), ``.txt`` with a path per
        line, or one of `TABLES` with a column `image_path` and, where galaxies have identifiers,
        `galaxy_id` (see `names` of `lib.surveys.tables.read_columns`). Relative paths start from
        the folder or from where the list is. Galaxies without identifiers are named by their
        file, without suffix where that is enough to tell them apart.
    path : path
        File to write, with the columns `galaxy_id` (int64 or text) and `image_path`.
    shard_size : int
        Rows per row group.

    Returns
    -------
    int
        Number of cut-outs.

    Raises
    ------
    InputError
        If the list is missing, broken, of an unknown kind, empty, lacks a column or an entry, or
        names a galaxy twice.
    """
    if shard_size < 1:
        raise InputError(f"shard_size = {shard_size}: it must be 1 or more")
    images = Path(images)
    if images.is_dir():
        listed = pd.DataFrame({PATH: [*_walk(images)]}, dtype="str")
    elif not images.is_file():
        raise InputError(f"{images} is neither a folder nor a file: correct the list of images")
    elif images.suffix.lower() == ".txt":
        listed = pd.DataFrame({PATH: _lines(images)}, dtype="str")
    elif images.name.lower().endswith(TABLES):
        listed = read_columns(images, names={ID: ID}, texts={PATH: PATH}, optional=[ID])
    else:
        raise InputError(
            f"{images}: a list of images is a folder or ends in .txt, {', '.join(TABLES)}"
        )
    if listed.empty:
        raise InputError(f"{images} names no cut-out ({', '.join(SUFFIXES)})")
    if ID not in listed:
        stems = listed[PATH].str.replace(r"^.*/|\.[^./]*$", "", regex=True)
        listed.insert(0, ID, listed[PATH] if stems.duplicated().any() else stems)
    for column in (PATH, ID):
        if listed[column].isna().any():
            row = int(listed[column].isna().to_numpy().argmax()) + 1
            raise InputError(f"{images}: column {column} is empty in row {row}: fill it in")
    twice = listed.loc[listed[ID].duplicated(), ID]
    if len(twice):
        raise InputError(
            f"{images} names {twice.nunique()} galaxies more than once (first: {twice.iloc[0]}): "
            "leave one row of each, or give each image a galaxy_id of its own"
        )
    if listed[ID].dtype != "str":
        listed[ID] = listed[ID].astype("int64" if listed[ID].dtype == "Int64" else "str")
    with atomic(path) as temporary:
        pa.parquet.write_table(
            pa.Table.from_pandas(listed[[ID, PATH]], preserve_index=False),
            temporary,
            row_group_size=shard_size,
        )
    return len(listed)


def root_of(images: str | Path) -> Path:
    """Folder that the relative paths of a list start from."""
    images = Path(images).resolve()
    return images if images.is_dir() else images.parent


def read_image(path: str | Path, preprocessing: dict, lupton: Lupton) -> np.ndarray:
    """Read one cut-out and give it the pre-processing of a package's card.

    uint8, (crop, crop, 3 or 1); raises ImageError as `lib.images.decode`.
    """
    crop, binning = preprocessing["crop"], preprocessing["binning"]
    image = decode(path, preprocessing["size"], crop * binning, lupton)
    return prepare(image, crop, preprocessing["stored_colour"], binning)


def _walk(folder: Path) -> Iterator[str]:
    """Paths, relative to a folder, of the cut-outs in it and its sub-folders."""
    inside: dict[str, tuple[str, ...]] = {}
    for place, folders, files in os.walk(folder, followlinks=True):
        # A link back to a folder that this one lies in would be followed for ever.
        above = inside.get(place, ())
        own = os.path.realpath(place)
        folders[:] = sorted(
            f
            for f in folders
            if not f.startswith(".") and os.path.realpath(Path(place, f)) not in (*above, own)
        )
        inside |= {os.path.join(place, f): (*above, own) for f in folders}
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.relpath(os.path.join(place, name), folder)


def _lines(path: Path) -> list[str]:
    """Lines of a text file but comments and empty ones."""
    try:
        lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    return [line for line in lines if line and not line.startswith("#")]
