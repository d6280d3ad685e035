"""Write a small checkpoint with the real Zoobot package, and the features it gives.

Not a test: `tests/data/zoobot-*` were made by it, in an environment of its own, because Zoobot's
TensorFlow code runs only with legacy Keras::

    pip install tensorflow tf-keras keras-applications tensorboard
    pip install zoobot==1.0.5 galaxy-datasets==0.0.18
    python tests/references/zoobot_checkpoint.py tests/data/zoobot-1.0.5

With Zoobot 0.0.4 (its source on the path) it writes the older nesting. ``--width 1`` gives the
full EfficientNetB0; the default is the same network, twenty times narrower.
"""

import argparse
import os
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
from zoobot.tensorflow.estimators import define_model, efficientnet_standard


def main(folder: Path, width: float, size: int, channels: int) -> None:
    """Build, give random weights, train one step, save, and keep the features of two images."""
    rng = np.random.default_rng(20)
    divisor = 8 if width == 1 else 4

    def get_effnet(**options):
        return efficientnet_standard.EfficientNet(
            width, 1.0, size, depth_divisor=divisor, model_name="efficientnet-b0", **options
        )

    options = dict(output_dim=34, input_size=size, channels=channels, get_effnet=get_effnet)
    if hasattr(define_model, "add_augmentation_layers"):  # Zoobot 0.0.x
        model = define_model.get_model(**options, crop_size=size, resize_size=size)
        # The optimizer of that time, whose slots are stored beside the variables.
        optimizer = tf.keras.optimizers.legacy.Adam()
    else:
        model = define_model.get_model(**options)
        optimizer = tf.keras.optimizers.Adam()
    model.compile(optimizer=optimizer, loss="mse")
    images = rng.random((2, size, size, channels), dtype="float32")
    # One step fills the optimizer's slots, which a checkpoint of a trained model has.
    model.fit(images, np.ones((2, 34), "float32"), verbose=0)
    encoder = find_encoder(model)
    for weight in encoder.weights:
        value = rng.normal(0, 1, weight.shape)
        if weight.name.endswith(("gamma:0", "moving_variance:0")):
            value = rng.uniform(0.5, 1.5, weight.shape)
        elif "kernel" in weight.name:
            value *= np.sqrt(2 / np.prod(weight.shape[:3]))
        else:
            value *= 0.1
        weight.assign(value)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_weights(str(folder / "checkpoint"))
    features = encoder(images, training=False).numpy()
    np.savez_compressed(folder / "features.npz", images=images, features=features)


def find_encoder(model):
    """The EfficientNet inside Zoobot's nested model."""
    for layer in model.layers:
        if layer.name.startswith("efficientnet"):
            return layer
        if hasattr(layer, "layers"):
            return find_encoder(layer)
    raise LookupError("no EfficientNet in the model")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=float, default=0.05)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--channels", type=int, default=1)
    arguments = parser.parse_args()
    main(arguments.folder, arguments.width, arguments.size, arguments.channels)
