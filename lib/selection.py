"""From all galaxies to the training sample: cuts, labels, merges, down-sampling, split.

Sections 2.1, 3.5 and 4.2.2 of Lee, Soo & Sharoni (arXiv:2412.11696). The paper prints one set of
criteria (`paper-text`) and its authors ran another (`authors-code`); both are here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy

from lib.evaluation import repeated_folds
from lib.schema import (
    ARM_CLASSES,
    CLEAN_COLUMNS,
    MERGES,
    RHO_COLUMNS,
    InputError,
    merged_classes,
)

QUANTITIES = {
    "f_features": "features or disc (weighted fraction)",
    "f_not_edge_on": "not edge-on (weighted fraction)",
    "f_spiral": "spiral (weighted fraction)",
    "n_spiral": "votes for spiral",
    "total_votes": "votes of the galaxy",
    "votes_features": "expected votes: votes x f(features)",
    "votes_not_edge_on": "expected votes: votes x f(features) x f(not edge-on)",
    "rho_max": "largest debiased fraction of T11",
    "clean": "clean flag of the label",
    "has_image": "image file is there",
}
"""What can be cut on, in the order in which the cuts are made, and in words."""

FLAGS = ("clean", "has_image")
"""Quantities that are yes (1) or no (0)."""

NEEDS = {
    "votes_features": ("total_votes", "f_features"),
    "votes_not_edge_on": ("total_votes", "f_features", "f_not_edge_on"),
    "rho_max": RHO_COLUMNS,
    "clean": (*RHO_COLUMNS, *CLEAN_COLUMNS),
}
"""Columns that a quantity is computed from, where these are not the column of its own name."""


MERGE_ORDERS = ("after split", "before split")
"""When classes are merged: the split classes (the paper's Fig. 7), or before all else."""


@dataclass(frozen=True)
class Cut:
    """One condition on a galaxy: `quantity` (of `QUANTITIES`) > or >= `threshold`.

    A `threshold` of None is a cut that was dropped explicitly; it is kept for the record.
    """

    quantity: str
    threshold: float | None
    inclusive: bool = False

    def __str__(self) -> str:
        """The condition as text, e.g. ``f_spiral > 0.715``."""
        if self.threshold is None:
            return f"{self.quantity} (dropped)"
        if self.quantity in FLAGS:
            return self.quantity
        return f"{self.quantity} {'>=' if self.inclusive else '>'} {self.threshold:g}"


@dataclass(frozen=True)
class Criteria:
    """A named set of cuts, in the order in which they are made."""

    name: str
    cuts: tuple[Cut, ...]


_IMAGE = Cut("has_image", 1, inclusive=True)

CRITERIA = {
    "paper-text": Criteria(
        "paper-text",
        (
            Cut("f_features", 0.430),
            Cut("f_not_edge_on", 0.715),
            Cut("f_spiral", 0.715),
            Cut("n_spiral", 20),
            Cut("rho_max", 0.8),
            _IMAGE,
        ),
    ),
    "authors-code": Criteria(
        "authors-code",
        (
            Cut("f_features", 0.430, inclusive=True),
            Cut("f_not_edge_on", 0.715, inclusive=True),
            Cut("f_spiral", 0.619, inclusive=True),
            Cut("total_votes", 20, inclusive=True),
            Cut("votes_features", 20, inclusive=True),
            Cut("votes_not_edge_on", 20, inclusive=True),
            Cut("clean", 1, inclusive=True),
            _IMAGE,
        ),
    ),
    "free": Criteria("free", (_IMAGE,)),
}
"""`paper-text`: Sec. 2.1 as printed. `authors-code`: as the authors' public notebook ran it, with
the spiral threshold of Willett et al. (2013, Table 3). `free`: only the thresholds one gives."""


def make_criteria(name: str, thresholds: Mapping[str, float | None] | None = None) -> Criteria:
    """Named criteria, with some thresholds replaced, added or dropped.

    Parameters
    ----------
    name : str
        A key of `CRITERIA`.
    thresholds : mapping, optional
        Quantity (of `QUANTITIES`) -> threshold; None drops the cut. A quantity that the named
        criteria do not cut on is added, as ``>``; `has_image` and `clean` are yes (1) or no.

    Returns
    -------
    Criteria
        With the changes in its name.

    Raises
    ------
    InputError
        If the name, a quantity or a threshold is not valid.

    Examples
    --------
    >>> [str(cut) for cut in make_criteria("free", {"f_spiral": 0.5}).cuts]
    ['f_spiral > 0.5', 'has_image']
    """
    if name not in CRITERIA:
        raise InputError(f"unknown criteria {name!r}: choose one of {', '.join(CRITERIA)}")
    cuts = {cut.quantity: cut for cut in CRITERIA[name].cuts}
    for quantity, threshold in (thresholds or {}).items():
        if quantity not in QUANTITIES:
            raise InputError(
                f"thresholds: unknown quantity {quantity!r}; choose from {', '.join(QUANTITIES)}"
            )
        if threshold is not None and (
            isinstance(threshold, bool) or not isinstance(threshold, int | float)
        ):
            raise InputError(
                f"thresholds: {quantity} is {threshold!r}; give a number, or null to drop the cut"
            )
        if quantity in FLAGS and threshold not in (None, 1):
            raise InputError(f"thresholds: {quantity} is {threshold!r}; give 1, or null to drop it")
        base = cuts.get(quantity, Cut(quantity, None, inclusive=quantity in FLAGS))
        cuts[quantity] = replace(base, threshold=threshold)
    changed = ", ".join(str(cuts[quantity]) for quantity in thresholds or {})
    return Criteria(
        f"{name} with {changed}" if changed else name,
        tuple(cuts[quantity] for quantity in QUANTITIES if quantity in cuts),
    )


def select(votes: pd.DataFrame, criteria: Criteria) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Galaxies that pass the cuts, with their labels.

    The label is the answer of T11 with the largest debiased fraction. Where several answers share
    the largest, the first in the order of `lib.schema.ARM_CLASSES` is taken and `tied` is True.

    Parameters
    ----------
    votes : DataFrame
        One row per galaxy in the canonical columns of `lib.schema.votes_contract`.
    criteria : Criteria
        From `make_criteria`.

    Returns
    -------
    sample : DataFrame
        Rows of `votes` that pass, sorted by `galaxy_id` (the catalogue's order), with `label`
        (str), `rho_max` (float) and `tied` (bool).
    cuts : DataFrame
        Columns `cut`, `kept`, `lost`: one row for all galaxies, one per cut in order (a dropped
        cut keeps all), and one for galaxies without any vote on the number of arms, which cannot
        have a label.

    Raises
    ------
    InputError
        If a cut needs a column that the survey does not have, or a value that is missing for a
        galaxy that passed the cuts before it; if no galaxy is left.
    """
    sample, cuts = _apply(votes, criteria)
    if sample.empty:
        last = cuts["kept"].eq(0).idxmax()
        remedy = (
            "Get the images, or drop the cut with a threshold of null to count galaxies only."
            if "has_image" in cuts["cut"][last]
            else "Loosen the thresholds."
        )
        raise InputError(
            f"criteria {criteria.name}: no galaxy passes {cuts['cut'][last]} "
            f"({cuts['lost'][last]} did before it). {remedy}"
        )
    return sample, cuts


def compare_criteria(votes: pd.DataFrame) -> pd.DataFrame:
    """Class counts of both published criteria on the same galaxies, with or without images.

    Parameters
    ----------
    votes : DataFrame
        As for `select`.

    Returns
    -------
    DataFrame
        One row per arm class and one for `all`; columns `paper-text` and `authors-code`, missing
        (NA) where the survey lacks a column that the criteria need.
    """
    columns = {}
    for name in ("paper-text", "authors-code"):
        criteria = make_criteria(name, {"has_image": None})
        if absent_columns(votes, criteria):
            columns[name] = pd.Series(pd.NA, index=[*ARM_CLASSES, "all"])
            continue
        counts = class_counts(_apply(votes, criteria)[0]["label"])
        columns[name] = pd.concat([counts, pd.Series({"all": counts.sum()})])
    return pd.DataFrame(columns).astype("Int64").rename_axis("m")


def compare_choices(sample: pd.DataFrame, limit: int, seed: int = 42) -> pd.DataFrame:
    """What it means to keep the first galaxies of each class where random ones were meant.

    Parameters
    ----------
    sample : DataFrame
        From `select`: `galaxy_id`, `label` and, as far as there are, `ra` and `redshift`.
    limit : int
        Most galaxies of one class.
    seed : int
        Of the random choice, which is that of `assign`.

    Returns
    -------
    DataFrame
        Classes with more than `limit` galaxies: ``galaxies``, ``overlap`` (galaxies that are among
        the first and in the random choice), ``expected`` (their mean number by chance), and for
        each of `ra` and `redshift` with at least one value on each side ``ks_<column>`` and
        ``p_<column>``: the Kolmogorov-Smirnov test of the first against the rest.
    """
    chosen = {
        choose: assign(
            sample, max_per_class=limit, choose=choose, seed=seed, allow_empty=True
        ).set_index("galaxy_id")
        for choose in ("first", "random")
    }
    rows = {}
    for label, members in sample.groupby("label"):
        if len(members) <= limit:
            continue
        first, drawn = (
            (chosen[choose].loc[members["galaxy_id"], "split"] != "rest").to_numpy()
            for choose in ("first", "random")
        )
        row = {
            "galaxies": len(members),
            "overlap": (first & drawn).sum(),
            "expected": limit**2 / len(members),
        }
        for column in ("ra", "redshift"):
            values = members[column] if column in members else pd.Series(np.nan, members.index)
            sides = values[first].dropna(), values[~first].dropna()
            if all(map(len, sides)):
                row[f"ks_{column}"], row[f"p_{column}"] = scipy.stats.ks_2samp(*sides)
        rows[label] = row
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.reindex([c for c in ARM_CLASSES if c in rows]).rename_axis("m")


def absent_columns(votes: pd.DataFrame, criteria: Criteria) -> dict[str, list[str]]:
    """Cuts that the survey does not allow, as text, and the columns that it lacks for them."""
    absent = {
        str(cut): [c for c in NEEDS.get(cut.quantity, (cut.quantity,)) if c not in votes]
        for cut in criteria.cuts
        if cut.threshold is not None
    }
    return {cut: columns for cut, columns in absent.items() if columns}


def class_counts(labels: pd.Series, merge: str = "none") -> pd.Series:
    """Number of galaxies per arm class, in the order of the classes, empty ones included.

    Parameters
    ----------
    labels : Series of str
        Arm classes, merged or not.
    merge : str
        A key of `lib.schema.MERGES`.
    """
    counts = merge_labels(labels, merge).value_counts()
    return counts.reindex(list(merged_classes(merge)), fill_value=0).rename("galaxies")


def merge_labels(labels: pd.Series, merge: str) -> pd.Series:
    """Arm classes after a merge of `lib.schema.MERGES`.

    Raises
    ------
    InputError
        If the merge is unknown.
    """
    merged_classes(merge)
    return labels.replace(MERGES[merge])


def assign(
    sample: pd.DataFrame,
    *,
    merge: str = "none",
    merge_order: str = "after split",
    classes: Sequence[str] = (),
    sampling: str = "down-sampled",
    max_per_class: int = 300,
    choose: str = "first",
    validation_fraction: float = 0.3,
    fold: int | None = None,
    folds: int = 5,
    seed: int = 42,
    allow_empty: bool = False,
) -> pd.DataFrame:
    """Divide the sample into training, validation and rest, class by class.

    Each class is split by scikit-learn's ``train_test_split(test_size=validation_fraction,
    random_state=seed)`` on its own, in catalogue order: validation gets the ceiling of its share.

    With `fold`, a stratified fold of the whole sample is set aside first, for testing, and only the
    rest is down-sampled and split. Whatever is done to balance the classes, the test galaxies of a
    fold are then the same, and those of all folds of a repeat are the whole sample.

    Parameters
    ----------
    sample : DataFrame
        From `select`: columns `galaxy_id` and `label`.
    merge : str
        A key of `lib.schema.MERGES`.
    merge_order : {"after split", "before split"}
        Whether classes are down-sampled and split each on its own, and merged then, or merged
        before anything else. Of 28 + 31 galaxies with m = 4 and 5+, 9 + 10 are validated with, or
        18. The 37 % of the paper's Fig. 7 is 7 of 19; no share of 18 rounds to it.
    classes : sequence of str
        Merged classes to keep; all of them by default.
    sampling : {"down-sampled", "all"}
        Whether at most `max_per_class` galaxies of each class are used.
    max_per_class : int
        The paper's Sec. 4.2.2 has 300.
    choose : {"first", "random"}
        Which of them: the first in catalogue order (as the authors ran it), or a random draw
        with `seed` (as the paper says).
    validation_fraction : float
        Share of each class, between 0 and 1.
    fold : int, optional
        Which fold to test on, from 0; `folds` and more are those of a repeat with other folds.
    folds : int
        Folds of the sample.
    seed : int
        Of the draw, of the split and of the folds.
    allow_empty : bool
        Accept classes with no galaxy; the only galaxy of a class then goes to training.

    Returns
    -------
    DataFrame
        `galaxy_id`, `label` (merged) and `split` ("train", "validation", "test" for the galaxies
        of the fold, or "rest" for those left out by down-sampling) for every galaxy of the classes,
        sorted by `galaxy_id`.

    Raises
    ------
    InputError
        If a parameter is not valid, or a class has too few galaxies to be split.
    """
    check_sampling(
        *(merge, sampling, max_per_class, choose, validation_fraction),
        **{"merge_order": merge_order, "classes": classes, "fold": fold, "folds": folds},
    )
    classes = tuple(classes) or merged_classes(merge)
    result = sample[["galaxy_id", "label"]].assign(split="rest")
    result = result[merge_labels(result["label"], merge).isin(classes)]
    result = result.sort_values("galaxy_id", ignore_index=True)
    if merge_order == "before split":
        result["label"] = merge_labels(result["label"], merge)
    parts = classes if merge_order == "before split" else _sources(classes, merge)
    if not allow_empty:
        _refuse_small_classes(result["label"], classes, merge)
    if fold is not None:
        result.loc[_fold(result["label"], fold, folds, seed, allow_empty), "split"] = "test"
    from sklearn.model_selection import train_test_split  # slow to import, and only needed here

    for number, arm_class in enumerate(parts):
        rows = np.flatnonzero((result["label"] == arm_class) & (result["split"] != "test"))
        if sampling == "down-sampled" and len(rows) > max_per_class:
            if choose == "random":
                draw = np.random.default_rng([seed, number])
                rows = np.sort(draw.choice(rows, max_per_class, replace=False))
            rows = rows[:max_per_class]
        if len(rows) > 1:
            rows, validation = train_test_split(
                rows, test_size=validation_fraction, random_state=seed
            )
            result.loc[validation, "split"] = "validation"
        result.loc[rows, "split"] = "train"
    return result.assign(label=merge_labels(result["label"], merge))


def _sources(classes: Sequence[str], merge: str) -> tuple[str, ...]:
    """Arm classes that a merge makes some classes of, in order."""
    return tuple(c for c in ARM_CLASSES if MERGES[merge].get(c, c) in classes)


def _fold(labels: pd.Series, fold: int, folds: int, seed: int, allow_empty: bool) -> np.ndarray:
    """Positions of a fold's galaxies, from those of `lib.evaluation.repeated_folds`."""
    members = np.arange(len(labels))
    if allow_empty:  # a class too small for the folds is trained on, and never tested
        members = np.flatnonzero(labels.map(labels.value_counts()) >= folds)
    pairs = repeated_folds(labels.iloc[members], folds, fold // folds + 1, seed)
    return members[pairs[fold][1]]


def check_sampling(
    merge: str,
    sampling: str,
    max_per_class: int,
    choose: str,
    validation_fraction: float,
    *,
    merge_order: str = "after split",
    classes: Sequence[str] = (),
    fold: int | None = None,
    folds: int = 5,
) -> None:
    """Raise InputError unless `assign` can work with these parameters."""
    if unknown := set(classes) - set(merged_classes(merge)):
        raise InputError(
            f"unknown classes {sorted(unknown)}: merge {merge!r} has {list(merged_classes(merge))}"
        )
    if merge_order not in MERGE_ORDERS:
        raise InputError(f"unknown merge_order {merge_order!r}: choose {' or '.join(MERGE_ORDERS)}")
    if folds < 2:
        raise InputError(f"folds is {folds}; it must be 2 or more")
    if fold is not None and (type(fold) is not int or fold < 0):
        raise InputError(f"fold is {fold!r}; it must be a whole number from 0, or None")
    if sampling not in ("down-sampled", "all"):
        raise InputError(f"unknown sampling {sampling!r}: choose down-sampled or all")
    if choose not in ("first", "random"):
        raise InputError(f"unknown choose {choose!r}: choose first or random")
    if max_per_class < 2:
        raise InputError(f"max_per_class is {max_per_class}; it must be at least 2")
    if not 0 < validation_fraction < 1:
        raise InputError(
            f"validation_fraction is {validation_fraction}; it must lie between 0 and 1"
        )


def _apply(votes: pd.DataFrame, criteria: Criteria) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`select`, also where no galaxy is left."""
    absent = absent_columns(votes, criteria)
    if absent:
        needs = "; ".join(f"{cut} needs {', '.join(columns)}" for cut, columns in absent.items())
        raise InputError(
            f"criteria {criteria.name} cannot be applied, the survey lacks columns: {needs}. "
            "Choose other criteria, or drop these cuts explicitly with a threshold of null."
        )
    sample = _labelled(votes)
    rows = [("all galaxies", len(sample), 0)]
    for cut in criteria.cuts:
        before = len(sample)
        if cut.threshold is not None:
            sample = sample[_passes(sample, cut)]
        rows.append((str(cut), len(sample), before - len(sample)))
    _refuse_missing(sample, sample["rho_max"].isna(), "the label")
    voted = sample["rho_max"] > 0
    rows.append(("any vote on the number of arms", voted.sum(), (~voted).sum()))
    sample = sample[voted].sort_values("galaxy_id", ignore_index=True)
    return sample, pd.DataFrame(rows, columns=["cut", "kept", "lost"])


def _labelled(votes: pd.DataFrame) -> pd.DataFrame:
    """Votes with `label`, `rho_max` and `tied`; rho_max is NaN where a fraction is missing."""
    rho = votes[list(RHO_COLUMNS)].to_numpy(float)
    largest = rho.max(axis=1)
    first = np.where(np.isnan(rho), -1, rho).argmax(axis=1)
    return votes.assign(
        label=np.array(ARM_CLASSES, dtype=object)[first].astype("str"),
        rho_max=largest,
        tied=(rho == largest[:, None]).sum(axis=1) > 1,
    )


def _passes(sample: pd.DataFrame, cut: Cut) -> pd.Series:
    values = _values(sample, cut.quantity)
    _refuse_missing(sample, values.isna(), f"the cut {cut}")
    return values >= cut.threshold if cut.inclusive else values > cut.threshold


def _values(sample: pd.DataFrame, quantity: str) -> pd.Series:
    """Values of a quantity of `QUANTITIES`, as float64 with NaN where missing."""
    if quantity == "votes_features":
        return sample["total_votes"] * sample["f_features"]
    if quantity == "votes_not_edge_on":
        return sample["total_votes"] * sample["f_features"] * sample["f_not_edge_on"]
    if quantity == "clean":
        flags = sample[list(CLEAN_COLUMNS)].to_numpy(dtype=float, na_value=np.nan)
        answer = pd.Index(ARM_CLASSES).get_indexer(sample["label"])
        return pd.Series(flags[np.arange(len(sample)), answer], index=sample.index)
    return sample[quantity].astype(float)


def _refuse_missing(sample: pd.DataFrame, missing: pd.Series, what: str) -> None:
    if missing.any():
        raise InputError(
            f"{what} needs a value that is missing for {missing.sum()} galaxies which passed the "
            f"cuts before it (first: galaxy {sample.loc[missing, 'galaxy_id'].iloc[0]}). Cut on "
            "the questions that lead to it (a fraction is undefined where nobody was asked), or "
            "complete the table."
        )


def _refuse_small_classes(labels: pd.Series, classes: tuple[str, ...], merge: str) -> None:
    # Each class is split on its own, so that a merged one needs two galaxies of one of its parts.
    largest = labels.value_counts().groupby(lambda c: MERGES[merge].get(c, c)).max()
    counts = largest.reindex(list(classes), fill_value=0)
    small = counts[counts < 2]
    if len(small):
        raise InputError(
            "too few galaxies to train and validate on: "
            + ", ".join(f"class {arm_class} has {n}" for arm_class, n in small.items())
            + f" (merge {merge!r}, each part of a class on its own where it is merged after the "
            "split). Loosen the thresholds, merge classes, before the split, or set allow_empty."
        )
