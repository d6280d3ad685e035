"""What all tests share: where the real samples are, and a checkout to run notebooks in."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lib  # noqa: F401  before TensorFlow, which takes settings from it

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


def _real(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"no real data here: {name} is not in a folder `shared` beside the checkout")
    return folder


@pytest.fixture(scope="session")
def challenge_sample() -> Path:
    """Real galaxies in the layout of the Galaxy Challenge."""
    return _real("galaxy-challenge-sample")


@pytest.fixture(scope="session")
def gz2_tables() -> Path:
    """Real rows of Galaxy Zoo 2 catalogues."""
    return _real("gz2-tables")


@pytest.fixture(scope="session")
def gz2_sample() -> Path:
    """Real cut-outs of Galaxy Zoo 2 with the fractions of Hart et al. (2016)."""
    return _real("gz2-sample")


@pytest.fixture(scope="session")
def zoobot_parts() -> Path:
    """Small parts of Zoobot's real TensorFlow checkpoints."""
    return _real("zoobot-checkpoint")


def chain(root: Path, profile: str, *options: str) -> subprocess.CompletedProcess:
    """Run a profile in a checkout of its own."""
    return run_module(root, "lib.workflow.steps", "chain", "--profile", profile, *options)


def run_module(
    root: Path, module: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess:
    """Run a module of the library in a checkout of its own, with more environment variables."""
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "SPIRAL_ARMS_ROOT": str(root), "PYTHONPATH": str(ROOT)}
    environment |= variables
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def copy_checkout(root: Path) -> None:
    """Copy what a run needs of the checkout, without the runs and downloads that are there."""
    shutil.copy(ROOT / "Snakefile", root)
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    shutil.copytree(ROOT / "data" / "weights", root / "data" / "weights")


@pytest.fixture(scope="session")
def common_folder(tmp_path_factory) -> Path:
    """A folder that all processes of this test run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if os.environ.get("PYTEST_XDIST_WORKER") else folder


@pytest.fixture(scope="session")
def chain_checkout(common_folder) -> Path:
    """What a run needs of the checkout, without the runs that are there already."""
    root = common_folder / "checkout"
    with open(common_folder / "checkout.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            root.mkdir()
            copy_checkout(root)
    return root


@pytest.fixture(scope="session")
def smoke(chain_checkout, common_folder) -> tuple[str, Path]:
    """A finished run of profile `smoke`: what it printed, and its folder.

    The first process that needs it makes it; others wait.
    """
    said = common_folder / "smoke.txt"
    with open(common_folder / "smoke.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            result = chain(chain_checkout, "smoke")
            said.write_text(f"{result.returncode}\n{result.stdout}{result.stderr}")
    code, printed = said.read_text().split("\n", 1)
    assert code == "0", printed
    return printed, chain_checkout / "runs" / "smoke"
