"""What others have found about stellar mass and arm number, and what Table 4 implies."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from lib import paper

FINDINGS = pd.DataFrame(
    [
        (
            "Hart et al. 2016",
            "arXiv:1607.01019",
            "GZ2, debiased anew, luminosity-limited",
            "all arm numbers occupy similar ranges of stellar mass",
        ),
        (
            "Hart et al. 2017",
            "arXiv:1703.02053",
            "GZ2, low redshift",
            "none on mass; total star formation depends little on arm number",
        ),
        (
            "Porter-Temple et al. 2022",
            "arXiv:2208.05036",
            "Galaxy Zoo of GAMA-KiDS",
            "fewer arms have lower masses and higher specific star formation",
        ),
        (
            "Smith et al. 2024",
            "arXiv:2405.01516",
            "Galaxy Zoo 3D, 245 grand design, 299 multi-armed",
            "grand design (two arms) have lower masses than multi-armed, on average",
        ),
        (
            "Smith et al. 2026",
            "arXiv:2606.14896",
            "Euclid Q1, Zoobot's classes, z = .4 to 1",
            "two arms have lower masses and star formation than three, on average",
        ),
        (
            "Lee, Soo & Sharoni",
            "arXiv:2412.11696",
            f"GZ2, {paper.MATCHED_SIZE:,} galaxies",
            "m = 1 higher, m = 3 'tends to lower', nothing else",
        ),
    ],
    columns=["work", "reference", "sample", "finding on stellar mass"],
)
"""From the abstracts of the works; the last row from Sec. 6 and the abstract of the paper."""

CAPTION_11 = (
    "Fig. 11: smoothed density of stellar mass for each arm class (line) and all galaxies (grey), "
    "by the volunteers' label. A class that differs stands off the grey."
)
CAPTION_12 = (
    "Fig. 12: stellar mass by arm class of the volunteers' label, with quartiles (dashed). Violins "
    "have the same width, however few galaxies they stand for."
)


def implied_shifts(n: pd.Series, t: pd.Series, total: int):
    """What printed t of subsample against whole says about subsample against the rest.

    With equal spread s, t = d / (s sqrt(1/n + 1/N)) gives the difference d of the class to the
    whole; to the rest it is d N / (N - n), with standard error s sqrt(1/n + 1/(N - n)).

    Parameters
    ----------
    n, t : Series
        Sizes and t statistics of classes.
    total : int
        N, size of the whole sample.

    Returns
    -------
    DataFrame
        ``n``, ``shift``, ``shift_low``, ``shift_high`` in standard deviations, ``p`` (two-sided).
    """
    shift = t * np.sqrt(1 / n + 1 / total) * total / (total - n)
    error = np.sqrt(1 / n + 1 / (total - n))
    half = stats.norm.ppf(0.975) * error
    p = 2 * stats.norm.sf((shift / error).abs())
    return pd.DataFrame(
        {"n": n, "shift": shift, "shift_low": shift - half, "shift_high": shift + half, "p": p}
    )


def table_4(source: str = "label") -> pd.DataFrame:
    """Rows of the paper's Table 4 for one source of classes, indexed by `CLASSES`."""
    return paper.table_4_p_values().loc[source].rename(index={"4,5+": "4+5+"})


def table_4_shifts(spread: float) -> pd.DataFrame:
    """`implied_shifts` of Table 4 by label in dex, for a spread within the classes (dex)."""
    table = table_4()
    implied = implied_shifts(table["n"], table["t"], paper.MATCHED_SIZE).rename_axis("m")
    implied[["shift", "shift_low", "shift_high"]] *= spread
    return implied.reset_index().assign(method="the paper's Table 4")
