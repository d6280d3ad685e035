"""Pre-train a backbone on simulated or real galaxies, in Zoobot's manner: from all vote counts.

The network gives the concentrations of one Dirichlet distribution per question of the GZ2 tree, and
learns by the likelihood of the votes (Dirichlet-multinomial; Walmsley et al. 2022, Sec. 4.2,
doi:10.1093/mnras/stab2093). Galaxies are simulated while it trains and are never shown twice, so
that nothing can be memorised (`Simulated`); where there are real galaxies with votes, it can go on
with those (`Voted`). The backbone is given polar views (`lib.networks.polar`): from images as they
are on the sky, networks learn the number of arms far more slowly.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy import ndimage
from sklearn import metrics

from lib.images import Augmentation, central_crop, epoch_order, random_transforms, warp
from lib.paths import atomic
from lib.schema import ARM_CLASSES, InputError
from lib.surveys.mock.galaxies import draw_galaxies
from lib.surveys.mock.render import render
from lib.surveys.mock.votes import QUESTIONS, answer_probabilities, draw_counts
from lib.workflow import receipts
from lib.workflow.code import closure_hash

SAVE_EVERY = 8
"""Chunks after which the state of the training is saved."""

FINISHED = "backbone.weights.h5"
"""File of the finished weights."""

ANSWERS_ASKED = tuple(part.stop - part.start for part in QUESTIONS.values())
"""Answers per question, in tree order."""

ARMS = slice(37 - 6, 37)
"""Answers of T11 (number of arms) in the tree."""


@dataclass(frozen=True)
class Curriculum:
    """What the simulated galaxies are like while the network learns.

    Attributes
    ----------
    galaxies : int
        Simulated galaxies in all.
    easy : float
        Part of the training in which the share of easy galaxies (high contrast, smooth arms, low
        inclination) falls from 1 to 0; without it the rarer arm numbers are not learnt for long.
    spiral_fraction : float
        Share of spirals.
    binning : int
        Pixels of a GZ2 cut-out per pixel of the network's input, along each side.
    """

    galaxies: int = 98_304
    easy: float = 0.4
    spiral_fraction: float = 0.85
    binning: int = 2


@dataclass(frozen=True)
class Settings:
    """A pre-training run: network, optimizer and curriculum.

    Attributes
    ----------
    backbone : str
        A backbone of `lib.networks.weights.graph.BACKBONES`.
    channels : int
        1 (grey, the mean of the channels) or 3.
    size : int
        Side of the input in pixels.
    chunk : int
        Galaxies simulated at a time.
    batch_size : int
    arms_weight : float
        Weight of the question for the number of arms; that of the others is 1.
    learning_rate : float
        Highest rate of AdamW, after a warm-up over 2 % of the steps; it falls as a cosine to 0.
    weight_decay : float
    average : float
        Momentum of the running mean of the weights, which is what is kept.
    seed : int
    weights : str
        What the backbone starts from, as `lib.networks.weights` names it.
    curriculum : Curriculum
        Only its number of galaxies matters where they are not simulated: views of them in all.
    """

    backbone: str = "EfficientNetB0"
    channels: int = 1
    size: int = 72
    chunk: int = 1024
    batch_size: int = 64
    arms_weight: float = 5.0
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    average: float = 0.99
    seed: int = 0
    weights: str = "none"
    curriculum: Curriculum = Curriculum()

    def __post_init__(self):
        if self.channels not in (1, 3):
            raise InputError(f"channels = {self.channels}: choose 1 (grey) or 3 (colour)")
        if self.chunk % self.batch_size:
            raise InputError(f"batch_size = {self.batch_size} must divide chunk = {self.chunk}")
        if self.curriculum.galaxies < self.chunk:
            raise InputError(
                f"galaxies = {self.curriculum.galaxies}: give at least a chunk of {self.chunk}"
            )


def simulate(
    seed: int, n: int, *, size: int, channels: int, curriculum: Curriculum, progress: float
) -> tuple[np.ndarray, np.ndarray]:
    """Galaxies for one stage of the training, varied in what a simulation gets wrong.

    Parameters
    ----------
    seed : int
        One seed gives one chunk.
    n : int
    size : int
        Side of the images in pixels.
    channels : int
        1 (grey) or 3.
    curriculum : Curriculum
    progress : float
        Part of the training that is over, in [0, 1].

    Returns
    -------
    images : ndarray of uint8, (n, size, size, channels)
    counts : ndarray of float32, (n, 37)
        Votes in the order of the tree.
    """
    rng = np.random.default_rng([seed, 11])
    truth = draw_galaxies(
        rng, n, spiral_fraction=curriculum.spiral_fraction, frequencies="enriched"
    )
    share = max(0.0, 1 - progress / curriculum.easy) if curriculum.easy else 0.0
    truth = _ease(truth, rng.random(n) < share)
    counts = draw_counts(rng, answer_probabilities(truth))
    images = np.empty((n, size, size, channels), np.uint8)
    for k, galaxy in enumerate(truth.itertuples(index=False)):
        zoom = rng.uniform(0.85, 1.15)
        image = render(galaxy, size, field=zoom * size * curriculum.binning * 0.02)
        images[k] = _vary(image.astype(np.float32), rng, channels)
    return images, counts.astype(np.float32)


def _ease(truth: pd.DataFrame, easy: np.ndarray) -> pd.DataFrame:
    """Galaxies marked `easy` get strong, regular arms, seen almost from above."""
    truth = truth.copy()
    armed = easy & (truth["n_arms"] > 0).to_numpy()
    truth.loc[armed, "arm_contrast"] = truth.loc[armed, "arm_contrast"].clip(lower=1.2)
    for column, factor in (("flocculence", 0.3), ("arm_inequality", 0.4), ("inclination", 0.5)):
        truth.loc[armed, column] *= factor
    return truth


def _vary(image: np.ndarray, rng: np.random.Generator, channels: int) -> np.ndarray:
    """Blur, brightness, contrast and noise beyond those simulated: uint8 (size, size, channels)."""
    if channels == 1:
        image = image.mean(axis=-1, keepdims=True)
    if rng.random() < 0.5:
        width = rng.uniform(0.2, 1.0)
        image = ndimage.gaussian_filter(image, (width, width, 0))
    image = 255 * (image / 255) ** rng.uniform(0.75, 1.3) * rng.uniform(0.8, 1.25)
    image += rng.normal(0, rng.uniform(0, 6), image.shape) + rng.uniform(-4, 6)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def dirichlet_multinomial_loss(counts, concentrations):
    """Negative log-likelihood of votes, summed over the questions of the tree.

    Parameters
    ----------
    counts : tensor of float32, (batch, 37)
        Votes; a question nobody was asked adds nothing.
    concentrations : tensor of float32, (batch, 37)
        Of one Dirichlet distribution per question, positive.

    Returns
    -------
    tensor of float32, (batch,)
    """
    import tensorflow as tf

    return tf.add_n(question_losses(counts, concentrations))


def question_losses(counts, concentrations) -> list:
    """Terms of `dirichlet_multinomial_loss`, (batch,) each, one per question in tree order."""
    import tensorflow as tf

    losses = []
    for k, a in zip(tf.split(counts, ANSWERS_ASKED, 1), tf.split(concentrations, ANSWERS_ASKED, 1)):
        n, total = tf.reduce_sum(k, 1), tf.reduce_sum(a, 1)
        losses.append(
            tf.math.lgamma(n + total)
            - tf.math.lgamma(total)
            - tf.math.lgamma(n + 1)
            + tf.reduce_sum(
                tf.math.lgamma(k + 1) + tf.math.lgamma(a) - tf.math.lgamma(k + a), axis=1
            )
        )
    return losses


def build(settings: Settings):
    """Backbone, and the network that gives concentrations in [1, 101] from its pooled features."""
    import keras

    from lib.networks import weights
    from lib.networks.polar import PolarView

    keras.utils.set_random_seed(settings.seed)
    inputs = keras.Input((settings.size, settings.size, settings.channels))
    view = PolarView.of_crop(settings.size, name="polar_view")
    backbone = weights.build(settings.backbone, view(inputs))
    weights.initialise(backbone, settings.weights, channels=settings.channels)
    features = keras.layers.GlobalAveragePooling2D()(backbone.output)
    votes = keras.layers.Dense(sum(ANSWERS_ASKED), activation="sigmoid")(features)
    return backbone, keras.Model(backbone.inputs[0], 1 + 100 * votes)


def score(network, images: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Loss on held-out galaxies, and how well the arm number with most votes is found.

    Galaxies whose arm question got at least 10 votes count for the arm scores.
    """
    concentrations = network.predict(images, batch_size=128, verbose=0)
    asked = counts[:, ARMS].sum(axis=1) >= 10
    label = counts[asked, ARMS].argmax(axis=1)
    found = concentrations[asked, ARMS].argmax(axis=1)
    recall = metrics.recall_score(
        label, found, labels=range(len(ARM_CLASSES)), average=None, zero_division=0
    )
    return {
        "loss": float(dirichlet_multinomial_loss(counts, concentrations).numpy().mean()),
        "accuracy": float((label == found).mean()),
        "macro_f1": float(metrics.f1_score(label, found, average="macro", zero_division=0)),
        **{f"recall_{c}": float(r) for c, r in zip(ARM_CLASSES, recall)},
    }


class Simulated:
    """Galaxies that are simulated while a network trains; held out are later seeds.

    Parameters
    ----------
    settings : Settings
    """

    name = "galaxies simulated by lib.surveys.mock, with simulated votes"
    identity: ClassVar[dict[str, object]] = {}  # the settings say it all

    def __init__(self, settings: Settings):
        self.settings = settings

    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and counts of two chunks that are not trained on."""
        settings = self.settings
        return _draw(settings, 2**31 + settings.seed, 2 * settings.chunk, progress=1.0)

    def stream(self, done: int, n_chunks: int) -> Iterator:
        """Chunks that are left, (number, (images, counts)), simulated in a process beside."""
        settings = self.settings
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            waiting: dict = {}
            for chunk in range(done, n_chunks):
                for ahead in range(chunk, min(chunk + 3, n_chunks)):
                    if ahead not in waiting:
                        seed = settings.seed * 10**6 + ahead
                        waiting[ahead] = pool.submit(
                            _draw, settings, seed, settings.chunk, ahead / n_chunks
                        )
                yield chunk, waiting.pop(chunk).result()


@dataclass(frozen=True)
class Voted:
    """Real galaxies, turned, mirrored, stretched and varied anew whenever they are shown.

    Attributes
    ----------
    settings : Settings
    ids : ndarray of int, (n,)
        Identifiers of the galaxies.
    images : ndarray of uint8, (n, side, side, channels)
        Wider than `settings.size`, so that turned corners show sky.
    counts : ndarray of float32, (n, 37)
        Votes in the order of the tree.
    held_out_share : float
        Share that the scores of the curve are measured on, drawn at random.
    augmentation : Augmentation
    """

    settings: Settings
    ids: np.ndarray
    images: np.ndarray
    counts: np.ndarray
    held_out_share: float = 0.1
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(zoom=0.12))

    name = "real galaxies with the votes of volunteers"

    @cached_property
    def identity(self) -> dict[str, object]:
        """Which galaxies these are, and hashes of their images and votes."""
        from lib.networks.weights.bundled import identifiers_sha256

        return {
            "galaxies": len(self.ids),
            "identifiers_sha256": identifiers_sha256(self.ids),
            "images_sha256": hashlib.sha256(np.ascontiguousarray(self.images)).hexdigest(),
            "votes_sha256": hashlib.sha256(np.ascontiguousarray(self.counts)).hexdigest(),
        }

    def _parts(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.random.default_rng([self.settings.seed, 12]).permutation(len(self.images))
        n = round(self.held_out_share * len(order))
        return order[n:], order[:n]

    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Images as they are, and counts, of the galaxies that are not trained on."""
        _, rows = self._parts()
        return central_crop(self.images[rows], self.settings.size), self.counts[rows]

    def stream(self, done: int, n_chunks: int) -> Iterator:
        """Chunks that are left, (number, (images, counts)); each round has an order of its own."""
        for chunk in range(done, n_chunks):
            yield chunk, self._chunk(chunk)

    def _chunk(self, chunk: int) -> tuple[np.ndarray, np.ndarray]:
        settings, (training, _) = self.settings, self._parts()
        positions = np.arange(chunk * settings.chunk, (chunk + 1) * settings.chunk)
        epochs, places = np.divmod(positions, len(training))
        rows, maps = np.empty_like(positions), np.empty((len(positions), 8), np.float32)
        for epoch in np.unique(epochs):
            at = epochs == epoch
            rows[at] = training[epoch_order(len(training), settings.seed, int(epoch))[places[at]]]
            maps[at] = random_transforms(
                rows[at],
                len(self.images),
                self.images.shape[1],
                self.augmentation,
                settings.seed,
                int(epoch),
            )
        turned = warp(self.images[rows].astype(np.float32), maps).numpy()
        rng = np.random.default_rng([settings.seed, 13, chunk])
        images = central_crop(turned, settings.size)
        varied = np.stack([_vary(image, rng, settings.channels) for image in images])
        return varied, self.counts[rows]


def pretrain(settings: Settings, folder: str | Path, source: Simulated | Voted | None = None):
    """Train a backbone on votes; go on where an earlier call was stopped.

    Parameters
    ----------
    settings : Settings
    folder : path
        In a folder of its own for each state of this code (`lib.workflow.code`), gets ``state.npz``
        and ``curve.csv`` every `SAVE_EVERY` chunks, and at the end ``backbone.weights.h5`` with the
        averaged weights. If these are there, of the same settings and the same galaxies, nothing is
        trained.
    source : Simulated or Voted, optional
        Where the galaxies come from; simulated by default.

    Returns
    -------
    curve : DataFrame
        One row per save: `galaxies`, `train_loss`, `seconds`, and the scores on held-out
        galaxies (see `score`) of the averaged weights.
    backbone : keras.Model
        With the averaged weights.

    Raises
    ------
    InputError
        If the folder holds the state of another run, or of one with other galaxies.
    """
    folder = Path(folder) / closure_hash(__file__)
    folder.mkdir(parents=True, exist_ok=True)
    source = Simulated(settings) if source is None else source
    mark = json.dumps({**asdict(settings), **source.identity}, sort_keys=True)
    backbone, network = build(settings)
    if _finished(folder, mark):
        backbone.load_weights(folder / FINISHED)
        return pd.read_csv(folder / "curve.csv"), backbone
    optimizer = _optimizer(settings)
    optimizer.build(network.trainable_variables)
    done, curve = _resume(folder, mark, network, optimizer)
    n_chunks = settings.curriculum.galaxies // settings.chunk
    step = _step(network, optimizer, settings.arms_weight)
    held_out = source.held_out()
    losses, start = [], time.time()
    for chunk, (images, counts) in source.stream(done, n_chunks):
        for first in range(0, settings.chunk, settings.batch_size):
            part = slice(first, first + settings.batch_size)
            losses.append(float(step(images[part], counts[part])))
        last = chunk + 1 == n_chunks
        if not last and (chunk + 1) % SAVE_EVERY:
            continue
        own = _swap_in_average(network, optimizer)
        row = {"galaxies": (chunk + 1) * settings.chunk, "train_loss": float(np.mean(losses))}
        curve.append({**row, **score(network, *held_out), "seconds": time.time() - start})
        print(
            f"{row['galaxies']:,} galaxies: loss {row['train_loss']:.3f}, held out "
            f"{curve[-1]['loss']:.3f}, arms macro-F1 {curve[-1]['macro_f1']:.3f}",
            flush=True,
        )
        if not last:
            for variable, value in zip(network.trainable_variables, own):
                variable.assign(value)
            _save(folder, mark, network, optimizer, chunk + 1, curve)
            losses, start = [], time.time()
    with atomic(folder / "curve.csv") as temporary:
        pd.DataFrame(curve).to_csv(temporary, index=False)
    with atomic(folder / FINISHED) as temporary:
        backbone.save_weights(temporary)
    with atomic(folder / "settings.json") as temporary:
        temporary.write_text(mark, encoding="utf-8")
    (folder / "state.npz").unlink(missing_ok=True)
    return pd.DataFrame(curve), backbone


def card(
    settings: Settings, curve: pd.DataFrame, source: type[Simulated | Voted] = Simulated
) -> dict[str, object]:
    """How weights were made, for their card; `curve` is that of `pretrain`."""
    return {
        "data": source.name,
        "source": "mock" if source is Simulated else "votes",
        "view": "polar",
        "settings": asdict(settings),
        "git": receipts.git_state(),
        "library": receipts.hash_library(),
        "packages": receipts.package_versions(),
        "curve": curve.round(4).to_dict("list"),
    }


def finished_card(settings: Settings, folder: str | Path) -> dict | None:
    """Card of the weights in a folder, if they were made with these settings; else None."""
    from lib.networks.weights.bundled import bundled_path

    weights = bundled_path(settings.backbone.lower(), settings.channels, folder)
    path = weights.with_suffix(".json")
    if not path.is_file():
        return None
    card = json.loads(path.read_text(encoding="utf-8"))
    # Settings that have come since have their defaults.
    made = {**asdict(Settings()), **card["settings"]}
    return card if made == asdict(settings) else None


def _draw(settings: Settings, seed: int, n: int, progress: float):
    """`simulate` with a run's settings."""
    return simulate(
        seed,
        n,
        size=settings.size,
        channels=settings.channels,
        curriculum=settings.curriculum,
        progress=progress,
    )


def _optimizer(settings: Settings):
    """AdamW with warm-up, cosine decay and a running mean of the weights."""
    import keras

    steps = settings.curriculum.galaxies // settings.batch_size
    rate = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate / 100,
        decay_steps=int(0.98 * steps),
        warmup_target=settings.learning_rate,
        warmup_steps=max(1, int(0.02 * steps)),
    )
    return keras.optimizers.AdamW(
        rate,
        weight_decay=settings.weight_decay,
        global_clipnorm=5.0,
        use_ema=True,
        ema_momentum=settings.average,
    )


def _step(network, optimizer, arms_weight: float):
    """One compiled training step: (images, counts) -> mean loss of the votes."""
    import tensorflow as tf

    @tf.function(jit_compile=False)
    def step(images, counts):
        with tf.GradientTape() as tape:
            concentrations = network(tf.cast(images, tf.float32), training=True)
            losses = question_losses(counts, concentrations)
            votes = tf.add_n(losses)
            loss = tf.reduce_mean(votes + (arms_weight - 1) * losses[-1])
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)
        return tf.reduce_mean(votes)

    return step


def _swap_in_average(network, optimizer) -> list[np.ndarray]:
    """Give the network the running mean of its weights; returns its own."""
    own = [v.numpy() for v in network.trainable_variables]
    for variable, average in zip(
        network.trainable_variables, optimizer._model_variables_moving_average
    ):
        variable.assign(average)
    return own


def _finished(folder: Path, mark: str) -> bool:
    """Whether a folder holds the finished weights of these settings and galaxies."""
    made = folder / "settings.json"
    return (
        made.exists() and made.read_text(encoding="utf-8") == mark and (folder / FINISHED).exists()
    )


def _save(folder: Path, mark: str, network, optimizer, chunk: int, curve: list) -> None:
    """State of the training, whole or not at all."""
    arrays = {f"network_{k}": v.numpy() for k, v in enumerate(network.variables)}
    arrays |= {f"optimizer_{k}": v.numpy() for k, v in enumerate(optimizer.variables)}
    with atomic(folder / "state.npz") as temporary:
        np.savez(temporary, settings=mark, chunk=chunk, curve=json.dumps(curve), **arrays)
    with atomic(folder / "curve.csv") as temporary:
        pd.DataFrame(curve).to_csv(temporary, index=False)


def _resume(folder: Path, mark: str, network, optimizer) -> tuple[int, list]:
    """Chunks already trained on and the curve so far; (0, []) in an empty folder."""
    path = folder / "state.npz"
    if not path.exists():
        return 0, []
    with np.load(path) as state:
        if str(state["settings"]) != mark:
            raise InputError(
                f"{path} belongs to a pre-training with other settings or galaxies: remove it to "
                "start anew, or choose another folder"
            )
        for kind, variables in (("network", network.variables), ("optimizer", optimizer.variables)):
            for k, variable in enumerate(variables):
                variable.assign(state[f"{kind}_{k}"])
        return int(state["chunk"]), json.loads(str(state["curve"]))
