"""Scores of a confusion matrix, and how sure they are.

Everything rests on the confusion matrix: precision, recall and F1 follow from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy

from lib.schema import InputError

SCORES = ("accuracy", "balanced_accuracy", "macro_f1")
CELLS = ("precision", "recall", "f1")
LEVEL = 0.95


def confusion(label, predicted, classes: tuple[str, ...]) -> pd.DataFrame:
    """Confusion matrix, rows = label, columns = prediction.

    Parameters
    ----------
    label, predicted : array-like of str, shape (n,)
    classes : tuple of str
        All classes, in order.

    Returns
    -------
    DataFrame
        Counts, int64, shape (classes, classes).

    Raises
    ------
    InputError
        If the lengths differ, nothing is given, or a value is not among `classes`.
    """
    label, predicted = class_index(label, classes), class_index(predicted, classes)
    if len(label) != len(predicted) or len(label) == 0:
        raise InputError(
            f"{len(label)} labels and {len(predicted)} predictions: a confusion matrix needs "
            "equally many of both, and at least one."
        )
    k = len(classes)
    counts = np.bincount(label * k + predicted, minlength=k * k).reshape(k, k)
    return pd.DataFrame(
        counts,
        index=pd.Index(classes, name="label"),
        columns=pd.Index(classes, name="predicted"),
    )


def class_index(values, classes: tuple[str, ...]) -> np.ndarray:
    """Position of each value in `classes`, int64, shape (n,); InputError for an unknown one."""
    index = pd.Index(classes).get_indexer(pd.Index(values))
    if (index < 0).any():
        unknown = sorted(set(np.asarray(values)[index < 0]), key=str)
        raise InputError(f"classes {unknown} are not among {list(classes)}: check the class merge.")
    return index.astype(np.int64)


def decide(probabilities: np.ndarray, offsets: Sequence[float] | None = None) -> np.ndarray:
    """Class number of each row: the largest log p after the classes' offsets are subtracted.

    Examples
    --------
    >>> decide(np.array([[0.7, 0.3]]), np.log([0.9, 0.1])).tolist()
    [1]
    """
    if offsets is None:
        return probabilities.argmax(axis=-1)
    return (np.log(np.maximum(probabilities, 1e-12)) - np.asarray(offsets)).argmax(axis=-1)


def normalise(matrix: pd.DataFrame) -> pd.DataFrame:
    """Confusion matrix as fractions of each label's galaxies; NaN in the row of an empty label."""
    return matrix.div(matrix.sum(axis=1).replace(0, np.nan), axis=0)


def _cells(matrices: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 per class of confusion matrices, shape (..., k, k) -> (..., k).

    Precision is NaN where nothing is predicted, recall where a label is empty, F1 where both.
    """
    tp = np.diagonal(matrices, axis1=-2, axis2=-1).astype(float)
    support, predicted = matrices.sum(axis=-1), matrices.sum(axis=-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision": tp / predicted,
            "recall": tp / support,
            "f1": 2 * tp / (support + predicted),
        }


def matrix_scores(matrices: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, balanced accuracy, macro-F1 of confusion matrices, shape (..., k, k) -> (...).

    The means are over the classes that have galaxies, whatever is predicted: they are the same for
    all methods on the same galaxies. (scikit-learn also counts F1 = 0 for a class without galaxies,
    as soon as a method predicts it once.)
    """
    tp = np.diagonal(matrices, axis1=-2, axis2=-1)
    cells = _cells(matrices)
    cells["f1"] = np.where(matrices.sum(axis=-1) > 0, cells["f1"], np.nan)
    return {
        "accuracy": tp.sum(axis=-1) / matrices.sum(axis=(-2, -1)),
        "balanced_accuracy": np.nanmean(cells["recall"], axis=-1),
        "macro_f1": np.nanmean(cells["f1"], axis=-1),
    }


def count_matrices(label: np.ndarray, predicted: np.ndarray, k: int) -> np.ndarray:
    """Confusion matrices of many predictions of the same galaxies: (r, n) -> (r, k, k)."""
    flat = np.arange(len(predicted))[:, None] * k * k + label * k + predicted
    return np.bincount(flat.ravel(), minlength=len(predicted) * k * k).reshape(-1, k, k)


def class_report(matrix: pd.DataFrame) -> pd.DataFrame:
    """Precision, recall, F1 and support per class (Sec. 4.1, Table 3).

    Parameters
    ----------
    matrix : DataFrame
        Counts from `confusion`.

    Returns
    -------
    DataFrame
        Indexed by class: ``precision``, ``recall``, ``f1`` (float; NaN where undefined),
        ``support``, ``predicted``, ``tp`` (int).
    """
    counts = matrix.to_numpy()
    return pd.DataFrame(
        {
            **_cells(counts),
            "support": counts.sum(axis=1),
            "predicted": counts.sum(axis=0),
            "tp": np.diag(counts),
        },
        index=matrix.index,
    )


def scores(matrix: pd.DataFrame) -> dict[str, float]:
    """Accuracy, balanced accuracy and macro-F1 of a confusion matrix."""
    return {name: float(value) for name, value in matrix_scores(matrix.to_numpy()).items()}


def at_frequencies(matrix: pd.DataFrame, counts: dict[str, float]) -> pd.DataFrame:
    """Confusion matrix that the same recalls give at other class frequencies.

    A precision measured on a down-sampled set does not hold for the sky, where m = 2 outnumbers
    the rest; this scales each row to the number of galaxies that the class really has.

    Parameters
    ----------
    matrix : DataFrame
        Counts from `confusion`. A label without galaxies has no recall and is left out.
    counts : dict
        Galaxies per class in the population.

    Returns
    -------
    DataFrame
        Expected counts (float).
    """
    counts = pd.Series(counts, dtype=float).reindex(matrix.index)
    if counts.isna().any():
        raise InputError(
            f"no number of galaxies for the classes {list(counts.index[counts.isna()])}."
        )
    return normalise(matrix).mul(counts, axis=0).fillna(0)


def wilson(successes, n, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of a proportion (Wilson 1927).

    Parameters
    ----------
    successes, n : array-like of int
        Successes among `n` trials; NaN bounds where ``n`` is 0.
    level : float
        Coverage, e.g. 0.95.

    Returns
    -------
    low, high : ndarray
    """
    successes, n = np.asarray(successes, float), np.asarray(n, float)
    if ((successes < 0) | (successes > n)).any():
        raise InputError(f"{successes} successes among {n} trials: wanted 0 <= successes <= n.")
    z = scipy.stats.norm.isf((1 - level) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = successes / n
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # At 0 and at n successes rounding must not leave the proportion outside.
    return np.clip(centre - half, 0, p), np.clip(centre + half, p, 1)


def cell_intervals(report: pd.DataFrame) -> pd.DataFrame:
    """Intervals of precision, recall and F1 per class.

    Precision and recall are proportions: Wilson's interval. F1 = 2 J / (1 + J) with the
    proportion J = TP / (TP + FP + FN), so that Wilson's interval of J carries over; unlike the
    bootstrap it does not collapse when a class of ten has no error.

    Parameters
    ----------
    report : DataFrame
        ``tp``, ``support`` and ``predicted`` per class, from `class_report` or
        `lib.paper.deduce_table_3`.

    Returns
    -------
    DataFrame
        Index ``(label, metric)``; columns ``value``, ``low``, ``high``; NaN where undefined.
    """
    tp, support, predicted = (report[c] for c in ("tp", "support", "predicted"))
    trials = {"precision": predicted, "recall": support, "f1": support + predicted - tp}
    tables = []
    for metric, n in trials.items():
        low, high = wilson(tp, n)
        table = pd.DataFrame({"value": tp / n.where(n > 0), "low": low, "high": high})
        tables.append(2 * table / (1 + table) if metric == "f1" else table)
    order = pd.MultiIndex.from_product([report.index, CELLS], names=["label", "metric"])
    return pd.concat(tables, keys=CELLS, names=["metric", "label"]).swaplevel().reindex(order)


def draw_multinomial(rng: np.random.Generator, counts: np.ndarray, n: int) -> np.ndarray:
    """`n` multinomial draws with the total and the shares of `counts`; zeros stay zeros."""
    total = counts.sum()
    if total == 0:
        return np.zeros((n, len(counts)), dtype=np.int64)
    return rng.multinomial(total, counts / total, size=n)


def score_intervals(matrix: pd.DataFrame) -> pd.DataFrame:
    """Intervals of accuracy, balanced accuracy and macro-F1 that hold for small classes.

    Accuracy is a proportion: Wilson's interval. The other two are means over classes, whose
    intervals follow from those of `cell_intervals` (Zou & Donner 2008): the distances of the
    classes' bounds add up in squares. With the class sizes of the paper's validation set this
    covers the truth in 93-96 % of simulated sets at a nominal 95 %.

    Returns
    -------
    DataFrame
        Indexed by `SCORES`; columns ``value``, ``low``, ``high``.
    """
    return overall_intervals(class_report(matrix))


def overall_intervals(report: pd.DataFrame) -> pd.DataFrame:
    """`score_intervals` from ``tp``, ``support`` and ``predicted`` per class."""
    cells = cell_intervals(report)
    right, n = report["tp"].sum(), report["support"].sum()
    rows = {"accuracy": (right / n, *map(float, wilson(right, n)))}
    for metric, cell in (("balanced_accuracy", "recall"), ("macro_f1", "f1")):
        table = cells.xs(cell, level="metric")[report["support"] > 0]
        mean = table["value"].mean()
        below, above = (
            np.sqrt(((table["value"] - table[bound]) ** 2).sum()) / len(table)
            for bound in ("low", "high")
        )
        rows[metric] = (mean, max(mean - below, 0.0), min(mean + above, 1.0))
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])
    return table.rename_axis("metric")
