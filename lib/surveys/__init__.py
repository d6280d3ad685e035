"""Galaxy surveys: one module per source, all with the same result.

>>> from lib.surveys import open_survey
>>> survey = open_survey("mock", "runs/mock/00_mock_survey")  # doctest: +SKIP
>>> survey.votes  # doctest: +SKIP

To add a survey, write a module with a function ``read(data_dir) -> Survey`` and name it in
`READERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from lib import paths
from lib.schema import InputError
from lib.surveys import challenge, gz2, hart17
from lib.surveys.base import Survey

__all__ = ["READERS", "Survey", "open_survey"]


def _read_mock(data_dir: Path) -> Survey:
    """The simulated survey: GZ2's layout, and the truth about each galaxy."""
    survey = gz2.read(data_dir)
    truth_file = data_dir / "truth.parquet"
    if not truth_file.is_file():
        raise InputError(f"{truth_file} is missing: run notebook 00_mock_survey again.")
    return replace(survey, name="mock", truth=pd.read_parquet(truth_file))


READERS: dict[str, Callable[[Path], Survey]] = {
    "gz2": gz2.read,
    "gz2_hart16": gz2.read_hart16,
    "challenge": challenge.read,
    "hart17": hart17.read,
    "mock": _read_mock,
}
"""Survey name -> the function that reads its folder."""


def open_survey(name: str, data_dir: str | Path) -> Survey:
    """Read the votes of a survey (a key of `READERS`) and find its images.

    A relative `data_dir` starts at the project root.

    Raises
    ------
    InputError
        If the name is unknown, the folder is missing, or its files are not as they must be.
    """
    if name not in READERS:
        raise InputError(f"unknown survey {name!r}: choose one of {', '.join(READERS)}")
    folder = paths.resolve(data_dir)
    if not folder.is_dir():
        remedy = (
            "run notebook 00_mock_survey first"
            if name == "mock"
            else "set data_dir (DATA=... on make's command line) to the folder with its files"
        )
        raise InputError(f"the folder {folder} of survey {name} is missing: {remedy}.")
    return READERS[name](folder)
