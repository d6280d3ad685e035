"""What all figures share: one colour per arm class, labels, and how a figure is shown and kept."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import PIL.Image
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure

from lib.paths import atomic

ARM_COLOURS = {
    "1": "#0072B2",
    "2": "#E69F00",
    "3": "#009E73",
    "4": "#CC79A7",
    "5+": "#D55E00",
    "?": "#555555",
    "3+4": "#56B4E9",
    "4+5+": "#8C510A",
}
"""One colour per arm class in every figure: the colour-blind-safe palette of Okabe & Ito (2008)."""

WIDTH = 7.0
"""Width of a full-width figure in inches."""

LARGE = 120_000
"""Bytes of a PNG above which a notebook holds a JPEG instead: pages of cut-outs."""


def use() -> None:
    """Set the project's matplotlib defaults; call once at the top of a notebook."""
    matplotlib.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 150,
            "savefig.bbox": "tight",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10,
            "axes.grid": False,
            "image.cmap": "viridis",
            "legend.frameon": False,
        }
    )


def arm_label(arm_class: str) -> str:
    """Label of an arm class on an axis or a cut-out, e.g. ``m = 2``."""
    return f"m = {arm_class}"


def show(figure: Figure, path: str | Path, caption: str) -> None:
    """Save a figure as PNG, display it and close it, so that a notebook shows it once.

    The caption, one paragraph, is also its alternative text and the file's ``Description``.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Description": caption})
    shown, format = buffer.getvalue(), "png"
    with atomic(path) as temporary:
        temporary.write_bytes(shown)
    if len(shown) > LARGE:
        shown, format = _as_jpeg(shown), "jpeg"
    plt.close(figure)
    display(Image(shown, format=format, alt=caption))
    display(Markdown(f"*{caption}*"))


def _as_jpeg(png: bytes) -> bytes:
    """A picture in fewer bytes and pixels: drawing the figure once more takes ten times as long."""
    with PIL.Image.open(io.BytesIO(png)) as picture:
        size = [round(0.75 * side) for side in picture.size]
        buffer = io.BytesIO()
        picture.convert("RGB").resize(size).save(buffer, "jpeg", quality=85)
    return buffer.getvalue()
