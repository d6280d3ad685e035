"""Tests of lib.classical: patterns with known modes, symmetries, baselines against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics

from lib import classical
from lib.schema import InputError

R90 = 25.0


def galaxy(arms: int, angle: float = 0.0, winding: float = 1.0, size: int = 96) -> np.ndarray:
    """Face-on exponential disc with sinusoidal logarithmic arms, uint8 (size, size, 3)."""
    axis = np.arange(size) - (size - 1) / 2
    x, y = np.meshgrid(axis, -axis)
    r, theta = np.hypot(x, y) + 0.1, np.arctan2(y, x) - np.radians(angle)
    light = 180 * np.exp(-r / 14)
    if arms:
        light *= 1 + 0.6 * np.cos(arms * (theta - 2 * winding * np.log(r)))
    return np.clip(light + 8, 0, 255).astype("uint8")[..., None].repeat(3, axis=-1)


def modes(image: np.ndarray) -> np.ndarray:
    """Mean amplitude of m = 1..8 over the zones."""
    values = classical.features(image[None], R90)[0]
    return np.exp(values[8 : 8 + 64].reshape(8, 8)).mean(axis=0)


@pytest.mark.parametrize("arms", [1, 2, 3, 4, 5, 6])
def test_the_strongest_mode_is_the_number_of_arms(arms):
    assert modes(galaxy(arms)).argmax() + 1 == arms


def test_a_disc_without_arms_has_no_mode():
    assert modes(galaxy(0)).max() < 0.1 < modes(galaxy(3))[2]


def test_orientation_and_handedness_do_not_matter():
    first, turned, mirrored, other = classical.features(
        np.stack([galaxy(3), galaxy(3, angle=70), galaxy(3)[:, ::-1], galaxy(2)]), R90
    )
    difference = np.abs(first - other).mean()
    assert np.abs(first - turned).mean() < 0.2 * difference
    assert np.abs(first - mirrored).mean() < 0.2 * difference


def test_shape_and_finiteness():
    noise = np.random.default_rng(0).integers(0, 255, (3, 96, 96, 3)).astype("uint8")
    values = classical.features(np.concatenate([noise, np.zeros_like(noise[:1])]), R90)
    assert values.shape == (4, 231) and values.dtype == np.float32
    assert np.isfinite(values).all()


def test_impossible_images_are_refused():
    with pytest.raises(InputError, match="shape"):
        classical.features(np.zeros((1, 96, 96, 1), "uint8"), R90)
    with pytest.raises(InputError, match="90 px or more"):
        classical.features(np.zeros((1, 64, 64, 3), "uint8"), R90)


def test_the_logistic_baseline_counts_arms_of_clean_patterns():
    rng = np.random.default_rng(1)
    arms = np.tile([2, 3, 4], 16)
    images = np.stack(
        [galaxy(m, rng.uniform(0, 360), rng.choice([-1, 1]) * rng.uniform(0.6, 1.4)) for m in arms]
    )
    values = classical.features(images, R90)
    model = classical.baseline("logistic").fit(values[:24], arms[:24])
    assert (model.predict(values[24:]) == arms[24:]).mean() > 0.9


def test_the_dummy_names_the_most_frequent_class():
    label = np.array(["2"] * 7 + ["3"] * 3)
    model = classical.baseline("most frequent").fit(np.zeros((10, 2)), label)
    found = model.predict(np.zeros((10, 2)))
    assert metrics.accuracy_score(label, found) == pytest.approx(0.7)
    with pytest.raises(InputError, match="forest"):
        classical.baseline("forest")
