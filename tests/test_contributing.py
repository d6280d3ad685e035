"""The checks that run before a commit, as pre-commit would call them."""

import os
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
def test_a_hook_passes_on_what_is_here(hook):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    command = shlex.split(hook["entry"])
    if not (ROOT / command[0]).exists():
        pytest.skip("the environment is not in .venv: `make` has not installed it")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
