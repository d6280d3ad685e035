"""Tests of lib.counting.classical: patterns with known modes, symmetries."""

import numpy as np
import pytest
from patterns import R90, galaxy

from lib.counting import classical
from lib.schema import InputError


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
