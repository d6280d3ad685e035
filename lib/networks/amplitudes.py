"""Fourier amplitudes of a polar view (`lib.networks.polar`), as a layer without weights.

What classical photometry knows of spiral arms (`lib.counting.classical`). The amplitudes do not
depend on the orientation of the galaxy, and those of its mirror image are the same.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

ZONES = 8
"""Zones of radius in which numbers are gathered."""

MODES = 8
"""Highest azimuthal mode m of each zone."""

FINE = 29
"""Highest mode of the finer structure, whose mean is taken."""

SPIRALS = 6
"""Highest m of the logarithmic spirals and of the turns."""

WAVES = 14
"""Highest wave number of the logarithmic spirals along ln r, in cycles of `PADDED` rows."""

PADDED = 64

FIRST, LAST = 0.3, 0.9
"""Part of the view, in ln r, in which spirals are looked for: outside the bulge, inside the sky."""


@keras.saving.register_keras_serializable(package="spiral_arms")
class Amplitudes(keras.layers.Layer):
    """Polar views, (n, rows, columns, channels) in [0, 255], to amplitudes, (n, features).

    Rows must be a multiple of `ZONES`. Logarithms of the amplitudes of the modes m = 1..8 and of
    finer structure in each zone, of the power of logarithmic spirals (p, m) by sense of winding, of
    the asymmetry under a half turn; the correlation of each zone with itself turned by 1/m; the
    profile of the brightness and of the colour.
    """

    def build(self, shape):
        """Tables of cosines and sines."""
        _, rows, columns, _ = shape
        theta = 2 * np.pi * np.arange(columns) / columns
        m = np.arange(1, FINE + 1)
        waves = np.exp(-1j * np.outer(theta, m)) * 2 / columns
        self.cos, self.sin = waves.real.astype("float32"), waves.imag.astype("float32")
        # What turns a pattern's power in mode m into its correlation with itself turned by k/n.
        self.turns = np.stack(
            [np.mean([np.cos(2 * np.pi * m * k / n) for k in range(1, n)], axis=0)
             for n in range(2, SPIRALS + 1)], axis=1
        ).astype("float32")  # fmt: skip
        self.first, self.last = round(FIRST * rows), round(LAST * rows)
        depth = np.arange(self.last - self.first)
        window = np.hanning(len(depth) + 2)[1:-1] / len(depth)
        wave = np.arange(1, WAVES + 1)
        kernel = np.exp(-2j * np.pi * np.outer(depth, wave) / PADDED) * window[:, None]
        self.along = kernel.real.astype("float32"), kernel.imag.astype("float32")

    def call(self, views):
        """See the class."""
        ring = ops.mean(views, axis=2, keepdims=True)
        pattern = ops.mean(views - ring, axis=-1) / 80
        real, imaginary = ops.matmul(pattern, self.cos), ops.matmul(pattern, self.sin)
        power = real**2 + imaginary**2
        amplitude = ops.sqrt(power + 1e-12)
        total = _zones(ops.mean(pattern**2, axis=2, keepdims=True))
        half_turn = _zones(ops.matmul(power, _odd(FINE)))
        level = ops.exp((ring[:, :, 0] - 60) / 12) - 1
        bright = ops.maximum(_zones(ops.mean(level, axis=-1, keepdims=True)), 0.5)
        colour = _zones(level[..., :1] - level[..., -1:]) / ops.maximum(bright, 3.0)
        numbers = [
            ops.log(bright / ops.maximum(bright[:, :1], 1.0)),
            ops.log(_zones(amplitude[..., :MODES]) + 0.01),
            ops.log(_zones(ops.mean(amplitude[..., MODES:], axis=-1, keepdims=True)) + 0.003),
            ops.log(ops.sqrt(half_turn) + 0.01),
            _zones(ops.matmul(power, self.turns) / 2) / ops.maximum(total, 1e-4),
            colour,
            self._spirals(real, imaginary),
        ]
        return ops.concatenate([_flat(part) for part in numbers], axis=1)

    def _spirals(self, real, imaginary):
        """Log amplitude of spirals by wave number and m, the stronger sense of winding first."""
        rows = slice(self.first, self.last)
        a = ops.swapaxes(real[:, rows, :SPIRALS], 1, 2)
        b = ops.swapaxes(imaginary[:, rows, :SPIRALS], 1, 2)
        cos, sin = self.along
        senses = []
        for sign in (1.0, -1.0):
            x = ops.matmul(a, cos) - sign * ops.matmul(b, sin)
            y = sign * ops.matmul(a, sin) + ops.matmul(b, cos)
            strength = ops.sqrt(x**2 + y**2 + 1e-12)
            senses.append(ops.mean(_pairs(strength), axis=-1))
        one, other = senses
        swap = ops.sum(other[:, 1:4], axis=(1, 2)) > ops.sum(one[:, 1:4], axis=(1, 2))
        swap = ops.cast(swap, "float32")[:, None, None]
        first, second = one + swap * (other - one), other + swap * (one - other)
        return ops.log(ops.concatenate([first, second], axis=1) + 0.005)

    def compute_output_shape(self, shape):
        """(n, features)."""
        zones = 1 + MODES + 1 + 1 + (SPIRALS - 1) + 1
        return (shape[0], zones * ZONES + 2 * SPIRALS * (WAVES // 2))


def _odd(highest: int) -> np.ndarray:
    """What is left of each mode's power when a pattern's half turn is taken from it, (modes, 1)."""
    return (2.0 * (np.arange(1, highest + 1) % 2)).astype("float32")[:, None]


def _zones(values):
    """Means over the rows of each zone, (n, ZONES, k)."""
    rows, k = values.shape[1:]
    return ops.mean(ops.reshape(values, (-1, ZONES, rows // ZONES, k)), axis=2)


def _pairs(values):
    """Neighbours of the last axis side by side, (..., k) to (..., k / 2, 2)."""
    m, k = values.shape[1:]
    return ops.reshape(values, (-1, m, k // 2, 2))


def _flat(values):
    return ops.reshape(values, (-1, values.shape[1] * values.shape[2]))
