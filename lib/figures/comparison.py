"""Figures that compare models: confusion (Fig. 7), Table 3 drawn, calibration, optimism."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.evaluation import CELLS, SCORES, normalise
from lib.figures.style import ARM_COLOURS, WIDTH

METRIC_NAMES = {
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1-score",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro-F1",
}


def confusion_matrices(matrices: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw confusion matrices beside each other (Fig. 7), all on one colour scale.

    Parameters
    ----------
    matrices : mapping
        Title -> counts from `lib.evaluation.confusion`. Each cell is coloured by and printed as
        the share of its label's galaxies, with the number of galaxies below.
    """
    columns = min(2, len(matrices))
    lines = -(-len(matrices) // columns)
    side = WIDTH / columns
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(WIDTH, 1.05 * side * lines),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(matrices) :]:
        axis.set_axis_off()
    for axis, (title, matrix) in zip(axes.flat, matrices.items(), strict=False):
        image = _confusion_matrix(axis, matrix, text_size=min(8, 26 * side / len(matrix) / 2.2))
        axis.set_title(title)
    figure.colorbar(
        image, ax=axes, label="share of the label's galaxies", shrink=0.6, aspect=30, pad=0.02
    )
    return figure


def _confusion_matrix(axis: Axes, matrix: pd.DataFrame, text_size: float):
    share = normalise(matrix).to_numpy()
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(matrix.to_numpy()):
        if np.isnan(share[i, j]):
            text = "-"
        else:
            text = f"{share[i, j]:.2f}\n{count:,.0f}" if count else "0"
        colour = "white" if share[i, j] > 0.55 else "black"
        axis.text(j, i, text, ha="center", va="center", color=colour, fontsize=text_size)
    ticks = range(len(matrix))
    axis.set_xticks(ticks, matrix.columns)
    axis.set_yticks(ticks, matrix.index)
    axis.set_xlabel("predicted m")
    axis.set_ylabel("label m")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    return image


def table_3(comparison: pd.DataFrame) -> Figure:
    """Draw Table 3: precision, recall and F1 per class, ours beside the paper's, with intervals.

    Parameters
    ----------
    comparison : DataFrame
        Rows of `lib.evaluation.compare_with_paper` of one or more runs; one line of panels each.
    """
    cells = comparison[comparison["metric"].isin(CELLS)]
    runs = list(dict.fromkeys(cells["run"]))
    figure, axes = plt.subplots(
        len(runs),
        len(CELLS),
        figsize=(WIDTH, 2.1 * len(runs) + 0.4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for line, run in zip(axes, runs, strict=True):
        for axis, metric in zip(line, CELLS, strict=True):
            rows = cells[(cells["run"] == run) & (cells["metric"] == metric)]
            _metric_by_class(axis, rows)
            axis.set_title(METRIC_NAMES[metric])
        line[0].set_ylabel(f"{run}\n({rows['protocol'].iloc[0]})")
    for axis in axes[-1]:
        axis.set_xlabel("arm number m")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _metric_by_class(axis: Axes, rows: pd.DataFrame) -> None:
    x = np.arange(len(rows))
    colours = [ARM_COLOURS[label] for label in rows["label"]]
    for position, colour, (_, row) in zip(x, colours, rows.iterrows(), strict=True):
        axis.plot([position - 0.15] * 2, [row["low"], row["high"]], color=colour, linewidth=2)
        bounds = [row["paper_low"], row["paper_high"]]
        axis.plot([position + 0.15] * 2, bounds, color="0.65", linewidth=2)
    axis.scatter(x - 0.15, rows["ours"], c=colours, s=28, zorder=3, label="ours")
    axis.scatter(
        *(x + 0.15, rows["paper"]),
        **dict(marker="D", s=20, facecolor="white", edgecolor="0.3", zorder=3, label="paper"),
    )
    axis.set_xticks(x, rows["label"])
    axis.set_ylim(-0.03, 1.03)


def reliability_diagram(curves: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """Draw accuracy against confidence; a calibrated model lies on the diagonal.

    Parameters
    ----------
    curves : mapping
        Run -> {legend entry -> table of `lib.evaluation.reliability`}; one panel per run.
    """
    figure, axes = _panels(len(curves), height=3.4)
    for axis, (run, tables) in zip(axes.flat, curves.items(), strict=False):
        axis.plot([0, 1], [0, 1], color="0.75", linewidth=1, zorder=0)
        for colour, marker, (name, table) in zip(
            ["#D55E00", "#0072B2", "#009E73"], "os^", tables.items(), strict=False
        ):
            errors = [table["accuracy"] - table["low"], table["high"] - table["accuracy"]]
            axis.errorbar(
                *(table["confidence"], table["accuracy"], errors),
                **dict(fmt=f"{marker}-", color=colour, markersize=4, linewidth=1, label=name),
            )
        axis.set_title(run)
        axis.set_xlabel("confidence (probability of the class predicted)")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
        axis.set_aspect("equal")
    for line in axes:
        line[0].set_ylabel("accuracy")
    axes[0, 0].legend(loc="upper left")
    return figure


def optimism(table: pd.DataFrame) -> Figure:
    """Draw each score under the published and the sound protocol, and the paper's.

    Parameters
    ----------
    table : DataFrame
        Columns ``run``, ``metric`` (of `lib.evaluation.SCORES`), ``published``, ``low``,
        ``high`` (interval of the published score), ``sound``, ``sound_low``, ``sound_high``,
        ``paper`` (may be NaN).
    """
    runs = list(dict.fromkeys(table["run"]))
    figure, axes = plt.subplots(
        1,
        len(SCORES),
        figsize=(WIDTH, 0.7 * len(runs) + 1.5),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, metric in zip(axes[0], SCORES, strict=True):
        rows = table[table["metric"] == metric].set_index("run").loc[runs]
        y = np.arange(len(runs))
        for offset, colour, marker, name, value, low, high in (
            (-0.12, "#D55E00", "o", "published protocol", "published", "low", "high"),
            (0.12, "#0072B2", "s", "sound protocol", "sound", "sound_low", "sound_high"),
        ):
            axis.hlines(y + offset, rows[low], rows[high], color=colour, linewidth=2, alpha=0.5)
            axis.scatter(
                rows[value], y + offset, color=colour, marker=marker, s=28, zorder=3, label=name
            )
        axis.scatter(
            *(rows["paper"], y),
            **dict(marker="D", s=22, facecolor="white", edgecolor="0.3", zorder=3, label="paper"),
        )
        axis.set_yticks(y, runs)
        axis.set_ylim(len(runs) - 0.5, -0.5)
        axis.set_xlabel(METRIC_NAMES[metric])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _panels(n: int, height: float) -> tuple[Figure, np.ndarray]:
    """Up to two panels a line with common axes; those that are too many are blank."""
    columns = min(n, 2)
    lines = -(-n // columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(WIDTH * columns / 2, height * lines),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[n:]:
        axis.set_axis_off()
    return figure, axes
