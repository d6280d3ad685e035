"""Read the tensors of a PyTorch state dict without PyTorch and without running what is in it.

A ``.bin`` of PyTorch >= 1.6 is a zip archive: ``*/data.pkl`` describes the tensors in pickle's
language, ``*/data/<key>`` holds their numbers. An older ``.pth`` has several pickles, one after the
other, and then the numbers. A pickle can name any function and have it called, so names are looked
up in a list of four harmless ones; a file that asks for another is refused.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.schema import InputError


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Tensors of a PyTorch state dict.

    Parameters
    ----------
    path : path
        Written by ``torch.save(model.state_dict(), path)``, as a zip archive or before these.

    Returns
    -------
    dict of str to array
        float32 and int64 arrays in PyTorch's layout.

    Raises
    ------
    InputError
        If the file is damaged, in another format, or asks for anything but tensors.
    """
    try:
        if not zipfile.is_zipfile(path):
            return _read_legacy(Path(path))
        with zipfile.ZipFile(path) as archive:
            (description,) = [n for n in archive.namelist() if n.endswith("/data.pkl")]
            folder = description.removesuffix("data.pkl")
            if f"{folder}byteorder" in archive.namelist():
                if archive.read(f"{folder}byteorder") != b"little":
                    raise InputError(f"{path} holds big-endian numbers, which are not read here")
            with archive.open(description) as file:
                state = _TensorsOnly(file, archive, folder).load()
    except InputError:
        raise
    except Exception as error:  # a damaged archive or pickle fails in many ways
        raise InputError(
            f"{path} is not a whole PyTorch state dict: {error}. Fetch it again."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, np.ndarray) for v in state.values()):
        raise InputError(f"{path} holds something else than one state dict of tensors")
    return dict(state)


class _TensorsOnly(pickle.Unpickler):
    """Unpickler that knows tensors, their storages and ordered dictionaries, and nothing else."""

    def __init__(self, file, archive: zipfile.ZipFile, folder: str):
        super().__init__(file)
        self._archive, self._folder = archive, folder

    def find_class(self, module, name):
        allowed = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
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
        kind, dtype, key, _location, size = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise InputError(f"the PyTorch file refers to a {kind!r}, not to a storage of numbers")
        numbers = np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), dtype=dtype)
        if len(numbers) != size:
            raise InputError(f"storage {key} holds {len(numbers)} numbers, not {size}")
        return numbers


MAGIC = 0x1950A86A20F9469CFC6C
"""First number of a PyTorch file that is no zip archive."""


def _read_legacy(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a file of PyTorch < 1.6: three facts, the tensors, their keys, their numbers."""
    with open(path, "rb") as file:
        head = [_LegacyTensors(file).load() for _ in range(3)]
        if head[:2] != [MAGIC, 1001] or not head[2].get("little_endian"):
            raise ValueError(f"it begins with {head!r:.80}")
        described = _LegacyTensors(file)
        state = described.load()
        keys = _LegacyTensors(file).load()
        if set(keys) != set(described.storages):
            raise ValueError("tensors and storages do not agree")
        for key in keys:
            dtype, size = described.storages[key]
            if int.from_bytes(file.read(8), "little") != size:
                raise ValueError(f"storage {key} does not hold {size} numbers")
            raw = file.read(size * dtype.itemsize)
            described.storages[key] = np.frombuffer(raw, dtype)
            if len(described.storages[key]) != size:
                raise ValueError(f"storage {key} is cut short")
    if not isinstance(state, dict) or not all(isinstance(v, _Described) for v in state.values()):
        raise InputError(f"{path} holds something else than one state dict of tensors")
    return {
        name: _rebuild_tensor(described.storages[t.key], t.offset, t.size, t.stride)
        for name, t in state.items()
    }


@dataclass(frozen=True)
class _Described:
    """A tensor whose numbers come later in the file."""

    key: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _LegacyTensors(_TensorsOnly):
    """The same for a file whose numbers come after what describes the tensors."""

    def __init__(self, file):
        pickle.Unpickler.__init__(self, file)
        self.storages: dict[str, tuple[np.dtype, int]] = {}

    def find_class(self, module, name):
        if f"{module}.{name}" == "torch._utils._rebuild_tensor_v2":
            return lambda key, offset, size, stride, *_ignored: _Described(
                key, offset, size, stride
            )
        return super().find_class(module, name)

    def persistent_load(self, pid):
        kind, dtype, key, _location, size, view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or view is not None:
            raise InputError(f"the PyTorch file refers to a {kind!r}, not to a storage of numbers")
        self.storages[key] = (dtype, size)
        return key


def _rebuild_tensor(storage, offset, size, stride, *_ignored):
    """View of a storage as an array, as PyTorch describes it, within the storage's bounds."""
    extent = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if offset < 0 or min(stride, default=0) < 0 or extent >= len(storage):
        raise InputError("a tensor of the PyTorch file reaches beyond its storage")
    view = np.lib.stride_tricks.as_strided(
        storage[offset:], size, [step * storage.itemsize for step in stride], writeable=False
    )
    return view.copy()
