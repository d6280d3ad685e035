"""README and its neighbours: their commands are run somewhere, and their links lead somewhere."""

import os
import re
import shlex
import shutil
import subprocess

import nbformat
import numpy as np
import pytest
import yaml
from conftest import ROOT
from sklearn import metrics

from lib.workflow import book, profiles

PAGES = ["README.md", "CONTRIBUTING.md", "data/README.md", "docs/architecture.md"]
PAGES += ["docs/extending.md", "docs/clusters.md", "docs/glossary.md", "tests/benchmarks/README.md"]
COMMANDS = sorted(
    {
        command
        for page in PAGES
        for command in re.findall(r"(?:^|`)(make [^`\n]+)", (ROOT / page).read_text(), re.MULTILINE)
    }
)

# Target of make: what its recipe calls, and who runs that in CI.
RUN_BY = {
    "run": ("-m lib.workflow.steps chain", "test_readme.py::test_run_again_does_nothing"),
    "test": ('-m pytest -m "not slow"', ".ci/run::make test"),
    "lint": ("ruff check", ".ci/run::make lint"),
    "lab": ("jupyter lab", "test_readme.py::test_lab_opens_the_notebooks"),
    "book": ("-m sphinx", "test_book.py::sphinx"),
    "rulegraph": ("--rulegraph --forceall", "test_extending.py::test_the_drawing_is_of_this_flow"),
    "data": (
        "-m lib.workflow.download",
        "test_download.py::test_a_profile_gets_masses_where_it_has_the_step",
    ),
    "verify": ("-m lib.workflow.steps verify", "test_readme.py::test_verify_and_report_of_a_run"),
    "report": ("-m lib.workflow.report", "test_readme.py::test_verify_and_report_of_a_run"),
    "docs": ("-m lib.workflow.book", "test_readme.py::test_docs_of_a_run"),
    "kaggle": ("-m lib.workflow.kaggle", "test_readme.py::test_kaggle_builds_its_folders"),
    "predict": ("-m lib.predict run", "test_readme.py::test_predict_makes_a_catalogue"),
}
# These need a network or hours: their parts are tested, they themselves are not run in CI.
BY_HAND = {"lock", "weights", "bench", "test-all"}


def recipe(target, *settings):
    """Commands of a target's recipe, without those that install the environment."""
    command = ["make", "--dry-run", "--no-print-directory", "--old-file=.venv/.ready", target]
    # `make test` must not tell this make what it was told itself.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    dry = subprocess.run(
        [*command, *settings], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert dry.returncode == 0, dry.stderr
    return dry.stdout.replace("\\\n", " ").splitlines()


def call(line, folder):
    """Run a recipe's command in another project root."""
    command = shlex.split(line.replace(".venv/bin", f"{ROOT}/.venv/bin"))
    if not shutil.which(command[0]):
        pytest.skip("the environment is not in .venv: `make` has not installed it")
    environment = {**os.environ, "SPIRAL_ARMS_ROOT": str(folder), "PYTHONPATH": str(ROOT)}
    environment["KAGGLE_USERNAME"] = "somebody"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_commands_are_found():
    assert {"make run", "make test", "make lab"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_that_make_knows_and_somebody_runs(command):
    target, *settings = command.split()[1:]
    lines = recipe(target, *settings)
    if target in BY_HAND:
        return
    called, where = RUN_BY[target]
    assert called in " ".join(lines)
    file, name = where.split("::")
    path = ROOT / file if file.startswith(".ci") else ROOT / "tests" / file
    assert re.search(rf"^(def )?{name}\b", path.read_text(), re.MULTILINE), where


@pytest.mark.chain
def test_run_again_does_nothing(smoke, chain_checkout):
    (line,) = recipe("run", "PROFILE=smoke", "CORES=1")
    assert "nothing to do: every step of profile smoke" in call(line, chain_checkout)


def test_lab_opens_the_notebooks():
    """The line itself opens a browser and does not end; its options are those that Jupyter has."""
    (line,) = recipe("lab")
    folder = "--notebook-dir=notebooks"
    assert line.split()[1:] == ["lab", folder] and (ROOT / "notebooks").is_dir()
    assert folder.split("=")[0] in call(f"{line} --help", ROOT)


@pytest.mark.chain
def test_verify_and_report_of_a_run(smoke, chain_checkout):
    (line,) = recipe("verify", "PROFILE=smoke")
    assert "steps are as their receipts say" in call(line, chain_checkout)
    (line,) = recipe("report", "PROFILE=smoke")
    assert "Beside the paper's Table 3" in call(line, chain_checkout)
    assert (smoke[1] / "report.md").is_file()


@pytest.mark.chain
def test_docs_of_a_run(smoke, chain_checkout, monkeypatch):
    assert recipe("docs")[-1].endswith("-m lib.workflow.book")
    shutil.copy(ROOT / "README.md", chain_checkout)
    figure = "09_model_comparison/confusion_matrices.png"
    monkeypatch.setattr(book, "FIGURES", {"smoke": {figure: "smoke/confusion.png"}})
    monkeypatch.setenv("SPIRAL_ARMS_ROOT", str(chain_checkout))
    book.write()
    (report,) = book.read()
    accuracy = report["steps"]["03_train_b0"]["validation"]["scores"]["accuracy"]
    assert f"| {accuracy['value']:.3f} (" in (chain_checkout / "README.md").read_text()
    assert (
        "| ArmNet, amplitudes, vote head: test part |" in (chain_checkout / "README.md").read_text()
    )
    page = (chain_checkout / "docs" / "reports" / "smoke.md").read_text()
    assert "(../../figures/smoke/confusion.png)" in page and "**SIMULATED galaxies**" in page
    assert "B0: EfficientNetLite0 (weights: imagenet)" in page
    assert (chain_checkout / "figures" / "smoke" / "confusion.png").is_file()
    rendered = nbformat.read(chain_checkout / "notebooks" / "03_train_b0.ipynb", as_version=4)
    told = [
        o["data"]["text/markdown"]
        for c in rendered.cells
        for o in c.get("outputs", ())
        if "text/markdown" in o.get("data", {})
    ]
    assert told[0].startswith("**SIMULATED galaxies**") and "profile `smoke`" in told[0]
    assert "epochs = 2" in told[1]


def test_an_unfinished_run_is_not_kept(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    monkeypatch.setenv("SPIRAL_ARMS_ROOT", str(tmp_path))
    assert "00_mock_survey is missing" in book.keep("mock")
    assert not (tmp_path / "docs").exists()


def shown_in_readme(name="results"):
    """A table of README that is written from runs, row by row."""
    first, last = (mark.format(name) for mark in book.MARKS)
    text = (ROOT / "README.md").read_text().split(first)[1].split(last)[0]
    head, _, *rows = [
        [c.strip() for c in ln.strip("|").split("|")] for ln in text.split("\n") if ln
    ]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_results_are_those_of_the_reports():
    """Written by `make docs`: no number of the table is typed."""
    assert shown_in_readme() == book.table(book.read()).to_dict("records")
    assert shown_in_readme("conclusions") == book.conclusions().to_dict("records")


def test_scores_in_the_table_follow_from_the_confusion_matrices():
    """What README prints, from the counts in the reports by scikit-learn, to the printed digits."""
    for run in book.read():
        for role, step in (("B0", "03_train_b0"), ("V2M", "04_train_v2m")):
            matrix = np.array(run["steps"][step]["validation"]["confusion"])
            label, predicted = (
                np.repeat(i.ravel(), matrix.ravel()) for i in np.indices(matrix.shape)
            )
            scores = (
                metrics.accuracy_score(label, predicted),
                metrics.balanced_accuracy_score(label, predicted),
                metrics.f1_score(label, predicted, average="macro", zero_division=0),
            )
            (row,) = [
                row
                for row in shown_in_readme()
                if f"`{run['profile']}`" in row["data"]
                and (row["method"].split(":")[0], row["protocol"]) == (role, "published")
            ]
            assert row["n"] == str(matrix.sum())
            shown = [row[name].split(" ")[0] for name in book.SCORES.values()]
            assert shown == [f"{score:.3f}" for score in scores]


def test_figures_are_told_about():
    pages = "".join(p.read_text() for p in (ROOT / "docs" / "reports").glob("*.md"))
    for path in (ROOT / "figures").rglob("*.png"):
        assert f"(../../{path.relative_to(ROOT).as_posix()})" in pages


def test_papermill_is_told_parameters_that_the_notebook_has():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    ((notebook, given),) = re.findall(r"papermill notebooks/(\w+).ipynb out.ipynb (-p .+)", text)
    names = given.split()[1::3]
    assert names and set(names) <= profiles.default_parameters(notebook).keys()


CLUSTERS = re.findall(
    r"^(\.venv/bin/(?:snakemake|python -m lib)(?:.*\\\n)*.*)$",
    (ROOT / "docs" / "clusters.md").read_text(),
    re.MULTILINE,
)


def test_commands_for_clusters_are_found():
    assert len(CLUSTERS) >= 4


@pytest.mark.parametrize("command", CLUSTERS)
def test_commands_for_clusters_have_options_that_exist(command):
    """No more than that: tests/test_clusters.py submits jobs."""
    line = command.replace("\\\n", " ")
    program = shlex.split(line)[: 4 if "-m lib" in line else 1]
    known = call(" ".join([*program, "--help"]), ROOT)
    for option in re.findall(r"(?<= )--[a-z-]+", line):
        assert option in known


def test_kaggle_builds_its_folders(tmp_path):
    (line,) = recipe("kaggle", "PROFILE=smoke")
    call(line.replace("build/kaggle", str(tmp_path / "out")), ROOT)
    assert (tmp_path / "out" / "spiral-arms-smoke" / "kernel-metadata.json").is_file()


@pytest.mark.chain
def test_predict_makes_a_catalogue(smoke, chain_checkout, tmp_path):
    few = sorted((smoke[1] / "00_mock_survey" / "images").glob("*.jpg"))[:6]
    (tmp_path / "images").mkdir()
    for path in few:
        shutil.copy(path, tmp_path / "images")
    model = f"MODEL={smoke[1] / '03_train_b0'}"
    (line,) = recipe("predict", model, f"IMAGES={tmp_path / 'images'}", f"OUT={tmp_path / 'out'}")
    call(line, chain_checkout)
    assert list((tmp_path / "out").glob("*.parquet"))


def test_works_to_cite_are_complete():
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert content["license"] == "GPL-3.0-or-later"
    works = {work["title"]: work for work in content["references"]}
    for word in ("Spiral Arm Number", "Galaxy Zoo 2", "Zoobot", "Seventh Data Release", "masses"):
        (work,) = [work for title, work in works.items() if word in title]
        assert work["authors"] and work["year"] and (work.get("doi") or work.get("url")), word


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    text = (ROOT / page).read_text()
    targets = [t for t in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in t]
    missing = [t for t in targets if not ((ROOT / page).parent / t).exists()]
    assert not missing


def test_every_notebook_is_in_the_table():
    text = (ROOT / "README.md").read_text()
    for source in (ROOT / "notebooks").glob("[0-9][0-9]_*.py"):
        assert f"notebooks/{source.stem}.ipynb" in text
