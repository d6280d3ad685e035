"""Figures of what goes beyond the paper (notebook 12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures.style import ARM_COLOURS, WIDTH

SCORES = {"macro_f1": "macro-F1", "balanced_accuracy": "balanced accuracy"}
COLOURS = {"macro_f1": "#0072B2", "balanced_accuracy": "#D55E00"}


def ablation(scores: pd.DataFrame, marked: str) -> Figure:
    """Draw macro-F1 and balanced accuracy of each method with their intervals.

    Parameters
    ----------
    scores : DataFrame
        Indexed by (method, score): `value`, `low`, `high`, see `lib.counting.probe.score_table`.
    marked : str
        Method through whose scores a line is drawn.
    """
    methods = scores.index.unique("method")[::-1]
    figure, axes = plt.subplots(
        1, 2, figsize=(WIDTH, 0.8 + 0.26 * len(methods)), sharey=True, layout="constrained"
    )
    for axis, (score, name) in zip(axes, SCORES.items()):
        table = scores.xs(score, level="score").reindex(methods)
        error = [table["value"] - table["low"], table["high"] - table["value"]]
        colour = COLOURS[score]
        axis.axvline(table.loc[marked, "value"], color="0.75", linewidth=1, zorder=0)
        axis.errorbar(
            table["value"], range(len(table)), xerr=error, fmt="o", capsize=2, color=colour
        )
        axis.set(xlabel=name, yticks=range(len(table)), xlim=(0, None))
        axis.set_yticklabels(methods)
        axis.grid(axis="x", alpha=0.3)
    return figure


def learning_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw scores against the number of galaxies learnt from, one panel per kind of galaxy.

    Parameters
    ----------
    curves : mapping of str to DataFrame
        Label of the axis -> `galaxies`, `score`, `value`, `low`, `high`, as
        `lib.counting.beyond.learning_curve` gives them.
    """
    figure, axes = plt.subplots(
        *(1, len(curves)),
        figsize=(min(WIDTH, 3.5 * len(curves) + 1), 2.8),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, (name, table) in zip(axes[0], curves.items()):
        for (score, label), marker in zip(SCORES.items(), "os"):
            part = table[table["score"] == score]
            error = [part["value"] - part["low"], part["high"] - part["value"]]
            axis.errorbar(
                part["galaxies"],
                part["value"],
                yerr=error,
                marker=marker,
                capsize=2,
                color=COLOURS[score],
                label=label,
            )
        axis.set(xlabel=name, xscale="log")
        sizes = sorted(table["galaxies"].unique())
        axis.set_xticks(sizes, [f"{n:,}" for n in sizes], rotation=30)
        axis.minorticks_off()
    axes[0, 0].set_ylabel("score")
    axes[0, 0].legend()
    return figure


def mistakes(
    groups: Mapping[str, tuple[Sequence[np.ndarray], pd.DataFrame]], classes: tuple[str, ...]
) -> Figure:
    """Draw galaxies that were taken for another class, one row per kind of mistake.

    Parameters
    ----------
    groups : mapping of str to (sequence of ndarray, DataFrame)
        Title -> cut-outs, and for each its `label`, `predicted`, and the share of volunteers
        (`voted`) and the probability (`expected`) for either class, as text.
    classes : tuple of str
        Whose colours mark label and prediction.
    """
    columns = max(len(pictures) for pictures, _ in groups.values())
    figure, axes = plt.subplots(
        len(groups),
        columns,
        figsize=(WIDTH, (WIDTH / columns + 0.42) * len(groups)),
        squeeze=False,
        layout="constrained",
    )
    for cells, (title, (pictures, rows)) in zip(axes, groups.items()):
        for axis in cells:
            axis.set_axis_off()
        for axis, picture, row in zip(cells, pictures, rows.itertuples()):
            axis.imshow(picture)
            axis.set_title(
                f"votes {row.voted}\nnetwork {row.expected}",
                fontsize=6.5,
                color=ARM_COLOURS.get(row.label, "black") if row.label in classes else "black",
            )
        cells[0].text(
            -0.08, 0.5, title, transform=cells[0].transAxes, rotation=90, va="center", ha="right",
            fontsize=7.5,
        )  # fmt: skip
    return figure
