"""Which galaxies Figs. 9 and 10 show."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lib.evaluation import predicted_probability
from lib.schema import InputError


def top_scoring(
    predictions: pd.DataFrame,
    classes: tuple[str, ...],
    *,
    correct: bool,
    count: int = 2,
    split: str = "validation",
) -> pd.DataFrame:
    """Galaxies per class that a model is surest about, right or wrong (Figs. 9 and 10).

    Parameters
    ----------
    predictions : DataFrame
        Columns galaxy_id, label, split, predicted, and one ``p_...`` per class.
    classes : tuple of str
        Classes in the order of the model's output.
    correct : bool
        True for correctly classified galaxies (Fig. 9), False for misclassified ones (Fig. 10).
    count : int
        Galaxies per class.
    split : str
        Part of the sample to choose from.

    Returns
    -------
    DataFrame
        `count` rows per class: label, rank (0-based), galaxy_id, predicted, probability (of the
        predicted class), and reason, which says why a cell is empty and is "" otherwise. Empty
        cells have a missing galaxy_id.

    Raises
    ------
    InputError
        If no galaxy belongs to `split`.
    """
    part = predictions[predictions["split"] == split]
    if part.empty:
        splits = ", ".join(sorted(predictions["split"].unique()))
        raise InputError(f"predictions hold no galaxy of split {split!r}; there are: {splits}")
    part = part.assign(probability=predicted_probability(part))
    kind = "classified correctly" if correct else "misclassified"
    cells, ids = [], []
    for label in classes:
        own = part[part["label"] == label]
        fit = own[(own["predicted"] == label) == correct]
        fit = fit.sort_values(["probability", "galaxy_id"], ascending=[False, True]).head(count)
        empty = count - len(fit)
        reason = f"{len(fit)} of {len(own)} {split} galaxies {kind}"
        ids += [*fit["galaxy_id"], *[None] * empty]
        cells.append(
            pd.DataFrame(
                {
                    "label": label,
                    "rank": range(count),
                    "predicted": [*fit["predicted"], *[None] * empty],
                    "probability": [*fit["probability"], *[np.nan] * empty],
                    "reason": [""] * len(fit) + [reason] * empty,
                }
            )
        )
    table = pd.concat(cells, ignore_index=True)
    # As an integer array that may hold gaps: floats would not keep 18 digits apart.
    table.insert(2, "galaxy_id", pd.array(ids, dtype=_nullable(predictions["galaxy_id"])))
    return table


def _nullable(ids: pd.Series) -> str:
    """Column type that keeps 18-digit identifiers exact beside missing values."""
    return "Int64" if pd.api.types.is_integer_dtype(ids) else "str"


def spread(
    predictions: pd.DataFrame, classes: tuple[str, ...], *, per_class: int, seed: int, split: str
) -> pd.DataFrame:
    """Up to `per_class` galaxies of each label, drawn at random: the scoreboard's galaxies.

    Parameters
    ----------
    predictions : DataFrame
        Columns galaxy_id, label and split.
    classes : tuple of str
    per_class, seed : int
    split : str
        Part of the sample to draw from.

    Returns
    -------
    DataFrame
        Chosen rows of `predictions`, sorted by class and galaxy_id.

    Raises
    ------
    InputError
        If no galaxy belongs to `split`.
    """
    part = predictions[predictions["split"] == split]
    if part.empty:
        raise InputError(f"predictions hold no galaxy of split {split!r}")
    rng = np.random.default_rng(seed)
    chosen = []
    for label in classes:
        own = part[part["label"] == label].sort_values("galaxy_id")
        chosen.append(own.iloc[rng.permutation(len(own))[:per_class]].sort_values("galaxy_id"))
    return pd.concat(chosen, ignore_index=True)


def by_id(predictions: pd.DataFrame, galaxy_ids: list) -> pd.DataFrame:
    """Rows of `predictions` for chosen galaxies, in the order asked for, and `probability`, that
    of the class predicted.

    Raises
    ------
    InputError
        Names the galaxies that are not in the table.
    """
    kind = predictions["galaxy_id"].dtype
    try:
        wanted = pd.Index(galaxy_ids).astype(kind)
    except (TypeError, ValueError) as error:
        raise InputError(f"galaxy_ids {galaxy_ids}: must be of type {kind}") from error
    table = predictions.set_index("galaxy_id")
    unknown = wanted.difference(table.index)
    if len(unknown):
        raise InputError(
            f"galaxy_ids {', '.join(map(str, unknown))}: not among the {len(table)} galaxies that "
            "the model has predictions for (sample.parquet of notebook 01 lists them)"
        )
    rows = table.loc[wanted].rename_axis("galaxy_id").reset_index()
    return rows.assign(probability=predicted_probability(rows))
