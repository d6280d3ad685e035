"""Predict a survey of any size: a plan, shards that are independent of each other, a catalogue.

A folder of a prediction holds ``plan.json`` and ``list.parquet`` (what to do), ``model`` (the
exported network, unless it was given), ``shards`` (one Parquet file per finished shard) and, at the
end, the catalogue. A shard is predicted again only when its file is not there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from lib.images import ImageError, Lupton, network_input
from lib.paths import atomic
from lib.predict import catalogue, package
from lib.predict.engine import averaged
from lib.predict.inputs import PATH, read_image, root_of, write_list
from lib.predict.package import CARD, VIEWS, Package
from lib.schema import InputError
from lib.workflow import receipts

PLAN, LIST, SHARDS, MODEL = "plan.json", "list.parquet", "shards", "model"


def plan(
    model: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    root: str | Path | None = None,
    views: int = 1,
    shard_size: int = 10_000,
    lupton: Lupton | None = None,
) -> Path:
    """Write down what is to be predicted, and export the network if need be.

    Parameters
    ----------
    model : path
        Exported package or folder of a training step.
    images : path
        See `lib.predict.inputs.write_list`.
    out : path
        Folder of the prediction.
    root : path, optional
        Folder that relative paths in the list start from; that of the list by default.
    views : {1, 8}
        Views of each image over which probabilities are averaged.
    shard_size : int
        Images per shard.
    lupton : Lupton, optional
        Stretch of FITS images.

    Returns
    -------
    Path
        ``plan.json``. It is left as it was where nothing has changed, so that shards stay fresh.

    Raises
    ------
    InputError
        If model or list cannot be used, or `views` is not possible.
    """
    if views not in VIEWS:
        raise InputError(f"views = {views}: choose 1, or 8 to average rotations and mirrors")
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    exported = _exported(Path(model), out / MODEL)
    galaxies = write_list(images, out / LIST, shard_size)
    root = Path(root).resolve() if root else root_of(images)
    if not root.is_dir():
        raise InputError(f"the folder of the images, {root}, is missing: correct root")
    content = {
        "model": os.path.relpath(exported.folder.resolve(), out),
        "card_sha256": receipts.sha256(exported.folder / CARD),
        "root": str(root),
        "galaxies": galaxies,
        "shard_size": shard_size,
        "shards": -(-galaxies // shard_size),
        "views": views,
        "lupton": asdict(lupton or Lupton()),
        "list_sha256": receipts.sha256(out / LIST),
    }
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    path = out / PLAN
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        for shard in (out / SHARDS).glob("*.parquet"):
            shard.unlink()
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return path


def _exported(model: Path, folder: Path) -> Package:
    """The package of a model; a training step is exported unless that has been done."""
    if not package.is_training_run(model):
        return package.load(model)
    known = json.loads((model / "model.json").read_text(encoding="utf-8"))["weights_sha256"]
    if (folder / CARD).is_file():
        exported = package.load(folder)
        if exported.card["weights_sha256"] == known:
            return exported
    return package.export(model, folder)


def read_plan(path: str | Path) -> dict:
    """Content of a ``plan.json``; InputError if there is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run `python -m lib.predict plan` first") from None


def shard_path(plan_path: str | Path, number: int) -> Path:
    """File of a shard."""
    return Path(plan_path).parent / SHARDS / f"{number:06d}.parquet"


def predict_shard(plan_path: str | Path, number: int, threads: int | None = None) -> Path:
    """Predict the images of one shard, counted from 0; its file appears when it is whole.

    Images are read and given to the network by `threads` threads; one per core by default.

    Raises
    ------
    InputError
        If the plan has no such shard, or the network is not the plan's.
    """
    plan_path = Path(plan_path)
    content = read_plan(plan_path)
    if not 0 <= number < content["shards"]:
        raise InputError(f"{plan_path} has shards 0 to {content['shards'] - 1}, not {number}")
    exported = _planned_package(plan_path, content)
    with pa.parquet.ParquetFile(plan_path.parent / LIST) as file:
        listed = file.read_row_group(number).to_pandas()
    result = _predict(listed, exported, content, threads)
    path = shard_path(plan_path, number)
    with atomic(path) as temporary:
        pa.parquet.write_table(result, temporary)
    return path


def _planned_package(plan_path: Path, content: dict) -> Package:
    exported = package.load(plan_path.parent / content["model"])
    if receipts.sha256(exported.folder / CARD) != content["card_sha256"]:
        raise InputError(f"the model in {exported.folder} has changed since {plan_path}: plan anew")
    return exported


def _predict(
    listed: pd.DataFrame, exported: Package, content: dict, threads: int | None
) -> pa.Table:
    """Catalogue rows of some images: each thread reads a batch of them and runs the network."""
    threads = threads or os.cpu_count()
    engine = exported.engine()
    pixels, lupton = exported.card["preprocessing"], Lupton(**content["lupton"])
    root = Path(content["root"])

    def read(path: str) -> np.ndarray | str:
        try:
            return read_image(root / path, pixels, lupton)
        except ImageError as error:
            return str(error)
        except Exception as error:  # a damaged file may make a decoder raise anything
            return f"{type(error).__name__}: {error}"

    def work(paths: list[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
        images = [read(path) for path in paths]
        found = [image for image in images if not isinstance(image, str)]
        reasons = [image if isinstance(image, str) else "" for image in images]
        if not found:
            return reasons, np.empty((0, width)), np.empty((0, len(exported.classes)))
        inputs = network_input(np.stack(found), pixels["colour"])
        return reasons, *averaged(engine, inputs, content["views"])

    width = len(exported.reference.centre)
    paths = listed[PATH].tolist()
    batches = [paths[i : i + engine.batch] for i in range(0, len(paths), engine.batch)]
    reasons, distances, probabilities = [], [], []
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(work, batches)
        # Distances of many at a time, and not in the threads: there the threads of NumPy's matrix
        # product would take the cores from the network for longer than the product takes.
        while block := list(islice(results, 64)):
            reasons += [reason for part in block for reason in part[0]]
            distances.append(exported.reference.distance(np.concatenate([b[1] for b in block])))
            probabilities += [part[2] for part in block]
    found = np.concatenate(distances), np.concatenate(probabilities)
    return catalogue.table(listed, reasons, *found, exported, content["views"])


def gather(plan_path: str | Path) -> Path:
    """Put the shards together into ``catalogue.parquet`` and what lies beside it.

    Raises
    ------
    InputError
        If a shard is missing.
    """
    plan_path = Path(plan_path)
    content = read_plan(plan_path)
    files = [shard_path(plan_path, number) for number in range(content["shards"])]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise InputError(
            f"{len(absent)} of {len(files)} shards are missing (first: {absent[0]}): give the same "
            "command again to predict them"
        )
    catalogue.write(
        lambda: (pa.parquet.read_table(file) for file in files),
        _planned_package(plan_path, content),
        content,
        plan_path.parent,
    )
    return plan_path.parent / catalogue.NAMES[0]


def run(plan_path: str | Path, log: Callable[[str], None] = print) -> Path:
    """Predict every shard that is not there yet in this process, and gather them."""
    content = read_plan(plan_path)
    for number in range(content["shards"]):
        if not shard_path(plan_path, number).is_file():
            predict_shard(plan_path, number)
        log(f"shard {number + 1} of {content['shards']}")
    return gather(plan_path)


def summary(path: str | Path) -> dict[str, object]:
    """Numbers of a catalogue: `galaxies`, `predicted`, `flagged`, and `reasons` by frequency."""
    table = pa.parquet.read_table(path, columns=["reason", "out_of_distribution"])
    found = sorted(table["reason"].value_counts().to_pylist(), key=lambda row: -row["counts"])
    reasons = {row["values"]: row["counts"] for row in found if row["values"]}
    return {
        "galaxies": len(table),
        "predicted": len(table) - sum(reasons.values()),
        "flagged": int(table["out_of_distribution"].to_numpy().sum()),
        "reasons": reasons,
    }
