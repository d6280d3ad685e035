"""Volunteers: votes down the Galaxy Zoo 2 decision tree, from how visible the features are.

The tree and the column names are those of Willett et al. (2013, Table 2 and Sec. 4). What a
volunteer sees is worked out from the true parameters and the depth and sharpness of the image, so
the votes need no rendered image, and arms that are too faint, too fine or too small to be seen end
as "can't tell" although they exist.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lib.surveys.gz2 import DECISION_TREE, MEASURES
from lib.surveys.mock.render import NATIVE_PIXEL, SKY_SIGMA

ANSWERS = tuple(f"{task}_{a}" for task, (_, answers) in DECISION_TREE.items() for a in answers)
"""Column stems of the 37 answers, in tree order."""

CLEAN_THRESHOLDS = {
    "t02": {"a02": 0.430},
    "t03": {"a05": 0.715},
    "t04": {"a05": 0.715},
    "t05": {"a05": 0.715},
    "t07": {"a01": 0.469},
    "t08": {"a14": 0.420},
    "t09": {"a04": 0.602},
    "t10": {"a08": 0.619},
    "t11": {"a08": 0.619},
}
"""Weighted fractions that the steps before a task must reach for a clean flag (Willett et al. 2013,
Table 3, at least 20 votes)."""

_CODES = [a[:3] for _, answers in DECISION_TREE.values() for a in answers]
_COLUMN = {code: k for k, code in enumerate(_CODES)}

QUESTIONS = {
    task[:3]: slice(_COLUMN[next(iter(answers))[:3]], _COLUMN[list(answers)[-1][:3]] + 1)
    for task, (_, answers) in DECISION_TREE.items()
}
"""Task (``t01`` ... ``t11``) -> where its answers stand in `ANSWERS`."""

_LEADS_TO = [f"t{after}" for _, answers in DECISION_TREE.values() for after in answers.values()]
_ASKED_AFTER = {
    task: [k for k, after in enumerate(_LEADS_TO) if after == task] for task in QUESTIONS
}
# A question comes after all those that lead to it.
_ORDER = ("t01", "t02", "t03", "t04", "t10", "t11", "t05", "t07", "t09", "t06", "t08")

ARM_CONFUSION = np.array(
    [
        [0.575, 0.189, 0.025, 0.010, 0.003, 0.198],
        [0.046, 0.742, 0.057, 0.017, 0.009, 0.128],
        [0.026, 0.194, 0.503, 0.087, 0.029, 0.162],
        [0.007, 0.074, 0.176, 0.445, 0.130, 0.167],
        [0.014, 0.069, 0.071, 0.138, 0.480, 0.227],
        [0.063, 0.184, 0.077, 0.043, 0.048, 0.585],
    ]
)
"""Mean fractions of the answers of T11 (columns: 1, 2, 3, 4, 5+, can't tell) for galaxies whose
most frequent answer is that of the row: 1,659 face-on spirals of the Galaxy Zoo Challenge,
computed in notebook 00, section 4.4."""

ARM_CERTAINTY = np.array([0.55, 0.78, 0.43, 0.40, 0.40, 0.52])
"""Mean share of volunteers who give the true answer when arms are as clear as can be. With
`ARM_CONCENTRATION` fitted to the shares of pure labels of the same galaxies (notebook 00, 4.4)."""

ARM_CONCENTRATION = 7.0
"""Of the Dirichlet distribution from which a galaxy's own probabilities in T11 come."""

CONCENTRATION = 36.0
"""The same in the other questions: the lower, the more galaxies differ beyond what is modelled."""


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def arm_visibility(truth: pd.DataFrame) -> np.ndarray:
    """How clearly the arms can be seen, from 0 (not at all) to 1.

    It falls with low contrast, with arms so close that the seeing merges them, with an inclination
    that hides their run, and with low signal-to-noise at 0.6 R90.

    Parameters
    ----------
    truth : DataFrame
        See `lib.surveys.mock.galaxies.draw_galaxies`.

    Returns
    -------
    ndarray of float64, (n,)
        0 for galaxies without arms.
    """
    m = truth["n_arms"].clip(lower=1)
    cos_i = np.cos(np.radians(truth["inclination"].clip(upper=75)))
    arcsec = truth["r90_arcsec"]
    spacing = 2 * np.pi * 0.7 * arcsec * np.sin(np.radians(truth["pitch"].clip(lower=5))) / m
    spacing *= 0.5 * (1 + cos_i)
    # Modulation transfer of a Gaussian beam at the frequency of the arms.
    blur = np.exp(-2 * (np.pi * truth["psf_fwhm_arcsec"] / 2.355 / spacing) ** 2)
    contrast = truth["arm_contrast"] * blur * (1 - 0.35 * truth["flocculence"])
    h = truth["scale_length"] * arcsec
    flux = 10 ** (0.4 * (22.5 - truth["mag_r"])) * (1 - truth["bulge_fraction"])
    surface = flux / (2 * np.pi * h**2 * cos_i) * np.exp(-0.6 / truth["scale_length"])
    beam = np.pi * truth["psf_fwhm_arcsec"] ** 2
    noise = float(SKY_SIGMA[1]) * truth["sky_noise"] * np.sqrt(beam) / NATIVE_PIXEL
    signal_to_noise = contrast * surface * beam / noise
    depth = np.log(np.maximum(signal_to_noise, 1e-3) / 5.0)
    visible = _sigmoid((contrast - 0.28) / 0.08) * _sigmoid(2.5 * depth)
    return np.where(truth["n_arms"] > 0, visible, 0.0)


def _face_on_probabilities(truth: pd.DataFrame, p: dict[str, np.ndarray]) -> None:
    """Answers about bar, spiral pattern, bulge and arms, in place."""
    spiral = (truth["kind"] == "spiral").to_numpy()
    visible = arm_visibility(truth)
    bar = _sigmoid((truth["bar_strength"] * truth["bar_length"] - 0.17) / 0.06)
    bar = 0.06 + 0.86 * np.where(truth["bar_length"] > 0, bar, 0)
    p["t03"] = np.stack([bar, 1 - bar], axis=1)
    # Patches pass for a spiral pattern even where no arm can be followed.
    patches = _sigmoid((truth["flocculence"] - 0.25) / 0.12)
    seen = np.where(spiral, 0.55 + 0.42 * np.maximum(visible, 0.75 * patches), 0.12)
    p["t04"] = np.stack([seen, 1 - seen], axis=1)
    edges = np.array([0.02, 0.085, 0.32])
    below = _sigmoid((np.log(edges) - np.log(truth["bulge_fraction"].to_numpy())[:, None]) / 0.3)
    p["t05"] = np.diff(np.pad(below, ((0, 0), (1, 1)), constant_values=(0, 1)), axis=1)
    p["t05"][:, -1] = 1 - below[:, -1]
    p["t05"][:, 0] = below[:, 0]
    limits = _sigmoid((np.array([13.5, 21.0]) - truth["pitch"].to_numpy()[:, None]) / 2.8)
    p["t10"] = np.stack([limits[:, 0], limits[:, 1] - limits[:, 0], 1 - limits[:, 1]], axis=1)
    row = np.where(spiral & (truth["n_arms"] > 0), truth["n_arms"].clip(1, 5) - 1, 5)
    clear = np.where(truth["n_arms"] > 0, visible, 1.0)[:, None]
    # The others are divided as in the real table.
    wrong = ARM_CONFUSION * (1 - np.eye(6))
    wrong *= ((1 - ARM_CERTAINTY) / wrong.sum(axis=1))[:, None]
    counted = wrong + np.diag(ARM_CERTAINTY)
    p["t11"] = clear * counted[row] + (1 - clear) * counted[5]


def answer_probabilities(truth: pd.DataFrame) -> np.ndarray:
    """Probability of each answer when its question is asked.

    Parameters
    ----------
    truth : DataFrame
        See `lib.surveys.mock.galaxies.draw_galaxies`.

    Returns
    -------
    ndarray of float64, (n, 37)
        In the order of `ANSWERS`; the answers of a question sum to 1.
    """
    n = len(truth)
    kind = truth["kind"].to_numpy()
    spiral, smooth, edge = (kind == k for k in ("spiral", "smooth", "edge-on"))
    p: dict[str, np.ndarray] = {}
    _face_on_probabilities(truth, p)
    structure = np.maximum(
        arm_visibility(truth), 0.8 * _sigmoid((truth["flocculence"] - 0.2) / 0.1)
    )
    # The image blurs with distance, so features are missed: the bias that debiasing undoes.
    missed = np.clip(1.8 * (truth["redshift"].to_numpy() - 0.05), 0, 0.25)
    features = np.select(
        [spiral, edge, kind == "disc"],
        [0.62 + 0.34 * structure - missed, 0.88 - missed, 0.45 - missed],
        0.07,
    )
    p["t01"] = np.stack([0.985 - features, features, np.full(n, 0.015)], axis=1)
    inclined = _sigmoid((truth["inclination"].to_numpy() - 70) / 3.5)
    seen_edge = np.where(smooth, 0.15, 0.02 + 0.93 * np.where(edge, 1.0, inclined))
    p["t02"] = np.stack([seen_edge, 1 - seen_edge], axis=1)
    odd = np.clip(0.06 + 0.5 * truth["lopsidedness"].to_numpy(), 0, 0.5)
    p["t06"] = np.stack([odd, 1 - odd], axis=1)
    ratio = np.where(smooth, truth["axis_ratio"], np.cos(np.radians(truth["inclination"])))
    limits = _sigmoid((np.array([0.42, 0.83]) - ratio[:, None]) / 0.05)
    p["t07"] = np.stack([1 - limits[:, 1], limits[:, 1] - limits[:, 0], limits[:, 0]], axis=1)
    shape = np.array([0.14, 0.04, 0.26, 0.28, 0.12, 0.10, 0.06])
    p["t08"] = np.broadcast_to(shape, (n, 7)).copy()
    bulge = _sigmoid((np.log(truth["bulge_fraction"].to_numpy()) - np.log(0.06)) / 0.4)
    p["t09"] = np.stack([0.93 * bulge, 0.07 * bulge, 1 - bulge], axis=1)
    table = np.concatenate([p[task] for task in QUESTIONS], axis=1)
    table = np.clip(table, 1e-4, None)
    for part in QUESTIONS.values():
        table[:, part] /= table[:, part].sum(axis=1, keepdims=True)
    return table


def draw_counts(rng: np.random.Generator, probabilities: np.ndarray) -> np.ndarray:
    """Votes of each galaxy: Dirichlet-multinomial down the tree.

    Parameters
    ----------
    rng : Generator
    probabilities : ndarray, (n, 37)
        See `answer_probabilities`.

    Returns
    -------
    ndarray of int64, (n, 37)
        Everyone who reaches a question answers it once, so the counts of a question sum to the
        counts of the answers that lead to it.
    """
    n = len(probabilities)
    # Of the 576 real rows in whole, 5, 50 and 95 % have at most 30, 41 and 51 (notebook 00, 4.4).
    classifications = np.clip(np.rint(rng.normal(41, 6.3, n)), 25, 70).astype(np.int64)
    counts = np.zeros(probabilities.shape, dtype=np.int64)
    for task in _ORDER:
        part = QUESTIONS[task]
        leads_here = _ASKED_AFTER[task]
        asked = counts[:, leads_here].sum(axis=1) if leads_here else classifications
        spread = ARM_CONCENTRATION if task == "t11" else CONCENTRATION
        own = rng.gamma(spread * probabilities[:, part]) + 1e-9
        counts[:, part] = rng.multinomial(asked, own / own.sum(axis=1, keepdims=True))
    return counts


def fractions(amount: np.ndarray) -> np.ndarray:
    """Share of each answer within its question, 0 where nobody was asked."""
    shares = np.zeros(amount.shape)
    for part in QUESTIONS.values():
        total = amount[:, part].sum(axis=1, keepdims=True)
        np.divide(amount[:, part], total, out=shares[:, part], where=total > 0)
    return shares


def _debias(weighted: np.ndarray, redshift: np.ndarray) -> np.ndarray:
    """Undo the loss of features with redshift in T01, T04 and T11 by shifting the log-odds."""
    gain = np.zeros(weighted.shape[1])
    for answer, slope in (("a02", 6.0), ("a08", 4.0), ("a37", -4.0)):
        gain[_COLUMN[answer]] = slope
    beyond = np.maximum(redshift - 0.05, 0)[:, None]
    return fractions(weighted * np.exp(gain * beyond))


def _flags(counts: np.ndarray, weighted: np.ndarray, debiased: np.ndarray) -> np.ndarray:
    """Clean flags: debiased fraction of 0.8, steps before it passed, 20 votes in the task."""
    flags = debiased >= 0.8
    for task, part in QUESTIONS.items():
        passes = counts[:, part].sum(axis=1) >= 20
        for answer, threshold in CLEAN_THRESHOLDS.get(task, {}).items():
            passes &= weighted[:, _COLUMN[answer]] >= threshold
        flags[:, part] &= passes[:, None]
    return flags.astype(np.int64)


def vote_columns(
    rng: np.random.Generator, counts: np.ndarray, redshift: np.ndarray
) -> pd.DataFrame:
    """The vote columns of ``zoo2MainSpecz``.

    Parameters
    ----------
    rng : Generator
        Draws which volunteers are down-weighted for being inconsistent.
    counts : ndarray of int, (n, 37)
        See `draw_counts`.
    redshift : ndarray of float, (n,)

    Returns
    -------
    DataFrame
        ``total_classifications``, ``total_votes``, then for each answer the columns of `MEASURES`.
        Fractions have three decimals, as in the real table.
    """
    raw = fractions(counts)
    # The rarer an answer, the likelier it is that an inconsistent volunteer gave it; such a
    # volunteer counts a thousandth (Willett et al. 2013, Sec. 3.2).
    unreliable = rng.binomial(counts, 0.15 * (1 - raw) ** 3)
    weight = np.round(counts - 0.999 * unreliable, 3)
    weighted = np.round(fractions(weight), 3)
    debiased = np.round(_debias(weighted, redshift), 3)
    flags = _flags(counts, weighted, debiased)
    measures = (counts, weight, np.round(raw, 3), weighted, debiased, flags)
    columns = {
        f"{stem}_{name}": values[:, k]
        for k, stem in enumerate(ANSWERS)
        for name, values in zip(MEASURES, measures, strict=True)
    }
    totals = {
        "total_classifications": counts[:, QUESTIONS["t01"]].sum(axis=1),
        "total_votes": counts.sum(axis=1),
    }
    return pd.DataFrame(totals | columns)


def morphology_names(counts: np.ndarray) -> list[str]:
    """GZ2 class of each galaxy, e.g. ``SBb2m`` (Willett et al. 2013, Appendix A)."""

    def best(task: str, letters: str) -> np.ndarray:
        return np.array(list(letters))[counts[:, QUESTIONS[task]].argmax(axis=1)]

    first, odd = best("t01", "ESA"), best("t06", "o ")
    edge, bar, spiral = best("t02", "e "), best("t03", "B "), best("t04", "s ")
    rounded, side, bulge = best("t07", "ric"), best("t09", "rbn"), best("t05", "dcba")
    arms, winding, oddity = best("t11", "1234+?"), best("t10", "tml"), best("t08", "rldioum")
    names = []
    for k in range(len(counts)):
        if first[k] == "A":
            names.append("A")
            continue
        if first[k] == "E":
            name = "E" + rounded[k]
        elif edge[k] == "e":
            name = "Se" + side[k]
        else:
            name = "S" + bar[k].strip() + bulge[k]
            name += arms[k] + winding[k] if spiral[k] == "s" else ""
        names.append(name + (f"({oddity[k]})" if odd[k] == "o" else ""))
    return names
