"""Profiles: which steps a run has, and every parameter that differs from the notebooks' defaults.

A profile is a YAML file in ``notebooks/profiles``::

    description: what the run is for
    steps: [01_sample_selection, ...]       # in the order of the story
    skipped: {06_stellar_mass: why}         # steps this survey cannot have
    all: {seed: 1}                          # for every notebook that has the parameter
    03_train_b0: {epochs: 5}                # for one notebook

Names and types of parameters are checked against the notebooks before anything starts: papermill
itself only warns about a misspelt parameter and goes on with the default.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jupytext
import yaml

from lib.paths import project_root
from lib.schema import InputError

DATA = "SPIRAL_ARMS_DATA"
"""Environment variable that tells the Snakefile the folder of a survey's data."""

YAML_TEXT = r"[+-]?\d+(\.\d*)?[eE][+-]?\d+"
"""Numbers that YAML 1.1 takes for text; where a default is None, no other type is expected."""


@dataclass(frozen=True)
class Profile:
    """A checked profile.

    Attributes
    ----------
    name, description : str
    steps : tuple of str
        Notebooks to run, by name without suffix.
    skipped : dict of str to str
        Steps this survey cannot have, and why.
    overrides : dict of str to dict
        Parameters of each step that differ from its notebook's defaults.
    """

    name: str
    description: str
    steps: tuple[str, ...]
    skipped: dict[str, str]
    overrides: dict[str, dict[str, object]]

    @property
    def run_dir(self) -> str:
        """Folder of the run, relative to the project root."""
        return f"runs/{self.name}"

    def check_step(self, step: str) -> None:
        """Raise InputError unless the profile has a step of that name."""
        if step not in self.steps:
            raise InputError(
                f"profile {self.name} has no step {step!r}; it has {', '.join(self.steps)}"
            )


def notebook_path(step: str) -> Path:
    """Source (py:percent) of a notebook.

    Raises
    ------
    InputError
        If there is no such notebook.
    """
    path = project_root() / "notebooks" / f"{step}.py"
    if not path.is_file():
        names = ", ".join(p.stem for p in sorted(path.parent.glob("[0-9]*.py")))
        raise InputError(f"there is no notebook {step!r}: choose one of {names}")
    return path


def default_parameters(step: str) -> dict[str, object]:
    """Names and default values in a notebook's `parameters` cell, and in one tagged `hardware`.

    The latter stands before the former: papermill puts a run's own values after `parameters`.

    Raises
    ------
    InputError
        If the notebook has not exactly one `parameters` cell, if hardware comes after it, or if
        they hold more than literals.
    """
    path = notebook_path(step)
    return dict(_read_parameters(path, path.stat().st_mtime_ns))


@cache
def _read_parameters(path: Path, changed: int) -> dict[str, object]:
    """The parameters of a notebook's source; read again when the file has changed."""
    # Only what may be that cell is parsed: jupytext takes 0.1 s for a whole notebook, and each step
    # of a chain reads the parameters of all.
    parts = re.split(r"^(?=# %%)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    cells = [
        cell
        for part in parts
        if re.search("parameters|hardware", part.partition("\n")[0])
        for cell in jupytext.reads(part, "py:percent").cells
        if {"parameters", "hardware"} & {*cell.metadata.get("tags", [])}
        and cell.cell_type == "code"
    ]
    tags = [tag for cell in cells for tag in cell.metadata["tags"]]
    if tags.count("parameters") != 1:
        raise InputError(
            f"{path} has {tags.count('parameters')} cells tagged `parameters`, not one"
        )
    if tags[-1] != "parameters":
        raise InputError(f"{path}: put the cell tagged `hardware` before that tagged `parameters`")
    defaults = {}
    for statement in ast.parse("\n".join(cell.source for cell in cells)).body:
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            raise InputError(f"{path}: the parameters cell must hold only `name = literal` lines")
        defaults[statement.targets[0].id] = ast.literal_eval(statement.value)
    return defaults


def check_parameters(step: str, parameters: dict[str, object]) -> None:
    """Refuse parameters that the notebook does not have, or whose type it does not expect.

    An integer may stand for a float; a parameter whose default is None takes any value, and any
    parameter whose default is a path or a name takes no None.

    Raises
    ------
    InputError
        Names the notebook, the parameter, the value and what is allowed.
    """
    defaults = default_parameters(step)
    for name, value in parameters.items():
        if name not in defaults:
            raise InputError(
                f"{step} has no parameter {name!r}; it has {', '.join(sorted(defaults))}"
            )
        default = defaults[name]
        if default is None and isinstance(value, str) and re.fullmatch(YAML_TEXT, value):
            raise InputError(
                f"{step}: parameter {name} = {value!r} is text to YAML 1.1: write a number as "
                "1.0e-4, with a point and a sign"
            )
        allowed = (int, float) if type(default) is float else (type(default),)
        if default is not None and type(value) not in allowed:
            raise InputError(
                f"{step}: parameter {name} = {value!r} is of type {type(value).__name__}; "
                f"it must be of type {type(default).__name__} like its default {default!r}"
            )


def names() -> list[str]:
    """Names of all profiles."""
    return sorted(p.stem for p in (project_root() / "notebooks" / "profiles").glob("*.yaml"))


def load(name: str, data_dir: str | None = None) -> Profile:
    """Read and check a profile.

    Parameters
    ----------
    name : str
        Name of a file in ``notebooks/profiles``, without suffix.
    data_dir : str, optional
        Folder of the survey's data; takes the place of the profile's own.

    Raises
    ------
    InputError
        If there is no such profile, or if a key, step, parameter or type in it is unknown.
    """
    path = project_root() / "notebooks" / "profiles" / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"there is no profile {name!r}: choose one of {', '.join(names())}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    steps = tuple(content.pop("steps", ()))
    skipped = content.pop("skipped", {})
    description = content.pop("description", "")
    shared = content.pop("all", {})
    if not steps:
        raise InputError(f"{path} names no `steps`: list the notebooks to run")
    if data_dir is not None:
        shared = {**shared, "data_dir": data_dir}
    known = {key for step in steps for key in default_parameters(step)}
    if unknown := shared.keys() - known:
        raise InputError(
            f"{path}: under `all`, no notebook of the profile has the parameter(s) "
            f"{', '.join(sorted(unknown))}; they have {', '.join(sorted(known))}"
        )
    if unknown := content.keys() - {*steps}:
        raise InputError(
            f"{path} has the unknown key(s) {', '.join(sorted(unknown))}: keys are description, "
            f"steps, skipped, all and the profile's steps ({', '.join(steps)})"
        )

    def overrides(step: str) -> dict[str, object]:
        defaults = default_parameters(step)
        parameters = {
            "run_dir": f"runs/{name}",
            **{key: value for key, value in shared.items() if key in defaults},
            **(content.get(step) or {}),
        }
        check_parameters(step, parameters)
        return {k: v for k, v in parameters.items() if v != defaults[k]}

    return Profile(name, description, steps, skipped, {step: overrides(step) for step in steps})
