"""Do maps change when the network forgets what it learnt? (Adebayo et al. 2018)

A map that explains a trained network must change when the network's weights are replaced by
random ones, and when another class is asked about. A map that stays shows the image's edges, not
the network's reasons. An edge detector, which cannot change, stands beside as the control that
must fail.
"""

from __future__ import annotations

import re

import keras
import numpy as np
import pandas as pd
from scipy import stats
from skimage.metrics import structural_similarity

from lib.explain.faithfulness import CONTROLS, control_maps, mean_interval
from lib.explain.maps import Explainer

SURVIVES = 0.5
"""Mean rank correlation with the trained network's maps above which a method is said to survive
full randomisation. SSIM is reported beside it but not judged by: coarse maps, such as Grad-CAM++,
have a high SSIM whatever they show."""

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


def calibration_twin(model: keras.Model) -> keras.Model:
    """Copy of a model whose BatchNorm layers normalise by, and keep, the statistics of one batch.

    They run in training mode with momentum 0, so that in one pass deeper layers already see inputs
    that are calibrated.
    """

    def copy(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if isinstance(layer, NORM):
            config["momentum"] = 0.0
        return type(layer).from_config(config)

    def call(layer: keras.Layer, *args, **kwargs):
        if isinstance(layer, NORM):
            kwargs["training"] = True
        return layer(*args, **kwargs)

    return keras.models.clone_model(model, clone_function=copy, call_function=call)


def recalibrate(
    model: keras.Model, twin: keras.Model, images: np.ndarray, layers: list[str] | None = None
) -> None:
    """Set BatchNorm statistics to those of some images, in place, in one pass.

    Random weights make statistics learnt with other weights wrong, and a deep network then
    overflows: without this the test would compare with maps of a broken network.

    Parameters
    ----------
    model : keras.Model
        Functional model without nested models.
    twin : keras.Model
        Its `calibration_twin`.
    images : ndarray, (n, height, width, channels)
        In the model's scale; all pass at once.
    layers : list of str, optional
        BatchNorm layers to recalibrate; all by default.
    """
    twin.set_weights(model.get_weights())
    twin(images)
    for layer in model.layers:
        if isinstance(layer, NORM) and (layers is None or layer.name in layers):
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


def similarity(before: np.ndarray, after: np.ndarray) -> pd.DataFrame:
    """How alike two maps of each galaxy are.

    Parameters
    ----------
    before, after : ndarray, (n, height, width)

    Returns
    -------
    DataFrame
        Columns ``rank_correlation`` (Spearman, of the maps' values) and ``ssim`` (of the positive
        parts stretched to [0, 1]); one row per galaxy. A map without any contrast resembles
        nothing but another one: correlation 0, or 1 if both are empty.
    """
    rows = []
    for a, b, sa, sb in zip(before, after, scaled(before), scaled(after), strict=True):
        if np.ptp(a) == 0 or np.ptp(b) == 0:
            correlation = float(np.ptp(a) == np.ptp(b))
        else:
            correlation = stats.spearmanr(a, b, axis=None).statistic
        rows.append(
            {
                "rank_correlation": correlation,
                "ssim": structural_similarity(sa, sb, data_range=1.0),
            }
        )
    return pd.DataFrame(rows)


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
        last one's first layer), ``map``, ``galaxy`` (number), ``rank_correlation``, ``ssim``.
    """
    groups = stages(explainer.model)
    chosen = sorted({max(1, round(d)) for d in np.linspace(1, len(groups), depths)})
    trained = explainer.model.get_weights()
    twin = calibration_twin(explainer.model)
    fresh = fresh_copy(explainer.model, seed)
    rows = []
    try:
        done = 0
        for depth in chosen:
            layers = [name for group in groups[done:depth] for name in group]
            for name in layers:
                explainer.model.get_layer(name).set_weights(fresh.get_layer(name).get_weights())
            recalibrate(explainer.model, twin, calibration, layers)
            done = depth
            for method in before:
                after = _maps(explainer, method, images, targets)
                table = similarity(before[method], after).rename_axis("galaxy").reset_index()
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
        Columns map, galaxy, rank_correlation, ssim.
    """
    shift = np.random.default_rng(seed).integers(1, classes, len(targets))
    others = (np.asarray(targets) + shift) % classes
    rows = []
    for method in before:
        table = similarity(before[method], _maps(explainer, method, images, others))
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
        Per model (if any) and map: mean rank correlation and SSIM with the trained network's maps
        after full randomisation, their 95 % bootstrap intervals, and ``survives``: whether the mean
        rank correlation exceeds `SURVIVES`.
    """
    keys = [k for k in ("model", "map") if k in cascaded]
    rows = []
    for key, part in cascaded.groupby(keys, sort=False):
        last = part[part["depth"] == part["depth"].max()]
        row = dict(zip(keys, key, strict=True))
        for score in ("rank_correlation", "ssim"):
            interval = mean_interval(last[score], seed)
            row |= {score: interval["mean"], f"{score} low": interval["low"],
                    f"{score} high": interval["high"]}  # fmt: skip
        row["survives"] = row["rank_correlation"] > SURVIVES
        rows.append(row)
    return pd.DataFrame(rows).sort_values([*keys[:-1], "rank_correlation"]).reset_index(drop=True)
