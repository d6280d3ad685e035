"""The vocabulary of the project: arm classes, their merges, and the columns of its tables.

Everything here follows the Galaxy Zoo 2 decision tree (Willett et al. 2013, Table 2): task T11,
"How many spiral arms are there?", has the answers 1, 2, 3, 4, more than 4 and "can't tell".
"""

from __future__ import annotations

import pandas as pd
import pandera.pandas as pa

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
    """Arm classes that are left after a merge, in order.

    Parameters
    ----------
    merge : str
        A key of `MERGES`.

    Raises
    ------
    InputError
        If `merge` is unknown.

    Examples
    --------
    >>> merged_classes("4+5+")
    ('1', '2', '3', '4+5+', '?')
    """
    if merge not in MERGES:
        raise InputError(f"unknown class merge {merge!r}: choose one of {', '.join(MERGES)}")
    return tuple(dict.fromkeys(MERGES[merge].get(c, c) for c in ARM_CLASSES))


def probability_columns(classes: tuple[str, ...]) -> list[str]:
    """Columns that hold the class probabilities of a prediction table, e.g. ``p_5plus``."""
    return [f"p_{slug(c)}" for c in classes]


_FRACTION = dict(checks=pa.Check.in_range(0.0, 1.0), nullable=True, coerce=True)

VOTES = pa.DataFrameSchema(
    {
        "galaxy_id": pa.Column(unique=True, nullable=False),
        "dr7objid": pa.Column("Int64", nullable=True, required=False),
        "specobjid": pa.Column("Int64", nullable=True, required=False),
        "ra": pa.Column(float, pa.Check.in_range(0, 360), nullable=True, required=False),
        "dec": pa.Column(float, pa.Check.in_range(-90, 90), nullable=True, required=False),
        "redshift": pa.Column(float, nullable=True, required=False),
        "total_votes": pa.Column(float, pa.Check.ge(0), nullable=True, required=False, coerce=True),
        "f_features": pa.Column(float, **_FRACTION),
        "f_not_edge_on": pa.Column(float, **_FRACTION),
        "f_spiral": pa.Column(float, **_FRACTION),
        "n_spiral": pa.Column(float, pa.Check.ge(0), nullable=True, required=False, coerce=True),
        **{c: pa.Column(float, **_FRACTION) for c in RHO_COLUMNS},
        **{c: pa.Column("boolean", nullable=True, required=False) for c in CLEAN_COLUMNS},
        "image_path": pa.Column(nullable=False),
    },
    strict=False,
)
"""Contract of a survey's `votes` table: one row per galaxy.

Fractions lie in [0, 1] and are conditional on the question being asked; identifiers are integers
(``int64``/``Int64``) or strings, never floats, because a specobjid has 19 digits.
"""


def validate_votes(votes: pd.DataFrame, source: str) -> pd.DataFrame:
    """Check a `votes` table against its contract.

    Parameters
    ----------
    votes : DataFrame
        One row per galaxy in the canonical columns of `VOTES`.
    source : str
        File or survey that the table came from, for the message.

    Returns
    -------
    DataFrame
        The same table with fractions as float64.

    Raises
    ------
    InputError
        Names the column, how many rows fail and the first bad values.
    """
    if "galaxy_id" in votes and pd.api.types.is_float_dtype(votes["galaxy_id"]):
        raise InputError(
            f"{source}: column galaxy_id holds floats, which cannot keep 18- and 19-digit "
            "identifiers apart. Read it as integers or strings."
        )
    try:
        return VOTES.validate(votes, lazy=True)
    except pa.errors.SchemaErrors as error:
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
