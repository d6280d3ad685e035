"""Recipes: whole ways to train an arm counter, each chosen by one name.

``published``
    What the parameters of the training notebooks say: a backbone, the paper's head, labels.
``votes``
    The best that was found without downloaded weights (notebook 12): the bundled `ArmNet`, which
    combines networks that learnt from simulated and from real votes with Fourier amplitudes of the
    arms, and a linear head that is solved for from vote fractions (`lib.votes`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from lib import evaluation, votes, weights
from lib.images import CHANNELS
from lib.models import Network
from lib.schema import InputError
from lib.training import Protocol

RECIPES = ("published", "votes")


def apply(recipe: str, network: Network, protocol: Protocol) -> tuple[Network, Protocol]:
    """Network and protocol as a recipe has them; role, protocol's name and seeds are kept.

    Raises
    ------
    InputError
        If there is no such recipe.
    """
    if recipe not in RECIPES:
        raise InputError(f"recipe = {recipe!r}: choose one of {', '.join(RECIPES)}")
    if recipe == "published":
        return network, protocol
    network = Network(
        network.role,
        backbone="ArmNet",
        weights="votes",
        crop=72,
        colour="rgb",
        view="polar",
        trainable="frozen",
        dense_units=votes.COMPONENTS,
        activation="linear",
        amplitudes=True,
    )
    return network, replace(protocol, head="votes", feature_views=1, epochs=1)


def unseen(
    sample: pd.DataFrame, network: Network, overlap: str = "refuse"
) -> tuple[pd.DataFrame, dict[str, object]]:
    """The galaxies of a sample whose votes a network has not learnt from before it is trained.

    Parameters
    ----------
    sample : DataFrame
    network : Network
    overlap : {"refuse", "leave out"}

    Returns
    -------
    sample : DataFrame
    facts : dict
        What was checked, for the run's settings; see `lib.weights.unseen`.

    Raises
    ------
    InputError
        If there is an overlap that is to be refused.
    """
    channels = CHANNELS[network.colour]
    return weights.unseen(
        sample, network.weights, network.backbone, channels=channels, overlap=overlap
    )


def require(recipe: str | None, run_folder: str | Path) -> None:
    """Refuse a training run of another recipe; None takes any.

    Raises
    ------
    InputError
        If the recipe is unknown, or the run in the folder was trained by another.
    """
    if recipe is not None and recipe not in RECIPES:
        raise InputError(f"recipe = {recipe!r}: choose one of {', '.join(RECIPES)}, or None")
    found = evaluation.read_run(run_folder).settings.get("recipe", "published")
    if recipe not in (None, found):
        raise InputError(
            f"recipe = {recipe!r}, but {run_folder} was trained by {found!r}: run its notebook "
            f"with recipe = {recipe!r}, or name another `model`"
        )
