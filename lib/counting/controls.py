"""Every method beside the same two controls, on the same galaxies and by the same two decisions.

The controls are the majority class and classical features (`lib.counting.classical`) with a
balanced logistic regression. Each is scored by its largest probability, and by the decision for
rare classes (`lib.counting.vote_head`). Protocol `sound`: nothing is fitted or chosen on the
galaxies of the fold that is scored.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from lib import evaluation, images, paths
from lib.counting import classical, vote_head
from lib.evaluation import Run
from lib.schema import InputError

MAJORITY = "majority class"
CLASSICAL = "classical features, balanced logistic regression"

RULES = ("arg-max", "rare classes")
"""How a class is decided on: the largest probability, or with rare classes in mind."""

COMPONENTS = 128
"""Principal components kept: more than a thousand features of as many galaxies would be fitted."""

REGULARISATIONS = (3e-4, 3e-3, 3e-2)
"""Inverse strengths of the regression's penalty to choose from."""


def same_galaxies(groups: Sequence[Sequence[Run]]) -> list[list[list[Run]]]:
    """Groups of `lib.evaluation.fold_groups` by classes and by what their first repeat tests."""
    sets: dict[tuple, list[list[Run]]] = {}
    for group in groups:
        first = evaluation.first_repeat(group)
        tested = tuple(frozenset(run.part("test")["galaxy_id"]) for run in first)
        sets.setdefault((first[0].classes, tested), []).append(first)
    return list(sets.values())


def features(run_dir: str, galaxy_ids: pd.Series) -> pd.DataFrame:
    """`lib.counting.classical.features` of galaxies of a run with step 02, by galaxy_id."""
    folder = paths.step_folder(run_dir, "02_preprocessing")
    index = next(folder.glob("images_*.parquet"))
    binning = pd.read_parquet(index).attrs["binning"]
    cache = images.open_cache(folder, 192 // binning)
    values = classical.features(cache.arrays[cache.rows(galaxy_ids)], r90=50 / binning)
    return pd.DataFrame(values, index=pd.Index(galaxy_ids, name="galaxy_id"))


def predict(
    groups: Sequence[Sequence[Run]],
    features: pd.DataFrame,
    *,
    more: Mapping[str, Callable] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """What every method says of every tested galaxy, by both rules.

    The offsets of a network's decision are those that it was trained with (recipe `votes`); else
    their power is chosen on the validation galaxies of its fold. The controls learn from all
    galaxies that are not in the fold, and choose penalty and power in three folds of these.

    Parameters
    ----------
    groups : sequence of sequence of Run
        One of the sets of `same_galaxies`.
    features : DataFrame
        One row per galaxy, indexed by galaxy_id, for `CLASSICAL`.
    more : mapping of str to callable, optional
        Other methods: a run of a fold to the probabilities of its test galaxies, (n, classes), the
        offsets of the decision, and the number of galaxies learnt from.
    seed : int
        Of the folds inside the training galaxies.

    Returns
    -------
    DataFrame
        ``method``, ``rule`` (of `RULES`), ``protocol``, ``fold``, ``trained_on`` (galaxies),
        ``galaxy_id``, ``label``, ``predicted``.

    Raises
    ------
    InputError
        If the groups are not tested on the same galaxies, or a galaxy has no features.
    """
    if len(same_galaxies(groups)) != 1:
        raise InputError(
            f"{', '.join(evaluation.group_names(groups))} are not tested on the same galaxies: "
            "compare the sets of `same_galaxies` one by one"
        )
    missing = pd.Index(groups[0][0].predictions["galaxy_id"]).difference(features.index)
    if len(missing):
        raise InputError(
            f"features lack {len(missing)} galaxies (first: {missing[0]}): compute them of all "
            "galaxies that the runs predict"
        )
    methods: dict[str, tuple[Sequence[Run], Callable]] = {
        MAJORITY: (groups[0], _majority),
        CLASSICAL: (groups[0], lambda run: _classical(run, features, seed)),
    }
    for name, group in zip(evaluation.group_names(groups), groups):
        methods[name] = (group, _network)
    methods |= {name: (groups[0], judge) for name, judge in (more or {}).items()}
    tables = []
    for method, (runs, judge) in methods.items():
        for run in runs:
            probabilities, offsets, trained_on = judge(run)
            tested = run.part("test")[["galaxy_id", "label"]].assign(
                method=method,
                protocol="sound",
                fold=run.settings["fold"],
                trained_on=trained_on,
            )
            for rule, decision in zip(RULES, (None, offsets)):
                decided = evaluation.decide(probabilities, decision)
                tables.append(tested.assign(rule=rule, predicted=np.array(run.classes)[decided]))
    columns = ["method", "rule", "protocol", "fold", "trained_on"]
    return pd.concat(tables, ignore_index=True)[[*columns, "galaxy_id", "label", "predicted"]]


def score(predicted: pd.DataFrame, classes: tuple[str, ...]) -> pd.DataFrame:
    """Scores of every method by every rule, the galaxies of all folds taken together.

    Parameters
    ----------
    predicted : DataFrame
        From `predict`.
    classes : tuple of str

    Returns
    -------
    DataFrame
        ``method``, ``rule``, ``protocol``, ``folds``, ``trained_on`` (mean over folds),
        ``galaxies``, ``metric``, ``value``, ``low``, ``high`` (95 %, of the galaxies drawn).
    """
    tables = []
    for (method, rule), part in predicted.groupby(["method", "rule"], sort=False):
        matrix = evaluation.confusion(part["label"], part["predicted"], classes)
        about = {
            "method": method,
            "rule": rule,
            "protocol": part["protocol"].iloc[0],
            "folds": part["fold"].nunique(),
            "trained_on": part.groupby("fold")["trained_on"].first().mean(),
            "galaxies": len(part),
        }
        found = evaluation.score_intervals(matrix).reset_index()
        tables.append(found.assign(**about)[[*about, *found.columns]])
    return pd.concat(tables, ignore_index=True)


def classifier(values: np.ndarray, seed: int) -> GridSearchCV:
    """Logistic regression on principal components of features, for which classes weigh alike.

    The strength of the penalty is chosen by macro-F1 in three folds of `values`, (n, width), which
    it will be fitted to; `seed` is that of the folds.
    """
    return GridSearchCV(
        make_pipeline(
            StandardScaler(),
            PCA(min(COMPONENTS, values.shape[1], len(values) // 2), random_state=seed),
            LogisticRegression(class_weight="balanced", max_iter=2000),
        ),
        {"logisticregression__C": REGULARISATIONS},
        scoring="f1_macro",
        cv=StratifiedKFold(3, shuffle=True, random_state=seed),
    )


def _network(run: Run) -> tuple[np.ndarray, Sequence[float], int]:
    """Probabilities of a fold's galaxies, offsets of the decision, and galaxies trained on."""
    offsets = run.settings.get("decision")
    if offsets is None:
        offsets = vote_head.fit_decision(
            run.probabilities("validation"), run.labels("validation"), _shares(run, "train")
        )
    return run.probabilities("test"), offsets, len(run.part("train"))


def _majority(run: Run) -> tuple[np.ndarray, Sequence[float], int]:
    shares, label = _shares(run), _others(run)[1]
    offsets = vote_head.fit_decision(np.tile(shares, (len(label), 1)), label, shares)
    return np.tile(shares, (len(run.part("test")), 1)), offsets, len(label)


def _classical(
    run: Run, features: pd.DataFrame, seed: int
) -> tuple[np.ndarray, Sequence[float], int]:
    ids, label = _others(run)
    values, tested = features.loc[ids].to_numpy(), features.loc[run.part("test")["galaxy_id"]]
    with threadpool_limits(1), warnings.catch_warnings():
        # A class with fewer galaxies than folds is missing from some.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        warnings.filterwarnings("ignore", "Number of classes in training fold", RuntimeWarning)
        search = classifier(values, seed).fit(values, label)
        unseen = cross_val_predict(
            search.best_estimator_, values, label, cv=search.cv, method="predict_proba"
        )
    known, k = search.classes_, len(run.classes)
    probabilities, inside = np.zeros((len(tested), k)), np.zeros((len(label), k))
    probabilities[:, known] = search.predict_proba(tested.to_numpy())
    inside[:, known] = unseen
    return probabilities, vote_head.fit_decision(inside, label, _shares(run)), len(label)


def _others(run: Run) -> tuple[pd.Series, np.ndarray]:
    """Identifiers and class numbers of all galaxies that a fold does not test."""
    others = run.predictions[run.predictions["split"] != "test"]
    return others["galaxy_id"], evaluation.class_index(others["label"], run.classes)


def _shares(run: Run, split: str | None = None) -> np.ndarray:
    """Share of each class in one split, or in all galaxies that a fold does not test."""
    label = _others(run)[1] if split is None else run.labels(split)
    return np.bincount(label, minlength=len(run.classes)) / len(label)
