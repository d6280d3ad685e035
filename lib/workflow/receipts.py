"""Receipts: what a step read, how it ran and what it wrote, so that a number can be traced.

A receipt is written last and atomically: a step without a valid receipt has not been done.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pandas as pd
import pyarrow.parquet

from lib.paths import atomic, project_root, resolve, sha256
from lib.schema import InputError

NAME = "receipt.json"
SOURCE = "source.json"
"""File in the project root that tells the commit where the project is no git checkout."""

PACKAGES = (
    *("astropy", "keras", "numpy", "pandas", "papermill", "scikit-learn", "scipy", "snakemake"),
    *("tensorflow", "tf-keras-vis"),
)
"""Packages whose versions can change a number."""


def hash_folder(folder: str | Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, except the receipt itself, by relative path."""
    folder = Path(folder)
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / NAME
    }


def hash_catalogues(folder: str | Path) -> dict[str, str]:
    """SHA-256 of the files directly in a survey's folder: its catalogues, not its images."""
    return {p.name: sha256(p) for p in sorted(resolve(folder).glob("*")) if p.is_file()}


def hash_outputs(folder: str | Path) -> str:
    """One SHA-256 over the hashes that a step's receipt holds of its outputs."""
    outputs = json.dumps(read(folder)["outputs"], sort_keys=True)
    return hashlib.sha256(outputs.encode()).hexdigest()


def hash_library() -> str:
    """One SHA-256 over all sources of `lib`."""
    library = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(library.rglob("*.py")):
        digest.update(path.relative_to(library).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def count_rows(folder: str | Path) -> dict[str, int]:
    """Rows of each Parquet and CSV table directly in a folder."""
    counts = {}
    for path in sorted(Path(folder).glob("*")):
        if path.suffix == ".parquet":
            counts[path.name] = pyarrow.parquet.read_metadata(path).num_rows
        elif path.suffix == ".csv":
            counts[path.name] = len(pd.read_csv(path, usecols=[0]))
    return counts


def _printed(*command: str) -> str | None:
    """What a command prints; None if it is not installed or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def git_state() -> dict[str, str | bool | None]:
    """Commit of the checkout and whether tracked files differ from it; None outside git."""
    if (project_root() / SOURCE).is_file():
        return json.loads((project_root() / SOURCE).read_text(encoding="utf-8"))
    git = ("git", "-C", str(project_root()))
    commit = _printed(*git, "rev-parse", "HEAD")
    changes = _printed(*git, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if commit is None else bool(changes)}


def code_state() -> dict[str, object]:
    """The code as it is now: `git` and `library`. A step notes it before it begins."""
    return {"git": git_state(), "library": hash_library()}


def machine() -> dict[str, object]:
    """What the step ran on: Python, platform, processors and, where there are any, GPUs."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "gpus": (_printed("nvidia-smi", "-L") or "").splitlines(),
    }


def package_versions() -> dict[str, str]:
    """Installed versions of `PACKAGES`."""
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}


def write(folder: str | Path, facts: dict[str, object]) -> None:
    """Write the receipt of a step into its folder, last and atomically.

    `facts` are what only the runner knows: step, parameters, inputs, wall time, peak memory, and
    `code_state` as it was when the step began; without that, as it is now.
    """
    outputs = hash_folder(folder)
    receipt = {
        **code_state(),
        **facts,
        "outputs": outputs,
        "bytes": {name: (Path(folder) / name).stat().st_size for name in outputs},
        "rows": count_rows(folder),
        "packages": package_versions(),
        "machine": machine(),
    }
    with atomic(Path(folder) / NAME) as temporary:
        temporary.write_text(json.dumps(receipt, indent=1, sort_keys=True), encoding="utf-8")


def read(folder: str | Path) -> dict[str, object]:
    """Read a step's receipt; InputError if there is none, or if it is not whole."""
    path = Path(folder) / NAME
    try:
        receipt = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(receipt, dict) or not isinstance(receipt.get("outputs"), dict):
            raise ValueError("it lists no outputs")
    except FileNotFoundError:
        raise InputError(f"{path} is missing: the step has not ended. Run it again.") from None
    except ValueError as error:
        raise InputError(
            f"{path} is damaged ({error}): remove it and run the step again."
        ) from None
    return receipt


def unfit(folder: str | Path) -> list[str]:
    """Why a step does not count as done, as far as names and sizes of its files tell.

    One line for a damaged receipt, or per file that is missing or of another size. Quick, for every
    start of the chain; `verify` reads all files.
    """
    try:
        receipt = read(folder)
    except InputError as error:
        return [str(error)]
    problems = []
    for name, size in receipt.get("bytes", {}).items():
        path = Path(folder) / name
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif path.stat().st_size != size:
            problems.append(f"{path} has {path.stat().st_size:,} bytes instead of {size:,}")
    return problems


def verify(folder: str | Path) -> list[str]:
    """Hash a finished step's files again; a line for each that was changed, removed or added."""
    folder = Path(folder)
    then, now = read(folder)["outputs"], hash_folder(folder)
    return (
        [f"{folder.name}/{name} is missing" for name in sorted(then.keys() - now.keys())]
        + [f"{folder.name}/{n} has changed" for n in sorted(then) if n in now and now[n] != then[n]]
        + [f"{folder.name}/{name} was added" for name in sorted(now.keys() - then.keys())]
    )
