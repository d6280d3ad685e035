"""Tests of the pre-training: the loss against closed forms, the curriculum, and its resumption."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import ROOT
from scipy import special

from lib import paths
from lib.counting import pretraining
from lib.schema import InputError
from lib.workflow import profiles


def losses(counts, concentrations, arms_weight=1.0):
    return pretraining.VotesLoss(arms_weight).call(counts, concentrations).numpy()


def test_loss_of_a_flat_dirichlet_counts_the_possible_votes():
    # With all concentrations 1, every vector of k answers to n votes is equally likely: their
    # number is C(n + k - 1, k - 1).
    counts = np.zeros((2, 37), np.float32)
    counts[0, :3] = 5, 2, 1
    counts[1, :3] = 0, 0, 8
    counts[1, -6:] = 1, 1, 1, 1, 1, 1
    loss = losses(counts, np.ones((2, 37), np.float32))
    first = np.log(special.binom(8 + 2, 2))
    np.testing.assert_allclose(loss, [first, first + np.log(special.binom(6 + 5, 5))], rtol=1e-5)


def test_loss_of_two_answers_is_the_beta_binomial():
    from scipy import stats

    counts = np.zeros((1, 37), np.float32)
    counts[0, 3:5] = 7, 13
    alpha = np.full((1, 37), 2.0, np.float32)
    alpha[0, 3:5] = 3.5, 9.0
    loss = losses(counts, alpha)
    np.testing.assert_allclose(loss, -stats.betabinom(20, 3.5, 9.0).logpmf(7), rtol=1e-5)


def test_the_question_for_the_number_of_arms_has_its_weight():
    counts = np.zeros((1, 37), np.float32)
    counts[0, :3], counts[0, pretraining.ARMS] = (5, 2, 1), (1, 4, 2, 0, 0, 3)
    alpha = np.random.default_rng(0).uniform(1, 9, (1, 37)).astype(np.float32)
    only = np.where(np.arange(37) < 31, 0, counts).astype(np.float32)
    expected = losses(counts, alpha) + 4 * losses(only, alpha)
    np.testing.assert_allclose(losses(counts, alpha, 5.0), expected, rtol=1e-5)


def test_simulations_are_seeded_and_shaped():
    draw = dict(progress=0.2, size=40, channels=1)
    images, counts = pretraining.simulate(5, 6, **draw)
    assert images.shape == (6, 40, 40, 1) and images.dtype == np.uint8
    assert counts.shape == (6, 37) and (counts[:, :3].sum(axis=1) >= 25).all()
    again, _ = pretraining.simulate(5, 6, **draw)
    other, _ = pretraining.simulate(6, 6, **draw)
    assert (images == again).all() and (images != other).any()


def test_easy_galaxies_come_first():
    asked = []
    for progress in (0.0, 1.0):
        _, counts = pretraining.simulate(3, 200, progress, size=32, easy=0.5, spiral_fraction=1.0)
        arms = counts[:, pretraining.ARMS]
        asked.append((arms[:, -1] / np.maximum(arms.sum(axis=1), 1)).mean())
    assert asked[0] < asked[1], "can't tell must be said less often of easy galaxies"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Epochs of 16 galaxies, two steps each."""
    for name, value in {"CHUNK": 8, "CHUNKS": 2, "BATCH": 8}.items():
        monkeypatch.setattr(pretraining, name, value)


def small_network(views=32):
    """Normalisation, dropout and votes as in notebook 11, but quick to trace."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((72, 72, 3))
    x = keras.layers.Conv2D(4, 3, strides=4)(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.BatchNormalization()(x)
    votes = keras.layers.Dense(37, activation="sigmoid")(keras.layers.GlobalAveragePooling2D()(x))
    network = keras.Model(inputs, 1 + 100 * votes)
    optimizer = pretraining.averaged_adamw(views, learning_rate=1e-2)
    network.compile(optimizer, pretraining.VotesLoss(5.0), jit_compile=False)
    return network


def fit(folder, source, settings=None, epochs=None):
    """As notebooks 11 and 12 do; `epochs`: where it is stopped."""
    network = small_network()
    progress = pretraining.Progress(folder, settings or {"seed": 0}, source)
    callbacks = [progress]
    if epochs is not None:
        stop = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: killed(epoch, epochs)
        )
        callbacks.append(stop)
    network.fit(source, epochs=source.epochs, callbacks=callbacks, shuffle=False, verbose=0)
    return progress.curve, network


def killed(epoch, last):
    if epoch + 1 == last:
        raise KeyboardInterrupt


def same(one, two):
    pairs = zip(one.get_weights(), two.get_weights(), strict=True)
    return all((a == b).all() for a, b in pairs)


def test_a_stopped_run_goes_on_and_ends_the_same(tmp_path):
    straight, network = fit(tmp_path / "straight", voted(48))
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", voted(48), epochs=1)
    resumed, again = fit(tmp_path / "stopped", voted(48))
    assert same(network, again)
    assert list(resumed["galaxies"]) == [16, 32, 48]
    np.testing.assert_array_equal(resumed["loss"], straight["loss"])


def test_a_finished_training_is_not_begun_again_and_another_is(tmp_path):
    curve, network = fit(tmp_path, voted())
    again, loaded = fit(tmp_path, voted())
    assert same(network, loaded) and again.equals(curve)
    other, _ = fit(tmp_path, voted(), {"seed": 1})
    assert not other["seconds"].equals(curve["seconds"])


def test_what_is_kept_and_scored_is_the_running_mean_of_the_weights(tmp_path):
    source = voted()
    curve, network = fit(tmp_path, source)
    means = network.optimizer._model_variables_moving_average
    for weight, mean in zip(network.trainable_variables, means, strict=True):
        np.testing.assert_array_equal(weight.numpy(), mean.numpy())
    assert pretraining.score(network, *source.held_out())["loss"] == pytest.approx(
        curve["loss"].iloc[-1]
    )


def test_simulated_galaxies_are_those_of_their_seeds(monkeypatch):
    look = {"size": 40, "easy": 0.5}
    with pretraining.Simulated(32, 3, **look) as source:
        chunks = [source.chunk(k) for k in (0, 1)]
        batch, counts = source[1]
    expected, votes = pretraining.simulate(3 * 10**6 + 1, 8, 1 / 4, **look)
    np.testing.assert_array_equal(chunks[1][0], expected)
    np.testing.assert_array_equal(batch, expected)
    np.testing.assert_array_equal(counts, votes)
    assert len(source) == 2 and source.epochs == 2


def test_a_number_of_galaxies_that_leaves_a_part_over_is_refused():
    with pytest.raises(InputError, match="33 galaxies: give a multiple of 16"):
        pretraining.Simulated(33, 0)


def voted(views=32, seed=0, n=40):
    """Real galaxies' stand-in: each has a grey level of its own, by which it is known again."""
    images = np.empty((n, 96, 96, 3), np.uint8)
    images[:] = (20 + 5 * np.arange(n))[:, None, None, None]
    counts = np.zeros((n, 37), np.float32)
    counts[:, 0] = np.arange(n)
    counts[:, pretraining.ARMS] = 20 * np.eye(6)[np.arange(n) % 6]
    return pretraining.Voted(views, 100 + np.arange(n), images, counts, seed=seed)


def test_held_out_galaxies_are_never_shown():
    source = voted()
    _, held_out = source.held_out()
    assert len(held_out) == 4
    shown = [source.chunk(k)[1] for k in range(12)]
    seen = np.concatenate(shown)[:, 0]
    assert not set(seen) & set(held_out[:, 0])
    first, second = seen[:36], seen[36:72]
    assert sorted(first) == sorted(second) and (first != second).any()


def test_votes_stay_with_their_galaxies_however_these_are_turned():
    images, counts = voted().chunk(2)
    assert images.shape == (8, 72, 72, 3) and images.dtype == np.uint8
    again, _ = voted().chunk(2)
    other, _ = voted(seed=1).chunk(2)
    assert (images == again).all() and (images.shape == other.shape and (images != other).any())
    # Brightness is varied, but the order of very different levels stays.
    order = np.argsort(counts[:, 0])
    assert np.corrcoef(images.mean(axis=(1, 2, 3))[order], np.arange(8))[0, 1] > 0.7


@pytest.mark.parametrize("change", ["ids", "images", "counts"])
def test_other_galaxies_are_another_training(change):
    one, other = voted(), voted()
    setattr(other, change, getattr(other, change)[::-1].copy())
    assert one.identity() != other.identity() and voted().identity() == one.identity()


def test_weights_of_the_same_settings_are_known_by_their_card(tmp_path, monkeypatch):
    """The settings that notebook 11 gathers in a cell are those of the bundled card."""
    monkeypatch.undo()
    folder = paths.project_root() / "data" / "weights"
    source = (ROOT / "notebooks" / "11_pretrain_backbone.py").read_text()
    (cell,) = [c for c in source.split("# %%") if "SIZE = armnet.SIZE" in c]
    told = profiles.default_parameters("11_pretrain_backbone")
    scope = {**told, "armnet": SimpleNamespace(SIZE=72), "pretraining": pretraining}
    exec(cell.split("out = ")[0], scope)
    settings = scope["settings"]
    card = pretraining.finished_card(settings, folder)
    assert card["network"] == "polarnet" and len(card["curve"]["galaxies"]) > 5
    assert pretraining.finished_card({**settings, "seed": 1}, folder) is None
    assert pretraining.finished_card(settings, tmp_path) is None
