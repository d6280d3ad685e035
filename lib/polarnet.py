"""A small convolutional network for polar views (`lib.polar`): round the circle, and no smaller.

An EfficientNet halves an image five times and pads its borders with zeros: of a polar view of
32 x 96 pixels one row of three cells would be left, and the arms would be cut at the major axis.
Here rows and columns are halved twice, and the convolutions go round.
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
    if include_top or weights is not None:
        raise ValueError("PolarNet has no head and no weights of its own")
    x = layers.Rescaling(1 / 80, offset=-1, name="rescaling")(input_tensor)
    x = _convolution(x, WIDTH, "stem")
    x = layers.MaxPooling2D(2, name="stem_pool")(x)
    x = _convolution(x, 2 * WIDTH, "block1")
    x = _residual(x, "block1a")
    x = layers.MaxPooling2D(2, name="block1_pool")(x)
    x = _convolution(x, 4 * WIDTH, "block2")
    x = _residual(_residual(x, "block2a"), "block2b")
    x = layers.Conv2D(FEATURES, 1, use_bias=False, name="top_conv")(x)
    x = _normalise(x, "top_bn")
    x = layers.Activation("relu", name="top_activation")(x)
    return keras.Model(keras.utils.get_source_inputs(input_tensor), x, name="polarnet")


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
