"""Metrics against scikit-learn, scipy and tables worked out by hand; coverage by simulation."""

import numpy as np
import pandas as pd
import pytest
from made import K, names, simulate, write_run
from scipy import stats
from sklearn import metrics

from lib import evaluation as ev
from lib import paper
from lib.schema import ARM_CLASSES, InputError

# --- confusion matrix and scores


def test_confusion_and_report_agree_with_scikit_learn():
    label, _, predicted = simulate()
    matrix = ev.confusion(names(label), names(predicted), ARM_CLASSES)
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(label, predicted))
    np.testing.assert_allclose(
        ev.normalise(matrix), metrics.confusion_matrix(label, predicted, normalize="true")
    )
    report = ev.class_report(matrix)
    expected = metrics.precision_recall_fscore_support(label, predicted)
    np.testing.assert_allclose(report[[*ev.CELLS, "support"]].to_numpy().T, expected)
    scores = ev.scores(matrix)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(label, predicted))
    assert scores["balanced_accuracy"] == pytest.approx(
        metrics.balanced_accuracy_score(label, predicted)
    )
    assert scores["macro_f1"] == pytest.approx(metrics.f1_score(label, predicted, average="macro"))


def test_never_predicted_and_empty_classes_by_hand():
    matrix = ev.confusion(["1", "1", "2"], ["1", "2", "2"], ("1", "2", "3", "4"))
    report = ev.class_report(matrix)
    assert report["precision"].to_list()[:2] == [1.0, 0.5]
    assert report["recall"].to_list()[:2] == [0.5, 1.0]
    assert report.loc[["3", "4"], ["precision", "recall", "f1"]].isna().all(axis=None)
    assert ev.scores(matrix)["balanced_accuracy"] == 0.75
    # A class without galaxies does not count, however often it is predicted.
    wrong = ev.confusion(["1", "1", "2"], ["1", "3", "2"], ("1", "2", "3", "4"))
    assert ev.scores(wrong)["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert ev.score_intervals(wrong).loc["macro_f1", "value"] == pytest.approx((2 / 3 + 1) / 2)
    assert ev.scores(wrong)["macro_f1"] == pytest.approx(
        metrics.f1_score(["1", "1", "2"], ["1", "3", "2"], labels=["1", "2"], average="macro")
    )
    # A class that has galaxies but is never predicted counts with F1 = 0.
    never = ev.confusion(["1", "2"], ["1", "1"], ("1", "2"))
    assert ev.class_report(never).loc["2", "f1"] == 0
    assert ev.scores(never)["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert np.isnan(ev.class_report(never).loc["2", "precision"])


def test_metrics_of_the_published_matrix():
    report = ev.class_report(paper.B0_CONFUSION)
    printed = paper.TABLE_3["B0 down-sampled"][list(ev.CELLS)]
    np.testing.assert_array_equal(report[list(ev.CELLS)].round(3), printed)


@pytest.mark.parametrize(
    ("label", "predicted", "message"),
    [
        (["1", "6"], ["1", "1"], "'6'.*not among"),
        (["1"], ["1", "2"], "1 labels and 2 predictions"),
        ([], [], "at least one"),
    ],
)
def test_bad_labels_are_refused(label, predicted, message):
    with pytest.raises(InputError, match=message):
        ev.confusion(label, predicted, ARM_CLASSES)


def test_at_frequencies_by_hand():
    matrix = ev.confusion(["1"] * 10 + ["2"] * 10, ["1"] * 9 + ["2"] * 10 + ["1"], ("1", "2"))
    sky = ev.at_frequencies(matrix, {"1": 10, "2": 1000})
    # 90 % of 10 are true positives, 10 % of 1,000 are false ones.
    assert ev.class_report(sky).loc["1", "precision"] == pytest.approx(9 / (9 + 100))
    without = ev.at_frequencies(ev.confusion(["1"], ["2"], ("1", "2")), {"1": 5, "2": 1})
    np.testing.assert_array_equal(without, [[0, 5], [0, 0]])
    with pytest.raises(InputError, match=r"no number of galaxies for the classes \['2'\]"):
        ev.at_frequencies(matrix, {"1": 5})


# --- intervals


def test_wilson_agrees_with_scipy():
    for successes, n in [(0, 9), (2, 9), (9, 9), (291, 339)]:
        low, high = ev.wilson(successes, n, 0.9)
        expected = stats.binomtest(successes, n).proportion_ci(0.9, method="wilson")
        np.testing.assert_allclose([low, high], [expected.low, expected.high], atol=1e-12)
    assert np.isnan(ev.wilson(0, 0)).all()
    with pytest.raises(InputError, match="0 <= successes <= n"):
        ev.wilson(5, 4)


def test_wilson_holds_the_proportion_itself():
    n = np.arange(1, 400)
    for successes in (0 * n, n // 3, n):
        low, high = ev.wilson(successes, n)
        assert (low <= successes / n).all() and (successes / n <= high).all()


def test_cell_intervals_hold_their_values():
    table = ev.cell_intervals(ev.class_report(paper.B0_CONFUSION))
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    low, high = ev.wilson(77, 90)
    assert tuple(table.loc[("2", "recall"), ["low", "high"]]) == (low, high)
    f1 = table.xs("f1", level="metric")["value"]
    np.testing.assert_allclose(f1, ev.class_report(paper.B0_CONFUSION)["f1"])


def simulated_matrices(share, sizes, repeats, seed):
    """Confusion matrices of validation sets whose true shares are known."""
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        yield pd.DataFrame(np.stack([rng.multinomial(n, row) for n, row in zip(sizes, share)]))


def test_score_intervals_cover_the_truth_with_the_papers_small_classes():
    """Classes of 9 and 10 galaxies among 339, with B0's confusion as the truth."""
    sizes = paper.B0_CONFUSION.sum(axis=1).to_numpy()
    share = (paper.B0_CONFUSION.to_numpy() + 0.1) / (sizes[:, None] + 0.6)
    truth = pd.Series(ev.scores(pd.DataFrame(share * sizes[:, None])))
    ours = np.zeros(3)
    for matrix in simulated_matrices(share, sizes, 150, seed=6):
        table = ev.score_intervals(matrix).loc[truth.index]
        ours += (table["low"] <= truth) & (truth <= table["high"])
    # The binomial error of 150 repeats at 0.95 is 0.018.
    assert ((ours / 150 >= 0.9) & (ours / 150 <= 0.995)).all(), ours


def test_score_intervals_by_hand():
    matrix = ev.confusion(["1"] * 50 + ["2"] * 10, ["1"] * 40 + ["2"] * 20, ("1", "2"))
    table = ev.score_intervals(matrix)
    np.testing.assert_allclose(table["value"], list(ev.scores(matrix).values()))
    (low_1, high_1), (low_2, high_2) = ev.wilson(40, 50), ev.wilson(10, 10)
    row = table.loc["balanced_accuracy"]
    assert row["low"] == pytest.approx(0.9 - np.hypot(0.8 - low_1, 1 - low_2) / 2)
    assert row["high"] == pytest.approx(0.9 + np.hypot(high_1 - 0.8, high_2 - 1) / 2)


def test_wilson_covers_the_truth():
    rng = np.random.default_rng(6)
    for p, n in [(0.9, 50), (0.5, 90), (0.22, 9)]:
        low, high = ev.wilson(rng.binomial(n, p, 4000), n)
        assert 0.92 <= ((low <= p) & (p <= high)).mean() <= 0.985


# --- two models


def test_mcnemar_is_scipys_binomial_test():
    rng = np.random.default_rng(7)
    for _ in range(20):
        a, b = rng.random((2, 60)) < [[0.8], [0.7]]
        result = ev.mcnemar(a, b)
        discordant = result.only_a + result.only_b
        assert discordant == (a != b).sum()
        expected = stats.binomtest(result.only_a, discordant).pvalue
        assert result.p_value == pytest.approx(expected)
    assert ev.mcnemar(a, a).p_value == 1
    with pytest.raises(InputError, match="same ones"):
        ev.mcnemar(a, b[1:])


def test_mcnemar_outcomes_against_every_possible_pairing():
    """With 8 galaxies all 2 x 2 tables with the margins can be listed."""
    n, right_a, right_b = 8, 5, 6
    outcomes = [
        (only_a, only_b, stats.binomtest(only_a, only_a + only_b).pvalue)
        for only_a in range(n + 1)
        for only_b in range(n + 1 - only_a)
        if only_b - only_a == right_b - right_a
        and 0 <= right_a - only_a
        and 0 <= n - right_a - only_b
        and only_a + only_b > 0
    ]
    np.testing.assert_allclose(ev.mcnemar_outcomes(right_a, right_b, n), outcomes)


def test_mcnemar_outcomes_of_the_published_counts():
    b0 = paper.deduce_table_3("B0 down-sampled").loc[0]
    v2m = paper.deduce_table_3("V2M down-sampled").loc[0]
    total = ev.mcnemar_outcomes(291, 298, 339)
    assert (total["only_b"] - total["only_a"] == 7).all()
    assert total["only_a"].tolist() == list(range(42))
    assert total["p_value"].min() == pytest.approx(stats.binomtest(0, 7).pvalue)
    by_class = ev.mcnemar_outcomes(b0["tp"], v2m["tp"], b0["support"])
    # By class B0 is ahead by 1 and 2 galaxies, V2M by 4, 5 and 1: at least 3 against 10.
    assert tuple(by_class.loc[0, ["only_a", "only_b"]]) == (3, 10)
    assert by_class["p_value"].min() == pytest.approx(stats.binomtest(3, 13).pvalue)
    assert by_class["p_value"].min() > 0.05
    with pytest.raises(InputError, match="above the galaxies"):
        ev.mcnemar_outcomes([10], [3], [9])


def test_paired_bootstrap_against_resampled_galaxies():
    label, p, a = simulate(400)
    rng = np.random.default_rng(8)
    b = np.where(rng.random(400) < 0.3, label, a)
    table = ev.paired_bootstrap(names(label), names(a), names(b), ARM_CLASSES, seed=9)
    for metric, score in [
        ("accuracy", metrics.accuracy_score),
        ("balanced_accuracy", metrics.balanced_accuracy_score),
    ]:
        row = table.loc[metric]
        assert row["a"] == pytest.approx(score(label, a))
        assert row["b"] == pytest.approx(score(label, b))
        assert row["low"] < row["difference"] < row["high"]
    macro = metrics.f1_score(label, b, average="macro") - metrics.f1_score(
        label, a, average="macro"
    )
    assert table.loc["macro_f1", "difference"] == pytest.approx(macro)
    groups = [np.flatnonzero(label == k) for k in range(K)]
    difference = []
    for _ in range(1000):
        index = np.concatenate([rng.choice(g, len(g)) for g in groups])
        difference.append((b == label)[index].mean() - (a == label)[index].mean())
    np.testing.assert_allclose(
        table.loc["accuracy", ["low", "high"]].astype(float),
        np.percentile(difference, [2.5, 97.5]),
        atol=0.008,
    )


def test_equal_models_do_not_differ():
    label, _, a = simulate()
    table = ev.paired_bootstrap(names(label), names(a), names(a), ARM_CLASSES, n=200)
    assert (table[["difference", "low", "high"]] == 0).all(axis=None)
    assert (table["share_not_better"] == 1).all()


# --- calibration


def test_calibration_against_scikit_learn_and_by_hand():
    label, p, _ = simulate(2000)
    found = ev.calibration(p, label)
    assert found["nll"] == pytest.approx(metrics.log_loss(label, p))
    one_by_one = [metrics.brier_score_loss(label == k, p[:, k]) for k in range(K)]
    assert found["brier"] == pytest.approx(sum(one_by_one))
    # Two bins by hand: confidence .6 with accuracy 1/2, confidence .9 with accuracy 1.
    p = np.array([[0.6, 0.4], [0.6, 0.4], [0.1, 0.9], [0.1, 0.9]])
    found = ev.calibration(p, np.array([0, 1, 1, 1]))
    assert found["ece"] == pytest.approx((2 * 0.1 + 2 * 0.1) / 4)


def test_calibrated_probabilities_look_calibrated():
    label, p, _ = simulate(20_000)
    table = ev.reliability(p, label)
    assert table["n"].sum() == 20_000
    assert ev.calibration(p, label)["ece"] < 0.015
    outside = (table["confidence"] < table["low"]) | (table["confidence"] > table["high"])
    assert outside.sum() <= 2


@pytest.mark.parametrize("truth", [0.5, 1.0, 2.5])
def test_temperature_is_recovered(truth):
    label, p, _ = simulate(6000)
    distorted = ev.apply_temperature(p, 1 / truth)
    assert ev.fit_temperature(distorted, label) == pytest.approx(truth, rel=0.06)
    np.testing.assert_allclose(ev.apply_temperature(distorted, truth), p, atol=1e-9)
    np.testing.assert_array_equal(distorted.argmax(axis=1), p.argmax(axis=1))


def test_cross_fitted_temperature_improves_an_overconfident_model():
    label, p, _ = simulate(1500)
    sure = ev.apply_temperature(p, 1 / 3)
    scaled, temperatures = ev.cross_fitted_temperature(sure, label)
    assert len(temperatures) == 5
    np.testing.assert_allclose(temperatures, 3, rtol=0.2)
    np.testing.assert_allclose(scaled.sum(axis=1), 1)
    before, after = ev.calibration(sure, label), ev.calibration(scaled, label)
    assert all(after[m] < before[m] for m in before)


def test_probability_zero_is_no_infinity():
    p = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert np.isfinite(ev.calibration(p, np.array([1, 1]))["nll"])
    with pytest.raises(InputError, match="one row per galaxy"):
        ev.calibration(p, np.array([1]))
    with pytest.raises(InputError, match="beyond the classes"):
        ev.calibration(p, np.array([1, 2]))
    with pytest.raises(InputError, match="too few"):
        ev.cross_fitted_temperature(p, np.array([1, 1]))


# --- the sound protocol


def test_repeated_folds_test_each_galaxy_once_per_repeat():
    label = np.repeat(["1", "2"], [20, 33])
    pairs = ev.repeated_folds(label, folds=5, repeats=3)
    assert len(pairs) == 15
    tested = np.bincount(np.concatenate([test for _, test in pairs]), minlength=len(label))
    assert (tested == 3).all()
    with pytest.raises(InputError, match="class 1 has 4 galaxies"):
        ev.repeated_folds(["1"] * 4 + ["2"] * 9, folds=5)


def test_cross_validation_summary_by_hand():
    values = [0.80, 0.84, 0.78, 0.82, 0.86]
    summary = ev.cross_validation_summary(values, test_share=0.25)
    assert summary["mean"] == pytest.approx(0.82)
    assert summary["sd"] ** 2 == pytest.approx(0.001)
    assert summary["se"] ** 2 == pytest.approx((0.2 + 0.25) * 0.001)
    t = stats.t.ppf(0.975, 4)
    assert summary["high"] - summary["mean"] == pytest.approx(t * summary["se"])
    with pytest.raises(InputError, match="at least two folds"):
        ev.cross_validation_summary([0.8], 0.25)


def test_intervals_of_scores_stay_between_0_and_1():
    near_one = ev.cross_validation_summary([0.99, 0.9], 0.25)
    assert 0 < near_one["low"] < near_one["mean"] and near_one["high"] == 1
    assert ev.cross_validation_summary([0.02, 0.1], 0.25)["low"] == 0
    difference = ev.cross_validation_summary([0.1, -0.1], 0.25, least=-1.0)
    assert difference["low"] == -difference["high"] and -1 <= difference["low"] < 0
    assert ev.seed_spread([0.95, 0.05])["low"] == 0 and ev.seed_spread([0.95, 0.05])["high"] == 1


def test_seed_spread_by_hand():
    spread = ev.seed_spread([0.9, 0.92, 0.94])
    assert spread["mean"] == pytest.approx(0.92) and spread["sd"] == pytest.approx(0.02)
    assert spread["cv"] == pytest.approx(0.02 / 0.92)
    expected = stats.t.interval(0.95, 2, loc=0.92, scale=0.02 / np.sqrt(3))
    np.testing.assert_allclose([spread["low"], spread["high"]], expected)
    assert np.isnan(ev.seed_spread([0.9])["sd"])


# --- runs


def test_run_is_read_and_compared(tmp_path):
    run = ev.read_run(write_run(tmp_path / "03_train_b0"))
    assert run.reported_split == "validation"
    table = ev.compare_with_paper(run)
    assert len(table) == 3 * K + 3
    cell = table.set_index(["label", "metric"]).loc[("2", "recall")]
    assert cell["paper"] == 0.856
    assert cell["difference"] == pytest.approx(cell["ours"] - 0.856)
    assert cell["inside"] == (cell["low"] <= 0.856 <= cell["high"])
    overall = table[table["label"] == "all"].set_index("metric")
    assert overall.loc["accuracy", "paper"] == pytest.approx(291 / 339)
    published = ev.score_intervals(paper.B0_CONFUSION)
    np.testing.assert_allclose(
        overall[["paper", "paper_low", "paper_high"]], published.loc[overall.index]
    )
    assert (overall["n"] == 339).all()


def test_test_part_is_reported_where_there_is_one(tmp_path):
    splits = np.where(np.arange(339) < 100, "test", "validation")
    run = ev.read_run(write_run(tmp_path / "run", splits=splits, protocol="sound"))
    assert run.reported_split == "test" and run.confusion().to_numpy().sum() == 100


def test_merged_run_has_no_published_cells(tmp_path):
    run = ev.read_run(write_run(tmp_path / "run", merge="4+5+"))
    table = ev.compare_with_paper(run)
    assert table["paper"].isna().all() and table["inside"].isna().all()


def test_all_data_run_is_compared_with_its_own_column(tmp_path):
    run = ev.read_run(write_run(tmp_path / "run", sampling="all"))
    assert ev.paper_column(run) == "B0 all data"
    v2m = ev.read_run(write_run(tmp_path / "run2", sampling="all", role="V2M"))
    assert ev.paper_column(v2m) is None


def test_runs_are_paired_by_galaxy(tmp_path):
    a = ev.read_run(write_run(tmp_path / "a"))
    b = ev.read_run(write_run(tmp_path / "b", seed=1))
    merged = ev.Run("c", {**b.settings, "classes": ["1", "2"]}, b.predictions, b.history)
    assert ev.comparable_pairs([a, b, merged]) == [(a, b)]
    shuffled = ev.Run("b", b.settings, b.predictions.sample(frac=1, random_state=0), b.history)
    table = ev.align(a, shuffled).sort_values("galaxy_id")
    np.testing.assert_array_equal(table["predicted_b"], b.predictions["predicted"])
    with pytest.raises(InputError, match="same class merge"):
        ev.align(a, merged)
    relabelled = b.predictions.assign(label="1")
    with pytest.raises(InputError, match="another label"):
        ev.align(a, ev.Run("b", b.settings, relabelled, b.history))


def test_all_pairs_are_compared(tmp_path):
    runs = [ev.read_run(write_run(tmp_path / name, seed=i)) for i, name in enumerate("abc")]
    tests, differences = ev.compare_pairs(runs)
    assert list(zip(tests["a"], tests["b"])) == [("a", "b"), ("a", "c"), ("b", "c")]
    right = [(r.predictions["predicted"] == r.predictions["label"]) for r in runs]
    first = tests.iloc[0]
    assert first["only_a"] == (right[0] & ~right[1]).sum()
    accuracy = differences[differences["metric"] == "accuracy"]
    np.testing.assert_allclose(accuracy["a"], [right[0].mean(), right[0].mean(), right[1].mean()])
    tests, differences = ev.compare_pairs(runs[:1])
    assert tests.empty and differences.empty


def test_protocols_use_what_a_run_has_kept(tmp_path):
    plain = ev.protocols(ev.read_run(write_run(tmp_path / "a"))).set_index("metric")
    assert plain["sound"].isna().all() and (plain["sound_from"] == "not available").all()
    assert plain.loc["accuracy", "paper"] == pytest.approx(291 / 339)
    splits = np.where(np.arange(339) < 100, "test", "validation")
    run = ev.read_run(write_run(tmp_path / "c", splits=splits))
    test = ev.protocols(run).set_index("metric")
    assert test.loc["accuracy", "sound"] == pytest.approx(ev.scores(run.confusion())["accuracy"])
    assert test.loc["accuracy", "published"] == pytest.approx(
        ev.scores(run.confusion("validation"))["accuracy"]
    )


def test_calibrating_a_run(tmp_path):
    run = ev.read_run(write_run(tmp_path / "a"))
    table, curves = ev.calibrate(run)
    label = ev.class_index(run.part()["label"], run.classes)
    assert table.loc["as trained", "nll"] == pytest.approx(
        metrics.log_loss(label, run.probabilities())
    )
    assert all(curve["n"].sum() == 339 for curve in curves.values())


def test_unseen_galaxies_have_their_own_recall(tmp_path):
    splits = np.where(np.arange(339) < 150, "rest", "validation")
    run = ev.read_run(write_run(tmp_path / "run", splits=splits))
    table = ev.unseen_recall(run)
    part = run.part("rest")
    expected = metrics.recall_score(
        part["label"], part["predicted"], labels=list(table.index), average=None
    )
    np.testing.assert_allclose(table["rest"], expected)
    assert table["n_rest"].sum() == 150


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="p_5plus"), "p_5plus is missing"),
        (lambda t: t.assign(galaxy_id=1), "duplicates"),
        (lambda t: t.assign(label="3+4"), r"column label holds \['3\+4'\]"),
        (lambda t: t.assign(p_2=np.nan), "do not add up to 1"),
    ],
)
def test_bad_predictions_are_refused(tmp_path, change, message):
    folder = write_run(tmp_path / "run")
    table = pd.read_parquet(folder / "predictions.parquet")
    change(table).to_parquet(folder / "predictions.parquet")
    with pytest.raises(InputError, match=message):
        ev.read_run(folder)


def test_incomplete_runs_are_refused(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "model.json").write_text("{}")
    with pytest.raises(InputError, match="role, classes, protocol"):
        ev.read_run(folder)
    (folder / "history.csv").unlink()
    with pytest.raises(InputError, match="history.csv is missing"):
        ev.read_run(folder)


# ---- sweeps


def sweep_run(folder, predictions, **settings):
    """A run with given predictions; `settings` as in model.json."""
    base = {"role": "B0", "crop": 64, "merge": "none", "sampling": "down-sampled", "seed": 42}
    settings = {**base, "protocol": "published", "fold": None, "folds": 3, **settings}
    settings |= {"classes": list(ARM_CLASSES)}
    return ev.Run(folder, settings, predictions, pd.DataFrame())


def table(label, predicted, split="validation", first=0):
    ids = np.arange(first, first + len(label))
    return pd.DataFrame({"galaxy_id": ids, "label": label, "split": split, "predicted": predicted})


def test_spread_over_seeds_by_size_is_that_of_each_runs_f1():
    rng = np.random.default_rng(5)
    runs, expected = [], {}
    for crop in (96, 32):
        for seed in (1, 2, 3):
            label, predicted = rng.choice(["2", "3"], 80), rng.choice(["2", "3"], 80)
            runs.append(sweep_run("r", table(label, predicted), crop=crop, seed=seed))
            f1 = metrics.f1_score(label, predicted, average="macro")
            expected.setdefault(crop, []).append(f1)
    spread = ev.size_spread(runs).set_index("crop")
    assert list(spread.index) == [32, 96] and (spread["galaxies"] == 80).all()
    for crop, values in expected.items():
        assert spread.loc[crop, "mean"] == pytest.approx(np.mean(values))
        assert spread.loc[crop, "sd"] == pytest.approx(np.std(values, ddof=1))
        assert spread.loc[crop, "cv"] == pytest.approx(np.std(values, ddof=1) / np.mean(values))
    single = ev.score_intervals(runs[0].confusion()).loc["macro_f1"]
    assert 0.5 < spread["sampling"].mean() / ((single["high"] - single["low"]) / 2) < 2


def test_the_smallest_size_within_one_standard_error_is_chosen():
    columns = ["role", "crop", "mean", "sd", "cv", "n", "one_class"]
    sizes = [
        ("B0", 16, 0.33, 0.00, 0.000, 4, 4),  # learns nothing, and is steady at that
        ("B0", 32, 0.70, 0.01, 0.014, 4, 1),
        ("B0", 64, 0.88, 0.05, 0.057, 4, 0),
        ("B0", 96, 0.90, 0.04, 0.044, 4, 0),  # standard error 0.02: 0.88 is just enough
        ("B0", 128, 0.89, 0.02, 0.022, 4, 0),
        ("V2M", 32, 0.5, np.nan, np.nan, 1, 0),
        ("V2M", 64, 0.6, np.nan, np.nan, 1, 0),
    ]
    choice = ev.choose_size(pd.DataFrame(sizes, columns=columns))
    assert choice.loc["B0", ["best", "chosen", "lowest_cv"]].tolist() == [96, 64, 32]
    assert choice.loc["B0", "least"] == pytest.approx(0.88)
    assert choice.loc["V2M", "chosen"] == 64 and choice.loc["V2M", "lowest_cv"] is pd.NA


def test_no_size_is_chosen_where_nothing_is_learnt():
    label = ["2", "3"] * 20
    constant = sweep_run("a", table(label, ["2"] * 40), crop=32, seed=1)
    learnt = sweep_run("b", table(label, label), crop=64, seed=1)
    again = sweep_run("c", table(label, ["3"] * 40), crop=32, seed=2)
    spread = ev.size_spread([constant, learnt, again])
    assert spread[["n", "one_class"]].to_numpy().tolist() == [[2, 2], [1, 0]]
    assert ev.choose_size(spread).loc["B0", "chosen"] == 64
    nothing = ev.choose_size(ev.size_spread([constant, again]))
    assert nothing.loc["B0", ["best", "chosen", "lowest_cv"]].isna().all()


def test_spread_over_seeds_stands_beside_the_sampling_error():
    rng = np.random.default_rng(1)
    label = rng.choice(ARM_CLASSES, 200)
    runs = [
        sweep_run(f"s{seed}", table(label, rng.permutation(label)), seed=seed) for seed in range(3)
    ]
    others = [
        sweep_run("merged", runs[0].predictions, merge="3+4"),
        sweep_run("other galaxies", table(label, label, first=1000), seed=5),
        sweep_run("fold", runs[0].predictions, fold=0),
    ]
    found = ev.seed_sampling([*runs, *others]).set_index("metric")
    assert list(found.index) == list(ev.SCORES)
    assert (found["seeds"] == 3).all() and (found["galaxies"] == 200).all()
    accuracy = [(run.predictions["predicted"] == label).mean() for run in runs]
    row = found.loc["accuracy"]
    assert row["sd"] == pytest.approx(np.std(accuracy, ddof=1))
    bounds = [ev.wilson(round(200 * a), 200) for a in accuracy]
    half = np.mean([high - low for low, high in bounds]) / 2
    assert row["half_width"] == pytest.approx(half)
    assert row["ratio"] == pytest.approx(1.96 * row["sd"] / half, rel=1e-4)
    assert ev.seed_sampling(runs[:1]).empty


def fold_runs(label, predicted, folds=3, repeats=1, **settings):
    """Runs of all folds; galaxy i is given `predicted[repeat][i]` by the fold that tests it."""
    runs = []
    for fold, (train, test) in enumerate(ev.repeated_folds(label, folds, repeats)):
        shown = table(label, predicted[fold // folds])
        shown.loc[test, "split"], shown.loc[train, "split"] = "test", "train"
        shown.loc[train, "predicted"] = "1"  # whatever it says of these must not count
        runs.append(sweep_run(f"f{fold}", shown, protocol="sound", fold=fold, **settings))
    return runs


def test_cross_validation_counts_every_galaxy_once_by_the_fold_that_tests_it():
    label, _, predicted = simulate(300)
    again = np.where(np.random.default_rng(0).random(300) < 0.3, 0, predicted)
    label, predicted, again = names(label), names(predicted), names(again)
    runs = fold_runs(label, [predicted, again], repeats=2)
    matrix, summary = ev.cross_validate(runs)
    first, second = (
        metrics.confusion_matrix(label, p, labels=ARM_CLASSES) for p in (predicted, again)
    )
    np.testing.assert_allclose(matrix, (first + second) / 2)
    assert summary.loc["accuracy", "value"] == pytest.approx(
        ((label == predicted).mean() + (label == again).mean()) / 2
    )
    # The mean over folds with Nadeau and Bengio's variance, by hand.
    values = [np.mean(r.part("test")["label"] == r.part("test")["predicted"]) for r in runs]
    error = np.sqrt((1 / 6 + 1 / 2) * np.var(values, ddof=1))
    row = summary.loc["accuracy"]
    assert row["fold_mean"] == pytest.approx(np.mean(values))
    assert row["fold_high"] - row["fold_mean"] == pytest.approx(stats.t.isf(0.025, 5) * error)
    # Some galaxies only, and the folds of one repeat as one run.
    some = np.arange(0, 300, 2)
    matrix, _ = ev.cross_validate(runs[:3], some)
    expected = metrics.confusion_matrix(label[some], predicted[some], labels=ARM_CLASSES)
    np.testing.assert_allclose(matrix, expected)
    pooled = ev.pool(runs)
    assert len(pooled.part()) == 300 and pooled.part()["galaxy_id"].is_unique
    np.testing.assert_array_equal(pooled.confusion(), first)
    with pytest.raises(InputError, match="test none of the galaxies"):
        ev.cross_validate(runs, [-1])


def test_the_share_of_an_interval_is_that_of_the_galaxies_trained_on():
    label, _, predicted = simulate(300)
    runs = fold_runs(names(label), [names(predicted)])
    for run in runs:  # a quarter of what is not tested chooses the epoch only
        train = run.predictions.index[run.predictions["split"] == "train"]
        run.predictions.loc[train[::4], "split"] = "validation"
    values = [np.mean(r.part("test")["label"] == r.part("test")["predicted"]) for r in runs]
    row = ev.cross_validate(runs)[1].loc["accuracy"]
    error = np.sqrt((1 / 3 + 100 / 150) * np.var(values, ddof=1))
    half = row["fold_high"] - row["fold_mean"]
    assert half == pytest.approx(stats.t.isf(0.025, 2) * error, rel=0.02)


def test_folds_are_counted_by_repeat():
    label = names(simulate(200)[0])
    ten = fold_runs(label, [label, label], folds=5, repeats=2)
    for run in ten:
        run.settings["folds"] = 5
    assert ev.folds_name(ten) == "2 x 5 folds"
    assert ev.folds_name(ten[:5]) == "5 folds"
    assert ev.folds_name(ten[:7]) == "7 of 2 x 5 folds"
    assert ev.folds_name(ten[:1]) == "1 of 5 folds"
    assert ev.pool(ten).name == "B0, 5 folds"


def test_fold_optimism_by_hand():
    """Two classes; recalls of 0.9 in validation and 0.8 and 0.5 in the test part."""
    runs = []
    for fold, extra in enumerate((0, 2)):
        parts = [
            ("validation", "1", 10, 9),
            ("validation", "2", 10, 9),
            ("test", "1", 10, 8 - extra),
            ("test", "2", 100, 50),  # ten times as frequent as among the validation galaxies
            ("train", "1", 55, 55),
        ]
        rows = [
            (split, m, m if k < right else {"1": "2", "2": "1"}[m])
            for split, m, n, right in parts
            for k in range(n)
        ]
        shown = pd.DataFrame(rows, columns=["split", "label", "predicted"])
        shown.insert(0, "galaxy_id", range(len(shown)))
        runs.append(sweep_run(f"f{fold}", shown, fold=fold, folds=2, protocol="sound"))
    found = ev.fold_optimism(runs)
    values = [0.9 - (0.8 + 0.5) / 2, 0.9 - (0.6 + 0.5) / 2]
    row = found.loc["accuracy"]
    assert row["validation"] == pytest.approx(0.9) and row["test"] == pytest.approx(0.6)
    assert row["optimism"] == pytest.approx(np.mean(values))
    # Student's half-width for two folds is 1.42, of which scores allow what lies from -1 to 1.
    half = stats.t.isf(0.025, 1) * np.sqrt((1 / 2 + 110 / 55) * np.var(values, ddof=1))
    assert half > 1.3 and row[["low", "high"]].tolist() == [-1, 1]
    assert row["sd"] == pytest.approx(np.std(values, ddof=1))
    assert row["folds"] == "2 folds" and not row["told_from_0"]
    single = ev.fold_optimism(runs[:1])
    assert single["low"].isna().all() and single["told_from_0"].isna().all()


def test_runs_are_grouped_by_everything_but_the_fold():
    label, _, predicted = simulate(60)
    label, predicted = names(label), names(predicted)
    plain = fold_runs(label, [predicted])
    weighted = fold_runs(label, [predicted], balance="class weights", sampling="all")
    single = sweep_run("s", table(label, predicted))
    groups = ev.fold_groups([weighted[1], plain[2], single, plain[0], weighted[0], plain[1]])
    assert [[run.settings["fold"] for run in group] for group in groups] == [[0, 1], [0, 1, 2]]
    assert [ev.option(group[0]) for group in groups] == ["class weights", "down-sampled"]
    assert ev.option(sweep_run("a", single.predictions, sampling="all")) == "all data"
    assert ev.paper_column(single) == "B0 down-sampled"
    assert ev.paper_column(weighted[0]) is None


def full_settings(**changed):
    """Settings as a training writes them."""
    settings = {
        **{"role": "B0", "backbone": "EfficientNetLite0", "weights": "imagenet", "crop": 112},
        **{"colour": "grey", "trainable": "frozen", "protocol": "sound", "merge": "none"},
        **{"merge_order": "after split", "sampling": "down-sampled", "choose": "first"},
        **{"max_per_class": 300, "validation_fraction": 0.3, "fold": 0, "folds": 5},
        **{"learning_rate": 1e-4, "epochs": 50, "batch_size": 16, "copies": 5, "seed": 42},
        **{"balance": "focal loss", "order": "every galaxy once", "classes": list(ARM_CLASSES)},
        **{"images": {"image_cache_sha256": "c"}, "assignment_sha256": "a", "start_sha256": "s"},
        **{"initial_weights": {"sha256": "w"}, "best_epoch": 3, "epochs_run": 40},
        **{"decision": None, "weights_sha256": "x", "parameters": {"total": 5}},
    }
    return settings | changed


def trained(name="run", **changed):
    return ev.Run(name, full_settings(**changed), table(["1"], ["1"], "test"), pd.DataFrame())


OUTCOMES = {
    **{"assignment_sha256": "other", "best_epoch": 9, "epochs_run": 50, "decision": [0.0, 1.0]},
    **{"weights_sha256": "y", "parameters": {"total": 6}, "initial_weights": {"sha256": "d"}},
    **{"images": {"image_cache_sha256": "d"}, "start_sha256": "t"},
}


@pytest.mark.parametrize(
    ("name", "value"),
    [r for r in full_settings().items() if r[0] not in {*OUTCOMES, "fold", "role"}],
)
def test_no_two_trainings_that_differ_in_one_setting_are_averaged(name, value):
    """Each setting in turn: none may be forgotten; a new one is in the key by itself."""
    value = value + 1 if type(value) in (int, float) else "another"
    groups = ev.fold_groups([trained(), trained("other", **{name: value, "fold": 1})])
    assert [len(group) for group in groups] == [1, 1]
    assert ev.differing([trained(), trained(**{name: value})]).keys() == {name}


@pytest.mark.parametrize("name", OUTCOMES)
def test_what_came_of_a_training_does_not_tell_trainings_apart(name):
    groups = ev.fold_groups([trained(), trained("b", **{name: OUTCOMES[name], "fold": 1})])
    assert [len(group) for group in groups] == [2]


def test_a_parameter_that_is_yet_to_come_tells_trainings_apart():
    groups = ev.fold_groups([trained(), trained("b", warm_up=5, fold=1)])
    assert [len(group) for group in groups] == [1, 1]


def test_seeds_are_averaged_and_nothing_else():
    runs = [trained(f"s{seed}", fold=None, seed=seed) for seed in (1, 2, 3)]
    assert (ev.seed_sampling(runs)["seeds"] == 3).all()
    runs[2].settings["copies"] = 64
    assert (ev.seed_sampling(runs)["seeds"] == 2).all()
    runs[1].settings["learning_rate"] = 0.1
    assert ev.seed_sampling(runs).empty


def test_sizes_with_other_trainings_have_no_common_mean():
    runs = [
        trained(f"{crop}-{seed}", fold=None, crop=crop, seed=seed)
        for crop in (32, 64)
        for seed in (1, 2)
    ]
    assert ev.size_spread(runs)["n"].tolist() == [2, 2]
    runs[3].settings["max_per_class"] = 100
    with pytest.raises(InputError, match="runs of B0 differ in max_per_class beside crop and seed"):
        ev.size_spread(runs)


def test_groups_that_would_be_called_alike_are_told_apart():
    label = names(simulate(200)[0])
    wide = fold_runs(label, [label], dense_units=1024)
    narrow = fold_runs(label, [label], dense_units=64)
    other = fold_runs(label, [label], role="V2M")
    groups = ev.fold_groups([*wide, *narrow, *other])
    expected = [
        "B0, 3 folds (dense_units = 1024)",
        "B0, 3 folds (dense_units = 64)",
        "V2M, 3 folds",
    ]
    assert ev.group_names(groups) == expected
    assert [run.name for run in ev.pool_groups(groups)] == expected
    other = fold_runs(label, [label], backbone="EfficientNetB0", copies=2)
    groups = ev.fold_groups([*fold_runs(label, [label], backbone="EfficientNetLite0"), *other])
    names_told = ("EfficientNetLite0", "EfficientNetB0")
    expected = [f"B0, 3 folds (backbone = {name})" for name in names_told]
    assert ev.group_names(groups) == expected  # one setting is enough
    shifted = [ev.Run(r.name, r.settings, wide[0].predictions, r.history) for r in wide]
    with pytest.raises(InputError, match="is tested by two folds"):
        ev.pool(shifted)


def test_the_probability_of_the_predicted_class_is_not_the_largest_where_offsets_decide():
    shown = pd.DataFrame(
        [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], columns=["p_2", "p_5plus", "p_unclear"]
    )
    decided = ev.decide(shown.to_numpy(), np.log([0.9, 0.05, 0.05]))
    shown["predicted"] = np.array(["2", "5+", "?"])[decided]
    assert shown["predicted"].tolist() == ["5+", "?"]
    np.testing.assert_allclose(ev.predicted_probability(shown), [0.2, 0.6])
    with pytest.raises(InputError, match="class 3 is predicted"):
        ev.predicted_probability(shown.assign(predicted="3"))


def test_reliability_is_that_of_the_class_predicted():
    p = np.array([[0.7, 0.3], [0.7, 0.3], [0.2, 0.8]])
    found = ev.reliability(p, np.array([1, 0, 1]), 10, predicted=np.array([1, 1, 1]))
    np.testing.assert_allclose(found["confidence"], [0.3, 0.8])
    np.testing.assert_allclose(found["accuracy"], [0.5, 1])


def test_sound_scores_are_of_the_training_whatever_part_of_the_sample_it_has():
    """A published run and folds divide the sample otherwise, by need; else they must not differ."""
    label, _, predicted = simulate(300)
    run = sweep_run("p", table(names(label), names(label)), dense_units=1024)
    folds = fold_runs(names(label), [names(predicted)], dense_units=1024, validation_fraction=0.125)
    narrow = fold_runs(names(label), [names(predicted)], dense_units=64, validation_fraction=0.125)
    assert (ev.protocols(run, narrow)["sound_from"] == "not available").all()
    assert (ev.protocols(run, folds)["sound_from"] == "cross-validation, 3 folds").all()


def test_sound_scores_come_from_the_folds_of_the_same_training():
    label, _, predicted = simulate(400, sharpness=3)
    label, predicted = names(label), names(predicted)
    shown = table(label, label)
    shown["split"] = np.resize(["train", "train", "validation", "rest"], 400)
    published = sweep_run("p", shown)
    other = fold_runs(label, [label], crop=32)
    folds = fold_runs(label, [predicted])
    found = ev.protocols(published, [*other, published, *folds]).set_index("metric")
    used = shown["split"] != "rest"
    expected = metrics.f1_score(label[used], predicted[used], average="macro")
    assert found.loc["macro_f1", "published"] == 1
    assert found.loc["macro_f1", "sound"] == pytest.approx(expected)
    assert (found["sound_from"] == "cross-validation, 3 folds").all()
    without = ev.protocols(published, other)
    assert (without["sound_from"] == "not available").all() and without["sound"].isna().all()
