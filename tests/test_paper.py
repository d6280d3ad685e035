"""The paper's numbers and what follows from them, against PAPER.md's facts and scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import precision_recall_fscore_support
from sklearn.model_selection import train_test_split

from lib import paper
from lib.schema import ARM_CLASSES, InputError

# PAPER.md, section 5: true positives / predicted, worked out by hand there.
DEDUCED = {
    "B0 down-sampled": ([41, 77, 76, 2, 9, 86], [44, 95, 91, 2, 9, 98], 291, 0.8584, 0.795),
    "V2M down-sampled": ([40, 81, 81, 2, 10, 84], [44, 97, 94, 2, 13, 89], 298, 0.879, 0.795),
}


def test_class_counts_add_up():
    assert sum(paper.CLASS_COUNTS.values()) == paper.SAMPLE_SIZE


def test_split_sizes_are_those_of_scikit_learn():
    for n, sizes in zip(
        paper.CLASS_COUNTS.values(), paper.split_sizes(paper.CLASS_COUNTS).to_numpy()
    ):
        train, validation = train_test_split(np.arange(n), test_size=0.3, random_state=42)
        assert (len(train), len(validation)) == tuple(sizes)


def test_validation_counts():
    assert list(paper.validation_counts("V2M down-sampled").values()) == [50, 90, 90, 9, 10, 90]
    assert sum(paper.validation_counts("B0 all data").values()) == 3519


def test_unknown_column_is_refused():
    with pytest.raises(InputError, match="no column 'B7'.*B0 all data"):
        paper.deduce_table_3("B7")


@pytest.mark.parametrize("column", DEDUCED)
def test_deduced_counts_are_unique_and_right(column):
    tp, predicted, correct, accuracy, macro_f1 = DEDUCED[column]
    table = paper.deduce_table_3(column)
    assert table.index.get_level_values("solution").nunique() == 1
    assert table["tp"].tolist() == tp
    assert table["predicted"].tolist() == predicted
    scores = paper.deduced_scores(column).loc[0]
    assert (scores["correct"], scores["total"]) == (correct, 339)
    assert scores["accuracy"] == pytest.approx(accuracy, abs=6e-4)
    assert scores["macro_f1"] == pytest.approx(macro_f1, abs=5e-4)


@pytest.mark.parametrize("column", paper.TABLE_3_COLUMNS)
def test_every_solution_prints_as_the_table(column):
    for _, table in paper.deduce_table_3(column).groupby(level="solution"):
        table = table.droplevel("solution")
        printed = paper.TABLE_3[column]
        tp, n, predicted = table["tp"], table["support"], table["predicted"]
        assert ((tp / predicted).round(3) == printed["precision"]).all()
        assert ((tp / n).round(3) == printed["recall"]).all()
        assert ((2 * tp / (n + predicted)).round(3) == printed["f1"]).all()


def test_deduction_finds_random_counts_again():
    rng = np.random.default_rng(1)
    for _ in range(200):
        n = int(rng.integers(5, 100))
        tp = int(rng.integers(1, n + 1))
        predicted = tp + int(rng.integers(0, 100))
        found = paper.deduce_counts(round(tp / predicted, 3), round(tp / n, 3), n, n + 300)
        assert (tp, predicted) in found
        for other_tp, other in found:
            assert abs(other_tp / other - tp / predicted) <= 1.001e-3


def test_no_counts_for_impossible_numbers():
    assert paper.deduce_counts(1.0, 0.5, 9, 100) == []


def test_logged_confusion_matrix_gives_the_printed_table():
    matrix = paper.B0_CONFUSION.to_numpy()
    label, predicted = np.repeat(
        [(i, j) for i in range(6) for j in range(6)], matrix.ravel(), axis=0
    ).T
    p, r, f1, support = precision_recall_fscore_support(label, predicted)
    printed = paper.TABLE_3["B0 down-sampled"]
    np.testing.assert_array_equal(np.c_[p, r, f1].round(3), printed.to_numpy())
    assert support.sum() == 339


def test_head_parameters_layer_by_layer():
    dense, output = 1280 * 1024 + 1024, 1024 * 6 + 6
    assert (dense, output) == (1_311_744, 6_150)
    assert paper.head_parameters(1024) == dense + output


def test_parameter_counts_say_1024():
    table = paper.parameter_table()
    assert table.loc["V2M", "with_1024"] == table.loc["V2M", "printed"] == 54_468_282
    assert table.loc["V2M", "with_1028"] == 54_473_430
    assert table.loc["V2M", "width"] == 1024
    assert table.loc["B0", "with_1024"] == 5_366_885
    assert abs(table.loc["B0", "difference_1024"]) <= 2
    assert round(table.loc["B0", "width"]) == 1024


def test_merged_class_was_split_before_merging():
    # 7/19 = 36.8 %; of 18 galaxies 6 are 33 % and 7 are 39 %.
    assert paper.merged_support(37, {"19": 19, "18": 18}) == ["19"]


def test_table_4_p_values_are_two_sided():
    table = paper.table_4_p_values()
    np.testing.assert_allclose(table["t_p_two_sided"], table["t_p"], atol=1.5e-4)
    assert table.loc[("label", "1"), "t_p_one_sided"] == pytest.approx(0.0073, abs=5e-5)
    ks = table.loc[("label", "?")]
    assert ks["ks_p_low"] < 0.892 < ks["ks_p_high"] + 0.01 and ks["ks_p"] == 0.9853


def test_bounds_hold_for_any_confusion_matrix():
    """Labelled and predicted numbers bound precision and recall, as `whole_sample_bounds` says."""
    matrix = paper.B0_CONFUSION.to_numpy()
    labelled, predicted, tp = matrix.sum(axis=1), matrix.sum(axis=0), np.diag(matrix)
    assert (tp / predicted <= np.minimum(1, labelled / predicted)).all()
    assert (tp / labelled <= np.minimum(1, predicted / labelled)).all()
    bounds = paper.whole_sample_bounds()
    assert bounds.loc[("V2M", "3"), "precision_at_most"] == pytest.approx(290 / 1590)
    assert bounds.loc[("V2M", "2"), "recall_at_most"] == pytest.approx(7895 / 10290)


def test_audit_finds_what_paper_md_lists():
    audit = paper.audit()
    fails = " | ".join((audit["source"] + ": " + audit["statement"])[~audit["holds"]])
    for contradiction in (
        "rows of the GZ2 main sample",
        "how the galaxies of the large classes are chosen",
        "V2M: a dense layer of 1028",
        "share of m = 3 called m = 4",
        "p-values of the t-test are one-tailed",
        "K-S p-values",
        "Abstract: m = 3 has lower masses",
        "Abstract: m = 4 and 5+ by V2M",
        "gain in accuracy by merging",
        "B0 misclassifies fewer",
    ):
        assert contradiction in fails
    holds = " | ".join(audit["statement"][audit["holds"]])
    for sound in (
        "class counts add up",
        "whole galaxies lie behind",
        "logged confusion matrix",
        "m = 1 has",
    ):
        assert sound in holds
    wrong = audit.loc[audit["statement"].str.contains("K-S"), "recomputed"].item()
    assert wrong == "all but label m = ?, B0 m = 1"


def test_a_k_s_row_follows_from_no_d_that_rounds_to_the_printed_one():
    """SciPy's asymptotic p-values for D = .03225 and .03215 and the nearest whole sample size."""
    row = paper.table_4_p_values().loc[("B0", "1")]
    assert (round(row["ks_p_low"], 3), round(row["ks_p_high"], 3)) == (0.601, 0.605)
    assert row["ks_p"] == 0.6209


def test_gain_by_merging_is_on_m_4_alone():
    """16/19 is 3.79 times 2/9; of the same 19 galaxies V2M had 2 + 10 right before."""
    gain = paper.gain_by_merging(280)
    assert (gain["right"], gain["before"], gain["n"]) == (16, 12, 19)
    assert round((16 / 19) / (2 / 9) - 1, 1) == 2.8
    assert gain["gain"] == pytest.approx(100 / 3) and gain["most"] == pytest.approx(100 * 7 / 12)


def test_b0_makes_more_mistakes_than_v2m():
    said = paper.audit().set_index("statement").loc["B0 misclassifies fewer galaxies than V2M"]
    assert said["recomputed"].startswith(f"Table 3: {339 - 291} and {339 - 298} of 339;")


def test_f1_at_the_sample_mix_is_that_of_scikit_learn_with_weights():
    label, predicted = np.indices((6, 6)).reshape(2, -1)
    matrix = paper.B0_CONFUSION.to_numpy()
    weights = matrix * (np.array(list(paper.CLASS_COUNTS.values())) / matrix.sum(axis=1))[:, None]
    f1 = precision_recall_fscore_support(label, predicted, sample_weight=weights.ravel())[2]
    np.testing.assert_allclose(paper.f1_at_sample_mix()["sample"], f1)


def test_what_cannot_be_recomputed_is_open():
    audit = paper.audit()
    (row,) = audit[audit["kind"] == "open"].itertuples()
    assert "Dieleman" in row.statement and pd.isna(row.holds)
    assert "75 % for m = 1, 134 % for m = 3, 0 % for m = 5+, 40 % for m = ?" in row.recomputed


def test_audit_tells_what_is_printed_from_what_follows():
    audit = paper.audit()
    derived = audit[audit["kind"] == "derived"]
    assert set(audit["kind"]) == {"printed", "open", "derived"}
    for not_said in ("steps per epoch", "whole galaxies", "logged confusion", "Welch", "recall of"):
        assert derived["statement"].str.contains(not_said).any()
    assert len(derived) == 1 + 3 + 1 + 1 + 2
    # 300 galaxies drawn twice out of 10,677 share 300 x 300 / 10,677 = 8.4 on average.
    chosen = audit[audit["statement"].str.contains("are chosen")].iloc[0]
    assert chosen["source"] == "Sec. 4.2.2" and chosen["recomputed"].endswith("share 8 for m = 2")


def test_audit_notices_a_changed_number(monkeypatch):
    monkeypatch.setattr(paper, "SAMPLE_SIZE", 11_719)
    monkeypatch.setattr(paper, "CATALOGUE_ROWS_PRINTED", paper.CATALOGUE_ROWS)
    audit = paper.audit().set_index("statement")["holds"]
    assert not audit["class counts add up"]
    assert audit["rows of the GZ2 main sample"]


def test_shapes_of_the_tables():
    assert list(paper.TABLE_3.index) == list(ARM_CLASSES)
    assert paper.TABLE_3.shape == (6, 9) and paper.TABLE_4.shape == (15, 5)
    assert isinstance(paper.TABLE_4.index, pd.MultiIndex)
