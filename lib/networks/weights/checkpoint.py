"""TensorFlow checkpoints of Zoobot 0.0.x and 1.0.x, read without legacy Keras.

Such a checkpoint (``<path>.index`` and one or more ``<path>.data-0000k-of-0000n``) stores, beside
the tensors, the graph of the objects they belonged to, with the name of each variable, e.g.
``stem_conv/kernel``. How the models were nested differs between the releases; the names do not, so
the names are used.

References: Walmsley et al. (2022), MNRAS 509, 3966 (GZ DECaLS); Walmsley et al. (2023), JOSS 8,
5312.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np

from lib.networks.weights.tensors import assign, named_variables
from lib.schema import InputError

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"

DOWNLOAD = "The paper's is downloaded by `make data PROFILE=gz2` (data/README.md)."

_RENAMED = {"depthwise_kernel": "kernel"}
"""Variables that Keras 3 calls otherwise."""


def load(backbone: keras.Model, path: str) -> dict:
    """Load the encoder of a Zoobot checkpoint into an EfficientNetB0, in place.

    The head, the optimizer's slots, random generators' states and step counters are not read.
    `path` is the checkpoint without its ending ``.index``, or the folder that holds it.

    Returns
    -------
    dict
        See `lib.networks.weights.initialise`; ``file`` is the last data file, which holds the
        weights, and ``sha256`` that of all data, one after the other.

    Raises
    ------
    InputError
        If there is no checkpoint, a data file is missing, it is truncated or damaged, or it does
        not fit: the message begins with the first tensor that does not.
    """
    prefix = _prefix(Path(path))
    data = _data_files(prefix)
    digest = hashlib.sha256()
    for file in data:
        digest.update(file.read_bytes())
    tensors = read_encoder(prefix, list(named_variables(backbone)))
    stem = assign(backbone, tensors, f"checkpoint {prefix}")
    return {"file": data[-1].name, "sha256": digest.hexdigest(), "stem": stem}


def _data_files(prefix: Path) -> list[Path]:
    """Data files of a checkpoint, all ``n`` that their names tell of."""
    pattern = re.compile(re.escape(prefix.name) + r"\.data-\d{5}-of-(\d{5})")
    counts = {m[1] for p in prefix.parent.iterdir() if (m := pattern.fullmatch(p.name))}
    if len(counts) != 1:
        raise InputError(
            f"checkpoint {prefix} needs its data files {prefix.name}.data-0000k-of-0000n beside "
            f"{prefix.name}.index; found {'those of several checkpoints' if counts else 'none'}. "
            f"{DOWNLOAD}"
        )
    (count,) = counts
    files = [prefix.with_name(f"{prefix.name}.data-{k:05}-of-{count}") for k in range(int(count))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise InputError(
            f"checkpoint {prefix} lacks the data file(s) {', '.join(missing)}. {DOWNLOAD}"
        )
    return files


def read_encoder(prefix: Path, wanted: list[str]) -> dict[str, np.ndarray]:
    """Tensors of the encoder in a checkpoint, by ``<layer>/<variable>``.

    `prefix` is the path without its ending ``.index``, `wanted` the names of the network's tensors
    in its order. Returned are those, and those of other layers of an EfficientNet, for the check of
    names to report. Raises InputError if the checkpoint or one of its tensors cannot be read.
    """
    import tensorflow as tf

    with _reading(f"checkpoint {prefix}"):
        reader = tf.train.load_checkpoint(str(prefix))
        stored = reader.get_variable_to_shape_map()
    if _GRAPH not in stored:
        raise InputError(
            f"checkpoint {prefix} has no object graph, so its {len(stored)} tensors have no names: "
            "use one that Keras' save_weights wrote."
        )
    with _reading(f"checkpoint {prefix}: object graph"):  # at the end of the file: lost by a cut
        keys = _keys(reader.get_tensor(_GRAPH))
    tensors = {}
    others = [n for n in keys if n not in wanted and re.match(r"(stem|block\d+[a-z]|top)_", n)]
    for name in [n for n in wanted if n in keys] + others:
        with _reading(f"checkpoint {prefix}: tensor {name}"):
            tensors[name] = reader.get_tensor(keys[name])
    return tensors


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turn what TensorFlow raises, which is of many kinds, into an InputError."""
    try:
        yield
    except Exception as error:
        raise InputError(
            f"{what} cannot be read, the file is truncated or damaged "
            f"({str(error).partition(chr(10))[0] or type(error).__name__}). Fetch it again."
        ) from error


def _keys(serialised_graph: bytes) -> dict[str, str]:
    """Key in the checkpoint of every model variable, by ``<layer>/<variable>``."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(serialised_graph)
    keys = {}
    for attribute in (a for node in graph.nodes for a in node.attributes):
        path = attribute.checkpoint_key
        if path.startswith("optimizer/") or "/.OPTIMIZER_SLOT/" in path:
            continue
        *_, layer, variable = ["", "", *attribute.full_name.split("/")]
        keys[f"{layer}/{_RENAMED.get(variable, variable)}"] = path
    return keys


def _prefix(path: Path) -> Path:
    """Path of a checkpoint without ``.index``; in a folder it is looked for."""
    indices = [path.with_name(path.name.removesuffix(".index") + ".index")]
    if path.is_dir():
        indices = sorted(path.glob("*.index"))
    if len(indices) != 1 or not indices[0].is_file():
        raise InputError(
            f"no checkpoint at {path}: give the path of its files without the ending .index "
            f"({len(indices) if path.is_dir() else 0} found). {DOWNLOAD}"
        )
    return indices[0].with_suffix("")
