"""Figures of the sample: examples (Fig. 1), the cuts, labels, and class counts (Fig. 6)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures.style import ARM_COLOURS, WIDTH, arm_label
from lib.images import ImageError, central_crop, decode
from lib.schema import ARM_CLASSES


def examples(
    sample: pd.DataFrame,
    data_dir: Path,
    *,
    per_class: int = 7,
    crop: int = 224,
    size: int = 424,
    seed: int = 42,
) -> Figure:
    """Draw galaxies of each class with their vote fractions, one row per class (Fig. 1).

    Parameters
    ----------
    sample : DataFrame
        From `lib.selection.select`: `galaxy_id`, `label`, `rho_max`, `image_path`.
    data_dir : Path
        Folder that `image_path` starts from.
    per_class : int
        Galaxies of each class, drawn at random with `seed`; fewer where there are fewer.
    crop, size : int
        Side of the central crop and of the files' images, in pixels.

    Returns
    -------
    Figure
        Classes without a galaxy have no row; an image that cannot be read is passed over.
    """
    rows = {
        m: _some_images(sample[sample["label"] == m], data_dir, per_class, crop, size, seed)
        for m in ARM_CLASSES
    }
    rows = {m: images for m, images in rows.items() if images}
    figure, axes = plt.subplots(
        max(len(rows), 1),
        per_class,
        # Smaller than other figures: noise hardly compresses, and this one is mostly noise.
        figsize=(0.8 * WIDTH, 0.92 * WIDTH / per_class * max(len(rows), 1)),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for line, (m, images) in zip(axes, rows.items(), strict=False):
        for axis, (image, rho) in zip(line, images, strict=False):
            axis.imshow(image)
            axis.set_title(rf"$\rho$ = {rho:.2f}", fontsize=7, pad=2)
        line[0].text(
            -0.06,
            0.5,
            arm_label(m),
            color=ARM_COLOURS[m],
            rotation=90,
            ha="right",
            va="center",
            transform=line[0].transAxes,
        )
    return figure


def preprocessing_flow(stages: Mapping[str, np.ndarray]) -> Figure:
    """Draw what happens to one image before a network sees it (Fig. 2).

    Parameters
    ----------
    stages : mapping of str to ndarray
        Name of each stage in order, and the image after it: (height, width, 1 or 3), uint8 or
        float in [0, 1].
    """
    figure, axes = plt.subplots(
        1, len(stages), figsize=(WIDTH, 1.35 * WIDTH / len(stages)), layout="constrained"
    )
    for axis, (name, image) in zip(np.atleast_1d(axes), stages.items(), strict=True):
        axis.imshow(image.squeeze(), cmap="grey")
        axis.set_title(name, fontsize=7)
        axis.set_xlabel(f"{image.shape[1]} px", fontsize=7)
        axis.set_xticks([])
        axis.set_yticks([])
    return figure


def cut_funnel(cuts: pd.DataFrame) -> Figure:
    """Draw how many galaxies each cut leaves.

    Parameters
    ----------
    cuts : DataFrame
        `cut`, `kept`, `lost` from `lib.selection.select`.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 0.4 + 0.32 * len(cuts)), layout="constrained")
    places = np.arange(len(cuts))[::-1]
    axis.barh(places, cuts["kept"], color="#0072B2", height=0.7)
    for place, kept, lost in zip(places, cuts["kept"], cuts["lost"], strict=True):
        change = f"  ({-lost:,})" if lost else ""
        axis.annotate(
            f"{kept:,}{change}",
            (kept, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axis.set_yticks(places, cuts["cut"])
    axis.set_xlim(0, 1.25 * cuts["kept"].max())
    axis.set_xlabel("galaxies left (lost by this cut)")
    return figure


def class_counts(
    full: pd.Series, used: pd.Series, paper: Mapping[str, int] | None = None
) -> Figure:
    """Draw galaxies per class, all and down-sampled, on a logarithmic axis (Fig. 6).

    Parameters
    ----------
    full, used : Series of int
        Galaxies per arm class before and after down-sampling, indexed by the (merged) class.
    paper : mapping of str to int, optional
        The paper's counts of the full sample, drawn as marks.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 3.0), layout="constrained")
    places = np.arange(len(full))
    colours = [ARM_COLOURS[m] for m in full.index]
    for shift, counts, alpha, name in ((-0.2, full, 0.4, "all"), (0.2, used, 1.0, "down-sampled")):
        bars = axis.bar(places + shift, counts, 0.38, color=colours, alpha=alpha, label=name)
        axis.bar_label(bars, [f"{n:,}" for n in counts], fontsize=8)
    if paper:
        heights = [paper.get(m, np.nan) for m in full.index]
        axis.plot(places - 0.2, heights, "k_", markersize=18, label="all, in the paper")
    axis.set_yscale("log")
    axis.set_ylim(0.7, 3 * max(full.max(), *(paper or {"": 1}).values()))
    axis.set_xticks(places, [arm_label(m) for m in full.index])
    axis.set_xlabel("arm class")
    axis.set_ylabel("galaxies")
    handles, names = axis.get_legend_handles_labels()
    axis.legend(handles, names, ncols=3, loc="upper right", fontsize=8)
    return figure


def label_confidence(sample: pd.DataFrame, cut: float | None = None) -> Figure:
    """Draw how sure the volunteers were of each label: the cumulative distribution of rho.

    Parameters
    ----------
    sample : DataFrame
        `label` and `rho_max` from `lib.selection.select`.
    cut : float, optional
        A threshold to mark.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 3.0), layout="constrained")
    for m in ARM_CLASSES:
        rho = np.sort(sample.loc[sample["label"] == m, "rho_max"])
        if len(rho):
            share = np.arange(len(rho), 0, -1) / len(rho)
            axis.step(
                rho,
                share,
                where="pre",
                color=ARM_COLOURS[m],
                label=f"{arm_label(m)} ({len(rho):,})",
            )
    if cut is not None:
        axis.axvline(cut, color="0.5", linestyle=":")
    axis.set_xlabel(r"debiased fraction of the label, $\rho_m$")
    axis.set_ylabel("share of the class above it")
    axis.set_ylim(0, 1.02)
    axis.legend(fontsize=8)
    return figure


def _some_images(
    galaxies: pd.DataFrame, data_dir: Path, number: int, crop: int, size: int, seed: int
) -> list[tuple[np.ndarray, float]]:
    """Up to `number` readable crops with their vote fractions, the surest first."""
    found = []
    for galaxy in galaxies.sample(frac=1, random_state=seed).itertuples():
        if len(found) == number:
            break
        try:
            image = central_crop(decode(Path(data_dir) / galaxy.image_path, size), crop)
        except ImageError:
            continue
        found.append((image, galaxy.rho_max))
    return sorted(found, key=lambda pair: -pair[1])
