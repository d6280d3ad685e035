"""What wrong classes, and a wrong join, leave of the shift of a property."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from lib.evaluation import holm
from lib.stellar_mass.classes import CLASSES


def predicted_dilution(
    values: np.ndarray,
    reference: np.ndarray,
    predicted: np.ndarray,
    n_resamples: int = 1000,
    seed: int = 42,
) -> pd.DataFrame:
    """Shift of each predicted class that misclassification alone would leave of the reference's.

    If errors do not depend on the property within a reference class j, the mean of the predicted
    class k is the mixture ``sum_j P(j | k) mean_j`` of the reference means, with P(j | k) from
    the confusion matrix. A difference to the observed shift shows errors that go with the property.

    Parameters
    ----------
    values, reference, predicted : ndarray, shape (n,)
        The property, and two classifications of the same galaxies.

    Returns
    -------
    DataFrame
        ``label``, ``n``, ``purity`` (share of the predicted class that the reference agrees on),
        ``reference_shift``, ``expected_shift`` (from the confusion matrix), ``observed_shift``
        and ``excess`` (observed minus expected) with ``excess_low``, ``excess_high`` from a
        bootstrap over galaxies; ``p``: two-sided, of the excess in bootstrap standard errors;
        ``p_holm``: the same, corrected for the number of classes.
    """
    j, k = (pd.Categorical(x, categories=CLASSES).codes.astype(int) for x in (reference, predicted))
    known = (j >= 0) & (k >= 0)
    values, j, k = values[known], j[known], k[known]
    reference_shift, expected, observed = _dilution(values, j, k)
    rng = np.random.default_rng(seed)
    draws = np.full((n_resamples, len(CLASSES)), np.nan)
    for draw in draws if len(values) else ():
        rows = rng.integers(0, len(values), len(values))
        _, expected_again, observed_again = _dilution(values[rows], j[rows], k[rows])
        draw[:] = observed_again - expected_again
    table = pd.DataFrame({"label": CLASSES, "n": np.bincount(k, minlength=len(CLASSES))})
    agreed = np.bincount(k[j == k], minlength=len(CLASSES))
    table["purity"] = agreed / table["n"].where(table["n"] > 0)
    table["reference_shift"], table["expected_shift"] = reference_shift, expected
    table["observed_shift"], table["excess"] = observed, observed - expected
    # A class that some resamples leave empty, or without any error, has no interval.
    error, tail = draws.std(axis=0, ddof=1), 2.5
    draws[:, ~(error > 1e-9)] = np.nan
    table["excess_low"], table["excess_high"] = np.percentile(draws, [tail, 100 - tail], axis=0)
    z = table["excess"].abs() / np.where(error > 1e-9, error, np.nan)
    table["p"] = 2 * stats.norm.sf(z)
    return table.assign(p_holm=holm(table["p"]))


def by_source(data: pd.DataFrame, reference: str, n_resamples: int, seed: int) -> pd.DataFrame:
    """`predicted_dilution` of every source of classes, with one correction for all classes.

    Parameters
    ----------
    data : DataFrame
        ``galaxy_id``, ``source``, ``merged`` and ``log_mass``, one row per galaxy and source.
    reference : str
        The source whose classes are taken as right.

    Returns
    -------
    DataFrame
        With ``source``; classes with fewer than ten galaxies are left out.
    """
    right = data[data["source"] == reference].set_index("galaxy_id")["merged"]
    tables = []
    for source, table in data[data["source"] != reference].groupby("source", sort=False):
        table = table[table["galaxy_id"].isin(right.index)]
        found = predicted_dilution(
            table["log_mass"].to_numpy(),
            table["galaxy_id"].map(right).to_numpy(),
            table["merged"].to_numpy(),
            n_resamples,
            seed=seed,
        )
        tables.append(found[found["n"] > 9].assign(source=source))
    diluted = pd.concat(tables, ignore_index=True)
    return diluted.assign(p_holm=holm(diluted["p"]))


def _dilution(values: np.ndarray, j: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Reference, expected and observed shift, shape (3, classes)."""
    n = len(CLASSES)
    size = np.bincount(j, minlength=n)
    means = np.bincount(j, weights=values, minlength=n) / np.maximum(size, 1)
    return np.stack([_shifts(values, j), _shifts(means[j], k), _shifts(values, k)])


def _shifts(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Mean of each class minus mean of the rest; NaN for a class that is empty or everything."""
    size = np.bincount(codes, minlength=len(CLASSES)).astype(float)
    total = np.bincount(codes, weights=values, minlength=len(CLASSES))
    rest = len(values) - size
    compared = np.where((size > 0) & (rest > 0), 1.0, np.nan)
    mean, mean_of_rest = total / np.maximum(size, 1), (values.sum() - total) / np.maximum(rest, 1)
    return compared * (mean - mean_of_rest)


def join_by_position(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Values that galaxies get when incomplete rows are dropped and the rest is laid beside them.

    This is how the authors' public notebook joins its two tables after sorting both by identifier:
    the galaxy in row i gets the i-th value that is left. After the first dropped row every galaxy
    has the value of another one.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Of all galaxies, in the order of their identifiers.
    kept : ndarray of bool, shape (n,)
        Rows of the table of values that pass its quality cuts.

    Returns
    -------
    ndarray, shape (n,)
        Float; NaN in the last rows, for which no value is left.

    Examples
    --------
    >>> join_by_position(np.array([1.0, 2.0, 3.0]), np.array([True, False, True]))
    array([ 1.,  3., nan])
    """
    beside = np.full(len(values), np.nan)
    beside[: kept.sum()] = values[kept]
    return beside
