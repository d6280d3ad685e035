"""The main numbers of a run, and what they say in words."""

from __future__ import annotations

import pandas as pd
from scipy import stats

ALPHA = 0.05
"""Level of the tests, the paper's."""

_NAMES = {"label": "the labels", "truth": "the true classes"}


def summary(
    sound: pd.DataFrame,
    matched: pd.DataFrame,
    diluted: pd.DataFrame,
    truth: pd.DataFrame,
    position: pd.DataFrame,
    implied: pd.DataFrame,
    overall: pd.DataFrame,
    power: pd.DataFrame,
    prop: str = "stellar_mass",
) -> dict[str, dict]:
    """Main numbers of a run as plain types.

    Parameters
    ----------
    sound, matched, diluted, truth, position, implied, overall, power : DataFrame
        Tables of `lib.stellar_mass`, as notebook 06 makes them; all but `sound`, `implied`,
        `overall` and `power` may be empty.
    prop : str
        The property; only stellar masses are set beside the paper's.

    Returns
    -------
    dict
        Per source of classes: ``different`` and ``different_matched`` (classes whose mean differs
        after Holm's correction, by Welch's t and by the paired t), ``shifts`` (class -> ``shift``,
        ``low``, ``high``), ``range`` (highest minus lowest shift), ``detectable`` (class -> shift
        that Holm's strictest step finds four times out of five); ``consistent`` and
        ``inconsistent`` (classes with a shift by label, whose predicted counterpart has the shift
        that the confusion matrix leaves, or another), ``truth`` (class -> ``deviation`` from the
        built-in shift, ``z``, ``recovered``) and ``own_share``, where known. For stellar masses
        ``paper``, with the same kind of ``detectable``.
    """
    result = {}
    for source, rows in sound.groupby("source", sort=False):
        entry = {
            "anova_p": _number(overall.set_index("source").get("anova_p", {}).get(source)),
            "different": _different(rows),
            "shifts": {
                row.label: {
                    "shift": _number(row.shift),
                    "low": _number(row.shift_low),
                    "high": _number(row.shift_high),
                }
                for row in rows.itertuples()
                if pd.notna(row.shift)
            },
            "range": _number(rows["shift"].max() - rows["shift"].min()),
            "detectable": _detectable(power, source),
        }
        if len(matched):
            entry["different_matched"] = _different(
                matched[matched["source"] == source], "paired_p_holm"
            )
        result[source] = entry
    for role, rows in diluted.groupby("source", sort=False):
        # Without a shift there is nothing to dilute.
        shifted = (rows["reference_shift_low"] > 0) | (rows["reference_shift_high"] < 0)
        known = rows[shifted & rows["excess"].notna()]
        inside = (known["excess_low"] <= 0) & (known["excess_high"] >= 0)
        result[role] |= {
            "consistent": known.loc[inside, "label"].tolist(),
            "inconsistent": known.loc[~inside, "label"].tolist(),
        }
    for source, rows in truth.groupby("source", sort=False) if len(truth) else ():
        result.setdefault(source, {})["truth"] = {
            row.label: {
                "deviation": _number(row.deviation),
                "z": _number(row.z),
                "recovered": bool(row.recovered),
            }
            for row in rows[rows["deviation"].notna()].itertuples()
        }
    if len(position):
        by_position = position[position["join"] == "position"]
        for source, rows in by_position.groupby("source", sort=False):
            result[source]["own_share"] = _number(rows["own_share"].iloc[0])
            result[source]["different_by_position"] = _different(rows)
    if prop != "stellar_mass":
        return result
    label = implied[implied["source"] == "label"].set_index("label")
    result["paper"] = {
        "detectable": _detectable(power, "paper: label"),
        "m1_shift_in_spreads": _number(label.loc["1", "shift"]),
        "m1_p": _number(label.loc["1", "p"]),
        "anova_p": {
            source: _number(rows["anova_p"].iloc[0])
            for source, rows in implied.groupby("source", sort=False)
        },
    }
    return result


def words(numbers: dict[str, dict], unit: str, spread: float) -> list[str]:
    """State the numbers of `summary` in sentences, one paragraph each.

    Parameters
    ----------
    numbers : dict
        From `summary`; with ``paper``, the paper and Hart et al. (2016) are set beside them.
    unit : str
        Unit of the shifts.
    spread : float
        Standard deviation of the property in the sample.
    """
    text = []
    for source, entry in numbers.items():
        if "shifts" not in entry:
            continue
        different = entry["different"]
        line = f"By {_NAMES.get(source, source)}, "
        if different:
            line += "these classes differ from the rest after Holm's correction: " + ", ".join(
                f"m = {c} by {_interval(entry['shifts'][c])} {unit}" for c in different
            )
        else:
            line += "no class differs from the rest after Holm's correction"
        line += "."
        if "different_matched" in entry:
            line += f" After matching: {_classes(entry['different_matched'])}."
        if "consistent" in entry:
            line += _diluted(entry["consistent"], entry["inconsistent"])
        if "truth" in entry:
            line += _recovered(entry["truth"])
        if "own_share" in entry:
            line += (
                f" Joined by row position only {entry['own_share']:.1%} of the galaxies have their "
                f"own value, and {_classes(entry['different_by_position'])} would differ."
            )
        text.append(line)
    if "truth" in numbers:
        tested = numbers["truth"]["truth"]
        text.append("By the true classes:" + _recovered(tested) + _chance(tested))
    label = numbers["label"]
    if label["range"] is not None:
        text.append(
            f"The shifts of the labels' classes span {label['range']:.3f} {unit}, which is "
            f"{label['range'] / spread:.1f} standard deviations of the sample."
            + _power(label["detectable"], unit, "classes of these sizes")
        )
    if "paper" not in numbers:
        return text
    printed = numbers["paper"]
    text.append(
        "Hart et al. (2016) find that all arm numbers occupy similar ranges of stellar mass. The "
        f"paper reports a significant excess for m = 1 by label (its printed t gives a shift of "
        f"{printed['m1_shift_in_spreads']:.2f} standard deviations, p = {printed['m1_p']:.3f} for "
        "one test) and none in the predictions. All classes at once, its printed numbers are no "
        "evidence of a difference: p = "
        + ", ".join(f"{p:.2f} ({_NAMES.get(s, s)})" for s, p in printed["anova_p"].items())
        + "."
        + _power(printed["detectable"], unit, "the paper's label classes, with the spread here,")
    )
    return text


def _number(value) -> float | None:
    return None if value is None or pd.isna(value) else round(float(value), 6)


def _different(rows: pd.DataFrame, p: str = "welch_p_holm") -> list[str]:
    return rows.loc[rows[p] < ALPHA, "label"].tolist() if p in rows else []


def _detectable(power: pd.DataFrame, sizes: str) -> dict[str, float]:
    rows = power[(power["sizes"] == sizes) & power["all_classes"].notna()]
    return {row.label: _number(row.all_classes) for row in rows.itertuples()}


def _interval(estimate: dict[str, float]) -> str:
    return f"{estimate['shift']:+.3f} ({estimate['low']:+.3f} to {estimate['high']:+.3f})"


def _classes(labels: list[str]) -> str:
    return "m = " + ", ".join(labels) if labels else "no class"


def _diluted(consistent: list[str], inconsistent: list[str]) -> str:
    if not consistent + inconsistent:
        return " No class has a shift by label that misclassification could dilute."
    text = (
        " Of the classes with a shift by label, dilution by misclassification alone is consistent "
        f"with {_classes(consistent)}"
    )
    return text + (f", not with {_classes(inconsistent)}." if inconsistent else ".")


def _recovered(tested: dict[str, dict]) -> str:
    missed = {c: test["z"] for c, test in tested.items() if not test["recovered"]}
    text = f" {len(missed)} of {len(tested)} intervals (95 %) miss the built-in shift"
    if missed:
        text += ": " + ", ".join(f"m = {c} by {z:+.1f} standard errors" for c, z in missed.items())
    return text + f"; {ALPHA * len(tested):.2g} would by chance."


def _chance(tested: dict[str, dict]) -> str:
    missed = sum(not test["recovered"] for test in tested.values())
    p = stats.binom.sf(missed - 1, len(tested), ALPHA)
    return (
        f" Independent intervals would miss as often or more in {p:.0%} of surveys. Labels and "
        "predictions sort the same galaxies, so that a deviation comes back there."
    )


def _power(detectable: dict[str, float], unit: str, whose: str) -> str:
    if not detectable:
        return ""
    (best, least), (worst, most) = (
        choose(detectable.items(), key=lambda item: item[1]) for choose in (min, max)
    )
    return (
        f" In {whose} a shift is found four times out of five, after the strictest step of Holm's "
        f"correction, from {least:.3f} {unit} (m = {best}) to {most:.3f} {unit} (m = {worst}) on; "
        "smaller ones would be missed more often."
    )
