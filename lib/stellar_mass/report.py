"""The main numbers of a run, and what they say in words."""

from __future__ import annotations

import pandas as pd

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
) -> dict[str, dict]:
    """Main numbers of a run as plain types.

    Parameters
    ----------
    sound, matched, diluted, truth, position, implied, overall : DataFrame
        Tables of `lib.stellar_mass`, as notebook 06 makes them; all but `sound`, `implied` and
        `overall` may be empty.

    Returns
    -------
    dict
        Per source of classes: ``different`` and ``different_matched`` (classes whose mean differs
        by Welch's t after Holm's correction), ``shifts`` (class -> shift, low, high), ``range``
        (highest minus lowest shift); ``explained`` (predicted classes whose shift the confusion
        matrix explains), ``recovered`` and ``own_share``, where known; and ``paper``.
    """
    result = {}
    for source, rows in sound.groupby("source", sort=False):
        entry = {
            "anova_p": _number(overall.set_index("source").get("anova_p", {}).get(source)),
            "different": _different(rows),
            "shifts": {
                row.label: [_number(row.shift), _number(row.shift_low), _number(row.shift_high)]
                for row in rows.itertuples()
                if pd.notna(row.shift)
            },
            "range": _number(rows["shift"].max() - rows["shift"].min()),
        }
        if len(matched):
            entry["different_matched"] = _different(matched[matched["source"] == source])
        result[source] = entry
    for role, rows in diluted.groupby("source", sort=False):
        known = rows[rows["excess"].notna()]
        explained = known[(known["excess_low"] <= 0) & (known["excess_high"] >= 0)]
        result[role] |= {
            "explained": explained["label"].tolist(),
            "unexplained": known["label"].drop(explained.index).tolist(),
        }
    for source, rows in truth.groupby("source", sort=False) if len(truth) else ():
        known = rows[rows["observed_shift"].notna()]
        result.setdefault(source, {})["recovered"] = {
            row.label: bool(row.recovered) for row in known.itertuples()
        }
    if len(position):
        by_position = position[position["join"] == "position"]
        for source, rows in by_position.groupby("source", sort=False):
            result[source]["own_share"] = _number(rows["own_share"].iloc[0])
            result[source]["different_by_position"] = _different(rows)
    label = implied[implied["source"] == "label"].set_index("label")
    result["paper"] = {
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
        From `summary`.
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
        if "explained" in entry:
            line += (
                " Misclassification of the labels explains the shifts of "
                f"{_classes(entry['explained'])}"
                + (f", not of {_classes(entry['unexplained'])}" if entry["unexplained"] else "")
                + "."
            )
        if "recovered" in entry:
            line += _recovered(entry["recovered"])
        if "own_share" in entry:
            line += (
                f" Joined by row position only {entry['own_share']:.1%} of the galaxies have their "
                f"own value, and {_classes(entry['different_by_position'])} would differ."
            )
        text.append(line)
    if "recovered" in numbers.get("truth", {}):
        text.append("By the true classes:" + _recovered(numbers["truth"]["recovered"]))
    label, printed = numbers["label"], numbers["paper"]
    if label["range"] is not None:
        text.append(
            f"The shifts of the labels' classes span {label['range']:.3f} {unit}, which is "
            f"{label['range'] / spread:.1f} standard deviations of the sample."
        )
    text.append(
        "Hart et al. (2016) find that all arm numbers occupy similar ranges of stellar mass. The "
        f"paper reports a significant excess for m = 1 by label (its printed t gives a shift of "
        f"{printed['m1_shift_in_spreads']:.2f} standard deviations, p = {printed['m1_p']:.3f} for "
        "one test) and none in the predictions. All classes at once, its printed numbers are no "
        "evidence of a difference: p = "
        + ", ".join(f"{p:.2f} ({_NAMES.get(s, s)})" for s, p in printed["anova_p"].items())
        + "."
    )
    return text


def _number(value) -> float | None:
    return None if value is None or pd.isna(value) else round(float(value), 6)


def _different(rows: pd.DataFrame) -> list[str]:
    if "welch_p_holm" not in rows:
        return []
    return rows.loc[rows["welch_p_holm"] < ALPHA, "label"].tolist()


def _interval(estimate: list[float]) -> str:
    shift, low, high = estimate
    return f"{shift:+.3f} ({low:+.3f} to {high:+.3f})"


def _classes(labels: list[str]) -> str:
    return "m = " + ", ".join(labels) if labels else "no class"


def _recovered(recovered: dict[str, bool]) -> str:
    yes = [c for c, ok in recovered.items() if ok]
    no = [c for c, ok in recovered.items() if not ok]
    text = f" The built-in shifts lie in the intervals of {_classes(yes)}"
    return text + (f", not of {_classes(no)}." if no else ".")
