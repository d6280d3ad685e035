"""What figures share: colours that colour-blind eyes tell apart, captions, alternative texts."""

import itertools

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from lib.figures import style
from lib.schema import MERGES, merged_classes

# Machado, Oliveira & Fernandes (2009), Table 1, severity 1, on linear RGB.
SEEN_BY = {
    "most": np.eye(3),
    "protanopes": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopes": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def seen(colour, matrix):
    """CIELAB of a colour as an eye sees it."""
    s = np.array(to_rgb(colour))
    linear = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(matrix) @ linear, 0, 1)
    return rgb2lab(
        np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    )


@pytest.mark.parametrize("eyes", SEEN_BY)
@pytest.mark.parametrize("merge", MERGES)
def test_arm_classes_are_told_apart(eyes, merge):
    """A difference of 10 in CIEDE2000 is seen at a glance."""
    colours = {c: seen(style.ARM_COLOURS[c], SEEN_BY[eyes]) for c in merged_classes(merge)}
    for a, b in itertools.combinations(colours, 2):
        assert deltaE_ciede2000(colours[a], colours[b]) > 10, (a, b)


def test_a_figure_is_kept_and_shown_with_its_caption(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(style, "display", shown.append)
    figure = Figure()
    figure.subplots().plot([1, 2])
    style.show(figure, tmp_path / "a.png", "A line.")
    picture, caption = shown
    _, facts = picture._repr_png_()
    assert facts["alt"] == "A line." and caption.data == "*A line.*"
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["Description"] == "A line."


def test_every_rendered_figure_has_an_alternative_text():
    pictures = 0
    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", ()):
                for kind in {"image/png", "image/jpeg"} & set(output.get("data", ())):
                    assert len(output.metadata.get(kind, {}).get("alt", "")) > 20, path.name
                    pictures += 1
    assert pictures > 20
