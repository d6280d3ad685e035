"""Figures of stellar mass against arm number that are too long for a cell: shifts, Fig. 13."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures.style import WIDTH
from lib.images import ImageError, central_crop, decode

MARKERS = "osD^vPX"


def forest(
    table: pd.DataFrame, panels: str, rows: str, marks: str, bands: pd.Series | None = None
) -> Figure:
    """Draw shifts with their intervals: one panel, row and mark per value of three columns.

    Parameters
    ----------
    table : DataFrame
        ``shift``, ``shift_low``, ``shift_high`` in dex, the three named columns, and ``n`` of
        the group, which is written beside its first mark.
    panels, rows, marks : str
        Columns; their values are drawn in the order of the table. One without a finite shift
        leaves its place empty.
    bands : Series, optional
        Value of `rows` -> a shift below which nothing could have been found, drawn in grey.
    """
    places = list(table[rows].unique())
    kinds = list(table[marks].unique())
    names = table[panels].unique()
    height = 0.9 + len(places) * (0.3 + 0.09 * len(kinds))
    figure, axes = plt.subplots(
        1, len(names), figsize=(WIDTH, height), squeeze=False, sharex=True, sharey=True,
        layout="constrained",
    )  # fmt: skip
    for axis, name in zip(axes[0], names, strict=True):
        axis.axvline(0, color="0.5", lw=0.8)
        for place, row in enumerate(places):
            if bands is not None and np.isfinite(bands.get(row, np.nan)):
                band = bands[row]
                axis.barh(place, 2 * band, left=-band, height=0.86, color="0.92", zorder=0)
        for line in table[table[panels] == name].itertuples():
            i = kinds.index(getattr(line, marks))
            y = places.index(getattr(line, rows)) + 0.7 * ((i + 0.5) / len(kinds) - 0.5)
            axis.plot([line.shift_low, line.shift_high], [y, y], color=f"C{i}", lw=1.2)
            axis.plot(line.shift, y, MARKERS[i % len(MARKERS)], ms=4.5, color=f"C{i}")
            axis.annotate(
                f"{line.n:,.0f}", (1, y), xycoords=("axes fraction", "data"), fontsize=6,
                va="center", ha="right", color=f"C{i}",
            )  # fmt: skip
        axis.set_title(name)
    left, right = axes[0, 0].get_xlim()
    axes[0, 0].set_xlim(left, right + 0.25 * (right - left))  # room for the sizes
    axes[0, 0].set_yticks(range(len(places)), places)
    axes[0, 0].invert_yaxis()
    for i, kind in enumerate(kinds):
        axes[0, 0].plot([], [], MARKERS[i % len(MARKERS)], color=f"C{i}", ms=4.5, label=kind)
    if len(kinds) > 1:
        figure.legend(loc="outside upper center", ncols=min(len(kinds), 4))
    figure.supxlabel("shift of log10 stellar mass [dex]; right: galaxies of the class", fontsize=9)
    return figure


def misclassified(table: pd.DataFrame, data_dir: Path) -> Figure:
    """Show galaxies labelled m = 2 that a model calls m = 1 (left) or m = 3 (right; Fig. 13).

    Parameters
    ----------
    table : DataFrame
        ``galaxy_id``, ``label``, ``predicted``, ``p_1``, ``p_3`` and ``image_path``.
    data_dir : Path
        Folder that `image_path` starts from.

    The six with the highest probability on each side; cells stay empty where there are fewer, or
    where an image cannot be read.
    """
    columns, lines = 3, 2
    figure = plt.figure(figsize=(WIDTH, WIDTH / 6.2 * 1.25 * lines + 0.3), layout="constrained")
    for part, arm_class in zip(figure.subfigures(1, 2), ("1", "3"), strict=True):
        chosen = table[(table["label"] == "2") & (table["predicted"] == arm_class)]
        chosen = chosen.sort_values(f"p_{arm_class}", ascending=False)
        part.suptitle(f"m = 2 called m = {arm_class} ({len(chosen):,} galaxies)", fontsize=9)
        axes = part.subplots(lines, columns, squeeze=False).ravel()
        for axis in axes:
            axis.set_axis_off()
        for axis, galaxy in zip(axes, chosen.head(columns * lines).itertuples(), strict=False):
            try:
                image = central_crop(decode(data_dir / galaxy.image_path, 424), 224)
            except ImageError:
                continue
            axis.imshow(image)
            axis.set_title(f"p = {getattr(galaxy, f'p_{arm_class}'):.2f}", fontsize=8)
    return figure
