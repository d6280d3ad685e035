"""Tests of lib.training on a small convolutional network and on galaxies that are easy to tell.

The backbone is a stand-in of three layers with BatchNorm and dropout, so that a training takes a
second; lib.models' own tests build the real ones.
"""

import json
import subprocess
import sys
import textwrap
import threading

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score
from sklearn.utils.class_weight import compute_class_weight

from lib import evaluation, images, models, training
from lib.code import closure
from lib.models import Network
from lib.schema import ARM_CLASSES, RHO_COLUMNS, InputError
from lib.training import Protocol

CROP = 32
CLASSES = ("1", "2", "?")


def small_backbone(name, pixels, variant=None):
    start = keras.initializers.GlorotUniform(seed=3)  # as pre-trained weights: whatever the seed
    x = keras.layers.Rescaling(1 / 255)(pixels)
    x = keras.layers.Conv2D(
        8, 5, strides=4, use_bias=False, kernel_initializer=start, name="stem_conv"
    )(x)
    x = keras.layers.BatchNormalization(name="top_bn")(x)
    x = keras.layers.Dropout(0.2, name="block_drop")(x)
    x = keras.layers.Activation("swish", name="top_activation")(x)
    return keras.Model(keras.utils.get_source_inputs(pixels), x)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(models.weights, "build", small_backbone)


def write_survey(folder):
    """Noise with a bar of a class's own brightness; one image less than galaxies."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(72):
        label = CLASSES[i % 3]
        picture = rng.integers(0, 60, (CROP, CROP, 3))
        picture[12:20] += 90 * (i % 3)
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{i}.png")
        split = ("train", "train", "validation", "rest")[i // 3 % 4]
        rows.append((100 + i, label, split, f"{i}.png"))
    table = pd.DataFrame(rows, columns=["galaxy_id", "label", "split", "image_path"])
    cache, _ = images.write_cache(table, folder, folder / "cache", crop=CROP, size=CROP)
    return table.drop(columns="image_path"), cache


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    assignment, cache = write_survey(folder)
    return assignment, cache, folder


def network(**change):
    defaults = {"role": "V2M", "backbone": "EfficientNetV2B0", "crop": CROP, "dense_units": 16}
    return Network(**{**defaults, **change})


FROZEN = {"role": "B0", "backbone": "EfficientNetB0", "trainable": "frozen"}
QUICK = {"epochs": 4, "learning_rate": 1e-2}


def run(survey, folder, net=None, log=lambda line: None, assignment=None, **protocol):
    table, cache, _ = survey
    features = folder / "features" if protocol.get("feature_views") else None
    return training.train(
        net or network(),
        Protocol(**{**QUICK, **protocol}),
        cache,
        table if assignment is None else assignment,
        folder,
        features=features,
        log=log,
    )


def same_weights(a, b):
    return all((x.numpy() == y.numpy()).all() for x, y in zip(a.model.weights, b.model.weights))


def test_it_learns_and_predicts_every_galaxy(survey, tmp_path):
    lines = []
    result = run(survey, tmp_path, epochs=12, batch_size=4, log=lines.append)
    assert result.classes == CLASSES
    table = result.predictions
    assert list(table["galaxy_id"]) == list(survey[0]["galaxy_id"])
    assert (table["predicted"] == table["label"]).groupby(table["split"]).mean().min() > 0.8
    columns = ["p_1", "p_2", "p_unclear"]
    np.testing.assert_allclose(table[columns].sum(axis=1), 1, atol=1e-5)
    winners = table[columns].idxmax(axis=1).map(dict(zip(columns, CLASSES)))
    assert (winners == table["predicted"]).all()
    assert len(lines) == len(result.history) == 12
    assert lines[0].startswith("epoch 1/12: loss ")


def test_a_head_that_is_solved_for_learns_from_votes(survey, tmp_path):
    """The saved network gives the head's probabilities, and decides as the settings say."""
    table, cache, _ = survey
    rng = np.random.default_rng(0)
    votes = pd.DataFrame({"galaxy_id": table["galaxy_id"]})
    votes[list(RHO_COLUMNS)] = 0.02 + 0.02 * rng.random((len(table), 6))
    for c, column in zip(ARM_CLASSES, RHO_COLUMNS):
        votes.loc[table["label"] == c, column] = 0.8
    net = network(**FROZEN, activation="linear")
    rules = Protocol(head="votes", feature_views=1, epochs=1)
    result = training.train(
        net, rules, cache, table, tmp_path, votes=votes, features=tmp_path / "f"
    )
    shown = result.predictions
    assert (shown["predicted"] == shown["label"]).groupby(shown["split"]).mean().min() > 0.8
    p = shown[["p_1", "p_2", "p_unclear"]].to_numpy()
    decided = evaluation.decide(p, result.settings["decision"])
    assert (np.array(CLASSES)[decided] == shown["predicted"]).all()
    training.save_run(result, tmp_path)
    again = training.load_run(tmp_path)
    pixels = images.network_input(cache.arrays[:8], cache.colour, net.input_scale)
    np.testing.assert_allclose(again.model(pixels).numpy(), p[:8], atol=1e-4)
    assert len(result.history) == 1 and result.settings["best_epoch"] == 1


def test_a_head_that_is_solved_for_needs_votes(survey, tmp_path):
    table, cache, _ = survey
    net = network(**FROZEN, activation="linear")
    rules = Protocol(head="votes", feature_views=1, epochs=1)
    with pytest.raises(InputError, match="needs the vote fractions"):
        training.train(net, rules, cache, table, tmp_path, features=tmp_path / "f")
    with pytest.raises(InputError, match="needs a frozen backbone and feature_views"):
        training.train(net, Protocol(head="votes"), cache, table, tmp_path, votes=table)
    with pytest.raises(InputError, match="head = 'other'"):
        Protocol(head="other")


def test_the_best_epoch_is_kept(survey, tmp_path):
    result = run(survey, tmp_path, epochs=8)
    accuracy = result.history["val_accuracy"].to_numpy()
    best = result.settings["best_epoch"]
    assert best == 1 + int(np.flatnonzero(accuracy == accuracy.max())[0])
    validation = result.predictions[result.predictions["split"] == "validation"]
    assert np.mean(validation["predicted"] == validation["label"]) == pytest.approx(accuracy.max())
    kept = result.validation_probabilities
    assert kept.shape == (8, len(validation), 3)
    columns = validation[["p_1", "p_2", "p_unclear"]]
    np.testing.assert_allclose(kept[best - 1], columns, atol=1e-6)


def test_early_stopping_waits_for_patience(survey, tmp_path):
    result = run(survey, tmp_path, epochs=40, patience=3)
    epochs, best = len(result.history), result.settings["best_epoch"]
    assert epochs < 40 and epochs == best + 3


def test_published_batch_norm_keeps_its_statistics_and_trains_the_rest(survey, tmp_path):
    net = network()
    start, _ = models.build(net, 3, seed=42)
    published = run(survey, tmp_path / "a", net, batch_norm="inference", epochs=2).model
    adapted = run(survey, tmp_path / "b", net, batch_norm="train", epochs=2).model
    for name, same in (("moving_mean", True), ("moving_variance", True), ("gamma", False)):
        before = getattr(start.get_layer("top_bn"), name).numpy()
        after = getattr(published.get_layer("top_bn"), name).numpy()
        assert (before == after).all() == same, name
    mean = adapted.get_layer("top_bn").moving_mean.numpy()
    assert (mean != start.get_layer("top_bn").moving_mean.numpy()).all()


def test_a_frozen_backbone_stays_as_it_was(survey, tmp_path):
    net = network(**FROZEN)
    start, _ = models.build(net, 3, seed=42)
    result = run(survey, tmp_path, net).model
    for before, after in zip(models.body_of(start).weights, models.body_of(result).weights):
        np.testing.assert_array_equal(before.numpy(), after.numpy())
    kernels = [m.get_layer("dense").kernel.numpy() for m in (start, result)]
    assert (kernels[0] != kernels[1]).any()


def uneven(table):
    """The survey with three galaxies less to train on in one class, and six in another."""
    train = table[table["split"] == "train"]
    few = [train.index[train["label"] == c][: 3 * i] for i, c in enumerate(CLASSES)]
    return table.drop(np.concatenate(few)).reset_index(drop=True)


@pytest.mark.parametrize("balance", ["none", "class weights", "balanced sampling"])
def test_an_epoch_of_keras_fit_gives_the_same_weights(survey, tmp_path, balance):
    """Keras' own loop, fed with the same batches, is the reference for ours."""
    _, cache, _ = survey
    table = uneven(survey[0])
    protocol = Protocol(**{**QUICK, "epochs": 1})
    result = run(
        survey,
        tmp_path,
        network(),
        assignment=table,
        epochs=1,
        batch_norm="train",
        balance=balance,
    )
    reference, _ = models.build(network(), 3, seed=42)
    reference.compile(keras.optimizers.Adam(1e-2), "categorical_crossentropy", metrics=["accuracy"])
    train = np.flatnonzero(table["split"] == "train")
    numbers = np.array([CLASSES.index(label) for label in table["label"].iloc[train]])
    order = images.epoch_order(len(train), 42, 0)
    if balance == "balanced sampling":
        order = training.balanced_order(numbers, 42, 0)
        assert len(set(order)) < len(order) == 27
    rows, labels = cache.rows(table["galaxy_id"].iloc[train[order]]), numbers[order]
    targets = np.eye(3, dtype=np.float32)[labels]
    maps = protocol.transforms(rows, cache, protocol.views(order, 0))
    data = images.batches(cache, rows, 16, maps=maps, targets=targets)
    weights = None
    if balance == "class weights":
        values = compute_class_weight("balanced", classes=np.arange(3), y=labels)
        weights = dict(enumerate(values))
        assert weights[2] > weights[0]
    fitted = reference.fit(data, epochs=1, verbose=0, shuffle=False, class_weight=weights)
    history = fitted.history
    for ours, theirs in zip(result.model.weights, reference.weights):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=2e-5)
    assert result.history["loss"][0] == pytest.approx(history["loss"][0], rel=1e-4)
    assert result.history["accuracy"][0] == pytest.approx(history["accuracy"][0], abs=1e-6)


def test_a_fused_step_of_adam_is_that_of_keras():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(40, 5)).astype(np.float32)
    ends = []
    for kind in (keras.optimizers.Adam, training.Adam):
        variable = keras.Variable(np.ones(5, np.float32))
        optimizer = kind(0.01)
        optimizer.build([variable])
        for gradient in gradients:
            optimizer.apply([tf.constant(gradient)], [variable])
        ends.append([variable.numpy(), *(v.numpy() for v in optimizer.variables)])
    for ours, theirs in zip(*ends):
        # 1 - 0.999 is rounded to float32, Keras' is not: the second moments differ by 1.3e-5.
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-7)
    assert np.abs(ends[0][0] - 1).min() > 1e-3


@pytest.mark.parametrize("n", [16, 11, 2])
def test_parts_of_a_batch_add_up_to_its_step(n):
    """By plain gradient descent, in which a step is the gradient; twice, from zero each time."""
    rng = np.random.default_rng(n)
    pixels = rng.uniform(0, 255, (n, CROP, CROP, 3)).astype(np.float32)
    targets = np.eye(3, dtype=np.float32)[rng.integers(0, 3, n)]
    weights, results = [], []
    for accumulate in (1, 3):
        model, _ = models.build(network(), 3, seed=1)
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)
        loss = keras.losses.CategoricalCrossentropy()
        step = training._step_function(model, optimizer, loss, False, accumulate=accumulate)
        results.append([[float(x) for x in step(pixels, targets)] for _ in range(2)])
        weights.append([w.numpy() for w in model.weights])
    for whole, parts in zip(*weights):
        np.testing.assert_allclose(parts, whole, atol=1e-6)
    np.testing.assert_allclose(*results, rtol=1e-5)
    assert results[0][0] != results[0][1]


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_trains_a_network_that_predicts_in_float32(survey, tmp_path, precision):
    result = run(survey, tmp_path, epochs=12, batch_size=4, precision=precision)
    assert result.validation_probabilities.dtype == np.float32
    assert all(w.dtype == "float32" and np.isfinite(w.numpy()).all() for w in result.model.weights)
    table, columns = result.predictions, ["p_1", "p_2", "p_unclear"]
    assert (table["predicted"] == table["label"]).mean() > 0.8
    # Of 8 or 11 significant bits in training, and 24 afterwards.
    best = result.validation_probabilities[result.settings["best_epoch"] - 1]
    plain = table.loc[table["split"] == "validation", columns].to_numpy()
    assert 1e-6 < np.abs(best - plain).max() < 0.05
    assert plain.dtype == np.float32
    folder = tmp_path / "run"
    folder.mkdir()
    training.save_run(result, folder)
    pixels = images.network_input(survey[1].arrays, "rgb", 1.0)
    loaded = training.load_run(folder).model(pixels)
    np.testing.assert_allclose(loaded, table[columns], atol=1e-5)


def test_class_weights_are_those_of_scikit_learn():
    labels = np.repeat([0, 1, 2, 3], [115, 210, 19, 21])
    weights = training.class_weights(labels, 4)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert weights[labels].mean() == pytest.approx(1, rel=1e-6)


def test_losses_are_those_of_their_formulas():
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(3), 40).astype(np.float32)
    label = rng.integers(0, 3, 40)
    targets, given = np.eye(3, dtype=np.float32)[label], p[np.arange(40), label].astype(float)
    weights = np.array([0.5, 1, 4], np.float32)

    def loss(**change):
        return float(training.make_loss(Protocol(**change), weights)(targets, p))

    assert loss() == pytest.approx(-np.log(given).mean(), rel=1e-5)
    weighted = -(weights[label] * np.log(given)).mean()
    assert loss(balance="class weights") == pytest.approx(weighted, rel=1e-5)
    for gamma in (0.0, 2.0, 3.5):
        expected = -((1 - given) ** gamma * np.log(given)).mean()
        ours = loss(balance="focal loss", focal_gamma=gamma)
        assert ours == pytest.approx(expected, rel=1e-4)


def test_balanced_sampling_draws_every_class_equally_often():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 7, 3]))
    epochs = [training.balanced_order(labels, 42, epoch) for epoch in range(40)]
    for order in epochs:
        assert np.bincount(labels[order]).tolist() == [20, 20, 20]
        times = np.bincount(order, minlength=60)
        assert times[labels == 0].max() == 1
        assert set(times[labels == 1]) == {2, 3} and set(times[labels == 2]) == {6, 7}
    assert np.array_equal(epochs[3], training.balanced_order(labels, 42, 3))
    assert not np.array_equal(epochs[3], training.balanced_order(labels, 43, 3))
    # 40 epochs of 20: each of the 50 is drawn 16 times, give or take four standard deviations.
    drawn = np.bincount(np.concatenate(epochs), minlength=60)[labels == 0]
    assert drawn.sum() == 800 and abs(drawn - 16).max() < 4 * np.sqrt(40 * 0.4 * 0.6)


def test_a_galaxy_that_comes_again_is_seen_in_another_view():
    order = np.array([3, 1, 3, 3, 0])
    assert Protocol(feature_views=4).views(order, 6).tolist() == [2, 2, 3, 0, 2]
    protocol = Protocol(epochs=10)
    assert protocol.views(order, 6).tolist() == [6, 6, 16, 26, 6]
    assert protocol.views(np.arange(5), 6).tolist() == [6] * 5


def test_each_row_is_augmented_in_its_own_view(survey):
    _, cache, _ = survey
    protocol = Protocol()
    rows, views = np.array([5, 2, 5, 9]), np.array([0, 3, 3, 0])
    maps = protocol.transforms(rows, cache, views)
    for i in range(4):
        np.testing.assert_array_equal(maps[i], protocol.transforms(rows[[i]], cache, views[i])[0])


def test_runs_at_the_same_time_compute_a_feature_once(survey, tmp_path):
    _, cache, _ = survey
    model, _ = models.build(network(**FROZEN), 3, seed=42)
    computed = []

    def stream(rows, view):
        computed.extend(set(rows))
        return images.batches(cache, rows, training.PREDICTION_BATCH)

    stores = [
        training.FeatureStore(tmp_path, models.body_of(model), {"a": 1}, stream) for _ in "ab"
    ]
    found = {}

    def get(i, rows):
        found[i] = stores[i].get(rows, None)

    both = [np.arange(20), np.arange(10, 30)]
    threads = [threading.Thread(target=get, args=(i, rows)) for i, rows in enumerate(both)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(computed) == list(range(30))
    np.testing.assert_array_equal(found[0][10:], found[1][:10])


def test_features_do_not_depend_on_what_else_is_computed(survey, tmp_path):
    _, cache, _ = survey
    model, _ = models.build(network(**FROZEN), 3, seed=42)

    def features(folder, *asked):
        store = training.FeatureStore(
            tmp_path / folder,
            models.body_of(model),
            {},
            lambda rows, view: images.batches(cache, rows, training.PREDICTION_BATCH),
        )
        return [store.get(np.array(rows), None) for rows in asked][-1]

    everything = np.arange(len(cache.arrays))
    at_once = features("at once", everything)
    np.testing.assert_array_equal(features("in parts", [70, 3, 6], [6, 5], everything), at_once)


def test_every_row_has_its_place_in_a_batch():
    rows = np.array([7, 3, 11, 2])
    batches, place = training._fixed_places(rows, 4)
    assert batches.tolist() == [[7, 7, 2, 7], [7, 7, 7, 3], [7, 7, 7, 11]]
    assert batches.ravel()[place].tolist() == rows.tolist()


def test_same_seed_same_weights_other_seed_other_weights(survey, tmp_path):
    first, again, other = (
        run(survey, tmp_path / str(i), seed=seed) for i, seed in enumerate((42, 42, 43))
    )
    assert same_weights(first, again) and not same_weights(first, other)
    pd.testing.assert_frame_equal(first.predictions, again.predictions)


class StopHereError(Exception):
    pass


def stop_after(epoch):
    def log(line):
        if line.startswith(f"epoch {epoch}/"):
            raise StopHereError

    return log


@pytest.mark.parametrize(
    ("net", "change"),
    [
        ({}, {"batch_norm": "train", "balance": "class weights"}),
        (FROZEN, {"feature_views": 3}),
        (FROZEN, {"feature_views": 3, "balance": "balanced sampling"}),
        ({}, {"precision": "mixed_bfloat16", "accumulate": 3}),
        ({}, {"precision": "mixed_float16"}),
    ],
    ids=["fine-tuned", "cached features", "balanced sampling", "bfloat16 in parts", "float16"],
)
def test_an_interrupted_run_ends_with_the_same_bits(survey, tmp_path, net, change):
    net = network(**net)
    change["assignment"] = uneven(survey[0])
    straight = run(survey, tmp_path / "straight", net, epochs=6, **change)
    with pytest.raises(StopHereError):
        run(survey, tmp_path / "broken", net, stop_after(4), epochs=6, **change)
    lines = []
    resumed = run(survey, tmp_path / "broken", net, lines.append, epochs=6, **change)
    assert lines[0] == "going on after epoch 4 of an earlier run" and len(lines) == 3
    assert same_weights(straight, resumed)
    pd.testing.assert_frame_equal(straight.predictions, resumed.predictions)
    drop = ["seconds"]
    pd.testing.assert_frame_equal(
        straight.history.drop(columns=drop), resumed.history.drop(columns=drop)
    )
    np.testing.assert_array_equal(
        straight.validation_probabilities, resumed.validation_probabilities
    )


def test_early_stopping_survives_an_interruption(survey, tmp_path):
    settings = {"epochs": 40, "patience": 3}
    straight = run(survey, tmp_path / "straight", **settings)
    with pytest.raises(StopHereError):
        run(survey, tmp_path / "b", log=stop_after(len(straight.history) - 1), **settings)
    resumed = run(survey, tmp_path / "b", **settings)
    assert len(resumed.history) == len(straight.history) and same_weights(straight, resumed)


def test_a_killed_process_is_taken_up(survey, tmp_path):
    """SIGKILL in the middle of the third epoch, between two batches."""
    program = f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(__file__).rpartition("/")[0]!r})
        import test_training as t
        t.models.weights.build = t.small_backbone
        order = t.training.epoch_order
        read = t.images.network_input
        epochs, batches = [], []
        def note(n, seed, epoch):
            epochs.append(epoch)
            return order(n, seed, epoch)
        def kill(*a):
            if epochs[-1:] == [2]:
                batches.append(1)
                if len(batches) == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
            return read(*a)
        t.training.epoch_order, t.images.network_input = note, kill
        folder = Path({str(survey[2])!r})
        table = t.pd.read_csv(folder / "assignment.csv", dtype={{"label": str}})
        cache = t.images.open_cache(folder / "cache", t.CROP)
        t.run((table, cache, folder), Path({str(tmp_path / "killed")!r}), epochs=5, log=print)
    """
    survey[0].to_csv(survey[2] / "assignment.csv", index=False)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr
    lines = []
    resumed = run(survey, tmp_path / "killed", log=lines.append, epochs=5)
    assert lines[0] == "going on after epoch 2 of an earlier run"
    straight = run(survey, tmp_path / "straight", epochs=5)
    assert same_weights(straight, resumed)


def test_several_devices_make_the_steps_of_one(survey, tmp_path):
    """Two devices, made of a processor; the last batch of an epoch has one galaxy for both."""
    program = f"""
        import sys
        from pathlib import Path
        import tensorflow as tf
        (processor,) = tf.config.list_physical_devices("CPU")
        half = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(processor, [half, half])
        sys.path.insert(0, {str(__file__).rpartition("/")[0]!r})
        import test_training as t
        t.models.weights.build = t.small_backbone
        folder, out = Path({str(survey[2])!r}), Path({str(tmp_path)!r})
        table = t.pd.read_csv(folder / "assignment.csv", dtype={{"label": str}})
        assert (table["split"] == "train").sum() % 7 == 1
        given = table, t.images.open_cache(folder / "cache", t.CROP), folder
        settings = dict(batch_size=7, learning_rate=1e-3)
        one = t.run(given, out / "one", **settings)
        all_ = t.run(given, out / "all", devices="all", **settings)
        assert [r.settings["replicas"] for r in (one, all_)] == [1, 2]
        assert not t.same_weights(one, t.run(given, out / "other", **(settings | {{"seed": 7}})))
        for a, b in zip(one.model.weights, all_.model.weights):
            t.np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5)
        history = [r.history.drop(columns="seconds") for r in (one, all_)]
        t.pd.testing.assert_frame_equal(*history, rtol=1e-4)
        try:
            t.run(given, out / "broken", log=t.stop_after(2), devices="all", **settings)
        except t.StopHereError:
            resumed = t.run(given, out / "broken", log=print, devices="all", **settings)
        assert t.same_weights(all_, resumed)
    """
    survey[0].to_csv(survey[2] / "assignment.csv", index=False)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("going on after epoch 2 of an earlier run")


@pytest.mark.parametrize("change", [{"learning_rate": 1e-3}, {"seed": 7}])
def test_a_run_with_other_settings_starts_anew(survey, tmp_path, change):
    with pytest.raises(StopHereError):
        run(survey, tmp_path, log=stop_after(1))
    lines = []
    run(survey, tmp_path, log=lines.append, **change)
    assert lines[0].startswith("epoch 1/")


def test_a_run_of_other_code_starts_anew_and_takes_no_features_of_it(survey, tmp_path, monkeypatch):
    net, views = network(**FROZEN), {"feature_views": 1}
    with pytest.raises(StopHereError):
        run(survey, tmp_path, net, stop_after(1), **views)
    before = set((tmp_path / "features").glob("*.npz"))
    decides = {f"lib/{name}.py" for name in ("training", "models", "images", "votes", "polar")}
    assert decides <= closure(training.__file__).keys()
    monkeypatch.setattr(training, "closure_hash", lambda file: "mended")
    lines = []
    run(survey, tmp_path, net, lines.append, **views)
    assert lines[0].startswith("epoch 1/")
    assert len(set((tmp_path / "features").glob("*.npz")) - before) == len(before) == 2


def test_as_many_views_as_epochs_are_the_published_training(survey, tmp_path):
    """Cached features with K = epochs see the same images in the same order."""
    plain = run(survey, tmp_path / "plain", network(**FROZEN), epochs=5)
    cached = run(survey, tmp_path / "cached", network(**FROZEN), epochs=5, feature_views=5)
    columns = ["loss", "accuracy", "val_loss", "val_accuracy"]
    np.testing.assert_allclose(cached.history[columns], plain.history[columns], atol=1e-4)
    for ours, theirs in zip(cached.model.weights, plain.model.weights):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-3)


def test_features_are_shared_between_seeds_classes_and_heads(survey, tmp_path):
    views = {"feature_views": 2, "view_seed": 1}
    table = survey[0]

    def stored():
        return {p.name: len(np.load(p)["rows"]) for p in (tmp_path / "features").glob("*.npz")}

    def written():
        return {p.name: p.stat().st_mtime_ns for p in (tmp_path / "features").glob("*.npz")}

    run(survey, tmp_path, network(**FROZEN), assignment=table[table["label"] != "?"], **views)
    assert sorted(stored().values()) == [24, 24, 48]  # two training views, all as they are
    before = written()
    other = network(**FROZEN, **{"dense_units": 4})
    run(survey, tmp_path, other, assignment=table[table["label"] != "?"], seed=8, **views)
    assert written() == before
    run(survey, tmp_path, network(**FROZEN), **views)
    assert sorted(stored().values()) == [36, 36, 72] and stored().keys() == before.keys()
    run(survey, tmp_path, network(**FROZEN), **{**views, "view_seed": 2})
    assert len(stored()) == 6


def test_a_saved_run_is_the_run(survey, tmp_path):
    result = run(survey, tmp_path / "checkpoints", network(**FROZEN))
    folder = tmp_path / "run"
    folder.mkdir()
    training.save_run(result, folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        "history.csv",
        "metrics.json",
        "model.json",
        "model.keras",
        "predictions.parquet",
        "validation_probabilities.npy",
    ]
    loaded = training.load_run(folder)
    assert loaded.settings == json.loads((folder / "model.json").read_text())
    assert loaded.classes == CLASSES and loaded.settings["protocol"] == "published"
    pd.testing.assert_frame_equal(loaded.predictions, result.predictions, check_dtype=False)
    _, cache, _ = survey
    pixels = images.network_input(cache.arrays, "rgb", loaded.settings["input_scale"])
    columns = ["p_1", "p_2", "p_unclear"]
    np.testing.assert_allclose(loaded.model(pixels), loaded.predictions[columns], atol=1e-5)
    (folder / "model.keras").unlink()
    with pytest.raises(InputError, match="model.keras is missing"):
        training.load_run(folder)


def test_other_weights_than_described_are_refused(survey, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    result = run(survey, folder, network(**FROZEN), epochs=1)
    training.save_run(result, folder)
    assert (folder / "checkpoint").exists(), "a kill in a later cell would train it anew"
    settings = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**settings, "weights_sha256": "0" * 64}))
    with pytest.raises(InputError, match="does not hold the weights"):
        training.load_run(folder)


def test_metrics_are_those_of_scikit_learn(survey, tmp_path):
    result = run(survey, tmp_path, network(**FROZEN), epochs=2)
    scores = training.metrics(result.predictions, result.classes)
    assert set(scores) == {"train", "validation", "rest"}
    part = result.predictions[result.predictions["split"] == "rest"]
    accuracy = scores["rest"]["scores"]["accuracy"]
    assert accuracy["value"] == pytest.approx(accuracy_score(part["label"], part["predicted"]))
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    expected = f1_score(part["label"], part["predicted"], average=None, labels=list(CLASSES))
    ours = [scores["rest"]["classes"][c]["f1"] or 0.0 for c in CLASSES]
    np.testing.assert_allclose(ours, expected)
    json.dumps(scores, allow_nan=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs = 0: it must be 1 or more"),
        ({"batch_size": -1}, "batch_size = -1"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0"),
        ({"name": "new"}, "protocol = 'new': choose published or sound"),
        ({"batch_norm": "off"}, "batch_norm = 'off'"),
        ({"feature_views": 0}, "feature_views = 0"),
        ({"balance": "up"}, "balance = 'up': choose one of none, class weights"),
        ({"focal_gamma": -1.0}, "focal_gamma = -1.0"),
        ({"seed": -1}, "seed"),
        ({"accumulate": 0}, "accumulate = 0"),
        ({"precision": "float64"}, "precision = 'float64': choose one of float32, mixed_bf"),
        ({"precision": "mixed_bfloat16", "feature_views": 2}, "goes with feature_views = None"),
        ({"devices": "two"}, "devices = 'two': choose one or all"),
        ({"devices": "all", "feature_views": 2}, "set feature_views = None"),
        (
            {"devices": "all", "batch_norm": "train"},
            "batch_norm = 'train' goes with devices = 'one'",
        ),
        ({"devices": "all", "precision": "mixed_float16"}, "take mixed_bfloat16 or float32"),
    ],
)
def test_impossible_protocols_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        Protocol(**change)


def test_xla_is_refused_without_a_gpu(monkeypatch):
    monkeypatch.setattr(training.tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(InputError, match="jit = True, but TensorFlow sees no GPU here"):
        Protocol(jit=True)
    monkeypatch.setattr(training.tf.config, "list_physical_devices", lambda kind: [kind])
    assert Protocol(jit=True).jit


def test_what_cannot_be_trained_is_refused_before_training(survey, tmp_path):
    table, cache, _ = survey
    with pytest.raises(InputError, match="opened as rgb 32 px, the network takes grey 32 px"):
        run(survey, tmp_path, network(colour="grey"))
    with pytest.raises(InputError, match="feature_views needs a frozen backbone"):
        run(survey, tmp_path, feature_views=2)
    stranger = pd.concat([table, table.head(1).assign(galaxy_id=1)])
    with pytest.raises(InputError, match="1 galaxies have no image in the cache"):
        run(survey, tmp_path, assignment=stranger)
    unknown = table.assign(label=table["label"].replace({"?": "seven"}))
    with pytest.raises(InputError, match="'seven'.* are not the classes of any merge"):
        run(survey, tmp_path, assignment=unknown)
    untrained = table[(table["label"] != "1") | (table["split"] != "train")]
    with pytest.raises(InputError, match="no galaxy to train on in class 1"):
        run(survey, tmp_path, assignment=untrained)
    with pytest.raises(InputError, match="no galaxy to validate with"):
        run(survey, tmp_path, assignment=table[table["split"] == "train"])
    with pytest.raises(InputError, match="only one class"):
        run(survey, tmp_path, assignment=table[table["label"] == "1"])
    assert not list(tmp_path.rglob("*.npz"))


def test_divergence_is_said_in_words(survey, tmp_path, monkeypatch):
    def overflowing(name, pixels, variant):
        return small_backbone(name, keras.layers.Rescaling(1e38)(pixels))

    monkeypatch.setattr(models.weights, "build", overflowing)
    with pytest.raises(FloatingPointError, match="diverged. Take a lower learning_rate"):
        run(survey, tmp_path)
    assert not list(tmp_path.rglob("*.npz"))
