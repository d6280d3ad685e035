"""Weights: names of sources, graphs, strict loading, bundled files."""

import hashlib
import json

import keras
import numpy as np
import pytest
import safetensors.numpy
from conftest import ROOT
from references.random_weights import random_images
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lib.networks import weights
from lib.networks.polar_features import feature_network
from lib.networks.weights import tensors
from lib.networks.weights.graph import BackboneVariant
from lib.schema import ARM_CLASSES, InputError
from lib.surveys.mock.galaxies import draw_galaxies
from lib.surveys.mock.render import render

SYMMETRIC = BackboneVariant(padding="symmetric", bn_epsilon=1e-5)


@pytest.fixture(scope="module")
def grey_b0():
    """Plain one-channel B0 with BatchNorm statistics off their defaults."""
    keras.utils.set_random_seed(3)
    backbone = weights.build("EfficientNetB0", keras.Input((64, 64, 1)))
    shake(backbone)
    return backbone


def shake(backbone):
    """Random BatchNorm parameters, the same for the same graph."""
    random = np.random.RandomState(5)
    for name, variable in tensors.named_variables(backbone).items():
        if name.endswith(("gamma", "moving_variance")):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        elif name.endswith(("beta", "moving_mean", "bias")):
            variable.assign(0.1 * random.standard_normal(variable.shape))


def features(backbone, images):
    """Feature map for images in [0, 1]."""
    return backbone(255 * images, training=False).numpy()


def distance(found, expected):
    """Largest deviation, relative to the largest feature."""
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("vgg", "unknown weights 'vgg': choose one of none, imagenet, zoobot-hub"),
        ("mock:here", "takes no path"),
        ("imagenet:", "a path must follow 'imagenet:'"),
        ("zoobot-checkpoint", "needs the path of the checkpoint"),
    ],
)
def test_a_source_that_is_not_one_is_refused(grey_b0, source, message):
    with pytest.raises(InputError, match=message):
        weights.initialise(grey_b0, source, channels=1)
    with pytest.raises(InputError, match=message):
        weights.variant(source, "EfficientNetB0", channels=1)


def test_none_changes_nothing_and_says_so(grey_b0):
    before = [w.numpy() for w in grey_b0.weights]
    receipt = weights.initialise(grey_b0, "none", channels=1)
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, grey_b0.weights, strict=True))
    assert json.loads(json.dumps(receipt))["stem"] == "random"
    with pytest.raises(InputError, match="channels = 3, but the backbone efficientnetb0 takes"):
        weights.initialise(grey_b0, "none", channels=3)


def test_symmetric_graph_has_the_layers_of_the_plain_one(grey_b0):
    varied = weights.build("EfficientNetB0", keras.Input((64, 64, 1)), SYMMETRIC)
    assert varied.count_params() == grey_b0.count_params() == 4_048_991
    names = [layer.name for layer in varied.layers if layer.weights][1:]
    assert names == [layer.name for layer in grey_b0.layers if layer.weights][1:]
    assert varied.layers[-1].name == "top_activation"
    assert not any(isinstance(layer, keras.Model) for layer in varied.layers), "flat"
    padding = {
        x.name: x.padding for x in varied.layers if hasattr(x, "padding") and "pad" in x.name
    }
    # As PyTorch pads: half the kernel on every side, kernels of 3, 3, 5, 3 and 5 pixels.
    assert [p[0] for p in padding.values()] == [(1, 1), (1, 1), (2, 2), (1, 1), (2, 2)]
    epsilons = {x.epsilon for x in varied.layers if isinstance(x, keras.layers.BatchNormalization)}
    assert epsilons == {1e-5}


def test_varied_graph_takes_layers_before_it_and_survives_saving(tmp_path):
    pixels = keras.Input((64, 64, 1), name="pixels")
    images = keras.layers.Rescaling(255.0)(pixels)
    variant = BackboneVariant(padding="symmetric", bn_epsilon=1e-5, grey_as_rgb=True)
    model = weights.build("EfficientNetB0", images, variant)
    shake(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = random_images(1, (1, 64, 64, 1))
    np.testing.assert_array_equal(loaded(x).numpy(), model(x).numpy())
    assert loaded.input_shape == (None, 64, 64, 1)


def test_build_refuses_what_is_no_backbone():
    with pytest.raises(InputError, match="unknown backbone 'ResNet50'"):
        weights.build("ResNet50", keras.Input((64, 64, 1)))
    with pytest.raises(InputError, match="2 channels"):
        weights.build("EfficientNetB0", keras.Input((64, 64, 2)))


def test_assign_lists_every_problem_and_changes_nothing(grey_b0):
    given = {n: v.numpy() for n, v in tensors.named_variables(grey_b0).items()}
    before = {n: v.copy() for n, v in given.items()}
    del given["stem_bn/gamma"]
    given["block1a_bn/beta"] = np.zeros(7, "float32")
    given["top_bn/gamma"] = np.full(1280, np.nan, "float32")
    given["block9a_bn/beta"] = np.zeros(7, "float32")
    given["stem_conv/kernel"] = given["stem_conv/kernel"] + 1
    with pytest.raises(InputError) as error:
        tensors.assign(grey_b0, given, "a file")
    message = str(error.value)
    assert "(1 channel(s)): stem_bn/gamma (32,) is missing; block1a_bn/beta has shape" in message
    assert "(7,), not (32,)" in message
    assert "top_bn/gamma holds values that are not finite" in message
    assert "block9a_bn/beta is not in the network" in message
    for name, variable in tensors.named_variables(grey_b0).items():
        np.testing.assert_array_equal(variable.numpy(), before[name])


def test_bundled_weights_come_back_in_half_precision(grey_b0, tmp_path):
    file, card = weights.save_bundled(grey_b0, {"seed": 3, "scores": {"f1": 0.5}}, tmp_path)
    assert file.name == "efficientnetb0-1ch.safetensors"
    assert file.stat().st_size < 2 * 4_048_988 + 40_000, "two bytes a number"
    other = weights.build("EfficientNetB0", keras.Input((64, 64, 1)))
    receipt = weights.load_bundled(other, tmp_path)
    mine, theirs = tensors.named_variables(other), tensors.named_variables(grey_b0)
    for name, variable in theirs.items():
        # float16 has 11 significant bits; below 6e-5 its steps are 6e-8 wide.
        np.testing.assert_allclose(mine[name], variable, rtol=2**-11, atol=3e-8, err_msg=name)
    images = random_images(2, (2, 64, 64, 1))
    assert distance(features(other, images), features(grey_b0, images)) < 5e-3
    written = json.loads(card.read_text())
    assert written["seed"] == 3 and written["scores"] == {"f1": 0.5}
    assert written["parameters"] == 4_048_988 and written["channels"] == 1
    assert receipt["sha256"] == written["sha256"] and receipt["card"] == written


def test_weights_mock_reads_the_project_folder(grey_b0, tmp_path, monkeypatch):
    monkeypatch.setenv("SPIRAL_ARMS_ROOT", str(tmp_path))
    with pytest.raises(InputError, match="efficientnetb0-1ch.safetensors is missing.*make weights"):
        weights.initialise(grey_b0, "mock", channels=1)
    weights.save_bundled(grey_b0, {})
    receipt = weights.initialise(grey_b0, "mock", channels=1)
    assert receipt["source"] == "mock" and receipt["stem"] == "as stored"
    assert receipt["variant"] == {"padding": "same", "bn_epsilon": 1e-3, "grey_as_rgb": False}
    symmetric = weights.build("EfficientNetB0", keras.Input((64, 64, 1)), SYMMETRIC)
    with pytest.raises(InputError, match="layer stem_conv_pad of efficientnetb0 does not fit"):
        weights.initialise(symmetric, "mock", channels=1)


def test_a_changed_bundled_file_is_refused(grey_b0, tmp_path):
    file, card = weights.save_bundled(grey_b0, {}, tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match="has SHA-256 .* damaged or another"):
        weights.load_bundled(grey_b0, tmp_path)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="has SHA-256"):
        weights.load_bundled(grey_b0, tmp_path)
    file.write_bytes(whole)
    card.write_text("{}")
    with pytest.raises(InputError, match="is not a card with a sha256"):
        weights.load_bundled(grey_b0, tmp_path)
    card.unlink()
    with pytest.raises(InputError, match="json is missing"):
        weights.load_bundled(grey_b0, tmp_path)


def test_values_beyond_half_precision_are_refused(grey_b0, tmp_path):
    variable = tensors.named_variables(grey_b0)["block3a_bn/moving_variance"]
    before = variable.numpy()
    variable.assign(np.full(variable.shape, 1e6))
    try:
        with pytest.raises(InputError, match="block3a_bn/moving_variance .* reaches 1e.06"):
            weights.save_bundled(grey_b0, {}, tmp_path)
    finally:
        variable.assign(before)
    assert not list(tmp_path.iterdir())


def test_bundled_file_is_read_without_pickle(grey_b0, tmp_path):
    file, _ = weights.save_bundled(grey_b0, {}, tmp_path)
    stored = safetensors.numpy.load_file(file)
    assert {t.dtype for t in stored.values()} == {np.dtype("float16")}


def test_shipped_files_are_those_of_their_cards_and_small():
    folder = ROOT / "data" / "weights"
    files = sorted(folder.glob("*.safetensors"))
    assert files and sum(p.stat().st_size for p in folder.iterdir()) < 40e6
    for file in files:
        card = json.loads(file.with_suffix(".json").read_text())
        assert card["file"] == file.name
        assert card["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        stored = safetensors.numpy.load_file(file)
        assert card["parameters"] == sum(tensor.size for tensor in stored.values())
        assert all(np.isfinite(tensor).all() for tensor in stored.values())


def test_shipped_weights_know_arms_that_random_ones_do_not():
    """A linear probe on 120 simulated galaxies of one, two or three clear arms."""
    shares = {c: float(c in "123") for c in ARM_CLASSES}
    truth = draw_galaxies(np.random.default_rng(4), 120, spiral_fraction=1, frequencies=shares)
    truth = truth.assign(arm_contrast=1.2, inclination=20.0, flocculence=0.1)
    # A pixel of a Galaxy Zoo 2 cut-out is 0.02 R90; these are averages of 2 x 2 of them.
    pixels = np.stack([render(g, 72, field=72 * 2 * 0.02) for g in truth.itertuples(index=False)])
    accuracy = {}
    for source in ("mock", "none"):
        body, _ = feature_network("PolarNet", source, seed=1)
        found = body.predict(pixels, verbose=0)
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        accuracy[source] = cross_val_score(probe, found, truth["n_arms"], cv=4).mean()
    assert accuracy["mock"] > 0.75
    assert accuracy["mock"] > accuracy["none"] + 0.1
