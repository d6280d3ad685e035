"""What has been obtained: the reports and figures that are kept, and README's table of results.

``python -m lib.workflow.results`` renders the notebooks (`lib.workflow.rendering`) and takes what
is worth keeping from the finished runs of the profiles in `FIGURES`: reports into ``docs/reports``,
figures into ``figures``. README's table is then written anew from the reports that are there.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
from PIL import Image

from lib import evaluation, paper
from lib.paths import atomic, project_root, resolve
from lib.schema import InputError
from lib.workflow import profiles, receipts, rendering, report

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
    "mock": {"00_mock_survey/arm_classes.png": "arm_classes.png"},
}
"""Profiles whose runs are kept: figure of the run -> file in ``figures``."""

START, END = "<!-- results: written by make docs -->", "<!-- end of results -->"
BEYOND = "12_beyond_the_paper"
"""Step that tests the best arm counter on galaxies set aside."""
SCORES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}
PAPER = {
    "B0": ("EfficientNetB0, frozen", "Zoobot"),
    "V2M": ("EfficientNetV2-M, fine-tuned", "ImageNet"),
}
"""Networks of the paper and their weights at the start, Sec. 3."""


def keep(name: str) -> str:
    """Keep the report of a profile's run and the figures named in `FIGURES`.

    Returns a line that says so; an unfinished run is left alone, and the line says why.
    """
    profile, root = profiles.load(name), project_root()
    folder = resolve(profile.run_dir)
    missing = [out for out in profile.steps if not (folder / out / receipts.NAME).is_file()]
    if missing:
        return f"{profile.run_dir} is not finished ({missing[0]} is missing): nothing is taken"
    found = report.plain({**report.gather(folder), "rows": rows(profile)})
    text = report.page(found) + "\n## Figures\n"
    for figure, kept in FIGURES[name].items():
        with atomic(root / "figures" / kept) as temporary:
            shutil.copy(folder / figure, temporary)
        with Image.open(folder / figure) as image:
            caption = image.info.get("Description", "")  # by `lib.figures.style.show`
        source = rendering.made_by(profile, figure.split("/")[0])
        alternative = caption.replace("[", "(").replace("]", ")")
        text += f"\n![{alternative}](../../figures/{kept})\n\n*{caption}*\n\n"
        text += f"Notebook {figure[:2]}. {source}\n"
    report.write_json(root / REPORTS / f"{name}.json", found)
    with atomic(root / REPORTS / f"{name}.md") as temporary:
        temporary.write_text(text)
    return f"kept {REPORTS}/{name}.json, {name}.md and {len(FIGURES[name])} figure(s)"


def rows(profile: profiles.Profile) -> list[dict[str, str]]:
    """Rows of README's table for a finished run.

    All methods on the same galaxies (notebook 09), the networks as published (03, 04), and the best
    arm counter on galaxies that were set aside (12).

    Returns
    -------
    list of dict
        ``method``, ``data``, ``protocol``, ``decision``, ``n`` (galaxies), and those of `SCORES`
        with their 95 % intervals.
    """
    folder = resolve(profile.run_dir)
    data = f"{profile.description.split(',')[0]} (`{profile.name}`)"
    same = pd.read_csv(folder / report.COMPARISON / "same_galaxies.csv")
    found = []
    for (_, method, rule), part in same.groupby(["set", "method", "rule"], sort=False):
        about = {"method": method, "data": data, "protocol": "sound", "decision": rule}
        n = {"n": str(part["galaxies"].iloc[0])}
        found.append(about | n | _scores(part.set_index("metric")))
    for path in sorted(folder.glob("0[34]_*/model.json")):
        run = evaluation.read_run(path.parent)
        about = {"method": method_of(run.settings), "data": data, "protocol": run.protocol}
        n = {"decision": "arg-max", "n": str(len(run.part()))}
        found.append(about | n | _scores(evaluation.score_intervals(run.confusion())))
    return [*found, *_set_aside(folder / BEYOND, data)]


def method_of(settings: dict) -> str:
    """A trained network in words, from its settings."""
    how = "frozen" if settings["trainable"] == "frozen" else "fine-tuned"
    weights = rendering.weights_in_words(settings["weights"])
    shown = f"{settings['crop']} px {settings['colour']}"
    return f"{settings['role']}: {settings['backbone']}, {weights} weights, {how}, {shown}"


def _set_aside(folder: Path, data: str) -> list[dict[str, str]]:
    """The row of the arm counter on the galaxies that notebook 12 has set aside."""
    if not (folder / "test.csv").is_file():
        return []
    table = pd.read_csv(folder / "test.csv", index_col=["method", "score"])
    run = evaluation.read_run(folder / "arm_counter")
    about = {"method": "ArmNet, amplitudes, vote head: test part", "data": data}
    about |= {"protocol": "sound", "decision": "rare classes", "n": str(len(run.part()))}
    return [about | _scores(table.droplevel("method"))]


def _scores(table: pd.DataFrame) -> dict[str, str]:
    """Scores with their intervals as text, from their values and bounds."""
    return {
        shown: "{value:.3f} ({low:.3f} to {high:.3f})".format(**table.loc[score])
        for score, shown in SCORES.items()
    }


def table(runs: list[dict]) -> pd.DataFrame:
    """`rows` of all kept reports, and those of the paper from the counts behind its Table 3."""
    found = [row for run in runs for row in run["rows"]]
    for role, (network, weights) in PAPER.items():
        score = paper.deduced_scores(f"{role} down-sampled").iloc[0]
        low, high = evaluation.wilson(score["correct"], score["total"])
        found.append(
            {
                "method": f"{role}: {network}, {weights} weights, 224 px",
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
    return [json.loads(path.read_text()) for path in paths if path.is_file()]


def write_table(page: Path) -> None:
    """Put `table` between the two markers of a page.

    Raises
    ------
    InputError
        If a marker is missing.
    """
    before, start, rest = page.read_text().partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise InputError(f"{page} has no lines {START!r} and {END!r}: put them around its table")
    with atomic(page) as temporary:
        written = report.markdown(table(read()))
        temporary.write_text(f"{before}{START}\n{written}\n{END}{after}")


def main() -> int:
    """Render, keep what is finished, and write README's table; returns the exit status."""
    try:
        for line in rendering.render_all():
            print(line)
        for name in FIGURES:
            print(keep(name))
        write_table(project_root() / "README.md")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
