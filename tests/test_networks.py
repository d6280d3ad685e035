"""Tests of lib.networks against the paper's parameter counts and plain Keras Applications."""

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from keras import layers

from lib import networks
from lib.figures import training as figures
from lib.schema import InputError


def network(backbone, units=1024, kind=keras.Model):
    """A backbone with the paper's head, as notebooks 03 and 04 build it."""
    pooled = layers.GlobalAveragePooling2D(name="features")(backbone.output)
    dense = layers.Dense(units, activation="relu", name="dense")(pooled)
    return kind(backbone.input, layers.Dense(6, activation="softmax", name="classes")(dense))


@pytest.fixture(scope="module")
def b0():
    keras.utils.set_random_seed(42)
    backbone, origin = networks.backbone("EfficientNetB0", 32, "grey", "none")
    backbone.trainable = False
    return network(backbone), origin


def test_b0_has_the_published_parameters(b0):
    """5,366,883 are printed; Keras' Normalization has three, Zoobot's step counter was one."""
    model, _ = b0
    counts = networks.parameter_counts(model)
    assert counts["backbone"] == 4_048_991
    assert counts["head"] == 1280 * 1024 + 1024 + 1024 * 6 + 6
    assert counts["total"] == model.count_params() == 5_366_885
    assert counts["trained"] == counts["head"]


def test_v2m_has_the_published_parameters():
    """54,468,282 in all (Table 2); with the printed Dense(1028) it would be 54,473,430."""
    backbone, _ = networks.backbone("EfficientNetV2M", 32, "rgb", "none")
    model = network(backbone, kind=networks.InferenceMode)
    counts = networks.parameter_counts(model)
    assert counts["total"] == 54_468_282
    assert counts["backbone"] == 53_150_388
    assert network(backbone, units=1028).count_params() == 54_473_430
    statistics = sum(int(np.prod(w.shape)) for w in model.weights if "moving_" in w.path)
    assert counts["trained"] == counts["total"] - statistics


@pytest.mark.parametrize(
    ("name", "colour", "channels"),
    [("EfficientNetB0", "grey", 1), ("EfficientNetV2B0", "rgb", 3)],
)
def test_features_are_those_of_keras_applications(name, colour, channels):
    """The same weights and pixels give the features of Keras' own graph, which takes [0, 255]."""
    ours, _ = networks.backbone(name, 32, colour, "none")
    theirs = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(32, 32, channels)
    )
    generator = np.random.default_rng(0)
    theirs.set_weights([generator.uniform(0.1, 0.3, w.shape) for w in theirs.weights])
    ours.set_weights(theirs.get_weights())
    pixels = generator.uniform(0, 255, (2, 32, 32, channels)).astype(np.float32)
    np.testing.assert_allclose(ours(pixels), theirs(pixels), rtol=1e-3)


def test_graph_is_flat_and_ends_as_figure_4(b0):
    model, _ = b0
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)
    tail = model.layers[-4:]
    assert [layer.name for layer in tail] == ["top_activation", "features", "dense", "classes"]
    assert [layer.count_params() for layer in tail] == [0, 0, 1_311_744, 6_150]
    (axis,) = figures.network_tail(tail, "EfficientNetB0", 4_048_991).axes
    drawn = " ".join(text.get_text() for text in axis.texts)
    for part in ("EfficientNetB0", "1 x 1 x 1280", "4,048,991 par", "relu", "1,311,744", "softmax"):
        assert part in drawn
    plt.close("all")


def test_the_receipt_knows_the_weights_at_the_start(b0):
    keras.utils.set_random_seed(42)
    again, origin = networks.backbone("EfficientNetB0", 32, "grey", "none")
    keras.utils.set_random_seed(43)
    other, changed = networks.backbone("EfficientNetB0", 32, "grey", "none")
    assert origin["backbone_sha256"] == b0[1]["backbone_sha256"] == networks.weights_hash(again)
    assert changed["backbone_sha256"] == networks.weights_hash(other) != origin["backbone_sha256"]


def test_a_saved_network_loads_and_gives_the_same(b0, tmp_path):
    model, _ = b0
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    pixels = np.random.default_rng(2).uniform(0, 255, (2, 32, 32, 1)).astype(np.float32)
    np.testing.assert_allclose(loaded(pixels), model(pixels), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "ResNet50"}, "unknown backbone 'ResNet50': choose one of EfficientNetB0"),
        ({"name": "PolarNet"}, "backbone 'PolarNet' sees polar views"),
        ({"colour": "blue"}, "unknown colour 'blue'"),
        ({"crop": 16}, "crop = 16 px: an EfficientNet needs 32 px or more"),
        ({"weights": "best"}, "unknown weights 'best'"),
        ({"name": "EfficientNetV2B0"}, "'EfficientNetV2B0' normalises each .* colour = 'rgb'"),
    ],
)
def test_impossible_backbones_are_refused(change, message):
    fine = {"name": "EfficientNetB0", "crop": 32, "colour": "grey", "weights": "none"}
    with pytest.raises(InputError, match=message):
        networks.backbone(**fine | change)
