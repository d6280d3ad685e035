"""What training runs left behind, read and checked, and which runs belong together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from lib import schema
from lib.evaluation.matrix import class_index, confusion
from lib.schema import InputError


@dataclass(frozen=True)
class Run:
    """What a training run left behind, without the model.

    Attributes
    ----------
    name : str
        Name of its folder.
    settings : dict
        ``model.json``: role, classes, merge, protocol, ...
    predictions : DataFrame
        One row per galaxy: ``galaxy_id``, ``label``, ``split``, ``predicted`` and one probability
        column per class.
    history : DataFrame
        One row per epoch.
    """

    name: str
    settings: dict
    predictions: pd.DataFrame
    history: pd.DataFrame

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes in the order of the model's outputs."""
        return tuple(self.settings["classes"])

    @property
    def protocol(self) -> str:
        """``published`` or ``sound``."""
        return self.settings["protocol"]

    @property
    def reported_split(self) -> str:
        """Split that the metrics are reported on: ``test`` where there is one, else validation."""
        return "test" if (self.predictions["split"] == "test").any() else "validation"

    def part(self, split: str | None = None) -> pd.DataFrame:
        """Predictions of one split (default: the reported one), in the file's order."""
        return self.predictions[self.predictions["split"] == (split or self.reported_split)]

    def probabilities(self, split: str | None = None) -> np.ndarray:
        """Class probabilities of one split, float64, shape (galaxies, classes)."""
        columns = schema.probability_columns(self.classes)
        return self.part(split)[columns].to_numpy(np.float64)

    def predicted(self, split: str | None = None) -> np.ndarray:
        """Class number of each prediction of one split, int64, shape (galaxies,)."""
        return class_index(self.part(split)["predicted"], self.classes)

    def labels(self, split: str | None = None) -> np.ndarray:
        """Class number of each label of one split, int64, shape (galaxies,)."""
        return class_index(self.part(split)["label"], self.classes)

    def confusion(self, split: str | None = None) -> pd.DataFrame:
        """Confusion matrix of one split (default: the reported one)."""
        part = self.part(split)
        return confusion(part["label"], part["predicted"], self.classes)


def read_run(folder: str | Path) -> Run:
    """Read the files of a training run and check that they fit together.

    Parameters
    ----------
    folder : path
        Holds ``model.json``, ``predictions.parquet`` and ``history.csv``.

    Raises
    ------
    InputError
        Names the file, and the column or value at fault.
    """
    folder = Path(folder)
    for name in ("model.json", "predictions.parquet", "history.csv"):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing: run the training notebook again.")
    settings = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    missing = [key for key in ("role", "classes", "protocol") if key not in settings]
    if missing:
        raise InputError(f"{folder / 'model.json'} has no {', '.join(missing)}: train again.")
    predictions = pd.read_parquet(folder / "predictions.parquet")
    check_predictions(predictions, tuple(settings["classes"]), str(folder / "predictions.parquet"))
    history = pd.read_csv(folder / "history.csv")
    return Run(folder.name, settings, predictions, history)


def check_predictions(table: pd.DataFrame, classes: tuple[str, ...], source: str) -> None:
    """Refuse a prediction table that does not keep its contract.

    Raises
    ------
    InputError
        For missing columns, duplicate galaxies, unknown classes, or probabilities that are not
        finite or do not add up to one (to 1 %).
    """
    columns = schema.probability_columns(classes)
    missing = [
        c for c in ("galaxy_id", "label", "split", "predicted", *columns) if c not in table.columns
    ]
    if missing:
        raise InputError(f"{source}: column {', '.join(missing)} is missing. Train again.")
    if table["galaxy_id"].duplicated().any():
        raise InputError(f"{source}: column galaxy_id has duplicates. Each galaxy is wanted once.")
    for column in ("label", "predicted"):
        unknown = sorted(set(table[column].unique()) - set(classes), key=str)
        if unknown:
            raise InputError(
                f"{source}: column {column} holds {unknown}, not among the run's classes "
                f"{list(classes)}. Labels and model must use the same class merge."
            )
    sums = table[columns].to_numpy(float).sum(axis=1)
    bad = ~(np.abs(sums - 1) < 0.01)
    if bad.any():
        raise InputError(
            f"{source}: the probabilities of {bad.sum()} galaxies do not add up to 1 "
            f"(first: galaxy {table['galaxy_id'].to_numpy()[bad][0]}, sum {sums[bad][0]}). "
            "The model diverged, or the columns are not its softmax outputs."
        )


def predicted_probability(predictions: pd.DataFrame) -> np.ndarray:
    """Probability of the class that was predicted, which need not be the most probable one.

    A decision that has rare classes in mind (`lib.evaluation.decide`) may name another.

    Parameters
    ----------
    predictions : DataFrame
        ``predicted``, and one probability column per class (``p_...``).

    Returns
    -------
    ndarray of float64, (n,)

    Raises
    ------
    InputError
        If a class is predicted that has no column.
    """
    columns = [c for c in predictions.columns if str(c).startswith("p_")]
    own = pd.Index(columns).get_indexer([f"p_{schema.slug(c)}" for c in predictions["predicted"]])
    if (own < 0).any():
        unknown = predictions["predicted"].to_numpy()[own < 0][0]
        raise InputError(f"class {unknown} is predicted, but there are only {columns}: train again")
    return predictions[columns].to_numpy(float)[np.arange(len(own)), own]


def option(run: Run) -> str:
    """What a run did about unequal classes: ``all data``, ``down-sampled`` or its `balance`."""
    sampling = "all data" if run.settings.get("sampling") == "all" else "down-sampled"
    return run.settings.get("balance", sampling)


OUTCOMES = (
    *("assignment_sha256", "best_epoch", "decision", "epochs_run", "images", "initial_weights"),
    *("parameters", "start_sha256", "weights_sha256"),
)
"""Settings that say what came of a training and on which galaxies, not how it was made.

Every other setting tells trainings apart, those of parameters that are yet to come too.
"""

DIVISION = ("protocol", "fold", "folds", "validation_fraction")
"""Settings that say how the sample is divided, and which part is reported."""


def conditions(run: Run) -> dict[str, object]:
    """Settings of a run without `OUTCOMES`."""
    return {name: value for name, value in run.settings.items() if name not in OUTCOMES}


def differing(runs: Sequence[Run]) -> dict[str, list]:
    """Settings in which some runs differ, `OUTCOMES` aside, and each run's value (None: it has
    no such setting)."""
    found = [conditions(run) for run in runs]
    names = sorted({name for settings in found for name in settings})
    values = {name: [settings.get(name) for settings in found] for name in names}
    return {name: own for name, own in values.items() if any(v != own[0] for v in own)}


def training_key(run: Run, ignored: Sequence[str] = ()) -> tuple:
    """What tells trainings apart: all `conditions` but those that are `ignored`."""
    found = conditions(run)
    return tuple((n, json.dumps(found[n])) for n in sorted(found) if n not in ignored)


def fold_groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ in nothing but the fold they are tested on, in the order of the folds.

    Runs without a fold are left out.
    """
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        if run.settings.get("fold") is not None:
            groups.setdefault(training_key(run, ["fold"]), []).append(run)
    return [sorted(group, key=lambda run: run.settings["fold"]) for group in groups.values()]


def folds_name(runs: Sequence[Run]) -> str:
    """How the runs of a group of `fold_groups` divide the sample, e.g. ``2 x 5 folds``."""
    folds = runs[0].settings["folds"]
    repeats = -(-len(runs) // folds)
    whole = f"{folds} folds" if repeats == 1 else f"{repeats} x {folds} folds"
    return whole if len(runs) == repeats * folds else f"{len(runs)} of {whole}"


def group_names(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Names of groups of `fold_groups`: role and folds, and what sets apart those called alike.

    That is one setting where one is enough, the network before others; else all that differ.
    """
    names = [f"{group[0].settings['role']}, {folds_name(group)}" for group in groups]
    told = names.copy()
    for name in {name for name in names if names.count(name) > 1}:
        alike = [k for k, other in enumerate(names) if other == name]
        differences = differing([groups[k][0] for k in alike])
        differences.pop("fold", None)
        first = [n for n in ("backbone", "weights") if n in differences]
        for setting in [*first, *differences]:
            if len({json.dumps(value) for value in differences[setting]}) == len(alike):
                differences = {setting: differences[setting]}
                break
        for place, k in enumerate(alike):
            own = ", ".join(f"{n} = {values[place]}" for n, values in differences.items())
            told[k] = f"{name} ({own})"
    return told


def first_repeat(runs: Sequence[Run]) -> list[Run]:
    """Those of a group of `fold_groups` that test every galaxy once."""
    return [run for run in runs if run.settings["fold"] < run.settings["folds"]]


def pool(runs: Sequence[Run]) -> Run:
    """One run with the test galaxies of the folds of the first repeat, each by its own network.

    It is named by the role and its number of folds.

    Raises
    ------
    InputError
        If a galaxy is tested by two folds: they do not divide one sample.
    """
    first = first_repeat(runs)
    tested = pd.concat([run.part("test") for run in first], ignore_index=True)
    (name,) = group_names([first])
    if tested["galaxy_id"].duplicated().any():
        raise InputError(
            f"{name}: galaxy {tested.loc[tested['galaxy_id'].duplicated(), 'galaxy_id'].iloc[0]} "
            "is tested by two folds, which are not of one sample: train all folds again"
        )
    return replace(first[0], name=name, predictions=tested)


def pool_groups(groups: Sequence[Sequence[Run]]) -> list[Run]:
    """`pool` of each group, by names that tell them apart (`group_names`)."""
    names = group_names([first_repeat(group) for group in groups])
    return [replace(pool(group), name=name) for group, name in zip(groups, names)]
