"""Faithfulness, sanity and localisation against cases whose answer is known."""

from __future__ import annotations

import keras
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from lib.explain import faithfulness, localisation, sanity
from lib.explain.maps import Explainer, MapSettings
from lib.networks.polar import PolarView
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


def test_deletion_and_insertion_areas_of_a_planted_patch():
    image, mask, right = planted()
    curves = faithfulness.curves(patch_probability, image, right, np.array([1]), steps=64)
    # Deleting in the right order: p falls linearly to zero over the patch's 1/16 of the pixels.
    assert curves.areas["deletion"][0] == pytest.approx(1 / 32, abs=0.002)
    wrong = faithfulness.curves(patch_probability, image, -right, np.array([1]), steps=64)
    assert wrong.areas["deletion"][0] == pytest.approx(1 - 1 / 32, abs=0.002)
    assert curves.areas["insertion"][0] > 0.9 > wrong.areas["insertion"][0]
    assert curves.areas["difference"][0] > wrong.areas["difference"][0] + 0.8
    assert curves.deletion[0, 0] == 1 and curves.deletion[0, -1] == pytest.approx(0, abs=1e-6)
    assert curves.insertion[0, -1] == 1


def test_curves_are_the_same_after_a_round_trip_through_a_table():
    images = np.random.default_rng(0).random((3, SIZE, SIZE, 1)).astype("float32")
    curves = faithfulness.curves(
        patch_probability, images, images[..., 0], np.array([1, 0, 1]), steps=5
    )
    back = faithfulness.Curves.of_table(curves.table())
    for name in ("fraction", "insertion", "deletion"):
        np.testing.assert_array_equal(getattr(back, name), getattr(curves, name))


def test_constant_model_makes_all_maps_equal():
    image, _, right = planted()
    flat = lambda images: np.full((len(images), 2), 0.5)  # noqa: E731
    for values in (right, -right, 0 * right):
        areas = faithfulness.curves(flat, image, values, np.array([1]), steps=8).areas
        np.testing.assert_allclose(areas[["insertion", "deletion"]], 0.5)


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
    areas = pd.DataFrame(rows)
    board = faithfulness.scoreboard(areas)
    assert board["map"].tolist() == ["good", "centred Gaussian", "random"]
    best = board.iloc[0]
    values = areas.query("map == 'good'")["difference"]
    assert best["difference"] == pytest.approx(values.mean())
    low, high = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    assert (best["low"], best["high"]) == pytest.approx((low, high), abs=0.005)
    assert best["gain over centred Gaussian"] == pytest.approx(0.4, abs=0.05)
    assert best["gain over random low"] > 0.6


def test_faithfulness_refuses_wrong_shapes_and_controls():
    image, _, right = planted()
    with pytest.raises(InputError, match="steps = 1"):
        faithfulness.curves(patch_probability, image, right, np.array([1]), steps=1)
    with pytest.raises(InputError, match="shape"):
        faithfulness.curves(patch_probability, image, right[:, 1:], np.array([1]), steps=4)
    with pytest.raises(InputError, match="unknown control"):
        faithfulness.control_maps("tea leaves", image, 1)


def test_edges_of_a_ramp_and_of_each_galaxy_alone():
    ramp = np.tile(np.arange(SIZE, dtype="float32"), (SIZE, 1))[None, ..., None]
    noise = np.random.default_rng(0).random(ramp.shape)
    both = faithfulness.control_maps("edges", np.concatenate([ramp, noise]), 0)
    # Sobel's kernel weighs a slope of 1 by 8.
    np.testing.assert_allclose(both[0, 1:-1, 1:-1], 8)
    np.testing.assert_array_equal(both[1], faithfulness.control_maps("edges", noise, 0)[0])


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
    return Explainer(network(), MapSettings(integration_steps=4))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(1)
    smooth = rng.random((12, SIZE // 4, SIZE // 4, 1)).repeat(4, axis=1).repeat(4, axis=2)
    return smooth.astype("float32")


def test_stages_go_from_the_output_down(explainer):
    assert [s[-1] for s in sanity.stages(explainer.model)] == [
        "classes", "block2a_conv", "block1a_conv",
    ]  # fmt: skip
    assert sanity.stages(explainer.model)[1] == ["block2a_bn", "block2a_conv"]


def test_recalibrated_statistics_are_those_of_the_inputs(explainer, images):
    model = keras.models.clone_model(explainer.model)
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
    trained = explainer.model.get_layer("block1a_bn")
    before = [np.full(8, 0.25, "float32"), np.full(8, 4.0, "float32")]
    old = trained.get_weights()
    trained.set_weights([*old[:2], *before])
    seen = []

    def inspect(explainer, method, pixels, targets):
        model = explainer.model
        taps = [model.get_layer(f"block{k}a_conv").output for k in (1, 2)]
        inputs = keras.Model(model.inputs[0], taps)(images)
        seen.append(
            {k: (model.get_layer(f"block{k}a_bn").get_weights()[2:], np.asarray(x))
             for k, x in zip((1, 2), inputs, strict=True)}
        )  # fmt: skip
        return np.zeros(pixels.shape[:3])

    monkeypatch.setattr(sanity, "_maps", inspect)
    maps = {"gradient": np.zeros((2, SIZE, SIZE))}
    sanity.cascade(explainer, maps, images[:2], np.zeros(2, int), images, depths=3, seed=1)
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
    fresh = sanity.fresh_copy(explainer.model, seed=3)
    name = "block2a_conv"
    old, new = (m.get_layer(name).get_weights()[0] for m in (explainer.model, fresh))
    assert np.abs(old - new).max() > 0.01
    # He normal: variance 2 / fan-in, truncated.
    assert new.std() == pytest.approx(np.sqrt(2 / 72), rel=0.1)
    again = sanity.fresh_copy(explainer.model, seed=3).get_layer(name).get_weights()[0]
    np.testing.assert_array_equal(new, again)


def trained_maps(explainer: Explainer, method: str, images, targets) -> dict[str, np.ndarray]:
    """Maps of one method and of the edge detector."""
    return {
        method: explainer.maps(method, images, targets),
        "edges": faithfulness.control_maps("edges", images, 0),
    }


def test_cascade_flags_the_edge_detector_and_restores_the_weights(explainer, images):
    before = [w.copy() for w in explainer.model.get_weights()]
    targets = np.arange(4) % 3
    table = sanity.cascade(
        explainer,
        trained_maps(explainer, "gradient", images[:4], targets),
        images[:4],
        targets,
        images,
        depths=3,
        seed=1,
    )
    for old, now in zip(before, explainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    assert sorted(table["depth"].unique()) == [1, 2, 3]
    assert table.query("depth == 3")["down_to"].unique().tolist() == ["block1a_conv"]
    verdict = sanity.verdict(table.assign(model="B0")).set_index("map")
    assert verdict.loc["edges", "survives"]
    assert verdict.loc["edges", "rank_correlation"] == pytest.approx(1)
    assert not verdict.loc["gradient", "survives"]


def test_other_class_changes_maps_but_not_edges(explainer, images):
    table = sanity.other_class(
        explainer,
        trained_maps(explainer, "integrated gradients", images[:4], np.zeros(4, int)),
        images[:4],
        np.zeros(4, int),
        3,
        seed=1,
    )
    means = table.groupby("map")["rank_correlation"].mean()
    assert means["edges"] == pytest.approx(1)
    assert means["integrated gradients"] < 0.99


def test_similarity_of_equal_inverted_and_empty_maps():
    a = np.random.default_rng(0).random((2, 16, 16))
    along = 2 * [{"r_min": 1, "r_max": 8}]
    np.testing.assert_allclose(sanity.similarity(a, 3 * a, along), 1)
    inverted, empty = (sanity.similarity(a, b, along) for b in (1 - a, 0 * a))
    for score in ("rank_correlation", "raw_correlation"):
        assert inverted[score].tolist() == pytest.approx([-1, -1])
        assert empty[score].tolist() == [0, 0]
    assert inverted["raw_correlation"].tolist() == pytest.approx(
        [stats.spearmanr(x, 1 - x, axis=None).statistic for x in a]
    )
    assert (sanity.similarity(0 * a, 0 * a, along)["rank_correlation"] == 1).all()


def polar_network() -> keras.Model:
    """A network that is shown polar views, and adds up what each of three random patterns finds."""
    image = keras.Input((72, 72, 1))
    x = PolarView(name="polar")(image)
    x = keras.layers.Activation("linear", name="top_activation")(x)
    start = keras.initializers.RandomNormal(seed=1)
    x = keras.layers.Dense(3, "softmax", kernel_initializer=start, name="classes")(
        keras.layers.Flatten()(x)
    )
    return keras.Model(image, x)


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


def test_gradients_of_white_noise_do_not_survive_a_polar_view():
    # On the polar grid another network's gradient is white noise, independent of this one's.
    explainer, images, targets = Explainer(polar_network()), discs(), np.zeros(4, int)
    cascaded = sanity.cascade(
        explainer,
        trained_maps(explainer, "gradient", images, targets),
        images,
        targets,
        images,
        depths=1,
        seed=1,
    )
    verdict = sanity.verdict(cascaded).set_index("map")
    assert verdict.loc["gradient", "raw_correlation"] > 0.8
    assert abs(verdict.loc["gradient", "rank_correlation"]) < 0.2
    assert not verdict.loc["gradient", "survives"]
    assert verdict.loc["edges", "survives"]
    np.testing.assert_allclose(verdict.loc["edges", ["rank_correlation", "raw_correlation"]], 1)


def test_rings_are_those_of_the_view_or_of_the_disc():
    explainer, images = Explainer(polar_network()), discs()
    along = sanity.rings(explainer, images)
    view = explainer.polar
    assert (along[0]["r_min"], along[0]["r_max"]) == (view.r_min, view.r_max)
    found = [(ring["axis_ratio"], ring["position_angle"] % 180) for ring in along[1:]]
    # Axis ratios are those in the layer's own window, in which the round bulge weighs more.
    assert [q for q, _ in found] == sorted((q for q, _ in found), reverse=True)
    np.testing.assert_allclose([a for _, a in found], np.degrees([0.3, 1.0, 2.0]), atol=8)


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
    assert perfect["pointing"] == 1 and perfect["precision"] == pytest.approx(1)
    assert perfect["gain"] > 0.5
    # A map without azimuthal structure gains nothing over its own average.
    round_map = localisation.azimuthal_average(np.exp(-((radius - 10) ** 2) / 50), radius)
    assert localisation.arm_scores(round_map, arms, radius)["gain"] == pytest.approx(0, abs=0.01)
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


def located(effect: float, seed: int = 0) -> pd.DataFrame:
    """Scores of 24 galaxies whose B0 maps lie on the sky for "?" with a given effect."""
    rng = np.random.default_rng(seed)
    rows = []
    for model in ("B0", "V2M"):
        for method in ("Grad-CAM++", "SmoothGrad", "centred Gaussian"):
            for galaxy in range(24):
                label = ["1", "2", "3", "?"][galaxy % 4]
                sky = 0.3 + 0.02 * rng.normal()
                sky += effect * (label == "?" and model == "B0" and method == "Grad-CAM++")
                rows.append(
                    {"model": model, "map": method, "galaxy_id": galaxy, "label": label,
                     "predicted": label, "n_arms": galaxy % 4 + 1.0, "area_surroundings": 0.6,
                     "energy_surroundings": sky, "gain": np.nan}
                )  # fmt: skip
    return pd.DataFrame(rows)


UNCLEAR = "looks at the surroundings for ?"


def test_hypotheses_find_a_planted_effect_and_only_that():
    table = localisation.hypotheses(located(0.3))
    table = table.set_index(["sentence", "model", "map"]).sort_index()
    surroundings = table.loc[UNCLEAR]
    planted = surroundings.loc[("B0", "Grad-CAM++")]
    assert planted["verdict"] == "supported"
    assert planted["effect"] == pytest.approx(0.3, abs=0.03)
    assert planted["low"] < 0.3 < planted["high"] + 0.02
    assert (surroundings.drop(("B0", "Grad-CAM++"))["verdict"] == "undecided").all()
    covers = table.loc["Grad-CAM++ covers the galaxy", "verdict"]
    # Any map in the middle does.
    assert covers[("B0", "Grad-CAM++")] == covers[("B0", "centred Gaussian")] == "supported"
    assert (table.loc["SmoothGrad traces the arms", "verdict"] == "not testable here").all()
    against = localisation.hypotheses(located(-0.2)).set_index(["sentence", "model", "map"])
    assert against.loc[(UNCLEAR, "B0", "Grad-CAM++"), "verdict"] == "contradicted"


def test_both_directions_of_all_tests_are_corrected_together():
    table = localisation.hypotheses(located(0.05))
    own = table[table["map"] != "centred Gaussian"].dropna(subset="p")
    p, corrected = own[["p", "p_against"]], own[["p_holm", "p_against_holm"]]
    # Holm: the smallest p-value counts as often as there are tests.
    assert corrected.min(axis=None) == pytest.approx(p.size * p.min(axis=None))
    first = located(0.05).query("model == 'B0' and map == 'Grad-CAM++'")
    outside, unclear = first["energy_surroundings"], first["predicted"] == "?"
    found = own[(own["sentence"] == UNCLEAR) & (own["model"] == "B0")].iloc[0]
    for alternative, column in (("greater", "p"), ("less", "p_against")):
        direct = stats.mannwhitneyu(outside[unclear], outside[~unclear], alternative=alternative)
        assert found[column] == pytest.approx(direct.pvalue)


def test_inclined_unclear_galaxies_are_no_reason_to_look_at_the_surroundings():
    table = located(0.0)
    inclined = table["label"] == "?"
    rng = np.random.default_rng(1)
    table["area_surroundings"] = 0.6 + 0.2 * inclined + 0.05 * rng.random(len(table))
    # More sky round the galaxy, more of any map's energy on it.
    table["energy_surroundings"] += 0.8 * (table["area_surroundings"] - 0.6)
    found = localisation.hypotheses(table).query("sentence == @UNCLEAR")
    assert (found["verdict"] == "undecided").all()
    assert (found["effect"].abs() < 0.03).all()


def test_energy_over_geometry_is_what_a_straight_line_leaves():
    area, energy = np.random.default_rng(0).random((2, 20))
    fit = stats.linregress(area, energy)
    left = energy - fit.intercept - fit.slope * area
    # A map without energy has no share of it.
    found = localisation.over_geometry(np.append(energy, np.nan), np.append(area, 0.5))
    np.testing.assert_allclose(found, np.append(left, np.nan), atol=1e-12)
    np.testing.assert_allclose(
        localisation.over_geometry(energy, np.full(20, 0.6)), energy - energy.mean()
    )


def test_scores_by_class_and_the_best_map():
    table = located(0.3).assign(pointing=1.0, precision=0.4, energy_arms=0.2)
    table["gain"] = table["map"].map({"Grad-CAM++": 0.1, "SmoothGrad": 0.2})
    wide = localisation.by_class(table)
    assert wide.columns.tolist() == ["1", "2", "3", "?", "all"]
    own = table.query("model == 'B0' and map == 'Grad-CAM++'")["energy_surroundings"]
    row = wide.loc[("energy_surroundings", "B0", "Grad-CAM++")]
    assert row["all"] == pytest.approx(own.mean())
    assert row["?"] == pytest.approx(own.iloc[3::4].mean())
    ranked = wide.query("score == 'gain' and model == 'V2M'").reset_index()["map"]
    assert ranked.tolist() == ["SmoothGrad", "Grad-CAM++"]
    assert localisation.best_map(table, ["Grad-CAM++", "SmoothGrad"]) == "SmoothGrad"
    assert localisation.best_map(table, ["Grad-CAM++"]) == "Grad-CAM++"
