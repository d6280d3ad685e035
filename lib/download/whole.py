"""Telling a whole file from a half one, a damaged one, or an error page in its place."""

from __future__ import annotations

import gzip
import shutil
import warnings
import zipfile
import zlib
from pathlib import Path

from astropy.io import fits

PAGES = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<error")
"""How web pages, and the error messages of storage services, begin."""

_CHUNK = 1 << 20


class DownloadError(RuntimeError):
    """A file could not be had, or is not what it must be; the message says the remedy."""


def check_space(folder: Path, needed: int) -> None:
    """Refuse to start what the disk has no room for.

    Raises
    ------
    DownloadError
        If less than `needed` bytes are free where `folder` is.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{needed / 1e9:.2f} GB are needed but {folder} has {free / 1e9:.2f} GB free: make "
            "room, or give another folder with DATA=..."
        )


def check_content(path: Path, name: str) -> None:
    """Read a file as far as its format can tell that it is whole.

    A gzip stream ends with its own checksum and is read through; a FITS file states its length; a
    zip file has its directory at its end. A CSV file says nothing about its length.

    Parameters
    ----------
    path : Path
        File as it lies on the disk.
    name : str
        Name that it is to have, whose ending is its format.

    Raises
    ------
    ValueError
        Says what is wrong with it.
    """
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        raise ValueError(f"{name} is empty")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(PAGES):
        raise ValueError(f"{name} is a web page or an error message, not data")
    check = {".gz": _check_gzip, ".fits": _check_fits, ".zip": _check_zip, ".csv": _check_text}
    try:
        check[Path(name).suffix](path)
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{name} is damaged or not whole: {error}") from error


def _check_gzip(path: Path) -> None:
    with gzip.open(path) as file:
        while file.read(_CHUNK):
            pass


def _check_fits(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy only warns where this refuses
        with fits.open(path, memmap=True) as hdus:
            last = hdus[-1].fileinfo()
            end = last["datLoc"] + last["datSpan"]
    if path.stat().st_size < end:
        raise ValueError(f"{path.stat().st_size:,} of {end:,} bytes")


def _check_zip(path: Path) -> None:
    zipfile.ZipFile(path).close()


def _check_text(path: Path) -> None:
    with open(path, "rb") as file:
        if b"\0" in file.read(_CHUNK):
            raise ValueError("binary data where text must be")
