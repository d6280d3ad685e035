"""Figures of arm counters beside each other, and of their mistakes (notebooks 11 and 12)."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib import evaluation
from lib.figures.style import WIDTH

SCORES = {"macro_f1": "macro-F1", "balanced_accuracy": "balanced accuracy"}


def scores(tables: Mapping[str, pd.DataFrame], marked: str) -> Figure:
    """Draw macro-F1 and balanced accuracy with their intervals, one row of panels per table.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        Title -> scores, see `lib.counting.ablation.score_table`.
    marked : str
        Method through whose scores a line is drawn.
    """
    n = max(table.index.unique("method").size for table in tables.values())
    size = {"figsize": (WIDTH, len(tables) * (0.8 + 0.26 * n)), "layout": "constrained"}
    figure, axes = plt.subplots(len(tables), 2, sharey="row", squeeze=False, **size)
    for row, (title, table) in zip(axes, tables.items()):
        for axis, (score, name) in zip(row, SCORES.items()):
            part = table.xs(score, level="score").reindex(table.index.unique("method")[::-1])
            error = [part["value"] - part["low"], part["high"] - part["value"]]
            axis.axvline(part.loc[marked, "value"], color="0.75", linewidth=1, zorder=0)
            axis.errorbar(part["value"], range(len(part)), xerr=error, fmt="o", capsize=2)
            axis.set(title=title, xlabel=name, xlim=(0, None))
            axis.set_yticks(range(len(part)), part.index)
            axis.grid(axis="x", alpha=0.3)
    return figure


def mistakes(
    table: pd.DataFrame, pixels: np.ndarray, fractions: np.ndarray, classes: tuple[str, ...]
) -> Figure:
    """Draw the five surest galaxies of each of the five most frequent kinds of mistake.

    Parameters
    ----------
    table : DataFrame
        Of `lib.counting.ablation.judge`, with `galaxy`, positions in `pixels` and `fractions`.
    pixels : ndarray of uint8, (n, side, side, 3)
    fractions : ndarray, (n, classes)
        Of the votes.
    classes : tuple of str
    """
    wrong = table.assign(sure=evaluation.predicted_probability(table))
    wrong = wrong[wrong["label"] != wrong["predicted"]]
    kinds = wrong.groupby(["label", "predicted"]).size().nlargest(5)
    size = {"figsize": (WIDTH, 1.7 * max(1, len(kinds))), "layout": "constrained"}
    figure, axes = plt.subplots(max(1, len(kinds)), 5, squeeze=False, **size)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, ((label, predicted), n) in zip(axes, kinds.items()):
        part = wrong[(wrong["label"] == label) & (wrong["predicted"] == predicted)]
        for axis, galaxy in zip(row, part.nlargest(5, "sure").itertuples()):
            votes = fractions[galaxy.galaxy, classes.index(label)]
            axis.imshow(pixels[galaxy.galaxy])
            axis.set_title(f"{label}: {votes:.0%}\n{predicted}: {galaxy.sure:.0%}", fontsize=7)
        place = {"transform": row[0].transAxes, "rotation": 90, "va": "center", "ha": "right"}
        row[0].text(-0.08, 0.5, f"{label} taken for {predicted} ({n})", fontsize=7.5, **place)
    return figure
