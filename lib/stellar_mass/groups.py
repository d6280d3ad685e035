"""Which galaxies are in which arm class, by label and by model (paper Sec. 6)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lib.schema import MERGES, InputError, merged_classes, slug

MERGE = "4+5+"
CLASSES = merged_classes(MERGE)
"""Arm classes of Sec. 6: m = 4 and 5+ are one."""


def merge_labels(labels: pd.Series) -> np.ndarray:
    """Arm classes with m = 4 and 5+ merged, as an array of str.

    Raises
    ------
    InputError
        If a label is none of the arm classes, for example of another merge.
    """
    merged = labels.astype(str).replace(MERGES[MERGE])
    unknown = sorted(set(merged) - set(CLASSES))
    if unknown:
        raise InputError(
            f"arm classes {', '.join(unknown)} cannot be compared: Sec. 6 needs predictions of "
            "the merge none or 4+5+; train with one of these"
        )
    return merged.to_numpy(dtype=str)


def classified(
    values: pd.DataFrame, predictions: dict[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """The same galaxies by label and by each model.

    Parameters
    ----------
    values : DataFrame
        ``galaxy_id``, ``value``, ``label``.
    predictions : dict
        Role of a model -> ``galaxy_id``, ``split``, ``predicted`` and the class probabilities.

    Returns
    -------
    dict of str to DataFrame
        "label" and the roles -> the rows of `values` that are classified, with ``arm_class``
        (merged) and, for a model, its columns and the ``split`` of its training. Empty when there
        are no values.
    """
    if values.empty:
        return {}
    groups = {"label": values.assign(arm_class=merge_labels(values["label"]))}
    for role, table in predictions.items():
        columns = ["galaxy_id", "split", "predicted", *(c for c in table if c.startswith("p_"))]
        joined = values.merge(table[columns], on="galaxy_id", validate="one_to_one")
        groups[role] = joined.assign(arm_class=merge_labels(joined["predicted"]))
    return groups


def unseen(groups: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """For each model only the galaxies that it was not trained on; for the label all of them.

    On its training galaxies a model repeats their labels, so that its classes look purer and its
    shifts less diluted than those of galaxies it has not seen.

    Parameters
    ----------
    groups : dict
        As `classified` gives them.
    """
    kept = {
        source: table[table["split"] != "train"] if "split" in table else table
        for source, table in groups.items()
    }
    return {source: table.reset_index(drop=True) for source, table in kept.items() if len(table)}


def merge_probabilities(table: pd.DataFrame, prefix: str) -> np.ndarray:
    """Probabilities of `CLASSES` from columns such as ``rho_4`` and ``rho_5plus``.

    Parameters
    ----------
    table : DataFrame
        Columns ``<prefix>_<slug>`` for every arm class, or for the merged ones.
    prefix : str
        "rho" for debiased vote fractions, "p" for predicted probabilities.

    Returns
    -------
    ndarray, shape (n, 5)
        Rows add up to one; a row without any vote is NaN.
    """
    columns = []
    for arm_class in CLASSES:
        parts = [c for c, merged in MERGES[MERGE].items() if merged == arm_class]
        names = [f"{prefix}_{slug(c)}" for c in [arm_class, *parts]]
        present = [name for name in names if name in table]
        if not present:
            raise InputError(
                f"no column {' or '.join(names)}: the class probabilities of m = {arm_class} are "
                "needed to draw classes"
            )
        columns.append(table[present].sum(axis=1).to_numpy(dtype=float))
    weights = np.stack(columns, axis=1)
    total = weights.sum(axis=1, keepdims=True)
    return np.divide(weights, total, out=np.full_like(weights, np.nan), where=total > 0)


def stack(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One table from one per source of classes, with the source as its first column."""
    parts = [table.assign(source=source) for source, table in tables.items()]
    stacked = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"source": []})
    return stacked[["source", *stacked.columns.drop("source")]]


def size_table(groups: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Galaxies, mean and standard deviation of the property, by source and class."""
    tables = {}
    for source, table in groups.items():
        values = table.groupby("arm_class")["value"].agg(["size", "mean", "std"])
        tables[source] = values.reindex(CLASSES).rename_axis("label").reset_index()
    stacked = stack(tables).rename(columns={"size": "n"})
    return stacked.assign(n=stacked["n"].fillna(0).astype(int))
