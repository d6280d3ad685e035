"""Export a network to ONNX and run it: ONNX Runtime on a CPU, TensorFlow on a GPU."""

from __future__ import annotations

import importlib
import os
import warnings
from pathlib import Path

import numpy as np

from lib.images import dihedral
from lib.paths import atomic
from lib.workflow import receipts


class OnnxEngine:
    """A package's ``model.onnx`` on the CPU, on the thread that calls it.

    Several threads may call it at a time. That keeps cores busier than dividing each operation
    among them, and no thread waits for another.
    """

    batch = 4
    """Images that are best given at a time."""

    def __init__(self, path: str | Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (n, features) and probabilities (n, classes) of pixels as the card says."""
        return tuple(self.session.run(["features", "probabilities"], {"pixels": pixels}))


class KerasEngine:
    """A package's ``model.keras`` by TensorFlow, for a GPU."""

    batch = 128

    def __init__(self, path: str | Path):
        import keras
        import tensorflow as tf

        from lib import networks

        model = load_keras(path)
        network = keras.Model(
            model.input, [model.get_layer(networks.FEATURES).output, model.output]
        )
        self.forward = tf.function(
            lambda pixels: network(pixels, training=False), reduce_retracing=True
        )

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `OnnxEngine`."""
        features, probabilities = self.forward(pixels)
        return features.numpy(), probabilities.numpy()


def load_keras(path: str | Path):
    """A trained network, with the layers of `lib.networks` that it may have (keras.Model)."""
    import keras

    # Keras knows a layer when its module has been imported.
    for module in ("amplitudes", "polar", "polarnet"):
        importlib.import_module(f"lib.networks.{module}")
    return keras.models.load_model(path, compile=False, safe_mode=True)


def write_onnx(trained: str | Path, path: str | Path) -> None:
    """Write a trained network as ONNX.

    Parameters
    ----------
    trained : path
        ``model.keras``: pixels, float32 (n, crop, crop, channels) -> probabilities.
    path : path
        File to write: the same pixels -> ``features`` (n, features) and ``probabilities``
        (n, classes), float32. It appears when it is whole.
    """
    import keras

    from lib import networks

    model = load_keras(trained)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            # tf2onnx would make inputs of what the layer keeps as TensorFlow's constants.
            layer.mean, layer.variance = np.array(layer.mean), np.array(layer.variance)
    outputs = {"features": model.get_layer(networks.FEATURES).output, "probabilities": model.output}
    network = keras.Model(model.input, outputs)
    network(np.zeros((1, *model.input.shape[1:]), np.float32))  # Keras exports what has been called
    with atomic(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Keras mending tf2onnx for NumPy 2
        network.export(temporary, format="onnx", verbose=False)


def open_engine(onnx: Path, keras: Path) -> OnnxEngine | KerasEngine:
    """TensorFlow where there is a GPU that this process may use, else ONNX Runtime."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    on_gpu = not hidden and keras.is_file() and receipts.machine()["gpus"]
    return KerasEngine(keras) if on_gpu else OnnxEngine(onnx)


def averaged(engine, pixels: np.ndarray, views: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of the images, and probabilities averaged over 1 or 8 views of them."""
    features, total = engine.run(pixels)
    total = total.astype(np.float64)
    for view in range(1, views):
        total += engine.run(dihedral(pixels, view))[1]
    return features, total / views
