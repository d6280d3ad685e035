"""Discs with a known number of arms, for tests."""

import numpy as np

R90 = 25.0


def galaxy(arms: int, angle: float = 0.0, winding: float = 1.0, size: int = 96) -> np.ndarray:
    """Face-on exponential disc with sinusoidal logarithmic arms, uint8 (size, size, 3)."""
    axis = np.arange(size) - (size - 1) / 2
    x, y = np.meshgrid(axis, -axis)
    r, theta = np.hypot(x, y) + 0.1, np.arctan2(y, x) - np.radians(angle)
    light = 180 * np.exp(-r / 14)
    if arms:
        light *= 1 + 0.6 * np.cos(arms * (theta - 2 * winding * np.log(r)))
    return np.clip(light + 8, 0, 255).astype("uint8")[..., None].repeat(3, axis=-1)
