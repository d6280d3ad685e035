"""Pooled features of PolarNet and ArmNet, from images to numbers in one flat graph."""

from __future__ import annotations

import keras

from lib.networks import FEATURES, on_images
from lib.networks.amplitudes import Amplitudes
from lib.networks.polar import PolarView


def feature_network(
    backbone: str, weights: str = "none", *, size: int = 72, channels: int = 3, seed: int = 0,
    amplitudes: bool = False,
) -> tuple[keras.Model, dict]:  # fmt: skip
    """A backbone on the polar view of its images, without a head.

    Parameters
    ----------
    backbone : {"PolarNet", "ArmNet"}
    weights : str
        Where its weights come from, as `lib.networks.weights` names it; "none" is random.
    size, channels : int
        Of the images: side in pixels, and 1 (grey) or 3.
    seed : int
        Of random weights; sets Keras', NumPy's and Python's global seeds too.
    amplitudes : bool
        Join the Fourier amplitudes of the polar view (`lib.networks.amplitudes`).

    Returns
    -------
    model : keras.Model
        (n, size, size, channels) pixels [0, 255] -> (n, width), float32, the layer `FEATURES`.
    origin : dict
        Of the weights, see `lib.networks.on_images`.
    """
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((size, size, channels), name="pixels")
    view = PolarView.of_crop(size, name="polar_view")(pixels)
    base, origin = on_images(backbone, view, weights)
    name = "pooled" if amplitudes else FEATURES
    features = keras.layers.GlobalAveragePooling2D(name=name)(base.output)
    if amplitudes:
        numbers = Amplitudes(name="amplitudes")(view)
        features = keras.layers.Concatenate(name=FEATURES)([features, numbers])
    return keras.Model(pixels, features, name=backbone.lower()), origin
