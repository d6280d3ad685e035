"""Figures of the pre-training on simulated galaxies."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures.style import WIDTH


def stages(early: np.ndarray, late: np.ndarray) -> Figure:
    """Draw galaxies of the first and of the last part of a training, one row each.

    Parameters
    ----------
    early, late : ndarray of uint8, (n, size, size, 1 or 3)
    """
    n = len(early)
    figure, axes = plt.subplots(2, n, figsize=(WIDTH, 2.2 * WIDTH / n), layout="constrained")
    for row, (name, images) in enumerate((("start", early), ("end", late))):
        for axis, image in zip(axes[row], images):
            axis.imshow(image, cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
        axes[row, 0].set_ylabel(name)
    return figure


def curve(table: pd.DataFrame, shown: str = "simulated galaxies") -> Figure:
    """Draw losses, and the scores of the number of arms, against the galaxies seen.

    Parameters
    ----------
    table : DataFrame
        See `lib.counting.pretraining.pretrain`.
    shown : str
        What the network is shown, for the axis.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.6), layout="constrained")
    thousands = table["galaxies"] / 1000
    left.plot(thousands, table["train_loss"], marker="o", ms=3, label="training")
    left.plot(thousands, table["loss"], marker="s", ms=3, ls="--", label="held out")
    left.set(xlabel=f"{shown} (thousands)", ylabel="loss (nats per galaxy)")
    # The first loss, of a network that knows nothing, would hide the rest.
    left.set_ylim(top=1.05 * table[["train_loss", "loss"]].iloc[1:].max().max())
    right.plot(thousands, table["macro_f1"], marker="o", ms=3, label="macro-F1")
    right.plot(thousands, table["accuracy"], marker="s", ms=3, ls="--", label="accuracy")
    right.set(xlabel=f"{shown} (thousands)", ylabel="score", ylim=(0, 1))
    left.legend()
    right.legend()
    return figure


def probes(scores: pd.DataFrame) -> Figure:
    """Draw macro-F1 and balanced accuracy of each method, one panel per run and score.

    Parameters
    ----------
    scores : DataFrame
        Indexed by (run, method, score) with `value`, `low` and `high`, see
        `lib.counting.probe.score_table`.
    """
    runs = scores.index.unique("run")
    shown = {"macro_f1": "macro-F1", "balanced_accuracy": "balanced accuracy"}
    methods = scores.index.unique("method")
    figure, axes = plt.subplots(
        len(runs),
        2,
        figsize=(WIDTH, 0.6 + len(runs) * (0.7 + 0.25 * len(methods))),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for row, run in zip(axes, runs):
        for axis, (score, name) in zip(row, shown.items()):
            table = scores.loc[run].xs(score, level="score").reindex(methods[::-1])
            error = [table["value"] - table["low"], table["high"] - table["value"]]
            axis.errorbar(table["value"], range(len(table)), xerr=error, fmt="o", capsize=2)
            axis.set(title=run, xlabel=name, yticks=range(len(table)), xlim=(0, None))
            axis.set_yticklabels(table.index)
            axis.grid(axis="x", alpha=0.3)
    return figure
