"""Which code a notebook runs, and when that counts as changed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from lib.schema import InputError
from lib.workflow import code

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))

FILES = {
    "__init__.py": "",
    "ground.py": "ARMS = 1, 2, 3\n",
    "late.py": "",
    "alone.py": "",
    "figures/__init__.py": "from .style import colour\n",
    "figures/style.py": "from ..ground import ARMS\ncolour = 'red'\n",
    "figures/maps.py": "import lib.deep.inner\nimport numpy.linalg\n",
    "figures/unused.py": "",
    "deep/__init__.py": "",
    "deep/inner.py": "from lib.figures import maps  # in a circle\nfrom . import other\n",
    "deep/other.py": "",
    "workflow/__init__.py": "",
    "workflow/receipts.py": "from lib import alone\n",
}
NOTEBOOK = """# %% [markdown]
# # A notebook

# %%
import json
from lib.workflow import receipts
from lib.figures import maps, style as looks

def later(choice):
    match choice:
        case 1:
            try:
                import json
            except ImportError:
                if choice:
                    from lib import late
"""


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A small package `lib` in the place of the real one, and a notebook that imports from it."""
    for name, text in FILES.items():
        path = tmp_path / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "notebook.py").write_text(NOTEBOOK)
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "lib")
    code._read.cache_clear()
    yield tmp_path / "lib"
    code._read.cache_clear()


def closure(library):
    code._read.cache_clear()
    return code.closure(library.with_name("notebook.py"))


def test_every_form_of_import_is_followed_and_nothing_else(library):
    assert list(closure(library)) == [
        "lib/__init__.py",
        "lib/deep/__init__.py",
        "lib/deep/inner.py",
        "lib/deep/other.py",
        "lib/figures/__init__.py",
        "lib/figures/maps.py",
        "lib/figures/style.py",
        "lib/ground.py",
        "lib/late.py",
        "lib/workflow/__init__.py",
    ], "the runner's modules and what only they import do not count"
    assert "lib/figures/maps.py" in code.closure(library / "figures" / "maps.py")
    assert list(code.closure(library / "ground.py")) == ["lib/ground.py"]


WRITTEN = '''"""What it is for."""
# a comment
LIMIT = 3
"""What the limit is."""

class Galaxy:
    """One galaxy."""

    def arms(self, shares):
        """Number of arms."""
        return max(shares, key=shares.get)
'''
SAME = """LIMIT = (3)
class Galaxy:
  def arms( self, shares ):  # most votes
    return max(
        shares,
        key=shares.get,
    )
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max(", "min("),
        ("LIMIT = 3", "LIMIT = 3.0"),
        ("LIMIT = 3", "LIMIT = '3'"),
        ("LIMIT = 3", "LIMIT: int = 3"),
        ("LIMIT = 3\n", ""),
        ("return ", ""),
    ],
)
def test_code_has_changed_when_its_meaning_has(library, old, new):
    def hashed(text):
        (library / "ground.py").write_text(text)
        return closure(library)

    before = hashed(WRITTEN)
    assert hashed(SAME) == before
    assert hashed(WRITTEN.replace("One galaxy", "Another")) == before
    after = hashed(WRITTEN.replace(old, new))
    assert [name for name in before if before[name] != after[name]] == ["lib/ground.py"]


@pytest.mark.parametrize(("one", "other"), [("''", "None"), ("0", "False"), ("b''", "''")])
def test_constants_that_are_alike_are_told_apart(library, one, other):
    (library / "ground.py").write_text(f"x = {one}")
    before = closure(library)
    (library / "ground.py").write_text(f"x = {other}")
    assert closure(library) != before


def test_code_that_is_no_python_is_refused_by_name(library):
    (library / "ground.py").write_text("x = 1\ny = (")
    with pytest.raises(InputError, match=r"ground.py, line 2: '\(' was never closed"):
        closure(library)


# The imports of a notebook's cells, run in a process of their own.
IMPORTS = """
import ast, json, sys
tree = ast.parse(open(sys.argv[1], encoding="utf-8").read())
tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
exec(compile(tree, "imports", "exec"))
print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "lib"]))
"""


@pytest.mark.parametrize("number", ["01", "13"])
def test_the_closure_of_a_notebook_holds_what_python_imports(number):
    (notebook,) = (path for path in NOTEBOOKS if path.name.startswith(number))
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, str(notebook)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {Path(file).relative_to(ROOT).as_posix() for file in json.loads(done.stdout)}
    assert len(imported - code.RUNNERS) > 5
    assert imported - code.RUNNERS <= code.closure(notebook).keys()


STEP = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% tags=["parameters"]
run_dir = "runs/mock"
output = "{step}"

# %%
import numpy as np
import pandas as pd
from lib import paths
{imports}
out = paths.output_folder(run_dir, output)
(out / "result.txt").write_text(str({result}))
"""
# The label of a galaxy most of whose votes are for two arms.
LABEL = "selection._labelled(pd.DataFrame([[0, 1, 0, 0, 0, 0.0]], columns=RHO_COLUMNS))['label'][0]"


@pytest.fixture
def checkout(tmp_path):
    """A checkout with a copy of `lib`, and two steps, of which the first one labels a galaxy."""
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", tmp_path)
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    (tmp_path / "notebooks" / "profiles" / "mock.yaml").write_text(
        "{description: a test, steps: [00_mock_survey, 01_sample_selection]}"
    )
    imports = "from lib import selection\nfrom lib.schema import RHO_COLUMNS"
    for step, needs, result in (
        ("00_mock_survey", "", "1"),
        ("01_sample_selection", imports, LABEL),
    ):
        text = STEP.format(step=step, imports=needs, result=result)
        (tmp_path / "notebooks" / f"{step}.py").write_text(text)
    return tmp_path


def run(root, *command, code=0):
    """Run the steps of a checkout; what it printed, if it ended with that exit status."""
    environment = {**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "lib.workflow.steps", *command, "--profile", "mock"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def change(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.chain
def test_a_change_of_code_makes_the_steps_that_import_it_stale_and_no_other(checkout):
    other, labelling = (
        checkout / "runs" / "mock" / step for step in ("00_mock_survey", "01_sample_selection")
    )

    def times():
        return [(f / "receipt.json").stat().st_mtime_ns for f in (other, labelling)]

    change(
        checkout / "Snakefile",
        '"01_sample_selection": ["00_mock_survey"]',
        '"01_sample_selection": []',
    )
    run(checkout, "chain")
    assert (labelling / "result.txt").read_text() == "2"
    done = times()

    selection = checkout / "lib" / "selection.py"
    change(selection, "def _labelled", "# the label is what most have voted for\ndef _labelled")
    change(selection, '"""Votes with', '"""Table of votes with')
    with open(checkout / "lib" / "votes.py", "a") as file:
        file.write("\nUNUSED = 1\n")
    assert "all 2 steps are as" in run(checkout, "verify")
    assert "nothing to do" in run(checkout, "chain")
    assert times() == done

    change(selection, ".argmax(axis=1)\n    return", ".argmin(axis=1)\n    return")
    stale = "01_sample_selection was made before a change of lib/selection.py"
    printed = run(checkout, "verify", code=1)
    assert stale in printed and "00_mock_survey" not in printed
    printed = run(checkout, "chain")
    assert "01_sample_selection is stale: lib/selection.py changed since" in printed
    assert (labelling / "result.txt").read_text() == "1"
    assert times()[0] == done[0] and times()[1] > done[1]
    assert "nothing to do" in run(checkout, "chain")


@pytest.mark.slow
@pytest.mark.chain
def test_a_result_stays_until_other_code_has_made_a_better_one(checkout):
    """What a failing change has not replaced is fresh again when the change is taken back."""
    run(checkout, "chain")
    selection = checkout / "lib" / "selection.py"
    change(selection, "def _labelled(", "def _labeled(")
    assert "has no attribute '_labelled'" in run(checkout, "chain", code=1)
    assert "lib/selection.py" in run(checkout, "verify", code=1)
    change(selection, "def _labeled(", "def _labelled(")
    assert "all 2 steps are as" in run(checkout, "verify")
    assert "nothing to do" in run(checkout, "chain")
