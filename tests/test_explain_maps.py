"""Attribution maps against cases whose answer is known exactly, and against tf-keras-vis."""

from __future__ import annotations

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from skimage.transform import resize
from tf_keras_vis.saliency import Saliency
from tf_keras_vis.utils.scores import CategoricalScore

from lib.explain import gallery, maps, pixels, subject
from lib.explain.maps import Explainer, MapSettings
from lib.explain.subject import check_parameters
from lib.figures import explain as figures
from lib.networks.polar import PolarView
from lib.schema import InputError
from lib.workflow.code import closure

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
    explainer = Explainer(linear_model(weights), MapSettings(occlusion_cells=8, batch=4))
    ones = np.ones(3, int)
    signal = images[..., 0] - 0.1
    np.testing.assert_allclose(
        explainer.maps("gradient", images, ones), np.abs(weights)[None].repeat(3, 0), atol=1e-6
    )
    np.testing.assert_allclose(
        explainer.maps("SmoothGrad", images, ones), np.abs(weights)[None].repeat(3, 0), atol=1e-5
    )
    np.testing.assert_allclose(
        explainer.maps("integrated gradients", images, ones), weights * signal, atol=1e-5
    )
    squares = [slice(max(0, 4 * k - 2), 4 * k + 6) for k in range(8)]
    sums = [[[(w[r, c]).sum() for c in squares] for r in squares] for w in weights * signal]
    expected = [resize(np.array(s), (SIZE, SIZE), order=1, mode="edge") for s in sums]
    np.testing.assert_allclose(explainer.maps("occlusion", images, ones), expected, atol=1e-4)


def test_occlusion_is_exact_between_equal_cells():
    weights = np.full((SIZE, SIZE), 0.5, "float32")
    image = np.full((1, SIZE, SIZE, 1), 1.0, "float32")
    image[:, :2] = image[:, -2:] = image[:, :, :2] = image[:, :, -2:] = 0.0
    explainer = Explainer(linear_model(weights), MapSettings(occlusion_cells=8))
    falls = explainer.maps("occlusion", image, np.array([1]))
    np.testing.assert_allclose(falls[0, 8:24, 8:24], 0.5 * 8 * 8, rtol=1e-5)


def test_integrated_gradients_are_complete(images):
    model = symmetric_model()
    explainer = Explainer(model, MapSettings(integration_steps=64))
    targets = np.array([0, 1, 0])
    sums = explainer.maps("integrated gradients", images, targets).sum(axis=(1, 2))
    sky = np.broadcast_to(pixels.sky_level(images), images.shape).astype("float32")
    rise = explainer.logits(images) - explainer.logits(sky)
    np.testing.assert_allclose(sums, rise[np.arange(3), targets], rtol=0.02, atol=1e-4)


def test_planted_patch_is_found_by_every_method():
    # The class is decided by how much of a horizontal edge there is, and only one patch has any.
    kernel = np.array([1.0, -1.0]).reshape(2, 1, 1, 1)
    model = classifier(kernel, np.array([[0.0, 50.0]]))
    image = np.zeros((1, SIZE, SIZE, 1), "float32")
    image[0, 8:12:2, 20:26] = 1.0
    # A threshold, so that SmoothGrad's noise alone does not look like an edge.
    model.get_layer("top_activation").set_weights([kernel, np.array([-0.5])])
    explainer = Explainer(model, MapSettings(smooth_noise=0.05))
    for method in maps.METHODS:
        share = pixels.energy(explainer.maps(method, image, np.array([1])))
        assert share[0, 4:16, 16:30].sum() > 0.9, method


def test_constant_model_gives_empty_maps(images):
    model = classifier(np.zeros((3, 3, 1, 2)), np.zeros((2, 2)))
    explainer = Explainer(model)
    for method in maps.METHODS:
        made = explainer.maps(method, images, np.zeros(3, int))
        np.testing.assert_array_equal(made, 0)
        np.testing.assert_array_equal(pixels.energy(made), 0)


class TurnedNoise(np.random.RandomState):
    """Noise patterns (n, height, width, channels) after a quarter turn."""

    def standard_normal(self, size):
        return np.rot90(super().standard_normal(size), axes=(1, 2))


@pytest.mark.parametrize("method", maps.METHODS)
def test_maps_rotate_with_the_image(method, images, monkeypatch):
    explainer = Explainer(symmetric_model(), MapSettings(batch=8))
    targets = np.array([0, 1, 0])
    upright = explainer.maps(method, images, targets)
    # SmoothGrad's noise has to turn with the image.
    monkeypatch.setattr(np.random, "RandomState", TurnedNoise)
    turned = explainer.maps(method, np.rot90(images, axes=(1, 2)).copy(), targets)
    np.testing.assert_allclose(turned, np.rot90(upright, axes=(1, 2)), atol=1e-5)
    assert np.abs(turned - upright).max() > 1e-4


@pytest.mark.parametrize("axis_ratio", [1.0, 0.5])
@pytest.mark.parametrize("cell", [(2, 3), (5, 10), (6, 17), (4, 22)])
def test_a_cell_of_a_polar_map_lies_on_the_sky_where_its_pixels_were(cell, axis_ratio):
    view, angle = PolarView(rows=32, columns=96), np.radians(35)
    y, x = np.mgrid[36:-36:-1, -36:36] - np.array([0.5, -0.5])[:, None, None]
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    image = 100 * np.exp(-np.hypot(u, v / axis_ratio) / 8)[None, ..., None].astype("float32")
    view(image)
    shape = view.shape(view.light(image))
    one_hot = np.zeros((1, 8, 24), "float32")
    one_hot[0][cell] = 1
    sky = np.asarray(view.on_sky(one_hot, image))[0]
    rows, columns = (slice(4 * k, 4 * k + 4) for k in cell)
    expected = [np.asarray(part)[0, rows, columns].mean() for part in view.places(*shape)]
    found = [(sky * part).sum() / sky.sum() for part in (x, y)]
    # A cell is up to 13 pixels wide, and the sky has pixels of its own.
    np.testing.assert_allclose(found, expected, atol=1.5)
    assert np.hypot(*expected) > 4


def test_smooth_grad_equals_tf_keras_vis(images):
    explainer = Explainer(symmetric_model(), MapSettings(batch=7, seed=3))
    ours = explainer.maps("SmoothGrad", images[:1], np.array([1]))
    keras.utils.set_random_seed(3)
    theirs = Saliency(explainer.model, clone=False)(
        CategoricalScore([1]), images[:1], smooth_samples=20, smooth_noise=0.20, normalize_map=False
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)


def test_maps_do_not_depend_on_batch_or_company(images):
    model, targets = symmetric_model(), np.array([0, 1, 0])
    wide, narrow = (Explainer(model, MapSettings(batch=b)) for b in (16, 5))
    for method in maps.METHODS:
        together = wide.maps(method, images, targets)
        alone = narrow.maps(method, images[1:2], targets[1:2])
        np.testing.assert_allclose(together[1:2], alone, rtol=1e-4, atol=1e-6)


def test_nested_backbone_is_refused():
    backbone = keras.Sequential(
        [keras.Input((SIZE, SIZE, 1)), keras.layers.Conv2D(2, 3, name="top_activation")],
        name="backbone",
    )
    image = keras.Input((SIZE, SIZE, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(backbone(image))
    model = keras.Model(image, keras.layers.Dense(2, activation="softmax")(pooled))
    with pytest.raises(InputError, match="nested model 'backbone'.*one flat graph"):
        Explainer(model)


def test_unknown_layer_method_and_output_are_refused(images):
    with pytest.raises(InputError, match="no layer 'conv9'"):
        Explainer(symmetric_model(), MapSettings(layer="conv9"))
    with pytest.raises(InputError, match="unknown method 'magic'.*SmoothGrad"):
        Explainer(symmetric_model()).maps("magic", images, np.zeros(3, int))
    model = symmetric_model()
    model.layers[-1].activation = keras.activations.linear
    with pytest.raises(InputError, match="not a softmax"):
        Explainer(model)
    with pytest.raises(InputError, match="smooth_samples = 0"):
        MapSettings(smooth_samples=0)


@pytest.mark.parametrize("method", maps.METHODS)
def test_nan_maps_are_caught(method, images):
    model = classifier(np.full((3, 3, 1, 2), 3e38), np.full((2, 2), 3e38))
    with pytest.raises(InputError, match="NaN or infinity.*recalibrate"):
        Explainer(model).maps(method, images, np.zeros(3, int))


def test_cache_is_read_back_and_keyed_by_code_weights_and_image(images, tmp_path, monkeypatch):
    explainer = Explainer(symmetric_model())
    ids, targets = [587722981742084144, 587722981742084145, 3], np.array([0, 1, 0])

    def read_or_make(images):
        return maps.cached_maps(explainer, "gradient", images, targets, ids, tmp_path)

    first, made = read_or_make(images)
    assert made == 3
    np.testing.assert_array_equal(first, explainer.maps("gradient", images, targets))
    again, made = read_or_make(images)
    assert made == 0
    np.testing.assert_array_equal(first, again)
    changed = images.copy()
    changed[1] *= 0.5
    assert read_or_make(changed)[1] == 1
    monkeypatch.setattr(maps, "closure_hash", lambda file: "mended")
    assert read_or_make(images)[1] == 3
    explainer.model.layers[-1].set_weights([np.ones((2, 2)), np.zeros(2)])
    assert read_or_make(images)[1] == 3


def test_cached_maps_and_scores_rest_on_the_code_that_makes_them():
    assert {"lib/explain/maps.py", "lib/networks/polar.py"} <= closure(maps.__file__).keys()
    scores = {f"lib/explain/{name}.py" for name in ("subject", "faithfulness", "sanity", "maps")}
    assert scores <= closure(subject.__file__).keys()


def test_feature_maps_are_the_layers_activations(images):
    model = symmetric_model()
    made = maps.feature_maps(model, images[0], ["top_activation"])
    expected = np.maximum(0, model.layers[1](images[:1]).numpy()[0])
    np.testing.assert_allclose(made["top_activation"], expected, atol=1e-6)
    with pytest.raises(InputError, match="no layer 'block9'.*top_activation"):
        maps.feature_maps(model, images[0], ["block9"])


def test_method_that_arms_are_read_from_must_be_named_where_no_truth_is_known():
    given = {}, [0.2, 1.2], ["a"], [[2, 2]], "cividis"
    check_parameters(*given, "", has_truth=True)
    check_parameters(*given, "occlusion", has_truth=False)
    with pytest.raises(InputError, match="arm_method = '': choose from .*occlusion$"):
        check_parameters(*given, "", has_truth=False)
    with pytest.raises(InputError, match="arm_method = 'magic'.*finds the arms best"):
        check_parameters(*given, "magic", has_truth=True)


def test_feature_tiles_take_the_colours_asked_for():
    figure = figures.feature_tiles({"a": np.ones((4, 4, 4))}, [[2, 2]], "jet")
    assert figure.axes[0].images[0].get_cmap().name == "jet"
    plt.close(figure)


def predictions() -> pd.DataFrame:
    """Five galaxies with 18-digit ids that floats cannot keep apart."""
    return pd.DataFrame(
        {
            "galaxy_id": 587722981742084144 + np.arange(5),
            "label": ["1", "1", "1", "2", "2"],
            "split": ["validation"] * 4 + ["train"],
            "predicted": ["1", "1", "2", "1", "2"],
            "p_1": [0.6, 0.9, 0.3, 0.8, 0.2],
            "p_2": [0.4, 0.1, 0.7, 0.2, 0.8],
        }
    )


def test_top_scoring_keeps_ids_and_explains_empty_cells():
    right = gallery.top_scoring(predictions(), ("1", "2"), correct=True)
    assert right["galaxy_id"].tolist()[:2] == [587722981742084145, 587722981742084144]
    assert right["galaxy_id"].isna().tolist() == [False, False, True, True]
    assert right["reason"].tolist()[2] == "0 of 1 validation galaxies classified correctly"
    wrong = gallery.top_scoring(predictions(), ("1", "2"), correct=False, count=1)
    assert wrong["galaxy_id"].tolist() == [587722981742084146, 587722981742084147]
    assert wrong["probability"].tolist() == [0.7, 0.8]
    with pytest.raises(InputError, match="no galaxy of split 'test'"):
        gallery.top_scoring(predictions(), ("1", "2"), correct=True, split="test")


def test_the_surest_galaxies_are_those_of_the_class_predicted():
    """A decision with offsets may name the class that is not the most probable one."""
    shown = predictions().assign(predicted="2")
    right = gallery.top_scoring(shown, ("1", "2"), correct=True, count=1)
    wrong = gallery.top_scoring(shown, ("1", "2"), correct=False, count=1)
    assert right["probability"].dropna().tolist() == [0.2]
    assert wrong["probability"].dropna().tolist() == [0.7]
    assert wrong["galaxy_id"].dropna().tolist() == [587722981742084146]
    asked = gallery.by_id(shown, [587722981742084145, 587722981742084148])
    assert asked["probability"].tolist() == [0.1, 0.8]


def test_her_galaxy_is_found_by_id_or_named_as_missing():
    found = gallery.by_id(predictions(), [587722981742084147, 587722981742084144])
    assert found["label"].tolist() == ["2", "1"]
    with pytest.raises(InputError, match="galaxy_ids 12: not among the 5"):
        gallery.by_id(predictions(), [12])


def test_spread_takes_some_of_each_class():
    chosen = gallery.spread(predictions(), ("1", "2"), per_class=2, seed=1, split="validation")
    assert chosen["label"].tolist() == ["1", "1", "2"]
    again = gallery.spread(predictions(), ("1", "2"), per_class=2, seed=1, split="validation")
    assert chosen.equals(again)
