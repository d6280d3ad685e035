"""What is uploaded to Kaggle: the project as a wheel in a data set, and one folder per kernel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from lib import profiles, receipts
from lib.download import DATASETS
from lib.kaggle import metadata, packages
from lib.kaggle.packages import PROJECT
from lib.paths import project_root, resolve
from lib.schema import InputError

DRIVER = "notebooks/kaggle/driver.py"
BUNDLED = "data/weights"
CODE = "Spiral arms code"


def build(
    profile_name: str,
    out: str | Path,
    user: str,
    *,
    hours: float = 11.0,
    internet: bool = True,
    resume: bool = False,
) -> list[Path]:
    """Make the folders to upload, and print the commands that do it.

    Parameters
    ----------
    profile_name : str
        Profile that the kernels run.
    out : path
        Folder to make; an earlier one is removed.
    user : str
        Name on Kaggle.
    hours : float
        Time after which a session stops by itself, below Kaggle's limit of 12.
    internet : bool
        Whether kernels may download what is neither attached nor installed. If not, wheels of the
        packages that Kaggle may lack go into the data set.
    resume : bool
        Attach the outputs of the kernels themselves, which must have run already.

    Returns
    -------
    list of Path
        The data set's folder, then the kernels'.

    Raises
    ------
    InputError
        Before anything is built: no user, unknown profile, times that are not possible, metadata
        that Kaggle would refuse. Afterwards: the wheel could not be built.
    RuntimeError
        If the wheels of other packages could not be had.
    """
    if not user:
        raise InputError("your name on Kaggle is missing: give --user or set KAGGLE_USERNAME")
    if not 0 < hours < 12:
        raise InputError(f"hours = {hours}: a session on Kaggle lasts less than 12 hours")
    profile = profiles.load(profile_name)
    code = {
        "id": f"{user}/{metadata.slug(CODE)}",
        "title": CODE,
        "licenses": [{"name": "GPL-3.0"}],
    }
    metadata.check_dataset(code)
    kernels = _kernels(profile, user, code["id"], internet, resume)
    for kernel in kernels.values():
        metadata.check_kernel(kernel)

    out = resolve(out)
    shutil.rmtree(out, ignore_errors=True)
    folders = [out / "code"]
    folders[0].mkdir(parents=True)
    wheel = build_wheel(folders[0])
    if not internet:
        packages.download(folders[0])
    _write_json(folders[0] / "dataset-metadata.json", code)
    for until, kernel in kernels.items():
        folder = out / kernel["id"].split("/")[1]
        folder.mkdir()
        path = folder / kernel["code_file"]
        nbformat.write(jupytext.read(project_root() / DRIVER), path)
        notebook = parameterize_notebook(
            load_notebook_node(str(path)),
            {
                "profile": profile.name,
                "until": until,
                "hours": hours,
                "wheel": wheel.name,
                "wheel_sha256": receipts.sha256(wheel),
                "internet": internet,
            },
        )
        nbformat.write(notebook, path)
        _write_json(folder / "kernel-metadata.json", kernel)
        folders.append(folder)
    print(f"kaggle datasets create -p {folders[0]}    (later: kaggle datasets version)")
    for folder in folders[1:]:
        print(f"kaggle kernels push -p {folder}")
    return folders


def _kernels(
    profile: profiles.Profile, user: str, code: str, internet: bool, resume: bool
) -> dict[str, dict]:
    """Metadata of each kernel by the step that it ends with; the empty name is the whole chain."""
    trainings = [step for step in profile.steps if "_train_" in step]
    titles = {
        until: f"Spiral arms {profile.name} {until.replace('_', ' ') or 'chain'}"
        for until in ["", *trainings]
    }
    addresses = {until: f"{user}/{metadata.slug(title)}" for until, title in titles.items()}
    datasets, competitions = [code], []
    if (survey := _survey(profile)) in DATASETS:
        handle = DATASETS[survey].kaggle
        (datasets if "/" in handle else competitions).append(handle)
    kernels = {}
    for until, title in titles.items():
        # The chain takes up its own last session and each training that a kernel has done alone.
        earlier = [] if not resume else [addresses[until]] if until else list(addresses.values())
        kernels[until] = {
            "id": addresses[until],
            "title": title,
            "code_file": "driver.ipynb",
            "language": "python",
            "kernel_type": "notebook",
            "is_private": True,
            "enable_gpu": True,
            "machine_shape": "NvidiaTeslaT4",
            "enable_internet": internet,
            "docker_image_pinning_type": "original",  # versions of a kernel run in the same image
            "dataset_sources": datasets,
            "competition_sources": competitions,
            "kernel_sources": earlier,
            "model_sources": [],
        }
    return kernels


def _survey(profile: profiles.Profile) -> str | None:
    """Name of the survey that a profile reads."""
    for step in profile.steps:
        settings = {**profiles.default_parameters(step), **profile.overrides[step]}
        if "survey" in settings:
            return settings["survey"]
    return None


def build_wheel(folder: Path) -> Path:
    """Build the wheel of the project, with notebooks, profiles and Snakefile inside.

    Raises
    ------
    InputError
        If the build failed; with its messages.
    """
    root = project_root()
    ignored = shutil.ignore_patterns("__pycache__", "*.ipynb", ".ipynb_checkpoints")
    with tempfile.TemporaryDirectory() as temporary:
        stage = Path(temporary)
        shutil.copytree(root / "lib", stage / "lib", ignore=ignored)
        shutil.copytree(root / "notebooks", stage / "lib" / PROJECT / "notebooks", ignore=ignored)
        for name in ("Snakefile", packages.LOCK):
            shutil.copy(root / name, stage / "lib" / PROJECT)
        if (root / BUNDLED).is_dir():
            shutil.copytree(root / BUNDLED, stage / "lib" / PROJECT / BUNDLED)
        _write_json(stage / "lib" / PROJECT / receipts.SOURCE, receipts.git_state())
        (stage / "MANIFEST.in").write_text(f"graft lib/{PROJECT}\n", encoding="utf-8")
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(root / name, stage)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
        command += ["--no-build-isolation", "--wheel-dir", str(folder), str(stage)]
        # With a fixed date the same sources give the same bytes.
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "315532800"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"the wheel could not be built:\n{done.stdout}{done.stderr}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
