"""Tests of polar views: shapes of known ellipses, spirals as stripes, rotation as a shift."""

import keras
import numpy as np
import pytest

from lib import networks
from lib.networks.polar import PolarView
from lib.networks.polar_features import feature_network
from lib.networks.polarnet import PolarNet
from lib.schema import InputError

SIZE = 80


def disc(axis_ratio=1.0, angle=0.0, arms=0, pitch=20.0, scale=12.0):
    """Exponential disc with m sinusoidal logarithmic arms: float32 (1, SIZE, SIZE, 1)."""
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    x, y = np.meshgrid(axis, -axis)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    u, v = cos * x + sin * y, (cos * y - sin * x) / axis_ratio
    r, theta = np.hypot(u, v) + 1e-3, np.arctan2(v, u)
    light = 150 * np.exp(-r / scale)
    if arms:
        light *= 1 + 0.5 * np.cos(arms * (theta - np.log(r) / np.tan(np.radians(pitch))))
    return (10 + light)[None, :, :, None].astype("float32")


def view(images, **settings):
    layer = PolarView(**settings)
    return layer, np.asarray(layer(images))


@pytest.mark.parametrize("angle", [10, 75, 130])
def test_shape_of_an_inclined_disc(angle):
    image = disc(0.6, angle)
    layer, _ = view(image)
    ratio, found = layer.shape(layer.light(image))
    assert float(ratio[0]) == pytest.approx(0.6, abs=0.05)
    assert (np.degrees(float(found[0])) - angle + 90) % 180 - 90 == pytest.approx(0, abs=1.5)


@pytest.mark.parametrize("arms", [1, 2, 3, 5])
def test_arms_are_counted_by_the_frequency_along_a_row(arms):
    _, polar = view(disc(0.7, 40, arms=arms), columns=120)
    power = np.abs(np.fft.rfft(polar[0, 12:26, :, 0], axis=1)).mean(axis=0)
    assert power[1:].argmax() + 1 == arms


def test_logarithmic_spirals_are_straight():
    rows, columns = 40, 120
    _, polar = view(disc(1.0, 0, arms=3, pitch=25), rows=rows, columns=columns)
    phase = np.unwrap(np.angle(np.fft.rfft(polar[0, 12:36, :, 0], axis=1)[:, 3]))
    depth = np.log(35 / 2.5) / (rows - 1) * np.arange(len(phase))
    slope = np.polyfit(depth, phase, 1)[0]
    assert abs(slope) == pytest.approx(3 / np.tan(np.radians(25)), rel=0.05)


def test_a_turned_galaxy_is_a_shifted_view():
    image = disc(0.6, 0, arms=2)
    _, straight = view(image)
    _, turned = view(np.rot90(image, axes=(1, 2)).copy())
    # The disc's major axis turns along, up to the half turn that an ellipse does not tell.
    differences = [
        np.abs(straight - np.roll(turned, shift, axis=2)).mean() for shift in range(0, 96, 48)
    ]
    assert min(differences) < 0.5


def test_the_sky_level_does_not_matter():
    image = disc(0.8, 30, arms=3)
    _, first = view(image)
    _, second = view(image + 25)
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_an_image_too_small_for_the_radii_is_refused():
    with pytest.raises(InputError, match="crop = 64"):
        PolarView()(np.zeros((1, 64, 64, 1), "float32"))


@pytest.mark.parametrize(
    ("crop", "rows", "r_max"),
    # The bundled weights learnt from 72 px; the others follow from ln(r_max / 2.5) by hand.
    [(72, 32, 35), (32, 24, 15), (64, 32, 31), (112, 36, 55), (160, 40, 79), (212, 44, 105)],
)
def test_the_view_follows_the_crop(crop, rows, r_max):
    layer = PolarView.of_crop(crop)
    assert (layer.rows, layer.r_max, layer.r_min, layer.columns) == (rows, r_max, 2.5, 96)
    assert layer(np.zeros((1, crop, crop, 3), "float32")).shape == (1, rows, 96, 3)


def test_an_arm_has_the_same_slope_in_every_crop():
    """The inner part of a wide crop is the view of a narrow one, up to the rounding of rows."""
    image = disc(0.8, 30, arms=2)
    narrow, wide = (PolarView.of_crop(crop) for crop in (64, SIZE))
    for layer, size in ((narrow, 64), (wide, SIZE)):
        edge = (SIZE - size) // 2
        part = image[:, edge : SIZE - edge, edge : SIZE - edge]
        rows = np.asarray(layer(part))[0, 8:24, :, 0]
        phase = np.unwrap(np.angle(np.fft.rfft(rows, axis=1)[:, 2]))
        slope = np.polyfit(np.arange(len(phase)), phase, 1)[0]
        expected = 2 / np.tan(np.radians(20)) * np.log(35 / 2.5) / 31
        assert abs(slope) == pytest.approx(expected, rel=0.1)


def with_head(size=SIZE, classes=3):
    """An untrained grey PolarNet that names classes."""
    body, _ = feature_network("PolarNet", size=size, channels=1, seed=1)
    head = keras.layers.Dense(classes, activation="softmax")
    return keras.Model(body.input, head(body.output))


def test_same_seed_same_weights():
    found = [networks.weights_hash(feature_network("PolarNet", seed=k)[0]) for k in (42, 42, 43)]
    assert found[0] == found[1] != found[2]


def test_a_network_sees_all_of_its_crop():
    for crop, rows in ((32, 24), (72, 32)):
        model = with_head(crop)
        assert model.get_layer("polar_view").rows == rows


def test_a_network_with_a_polar_view_is_saved_and_loaded(tmp_path):
    model = with_head(72)
    image = disc(0.7, 20, arms=2)[:, 4:-4, 4:-4] / 255
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(model(image), again(image), atol=1e-6)


def polar_network(channels=1):
    keras.utils.set_random_seed(3)
    views = keras.Input((32, 96, channels))
    return PolarNet(input_tensor=views)


def test_polarnet_goes_round_the_circle():
    network = polar_network()
    views = np.random.default_rng(0).uniform(0, 255, (1, 32, 96, 1)).astype("float32")
    maps = network.predict(views, verbose=0)
    shifted = network.predict(np.roll(views, 20, axis=2), verbose=0)
    assert maps.shape == (1, 8, 24, 256) and network.layers[-1].name == "top_activation"
    np.testing.assert_allclose(np.roll(maps, 5, axis=2), shifted, rtol=1e-4, atol=1e-4)


def test_polarnet_has_the_parameters_it_should():
    # 3 x 3 kernels without bias, four numbers per normalised channel, a 1 x 1 kernel to 256.
    kernels = 9 * (1 * 16 + 16 * 32 + 2 * 32 * 32 + 32 * 64 + 4 * 64 * 64) + 64 * 256
    channels = 16 + 3 * 32 + 5 * 64 + 256
    assert polar_network().count_params() == kernels + 4 * channels


def test_a_turned_image_gives_nearly_the_same_probabilities():
    model = with_head()
    image = disc(0.6, 0, arms=2) / 255
    turned = [np.rot90(image, k, axes=(1, 2)) for k in range(4)]
    probabilities = model.predict(np.concatenate(turned), verbose=0)
    np.testing.assert_allclose(probabilities, probabilities[:1].repeat(4, axis=0), atol=0.01)
    other = model.predict(disc(1.0, 0, arms=5) / 255, verbose=0)
    assert np.abs(other - probabilities[0]).max() > 3 * np.ptp(probabilities, axis=0).max()
