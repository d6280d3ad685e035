"""Tests of lib.networks.models: networks with polar views, for notebooks 11 and 12."""

import numpy as np
import pytest

from lib import networks
from lib.networks import models
from lib.networks.models import Network
from lib.schema import InputError


def test_same_seed_same_weights():
    network = Network("B0", "PolarNet", crop=72, view="polar")
    (model, origin), (again, same), (other, changed) = (
        models.build(network, n_classes=6, seed=seed) for seed in (42, 42, 43)
    )
    assert networks.weights_hash(model) == networks.weights_hash(again)
    assert origin["backbone_sha256"] == same["backbone_sha256"] != changed["backbone_sha256"]
    kernels = [m.get_layer("dense").kernel.numpy() for m in (model, other)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0
    # Glorot & Bengio (2010): uniform within sqrt(6 / (fan in + fan out))
    limit = np.sqrt(6 / sum(kernels[0].shape))
    assert 0.99 * limit < np.abs(kernels[0]).max() <= np.float32(limit)


def test_the_body_gives_the_features_that_the_head_takes():
    model, _ = models.build(Network("B0", "PolarNet", crop=72, view="polar"), 6, 0)
    pixels = np.random.default_rng(1).uniform(0, 255, (3, 72, 72, 3)).astype(np.float32)
    x = models.body_of(model)(pixels)
    for name in models.HEAD:
        x = model.get_layer(name)(x)
    np.testing.assert_allclose(x, model(pixels), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "ResNet50"}, "unknown backbone 'ResNet50': choose one of EfficientNetB0"),
        ({"colour": "blue"}, "unknown colour 'blue'"),
        ({"trainable": "some"}, "trainable = 'some': choose frozen or all"),
        ({"crop": 16}, "crop = 16 px: an EfficientNet needs 32 px or more"),
        ({"dense_units": 0}, "dense_units = 0"),
    ],
)
def test_impossible_networks_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        Network(**{"role": "B0", "backbone": "EfficientNetB0", **change})
