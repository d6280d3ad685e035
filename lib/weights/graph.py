"""Backbone graphs, and the ways in which the same network is written differently elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass

import keras

from lib.schema import InputError


@dataclass(frozen=True)
class BackboneVariant:
    """What a graph needs beyond the one in ``keras.applications``.

    Attributes
    ----------
    padding : str
        How layers of stride 2 pad an even-sized image: ``same`` as TensorFlow does, more at the
        bottom and right, or ``symmetric`` as PyTorch does.
    bn_epsilon : float or None
        Epsilon of every BatchNormalization layer; None keeps that of ``keras.applications``.
    grey_as_rgb : bool
        Copy a grey image into three channels inside the graph. Needed where the network
        normalises each channel by its own mean before it pads with zeros: then no single-channel
        stem gives the same features at the borders.
    """

    padding: str = "same"
    bn_epsilon: float | None = None
    grey_as_rgb: bool = False


PLAIN = BackboneVariant()
"""The graph as ``keras.applications`` builds it."""


def build(architecture: str, images, variant: BackboneVariant = PLAIN) -> keras.Model:
    """Build a backbone without head, with random weights.

    Parameters
    ----------
    architecture : str
        Class name in ``keras.applications``, e.g. ``EfficientNetB0`` or ``EfficientNetV2M``.
    images : KerasTensor
        (n, side, side, channels) in 0..255, channels 1 (grey) or 3: a ``keras.Input``, or what
        layers make of one.
    variant : BackboneVariant
        See `lib.weights.variant`.

    Returns
    -------
    keras.Model
        Flat functional graph of plain Keras layers with the layer names of ``keras.applications``;
        its input is that behind `images`, its output the last feature map.

    Raises
    ------
    InputError
        If the architecture is unknown or the number of channels is neither 1 nor 3.
    """
    make = architecture_class(architecture)
    if images.shape[-1] not in (1, 3):
        raise InputError(f"{images.shape[-1]} channels: a backbone takes 1 (grey) or 3 (colour)")
    if variant.grey_as_rgb and images.shape[-1] == 1:
        images = keras.layers.Concatenate(name="grey_as_rgb")([images] * 3)
    backbone = make(include_top=False, weights=None, input_tensor=images)
    if variant.padding == "same" and variant.bn_epsilon is None:
        return backbone
    return keras.models.clone_model(backbone, clone_function=lambda layer: _vary(layer, variant))


def architecture_class(architecture: str):
    """Constructor of a backbone in ``keras.applications``.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    make = getattr(keras.applications, architecture, None)
    if not re.fullmatch(r"EfficientNet(B\d|V2\w+)", architecture) or make is None:
        raise InputError(
            f"unknown backbone {architecture!r}: choose an EfficientNet of keras.applications, "
            "e.g. EfficientNetB0 or EfficientNetV2M"
        )
    return make


def require_variant(backbone: keras.Model, variant: BackboneVariant) -> None:
    """Refuse a backbone whose graph is not of this variant.

    Raises
    ------
    InputError
        Names the first layer that is different.
    """
    for layer in backbone.layers:
        # Comparing with the same layer, varied, leaves one description of what a variant is.
        if type(layer) in (keras.layers.ZeroPadding2D, keras.layers.BatchNormalization):
            if layer.get_config() != _vary(layer, variant).get_config():
                raise InputError(
                    f"layer {layer.name} of {backbone.name} does not fit these weights, which need "
                    f"{variant}: build the backbone with lib.weights.build and that variant."
                )


def _vary(layer: keras.Layer, variant: BackboneVariant) -> keras.Layer:
    """Copy of a layer, changed as the variant asks."""
    config = layer.get_config()
    if isinstance(layer, keras.layers.ZeroPadding2D) and variant.padding == "symmetric":
        # Keras pads (k // 2 - 1, k // 2) for a kernel of k on an even-sized image.
        config["padding"] = tuple((max(side), max(side)) for side in config["padding"])
    if isinstance(layer, keras.layers.BatchNormalization) and variant.bn_epsilon is not None:
        config["epsilon"] = variant.bn_epsilon
    return type(layer).from_config(config)
