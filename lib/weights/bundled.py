"""The backbones that travel with the project, pre-trained by notebooks 11 and 12.

A backbone is one file ``data/weights/<network>-<channels>ch.safetensors`` in half precision, with
a card ``.json`` of the same name that says how it was made and holds the hash of the file.
"""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import safetensors
import safetensors.numpy

from lib.paths import atomic, project_root
from lib.schema import InputError
from lib.weights.tensors import assign, checked_sha256, named_variables

BUNDLED = {
    "mock": "`make weights` (notebook 11_pretrain_backbone)",
    "votes": "notebook 12_beyond_the_paper on the Galaxy Challenge",
}
"""Bundled sources of weights, and what makes them."""


def bundled_path(network: str, channels: int, folder: str | Path | None = None) -> Path:
    """File of a network's bundled weights; `folder` is ``data/weights`` by default."""
    folder = project_root() / "data" / "weights" if folder is None else Path(folder)
    return folder / f"{network}-{channels}ch.safetensors"


def save_bundled(
    backbone: keras.Model, card: dict, folder: str | Path | None = None
) -> tuple[Path, Path]:
    """Write a backbone and its card.

    Parameters
    ----------
    backbone : keras.Model
        Backbone of the plain variant, from `lib.weights.build`.
    card : dict
        How it was made (data, seed, command, code version, training curve, scores): JSON types.
    folder : path, optional
        ``data/weights`` of the project by default.

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
    facts = {
        "file": path.name,
        "network": backbone.name,
        "channels": backbone.input_shape[-1],
        "parameters": int(sum(tensor.size for tensor in tensors.values())),
        "sha256": checked_sha256(path, None, ""),
    }
    with atomic(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({**card, **facts}, indent=2) + "\n", encoding="utf-8")
    return path, path.with_suffix(".json")


def load_bundled(
    backbone: keras.Model,
    folder: str | Path | None = None,
    *,
    source: str = "mock",
    sha256: str | None = None,
) -> dict:
    """Load the bundled weights of a backbone.

    Parameters
    ----------
    backbone : keras.Model
        Backbone of the plain variant; changed in place.
    folder : path, optional
        ``data/weights`` of the project by default.
    source : {"mock", "votes"}
        What the weights must have learnt from.
    sha256 : str, optional
        Hash that the file must have; that of the card by default.

    Returns
    -------
    dict
        See `lib.weights.initialise`; ``card`` is the card's content.

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
    digest = checked_sha256(path, expected, remedy)
    checked_sha256(path, sha256, remedy)
    try:
        tensors = safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}. {remedy}") from error
    stem = assign(backbone, tensors, str(path))
    return {"file": path.name, "sha256": digest, "stem": stem, "card": card}
