"""Arms read from a map or an image: number, pitch angle, coherence, by logarithmic spirals.

In polar coordinates (ln r, theta) a logarithmic spiral is a straight line, so the Fourier transform
along both axes gathers m such arms of pitch angle alpha in one mode, at (p, m) with
``tan(alpha) = m / |p|`` (Considere & Athanassoula 1982; Puerari & Dottori 1992).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import ndimage

from lib.explain.localisation import disc_shape
from lib.schema import InputError

MODES = range(1, 7)
"""Arm numbers that are tried."""

PITCH = (6.0, 40.0)
"""Pitch angles that are tried, in degrees; more open patterns are rather lopsided discs."""

LOPSIDED = 0.6
"""Factor on the amplitude of m = 1 when the strongest mode is chosen: lopsided discs, bright
neighbours and centring errors all add to m = 1. Chosen by trial on images of the mock survey."""

HARMONICS = 3
"""Multiples of the best mode that its coherence counts: narrow arms are no pure sine wave."""


def polar_view(
    values: np.ndarray,
    *,
    r_min: float,
    r_max: float,
    axis_ratio: float = 1.0,
    position_angle: float = 0.0,
    shape: tuple[int, int] = (48, 128),
) -> np.ndarray:
    """A galaxy, or its map, (height, width), in the polar coordinates of its disc.

    Parameters
    ----------
    r_min, r_max : float
        Radii in pixels along the major axis.
    axis_ratio, position_angle : float
        Of the disc, as `disc_shape` gives them; the disc is stretched to face-on.

    Returns
    -------
    ndarray, float64 `shape`
        Rows are even in ln r, columns in angle, which runs anticlockwise from the major axis.

    Raises
    ------
    InputError
        If the radii do not fit into the image.
    """
    half = min(values.shape) / 2
    if not 0 < r_min < r_max <= half:
        raise InputError(
            f"radii {r_min:.1f} to {r_max:.1f} px do not fit an image of {values.shape[0]} px: "
            "r_max must be at most half its width"
        )
    r = np.geomspace(r_min, r_max, shape[0])[:, None]
    theta = np.arange(shape[1]) * 2 * np.pi / shape[1]
    u, v = r * np.cos(theta), r * np.sin(theta) * axis_ratio
    cos, sin = np.cos(np.radians(position_angle)), np.sin(np.radians(position_angle))
    x, y = cos * u - sin * v, sin * u + cos * v
    middle = (np.array(values.shape) - 1) / 2
    return ndimage.map_coordinates(
        np.asarray(values, float), (middle[0] - y, middle[1] + x), order=1, mode="nearest"
    )


def contrast(polar: np.ndarray) -> np.ndarray:
    """Deviation of each pixel of a polar view from its ring's mean, in units of that mean.

    Rings fainter than a tenth of the brightest are divided by that tenth, so that noise far out
    does not count as arms.
    """
    mean = polar.mean(axis=1, keepdims=True)
    floor = 0.1 * np.abs(mean).max()
    if floor == 0:
        return np.zeros_like(polar)
    return (polar - mean) / np.maximum(mean, floor)


def mode_amplitudes(polar: np.ndarray, r_min: float, r_max: float, m: int, p: np.ndarray):
    """Complex amplitudes A(p, m), (k,), of logarithmic spirals in a polar contrast map.

    `p`, (k,), is the wave number in ln r. The modulus is 1/2 for a contrast of
    cos(m theta + p ln r).
    """
    ln_r = np.log(np.geomspace(r_min, r_max, polar.shape[0]))
    azimuthal = np.fft.fft(polar, axis=1)[:, m] / polar.shape[1]
    return np.exp(-1j * np.outer(p, ln_r)) @ azimuthal / len(ln_r)


def read_arms(values: np.ndarray, *, r_min: float, r_max: float, **orientation: float) -> dict:
    """Arm number, pitch angle and coherence of a map or an image.

    Parameters
    ----------
    values : ndarray, (height, width)
        Only the positive part is used: of an image, subtract the sky.
    r_min, r_max : float
        Radii in pixels between which arms are looked for.
    **orientation
        axis_ratio and position_angle of `polar_view`.

    Returns
    -------
    dict
        ``m``, arm number of the strongest mode; ``arm_class``; ``pitch`` in degrees; ``winding``,
        +1 if the arms run to larger (anticlockwise) angles outwards, else -1; ``coherence``, the
        share of the variance along the azimuth that m equal logarithmic arms explain. Without any
        structure m and coherence are 0 and pitch is NaN.

    Raises
    ------
    InputError
        If the radii do not fit into the image.
    """
    polar = polar_view(np.clip(values, 0, None), r_min=r_min, r_max=r_max, **orientation)
    pattern = contrast(polar)
    variance = float((pattern**2).mean())
    if variance < 1e-12:
        return {"m": 0, "arm_class": "0", "pitch": np.nan, "winding": 1, "coherence": 0.0}
    best = (0.0, 0, 0.0)
    for m in MODES:
        low, high = (m / np.tan(np.radians(a)) for a in PITCH[::-1])
        p = np.linspace(low, high, 160)
        p = np.concatenate([-p[::-1], p])
        amplitude = np.abs(mode_amplitudes(pattern, r_min, r_max, m, p))
        amplitude *= LOPSIDED if m == 1 else 1.0
        best = max(best, (float(amplitude.max()), m, float(p[amplitude.argmax()])))
    _, m, p = best
    explained = sum(
        2 * np.abs(mode_amplitudes(pattern, r_min, r_max, k * m, np.array([k * p]))[0]) ** 2
        for k in range(1, HARMONICS + 1)
    )
    return {
        "m": m,
        "arm_class": "5+" if m >= 5 else str(m),
        "pitch": float(np.degrees(np.arctan2(m, abs(p)))),
        # Arms at theta = ln(r) / tan(pitch) keep m theta + p ln(r) constant for a negative p.
        "winding": -int(np.sign(p)),
        "coherence": float(min(explained / variance, 1.0)),
    }


def arm_table(
    maps: np.ndarray, cutouts: np.ndarray, galaxies: pd.DataFrame, *, r_min: float, r_max: float
) -> pd.DataFrame:
    """`read_arms` of many maps; each disc's orientation is measured on its image.

    Parameters
    ----------
    maps : ndarray, (n, height, width)
    cutouts : ndarray, (n, height, width, channels)
        The same galaxies, as wide as there are. Their size may differ from the maps'.
    galaxies : DataFrame
        n rows; galaxy_id and label go into the result.
    """
    rows = []
    for values, image, galaxy in zip(maps, cutouts, galaxies.itertuples(), strict=True):
        axis_ratio, angle = disc_shape(image)
        found = read_arms(
            values, r_min=r_min, r_max=r_max, axis_ratio=axis_ratio, position_angle=angle
        )
        rows.append({"galaxy_id": galaxy.galaxy_id, "label": galaxy.label, **found})
    return pd.DataFrame(rows)
