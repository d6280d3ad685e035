"""Spirals of Hart et al. (2017, arXiv:1708.04628) with GZ2's clean flags and two stellar masses.

One CSV file joins, by SDSS DR7 identifier, their 6,222 spirals with a stellar mass from the
spectral energy distribution, the flags of GZ2's task T11 and a row of the NASA-Sloan Atlas. There
are no images and no vote fractions of T11: notebook 06 needs neither.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lib.schema import ARM_CLASSES, CLEAN_COLUMNS, RHO_COLUMNS, InputError, validate_votes
from lib.surveys.base import Survey, find_file
from lib.surveys.gz2 import FLAGS
from lib.surveys.tables import read_columns

FILES = ("hart2017_t11flags_6222.csv", "hart2017_t11flags_6222.csv.gz")

FRACTIONS = {
    "f_features": "t01_smooth_or_features_a02_features_or_disk_debiased",
    "f_not_edge_on": "t02_edgeon_a05_no_debiased",
    "f_spiral": "t04_spiral_a08_spiral_debiased",
}
"""Debiased here, weighted in `lib.surveys.gz2`: a cut on them is another cut."""

NUMBERS = {
    "ra": "ra",
    "dec": "dec",
    "redshift": "Z",
    "p_bar": "p_bar",
    "log_mass_sed": "logMstar",
    "log_mass_nsa": "ELPETRO_MASS",
}


def read(data_dir: Path) -> Survey:
    """Read the table; placeholders become NaN and are counted in the notes.

    Returns
    -------
    Survey
        `votes` has ``p_bar``, ``log_mass_sed`` and ``log_mass_nsa`` (log10 of solar masses; the
        Atlas lists solar masses for h = 1, which moves all galaxies alike) and ``label``, the class
        of the one clean flag (missing without one).

    Raises
    ------
    InputError
        If the file or a column is missing, an identifier is repeated or was written as a float,
        or a galaxy has two clean flags.
    """
    path = find_file(Path(data_dir), FILES, "the spirals of Hart et al. (2017)")
    votes = read_columns(
        path, ids={"dr7objid": "dr7objid"}, numbers=NUMBERS | FLAGS, fractions=FRACTIONS
    )
    if votes["dr7objid"].isna().any() or votes["dr7objid"].duplicated().any():
        raise InputError(f"{path}: column dr7objid must name every galaxy once. Correct the file.")
    notes = [f"{len(votes):,} spirals in {path.name}."]
    # Placeholders are 0 and -999; p_bar may be 0.
    known = votes[[*NUMBERS]] > 0
    known["p_bar"] = votes["p_bar"] >= 0
    for column in ("redshift", "log_mass_sed", "log_mass_nsa", "p_bar"):
        votes[column] = votes[column].where(known[column])
        notes.append(f"{(~known[column]).sum():,} have no {NUMBERS[column]}, or a placeholder.")
    votes["log_mass_nsa"] = np.log10(votes["log_mass_nsa"])
    votes["label"] = _label(votes, path)
    notes.append(f"{votes['label'].notna().sum():,} have a clean flag of T11.")
    votes = votes.assign(galaxy_id=votes["dr7objid"].astype("int64"), image_path="")
    votes = votes.assign(has_image=False, **dict.fromkeys(RHO_COLUMNS, np.nan))
    votes[list(CLEAN_COLUMNS)] = votes[list(CLEAN_COLUMNS)].astype("boolean")
    votes = validate_votes(votes.sort_values("galaxy_id", ignore_index=True), str(path))
    return Survey("hart17", votes, Path(data_dir), notes=tuple(notes))


def _label(votes: pd.DataFrame, path: Path) -> pd.Series:
    """Arm class of the one flag that is set."""
    flags = votes[list(CLEAN_COLUMNS)].to_numpy()
    several = flags.sum(axis=1) > 1
    if several.any() or not np.isin(flags, [0, 1]).all():
        first = votes["dr7objid"].iloc[int(several.argmax())]
        raise InputError(
            f"{path}: the flags of T11 must be 0 or 1, and at most one of a galaxy 1 "
            f"(galaxy {first}). Correct the file."
        )
    label = pd.Series(np.array(ARM_CLASSES)[flags.argmax(axis=1)], index=votes.index)
    return label.where(flags.any(axis=1))
