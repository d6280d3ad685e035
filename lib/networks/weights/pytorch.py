"""EfficientNets of PyTorch: their files read without PyTorch, their tensors as those of Keras.

A file of PyTorch >= 1.6 is a zip archive: ``*/data.pkl`` describes the tensors in pickle's
language, ``*/data/<key>`` holds their numbers. An older one has several pickles, one after the
other, and then the numbers. A pickle can name any function and have it called, so names are looked
up in a list of four harmless ones; a file that asks for another is refused.
"""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.schema import InputError

MAGIC = 0x1950A86A20F9469CFC6C
"""First number of a PyTorch file that is no zip archive."""


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Tensors of a file that ``torch.save(model.state_dict(), path)`` has written.

    float32 and int64 arrays in PyTorch's layout. Raises InputError if the file is damaged, in
    another format, or asks for anything but tensors.
    """
    read = _read_archive if zipfile.is_zipfile(path) else _read_pickles
    try:
        state, storages = read(path)
        return {
            name: _rebuild_tensor(_numbers(tensor, storages[tensor.key]), *tensor[3:])
            for name, tensor in state.items()
        }
    except InputError:
        raise
    except Exception as error:  # a damaged archive or pickle fails in many ways
        raise InputError(
            f"{path} is not a whole PyTorch state dict: {error}. Fetch it again."
        ) from error


class _Tensor(NamedTuple):
    """A tensor as a pickle describes it: where its numbers are, and which of them are its own."""

    key: str
    dtype: np.dtype
    length: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _TensorsOnly(pickle.Unpickler):
    """Unpickler that knows tensors, their storages and ordered dictionaries, and nothing else."""

    def find_class(self, module, name):
        allowed = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": lambda storage, *view: _Tensor(*storage, *view[:3]),
            "torch.FloatStorage": np.dtype("<f4"),
            "torch.LongStorage": np.dtype("<i8"),
        }
        if f"{module}.{name}" not in allowed:
            raise InputError(
                f"the PyTorch file asks for {module}.{name}, which is not part of a plain state "
                "dict: it may be harmful and is refused. Use a safetensors file."
            )
        return allowed[f"{module}.{name}"]

    def persistent_load(self, pid):
        if not isinstance(pid, tuple):
            raise ValueError(f"it refers to {pid!r:.20}")
        kind, dtype, key, _location, length, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or view not in ([], [None]):
            raise InputError(f"the PyTorch file refers to a {kind!r}, not to a storage of numbers")
        return key, dtype, length


def _described(state, path: str | Path) -> dict[str, _Tensor]:
    if not isinstance(state, dict) or not all(isinstance(v, _Tensor) for v in state.values()):
        raise InputError(f"{path} holds something else than one state dict of tensors")
    return state


def _read_archive(path: str | Path) -> tuple[dict[str, _Tensor], dict[str, bytes]]:
    """Tensors, and the numbers of each storage, in a file of PyTorch >= 1.6."""
    with zipfile.ZipFile(path) as archive:
        (description,) = [n for n in archive.namelist() if n.endswith("/data.pkl")]
        folder = description.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist():
            if archive.read(f"{folder}byteorder") != b"little":
                raise InputError(f"{path} holds big-endian numbers, which are not read here")
        with archive.open(description) as file:
            state = _described(_TensorsOnly(file).load(), path)
        keys = {tensor.key for tensor in state.values()}
        return state, {key: archive.read(f"{folder}data/{key}") for key in keys}


def _read_pickles(path: str | Path) -> tuple[dict[str, _Tensor], dict[str, bytes]]:
    """The same in an older file: three facts, the tensors, their keys, their numbers."""
    with open(path, "rb") as file:
        head = [_TensorsOnly(file).load() for _ in range(3)]
        if head[:2] != [MAGIC, 1001] or not head[2].get("little_endian"):
            raise ValueError(f"it begins with {head!r:.80}")
        state = _described(_TensorsOnly(file).load(), path)
        known, storages = {tensor.key: tensor for tensor in state.values()}, {}
        for key in _TensorsOnly(file).load():
            if int.from_bytes(file.read(8), "little") != known[key].length:
                raise ValueError(f"storage {key} does not hold {known[key].length} numbers")
            storages[key] = file.read(known[key].length * known[key].dtype.itemsize)
        return state, storages


def _numbers(tensor: _Tensor, raw: bytes) -> np.ndarray:
    """All numbers of a tensor's storage."""
    numbers = np.frombuffer(raw, tensor.dtype)
    if len(numbers) != tensor.length:
        raise ValueError(f"storage {tensor.key} has {len(numbers)} numbers, not {tensor.length}")
    return numbers


def _rebuild_tensor(storage: np.ndarray, offset: int, size, stride) -> np.ndarray:
    """View of a storage as an array, as PyTorch describes it, within the storage's bounds."""
    extent = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    outside = offset < 0 or min(stride, default=0) < 0 or extent >= len(storage)
    if outside or math.prod(size) > len(storage):  # a stride of 0 repeats a number without end
        raise InputError("a tensor of the PyTorch file reaches beyond its storage")
    view = np.lib.stride_tricks.as_strided(
        storage[offset:], size, [step * storage.itemsize for step in stride], writeable=False
    )
    return view.copy()


_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def to_keras(
    state: dict[str, np.ndarray], layer_of: Callable[[str], str | None]
) -> dict[str, np.ndarray]:
    """Rename and transpose the tensors of a PyTorch EfficientNet into those of Keras.

    `state` has kernels as (out, in, height, width), by ``<module>.<parameter>``; `layer_of` gives
    Keras' name of a module (`timm_layers`, `lite_layers`), None for one to be left out. Returned
    are kernels as (height, width, in, out), depthwise ones as (height, width, channel, 1), by
    ``<layer>/<variable>``, without step counters.
    """
    tensors = {}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        layer = layer_of(module)
        if layer is None or kind == "num_batches_tracked":
            continue
        if tensor.ndim == 4:
            axes = (2, 3, 0, 1) if layer.endswith("dwconv") else (2, 3, 1, 0)
            tensors[f"{layer}/kernel"] = tensor.transpose(axes)
        else:
            tensors[f"{layer}/{kind if '_se_' in layer else _NORM.get(kind, kind)}"] = tensor
    return tensors


_TIMM = {"conv_stem": "stem_conv", "bn1": "stem_bn", "conv_head": "top_conv", "bn2": "top_bn"}
_SQUEEZE = {"se.conv_reduce": "se_reduce", "se.conv_expand": "se_expand", "conv_dw": "dwconv"}
_SEPARABLE = _SQUEEZE | {"bn1": "bn", "conv_pw": "project_conv", "bn2": "project_bn"}
_EXPANDED = _SQUEEZE | {
    **{"conv_pw": "expand_conv", "bn1": "expand_bn", "bn2": "bn"},
    **{"conv_pwl": "project_conv", "bn3": "project_bn"},
}


def timm_layers(state: dict[str, np.ndarray]) -> Callable[[str], str | None]:
    """Keras' names of the modules of a timm EfficientNet; what is no such module stays as it is."""

    def layer_of(module: str) -> str | None:
        if module == "classifier":
            return None
        block = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(.+)", module)
        if block is None:
            return _TIMM.get(module, module)
        stage, repeat, part = int(block[1]), int(block[2]), block[3]
        # Only blocks that expand have a second pointwise convolution; timm counts on from it.
        expands = f"blocks.{stage}.{repeat}.conv_pwl.weight" in state
        found = (_EXPANDED if expands else _SEPARABLE).get(part)
        return f"block{stage + 1}{chr(ord('a') + repeat)}_{found}" if found else module

    return layer_of


_LITE = {"_conv_stem": "stem_conv", "_bn0": "stem_bn", "_conv_head": "top_conv", "_bn1": "top_bn"}
_LITE_BLOCK = {
    **{"_expand_conv": "expand_conv", "_bn0": "expand_bn", "_depthwise_conv": "dwconv"},
    **{"_bn1": "bn", "_project_conv": "project_conv", "_bn2": "project_bn"},
}


def lite_layers(blocks: list[str]) -> Callable[[str], str | None]:
    """Keras' names of the modules of the PyTorch port of an EfficientNet-Lite.

    `blocks` are Keras' names of its blocks in their order, such as ``block1a``.
    """

    def layer_of(module: str) -> str | None:
        if module == "_fc":
            return None
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", module)
        if block is None or int(block[1]) >= len(blocks) or block[2] not in _LITE_BLOCK:
            return _LITE.get(module, module)
        return f"{blocks[int(block[1])]}_{_LITE_BLOCK[block[2]]}"

    return layer_of
