"""The browser of notebook 13: which galaxies to show, and its widgets.

Where no front end is at hand, in batch and in the book, notebook 13 shows one fixed page instead.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets
import matplotlib.pyplot as plt
import pandas as pd
from astropy.table import Table
from matplotlib.figure import Figure

from lib.paths import atomic

ANY = "any"


class Browser:
    """Widgets that filter galaxies, show them page by page, and save a selection.

    Parameters
    ----------
    table : DataFrame
        Galaxies in their order: `galaxy_id`, `label`, `disagreement`, and for each role
        `predicted_<role>` and `probability_<role>`.
    classes, roles : sequence of str
        Classes, and roles of the two networks.
    draw : callable
        Rows of the table to a Figure.
    folder : path
        Where a selection is saved, as ``selection.csv`` and ``selection.vot``.
    per_page : int
        Galaxies on a page.
    """

    def __init__(
        self, table: pd.DataFrame, classes, roles, draw: Callable[[pd.DataFrame], Figure],
        folder: str | Path, per_page: int,
    ):  # fmt: skip
        self.table, self.draw, self.folder = table, draw, Path(folder)
        self.per_page, self.first = per_page, 0
        self.filters = {
            "label": widgets.Dropdown(options=[ANY, *classes], description="label"),
            "role": widgets.Dropdown(options=list(roles), description="network"),
            "predicted": widgets.Dropdown(options=[ANY, *classes], description="predicted"),
            "probability": _range("probability"),
            "disagreement": _range("disagreement"),
            "galaxy_id": widgets.Text(description="identifier", continuous_update=False),
        }
        self.previous = widgets.Button(description="previous", icon="arrow-left")
        self.next = widgets.Button(description="next", icon="arrow-right")
        self.save = widgets.Button(description="save selection", icon="save")
        self.said, self.picture = widgets.HTML(), widgets.HTML()
        for widget in self.filters.values():
            widget.observe(lambda _: self.show(0), names="value")
        self.previous.on_click(lambda _: self.show(self.first - per_page))
        self.next.on_click(lambda _: self.show(self.first + per_page))
        self.save.on_click(lambda _: self._save())
        boxes = list(self.filters.values())
        buttons = widgets.HBox([self.previous, self.next, self.save])
        rows = [widgets.HBox(boxes[:3]), widgets.HBox(boxes[3:]), buttons]
        self.widget = widgets.VBox([*rows, self.said, self.picture])
        self.show(0)

    @property
    def selection(self) -> pd.DataFrame:
        """Galaxies that fit the filters, in the table's order."""
        chosen, table = {name: widget.value for name, widget in self.filters.items()}, self.table
        role = chosen["role"]
        fits = table[f"probability_{role}"].between(*chosen["probability"])
        fits &= table["disagreement"].between(*chosen["disagreement"])
        part = chosen["galaxy_id"].strip()
        fits &= table["galaxy_id"].astype(str).str.contains(part, regex=False)
        for name, column in (("label", "label"), ("predicted", f"predicted_{role}")):
            if chosen[name] != ANY:
                fits &= table[column] == chosen[name]
        return table[fits].reset_index(drop=True)

    def show(self, first: int) -> None:
        """Draw the page that starts at a row of the selection."""
        chosen = self.selection
        page = chosen.iloc[first : first + self.per_page]
        self.first, self.previous.disabled = first, first == 0
        self.next.disabled = first + self.per_page >= len(chosen)
        if page.empty:
            self.said.value, self.picture.value = "no galaxy fits: widen a filter", ""
            return
        self.said.value = "drawing ..."
        ids = ", ".join(page["galaxy_id"].astype(str))
        self.picture.value = _as_html(self.draw(page), f"Galaxies {ids}")
        self.said.value = f"galaxies {first + 1} to {first + len(page)} of {len(chosen)}: {ids}"

    def _save(self) -> None:
        chosen = self.selection
        if chosen.empty:
            self.said.value = "no galaxy fits: widen a filter"
            return
        with atomic(self.folder / "selection.csv") as temporary:
            chosen.to_csv(temporary, index=False)
        with atomic(self.folder / "selection.vot") as temporary:
            Table.from_pandas(chosen).write(temporary, format="votable")
        self.said.value = (
            f"saved {len(chosen)} galaxies as selection.csv and selection.vot in {self.folder}"
        )


def _range(name: str) -> widgets.FloatRangeSlider:
    return widgets.FloatRangeSlider(
        value=(0, 1), min=0, max=1, step=0.01, description=name, continuous_update=False
    )


def _as_html(figure: Figure, alternative: str) -> str:
    """A figure as an HTML picture, which can say what it shows, unlike the widget for pictures."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{alternative}" src="data:image/png;base64,{data}">'
