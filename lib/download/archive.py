"""Unpacking archives that nobody has looked into: checked first, resumable, whole or absent."""

from __future__ import annotations

import os
import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from lib import images
from lib.download.registry import ImageSet
from lib.download.whole import DownloadError, check_space
from lib.paths import atomic

LARGEST_IMAGE = 5_000_000
"""Bytes; a GZ2 cut-out has some ten thousand."""

LARGEST_RATIO = 3
"""How many times larger than its archive a folder of JPEG files, already compressed, may be."""

SAMPLE = 64
"""Images that are opened to see whether the archive holds what it should."""


def unpack_images(archive: Path, folder: Path, wanted: ImageSet) -> None:
    """Unpack ``<number>.jpg`` into a folder that appears only when all of them are there.

    A killed run leaves ``<folder>.partial``; the next one keeps the files there whose checksum is
    the archive's.

    Parameters
    ----------
    archive : Path
        Zip file.
    folder : Path
        Where the images end up, without folders below it.
    wanted : ImageSet
        Name of the folder inside the archive, number and side of the images.

    Raises
    ------
    DownloadError
        Before anything is written: a member would leave the folder, is a link or encrypted, the
        number of images is not the expected one, they are implausibly large, or the disk is too
        full. Afterwards: damaged data, or files that are not the cut-outs they should be.
    """
    staging = folder.with_name(folder.name + ".partial")
    staging.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as file:
            members = _images(file, wanted)
            todo = {n: m for n, m in members.items() if not _is_there(staging / n, m)}
            _check_sizes(archive, members)
            check_space(staging, sum(m.file_size for m in todo.values()))
            for name, member in tqdm(todo.items(), desc=archive.name, unit="image", disable=None):
                with file.open(member) as source, open(staging / name, "wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DownloadError(
            f"{archive} is damaged ({error}): delete it and run the same command again"
        ) from error
    except OSError as error:
        raise DownloadError(
            f"{archive} could not be unpacked to {staging}: {error}. What is there is kept; run "
            "the same command again when there is room"
        ) from error
    check_images(staging, wanted, exactly=True)
    # Names may reach the disk before contents: a power cut must not leave empty images.
    os.sync()
    os.replace(staging, folder)


def unpack_table(archive: Path, target: Path) -> None:
    """Unpack the one member of that name, e.g. a catalogue that Kaggle hands out as zip.

    Raises
    ------
    DownloadError
        If the archive has no such member, or is damaged, or the disk is full.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            found = [m for m in file.infolist() if m.filename == target.name]
            if len(found) != 1:
                raise DownloadError(f"{archive} does not hold {target.name}")
            check_space(target.parent, found[0].file_size)
            with file.open(found[0]) as source, atomic(target) as temporary:
                with open(temporary, "wb") as copy:
                    shutil.copyfileobj(source, copy)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DownloadError(f"{archive} could not be unpacked: {error}") from error


def count_images(folder: Path) -> int:
    """Number of JPEG files directly in a folder."""
    with os.scandir(folder) as entries:
        return sum(entry.name.endswith(".jpg") for entry in entries)


def check_images(folder: Path, wanted: ImageSet, *, exactly: bool) -> int:
    """Count a folder's images and open some, evenly spread over their names.

    Parameters
    ----------
    folder : Path
    wanted : ImageSet
    exactly : bool
        Whether their number must be the expected one.

    Returns
    -------
    int
        Number of images.

    Raises
    ------
    DownloadError
        If the number is wrong, or an image cannot be opened.
    """
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith(".jpg"))
    if not names or (exactly and len(names) != wanted.count):
        raise DownloadError(
            f"{folder} holds {len(names):,} images instead of {wanted.count:,}: delete that folder "
            "and run the same command again"
        )
    for name in names[:: max(1, len(names) // SAMPLE)]:
        try:
            images.decode(folder / name, wanted.side)
        except images.ImageError as error:
            raise DownloadError(
                f"{folder / name} is no cut-out of the survey: {error}. Delete that folder and its "
                "archive, and run the same command again"
            ) from None
    return len(names)


def _images(file: zipfile.ZipFile, wanted: ImageSet) -> dict[str, zipfile.ZipInfo]:
    """The wanted members by file name, after a look at all members."""
    chosen: dict[str, zipfile.ZipInfo] = {}
    for member in file.infolist():
        _check_member(member, file.filename)
        path = PurePosixPath(member.filename)
        # The archive was packed on a Mac: __MACOSX/images/._1.jpg are not images.
        is_image = re.fullmatch(r"\d+\.jpg", path.name) and path.parent.name == wanted.folder
        if is_image and not member.is_dir() and "__MACOSX" not in path.parts:
            if path.name in chosen:
                raise DownloadError(f"{file.filename} holds {path.name} more than once")
            chosen[path.name] = member
    if len(chosen) != wanted.count:
        raise DownloadError(
            f"{file.filename} holds {len(chosen):,} images in {wanted.folder}/ instead of "
            f"{wanted.count:,}: it is another archive"
        )
    return chosen


def _check_member(member: zipfile.ZipInfo, archive: str) -> None:
    name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise DownloadError(f"{archive} is refused: its member {name!r} would leave the folder")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DownloadError(f"{archive} is refused: its member {name!r} is a link or a device")
    if member.flag_bits & 0x1:
        raise DownloadError(f"{archive} is refused: its member {name!r} is encrypted")


def _check_sizes(archive: Path, members: dict[str, zipfile.ZipInfo]) -> None:
    """Refuse an archive that grows out of proportion; zipfile never writes more than is stated."""
    limit = LARGEST_RATIO * archive.stat().st_size
    total = sum(member.file_size for member in members.values())
    largest = max(member.file_size for member in members.values())
    if total > limit or largest > LARGEST_IMAGE:
        raise DownloadError(
            f"{archive} is refused: it would unpack to {total:,} bytes, the largest image to "
            f"{largest:,}, where at most {limit:,} and {LARGEST_IMAGE:,} are plausible"
        )


def _is_there(path: Path, member: zipfile.ZipInfo) -> bool:
    if not path.is_file() or path.stat().st_size != member.file_size:
        return False
    return zlib.crc32(path.read_bytes()) == member.CRC
