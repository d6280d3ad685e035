"""Rendered notebooks: the reviewed source with the outputs of a run, and nothing else."""

import json
import shutil

import jupytext
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_output

from lib import profiles, rendering
from lib.paths import project_root
from lib.schema import InputError

SOURCE = """# %% [markdown]
# # 01  A notebook

# %% tags=["parameters"]
run_dir = "runs/mock"
rows = 3

# %%
print(rows)
"""


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
        new_output("stream", name="stdout", text=f"{project_root()}/runs/mock"),
    ]
    run.cells[3].execution_count = 3
    run.metadata["papermill"] = {"duration": 1.0}
    executed = tmp_path / "executed.ipynb"
    nbformat.write(run, executed)
    return source, executed


def test_outputs_come_from_the_run_and_code_from_the_source(pair):
    notebook = rendering.render(*pair)
    assert [c.source for c in notebook.cells] == [c.source for c in jupytext.read(pair[0]).cells]
    (output,) = notebook.cells[-1].outputs
    assert output["text"] == "runs/mock"
    assert notebook.cells[-1].execution_count == 3
    assert "papermill" not in notebook.metadata
    nbformat.validate(notebook)


def test_without_a_run_there_are_no_outputs(pair):
    notebook = rendering.render(pair[0], None)
    assert not [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]


def test_a_run_of_another_version_is_refused(pair):
    pair[0].write_text(SOURCE.replace("rows = 3", "rows = 5"))
    with pytest.raises(InputError, match="another version of 01_a.py"):
        rendering.render(*pair)


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
    (step / "receipt.json").write_text(json.dumps({"outputs": {}, "git": {"commit": "0123"}}))
    monkeypatch.setenv("SPIRAL_ARMS_ROOT", str(tmp_path))
    return folder, step


def test_another_profile_is_taken_where_the_first_has_not_the_step(project):
    folder, step = project
    notebook = rendering.render_from(profiles.load("mock"), folder / "01_a.py")
    assert notebook.cells[-1].execution_count == 3 and rendering.was_run(notebook) is False
    origin = {"profile": "other", "description": "the other run", "commit": "0123"}
    assert notebook.metadata[rendering.ORIGIN] == origin


def test_a_step_of_the_profile_must_have_been_run(project):
    with pytest.raises(InputError, match="02_b.ipynb is missing: make run PROFILE=mock"):
        rendering.render_from(profiles.load("mock"), project[0] / "02_b.py")


def test_outputs_are_kept_where_no_run_is_here(project):
    folder, step = project
    source = folder / "01_a.py"
    nbformat.write(
        rendering.render_from(profiles.load("mock"), source), source.with_suffix(".ipynb")
    )
    shutil.rmtree(step)
    kept = rendering.render_from(profiles.load("mock"), source)
    assert kept.cells[-1].outputs and kept.metadata[rendering.ORIGIN]["profile"] == "other"
    source.write_text(SOURCE.replace("rows = 3", "rows = 5"))
    stale = rendering.render_from(profiles.load("mock"), source)
    assert not stale.cells[-1].outputs and rendering.ORIGIN not in stale.metadata
