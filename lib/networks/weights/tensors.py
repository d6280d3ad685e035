"""Named tensors of a backbone, loaded strictly: all of them or none."""

from __future__ import annotations

from collections.abc import Mapping

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

    `tensors` has one float array per name of `named_variables`, in Keras' layout; the stem's kernel
    may have three input channels where the backbone has one, and is then summed over them.
    `source`, the file they came from, is for the message. Returns ``as stored``, or ``summed`` for
    a stem that was summed. The InputError lists missing and unexpected names, shapes that differ
    and values that are not finite; the first problem, in the order of the network, stands first.
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
