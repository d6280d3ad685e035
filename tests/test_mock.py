"""The simulated survey: reproducible, in GZ2's layout, and true to its own truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from PIL import Image
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from lib.figures.survey import log_polar
from lib.schema import ARM_CLASSES, CLEAN_COLUMNS, RHO_COLUMNS, InputError
from lib.surveys import open_survey
from lib.surveys.mock import (
    ANSWERS,
    MASS_SHIFT,
    QUESTIONS,
    arm_mask,
    bulge_mask,
    draw_galaxies,
    render,
    write_survey,
)
from lib.surveys.mock.features import NOISE, simple_features
from lib.surveys.mock.galaxies import ARM_FREQUENCIES
from lib.surveys.mock.render import through_jpeg
from lib.surveys.mock.survey import MASS_DEFECTS, draw_truth
from lib.surveys.mock.votes import (
    ARM_CONFUSION,
    CLEAN_THRESHOLDS,
    answer_probabilities,
    arm_visibility,
    draw_counts,
    fractions,
    vote_columns,
)

N = 130
SIZE = 48


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey") / "mock"
    write_survey(folder, N, 7, size=SIZE, workers=2, spiral_fraction=0.8)
    return folder


@pytest.fixture(scope="module")
def votes(written):
    return pd.read_csv(written / "zoo2MainSpecz.csv.gz")


@pytest.fixture(scope="module")
def large():
    """A survey large enough for statistics, without images."""
    truth = draw_truth(6000, 3, spiral_fraction=0.8, arm_frequencies="enriched")
    rng = np.random.default_rng(4)
    counts = draw_counts(rng, answer_probabilities(truth))
    return truth, counts


def spiral(n_arms, **changes):
    """Truth row of a bare face-on spiral with regular arms."""
    truth = draw_galaxies(
        np.random.default_rng(1), 1, spiral_fraction=1, frequencies=only("2" if n_arms else "?")
    )
    row = truth.iloc[0].copy()
    plain = {
        "n_arms": n_arms,
        "inclination": 0.0,
        "arm_inequality": 0.0,
        "arm_wiggle": 0.0,
        "lopsidedness": 0.0,
        "flocculence": 0.0,
        "dust": 0.0,
        "bar_strength": 0.0,
        "bar_length": 0.0,
        "arm_contrast": 2.0,
        "arm_start": 0.12,
        "arm_end": 1.4,
        "arm_width": 0.2,
        "arm_breaks": 0.0,
        "offset_x": 0.0,
        "offset_y": 0.0,
        "pitch": 20.0,
        "bulge_fraction": 0.05,
        "mag_r": 13.5,
        "r90_arcsec": 20.0,
    }
    for name, value in (plain | changes).items():
        row[name] = value
    return row


def only(arm_class):
    return {c: float(c == arm_class) for c in ARM_CLASSES}


def face_on_fractions(n, seed):
    """Fractions of the arm numbers of simulated galaxies that pass the paper's cuts but purity."""
    truth = draw_truth(n, seed, spiral_fraction=0.9)
    counts = draw_counts(np.random.default_rng(seed), answer_probabilities(truth))
    share = dict(zip(ANSWERS, fractions(counts).T, strict=True))
    kept = (share["t01_smooth_or_features_a02_features_or_disk"] > 0.43) & (
        (share["t02_edgeon_a05_no"] > 0.715) & (share["t04_spiral_a08_spiral"] > 0.715)
    )
    return fractions(counts)[kept][:, QUESTIONS["t11"]]


def mode_spectrum(galaxy, image):
    """Mean amplitude of each angular mode between 0.3 and 1 R90."""
    log_r, _, polar = log_polar(galaxy, image)
    ring = polar[(log_r > np.log(0.3)) & (log_r < 0)]
    return np.abs(np.fft.rfft(ring, axis=1)).mean(axis=0)


# --- layout ---------------------------------------------------------------------------------------


def test_files_are_those_of_the_real_survey(written):
    names = {p.name for p in written.iterdir()}
    assert names == {
        "zoo2MainSpecz.csv.gz",
        "gz2_filename_mapping.csv",
        "gz2sample.csv.gz",
        "galSpecInfo-dr8.fits",
        "galSpecExtra-dr8.fits",
        "images",
        "truth.parquet",
    }
    mapping = pd.read_csv(written / "gz2_filename_mapping.csv")
    assert list(mapping.columns) == ["objid", "sample", "asset_id"]
    assert {p.stem for p in (written / "images").iterdir()} == set(mapping["asset_id"].astype(str))


def test_survey_opens_with_the_reader_of_the_real_one(written):
    survey = open_survey("mock", written)
    assert len(survey.votes) == N and survey.votes["has_image"].all()
    assert (survey.votes["galaxy_id"].to_numpy() == survey.truth["galaxy_id"].to_numpy()).all()
    assert survey.votes["redshift"].notna().all()


@pytest.mark.real
def test_vote_columns_are_those_of_the_real_table(votes, gz2_tables):
    real = pd.read_csv(gz2_tables / "gz2_ferengi_288.csv", nrows=1).columns
    real = [c for c in real if c[:2] in ("t0", "t1")]
    assert [c for c in votes.columns if c[:2] in ("t0", "t1")] == real


def test_first_columns(votes):
    assert list(votes.columns[:11]) == [
        "specobjid",
        "dr8objid",
        "dr7objid",
        "ra",
        "dec",
        "rastring",
        "decstring",
        "sample",
        "gz2class",
        "total_classifications",
        "total_votes",
    ]
    assert votes.shape[1] == 11 + 37 * 6


def test_identifiers_have_their_digits_and_are_unique(votes):
    assert (votes["specobjid"].astype(str).str.len() == 19).all()
    assert (votes["dr7objid"].astype(str).str.len() == 18).all()
    for name in ("specobjid", "dr8objid", "dr7objid"):
        assert votes[name].dtype == np.int64 and votes[name].is_unique


def test_class_names_follow_the_votes(votes):
    first = votes[[f"{a}_count" for a in ANSWERS[:3]]].to_numpy().argmax(axis=1)
    letters = np.array(["E", "S", "A"])[first]
    assert (votes["gz2class"].str[0] == letters).all()
    edge_on = votes["t02_edgeon_a04_yes_count"] > votes["t02_edgeon_a05_no_count"]
    assert (votes["gz2class"].str.startswith("Se") == (edge_on & (letters == "S"))).all()


# --- reproducibility --------------------------------------------------------------------------


def test_one_seed_gives_the_same_bytes_with_any_number_of_workers(written, tmp_path):
    write_survey(tmp_path / "mock", N, 7, size=SIZE, workers=1, spiral_fraction=0.8)
    for path in written.rglob("*.*"):
        again = tmp_path / "mock" / path.relative_to(written)
        assert path.read_bytes() == again.read_bytes(), path.name


def test_another_seed_gives_another_survey(votes):
    assert not draw_truth(N, 8)["galaxy_id"].isin(votes["dr7objid"]).any()


def test_a_galaxy_is_rendered_again_from_its_row(written):
    truth = pd.read_parquet(written / "truth.parquet")
    row = truth.iloc[5]
    saved = np.asarray(Image.open(written / "images" / f"{row.asset_id}.jpg"), dtype=float)
    again = render(row, SIZE)
    assert again.shape == (SIZE, SIZE, 3) and again.dtype == np.uint8
    assert (again == render(row, SIZE)).all()
    assert np.abs(saved - again).mean() < 6  # JPEG loses a little


def test_a_galaxy_looks_the_same_at_every_size():
    row = draw_galaxies(np.random.default_rng(3), 1, spiral_fraction=1).iloc[0]
    large = render(row, 424).astype(float).mean(axis=-1)
    small = render(row, 106).astype(float).mean(axis=-1)
    binned = large.reshape(106, 4, 106, 4).mean(axis=(1, 3))
    centre = slice(36, 70)
    assert small[centre, centre].mean() == pytest.approx(binned[centre, centre].mean(), rel=0.05)
    assert np.corrcoef(binned[centre, centre].ravel(), small[centre, centre].ravel())[0, 1] > 0.97


def test_a_failed_write_leaves_the_earlier_survey(written, monkeypatch):
    before = (written / "zoo2MainSpecz.csv.gz").read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("lib.surveys.mock.survey._mass_tables", fail)
    with pytest.raises(OSError, match="disk full"):
        write_survey(written, 10, 1, size=SIZE)
    assert (written / "zoo2MainSpecz.csv.gz").read_bytes() == before
    assert not [p for p in written.parent.iterdir() if p != written]


# --- volunteers -------------------------------------------------------------------------------


def test_counts_add_up_down_the_tree(large):
    _, counts = large
    total = {task: counts[:, part].sum(axis=1) for task, part in QUESTIONS.items()}
    answer = {name: counts[:, k] for k, name in enumerate(ANSWERS)}
    assert (total["t02"] == answer["t01_smooth_or_features_a02_features_or_disk"]).all()
    assert (total["t03"] == answer["t02_edgeon_a05_no"]).all()
    assert (total["t04"] == total["t03"]).all() and (total["t05"] == total["t03"]).all()
    assert (total["t10"] == answer["t04_spiral_a08_spiral"]).all()
    assert (total["t11"] == total["t10"]).all()
    assert (total["t09"] == answer["t02_edgeon_a04_yes"]).all()
    assert (total["t07"] == answer["t01_smooth_or_features_a01_smooth"]).all()
    stars = answer["t01_smooth_or_features_a03_star_or_artifact"]
    assert (total["t06"] == total["t01"] - stars).all()
    assert (total["t08"] == answer["t06_odd_a14_yes"]).all()


def test_measures_of_an_answer_agree(votes):
    count, weight, raw, weighted, debiased, flag = (
        votes[[f"{a}_{m}" for a in ANSWERS]].to_numpy()
        for m in ("count", "weight", "fraction", "weighted_fraction", "debiased", "flag")
    )
    assert (weight <= count + 1e-9).all() and (weight >= 0.001 * count - 1e-9).all()
    for part in QUESTIONS.values():
        asked = count[:, part].sum(axis=1) > 0
        for share, amount in ((raw, count), (weighted, weight)):
            expected = amount[asked][:, part]
            expected = expected / expected.sum(axis=1, keepdims=True)
            np.testing.assert_allclose(share[asked][:, part], expected, atol=6e-4)
        np.testing.assert_allclose(debiased[asked][:, part].sum(axis=1), 1, atol=4e-3)
    assert ((debiased >= 0) & (debiased <= 1)).all()
    assert (votes["total_votes"] == count.sum(axis=1)).all()
    assert set(np.unique(flag)) <= {0, 1} and (debiased[flag == 1] >= 0.8).all()


def test_clean_flags_of_the_arm_number(votes):
    """Recomputed galaxy by galaxy from the published rule."""
    arms = [a for a in ANSWERS if a.startswith("t11")]
    for row in votes.to_dict("records"):
        asked = sum(row[f"{a}_count"] for a in arms)
        spiral_share = row["t04_spiral_a08_spiral_weighted_fraction"]
        passes = asked >= 20 and spiral_share >= CLEAN_THRESHOLDS["t11"]["a08"]
        for a in arms:
            assert row[f"{a}_flag"] == int(passes and row[f"{a}_debiased"] >= 0.8)


def test_debiasing_raises_features_of_far_galaxies_only(large):
    truth, counts = large
    table = vote_columns(np.random.default_rng(0), counts, truth["redshift"].to_numpy())
    stem = "t01_smooth_or_features_a02_features_or_disk"
    change = table[f"{stem}_debiased"] - table[f"{stem}_weighted_fraction"]
    near = (truth["redshift"] < 0.05).to_numpy()
    assert (change[near].abs() < 2e-3).all()
    undecided = table[f"{stem}_fraction"].between(0.2, 0.8).to_numpy()
    assert (change[~near & undecided & (truth["redshift"] > 0.08).to_numpy()] > 0).all()


def test_probabilities_are_proper(large):
    truth, _ = large
    table = answer_probabilities(truth)
    assert (table > 0).all()
    for part in QUESTIONS.values():
        np.testing.assert_allclose(table[:, part].sum(axis=1), 1)


def test_counts_follow_the_probabilities(large):
    truth, counts = large
    expected = answer_probabilities(truth)
    for part in QUESTIONS.values():
        asked = counts[:, part].sum(axis=1)
        few = asked < 10
        shares = counts[~few][:, part] / asked[~few, None]
        np.testing.assert_allclose(shares.mean(axis=0), expected[~few][:, part].mean(0), atol=0.02)


def test_visible_arms_are_counted_and_faint_ones_are_not(large):
    truth, counts = large
    arms = counts[:, QUESTIONS["t11"]]
    asked = arms.sum(axis=1)
    answer = np.array(ARM_CLASSES)[arms.argmax(axis=1)]
    visible = arm_visibility(truth)
    armed = (truth["n_arms"] > 0).to_numpy() & (asked >= 10)
    clear, faint = armed & (visible > 0.95), armed & (visible < 0.1)
    true_class = truth["arm_class"].to_numpy()
    assert clear.sum() > 500 and faint.sum() > 100
    right = answer == true_class
    assert right[clear].mean() > 0.55 > 0.15 > right[faint].mean()
    assert (answer == "?")[faint].mean() > 0.65


def test_purity_of_labels_is_that_of_real_ones():
    """Share of labels with a fraction above 0.8 after the paper's other cuts (issue's table)."""
    rho = face_on_fractions(20000, 5)
    label, pure = rho.argmax(axis=1), rho.max(axis=1) > 0.8
    found = [pure[label == k].mean() for k in range(6)]
    np.testing.assert_allclose(found, [0.16, 0.48, 0.05, 0.00, 0.03, 0.06], atol=0.08)
    rng = np.random.default_rng(1)
    again = np.array([rng.multinomial(25, r / r.sum()) for r in rho]).argmax(axis=1)
    assert (again == label).mean() < 0.93


@pytest.mark.real
def test_confusion_and_mix_of_labels_are_those_of_real_galaxies(challenge_sample):
    real = open_survey("challenge", challenge_sample).votes
    real = real.query("f_features > 0.43 and f_not_edge_on > 0.715 and f_spiral > 0.715")
    means, shares = [], []
    for rho in (real[list(RHO_COLUMNS)].to_numpy(), face_on_fractions(20000, 5)):
        label = rho.argmax(axis=1)
        means.append(np.stack([rho[label == k].mean(axis=0) for k in range(6)]))
        shares.append(np.bincount(label, minlength=6) / len(label))
    np.testing.assert_allclose(means[0], ARM_CONFUSION, atol=0.02)
    np.testing.assert_allclose(means[1], means[0], atol=0.07)
    np.testing.assert_allclose(shares[1], shares[0], atol=0.05)


@pytest.mark.parametrize(
    "change", [{"arm_contrast": 0.2}, {"mag_r": 19.5}, {"r90_arcsec": 4.0}, {"pitch": 8.0}]
)
def test_arms_are_harder_to_see_when(change):
    easy = pd.DataFrame([spiral(4, arm_contrast=1.0)])
    hard = pd.DataFrame([spiral(4, **({"arm_contrast": 1.0} | change))])
    assert arm_visibility(hard)[0] < arm_visibility(easy)[0]


# --- shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_arms", [1, 2, 3, 4, 5, 6])
def test_image_and_mask_have_the_true_number_of_arms(n_arms):
    galaxy = spiral(n_arms)
    image = mode_spectrum(galaxy, render(galaxy, 424).mean(axis=-1))
    mask = mode_spectrum(galaxy, arm_mask(galaxy, 424))
    assert image[1:9].argmax() + 1 == n_arms
    assert mask[1:9].argmax() + 1 == n_arms


@pytest.mark.parametrize("winding", [-1, 1])
@pytest.mark.parametrize("pitch", [12.0, 20.0, 32.0])
def test_arms_are_logarithmic_spirals_of_the_true_pitch(pitch, winding):
    """The phase of mode m advances linearly in ln r, by m / tan(pitch)."""
    galaxy = spiral(2, pitch=pitch, winding=winding, inclination=40.0, position_angle=70.0)
    for image in (arm_mask(galaxy, 424), render(galaxy, 424).mean(axis=-1)):
        log_r, _, polar = log_polar(galaxy, image)
        ring = (log_r > np.log(0.3)) & (log_r < np.log(0.9))
        phase = np.unwrap(np.angle(np.fft.rfft(polar[ring], axis=1)[:, 2]))
        slope = stats.linregress(log_r[ring], phase).slope
        expected = -2 * winding / np.tan(np.radians(pitch))
        assert slope == pytest.approx(expected, rel=0.12)


def test_masks_of_galaxies_without_arms_are_empty():
    assert not arm_mask(spiral(0), 64).any()
    smooth = draw_galaxies(np.random.default_rng(2), 40, spiral_fraction=0)
    assert not any(arm_mask(row, 32).any() for row in smooth.itertuples())


def test_arms_are_brighter_than_the_disc_between_them():
    galaxy = spiral(3)
    image = render(galaxy, 424).mean(axis=-1)
    y, x = np.mgrid[:424, :424] - 211.5
    ring = np.abs(np.hypot(x, y) - 30) < 8
    mask = arm_mask(galaxy, 424)
    assert image[ring & mask].mean() > 1.3 * image[ring & ~mask].mean()


def test_bulge_mask_lies_at_the_centre_and_has_its_size():
    galaxy = spiral(2, bulge_radius=0.2, axis_ratio=0.8, bulge_fraction=0.1)
    mask = bulge_mask(galaxy, 424)
    area = np.pi * (2 * 0.2 * 50) ** 2 * 0.8
    assert mask.sum() == pytest.approx(area, rel=0.02)
    y, x = np.nonzero(mask)
    assert abs(y.mean() - 211.5) < 0.5 and abs(x.mean() - 211.5) < 0.5


def test_inclination_and_position_angle_show_in_the_image():
    galaxy = spiral(0, inclination=60.0, position_angle=30.0, flocculence=0.0)
    image = render(galaxy, 424).mean(axis=-1)
    y, x = np.mgrid[:424, :424] - 211.5
    weight = np.where(np.hypot(x, y) < 60, np.maximum(image - 15, 0), 0)
    xx, yy, xy = ((weight * a).sum() for a in (x * x, y * y, -x * y))
    angle = np.degrees(0.5 * np.arctan2(2 * xy, xx - yy))
    assert angle == pytest.approx(30, abs=5)
    major, minor = np.linalg.eigvalsh([[xx, xy], [xy, yy]])[::-1]
    assert np.sqrt(minor / major) < 0.7


def test_fainter_galaxies_are_darker_and_bulges_redder_than_discs():
    galaxy, faint = spiral(2, bulge_fraction=0.3), spiral(2, bulge_fraction=0.3, mag_r=15.5)
    image = render(galaxy, 212).astype(float)
    assert render(faint, 212)[80:132, 80:132].mean() < 0.8 * image[80:132, 80:132].mean()
    y, x = np.mgrid[:212, :212] - 105.5
    radius = np.hypot(x, y)
    blue = [
        image[..., 2][m].sum() / image[..., 0][m].sum() for m in (radius < 3, abs(radius - 18) < 4)
    ]
    assert blue[1] > blue[0]


# --- no short cuts ------------------------------------------------------------------------------


def test_no_property_but_the_arms_differs_between_classes(large):
    truth, _ = large
    spirals = truth[truth["kind"] == "spiral"]
    # The mass has its built-in shifts; the rest follows from the arms or is an identifier.
    derived = {"n_arms", "log_mass", "arm_visibility", "galaxy_id", "asset_id"}
    numbers = spirals.select_dtypes("number").columns.difference(derived)
    assert {"lopsidedness", "pitch", "arm_width", "flocculence", "sky_noise"} <= set(numbers)
    for name in numbers:
        groups = [g for _, g in spirals.groupby("arm_class")[name]]
        assert stats.kruskal(*groups).pvalue > 1e-4, name


def test_discs_without_arms_are_lopsided_too(large):
    truth, _ = large
    for chosen in (truth["kind"] == "disc", truth["arm_class"] == "?"):
        assert 0.15 < (truth.loc[chosen, "lopsidedness"] > 0.3).mean() < 0.3


@pytest.fixture(scope="module")
def measured():
    """Simple features of 40 spirals of each class."""
    truth = draw_galaxies(
        np.random.default_rng(3), 240, spiral_fraction=1, frequencies=dict.fromkeys(ARM_CLASSES, 1)
    )
    table = pd.DataFrame([simple_features(render(g, 212)) for g in truth.itertuples(index=False)])
    return table, truth["arm_class"]


def test_the_first_moment_does_not_give_one_arm_away(measured):
    table, classes = measured
    assert 0.35 < roc_auc_score(classes == "1", table["first_moment"]) < 0.66


def test_no_simple_feature_gives_the_class_away(measured):
    table, classes = measured
    tree = DecisionTreeClassifier(max_depth=3, class_weight="balanced", random_state=0)
    for name in table:
        found = cross_val_predict(tree, table[[name]], classes, cv=5)
        assert balanced_accuracy_score(classes, found) < 0.28, name  # chance: 0.17 +- 0.025


@pytest.mark.real
@pytest.mark.slow
def test_noise_and_simple_features_hardly_tell_simulated_from_real(challenge_sample):
    real = open_survey("challenge", challenge_sample).votes.query(
        "has_image and f_features > 0.43 and f_not_edge_on > 0.715 and f_spiral > 0.715"
    )
    images = [np.asarray(Image.open(challenge_sample / p)) for p in real["image_path"][:200]]
    mock = draw_galaxies(np.random.default_rng(5), 200, spiral_fraction=1)
    images += [through_jpeg(render(g, 424)) for g in mock.itertuples(index=False)]
    table = pd.DataFrame([simple_features(image) for image in images])
    origin = np.repeat([0, 1], 200)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    for columns, bound in ((list(NOISE), 0.75), (list(table), 0.85)):
        p = cross_val_predict(model, table[columns], origin, cv=folds, method="predict_proba")
        assert roc_auc_score(origin, p[:, 1]) < bound


# --- class mix and masses ---------------------------------------------------------------------


@pytest.mark.parametrize("name", list(ARM_FREQUENCIES))
def test_class_mix_is_as_asked(name):
    truth = draw_galaxies(np.random.default_rng(0), 8000, spiral_fraction=0.5, frequencies=name)
    spirals = truth[truth["kind"] == "spiral"]
    assert len(spirals) / len(truth) == pytest.approx(0.5, abs=0.02)
    found = spirals["arm_class"].value_counts().reindex(list(ARM_CLASSES))
    wanted = pd.Series(ARM_FREQUENCIES[name])
    wanted = wanted / wanted.sum() * len(spirals)
    assert stats.chisquare(found, wanted).pvalue > 1e-3


def test_galaxies_keep_the_limits_of_gz2():
    truth = draw_galaxies(np.random.default_rng(0), 2000)
    assert (truth["mag_r"] < 17).all() and (truth["r90_arcsec"] > 3).all()
    face_on = truth["kind"].isin(["spiral", "disc"])
    assert truth.loc[face_on, "inclination"].max() < 70


def test_mass_files_are_matched_line_by_line(written):
    info = Table.read(written / "galSpecInfo-dr8.fits")
    extra = Table.read(written / "galSpecExtra-dr8.fits")
    assert len(info) == len(extra)
    assert (np.asarray(info["SPECOBJID"], str) == np.asarray(extra["SPECOBJID"], str)).all()
    assert {"RA", "DEC", "Z", "Z_WARNING", "RELIABLE", "PLATEID", "MJD", "FIBERID"} <= set(
        info.colnames
    )
    assert {"LGM_TOT_P50", "SFR_TOT_P50", "BPTCLASS"} <= set(extra.colnames)


def test_masses_of_the_files_are_those_of_the_truth(written):
    truth = pd.read_parquet(written / "truth.parquet")
    info = Table.read(written / "galSpecInfo-dr8.fits")
    extra = Table.read(written / "galSpecExtra-dr8.fits")
    ids = [int(i) if str(i).strip().isdigit() else -1 for i in info["SPECOBJID"]]
    row = {i: k for k, i in enumerate(ids) if i > 0}
    for galaxy in truth.itertuples():
        if galaxy.mass_quality == "unmatched":
            assert galaxy.specobjid not in row
            continue
        k = row[galaxy.specobjid]
        mass = extra["LGM_TOT_P50"][k]
        if galaxy.mass_quality == "no mass":
            assert mass == -9999
        else:
            assert mass == pytest.approx(galaxy.log_mass, abs=0.3)
        assert (info["RELIABLE"][k] == 0) == (galaxy.mass_quality == "unreliable")
        assert (info["Z_WARNING"][k] != 0) == (galaxy.mass_quality == "bad redshift")
        assert info["Z"][k] == pytest.approx(galaxy.redshift, abs=1e-4)


def test_mass_shifts_and_defects_are_as_documented(large):
    truth, _ = large
    spirals = truth[truth["kind"] == "spiral"]
    # Compared at equal redshift, since mass rises with it.
    slope, _, *_ = stats.linregress(np.log10(spirals["redshift"]), spirals["log_mass"])
    mass = spirals["log_mass"] - slope * np.log10(spirals["redshift"])
    plain = mass[~spirals["arm_class"].isin(MASS_SHIFT)]
    for arm_class in ARM_CLASSES:
        chosen = mass[spirals["arm_class"] == arm_class]
        error = np.hypot(chosen.sem(), plain.sem())
        assert abs(chosen.mean() - plain.mean() - MASS_SHIFT.get(arm_class, 0)) < 3.5 * error
    assert MASS_SHIFT["1"] > 0 > MASS_SHIFT["3"]
    for defect, share in MASS_DEFECTS.items():
        found = (truth["mass_quality"] == defect).sum()
        assert stats.binomtest(int(found), len(truth), share).pvalue > 1e-3


# --- whole chain, bad input -----------------------------------------------------------------------


def test_every_class_passes_a_paper_like_cut(large):
    truth, counts = large
    table = vote_columns(np.random.default_rng(0), counts, truth["redshift"].to_numpy())
    keep = (
        (table["t01_smooth_or_features_a02_features_or_disk_weighted_fraction"] > 0.43)
        & (table["t02_edgeon_a05_no_weighted_fraction"] > 0.715)
        & (table["t04_spiral_a08_spiral_weighted_fraction"] > 0.715)
        & (table["t04_spiral_a08_spiral_count"] > 20)
    )
    arms = table[[f"{a}_debiased" for a in ANSWERS[QUESTIONS["t11"]]]][keep]
    shares = np.bincount(arms.to_numpy().argmax(axis=1), minlength=6) / len(truth)
    assert (shares > 0.03).all()
    rejected = ~keep & truth["kind"].isin(["smooth", "edge-on"])
    assert rejected.sum() / truth["kind"].isin(["smooth", "edge-on"]).sum() > 0.98


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"n_galaxies": 0}, "number of galaxies is 0"),
        ({"size": 4}, "size is 4"),
        ({"workers": 0}, "workers is 0"),
        ({"spiral_fraction": 1.5}, "spiral_fraction is 1.5"),
        ({"arm_frequencies": "flat"}, "'flat'"),
        ({"arm_frequencies": {"1": 1.0, "7": 2.0}}, "7"),
        ({"arm_frequencies": {c: -1.0 for c in ARM_CLASSES}}, "at least 0"),
    ],
)
def test_bad_parameters_are_named_and_nothing_is_written(parameters, named, tmp_path):
    with pytest.raises(InputError, match=named):
        write_survey(tmp_path / "mock", **({"n_galaxies": 5, "seed": 1} | parameters))
    assert not list(tmp_path.iterdir())


def test_reader_sees_the_written_fractions(written, votes):
    table = open_survey("mock", written).votes
    raw = votes.sort_values("dr7objid")
    for rho, clean, answer in zip(
        RHO_COLUMNS, CLEAN_COLUMNS, ANSWERS[QUESTIONS["t11"]], strict=True
    ):
        np.testing.assert_array_equal(table[rho], raw[f"{answer}_debiased"])
        np.testing.assert_array_equal(table[clean].astype(int), raw[f"{answer}_flag"])
