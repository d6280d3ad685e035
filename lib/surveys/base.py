"""What every survey gives, whatever its files look like."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lib.schema import InputError


@dataclass(frozen=True)
class Survey:
    """Votes and images of one galaxy survey.

    Attributes
    ----------
    name : str
        Name that `lib.surveys.open_survey` knows it by.
    votes : DataFrame
        One row per galaxy in the canonical columns of `lib.schema.votes_contract`, sorted by
        `galaxy_id`; `image_path` (str) is relative to `data_dir` and empty where no image is known,
        `has_image` (bool) says whether that file is there.
    data_dir : Path
        Folder of the survey's files.
    notes : tuple of str
        What a reader of the results should know about these files.
    truth : DataFrame, optional
        True properties of simulated galaxies, by `galaxy_id`.
    """

    name: str
    votes: pd.DataFrame
    data_dir: Path
    notes: tuple[str, ...] = ()
    truth: pd.DataFrame | None = None


def files_in(folder: Path) -> set[str]:
    """Names of the files in a folder; empty where there is no such folder.

    One listing instead of one look-up per galaxy: GZ2 has 243,500 of them.
    """
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries}


def find_file(data_dir: Path, names: tuple[str, ...], what: str) -> Path:
    """First of several names that exists in a folder.

    Raises
    ------
    InputError
        If none does; `what` describes the file and says where to get it.
    """
    for name in names:
        if (data_dir / name).is_file():
            return data_dir / name
    raise InputError(f"{data_dir} holds no {' or '.join(names)}: {what}")
