"""What all tests share: where the real samples are, and a checkout to run notebooks in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def chain(root: Path, profile: str, *options: str) -> subprocess.CompletedProcess:
    """Run a profile in a checkout of its own."""
    command = [sys.executable, "-m", "lib.steps", "chain", "--profile", profile, *options]
    environment = {**os.environ, "SPIRAL_ARMS_ROOT": str(root), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="session")
def chain_checkout(tmp_path_factory):
    """What a run needs of the checkout, without the runs that are there already."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copy(ROOT / "Snakefile", root)
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    return root


@pytest.fixture(scope="session")
def smoke(chain_checkout):
    """A finished run of profile `smoke`: what it printed, and its folder."""
    result = chain(chain_checkout, "smoke")
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout, chain_checkout / "runs" / "smoke"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep a file's tests in one process, and all that need the smoke run in the same one."""
    needs_smoke = {item.path for item in items if "smoke" in getattr(item, "fixturenames", ())}
    for item in items:
        group = "smoke" if item.path in needs_smoke else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))
