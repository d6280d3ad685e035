"""Sweeps: one training notebook run many times with other parameters, as a profile asks for.

A profile names them under ``sweeps``, by the notebook that gathers the runs::

    sweeps:
      07_image_size:
        - train: 03_train_b0                    # the notebook that is run
          grid: {crop: [64, 96], seed: [1, 2]}  # every combination of these is one run
          set: {classes: ["2", "3"]}            # what all of them have

Where neither says otherwise, the parameters are those that the profile gives to the training
notebook itself. Each run is a papermill run of its own, with a folder, a receipt and a checkpoint
of its own, so that a sweep that was killed goes on with the runs that are missing. Seeds or folds
are not grouped into one run, although each start of a kernel takes some seconds: single runs are
what can be spread over processors and GPUs, and taken up, one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from lib.paths import resolve, step_folder
from lib.schema import InputError

FOLDER = "sweeps"
"""Folder of all sweeps below that of the run."""

PARAMETER = "sweep"
"""Parameter of a gathering notebook that lists the runs' folders."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes
    ----------
    sweep : str
        Notebook that gathers it.
    name : str
        What sets it apart from the sweep's other runs.
    step : str
        Training notebook.
    parameters : dict
        What the sweep sets, beside what the profile gives to the training notebook.
    """

    sweep: str
    name: str
    step: str
    parameters: dict[str, object]

    @property
    def output(self) -> str:
        """Folder below that of the run."""
        return f"{FOLDER}/{self.sweep}/{self.name}"


def expand(sweep: str, blocks: list[dict], source: str) -> list[SweepRun]:
    """All runs of a sweep.

    Parameters
    ----------
    sweep : str
        Notebook that gathers the runs.
    blocks : list of dict
        With the keys ``train``, ``grid`` and, if wanted, ``set`` and ``name`` (first part of the
        runs' names; the end of the training notebook's by default).
    source : str
        File that they come from, for messages.

    Returns
    -------
    list of SweepRun
        In the order of the blocks and of their grids, the last parameter varying fastest.

    Raises
    ------
    InputError
        If a block is not as above, or two runs would have the same name.

    Examples
    --------
    >>> blocks = [{"train": "03_train_b0", "grid": {"crop": [64, 96], "seed": [1]}}]
    >>> [run.name for run in expand("07_image_size", blocks, "mock.yaml")]
    ['b0-crop_64-seed_1', 'b0-crop_96-seed_1']
    """
    runs = []
    for block in blocks if isinstance(blocks, list) else [blocks]:
        _check(sweep, block, source)
        grid = block["grid"]
        for values in product(*grid.values()):
            chosen = dict(zip(grid, values, strict=True))
            parts = [f"{key}_{value}" for key, value in chosen.items()]
            first = block.get("name", block["train"].rpartition("_")[2])
            name = "-".join([first, *parts]).replace(" ", "_")
            parameters = {**block.get("set", {}), **chosen}
            runs.append(SweepRun(sweep, name, block["train"], parameters))
    names = [run.name for run in runs]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise InputError(
            f"{source}: sweep {sweep} has several runs {sorted(doubled)}: give blocks a `name`"
        )
    return runs


def _check(sweep: str, block: object, source: str) -> None:
    keys = set(block) if isinstance(block, dict) else set()
    if not {"train", "grid"} <= keys <= {"train", "grid", "set", "name"}:
        raise InputError(
            f"{source}: sweep {sweep} has the block {block!r}; wanted `train`, `grid` and, if "
            "needed, `set` and `name`"
        )
    lists = block["grid"].values() if isinstance(block["grid"], dict) else [None]
    if not all(isinstance(values, list) and values for values in lists):
        raise InputError(
            f"{source}: sweep {sweep} has the grid {block['grid']!r}; wanted a list of values for "
            "each parameter"
        )


def folders(run_dir: str | Path, sweep: str, listed: list[str] | None = None) -> list[Path]:
    """Folders of a sweep's finished runs.

    Parameters
    ----------
    run_dir : path
        Folder of the run, e.g. ``runs/mock``.
    sweep : str
        Notebook that gathers them.
    listed : list of str, optional
        Folders below `run_dir`; all that are there by default.

    Raises
    ------
    InputError
        If one that is listed is not there.
    """
    if listed is None:
        found = sorted((resolve(run_dir) / FOLDER / sweep).glob("*/model.json"))
        return [path.parent for path in found if not path.parent.name.endswith(".partial")]
    return [step_folder(run_dir, folder, f"of the sweep {sweep}") for folder in listed]
