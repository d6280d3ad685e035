"""What ArmNet and the Fourier amplitudes say of galaxies, and the arm counter made of them."""

from __future__ import annotations

import keras
import numpy as np

from lib import images, networks
from lib.counting import vote_head
from lib.networks import weights
from lib.networks.polar import PolarView
from lib.networks.polar_features import feature_network
from lib.networks.polarnet import TOWERS, tower_weights

SIDE = 96
"""Pixels of the images that are turned for training, and that the classical features need."""

SIZE = 72
"""Pixels of the images that the networks see."""

RECIPE = (*TOWERS, "amplitudes")
"""Features of `features` that the arm counter joins, in this order."""


def build_armnet(real: keras.Model) -> keras.Model:
    """An ArmNet of two PolarNets: the bundled one, and `real`, which went on with real votes.

    Returns
    -------
    keras.Model
        Backbone on (72, 72, 3) images.
    """
    view = PolarView.of_crop(SIZE, name="polar_view")
    simulated = weights.build("PolarNet", view(keras.Input((SIZE, SIZE, 3))))
    weights.initialise(simulated, "mock", channels=3)
    armnet = weights.build("ArmNet", view(keras.Input((SIZE, SIZE, 3))))
    for name, polarnet in zip(TOWERS, (simulated, real), strict=True):
        tower_weights(armnet, name, polarnet)
    return armnet


def features(pixels: np.ndarray, backbone: keras.Model | None = None) -> dict[str, np.ndarray]:
    """What an ArmNet and the amplitudes say of images.

    Parameters
    ----------
    pixels : ndarray of uint8, (n, 72, 72, 3)
    backbone : keras.Model, optional
        An ArmNet; that in ``data/weights`` by default.

    Returns
    -------
    dict of str to ndarray of float32, (n, width)
        One for each of `lib.networks.polarnet.TOWERS`, and ``amplitudes``.
    """
    model, _ = _body(backbone)
    values = model.predict(images.network_input(pixels, "rgb"), batch_size=64, verbose=0)
    width = model.get_layer(networks.LAST_CONVOLUTION).output.shape[-1]
    towers = np.split(values[:, :width], len(TOWERS), axis=1)
    return {**dict(zip(TOWERS, towers)), "amplitudes": values[:, width:]}


def arm_counter(
    head: vote_head.Head, classes: tuple[str, ...], backbone: keras.Model | None = None
) -> tuple[keras.Model, dict]:
    """ArmNet, amplitudes and a vote head as one network.

    Parameters
    ----------
    head : Head
        Fitted to the features of `RECIPE`, joined.
    classes : tuple of str
    backbone : keras.Model, optional
        As of `features`.

    Returns
    -------
    model : keras.Model
        (n, 72, 72, 3) pixels [0, 255] -> (n, classes) expected vote fractions.
    origin : dict
        Of the weights of the backbone, see `lib.networks.on_images`.
    """
    body, origin = _body(backbone)
    components = keras.layers.Dense(vote_head.COMPONENTS, name="dense")
    fractions = keras.layers.Dense(len(classes), activation="softmax", name="classes")
    model = keras.Model(body.input, fractions(components(body.output)), name="b0")
    kernel, bias, last, last_bias = head.layers(vote_head.COMPONENTS)
    components.set_weights([kernel, bias])
    fractions.set_weights([last, last_bias])
    return model, origin


def _body(backbone: keras.Model | None) -> tuple[keras.Model, dict]:
    """Pixels to the features of `RECIPE`, and where the weights come from."""
    source = "votes" if backbone is None else "none"
    model, origin = feature_network("ArmNet", source, size=SIZE, amplitudes=True)
    for layer in backbone.layers if backbone is not None else ():
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())
    return model, origin
