"""What wrong and uncertain classes do to the shift of a property.

Classes are drawn from their probabilities, the dilution by misclassification is predicted from the
confusion matrix, and both are held against the built-in shifts of a simulated survey.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from lib.schema import MERGES
from lib.stellar_mass.catalogue import join_by_position
from lib.stellar_mass.groups import CLASSES, MERGE, merge_probabilities, stack
from lib.stellar_mass.statistics import bootstrap_interval, holm, mean_difference

TRUTH_COLUMNS = [
    *("source", "label", "n", "observed_shift", "class_part", "redshift_part", "built_in_shift"),
    *("deviation", "deviation_low", "deviation_high", "z", "recovered"),
]
"""Columns of `truth_test` to show first."""

SHIFT_COLUMNS = ["source", "label", "n", "purity", "reference_shift"] + [
    f"{name}_shift{end}" for name in ("expected", "observed") for end in ("", "_low", "_high")
]
"""Columns of `dilution_table` to show first."""


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


def drawn_table(groups: dict[str, pd.DataFrame], **options) -> pd.DataFrame:
    """`drawn_shifts` of every source: by vote fractions for the label, else by probabilities."""
    return stack(
        {
            source: drawn_shifts(
                table["value"].to_numpy(),
                merge_probabilities(table, "rho" if source == "label" else "p"),
                **options,
            )
            for source, table in groups.items()
        }
    )


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


def dilution_table(groups: dict[str, pd.DataFrame], **options) -> pd.DataFrame:
    """`predicted_dilution` of every model, with the labels as reference."""
    label = groups["label"].set_index("galaxy_id")["arm_class"]
    return stack(
        {
            role: predicted_dilution(
                table["value"].to_numpy(),
                table["galaxy_id"].map(label).to_numpy(dtype=str),
                table["arm_class"].to_numpy(dtype=str),
                **options,
            )
            for role, table in groups.items()
            if role != "label"
        }
    )


def truth_test(
    groups: dict[str, pd.DataFrame],
    true_class: pd.Series,
    by_class: dict[str, float],
    by_redshift: pd.Series,
    n_resamples: int = 1000,
    seed: int = 42,
) -> pd.DataFrame:
    """Built-in shifts of a simulated survey, and what labels and predictions leave of them.

    The simulation gives every galaxy a mean by true class and by redshift, and scatter at random.
    Classes are not seen equally far, so that both parts shift them against each other. The
    deviation of the observed shift from both is what the scatter must explain: it is the shift of
    the galaxies' residuals, with Welch's interval.

    Parameters
    ----------
    groups : dict
        As `classified` gives them.
    true_class : Series
        True arm class by ``galaxy_id``; galaxies without arms are left out.
    by_class : dict
        Shift of the property that the simulation gave to each true class; 0 where not named.
    by_redshift : Series
        Mean of the property at the redshift of the galaxy, by ``galaxy_id``.

    Returns
    -------
    DataFrame
        `predicted_dilution` of every source, and of the truth itself, with ``source``;
        ``class_part`` and ``redshift_part``, the shifts of the class against the rest that come
        from `by_class` and `by_redshift`, given the galaxies in it; ``built_in_shift``, their sum;
        ``deviation`` (observed minus built in) with ``_low`` and ``_high`` (95 %), ``z`` (in
        standard errors) and ``recovered``, whether its interval holds zero.
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
        ids = table["galaxy_id"]
        parts = {
            "class_part": ids.map(true_class).map(by_class).fillna(0.0),
            "redshift_part": ids.map(by_redshift),
        }
        for name, part in parts.items():
            result[name] = class_shifts(part.to_numpy(dtype=float), labels)
        result["built_in_shift"] = result["class_part"] + result["redshift_part"]
        residual = table["value"] - sum(parts.values())
        result = result.join(_deviations(residual.to_numpy(dtype=float), labels))
        result.insert(0, "source", source)
        tables.append(result)
    return pd.concat(tables, ignore_index=True)


def _deviations(residual: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Shift of the residuals of each class, with Welch's interval; NaN below two galaxies."""
    rows = []
    for arm_class in CLASSES:
        a, b = residual[labels == arm_class], residual[labels != arm_class]
        if min(len(a), len(b)) < 2:
            rows.append({"recovered": False})
            continue
        welch = stats.ttest_ind(a, b, equal_var=False)
        low, high = welch.confidence_interval(0.95)
        rows.append(
            {
                "deviation": float(mean_difference(a, b)),
                "deviation_low": low,
                "deviation_high": high,
                "z": welch.statistic,
                "recovered": low <= 0 <= high,
            }
        )
    columns = ["deviation", "deviation_low", "deviation_high", "z", "recovered"]
    return pd.DataFrame(rows, columns=columns).astype({"recovered": bool})


def _merged_truth(table: pd.DataFrame, true_class: pd.Series) -> np.ndarray:
    known = table["galaxy_id"].map(true_class).fillna("none").astype(str)
    return known.replace(MERGES[MERGE]).to_numpy(dtype=str)


def position_table(
    sample: pd.DataFrame,
    masses: pd.DataFrame,
    groups: dict[str, pd.DataFrame],
    n_resamples: int = 1000,
    seed: int = 42,
) -> pd.DataFrame:
    """Shifts of all classes after a join by identifier, and by row position.

    Parameters
    ----------
    sample : DataFrame
        ``galaxy_id`` and an identifier: all galaxies, with or without a mass.
    masses : DataFrame
        Trustworthy rows of the catalogue, see `lib.stellar_mass.catalogue.Measured`.
    groups : dict
        As `lib.stellar_mass.groups.classified` gives them.

    Returns
    -------
    DataFrame
        ``source``, ``join`` ("identifier" or "position"), ``label``, ``n``, ``shift`` with its
        interval, ``welch_p``, ``welch_p_holm``, and ``own_share``, the share of the galaxies with
        their own mass.
    """
    joined = join_by_position(sample, masses)
    joined = joined[np.isfinite(joined["value"])].set_index("galaxy_id")
    tables = {}
    for source, table in groups.items():
        beside = table[table["galaxy_id"].isin(joined.index)]
        beside = beside.assign(
            value=beside["galaxy_id"].map(joined["value"]),
            own=beside["galaxy_id"].map(joined["own"]).astype(float),
        )
        by_join = {"identifier": table.assign(own=1.0), "position": beside}
        parts = [
            _plain_shifts(rows, n_resamples, seed).assign(join=name, own_share=rows["own"].mean())
            for name, rows in by_join.items()
        ]
        tables[source] = pd.concat(parts)
    return stack(tables)


def _plain_shifts(table: pd.DataFrame, n_resamples: int, seed: int) -> pd.DataFrame:
    rows = []
    for arm_class in CLASSES:
        inside = (table["arm_class"] == arm_class).to_numpy()
        a, b = table["value"].to_numpy()[inside], table["value"].to_numpy()[~inside]
        row = {"label": arm_class, "n": len(a)}
        if min(len(a), len(b)) > 1:
            row["shift"] = float(mean_difference(a, b))
            row["shift_low"], row["shift_high"] = bootstrap_interval(
                a, b, mean_difference, n_resamples, seed=seed
            )
            row["welch_p"] = stats.ttest_ind(a, b, equal_var=False).pvalue
        rows.append(row)
    result = pd.DataFrame(rows)
    return result.assign(welch_p_holm=holm(result["welch_p"])) if "welch_p" in result else result


def class_shifts(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean of each class of `CLASSES` minus mean of the rest; NaN for an empty class."""
    codes = pd.Categorical(labels, categories=CLASSES).codes.astype(int)
    return _shifts(values[codes >= 0], codes[codes >= 0], len(CLASSES))[0]


def _shifts(values: np.ndarray, codes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each class minus mean of the rest, and the class sizes."""
    size = np.bincount(codes, minlength=k)
    total = np.bincount(codes, weights=values, minlength=k)
    rest = len(values) - size
    # A class that is empty, or holds all galaxies, has no shift.
    compared = np.where((size > 0) & (rest > 0), 1.0, np.nan)
    mean, mean_of_rest = total / np.maximum(size, 1), (values.sum() - total) / np.maximum(rest, 1)
    return compared * (mean - mean_of_rest), size
