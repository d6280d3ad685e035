"""What finished runs have given, to be read: rendered notebooks, reports, figures, README's table.

``python -m lib.workflow.book`` gives ``notebooks/NN_name.ipynb`` the outputs of a finished run, of
real galaxies if there is one; keeps the reports and figures of the profiles in `FIGURES`; and
writes README's table anew from the reports that are there. Where no run is here, a notebook keeps
its outputs as long as its source has not changed.

Code and words come from the reviewed source, ``notebooks/NN_name.py``: a cell that only the
``.ipynb`` had would unpair the two, and JupyterLab would not open them. What only the run knows is
therefore output: of the first code cell, what made the outputs; of the `parameters` cell, the
values that were not its own.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import jupytext
import nbformat
import pandas as pd
from nbformat.v4 import new_output
from PIL import Image

from lib import evaluation, paper
from lib.paths import atomic, project_root, resolve
from lib.schema import InputError
from lib.workflow import profiles, receipts, report
from lib.workflow.processes import exit_status

REPORTS = "docs/reports"
FIGURES = {
    "challenge": {
        "01_sample_selection/examples.png": "challenge/examples.png",
        "03_train_b0/learning_curves.png": "challenge/learning_curves_B0.png",
        "05_explainability/fig09_B0.png": "challenge/fig09_B0.png",
        "09_model_comparison/confusion_matrices.png": "challenge/confusion_matrices.png",
        "11_pretrain_backbone/probes.png": "challenge/weights.png",
        "12_beyond_the_paper/ablation.png": "challenge/ablation.png",
        "12_beyond_the_paper/curves.png": "challenge/learning_from_more.png",
        "12_beyond_the_paper/mistakes.png": "challenge/mistakes.png",
    },
}
"""Profiles whose runs are kept: figure of the run -> file in ``figures``."""

MARKS = "<!-- {}: written by make docs -->", "<!-- end of {} -->"
"""Lines around what is written into README."""
CONCLUSIONS = (
    *("14_paper_audit", "06_stellar_mass", "12_beyond_the_paper"),
    *("05_explainability", "08_class_balance"),
)
"""Notebooks whose main result README gives."""
AUDIT = "14_paper_audit"
BEYOND = "12_beyond_the_paper"
"""Step that tests the best arm counter on galaxies set aside."""
SCORES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}
PAPER = {
    "B0": "EfficientNetB0, frozen, Zoobot weights",
    "V2M": "EfficientNetV2-M, fine-tuned, ImageNet weights",
}
"""Networks of the paper and their weights at the start, Sec. 3."""
WEIGHTS = {"mock": "bundled", "votes": "bundled, with real votes", "none": "random"}
"""Sources of weights in words, where their names say too little."""


def render(source: Path, executed: Path, made_by: str | None = None) -> nbformat.NotebookNode:
    """A notebook's source (py:percent) with the outputs of its copy that papermill has executed.

    `made_by` says what made the outputs, as Markdown, for the first code cell. Raises InputError if
    the two differ in code or words: the source has changed since the run.
    """
    notebook, run = jupytext.read(source), nbformat.read(executed, as_version=4)
    injected = [c for c in run.cells if "injected-parameters" in c.metadata.get("tags", [])]
    cells = [cell for cell in run.cells if cell not in injected]
    if [c.source for c in cells] != [c.source for c in notebook.cells]:
        raise InputError(f"{executed} was run from another version of {source.name}: run it again")
    for number, (cell, done) in enumerate(zip(notebook.cells, cells, strict=True)):
        # Stable names, so that git shows only what has changed.
        cell["id"] = f"cell-{number:02d}"
        if cell.cell_type == "code":
            cell.execution_count = done.execution_count
            cell.outputs = [_without_root(output) for output in done.outputs if _tells(output)]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if made_by:
        code[0].outputs.insert(0, _words(made_by))
    for cell, new in zip([c for c in code if "parameters" in c.metadata.get("tags", [])], injected):
        said = new.source.removeprefix("# Parameters\n").strip()
        cell.outputs.append(_words(f"This run had other values:\n```python\n{said}\n```"))
    return notebook


def _tells(output: nbformat.NotebookNode) -> bool:
    """Whether a reader has use of it: not of stderr, nor of the name of an object."""
    data = output.get("data", {})
    name = re.fullmatch(r"<\S+ (object )?at 0x[0-9a-f]+>", data.get("text/plain", ""))
    return output.get("name") != "stderr" and not (name and len(data) == 1)


def _words(text: str) -> nbformat.NotebookNode:
    return new_output("display_data", {"text/markdown": text, "text/plain": text})


def _without_root(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An output in which files below the project are named from its root."""
    for place in (output, output.get("data", {})):
        for kind, content in place.items():
            if kind.startswith("text") and isinstance(content, str):
                place[kind] = content.replace(f"{project_root()}/", "")
    return output


def render_from_runs(source: Path) -> tuple[nbformat.NotebookNode, str]:
    """A notebook with the outputs of a finished run of it, and whose these are.

    Runs on real galaxies come first. A run of another version of the source does not count.
    """
    step = source.stem
    having = [profile for profile in map(profiles.load, profiles.names()) if step in profile.steps]
    for profile in sorted(having, key=_is_real, reverse=True):
        with suppress(InputError, FileNotFoundError):
            executed = resolve(profile.run_dir) / step / f"{step}.ipynb"
            return render(source, executed, made_by(profile, step)), f"profile {profile.name}"
    with suppress(InputError, FileNotFoundError):
        return render(source, source.with_suffix(".ipynb")), "what is there (no run of it is here)"
    return jupytext.read(source), "nothing (no run of it is here)"


def _is_real(profile: profiles.Profile) -> bool:
    """Whether a profile's galaxies are those of a survey, not simulated ones."""
    return any(profile.settings(s).get("survey", "mock") != "mock" for s in profile.steps)


def made_by(profile: profiles.Profile, step: str) -> str:
    """What made a step's outputs, in a line of Markdown, from its receipt.

    Simulated or real galaxies and their number, profile, networks with their weights at the start,
    time and commit.
    """
    run_dir = resolve(profile.run_dir)
    receipt, galaxies = receipts.read(run_dir / step), ""
    told, seconds, commit = (
        receipt["parameters"],
        receipt["wall_seconds"],
        receipt["git"]["commit"],
    )
    if "n_galaxies" in told:
        galaxies = f": {told['n_galaxies']:,}"
    elif (run_dir / "01_sample_selection" / receipts.NAME).is_file():
        sample = receipts.read(run_dir / "01_sample_selection")["rows"]["sample.parquet"]
        galaxies = f": {sample:,} in the sample"
    earlier = [run_dir / name / "model.json" for name in profile.steps if name in receipt["inputs"]]
    cards = sorted([*(run_dir / step).rglob("model.json"), *filter(Path.is_file, earlier)])
    networks = [
        f"{c['role']}: {c['backbone']} (weights: {WEIGHTS.get(c['weights'], c['weights'])})"
        for c in (json.loads(path.read_text(encoding="utf-8")) for path in cards)
    ]
    # Without a card: what is trained here, or the bundled weights that are read.
    others = [f"reads {name}" for name in receipt["inputs"] if name.endswith(".safetensors")]
    networks = networks or [*filter(None, [told.get("backbone")]), *others]
    parts = [
        f"**{'REAL' if _is_real(profile) else 'SIMULATED'} galaxies**{galaxies}",
        f"profile `{profile.name}` ({profile.description})",
        *dict.fromkeys(networks),
        f"run time {seconds:.0f} s" if seconds < 120 else f"run time {seconds / 60:.0f} min",
        *([f"commit {commit[:7]}"] if commit else []),
    ]
    return " · ".join(parts)


def keep(name: str) -> str:
    """Keep the report of a profile's run and the figures named in `FIGURES`.

    Returns a line that says so, and which steps or figures are missing; without the comparison of
    notebook 09 nothing is taken.
    """
    profile, root = profiles.load(name), project_root()
    folder = resolve(profile.run_dir)
    missing = [out for out in profile.steps if not (folder / out / receipts.NAME).is_file()]
    if report.COMPARISON in missing:
        return f"{profile.run_dir} is not finished ({missing[0]} is missing): nothing is taken"
    found = report.plain({**report.gather(folder), "rows": rows(profile)})
    figures = {f: kept for f, kept in FIGURES[name].items() if (folder / f).is_file()}
    missing += [f for f in FIGURES[name] if f not in figures and f.split("/")[0] not in missing]
    text = report.page(found) + scoreboard(folder) + "\n## Figures\n"
    for figure, kept in figures.items():
        with atomic(root / "figures" / kept) as temporary:
            shutil.copy(folder / figure, temporary)
        with Image.open(folder / figure) as image:
            caption = image.info.get("Description", "")  # by `lib.figures.style.show`
        alternative = caption.replace("[", "(").replace("]", ")")
        text += f"\n![{alternative}](../../figures/{kept})\n\n*{caption}*\n\n"
        text += f"Notebook {figure[:2]}. {made_by(profile, figure.split('/')[0])}\n"
    report.write_json(root / REPORTS / f"{name}.json", found)
    _write(root / REPORTS / f"{name}.md", text)
    without = f"; missing: {', '.join(missing)}" if missing else ""
    return f"kept {REPORTS}/{name}.json, {name}.md and {len(figures)} figure(s){without}"


def scoreboard(folder: Path) -> str:
    """The paper's figures and tables beside what a run has found (notebook 14), as Markdown."""
    path = folder / AUDIT / "scoreboard.csv"
    if not path.is_file():
        return ""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    step = table["notebook"]
    table["notebook"] = "[" + step.str[:2] + "](../../notebooks/" + step + ".ipynb)"
    return f"\n## Scoreboard of the paper's figures and tables\n\n{report.markdown(table)}\n"


def _write(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def rows(profile: profiles.Profile) -> list[dict[str, str]]:
    """Rows of README's table for a finished run.

    All methods on the same galaxies (notebook 09), the networks as published (03, 04), and the best
    arm counter on galaxies that were set aside (12): ``method``, ``data``, ``protocol``,
    ``decision``, ``n`` (galaxies), and those of `SCORES` with their 95 % intervals.
    """
    folder, found = resolve(profile.run_dir), []
    data = f"{profile.description.split(',')[0]} (`{profile.name}`)"

    def add(method: str, protocol: str, decision: str, n: int, scores: pd.DataFrame) -> None:
        row = {"method": method, "data": data, "protocol": protocol, "decision": decision}
        row["n"] = str(n)
        for score, shown in SCORES.items():
            row[shown] = "{value:.3f} ({low:.3f} to {high:.3f})".format(**scores.loc[score])
        found.append(row)

    same = pd.read_csv(folder / report.COMPARISON / "same_galaxies.csv")
    for (_, method, rule), part in same.groupby(["set", "method", "rule"], sort=False):
        add(method, "sound", rule, part["galaxies"].iloc[0], part.set_index("metric"))
    for path in sorted(folder.glob("0[34]_*/model.json")):
        run = evaluation.read_run(path.parent)
        scores = evaluation.score_intervals(run.confusion())
        add(method_of(run.settings), run.protocol, "arg-max", len(run.part()), scores)
    if (folder / BEYOND / "test.csv").is_file():
        table = pd.read_csv(folder / BEYOND / "test.csv", index_col=["method", "score"])
        n = len(evaluation.read_run(folder / BEYOND / "arm_counter").part())
        method = "ArmNet, amplitudes, vote head: test part"
        add(method, "sound", "rare classes", n, table.droplevel("method"))
    return found


def method_of(settings: dict) -> str:
    """A trained network in words, from its settings."""
    how = "frozen" if settings["trainable"] == "frozen" else "fine-tuned"
    weights = WEIGHTS.get(settings["weights"], settings["weights"])
    shown = f"{settings['crop']} px {settings['colour']}"
    return f"{settings['role']}: {settings['backbone']}, {weights} weights, {how}, {shown}"


def table(runs: list[dict]) -> pd.DataFrame:
    """`rows` of all kept reports, and those of the paper from the counts behind its Table 3."""
    found = [row for run in runs for row in run["rows"]]
    for role, network in PAPER.items():
        score = paper.deduced_scores(f"{role} down-sampled").iloc[0]
        low, high = evaluation.wilson(score["correct"], score["total"])
        found.append(
            {
                "method": f"{role}: {network}, 224 px",
                "data": "the paper: Galaxy Zoo 2",
                "protocol": "published",
                "decision": "arg-max",
                "n": f"{score['total']:.0f}",
                **{shown: f"{score[name]:.3f}" for name, shown in SCORES.items()},
                "accuracy": f"{score['accuracy']:.3f} ({low:.3f} to {high:.3f})",
            }
        )
    return pd.DataFrame(found)


def read() -> list[dict]:
    """The kept reports, real galaxies first."""
    paths = [project_root() / REPORTS / f"{name}.json" for name in FIGURES]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def conclusions() -> pd.DataFrame:
    """First line of what each of `CONCLUSIONS` has found, as rendered, if it has been run."""
    found = []
    for step in CONCLUSIONS:
        path = project_root() / "notebooks" / f"{step}.ipynb"
        outputs = [o for c in nbformat.read(path, as_version=4).cells for o in c.get("outputs", [])]
        told = [o["data"]["text/markdown"] for o in outputs if "text/markdown" in o.get("data", {})]
        if told:
            kind = "real" if told[0].startswith("**REAL") else "simulated"
            first = told[-1].split("\n")[0].removeprefix("- ")
            link = f"[{step[:2]}](notebooks/{step}.ipynb)"
            found.append({"notebook": link, "galaxies": kind, "main result": first})
    return pd.DataFrame(found)


def put(page: Path, name: str, found: pd.DataFrame) -> None:
    """Write a table between the two `MARKS` of a name in a page; InputError if one is missing."""
    first, last = (mark.format(name) for mark in MARKS)
    before, start, rest = page.read_text(encoding="utf-8").partition(first)
    _, end, after = rest.partition(last)
    if not (start and end):
        raise InputError(f"{page} has no lines {first!r} and {last!r}: put them around its table")
    _write(page, f"{before}{start}\n{report.markdown(found)}\n{end}{after}")


def write() -> None:
    """Render, keep what is finished, and write README's table."""
    for source in sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.py")):
        notebook, origin = render_from_runs(source)
        _write(source.with_suffix(".ipynb"), nbformat.writes(notebook) + "\n")
        print(f"rendered {source.stem} from {origin}")
    for name in FIGURES:
        print(keep(name))
    put(project_root() / "README.md", "results", table(read()))
    put(project_root() / "README.md", "conclusions", conclusions())


if __name__ == "__main__":
    sys.exit(exit_status(write))
