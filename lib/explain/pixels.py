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
