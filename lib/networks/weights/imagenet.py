"""ImageNet weights: Keras' own files for the EfficientNets of ``keras.applications``."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import keras
import numpy as np
from huggingface_hub import constants

from lib.networks.weights.graph import PLAIN, BackboneVariant, architecture_class, require_variant
from lib.networks.weights.tensors import assign, checked_sha256, named_variables
from lib.schema import InputError

URL = "https://storage.googleapis.com/keras-applications/"

MD5 = {
    "efficientnetb0": "50bc09e76180e00e4465e1a485ddc09d",
    "efficientnetb1": "74c4e6b3e1f6a1eea24c589628592432",
    "efficientnetb2": "111f8e2ac8aa800a7a99e3239f7bfb39",
    "efficientnetb3": "af6d107764bb5b1abb91932881670226",
    "efficientnetb4": "ebc24e6d6c33eaebbd558eafbeedf1ba",
    "efficientnetb5": "38879255a25d3c92d5e44e04ae6cec6f",
    "efficientnetb6": "9ecce42647a20130c1f39a5d4cb75743",
    "efficientnetb7": "cbcfe4450ddf6f3ad90b1b398090fe4a",
    "efficientnetv2-b0": "893217f2bb855e2983157299931e43ff",
    "efficientnetv2-b1": "0e80663031ca32d657f9caa404b6ec37",
    "efficientnetv2-b2": "1dfe2e7a5d45b6632553a8961ea609eb",
    "efficientnetv2-b3": "f6abf7b5849ac99a89b50dd3fd532856",
    "efficientnetv2-s": "af0682fb74e8c54910f2d4393339c070",
    "efficientnetv2-m": "1b8dc055df72dde80d614482840fe342",
    "efficientnetv2-l": "b0b66b5c863aef5b46e8608fe1711615",
}
"""MD5 that Keras publishes for each file without top, by the name of the network."""

STD = (0.229, 0.224, 0.225)
"""Standard deviation of the ImageNet images per channel, of a range of 1."""


def variant(architecture: str, channels: int) -> BackboneVariant:
    """Graph that ImageNet weights need: a grey image as three channels where these differ.

    EfficientNetB* and V2B* normalise each channel by its own mean; V2S, V2M and V2L do not, and
    there the stem's kernel is summed.
    """
    per_channel = re.fullmatch(r"EfficientNet(V2)?B\d", architecture) is not None
    return BackboneVariant(grey_as_rgb=True) if per_channel and channels == 1 else PLAIN


def variant_of(backbone: keras.Model) -> BackboneVariant:
    """The variant that a backbone needs, told from its name and input.

    Raises
    ------
    InputError
        If the backbone was built otherwise, or Keras has no ImageNet weights for it.
    """
    needed = variant(_architecture(backbone), backbone.input_shape[-1])
    require_variant(backbone, needed)
    if needed.grey_as_rgb and not any(layer.name == "grey_as_rgb" for layer in backbone.layers):
        raise InputError(
            f"{backbone.name} normalises each colour by its own mean, so a grey image has to be "
            "copied into three channels: build it with weights.build and the variant that "
            "weights.variant gives for imagenet."
        )
    return needed


def load(
    backbone: keras.Model,
    path: str | None = None,
    *,
    sha256: str | None = None,
    offline: bool | None = None,
) -> dict:
    """Load Keras' ImageNet weights.

    Parameters
    ----------
    backbone : keras.Model
        EfficientNet of the right `variant`; changed in place.
    path : str, optional
        Keras' file on this machine. Without it Keras' own cache is used and filled.
    sha256 : str, optional
        Hash that the file must have, beside Keras' MD5.
    offline : bool, optional
        Do not download. By default ``$HF_HUB_OFFLINE`` decides, as for the hub.

    Returns
    -------
    dict
        See `lib.networks.weights.initialise`.

    Raises
    ------
    InputError
        If the file is missing, of another hash, or does not fit.
    """
    file = _local(path, backbone.name) if path else _cached(backbone.name, offline)
    digest = checked_sha256(file, sha256, "Fetch it again, or correct the hash.")
    # Keras reads its own file into its own three-channel network, as keras.applications would.
    make = architecture_class(_architecture(backbone))
    twin = make(include_top=False, weights=str(file), input_shape=(32, 32, 3))
    tensors = {name: variable.numpy() for name, variable in named_variables(twin).items()}
    stem = assign(backbone, tensors, str(file))
    for ours, theirs in zip(_normalization(backbone), _normalization(twin), strict=True):
        if theirs.weights:
            mean, variance, count = theirs.get_weights()
            # Keras divides by the standard deviation twice, each time by its root (Rescaling
            # after Normalization, only with weights="imagenet"); here it is one division.
            ours.set_weights([mean, variance * np.array(STD, variance.dtype), count])
            ours.finalize_state()
    return {"file": file.name, "sha256": digest, "stem": stem}


def _architecture(backbone: keras.Model) -> str:
    """Class name in ``keras.applications`` of a backbone, told from its name."""
    if backbone.name not in MD5:
        raise InputError(
            f"Keras has no ImageNet weights for {backbone.name!r}: choose one of {', '.join(MD5)}"
        )
    family = backbone.name.removeprefix("efficientnet").replace("-", "")
    return f"EfficientNet{family.upper()}"


def _normalization(backbone: keras.Model) -> list[keras.layers.Normalization]:
    return [x for x in backbone.layers if isinstance(x, keras.layers.Normalization)]


def _local(path: str, name: str) -> Path:
    """A file given by its path, checked against Keras' hash."""
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file} is missing: {_remedy(name)}")
    _check_md5(file, name)
    return file


def _cached(name: str, offline: bool | None) -> Path:
    """Keras' file from Keras' cache, downloaded if needed and allowed."""
    folder = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
    file = folder / f"{name}_notop.h5"
    if constants.HF_HUB_OFFLINE if offline is None else offline:
        if not file.is_file():
            raise InputError(f"{file} is missing, and offline mode is on: {_remedy(name)}")
        _check_md5(file, name)
        return file
    try:
        # A cached file of another hash is half a download or an older one: fetched anew.
        got = keras.utils.get_file(
            file.name,
            URL + file.name,
            cache_dir=str(folder.parent),
            cache_subdir="models",
            file_hash=MD5[name],
        )
    except Exception as error:  # Keras raises a bare Exception for a failed download
        raise InputError(f"ImageNet weights of {name}: {error}. {_remedy(name)}") from error
    return Path(got)


def _check_md5(file: Path, name: str) -> None:
    with open(file, "rb") as content:
        found = hashlib.file_digest(content, "md5").hexdigest()
    if found != MD5[name]:
        raise InputError(
            f"{file} has MD5 {found}, not the {MD5[name]} of Keras' {name}_notop.h5: it is damaged "
            f"or another file. {_remedy(name)}"
        )


def _remedy(name: str) -> str:
    return (
        f"fetch {URL}{name}_notop.h5 on a machine with internet and set weights to "
        "imagenet:<path of that file>."
    )
