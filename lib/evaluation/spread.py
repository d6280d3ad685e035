"""How scores scatter over seeds, and which image size that lets one choose (Fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy

from lib.evaluation.matrix import LEVEL, SCORES, score_intervals
from lib.evaluation.runs import Run, differing, training_key
from lib.schema import InputError


def seed_spread(values) -> dict[str, float]:
    """Mean, standard deviation and coefficient of variation over seeds (Sec. 4.2.1).

    Returns
    -------
    dict
        ``mean``, ``sd`` (ddof = 1), ``cv`` = sd / mean (not per cent), ``low``, ``high``
        (Student interval of the mean, as far as it lies between 0 and 1), ``n``; NaN where one run
        does not tell.
    """
    values = np.asarray(values, float)
    n = len(values)
    sd = values.std(ddof=1) if n > 1 else np.nan
    half = scipy.stats.t.isf((1 - LEVEL) / 2, n - 1) * sd / np.sqrt(n) if n > 1 else np.nan
    mean = values.mean()
    return {
        "mean": float(mean),
        "sd": float(sd),
        "cv": float(sd / mean) if mean else np.nan,
        "low": float(np.clip(mean - half, 0, 1)),
        "high": float(np.clip(mean + half, 0, 1)),
        "n": n,
    }


def seed_sampling(runs: Sequence[Run]) -> pd.DataFrame:
    """Spread of the scores over seeds, beside the error from the choice of galaxies.

    Runs belong together if they differ in nothing but the seed of the training and report on the
    same galaxies; runs of folds, and those without a companion, are left out.

    Returns
    -------
    DataFrame
        One row per group and score: ``role``, ``merge``, ``metric``, ``mean``, ``sd`` (over
        seeds), ``seeds``, ``galaxies``, ``half_width`` (of the 95 % interval of a single run, see
        `score_intervals`; mean over the seeds) and ``ratio`` = 1.96 sd / half_width.
    """
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        if run.settings.get("fold") is None:
            galaxies = tuple(np.sort(run.part()["galaxy_id"]))
            own = training_key(run, ["seed"])
            groups.setdefault((own, galaxies), []).append(run)
    rows = []
    for group in groups.values():
        if len(group) < 2:
            continue
        tables = [score_intervals(run.confusion()) for run in group]
        for metric in SCORES:
            found = pd.DataFrame([table.loc[metric] for table in tables])
            half = ((found["high"] - found["low"]) / 2).mean()
            sd = found["value"].std(ddof=1)
            rows.append(
                {
                    "role": group[0].settings["role"],
                    "merge": group[0].settings.get("merge", "none"),
                    "metric": metric,
                    "mean": found["value"].mean(),
                    "sd": sd,
                    "seeds": len(group),
                    "galaxies": len(group[0].part()),
                    "half_width": half,
                    "ratio": scipy.stats.norm.isf((1 - LEVEL) / 2) * sd / half,
                }
            )
    return pd.DataFrame(rows)


def size_spread(runs: list[Run]) -> pd.DataFrame:
    """Macro-F1 of runs with several seeds for each role and image size (Fig. 5).

    Returns
    -------
    DataFrame
        One row per role and size in order: ``role``, ``crop`` (pixels), the columns of
        `seed_spread`, ``sampling`` (half the mean width of the 95 % intervals of single runs, the
        error from the choice of galaxies), ``galaxies`` (reported on by each run) and ``one_class``
        (how many of the `n` runs give all galaxies one and the same class: they have learnt
        nothing, and their equal F1 looks like a small spread).

    Raises
    ------
    InputError
        If runs of a role differ in more than the size and the seeds: their mean would be one of
        different trainings.
    """
    for role in {run.settings["role"] for run in runs}:
        own = [run for run in runs if run.settings["role"] == role]
        # Where there are several caches of the same images, each crop takes the smallest.
        more = differing(own).keys() - {"seed", "crop"}
        if more:
            raise InputError(
                f"runs of {role} differ in {', '.join(sorted(more))} beside crop and seeds, and so "
                "have no common mean: compare those of one training"
            )
    rows = []
    for run in runs:
        found = score_intervals(run.confusion()).loc["macro_f1"]
        half = (found["high"] - found["low"]) / 2
        rows.append((run.settings["role"], run.settings["crop"], found["value"], half, run))
    table = pd.DataFrame(rows, columns=["role", "crop", "f1", "half", "run"])
    spread = [
        {
            "role": role,
            "crop": crop,
            **seed_spread(group["f1"]),
            "sampling": group["half"].mean(),
            "galaxies": len(group["run"].iloc[0].part()),
            "one_class": sum(run.part()["predicted"].nunique() == 1 for run in group["run"]),
        }
        for (role, crop), group in table.groupby(["role", "crop"])
    ]
    return pd.DataFrame(spread)


def choose_size(spread: pd.DataFrame) -> pd.DataFrame:
    """Image size of each role by the rule of one standard error, and by the paper's words.

    The rule: the smallest size whose mean F1 is not more than one standard error (sd / sqrt(n), of
    the best size) below the best mean (Breiman et al. 1984, Sec. 3.4.3). It takes the cheapest
    network that these runs cannot tell from the best. Sec. 4.2.1 names the lowest CV. Sizes at
    which every run gives all galaxies one class are not chosen from.

    Parameters
    ----------
    spread : DataFrame
        From `size_spread`.

    Returns
    -------
    DataFrame
        Indexed by role: ``best`` (size with the highest mean), ``least`` (mean that is enough),
        ``chosen`` and ``lowest_cv`` (sizes; NA where a single seed has no CV). All NA where nothing
        is learnt at any size.
    """
    rows = {}
    for role, sizes in spread.groupby("role"):
        sizes = sizes[sizes["one_class"] < sizes["n"]]
        if sizes.empty:
            rows[role] = {"best": pd.NA, "least": np.nan, "chosen": pd.NA, "lowest_cv": pd.NA}
            continue
        best = sizes.loc[sizes["mean"].idxmax()]
        error = 0 if np.isnan(best["sd"]) else best["sd"] / np.sqrt(best["n"])
        least = best["mean"] - error
        known = sizes[sizes["cv"].notna()]
        rows[role] = {
            "best": best["crop"],
            "least": least,
            "chosen": sizes.loc[sizes["mean"] >= least, "crop"].min(),
            "lowest_cv": known.loc[known["cv"].idxmin(), "crop"] if len(known) else pd.NA,
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("role")
    return table.astype({"best": "Int64", "least": float, "chosen": "Int64", "lowest_cv": "Int64"})
