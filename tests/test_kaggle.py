"""What is uploaded to Kaggle, and sessions there, in a simulated tree of folders."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile

import nbformat
import pandas as pd
import psutil
import pytest
import yaml
from conftest import ROOT

from lib import profiles, receipts, steps
from lib.kaggle import bundle, metadata, packages, session
from lib.schema import InputError

NO_NETWORK = """
import socket

def refuse(*arguments, **options):
    raise OSError("there is no network here")

getaddrinfo, connect = socket.getaddrinfo, socket.socket.connect
socket.getaddrinfo = lambda host, *rest, **options: (
    getaddrinfo if host in ("localhost", "127.0.0.1") else refuse)(host, *rest, **options)
socket.socket.connect = lambda self, address: (
    connect if self.family == socket.AF_UNIX or address[0] == "127.0.0.1" else refuse
)(self, address)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folders to upload for profile `smoke`."""
    return bundle.build("smoke", tmp_path_factory.mktemp("kaggle") / "out", "somebody")


def read_metadata(folder):
    return json.loads((folder / "kernel-metadata.json").read_text())


def test_folders_are_those_of_the_chain_and_of_each_training(built):
    code, *kernels = built
    assert [k.name for k in kernels] == [
        "spiral-arms-smoke-chain",
        "spiral-arms-smoke-03-train-b0",
        "spiral-arms-smoke-04-train-v2m",
    ]
    (wheel,) = code.glob("*.whl")
    for kernel, until in zip(kernels, ["", "03_train_b0", "04_train_v2m"], strict=True):
        described = read_metadata(kernel)
        metadata.check_kernel(described)
        assert described["id"] == f"somebody/{kernel.name}"
        assert described["machine_shape"] == "NvidiaTeslaT4" and described["enable_gpu"] is True
        assert described["docker_image_pinning_type"] == "original"
        assert described["dataset_sources"] == ["somebody/spiral-arms-code"]
        notebook = nbformat.read(kernel / described["code_file"], as_version=4)
        nbformat.validate(notebook)
        parameters = notebook.metadata["papermill"]["parameters"]
        assert parameters["until"] == until and parameters["profile"] == "smoke"
        assert parameters["wheel_sha256"] == receipts.sha256(wheel)


def test_the_same_sources_give_the_same_wheel(built, tmp_path):
    (wheel,) = built[0].glob("*.whl")
    assert receipts.sha256(bundle.build_wheel(tmp_path)) == receipts.sha256(wheel)


def test_sources_are_those_of_the_survey_and_of_earlier_sessions():
    def kernels(name, resume):
        return bundle._kernels(profiles.load(name), "me", "me/code", True, resume)

    paper, challenge = kernels("gz2", False), kernels("challenge", True)
    assert paper[""]["dataset_sources"] == ["me/code", "jaimetrickz/galaxy-zoo-2-images"]
    assert paper[""]["kernel_sources"] == []
    assert challenge[""]["dataset_sources"] == ["me/code"]
    assert challenge[""]["competition_sources"] == ["galaxy-zoo-the-galaxy-challenge"]
    alone = ["me/spiral-arms-challenge-03-train-b0", "me/spiral-arms-challenge-04-train-v2m"]
    assert challenge[""]["kernel_sources"] == ["me/spiral-arms-challenge-chain", *alone]
    assert challenge["03_train_b0"]["kernel_sources"] == alone[:1]
    for kernel in [*paper.values(), *challenge.values()]:
        metadata.check_kernel(kernel)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"machine_shape": "NvidiaTeslaT4x2"}, "machine_shape = 'NvidiaTeslaT4x2': choose one of"),
        ({"enable_gpu": False}, "machine_shape names a GPU but enable_gpu is not true"),
        ({"enable_gpu": "true"}, "enable_gpu = 'true' is not of type bool"),
        ({"accelerator": "gpu"}, "unknown field 'accelerator'"),
        ({"language": "julia"}, "language = 'julia'"),
        ({"id": "spiral-arms"}, "id has 'spiral-arms', which is no address"),
        ({"title": "Another title"}, "does not belong to the id"),
        ({"title": "Spiral " * 9}, "must have 5 to 50 characters"),
        ({"dataset_sources": ["images"]}, "dataset_sources has 'images'"),
        ({"competition_sources": ["a/b"]}, "competition_sources has 'a/b'"),
        ({"code_file": ""}, "code_file is missing"),
    ],
)
def test_metadata_that_kaggle_would_refuse_or_misread_is_refused(built, change, message):
    with pytest.raises(InputError, match=message):
        metadata.check_kernel(read_metadata(built[1]) | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licenses": []}, "licenses is missing"),
        ({"title": "Code"}, "must have 6 to 50"),
        ({"id": "somebody/Spiral_Arms"}, "no address"),
    ],
)
def test_metadata_of_the_data_set_is_checked(built, change, message):
    described = json.loads((built[0] / "dataset-metadata.json").read_text())
    metadata.check_dataset(described)
    with pytest.raises(InputError, match=message):
        metadata.check_dataset(described | change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"user": ""}, "KAGGLE_USERNAME"),
        ({"hours": 12.0}, "hours = 12.0"),
        ({"profile_name": "gz3"}, "no profile 'gz3'"),
        ({"user": "some body"}, "no address on Kaggle"),
    ],
)
def test_a_build_is_refused_before_it_begins(tmp_path, arguments, message):
    settings = {"profile_name": "smoke", "out": tmp_path / "out", "user": "somebody"}
    with pytest.raises(InputError, match=message):
        bundle.build(**settings | arguments)
    assert not (tmp_path / "out").exists()


def test_nothing_is_missing_in_the_project_s_own_environment():
    assert packages.missing_packages() == []


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A folder with wheels of a package that is not installed; pip is told to install elsewhere."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for version in ("1.0", "2.0"):
        about = f"tiny_package-{version}.dist-info"
        files = {
            "tiny_package.py": f"version = {version!r}\n",
            f"{about}/METADATA": f"Metadata-Version: 2.1\nName: tiny-package\nVersion: {version}\n",
            f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        files[f"{about}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{about}/RECORD"])
        with zipfile.ZipFile(folder / f"tiny_package-{version}-py3-none-any.whl", "w") as wheel:
            for name, text in files.items():
                wheel.writestr(name, text)
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "installed"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(packages.metadata, "requires", lambda _: ["tiny-package>=1", "pandas>=2"])
    return folder


def pin(monkeypatch, version):
    monkeypatch.setattr(packages, "pins", lambda: {"tiny-package": version})


def installed(folder):
    return [path.name for path in (folder.parent / "installed").glob("tiny*.dist-info")]


def test_what_is_missing_is_installed_from_wheels_in_the_locked_version(tiny, monkeypatch):
    pin(monkeypatch, "1.0")
    packages.install_missing(tiny)
    assert installed(tiny) == ["tiny_package-1.0.dist-info"]
    assert {p.name for p in (tiny.parent / "installed").glob("*.py")} == {"tiny_package.py"}


def test_other_versions_are_taken_from_the_internet_only(tiny, monkeypatch, capfd):
    pin(monkeypatch, "3.0")
    with pytest.raises(RuntimeError, match="tiny-package>=1 could not be installed: switch the"):
        packages.install_missing(tiny)
    assert not installed(tiny)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tiny))  # stands for the internet
    packages.install_missing()
    assert installed(tiny) == ["tiny_package-2.0.dist-info"]
    assert "versions of requirements.lock do not go with" in capfd.readouterr().out


def test_without_internet_the_wheels_are_attached(tiny, tmp_path, monkeypatch):
    pin(monkeypatch, "1.0")
    monkeypatch.setattr(packages, "lacking", lambda: {"tiny-package"})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tiny))
    monkeypatch.delenv("PIP_TARGET")
    code, kernel, *_ = bundle.build("smoke", tmp_path / "out", "somebody", internet=False)
    assert (code / "tiny_package-1.0-py3-none-any.whl").is_file()
    described = read_metadata(kernel)
    assert described["enable_internet"] is False
    notebook = nbformat.read(kernel / described["code_file"], as_version=4)
    assert notebook.metadata["papermill"]["parameters"]["internet"] is False


def test_wheels_are_those_of_what_kaggle_lacks_in_locked_versions():
    lacking = packages.lacking()
    assert {"snakemake", "zoobot", "yte"} <= lacking
    assert not lacking & {"tensorflow", "keras", "numpy", "pandas", "spiral-arms"}
    assert lacking <= packages.pins().keys()
    assert packages.pins()["zoobot"] == "1.0.5"


class Kaggle:
    """A machine of Kaggle: read-only inputs, a working folder, no network, TensorFlow as it is."""

    def __init__(self, folder, built):
        self.folder, self.input, self.working = folder, folder / "input", folder / "working"
        self.working.mkdir()
        shutil.copytree(built[0], self.input / "datasets" / "somebody" / "spiral-arms-code")
        (folder / "python").mkdir()
        (folder / "python" / "sitecustomize.py").write_text(NO_NETWORK)

    def run(self, kernel, **change):
        """Run a kernel's notebook in a session of its own; returns what it printed."""
        for path in self.input.rglob("*"):
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = receipts.hash_folder(self.input)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SPIRAL_ARMS")} | {
            "KAGGLE_INPUT": str(self.input),
            "KAGGLE_WORKING": str(self.working),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONPATH": str(self.folder / "python"),
        }
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)
        (self.folder / "tmp").mkdir()
        code = kernel / read_metadata(kernel)["code_file"]
        # papermill puts its parameters in the place of those that the build has put there
        built = nbformat.read(code, as_version=4).metadata["papermill"]["parameters"]
        command = [sys.executable, "-m", "papermill", str(code), "driver.ipynb"]
        command += ["-k", "python3", "--no-progress-bar", "-y", json.dumps({**built, **change})]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert receipts.hash_folder(self.input) == before
        cells = nbformat.read(self.folder / "driver.ipynb", as_version=4).cells
        return "".join(o.get("text", "") for c in cells for o in c.get("outputs", ()))


@pytest.fixture(scope="module")
def sessions(built, tmp_path_factory):
    """Two sessions: up to the sample, and from what the first left to the end of the chain."""
    kaggle = Kaggle(tmp_path_factory.mktemp("machine"), built)
    first = kaggle.run(built[1], until="01_sample_selection")
    mounted = kaggle.input / "notebooks" / "somebody" / built[1].name
    mounted.parent.mkdir(parents=True)
    shutil.move(kaggle.working / "runs", mounted / "runs")
    second = kaggle.run(built[1])
    return kaggle, first, second


@pytest.mark.chain
def test_a_session_runs_the_code_of_the_wheel_and_keeps_results(sessions):
    kaggle, first, second = sessions
    assert f"code: {kaggle.folder}/tmp/" in first
    assert "already done: nothing" in first
    assert "profile smoke up to 01_sample_selection is complete" in first
    runs = kaggle.working / "runs" / "smoke"
    source = json.loads((kaggle.folder / "tmp" / "spiral-arms" / receipts.SOURCE).read_text())
    assert len(source["commit"]) == 40
    for step in profiles.load("smoke").outputs:
        assert receipts.verify(runs / step) == []
        assert receipts.read(runs / step)["git"] == source
    assert {p.name for p in kaggle.working.iterdir()} == {"runs"}


@pytest.mark.chain
def test_the_next_session_does_only_the_rest(sessions):
    _, first, second = sessions
    assert "already done: 00_mock_survey, 01_sample_selection" in second
    assert "00_mock_survey done" in first and "00_mock_survey done" not in second
    assert "03_train_b0 done" in second


@pytest.mark.chain
def test_the_same_seed_gives_the_same_numbers_elsewhere(sessions, smoke):
    """The whole chain, in another folder, from the wheel, interrupted and taken up."""
    kaggle, *_ = sessions
    for step in profiles.load("smoke").outputs:
        here, there = smoke[1] / step, kaggle.working / "runs" / "smoke" / step
        assert numbers(here) == numbers(there), step


@pytest.mark.chain
def test_another_seed_gives_other_numbers(sessions, monkeypatch):
    kaggle, *_ = sessions
    run = kaggle.working / "runs" / "smoke"
    settings = profiles.load("smoke").overrides["03_train_b0"]
    settings = {**settings, "run_dir": str(run), "output": "03_other_seed", "seed": 7}
    other = numbers(steps.run("03_train_b0", settings))
    same = numbers(run / "03_train_b0")
    for name in ("predictions.parquet", "validation_probabilities.npy", "weights", "history.csv"):
        assert other[name] != same[name], name


def numbers(folder):
    """Hashes of a step's results, without pictures, notebook and log.

    Two files hold more than numbers: the time that each epoch took, and the date of a zip archive,
    whose weights ``model.json`` has the hash of. An exported network and its catalogue name the run
    that they come from, with its receipt, beside their numbers.
    """
    result = {
        name: value
        for name, value in receipts.read(folder)["outputs"].items()
        if not name.endswith((".png", ".ipynb", "log.txt"))
    }
    if result.pop("model.keras", None):
        result["weights"] = json.loads((folder / "model.json").read_text())["weights_sha256"]
    if "history.csv" in result:
        history = pd.read_csv(folder / "history.csv").drop(columns="seconds")
        result["history.csv"] = history.to_csv()
    if "catalogue.parquet" in result:
        named = ("model/card", "model/model", "catalogue", "plan.json")
        result = {name: value for name, value in result.items() if not name.startswith(named)}
        card = json.loads((folder / "model" / "card.json").read_text())
        result["exported"] = [card[key] for key in ("weights_sha256", "scores", "calibration")]
        result["catalogue"] = pd.read_parquet(folder / "catalogue.parquet").to_csv()
    return result


def test_code_of_another_build_is_refused(built, tmp_path):
    kaggle = Kaggle(tmp_path, built)
    with pytest.raises(AssertionError, match="is not attached"):
        kaggle.run(built[1], wheel_sha256="0" * 64)


# Small notebooks for the rest: what they do does not matter, only when and where.
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
seconds = 0
devices = "one"

# %%
import os, time
from lib import paths
out = paths.output_folder(run_dir, output)
(out / "gpu.txt").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
(out / "start.txt").write_text(str(time.time()))
print("epoch 1", flush=True)
time.sleep(seconds)
(out / "end.txt").write_text(str(time.time()))
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A project root with two small trainings, and a step that no GPU can help."""
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    shutil.copy(ROOT / "Snakefile", tmp_path)
    for name in ("01_sample_selection", "03_train_b0", "04_train_v2m"):
        (tmp_path / "notebooks" / f"{name}.py").write_text(NOTEBOOK.format(name=name))
    monkeypatch.setenv("SPIRAL_ARMS_ROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def load(root, **content):
    path = root / "notebooks" / "profiles" / "mock.yaml"
    path.write_text(yaml.safe_dump({"description": "a test", **content}))
    return profiles.load("mock")


@pytest.fixture
def two_gpus(checkout, monkeypatch):
    """A machine that says it has two GPUs."""
    fake = checkout / "bin" / "nvidia-smi"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'GPU 0: Tesla T4'\necho 'GPU 1: Tesla T4'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")


def run_both_trainings(checkout, **settings):
    """Their folders, and when each began and ended."""
    profile = load(checkout, steps=["03_train_b0", "04_train_v2m"], all=settings)
    assert session.run_chain(profile)
    folders = [checkout / "runs" / "mock" / step for step in profile.steps]
    starts, ends = (
        [float((f / name).read_text()) for f in folders] for name in ("start.txt", "end.txt")
    )
    return folders, starts, ends


@pytest.mark.chain
def test_two_trainings_run_side_by_side_each_on_its_gpu(checkout, two_gpus):
    folders, starts, ends = run_both_trainings(checkout, seconds=10)
    assert {(f / "gpu.txt").read_text() for f in folders} == {"0", "1"}
    assert {receipts.read(f)["cuda_visible_devices"] for f in folders} == {"0", "1"}
    assert max(starts) < min(ends), "one training waited for the other"


@pytest.mark.chain
def test_a_step_that_no_gpu_can_help_takes_none(checkout, two_gpus):
    profile = load(checkout, steps=["01_sample_selection", "03_train_b0"])
    assert session.run_chain(profile)
    taken = [
        receipts.read(checkout / "runs" / "mock" / step)["cuda_visible_devices"]
        for step in profile.steps
    ]
    assert taken == [None, "0"]


@pytest.mark.chain
def test_a_training_on_all_gpus_has_them_to_itself(checkout, two_gpus):
    folders, starts, ends = run_both_trainings(checkout, devices="all")
    assert {(f / "gpu.txt").read_text() for f in folders} == {""}, "one of them is hidden"
    assert max(starts) > min(ends), "two trainings shared a GPU"


@pytest.mark.chain
def test_a_session_stops_in_time_and_leaves_what_the_next_one_needs(checkout, monkeypatch, capfd):
    profile = load(checkout, steps=["03_train_b0"], all={"seconds": 300})
    asked = []

    class TimeIsUp(threading.Thread):
        """A clock that rings as soon as the first epoch is over."""

        def __init__(self, seconds, stop):
            super().__init__()
            asked.append(seconds)
            self.stop = stop

        def run(self):
            log = checkout / "runs" / "mock" / "03_train_b0.partial" / steps.LOG
            while not (log.exists() and "epoch 1" in log.read_text()):
                time.sleep(0.1)
            self.stop()

        def cancel(self):
            pass

    monkeypatch.setattr(session.threading, "Timer", TimeIsUp)
    assert not session.run_chain(profile, hours=0.5)
    assert asked == [1800]
    assert "stopped after 0.5 h" in capfd.readouterr().out
    table = session.progress(profile).set_index("step")
    assert table.loc["03_train_b0", ["state", "last line"]].tolist() == ["begun", "epoch 1"]
    own = [p for p in psutil.process_iter(["cmdline"]) if str(checkout) in str(p.info["cmdline"])]
    assert not own, "a process of the session is still there"


@pytest.mark.chain
def test_a_failed_step_is_an_error(checkout):
    profile = load(checkout, steps=["03_train_b0"], all={"seconds": -1})
    with pytest.raises(steps.StepError, match="profile mock is not complete"):
        session.run_chain(profile)


@pytest.mark.chain
def test_only_whole_and_fitting_results_are_taken_over(checkout, tmp_path, monkeypatch):
    swept = {"04_train_v2m": [{"train": "03_train_b0", "grid": {"seconds": [0]}}]}
    profile = load(checkout, steps=["03_train_b0", "04_train_v2m"], sweeps=swept)
    for output in profile.outputs:
        steps.run(*profile.made_by(output))
    attached = tmp_path / "input" / "earlier-kernel" / "runs"
    attached.parent.mkdir(parents=True)
    shutil.move(checkout / "runs", attached)
    (attached / "mock" / "02_preprocessing.partial").mkdir()
    (attached / "mock" / "04_train_v2m" / "gpu.txt").write_text("changed")
    monkeypatch.setenv("KAGGLE_INPUT", str(tmp_path / "input"))

    of_sweep = "sweeps/04_train_v2m/b0-seconds_0"
    assert session.restore(profile) == ["03_train_b0", of_sweep]
    run = checkout / "runs" / "mock"
    found = {p.name for p in run.iterdir()}
    assert found == {"03_train_b0", "02_preprocessing.partial", "sweeps"}
    assert receipts.verify(run / "03_train_b0") == receipts.verify(run / of_sweep) == []
    changed = load(checkout, steps=["03_train_b0"], all={"seconds": 1})
    assert session.restore(changed) == []
    assert not (run / "03_train_b0").exists()
