"""Arm classes of the same galaxies from every source that a run and its data folder hold."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from lib import evaluation
from lib.paths import resolve
from lib.schema import ARM_CLASSES, MERGES, InputError, merged_classes
from lib.surveys.gz2 import ARM_ANSWERS, COUNT_COLUMNS
from lib.surveys.tables import read_columns

CLASSES = merged_classes("4+5+")
"""Arm classes of Sec. 6: m = 4 and 5+ are one."""

MANY = ("3", "4", "5+", "4+5+")
"""Classes with three arms or more."""

LABEL = "volunteers' label"
AGAIN = ", again"
"""End of the name of a source that repeats another one."""

NUMBER = {"0": 0, "1": 1, "2": 2, "3": 3, "4": 4, "4+5+": 4, "5+": 5}
"""Arms of a class; "?" has none."""

_VOTES_FILE = "gz2_rows_288.csv"
_NAMES_FILE = "gz2_class_13931.csv"
_DRAWN_FILE = "galaxy_builder_arms_296.csv"


def merge_labels(labels: pd.Series) -> pd.Series:
    """Arm classes with m = 4 and 5+ merged; InputError for one of another merge."""
    merged = labels.astype(str).replace(MERGES["4+5+"])
    unknown = sorted(set(merged) - {*CLASSES, "0"})
    if unknown:
        raise InputError(
            f"arm classes {', '.join(unknown)} cannot be compared: Sec. 6 needs predictions of "
            "the merge none or 4+5+; train with one of these"
        )
    return merged


def predictions(run_dir: str | Path, galaxies: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Role ("B0", "V2M") -> rows of `galaxies` with ``split``, ``predicted`` and probabilities.

    Of the networks that the run has trained; empty without any.
    """
    folders = [resolve(run_dir) / step for step in ("03_train_b0", "04_train_v2m")]
    tables = {}
    for run in (evaluation.read_run(f) for f in folders if (f / "predictions.parquet").is_file()):
        columns = [c for c in run.predictions if c.startswith("p_")]
        found = run.predictions[["galaxy_id", "split", "predicted", *columns]]
        tables[run.settings["role"]] = galaxies.merge(found, on="galaxy_id", validate="one_to_one")
    return tables


def collect(
    galaxies: pd.DataFrame, run_dir: str | Path, data_dir: str | Path, seed: int
) -> pd.DataFrame:
    """One table of all classifications of the galaxies, by label, people, network and truth.

    Parameters
    ----------
    galaxies : DataFrame
        As `lib.stellar_mass.catalogue.galaxies_with_masses` gives them.
    run_dir, data_dir : path
        Searched for predictions, for ``truth.parquet`` of a simulated survey and for the tables
        `_VOTES_FILE`, `_NAMES_FILE` and `_DRAWN_FILE`.
    seed : int
        Of the votes that are drawn again.

    Returns
    -------
    DataFrame
        ``galaxy_id``, ``source``, ``arm_class``, ``merged`` (see `merge_labels`), ``number``
        (float; arms, the mean of votes, NaN for "?") and ``learnt``, whether a network was trained
        on the galaxy. Sources whose name ends with `AGAIN` are the same people asked twice: votes
        drawn from the fractions of all votes, or arms drawn in a second round. Class "0" stands
        for no drawn arm.

    Raises
    ------
    InputError
        If a source classifies a galaxy twice.
    """
    folder = resolve(data_dir)
    parts = {LABEL: galaxies[["galaxy_id"]].assign(arm_class=galaxies["label"])}
    for role, table in predictions(run_dir, galaxies).items():
        parts[role] = table[["galaxy_id"]].assign(
            arm_class=table["predicted"], learnt=table["split"] == "train"
        )
    truth = folder / "truth.parquet"
    if truth.is_file():
        parts["truth"] = pd.read_parquet(truth)[["galaxy_id", "arm_class"]]
    counts = _counts_in(folder, galaxies)
    parts["votes"] = classes_of(counts)
    parts["votes" + AGAIN] = classes_of(vote_again(counts, seed))
    if (folder / _NAMES_FILE).is_file():
        names = _read(folder / _NAMES_FILE, "objid", texts={"arm_class": "arm"})
        parts["GZ2 name"] = names.replace({"arm_class": {"+": "5+"}})
    if (folder / _DRAWN_FILE).is_file():
        parts |= _drawn(folder / _DRAWN_FILE)
    table = pd.concat(
        [part.assign(source=source) for source, part in parts.items()], ignore_index=True
    )
    table = table[table["galaxy_id"].isin(galaxies["galaxy_id"])].dropna(subset="arm_class")
    table = table[table["arm_class"].isin(NUMBER) | (table["arm_class"] == "?")]
    repeats = table[table.duplicated(["source", "galaxy_id"])]
    if len(repeats):
        first = repeats.iloc[0]
        raise InputError(
            f"{folder}: {first['source']} classifies galaxy {first['galaxy_id']} twice. Keep one "
            "row of it."
        )
    learnt = table["learnt"].eq(True) if "learnt" in table else False
    table = table.assign(
        merged=merge_labels(table["arm_class"]),
        number=table["number"].astype(float).fillna(table["arm_class"].map(NUMBER)),
        learnt=learnt,
    )
    order = ["galaxy_id", "source", "arm_class", "merged", "number", "learnt"]
    return table[order].reset_index(drop=True)


def _read(path: Path, identifier: str, **columns) -> pd.DataFrame:
    table = read_columns(path, ids={"galaxy_id": identifier}, **columns)
    return table.astype({"galaxy_id": "int64"})


def _counts_in(folder: Path, galaxies: pd.DataFrame) -> pd.DataFrame:
    """Votes for each answer of T11: of the sample, or else of the table of votes."""
    if set(COUNT_COLUMNS) <= set(galaxies):
        table = galaxies[["galaxy_id", *COUNT_COLUMNS]]
    elif (folder / _VOTES_FILE).is_file():
        names = [f"t11_arms_number_{answer}_count" for answer in ARM_ANSWERS.values()]
        numbers = dict(zip(COUNT_COLUMNS, names, strict=True))
        table = _read(folder / _VOTES_FILE, "index", numbers=numbers)
    else:
        table = pd.DataFrame(columns=["galaxy_id", *COUNT_COLUMNS], dtype="int64")
    # A galaxy that was published twice has the same votes twice.
    table = table.drop_duplicates("galaxy_id").set_index("galaxy_id").astype(float)
    return table[table.sum(axis=1) > 0]


def classes_of(counts: pd.DataFrame) -> pd.DataFrame:
    """Class with the most votes and mean number of arms ("5+" as 5, without "can't tell").

    `counts` has the index ``galaxy_id`` and the columns `lib.surveys.gz2.COUNT_COLUMNS`.
    """
    votes = counts.to_numpy(float)
    told = votes[:, :5].sum(axis=1)
    total = votes[:, :5] @ np.arange(1, 6)
    number = np.divide(total, told, out=np.full(len(votes), np.nan), where=told > 0)
    most = np.array(ARM_CLASSES)[votes.argmax(axis=1)]
    return pd.DataFrame({"galaxy_id": counts.index, "arm_class": most, "number": number})


def vote_again(counts: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Votes of as many other volunteers, drawn with the fractions of the first (multinomial)."""
    votes = counts.to_numpy(float)
    shares = votes / votes.sum(axis=1, keepdims=True)
    drawn = np.random.default_rng(seed).multinomial(votes.sum(axis=1).astype(int), shares)
    return pd.DataFrame(drawn, index=counts.index, columns=counts.columns)


def _drawn(path: Path) -> dict[str, pd.DataFrame]:
    """Arms that people drew in Galaxy Builder: all galaxies, and the repeats of some."""
    numbers = {"number": "n_spirals"}
    table = _read(path, "dr7objid", numbers=numbers, texts={"repeat": "is_validation"})
    table = table.dropna(subset="number")
    # Nobody drew more than four: the class of the number is the number.
    table["arm_class"] = table["number"].astype(int).astype(str)
    repeat = table.pop("repeat") == "True"
    return {"drawn arms": table[~repeat], "drawn arms" + AGAIN: table[repeat]}


def agreement(table: pd.DataFrame, fewest: int = 10) -> pd.DataFrame:
    """How well two sources agree on the galaxies that both have classified, if not too few.

    Parameters
    ----------
    table : DataFrame
        As `collect` gives it. A source that repeats another is compared with that one only.

    Returns
    -------
    DataFrame
        ``first``, ``second``, ``n``, ``same`` (share of the galaxies with the same class, m = 4 and
        5+ as one; ``same_low``, ``same_high``: Wilson's 95 % interval), ``within_one`` (share
        whose classes differ by one arm at most, of those with a number in both) and ``spearman``
        (rank correlation of the numbers of arms).
    """
    sources = dict(list(table.groupby("source")))
    rows = []
    for first, second in combinations(table["source"].unique(), 2):
        repeated = second.endswith(AGAIN) or first.endswith(AGAIN)
        both = sources[first].merge(sources[second], on="galaxy_id", suffixes=("", "_2"))
        if (repeated and second != first + AGAIN) or len(both) < fewest:
            continue
        same = both["merged"] == both["merged_2"]
        interval = stats.binomtest(int(same.sum()), len(both)).proportion_ci(method="wilson")
        arms = both[["merged", "merged_2"]].apply(lambda column: column.map(NUMBER)).dropna()
        numbers = both[["number", "number_2"]].dropna()
        row = {"first": first, "second": second, "n": len(both), "same": same.mean()}
        row |= {"same_low": interval.low, "same_high": interval.high}
        row["within_one"] = (arms.diff(axis=1).iloc[:, 1].abs() <= 1).mean()
        row["spearman"] = stats.spearmanr(numbers["number"], numbers["number_2"]).statistic
        rows.append(row)
    return pd.DataFrame(rows)
