"""Figures of pre-processing and training: crops, augmentation, the network (Fig. 4), learning."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from lib.figures.style import WIDTH
from lib.images import bin_pixels, central_crop


def crops(images: np.ndarray, crop: int, labels: Sequence[str], binning: int = 1) -> Figure:
    """Draw whole cut-outs with the frame of the crop, what is cropped, and its grey (Sec. 2.2).

    Parameters
    ----------
    images : ndarray, uint8, (n, size, size, 3)
        Whole cut-outs.
    crop : int
        Side of the crop in pixels after binning.
    labels : sequence of str, (n,)
        Title of each galaxy.
    binning : int
        See `lib.images.write_cache`.
    """
    n, size = images.shape[:2]
    side = crop * binning
    figure, axes = plt.subplots(
        3, n, figsize=(WIDTH, 3.2 * WIDTH / n), squeeze=False, layout="constrained"
    )
    corner = (size - side) / 2 - 0.5
    cropped = [bin_pixels(image, binning) for image in central_crop(images, side)]
    for column, label in enumerate(labels):
        axes[0, column].imshow(images[column])
        axes[0, column].add_patch(Rectangle((corner, corner), side, side, fill=False, ec="white"))
        axes[0, column].set_title(label)
        axes[1, column].imshow(cropped[column])
        axes[2, column].imshow(cropped[column].mean(axis=-1), cmap="gray", vmin=0, vmax=255)
    for row, name in enumerate((f"{size} px", f"{crop} px", "grey")):
        axes[row, 0].set_ylabel(name)
    _without_ticks(axes)
    return figure


def augmented(originals: np.ndarray, views: np.ndarray, labels: Sequence[str]) -> Figure:
    """Draw galaxies and augmented views of them, one galaxy per row (Sec. 2.3).

    Parameters
    ----------
    originals : ndarray, float in [0, 255], (n, crop, crop, 1 or 3)
    views : ndarray, float in [0, 255], (n, k, crop, crop, 1 or 3)
    labels : sequence of str, (n,)
    """
    n, k = views.shape[:2]
    figure, axes = plt.subplots(
        n, k + 1, figsize=(WIDTH, 1.05 * WIDTH * n / (k + 1)), squeeze=False, layout="constrained"
    )
    for row, label in enumerate(labels):
        for axis, image in zip(axes[row], (originals[row], *views[row])):
            axis.imshow(np.clip(image / 255, 0, 1), cmap="gray", vmin=0, vmax=1)
        axes[row, 0].set_ylabel(label)
    axes[0, 0].set_title("as it is")
    for view in range(k):
        axes[0, view + 1].set_title(f"view {view + 1}")
    _without_ticks(axes)
    return figure


def network_tail(tail: pd.DataFrame, backbone: str, backbone_parameters: int) -> Figure:
    """Draw the layers from the backbone to the classes (Fig. 4).

    Parameters
    ----------
    tail : DataFrame
        From `lib.networks.tail`: `layer`, `type`, `activation`, `output_shape`, `parameters`.
    backbone : str
        Name of the backbone, the `x` of the paper's figure.
    backbone_parameters : int
        Its number of parameters.
    """
    names = {"GlobalAveragePooling2D": "Global average\npooling"}
    texts = [(f"{backbone}\n(backbone)", tail["output_shape"].iloc[0], backbone_parameters)]
    for layer in tail.iloc[1:].itertuples():
        name = names.get(layer.type, layer.type)
        texts.append((f"{name}\n{layer.activation}", layer.output_shape, layer.parameters))
    figure, axis = plt.subplots(figsize=(WIDTH, 1.6), layout="constrained")
    for column, (name, shape, parameters) in enumerate(texts):
        box = FancyBboxPatch(
            (column, 0), 0.72, 1, boxstyle="round,pad=0.02", fc=f"{0.96 - 0.03 * column}", ec="k"
        )
        axis.add_patch(box)
        axis.text(column + 0.36, 0.5, name.strip(), ha="center", va="center")
        axis.text(column + 0.36, -0.1, f"{shape}\n{parameters:,} parameters", ha="center", va="top")
        if column:
            axis.add_patch(
                FancyArrowPatch(
                    (column - 0.25, 0.5), (column - 0.02, 0.5), arrowstyle="-|>", mutation_scale=10
                )
            )
    axis.set(xlim=(-0.1, len(texts) - 0.2), ylim=(-0.55, 1.1))
    axis.set_axis_off()
    return figure


def learning_curves(history: pd.DataFrame, best_epoch: int) -> Figure:
    """Draw loss and accuracy of the training and validation galaxies epoch by epoch.

    Parameters
    ----------
    history : DataFrame
        `epoch`, `loss`, `accuracy`, `val_loss`, `val_accuracy`.
    best_epoch : int
        The epoch whose weights are kept, marked by a dotted line.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.6), layout="constrained")
    for axis, name, label in zip(axes, ("loss", "accuracy"), ("cross-entropy", "accuracy")):
        axis.plot(history["epoch"], history[name], color="#0072B2", marker=".", label="training")
        axis.plot(
            history["epoch"],
            history[f"val_{name}"],
            color="#D55E00",
            marker=".",
            label="validation",
        )
        axis.axvline(best_epoch, color="0.4", linestyle=":", label="best epoch")
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[1].set_ylim(0, 1)
    axes[0].legend()
    return figure


def _without_ticks(axes: np.ndarray) -> None:
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
