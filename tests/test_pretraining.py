"""Tests of the pre-training: the loss against closed forms, the curriculum, and its resumption."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from scipy import special

from lib import paths
from lib.counting import pretraining
from lib.counting.pretraining import Curriculum, Settings
from lib.schema import InputError
from lib.workflow import profiles
from lib.workflow.code import closure_hash

TINY = Settings(
    backbone="PolarNet",
    channels=3,
    size=72,
    chunk=8,
    batch_size=8,
    curriculum=Curriculum(galaxies=32, easy=0.5),
)


def test_loss_of_a_flat_dirichlet_counts_the_possible_votes():
    # With all concentrations 1, every vector of k answers to n votes is equally likely: their
    # number is C(n + k - 1, k - 1).
    counts = np.zeros((2, 37), np.float32)
    counts[0, :3] = 5, 2, 1
    counts[1, :3] = 0, 0, 8
    counts[1, -6:] = 1, 1, 1, 1, 1, 1
    loss = pretraining.dirichlet_multinomial_loss(counts, np.ones((2, 37), np.float32)).numpy()
    first = np.log(special.binom(8 + 2, 2))
    np.testing.assert_allclose(loss, [first, first + np.log(special.binom(6 + 5, 5))], rtol=1e-5)


def test_loss_of_two_answers_is_the_beta_binomial():
    from scipy import stats

    counts = np.zeros((1, 37), np.float32)
    counts[0, 3:5] = 7, 13
    alpha = np.full((1, 37), 2.0, np.float32)
    alpha[0, 3:5] = 3.5, 9.0
    loss = pretraining.dirichlet_multinomial_loss(counts, alpha).numpy()
    np.testing.assert_allclose(loss, -stats.betabinom(20, 3.5, 9.0).logpmf(7), rtol=1e-5)


def test_simulations_are_seeded_and_shaped():
    draw = dict(size=40, channels=1, curriculum=Curriculum(), progress=0.2)
    images, counts = pretraining.simulate(5, 6, **draw)
    assert images.shape == (6, 40, 40, 1) and images.dtype == np.uint8
    assert counts.shape == (6, 37) and (counts[:, :3].sum(axis=1) >= 25).all()
    again, _ = pretraining.simulate(5, 6, **draw)
    other, _ = pretraining.simulate(6, 6, **draw)
    assert (images == again).all() and (images != other).any()


def test_easy_galaxies_come_first():
    curriculum = Curriculum(easy=0.5, spiral_fraction=1.0)
    asked = []
    for progress in (0.0, 1.0):
        _, counts = pretraining.simulate(
            3, 200, size=32, channels=1, curriculum=curriculum, progress=progress
        )
        arms = counts[:, pretraining.ARMS]
        asked.append((arms[:, -1] / np.maximum(arms.sum(axis=1), 1)).mean())
    assert asked[0] < asked[1], "can't tell must be said less often of easy galaxies"


def small_network(settings):
    """Stands in for `build`: normalisation, dropout and votes as there, but quick to trace."""
    keras.utils.set_random_seed(settings.seed)
    inputs = keras.Input((settings.size, settings.size, settings.channels))
    x = keras.layers.Conv2D(4, 3, strides=4)(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.Dropout(0.2)(keras.layers.BatchNormalization()(x))
    votes = keras.layers.Dense(37, activation="sigmoid")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x), keras.Model(inputs, 1 + 100 * votes)


def test_the_network_gives_a_concentration_per_answer():
    backbone, network = pretraining.build(TINY)
    assert backbone.output.shape[-1] == 256 and backbone.layers[-1].name == "top_activation"
    concentrations = network(np.zeros((2, 72, 72, 3), np.float32)).numpy()
    assert concentrations.shape == (2, 37)
    assert (concentrations >= 1).all() and (concentrations <= 101).all()


def test_a_stopped_run_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "SAVE_EVERY", 2)
    monkeypatch.setattr(pretraining, "build", small_network)
    straight, backbone = pretraining.pretrain(TINY, tmp_path / "straight")
    save = pretraining._save

    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "_save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        pretraining.pretrain(TINY, tmp_path / "stopped")
    (state,) = (tmp_path / "stopped").rglob("state.npz")
    assert not state.with_name("backbone.weights.h5").exists()
    monkeypatch.setattr(pretraining, "_save", save)
    resumed, again = pretraining.pretrain(TINY, tmp_path / "stopped")
    for a, b in zip(backbone.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert list(resumed["galaxies"]) == [16, 32]
    np.testing.assert_array_equal(resumed["loss"], straight["loss"])


def voted(n=40, seed=0):
    """Real galaxies' stand-in: each has a grey level of its own, by which it is known again."""
    images = np.empty((n, 96, 96, 3), np.uint8)
    images[:] = (20 + 5 * np.arange(n))[:, None, None, None]
    counts = np.zeros((n, 37), np.float32)
    counts[:, 0] = np.arange(n)
    counts[:, pretraining.ARMS] = 20 * np.eye(6)[np.arange(n) % 6]
    settings = replace(TINY, seed=seed, weights="none")
    return pretraining.Voted(settings, 100 + np.arange(n), images, counts)


def test_held_out_galaxies_are_never_shown():
    source = voted()
    _, held_out = source.held_out()
    assert len(held_out) == 4
    shown = [counts for _, (_, counts) in source.stream(0, 12)]
    seen = np.concatenate(shown)[:, 0]
    assert not set(seen) & set(held_out[:, 0])
    first, second = seen[:36], seen[36:72]
    assert sorted(first) == sorted(second) and (first != second).any()


def test_votes_stay_with_their_galaxies_however_these_are_turned():
    images, counts = voted()._chunk(2)
    assert images.shape == (8, 72, 72, 3) and images.dtype == np.uint8
    again, _ = voted()._chunk(2)
    other, _ = voted(seed=1)._chunk(2)
    assert (images == again).all() and (images.shape == other.shape and (images != other).any())
    # Brightness is varied, but the order of very different levels stays.
    order = np.argsort(counts[:, 0])
    assert np.corrcoef(images.mean(axis=(1, 2, 3))[order], np.arange(8))[0, 1] > 0.7


def test_a_finished_training_is_not_begun_again(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "build", small_network)
    source = voted()
    curve, backbone = pretraining.pretrain(source.settings, tmp_path, source)
    monkeypatch.setattr(pretraining, "_step", None)
    again, loaded = pretraining.pretrain(source.settings, tmp_path, source)
    np.testing.assert_allclose(again["loss"], curve["loss"])
    for a, b in zip(backbone.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("change", ["ids", "images", "counts"])
def test_a_finished_training_of_other_galaxies_is_not_taken(change, tmp_path, monkeypatch):
    """As many of them, with the same settings, are not the same galaxies."""
    monkeypatch.setattr(pretraining, "build", small_network)
    source = voted()
    pretraining.pretrain(source.settings, tmp_path, source)
    other = replace(source, **{change: getattr(source, change)[::-1].copy()})
    monkeypatch.setattr(pretraining, "_step", None)
    pretraining.pretrain(source.settings, tmp_path, voted())
    with pytest.raises(TypeError):  # it would train
        pretraining.pretrain(source.settings, tmp_path, other)


def test_the_state_of_other_galaxies_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "SAVE_EVERY", 1)
    monkeypatch.setattr(pretraining, "build", small_network)
    monkeypatch.setattr(pretraining, "_finished", lambda *_: False)
    save, source = pretraining._save, voted()

    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "_save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        pretraining.pretrain(source.settings, tmp_path, source)
    with pytest.raises(InputError, match="other settings or galaxies"):
        pretraining.pretrain(source.settings, tmp_path, replace(source, ids=source.ids + 1))


def test_the_state_of_another_run_is_refused(tmp_path):
    folder = tmp_path / closure_hash(pretraining.__file__)
    folder.mkdir()
    np.savez(folder / "state.npz", settings="{}", chunk=1, curve="[]")
    with pytest.raises(InputError, match="other settings"):
        pretraining.pretrain(TINY, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 2}, "channels = 2"),
        ({"batch_size": 7}, "batch_size = 7 must divide"),
        ({"curriculum": Curriculum(galaxies=5)}, "galaxies = 5"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        Settings(**change)


def test_weights_of_the_same_settings_are_known_by_their_card(tmp_path):
    folder = paths.project_root() / "data" / "weights"
    told = profiles.default_parameters("11_pretrain_backbone")
    names = ("galaxies", "easy", "spiral_fraction", "binning")
    curriculum = Curriculum(**{name: told[name] for name in names})
    names = ("backbone", "channels", "size", "chunk", "batch_size", "arms_weight", "learning_rate")
    names = (*names, "average", "seed")
    bundled = Settings(**{name: told[name] for name in names}, curriculum=curriculum)
    card = pretraining.finished_card(bundled, folder)
    assert card["network"] == "polarnet" and len(card["curve"]["galaxies"]) > 5
    assert pretraining.finished_card(replace(bundled, seed=1), folder) is None
    assert pretraining.finished_card(bundled, tmp_path) is None
