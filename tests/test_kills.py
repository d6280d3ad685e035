"""SIGKILL of the kernel, the step, Snakemake and the chain, at moments that would hurt."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from conftest import ROOT, chain
from PIL import Image

from lib import images
from lib.schema import InputError
from lib.workflow import receipts, steps

pytestmark = pytest.mark.chain

WORK = ["cache", "epoch 1", "epoch 2", "epoch 3", "epoch 4", "weights"]
LIMIT = 400  # seconds that anything may take on a busy machine

HEADER = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

"""
FIRST = """# %% tags=["parameters"]
run_dir = "runs/mock"
output = "01_sample_selection"

# %%
from lib import paths
out = paths.output_folder(run_dir, output)
(out / "sample.txt").write_text("1 2 3")
"""

# A cache, four epochs and weights, each kept when whole, and a journal of the work really done.
SECOND = """# %% tags=["parameters"]
run_dir = "runs/mock"
output = "02_preprocessing"

# %%
import ctypes, json, os, time
from lib import paths
out = paths.output_folder(run_dir, output)
root = paths.project_root()

def journal(line):
    with open(root / "journal.txt", "a") as file:
        file.write(line + "\\n")

def reach(moment):
    if os.environ.get("STOP_AT") == moment:
        (root / "reached").write_text(str(os.getpid()))
        if moment == "deaf":  # a C function that keeps the interpreter's lock
            ctypes.PyDLL(None).sleep(8)
        time.sleep(600)

journal(f"start {os.getpid()}")
reach("deaf")

# %%
if not (out / "cache.bin").exists():
    with paths.atomic(out / "cache.bin") as file:
        file.write_bytes(b"half")
        reach("cache")
        file.write_bytes(b"half and half")
    journal("cache")

# %%
state = json.loads((out / "state.json").read_text()) if (out / "state.json").exists() else [1]
while len(state) < 5:
    if len(state) == 3:
        reach("epoch")
    state.append(3 * state[-1] + len(state))
    with paths.atomic(out / "state.json") as file:
        file.write_text(json.dumps(state))
    journal(f"epoch {len(state) - 1}")

# %%
with paths.atomic(out / "weights.bin") as file:
    file.write_text(str(state[-1])[:1])
    reach("weights")
    file.write_text(str(state[-1]))
journal("weights")
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A project root with a chain of two small notebooks."""
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    (tmp_path / "journal.txt").touch()
    shutil.copy(ROOT / "Snakefile", tmp_path)
    steps = {"01_sample_selection": FIRST, "02_preprocessing": SECOND}
    for name, text in steps.items():
        (tmp_path / "notebooks" / f"{name}.py").write_text(HEADER + text)
    write_profile(tmp_path, {"steps": list(steps)})
    monkeypatch.setenv("SPIRAL_ARMS_ROOT", str(tmp_path))
    return tmp_path


def write_profile(root, content):
    path = root / "notebooks" / "profiles" / "mock.yaml"
    path.write_text(yaml.safe_dump({"description": "a test", **content}))


def start(root, *command, stop_at=""):
    """Start ``python`` with a command in a checkout; its output goes to ``printed.txt``."""
    environment = {
        **os.environ,
        "SPIRAL_ARMS_ROOT": str(root),
        "PYTHONPATH": f"{root / 'python'}{os.pathsep}{ROOT}",
        "STOP_AT": stop_at,
    }
    with open(root / "printed.txt", "w") as printed:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
        )


def start_chain(root, stop_at=""):
    return start(root, "-m", "lib.workflow.steps", "chain", "--profile", "mock", stop_at=stop_at)


def start_step(root, stop_at=""):
    """As the chain does it, but without Snakemake, which takes its time to start."""
    after = f"runs/mock/01_sample_selection/{receipts.NAME}"
    command = ["run", "02_preprocessing", "--profile", "mock", "--after", after]
    return start(root, "-m", "lib.workflow.steps", *command, stop_at=stop_at)


def finish(root, process):
    code = process.wait(LIMIT)
    assert code == 0, (root / "printed.txt").read_text()


def wait_for(condition, root, process):
    deadline = time.time() + LIMIT
    while not condition():
        assert time.time() < deadline and process.poll() is None, (root / "printed.txt").read_text()
        time.sleep(0.05)


def wait_until_reached(root, process):
    """Wait until a notebook stands at its `STOP_AT`; returns its kernel."""
    wait_for(lambda: (root / "reached").exists() and (root / "reached").read_text(), root, process)
    kernel = psutil.Process(int((root / "reached").read_text()))
    (root / "reached").unlink()
    return kernel


def kill(top, victim, kernel):
    """SIGKILL one process of a chain; all of the others must then end by themselves."""
    processes = [psutil.Process(top.pid), *psutil.Process(top.pid).children(recursive=True)]
    if victim == "snakemake":
        (chosen,) = [p for p in processes if p.cmdline()[1:3] == ["-m", "snakemake"]]
    else:
        chosen = {"kernel": kernel, "step": processes[0], "chain": processes[0]}[victim]
    chosen.send_signal(signal.SIGKILL)
    assert top.wait(LIMIT) != 0
    _, alive = psutil.wait_procs([*processes[1:], kernel], timeout=30)
    assert not alive, f"still running after the {victim} was killed: {alive}"


def journal(root):
    lines = (root / "journal.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("start")]


def test_whatever_is_killed_nothing_half_written_counts_and_only_the_rest_is_done(checkout):
    first = checkout / "runs" / "mock" / "01_sample_selection" / receipts.NAME
    second = checkout / "runs" / "mock" / "02_preprocessing"
    staging = second.with_name(second.name + ".partial")
    first_done = []
    for moment, victim, whole, half in (
        ("cache", "kernel", set(), "cache.bin"),
        ("epoch", "step", {"cache.bin", "state.json"}, "weights.bin"),
        ("weights", "snakemake", {"cache.bin", "state.json"}, "weights.bin"),
    ):
        run = start_step(checkout, moment) if victim == "step" else start_chain(checkout, moment)
        kill(run, victim, wait_until_reached(checkout, run))
        # Snakemake makes an empty folder, which it leaves when it is killed itself
        assert not list(second.glob("*")), (moment, victim)
        files = {p.name for p in staging.iterdir()}
        assert whole <= files and half not in files, (moment, victim)
        assert receipts.NAME not in files
        first_done.append(first.stat().st_mtime_ns)

    finish(checkout, start_chain(checkout))
    assert {p.name for p in second.iterdir()} == {
        *("cache.bin", "state.json", "weights.bin"),
        *("log.txt", "02_preprocessing.ipynb", receipts.NAME),
    }
    assert (second / "cache.bin").read_text() == "half and half"
    assert json.loads((second / "state.json").read_text()) == [1, 4, 14, 45, 139]
    assert (second / "weights.bin").read_text() == "139"
    assert receipts.verify(second) == [] and not staging.exists()
    notebook = nbformat.read(second / f"{second.name}.ipynb", as_version=4)
    assert all(c.execution_count for c in notebook.cells if c.cell_type == "code")
    assert journal(checkout) == WORK, "work was done twice, or left out"
    assert {*first_done, first.stat().st_mtime_ns} == set(first_done[:1])


def test_a_step_that_is_no_longer_whole_is_done_again_and_no_other(checkout):
    first, second = (
        checkout / "runs" / "mock" / f"0{n}" for n in ("1_sample_selection", "2_preprocessing")
    )
    finish(checkout, start_chain(checkout))
    done = (first / receipts.NAME).stat().st_mtime_ns
    damages = {
        "cache.bin is missing": (second / "cache.bin").unlink,
        "weights.bin has 1 bytes instead of 3": lambda: (second / "weights.bin").write_text("1"),
    }
    for times, (said, damage) in enumerate(damages.items(), start=2):
        damage()
        finish(checkout, start_chain(checkout))
        printed = (checkout / "printed.txt").read_text()
        assert "02_preprocessing is not whole and counts as not done" in printed and said in printed
        assert journal(checkout) == times * WORK
        assert receipts.verify(second) == []
    assert (first / receipts.NAME).stat().st_mtime_ns == done
    finish(checkout, start_chain(checkout))
    assert "nothing to do" in (checkout / "printed.txt").read_text()


STARTED = """# %% tags=["parameters"]
run_dir = "runs/mock"
output = "03_train_b0"
weights = "mock"

# %%
from lib import paths
out = paths.output_folder(run_dir, output)
text = (paths.project_root() / "data" / "weights" / "net.safetensors").read_text()
(out / "model.json").write_text(text)
"""


def test_other_bundled_weights_make_a_training_stale(checkout):
    (checkout / "notebooks" / "03_train_b0.py").write_text(HEADER + STARTED)
    write_profile(checkout, {"steps": ["03_train_b0"]})
    weights = checkout / "data" / "weights" / "net.safetensors"
    weights.parent.mkdir(parents=True)
    folder = checkout / "runs" / "mock" / "03_train_b0"
    for content in ("old", "new"):
        weights.write_text(content)
        finish(checkout, start_chain(checkout))
        assert (folder / "model.json").read_text() == content
        assert receipts.read(folder)["inputs"][weights.name] == receipts.sha256(weights)
    finish(checkout, start_chain(checkout))
    assert "nothing to do" in (checkout / "printed.txt").read_text()


# A loop of trainings, each skipped when done, and what is made of all of them.
LOOP = """# %% tags=["parameters"]
run_dir = "runs/mock"
output = "07_image_size"
seeds = [1, 2, 3, 4]
part = "1/1"

# %%
import os, time
from lib import paths
out = paths.output_folder(run_dir, output)
root = paths.project_root()
trainings = paths.resolve(run_dir) / "trainings"

# %% tags=["trainings"]
k, n = map(int, part.split("/"))
for seed in seeds[k - 1 :: n]:
    folder = trainings / f"seed {seed}"
    if (folder / "model.json").exists():
        continue
    folder.mkdir(parents=True, exist_ok=True)
    if os.environ.get("STOP_AT") == folder.name:
        (root / "reached").write_text(str(os.getpid()))
        time.sleep(600)
    with paths.atomic(folder / "model.json") as file:
        file.write_text(str(seed))
    with open(root / "journal.txt", "a") as file:
        file.write(folder.name + "\\n")

# %%
found = [(trainings / f"seed {seed}" / "model.json").read_text() for seed in seeds]
(out / "found.txt").write_text(" ".join(found))
"""


@pytest.fixture
def loop_checkout(checkout):
    """The step of a loop of trainings alone."""
    (checkout / "notebooks" / "07_image_size.py").write_text(HEADER + LOOP)
    write_profile(checkout, {"steps": ["07_image_size"]})
    return checkout


def test_a_killed_loop_goes_on_with_the_missing_trainings_only(loop_checkout):
    checkout = loop_checkout
    run = start_chain(checkout, "seed 3")
    kill(run, "chain", wait_until_reached(checkout, run))
    assert journal(checkout) == ["seed 1", "seed 2"]

    # More trainings are asked for meanwhile: other parameters, so that the step begins anew.
    content = {"steps": ["07_image_size"], "07_image_size": {"seeds": [1, 2, 3, 4, 5]}}
    write_profile(checkout, content)
    finish(checkout, start_chain(checkout))
    assert journal(checkout) == [f"seed {seed}" for seed in (1, 2, 3, 4, 5)]
    gathered = checkout / "runs" / "mock" / "07_image_size"
    assert (gathered / "found.txt").read_text() == "1 2 3 4 5"


def test_parts_of_a_loop_are_gathered_and_a_killed_one_goes_on(loop_checkout):
    checkout = loop_checkout
    divided = ("-m", "lib.workflow.steps", "chain", "--profile", "mock", "--cores", "2")
    divided += ("--parts", "2")
    run = start(checkout, *divided, stop_at="seed 3")
    kernel = wait_until_reached(checkout, run)
    # The other part, if it has not been done before this one.
    wait_for(lambda: {"seed 2", "seed 4"} <= {*journal(checkout)}, checkout, run)
    kill(run, "chain", kernel)
    assert sorted(journal(checkout)) == ["seed 1", "seed 2", "seed 4"]
    folder = checkout / "runs" / "mock"
    assert not (folder / "07_image_size" / receipts.NAME).exists()

    finish(checkout, start(checkout, *divided))
    assert sorted(journal(checkout)) == [f"seed {seed}" for seed in (1, 2, 3, 4)]
    assert (folder / "07_image_size" / "found.txt").read_text() == "1 2 3 4"
    assert not list(folder.glob("[0-9]*part*"))
    finish(checkout, start(checkout, *divided))
    assert "nothing to do" in (checkout / "printed.txt").read_text()


# The runner of a step, made to stand still in the middle of what it writes.
RUNNER = """
import os, time
from pathlib import Path
import papermill.iorw
from lib import paths
from lib.workflow import steps

root = paths.project_root()
write, replace = papermill.iorw.LocalHandler.write, os.replace

def stop():
    (root / "reached").write_text(str(os.getpid()))
    time.sleep(600)

def write_half(self, text, path):
    if "weights" in (root / "journal.txt").read_text():
        Path(path).write_text(text[: len(text) // 2])
        stop()
    write(self, text, path)

def replace_not(source, target):
    if str(target).endswith("MOMENT"):
        stop()
    replace(source, target)

if "MOMENT" == "notebook":
    papermill.iorw.LocalHandler.write = write_half
else:
    os.replace = replace_not
steps.run("02_preprocessing", {})
"""
RUN = "from lib.workflow import steps; steps.run('02_preprocessing', {})"


@pytest.mark.parametrize(
    ("moment", "again"),
    [("notebook", ["weights"]), (receipts.NAME, WORK), ("/02_preprocessing", [])],
    ids=["writing the notebook", "writing the receipt", "putting the result in place"],
)
def test_a_runner_killed_near_its_end_leaves_nothing_that_counts(checkout, moment, again):
    folder = checkout / "runs" / "mock" / "02_preprocessing"
    run = start(checkout, "-c", RUNNER.replace("MOMENT", moment))
    wait_until_reached(checkout, run)
    run.kill()
    run.wait(LIMIT)
    assert journal(checkout) == WORK
    assert not folder.exists()
    finish(checkout, start(checkout, "-c", RUN))
    assert journal(checkout) == WORK + again
    assert receipts.verify(folder) == []
    assert (folder / "weights.bin").read_text() == "139"
    nbformat.validate(nbformat.read(folder / "02_preprocessing.ipynb", as_version=4))
    assert not folder.with_name("02_preprocessing.partial").exists()


def test_a_rerun_waits_for_a_kernel_that_is_deaf_to_its_runner_s_end(checkout):
    run = start(checkout, "-c", RUN, stop_at="deaf")
    orphan = wait_until_reached(checkout, run)
    run.kill()
    run.wait(LIMIT)
    rerun = start(checkout, "-c", RUN)
    journal_file = checkout / "journal.txt"
    wait_for(lambda: journal_file.read_text().count("start") == 2, checkout, rerun)
    with suppress(psutil.NoSuchProcess):
        assert orphan.status() == psutil.STATUS_ZOMBIE  # it has ended, and init has yet to see it
    finish(checkout, rerun)
    assert journal(checkout) == WORK


def test_two_runs_of_one_step_do_not_share_a_folder(checkout, monkeypatch):
    monkeypatch.setattr(steps, "PATIENCE", 0)
    run = start(checkout, "-c", RUN, stop_at="epoch")
    wait_until_reached(checkout, run)
    with pytest.raises(InputError, match="another run of 02_preprocessing is under way"):
        steps.run("02_preprocessing", {})
    run.kill()
    run.wait(LIMIT)


def test_a_second_run_of_a_profile_is_refused_and_one_of_another_is_not(checkout):
    run = start_chain(checkout, "epoch")
    kernel = wait_until_reached(checkout, run)
    again = chain(checkout, "mock")
    assert again.returncode == 1 and "another run of profile mock is under way" in again.stderr
    content = {"description": "a test", "steps": ["01_sample_selection"]}
    (checkout / "notebooks" / "profiles" / "other.yaml").write_text(yaml.safe_dump(content))
    other = chain(checkout, "other")
    assert other.returncode == 0, other.stdout + other.stderr
    assert receipts.verify(checkout / "runs" / "other" / "01_sample_selection") == []
    assert run.poll() is None and kernel.is_running()
    kill(run, "chain", kernel)


@pytest.fixture
def training_checkout(tmp_path):
    """Notebooks 03 and 04 with 64 galaxies: noise with a bar of a class's own brightness."""
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    for step in ("03_train_b0", "04_train_v2m"):
        shutil.copy(ROOT / "notebooks" / f"{step}.py", tmp_path / "notebooks")
    rng = np.random.default_rng(3)
    folder = tmp_path / "runs" / "mock"
    (folder / "survey").mkdir(parents=True)
    sample = pd.DataFrame({"galaxy_id": np.arange(64), "label": ["1", "2", "3", "4"] * 16})
    sample["image_path"] = [f"survey/{i}.png" for i in sample["galaxy_id"]]
    for i, path in enumerate(sample["image_path"]):
        pixels = rng.integers(0, 60, (72, 72, 3), np.uint8)
        pixels[30:42] += np.uint8(40 * (i % 4))
        Image.fromarray(pixels).save(folder / path)
    for step in ("01_sample_selection", "02_preprocessing"):
        (folder / step).mkdir()
    sample.to_parquet(folder / "01_sample_selection" / "sample.parquet")
    images.write_cache(sample, folder, folder / "02_preprocessing", crop=72, size=72)
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(BETWEEN)
    return tmp_path


# No more epochs than the notebooks' patience, so that none of these stops early.
SMALL = {"crop": 32, "allow_empty": True, "learning_rate": 0.001}
# Features of the frozen backbone are kept, so that only the head is trained; many epochs, so that
# the kill falls into one of them.
HEAD = ("03_train_b0", {**SMALL, "epochs": 30, "copies": 1})
# The backbone is trained too, with augmented images. Epochs are few: each takes some time.
FINE_TUNING = ("04_train_v2m", {**SMALL, "epochs": 8})
on_a_gpu = pytest.mark.skipif(not receipts.machine()["gpus"], reason="there is no GPU here")

# Kills a process that has written better weights, but not yet the state that belongs to them.
BETWEEN = """
import os, signal
from pathlib import Path

replace = os.replace

def replace_or_die(source, target):
    state = Path(target)
    best = state.with_name("best.npz")
    if os.environ.get("STOP_AT") == "between" and state.name == "state.npz" and state.exists():
        if best.stat().st_mtime_ns > state.stat().st_mtime_ns:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = replace_or_die
"""


def train(root, stop_at="", step="03_train_b0"):
    command = ["-m", "lib.workflow.steps", "run", step, "--profile", "mock"]
    return start(root, *command, stop_at=stop_at)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "settings"),
    [HEAD, pytest.param(*FINE_TUNING, marks=on_a_gpu)],
    ids=["the head", "all weights on a GPU"],
)
def test_a_killed_training_ends_with_the_numbers_of_an_undisturbed_one(
    training_checkout, step, settings
):
    root = training_checkout
    write_profile(root, {"steps": [step], step: settings})
    folder = root / "runs" / "mock" / step
    partial = folder.with_name(f"{step}.partial")
    finish(root, train(root, step=step))
    straight = folder.rename(folder.with_name("straight"))
    better = pd.read_csv(straight / "history.csv")["val_accuracy"].cummax().diff().gt(0)
    assert better.any(), "no epoch is better than the first: nothing to be killed at"

    run = train(root, "between", step)
    assert run.wait(LIMIT) == 1
    assert "kernel died" in (root / "printed.txt").read_text()
    with np.load(partial / "checkpoint" / "state.npz") as state:
        assert len(json.loads(str(state["kept"]))["history"]) == better.idxmax()

    run = train(root, step=step)
    epoch = re.compile(r"Epoch \d+/")
    wait_for(lambda: epoch.search((root / "printed.txt").read_text()), root, run)
    (kernel,) = psutil.Process(run.pid).children()
    kernel.kill()
    assert run.wait(LIMIT) == 1
    printed = (root / "printed.txt").read_text()
    assert "kernel died" in printed and f"going on after epoch {better.idxmax()} of" in printed
    assert not folder.exists()

    run = train(root, step=step)
    wait_for((partial / "model.json").exists, root, run)
    (kernel,) = psutil.Process(run.pid).children()
    kernel.kill()
    assert run.wait(LIMIT) == 1 and not folder.exists()
    assert "going on after epoch" in (root / "printed.txt").read_text()

    finish(root, train(root, step=step))
    printed = (root / "printed.txt").read_text()
    epochs = settings["epochs"]
    assert f"going on after epoch {epochs} of" in printed and f"Epoch {epochs}/" not in printed
    assert receipts.verify(folder) == [] and not (folder / "checkpoint").exists()
    settings = [json.loads((f / "model.json").read_text()) for f in (straight, folder)]
    assert settings[0] == settings[1]
    history = [pd.read_csv(f / "history.csv").drop(columns="seconds") for f in (straight, folder)]
    pd.testing.assert_frame_equal(*history, check_exact=True)
    assert history[0]["loss"].nunique() > 0.8 * epochs, "nothing was trained: this proves nothing"
    for name in ("predictions.parquet", "metrics.json"):
        assert receipts.sha256(straight / name) == receipts.sha256(folder / name), name


@pytest.mark.parametrize(
    ("begin", "stop_at"),
    [(train, "between"), pytest.param(start_chain, "", marks=pytest.mark.slow)],
    ids=["a step whose kernel is killed", "the chain"],
)
def test_a_training_leaves_nothing_in_the_temporary_folder(
    training_checkout, monkeypatch, begin, stop_at
):
    """TensorFlow writes there what it makes of Python functions, and removes that at its end."""
    root = training_checkout
    step, settings = HEAD
    write_profile(root, {"steps": [step], step: settings})
    shutil.copy(ROOT / "Snakefile", root)
    temporary = root / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    assert begin(root, stop_at).wait(LIMIT) == bool(stop_at), (root / "printed.txt").read_text()
    assert not list(temporary.iterdir())
