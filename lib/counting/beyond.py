"""Beyond the paper: what counts arms best on real galaxies, piece by piece (notebook 12).

Protocol `sound`, with a test part besides: a fifth of the sample is set aside before anything else;
the methods are compared by repeated stratified cross-validation of the rest, everything that a
method chooses is chosen inside its training folds, and the method that wins is applied once to the
test part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from lib import evaluation, images, networks, paths
from lib.counting import classical, pretraining, probe, votes
from lib.evaluation import conformal
from lib.networks import models, weights
from lib.networks.models import Network
from lib.networks.polarnet import TOWERS, tower_weights
from lib.schema import ARM_CLASSES, MERGES, InputError, probability_columns
from lib.surveys import Survey, challenge

SIDE = 96
"""Pixels of the images that are turned for training, and that the classical numbers need."""

SIZE = 72
"""Pixels of the images that the networks see."""


def development_and_test(label, *, share: float = 0.2, seed: int = 0):
    """Positions of the galaxies to work on and of those set aside, each class in proportion.

    Parameters
    ----------
    label : array-like of str, (n,)
        Of galaxies in the order of their identifiers, so that the parts do not depend on a file's.
    share : float
        Of the test part.
    seed : int

    Returns
    -------
    development, test : ndarray of int, sorted
    """
    label = np.asarray(label)
    rare = pd.Series(label).value_counts().pipe(lambda n: n[n < 2])
    if len(rare):
        raise InputError(
            f"class {', '.join(map(str, rare.index))} has one galaxy, which cannot be both worked "
            "on and set aside: loosen the selection or merge classes"
        )
    parts = train_test_split(
        np.arange(len(label)), test_size=share, stratify=label, random_state=seed
    )
    return tuple(np.sort(part) for part in parts)


def real_settings(seed: int, views: int) -> pretraining.Settings:
    """How the tower that learns from real votes is trained: on from the simulated galaxies."""
    curriculum = pretraining.Curriculum(galaxies=views, easy=0.0)
    return pretraining.Settings(
        "PolarNet", 3, SIZE, weight_decay=1e-3, seed=seed, weights="mock", curriculum=curriculum
    )


@dataclass(frozen=True)
class VotedGalaxies:
    """Galaxies outside the sample, which no score is measured on, with the votes for all questions.

    Attributes
    ----------
    ids : ndarray of int, (n,)
    pixels : ndarray of uint8, (n, 96, 96, 3)
        Of 2 x 2 averaged pixels.
    counts : ndarray of float32, (n, 37)
    """

    ids: np.ndarray
    pixels: np.ndarray
    counts: np.ndarray

    def train(self, settings: pretraining.Settings, states: Path, galaxies: int | None = None):
        """Train a network on all of them, or on the first `galaxies` in random order.

        Returns
        -------
        curve, backbone
            See `lib.counting.pretraining.pretrain`, whose state is kept in `states`.
        """
        chosen = np.random.default_rng([settings.seed, 17]).permutation(len(self.ids))[:galaxies]
        chosen = np.sort(chosen)
        source = pretraining.Voted(
            settings, self.ids[chosen], self.pixels[chosen], self.counts[chosen]
        )
        which = source.identity["identifiers_sha256"][:12]
        folder = f"real-{len(chosen)}-{which}-{settings.curriculum.galaxies}-{settings.seed}"
        return pretraining.pretrain(settings, states / folder, source)

    def curve(self, data: Data, sizes, settings, states: Path, repeats: int) -> pd.DataFrame:
        """`learning_curve` of networks that were trained on fewer galaxies, all else the same.

        Every network sees as many views; of fewer galaxies more of each.
        """
        armnets = (
            (min(size, len(self.ids)), build_armnet(self.train(settings, states, size)[1]))
            for size in sizes
        )
        return _curve_of_networks(data, armnets, repeats)


def voted_galaxies(run_dir: str, survey: Survey) -> VotedGalaxies:
    """All galaxies of the Galaxy Challenge that are not in a run's sample and have an image.

    Their cache is kept beside the states of the trainings; an image that cannot be read is left
    out.
    """
    folder = paths.step_folder(run_dir, "01_sample_selection")
    sample = pd.read_parquet(folder / "sample.parquet", columns=["galaxy_id"])["galaxy_id"]
    others = survey.votes[survey.votes["has_image"] & ~survey.votes["galaxy_id"].isin(sample)]
    cache, left_out = images.write_cache(
        others.sort_values("galaxy_id"),
        survey.data_dir,
        paths.resolve(run_dir) / "pretraining",
        crop=SIDE,
        binning=2,
        progress=images.print_progress,
    )
    ids = np.setdiff1d(others["galaxy_id"], left_out["galaxy_id"])
    counts = challenge.read_counts(survey.data_dir).loc[ids].to_numpy()
    return VotedGalaxies(ids, np.asarray(cache.arrays[cache.rows(ids)]), counts)


def build_armnet(real, simulated=None):
    """An ArmNet whose towers have the weights of two PolarNets.

    Parameters
    ----------
    real : keras.Model
        That learnt from votes.
    simulated : keras.Model, optional
        That learnt from simulations; by default the bundled one.

    Returns
    -------
    keras.Model
        Backbone on (72, 72, 3) images.
    """
    import keras

    from lib.networks.polar import PolarView

    view = PolarView.of_crop(SIZE, name="polar_view")
    if simulated is None:
        simulated = weights.build("PolarNet", view(keras.Input((SIZE, SIZE, 3))))
        weights.initialise(simulated, "mock", channels=3)
    armnet = weights.build("ArmNet", view(keras.Input((SIZE, SIZE, 3))))
    for name, polarnet in zip(TOWERS, (simulated, real), strict=True):
        tower_weights(armnet, name, polarnet)
    return armnet


@dataclass(frozen=True)
class Data:
    """Galaxies of a sample, and what is known of them.

    Attributes
    ----------
    sample : DataFrame
        Rows of ``sample.parquet`` in the order of their identifiers.
    features : dict of str to ndarray of float32, (n, width)
        ``classical``, ``amplitudes``, and one for each of `TOWERS`.
    classes : tuple of str
        Arm classes with enough galaxies.
    pixels : ndarray of uint8, (n, 72, 72, 3)
    seen : dict
        What was checked of galaxies that the bundled ArmNet has learnt from, see
        `lib.networks.weights.unseen`.
    """

    sample: pd.DataFrame
    features: dict[str, np.ndarray]
    classes: tuple[str, ...]
    pixels: np.ndarray
    seen: dict[str, object] = field(default_factory=dict)

    @property
    def label(self) -> np.ndarray:
        """Arm class of each galaxy."""
        return self.sample["label"].to_numpy()

    @property
    def fractions(self) -> np.ndarray:
        """Vote fractions of the classes, float64, (n, classes), rows adding up to one."""
        return votes.fractions(self.sample, self.classes)

    def joined(self, names: Sequence[str]) -> np.ndarray:
        """Several kinds of features side by side."""
        return np.hstack([self.features[name] for name in names])

    def take(self, positions: np.ndarray) -> Data:
        """Some of the galaxies."""
        features = {name: values[positions] for name, values in self.features.items()}
        sample = self.sample.iloc[positions].reset_index(drop=True)
        return replace(self, sample=sample, features=features, pixels=self.pixels[positions])

    def with_backbone(self, backbone) -> Data:
        """The same galaxies with the features of another ArmNet."""
        return replace(self, features=self.features | features(self.pixels, backbone))


def read(
    run_dir: str,
    backbone=None,
    *,
    least: int = 10,
    binning: int = 2,
    overlap: str = "refuse",
) -> Data:
    """Features of a run's sample.

    Parameters
    ----------
    run_dir : str
        Run whose steps 01 and 02 are done; its caches hold 96 px or more.
    backbone : keras.Model, optional
        An ArmNet; that in ``data/weights`` by default.
    least : int
        Galaxies that a class must have to be learnt and scored; others are left out.
    binning : int
        Pixels of a GZ2 cut-out per pixel of the cache, along each side.
    overlap : {"refuse", "leave out"}
        What is done about galaxies of the sample that the bundled ArmNet has learnt from.

    Raises
    ------
    InputError
        If there are such galaxies and `overlap` is "refuse", or too few classes.
    """
    folder = paths.step_folder(run_dir, "02_preprocessing")
    sample = pd.read_parquet(paths.step_folder(run_dir, "01_sample_selection") / "sample.parquet")
    wide = images.open_cache(folder, SIDE)
    sample = sample[wide.has(sample["galaxy_id"])].sort_values("galaxy_id", ignore_index=True)
    seen = {}
    if backbone is None:  # one that was trained here has learnt from none of the sample
        sample, seen = weights.unseen(sample, "votes", "ArmNet", channels=3, overlap=overlap)
    counts = sample["label"].value_counts()
    classes = tuple(c for c in ARM_CLASSES if counts.get(c, 0) >= least)
    if len(classes) < 2:
        raise InputError(
            f"{run_dir}: fewer than two classes have {least} galaxies ({counts.to_dict()}): loosen "
            "the selection, or lower `least`"
        )
    sample = sample[sample["label"].isin(classes)].reset_index(drop=True)
    numbers = classical.features(wide.arrays[wide.rows(sample["galaxy_id"])], r90=50 / binning)
    cache = images.open_cache(folder, SIZE)
    pixels = np.asarray(cache.arrays[cache.rows(sample["galaxy_id"])])
    known = {"classical": numbers, **features(pixels, backbone)}
    return Data(sample, known, classes, pixels, seen)


ARMNET = Network("B0", "ArmNet", "votes", SIZE, view="polar", amplitudes=True)
"""The bundled network and its amplitudes."""


def features(pixels: np.ndarray, backbone=None) -> dict[str, np.ndarray]:
    """What an ArmNet and the amplitudes say of images.

    Parameters
    ----------
    pixels : ndarray of uint8, (n, 72, 72, 3)
    backbone : keras.Model, optional
        An ArmNet; that in ``data/weights`` by default.

    Returns
    -------
    dict of str to ndarray of float32, (n, width)
        One for each of `lib.networks.polarnet.TOWERS`, and ``amplitudes``.
    """
    network = ARMNET if backbone is None else replace(ARMNET, weights="none")
    model, _ = models.build(network, len(ARM_CLASSES), 0)
    for layer in backbone.layers if backbone is not None else ():
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())
    shown = images.network_input(pixels, "rgb")
    values = models.body_of(model).predict(shown, batch_size=64, verbose=0)
    width = model.get_layer(networks.LAST_CONVOLUTION).output.shape[-1]
    towers = np.split(values[:, :width], len(TOWERS), axis=1)
    return {**dict(zip(TOWERS, towers)), "amplitudes": values[:, width:]}


def arm_counter(head: votes.Head, classes: tuple[str, ...], backbone=None):
    """The whole recipe as one network: ArmNet, amplitudes, and a head of `lib.counting.votes`.

    Parameters
    ----------
    head : Head
        Fitted to the features of `LEVERS[RECIPE]`, joined.
    classes : tuple of str
    backbone : keras.Model, optional
        An ArmNet; that in ``data/weights`` by default.

    Returns
    -------
    model : keras.Model
        (batch, 72, 72, 3) pixels [0, 255] -> (batch, classes) expected vote fractions.
    origin : dict
        Of the weights of the backbone, see `lib.networks.weights.initialise`.
    """
    network = replace(ARMNET, dense_units=votes.COMPONENTS, activation="linear")
    network = network if backbone is None else replace(network, weights="none")
    model, origin = models.build(network, len(classes), 0)
    for layer in backbone.layers if backbone is not None else ():
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())
    kernel, bias, last, last_bias = head.layers(votes.COMPONENTS)
    for name, values in zip(models.HEAD, ((kernel, bias), (last, last_bias))):
        model.get_layer(name).set_weights(values)
    return model, origin


def cross_validate(
    features: np.ndarray,
    fractions: np.ndarray,
    label,
    classes: tuple[str, ...] = ARM_CLASSES,
    *,
    folds: int = 5,
    repeats: int = 3,
    seed: int = 0,
    galaxies: int | None = None,
) -> pd.DataFrame:
    """Predict every galaxy by heads (`lib.counting.votes`) that were fitted to the other folds.

    Parameters
    ----------
    features, fractions : ndarray, (n, width) and (n, classes)
    label : array-like of str, (n,)
    classes : tuple of str
    folds, repeats, seed : int
        See `lib.evaluation.repeated_folds`.
    galaxies : int, optional
        Train on so many of each fold's galaxies only, drawn at random in proportion.

    Returns
    -------
    DataFrame
        `repeat`, `fold`, `galaxy` (position), `label`, `predicted`; `in_set` and `set_size`, of the
        sets that shall hold the label of 90 %; and per class the expected fraction (``p_...``) and
        the calibrated probability of the label (``q_...``).
    """
    label = np.asarray(label)
    index = evaluation.class_index(label, classes)
    parts = evaluation.repeated_folds(label, folds, repeats, seed)
    if galaxies is not None:
        parts = [
            (_some(train, label, galaxies, seed + k), test) for k, (train, test) in enumerate(parts)
        ]

    def judge(train: np.ndarray, test: np.ndarray) -> pd.DataFrame:
        head = votes.fit(features[train], fractions[train], label=index[train], seed=seed)
        return _judged(head, features[test], index[test], index[train], classes)

    return probe.by_fold(judge, parts, folds)


def _some(train: np.ndarray, label: np.ndarray, galaxies: int, seed: int) -> np.ndarray:
    """At most so many of the positions, each class in proportion."""
    if galaxies >= len(train):
        return train
    chosen, _ = train_test_split(
        train, train_size=galaxies, stratify=label[train], random_state=seed
    )
    return chosen


def judge_once(data: Data, names: Sequence[str], development, test) -> pd.DataFrame:
    """The table of `cross_validate` for the test part, by a head fitted to all of the rest."""
    index = evaluation.class_index(data.label, data.classes)
    features, fractions = data.joined(names), data.fractions
    head = votes.fit(features[development], fractions[development], label=index[development])
    part = _judged(head, features[test], index[test], index[development], data.classes)
    return part.assign(repeat=0, fold=0, galaxy=test)


def _judged(head, features, index, seen, classes) -> pd.DataFrame:
    p = head.probabilities(features)
    q = evaluation.apply_temperature(p, head.temperature)
    # Heads of the folds had not seen the training galaxies, so sets can be measured on them.
    unseen = evaluation.apply_temperature(head.unseen, head.temperature)
    chosen = conformal.sets(q, conformal.threshold(unseen, seen))
    decided = evaluation.decide(p, head.offsets)
    names = np.array(classes)
    table = pd.DataFrame({"label": names[index], "predicted": names[decided]})
    table["in_set"] = chosen[np.arange(len(index)), index]
    table["set_size"] = chosen.sum(axis=1)
    table[probability_columns(classes)] = p
    table[_calibrated_columns(classes)] = q
    return table


def _calibrated_columns(classes: tuple[str, ...]) -> list[str]:
    """Columns of the calibrated probabilities of the label, e.g. ``q_5plus``."""
    return [f"q{name[1:]}" for name in probability_columns(classes)]


def quality(table: pd.DataFrame, fractions: np.ndarray, classes: tuple[str, ...] = ARM_CLASSES):
    """How good the probabilities of a table of `cross_validate` are.

    Returns
    -------
    dict of str to float
        `rmse` of the expected fractions (the measure of the Galaxy Challenge), `cross_entropy`
        against them in nats, `ece` of the calibrated probability of the class predicted, and
        `coverage` and `set_size` of the sets.
    """
    truth = fractions[table["galaxy"]]
    p = table[probability_columns(classes)].to_numpy()
    q = table[_calibrated_columns(classes)].to_numpy()
    index, predicted = _indices(table, classes)
    return {
        "rmse": float(np.sqrt(((p - truth) ** 2).mean())),
        "cross_entropy": float(-(truth * np.log(np.maximum(p, 1e-12))).sum(axis=1).mean()),
        "ece": evaluation.calibration(q, index, predicted=predicted)["ece"],
        "coverage": float(table["in_set"].mean()),
        "set_size": float(table["set_size"].mean()),
    }


LEVERS = {
    "amplitudes, votes": ("amplitudes",),
    "simulated tower, votes": ("simulated",),
    "real tower, votes": ("real",),
    "both towers, votes": TOWERS,
    "simulated tower and amplitudes, votes": ("simulated", "amplitudes"),
    "real tower and amplitudes, votes": ("real", "amplitudes"),
    "recipe: towers and amplitudes, votes": (*TOWERS, "amplitudes"),
    "recipe and classical, votes": (*TOWERS, "amplitudes", "classical"),
}
"""What the ablation compares, by the features that are joined; heads of `lib.counting.votes`."""

RECIPE = "recipe: towers and amplitudes, votes"
BASELINE = "classical, labels"


def ablation(data: Data, *, repeats: int, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Every method's predictions of the same galaxies in the same folds.

    Beside `LEVERS`: the most frequent class, the classical numbers with labels
    (`lib.counting.probe`) and with votes, the recipe's features with labels, and the recipe without
    its decision.
    """
    settings = {"repeats": repeats, "seed": seed}
    own = {"classes": data.classes, **settings}
    fractions, label, recipe = data.fractions, data.label, data.joined(LEVERS[RECIPE])
    found = {
        "most frequent": probe.most_frequent(label, **settings),
        BASELINE: probe.cross_validate(data.features["classical"], label, **settings),
        "classical, votes": cross_validate(data.features["classical"], fractions, label, **own),
    }
    print("classical numbers done", flush=True)
    for name, parts in LEVERS.items():
        found[name] = cross_validate(data.joined(parts), fractions, label, **own)
        print(f"{name} done", flush=True)
    found["recipe, but labels"] = probe.cross_validate(recipe, label, **settings)
    p = found[RECIPE][probability_columns(data.classes)].to_numpy()
    largest = np.array(data.classes)[evaluation.decide(p)]
    found["recipe, but largest probability"] = found[RECIPE].assign(predicted=largest)
    return found


def two_against_three(data: Data, *, repeats: int = 3, seed: int = 0) -> pd.DataFrame:
    """Predictions of m = 2 against 3, as many of each, as in Fig. 5 of the paper.

    The galaxies of the more frequent class are drawn at random.
    """
    rng = np.random.default_rng([seed, 23])
    members = [np.flatnonzero(data.label == c) for c in ("2", "3")]
    n = min(map(len, members))
    chosen = np.sort(np.concatenate([rng.permutation(m)[:n] for m in members]))
    pair = votes.fractions(data.sample.iloc[chosen], ("2", "3"))
    features = data.joined(LEVERS[RECIPE])[chosen]
    settings = {"repeats": repeats, "seed": seed}
    return cross_validate(features, pair, data.label[chosen], ("2", "3"), **settings)


def variants(data: Data, *, repeats: int, seed: int = 0, purity: float = 0.5, least: int = 10):
    """The recipe and the baseline on the secondary tasks of the same galaxies.

    Returns
    -------
    dict of str to (dict of str to DataFrame, tuple of str)
        Task -> tables of `cross_validate` by method, and the classes: 4 and 5+ merged, and only
        galaxies most of whose votes agree (classes with `least` of them).
    """
    settings = {"repeats": repeats, "seed": seed}
    label = data.label
    tasks = {}
    if {"4", "5+"} <= set(data.classes):
        classes = tuple(dict.fromkeys(_together(c) for c in data.classes))
        together = np.array([_together(c) for c in label])
        tasks["4 and 5+ together"] = (np.arange(len(label)), together, classes)
    pure = np.flatnonzero(data.fractions.max(axis=1) > purity)
    counts = pd.Series(label[pure]).value_counts()
    classes = tuple(c for c in data.classes if counts.get(c, 0) >= least)
    pure = pure[np.isin(label[pure], classes)]
    if len(classes) > 1:
        tasks[f"one answer above {purity:.0%}"] = (pure, label[pure], classes)
    recipe = data.joined(LEVERS[RECIPE])
    return {
        name: (
            {
                BASELINE: probe.cross_validate(data.features["classical"][at], shown, **settings),
                RECIPE: cross_validate(
                    *(recipe[at], votes.fractions(data.sample.iloc[at], classes), shown, classes),
                    **settings,
                ),
            },
            classes,
        )
        for name, (at, shown, classes) in tasks.items()
    }


def _together(arm_class: str) -> str:
    return MERGES["4+5+"].get(arm_class, arm_class)


def simulated_curve(data: Data, sizes, states: Path, repeats: int) -> pd.DataFrame:
    """`learning_curve` of networks that were trained on simulated galaxies only, and on fewer.

    Both towers are then the same network.
    """

    def armnet(size: int):
        curriculum = pretraining.Curriculum(galaxies=size)
        settings = pretraining.Settings("PolarNet", 3, SIZE, curriculum=curriculum)
        _, simulated = pretraining.pretrain(settings, states / f"simulated-{size}")
        return build_armnet(simulated, simulated)

    return _curve_of_networks(data, ((size, armnet(size)) for size in sizes), repeats)


def _curve_of_networks(data: Data, armnets: Iterable, repeats: int) -> pd.DataFrame:
    """`learning_curve` of networks, given with the number of galaxies that they learnt from."""
    tables = [
        learning_curve(data.with_backbone(armnet), [None], repeats=repeats).assign(galaxies=n)
        for n, armnet in armnets
    ]
    return pd.concat(tables, ignore_index=True)


def reliability(table: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """Tables of `lib.evaluation.reliability` before and after temperature scaling."""
    index, predicted = _indices(table, classes)
    kinds = {
        "expected votes": probability_columns(classes),
        "scaled to the label": _calibrated_columns(classes),
    }
    return {
        kind: evaluation.reliability(table[columns].to_numpy(), index, predicted=predicted)
        for kind, columns in kinds.items()
    }


def _indices(table: pd.DataFrame, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers of labels and of predictions."""
    return tuple(evaluation.class_index(table[c], classes) for c in ("label", "predicted"))


def mistakes(table: pd.DataFrame, data: Data, *, kinds: int = 5, each: int = 6) -> dict:
    """The surest mistakes of the most frequent kinds, for `lib.figures.beyond.mistakes`.

    Returns
    -------
    dict of str to (ndarray of uint8, DataFrame)
        Kind, e.g. ``2 taken for ?`` -> cut-outs, and `label`, `predicted`, `voted`, `expected`.
    """
    true, found = _indices(table, data.classes)
    sure = evaluation.predicted_probability(table)
    shown = pd.DataFrame({"galaxy": table["galaxy"].to_numpy(), "sure": sure})
    shown["label"], shown["predicted"] = table["label"].to_numpy(), table["predicted"].to_numpy()
    votes_for = data.fractions[shown["galaxy"], true]
    shown["voted"] = [f"{c}: {v:.0%}" for c, v in zip(shown["label"], votes_for)]
    shown["expected"] = [f"{c}: {v:.0%}" for c, v in zip(shown["predicted"], shown["sure"])]
    wrong = shown[found != true]
    frequent = wrong.groupby(["label", "predicted"]).size().nlargest(kinds)
    groups = {}
    for (label, predicted), n in frequent.items():
        part = wrong[(wrong["label"] == label) & (wrong["predicted"] == predicted)]
        part = part.nlargest(each, "sure")
        groups[f"{label} taken for {predicted} ({n})"] = (data.pixels[part["galaxy"]], part)
    return groups


def learning_curve(
    data: Data, sizes: Sequence[int | None], *, repeats: int = 3, seed: int = 0
) -> pd.DataFrame:
    """Macro-F1 and balanced accuracy against the number of galaxies that the head learns from.

    Returns
    -------
    DataFrame
        `galaxies`, `score`, and mean (`value`), smallest (`low`) and largest (`high`) of the
        repeats.
    """
    rows = []
    for size in sizes:
        table = cross_validate(
            data.joined(LEVERS[RECIPE]),
            data.fractions,
            data.label,
            data.classes,
            repeats=repeats,
            seed=seed,
            galaxies=size,
        )
        parts = [part for _, part in table.groupby("repeat")]
        matrices = [evaluation.confusion(p["label"], p["predicted"], data.classes) for p in parts]
        scores = pd.DataFrame([evaluation.scores(matrix) for matrix in matrices])
        for score in ("macro_f1", "balanced_accuracy"):
            values = scores[score]
            rows.append((size, score, values.mean(), values.min(), values.max()))
    return pd.DataFrame(rows, columns=["galaxies", "score", "value", "low", "high"])


def summary(
    found: dict[str, pd.DataFrame], data: Data, over: str = BASELINE
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Tables of an ablation.

    Returns
    -------
    scores, gains : DataFrame
        See `lib.counting.probe.score_table` and `lib.counting.probe.gains`, the latter over the
        method `over`.
    qualities : DataFrame
        `quality` of every method that gives probabilities.
    """
    probable = {name: t for name, t in found.items() if probability_columns(data.classes)[0] in t}
    qualities = {name: quality(t, data.fractions, data.classes) for name, t in probable.items()}
    return (
        probe.score_table(found, data.classes),
        probe.gains(found, over, data.classes),
        pd.DataFrame(qualities).T.rename_axis("method"),
    )


def unseen_arms(table: pd.DataFrame, data: Data, truth: pd.DataFrame) -> pd.DataFrame:
    """How well arms are counted that volunteers could not count, where the truth is known.

    Parameters
    ----------
    table : DataFrame
        See `cross_validate`; its first repeat is taken.
    data : Data
    truth : DataFrame
        `galaxy_id` and the true `arm_class`.

    Returns
    -------
    DataFrame
        One row for galaxies labelled with a number and one for those labelled "?": `galaxies`,
        `right` (the most probable number is the true one), `low`, `high` (95 %), and
        `most_frequent` (always naming the most frequent true number).
    """
    first = table[table["repeat"] == 0]
    numbers = [c for c in data.classes if c != "?"]
    p = first[probability_columns(tuple(numbers))].to_numpy()
    ids = data.sample["galaxy_id"].to_numpy()[first["galaxy"]]
    true = truth.set_index("galaxy_id")["arm_class"].reindex(ids).to_numpy()
    frame = pd.DataFrame({"true": true, "found": np.array(numbers)[p.argmax(axis=1)]})
    frame["label"] = np.where(first["label"] == "?", "could not count", "counted")
    frame = frame[frame["true"].isin(numbers)]
    rows = {}
    for name, part in frame.groupby("label"):
        right = (part["true"] == part["found"]).sum()
        low, high = evaluation.wilson(right, len(part))
        rows[name] = {"galaxies": len(part), "right": right / len(part), "low": low, "high": high}
        rows[name]["most_frequent"] = part["true"].value_counts(normalize=True).max()
    return pd.DataFrame(rows).T.rename_axis("volunteers")
