"""What the comparison figures draw is what they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from made import write_run

from lib import evaluation as ev
from lib import paper
from lib.figures import comparison as figures


@pytest.fixture
def runs(tmp_path):
    splits = np.repeat(["validation", "rest", "train"], [339, 200, 61])
    return [
        ev.read_run(write_run(tmp_path / role, role=role, seed=i, n=600, splits=splits))
        for i, role in enumerate(("B0", "V2M"))
    ]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_confusion_matrices_print_shares_and_counts():
    merged = ev.confusion(["3+4", "1"], ["1", "1"], ("1", "3+4", "?"))
    figure = figures.confusion_matrices({"paper": paper.B0_CONFUSION, "merged": merged})
    first, second = figure.axes[:2]
    texts = [t.get_text() for t in first.texts]
    assert texts[:2] == ["0.82\n41", "0.06\n3"] and texts[4] == "0"
    assert [t.get_text() for t in second.texts] == ["1.00\n1", "0", "0", "1.00\n1", "0", "0"] + [
        "-"
    ] * 3
    (image,) = first.images
    np.testing.assert_allclose(image.get_array(), ev.normalise(paper.B0_CONFUSION))
    assert image.get_clim() == second.images[0].get_clim() == (0, 1)


def test_table_3_shows_ours_and_the_papers(runs):
    comparison = pd.concat([ev.compare_with_paper(run) for run in runs])
    figure = figures.table_3(comparison)
    assert len(figure.axes) == 6
    recall_of_v2m = figure.axes[4]
    ours, printed = (c.get_offsets()[:, 1] for c in recall_of_v2m.collections)
    np.testing.assert_allclose(printed, paper.TABLE_3["V2M down-sampled", "recall"])
    np.testing.assert_allclose(ours, ev.class_report(runs[1].confusion())["recall"])


def test_reliability_diagram_has_a_curve_per_table(runs):
    curves = {run.name: ev.calibrate(run)[1] for run in runs}
    figure = figures.reliability_diagram(curves)
    for axis, (name, tables) in zip(figure.axes, curves.items(), strict=True):
        assert axis.get_title() == name
        for container, table in zip(axis.containers, tables.values(), strict=True):
            np.testing.assert_allclose(container[0].get_ydata(orig=False), table["accuracy"])


def test_optimism_shows_both_protocols(runs):
    table = pd.concat([ev.protocols(run) for run in runs], ignore_index=True)
    figure = figures.optimism(table)
    accuracy = table[table["metric"] == "accuracy"]
    points = [c.get_offsets()[:, 0] for c in figure.axes[0].collections if len(c.get_offsets()) > 1]
    for drawn, column in zip(points, ["published", "sound", "paper"], strict=True):
        np.testing.assert_allclose(drawn, accuracy[column])
