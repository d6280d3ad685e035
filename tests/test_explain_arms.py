"""Arms read from maps, against drawn logarithmic spirals and the mock survey's truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lib.explain import arms, localisation
from lib.schema import InputError

SIZE = 128


def spiral(m: int, pitch: float, winding: int = 1, q: float = 1.0, angle: float = 0.0):
    """Disc with m equal logarithmic arms, seen at axis ratio q with its major axis at an angle."""
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    x, y = np.meshgrid(axis, -axis)
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    u, v = c * x + s * y, (c * y - s * x) / q
    r, theta = np.hypot(u, v) + 1e-6, np.arctan2(v, u)
    phase = m * (theta - winding * np.log(r) / np.tan(np.radians(pitch)))
    return np.exp(-r / 25) * (1 + 0.6 * np.cos(phase))


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("pitch", [12, 20, 30])
@pytest.mark.parametrize("winding", [-1, 1])
def test_number_pitch_and_winding_of_a_drawn_spiral(m, pitch, winding):
    found = arms.read_arms(spiral(m, pitch, winding), r_min=10, r_max=60)
    assert found["m"] == m and found["winding"] == winding
    assert found["pitch"] == pytest.approx(pitch, rel=0.05)
    assert found["coherence"] > 0.9
    assert found["arm_class"] == ("5+" if m >= 5 else str(m))


def test_inclined_spiral_is_stretched_to_face_on():
    image = spiral(2, 18, q=0.6, angle=35)
    found = arms.read_arms(image, r_min=10, r_max=60, axis_ratio=0.6, position_angle=35)
    assert found["m"] == 2 and found["pitch"] == pytest.approx(18, rel=0.05)
    assert found["coherence"] > arms.read_arms(image, r_min=10, r_max=60)["coherence"]


def test_turning_the_map_turns_nothing_but_the_phase():
    image = spiral(3, 20)
    upright = arms.read_arms(image, r_min=10, r_max=60)
    turned = arms.read_arms(np.rot90(image), r_min=10, r_max=60)
    assert (turned["m"], turned["winding"]) == (upright["m"], upright["winding"])
    assert turned["pitch"] == pytest.approx(upright["pitch"], rel=1e-6)
    mirrored = arms.read_arms(image[:, ::-1], r_min=10, r_max=60)
    assert mirrored["winding"] == -upright["winding"]


def test_shape_of_an_inclined_disc():
    y, x = np.mgrid[-60:61, -60:61]
    for angle in (0, 30, 120):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        u, v = c * x - s * y, c * y + s * x
        image = np.exp(-np.hypot(u, v / 0.5) / 8)[..., None]
        q, found = localisation.disc_shape(image)
        assert q == pytest.approx(0.5, abs=0.05)
        assert min(abs(found - angle), 180 - abs(found - angle)) < 3


def test_coherence_is_low_without_spirals():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-64:64, -64:64] + 0.5
    clumpy = np.exp(-np.hypot(x, y) / 25) * (1 + 0.6 * rng.normal(size=(SIZE, SIZE)))
    assert arms.read_arms(clumpy, r_min=10, r_max=60)["coherence"] < 0.2
    smooth = arms.read_arms(np.ones((SIZE, SIZE)), r_min=10, r_max=60)
    assert smooth["m"] == 0 and np.isnan(smooth["pitch"]) and smooth["coherence"] == 0


def test_radii_must_fit():
    with pytest.raises(InputError, match="at most half its width"):
        arms.read_arms(np.ones((64, 64)), r_min=10, r_max=60)


def test_table_of_arms_reads_every_map_in_the_disc_of_its_image():
    images = np.stack([spiral(2, 18), spiral(3, 25, -1), spiral(2, 18, q=0.6, angle=35)])
    ids = 587722981742084144 + np.arange(3)
    galaxies = pd.DataFrame({"galaxy_id": ids, "label": ["2", "3", "?"]}, index=[7, 8, 9])
    table = arms.arm_table(images, images[..., None], galaxies, r_min=10, r_max=60)
    assert table["galaxy_id"].tolist() == list(ids)
    assert table["m"].tolist() == [2, 3, 2] and table["arm_class"].tolist() == ["2", "3", "2"]
    np.testing.assert_allclose(table["pitch"], [18, 25, 18], rtol=0.1)
