"""Prediction sets that hold the true class with a chosen probability (split conformal).

Whatever a network's probabilities are worth: among galaxies that are exchangeable with those that
the threshold was measured on, the label lies in the set of at least `coverage` of them (Vovk et al.
2005; Sadinle, Lei & Wasserman 2019).
"""

from __future__ import annotations

import numpy as np

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


def sets(probabilities: np.ndarray, least: float) -> np.ndarray:
    """Which classes are in each set, bool, (n, classes); the most probable one always is.

    Parameters
    ----------
    probabilities : ndarray, (n, classes)
    least : float
        From `threshold`.
    """
    chosen = probabilities >= least
    chosen[np.arange(len(chosen)), probabilities.argmax(axis=1)] = True
    return chosen


def coverage(chosen: np.ndarray, label: np.ndarray) -> float:
    """Share of the sets that hold the label."""
    return float(chosen[np.arange(len(label)), label].mean())
