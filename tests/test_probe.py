"""Tests of lib.counting.probe: folds that do not leak, chance on noise, a known pattern found."""

import numpy as np
import pandas as pd
import pytest
from patterns import R90, galaxy
from PIL import Image
from sklearn import metrics
from test_training import small_backbone

from lib import evaluation, images, training
from lib.counting import classical, probe
from lib.images import ImageCache
from lib.networks import models
from lib.networks.models import Network
from lib.schema import ARM_CLASSES

CLASSES = ("2", "3", "4")


def arms(n: int, seed: int = 1):
    """Clean patterns of 2, 3 and 4 arms at random angles: images and labels."""
    rng = np.random.default_rng(seed)
    label = np.tile([2, 3, 4], n // 3)
    images = [galaxy(m, rng.uniform(0, 360), rng.choice([-1, 1]) * 0.9) for m in label]
    return np.stack(images), label.astype(str)


def test_clean_patterns_are_counted_from_classical_features():
    images, label = arms(60)
    found = probe.cross_validate(classical.features(images, R90), label, folds=3)
    assert (found["predicted"] == found["label"]).mean() > 0.9


def test_each_galaxy_is_predicted_once_per_repeat_by_the_other_folds():
    label = np.tile(["2", "3"], 30)
    values = np.random.default_rng(0).normal(size=(60, 5))
    found = probe.cross_validate(values, label, folds=3, repeats=2, seed=4)
    assert len(found) == 120
    for (repeat, fold), part in found.groupby(["repeat", "fold"]):
        _, test = evaluation.repeated_folds(label, 3, 2, 4)[repeat * 3 + fold]
        assert sorted(part["galaxy"]) == sorted(test)
    assert (found["label"].to_numpy() == label[found["galaxy"]]).all()


def test_a_label_that_no_feature_knows_is_not_found():
    # A leak of the label into the features' scaling or choice of penalty would lift this.
    rng = np.random.default_rng(3)
    label = np.repeat(["2", "3"], 150)
    found = probe.cross_validate(rng.normal(size=(300, 400)), label, folds=5)
    assert abs((found["predicted"] == found["label"]).mean() - 0.5) < 0.1


def test_the_most_frequent_class_scores_its_share():
    label = np.array(["2"] * 70 + ["3"] * 20 + ["4"] * 10)
    table = probe.score_table({"dummy": probe.most_frequent(label)}, CLASSES)["value"]["dummy"]
    assert table["accuracy"] == pytest.approx(0.7)
    assert table["balanced_accuracy"] == pytest.approx(1 / 3)
    assert table["f1 of m = 2"] == pytest.approx(2 * 0.7 / 1.7)


def test_scores_are_those_of_scikit_learn_and_gains_are_their_differences():
    images, label = arms(60)
    noise = np.random.default_rng(0).normal(size=(60, 3))
    tables = {
        "noise": probe.cross_validate(noise, label, folds=3),
        "classical": probe.cross_validate(classical.features(images, R90), label, folds=3),
    }
    scores = probe.score_table(tables, CLASSES)
    for name, table in tables.items():
        macro = metrics.f1_score(table["label"], table["predicted"], average="macro")
        assert scores.loc[(name, "macro_f1"), "value"] == pytest.approx(macro)
    gain = probe.gains(tables, "noise", CLASSES).loc[("classical", "macro_f1")]
    difference = np.diff(scores["value"].unstack()["macro_f1"].loc[["noise", "classical"]])[0]
    assert gain["difference"] == pytest.approx(difference)
    assert 0 < gain["low"] < gain["difference"] < gain["high"]


def test_network_features_do_not_depend_on_the_orientation():
    images, _ = arms(3)
    both = np.concatenate([images, np.rot90(images, axes=(1, 2)), images[:, :, ::-1]])
    cache = ImageCache(both, None, 96, "rgb", "")
    values, receipt = probe.network_features(
        Network("B0", "EfficientNetV2B0", crop=96), cache, np.arange(9)
    )
    assert values.shape == (9, 1280) and receipt["source"] == "none"
    np.testing.assert_allclose(values[:3], values[3:6], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(values[:3], values[6:], rtol=1e-3, atol=1e-5)


@pytest.fixture
def run_of_colours(tmp_path):
    """A run with steps 01 and 02: each class has a colour, one channel bright or dark."""
    rng = np.random.default_rng(0)
    rows = []
    for number, galaxy_id in enumerate(rng.permutation(np.arange(100, 190))):
        picture = rng.integers(0, 60, (32, 32, 3)) + (190 if number % 6 >= 3 else 0)
        picture[..., number % 3] = 250 - picture[..., number % 3]
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / f"{number}.png")
        rows.append((galaxy_id, ARM_CLASSES[number % 6], f"{number}.png"))
    sample = pd.DataFrame(rows, columns=["galaxy_id", "label", "image_path"])
    sample = sample.sort_values("galaxy_id", ignore_index=True)  # as step 01 writes it
    images.write_cache(sample, tmp_path, tmp_path / "02_preprocessing", crop=32, size=32)
    (tmp_path / "01_sample_selection").mkdir()
    sample.to_parquet(tmp_path / "01_sample_selection" / "sample.parquet")
    return tmp_path, sample


@pytest.mark.parametrize("views", [None, 2])
def test_whole_trainings_predict_each_galaxy_by_the_other_folds(run_of_colours, monkeypatch, views):
    folder, sample = run_of_colours
    monkeypatch.setattr(models.weights, "build", small_backbone)
    trainable = "all" if views is None else "frozen"
    network = Network("B0", "EfficientNetV2B0", crop=32, trainable=trainable, dense_units=16)
    protocol = training.Protocol(
        "sound", epochs=10, batch_size=8, learning_rate=1e-2, feature_views=views
    )
    asked = str(folder), network, protocol, folder / "trainings"
    found = probe.train_by_fold(*asked, folds=3, seed=4)
    assert list(found["galaxy"]) == list(range(90))
    assert (found["label"] == sample["label"]).all()
    assert (found["predicted"] == found["label"]).mean() > 0.5
    for fold, (_, test) in enumerate(evaluation.repeated_folds(sample["label"], 3, 1, 4)):
        assert sorted(found["galaxy"][found["fold"] == fold]) == sorted(test)
    # What a killed notebook has trained is not trained again.
    monkeypatch.setattr(training, "train", None)
    pd.testing.assert_frame_equal(probe.train_by_fold(*asked, folds=3, seed=4), found)


def test_galaxies_that_are_left_out_are_neither_trained_on_nor_predicted(
    run_of_colours, monkeypatch
):
    folder, sample = run_of_colours
    monkeypatch.setattr(models.weights, "build", small_backbone)
    network = Network("B0", "EfficientNetV2B0", crop=32, trainable="frozen", dense_units=16)
    protocol = training.Protocol("sound", epochs=1, feature_views=1)
    gone, trained_on = sample["galaxy_id"].iloc[::3].tolist(), []
    train = training.train

    def watched(network, protocol, cache, assignment, *arguments, **more):
        trained_on.extend(assignment["galaxy_id"])
        return train(network, protocol, cache, assignment, *arguments, **more)

    monkeypatch.setattr(training, "train", watched)
    asked = str(folder), network, protocol, folder / "trainings"
    found = probe.train_by_fold(*asked, folds=2, leave_out=gone)
    left = sample[~sample["galaxy_id"].isin(gone)]
    assert list(found["label"]) == list(left["label"])
    assert trained_on and not set(trained_on) & set(gone)
