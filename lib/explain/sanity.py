"""Do maps change when the network forgets what it learnt? (Adebayo et al. 2018)

A map that explains a trained network must change when the network's weights are replaced by
random ones, and when another class is asked about. A map that stays shows the image's edges, not
the network's reasons. An edge detector, which cannot change, stands beside as the control that
must fail.

Maps are compared along rings round the galaxy, not pixel by pixel: a galaxy is bright in its
middle, and a network that is shown polar views takes most of its samples there, so that even the
gradients of white noise have nearly the same profile along the radius.
"""

from __future__ import annotations

import itertools
import re

import keras
import numpy as np
import pandas as pd
from scipy import stats
from skimage.metrics import structural_similarity

from lib.explain.arms import polar_view
from lib.explain.faithfulness import CONTROLS, control_maps, mean_interval
from lib.explain.localisation import disc_shape
from lib.explain.maps import Explainer

SURVIVES = 0.5
"""Mean rank correlation with the trained network's maps above which a method is said to survive
full randomisation. SSIM and the correlation of all pixels are reported but not judged by:
coarse maps, such as Grad-CAM++, have a high SSIM whatever they show, and maps that fall off from
the centre have a high correlation."""

SCORES = ("rank_correlation", "raw_correlation", "ssim")
"""Columns of `similarity`."""

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


def calibration_twin(model: keras.Model, layers: list[str]) -> keras.Model:
    """Copy of a model whose named BatchNorm layers normalise by, and keep, one batch's statistics.

    They run in training mode with momentum 0, so that in one pass deeper layers already see inputs
    that are calibrated. All others normalise by the statistics they have, as the model itself does.

    Parameters
    ----------
    model : keras.Model
        Functional model without nested models.
    layers : list of str
        Names of the layers; those that are no BatchNorm layers do not matter.
    """

    def copy(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if isinstance(layer, NORM):
            config["momentum"] = 0.0
        return type(layer).from_config(config)

    def call(layer: keras.Layer, *args, **kwargs):
        if isinstance(layer, NORM):
            kwargs["training"] = layer.name in layers
        return layer(*args, **kwargs)

    return keras.models.clone_model(model, clone_function=copy, call_function=call)


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
    twin = calibration_twin(model, layers)
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


def scaled(maps: np.ndarray) -> np.ndarray:
    """Positive part of each map (n, height, width), stretched to [0, 1]; empty maps stay zero.

    White is the 99th percentile: stretched to a single bright pixel, most maps would be so dark
    that SSIM found them all alike.
    """
    positive = np.clip(np.asarray(maps, float), 0, None)
    white = np.percentile(positive, 99, axis=(1, 2), keepdims=True)
    white = np.where(white > 0, white, positive.max(axis=(1, 2), keepdims=True))
    stretched = np.divide(positive, white, out=np.zeros_like(positive), where=white > 0)
    return stretched.clip(0, 1)


def rings(explainer: Explainer, images: np.ndarray) -> list[dict[str, float]]:
    """Rings along which the maps of each image are compared, as arguments of `polar_view`.

    Parameters
    ----------
    explainer : Explainer
    images : ndarray, (n, height, width, channels)
        In the model's scale.

    Returns
    -------
    list of dict
        For a network with a polar view, the radii and the disc that its layer takes; else the disc
        as measured on the image, from a 24th to half of the image's width.
    """
    view, width = explainer.polar, images.shape[2]
    if view is None:
        shapes = [disc_shape(image) for image in images]
        radii = {"r_min": width / 24, "r_max": width / 2}
    else:
        axis_ratio, angle = view.shape(view.light(explainer.to_grey_levels(images)))
        shapes = zip(np.asarray(axis_ratio), np.degrees(angle), strict=True)
        radii = {"r_min": view.r_min, "r_max": view.r_max}
    return [radii | {"axis_ratio": q, "position_angle": angle} for q, angle in shapes]


def similarity(before: np.ndarray, after: np.ndarray, along: list[dict]) -> pd.DataFrame:
    """How alike two maps of each galaxy are.

    Parameters
    ----------
    before, after : ndarray, (n, height, width)
    along : list of dict
        From `rings`, one per galaxy.

    Returns
    -------
    DataFrame
        Columns ``rank_correlation`` (Spearman, of values ranked within their ring),
        ``raw_correlation`` (Spearman, of all pixels) and ``ssim`` (of the positive parts stretched
        to [0, 1]); one row per galaxy. A map without any contrast resembles nothing but another
        one: correlation 0, or 1 if both are empty.
    """
    rows = []
    pairs = zip(before, after, scaled(before), scaled(after), along, strict=True)
    for a, b, scaled_a, scaled_b, ring in pairs:
        ranks_a, ranks_b = (stats.rankdata(polar_view(m, **ring), axis=1) for m in (a, b))
        row = {
            "rank_correlation": _correlation(ranks_a, ranks_b),
            "raw_correlation": _correlation(stats.rankdata(a), stats.rankdata(b)),
            "ssim": structural_similarity(scaled_a, scaled_b, data_range=1.0),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation; 0 if one has no contrast, 1 if neither has."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float(np.ptp(a) == np.ptp(b))
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def _maps(explainer: Explainer, method: str, images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    if method in CONTROLS:
        return control_maps(method, images, seed=0)
    return explainer.maps(method, images, targets)


def cascade(
    explainer: Explainer,
    before: dict[str, np.ndarray],
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
        Its model has its trained weights again afterwards.
    before : dict
        Method (of `lib.explain.maps.METHODS`, or a control of `lib.explain.faithfulness`) to the
        trained network's maps, ndarray (n, height, width).
    images : ndarray, (n, height, width, channels)
    targets : ndarray, int (n,)
    calibration : ndarray, (k, height, width, channels)
    depths : int
        Number of depths, evenly spread; the last one is the whole network.
    seed : int

    Returns
    -------
    DataFrame
        One row per depth, method and galaxy: ``depth`` (stages re-initialised), ``down_to`` (the
        last one's first layer), ``map``, ``galaxy`` (number), and the columns of `similarity`.
    """
    groups = stages(explainer.model)
    chosen = sorted({max(1, round(d)) for d in np.linspace(1, len(groups), depths)})
    trained = explainer.model.get_weights()
    along = rings(explainer, images)
    fresh = fresh_copy(explainer.model, seed)
    rows = []
    try:
        done = 0
        for depth in chosen:
            for name in itertools.chain(*groups[done:depth]):
                explainer.model.get_layer(name).set_weights(fresh.get_layer(name).get_weights())
            # Also of the stages initialised before: what reaches them has changed again.
            recalibrate(explainer.model, calibration, list(itertools.chain(*groups[:depth])))
            done = depth
            for method in before:
                after = _maps(explainer, method, images, targets)
                table = similarity(before[method], after, along).rename_axis("galaxy").reset_index()
                rows.append(table.assign(depth=depth, down_to=groups[depth - 1][-1], map=method))
    finally:
        explainer.model.set_weights(trained)
    return pd.concat(rows, ignore_index=True)


def other_class(
    explainer: Explainer,
    before: dict[str, np.ndarray],
    images: np.ndarray,
    targets: np.ndarray,
    classes: int,
    seed: int,
) -> pd.DataFrame:
    """Compare maps with those for another class, drawn at random (random-logit test).

    Parameters
    ----------
    explainer, before, images, targets, seed
        As for `cascade`.
    classes : int
        Number of classes.

    Returns
    -------
    DataFrame
        Columns map, galaxy, and those of `similarity`.
    """
    shift = np.random.default_rng(seed).integers(1, classes, len(targets))
    others = (np.asarray(targets) + shift) % classes
    along = rings(explainer, images)
    rows = []
    for method in before:
        table = similarity(before[method], _maps(explainer, method, images, others), along)
        rows.append(table.rename_axis("galaxy").reset_index().assign(map=method))
    return pd.concat(rows, ignore_index=True)


def verdict(cascaded: pd.DataFrame, seed: int = 42) -> pd.DataFrame:
    """Which methods survive full randomisation and so show edges, not reasons.

    Parameters
    ----------
    cascaded : DataFrame
        From `cascade`, optionally with a column model.

    Returns
    -------
    DataFrame
        Per model (if any) and map: mean of each of `SCORES` between the trained network's maps and
        those after full randomisation, their 95 % bootstrap intervals, and ``survives``: whether
        the mean rank correlation exceeds `SURVIVES`.
    """
    keys = [k for k in ("model", "map") if k in cascaded]
    rows = []
    for key, part in cascaded.groupby(keys, sort=False):
        last = part[part["depth"] == part["depth"].max()]
        row = dict(zip(keys, key, strict=True))
        for score in SCORES:
            interval = mean_interval(last[score], seed)
            row |= {score: interval["mean"], f"{score} low": interval["low"],
                    f"{score} high": interval["high"]}  # fmt: skip
        row["survives"] = row["rank_correlation"] > SURVIVES
        rows.append(row)
    return pd.DataFrame(rows).sort_values([*keys[:-1], "rank_correlation"]).reset_index(drop=True)
