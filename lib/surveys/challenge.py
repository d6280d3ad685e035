"""The Kaggle competition "Galaxy Zoo - The Galaxy Challenge": GZ2 votes without identifiers.

Its ``Class<question>.<answer>`` columns are products of the vote fractions down the decision
tree, so that a conditional fraction is the ratio of an answer and the one that leads to it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lib.schema import RHO_COLUMNS, InputError, validate_votes
from lib.surveys.base import Survey, files_in, find_file
from lib.surveys.tables import read_columns

SOLUTIONS = ("training_solutions_rev1.csv", "training_solutions_rev1.csv.gz")
IMAGES = "images_training_rev1"

RATIOS = {
    "f_features": ("Class1.2", None),
    "f_not_edge_on": ("Class2.2", "Class1.2"),
    "f_spiral": ("Class4.1", "Class2.2"),
    **{rho: (f"Class11.{k}", "Class4.1") for k, rho in enumerate(RHO_COLUMNS, 1)},
}
"""Canonical fraction -> (answer, the answer that leads to its question)."""

ANSWERS = tuple(
    f"Class{question}.{answer}"
    for question, answers in enumerate((3, 2, 2, 2, 4, 2, 3, 7, 3, 3, 6), 1)
    for answer in range(1, answers + 1)
)
"""All answers of the decision tree."""

VOLUNTEERS = 40
"""Assumed per galaxy; Galaxy Zoo 2 has 44 in the median."""

ROUNDING = 1e-5
"""How much a product may exceed the product it is part of: the file rounds them."""


def read(data_dir: Path) -> Survey:
    """Read the competition's training folder.

    A fraction whose question nobody was asked (0/0) is missing (NaN); such a galaxy fails the cut
    on the answer that leads to the question. Galaxies without an image file stay in the table.

    It holds ``training_solutions_rev1.csv`` and ``images_training_rev1/<GalaxyID>.jpg``. Counts,
    flags, coordinates, redshifts and masses are withheld by the competition.

    Raises
    ------
    InputError
        If the table or a column of it is missing, identifiers repeat, or an answer has more votes
        than the one that leads to its question.
    """
    data_dir = Path(data_dir)
    path = find_file(data_dir, SOLUTIONS, "the competition's table of votes (from Kaggle).")
    columns = sorted({c for pair in RATIOS.values() for c in pair if c})
    table = read_columns(path, ids={"galaxy_id": "GalaxyID"}, numbers={c: c for c in columns})
    if table["galaxy_id"].isna().any():
        raise InputError(f"{path}: column GalaxyID is empty in some rows. Fill it in.")
    votes = pd.DataFrame({"galaxy_id": table["galaxy_id"].astype("int64")})
    for new, (answer, leading) in RATIOS.items():
        votes[new] = _conditional(table, answer, leading, path)
    file_name = votes["galaxy_id"].astype("str") + ".jpg"
    votes["image_path"] = IMAGES + "/" + file_name
    votes["has_image"] = file_name.isin(files_in(data_dir / IMAGES))
    votes = votes.sort_values("galaxy_id", ignore_index=True)
    return Survey(
        name="challenge",
        votes=validate_votes(votes, str(path)),
        data_dir=data_dir,
        notes=(
            f"Votes of {len(votes):,} galaxies from {path.name}.",
            f"The images of {votes['has_image'].sum():,} of them are in {IMAGES}/.",
            "The competition gives no vote counts, clean flags, identifiers, redshifts or masses.",
        ),
    )


def read_counts(data_dir: Path) -> pd.DataFrame:
    """Votes for all 37 answers of the decision tree, as if `VOLUNTEERS` had looked at each galaxy.

    The competition's numbers are shares of all volunteers, debiased; how many there were it does
    not tell.

    Indexed by `galaxy_id`, in its order; columns ``Class1.1`` to ``Class11.6`` in the order of the
    tree, whole numbers as float32.
    """
    path = find_file(Path(data_dir), SOLUTIONS, "the competition's table of votes (from Kaggle).")
    products = {name: name for name in ANSWERS}
    table = read_columns(path, ids={"galaxy_id": "GalaxyID"}, fractions=products)
    table = table.astype({"galaxy_id": "int64"}).set_index("galaxy_id").sort_index()
    return (VOLUNTEERS * table[list(ANSWERS)]).round().astype("float32")


def _conditional(table: pd.DataFrame, answer: str, leading: str | None, path: Path) -> pd.Series:
    """Fraction of an answer among those who were asked; NaN where nobody was."""
    votes = table[answer]
    asked = table[leading] if leading else pd.Series(1.0, index=table.index)
    wrong = (votes < 0) | (votes > asked + ROUNDING)
    if wrong.any():
        row = wrong.to_numpy().argmax()
        limit = f"{leading} = {asked.iloc[row]:g}" if leading else "1"
        raise InputError(
            f"{path}: column {answer} has {wrong.sum()} values outside [0, {leading or 1}], the "
            f"first {votes.iloc[row]:g} (against {limit}) for galaxy "
            f"{table['galaxy_id'].iloc[row]}. Is it the competition's file, unchanged?"
        )
    return (votes / asked.where(asked > 0)).clip(upper=1.0).astype(np.float64)
