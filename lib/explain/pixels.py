"""What maps and images have in common, without a network."""

from __future__ import annotations

import numpy as np


def border(height: int, width: int) -> np.ndarray:
    """Pixels of the border of an image, a 16th of its height wide: bool (height, width)."""
    depth = max(1, height // 16)
    found = np.ones((height, width), bool)
    found[depth:-depth, depth:-depth] = False
    return found


def sky_level(images: np.ndarray) -> np.ndarray:
    """Sky of each cut-out: the median of its border pixels.

    Parameters
    ----------
    images : ndarray, (n, height, width, channels)

    Returns
    -------
    ndarray, float32 (n, 1, 1, channels)
    """
    edge = images[:, border(*images.shape[1:3])]
    return np.median(edge, axis=1).astype("float32")[:, None, None]


def energy(maps: np.ndarray) -> np.ndarray:
    """Share of each map's positive evidence per pixel: it sums to one over a map.

    Parameters
    ----------
    maps : ndarray, (n, height, width)

    Returns
    -------
    ndarray, float64 (n, height, width)
        All zero where a map has no positive value.
    """
    positive = np.clip(np.asarray(maps, float), 0, None)
    total = positive.sum(axis=(1, 2), keepdims=True)
    return np.divide(positive, total, out=np.zeros_like(positive), where=total > 0)
