"""Steps that are copies of a process which has imported the libraries already."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml
from conftest import ROOT

from lib import launcher, receipts

pytestmark = [
    pytest.mark.chain,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux only"),
]
LIMIT = 200  # seconds that anything may take on a busy machine

NOTEBOOK = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% tags=["parameters"]
run_dir = "runs/mock"
output = "01_sample_selection"
trouble = ""

# %%
import json, os, sys
found = {
    "imported": sorted({name.split(".")[0] for name in sys.modules}),
    "folder": os.getcwd(),
    "tint": os.environ.get("TINT"),
    "process": os.getpid(),
}
memory = bytearray(300_000_000)
from lib import paths
out = paths.output_folder(run_dir, output)
(out / "found.json").write_text(json.dumps(found))
print("said in the notebook")

# %%
import time
if trouble == "bug":
    1 / 0
if trouble == "sleep":
    time.sleep(600)
"""
STEP = ["-m", "lib.launcher", "run", "01_sample_selection", "--profile", "mock"]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A project root with a chain of one small notebook."""
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    (tmp_path / "notebooks" / "01_sample_selection.py").write_text(NOTEBOOK)
    write_profile(tmp_path)
    monkeypatch.setenv("SPIRAL_ARMS_ROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv(launcher.SOCKET, raising=False)
    return tmp_path


def write_profile(root, **settings):
    content = {
        "description": "a test",
        "steps": ["01_sample_selection"],
        "01_sample_selection": settings,
    }
    (root / "notebooks" / "profiles" / "mock.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture
def started(tmp_path):
    """Environment variables of steps, with a launcher that runs."""
    with launcher.launcher(tmp_path) as variables:
        yield {**os.environ, **variables}


def run(environment):
    command = [sys.executable, *STEP]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)


def found(root, folder="01_sample_selection"):
    return json.loads((root / "runs" / "mock" / folder / "found.json").read_text())


def test_a_step_is_a_copy_that_has_the_libraries(checkout, started):
    done = run({**started, "TINT": "blue"})
    assert done.returncode == 0, done.stderr
    assert "said in the notebook" in done.stdout and "[1/1] 01_sample_selection done" in done.stdout
    here = found(checkout)
    assert {"pandas", "astropy", "matplotlib", "papermill"} <= set(here["imported"])
    assert "tensorflow" not in here["imported"], "only steps that say --gpu need it"
    assert here["folder"] == str(checkout / "notebooks") and here["tint"] == "blue"
    receipt = receipts.read(checkout / "runs" / "mock" / "01_sample_selection")
    assert receipt["peak_memory_mb"] > 400, "that of the kernel is not in the receipt"

    write_profile(checkout, trouble="none")
    assert run(started).returncode == 0
    assert found(checkout)["tint"] is None, "a copy has the environment of the one before it"


def test_the_launcher_itself_holds_no_code_that_a_step_runs():
    code = "import sys, lib.launcher; print(*(m for m in sys.modules if m.startswith('lib.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["lib.processes", "lib.launcher"]


def test_a_step_that_fails_gives_its_status_and_its_reason(checkout, started):
    write_profile(checkout, trouble="bug")
    failed = run(started)
    assert failed.returncode == 1 and "ZeroDivisionError" in failed.stderr
    assert not (checkout / "runs" / "mock" / "01_sample_selection").exists()


def test_the_chain_starts_its_steps_by_it(checkout):
    (checkout / "Snakefile").write_text((ROOT / "Snakefile").read_text())
    command = [sys.executable, "-m", "lib.steps", "chain", "--profile", "mock", "--cores", "1"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    assert "papermill" in found(checkout)["imported"], "a kernel by itself has no papermill"


def test_where_nobody_listens_a_step_runs_by_itself(checkout, tmp_path):
    done = run({**os.environ, launcher.SOCKET: str(tmp_path / "no socket")})
    assert done.returncode == 0, done.stderr
    assert "papermill" not in found(checkout)["imported"]


def test_a_wrong_command_gives_its_own_status(started):
    done = subprocess.run(
        [sys.executable, "-m", "lib.launcher", "run"], env=started, capture_output=True, text=True
    )
    assert done.returncode == 2 and "required: step" in done.stderr


def test_a_step_and_its_kernel_end_with_the_process_that_asked_for_them(checkout, started):
    write_profile(checkout, trouble="sleep")
    asking = subprocess.Popen([sys.executable, *STEP], env=started)
    deadline = time.time() + LIMIT
    partial = checkout / "runs" / "mock" / "01_sample_selection.partial"
    while not (partial / "found.json").exists() and time.time() < deadline:
        time.sleep(0.1)
    kernel = psutil.Process(found(checkout, partial.name)["process"])
    step = kernel.parent()
    asking.send_signal(signal.SIGKILL)
    asking.wait()
    _, alive = psutil.wait_procs([step, kernel], timeout=30)
    assert not alive
