"""A galaxy in the polar coordinates of its disc, as a layer at the entrance of a network.

With the angle along one axis and the logarithm of the radius along the other, logarithmic spiral
arms are parallel straight stripes, m arms cross each radius m times, and a rotation of the galaxy
is a shift. What must be counted is then the frequency of a texture, which convolutions learn from
far fewer galaxies than the number of arms of an image. The disc is first stretched to face-on by
its own shape.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from lib.schema import InputError

WINDOW = 20.0
"""Width (sigma, in pixels) of the Gaussian window in which the shape of the disc is measured."""

SATURATION = 20.0
"""Grey level above the sky at which light counts no more for the shape: the bulge is rounder than
the disc and much brighter."""

R_MIN = 2.5
"""First radius in pixels; 0.1 R90 of a Galaxy Zoo 2 cut-out whose pixels were averaged 2 x 2."""

ROW_SPACING = np.log(35 / R_MIN) / 31
"""Step of the rows in ln(radius), that of 32 rows up to 35 pixels: a pattern along the radius has
the same scale in crops of all sizes, as weights that were trained on one of them need it."""


@keras.saving.register_keras_serializable(package="spiral_arms")
class PolarView(keras.layers.Layer):
    """Images to polar views, (n, size, size, c) to (n, rows, columns, c), grey levels [0, 255].

    A row has one radius, growing evenly in its logarithm; column 0 is the major axis, and angles
    run anticlockwise. Each value is the contrast with the mean of its ring, on top of that mean on
    a logarithmic scale.

    Parameters
    ----------
    rows, columns : int
        Radii and angles.
    r_min, r_max : float
        First and last radius along the major axis in pixels. By default 0.1 and 1.4 R90 of a
        Galaxy Zoo 2 cut-out whose pixels were averaged 2 x 2.

    Raises
    ------
    InputError
        If the last radius does not fit into the image.
    """

    def __init__(
        self,
        rows: int = 32,
        columns: int = 96,
        r_min: float = R_MIN,
        r_max: float = 35.0,
        **arguments,
    ):
        super().__init__(**arguments)
        self.rows, self.columns, self.r_min, self.r_max = rows, columns, r_min, r_max

    @classmethod
    def of_crop(cls, crop: int, **arguments) -> PolarView:
        """View to a pixel from the edge of a crop of so many pixels, in rows `ROW_SPACING` apart.

        Their number is a multiple of 4, which `lib.networks.polarnet` halves twice; 72 pixels give
        32 rows up to a radius of 35.
        """
        r_max = crop / 2 - 1
        steps = np.log(r_max / R_MIN) / ROW_SPACING
        return cls(rows=4 * round((1 + steps) / 4), r_max=r_max, **arguments)

    def build(self, shape):
        """Coordinates and window for images of one size."""
        size = shape[1]
        if size / 2 <= self.r_max:
            raise InputError(
                f"crop = {size} px: the polar view reaches to a radius of {self.r_max:g} px, so "
                f"the image must be wider than {2 * self.r_max:g} px"
            )
        axis = np.arange(size, dtype=np.float32) - (size - 1) / 2
        self.x, self.y = np.meshgrid(axis, -axis)
        self.window = np.exp(-(self.x**2 + self.y**2) / (2 * WINDOW**2))
        edge = max(1, size // 24)
        border = np.ones((size, size), bool)
        border[edge:-edge, edge:-edge] = False
        self.border = np.flatnonzero(border)

    def compute_output_shape(self, shape):
        """(n, rows, columns, c)."""
        return (shape[0], self.rows, self.columns, shape[-1])

    def get_config(self):
        """Arguments of the constructor."""
        own = {name: getattr(self, name) for name in ("rows", "columns", "r_min", "r_max")}
        return super().get_config() | own

    def call(self, images):
        """Sky-subtracted, resampled, relative to the mean of each ring."""
        light = self.light(images)
        axis_ratio, angle = self.shape(light)
        polar = self.resample(light, axis_ratio, angle)
        mean = ops.mean(polar, axis=2, keepdims=True)
        floor = ops.maximum(0.1 * ops.max(mean, axis=1, keepdims=True), 1.0)
        contrast = ops.clip((polar - mean) / ops.maximum(mean, floor), -1.0, 1.5)
        return 60 + 80 * contrast + 12 * ops.log(1 + ops.maximum(mean, 0.0))

    def light(self, images):
        """Grey levels above the sky, which is the median of the border."""
        size, channels = images.shape[1], images.shape[-1]
        pixels = ops.reshape(images, (-1, size * size, channels))
        sky = ops.median(ops.take(pixels, self.border, axis=1), axis=1)
        return images - ops.reshape(sky, (-1, 1, 1, channels))  # a graph forgets sky's shape

    def shape(self, light):
        """Axis ratio in [0.35, 1] and position angle in radians of each image's disc, (n,).

        From second moments under a Gaussian window, which is then taken out as if the disc were a
        Gaussian too. No gradient flows through it.
        """
        weight = ops.clip(ops.mean(light, axis=-1), 0.0, SATURATION) * self.window
        total = ops.sum(weight, axis=(1, 2)) + 1e-3
        xx = ops.sum(weight * self.x**2, axis=(1, 2)) / total + 1e-3
        yy = ops.sum(weight * self.y**2, axis=(1, 2)) / total + 1e-3
        xy = ops.sum(weight * self.x * self.y, axis=(1, 2)) / total
        determinant = ops.maximum(xx * yy - xy * xy, 1e-6)
        first, second = yy / determinant - WINDOW**-2, xx / determinant - WINDOW**-2
        mixed = -xy / determinant
        half = ops.sqrt(((first - second) / 2) ** 2 + mixed**2)
        middle = (first + second) / 2
        ratio = ops.sqrt(ops.maximum(middle - half, 1e-4) / ops.maximum(middle + half, 1e-4))
        angle = 0.5 * ops.arctan2(-2 * mixed, second - first)
        return ops.stop_gradient(ops.clip(ratio, 0.35, 1.0)), ops.stop_gradient(angle)

    def places(self, axis_ratio, angle):
        """Offsets x (right) and y (up) from the centre of every polar pixel, (n, rows, columns)."""
        r = np.geomspace(self.r_min, self.r_max, self.rows, dtype=np.float32)[:, None]
        theta = np.arange(self.columns, dtype=np.float32) * np.float32(2 * np.pi / self.columns)
        u = (r * np.cos(theta))[None]
        v = (r * np.sin(theta))[None] * axis_ratio[:, None, None]
        cos, sin = ops.cos(angle)[:, None, None], ops.sin(angle)[:, None, None]
        return cos * u - sin * v, sin * u + cos * v

    def resample(self, images, axis_ratio, angle):
        """Bilinear interpolation at `places`."""
        size, channels = images.shape[1], images.shape[-1]
        x, y = self.places(axis_ratio, angle)
        column, row = (size - 1) / 2 + x, (size - 1) / 2 - y
        flat = ops.reshape(images, (-1, channels))
        start = ops.arange(ops.shape(images)[0])[:, None, None] * size * size

        def pick(i, j):
            return ops.take(
                flat, start + ops.cast(i, "int32") * size + ops.cast(j, "int32"), axis=0
            )

        return _bilinear(pick, row, column)


def _bilinear(pick, row, column):
    """Interpolate between four pixels; `pick` gives those of whole rows and columns, (..., c)."""
    top, left = ops.floor(row), ops.floor(column)
    down, across = (row - top)[..., None], (column - left)[..., None]
    upper = (1 - across) * pick(top, left) + across * pick(top, left + 1)
    lower = (1 - across) * pick(top + 1, left) + across * pick(top + 1, left + 1)
    return (1 - down) * upper + down * lower
