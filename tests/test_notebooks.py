"""The contract of notebooks: paired, parametrised, told in words, and short."""

import re

import jupytext
import nbformat
import papermill
import pytest
from conftest import ROOT

from lib import paths
from lib.workflow import profiles, receipts

FOLDER = ROOT / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
FEWEST = 15
CELLS = 45
"""Most cells of a notebook."""
LONGER = {"00_mock_survey": (11, 26)}
"""Median and longest code cell, where they have more than 8 and 20 lines; to be cut."""
PARAMETERS = 12
HARDWARE = {"precision", "accumulate", "jit", "devices"}


@pytest.fixture(params=SOURCES, ids=lambda p: p.stem)
def source(request):
    return request.param


def code(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def tagged(source, *tags):
    return [c for c in code(jupytext.read(source)) if {*tags} & {*c.metadata.get("tags", [])}]


def test_no_notebook_has_gone_missing():
    assert len(SOURCES) >= FEWEST
    assert {p.stem for p in SOURCES} == {p.stem for p in FOLDER.glob("*.ipynb")}


def test_one_parameters_cell_with_a_comment_for_each_few(source):
    """One comment may tell of a parameter and of the same for V2M."""
    defaults = profiles.default_parameters(source.stem)
    assert defaults["run_dir"] == "runs/mock"
    assert defaults["output"] == source.stem
    for cell in tagged(source, "parameters", "hardware"):
        groups = re.split(r"(?:^#.*\n)+", cell.source, flags=re.MULTILINE)
        assert not groups[0] and len(groups) > 1, "no comment above the first parameter"
        assert max(len(re.findall(r"^\w+ = ", g, re.MULTILINE)) for g in groups) <= 3


def test_markdown_before_every_code_cell(source):
    cells = jupytext.read(source).cells
    for before, cell in zip([None, *cells], cells, strict=False):
        if cell.cell_type == "code":
            assert before is not None and before.cell_type == "markdown", cell.source


def test_the_title_has_the_number(source):
    first = jupytext.read(source).cells[0]
    assert first.cell_type == "markdown" and re.match(rf"# {source.stem[:2]}  ?\S", first.source)


def test_a_notebook_is_short(source):
    """Lines of code: comments and empty ones aside."""
    cells = jupytext.read(source).cells
    assert len(cells) <= CELLS
    lengths = sorted(
        len([line for line in c.source.splitlines() if line.strip() and line.lstrip()[0] != "#"])
        for c in cells
        if c.cell_type == "code"
    )
    median, longest = LONGER.get(source.stem, (8, 20))
    assert lengths[len(lengths) // 2] <= median and lengths[-1] <= longest, lengths


def names_in(cell):
    return re.findall(r"^(\w+) = ", cell.source, re.MULTILINE)


@pytest.mark.parametrize("step", ["03_train_b0", "04_train_v2m"])
def test_trainings_have_few_parameters_and_hardware_apart(step):
    (cell,) = tagged(FOLDER / f"{step}.py", "parameters")
    assert len(names_in(cell)) <= PARAMETERS and not HARDWARE & {*names_in(cell)}


def test_a_profile_may_describe_the_hardware():
    (cell,) = tagged(FOLDER / "04_train_v2m.py", "hardware")
    assert set(names_in(cell)) == HARDWARE
    profiles.check_parameters("04_train_v2m", {"precision": "mixed_float16", "devices": "all"})


def test_loops_of_trainings_can_be_divided():
    """What `run --part` needs: the parameter, and the cell up to which it runs."""
    divided = {path.stem for path in SOURCES if tagged(path, "trainings")}
    assert divided == {p.stem for p in SOURCES if "part" in profiles.default_parameters(p.stem)}
    flow = (ROOT / "Snakefile").read_text()
    (loops,) = re.findall(r"^LOOPS = \((.*)\)$", flow, re.MULTILINE)
    assert divided == set(re.findall(r"\w+", loops))


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
    assert not any(profiles.load("mock").overrides.values())


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
        assert (told["backbone_name"], told["crop"]) == (backbone, 224)
        assert (told["learning_rate"], told["epochs"]) == (1e-4, 50)
        assert "batch_size=16" in (FOLDER / f"{step}.py").read_text()
