"""Keras' predict as anyone would call it, in a process that knows nothing of ``lib``.

The process opens an exported network and waits: for each line that it reads, it predicts the images
once, from JPEG to probabilities, and prints the wall and processor seconds that this took. What
TensorFlow convolves with is chosen as it is imported, so that each choice needs its own process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
CHOICES = {"TensorFlow's default": None, "with oneDNN": "1", "without oneDNN": "0"}
"""Values of the environment's variable; none leaves it to TensorFlow, which looks at the CPU."""


class Process:
    """Keras in a process of its own.

    Parameters
    ----------
    model : path
        ``model.keras`` of a package.
    files : list of path
        JPEG images.
    settings : dict
        ``preprocessing`` of the package's card; its binning is 1.
    onednn : str or None
        Value of `ONEDNN`.
    """

    def __init__(self, model: Path, files: list[Path], settings: dict, onednn: str | None):
        environment = {name: value for name, value in os.environ.items() if name != ONEDNN}
        if onednn is not None:
            environment[ONEDNN] = onednn
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        task = {"model": str(model), "files": [str(file) for file in files], **settings}
        self._say(json.dumps(task))
        self.start_up = self._hear()

    def predict(self) -> tuple[float, float]:
        """Predict all images once: wall and processor seconds."""
        self._say("again")
        return self._hear()

    def _say(self, line: str) -> None:
        print(line, file=self.process.stdin, flush=True)

    def _hear(self) -> tuple[float, float]:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the process of Keras' predict ended: see its message above")
        return tuple(json.loads(line))

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_) -> None:
        self.process.communicate()


def keras_input(files: list[str], settings: dict):
    """Batches of 64 images as tf.data reads them: in parallel, and ahead of the network."""
    import tensorflow as tf

    crop, first = settings["crop"], (settings["size"] - settings["crop"]) // 2

    def read(path):
        image = tf.io.decode_image(tf.io.read_file(path), 3, expand_animations=False)
        grey = tf.reduce_mean(tf.cast(image, tf.float32), axis=-1, keepdims=True)
        return tf.image.crop_to_bounding_box(grey, first, first, crop, crop)

    data = tf.data.Dataset.from_tensor_slices(files)
    return data.map(read, tf.data.AUTOTUNE).batch(64).prefetch(tf.data.AUTOTUNE)


def main() -> None:
    """Answer each line with the seconds of a prediction; the first one says of what."""
    settings = json.loads(sys.stdin.readline())
    wall, processor = time.perf_counter(), time.process_time()

    def answer() -> None:
        spent = time.perf_counter() - wall, time.process_time() - processor
        print(json.dumps(spent), flush=True)

    import keras
    import numpy as np

    model = keras.models.load_model(settings["model"], compile=False)
    model.predict(np.zeros((64, *model.input.shape[1:]), np.float32), verbose=0)
    answer()
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        model.predict(keras_input(settings["files"], settings), verbose=0)
        answer()


if __name__ == "__main__":
    main()
