"""Tests of vote heads and prediction sets: closed forms, scikit-learn, coverage."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from lib import evaluation
from lib.counting import vote_head
from lib.evaluation import conformal
from lib.schema import RHO_COLUMNS, InputError


def galaxies(n=300, width=6, classes=3, seed=0):
    """Features, and vote fractions that follow from them by a softmax."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, width))
    truth = softmax(features @ rng.normal(size=(width, classes)) + [1.5, 0, -1.0], axis=1)
    return features, np.stack([rng.multinomial(40, p) / 40 for p in truth]), truth


def test_soft_regression_is_scikit_learn_s_with_a_galaxy_per_class():
    features, fractions, _ = galaxies()
    weights, bias = vote_head.soft_regression(features, fractions, 0.1)
    model = LogisticRegression(C=0.1, max_iter=5000, tol=1e-10)
    model.fit(np.tile(features, (3, 1)), np.repeat(range(3), 300), fractions.T.ravel())
    expected = model.predict_proba(features)
    found = softmax(features @ weights + bias, axis=1)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_without_features_the_mean_fractions_are_found():
    _, fractions, _ = galaxies()
    _, bias = vote_head.soft_regression(np.zeros((300, 1)), fractions, 1.0)
    np.testing.assert_allclose(softmax(bias), fractions.mean(axis=0), atol=1e-4)


def test_a_head_finds_the_fractions_of_galaxies_it_has_not_seen():
    features, fractions, truth = galaxies(1200)
    head = vote_head.fit(features[:900], fractions[:900])
    error = np.sqrt(((head.probabilities(features[900:]) - truth[900:]) ** 2).mean())
    assert error < 0.35 * truth.std()
    assert head.unseen.shape == (900, 3)


def test_the_layers_of_a_network_give_the_head_s_probabilities():
    features, fractions, _ = galaxies()
    head = vote_head.fit(features, fractions)
    kernel, bias, last, last_bias = head.layers(vote_head.COMPONENTS)
    assert kernel.shape == (6, vote_head.COMPONENTS)
    found = softmax((features @ kernel + bias) @ last + last_bias, axis=1)
    np.testing.assert_allclose(found, head.probabilities(features), atol=1e-9)


def test_a_fold_s_head_has_not_seen_its_galaxies():
    """Features that know nothing but each galaxy are learnt by heart, and do not help others."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(200, 400))
    fractions = rng.dirichlet([1, 1, 1], 200)
    head = vote_head.fit(features, fractions)
    label = fractions.argmax(axis=1)
    assert (head.unseen.argmax(axis=1) == label).mean() < 0.45
    assert (head.probabilities(features).argmax(axis=1) == label).mean() > 0.45


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 6), n=st.integers(5, 60))
def test_what_is_chosen_by_is_scikit_learn_s_macro_f1_and_balanced_accuracy(seed, classes, n):
    label, decided = np.random.default_rng(seed).integers(0, classes, (2, n))
    own = {"labels": np.unique(label), "average": "macro"}
    expected = metrics.f1_score(label, decided, **own, zero_division=0)
    recall = metrics.recall_score(label, decided, **own)
    assert vote_head._merit(label, decided) == pytest.approx(expected + recall)


def test_rare_classes_are_found_by_the_decision():
    p = np.array([[0.8, 0.15, 0.05], [0.5, 0.1, 0.4]])
    assert evaluation.decide(p).tolist() == [0, 0]
    assert evaluation.decide(p, np.log([0.9, 0.09, 0.01])).tolist() == [2, 2]
    assert evaluation.decide(p, [0.0, 0.0, 0.0]).tolist() == [0, 0]


def test_merged_classes_have_the_votes_of_both():
    sample = pd.DataFrame([[0.1, 0.2, 0.3, 0.15, 0.05, 0.2]], columns=RHO_COLUMNS)
    found = vote_head.fractions(sample, ("2", "4+5+"))
    np.testing.assert_allclose(found, [[0.5, 0.5]])
    found = vote_head.fractions(sample, ("1", "2", "3", "4", "5+", "?"))
    np.testing.assert_allclose(found, [[0.1, 0.2, 0.3, 0.15, 0.05, 0.2]])


def test_of_equal_choices_the_strongest_penalty_and_the_simplest_decision_is_taken(monkeypatch):
    features, fractions, _ = galaxies()
    monkeypatch.setattr(vote_head, "_merit", lambda label, decided: 1.0)
    head = vote_head.fit(features, fractions)
    assert head.strength == min(vote_head.STRENGTHS) and (head.offsets == 0).all()
    offsets = vote_head.fit_decision(fractions, fractions.argmax(axis=1), fractions.mean(axis=0))
    assert (offsets == 0).all()


def test_a_fitted_decision_finds_the_rare_class():
    """Probabilities that are right, of a rare class which the most probable one hardly ever is."""
    rng = np.random.default_rng(4)
    p = rng.dirichlet([9, 0.6, 0.6], 3000)
    label = (p.cumsum(axis=1) < rng.random((3000, 1))).sum(axis=1)
    frequencies = np.bincount(label) / len(label)
    offsets = vote_head.fit_decision(p[:1500], label[:1500], frequencies)
    plain, rare = p[1500:].argmax(axis=1), evaluation.decide(p[1500:], offsets)
    scores = [metrics.balanced_accuracy_score(label[1500:], d) for d in (plain, rare)]
    assert scores[1] > scores[0] + 0.05


def test_missing_fractions_are_refused():
    features, fractions, _ = galaxies(30)
    fractions[3] = np.nan
    with pytest.raises(InputError, match="1 of 30 galaxies have vote fractions"):
        vote_head.fit(features, fractions)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), coverage=st.sampled_from([0.8, 0.9, 0.95]))
def test_sets_hold_the_label_as_often_as_asked_whatever_the_scores(seed, coverage):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([0.5, 1, 2, 0.3], 6000)  # they know nothing of the label
    label = rng.choice(4, 6000, p=[0.6, 0.2, 0.15, 0.05])
    least = conformal.threshold(probabilities[:3000], label[:3000], coverage)
    chosen = conformal.sets(probabilities[3000:], least)
    # Calibration and test each have a standard error of at most .4 / sqrt(3000).
    assert abs(conformal.coverage(chosen, label[3000:]) - coverage) < 5 * 0.0104
    assert chosen.any(axis=1).all()


def test_the_threshold_is_the_rank_of_the_theorem():
    probabilities = np.stack([np.linspace(0.01, 0.99, 99), 1 - np.linspace(0.01, 0.99, 99)], axis=1)
    # 90 of 99 calibration galaxies and the new one make 100: the 90th largest, .10.
    assert conformal.threshold(probabilities, np.zeros(99, int), 0.9) == pytest.approx(0.10)


def test_too_few_galaxies_and_impossible_coverages_are_refused():
    with pytest.raises(InputError, match="5 galaxies are too few"):
        conformal.threshold(np.ones((5, 2)) / 2, np.zeros(5, int))
    with pytest.raises(InputError, match="coverage = 1"):
        conformal.threshold(np.ones((50, 2)) / 2, np.zeros(50, int), 1)


def test_coverage_of_each_class_by_hand():
    label = ["1"] * 8 + ["2"] * 2
    in_set = [True] * 8 + [True, False]
    found = conformal.by_class(in_set, label, [1] * 8 + [3, 3], ("1", "2", "3"))
    assert found["galaxies"].tolist() == [8, 2, 0, 10]
    np.testing.assert_allclose(found["coverage"], [1, 0.5, np.nan, 0.9])
    np.testing.assert_allclose(found["set_size"], [1, 3, np.nan, 1.4])
    low, high = evaluation.wilson(1, 2)
    np.testing.assert_allclose(found.loc["2", ["low", "high"]], [low, high])
