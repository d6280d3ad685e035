"""Zoobot's TensorFlow checkpoints, against features that the real Zoobot computed.

`tests/data/zoobot-*` were written by Zoobot 0.0.4 and 1.0.5 themselves, see
`tests/references/zoobot_checkpoint.py`; there the network is twenty times narrower than B0.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.applications.efficientnet import EfficientNet

from lib.networks import weights
from lib.networks.weights import checkpoint
from lib.networks.weights.tensors import named_variables
from lib.schema import InputError

DATA = Path(__file__).parent / "data"
SCRIPT = Path(__file__).parent / "references" / "zoobot_checkpoint.py"
RELEASES = ("0.0.4", "1.0.5")


def narrow(channels=1):
    """Keras' EfficientNetB0, as narrow as the stored checkpoints."""
    return EfficientNet(
        *(0.05, 1.0, 64),
        depth_divisor=4,
        include_top=False,
        weights=None,
        input_shape=(64, 64, channels),
        name="efficientnetb0",
    )


def relative_error(backbone, reference):
    """Largest deviation from the reference's features, relative to the largest of them."""
    found = backbone(255 * reference["images"], training=False).numpy()
    expected = reference["features"]
    if expected.ndim == 2:  # Zoobot 1.0.x pools inside the encoder
        found = found.mean(axis=(1, 2))
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("release", RELEASES)
def test_features_are_those_of_the_real_zoobot(release):
    reference = np.load(DATA / f"zoobot-{release}" / "features.npz")
    backbone = narrow()
    assert relative_error(backbone, reference) > 0.1, "random weights must not pass"
    path = DATA / f"zoobot-{release}" / "checkpoint"
    receipt = weights.initialise(backbone, f"zoobot-checkpoint:{path}", channels=1)
    assert relative_error(backbone, reference) < 1e-5
    assert receipt["file"] == "checkpoint.data-00000-of-00001" and len(receipt["sha256"]) == 64


def test_the_stored_checkpoints_hold_what_must_be_ignored():
    def keys(release):
        reader = tf.train.load_checkpoint(str(DATA / f"zoobot-{release}" / "checkpoint"))
        return set(reader.get_variable_to_shape_map())

    old, new = keys("0.0.4"), keys("1.0.5")
    assert any("/.OPTIMIZER_SLOT/" in key for key in old) and "step" in {
        key.split("/")[0] for key in old
    }
    assert any(key.startswith("optimizer/_variables/") for key in new)
    head = "layer_with_weights-1/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    stem = "layer_with_weights-0/" * 3 + "kernel/.ATTRIBUTES/VARIABLE_VALUE"
    deeper = "layer_with_weights-0/" * 4 + "kernel/.ATTRIBUTES/VARIABLE_VALUE"
    assert head in old and head in new
    assert (stem in old, deeper in new) == (True, True), "the two releases nest differently"
    assert deeper not in old and stem not in new


def test_folder_and_ending_are_understood():
    folder = DATA / "zoobot-1.0.5"
    receipt = weights.initialise(narrow(), f"zoobot-checkpoint:{folder}", channels=1)
    again = weights.initialise(
        narrow(),
        f"zoobot-checkpoint:{folder}/checkpoint.index",
        channels=1,
    )
    assert again == receipt


def test_a_checkpoint_of_another_network_names_its_first_tensor():
    backbone = weights.build("EfficientNetB0", keras.Input((64, 64, 1)))
    with pytest.raises(InputError) as error:
        weights.initialise(backbone, f"zoobot-checkpoint:{DATA / 'zoobot-1.0.5'}", channels=1)
    assert "): stem_conv/kernel has shape (3, 3, 1, 4), not (3, 3, 1, 32);" in str(error.value)


def test_a_checkpoint_without_an_encoder_names_the_first_tensor(tmp_path):
    tf.train.Checkpoint(head=tf.Variable(1.0, name="dense/kernel")).write(str(tmp_path / "other"))
    with pytest.raises(InputError, match=r"stem_conv/kernel \(3, 3, 1, 4\) is missing"):
        weights.initialise(narrow(), f"zoobot-checkpoint:{tmp_path / 'other'}", channels=1)


def test_a_truncated_or_damaged_checkpoint_is_refused(tmp_path):
    shutil.copytree(DATA / "zoobot-0.0.4", tmp_path / "z")
    data = tmp_path / "z" / "checkpoint.data-00000-of-00001"
    whole = data.read_bytes()
    backbone = narrow()
    before = [w.numpy() for w in backbone.weights]
    key = "layer_with_weights-0/layer_with_weights-0/layer_with_weights-"
    data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="object graph cannot be read, .*Fetch it again"):
        weights.initialise(backbone, f"zoobot-checkpoint:{tmp_path / 'z'}", channels=1)
    # One wrong byte leaves the graph whole, which gives the tensor its name.
    data.write_bytes(whole)
    reader = tf.train.load_checkpoint(str(tmp_path / "z" / "checkpoint"))
    at = whole.index(reader.get_tensor(f"{key}0/kernel/.ATTRIBUTES/VARIABLE_VALUE").tobytes())
    data.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(InputError, match="tensor stem_conv/kernel cannot be read, the file is tr"):
        weights.initialise(backbone, f"zoobot-checkpoint:{tmp_path / 'z'}", channels=1)
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, backbone.weights, strict=True))
    index = tmp_path / "z" / "checkpoint.index"
    data.write_bytes(whole)
    index.write_bytes(index.read_bytes()[:1000])
    with pytest.raises(InputError, match="checkpoint .* cannot be read"):
        weights.initialise(backbone, f"zoobot-checkpoint:{tmp_path / 'z'}", channels=1)
    data.unlink()
    with pytest.raises(InputError, match="needs its data files .* found none. .*make data"):
        weights.initialise(backbone, f"zoobot-checkpoint:{tmp_path / 'z'}", channels=1)
    index.unlink()
    with pytest.raises(InputError, match="no checkpoint at .*z.*0 found.*make data PROFILE=gz2"):
        weights.initialise(backbone, f"zoobot-checkpoint:{tmp_path / 'z'}", channels=1)


GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def write_in_parts(prefix, parts):
    """Write a checkpoint of one data file per part, each a dict of tensors by key."""
    shards = []
    for part in parts:
        shards.append(f"{prefix}.part{len(shards)}")
        names, tensors = list(part), [tf.convert_to_tensor(t) for t in part.values()]
        tf.raw_ops.SaveV2(
            prefix=shards[-1],
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=tensors,
        )
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=shards, destination_prefix=str(prefix))


@pytest.mark.parametrize("number", [2, 3])
def test_a_checkpoint_in_several_data_files(tmp_path, number):
    reader = tf.train.load_checkpoint(str(DATA / "zoobot-0.0.4" / "checkpoint"))
    keys = sorted(set(reader.get_variable_to_shape_map()) - {GRAPH})
    parts = [{GRAPH: reader.get_tensor(GRAPH)}]  # as Zoobot's: the first has the graph alone
    parts += [{k: reader.get_tensor(k) for k in keys[i :: number - 1]} for i in range(number - 1)]
    prefix = tmp_path / "in_progress"
    write_in_parts(prefix, parts)
    source = f"zoobot-checkpoint:{prefix}"
    backbone = narrow()
    receipt = weights.initialise(backbone, source, channels=1)
    assert relative_error(backbone, np.load(DATA / "zoobot-0.0.4" / "features.npz")) < 1e-5
    assert receipt["file"] == f"in_progress.data-{number - 1:05}-of-{number:05}"
    data = sorted(tmp_path.glob("in_progress.data-*"))
    assert len(data) == number
    together = hashlib.sha256(b"".join(p.read_bytes() for p in data)).hexdigest()
    assert receipt["sha256"] == together
    data[-1].unlink()
    with pytest.raises(InputError, match=f"lacks the data file.s. {data[-1].name}. .*make data"):
        weights.initialise(backbone, source, channels=1)
    data[0].with_name("in_progress.data-00000-of-00001").write_bytes(b"of another")
    with pytest.raises(InputError, match="those of several checkpoints"):
        weights.initialise(backbone, source, channels=1)


@pytest.fixture(scope="module")
def real(zoobot_parts, tmp_path_factory):
    """Shapes by key of the paper's real checkpoint, and the object graph of its sister.

    The first needs the index alone; the second comes whole in the first of two data files.
    """
    folder = tmp_path_factory.mktemp("real")
    for name in ("replicated.index", "in_progress.index", "in_progress.data-00000-of-00002"):
        shutil.copy(zoobot_parts / name, folder)
    shapes = tf.train.load_checkpoint(str(folder / "replicated")).get_variable_to_shape_map()
    sister = tf.train.load_checkpoint(str(folder / "in_progress"))
    assert sister.get_variable_to_shape_map() == shapes, "not of the same network"
    return shapes, sister.get_tensor(GRAPH), folder


@pytest.mark.real
def test_every_name_and_shape_of_the_real_checkpoint(real):
    shapes, graph, _ = real
    backbone = weights.build("EfficientNetB0", keras.Input((64, 64, 1)))
    wanted = named_variables(backbone)
    keys = checkpoint._keys(graph)
    assert len(shapes) == 747 and len(wanted) == 309
    assert {n: tuple(v.shape) for n, v in wanted.items()} == {
        n: tuple(shapes[keys[n]]) for n in wanted
    }
    assert sum(int(np.prod(shapes[keys[n]])) for n in wanted) == 4_048_988
    # The paper counts one more: the variable `step`, a scalar, which is not read.
    assert shapes["step/.ATTRIBUTES/VARIABLE_VALUE"] == []
    others = set(keys) - set(wanted)
    assert not [name for name in others if name.startswith(("stem_", "block", "top_"))]


@pytest.mark.real
def test_numbers_under_the_real_names_end_up_in_their_places(real, tmp_path):
    """The loader on the real graph, keys, shapes and division, with other numbers."""
    shapes, graph, _ = real
    rng = np.random.default_rng(1)
    tensors = {k: rng.normal(size=s).astype("float32") for k, s in shapes.items() if k != GRAPH}
    write_in_parts(tmp_path / "in_progress", [{GRAPH: graph}, tensors])
    backbone = weights.build("EfficientNetB0", keras.Input((64, 64, 1)))
    weights.initialise(backbone, f"zoobot-checkpoint:{tmp_path}", channels=1)
    keys = checkpoint._keys(graph)
    for name, variable in named_variables(backbone).items():
        assert np.array_equal(variable.numpy(), tensors[keys[name]]), name


@pytest.mark.real
def test_the_real_checkpoint_without_its_weights_names_the_missing_file(real):
    backbone = weights.build("EfficientNetB0", keras.Input((64, 64, 1)))
    with pytest.raises(InputError, match="lacks the data file.*in_progress.data-00001-of-00002"):
        weights.initialise(backbone, f"zoobot-checkpoint:{real[2] / 'in_progress'}", channels=1)


def _zoobot_python():
    """Interpreter that can run Zoobot's TensorFlow code, or None."""
    if os.environ.get("ZOOBOT_PYTHON"):
        return os.environ["ZOOBOT_PYTHON"]
    needed = ("zoobot", "tf_keras", "keras_applications", "tensorboard")
    return sys.executable if all(importlib.util.find_spec(n) for n in needed) else None


@pytest.mark.slow
@pytest.mark.skipif(
    _zoobot_python() is None,
    reason="needs tf-keras, keras-applications and tensorboard (test extra) or $ZOOBOT_PYTHON",
)
def test_full_size_checkpoint_written_now_by_zoobot(tmp_path):
    subprocess.run(
        [_zoobot_python(), SCRIPT, tmp_path / "z", "--width", "1"], check=True, timeout=300
    )
    backbone = weights.build("EfficientNetB0", keras.Input((64, 64, 1)))
    weights.initialise(backbone, f"zoobot-checkpoint:{tmp_path / 'z'}", channels=1)
    assert relative_error(backbone, np.load(tmp_path / "z" / "features.npz")) < 1e-5
