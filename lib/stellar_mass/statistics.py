"""Compare a property between arm classes as it should be: each class with its complement.

Throughout, `values` is a float array of a property and `labels` the arm class of the same
galaxies. Shifts are class minus the rest, in the unit of the property (dex for log10 masses).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import optimize, stats
from scipy.spatial import KDTree

from lib.evaluation import holm
from lib.stellar_mass.groups import CLASSES, stack

TESTS = ("welch", "ks", "ad", "mw")
"""Welch's t, Kolmogorov-Smirnov, Anderson-Darling, Mann-Whitney."""

_ESTIMATE = ["shift", "shift_low", "shift_high"]
_DELTA = ["delta", "delta_low", "delta_high"]
_WELCH = ["t", "welch_p", "welch_p_higher", "welch_p_lower"]
_COMPARED = ["n", "n_rest", *_ESTIMATE, *_DELTA, *_WELCH]
_COMPARED += ["ks_d", "ks_p", "ad", "ad_p", "mw_u", "mw_p"]
EFFECT_COLUMNS = ["source", "label", "n", "n_rest", *_ESTIMATE, *_DELTA]
P_COLUMNS = [
    "source",
    "label",
    "welch_p_higher",
    "welch_p_lower",
    *(f"{test}_p{suffix}" for test in TESTS for suffix in ("", "_holm")),
]


def mean_difference(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean of `a` minus mean of `b`."""
    return np.mean(a, axis=axis) - np.mean(b, axis=axis)


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


def bootstrap_interval(
    a: np.ndarray,
    b: np.ndarray,
    statistic,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 42,
    paired: bool = False,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a two-sample statistic, each sample resampled by itself.

    Parameters
    ----------
    a, b : ndarray, shapes (n,) and (k,)
    statistic : callable
        Called as ``statistic(a, b, axis=-1)``.
    paired : bool
        Resample the pairs ``a[i]``, ``b[i]`` instead.
    """
    # A batch of 20 resamples of 11,000 galaxies stays below 10 MB.
    result = stats.bootstrap(
        (a, b),
        statistic,
        n_resamples=n_resamples,
        batch=20,
        vectorized=True,
        paired=paired,
        axis=-1,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def compare(
    a: np.ndarray,
    b: np.ndarray,
    n_resamples: int = 1000,
    n_permutations: int = 999,
    confidence: float = 0.95,
    seed: int = 42,
) -> dict[str, float]:
    """All tests and effect sizes between two independent samples.

    Parameters
    ----------
    a, b : ndarray
        Class and the rest.
    n_resamples, n_permutations : int
        Bootstrap resamples; permutations of the Anderson-Darling test, whose tabulated p-values
        end at 0.001 and 0.25.
    confidence : float
        Of the intervals.

    Returns
    -------
    dict
        ``n``, ``n_rest``, ``shift`` (difference of means), ``shift_low``, ``shift_high``,
        ``delta`` (Cliff), ``delta_low``, ``delta_high``, ``t``, ``welch_p`` (two-sided),
        ``welch_p_higher``, ``welch_p_lower`` (one-sided: the class has the higher, lower mean),
        ``ks_d``, ``ks_p``, ``ad``, ``ad_p``, ``mw_u``, ``mw_p``. Only the sizes when one sample
        has fewer than two galaxies.
    """
    result = {"n": len(a), "n_rest": len(b)}
    if min(len(a), len(b)) < 2:
        return result
    welch = stats.ttest_ind(a, b, equal_var=False)
    one_sided = {
        f"welch_p_{name}": stats.ttest_ind(a, b, equal_var=False, alternative=side).pvalue
        for name, side in (("higher", "greater"), ("lower", "less"))
    }
    ks = stats.ks_2samp(a, b)
    permutation = stats.PermutationMethod(n_permutations, rng=np.random.default_rng(seed))
    ad = stats.anderson_ksamp([a, b], variant="midrank", method=permutation)
    mw = stats.mannwhitneyu(a, b)
    result |= _interval("shift", a, b, mean_difference, n_resamples, confidence, seed)
    result |= _interval("delta", a, b, cliffs_delta, n_resamples, confidence, seed)
    result |= {"t": welch.statistic, "welch_p": welch.pvalue} | one_sided
    result |= {"ks_d": ks.statistic, "ks_p": ks.pvalue}
    result |= {"ad": ad.statistic, "ad_p": ad.pvalue}
    return result | {"mw_u": mw.statistic, "mw_p": mw.pvalue}


def _interval(name, a, b, statistic, n_resamples, confidence, seed) -> dict[str, float]:
    low, high = bootstrap_interval(a, b, statistic, n_resamples, confidence, seed)
    return {name: float(statistic(a, b)), f"{name}_low": low, f"{name}_high": high}


def compare_pairs(
    a: np.ndarray,
    b: np.ndarray,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 42,
) -> dict[str, float]:
    """Difference between matched galaxies from the differences within the pairs.

    Matched galaxies are alike in what they were matched in, so that the two samples are not
    independent: tests and intervals for independent samples see too little.

    Parameters
    ----------
    a, b : ndarray, shapes (n,)
        ``a[i]`` is paired with ``b[i]``.

    Returns
    -------
    dict
        ``shift``, ``shift_low``, ``shift_high`` (from a bootstrap over pairs), ``paired_t``,
        ``paired_p`` (two-sided). Empty below two pairs.
    """
    if len(a) < 2:
        return {}
    test = stats.ttest_rel(a, b)
    low, high = bootstrap_interval(
        a, b, mean_difference, n_resamples, confidence, seed, paired=True
    )
    estimate = {"shift": float(mean_difference(a, b)), "shift_low": low, "shift_high": high}
    return estimate | {"paired_t": test.statistic, "paired_p": test.pvalue}


def _with_holm(rows: list[dict], paired: bool = False) -> pd.DataFrame:
    """Table of comparisons; a class that could not be compared has NaN."""
    table = pd.DataFrame(rows)
    columns = ["label", *_COMPARED, *(["paired_t", "paired_p"] if paired else [])]
    others = table.columns.difference(columns, sort=False)
    table = table.reindex(columns=[*columns, *others])
    for test in (*TESTS, "paired") if paired else TESTS:
        table[f"{test}_p_holm"] = holm(table[f"{test}_p"])
    return table


def sound_tests(values: np.ndarray, labels: np.ndarray, seed: int = 42, **options) -> pd.DataFrame:
    """Each class against its complement: `compare`, with Holm's correction over the classes.

    Returns
    -------
    DataFrame
        One row per class of `CLASSES`: ``label``, the entries of `compare`, and
        ``<test>_p_holm`` for every test of `TESTS`.
    """
    rows = []
    for i, arm_class in enumerate(CLASSES):
        inside = labels == arm_class
        result = compare(values[inside], values[~inside], seed=seed + i, **options)
        rows.append({"label": arm_class} | result)
    return _with_holm(rows)


def sound_table(groups: dict[str, pd.DataFrame], **options) -> pd.DataFrame:
    """`sound_tests` of every source of classes, with ``source``."""
    return stack(
        {
            source: sound_tests(table["value"].to_numpy(), table["arm_class"].to_numpy(), **options)
            for source, table in groups.items()
        }
    )


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


def matched_tests(
    values: np.ndarray,
    labels: np.ndarray,
    covariates: pd.DataFrame,
    caliper: float = 0.1,
    seed: int = 42,
    n_resamples: int = 1000,
    **options,
) -> pd.DataFrame:
    """`sound_tests` between each class and a control sample alike in the covariates.

    Parameters
    ----------
    covariates : DataFrame
        One column per covariate, such as redshift, and one row per galaxy.

    Returns
    -------
    DataFrame
        As `sound_tests`, with the interval of the shift and the test of `compare_pairs` and
        ``paired_p_holm``, ``unmatched`` (galaxies of the smaller group without a partner) and for
        every covariate ``<name>_before`` and ``<name>_after``: the difference of means in standard
        deviations without and with matching. The other tests take the two groups as independent.
    """
    rows = []
    matrix = covariates.to_numpy(dtype=float)
    for i, arm_class in enumerate(CLASSES):
        inside = labels == arm_class
        members, controls = matched_pairs(inside, matrix, caliper, seed + i)
        row = {"label": arm_class}
        pair = values[members], values[controls]
        row |= compare(*pair, n_resamples, seed=seed + i, **options)
        row |= compare_pairs(*pair, n_resamples, seed=seed + i)
        row["unmatched"] = int(min(inside.sum(), (~inside).sum()) - len(members))
        for name, column in covariates.items():
            spread = np.nanstd(column)
            row[f"{name}_before"] = _contrast(column[inside], column[~inside], spread)
            row[f"{name}_after"] = _contrast(column.iloc[members], column.iloc[controls], spread)
        rows.append(row)
    return _with_holm(rows, paired=True)


def matched_table(groups: dict[str, pd.DataFrame], match_on: list[str], **options) -> pd.DataFrame:
    """`matched_tests` of every source of classes in the columns `match_on`, with ``source``."""
    return stack(
        {
            source: matched_tests(
                table["value"].to_numpy(),
                table["arm_class"].to_numpy(),
                table[match_on].astype(float),
                **options,
            )
            for source, table in groups.items()
        }
    )


def covariates(table: pd.DataFrame, match_on: list[str], prop: str) -> list[str]:
    """Columns to match in: those of `match_on` that the survey has, without the property itself."""
    return [c for c in match_on if c != prop and c in table and table[c].notna().any()]


def _contrast(a: pd.Series, b: pd.Series, spread: float) -> float:
    return float((a.mean() - b.mean()) / spread) if spread > 0 else np.nan


def overall_tests(values: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """One test over all classes at once: analysis of variance and Kruskal-Wallis.

    Returns
    -------
    dict
        ``f``, ``anova_p``, ``h``, ``kruskal_p``, ``classes`` (classes with two galaxies or more).
    """
    groups = [values[labels == c] for c in CLASSES if (labels == c).sum() > 1]
    if len(groups) < 2:
        return {"classes": len(groups)}
    f, h = stats.f_oneway(*groups), stats.kruskal(*groups)
    return {
        "classes": len(groups),
        "f": f.statistic,
        "anova_p": f.pvalue,
        "h": h.statistic,
        "kruskal_p": h.pvalue,
    }


def overall_table(groups: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """`overall_tests` of every source of classes, one row each."""
    return stack(
        {
            source: pd.DataFrame(
                [overall_tests(table["value"].to_numpy(), table["arm_class"].to_numpy())]
            )
            for source, table in groups.items()
        }
    )


def minimum_detectable_shift(
    n: int, n_rest: int, spread: float, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest difference of means that a two-sided t-test finds, with its sign, at some power.

    Parameters
    ----------
    n, n_rest : int
        Sizes of the two samples.
    spread : float
        Standard deviation within them.
    alpha, power : float
        Level of the test and the chance to find the difference.

    Returns
    -------
    float
        In the unit of `spread`, from the non-central t distribution; NaN if a sample has fewer
        than two galaxies.
    """
    if min(n, n_rest) < 2:
        return np.nan
    degrees = n + n_rest - 2
    critical = stats.t.isf(alpha / 2, degrees)

    # Rejections on the wrong side are not counted.
    noncentrality = optimize.brentq(
        lambda x: stats.nct.sf(critical, degrees, x) - power, 0, 2 * critical + 4
    )
    return float(noncentrality * spread * np.sqrt(1 / n + 1 / n_rest))


def detectable_shifts(
    sizes: pd.Series, total: int, spread: float, power: float = 0.8
) -> pd.DataFrame:
    """Shift that each class could have shown, for one test and for Holm's strictest step.

    Parameters
    ----------
    sizes : Series
        Galaxies per class, by label.
    total : int
        Galaxies in all.
    spread : float
        Standard deviation of the property.

    Returns
    -------
    DataFrame
        ``label``, ``n``, ``one_test`` (alpha = 0.05), ``all_classes`` (0.05 / number of classes).
    """
    strict = 0.05 / max(int((sizes > 1).sum()), 1)
    rows = [
        {
            "label": label,
            "n": int(n),
            "one_test": minimum_detectable_shift(n, total - n, spread, 0.05, power),
            "all_classes": minimum_detectable_shift(n, total - n, spread, strict, power),
        }
        for label, n in sizes.items()
    ]
    return pd.DataFrame(rows)


def power_table(groups: dict[str, pd.DataFrame], printed: pd.Series) -> pd.DataFrame:
    """`detectable_shifts` for the classes' sizes here and in the paper's Table 4.

    Parameters
    ----------
    groups : dict
        As `lib.stellar_mass.groups.classified` gives them.
    printed : Series
        Sizes in Table 4, indexed by ``classes_from`` and ``label``.

    Returns
    -------
    DataFrame
        With ``sizes``: the source of the classes, or "paper: " and the source. The spread is that
        of the galaxies here, since the paper prints none.
    """
    spread = float(groups["label"]["value"].std())
    tables = {}
    for source, table in groups.items():
        sizes = table["arm_class"].value_counts().reindex(CLASSES, fill_value=0)
        tables[source] = detectable_shifts(sizes, len(table), spread)
    for source, sizes in printed.groupby(level="classes_from", sort=False):
        sizes = sizes.droplevel("classes_from")
        tables[f"paper: {source}"] = detectable_shifts(sizes, int(sizes.sum()), spread)
    return stack(tables).rename(columns={"source": "sizes"})


def estimates(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Shifts of several tables below each other, with the name of the table as ``estimate``."""
    columns = ["source", "label", *_ESTIMATE]
    parts = [table[columns].assign(estimate=name) for name, table in tables.items() if len(table)]
    return pd.concat(parts, ignore_index=True)
