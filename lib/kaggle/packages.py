"""Packages that a session on Kaggle lacks. Imports only what every Kaggle session has."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DISTRIBUTION = "spiral-arms"
PROJECT = "project"
"""Folder below `lib`, in the wheel only, that holds the notebooks, the profiles and Snakefile."""

LOCK = "requirements.lock"
ONLY_AT_HOME = {"jupyterlab"}
"""Requirements that a session on Kaggle does not use."""

ON_KAGGLE = {
    *("astropy", "huggingface-hub", "ipywidgets", "jupyterlab", "pandas", "papermill", "pillow"),
    *("pyarrow", "pyyaml", "requests", "safetensors", "scikit-image", "scikit-learn", "scipy"),
    *("seaborn", "tensorflow", "threadpoolctl", "tqdm"),
}
"""Requirements that Kaggle's image has, with what they need: no wheels of these are attached."""


def missing_packages() -> list[str]:
    """Requirements of the project that are not installed, in whatever version."""
    wanted = [Requirement(text) for text in metadata.requires(DISTRIBUTION)]
    here = {canonicalize_name(d.metadata["Name"]) for d in metadata.distributions()}
    known = here | ONLY_AT_HOME
    return [str(r) for r in wanted if r.marker is None and canonicalize_name(r.name) not in known]


def pins() -> dict[str, str]:
    """Version of each package in ``requirements.lock``, from the wheel or from the checkout."""
    library = Path(__file__).resolve().parent.parent
    path = next(p / LOCK for p in (library / PROJECT, library.parent) if (p / LOCK).is_file())
    lines = path.read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if line[:1].isalnum()]
    return {
        canonicalize_name(r.name): next(iter(r.specifier)).version
        for r in pinned
        if r.marker is None or r.marker.evaluate()
    }


def install_missing(wheels: str | Path | None = None) -> None:
    """Install what is missing, and leave every package that is there as it is.

    Kaggle's TensorFlow is built for its GPUs: pip is told to keep all versions, and fails rather
    than replace one. What is new comes in the versions of ``requirements.lock``; where these do not
    go with what is there, the newest that do are taken from the internet.

    Parameters
    ----------
    wheels : path, optional
        Folder of wheels to install from, see `download`; without it the internet is asked.

    Raises
    ------
    RuntimeError
        If pip failed; names the packages.
    """
    missing = missing_packages()
    if not missing:
        return
    here = {canonicalize_name(d.metadata["Name"]): d.version for d in metadata.distributions()}
    here.pop(DISTRIBUTION, None)
    print("installing", ", ".join(missing), flush=True)
    source = [] if wheels is None else ["--no-index", "--find-links", str(wheels)]
    if _install([*source, *missing], {**pins(), **here}):
        return
    if wheels is None:
        print(f"the versions of {LOCK} do not go with what is here: trying others", flush=True)
        if _install(missing, here):
            return
    raise RuntimeError(
        f"{', '.join(missing)} could not be installed: switch the kernel's internet on, or build "
        "with --no-internet, which attaches their wheels, on the Python version of Kaggle's image"
    )


def _install(arguments: list[str], versions: dict[str, str]) -> bool:
    """Let pip install what it can without any other version of these packages."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as constraints:
        constraints.writelines(f"{name}=={version}\n" for name, version in versions.items())
        constraints.flush()
        command = [sys.executable, "-m", "pip", "install", "--quiet"]
        return not subprocess.run(
            [*command, "--constraint", constraints.name, *arguments]
        ).returncode


def lacking() -> set[str]:
    """Packages that Kaggle's image may lack: requirements, and what these need themselves."""
    wanted = {
        Requirement(text).name for text in metadata.requires(DISTRIBUTION) if "extra" not in text
    }
    return _with_needs(wanted - ON_KAGGLE) - _with_needs(ON_KAGGLE)


def _with_needs(names: set[str]) -> set[str]:
    """Installed packages of these names and all that they require."""
    found, left = set(), [canonicalize_name(name) for name in names]
    while left:
        name = left.pop()
        if name in found:
            continue
        try:
            needs = [Requirement(text) for text in metadata.requires(name) or ()]
        except metadata.PackageNotFoundError:  # needed on another platform only
            continue
        found.add(name)
        left += [
            canonicalize_name(r.name)
            for r in needs
            if r.marker is None or r.marker.evaluate({"extra": ""})
        ]
    return found


def download(folder: str | Path) -> None:
    """Put wheels of what Kaggle may lack into a folder, in the versions of ``requirements.lock``.

    They are those of this Python and this platform.

    Raises
    ------
    RuntimeError
        If pip failed; with its messages.
    """
    versions = pins()
    wanted = [f"{name}=={versions[name]}" for name in sorted(lacking())]
    print(f"getting {len(wanted)} wheels for Python {sys.version.split()[0]} ...", flush=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    done = subprocess.run([*command, str(folder), *wanted], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"wheels could not be had:\n{done.stdout}{done.stderr}")
