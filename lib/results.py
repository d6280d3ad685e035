"""What has been obtained: the reports and figures that are kept, and README's table of results.

``python -m lib.results`` takes what is worth keeping from the finished runs of the profiles in
`FIGURES`: reports into ``docs/reports``, figures into ``figures``, with a page that says how each
was made. README's table is then written anew from the reports that are there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import pandas as pd

from lib import evaluation, paper, profiles, receipts, report
from lib.paths import atomic, project_root, resolve
from lib.schema import InputError

REPORTS = "docs/reports"
FIGURES = {
    "mock": {"00_mock_survey/arm_classes.png": "arm_classes.png"},
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

START, END = "<!-- results: written by make docs -->", "<!-- end of results -->"
BEYOND = "12_beyond_the_paper"
"""Step that compares recipes."""

WEIGHTS = {"mock": "bundled", "votes": "bundled, with real votes", "none": "random"}
"""Words for sources of weights whose names say too little."""

SCORES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}
PAPER = {
    "B0": ("EfficientNetB0, frozen", "Zoobot"),
    "V2M": ("EfficientNetV2-M, fine-tuned", "ImageNet"),
}
"""Networks of the paper and their weights at the start, Sec. 3."""


def keep(name: str) -> list[str]:
    """Keep the report of a profile's run and the figures named in `FIGURES`.

    Parameters
    ----------
    name : str
        Profile.

    Returns
    -------
    list of str
        What was done, one line each; an unfinished run is left alone, and the line says why.
    """
    profile = profiles.load(name)
    folder = resolve(profile.run_dir)
    missing = [out for out in profile.outputs if not (folder / out / receipts.NAME).is_file()]
    if missing:
        return [f"{profile.run_dir} is not finished ({missing[0]} is missing): nothing is taken"]
    run = gather(profile)
    report.write_json(project_root() / REPORTS / f"{name}.json", run)
    done = [f"kept {REPORTS}/{name}.json"]
    for figure, kept in FIGURES[name].items():
        with atomic(project_root() / "figures" / kept) as temporary:
            shutil.copy(folder / figure, temporary)
        done.append(f"kept figures/{kept}")
    return done


def gather(profile: profiles.Profile) -> dict:
    """The report of a finished run, with its data in words and the networks behind its scores.

    Returns
    -------
    dict
        As `lib.report.gather`, with ``data`` (str) and ``networks``: training step, group of folds
        (as in ``comparison["cross_validation"]``) or recipe -> `facts`; ``recipes``: recipe ->
        scores.
    """
    folder = resolve(profile.run_dir)
    trained = [evaluation.read_run(f.parent) for f in sorted(folder.glob("[0-9]*/model.json"))]
    networks = {run.name: facts([run]) for run in trained}
    swept = [out for out, run in profile.sweep_runs.items() if run.sweep == report.COMPARISON]
    for folds in evaluation.fold_groups([evaluation.read_run(folder / out) for out in swept]):
        networks[f"{folds[0].settings['role']}, {evaluation.folds_name(folds)}"] = facts(folds)
    data = profile.description.split(",")[0]
    found = {**report.gather(folder), "data": data, "networks": networks, "recipes": {}}
    if (folder / BEYOND / "scores.csv").is_file():
        name, network, scores = recipe(folder / BEYOND)
        networks[name], found["recipes"][name] = network, scores
    return found


def recipe(folder: Path) -> tuple[str, dict[str, object], dict[str, dict[str, float]]]:
    """Name, `facts` and scores of the recipe that notebook 12 has compared, from its folder."""
    from lib import beyond  # which needs TensorFlow

    table = pd.read_csv(folder / "scores.csv", index_col=["method", "score"])
    predictions = pd.read_parquet(folder / "predictions.parquet", columns=["galaxy", "fold"])
    network = {"role": "recipe", "backbone": "ArmNet", "trainable": "frozen", "crop": beyond.SIZE}
    network |= {"colour": "rgb", "weights": "votes", "protocol": "sound", "split": "development"}
    network["galaxies"] = int(predictions["galaxy"].nunique())
    name = f"recipe `votes`, {predictions['fold'].nunique()} folds"
    return name, network, table.loc[beyond.RECIPE].loc[list(SCORES)].to_dict("index")


def facts(runs: list[evaluation.Run]) -> dict[str, object]:
    """What README's table says of a network: one run, or the folds of a cross-validation.

    Returns
    -------
    dict
        ``role``, ``protocol``, ``split``, ``galaxies`` (scored ones), ``backbone``, ``trainable``,
        ``crop``, ``colour``, ``weights``.
    """
    first = runs[0]
    names = ("role", "backbone", "trainable", "crop", "colour", "weights")
    scored = pd.concat([run.part()["galaxy_id"] for run in runs])
    return {
        **{name: first.settings[name] for name in names},
        "protocol": first.protocol,
        "split": first.reported_split,
        "galaxies": scored.nunique(),
    }


def table(runs: list[dict]) -> pd.DataFrame:
    """Results of all kept reports and of the paper, as text.

    Parameters
    ----------
    runs : list of dict
        What `gather` returned.

    Returns
    -------
    DataFrame
        Columns ``method``, ``data``, ``network``, ``weights at the start``, ``n`` (galaxies), and
        those of `SCORES` with their 95 % intervals.
    """
    rows = [_row(run, name) for run in runs for name in run["networks"]]
    return pd.DataFrame(rows + [_paper_row(role) for role in PAPER]).fillna("")


def _row(run: dict, name: str) -> dict[str, str]:
    network = run["networks"][name]
    if name in run["steps"]:
        method = f"{network['role']}, {network['protocol']}"
        scores = run["steps"][name]["metrics"][network["split"]]["scores"]
    else:
        method = f"{name}, {network['protocol']}"
        scores = {**run["comparison"]["cross_validation"], **run.get("recipes", {})}[name]
    trained = "frozen" if network["trainable"] == "frozen" else "fine-tuned"
    found = {shown: _with_interval(**scores[score]) for score, shown in SCORES.items()}
    return {
        "method": method,
        "data": f"{run['data']} (`{run['profile']}`)",
        "network": f"{network['backbone']}, {trained}, {network['crop']} px {network['colour']}",
        "weights at the start": _weights(network),
        "n": str(network["galaxies"]),
        **found,
    }


def _weights(network: dict) -> str:
    """Source of a network's weights, in the table's words."""
    return WEIGHTS.get(network["weights"], network["weights"])


def _paper_row(role: str) -> dict[str, str]:
    """The paper's scores on its down-sampled validation set, from the counts behind Table 3."""
    found = paper.deduced_scores(f"{role} down-sampled").iloc[0]
    low, high = evaluation.wilson(found["correct"], found["total"])
    network, weights = PAPER[role]
    return {
        "method": f"{role}, published",
        "data": "the paper: Galaxy Zoo 2",
        "network": network,
        "weights at the start": weights,
        "n": f"{found['total']:.0f}",
        **{shown: f"{found[score]:.3f}" for score, shown in SCORES.items()},
        "accuracy": _with_interval(found["accuracy"], low, high),
    }


def _with_interval(value: float, low: float, high: float, **_: float) -> str:
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def figure_page(runs: list[dict]) -> str:
    """Page about the kept figures: what each shows, and the data, networks and commit behind it."""
    lines = [
        "# Figures",
        "",
        "Written by `make docs` from the reports in `docs/reports`; `rulegraph.svg` is drawn by "
        "`make rulegraph` from the Snakefile.",
        "",
    ]
    for run in runs:
        for figure, kept in FIGURES[run["profile"]].items():
            if (project_root() / "figures" / kept).is_file():
                lines += _figure(run, figure, kept)
    return "\n".join(lines)


def _figure(run: dict, figure: str, kept: str) -> list[str]:
    step = figure.split("/")[0]
    (caption,) = [f["caption"] for f in run["steps"][step]["figures"] if f["file"] == figure]
    source = f"Notebook {step[:2]} on profile `{run['profile']}` ({run['data']})"
    made_by = run["steps"][step]["made_by"]
    if made_by and made_by["commit"]:
        source += f", commit {made_by['commit'][:7]}"
    # Selection and pre-processing come before any network.
    if step == BEYOND:
        source += ". Networks: ArmNet and PolarNet, trained as the notebook says"
    elif step >= "03":
        source += ". " + "; ".join(
            f"{network['role']}: {network['backbone']}, weights at the start: {_weights(network)}"
            for name, network in run["networks"].items()
            if name in run["steps"]
        )
    alternative = caption.replace("[", "(").replace("]", ")")
    return [f"## {kept}", "", f"![{alternative}]({kept})", "", f"*{caption}*", "", f"{source}.", ""]


def read() -> list[dict]:
    """The kept reports, real galaxies first."""
    paths = [project_root() / REPORTS / f"{name}.json" for name in reversed(FIGURES)]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def write_table(page: Path) -> None:
    """Put `table` between the two markers of a page.

    Raises
    ------
    InputError
        If a marker is missing.
    """
    text = page.read_text(encoding="utf-8")
    if START not in text or END not in text:
        raise InputError(f"{page} has no lines {START!r} and {END!r}: put them around its table")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    with atomic(page) as temporary:
        temporary.write_text(before + between_markers() + after, encoding="utf-8")


def between_markers() -> str:
    """The part of README that `write_table` writes, with its markers."""
    return f"{START}\n{report.markdown(table(read()))}\n{END}"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.results", description=__doc__)
    parser.parse_args(arguments)
    try:
        for name in FIGURES:
            print(*keep(name), sep="\n")
        with atomic(project_root() / "figures" / "README.md") as temporary:
            temporary.write_text(figure_page(read()), encoding="utf-8")
        write_table(project_root() / "README.md")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
