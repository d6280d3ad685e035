"""Rendered notebooks: the reviewed source with the outputs of a run, and nothing else."""

import jupytext
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_output

from lib import rendering
from lib.paths import project_root
from lib.schema import InputError

SOURCE = """# %% [markdown]
# # 01  A notebook

# %% tags=["parameters"]
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
