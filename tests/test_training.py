"""Tests of lib.training on a small convolutional network and on galaxies that are easy to tell."""

import json
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score

from lib import evaluation, images, networks, training
from lib.schema import InputError
from lib.workflow.code import closure

CROP = 32
CLASSES = ("1", "2", "?")
tf.config.experimental.enable_op_determinism()  # as the notebooks do
SETTINGS = {
    **{"role": "V2M", "protocol": "published", "classes": list(CLASSES)},
    **{"epochs": 4, "batch_size": 16, "seed": 42},
}


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


def encoder():
    """A stand-in backbone with BatchNorm and dropout, whose training takes a second."""
    start = keras.initializers.GlorotUniform(seed=3)  # as pre-trained weights: whatever the seed
    pixels = keras.Input((CROP, CROP, 3))
    x = layers.Rescaling(1 / 255)(pixels)
    x = layers.Conv2D(8, 5, strides=4, use_bias=False, kernel_initializer=start)(x)
    x = layers.BatchNormalization(name="top_bn")(x)
    x = layers.Dropout(0.2)(x)
    x = layers.Activation("swish", name="top_activation")(x)
    pooled = layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(pixels, pooled, name="small")


def head(width, seed=42, rate=1e-2):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((width,)),
            layers.Dense(16, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(rate), "categorical_crossentropy", metrics=["accuracy"])
    return model


def network(seed=42, rate=1e-2, kind=networks.InferenceMode):
    keras.utils.set_random_seed(seed)
    body = encoder()
    x = layers.Dense(16, activation="relu")(body.output)
    model = kind(body.input, layers.Dense(3, activation="softmax")(x))
    model.compile(keras.optimizers.Adam(rate), "categorical_crossentropy", metrics=["accuracy"])
    return model


def run(survey, folder, model=None, **change):
    """A training as notebooks have it, and its model."""
    table, cache, _ = survey
    settings = SETTINGS | change
    model = model or network(settings["seed"])
    copies = images.Copies(cache, settings["seed"])
    return training.train(model, copies.get, table, folder, settings), model


def same(a, b):
    return all((x == y).all() for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


def test_it_learns_and_predicts_every_galaxy(survey, tmp_path):
    result, _ = run(survey, tmp_path, epochs=12, batch_size=4)
    assert result.classes == CLASSES
    table = result.predictions
    assert list(table["galaxy_id"]) == list(survey[0]["galaxy_id"])
    assert (table["predicted"] == table["label"]).groupby(table["split"]).mean().min() > 0.8
    columns = ["p_1", "p_2", "p_unclear"]
    np.testing.assert_allclose(table[columns].sum(axis=1), 1, atol=1e-5)
    winners = table[columns].idxmax(axis=1).map(dict(zip(columns, CLASSES)))
    assert (winners == table["predicted"]).all()
    assert list(result.history["epoch"]) == list(range(1, 13))


def test_the_best_epoch_is_kept(survey, tmp_path):
    result, _ = run(survey, tmp_path, epochs=12)
    best = result.history["val_accuracy"].idxmax()  # the first of equal ones
    assert result.settings["best_epoch"] == best + 1
    part = result.part("validation")
    assert (part["predicted"] == part["label"]).mean() == pytest.approx(
        result.history["val_accuracy"][best]
    )


def test_published_batch_norm_keeps_its_statistics_and_trains_the_rest(survey, tmp_path):
    for kind, kept in ((networks.InferenceMode, True), (keras.Model, False)):
        model = network(kind=kind)
        norm = model.get_layer("top_bn")
        gamma, *_, mean, variance = (v.numpy() for v in norm.weights)
        run(survey, tmp_path / kind.__name__, model, epochs=1)
        assert (norm.moving_mean.numpy() == mean).all() == kept
        assert (norm.moving_variance.numpy() == variance).all() == kept
        assert (norm.gamma.numpy() != gamma).any()


def test_an_inference_mode_network_is_saved_and_loaded(survey, tmp_path):
    model = network()
    table, cache, _ = survey
    pixels = images.Copies(cache, 0).get(table["galaxy_id"][:4])
    probabilities = model.predict(pixels, verbose=0)
    history = pd.DataFrame({"epoch": [1], "val_accuracy": [1.0]})
    every = model.predict(images.Copies(cache, 0).get(table["galaxy_id"]), verbose=0)
    predictions = training.prediction_table(table, every, CLASSES)
    training.save_run(tmp_path, SETTINGS, history, predictions, model)
    loaded = training.load_run(tmp_path)
    np.testing.assert_allclose(loaded.model(pixels), probabilities, atol=1e-6)
    assert loaded.classes == CLASSES
    pd.testing.assert_frame_equal(loaded.predictions, predictions, check_dtype=False)
    settings = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**settings, "weights_sha256": "0" * 64}))
    with pytest.raises(InputError, match="does not hold the weights"):
        training.load_run(tmp_path)
    (tmp_path / "model.keras").unlink()
    with pytest.raises(InputError, match="model.keras is missing"):
        training.load_run(tmp_path)


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


def seen(batches):
    """Galaxies and copies of an epoch, in the order of its batches."""
    found = [batches[i][0] for i in range(len(batches))]
    return np.concatenate([f["galaxies"] for f in found]), [f["copies"] for f in found]


def told(galaxies, copies):
    return {"galaxies": galaxies, "copies": copies}


def test_batches_of_an_epoch_follow_from_its_number():
    galaxies, targets = np.arange(10) * 7, np.eye(2, dtype=np.float32)[[0, 1] * 5]
    data = training.Batches(told, galaxies, targets, 4, seed=1, copies=3)
    assert len(data) == 3
    orders = []
    for epoch in (0, 1, 4, 0):
        data.epoch = epoch
        order, copies = seen(data)
        assert sorted(order) == sorted(galaxies)
        assert (np.concatenate(copies) == epoch % 3).all()
        np.testing.assert_array_equal(data[1][1], targets[order[4:8] // 7])
        orders.append(order)
    assert (orders[0] == orders[3]).all() and (orders[0] != orders[1]).any()
    fresh = training.Batches(told, galaxies, targets, 4, seed=1)
    fresh.epoch = 4
    assert (np.concatenate(seen(fresh)[1]) == 4).all()
    plain = training.Batches(told, galaxies)
    assert (seen(plain)[0] == galaxies).all() and seen(plain)[1] == [None]


def test_a_galaxy_that_comes_again_is_seen_as_another_copy():
    targets = np.eye(2, dtype=np.float32)[[0] * 8 + [1] * 2]
    data = training.Batches(
        told, np.arange(10), targets, 10, seed=1, copies=4, order="balanced sampling"
    )
    rare = [
        (galaxy, copy)
        for batch in [data[0][0]]
        for galaxy, copy in zip(batch["galaxies"], batch["copies"])
        if galaxy >= 8
    ]
    assert len(rare) == len(set(rare)) == 5


def test_each_image_is_augmented_as_its_own_copy(survey):
    table, cache, _ = survey
    copies = images.Copies(cache, 42)
    ids, numbers = table["galaxy_id"].to_numpy()[[5, 2, 5, 9]], np.array([0, 3, 3, 0])
    together = copies.get(ids, numbers)
    for i in range(4):
        np.testing.assert_array_equal(together[i], copies.get(ids[[i]], numbers[[i]])[0])
    assert (together[0] != together[2]).any()
    np.testing.assert_array_equal(copies.get(ids)[0], cache.arrays[cache.rows(ids)[0]])


def test_stores_at_the_same_time_compute_a_feature_once(survey, tmp_path, monkeypatch):
    table, cache, _ = survey
    copies, body = images.Copies(cache, 42), encoder()
    computed, of_rows = [], images.Copies.of_rows

    def noted(self, rows, copy):
        computed.extend(set(rows))
        return of_rows(self, rows, copy)

    monkeypatch.setattr(images.Copies, "of_rows", noted)
    stores = [training.FeatureStore(body, copies, tmp_path) for _ in "ab"]
    ids, found = table["galaxy_id"].to_numpy(), {}
    both = [ids[:20], ids[10:30]]

    def get(i):
        found[i] = stores[i].get(both[i])

    threads = [threading.Thread(target=get, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(computed) == sorted(cache.rows(ids[:30]))
    np.testing.assert_array_equal(found[0][10:], found[1][:10])


def test_features_do_not_depend_on_what_else_is_computed(survey, tmp_path):
    table, cache, _ = survey
    body, ids = encoder(), table["galaxy_id"].to_numpy()

    def features(folder, *asked):
        store = training.FeatureStore(body, images.Copies(cache, 42), tmp_path / folder)
        return [store.get(galaxies) for galaxies in asked][-1]

    at_once = features("at once", ids)
    in_parts = features("in parts", ids[[70, 3, 6]], ids[[6, 5]], ids)
    np.testing.assert_array_equal(in_parts, at_once)
    expected = body.predict(images.Copies(cache, 42).get(ids), verbose=0)
    np.testing.assert_allclose(at_once, expected, atol=1e-5)


def test_features_of_other_weights_images_or_copies_have_files_of_their_own(survey, tmp_path):
    _, cache, _ = survey
    body = encoder()

    def key(model=body, seed=42, **change):
        copies = images.Copies(cache, seed, images.Augmentation(**change))
        return training.FeatureStore(model, copies, tmp_path).key

    other = encoder()
    other.set_weights([w + 1 for w in other.get_weights()])
    changed = {key(other), key(seed=43), key(zoom=0.1)}
    assert key() == key() and len(changed | {key()}) == 4


def test_every_row_has_its_place_in_a_batch():
    rows = np.array([7, 3, 11, 2])
    batches, place = training._fixed_places(rows, 4)
    assert batches.tolist() == [[7, 7, 2, 7], [7, 7, 7, 3], [7, 7, 7, 11]]
    assert batches.ravel()[place].tolist() == rows.tolist()


def test_same_seed_same_weights_other_seed_other_weights(survey, tmp_path):
    runs = [run(survey, tmp_path / str(i), seed=seed) for i, seed in enumerate((42, 42, 43))]
    (first, a), (again, b), (_, c) = runs
    assert same(a, b) and not same(a, c)
    pd.testing.assert_frame_equal(first.predictions, again.predictions)


class StopHereError(Exception):
    pass


def interrupted(monkeypatch, epoch):
    """Stop a training when the state of an epoch has been written."""
    end = training.Resume.on_epoch_end

    def stop(self, number, logs=None):
        end(self, number, logs)
        if number + 1 == epoch:
            raise StopHereError

    monkeypatch.setattr(training.Resume, "on_epoch_end", stop)


@pytest.mark.parametrize("kind", [networks.InferenceMode, keras.Model])
def test_an_interrupted_training_ends_with_the_same_bits(survey, tmp_path, monkeypatch, kind):
    """With BatchNorm in training mode and dropout the states of both are resumed too."""
    straight, model = run(survey, tmp_path / "straight", network(kind=kind), epochs=5)
    with monkeypatch.context() as patch, pytest.raises(StopHereError):
        interrupted(patch, 3)
        run(survey, tmp_path / "again", network(kind=kind), epochs=5)
    resumed, other = run(survey, tmp_path / "again", network(kind=kind), epochs=5)
    assert same(model, other)
    pd.testing.assert_frame_equal(straight.predictions, resumed.predictions)
    columns = [c for c in straight.history if c != "seconds"]
    pd.testing.assert_frame_equal(straight.history[columns], resumed.history[columns])


@pytest.mark.parametrize("before_end", [0, 2])
def test_early_stopping_survives_an_interruption(survey, tmp_path, monkeypatch, before_end):
    """Also where the kill comes between the last epoch and the end of the training."""
    monkeypatch.setattr(training, "PATIENCE", 3)
    straight, model = run(survey, tmp_path / "straight", epochs=60)
    assert len(straight.history) < 60
    assert len(straight.history) - straight.settings["best_epoch"] == 3
    with monkeypatch.context() as patch, pytest.raises(StopHereError):
        interrupted(patch, len(straight.history) - before_end)
        run(survey, tmp_path / "b", epochs=60)
    resumed, other = run(survey, tmp_path / "b", epochs=60)
    assert len(resumed.history) == len(straight.history) and same(model, other)


def test_a_killed_process_is_taken_up(survey, tmp_path, capsys):
    """SIGKILL in the middle of the third epoch, between two batches."""
    program = f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(__file__).rpartition("/")[0]!r})
        import test_training as t
        read = t.training.Batches.__getitem__
        def kill(self, number):
            if self.seed is not None and self.epoch == 2 and number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return read(self, number)
        t.training.Batches.__getitem__ = kill
        folder = Path({str(survey[2])!r})
        table = t.pd.read_csv(folder / "assignment.csv", dtype={{"label": str}})
        cache = t.images.open_cache(folder / "cache", t.CROP)
        t.run((table, cache, folder), Path({str(tmp_path / "killed")!r}), epochs=5)
    """
    survey[0].to_csv(survey[2] / "assignment.csv", index=False)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr
    _, resumed = run(survey, tmp_path / "killed", epochs=5)
    assert "going on after epoch 2 of an earlier run" in capsys.readouterr().out
    _, straight = run(survey, tmp_path / "straight", epochs=5)
    assert same(straight, resumed)


def test_a_training_with_other_settings_is_another(survey, tmp_path):
    run(survey, tmp_path, epochs=2)
    (folder,) = tmp_path.iterdir()
    assert not (folder / "checkpoint").exists()
    before = (folder / "model.json").stat().st_mtime_ns
    run(survey, tmp_path, epochs=2)  # read, not trained
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]
    assert (folder / "model.json").stat().st_mtime_ns == before
    for change in ({"seed": 7}, {"learning_rate": 1e-3}, {"order": "balanced sampling"}):
        run(survey, tmp_path, epochs=2, **change)
    other = survey[0].assign(split=survey[0]["split"].replace({"rest": "validation"}))
    run((other, *survey[1:]), tmp_path, epochs=2)
    assert len(list(tmp_path.iterdir())) == 5
    # The same galaxies and settings, but other pixels: a cache made anew in another way.
    changed = replace(survey[1], sha256="other pixels")
    run((survey[0], changed, survey[2]), tmp_path, epochs=2)
    assert len(list(tmp_path.iterdir())) == 6


def test_a_checkpoint_of_other_settings_or_code_is_not_taken_up(
    survey, tmp_path, capsys, monkeypatch
):
    """In a folder of its own, as notebooks 03 and 04 have it."""
    table, cache, _ = survey
    targets = training.one_hot(table["label"], CLASSES)

    def fit(settings, epochs):
        data = training.Batches(
            images.Copies(cache, 42).get, table["galaxy_id"], targets, 16, seed=42
        )
        stopping = keras.callbacks.EarlyStopping("accuracy", restore_best_weights=True, patience=9)
        resume = training.Resume(tmp_path, settings, stopping=stopping, data=data)
        network().fit(data, epochs=epochs, callbacks=[stopping, resume], shuffle=False, verbose=0)
        return resume

    fit({"a": 1}, 2)
    assert len(fit({"a": 1}, 3).history) == 3
    assert "going on after epoch 2" in capsys.readouterr().out
    assert len(fit({"a": 2}, 1).history) == 1
    decide = {"lib/training.py", "lib/images.py", "lib/networks/__init__.py"}
    assert decide <= closure(training.__file__).keys()
    monkeypatch.setattr(training, "closure_hash", lambda file: "mended")
    assert len(fit({"a": 2}, 1).history) == 1
    assert "going on" not in capsys.readouterr().out


def test_fit_takes_the_batches_of_each_epoch_in_their_order(survey, tmp_path):
    """Against single steps over the batches, by hand."""
    table, cache, _ = survey
    part = table[table["split"] == "train"]
    trained, fitted = run(survey, tmp_path, epochs=2)
    copies, targets = images.Copies(cache, 42), training.one_hot(part["label"], CLASSES)
    data = training.Batches(copies.get, part["galaxy_id"], targets, 16, seed=42)
    by_hand = network()
    for epoch in range(trained.settings["best_epoch"]):
        data.epoch = epoch
        for number in range(len(data)):
            by_hand.train_on_batch(*data[number])
    weights = by_hand.get_weights()
    for ours, theirs in zip(fitted.get_weights(), weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_head_on_kept_features_learns(survey, tmp_path):
    table, cache, _ = survey
    store = training.FeatureStore(encoder(), images.Copies(cache, 42), tmp_path / "features")
    store.prepare(table["galaxy_id"], 2)
    files = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "features").glob("*.npz")}
    assert len(files) == 3
    result = training.train(
        *(head(store.width, rate=0.03), store.get, table, tmp_path),
        SETTINGS | {"role": "B0", "epochs": 60, "copies": 2, "batch_size": 4},
    )
    part = result.part()
    assert (part["predicted"] == part["label"]).mean() > 0.8
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "features").glob("*.npz")} == files


def test_settings_are_given_back_without_what_came_out(survey, tmp_path):
    run(survey, tmp_path, epochs=1, learning_rate=0.01)
    (folder,) = tmp_path.iterdir()
    assert training.settings_of(folder) == SETTINGS | {"epochs": 1, "learning_rate": 0.01}


def test_metrics_are_those_of_scikit_learn(survey, tmp_path):
    result, _ = run(survey, tmp_path, epochs=2)
    scores = training.metrics(result.predictions, result.classes)
    assert set(scores) == {"train", "validation", "rest"}
    part = result.part("rest")
    accuracy = scores["rest"]["scores"]["accuracy"]
    assert accuracy["value"] == pytest.approx(accuracy_score(part["label"], part["predicted"]))
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    expected = f1_score(part["label"], part["predicted"], average=None, labels=list(CLASSES))
    ours = [scores["rest"]["classes"][c]["f1"] or 0.0 for c in CLASSES]
    np.testing.assert_allclose(ours, expected)
    json.dumps(scores, allow_nan=False)


def test_what_cannot_be_trained_is_refused(survey, tmp_path):
    table, cache, _ = survey
    grey = images.Copies(images.open_cache(survey[2] / "cache", CROP, "grey"), 42)
    with pytest.raises(InputError, match=r"opened as \(32, 32, 1\).*takes \(32, 32, 3\)"):
        training.FeatureStore(encoder(), grey, tmp_path)
    with pytest.raises(InputError, match="1 galaxies have no image in the cache"):
        images.Copies(cache, 42).get([1])
    unknown = table.assign(label=table["label"].replace({"?": "seven"}))
    with pytest.raises(InputError, match="'seven'.* are not the classes of any merge"):
        training.check_assignment(unknown)
    untrained = table[(table["label"] != "1") | (table["split"] != "train")]
    with pytest.raises(InputError, match="no galaxy to train on in class 1"):
        training.check_assignment(untrained)
    with pytest.raises(InputError, match="no galaxy to validate with"):
        training.check_assignment(table[table["split"] == "train"])
    with pytest.raises(InputError, match="only one class"):
        training.check_assignment(table[table["label"] == "1"])
    with pytest.raises(InputError, match="batch_size = 0"):
        training.Batches(told, [1], None, 0)
    with pytest.raises(InputError, match="order = 'all'"):
        training.Batches(told, [1], order="all")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "float64"}, "precision = 'float64': choose from float32, mixed_bf"),
        ({"accumulate": 3}, "accumulate = 3: choose from 1, 2, 4, 8, 16"),
        ({"devices": "two"}, "devices = 'two': choose from one, all"),
        ({"devices": "all", "accumulate": 2}, "accumulate = 2"),
        ({"devices": "all", "precision": "mixed_float16"}, "precision = 'mixed_float16'"),
    ],
)
def test_impossible_hardware_is_refused(change, message):
    fine = {"precision": "float32", "accumulate": 1, "jit": False, "devices": "one"}
    training.check_hardware(**fine)
    with pytest.raises(InputError, match=message):
        training.check_hardware(**fine | change)


def test_xla_is_refused_without_a_gpu(monkeypatch):
    monkeypatch.setattr(training.tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(InputError, match="jit = True, but TensorFlow sees no GPU here"):
        training.check_hardware("float32", 1, True, "one")
    monkeypatch.setattr(training.tf.config, "list_physical_devices", lambda kind: [kind])
    training.check_hardware("float32", 1, True, "one")


def test_divergence_is_said_in_words(survey, tmp_path):
    with pytest.raises(FloatingPointError, match="diverged. Take a lower learning_rate"):
        run(survey, tmp_path, network(rate=1e38))
    assert not list(tmp_path.rglob("*.npz"))


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/0", 2])
def test_a_part_that_is_none_is_refused(part):
    with pytest.raises(InputError, match="write k/n"):
        training.part_of([1, 2], part)


def test_parts_of_a_loop_are_the_whole_loop():
    parts = [training.part_of("abcdefg", f"{k}/3") for k in (1, 2, 3)]
    assert sorted(sum(parts, [])) == list("abcdefg")


def test_runs_of_folds_are_found_by_their_settings(survey, tmp_path):
    runs = [
        run(survey, tmp_path, epochs=1, fold=fold, folds=2, learning_rate=rate)[0]
        for rate in (0.01, 0.1)
        for fold in (1, 0)
    ]
    groups = evaluation.fold_groups(runs)
    assert [[r.settings["fold"] for r in group] for group in groups] == [[0, 1], [0, 1]]
