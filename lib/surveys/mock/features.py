"""Simple numbers of an image, which must tell neither the class of a galaxy nor mock from real."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from lib.surveys.mock.render import FIELD

NOISE = ("noise", "grain", "correlation")
"""Those of the sky alone."""


def simple_features(image: np.ndarray) -> dict[str, float]:
    """Noise, brightness, colour, asymmetry and contrast of a cut-out.

    Parameters
    ----------
    image : ndarray of uint8, (n, n, 3)
        Whole cut-out, `FIELD` R90 wide, in RGB.

    Returns
    -------
    dict of str to float
        `NOISE`: scatter of the sky (from the median deviation), scatter within 3 pixels, and
        correlation of neighbouring pixels, each the median of the four corners. Then, in grey
        levels: ``centre``, ``middle`` and ``outside`` brightness (0 to .1, .3 to .6, .6 to 1 R90),
        colour (red - blue) at the centre and outside, ``contrast`` (scatter outside), and scatter
        of structures of 2, 4 and 8 pixels; ``first_moment`` in units of the flux (.3 to .6 R90).
    """
    colour = image.astype(np.float32)
    grey = colour.mean(axis=-1)
    n, edge = len(grey), len(grey) // 6
    corners = [
        grey[a, b]
        for a in (slice(edge), slice(-edge, None))
        for b in (slice(edge), slice(-edge, None))
    ]
    sky = []
    for corner in corners:
        fine = np.clip(corner - ndimage.gaussian_filter(corner, 3), -15, 15)
        deviation = 1.4826 * np.median(np.abs(corner - np.median(corner)))
        correlation = (fine[:, 1:] * fine[:, :-1]).mean() / (fine.var() + 1e-3)
        sky.append((deviation, fine.std(), correlation))
    y, x = (np.mgrid[:n, :n] - (n - 1) / 2) * FIELD / n
    r = np.hypot(x, y)
    centre, middle, outside = r < 0.1, (r >= 0.3) & (r < 0.6), (r >= 0.6) & (r < 1)
    reddening = colour[..., 0] - colour[..., 2]
    turn = np.exp(1j * np.arctan2(y[middle], x[middle]))
    features = dict(zip(NOISE, map(float, np.median(sky, axis=0)), strict=True))
    features |= {
        "centre": grey[centre].mean(),
        "middle": grey[middle].mean(),
        "outside": grey[outside].mean(),
        "centre_colour": reddening[centre].mean(),
        "outside_colour": reddening[outside].mean(),
        "contrast": grey[outside].std(),
        "first_moment": abs((grey[middle] * turn).sum()) / max(grey[middle].sum(), 1e-6),
    }
    disc = (r > 0.3) & (r < 1.2)
    for width in (2, 4, 8):
        band = ndimage.gaussian_filter(grey, width) - ndimage.gaussian_filter(grey, 2 * width)
        features[f"structure_{width}"] = band[disc].std()
    return {name: float(value) for name, value in features.items()}
