"""Cuts, labels, merges, down-sampling and split, against hand-made tables and the paper."""

import ast
import math

import numpy as np
import pandas as pd
import pytest
import tables
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from lib import paper, selection
from lib.schema import ARM_CLASSES, CLEAN_COLUMNS, MERGES, RHO_COLUMNS, InputError, merged_classes
from lib.surveys import gz2, open_survey

NOTEBOOK = ast.parse((ROOT / "notebooks" / "01_sample_selection.py").read_text())
WRITTEN = {
    statement.targets[0].id: ast.literal_eval(statement.value)
    for statement in NOTEBOOK.body
    if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.List)
    and getattr(statement.targets[0], "id", None) in ("paper_text", "authors_code")
}  # fmt: skip
PAPER_TEXT, AUTHORS = WRITTEN["paper_text"], WRITTEN["authors_code"]
ALL = [m for m, n in paper.CLASS_COUNTS.items() for _ in range(n)]


def kept(votes, cuts):
    """Positions of the rows of `votes` (from `tables.votes`) that pass."""
    try:
        sample, _ = selection.select(votes, cuts)
    except InputError as error:
        assert "no galaxy passes" in str(error)
        return []
    return (sample["galaxy_id"] - tables.FIRST_ID).tolist()


def thousand(seed=0):
    """Galaxies of all kinds, with every column that a cut can need."""
    rng = np.random.default_rng(seed)
    votes = tables.votes(list(rng.choice(ARM_CLASSES, 1000)))
    for column in ("f_features", "f_not_edge_on", "f_spiral"):
        votes[column] = (0.3 + 0.7 * rng.random(1000)).round(3)
    votes["n_spiral"] = rng.integers(0, 50, 1000).astype(float)
    votes["total_votes"] = rng.integers(0, 300, 1000).astype(float)
    votes[list(RHO_COLUMNS)] = rng.dirichlet(0.15 * np.ones(6), 1000)
    votes["has_image"] = rng.random(1000) < 0.9
    return votes


# ---- cuts


@pytest.mark.parametrize(
    ("column", "value", "text", "authors"),
    [
        ("f_features", 0.430, False, True),
        ("f_features", 0.429, False, False),
        ("f_features", 0.431, True, True),
        ("f_not_edge_on", 0.715, False, True),
        ("f_not_edge_on", 0.714, False, False),
        ("f_spiral", 0.715, False, True),
        ("f_spiral", 0.619, False, True),
        ("f_spiral", 0.618, False, False),
        ("n_spiral", 20, False, True),
        ("n_spiral", 21, True, True),
        ("n_spiral", 0, False, True),
        ("total_votes", 20, True, False),  # 20 x 0.9 < 20
        ("total_votes", 23, True, False),  # 23 x 0.9 x 0.95 = 19.67
        ("total_votes", 24, True, True),  # 24 x 0.9 x 0.95 = 20.52; the spiral share is not used
        ("clean_2", False, True, False),
        ("has_image", False, False, False),
    ],
)
def test_each_threshold_of_section_1(column, value, text, authors):
    votes = tables.votes(["2", "2"])
    votes.loc[1, column] = value
    assert kept(votes, PAPER_TEXT) == ([0, 1] if text else [0])
    assert kept(votes, AUTHORS) == ([0, 1] if authors else [0])


@pytest.mark.parametrize(("rho", "passes"), [(0.8, False), (0.801, True), (0.3, False)])
def test_only_paper_text_cuts_on_the_debiased_fraction(rho, passes):
    votes = tables.votes(["3"], rho=rho)
    assert kept(votes, PAPER_TEXT) == ([0] if passes else [])
    assert kept(votes, AUTHORS) == [0]


def test_the_clean_flag_is_that_of_the_label():
    votes = tables.votes(["2", "?"])
    votes.loc[1, "clean_unclear"], votes.loc[1, "clean_2"] = False, True
    assert kept(votes, AUTHORS) == [0]


def test_cuts_agree_with_a_plain_query():
    votes = thousand()
    votes["best"] = votes[list(RHO_COLUMNS)].max(axis=1)
    sample, cuts = selection.select(votes, PAPER_TEXT)
    expected = votes.query(
        "f_features > 0.43 and f_not_edge_on > 0.715 and f_spiral > 0.715 and n_spiral > 20 "
        "and best > 0.8 and has_image"
    )
    assert sample["galaxy_id"].tolist() == expected["galaxy_id"].tolist()
    assert len(expected) > 3
    assert cuts["kept"].tolist()[:3] == [
        1000,
        (votes["f_features"] > 0.43).sum(),
        ((votes["f_features"] > 0.43) & (votes["f_not_edge_on"] > 0.715)).sum(),
    ]
    authors, _ = selection.select(votes, AUTHORS)
    expected = votes.query(
        "f_features >= 0.43 and f_not_edge_on >= 0.715 and f_spiral >= 0.619 and total_votes >= 20 "
        "and total_votes * f_features >= 20 and total_votes * f_features * f_not_edge_on >= 20 "
        "and has_image"
    )
    best = expected[list(RHO_COLUMNS)].to_numpy().argmax(axis=1)
    clean = expected[list(CLEAN_COLUMNS)].to_numpy(bool)[np.arange(len(best)), best]
    assert 0 < clean.sum() < len(clean)
    assert authors["galaxy_id"].tolist() == expected.loc[clean, "galaxy_id"].tolist()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(list(WRITTEN)), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter_and_the_table_adds_up(seed, name, random):
    votes = thousand(seed)
    order = list(range(len(votes)))
    random.shuffle(order)
    sample, cuts = selection.select(votes, WRITTEN[name][:-2])
    shuffled, cuts_shuffled = selection.select(votes.iloc[order], WRITTEN[name][:-2])
    pd.testing.assert_frame_equal(sample, shuffled)
    pd.testing.assert_frame_equal(cuts, cuts_shuffled)
    assert sample["galaxy_id"].is_monotonic_increasing
    assert (cuts["kept"].shift().dropna() - cuts["kept"][1:] == cuts["lost"][1:]).all()
    assert cuts["kept"].iloc[-1] == len(sample)


def test_votes_are_not_changed():
    votes = thousand()
    before = votes.copy(deep=True)
    selection.assign(selection.select(votes, AUTHORS)[0], allow_empty=True)
    pd.testing.assert_frame_equal(votes, before)


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        (["f_spiral >"], "'f_spiral >' is no condition that pandas can read"),
        (["f_bar > 0.5"], "f_bar > 0.5 needs f_bar"),
        (["f_spiral"], "f_spiral is no condition: compare it with a number"),
    ],
)
def test_cuts_that_are_no_conditions_are_named(cuts, message):
    with pytest.raises(InputError, match=message):
        selection.select(tables.votes(["2", "3"]), cuts)


def test_absent_columns_are_refused_by_name_unless_dropped():
    votes = tables.votes(["2", "3"]).drop(columns=["n_spiral", "total_votes", "clean_3"])
    with pytest.raises(InputError, match=r"n_spiral > 20 needs n_spiral\."):
        selection.select(votes, PAPER_TEXT)
    with pytest.raises(InputError, match="f_features >= 20 needs total_votes;.*needs clean_3"):
        selection.select(votes, AUTHORS)
    sample, cuts = selection.select(votes, PAPER_TEXT, dropped=["n_spiral"])
    assert len(sample) == 2 and "n_spiral > 20 (dropped)" in cuts["cut"].tolist()
    with pytest.raises(InputError, match="dropped: no cut has the column n_spirals"):
        selection.select(votes, PAPER_TEXT, dropped=["n_spiral", "n_spirals"])


def test_a_missing_value_is_an_error_only_where_a_cut_needs_it():
    votes = tables.votes(["2", "2", "2"])
    votes.loc[0, ["f_features", "f_spiral"]] = 0.1, np.nan  # fails the cut before
    votes.loc[0, RHO_COLUMNS[0]] = np.nan
    assert kept(votes, PAPER_TEXT) == [1, 2]
    votes.loc[1, "f_spiral"] = np.nan
    with pytest.raises(
        InputError, match=rf"f_spiral > 0.715 needs .* 1 galaxies.*galaxy {tables.FIRST_ID + 1}"
    ):
        selection.select(votes, PAPER_TEXT)


def test_missing_arm_fractions_cannot_be_labelled():
    votes = tables.votes(["2", "2"])
    votes.loc[1, RHO_COLUMNS[3]] = np.nan
    with pytest.raises(InputError, match="the label needs a value"):
        selection.select(votes, [])


def test_no_galaxy_left_names_the_cut():
    votes = tables.votes(["2", "3"]).assign(f_spiral=0.2)
    with pytest.raises(InputError, match="no galaxy passes f_spiral > 0.715.*2 did before"):
        selection.select(votes, PAPER_TEXT)
    without = tables.votes(["2", "3"]).assign(has_image=False)
    with pytest.raises(InputError, match="no galaxy passes has_image.*Get the images"):
        selection.select(without, PAPER_TEXT)


# ---- labels


def test_label_is_the_largest_debiased_fraction():
    sample, _ = selection.select(tables.votes(list(ARM_CLASSES)), PAPER_TEXT)
    assert sample["label"].tolist() == list(ARM_CLASSES)
    assert np.allclose(sample["rho_max"], 0.9) and not sample["tied"].any()


def test_ties_take_the_first_class_and_are_marked():
    votes = tables.votes(["3", "2"])
    votes.loc[0, list(RHO_COLUMNS)] = [0.0, 0.0, 0.4, 0.2, 0.0, 0.4]
    sample, _ = selection.select(votes, [])
    assert sample["label"].tolist() == ["3", "2"] and sample["tied"].tolist() == [True, False]


def test_a_galaxy_without_arm_votes_has_no_label():
    votes = tables.votes(["3", "2"])
    votes.loc[0, list(RHO_COLUMNS)] = 0.0
    sample, cuts = selection.select(votes, [])
    assert sample["label"].tolist() == ["2"] and cuts["lost"].iloc[-1] == 1


@pytest.mark.parametrize("merge", list(MERGES))
def test_merges(merge):
    labels = pd.Series(list(ARM_CLASSES))
    counts = selection.class_counts(labels, merge)
    assert tuple(counts.index) == merged_classes(merge) and counts.sum() == 6
    assert counts.max() == (1 if merge == "none" else 2)


def test_unknown_merge_is_refused():
    with pytest.raises(InputError, match="unknown class merge '2.3'"):
        selection.assign(tables.votes(["2", "3"]).assign(label=["2", "3"]), merge="2+3")


# ---- down-sampling and split


def paper_sample():
    """A sample with the class counts of the paper, classes mixed along the catalogue."""
    labels = np.random.default_rng(1).permutation(ALL)
    return pd.DataFrame({"galaxy_id": tables.FIRST_ID + np.arange(len(ALL)), "label": labels})


def sizes(assigned, split):
    counts = assigned.loc[assigned["split"] == split, "label"].value_counts()
    return [int(counts.get(m, 0)) for m in ARM_CLASSES]


def test_the_papers_numbers_of_section_2():
    sample = paper_sample()
    down = selection.assign(sample)
    assert sizes(down, "validation") == [50, 90, 90, 9, 10, 90]
    assert sizes(down, "train") == [115, 210, 208, 19, 21, 210]
    assert (down["split"] == "validation").sum() == 339
    everything = selection.assign(sample, sampling="all")
    assert sizes(everything, "validation") == [50, 3204, 90, 9, 10, 156]
    assert (everything["split"] == "validation").sum() == 3519
    assert not (everything["split"] == "rest").any()
    assert len(down) == len(everything) == 11718


@pytest.mark.parametrize("choose", ["first", "random"])
@pytest.mark.parametrize("seed", [42, 7])
def test_split_is_scikit_learns_on_each_class(choose, seed):
    sample = paper_sample()
    assigned = selection.assign(sample, choose=choose, seed=seed)
    for m in ARM_CLASSES:
        own = assigned[(assigned["label"] == m) & (assigned["split"] != "rest")]
        train, validation = train_test_split(own["galaxy_id"], test_size=0.3, random_state=seed)
        assert set(validation) == set(own.loc[own["split"] == "validation", "galaxy_id"])
        assert set(train) == set(own.loc[own["split"] == "train", "galaxy_id"])


def test_first_is_the_first_of_the_catalogue_whatever_the_order_of_rows():
    sample = paper_sample()
    assigned = selection.assign(sample.sample(frac=1, random_state=3))
    pd.testing.assert_frame_equal(assigned, selection.assign(sample))
    used = assigned[(assigned["label"] == "2") & (assigned["split"] != "rest")]["galaxy_id"]
    assert used.tolist() == sample.loc[sample["label"] == "2", "galaxy_id"].head(300).tolist()


def test_random_is_seeded_and_spread_over_the_catalogue():
    sample = paper_sample()
    draws = [selection.assign(sample, choose="random", seed=s) for s in (1, 1, 2)]
    pd.testing.assert_frame_equal(draws[0], draws[1])
    assert not draws[0]["split"].equals(draws[2]["split"])
    two = draws[0][draws[0]["label"] == "2"].reset_index(drop=True)
    place = two.index[two["split"] != "rest"] / len(two)
    assert len(place) == 300 and abs(place.to_numpy().mean() - 0.5) < 0.06  # 3.5 sigma


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(2, 40), min_size=6, max_size=6),
    limit=st.integers(2, 50),
    choose=st.sampled_from(["first", "random"]),
    sampling=st.sampled_from(["all", "down-sampled"]),
    merge=st.sampled_from(list(MERGES)),
    order=st.sampled_from(selection.MERGE_ORDERS),
    fraction=st.sampled_from([0.1, 0.3, 0.5]),
    seed=st.integers(0, 2**31),
)
def test_every_galaxy_has_one_place(counts, limit, choose, sampling, merge, order, fraction, seed):
    labels = [m for m, n in zip(ARM_CLASSES, counts, strict=True) for _ in range(n)]
    sample = pd.DataFrame({"galaxy_id": range(len(labels)), "label": labels})
    assigned = selection.assign(
        sample,
        merge=merge,
        merge_order=order,
        sampling=sampling,
        max_per_class=limit,
        choose=choose,
        validation_fraction=fraction,
        seed=seed,
    )
    assert assigned["galaxy_id"].tolist() == sample["galaxy_id"].tolist()
    assert assigned["label"].tolist() == [MERGES[merge].get(m, m) for m in labels]
    before = order == "before split"
    for _, own in assigned.groupby(assigned["label"] if before else pd.Series(labels)):
        used = len(own) if sampling == "all" else min(len(own), limit)
        assert (own["split"] == "rest").sum() == len(own) - used
        assert (own["split"] == "validation").sum() == int(np.ceil(fraction * used))
        assert (own["split"] == "train").sum() >= 1


def test_folds_test_every_galaxy_once_whatever_is_done_to_balance_the_rest():
    sample = paper_sample()
    tested = []
    for fold in range(5):
        down = selection.assign(sample, fold=fold, validation_fraction=0.125)
        everything = selection.assign(sample, fold=fold, sampling="all")
        own = down.loc[down["split"] == "test", "galaxy_id"]
        assert own.equals(everything.loc[everything["split"] == "test", "galaxy_id"])
        tested.extend(own)
        share = np.array(sizes(down, "test")) / [paper.CLASS_COUNTS[m] for m in ARM_CLASSES]
        assert (abs(share - 0.2) < 0.04).all()
        # With an eighth for validation, as many are trained on as with the published split.
        published = np.array([115, 210, 208, 19, 21, 210])
        trained = np.array(sizes(down, "train"))
        small = published < 210
        assert (abs(trained - published)[small] <= 2).all() and (trained[~small] == 262).all()
        assert not (everything["split"] == "rest").any()
    assert sorted(tested) == sample["galaxy_id"].tolist()


def test_another_repeat_divides_the_sample_otherwise():
    sample = paper_sample()
    tests = [
        set(selection.assign(sample, fold=fold, folds=3).query("split == 'test'")["galaxy_id"])
        for fold in range(6)
    ]
    assert set.union(*tests[:3]) == set.union(*tests[3:]) == set(sample["galaxy_id"])
    assert all(a != b for a in tests[:3] for b in tests[3:])
    again = selection.assign(sample, fold=4, folds=3, sampling="all")
    assert set(again.query("split == 'test'")["galaxy_id"]) == tests[4]


def test_a_class_too_small_for_the_folds_is_refused_or_never_tested():
    sample = pd.DataFrame({"galaxy_id": range(20), "label": ["2"] * 9 + ["3"] * 9 + ["4"] * 2})
    with pytest.raises(InputError, match="class 4 has 2 galaxies, fewer than 3 folds"):
        sampled = pd.concat([sample.assign(label=m) for m in ("1", "2", "3", "5+", "?")])
        sampled = pd.concat([sampled, sample[sample["label"] == "4"]])
        selection.assign(sampled, fold=0, folds=3)
    assigned = selection.assign(sample, fold=0, folds=3, allow_empty=True)
    assert assigned["split"].tolist()[-2:].count("test") == 0
    assert (assigned["split"] == "test").sum() == 6


@pytest.mark.parametrize(
    ("order", "validated", "trained"),
    [("after split", 9 + 10, 19 + 21), ("before split", 18, 41)],
)
def test_classes_are_merged_after_or_before_the_split(order, validated, trained):
    """28 and 31 galaxies: ceil(.3 x 28) + ceil(.3 x 31) = 19, but ceil(.3 x 59) = 18."""
    assigned = selection.assign(paper_sample(), merge="4+5+", merge_order=order)
    own = assigned.loc[assigned["label"] == "4+5+", "split"].value_counts()
    assert own.to_dict() == {"train": trained, "validation": validated}
    if order == "after split":  # every galaxy is where it is without the merge
        apart = selection.assign(paper_sample())
        assert assigned["split"].equals(apart["split"])
        assert 7 / validated == pytest.approx(0.37, abs=0.005)


def test_both_parts_of_a_merged_class_are_down_sampled_alone_after_the_split():
    used = {
        order: (selection.assign(paper_sample(), merge="3+4", merge_order=order)
                .query("label == '3+4' and split != 'rest'").shape[0])
        for order in selection.MERGE_ORDERS
    }  # fmt: skip
    assert used == {"after split": 298 + 28, "before split": 300}


def test_a_merged_class_needs_two_galaxies_of_one_part_after_the_split():
    labels = [*"112233??", "4", "5+"]
    sample = pd.DataFrame({"galaxy_id": range(len(labels)), "label": labels})
    with pytest.raises(InputError, match=r"class 4\+5\+ has 1 .*before the split"):
        selection.assign(sample, merge="4+5+")
    assigned = selection.assign(sample, merge="4+5+", merge_order="before split")
    assert sorted(assigned["split"].tail(2)) == ["train", "validation"]


def test_some_classes_only():
    assigned = selection.assign(paper_sample(), classes=["2", "3"])
    assert sizes(assigned, "train") == [0, 210, 208, 0, 0, 0]
    assert set(assigned["label"]) == {"2", "3"} and len(assigned) == 10677 + 298
    merged = selection.assign(paper_sample(), merge="3+4", classes=["2", "3+4"])
    assert set(merged["label"]) == {"2", "3+4"}


def test_empty_class_is_refused_unless_allowed():
    sample = pd.DataFrame({"galaxy_id": range(9), "label": [*"1122233", "4", "?"]})
    with pytest.raises(InputError, match=r"class 4 has 1, class 5\+ has 0, class \? has 1"):
        selection.assign(sample)
    assigned = selection.assign(sample, allow_empty=True)
    assert (assigned["split"] == "train").sum() == 6
    assert assigned["split"].tolist()[-2:] == ["train", "train"]
    with pytest.raises(InputError, match=r"class 4\+5\+ has 1.*merge '4\+5\+'"):
        selection.assign(sample, merge="4+5+")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampling": "none"}, "unknown sampling 'none'"),
        ({"choose": "last"}, "unknown choose 'last'"),
        ({"merge_order": "never"}, "unknown merge_order 'never'"),
        ({"max_per_class": 1}, "max_per_class is 1"),
        ({"validation_fraction": 0.0}, "validation_fraction is 0.0"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"classes": ["2", "3+4"]}, r"unknown classes \['3\+4'\]: merge 'none' has"),
        ({"fold": -1}, "fold is -1"),
        ({"fold": 0, "folds": 1}, "folds is 1; it must be 2 or more"),
    ],
)
def test_invalid_sampling_is_named(settings, message):
    with pytest.raises(InputError, match=message):
        selection.assign(paper_sample(), **settings)


# ---- from files to labels


def test_willett_table_through_selection(tmp_path):
    table = tables.willett(["2", "3", "5+", "?"])
    table.loc[1, tables.F_SPIRAL] = 0.7
    survey = open_survey("gz2", tables.write_gz2(tmp_path / "s", table))
    assert selection.select(survey.votes, PAPER_TEXT)[0]["label"].tolist() == ["2", "5+", "?"]
    assert selection.select(survey.votes, AUTHORS)[0]["label"].tolist() == ["2", "3", "5+", "?"]


@pytest.mark.real
def test_real_challenge_sample(challenge_sample):
    survey = open_survey("challenge", challenge_sample)
    assert len(survey.votes) == 12_872 and survey.votes["has_image"].sum() == 6_324
    sample, cuts = selection.select(survey.votes, PAPER_TEXT, dropped=["n_spiral", "rho_max"])
    assert len(sample) == 1_226 and cuts["lost"].tolist()[-2] == 433
    assert selection.class_counts(sample["label"]).tolist() == [50, 756, 126, 34, 31, 229]
    half = [cut.replace("rho_max > 0.8", "rho_max > 0.5") for cut in PAPER_TEXT]
    half, _ = selection.select(survey.votes, half, dropped=["n_spiral"])
    assert selection.class_counts(half["label"]).tolist() == [31, 650, 54, 9, 8, 98]
    assert (selection.assign(sample)["split"] == "rest").sum() == 456
    with pytest.raises(InputError, match="n_spiral > 20 needs n_spiral"):
        selection.select(survey.votes, PAPER_TEXT)


@pytest.mark.real
def test_real_fractions_without_counts_are_cut_by_the_columns_there_are(gz2_sample):
    """The cuts of profile gz2_hart16, written out on the raw columns."""
    survey = open_survey("gz2_hart16", gz2_sample)
    assert len(survey.votes) == 678 and survey.votes["has_image"].all()
    with pytest.raises(InputError, match=r"n_spiral > 20 needs n_spiral\. .*parameter dropped"):
        selection.select(survey.votes, PAPER_TEXT)
    sample, _ = selection.select(survey.votes, PAPER_TEXT, dropped=["n_spiral", "rho_max"])
    raw = pd.read_csv(gz2_sample / "gz2_hart16.csv").sort_values("dr7objid")
    f2, f5, f8 = (raw[gz2.FRACTIONS[c]] for c in ("f_features", "f_not_edge_on", "f_spiral"))
    passes = (f2 > 0.43) & (f5 > 0.715) & (f8 > 0.715)
    assert sample["galaxy_id"].tolist() == raw.loc[passes, "dr7objid"].tolist()
    assert selection.class_counts(sample["label"]).tolist() == [2, 32, 8, 5, 1, 8]


@pytest.mark.real
def test_real_rows_through_both_criteria(gz2_tables):
    """The same cuts written out on the raw columns of 288 real galaxies."""
    path = gz2_tables / "gz2_ferengi_288.csv"
    votes = gz2.read_table(path)
    raw = pd.read_csv(path).sort_values("objid")
    rho = raw[[gz2.FRACTIONS[c] for c in RHO_COLUMNS]]
    f2, f5, f8 = (raw[gz2.FRACTIONS[c]] for c in ("f_features", "f_not_edge_on", "f_spiral"))
    text = (f2 > 0.43) & (f5 > 0.715) & (f8 > 0.715) & (raw[gz2.COUNTS["n_spiral"]] > 20)
    text &= rho.max(axis=1) > 0.8
    flags = raw[list(gz2.FLAGS.values())].to_numpy()
    authors = (f2 >= 0.43) & (f5 >= 0.715) & (f8 >= 0.619) & (raw["total_votes"] * f2 * f5 >= 20)
    authors &= flags[np.arange(len(raw)), rho.to_numpy().argmax(axis=1)] == 1
    for cuts, expected in ((PAPER_TEXT, text), (AUTHORS, authors)):
        sample, _ = selection.select(votes, cuts, dropped=["has_image"])
        assert sample["galaxy_id"].tolist() == raw.loc[expected, "objid"].tolist()
        assert expected.any()


# ---- first or random


def test_the_first_galaxies_are_compared_with_a_random_choice_and_with_the_rest():
    n = 40
    sample = pd.DataFrame({"galaxy_id": np.arange(n + 6), "label": ["2"] * n + ["3"] * 6})
    sample["ra"] = np.arange(n + 6.0)  # the catalogue is in the order of the right ascension
    sample["redshift"] = np.tile([0.1, 0.2], n // 2 + 3)  # and in no order of the redshift
    shuffled = sample.sample(frac=1, random_state=1)
    found = selection.compare_choices(shuffled, 10)
    assert list(found.index) == ["2"], "no galaxy of m = 3 is left out"
    row = found.loc["2"]
    assert row["galaxies"] == n and row["expected"] == 10 * 10 / n
    drawn = selection.assign(sample, max_per_class=10, choose="random", allow_empty=True)
    kept = drawn.loc[(drawn["label"] == "2") & (drawn["split"] != "rest"), "galaxy_id"]
    assert row["overlap"] == (kept < 10).sum()
    # No value of one side among those of the other: D = 1, and one of C(40, 10) orders either way.
    assert row["ks_ra"] == 1 and row["p_ra"] == pytest.approx(2 / math.comb(n, 10))
    assert row["ks_redshift"] == 0 and row["p_redshift"] == 1
    without = selection.compare_choices(sample.drop(columns="ra"), 10)
    assert "ks_ra" not in without and "ks_redshift" in without
    assert selection.compare_choices(sample, 50).empty
