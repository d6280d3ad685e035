"""environment.yml, pyproject.toml and requirements.lock name the same packages."""

import re
import tomllib

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NAMED_BY_USER = {
    "jupyterlab",
    "papermill",
    "tensorflow",
    "zoobot",
    "pandas",
    "astropy",
    "seaborn",
    "scipy",
    "scikit-learn",
    "tf-keras-vis",
    "jupytext",
}


def requirements(lines):
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r for r in parsed}


@pytest.fixture(scope="module")
def conda():
    content = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert "python=3.11" in content["dependencies"]
    return requirements(content["dependencies"][-1]["pip"])


@pytest.fixture(scope="module")
def project():
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return requirements(content["dependencies"] + content["optional-dependencies"]["test"])


@pytest.fixture(scope="module")
def lock():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith((" ", "#"))]


def test_named_packages_are_there(conda):
    assert NAMED_BY_USER <= conda.keys()


def test_environment_and_pyproject_agree(conda, project):
    assert {n: str(r.specifier) for n, r in conda.items()} == {
        n: str(r.specifier) for n, r in project.items()
    }


def test_lock_satisfies_every_requirement(lock, project):
    for name, wanted in project.items():
        pins = [r for r in lock if canonicalize_name(r.name) == name]
        assert pins, f"{name} is not in requirements.lock: run `make lock`"
        for pin in pins:
            (version,) = [s.version for s in pin.specifier if s.operator == "=="]
            assert wanted.specifier.contains(version), f"{pin} does not satisfy {wanted}"


def test_every_package_has_its_reason():
    lines = (ROOT / "environment.yml").read_text().splitlines()
    packages = [line for line in lines if re.match(r"      - ", line)]
    assert packages
    assert [line for line in packages if not re.search(r"#\s*\w+", line)] == []
