"""Training with Keras: batches that can be drawn again, features kept on disk, runs taken up.

The networks, ``compile`` and ``fit`` are in the notebooks. Here is what these have to trust.
Nothing in an epoch depends on what ran before it, save the variables of the network and of the
optimizer: the order of the galaxies and their augmentation follow from the seed and the number of
the epoch (`lib.images`). `Resume` writes all of it at the end of every epoch, so that a run that
was killed goes on where it was and ends with the same weights as one that was not.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from lib import evaluation, networks
from lib.images import Copies, epoch_order
from lib.paths import CHECKPOINT, atomic
from lib.schema import MERGES, InputError, merged_classes, probability_columns
from lib.workflow.code import closure_hash

PREDICTION_BATCH = 64

PATIENCE = 30
"""Epochs without a better validation accuracy after which training stops (Sec. 3.5)."""

ORDERS = ("every galaxy once", "balanced sampling")
"""How the galaxies of an epoch are drawn."""

_DRAW = 2  # a stream of random numbers below one seed, beside those of `lib.images`


class Batches(keras.utils.PyDataset):
    """Batches of inputs for ``fit`` and ``predict``; Keras must not shuffle: ``shuffle=False``.

    With a seed they are training batches: drawn in another order in each epoch, each galaxy as an
    augmented copy. Without, they are the galaxies as they are, in their order.

    Parameters
    ----------
    inputs : callable
        (galaxy ids, copies) to an array (n, ...): `lib.images.Copies.get` or `FeatureStore.get`.
    galaxies : array-like, (n,)
        Identifiers.
    targets : ndarray of float32, (n, classes), optional
    seed : int, optional
        Of the order alone.
    copies : int, optional
        Copies of a galaxy that there are; epoch e sees copy e modulo this number. By default there
        are as many as epochs, as published.
    order : one of `ORDERS`
    """

    def __init__(
        self,
        inputs: Callable,
        galaxies,
        targets: np.ndarray | None = None,
        batch_size: int = PREDICTION_BATCH,
        *,
        seed: int | None = None,
        copies: int | None = None,
        order: str = ORDERS[0],
    ):
        super().__init__()
        if batch_size < 1 or (copies is not None and copies < 1):
            raise InputError(f"batch_size = {batch_size}, copies = {copies}: 1 or more")
        if order not in ORDERS:
            raise InputError(f"order = {order!r}: choose one of {', '.join(ORDERS)}")
        self.inputs, self.galaxies, self.targets = inputs, np.asarray(galaxies), targets
        self.batch_size, self.seed, self.copies, self.order = batch_size, seed, copies, order
        self.epoch = 0

    @property
    def epoch(self) -> int:
        """Epoch that the batches belong to, from 0; `Resume` sets it."""
        return self._epoch

    @epoch.setter
    def epoch(self, number: int) -> None:
        self._epoch, self._places, self._copies = number, np.arange(len(self.galaxies)), None
        if self.seed is None:
            return
        if self.order == "balanced sampling":
            self._places = balanced_order(self.targets.argmax(axis=1), self.seed, number)
        else:
            self._places = epoch_order(len(self.galaxies), self.seed, number)
        # A galaxy that comes again in an epoch is seen as another copy.
        again = pd.Series(self._places).groupby(self._places).cumcount().to_numpy()
        if self.copies is None:
            self._copies = number + 10_000 * again
        else:
            self._copies = (number + again) % self.copies

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self._places) // self.batch_size)

    def __getitem__(self, number: int):
        """Batch of the epoch: inputs, or (inputs, targets)."""
        chosen = slice(number * self.batch_size, (number + 1) * self.batch_size)
        places = self._places[chosen]
        copies = None if self._copies is None else self._copies[chosen]
        inputs = self.inputs(self.galaxies[places], copies)
        return (inputs,) if self.targets is None else (inputs, self.targets[places])


def balanced_order(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Positions (int64) of the galaxies of an epoch in which every class comes equally often.

    As many galaxies as `labels` (int, (n,)) has, rounded up to a multiple of the classes. Of a
    large class a part is drawn, each galaxy at most once; a small class is gone through as often
    as needed. The draw depends on seed and epoch only.
    """
    rng = np.random.default_rng([_DRAW, seed, epoch])
    classes = np.unique(labels)
    wanted = -(-len(labels) // len(classes))
    drawn = []
    for number in classes:
        members = np.flatnonzero(labels == number)
        rounds = -(-wanted // len(members))
        drawn.append(np.concatenate([rng.permutation(members) for _ in range(rounds)])[:wanted])
    return rng.permutation(np.concatenate(drawn))


class FeatureStore:
    """Features of a frozen backbone, computed when first asked for and kept on disk.

    One file per copy, named by a hash of everything the features depend on, so that runs with other
    seeds, classes or heads share them. Runs at the same time wait for each other's features, and
    which of them computes a galaxy's makes no difference: arithmetic on processors depends, in the
    last bits, on the size of a batch and on an image's place in it, so both are always the same.

    The `encoder` makes features, (n, features), of the images of `copies`, which must be opened
    with its crop and colour (else InputError).
    """

    _kept: tuple = (None, None, None)

    def __init__(self, encoder: keras.Model, copies: Copies, folder: str | Path):
        self.folder, self.images, self.encoder = Path(folder), copies, encoder
        if tuple(encoder.input.shape[1:]) != copies.shape:
            raise InputError(
                f"the images are opened as {copies.shape} (side, side, channels), the network "
                f"takes {tuple(encoder.input.shape[1:])}: open the cache with its crop and colour"
            )
        self.width = encoder.output.shape[-1]
        self.key = fingerprint({**self.settings(), "code": closure_hash(__file__)})[:16]

    def get(self, galaxies, copies: np.ndarray | None = None) -> np.ndarray:
        """Features of some galaxies, float32, (n, features), as `lib.images.Copies.get`."""
        rows = self.images.cache.rows(galaxies)
        if copies is None:
            return self._get(rows, None)
        found = np.empty((len(rows), self.width), np.float32)
        for copy in np.unique(copies):
            found[copies == copy] = self._get(rows[copies == copy], int(copy))
        return found

    def settings(self) -> dict[str, object]:
        """Everything but code that decides the features, as values of JSON types."""
        encoder = {"encoder": networks.weights_hash(self.encoder), "name": self.encoder.name}
        return {**encoder, **self.images.settings()}

    def prepare(self, galaxies, copies: int) -> None:
        """Compute what is not there yet: galaxies as they are, and their first copies."""
        rows = self.images.cache.rows(galaxies)
        for copy in (None, *range(copies)):
            self._get(rows, copy)

    def _get(self, rows: np.ndarray, copy: int | None) -> np.ndarray:
        path = self.folder / f"features_{self.key}_{'plain' if copy is None else copy}.npz"
        known, features = self._read(path)
        if len(np.setdiff1d(rows, known)):
            known, features = self._compute(path, rows, copy)
        order = np.argsort(known)
        return features[order[np.searchsorted(known, rows, sorter=order)]]

    def _compute(self, path: Path, rows: np.ndarray, copy: int | None):
        """Add what a file of features lacks of some rows; one run at a time may do that."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known, features = self._read(path)
            new = np.setdiff1d(rows, known)
            if len(new):
                batches, place = _fixed_places(new, PREDICTION_BATCH)
                shown = (self.images.of_rows(b, copy) for b in batches)
                computed = np.concatenate([self.encoder.predict_on_batch(x) for x in shown])[place]
                known, features = np.append(known, new), np.concatenate([features, computed])
                with atomic(path) as temporary:
                    np.savez(temporary, rows=known, features=features)
        self._kept = (path, known, features)
        return known, features

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Rows and features of a file; the last file read is kept in memory."""
        if self._kept[0] == path:
            return self._kept[1:]
        if not path.exists():
            return np.empty(0, np.int64), np.empty((0, self.width), np.float32)
        with np.load(path) as stored:
            self._kept = (path, stored["rows"], stored["features"])
        return self._kept[1:]


def _fixed_places(rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Full batches, (n, size), in which row r is always in place r modulo `size`.

    Free places repeat a row. And where each of `rows` is in the concatenation of the batches.
    """
    place = rows % size
    batch = pd.Series(place).groupby(place).cumcount().to_numpy()
    batches = np.full((batch.max() + 1, size), rows[0])
    batches[batch, place] = rows
    return batches, batch * size + place


class Resume(keras.callbacks.Callback):
    """Keeps the state of a training after every epoch, and takes it up.

    Beside the weights and the optimizer, which Keras' ``BackupAndRestore`` keeps, these are the
    history, the best weights and the patience of `stopping`. A training that was killed and started
    again with the same settings ends with the same weights as one that was not.

    The state is in ``checkpoint`` in `folder`; that of other `settings` (everything that decides
    the training, of JSON types), or of other code of this project (`lib.workflow.code`), is not
    taken up. `stopping`, with ``restore_best_weights``, stands before this callback in ``fit``;
    `data` are the batches of the training, which are told their epoch.
    """

    def __init__(self, folder: str | Path, settings: dict, *, stopping, data: Batches):
        super().__init__()
        folder = Path(folder) / CHECKPOINT
        self.state, self.best = folder / "state.npz", folder / "best.npz"
        self.fingerprint = fingerprint({**settings, "code": closure_hash(__file__)})
        self.stopping, self.data, self.rows = stopping, data, []

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch, of earlier runs too: `epoch` (from 1), loss, accuracy, `seconds`."""
        return pd.DataFrame(self.rows)

    @property
    def best_epoch(self) -> int:
        """Epoch, from 1, whose weights are kept."""
        return int(self.stopping.best_epoch) + 1

    def on_train_begin(self, logs=None):
        """Take up the state on disk, if it is of this training."""
        self.model.optimizer.build(self.model.trainable_variables)
        self.rows = []
        if not self.state.exists():
            return
        with np.load(self.state) as stored:
            if str(stored["fingerprint"]) != self.fingerprint:
                return
            for i, variable in enumerate(self._variables()):
                variable.assign(stored[f"variable_{i}"])
            kept = json.loads(str(stored["kept"]))
        with np.load(self.best) as stored:
            self.stopping.best_weights = [stored[f"variable_{i}"] for i in range(len(stored))]
        self.rows = kept["history"]
        self.stopping.best, self.stopping.best_epoch = kept["best"], kept["best_epoch"]
        self.stopping.wait = kept["wait"]
        done, ended = len(self.rows), kept["wait"] >= self.stopping.patience
        # Where Keras' own BackupAndRestore says at which epoch to begin, too.
        self.model._initial_epoch = self.params["epochs"] if ended else done
        print(f"going on after epoch {done} of an earlier run", flush=True)

    def on_epoch_begin(self, epoch, logs=None):
        """Tell the batches their epoch."""
        self.data.epoch, self._start = epoch, time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Write the state, the best weights first: a kill between the two repeats an epoch."""
        # A ReLU hides what is not finite from the loss, but not from the weights.
        if not all(np.isfinite(v.numpy()).all() for v in self.model.trainable_variables):
            raise FloatingPointError(
                f"weights are not finite after epoch {epoch + 1}: training diverged. Take a lower "
                "learning_rate or, for random weights, train the BatchNorm layers too."
            )
        values = {name: float(value) for name, value in logs.items()}
        seconds = round(time.perf_counter() - self._start, 2)
        self.rows.append({"epoch": epoch + 1, **values, "seconds": seconds})
        if self.stopping.best_epoch == epoch:
            _save_arrays(self.best, self.stopping.best_weights)
        best, wait = float(self.stopping.best), int(self.stopping.wait)
        kept = {"history": self.rows, "best": best, "best_epoch": self.best_epoch - 1, "wait": wait}
        more = {"fingerprint": np.array(self.fingerprint), "kept": np.array(json.dumps(kept))}
        _save_arrays(self.state, [v.numpy() for v in self._variables()], **more)

    def _variables(self) -> list:
        return [*self.model.variables, *self.model.optimizer.variables]


def _save_arrays(path: Path, arrays: list, **more: np.ndarray) -> None:
    with atomic(path) as temporary:
        np.savez(temporary, **{f"variable_{i}": a for i, a in enumerate(arrays)}, **more)


def check_assignment(assignment: pd.DataFrame) -> tuple[str, ...]:
    """Classes of the galaxies to train on, in the order of a network's outputs.

    InputError for labels of no merge, a class without a training galaxy, a single class, or no
    galaxies to validate with; `label` and `split` are those of `lib.selection.assign`.
    """
    labels = set(assignment["label"])
    merges = [m for m in map(merged_classes, MERGES) if labels <= set(m)]
    if not merges:
        raise InputError(
            f"labels {sorted(labels)} are not the classes of any merge ({', '.join(MERGES)})"
        )
    trained = set(assignment.loc[assignment["split"] == "train", "label"])
    if labels - trained:
        raise InputError(
            f"no galaxy to train on in class {', '.join(sorted(labels - trained))}: merge classes, "
            "loosen the selection, or leave these galaxies out"
        )
    if len(trained) < 2:
        raise InputError(f"only one class ({', '.join(trained)}): there is nothing to tell apart")
    if not (assignment["split"] == "validation").any():
        raise InputError("no galaxy to validate with: raise validation_fraction or max_per_class")
    return tuple(c for c in merges[0] if c in labels)


def one_hot(labels, classes: tuple[str, ...]) -> np.ndarray:
    """Targets of a network, float32, (n, classes)."""
    return np.eye(len(classes), dtype=np.float32)[evaluation.class_index(labels, classes)]


def prediction_table(
    assignment: pd.DataFrame,
    probabilities: np.ndarray,
    classes: tuple[str, ...],
    decision: list[float] | None = None,
) -> pd.DataFrame:
    """Prediction of every galaxy, rows as in the assignment; `decision`: offsets of the classes."""
    table = assignment[["galaxy_id", "label", "split"]].reset_index(drop=True)
    table["predicted"] = np.array(classes)[evaluation.decide(probabilities, decision)]
    table[probability_columns(classes)] = probabilities
    return table


def metrics(predictions: pd.DataFrame, classes: tuple[str, ...]) -> dict:
    """Scores of every split, with 95 % intervals, and of every class in it."""
    result = {}
    for split, part in predictions.groupby("split"):
        matrix = evaluation.confusion(part["label"], part["predicted"], classes)
        report = evaluation.class_report(matrix).astype(object)
        result[split] = {
            "n": len(part),
            "scores": evaluation.score_intervals(matrix).to_dict("index"),
            "classes": report.where(report.notna(), None).to_dict("index"),
            "confusion": matrix.to_numpy().tolist(),
        }
    return result


def save_run(
    folder: str | Path,
    settings: dict,
    history: pd.DataFrame,
    predictions: pd.DataFrame,
    model: keras.Model | None = None,
) -> None:
    """Write ``history.csv``, ``predictions.parquet``, ``metrics.json`` and ``model.json``, last.

    With a model (images to probabilities) ``model.keras`` too, by far the largest of these.
    `settings` are of JSON types, at least `role`, `classes` and `protocol`; `history` is that of
    `Resume`, `predictions` a `prediction_table`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**settings, "assignment_sha256": assignment_hash(predictions)}
    if model is not None:
        with atomic(folder / "model.keras") as temporary:
            model.save(temporary)
        settings = {**settings, "weights_sha256": networks.weights_hash(model)}
    with atomic(folder / "history.csv") as temporary:
        history.to_csv(temporary, index=False)
    with atomic(folder / "predictions.parquet") as temporary:
        predictions.to_parquet(temporary, index=False)
    scores = metrics(predictions, tuple(settings["classes"]))
    for name, content in (("metrics.json", scores), ("model.json", settings)):
        with atomic(folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class TrainedModel(evaluation.Run):
    """A training run, read back with `model`, whose weights are those of the best epoch."""

    model: keras.Model


def load_run(folder: str | Path) -> TrainedModel:
    """Read what `save_run` wrote.

    InputError if a file is missing, or the weights are not those that ``model.json`` describes.
    """
    run, path = evaluation.read_run(folder), Path(folder) / "model.keras"
    if not path.is_file():
        raise InputError(f"{path} is missing: run the training notebook again.")
    model = keras.models.load_model(path, compile=False, safe_mode=True)
    if networks.weights_hash(model) != run.settings["weights_sha256"]:
        raise InputError(
            f"{path} does not hold the weights that model.json describes: run the training "
            "notebook again."
        )
    return TrainedModel(**vars(run), model=model)


def assignment_hash(table: pd.DataFrame) -> str:
    """SHA-256 of a table's `galaxy_id`, `label` and `split`: what a training has of each galaxy."""
    return fingerprint(table[["galaxy_id", "label", "split"]].to_csv(index=False))


def fingerprint(content) -> str:
    """SHA-256 of a text, or of plain values as JSON."""
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def train(
    model: keras.Model,
    inputs: Callable,
    assignment: pd.DataFrame,
    trainings: str | Path,
    settings: dict,
    **fit,
) -> evaluation.Run:
    """Train one network of many, unless that is done: what notebooks 03 and 04 do in their cells.

    The run is in a folder of its own in `trainings`, found again by its settings, the code of this
    project, the galaxies, the images and the initial weights: one that is done is read, one that
    was killed is taken up.

    Parameters
    ----------
    model : keras.Model
        Compiled, with the metric "accuracy"; its weights are the start.
    inputs : callable
        The `get` of a `lib.images.Copies` or a `FeatureStore`.
    assignment : DataFrame
        See `lib.selection.assign`.
    settings : dict
        Of JSON types, for ``model.json``: `role`, `classes`, `protocol`, `seed`, `epochs` and
        `batch_size` at least; `copies` and `order` as `Batches` takes them.
    **fit
        More for Keras' ``fit``, e.g. `class_weight`.
    """
    classes = tuple(settings["classes"])
    listed = assignment[["galaxy_id", "label", "split"]]
    settings = {
        **settings,
        "images": inputs.__self__.settings(),
        "start_sha256": networks.weights_hash(model),
        "assignment_sha256": assignment_hash(listed),
    }
    key = fingerprint({**settings, "code": closure_hash(__file__)})[:16]
    folder = Path(trainings) / f"{settings['role']}-{key}"
    if (folder / "model.json").is_file():
        return evaluation.read_run(folder)
    targets = one_hot(listed["label"], classes)
    training, validation = (listed["split"] == split for split in ("train", "validation"))
    data = Batches(
        *(inputs, listed.loc[training, "galaxy_id"], targets[training], settings["batch_size"]),
        seed=settings["seed"],
        copies=settings.get("copies"),
        order=settings.get("order", ORDERS[0]),
    )
    stopping = keras.callbacks.EarlyStopping(
        "val_accuracy", patience=PATIENCE, restore_best_weights=True
    )
    resume = Resume(folder, settings, stopping=stopping, data=data)
    model.fit(
        data,
        validation_data=Batches(inputs, listed.loc[validation, "galaxy_id"], targets[validation]),
        epochs=settings["epochs"],
        callbacks=[stopping, resume],
        shuffle=False,
        verbose=0,
        **fit,
    )
    probabilities = model.predict(Batches(inputs, listed["galaxy_id"]), verbose=0)
    outcome = {"best_epoch": resume.best_epoch, "epochs_run": len(resume.rows)}
    table = prediction_table(listed, probabilities, classes)
    save_run(folder, settings | outcome, resume.history, table)
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
    return evaluation.read_run(folder)


def settings_of(folder: str | Path) -> dict:
    """How a run was trained, without what came out and on which galaxies: to train it otherwise."""
    settings = evaluation.read_run(folder).settings
    return {name: value for name, value in settings.items() if name not in evaluation.OUTCOMES}


def part_of(items: Iterable, part: str) -> list:
    """Items of the k-th, from 1, of n parts, ``k/n``, in an order that is the same in every run.

    >>> part_of(range(5), "2/2")
    [1, 3]
    """
    k, _, n = str(part).partition("/")
    if not (k.isdigit() and n.isdigit() and 1 <= int(k) <= int(n)):
        raise InputError(f"part = {part!r}: write k/n, part k of n, e.g. '1/1' for all or '2/4'")
    return list(items)[int(k) - 1 :: int(n)]


def check_hardware(precision: str, accumulate: int, jit: bool, devices: str) -> None:
    """Refuse, by InputError, what a training cannot compute in, or with, before it begins.

    `precision` is Keras' name of a dtype policy, `accumulate` the parts of a batch of 16, `jit` XLA
    (on processors 4 to 12 times slower), `devices` "one" or "all".
    """
    for name, value, choices in (
        ("precision", precision, ("float32", "mixed_bfloat16", "mixed_float16")),
        ("accumulate", accumulate, (1, 2, 4, 8, 16)),
        ("devices", devices, ("one", "all")),
    ):
        if value not in choices:
            raise InputError(f"{name} = {value!r}: choose from {', '.join(map(str, choices))}")
    if jit and not tf.config.list_physical_devices("GPU"):
        raise InputError("jit = True, but TensorFlow sees no GPU here: set jit = False")
    if devices == "all" and (jit or accumulate > 1 or precision == "mixed_float16"):
        raise InputError(
            f"devices = 'all' goes with jit = False, accumulate = 1 and float32 or mixed_bfloat16, "
            f"not with jit = {jit}, accumulate = {accumulate}, precision = {precision!r}"
        )
