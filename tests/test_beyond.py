"""Tests of lib.counting.beyond and lib.recipes: parts do not overlap, folds do not leak, scores."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn import metrics

from lib import evaluation, recipes
from lib.counting import beyond
from lib.networks.models import Network
from lib.schema import ARM_CLASSES, RHO_COLUMNS, InputError
from lib.training import Protocol

CLASSES = ("1", "2", "3")


def survey(n=240, seed=0, known=2.0):
    """A sample whose votes follow from its features as well as `known` says."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 8))
    logits = known * values[:, :3] + rng.normal(size=(n, 3)) + [0.0, 1.0, 0.0]
    fractions = np.stack([rng.multinomial(40, p) / 40 for p in softmax(logits, axis=1)])
    sample = pd.DataFrame({"galaxy_id": np.arange(1000, 1000 + n)})
    sample[list(RHO_COLUMNS)] = 0.0
    sample[list(RHO_COLUMNS[:3])] = fractions
    sample["label"] = np.array(CLASSES)[fractions.argmax(axis=1)]
    noise = rng.normal(size=(n, 5))
    features = {"classical": noise, "amplitudes": values}
    features |= {name: noise for name in beyond.TOWERS}
    return beyond.Data(sample, features, CLASSES, np.zeros((n, 72, 72, 3), np.uint8))


def predict(data, **settings):
    features = data.features["amplitudes"]
    return beyond.cross_validate(features, data.fractions, data.label, CLASSES, **settings)


def test_the_test_part_is_a_fifth_of_every_class_and_always_the_same():
    label = np.repeat(["1", "2", "?"], [10, 80, 30])
    development, test = beyond.development_and_test(label)
    assert sorted([*development, *test]) == list(range(120))
    assert pd.Series(label[test]).value_counts().to_dict() == {"2": 16, "?": 6, "1": 2}
    again = beyond.development_and_test(label)
    assert all((a == b).all() for a, b in zip((development, test), again))
    with pytest.raises(InputError, match="class 4 has one galaxy"):
        beyond.development_and_test([*label, "4"])


def test_every_galaxy_is_predicted_once_per_repeat_by_heads_of_other_folds():
    data = survey()
    table = predict(data, folds=4, repeats=2, seed=3)
    assert (table.groupby(["repeat", "galaxy"]).size() == 1).all() and len(table) == 480
    folds = evaluation.repeated_folds(data.label, 4, 2, 3)
    for (repeat, fold), part in table.groupby(["repeat", "fold"]):
        assert sorted(part["galaxy"]) == sorted(folds[repeat * 4 + fold][1])


def test_a_galaxy_s_own_votes_do_not_reach_its_prediction():
    """Neither by the head nor by penalty, decision, temperature or the threshold of its set."""
    data = survey()
    _, test = evaluation.repeated_folds(data.label, 4, 1, 0)[2]
    changed = data.sample.copy()
    changed.loc[test, list(RHO_COLUMNS[:3])] = 1 / 3
    other = beyond.Data(changed, data.features, CLASSES, data.pixels)
    one, two = (d.pipe(lambda t: t[t["fold"] == 2]) for d in (
        predict(data, folds=4, repeats=1), predict(other, folds=4, repeats=1)))  # fmt: skip
    columns = [c for c in one if c[:2] in ("p_", "q_")] + ["predicted", "set_size"]
    pd.testing.assert_frame_equal(one[columns], two[columns])


def test_votes_that_no_feature_knows_are_not_found():
    data = survey(known=0.0)
    table = predict(data, repeats=1)
    balanced = metrics.balanced_accuracy_score(table["label"], table["predicted"])
    assert abs(balanced - 1 / 3) < 0.12


def test_known_votes_are_found_and_sets_cover():
    data = survey(600)
    table = predict(data, repeats=1)
    assert metrics.f1_score(table["label"], table["predicted"], average="macro") > 0.6
    found = beyond.quality(table, data.fractions, CLASSES)
    assert abs(found["coverage"] - 0.9) < 0.05 and found["ece"] < 0.08
    assert 1 <= found["set_size"] < 2
    p = table[["p_1", "p_2", "p_3"]].to_numpy()
    truth = data.fractions[table["galaxy"]]
    assert found["rmse"] == pytest.approx(metrics.mean_squared_error(truth, p) ** 0.5)
    assert found["cross_entropy"] == pytest.approx(metrics.log_loss(
        np.tile(CLASSES, len(p)), np.repeat(p, 3, axis=0), sample_weight=truth.ravel()
    ) * truth.sum() / len(p), rel=1e-6)  # fmt: skip


def test_the_test_part_is_predicted_by_the_rest():
    data = survey()
    development, test = beyond.development_and_test(data.label)
    judged = beyond.judge_once(data, ("amplitudes",), development, test)
    assert list(judged["galaxy"]) == list(test)
    blind = data.sample.copy()
    blind.loc[test, list(RHO_COLUMNS[:3])] = 1 / 3
    other = beyond.Data(blind, data.features, CLASSES, data.pixels)
    again = beyond.judge_once(other, ("amplitudes",), development, test)
    pd.testing.assert_frame_equal(judged.drop(columns="in_set"), again.drop(columns="in_set"))


def test_two_and_three_are_compared_in_equal_numbers():
    table = beyond.two_against_three(survey(), repeats=1)
    counts = table["label"].value_counts()
    assert set(counts.index) == {"2", "3"} and counts["2"] == counts["3"]


def test_more_galaxies_teach_more():
    curve = beyond.learning_curve(survey(600), [20, 400], repeats=1)
    value = curve[curve["score"] == "macro_f1"].set_index("galaxies")["value"]
    assert value[400] > value[20]


def test_merged_classes_share_their_votes():
    rng = np.random.default_rng(0)
    fractions = rng.dirichlet(np.ones(6) * 0.3, 300)
    sample = pd.DataFrame(fractions, columns=list(RHO_COLUMNS))
    sample["galaxy_id"] = np.arange(300)
    sample["label"] = np.array(ARM_CLASSES)[fractions.argmax(axis=1)]
    features = {n: fractions + 0 for n in (*beyond.TOWERS, "amplitudes", "classical")}
    data = beyond.Data(sample, features, ARM_CLASSES, np.zeros((300, 72, 72, 3), np.uint8))
    tasks = beyond.variants(data, repeats=1)
    tables, classes = tasks["4 and 5+ together"]
    assert classes == ("1", "2", "3", "4+5+", "?")
    assert set(tables[beyond.RECIPE]["label"]) == set(classes)
    pure, _ = tasks["one answer above 50%"]
    assert len(pure[beyond.RECIPE]) == (fractions.max(axis=1) > 0.5).sum()


def test_mistakes_are_the_surest_of_the_most_frequent_kinds():
    data = survey()
    table = predict(data, repeats=1)
    groups = beyond.mistakes(table, data, kinds=2, each=3)
    wrong = table[table["label"] != table["predicted"]]
    most = wrong.groupby(["label", "predicted"]).size().max()
    (name, (pictures, rows)), *_ = groups.items()
    assert name.endswith(f"({most})") and len(pictures) == len(rows) == min(3, most)
    assert rows["sure"].is_monotonic_decreasing
    assert (rows["label"] != rows["predicted"]).all()


def test_hidden_arms_are_scored_against_the_truth():
    data = survey()
    table = predict(data, repeats=1).assign(label=lambda t: t["label"].where(t.index % 4 > 0, "?"))
    ids = data.sample["galaxy_id"]
    found = np.array(CLASSES)[table[["p_1", "p_2", "p_3"]].to_numpy().argmax(axis=1)]
    truth = pd.DataFrame({"galaxy_id": ids.to_numpy()[table["galaxy"]], "arm_class": found})
    truth.loc[::2, "arm_class"] = "none"
    scored = beyond.unseen_arms(table, data, truth)
    assert (scored["right"] == 1).all()
    assert scored["galaxies"].sum() == 120


def test_a_class_with_too_few_galaxies_is_left_out_and_one_class_refused(monkeypatch, tmp_path):
    (tmp_path / "01_sample_selection").mkdir()
    (tmp_path / "02_preprocessing").mkdir()
    label = ["2"] * 12 + ["3"] * 3
    table = pd.DataFrame({"galaxy_id": range(15), "label": label})
    table.to_parquet(tmp_path / "01_sample_selection" / "sample.parquet")
    cache = SimpleNamespace(has=lambda ids: np.ones(len(ids), bool))
    monkeypatch.setattr(beyond.images, "open_cache", lambda *_: cache)
    monkeypatch.setattr(beyond.paths, "step_folder", lambda run, step, *_: tmp_path / step)
    with pytest.raises(InputError, match="fewer than two classes have 10 galaxies"):
        beyond.read(str(tmp_path))


def test_a_recipe_is_network_and_protocol_at_once():
    network, protocol = Network("V2M", "EfficientNetB0"), Protocol("sound", seed=5)
    assert recipes.apply("published", network, protocol) == (network, protocol)
    chosen, rules = recipes.apply("votes", network, protocol)
    assert (chosen.role, chosen.backbone, chosen.amplitudes) == ("V2M", "ArmNet", True)
    assert (rules.name, rules.seed, rules.head) == ("sound", 5, "votes")
    with pytest.raises(InputError, match="recipe = 'best'"):
        recipes.apply("best", network, protocol)
