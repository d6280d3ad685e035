"""Networks: backbones by name, and what is asked of any network.

Every network is one flat functional Keras graph from pixels [0, 255]: no model inside a model,
because tf-keras-vis follows the graph from the classes back to the last convolution,
``top_activation``.
"""

from __future__ import annotations

import hashlib

import keras
import numpy as np
import pandas as pd

from lib.images import CHANNELS
from lib.networks import weights as sources
from lib.schema import InputError

LAST_CONVOLUTION = "top_activation"
"""Name of the last convolutional layer's output in every backbone; Grad-CAM++ starts there."""

FEATURES = "features"
"""Name of the layer that gives the pooled features, which the head classifies."""


def backbone(name: str, crop: int, colour: str, weights: str) -> tuple[keras.Model, dict]:
    """A convolutional network without its head.

    Parameters
    ----------
    name : str
        One of `lib.networks.weights.graph.BACKBONES`, as Keras Applications names them.
    crop : int
        Side of the images in pixels, 32 or more.
    colour : {"grey", "rgb"}
        One channel or three.
    weights : str
        Where the weights come from, as `lib.networks.weights` names it; "none" is random.

    Returns
    -------
    model : keras.Model
        (batch, crop, crop, channels) pixels [0, 255] -> (batch, h, w, features), float32.
    origin : dict
        What `lib.networks.weights.initialise` says of the weights, and `backbone_sha256`, the hash
        of all of them.

    Raises
    ------
    InputError
        If a value is not possible, or the weights are absent or do not fit.
    """
    sources.architecture_class(name)
    if name in ("PolarNet", "ArmNet"):
        raise InputError(f"backbone {name!r} sees polar views: notebooks 11 and 12 use it")
    if colour not in CHANNELS:
        raise InputError(f"unknown colour {colour!r}: choose one of {', '.join(CHANNELS)}")
    if crop < 32:
        raise InputError(f"crop = {crop} px: an EfficientNet needs 32 px or more")
    pixels = keras.Input((crop, crop, CHANNELS[colour]), name="pixels")
    model, origin = on_images(name, pixels, weights)
    return keras.Model(model.inputs[0], model.output, name=name), origin  # not a list of one input


def on_images(name: str, images, weights: str) -> tuple[keras.Model, dict]:
    """As `backbone`, on a Keras tensor of images: for networks that change the pixels first."""
    channels = images.shape[-1]
    variant = sources.variant(weights, name, channels=channels)
    if channels == 1 and name.startswith("EfficientNetV2B") and not variant.grey_as_rgb:
        raise InputError(
            f"backbone {name!r} normalises each of three colours by its own mean: with weights = "
            f"{weights!r} it takes colour = 'rgb'; grey goes with weights = 'imagenet'"
        )
    model = sources.build(name, images, variant)
    origin = sources.initialise(model, weights, channels=channels)
    return model, {**origin, "backbone_sha256": weights_hash(model)}


@keras.saving.register_keras_serializable("spiral-arms")
class InferenceMode(keras.Model):
    """A network all of whose weights train while its layers run as in prediction.

    BatchNorm statistics and stochastic depth stay as they came, as where a backbone is called with
    ``training=False``, which the paper does (Sec. 3.4); but the graph stays flat.
    """

    def call(self, inputs, training=None, mask=None):
        """Outputs in inference mode."""
        return super().call(inputs, training=False, mask=mask)


def weights_hash(model: keras.Model) -> str:
    """SHA-256 of all weights in their order, by shape and value."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(str(tuple(weight.shape)).encode())
        digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return digest.hexdigest()


def parameter_counts(model: keras.Model) -> pd.Series:
    """Parameters of the backbone, of the head (what follows `FEATURES`), and those that train."""
    names = [layer.name for layer in model.layers]
    head = sum(layer.count_params() for layer in model.layers[names.index(FEATURES) :])
    total = model.count_params()
    trained = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    return pd.Series({"backbone": total - head, "head": head, "total": total, "trained": trained})
