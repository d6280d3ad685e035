"""Figures of sweeps: image size (Fig. 5) and class balance (Fig. 6, Table 3 left)."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from lib.evaluation import SCORES
from lib.figures.comparison import METRIC_NAMES
from lib.figures.style import ARM_COLOURS, WIDTH

ROLE_COLOURS = {"B0": "#0072B2", "V2M": "#D55E00"}
ROLE_MARKERS = {"B0": "o", "V2M": "s"}


def size_spread(spread: pd.DataFrame, chosen: pd.Series, paper: pd.DataFrame) -> Figure:
    """Draw F1 and its coefficient of variation against the image size (Fig. 5).

    Parameters
    ----------
    spread : DataFrame
        From `lib.evaluation.size_spread`, with ``sky``: side of the crop in pixels of the survey's
        files. Sizes at which a run gives all galaxies one class are crossed out.
    chosen : Series
        Chosen size of each role, in the same pixels, marked by a dotted line; NA for none.
    paper : DataFrame
        ``size``, ``f1`` and ``cv_percent`` by role, see `lib.paper.FIGURE_5`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.9), layout="constrained")
    for (role, sizes), shift in zip(spread.groupby("role"), (-1.5, 1.5)):
        look = {"color": ROLE_COLOURS[role], "marker": ROLE_MARKERS[role], "markersize": 4}
        x = sizes["sky"] + shift  # side by side, so that bars of one size can be told apart
        axes[0].errorbar(x, sizes["mean"], sizes["sd"], **look, capsize=2, label=role)
        axes[0].fill_between(
            *(x, sizes["mean"] - sizes["sampling"], sizes["mean"] + sizes["sampling"]),
            **dict(color=ROLE_COLOURS[role], alpha=0.12, linewidth=0),
        )
        axes[1].plot(x, 100 * sizes["cv"], **look, label=role)
        idle = sizes["one_class"] > 0
        axes[0].scatter(x[idle], sizes["mean"][idle], marker="x", s=60, color="0.2", zorder=4)
        for axis in axes if pd.notna(chosen[role]) else ():
            axis.axvline(chosen[role] + shift, color=ROLE_COLOURS[role], linestyle=":", linewidth=1)
    for role, row in paper.iterrows():
        look = dict(marker="D", s=26, facecolor="white", edgecolor=ROLE_COLOURS[role], zorder=3)
        axes[0].scatter(row["size"], row["f1"], **look, label=f"{role}, paper")
        axes[1].scatter(row["size"], row["cv_percent"], **look)
    for axis, label in zip(axes, ("macro-F1, m = 2 against 3", "CV of F1 over seeds / %")):
        axis.set(xlabel="side of the crop / px of the survey's images", ylabel=label)
    axes[1].set_ylim(bottom=0)
    axes[0].legend()
    return figure


def training_counts(counts: pd.DataFrame) -> Figure:
    """Draw how many galaxies of each class there are, and are used (Fig. 6).

    Parameters
    ----------
    counts : DataFrame
        One row per class, one column per way to choose galaxies; on a logarithmic axis.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 2.6), layout="constrained")
    x, width = np.arange(len(counts)), 0.8 / counts.shape[1]
    for i, name in enumerate(counts):
        bars = axis.bar(
            x + (i - (counts.shape[1] - 1) / 2) * width,
            counts[name],
            width,
            color=[ARM_COLOURS[label] for label in counts.index],
            alpha=1 - 0.6 * i / max(1, counts.shape[1] - 1),
            hatch="/" * i,
            edgecolor="white",
        )
        axis.bar_label(bars, [f"{value:,.0f}" for value in counts[name]], fontsize=7)
        axis.bar(np.nan, np.nan, color="0.4", alpha=bars[0].get_alpha(), hatch="/" * i, label=name)
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(counts.where(counts > 0).min().min() / 2)
    axis.set_xticks(x, counts.index)
    axis.set(xlabel="arm number m", ylabel="galaxies")
    axis.legend()
    return figure


def balance_scores(table: pd.DataFrame, options: Sequence[str]) -> Figure:
    """Draw the scores of each way to balance the classes, on its own and on the common galaxies.

    Parameters
    ----------
    table : DataFrame
        ``role``, ``option``, ``galaxies`` ("own validation" or "common test"), ``metric``,
        ``value``, ``low``, ``high``; one line of panels per role.
    options : sequence of str
        From top to bottom.
    """
    roles = list(dict.fromkeys(table["role"]))
    figure, axes = plt.subplots(
        len(roles),
        len(SCORES),
        figsize=(WIDTH, len(roles) * (0.35 * len(options) + 0.6) + 0.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    looks = {
        "own validation": (-0.13, "#D55E00", "o", "own validation galaxies (published)"),
        "common test": (0.13, "#0072B2", "s", "common test galaxies (sound)"),
    }
    for line, role in zip(axes, roles):
        for axis, metric in zip(line, SCORES):
            for galaxies, (shift, colour, marker, name) in looks.items():
                kept = (table["role"] == role) & (table["metric"] == metric)
                rows = table[kept & (table["galaxies"] == galaxies)].set_index("option")
                rows = rows.reindex(options)
                y = np.arange(len(options)) + shift
                axis.hlines(y, rows["low"], rows["high"], color=colour, linewidth=2, alpha=0.5)
                axis.scatter(rows["value"], y, color=colour, marker=marker, s=24, label=name)
            axis.set_yticks(range(len(options)), options)
            axis.set_ylim(len(options) - 0.5, -0.5)
            axis.set_xlabel(METRIC_NAMES[metric])
        line[0].set_ylabel(role)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def recalls(table: pd.DataFrame, options: Sequence[str]) -> Figure:
    """Draw the recall of each class for each way to balance the classes, with intervals.

    Parameters
    ----------
    table : DataFrame
        ``role``, ``option``, ``label``, ``value``, ``low``, ``high``; one panel per role.
    options : sequence of str
        From top to bottom.
    """
    roles = list(dict.fromkeys(table["role"]))
    figure, axes = plt.subplots(
        1,
        len(roles),
        figsize=(WIDTH, 0.55 * len(options) + 0.9),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    labels = list(dict.fromkeys(table["label"]))
    shifts = np.linspace(-0.3, 0.3, len(labels))
    for axis, role in zip(axes[0], roles):
        for label, shift in zip(labels, shifts):
            rows = table[(table["role"] == role) & (table["label"] == label)].set_index("option")
            rows, colour = rows.reindex(options), ARM_COLOURS[label]
            y = np.arange(len(options)) + shift
            axis.hlines(y, rows["low"], rows["high"], color=colour, linewidth=1.5, alpha=0.6)
            axis.scatter(rows["value"], y, color=colour, s=16, zorder=3, label=f"m = {label}")
        axis.set_yticks(range(len(options)), options)
        axis.set(xlim=(-0.02, 1.02), ylim=(len(options) - 0.5, -0.5), xlabel="recall", title=role)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(labels)
    )
    return figure
