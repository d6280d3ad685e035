"""How good a classifier is, how sure that is, and how two classifiers differ.

Everything rests on the confusion matrix: precision, recall and F1 follow from it, and a bootstrap
of galaxies within their label is a multinomial draw of each of its rows, so that thousands of
resamples cost milliseconds. No TensorFlow here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import optimize, special, stats
from sklearn.model_selection import KFold, RepeatedStratifiedKFold

from lib import paper, schema
from lib.schema import InputError

SCORES = ("accuracy", "balanced_accuracy", "macro_f1")
CELLS = ("precision", "recall", "f1")
LEVEL = 0.95


# ---------------------------------------------------------------------------------------------
# A training run's files


@dataclass(frozen=True)
class Run:
    """What a training run left behind, without the model.

    Attributes
    ----------
    name : str
        Name of its folder.
    settings : dict
        ``model.json``: role, classes, merge, protocol, ...
    predictions : DataFrame
        One row per galaxy: ``galaxy_id``, ``label``, ``split``, ``predicted`` and one probability
        column per class.
    history : DataFrame
        One row per epoch.
    epoch_probabilities : ndarray or None
        float, shape (epochs, validation galaxies, classes): probabilities after every epoch, rows
        in the order of the validation galaxies in `predictions`; None where the run kept none.
    """

    name: str
    settings: dict
    predictions: pd.DataFrame
    history: pd.DataFrame
    epoch_probabilities: np.ndarray | None

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes in the order of the model's outputs."""
        return tuple(self.settings["classes"])

    @property
    def protocol(self) -> str:
        """``published`` or ``sound``."""
        return self.settings["protocol"]

    @property
    def reported_split(self) -> str:
        """Split that the metrics are reported on: ``test`` where there is one, else validation."""
        return "test" if (self.predictions["split"] == "test").any() else "validation"

    def part(self, split: str | None = None) -> pd.DataFrame:
        """Predictions of one split (default: the reported one), in the file's order."""
        return self.predictions[self.predictions["split"] == (split or self.reported_split)]

    def probabilities(self, split: str | None = None) -> np.ndarray:
        """Class probabilities of one split, float64, shape (galaxies, classes)."""
        columns = schema.probability_columns(self.classes)
        return self.part(split)[columns].to_numpy(np.float64)

    def confusion(self, split: str | None = None) -> pd.DataFrame:
        """Confusion matrix of one split (default: the reported one)."""
        part = self.part(split)
        return confusion(part["label"], part["predicted"], self.classes)


def read_run(folder: str | Path) -> Run:
    """Read the files of a training run and check that they fit together.

    Parameters
    ----------
    folder : path
        Holds ``model.json``, ``predictions.parquet`` and ``history.csv``, and
        ``validation_probabilities.npy`` where the run kept its probabilities epoch by epoch.

    Raises
    ------
    InputError
        Names the file, and the column or value at fault.
    """
    folder = Path(folder)
    for name in ("model.json", "predictions.parquet", "history.csv"):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing: run the training notebook again.")
    settings = json.loads((folder / "model.json").read_text())
    missing = [key for key in ("role", "classes", "protocol") if key not in settings]
    if missing:
        raise InputError(f"{folder / 'model.json'} has no {', '.join(missing)}: train again.")
    predictions = pd.read_parquet(folder / "predictions.parquet")
    check_predictions(predictions, tuple(settings["classes"]), str(folder / "predictions.parquet"))
    history = pd.read_csv(folder / "history.csv")
    run = Run(folder.name, settings, predictions, history, None)
    kept = folder / "validation_probabilities.npy"
    return replace(run, epoch_probabilities=_read_epochs(kept, run)) if kept.is_file() else run


def _read_epochs(path: Path, run: Run) -> np.ndarray:
    """Probabilities of every epoch, checked against the run's history and predictions."""
    probabilities = np.load(path).astype(np.float64)
    expected = (len(run.history), len(run.part("validation")), len(run.classes))
    if probabilities.shape != expected:
        raise InputError(
            f"{path} has shape {probabilities.shape}, but history and predictions ask for "
            f"{expected} (epochs, validation galaxies, classes): train again."
        )
    predicted = class_index(run.part("validation")["predicted"], run.classes)
    decided = decide(probabilities, run.settings.get("decision"))
    agreement = (decided == predicted).mean(axis=1).max()
    # The best epoch made the predictions; batches of other sizes may round a near tie otherwise.
    if agreement < 0.98:
        raise InputError(
            f"{path}: no epoch agrees with predictions.parquet on more than {agreement:.0%} of the "
            "validation galaxies, so that they are not of one run: train again."
        )
    return probabilities


def check_predictions(table: pd.DataFrame, classes: tuple[str, ...], source: str) -> None:
    """Refuse a prediction table that does not keep its contract.

    Raises
    ------
    InputError
        For missing columns, duplicate galaxies, unknown classes, or probabilities that are not
        finite or do not add up to one (to 1 %).
    """
    columns = schema.probability_columns(classes)
    missing = [
        c for c in ("galaxy_id", "label", "split", "predicted", *columns) if c not in table.columns
    ]
    if missing:
        raise InputError(f"{source}: column {', '.join(missing)} is missing. Train again.")
    if table["galaxy_id"].duplicated().any():
        raise InputError(f"{source}: column galaxy_id has duplicates. Each galaxy is wanted once.")
    for column in ("label", "predicted"):
        unknown = sorted(set(table[column].unique()) - set(classes), key=str)
        if unknown:
            raise InputError(
                f"{source}: column {column} holds {unknown}, not among the run's classes "
                f"{list(classes)}. Labels and model must use the same class merge."
            )
    sums = table[columns].to_numpy(float).sum(axis=1)
    bad = ~(np.abs(sums - 1) < 0.01)
    if bad.any():
        raise InputError(
            f"{source}: the probabilities of {bad.sum()} galaxies do not add up to 1 "
            f"(first: galaxy {table['galaxy_id'].to_numpy()[bad][0]}, sum {sums[bad][0]}). "
            "The model diverged, or the columns are not its softmax outputs."
        )


# ---------------------------------------------------------------------------------------------
# Confusion matrix and scores


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

    The means leave out classes without galaxies (and, for F1, without predictions), as
    scikit-learn does.
    """
    tp = np.diagonal(matrices, axis1=-2, axis2=-1)
    cells = _cells(matrices)
    return {
        "accuracy": tp.sum(axis=-1) / matrices.sum(axis=(-2, -1)),
        "balanced_accuracy": np.nanmean(cells["recall"], axis=-1),
        "macro_f1": np.nanmean(cells["f1"], axis=-1),
    }


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


# ---------------------------------------------------------------------------------------------
# Intervals


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
    z = stats.norm.isf((1 - level) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = successes / n
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # At 0 and at n successes rounding must not leave the proportion outside.
    return np.clip(centre - half, 0, p), np.clip(centre + half, p, 1)


def cell_intervals(report: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
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
        low, high = wilson(tp, n, level)
        table = pd.DataFrame({"value": tp / n.where(n > 0), "low": low, "high": high})
        tables.append(2 * table / (1 + table) if metric == "f1" else table)
    order = pd.MultiIndex.from_product([report.index, CELLS], names=["label", "metric"])
    return pd.concat(tables, keys=CELLS, names=["metric", "label"]).swaplevel().reindex(order)


def resample(matrix: pd.DataFrame, n: int, seed: int) -> np.ndarray:
    """Confusion matrices of `n` bootstrap samples, drawn within each label.

    Galaxies of one label are exchangeable, so that resampling them with replacement is a
    multinomial draw of the matrix row.

    Returns
    -------
    ndarray
        int64, shape (n, classes, classes); row sums are those of `matrix`.
    """
    rng = np.random.default_rng(seed)
    rows = [_multinomial(rng, row, n) for row in matrix.to_numpy()]
    return np.stack(rows, axis=1)


def _multinomial(rng: np.random.Generator, counts: np.ndarray, n: int) -> np.ndarray:
    """`n` multinomial draws with the total and the shares of `counts`; zeros stay zeros."""
    total = counts.sum()
    if total == 0:
        return np.zeros((n, len(counts)), dtype=np.int64)
    return rng.multinomial(total, counts / total, size=n)


def bootstrap(matrix: pd.DataFrame, *, n: int = 5000, level: float = LEVEL, seed: int = 42):
    """Stratified percentile bootstrap of all metrics.

    Too narrow where classes are small: prefer `cell_intervals` and `score_intervals`.

    Parameters
    ----------
    matrix : DataFrame
        Counts from `confusion`.
    n : int
        Bootstrap samples.
    level : float
        Coverage.
    seed : int
        Seed of the resampling.

    Returns
    -------
    DataFrame
        Index ``(label, metric)``, label "all" for `SCORES`; columns ``value``, ``low``, ``high``.
    """
    samples, counts = resample(matrix, n, seed), matrix.to_numpy()
    tail = 100 * (1 - level) / 2
    rows = {}
    for metric, drawn in matrix_scores(samples).items():
        value = float(matrix_scores(counts)[metric])
        rows["all", metric] = (value, *np.nanpercentile(drawn, [tail, 100 - tail]))
    for metric, drawn in _cells(samples).items():
        values = _cells(counts)[metric]
        for k, label in enumerate(matrix.index):
            defined = drawn[:, k][~np.isnan(drawn[:, k])]
            bounds = np.percentile(defined, [tail, 100 - tail]) if len(defined) else (np.nan,) * 2
            rows[label, metric] = (values[k], *bounds)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])
    table.index = pd.MultiIndex.from_tuples(table.index, names=["label", "metric"])
    return table


def score_intervals(matrix: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """Intervals of accuracy, balanced accuracy and macro-F1 that hold for small classes.

    Accuracy is a proportion: Wilson's interval. The other two are means over classes, whose
    intervals follow from those of `cell_intervals` (Zou & Donner 2008): the distances of the
    classes' bounds add up in squares. With the class sizes of the paper's validation set this
    covers the truth in 93-96 % of simulated sets at a nominal 95 %, the percentile bootstrap only
    in 86-92 %, since a resampled class of nine galaxies cannot show what the nine did not.

    Returns
    -------
    DataFrame
        Indexed by `SCORES`; columns ``value``, ``low``, ``high``.
    """
    return _overall(class_report(matrix), level)


def _overall(report: pd.DataFrame, level: float) -> pd.DataFrame:
    """`score_intervals` from ``tp``, ``support`` and ``predicted`` per class."""
    cells = cell_intervals(report, level)
    right, n = report["tp"].sum(), report["support"].sum()
    rows = {"accuracy": (right / n, *map(float, wilson(right, n, level)))}
    for metric, cell in (("balanced_accuracy", "recall"), ("macro_f1", "f1")):
        table = cells.xs(cell, level="metric").dropna()
        mean = table["value"].mean()
        below, above = (
            np.sqrt(((table["value"] - table[bound]) ** 2).sum()) / len(table)
            for bound in ("low", "high")
        )
        rows[metric] = (mean, max(mean - below, 0.0), min(mean + above, 1.0))
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])
    return table.rename_axis("metric")


# ---------------------------------------------------------------------------------------------
# Two models on the same galaxies


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test: galaxies that only one model gets right, two-sided p-value."""

    only_a: int
    only_b: int
    p_value: float


def mcnemar(correct_a, correct_b) -> McNemar:
    """McNemar's exact test of two models on the same galaxies (McNemar 1947).

    Parameters
    ----------
    correct_a, correct_b : array-like of bool, shape (n,)
        Whether each model is right, galaxy by galaxy.
    """
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    if a.shape != b.shape:
        raise InputError(f"{a.size} and {b.size} galaxies: both models must see the same ones.")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return McNemar(only_a, only_b, float(_mcnemar_p(only_a, only_b)))


def _mcnemar_p(only_a, only_b):
    """Two-sided exact p-value: discordant galaxies fall to either model with probability 1/2."""
    only_a, only_b = np.asarray(only_a), np.asarray(only_b)
    return np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5))


def mcnemar_outcomes(correct_a, correct_b, n) -> pd.DataFrame:
    """All outcomes of McNemar's test that are possible when only the margins are known.

    Parameters
    ----------
    correct_a, correct_b, n : int or sequence of int
        Galaxies that each model gets right among `n`, in all or class by class; classes leave
        fewer outcomes, since being ahead in one class does not undo being behind in another.

    Returns
    -------
    DataFrame
        ``only_a``, ``only_b`` (galaxies that only one model gets right), ``p_value``.

    Raises
    ------
    InputError
        If the numbers cannot be counts of right galaxies among `n`.
    """
    a, b, n = (np.atleast_1d(np.asarray(x, int)) for x in (correct_a, correct_b, n))
    if (
        not a.shape == b.shape == n.shape
        or (np.minimum(a, b) < 0).any()
        or (np.maximum(a, b) > n).any()
    ):
        raise InputError(
            f"correct {a.tolist()} and {b.tolist()} of {n.tolist()}: wanted equally many numbers, "
            "none below 0 or above the galaxies of its class."
        )
    # In a class, galaxies right by a alone: at least a - b, at most what b gets wrong.
    fewest, most = np.maximum(0, a - b).sum(), np.minimum(a, n - b).sum()
    only_a = np.arange(fewest, most + 1)
    only_b = only_a + (b - a).sum()
    return pd.DataFrame({"only_a": only_a, "only_b": only_b, "p_value": _mcnemar_p(only_a, only_b)})


def paired_bootstrap(
    label,
    predicted_a,
    predicted_b,
    classes: tuple[str, ...],
    *,
    n: int = 5000,
    level: float = LEVEL,
    seed: int = 42,
) -> pd.DataFrame:
    """Bootstrap of the difference b - a of two models on the same galaxies, within each label.

    Parameters
    ----------
    label, predicted_a, predicted_b : array-like of str, shape (galaxies,)
    classes : tuple of str
    n : int
        Bootstrap samples.

    Returns
    -------
    DataFrame
        Indexed by `SCORES`; columns ``a``, ``b``, ``difference``, ``low``, ``high``, and
        ``share_not_better``: the share of samples in which b is not above a.
    """
    k = len(classes)
    label, a, b = (class_index(x, classes) for x in (label, predicted_a, predicted_b))
    if not len(label) == len(a) == len(b):
        raise InputError(f"{len(label)}, {len(a)} and {len(b)} galaxies: wanted the same ones.")
    cube = np.bincount((label * k + a) * k + b, minlength=k**3).reshape(k, k * k)
    rng = np.random.default_rng(seed)
    drawn = np.stack([_multinomial(rng, row, n) for row in cube], axis=1).reshape(n, k, k, k)
    cube = cube.reshape(k, k, k)
    tail = 100 * (1 - level) / 2
    rows = {}
    scores_a, scores_b = matrix_scores(drawn.sum(axis=3)), matrix_scores(drawn.sum(axis=2))
    for metric in SCORES:
        value_a, value_b = (matrix_scores(cube.sum(axis=axis))[metric] for axis in (2, 1))
        difference = scores_b[metric] - scores_a[metric]
        bounds = np.percentile(difference, [tail, 100 - tail])
        rows[metric] = (value_a, value_b, value_b - value_a, *bounds, (difference <= 0).mean())
    columns = ["a", "b", "difference", "low", "high", "share_not_better"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("metric")


def comparable_pairs(runs: list[Run]) -> list[tuple[Run, Run]]:
    """Pairs of runs with the same classes, which can be compared galaxy by galaxy."""
    return [(a, b) for a, b in combinations(runs, 2) if a.classes == b.classes]


def align(run_a: Run, run_b: Run) -> pd.DataFrame:
    """Predictions of two runs for the galaxies that both report on.

    Returns
    -------
    DataFrame
        ``galaxy_id``, ``label``, ``predicted_a``, ``predicted_b``.

    Raises
    ------
    InputError
        If the classes differ, no galaxy is common, or a galaxy has two labels.
    """
    if run_a.classes != run_b.classes:
        raise InputError(
            f"{run_a.name} has the classes {list(run_a.classes)}, {run_b.name} has "
            f"{list(run_b.classes)}: only runs with the same class merge can be paired."
        )
    columns = ["galaxy_id", "label", "predicted"]
    both = run_a.part()[columns].merge(
        run_b.part()[columns], on="galaxy_id", suffixes=("_a", "_b"), validate="one_to_one"
    )
    if both.empty:
        raise InputError(f"{run_a.name} and {run_b.name} report on no common galaxy: same seed?")
    differing = both["label_a"] != both["label_b"]
    if differing.any():
        raise InputError(
            f"{differing.sum()} galaxies have another label in {run_a.name} than in {run_b.name} "
            f"(first: {both['galaxy_id'][differing].iloc[0]}): train both on one selection."
        )
    both = both.rename(columns={"label_a": "label"})
    return both[["galaxy_id", "label", "predicted_a", "predicted_b"]]


def compare_pairs(runs: list[Run], *, seed: int = 42) -> tuple[pd.DataFrame, pd.DataFrame]:
    """McNemar's test and the paired bootstrap for all pairs of `comparable_pairs`.

    Returns
    -------
    tests : DataFrame
        One row per pair: ``a``, ``b``, ``galaxies``, ``only_a``, ``only_b``, ``p_value``.
    differences : DataFrame
        One row per pair and score: ``pair``, ``metric`` and the columns of `paired_bootstrap`.
    """
    tests, differences = [], []
    for run_a, run_b in comparable_pairs(runs):
        both = align(run_a, run_b)
        label, a, b = (both[c] for c in ("label", "predicted_a", "predicted_b"))
        test = mcnemar(a == label, b == label)
        tests.append((run_a.name, run_b.name, len(both), test.only_a, test.only_b, test.p_value))
        table = paired_bootstrap(label, a, b, run_a.classes, seed=seed).reset_index()
        table.insert(0, "pair", f"{run_a.name} v {run_b.name}")
        differences.append(table)
    columns = ["a", "b", "galaxies", "only_a", "only_b", "p_value"]
    return pd.DataFrame(tests, columns=columns), pd.concat(differences or [pd.DataFrame()])


# ---------------------------------------------------------------------------------------------
# Beside the paper


def paper_column(run: Run) -> str | None:
    """Column of the paper's Table 3 that a run repeats; None for what the paper does not have."""
    sampling = {"all": "all data"}.get(run.settings.get("sampling"), "down-sampled")
    column = f"{run.settings['role']} {sampling}"
    plain = run.settings.get("merge", "none") == "none" and balance(run) == "none"
    return column if plain and column in paper.TABLE_3_COLUMNS else None


def compare_with_paper(run: Run, level: float = LEVEL) -> pd.DataFrame:
    """A run's metrics cell by cell beside Table 3, with intervals of both.

    Returns
    -------
    DataFrame
        One row per class and metric, then per overall score (label "all"): ``run``, ``role``,
        ``merge``, ``protocol``, ``split``, ``label``, ``metric``, ``n`` (galaxies of the label),
        ``ours``, ``low``, ``high``, ``paper``, ``paper_low``, ``paper_high``, ``difference`` (ours
        minus paper) and ``inside`` (bool or NA: the paper's number lies in our interval). The
        paper's overall scores and intervals are those of the counts deduced from its table.
    """
    matrix = run.confusion()
    report = class_report(matrix)
    overall = score_intervals(matrix, level)
    overall.index = pd.MultiIndex.from_product([["all"], overall.index], names=["label", "metric"])
    table = pd.concat([cell_intervals(report, level), overall]).rename(columns={"value": "ours"})
    printed = _paper_cells(paper_column(run), level)
    table[printed.columns] = printed.reindex(table.index)
    table["difference"] = table["ours"] - table["paper"]
    inside = table["paper"].between(table["low"], table["high"]).astype("boolean")
    table["inside"] = inside.where(table[["paper", "low"]].notna().all(axis=1))
    table = table.reset_index()
    sizes = {**report["support"].to_dict(), "all": int(report["support"].sum())}
    table.insert(2, "n", table["label"].map(sizes))
    settings = {
        "run": run.name,
        "role": run.settings["role"],
        "merge": run.settings.get("merge", "none"),
        "protocol": run.protocol,
        "split": run.reported_split,
    }
    for position, (name, value) in enumerate(settings.items()):
        table.insert(position, name, value)
    return table


def _paper_cells(column: str | None, level: float) -> pd.DataFrame:
    """Printed cells of a column of Table 3 and its deduced overall scores; empty for None."""
    names = ["paper", "paper_low", "paper_high"]
    if column is None:
        nothing = pd.MultiIndex.from_arrays([[], []], names=["label", "metric"])
        return pd.DataFrame(columns=names, index=nothing, dtype=float)
    # Where several counts agree with the print, they differ by one galaxy of thousands.
    counts = paper.deduce_table_3(column).loc[0]
    cells = cell_intervals(counts, level).set_axis(names, axis=1)
    cells["paper"] = paper.TABLE_3[column].stack().reindex(cells.index)
    overall = _overall(counts, level).set_axis(names, axis=1)
    overall.index = pd.MultiIndex.from_product([["all"], overall.index], names=["label", "metric"])
    return pd.concat([cells, overall])


# ---------------------------------------------------------------------------------------------
# Calibration


def reliability(probabilities: np.ndarray, label: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """Reliability diagram of the predicted class.

    Parameters
    ----------
    probabilities : ndarray
        float, shape (n, classes).
    label : ndarray
        int, shape (n,): index of the true class.
    bins : int
        Equal bins of confidence, the highest probability.

    Returns
    -------
    DataFrame
        Occupied bins: ``confidence`` (mean), ``accuracy``, ``low``, ``high`` (Wilson), ``n``.
    """
    _check_probabilities(probabilities, label)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == label
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    table = (
        pd.DataFrame({"bin": index, "confidence": confidence, "right": right})
        .groupby("bin")
        .agg(confidence=("confidence", "mean"), right=("right", "sum"), n=("right", "size"))
    )
    table["accuracy"] = table["right"] / table["n"]
    table["low"], table["high"] = wilson(table["right"], table["n"])
    return table[["confidence", "accuracy", "low", "high", "n"]]


def calibration(probabilities: np.ndarray, label: np.ndarray, bins: int = 10) -> dict[str, float]:
    """Expected calibration error, Brier score and negative log-likelihood.

    ``ece``: mean ``|accuracy - confidence|`` over bins (Guo et al. 2017); ``brier``: mean squared
    distance to the one-hot label, summed over classes (0 to 2); ``nll``: in nats per galaxy.
    """
    bin_table = reliability(probabilities, label, bins)
    gap = (bin_table["accuracy"] - bin_table["confidence"]).abs()
    one_hot = np.eye(probabilities.shape[1])[label]
    return {
        "ece": float((gap * bin_table["n"]).sum() / len(label)),
        "brier": float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
        "nll": float(-_log(probabilities)[np.arange(len(label)), label].mean()),
    }


def _check_probabilities(probabilities: np.ndarray, label: np.ndarray) -> None:
    if probabilities.ndim != 2 or len(probabilities) != len(label) or len(label) == 0:
        raise InputError(
            f"probabilities of shape {probabilities.shape} for {len(label)} labels: wanted one "
            "row per galaxy and one column per class, and at least one galaxy."
        )
    if label.min() < 0 or label.max() >= probabilities.shape[1]:
        raise InputError(f"label indices reach {label.min()}..{label.max()}, beyond the classes.")


def _log(probabilities: np.ndarray) -> np.ndarray:
    """Logarithm that takes a probability of 0 (float32 underflow) as 1e-38."""
    return np.log(np.maximum(probabilities, 1e-38))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities with their logits divided by `temperature`; above 1 makes them less sure."""
    return special.softmax(_log(probabilities) / temperature, axis=1)


def fit_temperature(probabilities: np.ndarray, label: np.ndarray) -> float:
    """Temperature with the smallest negative log-likelihood (Guo et al. 2017).

    The logarithms of probabilities are logits up to a constant per galaxy, which the softmax
    does not see. Searched between 0.05 and 20.
    """
    _check_probabilities(probabilities, label)
    logits = _log(probabilities)
    rows = np.arange(len(label))

    def loss(log_temperature):
        return -special.log_softmax(logits / np.exp(log_temperature), axis=1)[rows, label].mean()

    bounds = (np.log(0.05), np.log(20))
    return float(np.exp(optimize.minimize_scalar(loss, bounds=bounds, method="bounded").x))


def cross_fitted_temperature(
    probabilities: np.ndarray, label: np.ndarray, *, folds: int = 5, seed: int = 42
) -> tuple[np.ndarray, list[float]]:
    """Temperature-scaled probabilities, each galaxy with a temperature fitted on other galaxies.

    Returns
    -------
    scaled : ndarray
        float, shape of `probabilities`.
    temperatures : list of float
        One per fold.
    """
    if len(label) < 2 * folds:
        raise InputError(f"{len(label)} galaxies are too few for {folds} folds of calibration.")
    scaled, temperatures = np.empty_like(probabilities), []
    for fit, hold in KFold(folds, shuffle=True, random_state=seed).split(probabilities):
        temperatures.append(fit_temperature(probabilities[fit], label[fit]))
        scaled[hold] = apply_temperature(probabilities[hold], temperatures[-1])
    return scaled, temperatures


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


def calibrate(run: Run, *, bins: int = 10, folds: int = 5, seed: int = 42):
    """Calibration of a run's reported galaxies before and after temperature scaling.

    Temperatures are cross-fitted: no galaxy is scaled by one that it helped to fit.

    Returns
    -------
    table : DataFrame
        Rows ``as trained`` and ``temperature-scaled``; columns ``ece``, ``brier``, ``nll`` and
        ``temperature`` (1 and the folds' mean).
    curves : dict of str to DataFrame
        Reliability tables under the same names.
    """
    probabilities = run.probabilities()
    label = class_index(run.part()["label"], run.classes)
    scaled, temperatures = cross_fitted_temperature(probabilities, label, folds=folds, seed=seed)
    rows, curves = {}, {}
    for name, values, temperature in (
        ("as trained", probabilities, 1.0),
        ("temperature-scaled", scaled, float(np.mean(temperatures))),
    ):
        rows[name] = {**calibration(values, label, bins), "temperature": temperature}
        curves[name] = reliability(values, label, bins)
    return pd.DataFrame.from_dict(rows, orient="index"), curves


# ---------------------------------------------------------------------------------------------
# The sound protocol, and how optimistic the published one is


def sound_split(assignment: pd.DataFrame, fraction: float = 0.5, seed: int = 42) -> pd.DataFrame:
    """Set a test part aside from the validation galaxies, class by class.

    Training data stay as published; epochs are chosen on what remains of the validation set, and
    the test part is looked at once.

    Parameters
    ----------
    assignment : DataFrame
        Columns ``galaxy_id``, ``label``, ``split`` (train, validation, rest).
    fraction : float
        Share of each class's validation galaxies that becomes ``test``, rounded down.
    seed : int
        Seed of the draw.

    Returns
    -------
    DataFrame
        Copy of `assignment` in which ``split`` also takes the value ``test``.

    Raises
    ------
    InputError
        If `fraction` is not between 0 and 1, or a class would have no test or no validation galaxy.
    """
    if not 0 < fraction < 1:
        raise InputError(f"test fraction {fraction}: wanted a number between 0 and 1.")
    result = assignment.copy()
    rng = np.random.default_rng(seed)
    validation = result[result["split"] == "validation"]
    for label, members in validation.groupby("label", sort=True):
        size = int(fraction * len(members))
        if size == 0:
            raise InputError(
                f"class {label} has {len(members)} validation galaxies, too few to set a share "
                f"of {fraction} aside for testing: use a class merge or cross-validation."
            )
        result.loc[rng.choice(members.index, size, replace=False), "split"] = "test"
    return result


def repeated_folds(label, folds: int = 5, repeats: int = 1, seed: int = 42):
    """Repeated stratified folds; the first ones stay the same when repeats are added.

    Returns
    -------
    list of (ndarray, ndarray)
        Training and test positions (int64), ``folds * repeats`` pairs.

    Raises
    ------
    InputError
        If a class has fewer galaxies than folds, since some folds would then not test it.
    """
    label = np.asarray(label)
    classes, sizes = np.unique(label, return_counts=True)
    if sizes.min() < folds:
        raise InputError(
            f"class {classes[sizes.argmin()]} has {sizes.min()} galaxies, fewer than {folds} "
            "folds: use fewer folds or a class merge."
        )
    splitter = RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=seed)
    return list(splitter.split(label, label))


def cross_validation_summary(values, test_share: float, level: float = LEVEL) -> dict[str, float]:
    """Mean of a score over (repeated) folds with an interval that knows that folds overlap.

    The variance is Nadeau & Bengio's (2003) corrected one: (1/J + n_test/n_train) s^2 for J
    folds, because training sets share galaxies and the naive s^2/J is too small.

    Parameters
    ----------
    values : array-like of float, shape (J,)
        Score of each fold.
    test_share : float
        n_test / n_train, where galaxies that only choose the epoch are not trained on: 1/4 for five
        folds without such galaxies.

    Returns
    -------
    dict
        ``mean``, ``sd`` (over folds), ``se`` (corrected), ``low``, ``high``, ``n``.
    """
    values = np.asarray(values, float)
    if len(values) < 2 or not np.isfinite(values).all():
        raise InputError(f"{values.tolist()}: wanted at least two folds, all with a finite score.")
    sd = values.std(ddof=1)
    se = np.sqrt((1 / len(values) + test_share) * sd**2)
    half = stats.t.isf((1 - level) / 2, len(values) - 1) * se
    mean = values.mean()
    return {
        "mean": float(mean),
        "sd": float(sd),
        "se": float(se),
        "low": float(mean - half),
        "high": float(mean + half),
        "n": len(values),
    }


def seed_spread(values, level: float = LEVEL) -> dict[str, float]:
    """Mean, standard deviation and coefficient of variation over seeds (Sec. 4.2.1).

    Returns
    -------
    dict
        ``mean``, ``sd`` (ddof = 1), ``cv`` = sd / mean (not per cent), ``low``, ``high``
        (Student interval of the mean), ``n``; NaN where one run does not tell.
    """
    values = np.asarray(values, float)
    n = len(values)
    sd = values.std(ddof=1) if n > 1 else np.nan
    half = stats.t.isf((1 - level) / 2, n - 1) * sd / np.sqrt(n) if n > 1 else np.nan
    mean = values.mean()
    return {
        "mean": float(mean),
        "sd": float(sd),
        "cv": float(sd / mean) if mean else np.nan,
        "low": float(mean - half),
        "high": float(mean + half),
        "n": n,
    }


def epoch_optimism(
    epoch_probabilities: np.ndarray,
    label: np.ndarray,
    *,
    repeats: int = 200,
    level: float = LEVEL,
    seed: int = 42,
) -> pd.DataFrame:
    """How much choosing the epoch on the reported galaxies flatters the report.

    The validation set is halved at random, class by class. Each half is scored at the epoch with
    the best accuracy on the *other* half, so that every galaxy is judged by a choice it had no
    part in. A half chooses worse than the whole would, so that this is an upper estimate of
    the optimism.

    Parameters
    ----------
    epoch_probabilities : ndarray
        float, shape (epochs, n, classes).
    label : ndarray
        int, shape (n,): index of the true class.
    repeats : int
        Random halvings.

    Returns
    -------
    DataFrame
        Indexed by `SCORES`; columns ``published`` (best epoch, chosen and scored on all),
        ``sound`` (mean of the halvings), ``optimism`` (their difference), ``low``, ``high`` (range
        of the optimism over the halvings; not a sampling error of galaxies).
    """
    epochs, n, k = epoch_probabilities.shape
    _check_probabilities(epoch_probabilities[0], label)
    predicted = epoch_probabilities.argmax(axis=2)
    right = predicted == label
    rng = np.random.default_rng(seed)
    first = np.array([_stratified_half(label, rng) for _ in range(repeats)])
    # argmax takes the first of equal epochs, as a best-epoch checkpoint does.
    chosen_by_first = (first @ right.T.astype(float)).argmax(axis=1)
    chosen_by_second = (~first @ right.T.astype(float)).argmax(axis=1)
    crossed = np.where(first, predicted[chosen_by_second], predicted[chosen_by_first])
    sound = matrix_scores(count_matrices(label, crossed, k))
    best = right.sum(axis=1).argmax()
    published = matrix_scores(count_matrices(label, predicted[best][None], k)[0])
    tail = 100 * (1 - level) / 2
    rows = {}
    for metric in SCORES:
        optimism = published[metric] - sound[metric]
        bounds = np.percentile(optimism, [tail, 100 - tail])
        rows[metric] = (published[metric], sound[metric].mean(), optimism.mean(), *bounds)
    columns = ["published", "sound", "optimism", "low", "high"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("metric")


def _stratified_half(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Boolean mask of a random half of each class; an odd galaxy falls to either half."""
    half = np.zeros(len(label), bool)
    for value in np.unique(label):
        members = rng.permutation(np.flatnonzero(label == value))
        half[members[: (len(members) + rng.integers(2)) // 2]] = True
    return half


def count_matrices(label: np.ndarray, predicted: np.ndarray, k: int) -> np.ndarray:
    """Confusion matrices of many predictions of the same galaxies: (r, n) -> (r, k, k)."""
    flat = np.arange(len(predicted))[:, None] * k * k + label * k + predicted
    return np.bincount(flat.ravel(), minlength=len(predicted) * k * k).reshape(-1, k, k)


def unseen_recall(run: Run) -> pd.DataFrame:
    """Recall on the validation set beside that on galaxies that took no part in training.

    Down-sampling leaves galaxies of the large classes aside (split "rest"): no training and no
    choice of epoch has seen them, so that their recall is free of optimism.

    Returns
    -------
    DataFrame
        Classes with galaxies in "rest": ``validation``, ``validation_low``, ``validation_high``,
        ``rest``, ``rest_low``, ``rest_high``, ``n_validation``, ``n_rest``.
    """
    columns = {}
    for split in ("validation", "rest"):
        part = run.part(split)
        n = part.groupby("label").size().reindex(run.classes, fill_value=0)
        tp = (part["label"] == part["predicted"]).groupby(part["label"]).sum()
        tp = tp.reindex(run.classes, fill_value=0)
        columns[split] = tp / n.where(n > 0)
        columns[f"{split}_low"], columns[f"{split}_high"] = wilson(tp, n)
        columns[f"n_{split}"] = n
    table = pd.DataFrame(columns, index=pd.Index(run.classes, name="label"))
    return table[table["n_rest"] > 0]


def protocols(run: Run, fold_runs: Sequence[Run] = (), *, seed: int = 42) -> pd.DataFrame:
    """Scores of a run under both protocols, as far as its files allow.

    Published: the validation galaxies, on which the epoch was chosen. Sound: the galaxies of the
    published training and validation sets, each tested by the network that had no part of it
    (cross-validation), where `fold_runs` has such runs; the test galaxies where the run set some
    aside; else validation galaxies at epochs chosen by other ones (`epoch_optimism`) where the run
    kept its probabilities epoch by epoch; else NaN.

    Parameters
    ----------
    run : Run
    fold_runs : sequence of Run
        Runs of single folds; those that were trained as `run` was are used.
    seed : int
        Of the halvings.

    Returns
    -------
    DataFrame
        One row per score: ``run``, ``metric``, ``published``, ``low``, ``high``, ``sound``,
        ``sound_low``, ``sound_high``, ``paper``, ``sound_from`` (str). The sound interval is one
        of sampling for test galaxies, the spread over halvings for chosen epochs.
    """
    table = score_intervals(run.confusion("validation"))
    table = table.rename(columns={"value": "published"})
    sound, source = _sound_scores(run, fold_runs, seed)
    sound = sound.rename(columns={"value": "sound", "low": "sound_low", "high": "sound_high"})
    table = table.join(sound)
    overall = _paper_cells(paper_column(run), LEVEL).reset_index()
    overall = overall[overall["label"] == "all"].set_index("metric")["paper"]
    table["paper"] = overall.reindex(table.index).astype(float)
    table["sound_from"] = source
    table.insert(0, "run", run.name)
    return table.rename_axis("metric").reset_index()


def _sound_scores(run: Run, fold_runs: Sequence[Run], seed: int) -> tuple[pd.DataFrame, str]:
    """``value``, ``low``, ``high`` under the sound protocol, and where they are from."""
    for folds in fold_groups(fold_runs):
        if _training_key(folds[0]) != _training_key(run):
            continue
        used = run.predictions[run.predictions["split"].isin(["train", "validation"])]
        _, summary = cross_validate(folds, used["galaxy_id"])
        return summary[["value", "low", "high"]], f"cross-validation, {folds_name(folds)}"
    if run.reported_split == "test":
        return score_intervals(run.confusion("test")), "test galaxies set aside"
    if run.epoch_probabilities is None:
        return pd.DataFrame(np.nan, index=SCORES, columns=["value", "low", "high"]), "not available"
    label = class_index(run.part("validation")["label"], run.classes)
    found = epoch_optimism(run.epoch_probabilities, label, seed=seed)
    # The optimism is measured from the same validation set: sound = published - optimism.
    sound = {
        "value": found["sound"],
        "low": found["published"] - found["high"],
        "high": found["published"] - found["low"],
    }
    return pd.DataFrame(sound), "epochs chosen by other galaxies"


# ---------------------------------------------------------------------------------------------
# Sweeps: image size (Fig. 5), class balance (Fig. 6, Table 3 left), folds


def balance(run: Run) -> str:
    """What a run did about unequal classes beside down-sampling, see `lib.training`."""
    return run.settings.get("training", {}).get("balance", "none")


def option(run: Run) -> str:
    """What a run did about unequal classes: ``all data``, ``down-sampled`` or its `balance`."""
    sampling = "all data" if run.settings.get("sampling") == "all" else "down-sampled"
    return sampling if balance(run) == "none" else balance(run)


def size_spread(runs: list[Run]) -> pd.DataFrame:
    """Macro-F1 of runs with several seeds for each role and image size (Fig. 5).

    Returns
    -------
    DataFrame
        One row per role and size in order: ``role``, ``crop`` (pixels), the columns of
        `seed_spread`, ``sampling`` (half the mean width of the 95 % intervals of single runs, the
        error from the choice of galaxies), ``galaxies`` (reported on by each run) and ``one_class``
        (how many of the `n` runs give all galaxies one and the same class: they have learnt
        nothing, and their equal F1 looks like a small spread).
    """
    rows = []
    for run in runs:
        found = score_intervals(run.confusion()).loc["macro_f1"]
        half = (found["high"] - found["low"]) / 2
        rows.append((run.settings["role"], run.settings["crop"], found["value"], half, run))
    table = pd.DataFrame(rows, columns=["role", "crop", "f1", "half", "run"])
    spread = [
        {
            "role": role,
            "crop": crop,
            **seed_spread(group["f1"]),
            "sampling": group["half"].mean(),
            "galaxies": len(group["run"].iloc[0].part()),
            "one_class": sum(run.part()["predicted"].nunique() == 1 for run in group["run"]),
        }
        for (role, crop), group in table.groupby(["role", "crop"])
    ]
    return pd.DataFrame(spread)


def choose_size(spread: pd.DataFrame) -> pd.DataFrame:
    """Image size of each role by the rule of one standard error, and by the paper's words.

    The rule: the smallest size whose mean F1 is not more than one standard error (sd / sqrt(n), of
    the best size) below the best mean (Breiman et al. 1984, Sec. 3.4.3). It takes the cheapest
    network that these runs cannot tell from the best. Sec. 4.2.1 names the lowest CV. Sizes at
    which every run gives all galaxies one class are not chosen from.

    Parameters
    ----------
    spread : DataFrame
        From `size_spread`.

    Returns
    -------
    DataFrame
        Indexed by role: ``best`` (size with the highest mean), ``least`` (mean that is enough),
        ``chosen`` and ``lowest_cv`` (sizes; NA where a single seed has no CV). All NA where nothing
        is learnt at any size.
    """
    rows = {}
    for role, sizes in spread.groupby("role"):
        sizes = sizes[sizes["one_class"] < sizes["n"]]
        if sizes.empty:
            rows[role] = {"best": pd.NA, "least": np.nan, "chosen": pd.NA, "lowest_cv": pd.NA}
            continue
        best = sizes.loc[sizes["mean"].idxmax()]
        error = 0 if np.isnan(best["sd"]) else best["sd"] / np.sqrt(best["n"])
        least = best["mean"] - error
        known = sizes[sizes["cv"].notna()]
        rows[role] = {
            "best": best["crop"],
            "least": least,
            "chosen": sizes.loc[sizes["mean"] >= least, "crop"].min(),
            "lowest_cv": known.loc[known["cv"].idxmin(), "crop"] if len(known) else pd.NA,
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("role")
    return table.astype({"best": "Int64", "least": float, "chosen": "Int64", "lowest_cv": "Int64"})


def seed_sampling(runs: Sequence[Run]) -> pd.DataFrame:
    """Spread of the scores over seeds, beside the error from the choice of galaxies.

    Runs belong together if they differ in nothing but the seed of the training and report on the
    same galaxies; runs of folds, and those without a companion, are left out.

    Returns
    -------
    DataFrame
        One row per group and score: ``role``, ``merge``, ``metric``, ``mean``, ``sd`` (over
        seeds), ``seeds``, ``galaxies``, ``half_width`` (of the 95 % interval of a single run, see
        `score_intervals`; mean over the seeds) and ``ratio`` = 1.96 sd / half_width.
    """
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        if run.settings.get("fold") is None:
            galaxies = tuple(np.sort(run.part()["galaxy_id"]))
            groups.setdefault((*_training_key(run, seed=None), galaxies), []).append(run)
    rows = []
    for group in groups.values():
        if len(group) < 2:
            continue
        tables = [score_intervals(run.confusion()) for run in group]
        for metric in SCORES:
            found = pd.DataFrame([table.loc[metric] for table in tables])
            half = ((found["high"] - found["low"]) / 2).mean()
            sd = found["value"].std(ddof=1)
            rows.append(
                {
                    "role": group[0].settings["role"],
                    "merge": group[0].settings.get("merge", "none"),
                    "metric": metric,
                    "mean": found["value"].mean(),
                    "sd": sd,
                    "seeds": len(group),
                    "galaxies": len(group[0].part()),
                    "half_width": half,
                    "ratio": stats.norm.isf((1 - LEVEL) / 2) * sd / half,
                }
            )
    return pd.DataFrame(rows)


def fold_groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ in nothing but the fold they are tested on, in the order of the folds.

    Runs without a fold are left out.
    """
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        if run.settings.get("fold") is not None:
            groups.setdefault(_training_key(run), []).append(run)
    return [sorted(group, key=lambda run: run.settings["fold"]) for group in groups.values()]


def folds_name(runs: Sequence[Run]) -> str:
    """How the runs of a group of `fold_groups` divide the sample, e.g. ``2 x 5 folds``."""
    folds = runs[0].settings["folds"]
    repeats = -(-len(runs) // folds)
    whole = f"{folds} folds" if repeats == 1 else f"{repeats} x {folds} folds"
    return whole if len(runs) == repeats * folds else f"{len(runs)} of {whole}"


def _training_key(run: Run, **replaced) -> tuple:
    """What is trained and how; not on which galaxies, nor by which protocol they are scored.

    `replaced` settings of the training, e.g. ``seed=None``, do not tell runs apart.
    """
    names = (
        "role",
        "backbone",
        "weights",
        "crop",
        "colour",
        "view",
        "trainable",
        "merge",
        "sampling",
    )
    training = {**run.settings.get("training", {}), "name": None, "view_seed": None} | replaced
    return (
        *(run.settings.get(name) for name in names),
        run.classes,
        json.dumps(training, sort_keys=True),
    )


def pool(runs: list[Run]) -> Run:
    """One run with the test galaxies of the folds of the first repeat, each by its own network.

    It is named by the role and its number of folds.
    """
    first = [run for run in runs if run.settings["fold"] < run.settings["folds"]]
    tested = pd.concat([run.part("test") for run in first], ignore_index=True)
    name = f"{first[0].settings['role']}, {folds_name(first)}"
    return replace(first[0], name=name, predictions=tested, epoch_probabilities=None)


def cross_validate(runs: list[Run], galaxies=None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Confusion matrix and scores over the folds of a group of `fold_groups`.

    Parameters
    ----------
    runs : list of Run
        One per fold, of whole repeats or not.
    galaxies : array-like, optional
        Identifiers of the galaxies to score; all tested ones by default.

    Returns
    -------
    matrix : DataFrame
        Mean over the repeats of the counts of all folds (float): every galaxy counts once.
    summary : DataFrame
        Indexed by `SCORES`: ``value``, ``low``, ``high`` of that matrix (interval for the choice of
        galaxies) and ``fold_mean``, ``fold_sd``, ``fold_low``, ``fold_high`` of
        `cross_validation_summary` (for galaxies and training together; NaN for a single fold).

    Raises
    ------
    InputError
        If none of the galaxies was tested.
    """
    parts = []
    for run in runs:
        part = run.part("test")
        parts.append(part if galaxies is None else part[part["galaxy_id"].isin(galaxies)])
    if not sum(map(len, parts)):
        raise InputError(f"the folds of {runs[0].name} test none of the galaxies asked for")
    matrices = [confusion(p["label"], p["predicted"], runs[0].classes) for p in parts if len(p)]
    times = pd.concat(parts)["galaxy_id"].value_counts().mean()
    matrix = sum(matrices) / times
    summary = score_intervals(matrix)
    of_folds = pd.DataFrame([scores(m) for m in matrices])
    for name in ("mean", "sd", "low", "high"):
        summary[f"fold_{name}"] = np.nan
    if len(matrices) > 1:
        test_share = np.mean([len(p) / len(r.part("train")) for p, r in zip(parts, runs) if len(p)])
        for metric in SCORES:
            found = cross_validation_summary(of_folds[metric], test_share)
            for name in ("mean", "sd", "low", "high"):
                summary.loc[metric, f"fold_{name}"] = found[name]
    return matrix, summary


def fold_optimism(runs: Sequence[Run]) -> pd.DataFrame:
    """How far the published protocol flatters: validation minus test, in the same networks.

    Each fold's network is scored on the validation galaxies that chose its epoch, as published, and
    on the test galaxies that had no part in it. The test scores are those that its recalls give at
    the class frequencies of the validation galaxies (`at_frequencies`), since down-sampling changes
    these, and the scores with them.

    Parameters
    ----------
    runs : sequence of Run
        A group of `fold_groups`.

    Returns
    -------
    DataFrame
        Indexed by `SCORES`: ``validation``, ``test``, ``optimism`` (means over folds), ``sd``,
        ``low``, ``high`` (of the optimism, by `cross_validation_summary`; NaN for a single fold),
        ``folds`` (how the sample is divided) and ``told_from_0`` (bool or NA: the interval does
        not hold 0).
    """
    rows = []
    for run in runs:
        own = run.confusion("validation")
        test = at_frequencies(run.confusion("test"), own.sum(axis=1).to_dict())
        rows.append((pd.Series(scores(own)), pd.Series(scores(test))))
    validation, test = (pd.DataFrame(side) for side in zip(*rows))
    difference = validation - test
    table = pd.DataFrame(
        {"validation": validation.mean(), "test": test.mean(), "optimism": difference.mean()}
    )
    table[["sd", "low", "high"]] = np.nan
    if len(runs) > 1:
        share = np.mean([len(run.part("test")) / len(run.part("train")) for run in runs])
        for metric in SCORES:
            found = cross_validation_summary(difference[metric], share)
            table.loc[metric, ["sd", "low", "high"]] = [found[n] for n in ("sd", "low", "high")]
    table["folds"] = folds_name(runs)
    told = (table["low"] > 0) | (table["high"] < 0)
    table["told_from_0"] = told.astype("boolean").where(table["low"].notna())
    return table.rename_axis("metric")
