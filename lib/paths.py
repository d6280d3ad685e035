"""Where things are: the project root, a run's folders, and files that appear only when whole."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.schema import InputError


def project_root() -> Path:
    """Folder that relative paths of parameters start from.

    It is ``$SPIRAL_ARMS_ROOT`` where that is set (on Kaggle, where `lib` is an installed wheel),
    else the checkout that `lib` is imported from.
    """
    root = os.environ.get("SPIRAL_ARMS_ROOT")
    return Path(root).resolve() if root else Path(__file__).resolve().parent.parent


def resolve(path: str | Path) -> Path:
    """Absolute form of a path; a relative one starts at `project_root`."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else project_root() / path


def step_folder(run_dir: str | Path, step: str) -> Path:
    """Folder that an earlier step of a run (``runs/mock``) wrote.

    Raises
    ------
    InputError
        If the folder is not there.
    """
    folder = resolve(run_dir) / step
    if not folder.is_dir():
        raise InputError(
            f"{folder} is missing: run notebook {step} first "
            f"(make run PROFILE={resolve(run_dir).name} runs the whole chain)."
        )
    return folder


LAB = "lab"
"""Name of the run that notebooks write to by hand; they read what `make run` has made."""


def in_batch() -> bool:
    """Whether `lib.workflow.steps` runs the notebook, so that nobody sits before it."""
    return bool(os.environ.get("SPIRAL_ARMS_OUTPUT"))


def output_folder(run_dir: str | Path, step: str) -> Path:
    """Folder that a notebook writes to, made if needed.

    In a batch run `lib.workflow.steps` sets ``$SPIRAL_ARMS_OUTPUT`` to a staging folder, which it
    moves into place when the notebook has ended well. By hand it is ``<step>`` in `LAB` beside the
    run, so that the chain's results stay as their receipts say.
    """
    by_hand = resolve(run_dir).with_name(LAB) / step
    folder = Path(os.environ["SPIRAL_ARMS_OUTPUT"]) if in_batch() else by_hand
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sha256(path: str | Path) -> str:
    """SHA-256 of a file as a hexadecimal string."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Write a file so that it appears under its name only when whole.

    Yields a temporary path in the same folder, with the same suffix; it replaces `path` when the
    block ends without an error, and is removed otherwise.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic(Path(folder) / "a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     (Path(folder) / "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


CHECKPOINT = "checkpoint"
"""Name of folders that hold what a step needs only to go on after it was killed."""


def remove_checkpoints(folder: str | Path) -> None:
    """Remove the folders named `CHECKPOINT` below a folder, when nothing is left to go on with."""
    for path in list(Path(folder).rglob(CHECKPOINT)):
        shutil.rmtree(path)


def remove_unfinished(folder: str | Path) -> None:
    """Remove what killed processes left half-written in a folder with `atomic`.

    Only to be called when nobody writes there.
    """
    for path in Path(folder).rglob(".*"):
        if re.fullmatch(r"\.\d+\..+", path.name):
            path.unlink()


def check_space(folder: Path, needed: int, what: str, remedy: str) -> None:
    """Refuse, by an InputError, to start what a folder's disk has no room for (`needed` bytes)."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{what} needs {needed / 1e9:.2f} GB but {folder} has {free / 1e9:.2f} GB free: "
            + remedy
        )
