"""Tests of networks against the paper's parameter counts and plain Keras Applications."""

import keras
import numpy as np
import pytest

from lib.networks import models
from lib.networks.models import Network
from lib.schema import InputError


@pytest.fixture(scope="module")
def b0():
    network = Network("B0", "EfficientNetB0", crop=32, colour="grey", trainable="frozen")
    return models.build(network, n_classes=6, seed=42)


def test_b0_has_the_published_parameters(b0):
    """5,366,883 are printed; Keras' Normalization has three, Zoobot's step counter was one."""
    model, _ = b0
    counts = models.parameter_counts(model)
    assert counts["backbone"] == 4_048_991
    assert counts["head"] == 1280 * 1024 + 1024 + 1024 * 6 + 6
    assert counts["total"] == model.count_params() == 5_366_885
    assert counts["trained"] == counts["head"]


def test_v2m_has_the_published_parameters():
    """54,468,282 in all (Table 2); with the printed Dense(1028) it would be 54,473,430."""
    network = Network("V2M", "EfficientNetV2M", crop=32)
    model, _ = models.build(network, n_classes=6, seed=0)
    counts = models.parameter_counts(model)
    assert counts["total"] == 54_468_282
    assert counts["backbone"] == 53_150_388
    features = model.get_layer(models.FEATURES).output
    wider = keras.Model(
        model.input, models._head(features, Network("B0", "EfficientNetB0", dense_units=1028), 6, 0)
    )
    assert wider.count_params() == 54_473_430
    statistics = sum(int(np.prod(w.shape)) for w in model.weights if "moving_" in w.path)
    assert counts["trained"] == counts["total"] - statistics


@pytest.mark.parametrize(
    ("backbone", "colour", "channels"),
    [("EfficientNetB0", "grey", 1), ("EfficientNetV2B0", "rgb", 3)],
)
def test_features_are_those_of_keras_applications(backbone, colour, channels):
    """The same weights and pixels give the features of Keras' own graph, which takes [0, 255]."""
    network = Network("B0", backbone, crop=32, colour=colour)
    model, _ = models.build(network, n_classes=6, seed=1)
    theirs = getattr(keras.applications, backbone)(
        include_top=False, weights=None, input_shape=(32, 32, channels), pooling="avg"
    )
    body = models.body_of(model)
    generator = np.random.default_rng(0)
    theirs.set_weights([generator.uniform(0.1, 0.3, w.shape) for w in theirs.weights])
    body.set_weights(theirs.get_weights())
    pixels = generator.uniform(0, 255, (2, 32, 32, channels)).astype(np.float32)
    np.testing.assert_allclose(body(pixels * network.input_scale), theirs(pixels), rtol=1e-3)


def test_graph_is_flat_and_ends_as_figure_4(b0):
    model, _ = b0
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)
    tail = models.tail(model)
    assert list(tail["layer"]) == ["top_activation", "features", "dense", "classes"]
    assert list(tail["type"]) == ["Activation", "GlobalAveragePooling2D", "Dense", "Dense"]
    assert list(tail["activation"])[2:] == ["relu", "softmax"]
    assert list(tail["output_shape"]) == ["1 x 1 x 1280", "1280", "1024", "6"]
    assert list(tail["parameters"]) == [0, 0, 1_311_744, 6_150]


def test_head_and_body_are_the_model_in_two_parts(b0):
    model, _ = b0
    pixels = np.random.default_rng(1).uniform(0, 1, (3, 32, 32, 1)).astype(np.float32)
    features = models.body_of(model)(pixels)
    assert features.shape == (3, 1280)
    np.testing.assert_allclose(models.head_of(model)(features), model(pixels), atol=1e-6)
    np.testing.assert_allclose(np.sum(model(pixels), axis=1), 1, rtol=1e-6)


def test_half_precision_spares_the_pixels_and_the_probabilities(b0):
    network = Network("B0", "EfficientNetB0", crop=32, colour="grey")
    model, _ = models.build(network, n_classes=6, seed=42)
    pixels = np.random.default_rng(1).uniform(0, 1, (3, 32, 32, 1)).astype(np.float32)
    whole = model(pixels).numpy()
    models.set_precision(model, "mixed_bfloat16")
    computes = {layer.name: layer.compute_dtype for layer in model.layers}
    assert {w.dtype for w in model.trainable_weights} == {"float32"}
    for name in ("undo_scale", "rescaling", "normalization", "features", "classes"):
        assert computes.pop(next(n for n in computes if n.startswith(name))) == "float32"
    del computes["pixels"]
    assert set(computes.values()) <= {"bfloat16", "float32"}
    assert computes["stem_conv"] == computes["block5a_dwconv"] == computes["dense"] == "bfloat16"
    half = model(pixels).numpy()
    assert half.dtype == np.float32 and 0 < np.abs(half - whole).max() < 0.02
    models.set_precision(model, "float32")
    np.testing.assert_allclose(model(pixels), whole, atol=1e-6)


def test_same_seed_same_weights(b0):
    model, receipt = b0
    network = Network("B0", "EfficientNetB0", crop=32, colour="grey", trainable="frozen")
    again, again_receipt = models.build(network, n_classes=6, seed=42)
    other, other_receipt = models.build(network, n_classes=6, seed=43)
    assert models.weights_hash(model) == models.weights_hash(again)
    assert receipt["backbone_sha256"] == again_receipt["backbone_sha256"]
    assert receipt["backbone_sha256"] != other_receipt["backbone_sha256"]
    kernels = [m.get_layer("dense").kernel.numpy() for m in (model, other)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0
    # Glorot & Bengio (2010): uniform within sqrt(6 / (fan in + fan out))
    limit = np.sqrt(6 / (1280 + 1024))
    assert 0.99 * limit < np.abs(kernels[0]).max() <= np.float32(limit)


def test_a_saved_network_loads_without_the_project(b0, tmp_path):
    model, _ = b0
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    pixels = np.random.default_rng(2).uniform(0, 1, (2, 32, 32, 1)).astype(np.float32)
    np.testing.assert_allclose(loaded(pixels), model(pixels), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "ResNet50"}, "unknown backbone 'ResNet50': choose one of EfficientNetB0"),
        ({"colour": "blue"}, "unknown colour 'blue'"),
        ({"trainable": "some"}, "trainable = 'some': choose frozen or all"),
        ({"crop": 16}, "crop = 16 px: an EfficientNet needs 32 px or more"),
        ({"dense_units": 0}, "dense_units = 0"),
    ],
)
def test_impossible_networks_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        Network(**{"role": "B0", "backbone": "EfficientNetB0", **change})
