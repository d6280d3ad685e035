"""What all tests share: where the real samples are, and a checkout to run notebooks in."""

from __future__ import annotations

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
