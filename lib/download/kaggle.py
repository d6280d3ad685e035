"""Files that Kaggle has already: attached to a notebook, or by way of kagglehub."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

DEPTH = 5
"""Folders below the inputs that are looked into: <input>/<dataset>/<archive>/<folder>."""

_LISTED = 500


def input_folder() -> Path:
    """Where Kaggle mounts attached datasets: ``$KAGGLE_INPUT``, or ``/kaggle/input``."""
    return Path(os.environ.get("KAGGLE_INPUT", "/kaggle/input"))


def on_kaggle() -> bool:
    """Whether there are attached datasets, or could be."""
    return input_folder().is_dir()


def find_file(root: Path, names: tuple[str, ...]) -> Path | None:
    """First file below a folder that has one of the names, best name first."""
    found = {
        entry.name: Path(entry.path)
        for _, entries in _folders(root, DEPTH)
        for entry in entries
        if entry.name in names and entry.is_file()
    }
    return next((found[name] for name in names if name in found), None)


def find_images(root: Path, names: tuple[str, ...]) -> Path | None:
    """Folder below another that has one of the names and holds JPEG files itself."""
    for folder, entries in _folders(root, DEPTH):
        if folder.name in names and any(e.name.endswith(".jpg") for e in entries):
            return folder
    return None


def _folders(root: Path, depth: int) -> Iterator[tuple[Path, list[os.DirEntry]]]:
    """A folder and those below it, each with its first entries.

    A folder with more entries than `_LISTED` is one of images: listing the hundreds of thousands
    takes minutes on a mounted drive.
    """
    if not root.is_dir():
        return
    with os.scandir(root) as scan:
        entries = sorted(islice(scan, _LISTED), key=lambda entry: entry.name)
    yield root, entries
    if depth and len(entries) < _LISTED:
        for entry in entries:
            if entry.is_dir():
                yield from _folders(Path(entry.path), depth - 1)


def by_kagglehub(handle: str) -> tuple[Path | None, str]:
    """Ask kagglehub, where it is installed, for a dataset or a competition's files.

    kagglehub finds the user's credentials by itself; none pass through here.

    Parameters
    ----------
    handle : str
        ``owner/name`` of a dataset, or the name of a competition.

    Returns
    -------
    path : Path or None
        Folder with the files.
    problem : str
        Why there is none.
    """
    try:
        kagglehub = importlib.import_module("kagglehub")
    except ImportError:
        return None, "the package kagglehub is not installed (pip install kagglehub)"
    get = kagglehub.dataset_download if "/" in handle else kagglehub.competition_download
    try:
        return Path(get(handle)), ""
    except Exception as error:  # kagglehub's own errors, and those of the libraries below it
        return None, f"kagglehub failed ({type(error).__name__})"
