"""Arms without a neural network: Fourier amplitudes of a galaxy's polar view.

What classical photometry knows of spiral arms (e.g. Considere & Athanassoula 1982; Davis et al.
2012; Conselice 2003), for a linear classifier (`lib.counting.controls`).
"""

from __future__ import annotations

import numpy as np

from lib.explain.arms import contrast, polar_view
from lib.explain.localisation import disc_shape
from lib.explain.pixels import sky_level
from lib.schema import InputError

ROWS, COLUMNS, ZONES = 32, 96, 8
"""Radii and angles of the polar view; zones of radius in which numbers are gathered."""

RADII = (0.1, 1.8)
"""First and last radius of the polar view in R90."""

MODES = 8
"""Highest azimuthal mode m."""

SPIRALS = 6
"""Highest m of the logarithmic spirals."""

WINDINGS = 14
"""Highest wave number of the logarithmic spirals along ln r, in cycles of the padded range."""


def features(images: np.ndarray, r90: float) -> np.ndarray:
    """Numbers that describe the light of each galaxy.

    Logarithms of: the radial profile, the amplitudes of the modes m = 1..8 and of finer structure
    in eight zones of radius, the power of logarithmic spirals (p, m) with m = 1..6 split by sense
    of winding, the asymmetry under a half turn. Besides: the correlation with turns by 1/m, the
    colour of each zone, the concentration and the axis ratio. Nothing depends on the orientation,
    and a mirrored galaxy has the same numbers.

    Parameters
    ----------
    images : ndarray of uint8, (n, size, size, 3)
        Centred cut-outs.
    r90 : float
        Petrosian radius that holds 90 % of the light, in pixels.

    Returns
    -------
    ndarray of float32, (n, 231)

    Raises
    ------
    InputError
        If the images are not in colour or too small for the radii.
    """
    if images.ndim != 4 or images.shape[-1] != 3:
        raise InputError(f"images of shape {images.shape}: classical features need (n, h, w, 3)")
    if images.shape[1] / 2 < RADII[1] * r90:
        raise InputError(
            f"images of {images.shape[1]} px: {2 * RADII[1] * r90:.0f} px or more are needed for "
            f"R90 = {r90:g} px"
        )
    return np.stack([_features(image, r90) for image in images]).astype("float32")


def _features(image: np.ndarray, r90: float) -> np.ndarray:
    axis_ratio, angle = disc_shape(image)
    light = image.astype("float32") - sky_level(image[None])[0]
    view = {"r_min": RADII[0] * r90, "r_max": RADII[1] * r90, "shape": (ROWS, COLUMNS)}
    view |= {"axis_ratio": axis_ratio, "position_angle": angle}
    bands = np.stack([polar_view(light[..., k], **view) for k in range(3)], axis=-1)
    grey = bands.mean(axis=-1)
    pattern = contrast(grey)
    amplitudes = np.fft.rfft(pattern, axis=1) * 2 / COLUMNS
    profile = _zones(grey.mean(axis=1))
    numbers = [
        np.log(np.maximum(profile, 0.5) / max(profile[0], 1.0)),
        np.log(_zones(np.abs(amplitudes[:, 1 : MODES + 1])) + 0.01),
        np.log(_zones(np.abs(amplitudes[:, MODES + 1 : 30]).mean(axis=1)) + 0.003),
        _spiral_power(amplitudes[10:28, 1 : SPIRALS + 1]),
        np.log(
            _zones(np.abs(pattern - np.roll(pattern, COLUMNS // 2, axis=1)).mean(axis=1)) + 0.01
        ),
        *(_turned(pattern, m) for m in range(2, SPIRALS + 1)),
        _colour(bands),
        np.log(np.std(bands - bands.mean(axis=1, keepdims=True), axis=(0, 1)) + 1),
        [axis_ratio, np.log(max(grey[:16].sum(), 1) / max(grey[16:].sum(), 1))],
    ]
    return np.concatenate([np.ravel(part) for part in numbers])


def _zones(values: np.ndarray) -> np.ndarray:
    """Means over the rows of each zone; all that follows the rows is kept."""
    return values.reshape(ZONES, ROWS // ZONES, *values.shape[1:]).mean(axis=1)


def _spiral_power(amplitudes: np.ndarray) -> np.ndarray:
    """Log amplitude of spirals of each m, by wave number along ln r; the stronger sense first."""
    window = np.hanning(len(amplitudes) + 2)[1:-1, None]
    power = np.abs(np.fft.fft(amplitudes * window, n=64, axis=0)) / len(amplitudes)
    one = power[1 : WINDINGS + 1].reshape(-1, 2, SPIRALS).mean(axis=1)
    other = power[-WINDINGS:][::-1].reshape(-1, 2, SPIRALS).mean(axis=1)
    if other[:, 1:4].sum() > one[:, 1:4].sum():
        one, other = other, one
    return np.log(np.concatenate([one, other, power[:1]]) + 0.005)


def _turned(pattern: np.ndarray, m: int) -> np.ndarray:
    """Correlation of each zone with itself turned by 1/m, 2/m, ... of a circle, their mean."""
    turns = [np.roll(pattern, round(COLUMNS * k / m), axis=1) for k in range(1, m)]
    product = _zones((pattern * np.mean(turns, axis=0)).mean(axis=1))
    return product / np.maximum(_zones((pattern**2).mean(axis=1)), 1e-4)


def _colour(bands: np.ndarray) -> np.ndarray:
    """Red minus blue of each zone relative to its brightness."""
    zones = _zones(bands.mean(axis=1))
    return (zones[:, 0] - zones[:, 2]) / np.maximum(zones.mean(axis=1), 3)
