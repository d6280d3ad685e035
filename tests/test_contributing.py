"""The checks that run before a commit: their commands are there, and are those of `make`."""

import ast
import re
import shlex
import subprocess

import pytest
import yaml
from conftest import ROOT

HOOKS = [
    hook
    for repository in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repository["hooks"]
]


def test_hooks_need_no_network():
    assert {hook["language"] for hook in HOOKS} == {"system"}


@pytest.mark.parametrize("hook", HOOKS, ids=[hook["id"] for hook in HOOKS])
def test_a_hook_checks_what_is_here(hook):
    """They are not run here: `make lint` and `make test` do what they do."""
    program, *words = shlex.split(hook["entry"])
    assert program in (".venv/bin/ruff", ".venv/bin/python")
    if program.endswith("ruff"):
        command = " ".join(words).removesuffix(" lib tests notebooks")
        assert f"ruff {command}" in (ROOT / "Makefile").read_text()
        words = words[-3:]
    else:
        assert words[:2] == ["-m", "pytest"]
        words = [word for word in words if word.endswith(".py")]
    assert words and all((ROOT / word).exists() for word in words)


@pytest.mark.parametrize("hook", [h for h in HOOKS if "files" in h], ids=lambda h: h["id"])
def test_a_hook_is_asked_for_by_some_file(hook):
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no checkout of git")
    assert [name for name in listed.stdout.splitlines() if re.search(hook["files"], name)]


def test_files_of_text_are_opened_with_their_encoding():
    """Left alone, Python takes that of the locale."""
    without = []
    for path in sorted((ROOT / "lib").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            given = [ast.unparse(a) for a in call.args] + [k.arg or "" for k in call.keywords]
            texts = {"read_text": 0, "write_text": 1}
            if name in texts and "encoding" not in given and len(call.args) <= texts[name]:
                without.append(f"{path}:{call.lineno}")
            binary = any("b" in a for a in given[1:2])
            if isinstance(call.func, ast.Name) and name == "open" and not binary:
                without += [] if "encoding" in given else [f"{path}:{call.lineno}"]
    assert not without
