"""The sound protocol: folds and test parts, and whether the published protocol flatters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy

from lib.evaluation.comparison import paper_cells, paper_column
from lib.evaluation.matrix import (
    LEVEL,
    SCORES,
    at_frequencies,
    confusion,
    score_intervals,
    scores,
    wilson,
)
from lib.evaluation.runs import DIVISION, Run, fold_groups, folds_name, training_key
from lib.schema import InputError


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
    from sklearn.model_selection import RepeatedStratifiedKFold

    splitter = RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=seed)
    return list(splitter.split(label, label))


def cross_validation_summary(values, test_share: float, *, least: float = 0.0) -> dict[str, float]:
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
    least : float
        Lowest possible value; -1 for a difference of scores.

    Returns
    -------
    dict
        ``mean``, ``sd`` (over folds), ``se`` (corrected), ``low``, ``high`` (as far as scores
        reach: from `least` to 1), ``n``.
    """
    values = np.asarray(values, float)
    if len(values) < 2 or not np.isfinite(values).all():
        raise InputError(f"{values.tolist()}: wanted at least two folds, all with a finite score.")
    sd = values.std(ddof=1)
    se = np.sqrt((1 / len(values) + test_share) * sd**2)
    half = scipy.stats.t.isf((1 - LEVEL) / 2, len(values) - 1) * se
    mean = values.mean()
    return {
        "mean": float(mean),
        "sd": float(sd),
        "se": float(se),
        "low": float(max(mean - half, least)),
        "high": float(min(mean + half, 1.0)),
        "n": len(values),
    }


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
    """Whether the published protocol flatters: validation minus test, in the same networks.

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
            found = cross_validation_summary(difference[metric], share, least=-1.0)
            table.loc[metric, ["sd", "low", "high"]] = [found[n] for n in ("sd", "low", "high")]
    table["folds"] = folds_name(runs)
    told = (table["low"] > 0) | (table["high"] < 0)
    table["told_from_0"] = told.astype("boolean").where(table["low"].notna())
    return table.rename_axis("metric")


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


def protocols(run: Run, fold_runs: Sequence[Run] = ()) -> pd.DataFrame:
    """Scores of a run under both protocols, as far as its files allow.

    Published: the validation galaxies, on which the epoch was chosen. Sound: the galaxies of the
    published training and validation sets, each tested by the network that had no part of it
    (cross-validation), where `fold_runs` has such runs; the test galaxies where the run set some
    aside; else NaN.

    Parameters
    ----------
    run : Run
    fold_runs : sequence of Run
        Runs of single folds. Those are used that were trained as `run` was, whatever part of the
        sample that is; of several groups the one with the most similar number of galaxies.

    Returns
    -------
    DataFrame
        One row per score: ``run``, ``metric``, ``published``, ``low``, ``high``, ``sound``,
        ``sound_low``, ``sound_high``, ``paper``, ``sound_from`` (str).
    """
    table = score_intervals(run.confusion("validation"))
    table = table.rename(columns={"value": "published"})
    sound, source = _sound_scores(run, fold_runs)
    sound = sound.rename(columns={"value": "sound", "low": "sound_low", "high": "sound_high"})
    table = table.join(sound)
    overall = paper_cells(paper_column(run)).reset_index()
    overall = overall[overall["label"] == "all"].set_index("metric")["paper"]
    table["paper"] = overall.reindex(table.index).astype(float)
    table["sound_from"] = source
    table.insert(0, "run", run.name)
    return table.rename_axis("metric").reset_index()


def _sound_scores(run: Run, fold_runs: Sequence[Run]) -> tuple[pd.DataFrame, str]:
    """``value``, ``low``, ``high`` under the sound protocol, and where they are from."""
    own = training_key(run, DIVISION)
    same = [g for g in fold_groups(fold_runs) if training_key(g[0], DIVISION) == own]
    if same:
        trained_on = len(run.part("train"))
        folds = min(same, key=lambda group: abs(len(group[0].part("train")) - trained_on))
        used = run.predictions[run.predictions["split"].isin(["train", "validation"])]
        _, summary = cross_validate(folds, used["galaxy_id"])
        return summary[["value", "low", "high"]], f"cross-validation, {folds_name(folds)}"
    if run.reported_split == "test":
        return score_intervals(run.confusion("test")), "test galaxies set aside"
    return pd.DataFrame(np.nan, index=SCORES, columns=["value", "low", "high"]), "not available"
