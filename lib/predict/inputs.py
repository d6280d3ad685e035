"""What to predict: list the cut-outs of a survey, and read one.

A survey is a folder, a text file with one path per line, or a Parquet, CSV or FITS table. Lists are
copied into one Parquet file whose row groups are the shards, a part at a time, so that neither
their length nor the number of files in a folder tree decides how much memory is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from lib.images import ImageError, decode, prepare
from lib.paths import atomic
from lib.schema import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".fits", ".fit"}
"""Suffixes, in lower case, of the files that are taken from a folder."""

FITS = {".fits", ".fit"}

PATH, ID = "image_path", "galaxy_id"
"""Columns of a table of cut-outs; the second may be missing."""

_ROWS = 65_536


@dataclass(frozen=True)
class Lupton:
    """Stretch of gri FITS images to RGB (Lupton et al. 2004).

    Attributes
    ----------
    stretch : float
        Linear part, in the unit of the pixels.
    softening : float
        Lupton's Q.
    """

    stretch: float = 5.0
    softening: float = 8.0

    def __post_init__(self):
        if not self.stretch > 0 or not self.softening > 0:
            raise InputError(f"stretch = {self.stretch}, softening = {self.softening}: above 0")


def write_list(images: str | Path, path: str | Path, shard_size: int) -> int:
    """Copy a list of cut-outs into a Parquet file with one row group per shard.

    Parameters
    ----------
    images : path
        Folder (searched with its sub-folders, in the order of names), ``.txt`` with a path per
        line, or a ``.parquet``, ``.csv`` or ``.fits`` table with a column `image_path` and, where
        galaxies have identifiers, `galaxy_id` (integers or text). Relative paths start from the
        folder or from where the list is.
    path : path
        File to write, with the columns `galaxy_id` and `image_path`.
    shard_size : int
        Rows per row group.

    Returns
    -------
    int
        Number of cut-outs.

    Raises
    ------
    InputError
        If the list is missing, of an unknown kind, empty, or has not the columns it should.
    """
    if shard_size < 1:
        raise InputError(f"shard_size = {shard_size}: it must be 1 or more")
    images = Path(images)
    total, waiting, writer = 0, None, None
    with atomic(path) as temporary:
        try:
            for part in _parts(images):
                writer = writer or pa.parquet.ParquetWriter(temporary, part.schema)
                waiting = part if waiting is None else pa.concat_tables([waiting, part])
                while len(waiting) >= shard_size:
                    writer.write_table(waiting.slice(0, shard_size), shard_size)
                    waiting, total = waiting.slice(shard_size), total + shard_size
            if waiting is not None and len(waiting):
                writer.write_table(waiting, shard_size)
                total += len(waiting)
        finally:
            if writer:
                writer.close()
        if not total:
            raise InputError(f"{images} names no cut-out ({', '.join(sorted(SUFFIXES))})")
    return total


def root_of(images: str | Path) -> Path:
    """Folder that the relative paths of a list start from."""
    images = Path(images).resolve()
    return images if images.is_dir() else images.parent


def read_image(path: str | Path, preprocessing: dict, lupton: Lupton) -> np.ndarray:
    """Read one cut-out and give it the pre-processing of a package.

    Parameters
    ----------
    path : path
        JPEG or PNG file, or a FITS file whose first image is a (3, size, size) cube in the order
        g, r, i.
    preprocessing : dict
        `size`, `crop`, `binning` and `stored_colour`, from the package's card.
    lupton : Lupton
        Stretch of FITS images.

    Returns
    -------
    ndarray, uint8, (crop, crop, 3 or 1)

    Raises
    ------
    ImageError
        The reason why the file cannot be used.
    """
    path, size = Path(path), preprocessing["size"]
    if path.suffix.lower() in FITS:
        image = _decode_fits(path, size, lupton)
    else:
        image = decode(path, size)
    return prepare(
        image, preprocessing["crop"], preprocessing["stored_colour"], preprocessing["binning"]
    )


def _decode_fits(path: Path, size: int, lupton: Lupton) -> np.ndarray:
    """RGB, uint8 (size, size, 3), of a gri cube; its first row is the top of the picture."""
    from astropy.io import fits
    from astropy.visualization import make_lupton_rgb

    if not path.is_file():
        raise ImageError("no such file")
    try:
        with fits.open(path, memmap=False) as hdus:
            shapes = [hdu.shape for hdu in hdus if hdu.is_image and hdu.shape]
            if not shapes:
                raise ImageError("a FITS file without an image")
            if shapes[0] != (3, size, size):
                raise ImageError(f"FITS image of shape {shapes[0]}, expected (3, {size}, {size})")
            cube = next(hdu.data for hdu in hdus if hdu.is_image and hdu.shape)
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise ImageError(f"cannot be read as FITS: {error}") from None
    if not np.isfinite(cube).all():
        raise ImageError("pixels that are not finite")
    g, r, i = cube.astype(np.float32)
    # FITS images start at the bottom left, pictures at the top left.
    return make_lupton_rgb(i, r, g, stretch=lupton.stretch, Q=lupton.softening)[::-1]


def _parts(images: Path) -> Iterator[pa.Table]:
    """Parts of a list as tables with the columns `galaxy_id` and `image_path`."""
    if images.is_dir():
        return _from_paths(_walk(images, images))
    if not images.is_file():
        raise InputError(f"{images} is neither a folder nor a file: correct the list of images")
    readers = {".txt": _from_text, ".parquet": _from_table, ".csv": _from_table}
    readers |= dict.fromkeys(FITS, _from_fits)
    if images.suffix.lower() not in readers:
        raise InputError(
            f"{images}: a list of images is a folder or ends in {', '.join(sorted(readers))}"
        )
    return readers[images.suffix.lower()](images)


def _walk(folder: Path, root: Path) -> Iterator[str]:
    """Paths, relative to a root, of the cut-outs in a folder and its sub-folders."""
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), root)
        elif Path(entry.name).suffix.lower() in SUFFIXES:
            yield os.path.relpath(entry.path, root)


def _from_paths(paths: Iterator[str]) -> Iterator[pa.Table]:
    while names := list(islice(paths, _ROWS)):
        yield _named(names)


def _named(paths: list[str]) -> pa.Table:
    """Galaxies without identifiers are named by their file, without suffix."""
    return pa.table({ID: [Path(p).stem for p in paths], PATH: paths})


def _from_text(path: Path) -> Iterator[pa.Table]:
    with open(path, encoding="utf-8") as file:
        lines = (line.strip() for line in file)
        yield from _from_paths(line for line in lines if line and not line.startswith("#"))


def _from_table(path: Path) -> Iterator[pa.Table]:
    try:
        table = pa.dataset.dataset(path, format=path.suffix[1:].lower())
        columns = _wanted(table.schema.names, path)
        for batch in table.to_batches(columns=columns, batch_size=_ROWS):
            if len(batch):
                yield _canonical(pa.Table.from_batches([batch]), path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def _from_fits(path: Path) -> Iterator[pa.Table]:
    from astropy.io import fits
    from astropy.table import Table

    with fits.open(path) as hdus:
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
        if not tables:
            raise InputError(f"{path} holds no table: a list of images is a binary table")
        data, columns = tables[0].data, _wanted(tables[0].columns.names, path)
        for start in range(0, len(data), _ROWS):
            part = Table(data[start : start + _ROWS])[columns]
            part.convert_bytestring_to_unicode()
            yield _canonical(pa.Table.from_pandas(part.to_pandas()), path)


def _wanted(names: list[str], path: Path) -> list[str]:
    """Columns to read of those that a table has."""
    if PATH not in names:
        raise InputError(
            f"{path} has no column {PATH} (it has {', '.join(names)}): rename the column that "
            f"holds the files' paths, and {ID} if galaxies have identifiers"
        )
    return [name for name in (ID, PATH) if name in names]


def _canonical(table: pa.Table, path: Path) -> pa.Table:
    """The two columns, identifiers as int64 or text."""
    if ID not in table.column_names:
        return _named(table[PATH].to_pylist())
    kind = table.schema.field(ID).type
    if pa.types.is_floating(kind):
        raise InputError(
            f"{path}: column {ID} holds floats, which cannot keep 18-digit identifiers apart. "
            "Write it as integers or text."
        )
    kind = pa.int64() if pa.types.is_integer(kind) else pa.string()
    return pa.table({ID: table[ID].cast(kind), PATH: table[PATH].cast(pa.string())})
