"""Does the network depend on the pixels a map names? Insertion and deletion curves.

Petsiuk et al. (2018): pixels are removed (replaced by sky) or brought back (into a blurred image)
in the order of the map, and the probability of the explained class is followed. A map that names
the pixels that matter makes it fall fast under deletion and rise fast under insertion. Maps that
know nothing of the network stand beside: one random, one that only knows that galaxies are centred,
one of the image's edges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage, stats
from sklearn.metrics import auc

from lib.explain.pixels import sky_level
from lib.schema import InputError

CONTROLS = ("random", "centred Gaussian", "edges")
"""Maps made without the network."""


def control_maps(control: str, images: np.ndarray, seed: int) -> np.ndarray:
    """Maps that know nothing of the network.

    Parameters
    ----------
    control : str
        ``random`` (noise smoothed to a sixteenth of the image, so that it is as coarse as a map),
        ``centred Gaussian`` (standard deviation a sixth of the image's width), or ``edges`` (Sobel
        gradient of the image's mean channel).
    images : ndarray, (n, height, width, channels)
    seed : int

    Returns
    -------
    ndarray, float64 (n, height, width)

    Raises
    ------
    InputError
        If the control is unknown.
    """
    n, height, width = images.shape[:3]
    if control == "random":
        noise = np.random.default_rng(seed).normal(size=(n, height, width))
        smooth = ndimage.gaussian_filter(noise, (0, height / 16, width / 16))
        return smooth - smooth.min(axis=(1, 2), keepdims=True)
    if control == "centred Gaussian":
        y, x = np.mgrid[:height, :width]
        square = (y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2
        return np.repeat(np.exp(-square / 2 / (width / 6) ** 2)[None], n, axis=0)
    if control == "edges":
        grey = images.mean(axis=-1)
        return np.stack(
            [np.hypot(ndimage.sobel(g, axis=0), ndimage.sobel(g, axis=1)) for g in grey]
        )
    raise InputError(f"unknown control {control!r}: choose from {', '.join(CONTROLS)}")


def blurred(images: np.ndarray) -> np.ndarray:
    """Images without structure: Gaussian blur of a tenth of the width, per channel."""
    sigma = images.shape[1] / 10
    return ndimage.gaussian_filter(images, (0, sigma, sigma, 0), mode="nearest")


@dataclass(frozen=True)
class Curves:
    """Insertion and deletion curves of some galaxies under one map.

    Attributes
    ----------
    fraction : ndarray, (steps + 1,)
        Fraction of pixels inserted or deleted, from 0 to 1.
    insertion, deletion : ndarray, (n, steps + 1)
        Probability of the explained class.
    """

    fraction: np.ndarray
    insertion: np.ndarray
    deletion: np.ndarray

    @property
    def areas(self) -> pd.DataFrame:
        """Area under each galaxy's curves: columns insertion, deletion, and their difference."""
        table = pd.DataFrame(
            {
                kind: [auc(self.fraction, curve) for curve in getattr(self, kind)]
                for kind in ("insertion", "deletion")
            }
        )
        return table.assign(difference=table["insertion"] - table["deletion"])

    def table(self) -> pd.DataFrame:
        """All numbers in rows: galaxy (number), fraction, insertion, deletion."""
        galaxies, points = self.insertion.shape
        return pd.DataFrame(
            {
                "galaxy": np.repeat(np.arange(galaxies), points),
                "fraction": np.tile(self.fraction, galaxies),
                "insertion": self.insertion.ravel(),
                "deletion": self.deletion.ravel(),
            }
        )

    @classmethod
    def of_table(cls, table: pd.DataFrame) -> Curves:
        """Curves from what `table` gave."""
        wide = table.pivot(index="galaxy", columns="fraction")
        kinds = (wide[kind].to_numpy() for kind in ("insertion", "deletion"))
        return cls(wide["insertion"].columns.to_numpy(), *kinds)


def curves(
    probabilities: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    maps: np.ndarray,
    targets: np.ndarray,
    steps: int,
) -> Curves:
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
    Curves

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
    made = {"insertion": [], "deletion": []}
    start = {"insertion": blurred(images), "deletion": images}
    end = {"insertion": images, "deletion": np.broadcast_to(sky_level(images), images.shape)}
    for n, target in enumerate(targets):
        order = shuffle[np.argsort(-maps[n].ravel()[shuffle], kind="stable")]
        rank = np.empty(pixels, int)
        rank[order] = np.arange(pixels)
        changed = rank.reshape(maps[n].shape) < np.round(fraction * pixels)[:, None, None]
        frames = [np.where(changed[..., None], end[kind][n], start[kind][n]) for kind in made]
        both = probabilities(np.concatenate(frames).astype("float32"))[:, target]
        for kind, curve in zip(made, np.split(both, 2), strict=True):
            made[kind].append(curve)
    return Curves(fraction, np.array(made["insertion"]), np.array(made["deletion"]))


def mean_interval(values: np.ndarray, seed: int = 42) -> dict[str, float]:
    """Mean over galaxies with its bootstrap interval.

    Parameters
    ----------
    values : ndarray, (n,)
        One number per galaxy; NaN is left out.
    seed : int

    Returns
    -------
    dict
        ``mean``, ``low``, ``high`` (95 %, percentile bootstrap, 2,000 draws) and ``n``. The
        interval is NaN for fewer than three galaxies.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if len(values) < 3:
        mean = float(values.mean()) if len(values) else np.nan
        return {"mean": mean, "low": np.nan, "high": np.nan, "n": len(values)}
    low, high = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, confidence_level=0.95, method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return {"mean": values.mean(), "low": low, "high": high, "n": len(values)}


def scoreboard(areas: pd.DataFrame, seed: int = 42) -> pd.DataFrame:
    """Mean areas per model and map, and the gain over the controls galaxy by galaxy.

    Parameters
    ----------
    areas : DataFrame
        Columns model, map, galaxy_id, insertion, deletion, difference; one row each.
    seed : int

    Returns
    -------
    DataFrame
        One row per model and map, best first. Columns insertion, deletion, difference (means),
        low and high (95 % bootstrap interval of the difference), and for each of the controls
        ``random`` and ``centred Gaussian`` the mean paired gain in the difference and its
        interval: ``gain over random``, ``... low``, ``... high``.
    """
    rows = []
    for (model, name), part in areas.groupby(["model", "map"], sort=False):
        interval = mean_interval(part["difference"], seed)
        row = {"model": model, "map": name, **part[["insertion", "deletion"]].mean()}
        row |= {"difference": interval["mean"], "low": interval["low"], "high": interval["high"]}
        own = part.set_index("galaxy_id")["difference"]
        for control in ("random", "centred Gaussian"):
            other = areas.query("model == @model and map == @control")
            gain = mean_interval(own - other.set_index("galaxy_id")["difference"], seed)
            row |= {
                f"gain over {control}": gain["mean"],
                f"gain over {control} low": gain["low"],
                f"gain over {control} high": gain["high"],
            }
        rows.append(row | {"galaxies": len(part)})
    return (
        pd.DataFrame(rows)
        .sort_values(["model", "difference"], ascending=[True, False])
        .reset_index(drop=True)
    )
