"""Look at galaxies one page at a time: which to show, and the widgets of notebook 13.

A page shows, per galaxy, the cut-out, the volunteers' votes, and of each network the class
probabilities, Grad-CAM++ and SmoothGrad. Where no front end is at hand, in batch and in the book,
notebook 13 shows one fixed page instead of the widgets.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.evaluation import predicted_probability
from lib.explain import gallery
from lib.figures import explore as figures
from lib.paths import atomic
from lib.schema import RHO_COLUMNS, InputError, probability_columns

ANY = "any"


def galaxies(sample: pd.DataFrame, predictions: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """What two networks say of each galaxy, beside its votes.

    Parameters
    ----------
    sample : DataFrame
        `galaxy_id` and the vote fractions of `lib.schema.RHO_COLUMNS`.
    predictions : dict
        Role of each of the two networks to its predictions: `galaxy_id`, `label`, `split`,
        `predicted` and one probability column per class.

    Returns
    -------
    DataFrame
        Galaxies that both predict, sorted by `galaxy_id`: `galaxy_id`, `label`, `split`; per
        network `predicted_<role>` and `probability_<role>`, that of the predicted class;
        `disagreement`, half the sum of the absolute differences of their probabilities, 0 where
        they say the same and 1 where they share no class; and the vote fractions.

    Raises
    ------
    InputError
        If the networks tell other classes apart.
    """
    (one, first), (two, second) = predictions.items()
    columns = [[c for c in table if c.startswith("p_")] for table in (first, second)]
    if columns[0] != columns[1]:
        raise InputError(
            f"{one} has the classes {columns[0]}, {two} has {columns[1]}: choose two trainings "
            "with the same merge of classes"
        )
    first = first.assign(probability=predicted_probability(first))
    second = second.assign(probability=predicted_probability(second))
    both = first.merge(second.drop(columns=["label", "split"]), on="galaxy_id", suffixes=("", "_2"))
    p = both[columns[0]].to_numpy(float)
    q = both[[f"{c}_2" for c in columns[0]]].to_numpy(float)
    table = both[["galaxy_id", "label", "split"]].copy()
    for role, end in ((one, ""), (two, "_2")):
        table[f"predicted_{role}"] = both[f"predicted{end}"]
        table[f"probability_{role}"] = both[f"probability{end}"]
    table["disagreement"] = np.abs(p - q).sum(axis=1) / 2
    votes = sample[["galaxy_id", *RHO_COLUMNS]]
    return table.merge(votes, on="galaxy_id").sort_values("galaxy_id", ignore_index=True)


@dataclass(frozen=True)
class Filter:
    """Which galaxies to show.

    Attributes
    ----------
    label, predicted : str
        Arm class, or `ANY`.
    role : str
        Network whose prediction and probability are meant.
    probability : tuple of float
        Lowest and highest probability of the predicted class, both included.
    disagreement : tuple of float
        The same for the networks' disagreement.
    galaxy_id : str
        Part of the identifier.
    """

    role: str
    label: str = ANY
    predicted: str = ANY
    probability: tuple[float, float] = (0.0, 1.0)
    disagreement: tuple[float, float] = (0.0, 1.0)
    galaxy_id: str = ""

    def choose(self, table: pd.DataFrame) -> pd.DataFrame:
        """Rows of a table of `galaxies` that fit, the strongest disagreement first."""
        fits = table[f"probability_{self.role}"].between(*self.probability)
        fits &= table["disagreement"].between(*self.disagreement)
        fits &= table["galaxy_id"].astype(str).str.contains(self.galaxy_id.strip(), regex=False)
        if self.label != ANY:
            fits &= table["label"] == self.label
        if self.predicted != ANY:
            fits &= table[f"predicted_{self.role}"] == self.predicted
        order = ["disagreement", "galaxy_id"]
        return table[fits].sort_values(order, ascending=[False, True], ignore_index=True)


def examples(table: pd.DataFrame, classes: tuple[str, ...], split: str) -> pd.DataFrame:
    """The fixed page: of each label, the galaxy of a split that the networks disagree on most."""
    part = table[table["split"] == split]
    order = part.sort_values(["disagreement", "galaxy_id"], ascending=[False, True])
    chosen = order.drop_duplicates("label").set_index("label", drop=False)
    return chosen.reindex([c for c in classes if c in chosen.index]).reset_index(drop=True)


def draw(rows: pd.DataFrame, subjects: dict) -> Figure:
    """Page of some galaxies, see `lib.figures.explore.page`.

    Parameters
    ----------
    rows : DataFrame
        Rows of `galaxies`.
    subjects : dict
        Role of each network to its `lib.explain.subject.Subject`.
    """
    ids, found = rows["galaxy_id"], {}
    for role, subject in subjects.items():
        predictions = gallery.by_id(subject.run.predictions, list(ids))
        found[role] = figures.Evidence(
            images=subject.cutouts(ids),
            probabilities=predictions[probability_columns(subject.run.classes)].to_numpy(),
            maps={method: subject.maps(method, predictions) for method in figures.MAPS},
        )
    subject = next(iter(subjects.values()))
    return figures.page(rows, subject.wide_cutouts(ids), found, subject.run.classes)


class Browser:
    """Widgets that filter galaxies, show them page by page, and save a selection.

    Parameters
    ----------
    table : DataFrame
        From `galaxies`.
    subjects : dict
        Role of each network to its `lib.explain.subject.Subject`.
    folder : path
        Where a selection is saved, as ``selection.csv``.
    per_page : int
        Galaxies on a page.
    """

    def __init__(self, table: pd.DataFrame, subjects: dict, folder: str | Path, per_page: int):
        self.table, self.subjects, self.folder = table, subjects, Path(folder)
        self.per_page, self.first = per_page, 0
        roles = list(subjects)
        choices = [ANY, *subjects[roles[0]].run.classes]
        self.filters = {
            "label": widgets.Dropdown(options=choices, description="label"),
            "role": widgets.Dropdown(options=roles, description="network"),
            "predicted": widgets.Dropdown(options=choices, description="predicted"),
            "probability": _range("probability"),
            "disagreement": _range("disagreement"),
            "galaxy_id": widgets.Text(description="identifier", continuous_update=False),
        }
        self.back = widgets.Button(description="back", icon="arrow-left")
        self.forth = widgets.Button(description="forth", icon="arrow-right")
        self.save = widgets.Button(description="save selection", icon="save")
        self.said, self.picture = widgets.HTML(), widgets.HTML()
        for widget in self.filters.values():
            widget.observe(lambda _: self.show(0), names="value")
        self.back.on_click(lambda _: self.show(self.first - per_page))
        self.forth.on_click(lambda _: self.show(self.first + per_page))
        self.save.on_click(lambda _: self._save())
        names = list(self.filters)
        rows = [widgets.HBox([self.filters[n] for n in part]) for part in (names[:3], names[3:])]
        buttons = widgets.HBox([self.back, self.forth, self.save])
        self.widget = widgets.VBox([*rows, buttons, self.said, self.picture])
        self.show(0)

    @property
    def selection(self) -> pd.DataFrame:
        """Galaxies that fit the filters, the strongest disagreement first."""
        return Filter(**{name: w.value for name, w in self.filters.items()}).choose(self.table)

    def show(self, first: int) -> None:
        """Draw the page that starts at a row of the selection."""
        chosen = self.selection
        page = chosen.iloc[first : first + self.per_page]
        self.first, self.back.disabled = first, first == 0
        self.forth.disabled = first + self.per_page >= len(chosen)
        if page.empty:
            self.said.value, self.picture.value = "no galaxy fits: widen a filter", ""
            return
        self.said.value = "drawing ..."
        ids = ", ".join(page["galaxy_id"].astype(str))
        self.picture.value = _as_html(draw(page, self.subjects), f"Galaxies {ids}")
        self.said.value = f"galaxies {first + 1} to {first + len(page)} of {len(chosen)}: {ids}"

    def _save(self) -> None:
        target = self.folder / "selection.csv"
        with atomic(target) as temporary:
            self.selection.to_csv(temporary, index=False)
        self.said.value = f"saved {len(self.selection)} galaxies as {target.name} in {self.folder}"


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
