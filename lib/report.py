"""One report per run: every metric in ``report.json``, and a page ``report.md`` with the figures.

``python -m lib.report runs/mock`` writes both and prints the table; several folders are printed
beside each other, one column each.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from lib import receipts
from lib.paths import atomic, resolve
from lib.schema import InputError

COMPARISON = "09_model_comparison"


def plain(value):
    """Turn a value into what JSON knows: NaN becomes None, numpy and pandas become plain."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, pd.DataFrame):
        return [plain(row) for row in value.to_dict("records")]
    if isinstance(value, list | tuple | np.ndarray | pd.Series):
        return [plain(item) for item in value]
    if value is None or value is pd.NA or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


def write_json(path: str | Path, data) -> None:
    """Write data as JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(
            json.dumps(plain(data), indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )


def gather(run_dir: str | Path) -> dict:
    """Collect metrics, comparison and figures of all steps of a run.

    Parameters
    ----------
    run_dir : path
        Folder of the run, e.g. ``runs/mock``.

    Returns
    -------
    dict
        ``profile``; ``steps``: name -> ``metrics`` (of the step's ``metrics.json``), ``figures``
        (``file`` relative to the run, ``caption``) and ``made_by`` (commit and hash of the library,
        from the receipt; None without one); ``comparison``: the step's ``report.json`` and, under
        ``table``, its ``comparison.csv`` (None without that step).

    Raises
    ------
    InputError
        If the folder is missing, holds no step, or a file in it is damaged.
    """
    run_dir = resolve(run_dir)
    folders = sorted(path for path in run_dir.glob("[0-9][0-9]_*") if _is_step(path))
    if not folders:
        raise InputError(
            f"{run_dir} holds no finished step: run the chain first (make run "
            f"PROFILE={run_dir.name})."
        )
    steps = {}
    for folder in folders:
        steps[folder.name] = {
            "metrics": _read_json(folder / "metrics.json"),
            "figures": [
                {"file": png.relative_to(run_dir).as_posix(), "caption": caption(png)}
                for png in sorted(folder.glob("*.png"))
            ],
            "made_by": _made_by(folder),
        }
    comparison = _read_json(run_dir / COMPARISON / "report.json")
    if comparison is not None:
        table = pd.read_csv(run_dir / COMPARISON / "comparison.csv", dtype={"label": str})
        comparison["table"] = plain(table)
    return {"profile": run_dir.name, "steps": steps, "comparison": comparison}


def _is_step(folder: Path) -> bool:
    # A killed step leaves NN_name.partial; a failed one NN_name.failed.
    return folder.is_dir() and "." not in folder.name


def _read_json(path: Path):
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is damaged ({error}): run its step again.") from None


def _made_by(folder: Path) -> dict | None:
    if not (folder / receipts.NAME).is_file():
        return None
    receipt = receipts.read(folder)
    return {"commit": receipt["git"]["commit"], "library": receipt["library"]}


def caption(png: str | Path) -> str:
    """Caption that `lib.figures.style.show` put into a figure; empty if there is none."""
    with Image.open(png) as image:
        return image.info.get("Description", "")


def numbers(report: dict) -> pd.Series:
    """All numbers of a report by dotted name, e.g. ``03_train_b0.accuracy``.

    Returns
    -------
    Series of float
        Truth values, texts and figures are left out, and the numbers per class of the runs that
        the comparison has cell by cell.
    """
    compared = set()
    found = {name: flatten(step["metrics"]) for name, step in report["steps"].items()}
    if report["comparison"] is not None:
        compared = {row["run"] for row in report["comparison"]["table"]}
        found[COMPARISON] |= flatten(
            {k: v for k, v in report["comparison"].items() if k != "table"}
        )
    rows = {
        f"{step}.{name}": number
        for step, values in found.items()
        for name, number in values.items()
        if step not in compared or ".classes." not in name
    }
    return pd.Series(rows, dtype=float, name=report["profile"])


def number_table(report: dict) -> pd.DataFrame:
    """All numbers of a report as a table with the columns `number` and `value`, as text."""
    table = numbers(report).map("{:.6g}".format).rename("value").rename_axis("number")
    return table.reset_index()


def flatten(data, prefix: str = "") -> dict[str, float]:
    """Numbers in nested dicts and lists by dotted name; texts and truth values are left out.

    An entry of a list is named by its own texts, e.g. the label of a table's row, where they tell
    all entries apart, else by its place from 0.
    """
    if isinstance(data, list):
        data = dict(zip(_entry_names(data), data, strict=True))
    if isinstance(data, dict):
        return {
            name: number
            for key, value in data.items()
            for name, number in flatten(value, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    is_number = isinstance(data, int | float) and not isinstance(data, bool)
    return {prefix: float(data)} if is_number else {}


def _entry_names(entries: list) -> list[str]:
    names = [
        " ".join(value for value in entry.values() if isinstance(value, str))
        if isinstance(entry, dict)
        else ""
        for entry in entries
    ]
    apart = all(names) and len(set(names)) == len(names)
    return names if apart else [str(place) for place in range(len(entries))]


def beside_paper(report: dict) -> pd.DataFrame:
    """The report's cell-by-cell comparison with the paper, formatted for reading."""
    table = pd.DataFrame(report["comparison"]["table"])
    bounds = zip(table["low"], table["high"], strict=True)
    return pd.DataFrame(
        {
            "run": table["run"],
            "protocol": table["protocol"],
            "m": table["label"],
            "metric": table["metric"],
            "n": table["n"],
            "ours": table["ours"].map(_three),
            "interval": ["" if pd.isna(a) else f"{a:.3f} to {b:.3f}" for a, b in bounds],
            "paper": table["paper"].map(_three),
            "difference": table["difference"].map(lambda x: "" if pd.isna(x) else f"{x:+.3f}"),
            "inside": table["inside"].map({True: "yes", False: "no"}).fillna(""),
        }
    )


def _three(value: float | None) -> str:
    return "" if pd.isna(value) else f"{value:.3f}"


def as_markdown(report: dict) -> str:
    """Page with the comparison, all numbers and all figures with their captions."""
    lines = [f"# Report of the run {report['profile']}", ""]
    if report["comparison"] is not None:
        lines += ["## Beside the paper's Table 3", "", markdown(beside_paper(report)), ""]
    lines += ["## All numbers", "", markdown(number_table(report)), ""]
    for name, step in report["steps"].items():
        if step["figures"]:
            lines += [f"## Figures of {name}", ""]
        for figure in step["figures"]:
            text = figure["caption"]
            alternative = text.replace("[", "(").replace("]", ")")
            # A figure without a receipt was made by hand, and can be traced no further.
            source = f" [receipt]({name}/{receipts.NAME})" if step["made_by"] else ""
            lines += [f"![{alternative}]({figure['file']})", "", f"*{text}*{source}", ""]
    return "\n".join(lines)


def markdown(table: pd.DataFrame) -> str:
    """Table in Markdown (pandas' own writer needs one more package)."""
    rows = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in r) + " |" for r in rows)


def write(run_dir: str | Path) -> dict:
    """Write ``report.json`` and ``report.md`` into a run's folder and return the report."""
    run_dir = resolve(run_dir)
    report = plain(gather(run_dir))
    write_json(run_dir / "report.json", report)
    with atomic(run_dir / "report.md") as temporary:
        temporary.write_text(as_markdown(report), encoding="utf-8")
    return report


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.report", description=__doc__)
    parser.add_argument("run_dirs", nargs="+", metavar="run_dir", help="e.g. runs/mock")
    try:
        reports = [write(run_dir) for run_dir in parser.parse_args(arguments).run_dirs]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for report in reports:
        if report["comparison"] is not None:
            print(f"{report['profile']}: beside the paper's Table 3")
            print(beside_paper(report).to_string(index=False), end="\n\n")
    table = pd.concat([numbers(report) for report in reports], axis=1).sort_index()
    print(table.to_string(float_format="{:.4g}".format, na_rep=""))
    for run_dir in parser.parse_args(arguments).run_dirs:
        print(f"written: {resolve(run_dir) / 'report.json'} and report.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
