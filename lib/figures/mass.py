"""Shifts of stellar mass with their intervals, a figure that notebook 06 draws twice."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures.style import WIDTH

MARKERS = "osD^vPX"


def forest(
    table: pd.DataFrame, panels: str, rows: str, marks: str, bands: pd.Series | None = None
) -> Figure:
    """Draw shifts with their intervals: one panel, row and mark per value of three columns.

    `table` has ``shift``, ``shift_low``, ``shift_high`` in dex, the named columns, and ``n`` of
    the group, which is written at the right edge. A row without a finite shift leaves its place
    empty. `bands` maps rows to a shift below which nothing could have been found, drawn in grey.
    """
    places, kinds, names = (list(table[column].unique()) for column in (rows, marks, panels))
    height = 0.9 + len(places) * (0.3 + 0.09 * len(kinds))
    figure, axes = plt.subplots(
        1, len(names), figsize=(WIDTH, height), squeeze=False, sharex=True, sharey=True,
        layout="constrained",
    )  # fmt: skip
    for axis, name in zip(axes[0], names, strict=True):
        axis.axvline(0, color="0.5", lw=0.8)
        axis.set_title(name)
        for row, band in ({} if bands is None else bands[np.isfinite(bands)]).items():
            if row in places:
                axis.barh(places.index(row), 2 * band, 0.86, -band, color="0.92", zorder=0)
        for line in table[table[panels] == name].itertuples():
            i = kinds.index(getattr(line, marks))
            y = places.index(getattr(line, rows)) + 0.7 * ((i + 0.5) / len(kinds) - 0.5)
            axis.plot([line.shift_low, line.shift_high], [y, y], color=f"C{i}", lw=1.2)
            axis.plot(line.shift, y, MARKERS[i % len(MARKERS)], ms=4.5, color=f"C{i}")
            axis.annotate(
                f"{line.n:,.0f}", (1, y), xycoords=("axes fraction", "data"), fontsize=6,
                va="center", ha="right", color=f"C{i}",
            )  # fmt: skip
    left, right = axes[0, 0].get_xlim()
    axes[0, 0].set_xlim(left, right + 0.25 * (right - left))  # room for the sizes
    axes[0, 0].set_ylabel(rows)
    axes[0, 0].set_yticks(range(len(places)), places)
    axes[0, 0].invert_yaxis()
    for i, kind in enumerate(kinds):
        axes[0, 0].plot([], [], MARKERS[i % len(MARKERS)], color=f"C{i}", ms=4.5, label=kind)
    if len(kinds) > 1:
        figure.legend(loc="outside upper center", ncols=min(len(kinds), 4))
    figure.supxlabel("shift of log10 stellar mass [dex]; right: galaxies of the class", fontsize=9)
    return figure
