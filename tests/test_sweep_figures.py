"""What the figures of sweeps draw is what they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from lib import paper
from lib.evaluation import SCORES
from lib.figures import sweeps as figures


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_size_spread_draws_means_spread_and_the_paper():
    rows = [
        (role, crop, 2 * crop, 0.5 + crop / 300 + shift, 0.02, 0.03, 0.05, 3, int(crop == 32))
        for role, shift in (("B0", 0), ("V2M", 0.05))
        for crop in (32, 64)
    ]
    columns = ["role", "crop", "sky", "mean", "sd", "cv", "sampling", "n", "one_class"]
    spread = pd.DataFrame(rows, columns=columns)
    chosen = pd.Series({"B0": 64, "V2M": 128})
    figure = figures.size_spread(spread, chosen, paper.FIGURE_5)
    left, right = figure.axes
    b0, v2m = [container[0] for container in left.containers]
    np.testing.assert_allclose(b0.get_ydata(orig=False), spread["mean"][:2])
    np.testing.assert_allclose(v2m.get_ydata(orig=False), spread["mean"][2:])
    np.testing.assert_allclose(right.lines[0].get_ydata(orig=False), 3)
    np.testing.assert_allclose(right.lines[1].get_xdata(orig=False)[0], 64, atol=2)
    points = [c for c in left.collections if isinstance(c, PathCollection)]
    crossed = [c for c in points if list(c.get_sizes()) == [60]]
    np.testing.assert_allclose(
        [np.asarray(c.get_offsets(), float)[:, 0] for c in crossed], [[62.5], [65.5]]
    )
    diamonds = [np.asarray(c.get_offsets(), float)[0] for c in left.collections[-2:]]
    np.testing.assert_allclose(diamonds, paper.FIGURE_5[["size", "f1"]])


def test_no_line_is_drawn_where_no_size_is_chosen():
    row = ("B0", 32, 64, 0.33, 0.0, 0.0, 0.05, 2, 2)
    columns = ["role", "crop", "sky", "mean", "sd", "cv", "sampling", "n", "one_class"]
    spread = pd.DataFrame([row], columns=columns)
    chosen = pd.Series({"B0": pd.NA}, dtype="Int64")
    for axis in figures.size_spread(spread, chosen, paper.FIGURE_5).axes:
        assert not [line for line in axis.lines if line.get_linestyle() == ":"]


def test_counts_are_drawn_per_class_and_choice():
    counts = pd.DataFrame({"all data": paper.CLASS_COUNTS})
    counts["down-sampled"] = counts["all data"].clip(upper=300)
    (axis,) = figures.training_counts(counts).axes
    heights = [[bar.get_height() for bar in axis.containers[i]] for i in (0, 2)]
    np.testing.assert_array_equal(heights, counts.T)


def test_balance_scores_and_recalls_are_where_their_option_is():
    options = ["all data", "down-sampled", "focal loss"]
    rows = [
        (role, option, galaxies, metric, value, value - 0.1, value + 0.1)
        for role in ("B0", "V2M")
        for i, option in enumerate(options)
        for galaxies in ("own validation", "common test")
        for metric, value in zip(SCORES, (0.2 + i / 10, 0.3, 0.4))
        if (role, option) != ("V2M", "focal loss")
    ]
    columns = ["role", "option", "galaxies", "metric", "value", "low", "high"]
    figure = figures.balance_scores(pd.DataFrame(rows, columns=columns), options)
    assert len(figure.axes) == 6
    points = figure.axes[0].collections[1].get_offsets()
    np.testing.assert_allclose(points[:, 0], [0.2, 0.3, 0.4])
    np.testing.assert_allclose(points[:, 1], [-0.13, 0.87, 1.87])
    assert figure.axes[0].get_yticklabels()[2].get_text() == "focal loss"

    table = pd.DataFrame(rows, columns=columns).query("galaxies == 'common test'")
    table = table.assign(label=table["metric"].map(dict(zip(SCORES, ("1", "2", "3")))))
    first, second = figures.recalls(table, options).axes
    np.testing.assert_allclose(first.collections[1].get_offsets()[:, 0], [0.2, 0.3, 0.4])
    assert first.get_title() == "B0" and second.get_title() == "V2M"
