"""Named tensors of a backbone, loaded strictly: all of them or none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from lib.schema import InputError

STEM = "stem_conv/kernel"
"""Name of the first kernel, the only tensor that knows the number of input channels."""


def named_variables(backbone: keras.Model) -> dict[str, keras.Variable]:
    """Variables of a backbone as ``<layer>/<variable>``, in the order of the layers.

    Normalization layers are left out: outside ImageNet they are the identity, and Keras numbers
    their names through a session.
    """
    return {
        f"{layer.name}/{variable.name}": variable
        for layer in backbone.layers
        if not isinstance(layer, keras.layers.Normalization)
        for variable in layer.weights
    }


def assign(backbone: keras.Model, tensors: Mapping[str, np.ndarray], source: str) -> str:
    """Put tensors into a backbone if, and only if, every name and shape fits.

    Parameters
    ----------
    backbone : keras.Model
        Changed in place.
    tensors : mapping of str to array
        One float array per name of `named_variables`, in Keras' layout; the stem's kernel may
        have three input channels where the backbone has one, and is then summed over them.
    source : str
        File that the tensors came from, for the message.

    Returns
    -------
    str
        ``as stored``, or ``summed`` for a stem that was summed over its input channels.

    Raises
    ------
    InputError
        Lists missing and unexpected names, shapes that differ and values that are not finite; the
        first problem, in the order of the network, stands first.
    """
    variables = named_variables(backbone)
    tensors = dict(tensors)
    stem = "as stored"
    if STEM in tensors and np.ndim(tensors[STEM]) == 4:
        if tensors[STEM].shape[2] == 3 and variables[STEM].shape[2] == 1:
            tensors[STEM] = tensors[STEM].astype("float64").sum(axis=2, keepdims=True)
            stem = "summed"
    problems = []
    for name, variable in variables.items():
        if name not in tensors:
            problems.append(f"{name} {tuple(variable.shape)} is missing")
        elif tuple(tensors[name].shape) != tuple(variable.shape):
            problems.append(
                f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(variable.shape)}"
            )
        elif not np.isfinite(tensors[name]).all():
            problems.append(f"{name} holds values that are not finite")
    problems += [f"{name} is not in the network" for name in tensors if name not in variables]
    if problems:
        listed = "; ".join(problems[:10])
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise InputError(
            f"{source} does not fit {backbone.name} ({backbone.input_shape[-1]} channel(s)): "
            f"{listed}{more}. Use the file of this network, or choose its backbone and channels."
        )
    for name, variable in variables.items():
        variable.assign(tensors[name].astype("float32"))
    return stem


def checked_sha256(path: str | Path, expected: str | None, remedy: str) -> str:
    """SHA-256 of a file, hexadecimal, compared with the one it must have.

    Raises
    ------
    InputError
        If `expected` is given and is not the file's hash.
    """
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if expected is not None and found != expected.lower():
        raise InputError(
            f"{path} has SHA-256 {found}, not {expected}: the file is damaged or another one. "
            f"{remedy}"
        )
    return found
