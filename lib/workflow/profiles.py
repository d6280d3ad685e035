"""Profiles: which steps a run has, and every parameter that differs from the notebooks' defaults.

A profile is a YAML file in ``notebooks/profiles``::

    description: what the run is for
    steps: [01_sample_selection, ...]       # in their order
    skipped: {06_stellar_mass: why}         # steps this survey cannot have
    all: {seed: 1}                          # for every notebook that has the parameter
    03_train_b0: {epochs: 5}                # for one notebook

Names and types of parameters are checked against the notebooks before anything starts: papermill
itself only warns about a misspelt parameter and goes on with the default.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jupytext
import yaml

from lib.paths import project_root, resolve
from lib.schema import InputError

DATA = "SPIRAL_ARMS_DATA"
"""Environment variable that tells the Snakefile the folder of a survey's data."""

YAML_TEXT = r"[+-]?\d+(\.\d*)?[eE][+-]?\d+"
"""Numbers that YAML 1.1 takes for text; where a default is None, no other type is expected."""


class _Yaml(yaml.SafeLoader):
    """YAML 1.2's scalars, as they look: `1e-4` is a number; `no`, `0123`, dates are text."""

    yaml_implicit_resolvers: dict = {}


for _tag, _form, _first in (
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
):
    _Yaml.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_form})\Z"), [*_first]
    )
_Yaml.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"\Z"), [""])


@dataclass(frozen=True)
class Profile:
    """A checked profile.

    Notebooks to run, by name; steps that this survey cannot have, and why; for each step the
    parameters that differ from its notebook's defaults.
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

    def settings(self, step: str) -> dict[str, object]:
        """All parameters of a step."""
        return default_parameters(step) | self.overrides[step]

    def check_step(self, step: str) -> None:
        """Raise InputError unless the profile has a step of that name."""
        if step not in self.steps:
            raise InputError(
                f"profile {self.name} has no step {step!r}; it has {', '.join(self.steps)}"
            )


def notebook_path(step: str) -> Path:
    """Source (py:percent) of a notebook; InputError if there is no such notebook."""
    path = project_root() / "notebooks" / f"{step}.py"
    if not path.is_file():
        known = ", ".join(p.stem for p in sorted(path.parent.glob("[0-9]*.py")))
        raise InputError(f"there is no notebook {step!r}: choose one of {known}")
    return path


def default_parameters(step: str) -> dict[str, object]:
    """Names and default values in a notebook's `parameters` cell, and in one tagged `hardware`.

    The latter stands before the former: papermill puts a run's own values after `parameters`.
    Raises InputError unless there is exactly one `parameters` cell, after the hardware, of literals
    only.
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
        try:
            (target,) = statement.targets
            defaults[target.id] = ast.literal_eval(statement.value)
            if not _is_plain(defaults[target.id]):
                raise ValueError
        except (AttributeError, ValueError):
            raise InputError(
                f"{path}: the parameters cell must hold only `name = literal` lines, without "
                f"annotations (numbers, texts, lists and dictionaries): {ast.unparse(statement)}"
            ) from None
    return defaults


def _is_plain(value) -> bool:
    """Whether papermill writes a value into a notebook, and JSON into a receipt, as it is."""
    if type(value) is list:
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    return value is None or type(value) in (bool, int, float, str)


def weights_files(step: str, settings: dict[str, object]) -> list[Path]:
    """Files of weights that a step reads: those named by a path, and the bundled ones.

    Which of the bundled files of a source fits a network is for `lib.networks.weights` to say,
    which needs TensorFlow: all of the source count.
    """
    files = []
    for value in settings.values():
        if found := re.match("(imagenet|zoobot-hub|zoobot-checkpoint):(.+)", str(value)):
            path = resolve(found[2])  # a folder, a file, or a checkpoint without its endings
            folder, name = path.parent, path.name.removesuffix(".index")
            if path.is_dir():
                folder, name = path, ""
            beside = folder.iterdir() if folder.is_dir() else ()
            parts = name and f"{name}."
            files += sorted(p for p in beside if p.is_file() and f"{p.name}.".startswith(parts))
    sources = {settings.get("weights")}
    text = notebook_path(step).read_text(encoding="utf-8")
    sources |= {"votes"} if '"votes"' in text else set()  # ArmNet, whatever the parameters
    sources |= {"mock"} if 'weights="mock"' in text else set()
    if settings.get("real_views"):  # a network that goes on from the simulated galaxies
        sources.add("mock")
    for file in sorted((project_root() / "data" / "weights").glob("*.safetensors")):
        card = file.with_suffix(".json")
        known = json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
        files += [file] if known.get("source", "mock") in sources else []
    return files


def check_parameters(step: str, parameters: dict[str, object]) -> None:
    """Refuse parameters that the notebook does not have, or whose type it does not expect.

    An integer may stand for a float; a parameter whose default is None takes any value, no other
    one takes None. The InputError names the notebook, the parameter, the value and what is allowed.
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
            remedies = {bool: ": write true or false", int: ": write 12, not 012 or 1e1"}
            raise InputError(
                f"{step}: parameter {name} = {value!r} is of type {type(value).__name__}; it must "
                f"be of type {type(default).__name__} like its default {default!r}"
                + remedies.get(type(default), "")
            )
        if not _is_plain(value):
            raise InputError(
                f"{step}: parameter {name} = {value!r} is more than numbers, texts, lists and "
                "dictionaries of Python, and would not arrive as it is: give float(...), "
                "str(...) or .tolist() of it"
            )


def names() -> list[str]:
    """Names of all profiles."""
    return sorted(p.stem for p in (project_root() / "notebooks" / "profiles").glob("*.yaml"))


def load(name: str, data_dir: str | None = None) -> Profile:
    """Read and check a profile, by the name of its file without suffix.

    `data_dir`, the folder of the survey's data, takes the place of the profile's own. Raises
    InputError if there is no such profile, or if a key, step, parameter or type in it is unknown.
    """
    path = project_root() / "notebooks" / "profiles" / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"there is no profile {name!r}: choose one of {', '.join(names())}")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Yaml) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    steps = tuple(content.pop("steps", ()))
    skipped, description = content.pop("skipped", {}), content.pop("description", "")
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
            f"{path} has the unknown key(s) {', '.join(map(str, unknown))}: keys are description, "
            f"steps, skipped, all and the profile's steps ({', '.join(steps)})"
        )
    overrides = {}
    for step in steps:
        defaults = default_parameters(step)
        common = {"run_dir": f"runs/{name}", **shared}
        parameters = {k: v for k, v in common.items() if k in defaults} | (content.get(step) or {})
        check_parameters(step, parameters)
        overrides[step] = {k: v for k, v in parameters.items() if v != defaults[k]}
    return Profile(name, description, steps, skipped, overrides)
