"""Figures of notebook 05: feature maps, attribution maps, and their scores (Figs. 8-10)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from lib.figures import style

MAP_COLOURS = "cividis"
"""Default colours of maps: even in lightness, safe for colour-blind eyes; the paper used jet."""


def as_picture(image: np.ndarray) -> np.ndarray:
    """Cut-out for `imshow`: (height, width) or (height, width, 3), floats in [0, 1].

    Parameters
    ----------
    image : ndarray, (height, width, 1 or 3)
        uint8, or floats in [0, 1] or [0, 255].
    """
    picture = np.asarray(image, float)
    if picture.max() > 1.5:
        picture = picture / 255
    return picture.clip(0, 1).squeeze()


def show_cutout(axes: plt.Axes, image: np.ndarray) -> None:
    """Draw a galaxy without ticks."""
    axes.imshow(as_picture(image), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])


def overlay(
    axes: plt.Axes, image: np.ndarray, values: np.ndarray, colours: str = MAP_COLOURS
) -> None:
    """Draw a map over its galaxy.

    Parameters
    ----------
    axes : Axes
    image : ndarray, (height, width, 1 or 3)
    values : ndarray, (height, width)
        Drawn from its lowest value, or zero, to its 99.5th percentile, so that single bright
        pixels do not hide the rest.
    colours : str
        A matplotlib colour map.
    """
    show_cutout(axes, image)
    low, high = max(0.0, float(values.min())), float(np.percentile(values, 99.5))
    axes.imshow(values, cmap=colours, alpha=0.72, vmin=low, vmax=max(high, low + 1e-12))


def feature_tiles(features: dict, tiles: list, colours: str = MAP_COLOURS) -> Figure:
    """Fig. 8: feature maps at several depths.

    Parameters
    ----------
    features : dict
        Layer name to ndarray (rows, columns, channels), shallow layers first.
    tiles : list of (int, int)
        Rows and columns of tiles per layer; the first rows x columns channels are drawn.
    colours : str
        A matplotlib colour map.
    """
    figure, panels = plt.subplots(
        1, len(features), figsize=(style.WIDTH, style.WIDTH / len(features) * 0.72), squeeze=False
    )
    for axes, (name, values), (rows, columns) in zip(
        panels[0], features.items(), tiles, strict=True
    ):
        axes.imshow(mosaic(values, rows, columns), cmap=colours, vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{name}\n{values.shape[0]} x {values.shape[1]} px", fontsize=8)
        drawn = min(rows * columns, values.shape[2])
        axes.set_xlabel(f"{drawn} of {values.shape[2]} channels", fontsize=8)
    figure.tight_layout()
    return figure


def mosaic(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Channels of a feature map side by side, each stretched to [0, 1], NaN lines between.

    Parameters
    ----------
    values : ndarray, (height, width, channels)
    rows, columns : int

    Returns
    -------
    ndarray, (rows * (height + 1) - 1, columns * (width + 1) - 1)
    """
    height, width, channels = values.shape
    picture = np.full((rows * (height + 1), columns * (width + 1)), np.nan)
    for k in range(min(rows * columns, channels)):
        tile = values[..., k] - values[..., k].min()
        top, left = k // columns * (height + 1), k % columns * (width + 1)
        picture[top : top + height, left : left + width] = tile / max(tile.max(), 1e-12)
    return picture[:-1, :-1]


def gallery(
    chosen: pd.DataFrame,
    images: np.ndarray,
    maps: dict,
    colours: str = MAP_COLOURS,
) -> Figure:
    """Figs. 9 and 10: galaxies and their maps, one row per class.

    Parameters
    ----------
    chosen : DataFrame
        Rows of `lib.explain.gallery.top_scoring`: label, rank, galaxy_id, predicted, probability,
        reason.
    images : ndarray, (n, height, width, channels)
        One per row of `chosen` that has a galaxy, in order.
    maps : dict
        Method name to ndarray (n, height, width), in the order of `images`.
    colours : str
    """
    labels = list(dict.fromkeys(chosen["label"]))
    count = int(chosen["rank"].max()) + 1
    width = 1 + len(maps)
    figure, panels = plt.subplots(
        len(labels),
        count * width,
        figsize=(style.WIDTH, style.WIDTH / (count * width) * 1.22 * len(labels)),
        squeeze=False,
    )
    number = 0
    for row in chosen.itertuples():
        cells = panels[labels.index(row.label), row.rank * width : (row.rank + 1) * width]
        if row.reason:
            _empty(cells, row.reason)
        else:
            _galaxy(cells, row, images[number], {k: v[number] for k, v in maps.items()}, colours)
            number += 1
    for label, axes in zip(labels, panels[:, 0], strict=True):
        axes.set_ylabel(style.arm_label(label), fontsize=9)
    for k, axes in enumerate(panels[0]):
        title = ["galaxy", *maps][k % width]
        axes.annotate(title, (0.5, 1.2), xycoords="axes fraction", ha="center", fontsize=8)
    figure.subplots_adjust(wspace=0.05, hspace=0.25)
    return figure


def _empty(cells: np.ndarray, reason: str) -> None:
    for axes in cells:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.patch.set_visible(False)
    middle = cells[len(cells) // 2]
    middle.text(0.5, 0.5, reason.replace(" galaxies ", "\ngalaxies "), ha="center", va="center",
                fontsize=6, transform=middle.transAxes)  # fmt: skip


def _galaxy(cells: np.ndarray, row, image: np.ndarray, maps: dict, colours: str) -> None:
    show_cutout(cells[0], image)
    for axes, values in zip(cells[1:], maps.values(), strict=True):
        overlay(axes, image, values, colours)
    cells[0].set_title(f"m = {row.label} → {row.predicted}", fontsize=6.5, pad=2, loc="left")
    cells[1].set_title(f"p = {row.probability:.2f}", fontsize=6.5, pad=2, loc="left")


def methods_row(
    table: pd.DataFrame, images: np.ndarray, maps: dict, colours: str = MAP_COLOURS
) -> Figure:
    """Chosen galaxies by id, one row each, with the map of every method.

    Parameters
    ----------
    table : DataFrame
        Columns galaxy_id, label, predicted, probability; one row per galaxy.
    images : ndarray, (n, height, width, channels)
    maps : dict
        Method name to ndarray (n, height, width).
    colours : str
    """
    columns = 1 + len(maps)
    figure, panels = plt.subplots(
        len(table),
        columns,
        figsize=(style.WIDTH, style.WIDTH / columns * 1.2 * len(table)),
        squeeze=False,
    )
    for n, row in enumerate(table.itertuples()):
        _galaxy(panels[n], row, images[n], {k: v[n] for k, v in maps.items()}, colours)
        panels[n, 0].set_xlabel(str(row.galaxy_id), fontsize=6)
    for axes, name in zip(panels[0], ["galaxy", *maps], strict=True):
        axes.annotate(name, (0.5, 1.18), xycoords="axes fraction", ha="center", fontsize=7)
    figure.subplots_adjust(wspace=0.05, hspace=0.25)
    return figure


METHOD_COLOURS = {
    "Grad-CAM++": "#0072B2",
    "SmoothGrad": "#D55E00",
    "gradient": "#E69F00",
    "integrated gradients": "#009E73",
    "occlusion": "#CC79A7",
    "edges": "#000000",
    "random": "#999999",
    "centred Gaussian": "#56B4E9",
    "image": "#8C510A",
}
"""One colour per method or control in every figure (Okabe & Ito 2008)."""

CONTROL_LINE = {"random": ":", "centred Gaussian": ":", "edges": "--", "image": "--"}


def insertion_deletion(curves: dict) -> Figure:
    """Mean insertion and deletion curves.

    Parameters
    ----------
    curves : dict
        Model to dict of map name to `lib.explain.faithfulness.Curves`.
    """
    figure, panels = plt.subplots(
        len(curves), 2, figsize=(style.WIDTH, 2.5 * len(curves)), sharex=True, sharey="row",
        squeeze=False,
    )  # fmt: skip
    for row, (model, by_map) in zip(panels, curves.items(), strict=True):
        for axes, kind in zip(row, ("insertion", "deletion"), strict=True):
            for name, made in by_map.items():
                axes.plot(
                    made.fraction, getattr(made, kind).mean(axis=0), label=name, lw=1.2,
                    color=METHOD_COLOURS[name], ls=CONTROL_LINE.get(name, "-"),
                )  # fmt: skip
            axes.set_title(f"{model}: {kind}")
        row[0].set_ylabel("mean probability of the class")
    for axes in panels[-1]:
        axes.set_xlabel("fraction of pixels")
    panels[0, 1].legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    return figure


def faithfulness_points(board: pd.DataFrame) -> Figure:
    """Insertion less deletion area with 95 % intervals, one panel per model.

    Parameters
    ----------
    board : DataFrame
        From `lib.explain.faithfulness.scoreboard`.
    """
    models = list(dict.fromkeys(board["model"]))
    figure, panels = plt.subplots(
        1, len(models), figsize=(style.WIDTH, 2.6), sharex=True, squeeze=False
    )
    for axes, model in zip(panels[0], models, strict=True):
        part = board[board["model"] == model].iloc[::-1].reset_index(drop=True)
        for y, row in part.iterrows():
            axes.plot([row["low"], row["high"]], [y, y], color=METHOD_COLOURS[row["map"]])
            axes.plot(row["difference"], y, "o", color=METHOD_COLOURS[row["map"]], ms=4)
        axes.axvline(0, color="0.8", lw=0.8, zorder=0)
        axes.set(title=model, yticks=range(len(part)), xlabel="insertion - deletion area")
        axes.set_yticklabels(part["map"])
    figure.tight_layout()
    return figure


def cascade_lines(cascaded: pd.DataFrame, survives: float) -> Figure:
    """Similarity of maps to the trained network's against the depth of re-initialisation.

    Parameters
    ----------
    cascaded : DataFrame
        Rows of `lib.explain.sanity.cascade` with a column model.
    survives : float
        Similarity above which a method is flagged, drawn as a line.
    """
    models = list(dict.fromkeys(cascaded["model"]))
    figure, panels = plt.subplots(
        2, len(models), figsize=(style.WIDTH, 4.6), sharex="col", sharey="row", squeeze=False
    )
    for column, model in enumerate(models):
        part = cascaded[cascaded["model"] == model]
        means = part.groupby(["map", "depth"])[["rank_correlation", "ssim"]].mean()
        for axes, score in zip(panels[:, column], means, strict=True):
            for name in dict.fromkeys(part["map"]):
                line = pd.concat([pd.Series({0: 1.0}), means.loc[name, score]])
                axes.plot(
                    line.index, line, marker="o", ms=3, lw=1.2, label=name,
                    color=METHOD_COLOURS[name], ls=CONTROL_LINE.get(name, "-"),
                )  # fmt: skip
            if score == "rank_correlation":
                axes.axhline(survives, color="0.8", lw=0.8, zorder=0)
        panels[0, column].set_title(model)
        panels[1, column].set_xlabel("stages re-initialised")
    panels[0, 0].set_ylabel("rank correlation along rings")
    panels[1, 0].set_ylabel("SSIM")
    panels[0, -1].legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    return figure


def energy_bars(located: pd.DataFrame, parts: list) -> Figure:
    """Share of each map's energy on the parts of the image, beside the parts' shares of the area.

    Parameters
    ----------
    located : DataFrame
        Rows of `lib.explain.localisation.locate` with columns model and map.
    parts : list of str
        Parts to stack.
    """
    shades = {"arms": "#0072B2", "bulge": "#D55E00", "disc": "#56B4E9", "galaxy": "#56B4E9",
              "surroundings": "#DDDDDD"}  # fmt: skip
    models = list(dict.fromkeys(located["model"]))
    figure, panels = plt.subplots(
        1, len(models), figsize=(style.WIDTH, 2.8), sharey=True, squeeze=False
    )
    for axes, model in zip(panels[0], models, strict=True):
        own = located[located["model"] == model]
        means = own.groupby("map", sort=False)[[f"energy_{p}" for p in parts]].mean()
        means.columns = parts
        area = own[[f"area_{p}" for p in parts]].mean().set_axis(parts)
        means = pd.concat([area.to_frame("area of the part").T, means])
        left = np.zeros(len(means))
        for part in parts:
            axes.barh(means.index, means[part], left=left, color=shades[part], label=part)
            left += means[part].fillna(0).to_numpy()
        axes.invert_yaxis()
        axes.set(title=model, xlabel="share of the map's energy", xlim=(0, 1))
    panels[0, -1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    return figure


def arm_readings(
    table: pd.DataFrame, images: np.ndarray, polars: np.ndarray, r_min: float, r_max: float
) -> Figure:
    """Galaxies, and their maps' polar views with the logarithmic spirals that were read.

    Parameters
    ----------
    table : DataFrame
        Rows of `lib.explain.arms.arm_table`.
    images : ndarray, (n, height, width, channels)
    polars : ndarray, (n, rows, columns)
        Contrast of the maps' polar views.
    r_min, r_max : float
        Radii of their first and last rows, in pixels.
    """
    n = len(table)
    figure, panels = plt.subplots(
        2, n, figsize=(style.WIDTH, 1.05 * style.WIDTH * 1.9 / n), squeeze=False,
        height_ratios=[1, 0.8],
    )  # fmt: skip
    for k, row in enumerate(table.itertuples()):
        show_cutout(panels[0, k], images[k])
        panels[0, k].set_title(f"label m = {row.label}", fontsize=7)
        axes = panels[1, k]
        limit = np.percentile(np.abs(polars[k]), 98) + 1e-12
        axes.imshow(
            polars[k], cmap="PuOr_r", vmin=-limit, vmax=limit, origin="lower", aspect="auto",
            extent=(0, 360, np.log(r_min), np.log(r_max)),
        )  # fmt: skip
        title = "no arms read" if row.m == 0 else f"m = {row.m}, {row.pitch:.0f}°"
        axes.set_title(title, fontsize=7)
        axes.set(xticks=[0, 180, 360], yticks=[])
        axes.tick_params(labelsize=6)
        axes.set_xlabel("azimuth [deg]", fontsize=6.5)
    panels[1, 0].set_ylabel("ln radius", fontsize=7)
    figure.tight_layout(w_pad=0.3)
    return figure


def coherence_roc(tables: dict) -> Figure:
    """Receiver operating characteristics of coherence: multiple arms (m >= 3) or flocculent.

    Parameters
    ----------
    tables : dict
        Name of the map to its `lib.explain.arms.arm_table`, with truth.
    """
    figure, axes = plt.subplots(figsize=(style.WIDTH / 2, style.WIDTH / 2.2))
    for name, table in tables.items():
        part = table[(table["true_m"] >= 3) | (table["true_m"] == 0)]
        false, true, _ = roc_curve(part["true_m"] > 0, part["coherence"])
        axes.plot(false, true, label=name, color=METHOD_COLOURS[name.split(": ")[-1]],
                  ls="--" if name.startswith("V2M") else "-")  # fmt: skip
    axes.plot([0, 1], [0, 1], color="0.8", lw=0.8)
    axes.set(xlabel="flocculent galaxies taken for multiple-arm", ylabel="multiple-arm found")
    axes.legend(fontsize=7)
    figure.tight_layout()
    return figure
