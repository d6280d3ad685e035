"""Tests of lib.counting.ablation and of the folds of notebook 12: no leaks, scores, coverage."""

import ast

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from scipy.special import softmax
from sklearn import metrics

from lib import evaluation
from lib.counting import ablation, vote_head

CLASSES = ("1", "2", "3")


def survey(n=240, seed=0, known=2.0):
    """Features, and votes that follow from them as well as `known` says."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 8))
    logits = known * x[:, :3] + rng.normal(size=(n, 3)) + [0.0, 1.0, 0.0]
    fractions = np.stack([rng.multinomial(40, p) / 40 for p in softmax(logits, axis=1)])
    return x, fractions, fractions.argmax(axis=1)


def cells_of_notebook_12(x, fractions, number):
    """The functions that notebook 12 defines, on these galaxies."""
    tree = ast.parse((ROOT / "notebooks" / "12_beyond_the_paper.py").read_text())
    kept = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    kept += [node for node in tree.body if isinstance(node, ast.ImportFrom)
             and node.module.startswith("sklearn")]  # fmt: skip
    scope = {"np": np, "pd": pd, "ablation": ablation, "vote_head": vote_head, "seed": 0}
    scope |= {"features": {"all": x}, "votes": fractions, "number": number, "classes": CLASSES}
    scope |= {"development": np.arange(len(x))}
    exec(compile(ast.Module(kept, []), "notebook 12", "exec"), scope)
    return scope


def predict(x, fractions, number, method="by_votes", folds=4, repeats=1):
    scope = cells_of_notebook_12(x, fractions, number)
    parts = evaluation.repeated_folds(number, folds, repeats, 0)
    return scope["cross_validate"](["all"], scope[method], parts), parts


@pytest.mark.parametrize("method", ["by_votes", "by_labels", "by_majority"])
def test_a_galaxy_s_own_votes_do_not_reach_its_prediction(method):
    """Neither by the classifier nor by penalty, decision, temperature or threshold of the sets."""
    x, fractions, number = survey()
    before, parts = predict(x, fractions, number, method)
    _, tested = parts[2]
    scope = cells_of_notebook_12(x, fractions.copy(), number.copy())
    scope["votes"][tested], scope["number"][tested] = 1 / 3, np.roll(number[tested], 5)
    after = scope["cross_validate"](["all"], scope[method], parts)
    one, two = (t[t["galaxy"].isin(tested)].reset_index() for t in (before, after))
    columns = [c for c in one if c[:2] in ("p_", "q_")]
    columns += ["largest", "predicted", "set_size", "class_set_size"]
    pd.testing.assert_frame_equal(one[columns], two[columns])
    assert not one["label"].equals(two["label"])


def test_every_galaxy_is_predicted_once_per_repeat():
    x, fractions, number = survey()
    table, _ = predict(x, fractions, number, "by_majority", folds=5, repeats=2)
    assert (table.groupby(["repeat", "galaxy"]).size() == 1).all() and len(table) == 480
    assert (table["label"].to_numpy() == np.array(CLASSES)[number[table["galaxy"]]]).all()


def test_votes_that_no_feature_knows_are_not_found():
    table, _ = predict(*survey(known=0.0))
    balanced = metrics.balanced_accuracy_score(table["label"], table["predicted"])
    assert abs(balanced - 1 / 3) < 0.12


def test_known_votes_are_found_and_the_numbers_are_scikit_learn_s():
    x, fractions, number = survey(600)
    table, _ = predict(x, fractions, number)
    assert metrics.f1_score(table["label"], table["predicted"], average="macro") > 0.6
    found = ablation.quality(table, fractions, CLASSES)
    assert abs(found["coverage"] - 0.9) < 0.05 and found["ece"] < 0.08
    p, q = (table[[f"{k}_{c}" for c in CLASSES]].to_numpy() for k in "pq")
    truth = fractions[table["galaxy"]]
    assert found["rmse"] == pytest.approx(metrics.mean_squared_error(truth, p) ** 0.5)
    assert found["log_loss"] == pytest.approx(metrics.log_loss(table["label"], q))
    entropy = metrics.log_loss(
        np.tile(CLASSES, len(p)), np.repeat(p, 3, axis=0), sample_weight=truth.ravel()
    )
    assert found["cross_entropy"] == pytest.approx(entropy, rel=1e-6)


def test_sets_with_a_threshold_for_each_class_hold_their_level_in_each():
    """Probabilities that are right of a rare class, whose sets with one threshold miss it."""
    rng = np.random.default_rng(2)
    p = rng.dirichlet([0.7, 6.0, 0.5], 12_000)
    label = (p.cumsum(axis=1) < rng.random((len(p), 1))).sum(axis=1)
    inside, tested = np.split(np.arange(len(p)), 2)
    shares = np.bincount(label[inside]) / len(inside)
    judged = ablation.judge(p[inside], p[tested], shares, label[inside], label[tested], CLASSES)
    found = ablation.coverage(judged, CLASSES)["coverage"]
    assert found["one threshold", "3"] < 0.8 and abs(found["one threshold", "all"] - 0.9) < 0.02
    # The most probable class is in every set, so that the frequent one is covered more often.
    assert (found["one for each class"] > 0.88).all() and found["one for each class", "3"] < 0.93


def test_a_class_with_too_few_galaxies_for_a_threshold_is_in_every_set():
    p = np.random.default_rng(0).dirichlet([1, 1, 1], 60)
    label = np.repeat([0, 1, 2], [30, 22, 8])
    judged = ablation.judge(p, p, np.ones(3) / 3, label, label, CLASSES)
    assert judged.loc[judged["label"] == "3", "class_in_set"].all()


def test_scores_are_those_of_scikit_learn_and_gains_are_their_differences():
    x, fractions, number = survey()
    tables = {m: predict(x, fractions, number, m)[0] for m in ("by_majority", "by_votes")}
    for by in ("largest", "predicted"):
        scores = ablation.score_table(tables, CLASSES, by)
        for name, table in tables.items():
            macro = metrics.f1_score(table["label"], table[by], average="macro")
            assert scores.loc[(name, "macro_f1"), "value"] == pytest.approx(macro)
    gain = ablation.gains(tables, "by_majority", CLASSES).loc[("by_votes", "macro_f1")]
    macro = scores["value"].xs("macro_f1", level="score")
    assert gain["difference"] == pytest.approx(macro["by_votes"] - macro["by_majority"])
    assert 0 < gain["low"] < gain["difference"] < gain["high"]
