"""README and data/README: their commands exist and their links lead somewhere."""

import re
import subprocess

import pytest
from conftest import ROOT

PAGES = ["README.md", "data/README.md"]
COMMANDS = sorted(
    {
        command
        for page in PAGES
        for command in re.findall(r"(?:^|`)(make [^`\n]+)", (ROOT / page).read_text(), re.MULTILINE)
    }
)


def test_the_commands_are_found():
    assert {"make run", "make test", "make lab"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_make_knows_what_to_do(command):
    dry = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    text = (ROOT / page).read_text()
    targets = [t for t in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in t]
    missing = [t for t in targets if not ((ROOT / page).parent / t).exists()]
    assert not missing


def test_every_notebook_is_in_the_table():
    text = (ROOT / "README.md").read_text()
    for source in (ROOT / "notebooks").glob("[0-9][0-9]_*.py"):
        assert f"notebooks/{source.stem}.ipynb" in text
