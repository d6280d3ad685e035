"""The backbones that travel with the project, pre-trained by notebooks 11 and 12.

A backbone is one file ``data/weights/<network>-<channels>ch.safetensors`` in half precision, with
a card ``.json`` of the same name that says how it was made and holds the hash of the file. One that
has learnt from votes for real galaxies has the list of these beside it, ``.galaxies.txt``, so that
no score is measured on them unnoticed (`unseen`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import safetensors.numpy

from lib.networks.weights.tensors import assign, named_variables
from lib.paths import atomic, project_root, sha256
from lib.schema import InputError

BUNDLED = {
    "mock": "`make weights` (notebook 11_pretrain_backbone)",
    "votes": "notebook 12_beyond_the_paper on the Galaxy Challenge",
}
"""Bundled sources of weights, and what makes them."""

LIST = ".galaxies.txt"
"""Suffix of the list of galaxies that weights have learnt from, one identifier a line."""

OVERLAPS = ("refuse", "leave out")
"""What may be done about galaxies whose votes the weights have learnt from."""


def bundled_path(network: str, channels: int, folder: str | Path | None = None) -> Path:
    """File of a network's bundled weights."""
    folder = project_root() / "data" / "weights" if folder is None else Path(folder)
    return folder / f"{network}-{channels}ch.safetensors"


def identifiers_sha256(galaxy_ids: Iterable) -> str:
    """SHA-256 of identifiers joined by commas, in the order given.

    >>> identifiers_sha256([1, 2]) == hashlib.sha256(b"1,2").hexdigest()
    True
    """
    return hashlib.sha256(",".join(map(str, galaxy_ids)).encode()).hexdigest()


def save_bundled(
    backbone: keras.Model,
    card: dict,
    folder: str | Path | None = None,
    *,
    survey: str | None = None,
    galaxy_ids: Iterable[int] | None = None,
) -> tuple[Path, Path]:
    """Write a backbone and its card.

    Parameters
    ----------
    backbone : keras.Model
        Backbone of the plain variant, from `lib.networks.weights.build`.
    card : dict
        How it was made (data, seed, command, code version, training curve, scores): JSON types.
    folder : path, optional
        ``data/weights`` of the project by default.
    survey, galaxy_ids : optional
        Survey and ascending identifiers of the real galaxies whose votes it has learnt from; kept
        beside the card, which gets their number and hash as ``trained_on``.

    Returns
    -------
    weights, card : Path
        float16 tensors named ``<layer>/<variable>``, and the card with ``file``, ``network``,
        ``channels``, ``parameters`` and ``sha256`` added.

    Raises
    ------
    InputError
        If a value does not fit into half precision; names the tensor.
    """
    tensors = {}
    for name, variable in named_variables(backbone).items():
        values = np.asarray(variable.numpy(), "float32")
        with np.errstate(over="ignore"):
            tensors[name] = values.astype("float16")
        if not np.isfinite(tensors[name]).all():
            raise InputError(
                f"{name} of {backbone.name} reaches {np.abs(values).max():.3g}, which half "
                "precision (65504) cannot hold: train longer or with a smaller learning rate."
            )
    path = bundled_path(backbone.name, backbone.input_shape[-1], folder)
    with atomic(path) as temporary:
        safetensors.numpy.save_file(tensors, temporary)
    card_path = path.with_suffix(".json")
    facts = {
        "file": path.name,
        "network": backbone.name,
        "channels": backbone.input_shape[-1],
        "parameters": int(sum(tensor.size for tensor in tensors.values())),
        "sha256": sha256(path),
    }
    if galaxy_ids is not None:
        ids = [*map(int, galaxy_ids)]
        with atomic(path.with_suffix(LIST)) as temporary:
            temporary.write_text("".join(f"{i}\n" for i in ids), encoding="utf-8")
        facts["trained_on"] = {
            "survey": survey,
            "galaxies": len(ids),
            "identifiers_sha256": identifiers_sha256(ids),
        }
    with atomic(card_path) as temporary:
        temporary.write_text(json.dumps({**card, **facts}, indent=2) + "\n", encoding="utf-8")
    return path, card_path


def load_bundled(
    backbone: keras.Model, folder: str | Path | None = None, *, source: str = "mock"
) -> dict:
    """Load the bundled weights of a backbone of the plain variant, in place.

    `source` is what they must have learnt from, "mock" or "votes"; `folder` is ``data/weights`` by
    default. Returns what `lib.networks.weights.initialise` does; ``card`` is the card's content.

    Raises
    ------
    InputError
        If there are none for this backbone, the card is missing or does not belong to the file,
        or the tensors do not fit.
    """
    path = bundled_path(backbone.name, backbone.input_shape[-1], folder)
    remedy = (
        f"Take both files from the project's repository again, or make them with {BUNDLED[source]}."
    )
    card_path = path.with_suffix(".json")
    for file in (path, card_path):
        if not file.is_file():
            raise InputError(
                f"{file} is missing: no weights of {backbone.name} with "
                f"{backbone.input_shape[-1]} channel(s) are bundled here. {remedy}"
            )
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
        expected = card["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{card_path} is not a card with a sha256: {error!r}. {remedy}") from error
    if card.get("source", "mock") != source:
        raise InputError(
            f"weights = {source!r}: {path.name} is of {card.get('source', 'mock')!r}; choose the "
            "backbone and the weights that belong together (PolarNet and mock, ArmNet and votes)"
        )
    digest = sha256(path)
    if digest != str(expected).lower():
        raise InputError(
            f"{path} has SHA-256 {digest}, not {expected}: the file is damaged or another one. "
            f"{remedy}"
        )
    stem = assign(backbone, safetensors.numpy.load_file(path), str(path))
    return {"file": path.name, "sha256": digest, "stem": stem, "card": card}


def learnt_from(
    backbone: str, channels: int = 3, folder: str | Path | None = None
) -> tuple[str, np.ndarray]:
    """Survey and identifiers (int64) of the real galaxies that bundled weights have learnt from.

    `backbone` is the name of one whose weights are of the source "votes".

    Raises
    ------
    InputError
        If the list or the card is missing, or the list is not the one whose hash the card has.
    """
    card_path = bundled_path(backbone.lower(), channels, folder).with_suffix(".json")
    path = card_path.with_suffix(LIST)
    remedy = "Take the files of data/weights from the project's repository again."
    try:
        known = json.loads(card_path.read_text(encoding="utf-8"))["trained_on"]
        ids = [int(line) for line in path.read_text(encoding="utf-8").split()]
        survey, expected = known["survey"], known["identifiers_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"which galaxies the weights of {backbone} have learnt from cannot be read from "
            f"{card_path} and {path}: {error!r}. {remedy}"
        ) from error
    if identifiers_sha256(ids) != expected:
        raise InputError(f"{path} is not the list that {card_path.name} names. {remedy}")
    return survey, np.array(ids, np.int64)


def unseen(
    sample: pd.DataFrame,
    weights: str,
    backbone: str,
    *,
    channels: int = 3,
    overlap: str = "refuse",
    folder: str | Path | None = None,
) -> tuple[pd.DataFrame, dict[str, object]]:
    """The galaxies of a sample whose votes a network's initial weights have not learnt from.

    Parameters
    ----------
    sample : DataFrame
        With `galaxy_id`; ``attrs["survey"]`` names its survey, as notebook 01 writes it.
    weights, backbone, channels
        The network; only weights from "votes" have learnt from galaxies that are listed.
    overlap : {"refuse", "leave out"}
        What is done about galaxies that have been learnt from.
    folder : path, optional
        Of the weights; ``data/weights`` by default.

    Returns
    -------
    sample : DataFrame
    facts : dict
        For the run's settings, JSON types: `survey`, `learnt_from` (see the card), `checked`,
        `left_out` and `note`, all of it as a sentence. Empty for other weights.

    Raises
    ------
    InputError
        If there is an overlap and it is to be refused, or the list of galaxies is missing.
    """
    if overlap not in OVERLAPS:
        raise InputError(f"overlap = {overlap!r}: choose one of {', '.join(OVERLAPS)}")
    if weights != "votes":
        return sample, {}
    origin, ids = learnt_from(backbone, channels, folder)
    survey, seen = sample.attrs.get("survey"), sample["galaxy_id"].isin(ids)
    if survey is None and seen.any():  # a table made by hand, with identifiers of that survey
        survey = origin
    facts = {
        "survey": survey,
        "learnt_from": {
            "survey": origin,
            "galaxies": len(ids),
            "identifiers_sha256": identifiers_sha256(ids),
        },
        "checked": survey in (origin, "mock"),
        "left_out": 0,
    }
    source = f"the {len(ids):,} galaxies of {origin!r} whose votes {backbone} has learnt from"
    if survey == "mock":
        return sample, {**facts, "note": f"Simulated galaxies cannot be among {source}."}
    if survey != origin:
        same = "galaxies of Galaxy Zoo 2 under other names" if origin == "challenge" else "others"
        note = (
            f"**Warning: not checked.** Galaxies of survey {survey!r} may be among {source}, but "
            f"that cannot be told: those are {same}. Scores on them may be too good."
        )
        return sample, {**facts, "note": note}
    if seen.any() and overlap == "refuse":
        raise InputError(
            f"{seen.sum():,} of {len(sample):,} galaxies of the sample are among {source} (first: "
            f"{sample['galaxy_id'][seen].iloc[0]}), so that scores on them would be too good: set "
            "overlap = 'leave out' to go on without them, select as the weights' own run did "
            "(profile challenge), or train the network anew on the others (notebook 12, real_views)"
        )
    note = (
        f"{seen.sum():,} of {len(sample):,} galaxies were left out: they are among {source}."
        if seen.any()
        else f"None of the {len(sample):,} galaxies is among {source}."
    )
    return sample[~seen], {**facts, "left_out": int(seen.sum()), "note": note}
