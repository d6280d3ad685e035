"""A simulated galaxy, its masks, and its disc unrolled."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

from lib.figures.style import ARM_COLOURS, WIDTH
from lib.surveys.mock.render import FIELD, arm_mask, arm_pattern, bulge_mask, render


def masks(galaxy, *, size: int = 424) -> Figure:
    """Draw a galaxy, the masks of its arms and bulge, and its arms in log-polar coordinates.

    Parameters
    ----------
    galaxy : row of the truth table
    size : int
        Width of the rendered image in pixels.
    """
    image = render(galaxy, size)
    half = FIELD / 2
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(WIDTH, 0.36 * WIDTH), layout="constrained"
    )
    for axis in (left, middle):
        axis.imshow(image, extent=(-half, half, -half, half))
        axis.set(xlim=(-2, 2), ylim=(-2, 2), xlabel="x (R90)")
    left.set_ylabel("y (R90)")
    extent = dict(extent=(-half, half, half, -half), colors="white", linewidths=0.8)
    middle.contour(arm_mask(galaxy, size), [0.5], **extent)
    middle.contour(bulge_mask(galaxy, size), [0.5], linestyles="dotted", **extent)
    log_r, theta, polar = log_polar(galaxy, image.mean(axis=-1))
    right.pcolormesh(np.degrees(theta), log_r, polar, cmap="gray", rasterized=True)
    pattern = arm_pattern(galaxy, *np.broadcast_arrays(np.exp(log_r)[:, None], theta))
    right.contour(np.degrees(theta), log_r, pattern, [0.4], colors=ARM_COLOURS["2"], linewidths=0.8)
    right.set(xlabel="angle in the disc (deg)", ylabel="ln (radius / R90)")
    return figure


def log_polar(galaxy, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unroll an image in the plane of the galaxy's disc.

    Parameters
    ----------
    galaxy : row of the truth table
        Gives position angle and inclination.
    image : ndarray, (size, size)

    Returns
    -------
    log_r : ndarray, (96,)
        Natural logarithm of the radius in R90, from 0.15 to 1.4 R90.
    theta : ndarray, (180,)
        Angle in the disc from the major axis, radians.
    polar : ndarray, (96, 180)
        Image divided by its mean at each radius.
    """
    log_r = np.linspace(np.log(0.15), np.log(1.4), 96).astype(np.float32)
    theta = np.linspace(-np.pi, np.pi, 180, endpoint=False).astype(np.float32)
    r = np.exp(log_r)[:, None]
    u, v = r * np.cos(theta), r * np.sin(theta) * np.cos(np.radians(galaxy.inclination))
    angle = np.radians(galaxy.position_angle)
    x, y = u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)
    size = len(image)
    row, column = (0.5 - y / FIELD) * size - 0.5, (0.5 + x / FIELD) * size - 0.5
    polar = ndimage.map_coordinates(image.astype(np.float32), (row, column), order=1)
    return log_r, theta, polar / np.maximum(polar.mean(axis=1, keepdims=True), 1e-6)
