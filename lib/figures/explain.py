"""Figures of notebook 05: feature maps, attribution maps, and their scores (Figs. 8-10)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures import style

MAP_COLOURS = "cividis"
"""Default colours of maps: even in lightness, safe for colour-blind eyes; the paper used jet."""


def as_picture(image: np.ndarray) -> np.ndarray:
    """Cut-out for `imshow`: (height, width) or (height, width, 3), floats in [0, 1].

    Parameters
    ----------
    image : ndarray, (height, width, 1 or 3)
        uint8, or floats in [0, 1] or [0, 255].
    """
    picture = np.asarray(image, float)
    if picture.max() > 1.5:
        picture = picture / 255
    return picture.clip(0, 1).squeeze()


def show_cutout(axes: plt.Axes, image: np.ndarray) -> None:
    """Draw a galaxy without ticks."""
    axes.imshow(as_picture(image), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])


def overlay(
    axes: plt.Axes, image: np.ndarray, values: np.ndarray, colours: str = MAP_COLOURS
) -> None:
    """Draw a map over its galaxy.

    Parameters
    ----------
    axes : Axes
    image : ndarray, (height, width, 1 or 3)
    values : ndarray, (height, width)
        Drawn from its lowest value, or zero, to its 99.5th percentile, so that single bright
        pixels do not hide the rest.
    colours : str
        A matplotlib colour map.
    """
    show_cutout(axes, image)
    low, high = max(0.0, float(values.min())), float(np.percentile(values, 99.5))
    axes.imshow(values, cmap=colours, alpha=0.72, vmin=low, vmax=max(high, low + 1e-12))


def feature_tiles(features: dict, tiles: list) -> Figure:
    """Fig. 8: feature maps at several depths.

    Parameters
    ----------
    features : dict
        Layer name to ndarray (rows, columns, channels), shallow layers first.
    tiles : list of (int, int)
        Rows and columns of tiles per layer; the first rows x columns channels are drawn.
    """
    figure, panels = plt.subplots(
        1, len(features), figsize=(style.WIDTH, style.WIDTH / len(features) * 0.72), squeeze=False
    )
    for axes, (name, values), (rows, columns) in zip(
        panels[0], features.items(), tiles, strict=True
    ):
        axes.imshow(mosaic(values, rows, columns), cmap=MAP_COLOURS, vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{name}\n{values.shape[0]} x {values.shape[1]} px", fontsize=8)
        drawn = min(rows * columns, values.shape[2])
        axes.set_xlabel(f"{drawn} of {values.shape[2]} channels", fontsize=8)
    figure.tight_layout()
    return figure


def mosaic(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Channels of a feature map side by side, each stretched to [0, 1], NaN lines between.

    Parameters
    ----------
    values : ndarray, (height, width, channels)
    rows, columns : int

    Returns
    -------
    ndarray, (rows * (height + 1) - 1, columns * (width + 1) - 1)
    """
    height, width, channels = values.shape
    picture = np.full((rows * (height + 1), columns * (width + 1)), np.nan)
    for k in range(min(rows * columns, channels)):
        tile = values[..., k] - values[..., k].min()
        top, left = k // columns * (height + 1), k % columns * (width + 1)
        picture[top : top + height, left : left + width] = tile / max(tile.max(), 1e-12)
    return picture[:-1, :-1]


def gallery(
    chosen: pd.DataFrame,
    images: np.ndarray,
    maps: dict,
    colours: str = MAP_COLOURS,
) -> Figure:
    """Figs. 9 and 10: galaxies and their maps, one row per class.

    Parameters
    ----------
    chosen : DataFrame
        Rows of `lib.explain.gallery.top_scoring`: label, rank, galaxy_id, predicted, probability,
        reason.
    images : ndarray, (n, height, width, channels)
        One per row of `chosen` that has a galaxy, in order.
    maps : dict
        Method name to ndarray (n, height, width), in the order of `images`.
    colours : str
    """
    labels = list(dict.fromkeys(chosen["label"]))
    count = int(chosen["rank"].max()) + 1
    width = 1 + len(maps)
    figure, panels = plt.subplots(
        len(labels),
        count * width,
        figsize=(style.WIDTH, style.WIDTH / (count * width) * 1.22 * len(labels)),
        squeeze=False,
    )
    number = 0
    for row in chosen.itertuples():
        cells = panels[labels.index(row.label), row.rank * width : (row.rank + 1) * width]
        if row.reason:
            _empty(cells, row.reason)
        else:
            _galaxy(cells, row, images[number], {k: v[number] for k, v in maps.items()}, colours)
            number += 1
    for label, axes in zip(labels, panels[:, 0], strict=True):
        axes.set_ylabel(style.arm_label(label), fontsize=9)
    for k, axes in enumerate(panels[0]):
        title = ["galaxy", *maps][k % width]
        axes.annotate(title, (0.5, 1.2), xycoords="axes fraction", ha="center", fontsize=8)
    figure.subplots_adjust(wspace=0.05, hspace=0.25)
    return figure


def _empty(cells: np.ndarray, reason: str) -> None:
    for axes in cells:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    middle = cells[len(cells) // 2]
    middle.text(0.5, 0.5, reason.replace(" galaxies ", "\ngalaxies "), ha="center", va="center",
                fontsize=6, transform=middle.transAxes)  # fmt: skip


def _galaxy(cells: np.ndarray, row, image: np.ndarray, maps: dict, colours: str) -> None:
    show_cutout(cells[0], image)
    for axes, values in zip(cells[1:], maps.values(), strict=True):
        overlay(axes, image, values, colours)
    cells[0].set_title(f"m = {row.label} → {row.predicted}", fontsize=6.5, pad=2, loc="left")
    cells[1].set_title(f"p = {row.probability:.2f}", fontsize=6.5, pad=2, loc="left")


def methods_row(
    table: pd.DataFrame, images: np.ndarray, maps: dict, colours: str = MAP_COLOURS
) -> Figure:
    """Chosen galaxies by id, one row each, with the map of every method.

    Parameters
    ----------
    table : DataFrame
        Columns galaxy_id, label, predicted, probability; one row per galaxy.
    images : ndarray, (n, height, width, channels)
    maps : dict
        Method name to ndarray (n, height, width).
    colours : str
    """
    columns = 1 + len(maps)
    figure, panels = plt.subplots(
        len(table),
        columns,
        figsize=(style.WIDTH, style.WIDTH / columns * 1.2 * len(table)),
        squeeze=False,
    )
    for n, row in enumerate(table.itertuples()):
        _galaxy(panels[n], row, images[n], {k: v[n] for k, v in maps.items()}, colours)
        panels[n, 0].set_xlabel(str(row.galaxy_id), fontsize=6)
    for axes, name in zip(panels[0], ["galaxy", *maps], strict=True):
        axes.annotate(name, (0.5, 1.18), xycoords="axes fraction", ha="center", fontsize=7)
    figure.subplots_adjust(wspace=0.05, hspace=0.25)
    return figure
