"""Shifts of a property between groups of galaxies, with intervals, at fixed covariates.

Throughout, `values` is a float array of a property such as log10 of the stellar mass. Shifts are
group minus the rest, in the unit of the property (dex).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import optimize, stats
from scipy.spatial import KDTree


def cliffs_delta(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    """Cliff's delta: P(a > b) - P(a < b) for a random pair, from -1 to 1.

    It is ``2 U / (n_a n_b) - 1`` with the Mann-Whitney U, computed from mid-ranks
    (Cliff 1993, Psychological Bulletin 114, 494).

    Examples
    --------
    >>> float(cliffs_delta([1, 2, 3], [0, 2]))
    0.5
    """
    a, b = np.moveaxis(np.asarray(a), axis, -1), np.moveaxis(np.asarray(b), axis, -1)
    n_a, n_b = a.shape[-1], b.shape[-1]
    ranks = stats.rankdata(np.concatenate([a, b], axis=-1), axis=-1)[..., :n_a]
    u = ranks.sum(axis=-1) - n_a * (n_a + 1) / 2
    return 2 * u / (n_a * n_b) - 1


def cliffs_interval(
    a: np.ndarray, b: np.ndarray, n_resamples: int = 1000, seed: int = 42
) -> dict[str, float]:
    """Cliff's delta with its 95 % percentile bootstrap interval, each sample resampled by itself.

    Returns
    -------
    dict
        ``delta``, ``delta_low``, ``delta_high``.
    """
    # A batch of 20 resamples of 11,000 galaxies stays below 10 MB.
    interval = stats.bootstrap(
        (a, b),
        cliffs_delta,
        n_resamples=n_resamples,
        batch=20,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    delta = float(cliffs_delta(a, b))
    return {"delta": delta, "delta_low": float(interval.low), "delta_high": float(interval.high)}


def adjusted_shift(
    values: np.ndarray, inside: np.ndarray, covariates: np.ndarray
) -> dict[str, float]:
    """Shift of a group at fixed covariates: least squares of the values on membership and them.

    Standard error and degrees of freedom allow for unequal scatter and a small group (HC2 with
    those of Bell & McCaffrey; Imbens & Kolesar 2016, Rev. Econ. Stat. 98, 701). Without covariates
    the error is that of Welch's test.

    Parameters
    ----------
    values, inside : ndarray, shape (n,)
        The property, and membership of the group (bool).
    covariates : ndarray, shape (n, k)
        Rows with NaN are left out.

    Returns
    -------
    dict
        ``n`` (galaxies of the group), ``shift``, ``shift_low``, ``shift_high``, ``p`` (two-sided);
        NaN where the group or the rest has fewer than two galaxies.
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
    half = student.ppf(0.975) * error
    shift = float(weights @ y)
    return {
        "n": n,
        "shift": shift,
        "shift_low": shift - half,
        "shift_high": shift + half,
        "p": float(2 * student.sf(abs(shift) / error)),
    }


def of_test(test) -> dict[str, float]:
    """Shift, 95 % interval and p-value of scipy's `ttest_ind` or `ttest_rel`."""
    low, high = test.confidence_interval()
    middle = (low + high) / 2
    return {"shift": middle, "shift_low": low, "shift_high": high, "p": test.pvalue}


def matched_pairs(
    inside: np.ndarray, covariates: np.ndarray, caliper: float = 0.1, seed: int = 42
) -> tuple[np.ndarray, np.ndarray]:
    """Pair the galaxies of a class with others that are alike in the covariates.

    Each galaxy of the smaller group takes, in random order, the nearest free one of the larger
    group (greedy nearest-neighbour matching without replacement; Stuart 2010, Statistical
    Science 25, 1), if it is within the caliper; else it is left out.

    Parameters
    ----------
    inside : ndarray of bool, shape (n,)
        Membership of the class.
    covariates : ndarray of float, shape (n, k)
        For example redshift; rows with NaN are left out.
    caliper : float
        Largest Euclidean distance, in standard deviations of the covariates.

    Returns
    -------
    members, controls : ndarray of int
        Row numbers; ``members[i]`` is paired with ``controls[i]``.
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
    k = min(200, len(many))
    distance, neighbour = KDTree(scaled[many]).query(
        scaled[few], k=[*range(1, k + 1)], distance_upper_bound=caliper
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


def minimum_detectable_shift(n: int, n_rest: int, spread: float) -> float:
    """Smallest difference of means that a two-sided t-test at 5 % finds four times of five.

    With its sign.

    Parameters
    ----------
    n, n_rest : int
        Sizes of the two samples.
    spread : float
        Standard deviation within them.

    Returns
    -------
    float
        In the unit of `spread`, from the non-central t distribution; NaN if a sample has fewer
        than two galaxies.
    """
    if min(n, n_rest) < 2:
        return np.nan
    degrees = n + n_rest - 2
    critical = stats.t.isf(0.025, degrees)

    # Rejections on the wrong side are not counted.
    noncentrality = optimize.brentq(
        lambda x: stats.nct.sf(critical, degrees, x) - 0.8, 0, 2 * critical + 4
    )
    return float(noncentrality * spread * np.sqrt(1 / n + 1 / n_rest))


def detectable_shifts(sizes: pd.DataFrame, spread: float) -> pd.DataFrame:
    """`minimum_detectable_shift` of each class against the others of its column of sizes."""
    total = sizes.sum()
    return pd.DataFrame(
        {
            name: [minimum_detectable_shift(n, total[name] - n, spread) for n in column]
            for name, column in sizes.items()
        },
        index=sizes.index,
    )


def class_shifts(
    table: pd.DataFrame, value: str, covariates: list[str], comparisons: dict[str, tuple]
) -> pd.DataFrame:
    """`adjusted_shift` of several groups of arm classes.

    Parameters
    ----------
    table : DataFrame
        ``arm_class`` (not merged), `value` and `covariates`, one row per galaxy.
    comparisons : dict
        Name -> (classes of the group, classes it is compared with).

    Returns
    -------
    DataFrame
        ``comparison``, ``n_rest`` and the entries of `adjusted_shift`.
    """
    rows = []
    for name, (group, rest) in comparisons.items():
        inside, outside = (table["arm_class"].isin(classes) for classes in (group, rest))
        both = table[inside | outside]
        row = adjusted_shift(
            both[value].to_numpy(), inside[both.index].to_numpy(), both[covariates].to_numpy()
        )
        rows.append({"comparison": name, "n_rest": int(outside.sum())} | row)
    return pd.DataFrame(rows)
