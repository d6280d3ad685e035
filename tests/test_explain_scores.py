"""Faithfulness, sanity and localisation against cases whose answer is known."""

from __future__ import annotations

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy import stats
from sklearn.metrics import average_precision_score

from lib.explain import faithfulness, localisation, sanity
from lib.explain.maps import Explainer, occlusion
from lib.schema import InputError

SIZE = 32


def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image with a bright 8 x 8 patch, the mask of the patch, and a map that is right."""
    mask = np.zeros((SIZE, SIZE), bool)
    mask[4:12, 16:24] = True
    image = np.where(mask, 1.0, 0.1)[None, ..., None].astype("float32")
    return image, mask, mask[None].astype(float)


def patch_probability(images: np.ndarray) -> np.ndarray:
    """A classifier that looks at one patch only: p(1) = its mean brightness above sky, 0 to 1."""
    p = ((images[:, 4:12, 16:24, 0].mean(axis=(1, 2)) - 0.1) / 0.9).clip(0, 1)
    return np.stack([1 - p, p], axis=1)


def areas(probabilities, images, maps, targets, steps) -> pd.Series:
    """Areas of the first galaxy's curves."""
    followed = faithfulness.curves(probabilities, images, maps, np.array(targets), steps)
    followed = followed.assign(model="B0", map="a", galaxy_id=followed["galaxy"])
    return faithfulness.areas(followed).iloc[0]


def test_deletion_and_insertion_areas_of_a_planted_patch():
    image, _, right = planted()
    found = areas(patch_probability, image, right, [1], 64)
    # Deleting in the right order: p falls linearly to zero over the patch's 1/16 of the pixels.
    assert found["deletion"] == pytest.approx(1 / 32, abs=0.002)
    wrong = areas(patch_probability, image, -right, [1], 64)
    assert wrong["deletion"] == pytest.approx(1 - 1 / 32, abs=0.002)
    assert found["insertion"] > 0.9 > wrong["insertion"]
    assert found["difference"] == found["insertion"] - found["deletion"] > wrong["difference"] + 0.8
    ends = faithfulness.curves(patch_probability, image, right, np.array([1]), steps=4).iloc[
        [0, -1]
    ]
    np.testing.assert_allclose(ends["deletion"], [1, 0], atol=1e-6)
    assert ends["insertion"].iloc[1] == 1


def test_constant_model_makes_all_maps_equal():
    image, _, right = planted()
    flat = lambda images: np.full((len(images), 2), 0.5)  # noqa: E731
    for values in (right, -right, 0 * right):
        found = areas(flat, image, values, [1], 8)
        assert found["insertion"] == pytest.approx(0.5) and found["deletion"] == pytest.approx(0.5)


def test_scoreboard_ranks_the_right_map_first_with_its_interval():
    rng = np.random.default_rng(0)
    rows = []
    for name, level in (("good", 0.8), ("random", 0.1), ("centred Gaussian", 0.4)):
        for galaxy in range(30):
            difference = level + rng.normal(0, 0.05)
            rows.append(
                {"model": "B0", "map": name, "galaxy_id": galaxy, "difference": difference,
                 "insertion": 0.5 + difference / 2, "deletion": 0.5 - difference / 2}
            )  # fmt: skip
    table = pd.DataFrame(rows)
    board = faithfulness.scoreboard(table)
    assert board["map"].tolist() == ["good", "centred Gaussian", "random"]
    best = board.iloc[0]
    values = table.query("map == 'good'")["difference"]
    assert best["difference"] == pytest.approx(values.mean())
    low, high = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    assert (best["low"], best["high"]) == pytest.approx((low, high), abs=0.005)
    assert best["gain"] == pytest.approx(0.4, abs=0.05)
    assert board["gain"].tolist()[1] == 0 and board["gain high"].tolist()[2] < -0.2
    assert (board["galaxies"] == 30).all()


def test_faithfulness_refuses_wrong_shapes():
    image, _, right = planted()
    with pytest.raises(InputError, match="steps = 1"):
        areas(patch_probability, image, right, [1], 1)
    with pytest.raises(InputError, match="shape"):
        areas(patch_probability, image, right[:, 1:], [1], 4)


def test_edges_of_a_ramp_and_of_each_galaxy_alone():
    ramp = np.tile(np.arange(SIZE, dtype="float32"), (SIZE, 1))[None, ..., None]
    noise = np.random.default_rng(0).random(ramp.shape)
    both = faithfulness.control_maps(np.concatenate([ramp, noise]), 0)["edges"]
    # Sobel's kernel weighs a slope of 1 by 8.
    np.testing.assert_allclose(both[0, 1:-1, 1:-1], 8)
    np.testing.assert_array_equal(both[1], faithfulness.control_maps(noise, 0)["edges"][0])


def network() -> keras.Model:
    """Two blocks with BatchNorm in inference mode, as the published V2M has them."""
    image = keras.Input((SIZE, SIZE, 1))
    x = image
    for k in (1, 2):
        start = keras.initializers.HeNormal(seed=k)
        x = keras.layers.Conv2D(
            8, 3, padding="same", use_bias=False, kernel_initializer=start, name=f"block{k}a_conv"
        )(x)
        x = keras.layers.BatchNormalization(name=f"block{k}a_bn")(x, training=False)
        x = keras.layers.Activation("relu", name="top_activation" if k == 2 else "block1a_act")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(3, activation="softmax", name="classes")(x))


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    keras.utils.set_random_seed(5)
    return Explainer(network())


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(1)
    smooth = rng.random((12, SIZE // 4, SIZE // 4, 1)).repeat(4, axis=1).repeat(4, axis=2)
    return smooth.astype("float32")


def test_stages_go_from_the_output_down(explainer):
    assert [s[-1] for s in sanity.stages(explainer.network)] == [
        "classes", "block2a_conv", "block1a_conv",
    ]  # fmt: skip
    assert sanity.stages(explainer.network)[1] == ["block2a_bn", "block2a_conv"]


def test_recalibrated_statistics_are_those_of_the_inputs(explainer, images):
    model = keras.models.clone_model(explainer.network)
    model.get_layer("block1a_conv").set_weights(
        [100 * w for w in model.get_layer("block1a_conv").get_weights()]
    )
    sanity.recalibrate(model, images, ["block1a_bn", "block2a_bn"])
    for k, source in ((1, "block1a_conv"), (2, "block2a_conv")):
        tap = keras.Model(model.inputs[0], model.get_layer(source).output)
        inputs = tap(images).numpy()
        norm = model.get_layer(f"block{k}a_bn")
        np.testing.assert_allclose(norm.moving_mean, inputs.mean(axis=(0, 1, 2)), rtol=1e-3)
        np.testing.assert_allclose(norm.moving_variance, inputs.var(axis=(0, 1, 2)), rtol=1e-2)
    assert np.abs(model(images).numpy()).max() < 100


def test_statistics_during_a_cascade_are_those_of_what_reaches_the_layers(
    explainer, images, monkeypatch
):
    # Trained statistics that no batch has, so that it shows who took a batch's.
    trained = explainer.network.get_layer("block1a_bn")
    before = [np.full(8, 0.25, "float32"), np.full(8, 4.0, "float32")]
    old = trained.get_weights()
    trained.set_weights([*old[:2], *before])
    seen = []

    def inspect(method, pixels, targets):
        model = explainer.network
        taps = [model.get_layer(f"block{k}a_conv").output for k in (1, 2)]
        inputs = keras.Model(model.inputs[0], taps)(images)
        seen.append(
            {k: (model.get_layer(f"block{k}a_bn").get_weights()[2:], np.asarray(x))
             for k, x in zip((1, 2), inputs, strict=True)}
        )  # fmt: skip
        return np.zeros(pixels.shape[:3])

    monkeypatch.setattr(explainer, "maps", inspect)
    methods = {"occlusion": occlusion}
    sanity.cascade(explainer, methods, images[:2], np.zeros(2, int), images, depths=3, seed=1)
    seen = seen[1:]  # the first are the trained network's
    np.testing.assert_array_equal(trained.get_weights()[2:], before)
    trained.set_weights(old)

    def is_calibrated(depth: int, block: int) -> bool:
        (mean, variance), x = seen[depth - 1][block]
        return np.allclose(mean, x.mean(axis=(0, 1, 2)), rtol=1e-3, atol=1e-4) and np.allclose(
            variance, x.var(axis=(0, 1, 2)), rtol=1e-2, atol=1e-4
        )

    np.testing.assert_array_equal(seen[0][1][0], before)
    # The second block's were taken behind a first block that used its trained statistics ...
    assert is_calibrated(2, block=2) and not is_calibrated(2, block=1)
    np.testing.assert_array_equal(seen[1][1][0], before)
    # ... and again when the first block had been initialised anew.
    assert is_calibrated(3, block=1) and is_calibrated(3, block=2)


def test_fresh_weights_follow_the_initialiser_but_differ_from_the_start(explainer):
    fresh = sanity.fresh_copy(explainer.network, seed=3)
    name = "block2a_conv"
    old, new = (m.get_layer(name).get_weights()[0] for m in (explainer.network, fresh))
    assert np.abs(old - new).max() > 0.01
    # He normal: variance 2 / fan-in, truncated.
    assert new.std() == pytest.approx(np.sqrt(2 / 72), rel=0.1)
    again = sanity.fresh_copy(explainer.network, seed=3).get_layer(name).get_weights()[0]
    np.testing.assert_array_equal(new, again)


def gradient(network, image, target):
    with tf.GradientTape() as tape:
        tape.watch(image)
        logit = network(image[None], training=False)[0, target]
    return tf.abs(tape.gradient(logit, image))[..., 0]


def edges(network, image, target):
    """A map that knows nothing of the network, and so has to survive."""
    return tf.image.sobel_edges(image[None])[0, ..., 0, 0]


def test_cascade_flags_the_edge_detector_and_restores_the_weights(explainer, images):
    before = [w.copy() for w in explainer.network.get_weights()]
    methods, targets = {"gradient": gradient, "edges": edges}, np.arange(4) % 3
    table = sanity.cascade(explainer, methods, images[:4], targets, images, depths=3, seed=1)
    for old, now in zip(before, explainer.network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    assert sorted(table["depth"].unique()) == pytest.approx([1 / 3, 2 / 3, 1])
    last = table.query("depth == 1").groupby("map")["correlation"].mean()
    assert last["edges"] == pytest.approx(1)
    assert last["gradient"] < sanity.SURVIVES


def discs() -> np.ndarray:
    """Four discs of different inclination and direction, with arms."""
    y, x = np.mgrid[-36:36, -36:36] + 0.5
    made = []
    for axis_ratio, angle in ((1.0, 0.0), (0.8, 0.3), (0.6, 1.0), (0.45, 2.0)):
        u = np.cos(angle) * x - np.sin(angle) * y
        v = (np.cos(angle) * y + np.sin(angle) * x) / axis_ratio
        r, theta = np.hypot(u, v), np.arctan2(v, u)
        made.append(180 * np.exp(-r / 8) * (1 + 0.5 * np.cos(2 * theta - 6 * np.log(r + 1))))
    noise = np.random.default_rng(0).normal(10, 2, (4, 72, 72))
    return (np.stack(made) + noise)[..., None].astype("float32")


def test_similarity_of_equal_inverted_and_empty_maps():
    images = discs()
    a = np.random.default_rng(0).random((4, 72, 72))
    np.testing.assert_allclose(sanity.similarity(a, 3 * a, images), 1)
    np.testing.assert_allclose(sanity.similarity(a, 1 - a, images), -1, atol=1e-6)
    assert sanity.similarity(a, 0 * a, images).tolist() == [0] * 4
    assert sanity.similarity(0 * a, 0 * a, images).tolist() == [1] * 4


def test_a_common_profile_along_the_radius_is_no_similarity():
    images, rng = discs(), np.random.default_rng(0)
    y, x = np.mgrid[-36:36, -36:36] + 0.5
    profile = np.exp(-np.hypot(x, y) / 8)
    one, other = profile * rng.random((2, 1, 72, 72))
    alike = sanity.similarity(one, other, images[:1])
    assert abs(alike[0]) < 0.2 and stats.spearmanr(one, other, axis=None).statistic > 0.6


def test_part_scores_of_a_map_on_the_arms():
    arms = np.zeros((20, 20), bool)
    arms[5, :] = True
    scores = localisation.part_scores(arms.astype(float), {"arms": arms, "sky": ~arms})
    assert scores["energy_arms"] == pytest.approx(1) and scores["energy_sky"] == 0
    assert scores["area_arms"] == 0.05
    assert np.isnan(localisation.part_scores(0.0 * arms, {"sky": ~arms})["energy_sky"])


def test_arm_scores_against_scikit_learn_and_chance():
    y, x = np.mgrid[-20:21, -20:21]
    radius = np.hypot(x, y)
    arms = (np.abs(x) < 2) & (radius > 5) & (radius < 18)
    perfect = localisation.arm_scores(arms.astype(float), arms, radius)
    assert perfect["precision"] == pytest.approx(1)
    assert perfect["gain"] > 0.5
    # A map without azimuthal structure gains nothing over its own average.
    round_map = np.exp(-((np.round(radius) - 10) ** 2) / 50)
    assert localisation.arm_scores(round_map, arms, radius)["gain"] == pytest.approx(0, abs=0.03)
    noise = np.random.default_rng(0).random(arms.shape)
    found = localisation.arm_scores(noise, arms, radius)
    assert found["precision"] == average_precision_score(arms.ravel(), noise.ravel())
    assert found["precision"] == pytest.approx(arms.mean(), abs=0.05)
    empty = localisation.arm_scores(noise, np.zeros_like(arms), radius)
    assert np.isnan(list(empty.values())).all()


def test_galaxy_mask_finds_the_central_galaxy_not_its_neighbour():
    y, x = np.mgrid[-32:32, -32:32] + 0.5
    image = 0.9 * np.exp(-(x**2 + (2 * y) ** 2) / 200)
    image += np.exp(-((x - 25) ** 2 + (y - 25) ** 2) / 8)
    image += np.random.default_rng(0).normal(0.05, 0.01, image.shape)
    mask = localisation.galaxy_mask(image[..., None])
    assert mask[32, 32] and mask[32, 42] and not mask[57, 57] and not mask[2, 2]
    assert not localisation.galaxy_mask(np.zeros((32, 32, 1))).any()


def test_real_galaxies_are_told_from_their_surroundings_in_the_plane_of_the_disc():
    y, x = np.mgrid[-53:53, -53:53] + 0.5
    image = 200 * np.exp(-np.hypot(x, y / 0.5) / 8)[None, ..., None]
    galaxies = pd.DataFrame({"galaxy_id": [7], "label": ["2"], "predicted": ["?"]})
    found = localisation.locate(np.ones((1, 64, 64)), image, galaxies, None, 4).iloc[0]
    # An ellipse of half axes 12.5 and 6.25 px.
    expected = np.pi * 12.5 * 6.25 / 64**2
    assert found["area_galaxy"] == pytest.approx(expected, rel=0.1)
    assert found["energy_galaxy"] == pytest.approx(found["area_galaxy"])
    assert found["energy_galaxy"] + found["energy_surroundings"] == pytest.approx(1)
    assert not found.isna().any()
