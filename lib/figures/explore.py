"""The page of notebook 13: what volunteers and networks say of a few galaxies."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures import style
from lib.figures.explain import overlay, show_cutout
from lib.schema import ARM_CLASSES, RHO_COLUMNS

MAPS = ("Grad-CAM++", "SmoothGrad")


@dataclass(frozen=True)
class Evidence:
    """What one network makes of n galaxies.

    Attributes
    ----------
    images : ndarray, uint8, (n, crop, crop, channels)
        As the network takes them.
    probabilities : ndarray, (n, classes)
    maps : dict
        Name in `MAPS` to ndarray (n, crop, crop), for the class that the network predicts.
    """

    images: np.ndarray
    probabilities: np.ndarray
    maps: dict[str, np.ndarray]


def page(
    rows: pd.DataFrame,
    cutouts: np.ndarray,
    evidence: dict[str, Evidence],
    classes: tuple[str, ...],
) -> Figure:
    """Galaxies, one row each, with their votes and what two networks make of them.

    Parameters
    ----------
    rows : DataFrame
        Rows of `lib.explain.explore.galaxies`.
    cutouts : ndarray, uint8, (n, side, side, 3)
        Pictures of them.
    evidence : dict
        Role of each network to its `Evidence`.
    classes : tuple of str
        Classes of the networks.
    """
    width = 1 + len(MAPS)
    columns = 2 + width * len(evidence)
    side = 1.4 * style.WIDTH / columns
    figure, panels = plt.subplots(
        len(rows), columns, figsize=(1.4 * style.WIDTH, 1.3 * side * len(rows)), squeeze=False
    )
    for n, (axes, row) in enumerate(zip(panels, rows.to_dict("records"))):
        show_cutout(axes[0], cutouts[n])
        axes[0].set_xlabel(str(row["galaxy_id"]), fontsize=6)
        axes[0].set_title(f"label {style.arm_label(row['label'])}", fontsize=7)
        _bars(axes[1], "vote fraction", ARM_CLASSES, [row[c] for c in RHO_COLUMNS])
        for k, (role, found) in enumerate(evidence.items()):
            own = axes[2 + k * width :][:width]
            _bars(own[0], "probability", classes, found.probabilities[n])
            own[0].set_title(f"{role}: {style.arm_label(row[f'predicted_{role}'])}", fontsize=7)
            for panel, method in zip(own[1:], MAPS):
                overlay(panel, found.images[n], found.maps[method][n])
                panel.set_title(method, fontsize=7)
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
