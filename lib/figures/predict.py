"""Figures of a predicted survey: classes, certainty, distance from the training galaxies."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures.style import ARM_COLOURS, WIDTH, arm_label
from lib.schema import probability_columns

KNOWN, SURVEY = "#767676", "#0072B2"


def classes(catalogue: pd.DataFrame, arm_classes: Sequence[str]) -> Figure:
    """Draw the share of each class, counted and as mean probability, and the entropy of each.

    Parameters
    ----------
    catalogue : DataFrame
        Rows with a prediction, in the columns of `lib.predict.catalogue`.
    arm_classes : sequence of str
        Classes of the network.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.6), layout="constrained")
    places = np.arange(len(arm_classes))
    share = catalogue["predicted"].value_counts(normalize=True).reindex(arm_classes, fill_value=0)
    mean = catalogue[probability_columns(tuple(arm_classes))].mean()
    left.bar(places, share, color=[ARM_COLOURS[c] for c in arm_classes], label="predicted class")
    left.plot(places, mean, "kD", markersize=5, label="mean probability")
    left.set_xticks(places, arm_classes)
    left.set(xlabel="arm class m", ylabel="share of the galaxies")
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=8)
    largest = np.log2(len(arm_classes))
    right.hist(catalogue["entropy"], bins=np.linspace(0, largest, 31), color=SURVEY)
    right.axvline(largest, color="black", linestyle=":", label="all classes alike")
    right.set(xlabel="entropy of the probabilities [bit]", ylabel="galaxies")
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=8)
    return figure


def distances(held_out: np.ndarray, survey: np.ndarray, limit: float) -> Figure:
    """Draw how far galaxies lie from the nearest training galaxy.

    Parameters
    ----------
    held_out : ndarray, float
        Of validation galaxies of the training survey.
    survey : ndarray, float
        Of the predicted galaxies.
    limit : float
        Distance beyond which a galaxy is flagged.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 2.6), layout="constrained")
    everything = np.concatenate([held_out, survey])
    bins = np.linspace(everything.min(), np.percentile(everything, 99.5), 41)
    for values, colour, name in (
        (held_out, KNOWN, "held-out galaxies of the training survey"),
        (survey, SURVEY, "this survey"),
    ):
        weights = np.full(len(values), 1 / len(values))
        axis.hist(
            np.minimum(values, bins[-1]),
            bins,
            weights=weights,
            histtype="step",
            lw=1.8,
            color=colour,
            label=f"{name} ({len(values):,})",
        )
    axis.axvline(limit, color="black", linestyle="--", label="flagged beyond")
    axis.set(
        xlabel="distance to the nearest training galaxy, in standardised features",
        ylabel="share of the galaxies",
    )
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=8)
    return figure


def examples(rows: dict[str, tuple[Sequence[np.ndarray], pd.DataFrame]]) -> Figure:
    """Draw cut-outs with what was predicted of them, one row per group.

    Parameters
    ----------
    rows : dict
        By name of the group: images, uint8 (height, width, 3), and their rows of the catalogue.
    """
    width = max(len(table) for _, table in rows.values())
    figure, axes = plt.subplots(
        len(rows),
        width,
        figsize=(WIDTH, 1.35 * WIDTH / width * len(rows)),
        squeeze=False,
        layout="constrained",
    )
    for cells, (name, (images, table)) in zip(axes, rows.items()):
        for cell in cells:
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
        for cell, image, row in zip(cells, images, table.itertuples()):
            cell.imshow(image)
            cell.set_title(
                f"{arm_label(row.predicted)}\n{row.entropy:.2f} bit, d = "
                f"{row.training_distance:.2f}",
                fontsize=7,
            )
        cells[0].set_ylabel(name)
    return figure
