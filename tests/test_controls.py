"""Every method on the same galaxies: against scikit-learn, known answers, and for leaks."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics
from sklearn.dummy import DummyClassifier

from lib import evaluation, images
from lib.counting import classical, controls
from lib.schema import InputError, probability_columns

CLASSES = ("1", "2", "3")
N = 300


def sample(seed=0):
    """Labels of unequal classes, and features that know them."""
    rng = np.random.default_rng(seed)
    label = rng.choice(3, N, p=[0.15, 0.75, 0.1])
    values = np.eye(3)[label] + 0.25 * rng.normal(size=(N, 3))
    ids = pd.Index(np.arange(N) + 587_722_981_741_363_294, name="galaxy_id")
    return label, pd.DataFrame(values, index=ids)


def probabilities(label, seed=1, known=1.5):
    """What a network says that has learnt the frequencies of the classes too."""
    logits = known * np.eye(3)[label] + np.random.default_rng(seed).normal(size=(len(label), 3))
    p = np.exp(logits + np.log([0.15, 0.75, 0.1]))
    return p / p.sum(axis=1, keepdims=True)


def group(label, ids, p, folds=5, seed=42, **settings):
    """Runs of all folds of one network; of what is not tested a quarter is validated with."""
    runs = []
    for fold, (train, test) in enumerate(evaluation.repeated_folds(label, folds, 1, seed)):
        table = pd.DataFrame({"galaxy_id": ids, "label": np.array(CLASSES)[label]})
        table["split"] = "train"
        table.loc[train[::4], "split"] = "validation"
        table.loc[test, "split"] = "test"
        table["predicted"] = np.array(CLASSES)[p.argmax(axis=1)]
        table[probability_columns(CLASSES)] = p
        own = {"role": "B0", "classes": list(CLASSES), "protocol": "sound", "decision": None}
        own |= {"fold": fold, "folds": folds, **settings}
        runs.append(evaluation.Run(f"f{fold}", own, table, pd.DataFrame()))
    return runs


@pytest.fixture(scope="module")
def found():
    label, features = sample()
    runs = group(label, features.index, probabilities(label))
    predicted = controls.predict([runs], features)
    return label, predicted, controls.score(predicted, CLASSES)


def value(table, method, rule, metric):
    own = table[(table["method"] == method) & (table["rule"] == rule)]
    return own.set_index("metric").loc[metric, "value"]


def test_every_method_has_every_galaxy_once_by_both_rules(found):
    label, predicted, table = found
    methods = [controls.MAJORITY, controls.CLASSICAL, "B0, 5 folds"]
    for (method, rule), part in predicted.groupby(["method", "rule"]):
        assert method in methods and rule in controls.RULES
        assert len(part) == N and part["galaxy_id"].is_unique
    assert len(table) == 3 * 2 * 3 and (table["galaxies"] == N).all()
    assert (table["protocol"] == "sound").all() and (table["folds"] == 5).all()
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    trained = table.groupby("method")["trained_on"].first()
    assert trained[controls.MAJORITY] == trained[controls.CLASSICAL] == 0.8 * N
    assert trained["B0, 5 folds"] == 0.6 * N


def test_scores_are_scikit_learn_s(found):
    _, predicted, table = found
    for (method, rule), part in predicted.groupby(["method", "rule"]):
        truth, said = part["label"], part["predicted"]
        expected = {
            "accuracy": metrics.accuracy_score(truth, said),
            "balanced_accuracy": metrics.balanced_accuracy_score(truth, said),
            "macro_f1": metrics.f1_score(truth, said, average="macro"),
        }
        for metric, score in expected.items():
            assert value(table, method, rule, metric) == pytest.approx(score)


def test_the_majority_class_is_scikit_learn_s_dummy_by_either_rule(found):
    label, _, table = found
    dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((N, 1)), label)
    expected = dummy.score(np.zeros((N, 1)), label)
    for rule in controls.RULES:
        assert value(table, controls.MAJORITY, rule, "accuracy") == pytest.approx(expected)
        assert value(table, controls.MAJORITY, rule, "balanced_accuracy") == pytest.approx(1 / 3)


def test_what_features_know_is_found_and_what_they_do_not_know_is_not():
    label, features = sample()
    runs = group(label, features.index, probabilities(label))
    table = controls.score(controls.predict([runs], features), CLASSES)
    assert value(table, controls.CLASSICAL, "arg-max", "macro_f1") > 0.85
    noise = pd.DataFrame(np.random.default_rng(5).normal(size=(N, 3)), index=features.index)
    table = controls.score(controls.predict([runs], noise), CLASSES)
    assert abs(value(table, controls.CLASSICAL, "arg-max", "balanced_accuracy") - 1 / 3) < 0.12


def test_the_decision_for_rare_classes_finds_more_of_them(found):
    _, _, table = found
    plain, rare = (value(table, "B0, 5 folds", r, "balanced_accuracy") for r in controls.RULES)
    assert rare > plain + 0.05


def test_nothing_is_fitted_or_chosen_on_the_galaxies_of_the_fold():
    """Other labels of the galaxies that a fold tests leave what is said of them as it is."""
    label, features = sample()
    p = probabilities(label)
    runs = group(label, features.index, p)
    before = controls.predict([runs], features)
    tested = runs[2].predictions["split"] == "test"
    changed = runs[2].predictions.copy()
    changed.loc[tested, "label"] = np.roll(changed.loc[tested, "label"].to_numpy(), 7)
    other = evaluation.Run("f2", runs[2].settings, changed, pd.DataFrame())
    after = controls.predict([[*runs[:2], other, *runs[3:]]], features)
    assert not before["label"].equals(after["label"])
    pd.testing.assert_series_equal(before["predicted"], after["predicted"])


def test_a_network_with_a_decision_of_its_own_keeps_it():
    label, features = sample()
    p = probabilities(label)
    offsets = [0.0, 50.0, 0.0]  # never class 2
    predicted = controls.predict([group(label, features.index, p, decision=offsets)], features)
    own = predicted[predicted["method"] == "B0, 5 folds"].groupby("rule")["predicted"]
    assert "2" in set(own.get_group("arg-max")) and "2" not in set(own.get_group("rare classes"))


def test_other_folds_are_not_compared():
    label, features = sample()
    p = probabilities(label)
    groups = [group(label, features.index, p, role=r, seed=s) for r, s in (("B0", 1), ("V2M", 2))]
    assert [len(part) for part in controls.same_galaxies(groups)] == [1, 1]
    with pytest.raises(InputError, match="B0, 5 folds, V2M, 5 folds are not tested on the same"):
        controls.predict(groups, features)
    groups = [group(label, features.index, p, role=r) for r in ("B0", "V2M")]
    assert [len(part) for part in controls.same_galaxies(groups)] == [2]
    with pytest.raises(InputError, match="features lack 10 galaxies"):
        controls.predict(groups, features.iloc[10:])


def test_features_are_those_of_the_cached_images(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 96, 96, 3)).astype("uint8")
    folder = tmp_path / "02_preprocessing"
    folder.mkdir()
    index = pd.DataFrame({"galaxy_id": [7, 8, 9], "row": [2, 0, 1]})
    index.attrs = {"sha256": "x", "binning": 2}
    np.save(folder / "images_rgb_96.npy", pixels)
    index.to_parquet(folder / "images_rgb_96.parquet")
    monkeypatch.setattr(controls.paths, "step_folder", lambda run, step: tmp_path / step)
    assert images.open_cache(folder, 96).arrays.shape == pixels.shape
    found = controls.features("run", pd.Series([9, 7]))
    assert found.index.tolist() == [9, 7]
    np.testing.assert_allclose(found, classical.features(pixels[[1, 2]], r90=25))
