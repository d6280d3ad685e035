"""Shifts of a property between groups of galaxies: at fixed covariates, in pairs, by wrong classes.

Throughout, `values` is a float array of a property such as log10 of the stellar mass. Shifts are
group minus the rest, in the unit of the property (dex).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats
from scipy.spatial import KDTree

from lib.stellar_mass.classes import CLASSES


def adjusted_shift(
    values: np.ndarray, inside: np.ndarray, covariates: np.ndarray
) -> dict[str, float]:
    """Shift of a group at fixed covariates: least squares of the values on membership and them.

    Standard error and degrees of freedom allow for unequal scatter and a small group (HC2 with
    those of Bell & McCaffrey; Imbens & Kolesar 2016, Rev. Econ. Stat. 98, 701). Without covariates
    the error is that of Welch's test.

    `inside` is membership of the group (bool, shape (n,)); rows of `covariates`, shape (n, k),
    with NaN are left out. The result has ``n`` (galaxies of the group), ``shift``, ``shift_low``,
    ``shift_high``, ``p`` (two-sided); NaN where the group or the rest has fewer than two galaxies.
    """
    matrix = np.column_stack([np.ones(len(values)), inside, covariates]).astype(float)
    usable = np.isfinite(matrix).all(axis=1) & np.isfinite(values)
    matrix, y = matrix[usable], np.asarray(values, dtype=float)[usable]
    n = int(matrix[:, 1].sum())
    if min(n, len(y) - n) < 2:
        return {"n": n, **dict.fromkeys(("shift", "shift_low", "shift_high", "p"), np.nan)}
    inverse = np.linalg.pinv(matrix.T @ matrix)
    residual = y - matrix @ (inverse @ matrix.T @ y)
    weights = matrix @ inverse[1]  # of the values in the estimate
    leverage = np.einsum("ij,jk,ik->i", matrix, inverse, matrix)
    scaled = weights**2 / (1 - leverage)
    error = np.sqrt((scaled * residual**2).sum())
    # With equal scatter the squared error is distributed as a sum of chi squares, whose first two
    # moments these are.
    moment = matrix.T @ (matrix * scaled[:, None]) @ inverse
    spread = (scaled**2 * (1 - 2 * leverage)).sum() + np.trace(moment @ moment)
    student = stats.t((weights**2).sum() ** 2 / spread)
    half, shift = student.ppf(0.975) * error, float(weights @ y)
    interval = {"shift": shift, "shift_low": shift - half, "shift_high": shift + half}
    return {"n": n, **interval, "p": float(2 * student.sf(abs(shift) / error))}


def class_shifts(
    table: pd.DataFrame, value: str, covariates: list[str], comparisons: dict[str, tuple]
) -> pd.DataFrame:
    """`adjusted_shift` of groups of arm classes: ``comparison``, ``n_rest`` and its entries.

    `table` has ``arm_class`` (not merged), `value` and `covariates`, one row per galaxy;
    `comparisons` maps names to (classes of the group, classes it is compared with).
    """
    rows = []
    for name, (group, rest) in comparisons.items():
        inside, outside = (table["arm_class"].isin(classes) for classes in (group, rest))
        both, member = table[inside | outside], inside[inside | outside].to_numpy()
        shift = adjusted_shift(both[value].to_numpy(), member, both[covariates].to_numpy())
        rows.append({"comparison": name, "n_rest": int(outside.sum())} | shift)
    return pd.DataFrame(rows)


def matched_pairs(
    inside: np.ndarray, covariates: np.ndarray, caliper: float = 0.1, seed: int = 42
) -> tuple[np.ndarray, np.ndarray]:
    """Pair the galaxies of a class with others that are alike in the covariates.

    Each galaxy of the smaller group takes, in random order, the nearest free one of the larger
    group (greedy nearest-neighbour matching without replacement; Stuart 2010, Statistical
    Science 25, 1), if it is within the caliper; else it is left out.

    `inside` is membership of the class (bool, shape (n,)); rows of `covariates`, shape (n, k),
    with NaN are left out; `caliper` is the largest Euclidean distance in standard deviations of
    the covariates. The result is row numbers: ``members[i]`` is paired with ``controls[i]``.
    """
    covariates = np.asarray(covariates, dtype=float)
    usable = np.isfinite(covariates).all(axis=1)
    groups = np.flatnonzero(inside & usable), np.flatnonzero(~inside & usable)
    few, many = sorted(groups, key=len)
    if not len(few):
        return few, few
    spread = covariates[usable].std(axis=0)
    scaled = covariates / np.where(spread > 0, spread, 1)
    # A galaxy whose 200 nearest are all taken lies where the larger group has run out.
    _, neighbour = KDTree(scaled[many]).query(
        scaled[few], k=[*range(1, min(200, len(many)) + 1)], distance_upper_bound=caliper
    )
    free = np.ones(len(many) + 1, dtype=bool)
    free[len(many)] = False  # the tree's mark of "no neighbour within the caliper"
    pairs = []
    for i in np.random.default_rng(seed).permutation(len(few)):
        candidates = neighbour[i][free[neighbour[i]]]
        if len(candidates):
            free[candidates[0]] = False
            pairs.append((few[i], many[candidates[0]]))
    first, second = np.array(pairs, dtype=int).reshape(-1, 2).T
    return (first, second) if few is groups[0] else (second, first)


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

    `reference` and `predicted` are two classifications of the galaxies of `values`, shape (n,).

    Returns
    -------
    DataFrame
        ``label``, ``n``, ``purity`` (share of the predicted class that the reference agrees on),
        ``reference_shift``, ``expected_shift`` (from the confusion matrix), ``observed_shift``
        and ``excess`` (observed minus expected) with ``excess_low``, ``excess_high`` from a
        bootstrap over galaxies; ``p``: two-sided, of the excess in bootstrap standard errors. NaN
        for a class that is empty, or that a resample leaves empty or without any error.
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
    error = draws.std(axis=0, ddof=1)
    draws[:, ~(error > 1e-9)] = np.nan
    table["excess_low"], table["excess_high"] = np.percentile(draws, [2.5, 97.5], axis=0)
    z = table["excess"].abs() / np.where(error > 1e-9, error, np.nan)
    return table.assign(p=2 * stats.norm.sf(z))


def dilution_by_source(
    data: pd.DataFrame, reference: str, n_resamples: int, seed: int
) -> pd.DataFrame:
    """`predicted_dilution` of every source of classes but the `reference`, whose are right.

    `data` has ``galaxy_id``, ``source``, ``merged`` and ``log_mass``. The result has ``source``;
    classes with fewer than ten galaxies are left out.
    """
    right = data[data["source"] == reference].set_index("galaxy_id")["merged"].rename("right")
    others = data[data["source"] != reference].join(right, on="galaxy_id", how="inner")
    tables = []
    for source, table in others.groupby("source", sort=False):
        columns = (table[c].to_numpy() for c in ("log_mass", "right", "merged"))
        found = predicted_dilution(*columns, n_resamples, seed)
        tables.append(found[found["n"] > 9].assign(source=source))
    return pd.concat(tables, ignore_index=True)


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
