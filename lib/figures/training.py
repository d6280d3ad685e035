"""Figures of pre-processing and training: crops, augmentation, the network (Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lib.figures.style import WIDTH
from lib.images import bin_pixels, central_crop


def crops(images: np.ndarray, crop: int, labels: Sequence[str], binning: int = 1) -> Figure:
    """Draw whole cut-outs with the frame of the crop, what is cropped, and its grey (Sec. 2.2).

    `images` are uint8, (n, size, size, 3), `labels` their titles; `crop` is the side in pixels
    after `binning` (see `lib.images.write_cache`).
    """
    size, side = images.shape[1], crop * binning
    cropped = np.stack([bin_pixels(image, binning) for image in central_crop(images, side)])
    figure, axes = _grid([images, cropped, cropped.mean(axis=-1, keepdims=True)])
    for column, label in enumerate(labels):
        corner = ((size - side) / 2 - 0.5,) * 2
        axes[0, column].add_patch(Rectangle(corner, side, side, fill=False, ec="white"))
        axes[0, column].set_title(label)
    for axis, name in zip(axes[:, 0], (f"{size} px", f"{crop} px", "grey")):
        axis.set_ylabel(name)
    return figure


def augmented(originals: np.ndarray, views: np.ndarray, labels: Sequence[str]) -> Figure:
    """Draw galaxies and augmented views of them, one galaxy per row (Sec. 2.3).

    `originals` are floats in [0, 255], (n, crop, crop, 1 or 3), `views` (n, k, ...) as well.
    """
    figure, axes = _grid([[image, *more] for image, more in zip(originals, views)])
    for axis, label in zip(axes[:, 0], labels):
        axis.set_ylabel(label)
    for number, axis in enumerate(axes[0]):
        axis.set_title(f"view {number}" if number else "as it is")
    return figure


def _grid(rows: Sequence[Sequence[np.ndarray]]) -> tuple[Figure, np.ndarray]:
    """Pictures, [0, 255] in colour or grey, in rows and columns without ticks."""
    shape = len(rows), len(rows[0])
    size = (WIDTH, 1.05 * WIDTH * shape[0] / shape[1])
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained")
    for axis, image in zip(axes.flat, (image for row in rows for image in row)):
        axis.imshow(np.clip(image / 255, 0, 1), cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure, axes


def network_tail(tail: list, backbone: str, backbone_parameters: int) -> Figure:
    """Draw the last layers of a network, from that of its backbone, the paper's x (Fig. 4)."""
    figure, axis = plt.subplots(figsize=(WIDTH, 1.4), layout="constrained")
    box = {"boxstyle": "round,pad=0.6", "facecolor": "0.95"}
    for x, layer in enumerate(tail):
        name = type(layer).__name__.replace("GlobalAveragePooling2D", "Average pooling")
        activation = getattr(getattr(layer, "activation", None), "__name__", "")
        text, parameters = f"{name}\n{activation}".strip(), layer.count_params()
        if x == 0:
            text, parameters = f"{backbone}\n(backbone)", backbone_parameters
        else:
            ends = {"xy": (x - 0.35, 0.7), "xytext": (x - 0.6, 0.7)}
            axis.annotate("", **ends, arrowprops={"arrowstyle": "-|>"})
        axis.text(x, 0.7, text, ha="center", va="center", bbox=box)
        shape = " x ".join(map(str, layer.output.shape[1:]))
        axis.text(x, 0.3, f"{shape}\n{parameters:,} parameters", ha="center", va="top")
    axis.set(xlim=(-0.5, len(tail) - 0.5), ylim=(0, 1))
    axis.set_axis_off()
    return figure
