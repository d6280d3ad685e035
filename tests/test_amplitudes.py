"""Tests of lib.networks.amplitudes and of ArmNet: known patterns, symmetry, and export."""

import keras
import numpy as np
import pytest
from patterns import galaxy

from lib.images import dihedral, network_input
from lib.networks import FEATURES, amplitudes, weights
from lib.networks.amplitudes import Amplitudes
from lib.networks.polar_features import feature_network
from lib.networks.polarnet import TOWERS, tower_weights

ROWS, COLUMNS = 32, 96
TURNS = ((2, 0.9), (3, -0.9), (4, 0.9))


def view(pattern, level=40.0):
    """A polar view of that contrast, (rows, columns), equal in three channels."""
    ring = 60 + 12 * np.log(1 + level)
    image = np.broadcast_to(ring + 80 * pattern, (ROWS, COLUMNS)).astype(np.float32)
    return np.repeat(image[None, ..., None], 3, axis=-1)


def modes(numbers):
    """Amplitudes of the modes, (zones, 8)."""
    z = amplitudes.ZONES
    return np.exp(numbers[0, z : z + 8 * z].reshape(z, 8)) - 0.01


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_the_amplitude_of_a_cosine_is_its_own(m):
    theta = 2 * np.pi * np.arange(COLUMNS) / COLUMNS
    found = modes(Amplitudes()(view(0.3 * np.cos(m * theta + 0.7))).numpy())
    expected = np.zeros(8)
    expected[m - 1] = 0.3
    np.testing.assert_allclose(found, np.tile(expected, (8, 1)), atol=1e-4)


def test_a_half_turn_knows_odd_modes_only():
    theta = 2 * np.pi * np.arange(COLUMNS) / COLUMNS
    z = amplitudes.ZONES
    start = z * (1 + 8 + 1)
    for m, asymmetry in ((2, 0.0), (3, 0.3 * np.sqrt(2))):
        numbers = Amplitudes()(view(0.3 * np.cos(m * theta))).numpy()
        found = np.exp(numbers[0, start : start + z]) - 0.01
        np.testing.assert_allclose(found, asymmetry, atol=1e-4)


def test_a_spiral_s_power_is_at_its_pitch_whichever_way_it_winds():
    theta = 2 * np.pi * np.arange(COLUMNS) / COLUMNS
    phase = 2 * np.pi * 6 * np.arange(ROWS) / amplitudes.PADDED  # wave number 6
    one = Amplitudes()(view(0.3 * np.cos(2 * theta + phase[:, None]))).numpy()
    other = Amplitudes()(view(0.3 * np.cos(2 * theta - phase[:, None]))).numpy()
    np.testing.assert_allclose(one, other, atol=2e-4)
    spirals = one[0, -2 * 6 * 7 :].reshape(2, 6, 7)
    assert np.unravel_index(spirals.argmax(), spirals.shape) == (0, 1, 2)  # m = 2; 5 and 6


def galaxies(n=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(20, 180, (n, ROWS, COLUMNS, 3)).astype(np.float32)


def test_turned_and_mirrored_views_have_the_same_amplitudes():
    views = galaxies()
    numbers = Amplitudes()(views).numpy()
    assert numbers.shape == (6, Amplitudes().compute_output_shape(views.shape)[1])
    for changed in (np.roll(views, 17, axis=2), views[:, :, ::-1]):
        np.testing.assert_allclose(Amplitudes()(changed).numpy(), numbers, atol=1e-3)


@pytest.fixture(scope="module")
def armnet():
    network = weights.build("ArmNet", keras.Input((ROWS, COLUMNS, 3)))
    rng = np.random.default_rng(1)  # BatchNorm starts as the identity, and residuals as nothing
    network.set_weights([w + rng.uniform(0, 0.1, w.shape) for w in network.get_weights()])
    return network


def test_a_mirrored_galaxy_has_the_mirrored_map(armnet):
    views = galaxies()
    maps, mirrored = armnet(views).numpy(), armnet(views[:, :, ::-1]).numpy()
    assert maps.shape == (6, 8, 24, 512) and maps.std() > 1e-3
    np.testing.assert_allclose(mirrored[:, :, ::-1], maps, atol=1e-4 * np.abs(maps).max())


def test_a_turned_galaxy_has_the_turned_map(armnet):
    views = galaxies()
    maps, turned = armnet(views).numpy(), armnet(np.roll(views, 8, axis=2)).numpy()
    np.testing.assert_allclose(np.roll(turned, -2, axis=2), maps, atol=1e-4 * np.abs(maps).max())


def test_towers_are_the_networks_that_were_put_in(armnet):
    views = keras.Input((ROWS, COLUMNS, 3))
    network = keras.models.clone_model(armnet)
    parts = []
    for seed, name in enumerate(TOWERS):
        keras.utils.set_random_seed(seed)
        polarnet = weights.build("PolarNet", views)
        tower_weights(network, name, polarnet)
        shown = galaxies(2)
        mean = (polarnet(shown) + polarnet(shown[:, :, ::-1])[:, :, ::-1]) / 2
        parts.append(mean.numpy())
    expected = np.concatenate(parts, axis=-1)
    np.testing.assert_allclose(network(galaxies(2)).numpy(), expected, atol=1e-4)


def test_a_network_with_amplitudes_is_saved_and_loaded(tmp_path):
    model, _ = feature_network("ArmNet", amplitudes=True)
    assert model.get_layer(FEATURES).output.shape[-1] == 512 + 220
    images = np.random.default_rng(2).uniform(0, 1, (2, 72, 72, 3)).astype(np.float32)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    np.testing.assert_allclose(again(images).numpy(), model(images).numpy(), atol=1e-5)


def test_a_turned_or_mirrored_image_has_the_same_features():
    """The whole network of the recipe, with the weights that travel with the project."""
    model, _ = feature_network("ArmNet", "votes", amplitudes=True)
    images = np.stack([galaxy(m, 20.0 * m, winding)[12:84, 12:84] for m, winding in TURNS])
    pixels = network_input(images, "rgb")
    answer = model(pixels).numpy()
    assert np.abs(answer[0] - answer[1]).max() > 0.5  # it does tell galaxies apart
    for view in range(8):
        np.testing.assert_allclose(model(dihedral(pixels, view)).numpy(), answer, atol=0.1)
