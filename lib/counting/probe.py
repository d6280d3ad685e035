"""What features know of the number of arms: linear classifiers, cross-validated.

A linear probe has nothing of its own to learn with, so its score tells how much of what is asked
lies in the features already. Protocol `sound`: every choice is made inside the training folds, and
each galaxy is predicted by classifiers that never saw it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from lib import evaluation, images, paths
from lib.counting import classical
from lib.counting.controls import classifier
from lib.images import ImageCache, network_input
from lib.networks import models
from lib.networks.models import Network

ORIENTATIONS = 8
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
        Where the weights came from, see `lib.networks.models.build`.
    """
    model, receipt = models.build(network, 2, seed)
    body = models.body_of(model)
    pixels = network_input(cache.arrays[rows], cache.colour)
    total = sum(
        body.predict(images.dihedral(pixels, view), verbose=0) for view in range(ORIENTATIONS)
    )
    return np.asarray(total / ORIENTATIONS, np.float32), receipt


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

    def judge(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
        model = classifier(values[train], seed).fit(values[train], label[train])
        predicted = model.predict(values[test])
        return {"label": label[test], "predicted": predicted}

    return by_fold(judge, evaluation.repeated_folds(label, folds, repeats, seed), folds)


def compare(
    run_dir: str,
    networks: Mapping[str, Network],
    *,
    binning: int,
    join: str,
    leave_out: Sequence[int] = (),
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Predict the galaxies of a run's sample from every kind of features.

    Parameters
    ----------
    run_dir : str
        Run whose steps 01 and 02 are done; its caches hold 96 px or more.
    networks : mapping of str to Network
        Whose features are probed, by name.
    binning : int
        Pixels of a GZ2 cut-out per pixel of the cache, along each side.
    join : str
        The network whose features are also joined with the classical ones.
    leave_out : sequence of int
        Identifiers of galaxies of the sample that are not predicted.
    seed : int
        Of the folds and of random weights.

    Returns
    -------
    dict of str to DataFrame
        By name of the method, see `cross_validate`: a most-frequent dummy, ``classical``
        (`lib.counting.classical`), the networks, and the two joined.
    """
    folder = paths.step_folder(run_dir, "02_preprocessing")
    cache = images.open_cache(folder, 96)
    sample = _sample(run_dir, cache, leave_out)
    rows, label = cache.rows(sample["galaxy_id"]), sample["label"].to_numpy()
    values = {"classical": classical.features(cache.arrays[rows], r90=50 / binning)}
    for name, network in networks.items():
        cache = images.open_cache(folder, network.crop, network.colour)
        values[name], _ = network_features(network, cache, rows, seed)
    values[f"classical and {join}"] = np.hstack([values["classical"], values[join]])
    found = {"most frequent": most_frequent(label, seed=seed)}
    for name, numbers in values.items():
        found[name] = cross_validate(numbers, label, seed=seed)
        print(f"{run_dir}: {name}", flush=True)
    return found


def _sample(run_dir: str, cache: ImageCache, leave_out: Sequence[int]) -> pd.DataFrame:
    """A run's sample, as far as its galaxies have images and are not to be left out."""
    sample = pd.read_parquet(paths.step_folder(run_dir, "01_sample_selection") / "sample.parquet")
    return sample[cache.has(sample["galaxy_id"]) & ~sample["galaxy_id"].isin(leave_out)]


def one_thread():
    """Let linear algebra run on one thread, as small matrices do best.

    Where other jobs share the processors, threads that wait for each other take ten times as long.
    """
    return threadpool_limits(1)


def most_frequent(label, *, folds: int = 5, repeats: int = 1, seed: int = 0) -> pd.DataFrame:
    """The table of `cross_validate` for a classifier that names the most frequent class."""
    label = np.asarray(label)

    def judge(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
        names, counts = np.unique(label[train], return_counts=True)
        return {"label": label[test], "predicted": np.full(len(test), names[counts.argmax()])}

    return by_fold(judge, evaluation.repeated_folds(label, folds, repeats, seed), folds)


def by_fold(judge: Callable, parts: Sequence, folds: int) -> pd.DataFrame:
    """What is said of each fold in turn.

    Parameters
    ----------
    judge : callable
        Positions to train on and to test -> columns of the tested galaxies, dict or DataFrame.
    parts : sequence of (ndarray of int, ndarray of int)
        Those positions, see `lib.evaluation.repeated_folds`.
    folds : int
        Of a repeat.

    Returns
    -------
    DataFrame
        `repeat`, `fold`, `galaxy` (position), and what `judge` gives; galaxies in order.
    """
    tables = []
    for k, (train, test) in enumerate(parts):
        with one_thread():
            found = judge(train, test)
        tables.append(
            pd.DataFrame({"repeat": k // folds, "fold": k % folds, "galaxy": test, **found})
        )
    return pd.concat(tables, ignore_index=True).sort_values(["repeat", "galaxy"], ignore_index=True)


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
