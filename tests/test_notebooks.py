"""The contract of notebooks: paired, parametrised, told in words, and without functions."""

import ast
import re

import jupytext
import nbformat
import papermill
import pytest
from conftest import ROOT

from lib import paths, sweeps
from lib.workflow import profiles, receipts

FOLDER = ROOT / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
FEWEST = 14


@pytest.fixture(params=SOURCES, ids=lambda p: p.stem)
def source(request):
    return request.param


def code(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def test_no_notebook_has_gone_missing():
    assert len(SOURCES) >= FEWEST
    assert {p.stem for p in SOURCES} == {p.stem for p in FOLDER.glob("*.ipynb")}


def test_pair_agrees_in_content(source):
    left = [(c.cell_type, c.source) for c in jupytext.read(source).cells]
    rendered = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    right = [(c.cell_type, c.source) for c in rendered.cells]
    assert left == right, f"run: jupytext --to ipynb --update notebooks/{source.name}"


def test_one_parameters_cell_with_a_comment_per_parameter(source):
    defaults = profiles.default_parameters(source.stem)
    assert defaults["run_dir"] == "runs/mock"
    assert defaults["output"] == source.stem
    (cell,) = [c for c in code(jupytext.read(source)) if "parameters" in c.metadata.get("tags", [])]
    lines = cell.source.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\w+ = ", line):
            assert number and lines[number - 1].startswith("#"), f"no comment above: {line}"


def test_markdown_before_every_code_cell(source):
    cells = jupytext.read(source).cells
    for before, cell in zip([None, *cells], cells, strict=False):
        if cell.cell_type == "code":
            assert before is not None and before.cell_type == "markdown", cell.source


def test_no_function_is_defined(source):
    for cell in code(jupytext.read(source)):
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(
                node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
            ), cell.source


def test_headings_are_numbered_in_order(source):
    cells = jupytext.read(source).cells
    assert cells[0].cell_type == "markdown"
    title, *_ = cells[0].source.splitlines()
    assert re.match(rf"# {source.stem[:2]}  ?\S", title), title
    headings = [
        line
        for cell in cells[1:]
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if re.match(r"#+ ", line)
    ]
    numbers = []
    for heading in headings:
        match = re.match(r"(##|###) (\d+(?:\.\d+)?)\.? \S", heading)
        assert match, f"not numbered: {heading}"
        assert (match[1] == "###") == ("." in match[2]), heading
        numbers.append(tuple(int(n) for n in match[2].split(".")))
    assert numbers == sorted(set(numbers))
    assert headings[1].endswith("Import packages") and headings[2].endswith("Define parameters")


def test_cells_are_short(source):
    lengths = sorted(len(c.source.splitlines()) for c in code(jupytext.read(source)))
    assert lengths[len(lengths) // 2] <= 8


def test_the_training_notebooks_differ_in_their_role_and_parameters_only():
    """03 and 04 share their cells: what is mended in one has to be mended in the other."""
    b0, v2m = (
        [
            c.source.replace("B0", "V2M")
            for c in code(jupytext.read(FOLDER / f"{step}.py"))
            if "parameters" not in c.metadata.get("tags", [])
        ]
        for step in ("03_train_b0", "04_train_v2m")
    )
    assert b0 == v2m
    names = [list(profiles.default_parameters(s)) for s in ("03_train_b0", "04_train_v2m")]
    assert names[0] == names[1]


def test_rendered_notebooks_were_run_without_errors(source):
    rendered = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert all(c.execution_count is not None for c in code(rendered)), "run make docs"
    line = code(rendered)[0].outputs[0]["data"]["text/markdown"]
    assert re.match(r"\*\*(REAL|SIMULATED) galaxies\*\*.* · profile `\w+`.* · run time \d+", line)
    assert not [o for c in code(rendered) for o in c.outputs if o.output_type == "error"]
    assert source.with_suffix(".ipynb").stat().st_size < 2_000_000


@pytest.mark.parametrize("name", profiles.names())
def test_profiles_are_valid(name):
    profile = profiles.load(name)
    assert profile.description and set(profile.steps).isdisjoint(profile.skipped)


def test_every_notebook_default_is_the_mock_profile():
    """But for the sweeps, which are gathered from where the profile has put them."""
    for step, changed in profiles.load("mock").overrides.items():
        assert set(changed) <= {sweeps.PARAMETER}, step


def test_by_hand_the_results_of_the_chain_stay(tmp_path, monkeypatch):
    """A notebook reads what the chain has made, and writes elsewhere."""
    monkeypatch.setenv("SPIRAL_ARMS_ROOT", str(tmp_path))
    monkeypatch.delenv("SPIRAL_ARMS_OUTPUT", raising=False)
    made = tmp_path / "runs" / "mock" / "02_preprocessing"
    made.mkdir(parents=True)
    assert paths.step_folder("runs/mock", "02_preprocessing") == made
    out = paths.output_folder("runs/mock", "02_preprocessing")
    assert out == tmp_path / "runs" / "lab" / "02_preprocessing" and out.is_dir()
    monkeypatch.setenv("SPIRAL_ARMS_OUTPUT", str(tmp_path / "staging"))
    assert paths.output_folder("runs/mock", "02_preprocessing") == tmp_path / "staging"


@pytest.mark.chain
def test_a_notebook_run_by_hand_leaves_the_chain_as_it_was(smoke, tmp_path, monkeypatch):
    monkeypatch.setenv("SPIRAL_ARMS_ROOT", str(smoke[1].parent.parent))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    nbformat.write(jupytext.read(FOLDER / "01_sample_selection.py"), tmp_path / "in.ipynb")
    changed = {"run_dir": "runs/smoke", "data_dir": "runs/smoke/00_mock_survey", "seed": 7}
    changed["allow_empty"] = True
    papermill.execute_notebook(
        tmp_path / "in.ipynb", tmp_path / "out.ipynb", changed, kernel_name="python3"
    )
    assert (smoke[1].with_name("lab") / "01_sample_selection" / "sample.parquet").is_file()
    assert receipts.verify(smoke[1] / "01_sample_selection") == []


def test_the_paper_s_networks_are_those_of_profile_gz2():
    """Sec. 3: EfficientNetB0 and V2-M at 224 px, Adam at 1e-4; its figures show 50 epochs."""
    gz2 = profiles.load("gz2").overrides
    for step, backbone in (("03_train_b0", "EfficientNetB0"), ("04_train_v2m", "EfficientNetV2M")):
        told = profiles.default_parameters(step) | gz2[step]
        assert (told["backbone"], told["crop"], told["view"]) == (backbone, 224, "sky")
        assert (told["learning_rate"], told["epochs"], told["batch_size"]) == (1e-4, 50, 16)
