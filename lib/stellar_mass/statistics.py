"""Compare a property between arm classes: as published (paper Sec. 6) and as it should be.

Throughout, `values` is a float array of a property and `labels` the arm class of the same
galaxies. Shifts are class minus the rest, in the unit of the property (dex for log10 masses).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import optimize, stats
from scipy.spatial import KDTree

from lib.schema import MERGES, InputError, merged_classes, slug

MERGE = "4+5+"
CLASSES = merged_classes(MERGE)
"""Arm classes of Sec. 6: m = 4 and 5+ are one."""

TESTS = ("welch", "ks", "ad", "mw")
"""Welch's t, Kolmogorov-Smirnov, Anderson-Darling, Mann-Whitney."""


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
        Role of a model -> ``galaxy_id``, ``predicted`` and the class probabilities.

    Returns
    -------
    dict of str to DataFrame
        "label" and the roles -> the rows of `values` that are classified, with ``arm_class``
        (merged) and, for a model, its columns. Empty when there are no values.
    """
    if values.empty:
        return {}
    groups = {"label": values.assign(arm_class=merge_labels(values["label"]))}
    for role, table in predictions.items():
        columns = ["galaxy_id", "predicted", *(c for c in table if c.startswith("p_"))]
        joined = values.merge(table[columns], on="galaxy_id", validate="one_to_one")
        groups[role] = joined.assign(arm_class=merge_labels(joined["predicted"]))
    return groups


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


def published_tests(values: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Table 4 as the paper makes it: each class against the whole sample, which contains it.

    The pooled-variance t and the two-sample K-S test of scipy. The p-values of t are two-sided,
    as the printed ones are, although the paper calls its test one-tailed.

    Returns
    -------
    DataFrame
        One row per class of `CLASSES`: ``label``, ``n``, ``ks_d``, ``ks_p``, ``t``,
        ``t_p_two_sided``; NaN where a class has fewer than two galaxies.
    """
    rows = []
    for arm_class in CLASSES:
        subsample = values[labels == arm_class]
        row = {"label": arm_class, "n": len(subsample)}
        if len(subsample) > 1:
            ks = stats.ks_2samp(subsample, values)
            t = stats.ttest_ind(subsample, values)
            row |= {"ks_d": ks.statistic, "ks_p": ks.pvalue}
            row |= {"t": t.statistic, "t_p_two_sided": t.pvalue}
        rows.append(row)
    return pd.DataFrame(rows, columns=["label", "n", "ks_d", "ks_p", "t", "t_p_two_sided"])


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
) -> tuple[float, float]:
    """Percentile bootstrap interval of a two-sample statistic, each sample resampled by itself.

    Parameters
    ----------
    a, b : ndarray, shapes (n,) and (k,)
    statistic : callable
        Called as ``statistic(a, b, axis=-1)``.
    """
    # A batch of 20 resamples of 11,000 galaxies stays below 10 MB.
    result = stats.bootstrap(
        (a, b),
        statistic,
        n_resamples=n_resamples,
        batch=20,
        vectorized=True,
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
    higher = stats.ttest_ind(a, b, equal_var=False, alternative="greater").pvalue
    ks = stats.ks_2samp(a, b)
    permutation = stats.PermutationMethod(n_permutations, rng=np.random.default_rng(seed))
    ad = stats.anderson_ksamp([a, b], variant="midrank", method=permutation)
    mw = stats.mannwhitneyu(a, b)
    result |= _interval("shift", a, b, mean_difference, n_resamples, confidence, seed)
    result |= _interval("delta", a, b, cliffs_delta, n_resamples, confidence, seed)
    result |= {"t": welch.statistic, "welch_p": welch.pvalue}
    result |= {"welch_p_higher": higher, "welch_p_lower": 1 - higher}
    result |= {"ks_d": ks.statistic, "ks_p": ks.pvalue}
    result |= {"ad": ad.statistic, "ad_p": ad.pvalue}
    return result | {"mw_u": mw.statistic, "mw_p": mw.pvalue}


def _interval(name, a, b, statistic, n_resamples, confidence, seed) -> dict[str, float]:
    low, high = bootstrap_interval(a, b, statistic, n_resamples, confidence, seed)
    return {name: float(statistic(a, b)), f"{name}_low": low, f"{name}_high": high}


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction of p-values for several tests (Holm 1979).

    NaN stays NaN and does not count as a test.

    Examples
    --------
    >>> [round(float(x), 3) for x in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    p = np.asarray(p, dtype=float)
    corrected = np.full_like(p, np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    steps = p[order] * (len(order) - np.arange(len(order)))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


def _with_holm(rows: list[dict]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    for test in TESTS:
        if f"{test}_p" in table:
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
        As `sound_tests`, with ``unmatched`` (galaxies of the smaller group without a partner)
        and for every covariate ``<name>_before`` and ``<name>_after``: the difference of means in
        standard deviations without and with matching.
    """
    rows = []
    matrix = covariates.to_numpy(dtype=float)
    for i, arm_class in enumerate(CLASSES):
        inside = labels == arm_class
        members, controls = matched_pairs(inside, matrix, caliper, seed + i)
        row = {"label": arm_class}
        row |= compare(values[members], values[controls], seed=seed + i, **options)
        row["unmatched"] = int(min(inside.sum(), (~inside).sum()) - len(members))
        for name, column in covariates.items():
            spread = np.nanstd(column)
            row[f"{name}_before"] = _contrast(column[inside], column[~inside], spread)
            row[f"{name}_after"] = _contrast(column.iloc[members], column.iloc[controls], spread)
        rows.append(row)
    return _with_holm(rows)


def covariates(table: pd.DataFrame, match_on: list[str], prop: str) -> pd.DataFrame:
    """Columns to match in: those of `match_on` that the survey has, without the property itself."""
    usable = [c for c in match_on if c != prop and c in table and table[c].notna().any()]
    return table[usable].astype(float)


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


def drawn_shifts(
    values: np.ndarray,
    probabilities: np.ndarray,
    n_draws: int = 1000,
    confidence: float = 0.95,
    seed: int = 42,
) -> pd.DataFrame:
    """Shift of every class when the class of a galaxy is drawn and not taken by arg-max.

    Each draw resamples the galaxies with replacement and gives each a class with its own
    probabilities, so that the interval holds the sampling error and the labels' uncertainty.

    Parameters
    ----------
    values : ndarray, shape (n,)
    probabilities : ndarray, shape (n, 5)
        Vote fractions or predicted probabilities of `CLASSES`; rows with NaN are left out.

    Returns
    -------
    DataFrame
        ``label``, ``n`` (mean size), ``shift`` (mean over draws), ``shift_low``, ``shift_high``,
        ``spread_of_classes`` (standard deviation of the shift from drawing classes alone).
    """
    usable = np.isfinite(probabilities).all(axis=1)
    values, cumulative = values[usable], np.cumsum(probabilities[usable], axis=1)
    rng = np.random.default_rng(seed)
    n, k = len(values), len(CLASSES)
    sizes, shifts, alone = [], [], []
    for _ in range(n_draws):
        drawn = np.minimum((rng.random((n, 1)) > cumulative).sum(axis=1), k - 1)
        alone.append(_shifts(values, drawn, k)[0])
        rows = rng.integers(0, n, n)
        shift, size = _shifts(values[rows], drawn[rows], k)
        shifts.append(shift)
        sizes.append(size)
    tail = 50 * (1 - confidence)
    shifts = np.array(shifts)
    # A draw in which a class is empty has no shift; a class that is always empty stays NaN.
    present = np.isfinite(shifts).any(axis=0)
    low, middle, high, spread = np.full((4, k), np.nan)
    low[present], high[present] = np.nanpercentile(shifts[:, present], [tail, 100 - tail], axis=0)
    middle[present] = np.nanmean(shifts[:, present], axis=0)
    spread[present] = np.nanstd(np.array(alone)[:, present], axis=0)
    return pd.DataFrame(
        {
            "label": CLASSES,
            "n": np.mean(sizes, axis=0),
            "shift": middle,
            "shift_low": low,
            "shift_high": high,
            "spread_of_classes": spread,
        }
    )


def _shifts(values: np.ndarray, codes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each class minus mean of the rest, and the class sizes."""
    size = np.bincount(codes, minlength=k)
    total = np.bincount(codes, weights=values, minlength=k)
    rest = len(values) - size
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / size - (values.sum() - total) / rest, size


def minimum_detectable_shift(
    n: int, n_rest: int, spread: float, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest true difference of means that a two-sided t-test finds with a given power.

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

    def missing_power(noncentrality: float) -> float:
        upper = stats.nct.sf(critical, degrees, noncentrality)
        return upper + stats.nct.cdf(-critical, degrees, noncentrality) - power

    noncentrality = optimize.brentq(missing_power, 0, critical + 10)
    return float(noncentrality * spread * np.sqrt(1 / n + 1 / n_rest))


def power_table(sizes: pd.Series, total: int, spread: float, power: float = 0.8) -> pd.DataFrame:
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


def predicted_dilution(
    values: np.ndarray,
    reference: np.ndarray,
    predicted: np.ndarray,
    n_resamples: int = 1000,
    confidence: float = 0.95,
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
        and ``excess`` (observed minus expected), the last three with ``_low`` and ``_high`` from
        a bootstrap over galaxies.
    """
    j, k = (pd.Categorical(x, categories=CLASSES).codes.astype(int) for x in (reference, predicted))
    known = (j >= 0) & (k >= 0)
    values, j, k = values[known], j[known], k[known]
    best = _dilution(values, j, k)
    rng = np.random.default_rng(seed)
    resamples = []
    for _ in range(n_resamples):
        rows = rng.integers(0, len(values), len(values))
        resamples.append(_dilution(values[rows], j[rows], k[rows]))
    table = pd.DataFrame({"label": CLASSES, "n": np.bincount(k, minlength=len(CLASSES))})
    agreed = np.bincount(k[j == k], minlength=len(CLASSES))
    table["purity"] = agreed / table["n"].where(table["n"] > 0)
    tail = 50 * (1 - confidence)
    for i, name in enumerate(("reference_shift", "expected_shift", "observed_shift", "excess")):
        table[name] = best[i]
        draws = np.array([resample[i] for resample in resamples])
        present = np.isfinite(draws).any(axis=0)
        for suffix, percent in (("low", tail), ("high", 100 - tail)):
            table[f"{name}_{suffix}"] = np.nan
            table.loc[present, f"{name}_{suffix}"] = np.nanpercentile(
                draws[:, present], percent, axis=0
            )
    return table


def _dilution(values: np.ndarray, j: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Reference, expected and observed shift and their difference, shape (4, classes)."""
    n = len(CLASSES)
    reference, size = _shifts(values, j, n)
    means = np.bincount(j, weights=values, minlength=n) / np.maximum(size, 1)
    expected, _ = _shifts(means[j], k, n)
    observed, _ = _shifts(values, k, n)
    return np.stack([reference, expected, observed, observed - expected])


def truth_test(
    groups: dict[str, pd.DataFrame],
    true_class: pd.Series,
    built_in: dict[str, float],
    n_resamples: int = 1000,
    seed: int = 42,
) -> pd.DataFrame:
    """Built-in shifts of a simulated survey, and what labels and predictions leave of them.

    Parameters
    ----------
    groups : dict
        As `classified` gives them.
    true_class : Series
        True arm class by ``galaxy_id``; galaxies without arms are left out.
    built_in : dict
        Shift of the property that the simulation gave to each true class; 0 where not named.

    Returns
    -------
    DataFrame
        `predicted_dilution` of every source, and of the truth itself, with ``source`` and
        ``built_in_shift``: the shift of the class against the rest from `built_in` alone, given
        the true classes of the galaxies in it; ``recovered``, whether the interval of the
        observed shift holds it.
    """
    tables = []
    truth = groups["label"].assign(arm_class=_merged_truth(groups["label"], true_class))
    for source, table in ({"truth": truth} | groups).items():
        reference = _merged_truth(table, true_class)
        known = np.isin(reference, CLASSES) & np.isin(table["arm_class"], CLASSES)
        table, reference = table[known], reference[known]
        labels = table["arm_class"].to_numpy(dtype=str)
        result = predicted_dilution(
            table["value"].to_numpy(), reference, labels, n_resamples, seed=seed
        )
        raw = table["galaxy_id"].map(true_class).map(built_in).fillna(0.0).to_numpy(dtype=float)
        result["built_in_shift"] = class_shifts(raw, labels)
        result["recovered"] = result["built_in_shift"].between(
            result["observed_shift_low"], result["observed_shift_high"]
        )
        result.insert(0, "source", source)
        tables.append(result)
    return pd.concat(tables, ignore_index=True)


def _merged_truth(table: pd.DataFrame, true_class: pd.Series) -> np.ndarray:
    known = table["galaxy_id"].map(true_class).fillna("none").astype(str)
    return known.replace(MERGES[MERGE]).to_numpy(dtype=str)


def class_shifts(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean of each class of `CLASSES` minus mean of the rest; NaN for an empty class."""
    codes = pd.Categorical(labels, categories=CLASSES).codes.astype(int)
    return _shifts(values[codes >= 0], codes[codes >= 0], len(CLASSES))[0]


def check_printed_rows(p_values: pd.DataFrame) -> pd.DataFrame:
    """Mark the rows of Table 4 whose printed numbers contradict each other.

    Parameters
    ----------
    p_values : DataFrame
        As `lib.paper.table_4_p_values` recomputes them.

    Returns
    -------
    DataFrame
        The printed columns, and ``ks_contradiction``, ``t_two_sided``, ``t_one_sided`` (bool):
        whether the p-value of K-S does not follow from D and the sizes, and which p-value of t is
        printed.
    """
    table = p_values[["n", "ks_d", "ks_p", "t", "t_p"]].copy()
    # Old scipy versions used the asymptotic series, which differs in the second decimal.
    low, high = p_values["ks_p_low"] - 0.01, p_values["ks_p_high"] + 0.01
    table["ks_contradiction"] = ~p_values["ks_p"].between(low, high)
    for side in ("two_sided", "one_sided"):
        # t is rounded to 5e-5, which moves its p-value by less than 1e-4.
        table[f"t_{side}"] = (p_values["t_p"] - p_values[f"t_p_{side}"]).abs() < 1.5e-4
    return table


def implied_shifts(n: pd.Series, t: pd.Series, total: int) -> pd.DataFrame:
    """What printed t of subsample against whole says about subsample against the rest.

    With equal spread s, t = d / (s sqrt(1/n + 1/N)) gives the difference d of the class to the
    whole; to the rest it is d N / (N - n), with standard error s sqrt(1/n + 1/(N - n)).

    Parameters
    ----------
    n, t : Series
        Sizes and t statistics of all classes of one source.
    total : int
        N, size of the whole sample.

    Returns
    -------
    DataFrame
        ``shift`` and ``error`` in standard deviations, ``z``, ``p`` (two-sided). In ``attrs``:
        ``balance``, the sum of ``n d / s`` which must be near zero when the classes make up the
        whole, and ``anova_p``, the p-value of the one-way analysis of variance.
    """
    whole = t * np.sqrt(1 / n + 1 / total)
    table = pd.DataFrame({"n": n, "shift": whole * total / (total - n)})
    table["error"] = np.sqrt(1 / n + 1 / (total - n))
    table["z"] = table["shift"] / table["error"]
    table["p"] = 2 * stats.norm.sf(table["z"].abs())
    between = float((n * whole**2).sum())
    groups = len(n)
    within = total - groups
    f = between / (groups - 1) / ((total - 1 - between) / within)
    table.attrs["balance"] = float((n * whole).sum())
    table.attrs["anova_p"] = float(stats.f.sf(f, groups - 1, within))
    return table
