"""Do maps change when the network forgets what it learnt? (Adebayo et al. 2018)

A map that explains a trained network must change when the network's weights are replaced by
random ones. A map that stays shows the image's edges, not the network's reasons.

Maps are compared along rings round the galaxy, not pixel by pixel: a galaxy is bright in its
middle, so that even the gradients of white noise have nearly the same profile along the radius.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import keras
import numpy as np
import pandas as pd
from scipy import stats

from lib.explain.arms import polar_view
from lib.explain.localisation import disc_shape
from lib.explain.maps import Explainer

SURVIVES = 0.5
"""Mean rank correlation with the trained network's maps above which a method is said to survive
full randomisation."""

NORM = keras.layers.BatchNormalization


def stages(model: keras.Model) -> list[list[str]]:
    """Layers with weights that training sets, grouped from the output down to the input.

    Layers named ``block<k>...`` of an EfficientNet form one stage per k, the stem and the top one
    each; every other layer is a stage of its own.

    Returns
    -------
    list of list of str
        Layer names; the output layer's stage comes first.
    """
    found: dict[str, list[str]] = {}
    for layer in reversed(model.layers):
        if not layer.weights or isinstance(layer, keras.layers.Normalization):
            continue
        match = re.match(r"block\d+|stem|top", layer.name)
        found.setdefault(match.group() if match else layer.name, []).append(layer.name)
    return list(found.values())


def recalibrate(model: keras.Model, images: np.ndarray, layers: list[str]) -> None:
    """Set BatchNorm statistics to those of some images, in place, in one pass.

    Random weights make statistics learnt with other weights wrong, and a deep network then
    overflows: without this the test would compare with maps of a broken network.

    Parameters
    ----------
    model : keras.Model
        Functional model without nested models.
    images : ndarray, (n, height, width, channels)
        In the model's scale; all pass at once.
    layers : list of str
        Names of the layers whose statistics no longer hold; the statistics of others stay.
    """

    # A copy of the model whose layers normalise by, and keep, this batch's statistics: in training
    # mode with momentum 0 deeper layers already see inputs that are calibrated.
    def copy(layer: keras.Layer) -> keras.Layer:
        momentum = {"momentum": 0.0} if isinstance(layer, NORM) else {}
        return type(layer).from_config(layer.get_config() | momentum)

    def call(layer: keras.Layer, *args, **kwargs):
        if isinstance(layer, NORM):
            kwargs["training"] = layer.name in layers
        return layer(*args, **kwargs)

    twin = keras.models.clone_model(model, clone_function=copy, call_function=call)
    twin.set_weights(model.get_weights())
    twin(images)
    for layer in model.layers:
        if isinstance(layer, NORM) and layer.name in layers:
            calibrated = twin.get_layer(layer.name)
            layer.moving_mean.assign(calibrated.moving_mean)
            layer.moving_variance.assign(calibrated.moving_variance)


def fresh_copy(model: keras.Model, seed: int) -> keras.Model:
    """Same network, initialised anew by each layer's own initialiser, with seeds of its own.

    Initialisers that carry a seed would give the very weights that training started from, which
    for frozen layers are still there: so seeds are replaced.
    """
    seeds = iter(np.random.SeedSequence(seed).generate_state(10 * len(model.layers)).tolist())

    def copy(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        for value in config.values():
            inner = value.get("config", {}) if isinstance(value, dict) else {}
            if "seed" in inner:
                inner["seed"] = next(seeds) % 2**31
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=copy)


def similarity(before: np.ndarray, after: np.ndarray, images: np.ndarray) -> np.ndarray:
    """How alike two maps of each galaxy are: Spearman's correlation along rings of the disc.

    Parameters
    ----------
    before, after : ndarray, (n, height, width)
    images : ndarray, (n, height, width, channels)
        The discs' orientations are measured on them; rings go from a 24th to half of the width.

    Returns
    -------
    ndarray, float64 (n,)
        Of values ranked within their ring. A map without contrast resembles only another one: 0, or
        1 if neither has any.
    """
    found, width = [], images.shape[2]
    for a, b, image in zip(before, after, images, strict=True):
        axis_ratio, angle = disc_shape(image)
        a, b = (
            stats.rankdata(
                polar_view(
                    values, r_min=width / 24, r_max=width / 2, axis_ratio=axis_ratio,
                    position_angle=angle,
                ),
                axis=1,
            )
            for values in (a, b)
        )  # fmt: skip
        flat = [np.ptp(values) == 0 for values in (a, b)]
        found.append(float(all(flat)) if any(flat) else np.corrcoef(a.ravel(), b.ravel())[0, 1])
    return np.array(found)


def cascade(
    explainer: Explainer,
    methods: dict[str, Callable],
    images: np.ndarray,
    targets: np.ndarray,
    calibration: np.ndarray,
    *,
    depths: int,
    seed: int,
) -> pd.DataFrame:
    """Compare maps with those after re-initialising the network from the output down.

    Parameters
    ----------
    explainer : Explainer
        Its network has its trained weights again afterwards.
    methods : dict
        Name to method, see `lib.explain.maps`.
    images, calibration : ndarray, (n or k, height, width, channels)
        Galaxies to explain, and those that BatchNorm statistics are recalibrated on.
    targets : ndarray, int (n,)
    depths : int
        Number of depths, evenly spread; the last one is the whole network.

    Returns
    -------
    DataFrame
        One row per depth, method and galaxy: ``depth`` (share of the stages that are
        re-initialised), ``map``, ``galaxy`` (number), ``correlation``, see `similarity`.
    """
    network, groups = explainer.network, stages(explainer.network)
    chosen = sorted({max(1, round(d)) for d in np.linspace(1, len(groups), depths)})
    trained, fresh = network.get_weights(), fresh_copy(network, seed)
    before = {name: explainer.maps(method, images, targets) for name, method in methods.items()}
    rows = []
    try:
        for done, depth in itertools.pairwise([0, *chosen]):
            for name in itertools.chain(*groups[done:depth]):
                network.get_layer(name).set_weights(fresh.get_layer(name).get_weights())
            # Also of the stages initialised before: what reaches them has changed again.
            recalibrate(network, calibration, list(itertools.chain(*groups[:depth])))
            for name, method in methods.items():
                alike = similarity(before[name], explainer.maps(method, images, targets), images)
                rows.append(pd.DataFrame({"map": name, "correlation": alike}).assign(
                    depth=depth / len(groups), galaxy=np.arange(len(alike))))  # fmt: skip
    finally:
        network.set_weights(trained)
    return pd.concat(rows, ignore_index=True)
