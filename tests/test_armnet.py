"""Tests of lib.counting.armnet: the arm counter against its parts, and the bundled weights."""

import keras
import numpy as np

from lib import images
from lib.counting import armnet, vote_head

CLASSES = ("1", "2", "3")


def shown(n=60):
    return np.random.default_rng(3).integers(0, 255, (n, 72, 72, 3)).astype(np.uint8)


def test_an_arm_counter_is_its_head_on_its_features(tmp_path):
    """The whole recipe as one network, saved and loaded, against its parts by themselves."""
    pixels = shown()
    known = armnet.features(pixels)
    joined = np.hstack([known[name] for name in armnet.RECIPE])
    fractions = np.random.default_rng(4).dirichlet(np.ones(3), 60)
    head = vote_head.fit(joined, fractions)
    model, origin = armnet.arm_counter(head, CLASSES)
    assert origin["card"]["source"] == "votes"
    expected = head.probabilities(joined)
    pixels = images.network_input(pixels, "rgb")
    np.testing.assert_allclose(model.predict(pixels, verbose=0), expected, atol=1e-4)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    np.testing.assert_allclose(again.predict(pixels, verbose=0), expected, atol=1e-4)


def test_the_bundled_weights_give_the_features_they_gave():
    """Sums of the features, written down with the first bundled ArmNet."""
    known = armnet.features(shown(2))
    found = [known[name].astype(float).sum(axis=1) for name in armnet.RECIPE]
    before = [[126.8425, 125.3266], [165.6453, 160.2461], [-426.4687, -436.6418]]
    np.testing.assert_allclose(found, before, rtol=2e-4)
