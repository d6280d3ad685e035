"""Prediction sets that hold the true class with a chosen probability (split conformal).

Whatever a network's probabilities are worth: among galaxies that are exchangeable with those that
the threshold was measured on, the label lies in the set of at least `coverage` of them (Vovk et al.
2005; Sadinle, Lei & Wasserman 2019).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lib.evaluation import wilson
from lib.schema import InputError


def threshold(probabilities: np.ndarray, label: np.ndarray, coverage: float = 0.9) -> float:
    """Smallest probability that a class in a set must have.

    Parameters
    ----------
    probabilities : ndarray, (n, classes)
        Of galaxies that were not trained on.
    label : ndarray of int, (n,)
    coverage : float
        Share of the sets that shall hold the label, above 0 and below 1.

    Raises
    ------
    InputError
        If there are too few galaxies for this coverage, or it is impossible.
    """
    if not 0 < coverage < 1:
        raise InputError(f"coverage = {coverage}: it must lie between 0 and 1")
    rank = int(np.ceil((len(label) + 1) * coverage))
    if rank > len(label):
        raise InputError(f"{len(label)} galaxies are too few to measure sets of {coverage:.0%}")
    return float(np.sort(probabilities[np.arange(len(label)), label])[::-1][rank - 1])


def sets(probabilities: np.ndarray, least: float | np.ndarray) -> np.ndarray:
    """Which classes are in each set, bool, (n, classes); the most probable one always is.

    Parameters
    ----------
    probabilities : ndarray, (n, classes)
    least : float, or ndarray of float, (classes,)
        From `threshold`; one for each class, each from its galaxies, holds the level in each.
    """
    chosen = probabilities >= least
    chosen[np.arange(len(chosen)), probabilities.argmax(axis=1)] = True
    return chosen


def coverage(chosen: np.ndarray, label: np.ndarray) -> float:
    """Share of the sets that hold the label."""
    return float(chosen[np.arange(len(label)), label].mean())


def by_class(in_set, label, set_size, classes: tuple[str, ...]) -> pd.DataFrame:
    """Coverage of each class: sets made for all galaxies together promise nothing for a single one.

    Parameters
    ----------
    in_set : array-like of bool, (n,)
        Whether each galaxy's set holds its label.
    label : array-like of str, (n,)
    set_size : array-like of int, (n,)
        Classes in each set.
    classes : tuple of str

    Returns
    -------
    DataFrame
        Indexed by class, ``all`` last: ``galaxies``, ``coverage``, ``low``, ``high`` (Wilson,
        95 %), ``set_size`` (mean); NaN where a class has no galaxy.
    """
    table = pd.DataFrame({"label": label, "in_set": in_set, "set_size": set_size})
    both = pd.concat([table, table.assign(label="all")])
    found = both.groupby("label").agg(
        galaxies=("in_set", "size"), held=("in_set", "sum"), set_size=("set_size", "mean")
    )
    found = found.reindex([*classes, "all"])
    found["galaxies"] = found["galaxies"].fillna(0).astype(int)
    held = found.pop("held").fillna(0)
    found.insert(1, "coverage", held / found["galaxies"].where(found["galaxies"] > 0))
    low, high = wilson(held, found["galaxies"])
    found.insert(2, "low", low)
    found.insert(3, "high", high)
    return found
