"""What features know of the number of arms: linear classifiers, cross-validated.

A linear probe has nothing of its own to learn with, so its score tells how much of what is asked
lies in the features already. Protocol `sound`: every choice is made inside the training folds, and
each galaxy is predicted by classifiers that never saw it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lib import evaluation
from lib.images import ImageCache, network_input
from lib.models import Network

COMPONENTS = 128
"""Principal components kept: more than a thousand features of as many galaxies would be fitted."""

REGULARISATIONS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""Inverse strengths of the penalty to choose from."""

ORIENTATIONS = tuple((turns, mirrored) for turns in range(4) for mirrored in (False, True))
"""Quarter turns and mirror images, which change a galaxy's image but not its arms."""


def network_features(network: Network, cache: ImageCache, rows: np.ndarray, seed: int = 0):
    """Pooled features of an untrained network's backbone, averaged over all orientations.

    Parameters
    ----------
    network : Network
        Its `weights` are what is probed.
    cache : ImageCache
        Opened with the network's crop and colour.
    rows : ndarray of int, (n,)
        Rows of the cache.
    seed : int
        Of random weights.

    Returns
    -------
    features : ndarray of float32, (n, width)
    receipt : dict
        Where the weights came from, see `lib.models.build`.
    """
    from lib import models

    model, receipt = models.build(network, 2, seed)
    body = models.body_of(model)
    images = network_input(cache.arrays[rows], cache.colour, network.input_scale)
    total = 0.0
    for turns, mirrored in ORIENTATIONS:
        seen = np.rot90(images, turns, axes=(1, 2))
        total = total + body.predict(seen[:, :, ::-1] if mirrored else seen, verbose=0)
    return np.asarray(total / len(ORIENTATIONS), np.float32), receipt


def cross_validate(values: np.ndarray, label, *, folds: int = 5, repeats: int = 1, seed: int = 0):
    """Predict every galaxy by linear classifiers trained on the other folds.

    Classes weigh alike. The strength of the penalty is chosen by macro-F1 in three folds inside the
    training folds.

    Parameters
    ----------
    values : ndarray, (n, width)
        Features.
    label : array-like of str, (n,)
    folds, repeats, seed : int
        See `lib.evaluation.repeated_folds`.

    Returns
    -------
    DataFrame
        `repeat`, `fold`, `galaxy` (position in `label`), `label`, `predicted`.
    """
    label = np.asarray(label)
    parts = []
    for k, (train, test) in enumerate(evaluation.repeated_folds(label, folds, repeats, seed)):
        model = GridSearchCV(
            make_pipeline(
                StandardScaler(),
                PCA(min(COMPONENTS, values.shape[1], len(train) // 2), random_state=seed),
                LogisticRegression(class_weight="balanced", max_iter=2000),
            ),
            {"logisticregression__C": REGULARISATIONS},
            scoring="f1_macro",
            cv=StratifiedKFold(3, shuffle=True, random_state=seed),
        ).fit(values[train], label[train])
        part = {"repeat": k // folds, "fold": k % folds, "galaxy": test, "label": label[test]}
        parts.append(pd.DataFrame({**part, "predicted": model.predict(values[test])}))
    return pd.concat(parts, ignore_index=True).sort_values(["repeat", "galaxy"], ignore_index=True)


def most_frequent(label, *, folds: int = 5, repeats: int = 1, seed: int = 0) -> pd.DataFrame:
    """The table of `cross_validate` for a classifier that names the most frequent class."""
    label = np.asarray(label)
    parts = []
    for k, (train, test) in enumerate(evaluation.repeated_folds(label, folds, repeats, seed)):
        names, counts = np.unique(label[train], return_counts=True)
        part = {"repeat": k // folds, "fold": k % folds, "galaxy": test, "label": label[test]}
        parts.append(pd.DataFrame({**part, "predicted": names[counts.argmax()]}))
    return pd.concat(parts, ignore_index=True).sort_values(["repeat", "galaxy"], ignore_index=True)


def score_table(predictions: Mapping[str, pd.DataFrame], classes: tuple[str, ...]) -> pd.DataFrame:
    """Scores of each method on the same galaxies and folds, with 95 % intervals.

    Several repeats are averaged; the intervals are those of one repeat, for they cannot shrink with
    the number of times the same galaxies are predicted.

    Parameters
    ----------
    predictions : mapping of str to DataFrame
        By method, see `cross_validate`.
    classes : tuple of str

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
            matrix = evaluation.confusion(part["label"], part["predicted"], classes)
            cells = evaluation.cell_intervals(evaluation.class_report(matrix))
            f1 = cells.xs("f1", level="metric").rename(lambda c: f"f1 of m = {c}")
            tables.append(pd.concat([evaluation.score_intervals(matrix), f1]))
        rows[method] = sum(t[["value", "low", "high"]] for t in tables) / len(tables)
    return pd.concat(rows, names=["method", "score"])


def gains(
    predictions: Mapping[str, pd.DataFrame], over: str, classes: tuple[str, ...]
) -> pd.DataFrame:
    """How much better each method is than one of them, galaxy by galaxy.

    Parameters
    ----------
    predictions : mapping of str to DataFrame
        By method, see `cross_validate`, all with the same galaxies and folds.
    over : str
        The method to compare with.
    classes : tuple of str

    Returns
    -------
    DataFrame
        Indexed by (method, metric): `difference`, `low`, `high` (paired bootstrap, first repeat).
    """
    first = {name: table[table["repeat"] == 0] for name, table in predictions.items()}
    tables = {
        name: evaluation.paired_bootstrap(
            table["label"], first[over]["predicted"], table["predicted"], classes
        )[["difference", "low", "high"]]
        for name, table in first.items()
        if name != over
    }
    return pd.concat(tables, names=["method", "metric"])
