"""One report per run: every metric in ``report.json``, and the page ``report.md``.

``python -m lib.workflow.report runs/mock`` writes both and prints the page.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

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
        temporary.write_text(json.dumps(plain(data), indent=1, allow_nan=False) + "\n", "utf-8")


def gather(run_dir: str | Path) -> dict:
    """Collect the metrics of all steps of a run, and its comparison with the paper.

    Parameters
    ----------
    run_dir : path
        Folder of the run, e.g. ``runs/mock``.

    Returns
    -------
    dict
        ``profile``; ``steps``: name -> what its ``metrics.json`` has or, for the comparison,
        ``report.json`` (None without); ``comparison``: rows of the table beside the paper's.

    Raises
    ------
    InputError
        If the folder is missing, holds no step, or a file in it is damaged.
    """
    run_dir, steps = resolve(run_dir), {}
    # A killed step leaves NN_name.partial; a failed one NN_name.failed.
    for folder in (p for p in sorted(run_dir.glob("[0-9]*_*")) if p.is_dir() and not p.suffix):
        path = folder / ("report.json" if folder.name == COMPARISON else "metrics.json")
        try:
            steps[folder.name] = (
                json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
            )
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is damaged ({error}): run its step again.") from None
    if not steps:
        raise InputError(
            f"{run_dir} holds no finished step: run the chain first (make run "
            f"PROFILE={run_dir.name})."
        )
    table = run_dir / COMPARISON / "comparison.csv"
    rows = plain(pd.read_csv(table, dtype={"label": str})) if table.is_file() else []
    return {"profile": run_dir.name, "steps": steps, "comparison": rows}


def flatten(data, prefix: str = "") -> dict[str, float]:
    """Numbers in nested dicts and lists by dotted name; texts and truth values are left out.

    An entry of a list is named by its own texts, e.g. the label of a table's row, where they tell
    all entries apart, else by its place from 0.
    """
    if isinstance(data, list):
        rows = [entry if isinstance(entry, dict) else {} for entry in data]
        names = [" ".join(text for text in row.values() if isinstance(text, str)) for row in rows]
        apart = all(names) and len(set(names)) == len(names)
        data = dict(zip(names if apart else range(len(data)), data, strict=True))
    if isinstance(data, dict):
        return {
            name: number
            for key, value in data.items()
            for name, number in flatten(value, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    is_number = isinstance(data, int | float) and not isinstance(data, bool)
    return {prefix: float(data)} if is_number else {}


def beside_paper(report: dict) -> pd.DataFrame:
    """The report's cell-by-cell comparison with the paper, formatted for reading."""
    table = pd.DataFrame(report["comparison"]).rename(columns={"label": "m"})
    table["inside"] = table["inside"].map({True: "yes", False: "no"})
    table = table.map(lambda x: "" if pd.isna(x) else f"{x:.3f}" if isinstance(x, float) else x)
    table["interval"] = [f"{a} to {b}" if a else "" for a, b in zip(table["low"], table["high"])]
    return table[["run", "protocol", "m", "metric", "n", "ours", "interval", "paper", "inside"]]


def page(report: dict) -> str:
    """Page with the comparison with the paper and all numbers of what `gather` returns."""
    lines = [f"# Report of the run {report['profile']}", ""]
    if report["comparison"]:
        lines += [
            "## Beside the paper's Table 3",
            "",
            "*inside*: the paper's number lies in our 95 % interval. A run on other data or with "
            "other weights than the paper's need not agree.",
            "",
            markdown(beside_paper(report)),
            "",
        ]
    rows = [(name, f"{number:.6g}") for name, number in flatten(report["steps"]).items()]
    found = markdown(pd.DataFrame(rows, columns=["number", "value"]))
    return "\n".join([*lines, "## All numbers", "", found, ""])


def markdown(table: pd.DataFrame) -> str:
    """Table in Markdown (pandas' own writer needs one more package)."""
    rows = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in r) + " |" for r in rows)


def write(run_dir: str | Path) -> dict:
    """Write ``report.json`` and ``report.md`` into a run's folder and return the report."""
    report = gather(run_dir)
    write_json(resolve(run_dir) / "report.json", report)
    with atomic(resolve(run_dir) / "report.md") as temporary:
        temporary.write_text(page(report), "utf-8")
    return report


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.workflow.report", description=__doc__)
    parser.add_argument("run_dirs", nargs="+", metavar="run_dir", help="e.g. runs/mock")
    try:
        for run_dir in map(resolve, parser.parse_args(arguments).run_dirs):
            print(page(write(run_dir)))
            print(f"written: {run_dir / 'report.json'} and report.md")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
