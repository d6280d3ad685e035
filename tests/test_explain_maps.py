"""Attribution maps against cases whose answer is known exactly, and against tf-keras-vis."""

from __future__ import annotations

from types import FunctionType, SimpleNamespace

import jupytext
import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import ROOT
from skimage.transform import resize
from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
from tf_keras_vis.saliency import Saliency
from tf_keras_vis.utils.scores import CategoricalScore

from lib.explain import maps, pixels, subject
from lib.explain.cache import meaning
from lib.explain.maps import Explainer
from lib.schema import InputError
from lib.workflow.code import closure


def methods_of(notebook: str) -> dict:
    """Names that the cells of a notebook define in which its methods stand."""
    names = {"np": np, "tf": tf, "maps": maps, "seed": 42}
    names |= {"GradcamPlusPlus": GradcamPlusPlus, "Saliency": Saliency}
    cells = jupytext.read(ROOT / "notebooks" / f"{notebook}.py").cells
    for cell in cells:
        if "def grad_cam_plus_plus" in cell.source or "def smooth_grad" in cell.source:
            exec(cell.source, names)
    return names


NAMES = methods_of("05_explainability")
METHODS = NAMES["methods"]

SIZE = 32


def classifier(kernel: np.ndarray, dense: np.ndarray) -> keras.Model:
    """Conv (ReLU) - global mean - Dense (softmax), all weights given."""
    image = keras.Input((SIZE, SIZE, kernel.shape[2]))
    features = keras.layers.Conv2D(
        kernel.shape[3], kernel.shape[:2], padding="same", activation="relu", name="top_activation"
    )(image)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    model = keras.Model(
        image, keras.layers.Dense(dense.shape[1], activation="softmax", name="out")(pooled)
    )
    model.get_layer("top_activation").set_weights([kernel, np.zeros(kernel.shape[3])])
    model.get_layer("out").set_weights([dense, np.zeros(dense.shape[1])])
    return model


def symmetric_model() -> keras.Model:
    """A network whose kernel looks the same after a quarter turn."""
    kernel = np.array([[0.5, 1, 0.5], [1, -2.0, 1], [0.5, 1, 0.5]])
    return classifier(
        np.stack([kernel, np.abs(kernel)], axis=-1)[:, :, None], np.array([[1.0, -1], [0.5, 0.2]])
    )


def linear_model(weights: np.ndarray) -> keras.Model:
    """Logit of class 1 = sum of weights x pixels; class 0 always 0."""
    image = keras.Input((SIZE, SIZE, 1))
    same = keras.layers.Activation("linear", name="top_activation")(image)
    output = keras.layers.Dense(2, activation="softmax", use_bias=False, name="out")(
        keras.layers.Flatten()(same)
    )
    model = keras.Model(image, output)
    model.get_layer("out").set_weights([np.stack([0 * weights.ravel(), weights.ravel()], axis=1)])
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    values = np.random.default_rng(1).random((3, SIZE, SIZE, 1)).astype("float32")
    values[:, :2] = values[:, -2:] = values[:, :, :2] = values[:, :, -2:] = 0.1
    return values


def test_linear_model_has_its_known_attribution(images):
    weights = np.random.default_rng(2).normal(size=(SIZE, SIZE)).astype("float32")
    explainer, ones = Explainer(linear_model(weights)), np.ones(3, int)
    known = {
        "SmoothGrad": np.abs(weights)[None].repeat(3, 0),
        "integrated gradients": weights * (images[..., 0] - 0.1),
    }
    for name, expected in known.items():
        np.testing.assert_allclose(explainer.maps(METHODS[name], images, ones), expected, atol=1e-5)


def test_occlusion_is_the_fall_of_the_logit(images, monkeypatch):
    monkeypatch.setattr(maps, "CELLS", 8)
    weights = np.random.default_rng(2).normal(size=(SIZE, SIZE)).astype("float32")
    falls = Explainer(linear_model(weights)).maps(maps.occlusion, images, np.ones(3, int))
    squares = [slice(max(0, 4 * k - 2), 4 * k + 6) for k in range(8)]
    lost = weights * (images[..., 0] - 0.1)
    sums = [[[w[r, c].sum() for c in squares] for r in squares] for w in lost]
    expected = [resize(np.array(s), (SIZE, SIZE), order=1, mode="edge") for s in sums]
    np.testing.assert_allclose(falls, expected, atol=1e-4)


def test_integrated_gradients_are_complete(images, monkeypatch):
    monkeypatch.setattr(maps, "STEPS", 64)
    explainer, targets = Explainer(symmetric_model()), np.array([0, 1, 0])
    sums = explainer.maps(maps.integrated_gradients, images, targets).sum(axis=(1, 2))
    sky = np.broadcast_to(pixels.sky_level(images), images.shape).astype("float32")
    rise = explainer.network(images).numpy() - explainer.network(sky).numpy()
    np.testing.assert_allclose(sums, rise[np.arange(3), targets], rtol=0.02, atol=1e-4)


def test_planted_patch_is_found_by_every_method(monkeypatch):
    monkeypatch.setattr(maps, "CELLS", 8)
    # The class is decided by how much of a horizontal edge there is, and only one patch has any.
    kernel = np.array([1.0, -1.0]).reshape(2, 1, 1, 1)
    model = classifier(kernel, np.array([[0.0, 50.0]]))
    image = np.zeros((1, SIZE, SIZE, 1), "float32")
    image[0, 8:12:2, 20:26] = 1.0
    # A threshold, so that SmoothGrad's noise alone does not look like an edge.
    model.get_layer("top_activation").set_weights([kernel, np.array([-0.9])])
    for name, method in METHODS.items():
        found = Explainer(model).maps(method, image, np.array([1]))[0].clip(0)
        assert found[4:16, 16:30].sum() > 0.9 * found.sum() > 0, name


def test_constant_model_gives_empty_maps(images):
    explainer = Explainer(classifier(np.zeros((3, 3, 1, 2)), np.zeros((2, 2))))
    for method in METHODS.values():
        np.testing.assert_array_equal(explainer.maps(method, images, np.zeros(3, int)), 0)


def test_grad_cam_equals_tf_keras_vis_but_for_the_scale(images):
    explainer = Explainer(symmetric_model())
    ours = explainer.maps(METHODS["Grad-CAM++"], images[:1], np.array([1]))[0]
    theirs = GradcamPlusPlus(explainer.network, clone=False)(
        CategoricalScore([1]), images[:1], normalize_cam=False
    )
    np.testing.assert_allclose(ours / ours.max(), theirs[0] / theirs.max(), rtol=1e-3, atol=1e-4)


def test_smooth_grad_equals_tf_keras_vis(images, monkeypatch):
    explainer = Explainer(symmetric_model())
    ours = explainer.maps(METHODS["SmoothGrad"], images[:1], np.array([1]))
    noise = np.random.default_rng(42)
    monkeypatch.setattr(np.random, "normal", lambda _, s, n: s * noise.normal(size=n))
    theirs = Saliency(explainer.network, clone=False)(
        CategoricalScore([1]), images[:1], smooth_samples=20, smooth_noise=0.20, normalize_map=False
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "SmoothGrad"])
def test_maps_rotate_with_the_image(name, images):
    explainer, targets = Explainer(symmetric_model()), np.array([0, 1, 0])
    upright = explainer.maps(METHODS[name], images, targets)
    turned = explainer.maps(METHODS[name], np.rot90(images, axes=(1, 2)).copy(), targets)
    np.testing.assert_allclose(turned, np.rot90(upright, axes=(1, 2)), atol=1e-5)
    assert np.abs(turned - upright).max() > 1e-4


def test_large_logits_do_not_overflow(images):
    model = symmetric_model()
    model.get_layer("out").set_weights([w + 1e3 for w in model.get_layer("out").get_weights()])
    made = Explainer(model).maps(METHODS["Grad-CAM++"], images, np.array([0, 1, 0]))
    assert np.isfinite(made).all() and made.max() > 0


def test_networks_and_maps_that_cannot_be_are_refused(images):
    backbone = keras.Sequential(
        [keras.Input((SIZE, SIZE, 1)), keras.layers.Conv2D(2, 3, name="top_activation")],
        name="backbone",
    )
    image = keras.Input((SIZE, SIZE, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(backbone(image))
    with pytest.raises(InputError, match="nested model 'backbone'.*one flat graph"):
        Explainer(keras.Model(image, keras.layers.Dense(2, activation="softmax")(pooled)))
    output = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(image))
    with pytest.raises(InputError, match="no layer 'top_activation'"):
        Explainer(keras.Model(image, output))
    model = symmetric_model()
    model.layers[-1].activation = keras.activations.linear
    with pytest.raises(InputError, match="not a softmax"):
        Explainer(model)
    overflowing = Explainer(classifier(np.full((3, 3, 1, 2), 3e38), np.full((2, 2), 3e38)))
    for method in METHODS.values():
        with pytest.raises(InputError, match="NaN or infinity.*recalibrate"):
            overflowing.maps(method, images, np.zeros(3, int))


@pytest.fixture
def opened(images, tmp_path) -> subject.Subject:
    """A network on three galaxies with 18-digit ids, without a run's files."""
    model = symmetric_model()
    ids = 587722981742084144 + np.arange(3)
    predictions = pd.DataFrame({"galaxy_id": ids, "label": ["1", "1", "2"]})
    predictions = predictions.assign(predicted=["1", "2", "2"], p_1=[0.6, 0.7, 0.2], p_2=0.3)
    run = SimpleNamespace(model=model, classes=("1", "2"), predictions=predictions)
    run.settings = {"weights_sha256": "a"}
    cache = SimpleNamespace(
        arrays=(255 * images).astype("uint8"), colour="grey", rows=pd.Index(ids).get_indexer
    )
    return subject.Subject("B0", run, cache, cache, Explainer(model), tmp_path)


def test_maps_are_read_back_and_keyed_by_method_weights_and_image(opened, capsys):
    def method(network, image, target):
        return scale * image[..., 0]

    def made() -> str:
        opened.maps(method, opened.table())
        return capsys.readouterr().out

    scale = 1.0
    first = opened.maps(method, opened.table())
    assert "3 of 3 maps by method" in capsys.readouterr().out
    assert "0 of 3" in made()
    np.testing.assert_array_equal(first, opened.maps(method, opened.table()))
    scale = 2.0
    assert "3 of 3" in made()
    opened.images.arrays[1] += 1
    assert "1 of 3" in made()
    opened.run.settings["weights_sha256"] = "b"
    assert "3 of 3" in made()


def test_curves_and_checks_are_read_back(opened, capsys):
    galaxies = opened.table()
    made = {"a": opened.inputs(galaxies["galaxy_id"])[..., 0]}
    first = opened.curves(made, galaxies, steps=3)
    assert "1 of 1" in capsys.readouterr().out
    pd.testing.assert_frame_equal(first, opened.curves(made, galaxies, steps=3))
    assert "0 of 1" in capsys.readouterr().out
    assert first["galaxy_id"].tolist() == galaxies["galaxy_id"].repeat(4).tolist()


def test_what_a_function_does_is_its_code_and_all_that_it_names():
    def variant(source: str, **names) -> FunctionType:
        exec(source, names)
        return names["f"]

    inner = "def g(y):\n    return {} * y\ndef f(x):\n    return (lambda z: g(z))(x)"
    first = meaning(variant(inner.format(2)))
    assert first == meaning(variant("\n\n" + inner.format(2), unused=3))
    assert first != meaning(variant(inner.format(3)))
    named = "def f(x):\n    return [a * x for _ in range(2)]"
    assert meaning(variant(named, a=1)) != meaning(variant(named, a=2))
    assert meaning(variant(named, a=np.ones(3))) != meaning(variant(named, a=np.zeros(3)))


def test_both_notebooks_share_their_maps():
    other = methods_of("13_explore")
    for name in ("grad_cam_plus_plus", "smooth_grad"):
        assert meaning(NAMES[name]) == meaning(other[name])


def test_cached_maps_and_scores_rest_on_the_code_that_makes_them():
    files = {f"lib/explain/{name}.py" for name in ("subject", "faithfulness", "sanity", "maps")}
    assert files <= closure(subject.__file__).keys()


def test_her_galaxy_is_found_by_id_or_named_as_missing(opened):
    found = opened.table([587722981742084146, 587722981742084144])
    assert found["label"].tolist() == ["2", "1"]
    # Of the class predicted, which need not be the most probable one.
    assert found["probability"].tolist() == [0.3, 0.6]
    with pytest.raises(InputError, match="galaxy_ids 12: not among the 3"):
        opened.table([12])
    with pytest.raises(InputError, match="must be of type int64"):
        opened.table(["M51"])
