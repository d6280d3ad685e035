"""Backbone graphs, and the ways in which the same network is written differently elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import keras

from lib.networks.efficientnet_lite import EfficientNetLite0, EfficientNetLite1, EfficientNetLite2
from lib.networks.polarnet import ArmNet, PolarNet
from lib.schema import InputError


@dataclass(frozen=True)
class BackboneVariant:
    """What a graph needs beyond the one in ``keras.applications``.

    Attributes
    ----------
    padding : str
        How layers of stride 2 pad an even-sized image: ``same`` as TensorFlow does, more at the
        bottom and right, or ``symmetric`` as PyTorch does.
    bn_epsilon : float
        Epsilon of every BatchNormalization layer; 1e-3 in ``keras.applications``.
    grey_as_rgb : bool
        Copy a grey image into three channels inside the graph. Needed where the network
        normalises each channel by its own mean before it pads with zeros: then no single-channel
        stem gives the same features at the borders.
    """

    padding: str = "same"
    bn_epsilon: float = 1e-3
    grey_as_rgb: bool = False


PLAIN = BackboneVariant()
"""The graph as ``keras.applications`` builds it."""

BACKBONES = {
    name: getattr(keras.applications, name)
    for name in dir(keras.applications)
    if re.fullmatch(r"EfficientNet(B\d|V2\w+)", name)
} | {
    "EfficientNetLite0": EfficientNetLite0,
    "EfficientNetLite1": EfficientNetLite1,
    "EfficientNetLite2": EfficientNetLite2,
    "PolarNet": PolarNet,
    "ArmNet": ArmNet,
}
"""Backbones by name: what makes one, with the arguments of ``keras.applications``.

It must return a flat functional graph on pixels in [0, 255] whose last layer is an activation
called ``top_activation``.
"""


def build(architecture: str, images, variant: BackboneVariant = PLAIN) -> keras.Model:
    """Build a backbone without head, with random weights, in the given variant.

    `architecture` is a name in `BACKBONES`; `images` a ``keras.Input``, or what layers make of one,
    (n, side, side, channels) in 0..255 with 1 (grey) or 3 channels. The model is a flat graph of
    plain Keras layers with the names of ``keras.applications``, from the input behind `images` to
    the last feature map. Raises InputError for an unknown architecture or number of channels.
    """
    make = architecture_class(architecture)
    if images.shape[-1] not in (1, 3):
        raise InputError(f"{images.shape[-1]} channels: a backbone takes 1 (grey) or 3 (colour)")
    if variant.grey_as_rgb and images.shape[-1] == 1:
        images = keras.layers.Concatenate(name="grey_as_rgb")([images] * 3)
    backbone = make(include_top=False, weights=None, input_tensor=images)
    if replace(variant, grey_as_rgb=False) == PLAIN:
        return backbone
    return keras.models.clone_model(backbone, clone_function=lambda layer: _vary(layer, variant))


def architecture_class(architecture: str):
    """Constructor of a backbone of `BACKBONES`; InputError if there is none of that name."""
    if architecture not in BACKBONES:
        raise InputError(f"unknown backbone {architecture!r}: choose one of {', '.join(BACKBONES)}")
    return BACKBONES[architecture]


def require_variant(backbone: keras.Model, variant: BackboneVariant) -> None:
    """Refuse a backbone whose graph is not of this variant, naming the first layer that differs."""
    for layer in backbone.layers:
        # Comparing with the same layer, varied, leaves one description of what a variant is.
        if type(layer) in (keras.layers.ZeroPadding2D, keras.layers.BatchNormalization):
            if layer.get_config() != _vary(layer, variant).get_config():
                raise InputError(
                    f"layer {layer.name} of {backbone.name} does not fit these weights, which need "
                    f"{variant}: build the backbone with weights.build and that variant."
                )


def _vary(layer: keras.Layer, variant: BackboneVariant) -> keras.Layer:
    """Copy of a layer of a backbone's graph, as the variant asks."""
    config = layer.get_config()
    if isinstance(layer, keras.layers.ZeroPadding2D):
        sides = zip(config["padding"], layer.input.shape[1:3], strict=True)
        config["padding"] = tuple(_pad(max(side), size, variant.padding) for side, size in sides)
    if isinstance(layer, keras.layers.BatchNormalization):
        config["epsilon"] = variant.bn_epsilon
    return type(layer).from_config(config)


def _pad(half: int, size: int | None, padding: str) -> tuple[int, int]:
    """Zeros before and after an axis of `size` pixels, for a kernel of 2 half + 1 and stride 2."""
    # TensorFlow's "same" pads no more than needed: one less, and before, if the size is even.
    spared = padding == "same" and (size is None or size % 2 == 0)
    return half - int(spared), half
