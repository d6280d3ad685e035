"""Zoobot's encoder on the Hugging Face hub: a PyTorch network of the timm library.

The hub's layout is that of ``timm.models.push_to_hf_hub``: a ``config.json`` that names the timm
architecture, and the weights as ``model.safetensors`` or, where the repository has none, as
``pytorch_model.bin``. Neither PyTorch nor timm is needed to read them.

References: Walmsley et al. (2023), Zoobot, JOSS 8, 5312; https://huggingface.co/mwalmsley.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import safetensors
import safetensors.numpy
from huggingface_hub import constants, snapshot_download

from lib.networks.weights.graph import BackboneVariant
from lib.networks.weights.pytorch import read_state_dict, timm_layers, to_keras
from lib.networks.weights.tensors import assign
from lib.paths import sha256
from lib.schema import InputError

REPOSITORY = "mwalmsley/zoobot-encoder-efficientnet_b0"
"""Encoder trained on all Galaxy Zoo votes, three channels in [0, 1], no further normalisation."""

WARNING = (
    "Zoobot's encoder on the hub has learnt from the votes of all Galaxy Zoo projects, those for "
    "Galaxy Zoo 2 (and so the Galaxy Challenge) included: scores on these galaxies are too good. "
    "The paper's weights, which learnt from GZ DECaLS alone, are those of profile gz2 "
    "(make data PROFILE=gz2)."
)
"""What a reader of scores must know; it goes into the receipt of the weights."""

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights, in the order in which they are looked for."""

VARIANTS = {
    "tf_efficientnet_b0": BackboneVariant(padding="same", bn_epsilon=1e-3),
    "efficientnet_b0": BackboneVariant(padding="symmetric", bn_epsilon=1e-5),
}
"""timm architectures that can be ported into Keras' EfficientNetB0, and how."""

_HARMLESS = {"num_classes", "in_chans", "global_pool"}
"""Arguments in ``config.json`` that concern the head, or the stem's shape, which is checked."""


class HubFiles(NamedTuple):
    """The files of one revision, and its commit; None for a local folder."""

    config: Path
    weights: Path
    revision: str | None


def fetch(folder: str | None = None, revision: str | None = None) -> HubFiles:
    """Get the encoder's files, from a folder or from the hub through its local cache.

    `revision` is a branch, tag or full commit hash; ``main`` by default. Raises InputError if a
    file cannot be had; the message says which files to fetch and where to put them.
    """
    commit = None
    if folder is None:
        options = {
            "allow_patterns": [CONFIG, *WEIGHTS],
            "local_files_only": constants.HF_HUB_OFFLINE,
        }
        try:
            folder = snapshot_download(REPOSITORY, revision=revision, **options)
        except Exception as error:  # the hub's own errors, and those of the libraries beneath it
            raise InputError(_remedy(str(error), revision)) from error
        commit = Path(folder).name
    files = [Path(folder) / name for name in (CONFIG, *WEIGHTS)]
    present = [path for path in files if path.is_file()]
    if files[0] not in present or len(present) < 2:
        problem = f"{folder} must hold {CONFIG} and {' or '.join(WEIGHTS)}"
        raise InputError(_remedy(problem, revision))
    return HubFiles(present[0], present[1], commit)


def variant(files: HubFiles) -> BackboneVariant:
    """How the graph has to be for the timm architecture that ``config.json`` names.

    Raises InputError if it is unknown or its arguments change the network.
    """
    config = _config(files)
    architecture = str(config.get("architecture"))
    arguments = set(config.get("model_args") or {}) - _HARMLESS
    if architecture not in VARIANTS or arguments:
        raise InputError(
            f"{files.config} names the timm architecture {architecture!r}"
            + (f" with the arguments {', '.join(sorted(arguments))}" if arguments else "")
            + f"; known are {' and '.join(VARIANTS)}, as timm builds them by default."
        )
    return VARIANTS[architecture]


def load(backbone: keras.Model, files: HubFiles) -> dict:
    """Port the hub's weights into an EfficientNetB0 of the right `variant`, in place.

    Returns what `lib.networks.weights.initialise` does; ``warning`` is `WARNING`. Raises InputError
    if the file is damaged or does not fit the backbone.
    """
    state = _read(files.weights)
    stem = assign(backbone, to_keras(state, timm_layers(state)), str(files.weights))
    return {
        "file": files.weights.name,
        "sha256": sha256(files.weights),
        "revision": files.revision,
        "stem": stem,
        "repository": REPOSITORY if files.revision else None,
        "architecture": _config(files)["architecture"],
        "warning": WARNING,
    }


def _config(files: HubFiles) -> dict:
    """Content of ``config.json``."""
    try:
        config = json.loads(files.config.read_text(encoding="utf-8"))
        if isinstance(config, dict):
            return config
        problem = "not a JSON object"
    except ValueError as error:
        problem = str(error)
    raise InputError(f"{files.config} is not a timm configuration: {problem}. Fetch it again.")


def _read(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a file in either format."""
    if path.suffix == ".bin":
        return read_state_dict(path)
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, KeyError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file: {error}. Fetch it again."
        ) from error


def _remedy(problem: str, revision: str | None) -> str:
    """Message that says what is missing and how to do without a connection."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    return (
        f"Zoobot's weights from the hub: {problem}. Without internet, fetch {CONFIG} and "
        f"{' or '.join(WEIGHTS)} from {endpoint}/{REPOSITORY}/tree/{revision or 'main'} on another "
        "machine, put both into one folder, and set weights to zoobot-hub:<that folder>."
    )
