"""The vocabulary of the project: arm classes, their merges, and the columns of its tables.

Everything here follows the Galaxy Zoo 2 decision tree (Willett et al. 2013, Table 2): task T11,
"How many spiral arms are there?", has the answers 1, 2, 3, 4, more than 4 and "can't tell".
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    import pandera.pandas as pandera

ARM_CLASSES = ("1", "2", "3", "4", "5+", "?")
"""Arm classes m in their order, as Lee, Soo & Sharoni (arXiv:2412.11696, Sec. 2.1) name them."""

MERGES = {
    "none": {},
    "3+4": {"3": "3+4", "4": "3+4"},
    "4+5+": {"4": "4+5+", "5+": "4+5+"},
}
"""Class merges of Fig. 7: the name of the merge, and where each merged class goes."""


class InputError(ValueError):
    """Data, a file or a parameter is not as it must be; the message says the remedy."""


def slug(arm_class: str) -> str:
    """Name of an arm class inside a column or file name.

    >>> [slug(c) for c in ("1", "5+", "?", "3+4", "4+5+")]
    ['1', '5plus', 'unclear', '3_4', '4_5plus']
    """
    if arm_class == "?":
        return "unclear"
    stem, plus = (arm_class[:-1], "plus") if arm_class.endswith("+") else (arm_class, "")
    return stem.replace("+", "_") + plus


RHO_COLUMNS = tuple(f"rho_{slug(c)}" for c in ARM_CLASSES)
"""Debiased vote fractions of T11, in the order of `ARM_CLASSES`."""

CLEAN_COLUMNS = tuple(f"clean_{slug(c)}" for c in ARM_CLASSES)
"""GZ2 "clean" flags of T11 (Willett et al. 2013, Sec. 4.2), in the order of `ARM_CLASSES`."""


def merged_classes(merge: str) -> tuple[str, ...]:
    """Arm classes that are left after a merge of `MERGES`, in order; InputError for another.

    >>> merged_classes("4+5+")
    ('1', '2', '3', '4+5+', '?')
    """
    if merge not in MERGES:
        raise InputError(f"unknown class merge {merge!r}: choose one of {', '.join(MERGES)}")
    return tuple(dict.fromkeys(MERGES[merge].get(c, c) for c in ARM_CLASSES))


def probability_columns(classes: tuple[str, ...]) -> list[str]:
    """Columns that hold the class probabilities of a prediction table, e.g. ``p_5plus``."""
    return [f"p_{slug(c)}" for c in classes]


@cache
def votes_contract() -> pandera.DataFrameSchema:
    """Contract of a survey's `votes` table: one row per galaxy.

    Fractions lie in [0, 1] and are conditional on the question being asked; identifiers are
    integers (``int64``/``Int64``) or strings, never floats, because a specobjid has 19 digits.
    """
    # Imported only where a table is checked: that takes as long as pandas.
    import pandera.pandas as pandera

    column, known = pandera.Column, dict(nullable=True, required=False)
    fraction = dict(checks=pandera.Check.in_range(0.0, 1.0), nullable=True, coerce=True)
    count = dict(checks=pandera.Check.ge(0), nullable=True, required=False, coerce=True)
    return pandera.DataFrameSchema(
        {
            "galaxy_id": column(unique=True, nullable=False),
            "dr7objid": column("Int64", **known),
            # UInt64 where a plate of 8192 or more takes the last bit.
            "specobjid": column(checks=pandera.Check(pd.api.types.is_integer_dtype), **known),
            "ra": column(float, pandera.Check.in_range(0, 360), **known),
            "dec": column(float, pandera.Check.in_range(-90, 90), **known),
            "redshift": column(float, **known),
            "total_votes": column(float, **count),
            "f_features": column(float, **fraction),
            "f_not_edge_on": column(float, **fraction),
            "f_spiral": column(float, **fraction),
            "n_spiral": column(float, **count),
            **{name: column(float, **fraction) for name in RHO_COLUMNS},
            **{name: column("boolean", **known) for name in CLEAN_COLUMNS},
            "image_path": column(nullable=False),
        },
        strict=False,
    )


def validate_votes(votes: pd.DataFrame, source: str) -> pd.DataFrame:
    """A `votes` table with fractions as float64, if it keeps `votes_contract`.

    Else an InputError names the `source` (file or survey), each column that fails, in how many
    rows, and the first bad values.
    """
    if "galaxy_id" in votes and pd.api.types.is_float_dtype(votes["galaxy_id"]):
        raise InputError(
            f"{source}: column galaxy_id holds floats, which cannot keep 18- and 19-digit "
            "identifiers apart. Read it as integers or strings."
        )
    from pandera.errors import SchemaErrors

    try:
        return votes_contract().validate(votes, lazy=True)
    except SchemaErrors as error:
        failures = error.failure_cases
        lines = []
        for (column, check), rows in failures.groupby(
            [failures["column"].fillna("table"), "check"], sort=False
        ):
            if check == "column_in_dataframe":
                lines.append(f"column {rows['failure_case'].iloc[0]} is missing")
                continue
            examples = ", ".join(str(v) for v in rows["failure_case"].head(3))
            lines.append(f"column {column}: {len(rows)} rows fail {check} (first: {examples})")
        raise InputError(
            f"{source} does not keep the contract of a votes table: "
            + "; ".join(lines)
            + ". Correct the file, or the reader in lib/surveys that makes this table."
        ) from error
