"""A small convolutional network for polar views: round the circle, and no smaller.

An EfficientNet halves an image five times and pads its borders with zeros: of a polar view of
32 x 96 pixels one row of three cells would be left, and the arms would be cut at the major axis.
Here rows and columns are halved twice, and the convolutions go round.

`ArmNet` is two such networks side by side, one that learnt from simulated galaxies and one that
went on with the votes for real ones, each shown a galaxy and its mirror image.
"""

from __future__ import annotations

import keras
from keras import layers, ops

WIDTH = 16
"""Channels of the first convolution; doubled with each halving."""

FEATURES = 256
"""Channels of the last feature map."""


@keras.saving.register_keras_serializable(package="spiral_arms")
class RoundPadding(layers.Layer):
    """One pixel on each side: from the other end along the angle, zeros along the radius."""

    def call(self, x):
        """(n, rows, columns, c) to (n, rows + 2, columns + 2, c)."""
        x = ops.concatenate([x[:, :, -1:], x, x[:, :, :1]], axis=2)
        return ops.pad(x, [[0, 0], [1, 1], [0, 0], [0, 0]])

    def compute_output_shape(self, shape):
        """(n, rows + 2, columns + 2, c)."""
        return (shape[0], shape[1] + 2, shape[2] + 2, shape[3])


@keras.saving.register_keras_serializable(package="spiral_arms")
class WithMirror(layers.Layer):
    """Polar views and their mirror images, (n, ...) to (2 n, ...)."""

    def call(self, x):
        """First all views, then all mirror images."""
        return ops.concatenate([x, ops.flip(x, axis=2)], axis=0)

    def compute_output_shape(self, shape):
        """(2 n, ...); n is mostly unknown."""
        return (shape[0] and 2 * shape[0], *shape[1:])


@keras.saving.register_keras_serializable(package="spiral_arms")
class MirrorMean(layers.Layer):
    """Mean of the maps of a view and of its mirror image, turned back: (2 n, ...) to (n, ...)."""

    def call(self, x):
        """The inverse of `WithMirror` where both halves agree."""
        one, other = ops.split(ops.reshape(x, (2, -1, *x.shape[1:])), 2, axis=0)
        return (one[0] + ops.flip(other[0], axis=2)) / 2

    def compute_output_shape(self, shape):
        """(n, ...); n is mostly unknown."""
        return (shape[0] and shape[0] // 2, *shape[1:])


def PolarNet(*, include_top: bool = False, weights: None = None, input_tensor) -> keras.Model:  # noqa: N802
    """Build the network without head, in the manner of ``keras.applications``.

    Parameters
    ----------
    include_top, weights
        There is neither a head nor a file of weights: False and None.
    input_tensor : KerasTensor
        Polar views, (n, rows, columns, channels) in 0..255, rows and columns multiples of 4.

    Returns
    -------
    keras.Model
        Its output ``top_activation`` is (n, rows / 4, columns / 4, `FEATURES`).
    """
    _require_bare(include_top, weights)
    x = _tower(input_tensor)
    x = layers.Activation("relu", name="top_activation")(x)
    return keras.Model(keras.utils.get_source_inputs(input_tensor), x, name="polarnet")


TOWERS = ("simulated", "real")
"""Parts of `ArmNet`, by the galaxies that they learnt from last."""


def ArmNet(*, include_top: bool = False, weights: None = None, input_tensor) -> keras.Model:  # noqa: N802
    """Build `TOWERS` side by side, without head; a mirrored galaxy has the same features.

    Arguments and output are as of `PolarNet`, with twice the `FEATURES`.
    """
    _require_bare(include_top, weights)
    both = WithMirror(name="with_mirror")(input_tensor)
    maps = layers.Concatenate(name="towers")([_tower(both, f"{name}_") for name in TOWERS])
    x = layers.Activation("relu", name="towers_activation")(maps)
    x = MirrorMean(name="mirror_mean")(x)
    x = layers.Activation("linear", name="top_activation")(x)
    return keras.Model(keras.utils.get_source_inputs(input_tensor), x, name="armnet")


def tower_weights(armnet: keras.Model, name: str, polarnet: keras.Model) -> None:
    """Copy the weights of a `PolarNet` into the tower of that name of an `ArmNet`."""
    for layer in polarnet.layers:
        if layer.weights:
            armnet.get_layer(f"{name}_{layer.name}").set_weights(layer.get_weights())


def _require_bare(include_top: bool, weights: None) -> None:
    if include_top or weights is not None:
        raise ValueError("these networks have no head and no weights of their own")


def _tower(views, prefix: str = ""):
    """Polar views to the last feature map before its activation."""
    x = layers.Rescaling(1 / 80, offset=-1, name=f"{prefix}rescaling")(views)
    x = _convolution(x, WIDTH, f"{prefix}stem")
    x = layers.MaxPooling2D(2, name=f"{prefix}stem_pool")(x)
    x = _convolution(x, 2 * WIDTH, f"{prefix}block1")
    x = _residual(x, f"{prefix}block1a")
    x = layers.MaxPooling2D(2, name=f"{prefix}block1_pool")(x)
    x = _convolution(x, 4 * WIDTH, f"{prefix}block2")
    x = _residual(_residual(x, f"{prefix}block2a"), f"{prefix}block2b")
    x = layers.Conv2D(FEATURES, 1, use_bias=False, name=f"{prefix}top_conv")(x)
    return _normalise(x, f"{prefix}top_bn")


def _convolution(x, channels: int, name: str):
    """Convolution round the circle, normalised, rectified."""
    x = layers.Conv2D(channels, 3, use_bias=False, name=f"{name}_conv")(
        RoundPadding(name=f"{name}_pad")(x)
    )
    return layers.Activation("relu", name=f"{name}_activation")(_normalise(x, f"{name}_bn"))


def _residual(x, name: str):
    """Two convolutions whose result is added (He et al. 2016); it starts as the identity."""
    channels = x.shape[-1]
    y = _convolution(x, channels, f"{name}_in")
    y = layers.Conv2D(channels, 3, use_bias=False, name=f"{name}_out_conv")(
        RoundPadding(name=f"{name}_out_pad")(y)
    )
    y = _normalise(y, f"{name}_out_bn", gamma_initializer="zeros")
    return layers.Activation("relu", name=f"{name}_activation")(
        layers.Add(name=f"{name}_add")([x, y])
    )


def _normalise(x, name: str, **arguments):
    return layers.BatchNormalization(momentum=0.95, name=name, **arguments)(x)
