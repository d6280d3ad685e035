"""From all galaxies to the training sample: labels, cuts, merges, down-sampling, split.

Sections 2.1, 3.5 and 4.2.2 of Lee, Soo & Sharoni (arXiv:2412.11696). The cuts themselves are in
notebook 01.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

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

MERGE_ORDERS = ("after split", "before split")
"""When classes are merged: the split classes (the paper's Fig. 7), or before all else."""


def select(
    votes: pd.DataFrame, cuts: Sequence[str], dropped: Sequence[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Galaxies that pass the cuts, with their labels.

    The label is the answer of T11 with the largest debiased fraction; of equal ones the first in
    the order of `lib.schema.ARM_CLASSES`, with `tied` True. The order of rows does not matter.

    Parameters
    ----------
    votes : DataFrame
        One row per galaxy in the canonical columns of `lib.schema.votes_contract`.
    cuts : sequence of str
        Conditions in the syntax of `DataFrame.eval` on columns of `votes`, on `rho_max` and on
        `clean`, the GZ2 flag of the label.
    dropped : sequence of str
        Columns that are not cut on: each cut that names one is only listed.

    Returns
    -------
    sample : DataFrame
        Rows of `votes` that pass, sorted by `galaxy_id` (the catalogue's order), with `label`
        (str), `rho_max` (float) and `tied` (bool).
    table : DataFrame
        Columns `cut`, `kept`, `lost`: all galaxies, each cut in order, and galaxies without any
        vote on the number of arms, which cannot have a label.

    Raises
    ------
    InputError
        If a cut cannot be read, needs a column that the survey lacks or a value that is missing
        for a galaxy that passed the cuts before it; if no cut has a dropped column; if no galaxy
        is left.
    """
    sample = _labelled(votes)
    if set(CLEAN_COLUMNS) <= set(votes):
        flags = votes[list(CLEAN_COLUMNS)].to_numpy(dtype=object)
        own = pd.Index(ARM_CLASSES).get_indexer(sample["label"])
        sample["clean"] = pd.array(flags[np.arange(len(votes)), own], dtype="boolean")
    names = {cut: _names(cut) for cut in cuts}
    made = {cut: needs for cut, needs in names.items() if not needs & set(dropped)}
    absent = [f"{cut} needs {', '.join(lack)}" for cut in made if (lack := _lacking(cut, votes))]
    if absent:
        raise InputError(
            f"the survey lacks columns: {'; '.join(absent)}. Choose other criteria, or name the "
            "columns in the parameter dropped."
        )
    if unknown := set(dropped).difference(*names.values()):
        raise InputError(f"dropped: no cut has the column {', '.join(sorted(unknown))}")
    rows = [("all galaxies", len(sample), 0)]
    for cut, needs in names.items():
        before = sample
        if cut in made:
            _refuse_missing(sample, sample[sorted(needs)].isna().any(axis=1), f"the cut {cut}")
            passes = sample.eval(cut)
            if not pd.api.types.is_bool_dtype(passes):
                raise InputError(f"the cut {cut} is no condition: compare it with a number")
            sample = sample[passes.astype(bool)]
        _refuse_empty(sample, cut, len(before))
        text = cut if cut in made else f"{cut} (dropped)"
        rows.append((text, len(sample), len(before) - len(sample)))
    _refuse_missing(sample, sample["rho_max"].isna(), "the label")
    voted = sample[sample["rho_max"] > 0].sort_values("galaxy_id", ignore_index=True)
    _refuse_empty(voted, "any vote on the number of arms", len(sample))
    rows.append(("any vote on the number of arms", len(voted), len(sample) - len(voted)))
    table = pd.DataFrame(rows, columns=["cut", "kept", "lost"])
    return voted.drop(columns="clean", errors="ignore"), table


def _lacking(cut: str, votes: pd.DataFrame) -> list[str]:
    """Columns that a cut needs and the table of votes lacks."""
    flags = CLEAN_COLUMNS if "clean" in (names := _names(cut)) else ()
    return sorted({*names - {"clean", "rho_max"}, *flags} - set(votes))


def _names(cut: str) -> set[str]:
    """Columns that a condition names."""
    try:
        tree = ast.parse(cut, mode="eval")
    except SyntaxError as error:
        raise InputError(f"the cut {cut!r} is no condition that pandas can read") from error
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


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


def _refuse_missing(sample: pd.DataFrame, missing: pd.Series, what: str) -> None:
    if missing.any():
        raise InputError(
            f"{what} needs a value that is missing for {missing.sum()} galaxies which passed the "
            f"cuts before it (first: galaxy {sample.loc[missing, 'galaxy_id'].iloc[0]}). Cut on "
            "the questions that lead to it (a fraction is undefined where nobody was asked), or "
            "complete the table."
        )


def _refuse_empty(sample: pd.DataFrame, cut: str, before: int) -> None:
    if sample.empty:
        remedy = (
            "Get the images, or name has_image in dropped to count galaxies only."
            if cut == "has_image"
            else "Loosen the thresholds."
        )
        raise InputError(f"no galaxy passes {cut} ({before} did before it). {remedy}")


def class_counts(labels: pd.Series, merge: str = "none") -> pd.Series:
    """Number of galaxies per arm class (of `merge`) in the order of the classes, with zeros."""
    counts = merge_labels(labels, merge).value_counts()
    return counts.reindex(list(merged_classes(merge)), fill_value=0).rename("galaxies")


def merge_labels(labels: pd.Series, merge: str) -> pd.Series:
    """Arm classes after a merge of `lib.schema.MERGES`; InputError if it is unknown."""
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
    sample, merge : DataFrame, str
        `galaxy_id` and `label` of `select`; a key of `lib.schema.MERGES`.
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
    fold, folds : int
        Which of so many folds to test on, from 0; `folds` and more are those of a repeat.
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
    if unknown := set(classes) - set(merged_classes(merge)):
        raise InputError(
            f"unknown classes {sorted(unknown)}: merge {merge!r} has {list(merged_classes(merge))}"
        )
    for name, value, allowed in (
        ("merge_order", merge_order, MERGE_ORDERS),
        ("sampling", sampling, ("down-sampled", "all")),
        ("choose", choose, ("first", "random")),
    ):
        if value not in allowed:
            raise InputError(f"unknown {name} {value!r}: choose {' or '.join(allowed)}")
    if folds < 2:
        raise InputError(f"folds is {folds}; it must be 2 or more")
    if fold is not None and (type(fold) is not int or fold < 0):
        raise InputError(f"fold is {fold!r}; it must be a whole number from 0, or None")
    if max_per_class < 2:
        raise InputError(f"max_per_class is {max_per_class}; it must be at least 2")
    if not 0 < validation_fraction < 1:
        raise InputError(
            f"validation_fraction is {validation_fraction}; it must lie between 0 and 1"
        )
    classes = tuple(classes) or merged_classes(merge)
    result = sample[["galaxy_id", "label"]].assign(split="rest")
    result = result[merge_labels(result["label"], merge).isin(classes)]
    result = result.sort_values("galaxy_id", ignore_index=True)
    parts = tuple(c for c in ARM_CLASSES if MERGES[merge].get(c, c) in classes)
    if merge_order == "before split":
        result["label"], parts = merge_labels(result["label"], merge), classes
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


def _fold(labels: pd.Series, fold: int, folds: int, seed: int, allow_empty: bool) -> np.ndarray:
    """Positions of a fold's galaxies, from those of `lib.evaluation.repeated_folds`."""
    members = np.arange(len(labels))
    if allow_empty:  # a class too small for the folds is trained on, and never tested
        members = np.flatnonzero(labels.map(labels.value_counts()) >= folds)
    pairs = repeated_folds(labels.iloc[members], folds, fold // folds + 1, seed)
    return members[pairs[fold][1]]


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


def compare_choices(sample: pd.DataFrame, limit: int, seed: int = 42) -> pd.DataFrame:
    """What it means to keep the first galaxies of each class where random ones were meant.

    Classes of `sample` (from `select`) with more than `limit` galaxies: ``galaxies``, ``overlap``
    (those among the first and in the random choice), ``expected`` (their mean number by chance),
    and for each of `ra` and `redshift` with at least one value on each side ``ks_<column>`` and
    ``p_<column>``: the Kolmogorov-Smirnov test of the first against the rest.
    """
    options = dict(max_per_class=limit, seed=seed, allow_empty=True)
    table = sample.sort_values("galaxy_id", ignore_index=True)
    for choose in ("first", "random"):
        table[choose] = assign(table, choose=choose, **options)["split"] != "rest"
    rows = {}
    for label, members in table.groupby("label"):
        n, both = len(members), members["first"] & members["random"]
        if n <= limit:
            continue
        row = {"galaxies": n, "overlap": both.sum(), "expected": limit**2 / n}
        for column in [c for c in ("ra", "redshift") if c in members]:
            sides = [side[column].dropna() for _, side in members.groupby("first")]
            if all(map(len, sides)):
                row[f"ks_{column}"], row[f"p_{column}"] = scipy.stats.ks_2samp(*sides[::-1])
        rows[label] = row
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.reindex([c for c in ARM_CLASSES if c in rows]).rename_axis("m")
