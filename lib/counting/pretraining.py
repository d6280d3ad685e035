"""Pre-train a network on simulated or real galaxies, in Zoobot's manner: from all vote counts.

The network gives the concentrations of one Dirichlet distribution per question of the GZ2 tree, and
learns by the likelihood of the votes (Dirichlet-multinomial; Walmsley et al. 2022, Sec. 4.2,
doi:10.1093/mnras/stab2093). Galaxies are simulated while it trains and are never shown twice, so
that nothing can be memorised (`Simulated`); where there are real galaxies with votes, it can go on
with those (`Voted`). Network, ``compile`` and ``fit`` are in notebooks 11 and 12.
"""

from __future__ import annotations

import hashlib
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from scipy import ndimage
from sklearn import metrics

from lib.images import (
    Augmentation,
    central_crop,
    epoch_order,
    print_progress,
    random_transforms,
    warp,
    write_cache,
)
from lib.networks.weights.bundled import bundled_path, identifiers_sha256
from lib.paths import atomic
from lib.schema import ARM_CLASSES, InputError
from lib.surveys import Survey, challenge
from lib.surveys.mock.galaxies import draw_galaxies
from lib.surveys.mock.render import render
from lib.surveys.mock.votes import QUESTIONS, answer_probabilities, draw_counts
from lib.workflow import receipts
from lib.workflow.code import closure_hash

CHUNK = 1024
"""Galaxies that are simulated, or turned, at a time."""

CHUNKS = 8
"""Chunks of an epoch; after each epoch the state is saved and the network scored."""

BATCH = 64
"""Galaxies per step."""

ANSWERS_ASKED = tuple(part.stop - part.start for part in QUESTIONS.values())
"""Answers per question, in tree order."""

ARMS = slice(37 - 6, 37)
"""Answers of T11 (number of arms) in the tree."""


def simulate(
    seed: int, n: int, progress: float, *, size: int = 72, channels: int = 3, easy: float = 0.4,
    spiral_fraction: float = 0.85, binning: int = 2,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Galaxies for one stage of the training, varied in what a simulation gets wrong.

    Parameters
    ----------
    seed : int
        One seed gives one chunk.
    n : int
    progress : float
        Part of the training that is over, in [0, 1].
    size : int
        Side of the images in pixels.
    channels : int
        1 (grey) or 3.
    easy : float
        Part of the training in which the share of easy galaxies (high contrast, smooth arms, low
        inclination) falls from 1 to 0; without it the rarer arm numbers are not learnt for long.
    spiral_fraction : float
        Share of spirals.
    binning : int
        Pixels of a GZ2 cut-out per pixel of the images, along each side.

    Returns
    -------
    images : ndarray of uint8, (n, size, size, channels)
    counts : ndarray of float32, (n, 37)
        Votes in the order of the tree.
    """
    rng = np.random.default_rng([seed, 11])
    truth = draw_galaxies(rng, n, spiral_fraction=spiral_fraction, frequencies="enriched")
    share = max(0.0, 1 - progress / easy) if easy else 0.0
    truth = _ease(truth, rng.random(n) < share)
    counts = draw_counts(rng, answer_probabilities(truth))
    images = np.empty((n, size, size, channels), np.uint8)
    for k, galaxy in enumerate(truth.itertuples(index=False)):
        zoom = rng.uniform(0.85, 1.15)
        image = render(galaxy, size, field=zoom * size * binning * 0.02)
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


class VotesLoss(keras.losses.Loss):
    """Negative log-likelihood of votes, summed over the questions of the tree, in nats.

    Takes counts and concentrations, float32 (n, 37); a question nobody was asked adds nothing.

    Parameters
    ----------
    arms_weight : float
        Weight of the question for the number of arms; that of the others is 1.
    """

    def __init__(self, arms_weight: float = 1.0):
        super().__init__(name="votes_loss")
        self.arms_weight = arms_weight

    def call(self, counts, concentrations):
        """Loss of each galaxy, (n,)."""
        losses = []
        asked = (tf.split(x, ANSWERS_ASKED, 1) for x in (counts, concentrations))
        for k, a in zip(*asked):
            n, total = tf.reduce_sum(k, 1), tf.reduce_sum(a, 1)
            orders = tf.math.lgamma(n + 1) - tf.reduce_sum(tf.math.lgamma(k + 1), 1)
            drawn = tf.reduce_sum(tf.math.lgamma(a + k) - tf.math.lgamma(a), 1)
            losses.append(tf.math.lgamma(total + n) - tf.math.lgamma(total) - drawn - orders)
        return tf.add_n(losses) + (self.arms_weight - 1) * losses[-1]


def score(network: keras.Model, images: np.ndarray, counts: np.ndarray) -> dict[str, float]:
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
        "loss": float(VotesLoss()(counts, concentrations)),
        "accuracy": float((label == found).mean()),
        "macro_f1": float(metrics.f1_score(label, found, average="macro", zero_division=0)),
        **{f"recall_{c}": float(r) for c, r in zip(ARM_CLASSES, recall)},
    }


class Galaxies(keras.utils.PyDataset):
    """Batches of images and counts for ``fit(shuffle=False)``, `CHUNKS` chunks an epoch.

    Parameters
    ----------
    galaxies : int
        Shown in all; a multiple of `CHUNK` times `CHUNKS`.

    Attributes
    ----------
    epoch : int
        Set by `Progress`.
    epochs : int
        For ``fit``.
    """

    def __init__(self, galaxies: int):
        super().__init__()
        if galaxies < 1 or galaxies % (CHUNK * CHUNKS):
            raise InputError(f"{galaxies:,} galaxies: give a multiple of {CHUNK * CHUNKS:,}")
        self.epoch, self.epochs = 0, galaxies // (CHUNK * CHUNKS)
        self._kept = None, None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return CHUNKS * CHUNK // BATCH

    def __getitem__(self, number: int):
        """Images and counts of a batch, float32."""
        part, place = divmod(number * BATCH, CHUNK)
        chunk = self.epoch * CHUNKS + part
        if self._kept[0] != chunk:
            self._kept = chunk, self.chunk(chunk)
        images, counts = (x[place : place + BATCH] for x in self._kept[1])
        return images.astype(np.float32), counts


class Simulated(Galaxies):
    """Galaxies that are simulated in a process beside; those held out have later seeds.

    A context, whose process ends with it.

    Parameters
    ----------
    galaxies, seed : int
    **look
        Of `simulate`.
    """

    data = "galaxies simulated by lib.surveys.mock, with simulated votes"
    source = "mock"

    def __init__(self, galaxies: int, seed: int, **look):
        super().__init__(galaxies)
        self.seed, self.look, self._waiting = seed, look, {}

    def __enter__(self):
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        return self

    def __exit__(self, *_):
        self._pool.shutdown(cancel_futures=True)

    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and counts of two chunks that are not trained on."""
        return simulate(2**31 + self.seed, 2 * CHUNK, 1.0, **self.look)

    def chunk(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Images and counts of a chunk; the next two are begun."""
        n = self.epochs * CHUNKS
        for ahead in range(number, min(number + 3, n)):
            if ahead not in self._waiting:
                seed = self.seed * 10**6 + ahead
                self._waiting[ahead] = self._pool.submit(
                    simulate, seed, CHUNK, ahead / n, **self.look
                )
        return self._waiting.pop(number).result()


class Voted(Galaxies):
    """Real galaxies, turned, mirrored, stretched and varied anew whenever they are shown.

    Parameters
    ----------
    views : int
        As `galaxies` of `Galaxies`.
    ids : ndarray of int, (n,)
        Identifiers of the galaxies.
    images : ndarray of uint8, (n, side, side, channels)
        Wider than `size`, so that turned corners show sky.
    counts : ndarray of float32, (n, 37)
        Votes in the order of the tree.
    size, seed : int
    """

    data = "real galaxies with the votes of volunteers"
    source = "votes"

    def __init__(self, views: int, ids, images, counts, *, size: int = 72, seed: int = 0):
        super().__init__(views)
        self.ids, self.images, self.counts, self.size, self.seed = ids, images, counts, size, seed
        order = np.random.default_rng([seed, 12]).permutation(len(images))
        self._held_out, self._training = np.split(order, [round(0.1 * len(order))])

    def identity(self) -> dict[str, object]:
        """Which galaxies these are, and hashes of their images and votes."""
        return {
            "identifiers_sha256": identifiers_sha256(self.ids),
            "images_sha256": hashlib.sha256(np.ascontiguousarray(self.images)).hexdigest(),
            "votes_sha256": hashlib.sha256(np.ascontiguousarray(self.counts)).hexdigest(),
        }

    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Images as they are, and counts, of the tenth that is not trained on."""
        rows = self._held_out
        return central_crop(self.images[rows], self.size), self.counts[rows]

    def chunk(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Images and counts of a chunk; each round through the galaxies has its own order."""
        training = self._training
        positions = np.arange(number * CHUNK, (number + 1) * CHUNK)
        epochs, places = np.divmod(positions, len(training))
        rows, maps = np.empty_like(positions), np.empty((len(positions), 8), np.float32)
        for epoch in np.unique(epochs):
            at = epochs == epoch
            rows[at] = training[epoch_order(len(training), self.seed, int(epoch))[places[at]]]
            maps[at] = random_transforms(
                *(rows[at], len(self.images), self.images.shape[1]),
                *(Augmentation(zoom=0.12), self.seed, int(epoch)),
            )
        turned = warp(self.images[rows].astype(np.float32), maps).numpy()
        rng = np.random.default_rng([self.seed, 13, number])
        images = central_crop(turned, self.size)
        varied = np.stack([_vary(image, rng, image.shape[-1]) for image in images])
        return varied, self.counts[rows]


def voted_galaxies(survey: Survey, sample_ids, folder: Path, views: int, seed: int) -> Voted:
    """All galaxies of the Galaxy Challenge that are not in a sample and have an image.

    Their cache is kept in `folder`; an image that cannot be read is left out.
    """
    others = survey.votes[survey.votes["has_image"] & ~survey.votes["galaxy_id"].isin(sample_ids)]
    others = others.sort_values("galaxy_id")
    look = {"crop": 96, "binning": 2, "progress": print_progress}
    cache, left_out = write_cache(others, survey.data_dir, folder, **look)
    ids = np.setdiff1d(others["galaxy_id"], left_out["galaxy_id"])
    counts = challenge.read_counts(survey.data_dir).loc[ids].to_numpy()
    return Voted(views, ids, np.asarray(cache.arrays[cache.rows(ids)]), counts, seed=seed)


def averaged_adamw(
    galaxies: int, *, learning_rate: float, weight_decay: float = 1e-4, average: float = 0.99
) -> keras.optimizers.AdamW:
    """AdamW with a warm-up over 2 % of the steps, cosine decay, and a running mean of the weights.

    The running mean, of momentum `average`, is what ``fit`` leaves in the network.
    """
    steps = galaxies // BATCH
    rate = keras.optimizers.schedules.CosineDecay(
        learning_rate / 100,
        decay_steps=int(0.98 * steps),
        warmup_target=learning_rate,
        warmup_steps=max(1, int(0.02 * steps)),
    )
    return keras.optimizers.AdamW(
        rate, weight_decay=weight_decay, global_clipnorm=5.0, use_ema=True, ema_momentum=average
    )


class Progress(keras.callbacks.Callback):
    """Scores the averaged weights after each epoch, keeps the state, and takes it up.

    A training that was killed and started again ends with the same weights as one that was not.

    Parameters
    ----------
    folder : path
        Gets ``state.npz``.
    settings : dict
        Everything that decides the training, of JSON types; the state of others is not taken up.
    galaxies : Galaxies
        Are told their epoch, and say what is held out.

    Attributes
    ----------
    curve : DataFrame
        One row per epoch: `galaxies`, `train_loss` (weighted as in training), `seconds`, and the
        scores on held-out galaxies (see `score`) of the running mean of the weights.
    """

    def __init__(self, folder: str | Path, settings: dict, galaxies: Galaxies):
        super().__init__()
        self.path, self.galaxies, self.rows = Path(folder) / "state.npz", galaxies, []
        settings = {**settings, "code": closure_hash(__file__)}
        self.mark = json.dumps(settings, sort_keys=True)
        self.held_out = galaxies.held_out()

    @property
    def curve(self) -> pd.DataFrame:
        """See the class."""
        return pd.DataFrame(self.rows)

    def on_train_begin(self, logs=None):
        """Take up the state on disk, if it is of this training."""
        self.model.optimizer.build(self.model.trainable_variables)
        if not self.path.exists():
            return
        with np.load(self.path) as state:
            if str(state["mark"]) != self.mark:
                return
            for k, variable in enumerate(self._variables()):
                variable.assign(state[f"variable_{k}"])
            self.rows = json.loads(str(state["rows"]))
        # Where Keras' own BackupAndRestore says at which epoch to begin, too.
        self.model._initial_epoch = len(self.rows)

    def on_epoch_begin(self, epoch, logs=None):
        """Tell the galaxies their epoch."""
        self.galaxies.epoch, self._start = epoch, time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Score the averaged weights and write the state, whole or not at all."""
        own = [v.numpy() for v in self.model.trainable_variables]
        averages = self.model.optimizer._model_variables_moving_average
        for variable, average in zip(self.model.trainable_variables, averages, strict=True):
            variable.assign(average)
        row = {"galaxies": (epoch + 1) * CHUNK * CHUNKS, "train_loss": float(logs["loss"])}
        row |= score(self.model, *self.held_out)
        for variable, value in zip(self.model.trainable_variables, own):
            variable.assign(value)
        self.rows.append({**row, "seconds": time.perf_counter() - self._start})
        print(
            f"{row['galaxies']:,} galaxies: held-out loss {row['loss']:.3f}, arms macro-F1 "
            f"{row['macro_f1']:.3f}",
            flush=True,
        )
        arrays = {f"variable_{k}": v.numpy() for k, v in enumerate(self._variables())}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(self.path) as temporary:
            np.savez(temporary, mark=self.mark, rows=json.dumps(self.rows), **arrays)

    def _variables(self) -> list:
        return [*self.model.variables, *self.model.optimizer.variables]


def card(settings: dict, curve: pd.DataFrame, galaxies: type[Galaxies]) -> dict[str, object]:
    """How weights were made, for their card; `curve` is that of `Progress`."""
    return {
        "data": galaxies.data,
        "source": galaxies.source,
        "view": "polar",
        "settings": settings,
        "git": receipts.git_state(),
        "library": receipts.hash_library(),
        "packages": receipts.package_versions(),
        "curve": curve.round(4).to_dict("list"),
    }


def finished_card(settings: dict, folder: str | Path) -> dict | None:
    """Card of the weights in a folder, if they were made with these settings; else None."""
    weights = bundled_path(settings["backbone"].lower(), settings["channels"], folder)
    path = weights.with_suffix(".json")
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if found["settings"] == settings else None
