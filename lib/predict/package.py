"""A trained network with all that is needed to apply it elsewhere: the exported package.

A package is a folder with the network twice (``model.keras``, ``model.onnx``), ``card.json`` with
every setting of the pre-processing and the calibration, ``card.md`` which says the same in words,
and ``reference.npz``, features of training galaxies from which the distance of a new galaxy is
measured. What an image has to be is in the card, not in the code that made the package.
"""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from lib import evaluation
from lib.evaluation import conformal
from lib.images import ImageCache, network_input, open_cache
from lib.paths import atomic
from lib.predict.engine import KerasEngine, OnnxEngine, averaged, open_engine, write_onnx
from lib.schema import InputError
from lib.workflow import receipts

CARD, ONNX, KERAS, REFERENCE = "card.json", "model.onnx", "model.keras", "reference.npz"

PARITY = 1e-4
"""Largest difference allowed between a probability of the ONNX network and of Keras."""

VIEWS = (1, 8)
"""Views over which a prediction is averaged: the image alone, or its rotations and mirrors."""

REFERENCES = 2000
"""Training galaxies, at most, whose features are kept; more are drawn at random."""

COPIED = (
    *("role", "backbone", "initial_weights", "classes", "merge", "decision", "protocol"),
    *("epochs", "batch_size", "seed", "weights_sha256"),
)
"""What the card has as the training run's settings have it."""

RECEIPT = ("step", "git", "library", "packages", "machine", "inputs")
"""What of the training step's receipt says where the network comes from."""

COVERAGE = 0.9
"""Share of the prediction sets that shall hold the label."""

FLAG_PERCENTILE = 99.0
"""Percentile of the held-out galaxies' distances above which a galaxy is flagged."""


@dataclass(frozen=True)
class Reference:
    """Features of training galaxies, and how far from them galaxies of the same survey lie.

    Attributes
    ----------
    centre, scale : ndarray, float32, (features,)
        Mean and standard deviation over the training galaxies.
    features : ndarray, float32, (galaxies, features)
        Standardised features of training galaxies.
    distances : ndarray, float32, (held-out galaxies,)
        Sorted distances of the validation galaxies, which were not trained on.
    galaxy_id, label : ndarray of str, (galaxies,)
        Of the training galaxies.
    """

    centre: np.ndarray
    scale: np.ndarray
    features: np.ndarray
    distances: np.ndarray
    galaxy_id: np.ndarray = field(default_factory=lambda: np.empty(0, str))
    label: np.ndarray = field(default_factory=lambda: np.empty(0, str))

    @cached_property
    def squares(self) -> np.ndarray:
        """Squared length of each training galaxy's features, float32, (galaxies,)."""
        return (self.features**2).sum(axis=1)

    def nearest(self, features: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Nearest training galaxies, int (n, k), and their distances, float32 (n, k), rising.

        Euclidean, of standardised features (n, features), per square root of their number.
        """
        points = (features - self.centre) / self.scale
        squares = (points**2).sum(axis=1)[:, None] + self.squares
        squares -= 2 * points @ self.features.T
        found = np.argpartition(squares, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(
            found, np.take_along_axis(squares, found, axis=1).argsort(axis=1), axis=1
        )
        near = np.maximum(np.take_along_axis(squares, found, axis=1), 0)
        return found, np.sqrt(near / points.shape[1]).astype(np.float32)

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Distance to the nearest training galaxy, float32, (n,)."""
        return self.nearest(features, 1)[1][:, 0]

    def percentile(self, distance: np.ndarray) -> np.ndarray:
        """Per cent of the held-out galaxies that lie nearer than a distance, float32, (n,)."""
        nearer = np.searchsorted(self.distances, distance)
        return (100 * nearer / len(self.distances)).astype(np.float32)


@dataclass(frozen=True)
class Package:
    """An exported network: its folder, what ``card.json`` holds, and the reference."""

    folder: Path
    card: dict
    reference: Reference

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes in the order of the network's outputs."""
        return tuple(self.card["classes"])

    def temperature(self, views: int) -> float:
        """Temperature that calibrates predictions averaged over a number of views."""
        return self.card["calibration"]["temperature"][str(views)]

    def engine(self) -> OnnxEngine | KerasEngine:
        """The network, ready to run: TensorFlow where there is a GPU, else ONNX Runtime."""
        return open_engine(self.folder / ONNX, self.folder / KERAS)


def export(run_folder: str | Path, folder: str | Path) -> Package:
    """Export a training run (``runs/mock/03_train_b0``); the card is written last.

    Beside it (or the step's folder that it is in) lies the pre-processing step of the same run.

    Raises
    ------
    InputError
        If a file is missing, or images and network are not of one run.
    ValueError
        If the ONNX network does not give the training run's probabilities to `PARITY`.
    """
    run_folder, folder = Path(run_folder), Path(folder)
    run = evaluation.read_run(run_folder)
    if not (run_folder / KERAS).is_file():
        raise InputError(f"{run_folder / KERAS} is missing: run the training notebook again")
    step = run_folder if (run_folder / receipts.NAME).is_file() else run_folder.parent
    prepared = step.parent / "02_preprocessing"
    preprocessing = _preprocessing(prepared, run_folder, run.settings)
    cache = open_cache(prepared, run.settings["crop"], run.settings["colour"])
    if cache.sha256 != run.settings["images"]["image_cache_sha256"]:
        raise InputError(
            f"{run_folder} was trained on other images than those in {prepared}: train again"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)
    with atomic(folder / KERAS) as temporary:
        shutil.copyfile(run_folder / KERAS, temporary)
    write_onnx(folder / KERAS, folder / ONNX)

    engine = OnnxEngine(folder / ONNX)
    validation = run.part("validation")
    label = evaluation.class_index(validation["label"], run.classes)
    features, single = _averaged(engine, cache, validation["galaxy_id"], 1)
    _, mean = _averaged(engine, cache, validation["galaxy_id"], VIEWS[-1])
    difference = float(np.abs(single - run.probabilities("validation")).max())
    if difference > PARITY:
        raise ValueError(
            f"probabilities of the ONNX network differ by up to {difference:.1e} from those in "
            f"{run_folder / 'predictions.parquet'}; {PARITY:.0e} is allowed"
        )
    training = run.part("train")
    if len(training) > REFERENCES:
        training = training.sample(REFERENCES, random_state=0)
    learnt, _ = _averaged(engine, cache, training["galaxy_id"], 1)
    reference = replace(
        _reference(learnt, features),
        galaxy_id=training["galaxy_id"].to_numpy().astype("U"),
        label=training["label"].to_numpy().astype("U"),
    )
    with atomic(folder / REFERENCE) as temporary:
        stored = asdict(replace(reference, features=reference.features.astype(np.float16)))
        np.savez_compressed(temporary, **stored)
    temperatures = {
        str(views): evaluation.fit_temperature(probabilities, label)
        for views, probabilities in zip(VIEWS, (single, mean))
    }
    receipt = receipts.read(step)
    card = {
        **{name: run.settings.get(name) for name in COPIED},
        "preprocessing": {
            **preprocessing,
            **{name: run.settings[name] for name in ("crop", "colour")},
        },
        "calibration": {
            "method": "temperature scaling on the validation galaxies (Guo et al. 2017)",
            "galaxies": len(validation),
            "temperature": temperatures,
            "nll_before": evaluation.calibration(single, label)["nll"],
            "nll_after": evaluation.calibration(
                evaluation.apply_temperature(single, temperatures["1"]), label
            )["nll"],
        },
        "conformal": {
            "coverage": COVERAGE,
            "galaxies": len(validation),
            "least": {
                str(views): _least(evaluation.apply_temperature(p, temperatures[str(views)]), label)
                for views, p in zip(VIEWS, (single, mean))
            },
        },
        "out_of_distribution": {
            "distance": "to the nearest training galaxy, Euclidean, of standardised features, "
            "per square root of their number",
            "training_galaxies": len(reference.features),
            "held_out_galaxies": len(reference.distances),
            "flag_percentile": FLAG_PERCENTILE,
            "flag_distance": float(np.percentile(reference.distances, FLAG_PERCENTILE)),
        },
        "training_data": {
            "galaxies": run.predictions["split"].value_counts().sort_index().to_dict(),
            "assignment_sha256": run.settings["assignment_sha256"],
            "image_cache_sha256": cache.sha256,
        },
        "seen": run.settings.get("seen", {}),
        "scores": evaluation.scores(run.confusion()),
        "scores_split": run.reported_split,
        "onnx": {"largest_difference": difference, "compared_galaxies": len(validation)},
        "files": {name: receipts.sha256(folder / name) for name in (KERAS, ONNX, REFERENCE)},
        "receipt": {name: receipt[name] for name in RECEIPT},
    }
    with atomic(folder / "card.md") as temporary:
        temporary.write_text(describe(card), encoding="utf-8")
    with atomic(folder / CARD) as temporary:
        temporary.write_text(json.dumps(card, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return Package(folder, card, reference)


def load(folder: str | Path) -> Package:
    """Open a package and check that its files are those that its card names.

    Raises
    ------
    InputError
        If it is no package, or a file is missing or has changed.
    """
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise InputError(
            f"{folder} is no exported model: it has no {CARD}. Give the folder of a training step "
            "or one that `python -m lib.predict export` has written."
        )
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    for name, known in card["files"].items():
        if name == KERAS and not (folder / name).is_file():
            continue  # needed on a GPU only, and not shipped with the arm counter
        if not (folder / name).is_file() or receipts.sha256(folder / name) != known:
            raise InputError(f"{folder / name} is not the file its card names: export it again")
    with np.load(folder / REFERENCE) as stored:
        reference = Reference(**stored)
    features = reference.features.astype(np.float32)
    return Package(folder, card, replace(reference, features=features))


def is_training_run(folder: str | Path) -> bool:
    """Whether a folder is that of a training step, which has to be exported first."""
    return (Path(folder) / "model.json").is_file()


def describe(card: dict) -> str:
    """Model card as Markdown."""
    pixels, calibration = card["preprocessing"], card["calibration"]
    distance = card["out_of_distribution"]
    galaxies = ", ".join(f"{n} {split}" for split, n in card["training_data"]["galaxies"].items())
    scores = "\n".join(f"| {name} | {value:.3f} |" for name, value in card["scores"].items())
    views = ", ".join(f"{t:.3f} for {n} view(s)" for n, t in calibration["temperature"].items())
    side = pixels["crop"] * pixels["binning"]
    return f"""# {card["role"]}: spiral arm numbers from an image

{card["backbone"]} with a two-layer head gives the probability of each arm class of a nearly face-on
spiral galaxy: {", ".join(card["classes"])} ("?" is "can't tell"). Of other objects its
probabilities mean nothing.

**Input** `pixels` of `{ONNX}`: of an RGB image of {pixels["size"]} x {pixels["size"]} px the
central {side} x {side} px, means of {pixels["binning"]} x {pixels["binning"]} px as integers,
colour "{pixels["colour"]}" (grey is the mean of the channels, not rounded); float32 [0, 255],
(n, {pixels["crop"]}, {pixels["crop"]}, {1 if pixels["colour"] == "grey" else 3}).
**Outputs** `features` and `probabilities`; the logarithms of these are divided by the temperature
({views}). {_decision(card)}

**Training.** Initial weights: {card["initial_weights"]["source"]}. Galaxies: {galaxies}.
Class merge: {card["merge"]}. Seed {card["seed"]}. {card["seen"].get("note", "")}

| score on {card["scores_split"]} galaxies, protocol `{card["protocol"]}` | value |
|---|---|
{scores}

**Calibration** on {calibration["galaxies"]} validation galaxies: negative log-likelihood
{calibration["nll_before"]:.3f} before and {calibration["nll_after"]:.3f} after, on the same.

**Unlike the training images** is what is farther than {distance["flag_distance"]:.3f} from the
nearest of {distance["training_galaxies"]} training galaxies (distance
{distance["distance"]}). So is 1 % of {distance["held_out_galaxies"]} validation galaxies.

**Parity.** Probabilities differ from those of Keras by {card["onnx"]["largest_difference"]:.1e} at
most, on {card["onnx"]["compared_galaxies"]} validation galaxies.

Weights (SHA-256): `{card["weights_sha256"]}`
"""


def _decision(card: dict) -> str:
    """How a class is decided on, in words."""
    if not card.get("decision"):
        return "The class with the largest probability is predicted."
    offsets = ", ".join(f"{c}: {v:.3f}" for c, v in zip(card["classes"], card["decision"]))
    return (
        "Predicted is the class with the largest logarithm of its probability, before the "
        f"temperature, less the offset of its class ({offsets}), so that rare classes are found."
    )


def _preprocessing(folder: Path, run_folder: Path, settings: dict) -> dict[str, object]:
    """How the training images were made, as far as a reader of files has to know."""
    parameters = receipts.read(folder)["parameters"]
    if settings["crop"] > parameters["crop"]:
        raise InputError(f"{run_folder} and {folder} are not of one run")
    return {
        "size": parameters["size"],
        "binning": parameters["binning"],
        "stored_colour": parameters["colour"],
    }


def _least(calibrated: np.ndarray, label: np.ndarray) -> float:
    """Probability that a class in a prediction set must have; 0 of too few galaxies."""
    enough = len(label) >= 1 / (1 - COVERAGE)
    return conformal.threshold(calibrated, label, COVERAGE) if enough else 0.0


def _averaged(engine: OnnxEngine, cache: ImageCache, galaxy_ids, views: int):
    """`averaged` of galaxies of the training survey, a batch per thread at a time."""
    rows = cache.rows(galaxy_ids)
    batches = [rows[start : start + engine.batch] for start in range(0, len(rows), engine.batch)]

    def work(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pixels = network_input(cache.arrays[batch], cache.colour)
        return averaged(engine, pixels, views)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [np.concatenate(column) for column in zip(*pool.map(work, batches))]


def _reference(training: np.ndarray, held_out: np.ndarray) -> Reference:
    """Standardise training features, and measure the held-out galaxies by them."""
    centre, scale = training.mean(axis=0), training.std(axis=0)
    # A feature that is dead in training tells nothing; divided by its spread, it would tell all.
    scale = np.where(scale > 1e-6 * scale.max(), scale, np.float32(np.inf))
    # Half precision moves no distance by 0.001, and takes half the space.
    standard = ((training - centre) / scale).astype(np.float16).astype(np.float32)
    reference = Reference(centre, scale, standard, np.empty(0, np.float32))
    return replace(reference, distances=np.sort(reference.distance(held_out)))
