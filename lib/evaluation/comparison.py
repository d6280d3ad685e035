"""Two networks on the same galaxies, and a network beside the paper's Table 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import scipy

from lib import paper
from lib.evaluation.matrix import (
    LEVEL,
    SCORES,
    cell_intervals,
    class_index,
    class_report,
    draw_multinomial,
    matrix_scores,
    overall_intervals,
    score_intervals,
)
from lib.evaluation.runs import Run, option
from lib.schema import InputError


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
    return np.minimum(
        1.0, 2 * scipy.stats.binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5)
    )


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


def paired_bootstrap(
    label,
    predicted_a,
    predicted_b,
    classes: tuple[str, ...],
    *,
    n: int = 5000,
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
    drawn = np.stack([draw_multinomial(rng, row, n) for row in cube], axis=1).reshape(n, k, k, k)
    cube = cube.reshape(k, k, k)
    tail = 100 * (1 - LEVEL) / 2
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


def paper_column(run: Run) -> str | None:
    """Column of the paper's Table 3 that a run repeats; None for what the paper does not have."""
    sampling = {"all": "all data"}.get(run.settings.get("sampling"), "down-sampled")
    column = f"{run.settings['role']} {sampling}"
    plain = run.settings.get("merge", "none") == "none"
    plain = plain and option(run) in ("all data", "down-sampled")
    return column if plain and column in paper.TABLE_3_COLUMNS else None


def compare_with_paper(run: Run) -> pd.DataFrame:
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
    overall = score_intervals(matrix)
    overall.index = pd.MultiIndex.from_product([["all"], overall.index], names=["label", "metric"])
    table = pd.concat([cell_intervals(report), overall]).rename(columns={"value": "ours"})
    printed = paper_cells(paper_column(run))
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


def paper_cells(column: str | None) -> pd.DataFrame:
    """Printed cells of a column of Table 3 and its deduced overall scores; empty for None."""
    names = ["paper", "paper_low", "paper_high"]
    if column is None:
        nothing = pd.MultiIndex.from_arrays([[], []], names=["label", "metric"])
        return pd.DataFrame(columns=names, index=nothing, dtype=float)
    # Where several counts agree with the print, they differ by one galaxy of thousands.
    counts = paper.deduce_table_3(column).loc[0]
    cells = cell_intervals(counts).set_axis(names, axis=1)
    cells["paper"] = paper.TABLE_3[column].stack().reindex(cells.index)
    overall = overall_intervals(counts).set_axis(names, axis=1)
    overall.index = pd.MultiIndex.from_product([["all"], overall.index], names=["label", "metric"])
    return pd.concat([cells, overall])
