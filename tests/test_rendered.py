"""Rendered notebooks: the reviewed source with the outputs of a run, and nothing else."""

import json
import os
import shutil

import jupytext
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_output
from tornado.web import HTTPError

from lib.paths import project_root
from lib.schema import InputError
from lib.workflow import book, profiles

SOURCE = """# %% [markdown]
# # 01  A notebook

# %% tags=["parameters"]
run_dir = "runs/mock"
rows = 3

# %%
print(rows)
"""


RECEIPT = {
    "outputs": {},
    "inputs": {"notebook": ""},
    "parameters": {"n_galaxies": 1800},
    "wall_seconds": 65.0,
    "git": {"commit": "0123456789"},
}


@pytest.fixture
def pair(tmp_path):
    """A source, and its copy as papermill leaves it."""
    source = tmp_path / "01_a.py"
    source.write_text(SOURCE)
    run = jupytext.read(source)
    injected = new_code_cell("rows = 4", metadata={"tags": ["injected-parameters"]})
    run.cells.insert(2, injected)
    run.cells[3].outputs = [
        new_output("stream", name="stderr", text="a library loads"),
        new_output("execute_result", {"text/plain": "<a.History at 0x7f10>"}),
        new_output("stream", name="stdout", text=f"{project_root()}/runs/mock"),
    ]
    run.cells[3].execution_count = 3
    run.metadata["papermill"] = {"duration": 1.0}
    executed = tmp_path / "executed.ipynb"
    nbformat.write(run, executed)
    return source, executed


def test_outputs_come_from_the_run_and_code_from_the_source(pair):
    notebook = book.render(*pair)
    assert [c.source for c in notebook.cells] == [c.source for c in jupytext.read(pair[0]).cells]
    (output,) = notebook.cells[-1].outputs
    assert output["text"] == "runs/mock"
    assert notebook.cells[-1].execution_count == 3
    assert "papermill" not in notebook.metadata
    nbformat.validate(notebook)


def test_a_reader_sees_the_parameters_that_made_the_outputs(pair):
    source, executed = pair
    notebook = book.render(source, executed, "**SIMULATED galaxies**")
    line, values = (output["data"]["text/markdown"] for output in notebook.cells[1].outputs)
    assert line == "**SIMULATED galaxies**"
    assert values.splitlines()[1:] == ["```python", "rows = 4", "```"]


def test_jupyterlab_opens_the_pair_with_what_only_the_run_knows(pair):
    """It refuses a pair whose .ipynb is the newer file and has other cells than the .py."""
    source, executed = pair
    source.write_text(
        "# ---\n# jupyter:\n#   jupytext:\n#     formats: ipynb,py:percent\n# ---\n" + SOURCE
    )
    rendered = book.render(source, executed, "made by")
    nbformat.write(rendered, source.with_suffix(".ipynb"))
    os.utime(source, (0, 0))
    contents = jupytext.TextFileContentsManager(root_dir=str(source.parent))
    opened = contents.get("01_a.ipynb")["content"]
    assert opened.cells[1].outputs == rendered.cells[1].outputs
    rendered.cells.insert(1, new_code_cell("rows = 4"))
    nbformat.write(rendered, source.with_suffix(".ipynb"))
    with pytest.raises(HTTPError, match="rows = 4"):
        contents.get("01_a.ipynb")


def test_a_run_of_another_version_is_refused(pair):
    pair[0].write_text(SOURCE.replace("rows = 3", "rows = 5"))
    with pytest.raises(InputError, match="another version of 01_a.py"):
        book.render(*pair)


@pytest.fixture
def project(pair, tmp_path, monkeypatch):
    """A project with the notebook of `pair`, which only its profile `other` has run."""
    source, executed = pair
    folder = tmp_path / "notebooks"
    (folder / "profiles").mkdir(parents=True)
    shutil.move(source, folder / source.name)
    (folder / "02_b.py").write_text(SOURCE.replace("01  A", "02  B"))
    for name, step in (("mock", "02_b"), ("other", "01_a")):
        text = f"description: the {name} run\nsteps: [{step}]\n"
        (folder / "profiles" / f"{name}.yaml").write_text(text)
    step = tmp_path / "runs" / "other" / "01_a"
    step.mkdir(parents=True)
    shutil.move(executed, step / "01_a.ipynb")
    (step / "receipt.json").write_text(json.dumps(RECEIPT))
    monkeypatch.setenv("SPIRAL_ARMS_ROOT", str(tmp_path))
    return folder, step


LINE = "**SIMULATED galaxies**: 1,800 · profile `other` (the other run) · run time 65 s · commit "


def test_a_run_of_it_is_taken(project):
    folder, step = project
    notebook, origin = book.render_from_runs(folder / "01_a.py")
    assert notebook.cells[-1].execution_count == 3
    assert notebook.cells[1].outputs[0]["data"]["text/markdown"] == LINE + "0123456"
    assert origin == "profile other"


def test_real_galaxies_come_first_and_stale_runs_do_not_count(project):
    folder, step = project
    source = folder / "01_a.py"
    shutil.copytree(step, step.parent.parent / "real" / "01_a")
    text = "description: d\nsteps: [01_a, 03_c]\n03_c: {survey: gz2}\n"
    (folder / "profiles" / "real.yaml").write_text(text)
    (folder / "03_c.py").write_text(SOURCE.replace("rows = 3", 'survey = "mock"'))
    assert book.render_from_runs(source)[1] == "profile real"
    stale = step.parent.parent / "real" / "01_a" / "01_a.ipynb"
    stale.write_text(stale.read_text().replace("rows = 3", "rows = 5"))
    assert book.render_from_runs(source)[1] == "profile other"


def test_outputs_are_kept_where_no_run_is_here(project):
    folder, step = project
    source = folder / "01_a.py"
    before, _ = book.render_from_runs(source)
    nbformat.write(before, source.with_suffix(".ipynb"))
    shutil.rmtree(step)
    kept, origin = book.render_from_runs(source)
    assert kept.cells == before.cells and origin.startswith("what is there")
    source.write_text(SOURCE.replace("rows = 3", "rows = 5"))
    stale, _ = book.render_from_runs(source)
    assert not [o for c in stale.cells for o in c.get("outputs", ())]


def test_the_line_names_data_networks_and_weights(project):
    """Of a step that reads two trainings of a survey of real galaxies."""
    folder, step = project
    (folder / "01_a.py").write_text(SOURCE.replace("rows = 3", 'rows = 3\nsurvey = "mock"'))
    (folder / "profiles" / "other.yaml").write_text(
        "description: d\nsteps: [01_a, 02_b, 03_c]\nall: {survey: gz2}\n"
    )
    for name, role, weights in (("02_b", "B0", "mock"), ("03_c", "V2M", "imagenet")):
        (folder / f"{name}.py").write_text(SOURCE)
        (step.parent / name).mkdir()
        card = {"role": role, "backbone": "PolarNet", "weights": weights}
        (step.parent / name / "model.json").write_text(json.dumps(card))
    receipt = {**RECEIPT, "inputs": {"02_b": "", "03_c": ""}, "parameters": {}, "wall_seconds": 600}
    (step / "receipt.json").write_text(json.dumps(receipt))
    sample = step.parent / "01_sample_selection"
    sample.mkdir()
    rows = {"rows": {"sample.parquet": 1226}}
    (sample / "receipt.json").write_text(json.dumps(RECEIPT | rows))
    assert book.made_by(profiles.load("other"), "01_a").split(" · ") == [
        "**REAL galaxies**: 1,226 in the sample",
        "profile `other` (d)",
        "B0: PolarNet (weights: bundled)",
        "V2M: PolarNet (weights: imagenet)",
        "run time 10 min",
        "commit 0123456",
    ]
