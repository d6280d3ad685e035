"""Figures of the simulated survey: its galaxies, its volunteers, and its built-in truth."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import ndimage

from lib.figures.style import ARM_COLOURS, WIDTH, arm_label
from lib.schema import ARM_CLASSES
from lib.surveys.mock.render import FIELD, arm_mask, arm_pattern, bulge_mask, render


def _central(image: np.ndarray, part: float) -> np.ndarray:
    edge = int(round(len(image) * (1 - part) / 2))
    return image[edge : len(image) - edge, edge : len(image) - edge]


def galaxies(truth: pd.DataFrame, by: str, groups: list[str]) -> Figure:
    """Draw the first 8 galaxies of each group, one row per group.

    Parameters
    ----------
    truth : DataFrame
        Truth table of the simulated survey.
    by : str
        Column that groups the galaxies: ``arm_class`` or ``kind``.
    groups : list of str
        Values of that column, from top to bottom.
    """
    per_group = 8
    figure, axes = plt.subplots(
        len(groups),
        per_group,
        figsize=(WIDTH, WIDTH / per_group * len(groups)),
        squeeze=False,
        layout="constrained",
    )
    for line, group in zip(axes, groups, strict=True):
        rows = truth[truth[by] == group].head(per_group).itertuples(index=False)
        for axis, galaxy in zip(line, rows, strict=False):
            axis.imshow(_central(render(galaxy, 424), 0.53))
        label = arm_label(group) if by == "arm_class" else group
        line[0].set_ylabel(label)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure


def votes_against_truth(confusion: pd.DataFrame) -> Figure:
    """Draw how many galaxies of each true class got each label.

    Parameters
    ----------
    confusion : DataFrame of int
        Rows: true arm class; columns: label.
    """
    shares = confusion.div(confusion.sum(axis=1).clip(lower=1), axis=0)
    figure, axis = plt.subplots(figsize=(0.55 * WIDTH, 0.48 * WIDTH), layout="constrained")
    shown = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for (i, j), share in np.ndenumerate(shares.to_numpy()):
        colour = "white" if share > 0.6 else "black"
        axis.text(j, i, confusion.iat[i, j], ha="center", va="center", color=colour)
    axis.set_xticks(range(confusion.shape[1]), confusion.columns)
    axis.set_yticks(range(confusion.shape[0]), confusion.index)
    axis.set(xlabel="most frequent answer of the volunteers", ylabel="true number of arms")
    figure.colorbar(shown, label="share of the true class")
    return figure


def visibility(truth: pd.DataFrame, unclear: pd.Series) -> Figure:
    """Draw the share of "can't tell" votes against the visibility of the arms.

    Parameters
    ----------
    truth : DataFrame
        Galaxies with arms: ``arm_visibility`` and ``arm_class``.
    unclear : Series
        Fraction of "can't tell" votes of the same galaxies.
    """
    edges = np.linspace(0, 1, 9)
    figure, axis = plt.subplots(figsize=(0.7 * WIDTH, 0.4 * WIDTH), layout="constrained")
    for arm_class in ARM_CLASSES[:-1]:
        chosen = truth["arm_class"] == arm_class
        if not chosen.any():
            continue
        place = pd.cut(truth.loc[chosen, "arm_visibility"], edges, include_lowest=True)
        means = unclear[chosen].groupby(place, observed=False).mean()
        axis.plot(
            (edges[1:] + edges[:-1]) / 2,
            means,
            "o-",
            ms=3,
            color=ARM_COLOURS[arm_class],
            label=arm_label(arm_class),
        )
    axis.set(
        xlabel="visibility of the arms (0 to 1)",
        ylabel='fraction of "can\'t tell" votes',
        xlim=(0, 1),
        ylim=(0, 1),
    )
    axis.legend()
    return figure


def frequencies(shares: pd.DataFrame) -> Figure:
    """Draw the share of each arm class under several counts, side by side.

    Parameters
    ----------
    shares : DataFrame
        Index: arm classes; one column per way of counting, each summing to 1.
    """
    figure, axis = plt.subplots(figsize=(0.8 * WIDTH, 0.4 * WIDTH), layout="constrained")
    width = 0.8 / shares.shape[1]
    for k, (name, values) in enumerate(shares.items()):
        place = np.arange(len(shares)) + (k - (shares.shape[1] - 1) / 2) * width
        colours = [ARM_COLOURS[c] for c in shares.index]
        axis.bar(place, values, width, color=colours, alpha=1 - 0.3 * k, label=name)
    axis.set_xticks(range(len(shares)), [arm_label(c) for c in shares.index])
    axis.set(ylabel="share of the spirals")
    axis.set_title(", ".join(shares.columns) + " (from left to right)")
    return figure


def masses(truth: pd.DataFrame, shifts: dict[str, float]) -> Figure:
    """Draw the true stellar masses of each arm class with mean and 95 % interval.

    Parameters
    ----------
    truth : DataFrame
        ``arm_class`` and ``log_mass`` (log10 of solar masses).
    shifts : dict of str to float
        Built-in shift of a class in dex, written beside its row.
    """
    figure, axis = plt.subplots(figsize=(0.8 * WIDTH, 0.42 * WIDTH), layout="constrained")
    present = [c for c in ARM_CLASSES if (truth["arm_class"] == c).sum() > 1]
    for row, arm_class in enumerate(present):
        mass = truth.loc[truth["arm_class"] == arm_class, "log_mass"]
        colour = ARM_COLOURS[arm_class]
        violin = axis.violinplot(mass, [row], orientation="horizontal", showextrema=False)
        violin["bodies"][0].set_facecolor(colour)
        axis.errorbar(mass.mean(), row, xerr=1.96 * mass.sem(), fmt="o", color="black", ms=3)
        shift = shifts.get(arm_class, 0.0)
        axis.text(1.01, row, f"{shift:+.2f} dex", transform=axis.get_yaxis_transform(), va="center")
    axis.set_yticks(range(len(present)), [arm_label(c) for c in present])
    axis.invert_yaxis()
    axis.set_xlabel(r"log$_{10}$ stellar mass (solar masses)")
    return figure


def masks(galaxy, *, size: int = 424) -> Figure:
    """Draw a galaxy, the masks of its arms and bulge, and its arms in log-polar coordinates.

    Parameters
    ----------
    galaxy : row of the truth table
    size : int
        Width of the rendered image in pixels.
    """
    image = render(galaxy, size)
    half = FIELD / 2
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(WIDTH, 0.36 * WIDTH), layout="constrained"
    )
    for axis in (left, middle):
        axis.imshow(image, extent=(-half, half, -half, half))
        axis.set(xlim=(-2, 2), ylim=(-2, 2), xlabel="x (R90)")
    left.set_ylabel("y (R90)")
    extent = dict(extent=(-half, half, half, -half), colors="white", linewidths=0.8)
    middle.contour(arm_mask(galaxy, size), [0.5], **extent)
    middle.contour(bulge_mask(galaxy, size), [0.5], linestyles="dotted", **extent)
    log_r, theta, polar = log_polar(galaxy, image.mean(axis=-1))
    right.pcolormesh(np.degrees(theta), log_r, polar, cmap="gray", rasterized=True)
    pattern = arm_pattern(galaxy, *np.broadcast_arrays(np.exp(log_r)[:, None], theta))
    right.contour(np.degrees(theta), log_r, pattern, [0.4], colors=ARM_COLOURS["2"], linewidths=0.8)
    right.set(xlabel="angle in the disc (deg)", ylabel="ln (radius / R90)")
    return figure


def log_polar(galaxy, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unroll an image in the plane of the galaxy's disc.

    Parameters
    ----------
    galaxy : row of the truth table
        Gives position angle and inclination.
    image : ndarray, (size, size)

    Returns
    -------
    log_r : ndarray, (96,)
        Natural logarithm of the radius in R90, from 0.15 to 1.4 R90.
    theta : ndarray, (180,)
        Angle in the disc from the major axis, radians.
    polar : ndarray, (96, 180)
        Image divided by its mean at each radius.
    """
    log_r = np.linspace(np.log(0.15), np.log(1.4), 96).astype(np.float32)
    theta = np.linspace(-np.pi, np.pi, 180, endpoint=False).astype(np.float32)
    r = np.exp(log_r)[:, None]
    u, v = r * np.cos(theta), r * np.sin(theta) * np.cos(np.radians(galaxy.inclination))
    angle = np.radians(galaxy.position_angle)
    x, y = u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)
    size = len(image)
    row, column = (0.5 - y / FIELD) * size - 0.5, (0.5 + x / FIELD) * size - 0.5
    polar = ndimage.map_coordinates(image.astype(np.float32), (row, column), order=1)
    return log_r, theta, polar / np.maximum(polar.mean(axis=1, keepdims=True), 1e-6)
