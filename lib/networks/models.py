"""Networks that may see polar views, with a head, for notebooks 11 and 12 (see `lib.networks`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import keras

from lib.images import CHANNELS
from lib.networks import FEATURES, on_images, weights
from lib.networks.amplitudes import Amplitudes
from lib.networks.polar import PolarView
from lib.schema import InputError

VIEWS = ("sky", "polar")
"""How a galaxy is shown to the backbone: as on the sky, or in polar coordinates."""

HEAD = ("dense", "classes")
"""Names of the two dense layers of the head."""


@dataclass(frozen=True)
class Network:
    """What decides a network before it is trained.

    Attributes
    ----------
    role : str
        What the network stands for in the paper: "B0" or "V2M".
    backbone : str
        One of `lib.networks.weights.graph.BACKBONES`.
    weights : str
        Where the backbone's weights come from, as `lib.networks.weights` names it; "none" is
        random.
    crop : int
        Side of the image in pixels.
    colour : {"grey", "rgb"}
        One channel or three.
    view : {"sky", "polar"}
        One of `VIEWS`.
    trainable : {"frozen", "all"}
        Whether only the head or all weights are updated (Table 2).
    dense_units : int
        Width of the dense layer. The paper prints 1028, its parameter counts say 1024.
    activation : {"relu", "linear"}
        Of the dense layer.
    amplitudes : bool
        Join the Fourier amplitudes of the polar view (`lib.networks.amplitudes`) to the pooled
        features.
    """

    role: str
    backbone: str
    weights: str = "none"
    crop: int = 224
    colour: str = "rgb"
    view: str = "sky"
    trainable: str = "all"
    dense_units: int = 1024
    activation: str = "relu"
    amplitudes: bool = False

    def __post_init__(self):
        weights.architecture_class(self.backbone)
        if self.colour not in CHANNELS:
            raise InputError(f"unknown colour {self.colour!r}: choose one of {', '.join(CHANNELS)}")
        if self.view not in VIEWS:
            raise InputError(f"view = {self.view!r}: choose one of {', '.join(VIEWS)}")
        if self.trainable not in ("frozen", "all"):
            raise InputError(f"trainable = {self.trainable!r}: choose frozen or all")
        if self.crop < 32:
            raise InputError(f"crop = {self.crop} px: an EfficientNet needs 32 px or more")
        if self.activation not in ("relu", "linear"):
            raise InputError(f"activation = {self.activation!r}: choose relu or linear")
        if self.amplitudes and self.view != "polar":
            raise InputError(f"amplitudes go with view = 'polar', not with {self.view!r}")
        if self.dense_units < 1:
            raise InputError(f"dense_units = {self.dense_units}: the dense layer needs 1 or more")

    def settings(self) -> dict[str, object]:
        """Fields as plain values."""
        return asdict(self)


def build(network: Network, n_classes: int, seed: int) -> tuple[keras.Model, dict]:
    """Build a network with its initial weights.

    Parameters
    ----------
    network : Network
        Backbone, weights, input and head.
    n_classes : int
        Outputs of the softmax.
    seed : int
        Seed of the random weights; sets Keras', NumPy's and Python's global seeds too.

    Returns
    -------
    model : keras.Model
        (batch, crop, crop, channels) pixels [0, 255] -> (batch, n_classes)
        probabilities, float32.
    receipt : dict
        What `lib.networks.weights.initialise` says of the backbone's weights, and
        `backbone_sha256`, the hash of all of them as they start.

    Raises
    ------
    InputError
        If the weights are unknown, absent or do not fit.
    """
    keras.utils.set_random_seed(seed)
    channels = CHANNELS[network.colour]
    pixels = keras.Input((network.crop, network.crop, channels), name="pixels")
    images = pixels
    if network.view == "polar":
        images = PolarView.of_crop(network.crop, name="polar_view")(images)
    base, receipt = on_images(network.backbone, images, network.weights)
    _check_view(network, receipt)
    base.trainable = network.trainable == "all"
    if network.amplitudes:
        pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(base.output)
        numbers = Amplitudes(name="amplitudes")(images)
        features = keras.layers.Concatenate(name=FEATURES)([pooled, numbers])
    else:
        features = keras.layers.GlobalAveragePooling2D(name=FEATURES)(base.output)
    output = _head(features, network, n_classes, seed)
    return keras.Model(base.inputs[0], output, name=network.role.lower()), receipt


def _head(features, network: Network, n_classes: int, seed: int):
    """The paper's head on pooled features (Sec. 3.4), Glorot uniform with seeds of its own."""
    widths, activations = (network.dense_units, n_classes), (network.activation, "softmax")
    for layer, (name, units, activation) in enumerate(zip(HEAD, widths, activations)):
        start = keras.initializers.GlorotUniform(seed=seed + layer)
        dense = keras.layers.Dense(
            units, activation=activation, kernel_initializer=start, name=name
        )
        features = dense(features)
    return features


def body_of(model: keras.Model) -> keras.Model:
    """The rest, (batch, crop, crop, channels) -> (batch, features), sharing its layers."""
    return keras.Model(model.input, model.get_layer(FEATURES).output, name="body")


def _check_view(network: Network, receipt: dict) -> None:
    """Refuse bundled weights that learnt from another view of the galaxies."""
    view = receipt.get("card", {}).get("view", network.view)
    if view != network.view:
        raise InputError(
            f"view = {network.view!r}: the weights {receipt['file']} learnt from {view} views; "
            f"choose view = {view!r}"
        )
