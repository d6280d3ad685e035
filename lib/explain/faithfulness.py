"""Does the network depend on the pixels a map names? Insertion and deletion curves.

Petsiuk et al. (2018): pixels are removed (replaced by sky) or brought back (into a blurred image)
in the order of the map, and the probability of the explained class is followed. A map that names
the pixels that matter makes it fall fast under deletion and rise fast under insertion.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import ndimage, stats
from sklearn.metrics import auc

from lib.explain.pixels import sky_level
from lib.schema import InputError

CENTRED = "centred Gaussian"
"""The control map that a map has to beat."""


def control_maps(images: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Maps that know nothing of the network.

    Parameters
    ----------
    images : ndarray, (n, height, width, channels)
    seed : int

    Returns
    -------
    dict
        Name to float64 (n, height, width): ``random`` (noise smoothed to a sixteenth of the image,
        so that it is as coarse as a map), ``centred Gaussian`` (standard deviation a sixth of the
        image's width), and ``edges`` (Sobel gradient of the image's mean channel).
    """
    n, height, width = images.shape[:3]
    noise = np.random.default_rng(seed).normal(size=(n, height, width))
    noise = ndimage.gaussian_filter(noise, (0, height / 16, width / 16))
    y, x = np.mgrid[:height, :width]
    square = (y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2
    slopes = [[ndimage.sobel(grey, axis=k) for grey in images.mean(axis=-1)] for k in (0, 1)]
    return {
        "random": noise - noise.min(axis=(1, 2), keepdims=True),
        CENTRED: np.repeat(np.exp(-square / 2 / (width / 6) ** 2)[None], n, axis=0),
        "edges": np.hypot(*slopes),
    }


def curves(
    probabilities: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    maps: np.ndarray,
    targets: np.ndarray,
    steps: int,
) -> pd.DataFrame:
    """Follow the probability of the explained class while pixels go and come.

    Pixels of equal value (an empty map) are taken in random but fixed order.

    Parameters
    ----------
    probabilities : callable
        Images (k, height, width, channels) to probabilities (k, classes).
    images : ndarray, float32 (n, height, width, channels)
    maps : ndarray, (n, height, width)
    targets : ndarray, int (n,)
    steps : int
        Points of a curve after the first. They are denser at the start (the square of an even
        grid), because the galaxy fills only part of the image.

    Returns
    -------
    DataFrame
        A row per galaxy and point: galaxy (number), fraction (of the pixels inserted or deleted),
        insertion and deletion (probability).

    Raises
    ------
    InputError
        If `steps` is below 2 or the shapes of images and maps differ.
    """
    if steps < 2:
        raise InputError(f"steps = {steps}: a curve needs at least 2")
    if images.shape[:3] != maps.shape:
        raise InputError(f"maps have shape {maps.shape}, images {images.shape[:3]}")
    fraction = np.linspace(0, 1, steps + 1) ** 2
    pixels = maps[0].size
    shuffle = np.random.default_rng(0).permutation(pixels)
    width = images.shape[1] / 10
    blurred = ndimage.gaussian_filter(images, (0, width, width, 0), mode="nearest")
    sky = np.broadcast_to(sky_level(images), images.shape)
    rows = []
    for n, target in enumerate(targets):
        order = shuffle[np.argsort(-maps[n].ravel()[shuffle], kind="stable")]
        rank = np.empty(pixels, int)
        rank[order] = np.arange(pixels)
        changed = rank.reshape(maps[n].shape) < np.round(fraction * pixels)[:, None, None]
        inserted = np.where(changed[..., None], images[n], blurred[n])
        deleted = np.where(changed[..., None], sky[n], images[n])
        p = probabilities(np.concatenate([inserted, deleted]).astype("float32"))[:, target]
        columns = {"fraction": fraction, "insertion": p[: steps + 1], "deletion": p[steps + 1 :]}
        rows.append(pd.DataFrame({"galaxy": n, **columns}))
    return pd.concat(rows, ignore_index=True)


def areas(followed: pd.DataFrame) -> pd.DataFrame:
    """Areas under `curves` by model, map and galaxy_id: insertion, deletion, and `difference`."""
    kinds = ["insertion", "deletion"]
    table = followed.groupby(["model", "map", "galaxy_id"], sort=False)[["fraction", *kinds]].apply(
        lambda part: pd.Series({kind: auc(part["fraction"], part[kind]) for kind in kinds})
    )
    return table.assign(difference=table["insertion"] - table["deletion"]).reset_index()


def mean_interval(values, seed: int = 42) -> tuple[float, float, float]:
    """Mean, and its 95 % confidence interval (percentile bootstrap, 2,000 draws).

    The interval is NaN for fewer than three values.
    """
    values = np.asarray(values, float)
    if len(values) < 3:
        return float(values.mean()), np.nan, np.nan
    low, high = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, confidence_level=0.95, method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(values.mean()), float(low), float(high)


def scoreboard(table: pd.DataFrame, seed: int = 42) -> pd.DataFrame:
    """Mean `areas` per model and map, best first, and the gain over the centred Gaussian.

    Returns
    -------
    DataFrame
        model, map, insertion, deletion, difference (means), its 95 % interval ``low`` and ``high``;
        ``gain``, the mean difference from the centred Gaussian's on the same galaxies, with
        ``gain low`` and ``gain high``; the number of galaxies.
    """
    rows = []
    wide = table.pivot(index="galaxy_id", columns=["model", "map"], values="difference")
    means = table.groupby(["model", "map"], sort=False)[["insertion", "deletion"]].mean()
    for (model, name), row in means.iterrows():
        own, control = wide[model, name], wide[model, CENTRED]
        interval = zip(("difference", "low", "high"), mean_interval(own, seed))
        gain = zip(("gain", "gain low", "gain high"), mean_interval(own - control, seed))
        rows.append({"model": model, "map": name, **row, **dict(interval), **dict(gain)})
    board = pd.DataFrame(rows).assign(galaxies=len(wide))
    return board.sort_values(["model", "difference"], ascending=[True, False], ignore_index=True)
