"""Attribution maps of a classifier: which pixels speak for the class it chose.

A method is a function ``(network, image, target)``: a flat Keras network whose output are logits,
one image (height, width, channels) in its scale, and the index of the class to explain; it gives a
map (height, width), larger for more evidence. Notebook 05 has Grad-CAM++ and SmoothGrad, which it
calls from tf-keras-vis; here are two that are held against them. Maps explain the *logit*, because
a saturated softmax has almost no gradient.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from tf_keras_vis.utils.model_modifiers import ReplaceToLinear

from lib.explain.pixels import border
from lib.networks import LAST_CONVOLUTION
from lib.schema import InputError

STEPS = 12
"""Points on the path of integrated gradients."""

CELLS = 6
"""Occluding squares along each axis."""


class Explainer:
    """Applies methods to many galaxies, one by one, so that no map depends on its company.

    Parameters
    ----------
    model : keras.Model
        Flat functional classifier with a softmax output; it is copied.

    Attributes
    ----------
    network : keras.Model
        The copy, with logits as its output.

    Raises
    ------
    InputError
        If the maps of the model would be wrong or fail late: if a model is nested in it, which
        tf-keras-vis cannot reach into, if `LAST_CONVOLUTION` is missing, or if the output is no
        softmax.
    """

    def __init__(self, model: keras.Model) -> None:
        names = [layer.name for layer in model.layers]
        nested = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
        if nested:
            raise InputError(
                f"model {model.name!r} holds the nested model {nested[0]!r}, whose layers "
                "Grad-CAM++ cannot reach: build the head on the backbone's output, as notebook 03 "
                "does, so that all layers lie in one flat graph"
            )
        if LAST_CONVOLUTION not in names:
            raise InputError(
                f"model {model.name!r} has no layer {LAST_CONVOLUTION!r} for Grad-CAM++: name its "
                f"last convolutional activation so (its last layers: {', '.join(names[-5:])})"
            )
        if getattr(model.layers[-1], "activation", None) is not keras.activations.softmax:
            raise InputError(
                f"the last layer {names[-1]!r} of model {model.name!r} is not a softmax: maps "
                "explain the logit below a softmax output"
            )
        self.network = keras.models.clone_model(model)
        self.network.set_weights(model.get_weights())
        ReplaceToLinear()(self.network)
        self._traced: dict[Callable, Callable] = {}

    def maps(self, method: Callable, images: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Maps of one method, float32 (n, height, width).

        Parameters
        ----------
        method : callable
            See the head of this module. It is traced to a graph, which is five times as fast.
        images : ndarray, (n, height, width, channels)
        targets : ndarray, int (n,)

        Raises
        ------
        InputError
            If a map has another shape than its image, or holds NaN or infinity.
        """
        if method not in self._traced:
            self._traced[method] = tf.function(partial(method, self.network), autograph=False)
        with warnings.catch_warnings():
            # tf-keras-vis hands the one input over as a list of one.
            warnings.filterwarnings("ignore", "The structure of `inputs`", UserWarning)
            made = [
                np.asarray(self._traced[method](tf.constant(image), tf.constant(target)), "float32")
                for image, target in zip(
                    np.asarray(images, "float32"), np.asarray(targets, "int32"), strict=True
                )
            ]
        for number, values in enumerate(made):
            name = method.__name__
            if values.shape != images.shape[1:3]:
                raise InputError(f"{name}: map of {values.shape}, image of {images.shape[1:3]} px")
            if not np.isfinite(values).all():
                raise InputError(
                    f"{name}: map {number} holds NaN or infinity. The network's activations "
                    "overflow, as those of an untrained deep network do: train it, or recalibrate "
                    "its BatchNorm statistics (lib.explain.sanity.recalibrate)"
                )
        return np.stack(made)


def sky_of(image: tf.Tensor) -> tf.Tensor:
    """Sky of an image (height, width, channels): the median of its border, (channels,)."""
    places = np.flatnonzero(border(*image.shape[:2]))
    pixels = tf.sort(tf.gather(tf.reshape(image, (-1, image.shape[-1])), places), axis=0)
    return (pixels[(len(places) - 1) // 2] + pixels[len(places) // 2]) / 2


def integrated_gradients(network: keras.Model, image: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Integrated gradients (Sundararajan et al. 2017) on the way from empty sky to the image.

    Signed: all pixels together give the logit's rise above that of empty sky, up to the error of
    the midpoint rule.
    """
    sky = sky_of(image)
    fractions = (tf.range(STEPS, dtype="float32")[:, None, None, None] + 0.5) / STEPS
    rise, path = image - sky, sky + fractions * (image - sky)
    with tf.GradientTape() as tape:
        tape.watch(path)
        logits = network(path, training=False)[:, target]
    return tf.reduce_sum(rise * tf.reduce_mean(tape.gradient(logits, path), axis=0), axis=-1)


def occlusion(network: keras.Model, image: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Occlusion (Zeiler & Fergus 2014): the logit's fall when a square is replaced by sky.

    The squares are centred on a grid of cells, two cells wide; the falls are interpolated between
    the cells' centres.
    """
    height, width = image.shape[:2]
    edges = [(np.arange(CELLS)[:, None] + (-0.5, 1.5)) * side / CELLS for side in (height, width)]
    (top, bottom), (left, right) = (e.round()[..., None].transpose(1, 0, 2) for e in edges)
    rows = (np.arange(height) >= top) & (np.arange(height) < bottom)
    columns = (np.arange(width) >= left) & (np.arange(width) < right)
    hidden = (rows[:, None, :, None] & columns[None, :, None, :]).reshape(-1, height, width, 1)
    covered = tf.where(hidden, sky_of(image), image)
    before = network(image[None], training=False)[0, target]
    falls = before - network(covered, training=False)[:, target]
    return tf.image.resize(tf.reshape(falls, (CELLS, CELLS, 1)), (height, width))[..., 0]
