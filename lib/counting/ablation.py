"""What a fold says of its galaxies, and tables that set methods beside each other.

Protocol `sound`: decision, temperature and prediction sets follow from the training galaxies, as
classifiers judge them that had not seen them (``inside``); the labels of the tested galaxies are
only written down.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lib import evaluation
from lib.counting import vote_head
from lib.evaluation import conformal
from lib.schema import probability_columns

FEWEST = 9
"""Galaxies of a class from which a threshold for 90 % follows; with fewer it is in every set."""


def judge(
    inside: np.ndarray, tested: np.ndarray, frequencies: np.ndarray,
    label_inside: np.ndarray, label_tested: np.ndarray, classes: tuple[str, ...],
) -> pd.DataFrame:  # fmt: skip
    """Decide on the galaxies of a fold by both rules, calibrate, and make prediction sets.

    Parameters
    ----------
    inside, tested : ndarray, (m, classes) and (n, classes)
        Probabilities of the training galaxies, by classifiers that had not seen them, and of the
        tested ones.
    frequencies : ndarray, (classes,)
        Of the classes in training, see `lib.counting.vote_head.fit_decision`.
    label_inside, label_tested : ndarray of int, (m,) and (n,)
        Class numbers.
    classes : tuple of str

    Returns
    -------
    DataFrame
        `label`; `largest` (arg-max) and `predicted` (rare-class decision); `in_set` and `set_size`
        of 90 % conformal prediction sets, `class_in_set` and `class_set_size` of those with a
        threshold for each class (Vovk 2012), which holds the level in each; per class
        the probability (``p_...``) and that of the label after temperature scaling (``q_...``).
    """
    temperature = evaluation.fit_temperature(inside, label_inside)
    scaled = evaluation.apply_temperature(inside, temperature)
    q = evaluation.apply_temperature(tested, temperature)
    own = [label_inside == c for c in range(len(classes))]
    each = [
        conformal.threshold(scaled[at], label_inside[at]) if at.sum() >= FEWEST else 0.0
        for at in own
    ]
    kinds = {"": conformal.threshold(scaled, label_inside), "class_": np.array(each)}
    offsets = vote_head.fit_decision(inside, label_inside, frequencies)
    names = np.array(classes)
    table = pd.DataFrame({"label": names[label_tested]})
    table["largest"] = names[evaluation.decide(tested)]
    table["predicted"] = names[evaluation.decide(tested, offsets)]
    for kind, least in kinds.items():
        chosen = conformal.sets(q, least)
        table[f"{kind}in_set"] = chosen[np.arange(len(chosen)), label_tested]
        table[f"{kind}set_size"] = chosen.sum(axis=1)
    table[probability_columns(classes)] = tested
    table[_scaled_columns(classes)] = q
    return table


def _scaled_columns(classes: tuple[str, ...]) -> list[str]:
    """E.g. ``q_5plus``."""
    return [f"q{name[1:]}" for name in probability_columns(classes)]


def quality(table: pd.DataFrame, fractions: np.ndarray, classes: tuple[str, ...]) -> dict:
    """How good the probabilities of `judge` are.

    Parameters
    ----------
    table : DataFrame
        With `galaxy`, positions in `fractions`.
    fractions : ndarray, (n, classes)
        Of the votes.
    classes : tuple of str

    Returns
    -------
    dict of str to float
        `rmse` of the vote fractions (the measure of the Galaxy Challenge), `cross_entropy` against
        them and `log_loss` of the label after temperature scaling (nats), `ece` (expected
        calibration error of the rare-class decision), `coverage` and `set_size` of the sets.
    """
    truth = fractions[table["galaxy"]]
    p = table[probability_columns(classes)].to_numpy()
    q = table[_scaled_columns(classes)].to_numpy()
    label, predicted = (evaluation.class_index(table[c], classes) for c in ("label", "predicted"))
    logs = np.log(np.maximum(q[np.arange(len(q)), label], 1e-12))
    return {
        "rmse": float(np.sqrt(((p - truth) ** 2).mean())),
        "cross_entropy": float(-(truth * np.log(np.maximum(p, 1e-12))).sum(axis=1).mean()),
        "log_loss": float(-logs.mean()),
        "ece": evaluation.calibration(q, label, predicted=predicted)["ece"],
        "coverage": float(table["in_set"].mean()),
        "set_size": float(table["set_size"].mean()),
    }


def coverage(table: pd.DataFrame, classes: tuple[str, ...]) -> pd.DataFrame:
    """How often the sets of `judge` hold the label, see `lib.evaluation.conformal.by_class`.

    Returns
    -------
    DataFrame
        Indexed by (sets, label), sets with "one threshold" and with "one for each class".
    """
    kinds = {"one threshold": "", "one for each class": "class_"}
    tables = {
        name: conformal.by_class(
            table[f"{kind}in_set"], table["label"], table[f"{kind}set_size"], classes
        )
        for name, kind in kinds.items()
    }
    return pd.concat(tables, names=["sets", "label"])


def score_table(
    predictions: Mapping[str, pd.DataFrame], classes: tuple[str, ...], by: str = "predicted"
) -> pd.DataFrame:
    """Scores of each method on the same galaxies and folds, with 95 % intervals.

    Several repeats are averaged; the intervals are those of one repeat, for they cannot shrink with
    the number of times the same galaxies are predicted.

    Parameters
    ----------
    predictions : mapping of str to DataFrame
        By method: `repeat`, `label`, and the column `by`.
    classes : tuple of str
    by : str
        Column of the class that is scored.

    Returns
    -------
    DataFrame
        Indexed by (method, score): `value`, `low`, `high`; scores are those of
        `lib.evaluation.SCORES` and ``f1 of m = ...`` for each class.
    """
    rows = {}
    for method, table in predictions.items():
        tables = []
        for _, part in table.groupby("repeat"):
            matrix = evaluation.confusion(part["label"], part[by], classes)
            cells = evaluation.cell_intervals(evaluation.class_report(matrix))
            f1 = cells.xs("f1", level="metric").rename(lambda c: f"f1 of m = {c}")
            tables.append(pd.concat([evaluation.score_intervals(matrix), f1]))
        rows[method] = sum(t[["value", "low", "high"]] for t in tables) / len(tables)
    return pd.concat(rows, names=["method", "score"])


def gains(
    predictions: Mapping[str, pd.DataFrame], over: str, classes: tuple[str, ...]
) -> pd.DataFrame:
    """How much better each method is than the method `over`, galaxy by galaxy.

    Parameters
    ----------
    predictions, classes
        As of `score_table`; all with the same galaxies and folds.
    over : str

    Returns
    -------
    DataFrame
        Indexed by (method, metric): `difference`, `low`, `high` (paired bootstrap, first repeat).
    """
    first = {
        name: table[table["repeat"] == 0].sort_values("galaxy")
        for name, table in predictions.items()
    }
    tables = {
        name: evaluation.paired_bootstrap(
            table["label"], first[over]["predicted"], table["predicted"], classes
        )[["difference", "low", "high"]]
        for name, table in first.items()
        if name != over
    }
    return pd.concat(tables, names=["method", "metric"])
