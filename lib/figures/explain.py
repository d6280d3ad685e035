"""Pictures of galaxies and of the maps that explain a network (notebooks 05 and 13)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures import style
from lib.schema import ARM_CLASSES, RHO_COLUMNS, probability_columns


def show_map(axes: plt.Axes, image: np.ndarray, values: np.ndarray | None = None) -> None:
    """Draw a galaxy without ticks, and a map over it.

    Parameters
    ----------
    axes : Axes
    image : ndarray, uint8 (height, width, 1 or 3)
    values : ndarray, (height, width), optional
        Drawn from its lowest value, or zero, to its 99.5th percentile, so that single bright pixels
        do not hide the rest, in colours that are safe for colour-blind eyes; the paper used jet.
    """
    axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
    if values is not None:
        low, high = max(0.0, values.min()), np.percentile(values, 99.5)
        axes.imshow(values, cmap="cividis", alpha=0.72, vmin=low, vmax=max(high, low + 1e-12))
    axes.set(xticks=[], yticks=[])


def page(rows: pd.DataFrame, subjects: dict, methods: dict) -> Figure:
    """Galaxies, one row each, with their votes and what two networks make of them.

    Parameters
    ----------
    rows : DataFrame
        `galaxy_id`, `label` and the vote fractions.
    subjects : dict
        Role of each network to its `lib.explain.subject.Subject`. Galaxies are drawn as the first
        of them takes them, so that they have the scale of their maps.
    methods : dict
        Name to method, see `lib.explain.maps`.
    """
    first, width = next(iter(subjects.values())), 1 + len(methods)
    columns = 2 + width * len(subjects)
    size = np.array([1, 1.3 / columns * len(rows)]) * 1.4 * style.WIDTH
    figure, panels = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    classes = probability_columns(first.run.classes)
    for axes, image, row in zip(
        panels, first.cutouts(rows["galaxy_id"]), rows.to_dict("records"), strict=True
    ):
        show_map(axes[0], image)
        axes[0].set_xlabel(str(row["galaxy_id"]), fontsize=6)
        axes[0].set_title(f"label {style.arm_label(row['label'])}", fontsize=7)
        _bars(axes[1], "vote fraction", ARM_CLASSES, [row[c] for c in RHO_COLUMNS])
    for k, (role, subject) in enumerate(subjects.items()):
        own, told = panels[:, 2 + k * width :], subject.table(rows["galaxy_id"])
        for axes, galaxy in zip(own[:, 0], told.to_dict("records"), strict=True):
            _bars(axes, "probability", subject.run.classes, [galaxy[c] for c in classes])
            axes.set_title(f"{role}: {style.arm_label(galaxy['predicted'])}", fontsize=7)
        images = subject.cutouts(rows["galaxy_id"])
        for column, (name, method) in zip(own.T[1:width], methods.items(), strict=True):
            for axes, image, values in zip(column, images, subject.maps(method, told), strict=True):
                show_map(axes, image, values)
                axes.set_title(name, fontsize=7)
    figure.tight_layout(w_pad=0.4, h_pad=0.6)
    return figure


def _bars(axes: plt.Axes, quantity: str, classes: tuple[str, ...], values: list) -> None:
    """One bar per class in its colour; a missing fraction leaves no bar."""
    colours = [style.ARM_COLOURS[c] for c in classes]
    axes.barh(range(len(classes)), np.nan_to_num(np.asarray(values, float)), color=colours)
    axes.set(xlim=(0, 1), xticks=[0, 1], yticks=range(len(classes)), yticklabels=classes)
    axes.invert_yaxis()
    axes.tick_params(labelsize=6, length=2, pad=1)
    axes.set_xlabel(quantity, fontsize=6)
