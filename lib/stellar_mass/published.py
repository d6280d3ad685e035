"""Table 4 by the paper's own method, and what its printed numbers say by themselves."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from lib.stellar_mass.groups import CLASSES, stack


def published_table(groups: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """`published_tests` of every source of classes, with ``source``."""
    return stack(
        {
            source: published_tests(table["value"].to_numpy(), table["arm_class"].to_numpy())
            for source, table in groups.items()
        }
    )


def published_tests(values: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Table 4 as the paper makes it: each class against the whole sample, which contains it.

    The pooled-variance t and the two-sample K-S test of scipy. The p-values of t are two-sided,
    as the printed ones are, although the paper calls its test one-tailed.

    Returns
    -------
    DataFrame
        One row per class of `CLASSES`: ``label``, ``n``, ``ks_d``, ``ks_p``, ``t``,
        ``t_p_two_sided``; NaN where a class has fewer than two galaxies.
    """
    rows = []
    for arm_class in CLASSES:
        subsample = values[labels == arm_class]
        row = {"label": arm_class, "n": len(subsample)}
        if len(subsample) > 1:
            ks = stats.ks_2samp(subsample, values)
            t = stats.ttest_ind(subsample, values)
            row |= {"ks_d": ks.statistic, "ks_p": ks.pvalue}
            row |= {"t": t.statistic, "t_p_two_sided": t.pvalue}
        rows.append(row)
    return pd.DataFrame(rows, columns=["label", "n", "ks_d", "ks_p", "t", "t_p_two_sided"])


def check_printed_rows(p_values: pd.DataFrame) -> pd.DataFrame:
    """Mark the rows of Table 4 whose printed numbers contradict each other.

    Parameters
    ----------
    p_values : DataFrame
        As `lib.paper.table_4_p_values` recomputes them.

    Returns
    -------
    DataFrame
        The printed columns, and ``ks_contradiction``, ``t_two_sided``, ``t_one_sided`` (bool):
        whether the p-value of K-S does not follow from D and the sizes, and which p-value of t is
        printed.
    """
    table = p_values[["n", "ks_d", "ks_p", "t", "t_p"]].copy()
    # The range allows for the rounding of D; the printed p-value is rounded as well.
    low, high = p_values["ks_p_low"] - 0.5e-4, p_values["ks_p_high"] + 0.5e-4
    table["ks_contradiction"] = ~p_values["ks_p"].between(low, high)
    for side in ("two_sided", "one_sided"):
        # t is rounded to 5e-5, which moves its p-value by less than 1e-4.
        table[f"t_{side}"] = (p_values["t_p"] - p_values[f"t_p_{side}"]).abs() < 1.5e-4
    return table


def beside_paper(ours: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """Our Table 4 beside the printed one.

    Parameters
    ----------
    ours : DataFrame
        From `published_table`.
    printed : DataFrame
        From `check_printed_rows`.

    Returns
    -------
    DataFrame
        Index ``source``, ``label``; columns ``("ours", ...)`` and ``("paper", ...)``.
    """
    ours = ours.set_index(["source", "label"])
    printed = printed.rename_axis(index=["source", "label"]).rename(
        columns={"t_p": "t_p_two_sided"}
    )
    return pd.concat({"ours": ours, "paper": printed[ours.columns]}, axis=1).reindex(ours.index)


def implied_shifts(n: pd.Series, t: pd.Series, total: int) -> pd.DataFrame:
    """What printed t of subsample against whole says about subsample against the rest.

    With equal spread s, t = d / (s sqrt(1/n + 1/N)) gives the difference d of the class to the
    whole; to the rest it is d N / (N - n), with standard error s sqrt(1/n + 1/(N - n)).

    Parameters
    ----------
    n, t : Series
        Sizes and t statistics of all classes of one source.
    total : int
        N, size of the whole sample.

    Returns
    -------
    DataFrame
        ``shift`` and ``error`` in standard deviations, ``z``, ``p`` (two-sided). In ``attrs``:
        ``balance``, the sum of ``n d / s`` which must be near zero when the classes make up the
        whole, and ``anova_p``, the p-value of the one-way analysis of variance.
    """
    whole = t * np.sqrt(1 / n + 1 / total)
    table = pd.DataFrame({"n": n, "shift": whole * total / (total - n)})
    table["error"] = np.sqrt(1 / n + 1 / (total - n))
    table["z"] = table["shift"] / table["error"]
    table["p"] = 2 * stats.norm.sf(table["z"].abs())
    between = float((n * whole**2).sum())
    groups = len(n)
    within = total - groups
    f = between / (groups - 1) / ((total - 1 - between) / within)
    table.attrs["balance"] = float((n * whole).sum())
    table.attrs["anova_p"] = float(stats.f.sf(f, groups - 1, within))
    return table


def implied_table(table_4: pd.DataFrame, total: int) -> pd.DataFrame:
    """`implied_shifts` of every source of Table 4.

    Parameters
    ----------
    table_4 : DataFrame
        `lib.paper.TABLE_4`: index ``classes_from``, ``label``; columns ``n``, ``t``.
    total : int
        Size of the whole sample.

    Returns
    -------
    DataFrame
        With ``source``, ``label`` and, equal in all rows of a source, ``balance`` and ``anova_p``.
    """
    tables = {}
    for source, rows in table_4.groupby(level="classes_from", sort=False):
        rows = rows.droplevel("classes_from")
        implied = implied_shifts(rows["n"], rows["t"], total)
        tables[source] = implied.assign(**implied.attrs).reset_index()
    return stack(tables)
