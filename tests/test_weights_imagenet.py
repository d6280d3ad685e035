"""ImageNet weights, against keras.applications itself reading the same file.

The real files are downloads of up to 208 MB; a file of random numbers in the same format goes the
same way, with Keras' published hash replaced by its own.
"""

import hashlib

import h5py
import keras
import numpy as np
import pytest
from keras.src.applications import efficientnet, efficientnet_v2
from keras.src.legacy.saving import legacy_h5_format
from references.random_weights import random_images

from lib.networks import weights
from lib.networks.weights import imagenet
from lib.networks.weights.tensors import named_variables
from lib.schema import InputError

SIDE = 64
MEAN = [0.485, 0.456, 0.406]


def shake(network):
    """Random BatchNorm and Normalization statistics, the latter like the real file's."""
    random = np.random.RandomState(5)
    for name, variable in named_variables(network).items():
        if name.endswith(("gamma", "moving_variance")):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        elif name.endswith(("beta", "moving_mean", "bias")):
            variable.assign(0.1 * random.standard_normal(variable.shape))
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            layer.set_weights([np.array(MEAN), np.array(imagenet.STD), np.array(0)])


@pytest.fixture(scope="module", params=["EfficientNetB0", "EfficientNetV2B0"])
def reference(request, tmp_path_factory):
    """Architecture, a file in Keras' format, and what keras.applications makes of it."""
    keras.utils.set_random_seed(4)
    make = getattr(keras.applications, request.param)
    network = make(include_top=False, weights=None, input_shape=(SIDE, SIDE, 3))
    shake(network)
    file = tmp_path_factory.mktemp("keras") / f"{network.name}_notop.h5"
    with h5py.File(file, "w") as content:  # the format of the published files
        legacy_h5_format.save_weights_to_hdf5_group(content, network)
    return request.param, network.name, file


@pytest.fixture
def known(reference, monkeypatch):
    """The reference, its hash taken for the published one, its file for the downloaded one."""
    architecture, name, file = reference
    monkeypatch.setitem(imagenet.MD5, name, hashlib.md5(file.read_bytes()).hexdigest())
    return architecture, name, file


def keras_features(architecture, file, images, monkeypatch):
    """Feature map of keras.applications with weights="imagenet", its download replaced."""
    make = getattr(keras.applications, architecture)
    module = efficientnet_v2 if "V2" in architecture else efficientnet
    monkeypatch.setattr(module.file_utils, "get_file", lambda *a, **k: str(file))
    network = make(include_top=False, weights="imagenet", input_shape=(SIDE, SIDE, 3))
    return network(images, training=False).numpy()


def test_hashes_are_those_of_the_published_files():
    """Two of them typed, as Keras 3 publishes them."""
    assert imagenet.MD5["efficientnetb0"] == "50bc09e76180e00e4465e1a485ddc09d"
    assert imagenet.MD5["efficientnetv2-m"] == "1b8dc055df72dde80d614482840fe342"
    assert len(imagenet.MD5) == 15
    assert list(imagenet.STD) == efficientnet.IMAGENET_STDDEV_RGB


@pytest.mark.parametrize("channels", [3, 1])
def test_features_are_those_of_keras_applications(known, channels, monkeypatch):
    architecture, _, file = known
    source = f"imagenet:{file}"
    variant = weights.variant(source, architecture, channels=channels)
    backbone = weights.build(architecture, keras.Input((SIDE, SIDE, channels)), variant)
    receipt = weights.initialise(backbone, source, channels=channels)
    images = 255 * random_images(6, (2, SIDE, SIDE, channels))
    found = backbone(images, training=False).numpy()
    colour = np.repeat(images, 3, axis=-1) if channels == 1 else images
    expected = keras_features(architecture, file, colour, monkeypatch)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert receipt["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert receipt["variant"]["grey_as_rgb"] is (channels == 1)


def test_only_a_file_of_the_published_hash_is_read(reference, monkeypatch, tmp_path):
    architecture, name, file = reference
    backbone = weights.build(architecture, keras.Input((SIDE, SIDE, 3)))
    with pytest.raises(InputError, match=f"MD5 .* of Keras' {name}_notop.h5: it is damaged"):
        weights.initialise(backbone, f"imagenet:{file}", channels=3)
    with pytest.raises(InputError, match=f"missing: fetch https://.*/{name}_notop.h5"):
        weights.initialise(backbone, f"imagenet:{tmp_path / 'none.h5'}", channels=3)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(imagenet.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=f"{name}_notop.h5 is missing, and offline mode is on"):
        weights.initialise(backbone, "imagenet", channels=3)
    half = tmp_path / "models" / f"{name}_notop.h5"
    half.parent.mkdir()
    half.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="it is damaged or another file"):
        weights.initialise(backbone, "imagenet", channels=3)


def test_cached_file_is_used_and_its_sha256_told(known, monkeypatch, tmp_path):
    architecture, name, file = known
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / file.name).write_bytes(file.read_bytes())
    backbone = weights.build(architecture, keras.Input((SIDE, SIDE, 3)))
    receipt = weights.initialise(backbone, "imagenet", channels=3)
    assert receipt["file"] == f"{name}_notop.h5" and receipt["stem"] == "as stored"
    assert receipt["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_grey_graph_that_cannot_be_exact_is_refused():
    plain = weights.build("EfficientNetB0", keras.Input((SIDE, SIDE, 1)))
    with pytest.raises(InputError, match="copied into three channels"):
        weights.initialise(plain, "imagenet", channels=1)
    assert weights.variant("imagenet", "EfficientNetV2M", channels=1) == weights.PLAIN
