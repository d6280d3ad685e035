"""The metadata files of Kaggle's command-line tool, and what its documentation allows in them.

Source: docs/kernels_metadata.md and docs/datasets_metadata.md of github.com/Kaggle/kaggle-cli, and
for the accelerators pull request 1198 there: ``NvidiaTeslaT4`` is the machine with two T4. The tool
and the server take an unknown accelerator without a word and run on another, so it is checked here.
"""

from __future__ import annotations

import re

from lib.schema import InputError

KERNEL_FIELDS = {
    "id": str,
    "id_no": int,
    "title": str,
    "code_file": str,
    "language": str,
    "kernel_type": str,
    "is_private": bool,
    "enable_gpu": bool,
    "enable_tpu": bool,
    "enable_internet": bool,
    "machine_shape": str,
    "keywords": list,
    "dataset_sources": list,
    "competition_sources": list,
    "kernel_sources": list,
    "model_sources": list,
    "docker_image": str,
    "docker_image_pinning_type": str,
}
"""Fields of ``kernel-metadata.json`` and their types."""

ALLOWED = {
    "language": ("python", "r", "rmarkdown"),
    "kernel_type": ("script", "notebook"),
    "machine_shape": ("", "NvidiaTeslaT4", "TpuV5E8"),
    "docker_image_pinning_type": ("original", "latest"),
}
_REQUIRED = ("id", "title", "code_file", "language", "kernel_type")
_SLUG = r"[a-z0-9]+(-[a-z0-9]+)*"
_NAME = rf"[A-Za-z0-9][A-Za-z0-9-]*/{_SLUG}"
_SOURCES = {
    "dataset_sources": rf"{_NAME}(/\d+)?",
    "kernel_sources": _NAME,
    "competition_sources": _SLUG,
    "model_sources": rf"{_NAME}/\w+/[\w.-]+/\d+",
}


def slug(title: str) -> str:
    """The last part of the address that Kaggle makes of a title."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def check_kernel(metadata: dict[str, object]) -> None:
    """Refuse metadata of a kernel that Kaggle would not take, or would take for something else.

    Raises
    ------
    InputError
        Names the field, its value and what is allowed.
    """
    name = "kernel-metadata.json"
    for field in _REQUIRED:
        if not metadata.get(field):
            raise InputError(f"{name}: {field} is missing")
    for field, value in metadata.items():
        if field not in KERNEL_FIELDS:
            known = ", ".join(KERNEL_FIELDS)
            raise InputError(f"{name}: unknown field {field!r}; known are {known}")
        if type(value) is not KERNEL_FIELDS[field]:
            kind = KERNEL_FIELDS[field].__name__
            raise InputError(f"{name}: {field} = {value!r} is not of type {kind}")
        if value not in ALLOWED.get(field, (value,)):
            choices = ", ".join(repr(v) for v in ALLOWED[field])
            raise InputError(f"{name}: {field} = {value!r}: choose one of {choices}")
    for field, pattern in {"id": _NAME, **_SOURCES}.items():
        values = metadata.get(field, [])
        for value in [values] if field == "id" else values:
            if not re.fullmatch(pattern, value):
                raise InputError(f"{name}: {field} has {value!r}, which is no address on Kaggle")
    _check_title(metadata["title"], metadata["id"], name, 5)
    if metadata.get("machine_shape", "").startswith("Nvidia") and not metadata.get("enable_gpu"):
        raise InputError(f"{name}: machine_shape names a GPU but enable_gpu is not true")


def check_dataset(metadata: dict[str, object]) -> None:
    """Refuse metadata of a data set that Kaggle would not take.

    Raises
    ------
    InputError
        Names the field, its value and what is allowed.
    """
    name = "dataset-metadata.json"
    for field in ("id", "title", "licenses"):
        if not metadata.get(field):
            raise InputError(f"{name}: {field} is missing")
    if not re.fullmatch(_NAME, metadata["id"]):
        raise InputError(f"{name}: id = {metadata['id']!r} is no address on Kaggle")
    _check_title(metadata["title"], metadata["id"], name, 6)
    if len(metadata["licenses"]) != 1 or not metadata["licenses"][0].get("name"):
        raise InputError(f"{name}: licenses must be one entry with a name")


def _check_title(title: str, address: str, name: str, shortest: int) -> None:
    if not shortest <= len(title) <= 50:
        raise InputError(f"{name}: title {title!r} must have {shortest} to 50 characters")
    if slug(title) != address.split("/")[1]:
        raise InputError(f"{name}: title {title!r} does not belong to the id {address!r}")
