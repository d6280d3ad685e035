"""What is uploaded to Kaggle, and sessions there, in a simulated tree of folders."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import nbformat
import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement

from lib.schema import InputError
from lib.workflow import kaggle, profiles, receipts


def read_metadata(folder):
    return json.loads((folder / "kernel-metadata.json").read_text())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folders to upload for profile `gz2`."""
    return kaggle.build("gz2", tmp_path_factory.mktemp("kaggle"), "somebody")


def test_the_kernel_is_the_driver_on_two_t4_with_the_data_of_its_survey(built):
    code, kernel = built
    described = read_metadata(kernel)
    assert described["id"] == "somebody/spiral-arms-gz2"
    # Kaggle makes the address of the title, and refuses titles beyond these lengths.
    assert re.sub(r"\W+", "-", described["title"].lower()) == "spiral-arms-gz2"
    assert 5 <= len(described["title"]) <= 50
    assert described["machine_shape"] == "NvidiaTeslaT4" and described["enable_gpu"] is True
    assert described["dataset_sources"] == [
        "somebody/spiral-arms-code",
        "jaimetrickz/galaxy-zoo-2-images",
    ]
    assert described["kernel_sources"] == described["competition_sources"] == []
    assert described["code_file"] == "driver.ipynb"
    notebook = nbformat.read(kernel / "driver.ipynb", as_version=4)
    nbformat.validate(notebook)
    (wheel,) = code.glob("*.whl")
    parameters = notebook.metadata["papermill"]["parameters"]
    assert parameters["profile"] == "gz2" and parameters["hours"] == 11.0
    assert parameters["wheel"] == wheel.name
    assert parameters["wheel_sha256"] == receipts.sha256(wheel)


def test_the_dataset_has_the_wheel_and_what_it_lacks(built):
    code, _ = built
    (wheel,) = code.glob("*.whl")
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "lib").rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        assert {n for n in archive.namelist() if not n.startswith("spiral_arms")} == sources
    project = code / "project"
    for folder in ("notebooks/profiles", "data/weights"):
        kept = {p.name for p in (ROOT / folder).iterdir()}
        assert {p.name for p in (project / folder).iterdir()} == kept
    assert (project / "notebooks" / "03_train_b0.py").is_file()
    assert not list(project.rglob("*.ipynb"))
    assert (project / "Snakefile").read_bytes() == (ROOT / "Snakefile").read_bytes()
    assert json.loads((project / receipts.SOURCE).read_text()) == receipts.git_state()
    described = json.loads((code / "dataset-metadata.json").read_text())
    assert described["id"] == "somebody/spiral-arms-code" and len(described["licenses"]) == 1


def test_the_list_of_packages_is_closed_and_pinned(built):
    """pip resolves nothing on Kaggle, so nothing that is needed may be left out."""
    pins = dict(line.split("==") for line in (built[0] / "requirements.txt").read_text().split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {Requirement(text).name.lower() for text in project["dependencies"]} <= pins.keys()
    assert {"snakemake-interface-common", "yte", "typeguard"} <= pins.keys(), "needed by others"
    assert not {"pytest", "torch"} & pins.keys()
    assert pins["zoobot"] == "1.0.5"


def test_the_challenge_is_a_competition_and_the_last_session_is_attached(tmp_path):
    _, kernel = kaggle.build("challenge", tmp_path, "me", resume=True)
    described = read_metadata(kernel)
    assert described["dataset_sources"] == ["me/spiral-arms-code"]
    assert described["competition_sources"] == ["galaxy-zoo-the-galaxy-challenge"]
    assert described["kernel_sources"] == ["me/spiral-arms-challenge"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"user": ""}, "KAGGLE_USERNAME"),
        ({"hours": 12.0}, "hours = 12.0"),
        ({"profile_name": "gz3"}, "no profile 'gz3'"),
    ],
)
def test_a_build_is_refused_before_it_begins(tmp_path, arguments, message):
    settings = {"profile_name": "smoke", "out": tmp_path / "out", "user": "somebody"}
    with pytest.raises(InputError, match=message):
        kaggle.build(**settings | arguments)
    assert not (tmp_path / "out").exists()


# Small notebooks: what they do does not matter, only whether they go on.
NOTEBOOK = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% tags=["parameters"]
run_dir = "runs/mock"
output = "{name}"
seed = 1
patient = False

# %%
import lib, time
from lib import paths
out = paths.output_folder(run_dir, output)
epochs = out / "epochs.txt"
earlier = epochs.read_text() if epochs.exists() else ""
epochs.write_text(earlier + lib.__path__[0] + "\\n")
if patient and not earlier:
    time.sleep(600)
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A project root with a sample and a training, which does not end in its first session."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "notebooks" / "kaggle", root / "notebooks" / "kaggle")
    shutil.copytree(ROOT / "data" / "weights", root / "data" / "weights")
    shutil.copy(ROOT / "Snakefile", root)
    (root / "notebooks" / "profiles").mkdir()
    for name in ("01_sample_selection", "03_train_b0"):
        (root / "notebooks" / f"{name}.py").write_text(NOTEBOOK.format(name=name))
    monkeypatch.setenv("SPIRAL_ARMS_ROOT", str(root))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("KAGGLE_INPUT", str(tmp_path / "input"))
    return root


def load(root, **content):
    steps = ["01_sample_selection", "03_train_b0"]
    content = {"description": "a test", "steps": steps, **content}
    (root / "notebooks" / "profiles" / "mock.yaml").write_text(yaml.safe_dump(content))
    return profiles.load("mock")


# Stands for the command of that name, whose hours are over when the training is under way.
TIME_IS_UP = """#!{python}
import os, pathlib, signal, subprocess, sys, time
chain = subprocess.Popen(sys.argv[3:], start_new_session=True)
begun = pathlib.Path("runs/mock/03_train_b0.partial/epochs.txt")
while chain.poll() is None and not begun.exists():
    time.sleep(0.1)
if chain.poll() is None:
    os.killpg(chain.pid, signal.SIGTERM)
    sys.exit(124)
sys.exit(chain.returncode)
"""


def session(folder, kernel):
    """Run a kernel's driver as Kaggle does, without a network; what it printed and kept."""
    working = folder / "working"
    working.mkdir(parents=True)
    (folder / "tmp").mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SPIRAL_ARMS")} | {
        "KAGGLE_WORKING": str(working),
        "TMPDIR": str(folder / "tmp"),
        "PIP_NO_INDEX": "1",
        "PYTHONPATH": "",
    }
    command = [sys.executable, "-m", "papermill", str(kernel / "driver.ipynb"), "driver.ipynb"]
    command += ["-k", "python3", "--no-progress-bar"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = nbformat.read(folder / "driver.ipynb", as_version=4).cells
    return "".join(o.get("text", "") for c in cells for o in c.get("outputs", ())), working / "runs"


@pytest.mark.slow
@pytest.mark.chain
def test_a_session_stops_in_time_and_the_next_one_goes_on(checkout, tmp_path, monkeypatch):
    load(checkout, **{"03_train_b0": {"patient": True}})
    code, kernel = kaggle.build("mock", tmp_path / "out", "me")
    mounted = tmp_path / "input" / "datasets" / "me" / code.name
    shutil.copytree(code, mounted)
    fake = tmp_path / "bin" / "timeout"
    fake.parent.mkdir()
    fake.write_text(TIME_IS_UP.format(python=sys.executable))
    fake.chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
        printed, runs = session(tmp_path / "first", kernel)
    assert "installing nothing" in printed and "already done: nothing" in printed
    assert "stopped after 11 h" in printed
    assert "01_sample_selection done\n03_train_b0 begun\n" in printed
    # The next session, with the real command.
    attached = tmp_path / "input" / "notebooks" / "me" / kernel.name / "runs"
    shutil.copytree(runs, attached)
    printed, runs = session(tmp_path / "second", kernel)
    assert "already done: 01_sample_selection\n" in printed
    assert "01_sample_selection done\n03_train_b0 done\n" in printed
    for step, sessions in {"01_sample_selection": 1, "03_train_b0": 2}.items():
        libraries = (runs / "mock" / step / "epochs.txt").read_text().split()
        assert len(libraries) == sessions
        assert all(line.startswith(f"{tmp_path}/") for line in libraries), "not of the wheel"


def test_only_results_of_the_same_parameters_are_taken_over(checkout, tmp_path):
    profile = load(checkout)
    attached = tmp_path / "input" / "earlier-kernel" / profile.run_dir
    for step in profile.steps:
        (attached / step).mkdir(parents=True)
        parameters = {**profiles.default_parameters(step), **profile.overrides[step]}
        receipts.write(attached / step, {"step": step, "parameters": parameters, "inputs": {}})
        os.utime(attached / step / receipts.NAME, (0, 0))
    (attached / "05_explainability.partial").mkdir()
    assert kaggle.restore(profile) == ["01_sample_selection", "03_train_b0"]
    run = checkout / profile.run_dir
    assert (run / "05_explainability.partial").is_dir()
    notebook = checkout / "notebooks" / "03_train_b0.py"
    assert (run / "03_train_b0" / receipts.NAME).stat().st_mtime > notebook.stat().st_mtime
    changed = load(checkout, **{"03_train_b0": {"seed": 2}})
    assert kaggle.restore(changed) == ["01_sample_selection"]
    assert not (run / "03_train_b0").exists()


@pytest.mark.chain
def test_code_of_another_build_is_refused(built, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_INPUT", str(tmp_path / "input"))
    attached = tmp_path / "input" / "spiral-arms-code"
    attached.mkdir(parents=True)
    (wheel,) = built[0].glob("*.whl")
    (attached / wheel.name).write_bytes(b"another")
    with pytest.raises(AssertionError, match="is not attached"):
        session(tmp_path / "session", built[1])
