"""Do maps lie on the arms? Scores against the simulator's truth.

On the mock survey it is known which pixels are arm, bulge and rest of the disc. On real galaxies
only galaxy and surroundings can be told apart, from the image itself. The surroundings are what
lies beyond R90, the Petrosian radius that holds 90 % of the light, in the plane of the disc.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import ndimage, stats
from skimage import measure
from sklearn.metrics import average_precision_score

from lib.explain.pixels import border
from lib.images import central_crop
from lib.surveys.mock.render import arm_mask, bulge_mask, disc_coordinates

WIDTH = 424
"""Pixels along a whole cut-out of Galaxy Zoo 2."""

R90 = 50
"""R90 in pixels of a cut-out: they are 0.02 R90 wide (Willett et al. 2013, Sec. 2.2)."""


def truth_parts(galaxy, size: int, crop: int) -> dict[str, np.ndarray]:
    """Which pixels of a simulated cut-out are arms, bulge, disc (between the arms), surroundings.

    `galaxy` is a row of the mock survey's truth table, `size` the width of the whole image in
    pixels; bool (crop, crop) by name, each pixel in one, and ``radius``: float32 (crop, crop), the
    distance from the centre in the plane of the disc, in R90.
    """
    radius, _ = disc_coordinates(galaxy, size)
    inside = radius < 1
    bulge = bulge_mask(galaxy, size) & inside
    arms = arm_mask(galaxy, size) & inside & ~bulge
    parts = {"arms": arms, "bulge": bulge, "disc": inside & ~arms & ~bulge, "surroundings": ~inside}
    parts["radius"] = radius
    return {name: central_crop(part[..., None], crop)[..., 0] for name, part in parts.items()}


def galaxy_mask(image: np.ndarray) -> np.ndarray:
    """Pixels of the galaxy in the middle of a cut-out, found without any truth.

    Parameters
    ----------
    image : ndarray, (height, width, channels)

    Returns
    -------
    ndarray of bool, (height, width)
        The bright region that holds the centre, its holes filled; the nearest one if the centre
        itself is dark, and nothing if all is dark. Bright, after smoothing by 2 px, is what is
        three robust standard deviations of the border above the sky, and at least 4 % of the
        image's range, for images with a flat sky.
    """
    grey = np.asarray(image, float).mean(axis=-1)
    smooth = ndimage.gaussian_filter(grey, 2)
    edge = smooth[border(*grey.shape)]
    sky, noise = np.median(edge), stats.median_abs_deviation(edge, scale="normal")
    bright = smooth > sky + max(3 * noise, 0.04 * np.ptp(smooth), 1e-12)
    regions = measure.label(bright)
    if not regions.any():
        return bright
    rows, columns = np.nonzero(regions)
    middle = (len(grey) - 1) / 2
    nearest = np.argmin((rows - middle) ** 2 + (columns - middle) ** 2)
    return ndimage.binary_fill_holes(regions == regions[rows[nearest], columns[nearest]])


def disc_shape(image: np.ndarray) -> tuple[float, float]:
    """Axis ratio and position angle of a galaxy from its mask's second moments.

    Parameters
    ----------
    image : ndarray, (height, width, channels)

    Returns
    -------
    axis_ratio : float
        In [0.3, 1]; 1 if no galaxy is found.
    position_angle : float
        Of the major axis, in degrees from the image's x axis, anticlockwise, in [0, 180).
    """
    rows, columns = np.nonzero(galaxy_mask(image))
    if len(rows) < 20:
        return 1.0, 0.0
    values, vectors = np.linalg.eigh(np.cov(columns, -rows))
    axis_ratio = float(np.sqrt(values[0] / values[1]))
    angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])) % 180)
    return max(axis_ratio, 0.3), angle


def within_r90(cutout: np.ndarray, crop: int, r90: float) -> np.ndarray:
    """Pixels within `r90` pixels in the plane of a real galaxy's disc.

    Bool (crop, crop), for the central part of a cut-out (height, width, channels).
    """
    axis_ratio, angle = disc_shape(cutout)
    axis = np.arange(crop) - (crop - 1) / 2
    x, y = np.meshgrid(axis, -axis)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.hypot(cos * x + sin * y, (cos * y - sin * x) / axis_ratio) < r90


def part_scores(values: np.ndarray, parts: dict[str, np.ndarray]) -> dict[str, float]:
    """Where the evidence of one map (height, width) lies, and how large the parts are.

    `parts` has masks by name, bool (height, width). ``energy_<part>`` is the share of the positive
    evidence, NaN for an empty map; ``area_<part>`` that of the pixels.
    """
    positive = np.clip(np.asarray(values, float), 0, None)
    total = positive.sum() or np.nan
    scores = {f"energy_{name}": positive[mask].sum() / total for name, mask in parts.items()}
    return scores | {f"area_{name}": float(mask.mean()) for name, mask in parts.items()}


def arm_scores(values: np.ndarray, arms: np.ndarray, radius: np.ndarray) -> dict[str, float]:
    """How well one map (height, width) finds the arms; `radius` is in the plane of the disc.

    ``precision``: area under the precision-recall curve (average precision); ``gain``: the same
    less that of the map's own azimuthal average in 40 rings, which has all of its radial
    information and none about arms. NaN without arms.
    """
    if not arms.any():
        return {"precision": np.nan, "gain": np.nan}
    ring = np.digitize(radius, np.linspace(0, radius.max(), 41)[1:-1]).ravel()
    mean = np.bincount(ring, values.ravel()) / np.maximum(np.bincount(ring), 1)
    found = average_precision_score(arms.ravel(), values.ravel())
    return {"precision": found, "gain": found - average_precision_score(arms.ravel(), mean[ring])}


def locate(
    maps: np.ndarray,
    cutouts: np.ndarray,
    galaxies: pd.DataFrame,
    truth: pd.DataFrame | None,
    binning: int,
) -> pd.DataFrame:
    """Scores of one method's maps, galaxy by galaxy.

    Parameters
    ----------
    maps : ndarray, (n, height, width)
    cutouts : ndarray, (n, height, width, channels)
        The same galaxies, as wide as there are, to measure a real disc's orientation.
    galaxies : DataFrame
        n rows with galaxy_id, label and predicted.
    truth : DataFrame or None
        The mock survey's truth table; None for real galaxies.
    binning : int
        Pixels of a survey's image along a pixel of these.

    Returns
    -------
    DataFrame
        galaxy_id, label, predicted, energy and area per part, see `part_scores`. Parts are galaxy
        and surroundings of real galaxies; of simulated ones arms, bulge, disc and surroundings, and
        there are also n_arms (true number) and the columns of `arm_scores`.
    """
    rows, size = [], WIDTH // binning
    for values, image, galaxy in zip(maps, cutouts, galaxies.itertuples(), strict=True):
        row = {k: getattr(galaxy, k) for k in ("galaxy_id", "label", "predicted")}
        if truth is None:
            inside = within_r90(image, len(values), R90 / binning)
            row |= part_scores(values, {"galaxy": inside, "surroundings": ~inside})
        else:
            true = truth.set_index("galaxy_id").loc[galaxy.galaxy_id]
            parts = truth_parts(true, size, len(values))
            radius = parts.pop("radius")
            row |= {"n_arms": int(true.n_arms), **part_scores(values, parts)}
            row |= arm_scores(values, parts["arms"], radius)
        rows.append(row)
    return pd.DataFrame(rows)
