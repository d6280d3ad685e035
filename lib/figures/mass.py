"""Figures of a property against arm number: Figs. 11 to 13 of the paper, shifts, dilution."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures.style import ARM_COLOURS, WIDTH, arm_label
from lib.images import ImageError, central_crop, decode
from lib.stellar_mass.groups import CLASSES

SOURCE_NAMES = {"label": "GZ2 label"}
"""How a source of classes is written in a figure, where not by its own name."""

Groups = Mapping[str, pd.DataFrame]
"""Source of the classes -> table with ``value`` and ``arm_class``, one row per galaxy."""


def _name(source: str) -> str:
    return SOURCE_NAMES.get(source, source)


def histograms(groups: Groups, unit: str, bins: int = 40, least_share: float = 0.01) -> Figure:
    """Draw the distribution of each class over that of the whole sample (Fig. 11).

    Parameters
    ----------
    groups : mapping
        See `Groups`; one row of panels each.
    unit : str
        Label of the property with its unit.
    bins : int
        Bins between the smallest and the largest value.
    least_share : float
        Bins with a smaller share of the whole sample are left out.
    """
    figure, axes = _grid(len(groups), len(CLASSES), height=1.5)
    for line, (source, table) in zip(axes, groups.items(), strict=True):
        edges = kept_bins(table["value"].to_numpy(), bins, least_share)
        for axis, arm_class in zip(line, CLASSES, strict=True):
            inside = table.loc[table["arm_class"] == arm_class, "value"]
            axis.hist(table["value"], edges, density=True, color="0.8", label="all")
            axis.hist(
                inside, edges, density=len(inside) > 0, histtype="step", lw=1.2,
                color=ARM_COLOURS[arm_class],
            )  # fmt: skip
            axis.set_title(f"{arm_label(arm_class)} ({len(inside):,})", fontsize=8)
        line[0].set_ylabel(f"{_name(source)}\ndensity")
    figure.supxlabel(unit)
    return figure


def kept_bins(values: np.ndarray, bins: int, least_share: float) -> np.ndarray:
    """Edges from the first to the last bin that holds more than a share of the values."""
    counts, edges = np.histogram(values, bins)
    kept = np.flatnonzero(counts > least_share * len(values))
    return edges[kept[0] : kept[-1] + 2] if len(kept) else edges


def violins(groups: Groups, unit: str, lower: float = 0.05, upper: float = 0.01) -> Figure:
    """Draw a violin per class, all of one width, with the means dotted (Fig. 12).

    Parameters
    ----------
    groups : mapping
        See `Groups`; one panel each.
    unit : str
        Label of the property with its unit.
    lower, upper : float
        Share of each class that is not drawn at the low and the high end. The dotted means are of
        all values, which are what the tests compare.
    """
    figure, axes = _grid(1, len(groups), height=3.2)
    for axis, (source, table) in zip(axes[0], groups.items(), strict=True):
        axis.axhline(table["value"].mean(), color="0.6", lw=0.8)
        for place, arm_class in enumerate(CLASSES):
            inside = table.loc[table["arm_class"] == arm_class, "value"]
            drawn = inside[inside.between(inside.quantile(lower), inside.quantile(1 - upper))]
            colour = ARM_COLOURS[arm_class]
            # A density needs values that differ; fewer are shown as points.
            if drawn.nunique() > 2:
                parts = axis.violinplot(drawn, [place], widths=0.9, showextrema=False)
                parts["bodies"][0].set(facecolor=colour, edgecolor=colour, alpha=0.5)
            else:
                axis.plot(np.full(len(inside), place), inside, "o", ms=3, color=colour)
            if len(inside):
                axis.hlines(inside.mean(), place - 0.45, place + 0.45, colors=colour, ls=":")
        axis.set_xticks(range(len(CLASSES)), CLASSES)
        axis.set_xlabel("arm number m")
        axis.set_title(_name(source))
    axes[0, 0].set_ylabel(unit)
    return figure


def misclassified(
    table: pd.DataFrame, data_dir: Path, per_side: int = 6, crop: int = 224, size: int = 424
) -> Figure:
    """Show galaxies labelled m = 2 that a model calls m = 1 (left) or m = 3 (right; Fig. 13).

    Parameters
    ----------
    table : DataFrame
        ``galaxy_id``, ``label``, ``predicted``, ``p_1``, ``p_3`` and ``image_path``.
    data_dir : Path
        Folder that `image_path` starts from.
    per_side : int
        Galaxies on each side, those with the highest probability first; cells stay empty where
        there are fewer, or where an image cannot be read.
    crop, size : int
        Side of the central crop and of the files' images, in pixels.
    """
    columns = 3
    lines = -(-per_side // columns)
    figure = plt.figure(figsize=(WIDTH, WIDTH / 6.2 * 1.25 * lines + 0.3), layout="constrained")
    for part, arm_class in zip(figure.subfigures(1, 2), ("1", "3"), strict=True):
        chosen = table[(table["label"] == "2") & (table["predicted"] == arm_class)]
        chosen = chosen.sort_values(f"p_{arm_class}", ascending=False)
        part.suptitle(f"m = 2 called m = {arm_class} ({len(chosen):,} galaxies)", fontsize=9)
        axes = part.subplots(lines, columns, squeeze=False).ravel()
        for axis in axes:
            axis.set_axis_off()
        for axis, galaxy in zip(axes, chosen.head(per_side).itertuples(), strict=False):
            try:
                image = central_crop(decode(data_dir / galaxy.image_path, size), crop)
            except ImageError:
                continue
            axis.imshow(image)
            axis.set_title(f"p = {getattr(galaxy, f'p_{arm_class}'):.2f}", fontsize=8)
    return figure


def shifts(table: pd.DataFrame, unit: str, detectable: pd.DataFrame | None = None) -> Figure:
    """Draw the shift of every class with its interval, one mark per estimate.

    Parameters
    ----------
    table : DataFrame
        ``source``, ``estimate`` (how it was made), ``label``, ``shift``, ``shift_low``,
        ``shift_high``.
    unit : str
        Unit of the shift.
    detectable : DataFrame, optional
        ``label`` and ``one_test``: a band of shifts too small to be found, drawn in grey.
    """
    sources, estimates = table["source"].unique(), table["estimate"].unique()
    figure, axes = _grid(1, len(sources), height=3.4)
    markers = "osD^v"
    for axis, source in zip(axes[0], sources, strict=True):
        axis.axvline(0, color="0.5", lw=0.8)
        for place, arm_class in enumerate(CLASSES):
            if detectable is not None:
                band = detectable.set_index("label")["one_test"].get(arm_class, np.nan)
                axis.barh(place, 2 * band, left=-band, height=0.85, color="0.92", zorder=0)
            rows = table[(table["source"] == source) & (table["label"] == arm_class)]
            for row in rows.itertuples():
                i = list(estimates).index(row.estimate)
                y = place + 0.55 * ((i + 0.5) / len(estimates) - 0.5)
                axis.plot([row.shift_low, row.shift_high], [y, y], color=ARM_COLOURS[arm_class])
                axis.plot(row.shift, y, markers[i % 5], ms=4, color=ARM_COLOURS[arm_class])
        axis.set_yticks(range(len(CLASSES)), [arm_label(c) for c in CLASSES])
        axis.invert_yaxis()
        axis.set_title(_name(source))
    for i, estimate in enumerate(estimates):
        axes[0, -1].plot([], [], markers[i % 5], ms=4, color="0.3", label=estimate)
    figure.legend(loc="outside upper center", ncols=len(estimates))
    figure.supxlabel(f"shift of the class against the rest [{unit}]")
    return figure


def dilution(table: pd.DataFrame, unit: str) -> Figure:
    """Draw the observed shift of each predicted class against that expected from its mixture.

    Parameters
    ----------
    table : DataFrame
        ``source``, ``label``, ``reference_shift``, and ``expected_shift`` and ``observed_shift``
        with ``_low`` and ``_high``.
    unit : str
        Unit of the shift.
    """
    sources = table["source"].unique()
    figure, axes = _grid(1, len(sources), height=2.9)
    for axis, source in zip(axes[0], sources, strict=True):
        rows = table[(table["source"] == source) & table["observed_shift"].notna()]
        axis.axline((0, 0), slope=1, color="0.6", lw=0.8)
        for row in rows.itertuples():
            colour = ARM_COLOURS[row.label]
            axis.plot(
                [row.expected_shift_low, row.expected_shift_high], [row.observed_shift] * 2,
                color=colour, lw=1,
            )  # fmt: skip
            axis.plot(
                [row.expected_shift] * 2, [row.observed_shift_low, row.observed_shift_high],
                color=colour, lw=1,
            )  # fmt: skip
            axis.plot(row.expected_shift, row.observed_shift, "o", ms=4, color=colour)
            axis.plot(row.reference_shift, row.observed_shift, "x", ms=4, color=colour, alpha=0.6)
        axis.set_title(_name(source))
    for arm_class in CLASSES:
        axes[0, 0].plot([], [], "o", ms=4, color=ARM_COLOURS[arm_class], label=arm_label(arm_class))
    figure.legend(loc="outside upper center", ncols=len(CLASSES))
    axes[0, 0].set_ylabel(f"observed shift [{unit}]")
    figure.supxlabel(f"shift expected from the confusion matrix (dot), undiluted (cross) [{unit}]")
    return figure


def _grid(rows: int, columns: int, height: float) -> tuple[Figure, np.ndarray]:
    """Panels with shared axes, `height` inches a row."""
    return plt.subplots(
        rows, columns, figsize=(WIDTH, height * rows + 0.4), squeeze=False, sharex=True,
        sharey=True, layout="constrained",
    )  # fmt: skip
