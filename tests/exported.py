"""A training run for the tests of prediction: a small network on galaxies that are easy to tell."""

import keras
import numpy as np
import pandas as pd
from PIL import Image

from lib import images, training
from lib.networks import models
from lib.workflow import receipts

SIZE, CROP, BINNING = 96, 32, 2
CLASSES = ("1", "2", "?")


def backbone(name, pixels, variant=None):
    """Stand-in of a few layers; Normalization as Keras' EfficientNets have it."""
    start = keras.initializers.GlorotUniform(seed=3)
    x = keras.layers.Rescaling(1 / 255)(pixels)
    x = keras.layers.Normalization(axis=-1, mean=[0.4], variance=[0.05])(x)
    x = keras.layers.Conv2D(24, 5, strides=4, kernel_initializer=start, name="stem_conv")(x)
    x = keras.layers.BatchNormalization(name="top_bn")(x)
    x = keras.layers.Activation("swish", name="top_activation")(x)
    return keras.Model(keras.utils.get_source_inputs(pixels), x)


def picture(i: int, rng) -> np.ndarray:
    """Noise with a bar of the class's own brightness, not alike in any two views."""
    pixels = rng.integers(0, 60, (SIZE, SIZE, 3))
    pixels[24:40, 30:80] += 60 * (i % 3 + 1)
    return pixels.astype(np.uint8)


def write_images(folder, n=60) -> pd.DataFrame:
    """Cut-outs, JPEG and PNG by turns, and the table that lists them."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = []
    for i in range(n):
        path = f"images/{i:03d}.{'png' if i % 2 else 'jpg'}"
        Image.fromarray(picture(i, rng)).save(folder / path)
        split = ("train", "train", "validation")[i // 3 % 3]
        label = CLASSES[(i + (i % 7 == 0)) % 3]  # some are labelled wrongly, as by volunteers
        rows.append((587738410863493299 + i, label, split, path))
    return pd.DataFrame(rows, columns=["galaxy_id", "label", "split", "image_path"])


def make_run(folder, data_dir=None, table=None, size=SIZE, crop=CROP, binning=BINNING):
    """Pre-processing and training steps with receipts, as a chain leaves them; their galaxies."""
    data_dir, table = (folder, write_images(folder)) if table is None else (data_dir, table)
    preprocessing, run = folder / "02_preprocessing", folder / "03_train_b0"
    settings = {"crop": crop, "colour": "rgb", "size": size, "binning": binning}
    images.write_cache(table, data_dir, preprocessing, **settings)
    receipts.write(preprocessing, {"step": "02_preprocessing", "parameters": settings})
    grey = images.open_cache(preprocessing, crop, "grey")
    network = models.Network(
        "B0", "EfficientNetB0", crop=crop, colour="grey", trainable="frozen", dense_units=16
    )
    protocol = training.Protocol(epochs=20, learning_rate=1e-2, feature_views=2)
    features = folder / "features"
    result = training.train(
        network, protocol, grey, table, run, features=features, log=lambda line: None
    )
    training.save_run(result, run)
    receipts.write(run, {"step": "03_train_b0", "parameters": {}, "inputs": {}})
    return table
