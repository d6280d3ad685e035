"""Packages that a session on Kaggle lacks. Imports only what every Kaggle session has."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DISTRIBUTION = "spiral-arms"
ONLY_AT_HOME = {"jupyterlab"}
"""Requirements that a session on Kaggle does not use."""


def missing_packages() -> list[str]:
    """Requirements of the project that are not installed, in whatever version."""
    wanted = [Requirement(text) for text in metadata.requires(DISTRIBUTION)]
    here = {canonicalize_name(d.metadata["Name"]) for d in metadata.distributions()}
    known = here | ONLY_AT_HOME
    return [str(r) for r in wanted if r.marker is None and canonicalize_name(r.name) not in known]


def install_missing() -> None:
    """Install what is missing, and leave every package that is there as it is.

    Kaggle's TensorFlow is built for its GPUs: pip is told to keep all versions, and fails rather
    than replace one.

    Raises
    ------
    RuntimeError
        If pip failed; names the packages.
    """
    missing = missing_packages()
    if not missing:
        return
    print("installing", ", ".join(missing), flush=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as frozen:
        for one in metadata.distributions():
            if canonicalize_name(one.metadata["Name"]) != DISTRIBUTION:
                frozen.write(f"{one.metadata['Name']}=={one.version}\n")
        frozen.flush()
        command = [sys.executable, "-m", "pip", "install", "--quiet"]
        done = subprocess.run([*command, "--constraint", frozen.name, *missing])
    if done.returncode:
        raise RuntimeError(
            f"{', '.join(missing)} could not be installed: switch the kernel's internet on, or "
            "attach a data set with their wheels and set PIP_FIND_LINKS to it"
        )
