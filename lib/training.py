"""Training: the published protocol (Secs. 2.3, 3.4, 3.5), runs that can be taken up, predictions.

Nothing in an epoch depends on what ran before it, save the variables of the network and of the
optimizer: the order of the galaxies and their augmentation follow from the seed and the number of
the epoch (`lib.images`). All of it is written at the end of every epoch, so that a run that was
killed goes on where it was and ends with the same weights as one that was not.

A frozen backbone gives the same features for the same view of a galaxy whichever head follows. With
`Protocol.feature_views` they are computed once, kept on disk (`FeatureStore`), and only the head is
trained.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from lib import evaluation, models
from lib import votes as votes_head
from lib.code import closure_hash
from lib.images import Augmentation, ImageCache, batches, epoch_order, random_transforms
from lib.models import Network
from lib.paths import CHECKPOINT, atomic
from lib.schema import MERGES, InputError, merged_classes, probability_columns

PREDICTION_BATCH = 64

BALANCES = ("none", "class weights", "balanced sampling", "focal loss")
"""What can be done about classes of unequal size, beside down-sampling them."""

HEADS = ("gradient", "votes")
"""How a head is found: by gradient steps on labels, or solved for from vote fractions."""

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
"""What a training may compute in, as Keras names it; weights are kept in float32 always."""

_DRAW = 2  # a stream of random numbers below one seed, beside those of `lib.images`


@dataclass(frozen=True)
class Protocol:
    """How a network is trained; the defaults are the paper's (Sec. 3.5).

    Attributes
    ----------
    name : {"published", "sound"}
        Whether the validation galaxies that pick the best epoch also give the reported scores, or
        a test set that nothing was chosen on.
    epochs : int
        Most epochs.
    batch_size : int
        Galaxies per step.
    learning_rate : float
        Of Adam, constant.
    patience : int
        Epochs without a better validation accuracy after which training stops.
    batch_norm : {"inference", "train"}
        Whether a fine-tuned backbone runs as in prediction (BatchNorm statistics and stochastic
        depth as they came, as published) or as in training, which random weights need.
    augmentation : Augmentation
        Of the training galaxies.
    balance : {"none", "class weights", "balanced sampling", "focal loss"}
        What is done about classes of unequal size; the paper only down-samples. See
        `class_weights`, `balanced_order` and `make_loss`.
    focal_gamma : float
        Exponent of the focal loss.
    feature_views : int or None
        Augmented views per galaxy whose features are computed once, for a frozen backbone; epoch
        e takes view e modulo this number. None runs the backbone in every epoch, as published;
        `epochs` views give the same training.
    view_seed : int or None
        Seed of the augmentation where runs with several seeds are to share features; None takes
        `seed`.
    head : {"gradient", "votes"}
        Whether the head is trained step by step on labels, as published, or solved for from vote
        fractions (`lib.votes`), which takes a frozen backbone.
    seed : int
        Of the initial weights, the order and the augmentation.
    deterministic : bool
        Use TensorFlow's deterministic operations.
    precision : {"float32", "mixed_bfloat16", "mixed_float16"}
        What forward and backward passes compute in (`lib.models.set_precision`), for GPUs that are
        faster at it. The trained network predicts in float32 whatever it was trained in.
    accumulate : int
        Parts of a batch that are computed one after the other, their gradients added, where a
        whole batch does not fit into memory. With `batch_norm` "train" each part has statistics
        of its own; otherwise the step is that of the whole batch. A head on stored features takes
        batches whole.
    jit : bool
        Compile the training step by XLA; only where there is a GPU.
    devices : {"one", "all"}
        Whether every batch is divided between all GPUs (`tf.distribute.MirroredStrategy`), whose
        gradients are added: the step is that of the whole batch, up to rounding.
    """

    name: str = "published"
    epochs: int = 50
    batch_size: int = 16
    learning_rate: float = 1e-4
    patience: int = 30
    batch_norm: str = "inference"
    augmentation: Augmentation = field(default_factory=Augmentation)
    balance: str = "none"
    focal_gamma: float = 2.0
    feature_views: int | None = None
    view_seed: int | None = None
    head: str = "gradient"
    seed: int = 42
    deterministic: bool = True
    precision: str = "float32"
    accumulate: int = 1
    jit: bool = False
    devices: str = "one"

    def __post_init__(self):
        for name in ("epochs", "batch_size", "patience", "feature_views", "accumulate"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} = {value}: it must be 1 or more")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate = {self.learning_rate}: it must be above 0")
        if self.name not in ("published", "sound"):
            raise InputError(f"protocol = {self.name!r}: choose published or sound")
        if self.head not in HEADS:
            raise InputError(f"head = {self.head!r}: choose one of {', '.join(HEADS)}")
        if self.batch_norm not in ("inference", "train"):
            raise InputError(f"batch_norm = {self.batch_norm!r}: choose inference or train")
        if self.balance not in BALANCES:
            raise InputError(f"balance = {self.balance!r}: choose one of {', '.join(BALANCES)}")
        if not self.focal_gamma >= 0:
            raise InputError(f"focal_gamma = {self.focal_gamma}: it must be 0 or more")
        if self.seed < 0 or (self.view_seed is not None and self.view_seed < 0):
            raise InputError("seed and view_seed must be 0 or more")
        if self.precision not in PRECISIONS:
            raise InputError(
                f"precision = {self.precision!r}: choose one of {', '.join(PRECISIONS)}"
            )
        if self.precision != "float32" and self.feature_views is not None:
            raise InputError(
                f"precision = {self.precision!r} goes with feature_views = None: features that are "
                "computed once are kept in float32"
            )
        if self.jit and not tf.config.list_physical_devices("GPU"):
            raise InputError(
                "jit = True, but TensorFlow sees no GPU here: on processors XLA makes a training 4 "
                "to 12 times slower. Set jit = False."
            )

        if self.devices not in ("one", "all"):
            raise InputError(f"devices = {self.devices!r}: choose one or all")
        alone = {
            "feature_views": (self.feature_views, None),
            "batch_norm": (self.batch_norm, "inference"),
            "accumulate": (self.accumulate, 1),
            "jit": (self.jit, False),
        }
        for name, (value, needed) in alone.items() if self.devices == "all" else ():
            if value != needed:
                raise InputError(
                    f"{name} = {value!r} goes with devices = 'one': to train on all GPUs at once, "
                    f"set {name} = {needed!r}"
                )
        if self.devices == "all" and self.precision == "mixed_float16":
            raise InputError(
                "precision = 'mixed_float16' goes with devices = 'one': take mixed_bfloat16 or "
                "float32 to train on all GPUs at once"
            )

    def strategy(self) -> tf.distribute.Strategy:
        """Where variables are and steps run: on all GPUs, or TensorFlow's default, one device.

        Without GPUs, all processors that TensorFlow sees as such: mostly one.
        """
        if self.devices == "one":
            return tf.distribute.get_strategy()
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])

    def transforms(self, rows: np.ndarray, cache: ImageCache, view: int | np.ndarray) -> np.ndarray:
        """Augmentation of some rows of the cache in one view, see `lib.images.transforms`.

        `view` may also be an array with the view of each row.
        """
        seed = self.seed if self.view_seed is None else self.view_seed
        maps = np.empty((len(rows), 8), np.float32)
        for number, chosen in _by_view(view, len(rows)):
            maps[chosen] = random_transforms(
                rows[chosen], len(cache.arrays), cache.crop, self.augmentation, seed, number
            )
        return maps

    def order(self, labels: np.ndarray, epoch: int) -> np.ndarray:
        """Positions of the training galaxies in the order of an epoch, given their class numbers.

        Every galaxy once, or with balanced sampling what `balanced_order` draws.
        """
        if self.balance == "balanced sampling":
            return balanced_order(labels, self.seed, epoch)
        return epoch_order(len(labels), self.seed, epoch)

    def views(self, order: np.ndarray, epoch: int) -> np.ndarray:
        """View of each galaxy in an epoch's order; one that comes again is seen in another view.

        Without `feature_views` there are as many views as wanted, and no epoch repeats another's.
        """
        again = pd.Series(order).groupby(order).cumcount().to_numpy()
        if self.feature_views is None:
            return epoch + self.epochs * again
        return (epoch + again) % self.feature_views


@dataclass(frozen=True)
class TrainedModel:
    """A training run.

    Attributes
    ----------
    model : keras.Model
        With the weights of the best epoch.
    settings : dict
        What ``model.json`` holds: network, protocol, classes, sources of weights and data, and
        what came out.
    predictions : DataFrame
        `galaxy_id`, `label`, `split`, `predicted` and one probability column per class.
    history : DataFrame
        One row per epoch: `epoch` (from 1), `loss`, `accuracy`, `val_loss`, `val_accuracy`,
        `seconds`.
    validation_probabilities : ndarray, float32, (epochs, validation galaxies, classes)
        After every epoch, galaxies in the order of `predictions`.
    """

    model: keras.Model
    settings: dict
    predictions: pd.DataFrame
    history: pd.DataFrame
    validation_probabilities: np.ndarray

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes in the order of the network's outputs."""
        return tuple(self.settings["classes"])


class Adam(keras.optimizers.Adam):
    """Keras' Adam (Kingma & Ba 2014), but the update of a variable is one operation of TensorFlow.

    Keras' own takes some forty: more than half of all operations in a small network's step.
    """

    def update_step(self, gradient, variable, learning_rate):
        """Update a TensorFlow variable, float32, and its moments."""
        moments = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[moments].value.handle,
            v=self._velocities[moments].value.handle,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=tf.cast(learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


def class_weights(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Weight of each class in the loss: inverse to its frequency, mean 1 over the galaxies.

    The mean keeps the scale of the loss, and with it the meaning of the learning rate.

    Parameters
    ----------
    labels : ndarray of int, (n,)
        Class number of each training galaxy; every class must occur.
    n_classes : int

    Returns
    -------
    ndarray, float32, (n_classes,)

    Examples
    --------
    >>> class_weights(np.array([0, 1, 1, 1, 1, 1]), 2).tolist()
    [3.0, 0.6000000238418579]
    """
    counts = np.bincount(labels, minlength=n_classes)
    return (len(labels) / (n_classes * counts)).astype(np.float32)


def balanced_order(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Positions of the galaxies of an epoch in which every class comes equally often.

    As many galaxies as there are, rounded up to a multiple of the classes. Of a large class a part
    is drawn, each galaxy at most once; a small class is gone through as often as needed. The draw
    depends on seed and epoch only, so that an interrupted run can be taken up.

    Parameters
    ----------
    labels : ndarray of int, (n,)
        Class number of each training galaxy.
    seed, epoch : int

    Returns
    -------
    ndarray of int64
        Positions in `labels`, in the order of the epoch.
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


def make_loss(protocol: Protocol, weights: np.ndarray) -> Callable:
    """Mean loss over a batch, (targets, probabilities) -> float32.

    Cross-entropy -log p, where p is the probability given to the label; with "class weights" times
    the label's weight; with "focal loss" times (1 - p)^gamma (Lin et al. 2017, with alpha = 1).

    Parameters
    ----------
    protocol : Protocol
    weights : ndarray, float32, (classes,)
        From `class_weights`.
    """
    if protocol.balance == "focal loss":
        return keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=protocol.focal_gamma)
    entropy = keras.losses.CategoricalCrossentropy()
    if protocol.balance == "class weights":
        return lambda targets, p: entropy(targets, p, tf.linalg.matvec(targets, weights))
    return entropy


def _by_view(view: int | np.ndarray, n: int) -> list[tuple[int, np.ndarray]]:
    """Each view and the positions, among `n`, that are seen in it."""
    views = np.broadcast_to(view, n)
    return [(int(number), np.flatnonzero(views == number)) for number in np.unique(views)]


def _fixed_places(rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Full batches in which row r is always in place r modulo `size`.

    Returns the batches, (n, size), whose free places repeat a row, and where each of `rows` is in
    their concatenation.
    """
    place = rows % size
    batch = pd.Series(place).groupby(place).cumcount().to_numpy()
    batches = np.full((batch.max() + 1, size), rows[0])
    batches[batch, place] = rows
    return batches, batch * size + place


class FeatureStore:
    """Features of a frozen backbone, computed when first asked for and kept on disk.

    One file per view, named by a hash of everything the features depend on, so that runs with other
    seeds, classes or heads share them. Runs at the same time wait for each other's features, and
    which of them computes a galaxy's makes no difference: arithmetic on processors depends, in the
    last bits, on the size of a batch and on an image's place in it, so both are always the same.

    Parameters
    ----------
    folder : path
        Where the files are.
    body : keras.Model
        Images to pooled features.
    identity : dict
        What the features depend on beside the view and the galaxy.
    stream : callable
        (rows, view or None) to a data set of batches of `PREDICTION_BATCH` images; None is the
        image as it is.
    """

    def __init__(self, folder: Path, body: keras.Model, identity: dict, stream: Callable):
        self.folder, self.stream = Path(folder), stream
        self.forward, self.width = _forward_function(body), body.output.shape[-1]
        self.key = _hash(identity)[:16]

    def get(self, rows: np.ndarray, view: int | None | np.ndarray) -> np.ndarray:
        """Features of some rows of the image cache in a view, float32, (len(rows), features).

        `view` may also be an array with the view of each row.
        """
        if view is None:
            return self._get(rows, None)
        found = np.empty((len(rows), self.width), np.float32)
        for number, chosen in _by_view(view, len(rows)):
            found[chosen] = self._get(rows[chosen], number)
        return found

    def _get(self, rows: np.ndarray, view: int | None) -> np.ndarray:
        path = self.folder / f"features_{self.key}_{'plain' if view is None else view}.npz"
        known, features = self._read(path)
        if len(np.setdiff1d(rows, known)):
            known, features = self._compute(path, rows, view)
        order = np.argsort(known)
        return features[order[np.searchsorted(known, rows, sorter=order)]]

    def _compute(
        self, path: Path, rows: np.ndarray, view: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add what a file of features lacks of some rows; one run at a time may do that."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known, features = self._read(path)
            new = np.setdiff1d(rows, known)
            if len(new):
                batches, place = _fixed_places(new, PREDICTION_BATCH)
                computed = self.forward(self.stream(batches.ravel(), view))[place]
                known, features = np.append(known, new), np.concatenate([features, computed])
                with atomic(path) as temporary:
                    np.savez(temporary, rows=known, features=features)
        return known, features

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        if not path.exists():
            return np.empty(0, np.int64), np.empty((0, self.width), np.float32)
        with np.load(path) as stored:
            return stored["rows"], stored["features"]


def train(
    network: Network,
    protocol: Protocol,
    cache: ImageCache,
    assignment: pd.DataFrame,
    folder: str | Path,
    *,
    votes: pd.DataFrame | None = None,
    features: str | Path | None = None,
    notes: dict | None = None,
    log: Callable[[str], None] = print,
) -> TrainedModel:
    """Train a network and predict every galaxy.

    Parameters
    ----------
    network : Network
        What is trained.
    protocol : Protocol
        How.
    cache : ImageCache
        Images, opened with the network's crop and colour.
    assignment : DataFrame
        `galaxy_id`, `label` and `split`, all of whose galaxies have an image. Galaxies of the split
        "train" are trained on, "validation" picks the epoch, and all are predicted.
    folder : path
        The state of the run is kept in its folder ``checkpoint`` after every epoch. If it holds the
        state of a run with the same settings and code (`lib.code`), that run is taken up.
    votes : DataFrame, optional
        `galaxy_id` and `RHO_COLUMNS` of every galaxy, for a protocol whose head is "votes".
    features : path, optional
        Folder of the `FeatureStore`; only with `protocol.feature_views`.
    notes : dict, optional
        More to keep in the settings, e.g. how the assignment was made (merge, sampling).
    log : callable
        Gets one line per epoch.

    Returns
    -------
    TrainedModel

    Raises
    ------
    InputError
        Before training: cache and network do not fit, a galaxy has no image, an unknown class, no
        galaxies to train on or to validate with, features of a backbone that is not frozen.
    """
    classes = _check(network, protocol, cache, assignment, features)
    if protocol.head == "votes" and votes is None:
        raise InputError("head = 'votes' needs the vote fractions: give the sample as `votes`")
    rows = cache.rows(assignment["galaxy_id"])
    targets = np.eye(len(classes), dtype=np.float32)[
        evaluation.class_index(assignment["label"], classes)
    ]
    training = np.flatnonzero(assignment["split"] == "train")
    validation = np.flatnonzero(assignment["split"] == "validation")
    labels = targets[training].argmax(axis=1)

    if protocol.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy = protocol.strategy()
    with strategy.scope():
        model, receipt = models.build(network, len(classes), protocol.seed)
        models.set_precision(model, protocol.precision)
    settings = {
        **network.settings(),
        "protocol": protocol.name,
        "training": asdict(protocol),
        "replicas": strategy.num_replicas_in_sync,
        "classes": list(classes),
        **(notes or {}),
        "initial_weights": receipt,
        "image_cache_sha256": cache.sha256,
        "assignment_sha256": _hash(assignment[["galaxy_id", "label", "split"]].to_csv(index=False)),
    }

    def stream(which, view, targets=None, batch_size=PREDICTION_BATCH):
        maps = None if view is None else protocol.transforms(which, cache, view)
        return batches(
            cache, which, batch_size, scale=network.input_scale, maps=maps, targets=targets
        )

    if protocol.feature_views is None:
        trained = model

        def epoch_data(order, views):
            return stream(rows[order], views, targets[order], protocol.batch_size)

        def plain(which):
            return stream(rows[which], None)
    else:
        trained = models.head_of(model)
        identity = {
            "backbone": network.backbone,
            "weights": receipt,
            "crop": cache.crop,
            "colour": cache.colour,
            "view": network.view,
            "amplitudes": network.amplitudes,
            "images": cache.sha256,
            "augmentation": asdict(protocol.augmentation),
            "view_seed": protocol.seed if protocol.view_seed is None else protocol.view_seed,
            "code": closure_hash(__file__),
        }
        store = FeatureStore(features, models.body_of(model), identity, stream)
        store.get(rows, None)  # all in one go: parts of them would fill more batches
        if protocol.head == "gradient":
            # In other folds, galaxies of this one's test set are trained on.
            needed = rows if (assignment["split"] == "test").any() else rows[training]
            for view in range(min(protocol.feature_views, protocol.epochs)):
                store.get(needed, view)

        def epoch_data(order, views):
            return store.get(rows[order], views), targets[order]

        def plain(which):
            seen = store.get(rows[which], None)
            return [seen[start : start + 1024] for start in range(0, len(seen), 1024)]

    def epoch(number):
        order = protocol.order(labels, number)
        return epoch_data(training[order], protocol.views(order, number))

    forward = _forward_function(trained)
    decision = None
    if protocol.head == "votes":
        state, decision = _solve(
            trained,
            store.get(rows[training], None),
            votes_head.fractions(
                votes.set_index("galaxy_id").loc[assignment["galaxy_id"].iloc[training]], classes
            ),
            labels,
            forward,
            plain(validation),
            targets[validation],
            protocol.seed,
        )
    else:
        in_training = network.trainable == "all" and protocol.batch_norm == "train"
        state = _fit(
            trained,
            forward,
            protocol,
            strategy,
            in_training,
            make_loss(protocol, class_weights(labels, len(classes))),
            epoch,
            plain(validation),
            targets[validation],
            _Checkpoint(Path(folder) / CHECKPOINT, settings),
            log,
        )
    if protocol.precision != "float32":
        models.set_precision(model, "float32")
        forward = _forward_function(model)  # the graph of the other one computes as it was made
    probabilities = forward(plain(np.arange(len(rows))))
    history = pd.DataFrame(state.history)
    settings |= {
        "best_epoch": int(history["val_accuracy"].idxmax()) + 1,
        "epochs_run": len(history),
        "decision": decision,
        "parameters": models.parameter_counts(model).to_dict(),
        "weights_sha256": models.weights_hash(model),
    }
    return TrainedModel(
        model,
        settings,
        _prediction_table(assignment, probabilities, classes, decision),
        history,
        np.stack(state.validation_probabilities),
    )


@dataclass
class _State:
    """What a run needs beside its variables to go on."""

    history: list[dict] = field(default_factory=list)
    validation_probabilities: list[np.ndarray] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """Index of the first epoch with the highest validation accuracy."""
        return int(np.argmax([row["val_accuracy"] for row in self.history]))

    def finished(self, protocol: Protocol) -> bool:
        """Whether all epochs ran, or `patience` of them without a better validation accuracy."""
        if len(self.history) >= protocol.epochs:
            return True
        return bool(self.history) and len(self.history) - 1 - self.best_epoch >= protocol.patience


class _Checkpoint:
    """State of a run on disk: ``state.npz`` after every epoch, ``best.npz`` after the best one.

    The best weights are written first. A kill between the two files repeats an epoch, which writes
    the same best weights again.
    """

    def __init__(self, folder: Path, settings: dict):
        self.state, self.best = folder / "state.npz", folder / "best.npz"
        self.fingerprint = _hash({**settings, "code": closure_hash(__file__)})

    def save(self, state: _State, variables: list, model: keras.Model) -> None:
        if state.best_epoch == len(state.history) - 1:
            _save_arrays(self.best, model.variables)
        _save_arrays(
            self.state,
            variables,
            fingerprint=np.array(self.fingerprint),
            history=np.array(json.dumps(state.history)),
            validation_probabilities=np.stack(state.validation_probabilities),
        )

    def restore(self, variables: list) -> _State:
        """Fill the variables from the state on disk, if it belongs to this run."""
        if not self.state.exists():
            return _State()
        with np.load(self.state) as stored:
            if str(stored["fingerprint"]) != self.fingerprint:
                return _State()
            _assign(stored, variables)
            return _State(
                json.loads(str(stored["history"])), list(stored["validation_probabilities"])
            )

    def restore_best(self, model: keras.Model) -> None:
        with np.load(self.best) as stored:
            _assign(stored, model.variables)


def _save_arrays(path: Path, variables: list, **more: np.ndarray) -> None:
    arrays = {f"variable_{i}": v.numpy() for i, v in enumerate(variables)}
    with atomic(path) as temporary:
        np.savez(temporary, **arrays, **more)


def _assign(stored, variables: list) -> None:
    for i, variable in enumerate(variables):
        variable.assign(stored[f"variable_{i}"])


def _fit(
    model: keras.Model,
    forward: Callable,
    protocol: Protocol,
    strategy: tf.distribute.Strategy,
    in_training: bool,
    loss: Callable,
    epoch_data: Callable[[int], Iterable | tuple[np.ndarray, np.ndarray]],
    validation: Iterable,
    validation_targets: np.ndarray,
    checkpoint: _Checkpoint,
    log: Callable[[str], None],
) -> _State:
    """Train a model and leave it with the weights of its best epoch."""
    with strategy.scope():
        optimizer = Adam(protocol.learning_rate)
        if protocol.precision == "mixed_float16":  # small gradients are zero in its narrow range
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build(model.trainable_variables)
    variables = [*model.variables, *optimizer.variables]
    state = checkpoint.restore(variables)
    if state.history:
        log(f"going on after epoch {len(state.history)} of an earlier run")
    if protocol.devices == "all":
        run_epoch = _step_by_step(_distributed_step(model, optimizer, loss, strategy))
    elif protocol.feature_views is None:
        options = {"accumulate": protocol.accumulate, "jit": protocol.jit}
        run_epoch = _step_by_step(_step_function(model, optimizer, loss, in_training, **options))
    else:
        step = _step_function(model, optimizer, loss, in_training, jit=protocol.jit)
        run_epoch = _in_one_graph(step, model, protocol.batch_size)
    while not state.finished(protocol):
        start = time.perf_counter()
        epoch = len(state.history)
        train_loss, train_accuracy = run_epoch(epoch_data(epoch))
        probabilities = forward(validation)
        right = probabilities.argmax(axis=1) == validation_targets.argmax(axis=1)
        row = {
            "epoch": epoch + 1,
            "loss": train_loss,
            "accuracy": train_accuracy,
            "val_loss": float(loss(validation_targets, probabilities)),
            "val_accuracy": float(right.mean()),
            "seconds": round(time.perf_counter() - start, 2),
        }
        # A ReLU hides what is not finite from the loss, but not from the weights.
        if not all(np.isfinite(v.numpy()).all() for v in model.trainable_variables):
            raise FloatingPointError(
                f"weights are not finite after epoch {epoch + 1}: training diverged. Take a lower "
                "learning_rate or, for random weights, batch_norm = 'train'."
            )
        state.history.append(row)
        state.validation_probabilities.append(probabilities)
        checkpoint.save(state, variables, model)
        log(
            f"epoch {epoch + 1}/{protocol.epochs}: loss {row['loss']:.4f}, accuracy "
            f"{row['accuracy']:.3f}, validation loss {row['val_loss']:.4f}, validation accuracy "
            f"{row['val_accuracy']:.3f}{' (best)' if state.best_epoch == epoch else ''}, "
            f"{row['seconds']:.1f} s"
        )
    checkpoint.restore_best(model)
    return state


def _solve(
    head: keras.Model,
    features: np.ndarray,
    fractions: np.ndarray,
    labels: np.ndarray,
    forward: Callable,
    validation: Iterable,
    validation_targets: np.ndarray,
    seed: int,
) -> tuple[_State, list[float]]:
    """Fit a head by `lib.votes` and leave the model with it; the classes' offsets besides."""
    start = time.perf_counter()
    fitted = votes_head.fit(features, fractions, label=labels, seed=seed)
    kernel, bias, last, last_bias = fitted.layers(head.get_layer(models.HEAD[0]).units)
    head.get_layer(models.HEAD[0]).set_weights([kernel, bias])
    head.get_layer(models.HEAD[1]).set_weights([last, last_bias])
    own, seen = fitted.probabilities(features), forward(validation)
    shown = validation_targets.argmax(axis=1)
    right = evaluation.decide(seen, fitted.offsets) == shown
    row = {
        "epoch": 1,
        "loss": float(-(fractions * np.log(np.maximum(own, 1e-12))).sum(axis=1).mean()),
        "accuracy": float((evaluation.decide(own, fitted.offsets) == labels).mean()),
        "val_loss": float(-np.log(np.maximum(seen[range(len(shown)), shown], 1e-12)).mean()),
        "val_accuracy": float(right.mean()),
        "seconds": round(time.perf_counter() - start, 2),
    }
    return _State([row], [seen]), [float(value) for value in fitted.offsets]


def _step_function(
    model, optimizer, loss, in_training: bool, *, accumulate: int = 1, jit: bool = False
) -> Callable:
    """One step by TensorFlow graphs: (inputs, targets) -> mean loss and number right.

    The parts of a step are called from Python, since TensorFlow may run those of one graph at a
    time and keep the memory of all.
    """
    variables = model.trainable_variables
    batch = (_any_batch(model.input), _any_batch(model.output))

    def gradients(inputs, targets):
        with tf.GradientTape() as tape:
            probabilities = model(inputs, training=in_training)
            value = loss(targets, probabilities)
            scaled = optimizer.scale_loss(value)
        hits = tf.argmax(probabilities, axis=1) == tf.argmax(targets, axis=1)
        return value, tf.reduce_sum(tf.cast(hits, tf.float32)), tape.gradient(scaled, variables)

    @models.graph(input_signature=batch, jit_compile=jit)
    def step(inputs, targets):
        value, hits, slopes = gradients(inputs, targets)
        optimizer.apply(slopes, variables)
        return value, hits

    if accumulate == 1:
        return step
    sums = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in variables]

    @models.graph(input_signature=(*batch, tf.TensorSpec((), tf.float32)), jit_compile=jit)
    def add(inputs, targets, share):
        value, hits, slopes = gradients(inputs, targets)
        for total, slope in zip(sums, slopes):
            total.assign_add(share * slope)
        return share * value, hits

    @models.graph(jit_compile=jit)
    def update():
        optimizer.apply([total.read_value() for total in sums], variables)
        for total in sums:
            total.assign(tf.zeros_like(total))

    def step_in_parts(inputs, targets):
        n = len(targets)
        ends = np.unique(np.linspace(0, n, accumulate + 1).round().astype(int))
        results = [
            add(inputs[start:end], targets[start:end], np.float32((end - start) / n))
            for start, end in zip(ends[:-1], ends[1:])
        ]
        update()
        values, hits = zip(*results)
        return tf.add_n(values), tf.add_n(hits)

    return step_in_parts


def _distributed_step(model, optimizer, loss, strategy: tf.distribute.Strategy) -> Callable:
    """One step on several devices, as `_step_function`; each computes a part of the batch.

    Keras' optimizer adds up the gradients of all devices before it applies them.
    """
    variables, replicas = model.trainable_variables, strategy.num_replicas_in_sync

    def part(inputs, targets, share):
        with tf.GradientTape() as tape:
            probabilities = model(inputs, training=False)
            # Keras' losses divide by the number of devices, for parts of equal size.
            value = replicas * share * loss(targets, probabilities)
        optimizer.apply(tape.gradient(value, variables), variables)
        hits = tf.argmax(probabilities, axis=1) == tf.argmax(targets, axis=1)
        return value, tf.sign(share) * tf.reduce_sum(tf.cast(hits, tf.float32))

    @models.graph()
    def parts(*arguments):
        values, hits = strategy.run(part, arguments)
        add = tf.distribute.ReduceOp.SUM
        return strategy.reduce(add, values, axis=None), strategy.reduce(add, hits, axis=None)

    def step(inputs, targets):
        n = len(targets)
        ends = np.linspace(0, n, replicas + 1).round().astype(int)

        def of_replica(context):
            i = context.replica_id_in_sync_group
            share = (ends[i + 1] - ends[i]) / n
            # A device without a galaxy of its own takes the first, which then counts nothing.
            chosen = slice(ends[i], ends[i + 1]) if share else slice(1)
            return inputs[chosen], targets[chosen], tf.constant(share, tf.float32)

        return parts(*strategy.experimental_distribute_values_from_function(of_replica))

    return step


def _step_by_step(step: Callable) -> Callable:
    """An epoch over a data set of batches -> loss and accuracy, see `_means`.

    Not in one graph: a loop over a data set inside a graph is set up anew in every epoch, which
    takes longer than an epoch of a small network.
    """

    def run_epoch(data):
        # Tensors until the end of the epoch, so that a GPU is not waited for after every step.
        return _means(*zip(*((*step(inputs, targets), len(targets)) for inputs, targets in data)))

    return run_epoch


def _in_one_graph(step: Callable, model: keras.Model, batch_size: int) -> Callable:
    """An epoch over arrays of all inputs and targets, in order -> loss and accuracy.

    Steps of a head are so short that calling them from Python takes longer than they do.
    """

    @models.graph(input_signature=(_any_batch(model.input), _any_batch(model.output)))
    def all_steps(inputs, targets):
        def step_from(start):
            batch = slice(start, start + batch_size)
            return step(inputs[batch], targets[batch])

        return tf.map_fn(
            step_from,
            tf.range(0, tf.shape(targets)[0], batch_size),
            fn_output_signature=(tf.float32, tf.float32),
            parallel_iterations=1,
        )

    def run_epoch(data):
        ends = np.append(np.arange(0, len(data[0]), batch_size), len(data[0]))
        return _means(*all_steps(*data), np.diff(ends))

    return run_epoch


def _means(losses, hits, sizes) -> tuple[float, float]:
    """Loss and accuracy, means over the galaxies of an epoch as they were when trained on."""
    losses, hits, sizes = (np.array(column, dtype=np.float64) for column in (losses, hits, sizes))
    return float(np.average(losses, weights=sizes)), float(hits.sum() / sizes.sum())


def _forward_function(model: keras.Model) -> Callable:
    """A model in inference mode as a graph: a data set of inputs -> outputs, float32, (n, ...)."""
    forward = models.graph(input_signature=(_any_batch(model.input),))(
        lambda inputs: model(inputs, training=False)
    )
    return lambda data: np.concatenate([forward(inputs).numpy() for inputs in data])


def _any_batch(tensor) -> tf.TensorSpec:
    """Shape and type of a batch of any size: the last one of an epoch needs no graph of its own."""
    return tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype)


def _prediction_table(
    assignment: pd.DataFrame,
    probabilities: np.ndarray,
    classes: tuple[str, ...],
    decision: list[float] | None,
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


def save_run(run: TrainedModel, folder: str | Path, *, keep_model: bool = True) -> None:
    """Write a run: ``model.keras``, ``model.json``, ``history.csv``, ``predictions.parquet``,
    ``validation_probabilities.npy`` and ``metrics.json``.

    Without `keep_model` there is no ``model.keras``, by far the largest of these.

    The checkpoint stays: while later cells of a notebook may still be killed, it saves training
    anew. The runner removes it (`lib.steps`).
    """
    folder = Path(folder)
    if keep_model:
        with atomic(folder / "model.keras") as temporary:
            run.model.save(temporary)
    with atomic(folder / "history.csv") as temporary:
        run.history.to_csv(temporary, index=False)
    with atomic(folder / "predictions.parquet") as temporary:
        run.predictions.to_parquet(temporary, index=False)
    with atomic(folder / "validation_probabilities.npy") as temporary:
        np.save(temporary, run.validation_probabilities)
    scores = metrics(run.predictions, run.classes)
    for name, content in (("metrics.json", scores), ("model.json", run.settings)):
        with atomic(folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_run(folder: str | Path) -> TrainedModel:
    """Read what `save_run` wrote.

    Raises
    ------
    InputError
        If a file is missing, or the weights are not those that ``model.json`` describes.
    """
    folder = Path(folder)
    tables = evaluation.read_run(folder)
    if not (folder / "model.keras").is_file():
        raise InputError(f"{folder / 'model.keras'} is missing: run the training notebook again.")
    model = keras.models.load_model(folder / "model.keras", compile=False, safe_mode=True)
    if models.weights_hash(model) != tables.settings["weights_sha256"]:
        raise InputError(
            f"{folder / 'model.keras'} does not hold the weights that model.json describes: run "
            "the training notebook again."
        )
    return TrainedModel(
        model, tables.settings, tables.predictions, tables.history, tables.epoch_probabilities
    )


def _check(
    network: Network,
    protocol: Protocol,
    cache: ImageCache,
    assignment: pd.DataFrame,
    features: str | Path | None,
) -> tuple[str, ...]:
    """Refuse what cannot be trained; otherwise the classes in the order of the outputs."""
    if (cache.crop, cache.colour) != (network.crop, network.colour):
        raise InputError(
            f"the images are opened as {cache.colour} {cache.crop} px, the network takes "
            f"{network.colour} {network.crop} px: open the cache with the network's crop and colour"
        )
    if protocol.feature_views is not None and network.trainable != "frozen":
        raise InputError(
            "feature_views needs a frozen backbone: its features change in training. Set "
            "feature_views = None or train_backbone = False."
        )
    if protocol.head == "votes" and protocol.feature_views is None:
        raise InputError("head = 'votes' needs a frozen backbone and feature_views = 1 or more")
    if (protocol.feature_views is None) != (features is None):
        raise InputError("a folder for features goes with feature_views, and only with it")
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


def _hash(content) -> str:
    """SHA-256 of a text, or of plain values as JSON."""
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
