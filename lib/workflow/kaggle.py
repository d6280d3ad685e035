"""Run a profile on Kaggle: what is uploaded, and how a session goes on where the last one ended.

``python -m lib.workflow.kaggle --profile gz2`` makes two folders in ``build/kaggle``: a
dataset with the code (`lib` as a wheel, and what it lacks: notebooks, profiles, Snakefile, bundled
weights), and a kernel, which is ``notebooks/kaggle/driver.py`` with its parameters. In a session
there, ``/kaggle/input`` ($KAGGLE_INPUT) has what is attached; ``/kaggle/working`` is kept at its
end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from importlib import metadata
from pathlib import Path

import jupytext
import nbformat
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from lib.paths import project_root, resolve
from lib.schema import InputError
from lib.workflow import profiles, receipts
from lib.workflow.download import DATASETS
from lib.workflow.processes import exit_status

CHECKOUT = Path(__file__).resolve().parent.parent.parent
TEMPLATE = "notebooks/kaggle/kernel-metadata.json"
CODE = "spiral-arms-code"


def build(
    profile_name: str, out: str | Path, user: str, *, hours: float = 11.0, resume: bool = False
) -> tuple[Path, Path]:
    """Make the folders of dataset and kernel, and print the commands that upload them.

    Folders of the same names in `out` are replaced. `user` is the name on Kaggle; after `hours` a
    session stops by itself, below Kaggle's limit of 12; `resume` attaches what the kernel's last
    session left, which must have run already. Raises InputError if there is no user, the profile is
    unknown, the time is not possible, or the wheel could not be built.
    """
    if not user:
        raise InputError("your name on Kaggle is missing: give --user or set KAGGLE_USERNAME")
    if not 0 < hours < 12:
        raise InputError(f"hours = {hours}: a session on Kaggle lasts less than 12 hours")
    profile = profiles.load(profile_name)
    code, kernel = (resolve(out) / name for name in (CODE, f"spiral-arms-{profile.name}"))
    for folder in (code, kernel):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    wheel = _build_wheel(code)
    pins = [f"{name}=={metadata.version(name)}\n" for name in sorted(_needed())]
    (code / "requirements.txt").write_text("".join(pins), encoding="utf-8")
    _copy_project(code / "project")
    dataset = {"id": f"{user}/{CODE}", "title": "Spiral arms code"}
    _write_json(code / "dataset-metadata.json", dataset | {"licenses": [{"name": "GPL-3.0"}]})

    settings = {"profile": profile.name, "hours": hours, "wheel": wheel.name}
    settings["wheel_sha256"] = receipts.sha256(wheel)
    driver = kernel / "driver.ipynb"
    nbformat.write(jupytext.read(project_root() / "notebooks" / "kaggle" / "driver.py"), driver)
    nbformat.write(parameterize_notebook(load_notebook_node(str(driver)), settings), driver)
    described = json.loads((project_root() / TEMPLATE).read_text(encoding="utf-8"))
    described["id"] = f"{user}/{kernel.name}"
    described["title"] += f" {profile.name}"
    described["dataset_sources"] = [dataset["id"]]
    described["kernel_sources"] = [described["id"]] if resume else []
    surveys = {settings.get("survey") for settings in profile.overrides.values()}
    for handle in {DATASETS[name].kaggle for name in surveys if name in DATASETS}:
        described["dataset_sources" if "/" in handle else "competition_sources"].append(handle)
    _write_json(kernel / "kernel-metadata.json", described)
    print(f"kaggle datasets create --dir-mode zip -p {code}    (later: kaggle datasets version)")
    print(f"kaggle kernels push -p {kernel}")
    return code, kernel


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _build_wheel(folder: Path) -> Path:
    """Build the wheel of `lib`, from a copy: a build leaves files beside what it builds."""
    with tempfile.TemporaryDirectory() as stage:
        shutil.copytree(CHECKOUT / "lib", Path(stage, "lib"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(CHECKOUT / name, stage)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
        command += ["--no-build-isolation", "--wheel-dir", str(folder), stage]
        # With a fixed date the same sources give the same bytes.
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "315532800"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"the wheel could not be built:\n{done.stdout}{done.stderr}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def _copy_project(target: Path) -> None:
    """Copy what the wheel lacks, and say which commit it is of."""
    root = project_root()
    ignored = shutil.ignore_patterns("__pycache__", "*.ipynb", ".ipynb_checkpoints")
    shutil.copytree(root / "notebooks", target / "notebooks", ignore=ignored)
    shutil.copy(root / "Snakefile", target)
    shutil.copytree(root / "data" / "weights", target / "data" / "weights")
    _write_json(target / receipts.SOURCE, receipts.git_state())


def _needed() -> set[str]:
    """Installed packages that the project requires, and all that these require themselves."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found, left = set(), [Requirement(text).name for text in project["dependencies"]]
    while left:
        name = canonicalize_name(left.pop())
        try:
            needs = [] if name in found else metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # needed on another platform only
            continue
        found.add(name)
        wanted = [
            r for r in map(Requirement, needs) if not r.marker or r.marker.evaluate({"extra": ""})
        ]
        left += [r.name for r in wanted]
    return found


def restore(profile: profiles.Profile) -> list[str]:
    """Take over what an earlier session of the kernel left; returns the steps that are done.

    Steps that are begun are taken over too. Results of other parameters are dropped; those of other
    code are found by `lib.workflow.steps`.
    """
    attached, run_dir = Path(os.environ.get("KAGGLE_INPUT", "/kaggle/input")), profile.run_dir
    # Kaggle mounts the output of a kernel directly below the inputs or, lately, by its owner.
    for earlier in [*attached.glob(f"*/{run_dir}"), *attached.glob(f"notebooks/*/*/{run_dir}")]:
        shutil.copytree(earlier, resolve(run_dir), dirs_exist_ok=True)
    done = []
    for step in profile.steps:
        folder = resolve(run_dir) / step
        wanted = profile.settings(step)
        if (folder / receipts.NAME).exists() and receipts.read(folder)["parameters"] == wanted:
            done.append(step)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    # Snakemake goes by the order of the times, which Kaggle does not keep: all are from now.
    now = time.time()
    for receipt in resolve(run_dir).rglob(receipts.NAME):
        os.utime(receipt, (now, now))
    return done


def main(argv: list[str] | None = None) -> int:
    """Command line of this module; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.workflow.kaggle")
    parser.add_argument("--profile", dest="profile_name", default="gz2")
    parser.add_argument("--out", default="build/kaggle")
    user = os.environ.get("KAGGLE_USERNAME", "")
    parser.add_argument("--user", default=user, help="name on Kaggle; default $KAGGLE_USERNAME")
    parser.add_argument("--hours", type=float, default=11.0, help="time limit of a session")
    text = "attach what the kernel's last session left"
    parser.add_argument("--resume", action="store_true", help=text)
    return exit_status(lambda given: build(**vars(given)), parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
