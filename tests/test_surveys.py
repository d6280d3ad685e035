"""Readers of surveys: the layouts in circulation, exact identifiers, and bad input."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tables
from astropy.io import fits
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from zoobot.shared import schemas

from lib.schema import ARM_CLASSES, CLEAN_COLUMNS, RHO_COLUMNS, InputError, validate_votes
from lib.surveys import challenge, gz2, open_survey
from lib.surveys.tables import exact_ids, read_columns

LABELS = list(ARM_CLASSES)
SUFFIXES = [".csv", ".csv.gz", ".fits", ".fits.gz"]


# ---- Galaxy Zoo 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_gz2_reads_every_format_alike(tmp_path, suffix):
    table = tables.willett(LABELS)
    survey = open_survey("gz2", tables.write_gz2(tmp_path / "s", table, f"zoo2MainSpecz{suffix}"))
    votes = survey.votes
    assert votes["galaxy_id"].dtype == np.int64
    assert votes["galaxy_id"].tolist() == table["dr7objid"].tolist()
    assert votes["specobjid"].tolist() == table["specobjid"].tolist()
    assert np.allclose(votes["f_features"], 0.9) and np.allclose(votes["f_not_edge_on"], 0.95)
    assert votes["n_spiral"].eq(35).all() and votes["total_votes"].eq(300).all()
    assert votes[list(RHO_COLUMNS)].to_numpy().argmax(axis=1).tolist() == list(range(6))
    assert (votes[list(CLEAN_COLUMNS)].to_numpy(bool) == np.eye(6, dtype=bool)).all()
    assert (votes[list(gz2.COUNT_COLUMNS)].to_numpy() == 30 * np.eye(6)).all()
    assert votes["image_path"].tolist() == [f"images/{100 + i}.jpg" for i in range(6)]
    assert votes["has_image"].all() and votes["subsample"].eq("original").all()


def test_gz2_rows_come_sorted_by_identifier(tmp_path):
    table = tables.willett(LABELS).iloc[::-1]
    votes = open_survey("gz2", tables.write_gz2(tmp_path / "s", table)).votes
    assert votes["galaxy_id"].is_monotonic_increasing
    # Image 100 belongs to the first row of the file, which is the last of the catalogue.
    assert votes["image_path"].tolist() == [f"images/{105 - i}.jpg" for i in range(6)]


def test_hart16_layout_has_no_specobjid(tmp_path):
    folder = tables.write_gz2(tmp_path / "s", tables.hart(LABELS), "gz2_hart16.csv.gz")
    survey = open_survey("gz2_hart16", folder)
    assert survey.name == "gz2_hart16" and "specobjid" not in survey.votes
    assert len(survey.votes) == 6


def test_upper_case_fits_columns_are_found(tmp_path):
    table = tables.willett(LABELS).rename(columns=str.upper)
    votes = gz2.read_table(tables.write_catalogue(table, tmp_path / "zoo2MainSpecz.fits"))
    assert votes["galaxy_id"].tolist() == table["DR7OBJID"].tolist()


def test_single_precision_does_not_shift_a_threshold(tmp_path):
    table = Table.from_pandas(tables.willett(["2"]))
    table[tables.F_FEATURES] = np.array([0.43], dtype="f4")
    table.write(tmp_path / "t.fits")
    assert gz2.read_table(tmp_path / "t.fits")["f_features"][0] == 0.43


def test_byte_string_marks_are_removed(tmp_path):
    table = tables.willett(["1", "2"])
    table["dr7objid"] = [f"b'{i}'" for i in table["dr7objid"]]
    table["sample"] = ["b'original'", 'b"extra"']
    votes = gz2.read_table(tables.write_catalogue(table, tmp_path / "t.csv"))
    assert votes["galaxy_id"].tolist() == [tables.FIRST_ID, tables.FIRST_ID + 1]
    assert votes["subsample"].tolist() == ["original", "extra"]


@pytest.mark.parametrize("name", ["objid", "index", "DR7OBJID"])
def test_other_names_of_the_identifier(tmp_path, name):
    table = tables.willett(["1", "2"]).rename(columns={"dr7objid": name})
    votes = gz2.read_table(tables.write_catalogue(table, tmp_path / "t.csv"))
    assert votes["dr7objid"].tolist() == [tables.FIRST_ID, tables.FIRST_ID + 1]


def test_a_row_number_is_not_taken_for_an_identifier(tmp_path):
    table = tables.willett(["1", "2"]).drop(columns="dr7objid").assign(index=[0, 1])
    with pytest.raises(InputError, match="index holds 0.*dr7objid"):
        gz2.read_table(tables.write_catalogue(table, tmp_path / "t.csv"))


def test_galaxies_without_an_image_are_kept_and_counted(tmp_path):
    folder = tables.write_gz2(tmp_path / "s", tables.willett(LABELS))
    mapping = pd.read_csv(folder / "gz2_filename_mapping.csv")
    mapping.iloc[1:].to_csv(folder / "gz2_filename_mapping.csv", index=False)
    (folder / "images" / "103.jpg").unlink()
    survey = open_survey("gz2", folder)
    assert survey.votes["has_image"].tolist() == [False, True, True, False, True, True]
    assert survey.votes["image_path"].tolist()[:2] == ["", "images/101.jpg"]
    assert "5 galaxies have an entry" in survey.notes[1] and "of 4 are in" in survey.notes[1]


def test_a_galaxy_listed_twice_in_the_mapping_gets_its_own_subsample(tmp_path):
    folder = tables.write_gz2(tmp_path / "s", tables.willett(["1", "2"]))
    mapping = pd.read_csv(folder / "gz2_filename_mapping.csv")
    other = mapping.assign(sample="stripe82_coadd_1", asset_id=[900, 901])
    pd.concat([other, mapping]).to_csv(folder / "gz2_filename_mapping.csv", index=False)
    votes = open_survey("gz2", folder).votes
    assert votes["image_path"].tolist() == ["images/100.jpg", "images/101.jpg"]


def test_images_are_found_where_kaggle_unpacks_them(tmp_path):
    folder = tables.write_gz2(tmp_path / "s", tables.willett(["1", "2"]))
    (folder / "images_gz2").mkdir()
    (folder / "images").rename(folder / "images_gz2" / "images")
    votes = open_survey("gz2", folder).votes
    assert votes["has_image"].all() and votes["image_path"][0] == "images_gz2/images/100.jpg"


def test_properties_are_joined_by_identifier(tmp_path):
    folder = tables.write_gz2(tmp_path / "s", tables.willett(["1", "2", "3"]))
    properties = pd.DataFrame(
        {
            "OBJID": tables.FIRST_ID + np.array([2, 0]),
            "REDSHIFT": [0.03, -9999.0],
            "PETROMAG_R": [15.5, 16.5],
        }
    )
    properties.to_csv(folder / "gz2sample.csv.gz", index=False)
    votes = open_survey("gz2", folder).votes
    assert votes["redshift"].isna().tolist() == [True, True, False]
    assert votes["petromag_r"].fillna(0).tolist() == [16.5, 0, 15.5]


def test_mock_survey_adds_the_truth(tmp_path):
    folder = tables.write_gz2(tmp_path / "s", tables.willett(LABELS))
    with pytest.raises(InputError, match=r"truth.parquet is missing.*00_mock_survey"):
        open_survey("mock", folder)
    pd.DataFrame({"galaxy_id": [tables.FIRST_ID], "arms": [2]}).to_parquet(folder / "truth.parquet")
    survey = open_survey("mock", folder)
    assert survey.name == "mock" and survey.truth["arms"].tolist() == [2]


def test_simulated_survey_is_read_by_the_gz2_reader(tmp_path):
    mock = pytest.importorskip("lib.surveys.mock")
    truth = mock.write_survey(tmp_path / "s", 12, 1, size=64, workers=1)
    survey = open_survey("mock", tmp_path / "s")
    assert survey.votes["galaxy_id"].tolist() == truth["galaxy_id"].tolist()
    assert survey.votes["has_image"].all()
    assert survey.votes["redshift"].notna().all()
    header = pd.read_csv(tmp_path / "s" / "zoo2MainSpecz.csv.gz", nrows=0).columns
    expected = {f"{a}_{m}" for a in tables.answer_columns() for m in gz2.MEASURES}
    assert expected <= set(header)


def test_decision_tree_is_the_published_one():
    tree = gz2.DECISION_TREE
    assert len(tree) == 11 and len(tables.answer_columns()) == 37
    following = {n for _, answers in tree.values() for n in answers.values()}
    assert following <= {t[1:3] for t in tree} | {"end"}
    assert "01" not in following
    assert list(gz2.decision_tree().loc["02"]) == [
        "Could this be a disc viewed edge-on?", "yes, no", "09, 03", "disk-edge-on-gz2: yes, no",
    ]  # fmt: skip


def test_decision_tree_is_that_of_zoobot_as_far_as_that_goes():
    questions = {q.text: q for q in schemas.gz2_ortho_schema.questions}
    assert set(gz2.ZOOBOT.values()) == set(questions)
    answers = {task[:3]: list(a) for task, (_, a) in gz2.DECISION_TREE.items()}
    assert set(answers) - set(gz2.ZOOBOT) == {"t08"}
    for task, name in gz2.ZOOBOT.items():
        assert len(answers[task]) == len(questions[name].answers)
    # The arm numbers, in the order of the classes.
    arms = [a.text.split("_")[1] for a in questions["spiral-arm-count-gz2"].answers]
    ours = [a.split("_", 1)[1].replace("_", "-") for a in answers["t11"]]
    assert arms == ours == ["1", "2", "3", "4", "more-than-4", "cant-tell"]


# ---- bad input


def test_missing_columns_are_all_named(tmp_path):
    table = tables.willett(["1", "2"]).drop(columns=[tables.F_SPIRAL, gz2.FRACTIONS["rho_4"]])
    path = tables.write_catalogue(table, tmp_path / "t.csv.gz")
    with pytest.raises(InputError) as error:
        gz2.read_table(path)
    assert tables.F_SPIRAL in str(error.value) and gz2.FRACTIONS["rho_4"] in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("value", [1.2, -0.1, np.inf])
def test_fraction_outside_0_1_is_refused(tmp_path, suffix, value):
    table = tables.willett(LABELS)
    table.loc[3, gz2.FRACTIONS["rho_2"]] = value
    with pytest.raises(InputError, match=rf"arms_number_a32_2_debiased.*{value}") as error:
        gz2.read_table(tables.write_catalogue(table, tmp_path / f"t{suffix}"))
    assert str(tables.FIRST_ID + 3) in str(error.value)


def test_duplicate_identifiers_are_refused(tmp_path):
    table = tables.willett(LABELS)
    table.loc[4, "dr7objid"] = tables.FIRST_ID
    with pytest.raises(InputError, match=f"dr7objid lists 1 galaxies.*{tables.FIRST_ID}"):
        gz2.read_table(tables.write_catalogue(table, tmp_path / "t.csv"))


def test_empty_identifier_is_refused(tmp_path):
    table = tables.willett(LABELS).astype({"dr7objid": "Int64"})
    table.loc[2, "dr7objid"] = pd.NA
    with pytest.raises(InputError, match="dr7objid is empty in 1 rows, the first is row 3"):
        gz2.read_table(tables.write_catalogue(table, tmp_path / "t.csv"))


def test_text_where_a_number_must_be_is_named(tmp_path):
    table = tables.willett(["1", "2"]).astype({tables.F_FEATURES: object})
    table.loc[1, tables.F_FEATURES] = "n/k"
    with pytest.raises(InputError, match=rf"{tables.F_FEATURES} must hold numbers.*n/k"):
        gz2.read_table(tables.write_catalogue(table, tmp_path / "t.csv"))


def test_flag_other_than_0_or_1_is_refused(tmp_path):
    table = tables.willett(["1", "2"])
    table.loc[0, gz2.FLAGS["clean_1"]] = 2
    with pytest.raises(InputError, match="a31_1_flag holds 2"):
        gz2.read_table(tables.write_catalogue(table, tmp_path / "t.csv"))


def test_truncated_download_is_reported(tmp_path):
    path = tables.write_catalogue(tables.willett(LABELS * 40), tmp_path / "zoo2MainSpecz.csv.gz")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match="cannot be read.*get it again"):
        gz2.read_table(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(
        InputError, match=r"folder .*nowhere of survey gz2 is missing: set data_dir"
    ):
        open_survey("gz2", tmp_path / "nowhere")
    with pytest.raises(InputError, match="run notebook 00_mock_survey first"):
        open_survey("mock", tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no zoo2MainSpecz.csv.gz or"):
        open_survey("gz2", tmp_path)
    with pytest.raises(InputError, match="holds no training_solutions_rev1.csv"):
        open_survey("challenge", tmp_path)
    with pytest.raises(InputError, match="unknown survey 'gz3': choose one of gz2"):
        open_survey("gz3", tmp_path)
    folder = tables.write_gz2(tmp_path / "s", tables.willett(["1", "2"]))
    (folder / "gz2_filename_mapping.csv").unlink()
    with pytest.raises(InputError, match=r"holds no gz2_filename_mapping.csv"):
        open_survey("gz2", folder)


def test_contract_refuses_float_identifiers():
    votes = tables.votes(["1", "2"]).astype({"galaxy_id": float})
    with pytest.raises(InputError, match="galaxy_id holds floats"):
        validate_votes(votes, "a table")


# ---- identifiers


@pytest.mark.parametrize("text", ["5.87722981742084e+17", "587722981742084144.0"])
def test_identifiers_through_floating_point_are_refused(tmp_path, text):
    table = tables.willett(["1", "2"]).astype({"dr7objid": object})
    table["dr7objid"] = [str(tables.FIRST_ID), text]
    with pytest.raises(InputError, match="dr7objid writes identifiers as floating point"):
        gz2.read_table(tables.write_catalogue(table, tmp_path / "t.csv"))


def test_float_identifiers_in_fits_are_refused(tmp_path):
    table = tables.willett(["1", "2"]).astype({"dr7objid": float})
    with pytest.raises(InputError, match="last digits are lost in 2 rows"):
        gz2.read_table(tables.write_catalogue(table, tmp_path / "t.fits"))


def test_text_identifiers_in_fits_are_read(tmp_path):
    table = tables.willett(["1", "2"])
    path = tmp_path / "t.fits"
    padded = Table.from_pandas(table)
    padded["dr7objid"] = [f"{i} " for i in table["dr7objid"]]
    padded.write(path)
    assert gz2.read_table(path)["galaxy_id"].tolist() == table["dr7objid"].tolist()


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=20))
def test_written_integers_come_back_exactly(ids):
    text = pd.Series(["" if i is None else str(i) for i in ids], dtype="str")
    read = exact_ids(text, "id", "a table")
    assert [None if pd.isna(i) else i for i in read] == ids


@given(st.integers(1 - 2**53, 2**53 - 1))
def test_small_floats_are_exact_identifiers(number):
    for written in (f"{number}.0", f"{number}"):
        assert exact_ids(pd.Series([written], dtype="str"), "id", "t").tolist() == [number]


@given(st.integers(2**53, 2**63 - 1))
def test_large_floats_are_never_identifiers(number):
    for values in (pd.Series([float(number)]), pd.Series([f"{float(number)!r}"], dtype="str")):
        with pytest.raises(InputError, match="floating point"):
            exact_ids(values, "id", "t")


@pytest.mark.parametrize(
    ("value", "message"),
    [("1.5", "no whole number"), ("abc", "no whole number"), ("9" * 25, "64 bits")],
)
def test_what_is_no_identifier_is_named(value, message):
    with pytest.raises(InputError, match=message):
        exact_ids(pd.Series(["1", value], dtype="str"), "id", "t")


# ---- tables as they circulate


def read_ids(path):
    return read_columns(path, ids={"id": "objid"}, numbers={"z": "z"})


@pytest.mark.parametrize(
    "content",
    [
        "objid,z\n587722981742084144,0.1\n",
        "objid;z\n587722981742084144;0.1\n",
        "objid\tz\r\n587722981742084144\t0.1\r\n",
        "#Table1\nobjid,z\n587722981742084144,0.1\n",
        "#objid,z\n587722981742084144,0.1\n",
        "# of SDSS, by hand\n#objid,z\n587722981742084144,0.1\n",
        "\ufeffobjid,z\n587722981742084144,0.1\n",
        '"objid", "z"\n587722981742084144,0.1\n',
    ],
)
def test_text_tables_of_every_kind(content, tmp_path):
    (tmp_path / "t.csv").write_bytes(content.encode())
    table = read_ids(tmp_path / "t.csv")
    assert table["id"].tolist() == [tables.FIRST_ID] and table["z"].tolist() == [0.1]


def test_tnull_is_missing(tmp_path):
    """Of signed columns, and of unsigned ones, which FITS stores less 2^63."""
    big = np.array([2**63 + 5, 7], "uint64")
    columns = [
        fits.Column("objid", "K", null=-99, array=np.array([-99, tables.FIRST_ID])),
        fits.Column("z", "J", null=-1, array=np.array([3, -1])),
        fits.Column("spec", "K", bzero=2**63, null=7 - 2**63, array=big),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    table = read_columns(
        tmp_path / "t.fits", ids={"id": "objid", "spec": "spec"}, numbers={"z": "z"}
    )
    assert table["id"].isna().tolist() == [True, False] and table["id"][1] == tables.FIRST_ID
    assert table["z"][0] == 3 and np.isnan(table["z"][1])
    assert table["spec"][0] == 2**63 + 5 and table["spec"].isna().tolist() == [False, True]


@pytest.mark.parametrize("suffix", ["csv", "fits", "parquet"])
def test_identifiers_above_2_63_are_exact(suffix, tmp_path):
    ids = np.array([2**63 + 1025, 2**64 - 1, 5], "uint64")
    table = pd.DataFrame({"objid": ids, "z": 0.1})
    path = tmp_path / f"t.{suffix}"
    if suffix == "csv":
        table.to_csv(path, index=False)
    elif suffix == "parquet":
        table.set_index("objid").to_parquet(path)  # the index is a column too
    else:
        Table.from_pandas(table).write(path)
    read = read_ids(path)
    assert read["id"].dtype == "UInt64" and [int(i) for i in read["id"]] == ids.tolist()


def test_gaps_in_parquet_cost_no_digits(tmp_path):
    table = pd.DataFrame({"objid": pd.array([tables.FIRST_ID, None], "Int64"), "z": 0.1})
    table.to_parquet(tmp_path / "t.parquet")
    assert read_ids(tmp_path / "t.parquet")["id"][0] == tables.FIRST_ID


def test_a_fits_table_may_lie_in_a_later_extension(tmp_path):
    table = fits.table_to_hdu(Table({"objid": [tables.FIRST_ID], "z": [0.1]}))
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((2, 2))), table])
    hdus.writeto(tmp_path / "t.fit")
    assert read_ids(tmp_path / "t.fit")["id"].tolist() == [tables.FIRST_ID]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"objid,z,Z\n1,0.1,0.2\n", "has 2 columns z .z, Z."),
        ("t.csv", "objid,z\n1,0.1\nä,2\n".encode("latin-1"), "not UTF-8.*iconv -f latin1"),
        ("t.csv", "objid,z\n1,2\n".encode("utf-16"), "not UTF-8"),
        ("t.csv", b"", "cannot be read"),
        ("t.parquet", b"PAR1 and no more", "cannot be read"),
        ("t.fits", b"SIMPLE  =                    T", "cannot be read"),
        ("t.csv", b"objid,z\n99999999999999999999,0.1\n", "does not fit in 64 bits"),
    ],
)
def test_tables_that_cannot_be_used_say_why(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_ids(tmp_path / name)


@pytest.mark.parametrize("value", [np.inf, 1.7, -0.1])
def test_no_answer_of_the_competition_has_such_votes(value, tmp_path):
    table = tables.challenge(3).reindex(columns=["GalaxyID", *challenge.ANSWERS], fill_value=0)
    table["Class7.1"] = [0.0, value, 0.5]  # a question that the classes do not need
    folder = tables.write_challenge(tmp_path / "c", table)
    with pytest.raises(InputError, match=r"Class7.1 has 1 values outside .0, 1., .*row 2"):
        challenge.read_counts(folder)


def test_identifiers_that_differ_in_the_firstfield_bit_are_matched_and_reported(tmp_path):
    folder = tables.write_gz2(tmp_path / "s", tables.willett(["1", "2", "3"]))
    mapping = pd.read_csv(folder / "gz2_filename_mapping.csv")
    mapping.loc[1, "objid"] ^= 1 << 28
    mapping.to_csv(folder / "gz2_filename_mapping.csv", index=False)
    survey = open_survey("gz2", folder)
    assert survey.votes["image_path"].tolist() == [f"images/{100 + i}.jpg" for i in range(3)]
    assert "1 identifiers were matched though their firstfield bit differs" in survey.notes[1]
    # Two galaxies whose identifiers differ in nothing else stay two.
    both = pd.Series([5, 5 ^ 1 << 28])
    assert gz2.as_listed(both, pd.Series([5]))[0].tolist() == both.tolist()


def test_spectra_above_2_63_keep_the_contract(tmp_path):
    table = tables.willett(["1", "2"])
    table["specobjid"] = np.array([2**63 + 1, 2**63 + 2], "uint64")
    votes = open_survey("gz2", tables.write_gz2(tmp_path / "s", table)).votes
    assert [int(i) for i in votes["specobjid"]] == [2**63 + 1, 2**63 + 2]


# ---- properties of the reader

FRACTION = st.floats(0, 1, width=32).map(float)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(10**17, 9 * 10**18), *[FRACTION] * 9),
        min_size=1,
        max_size=8,
        unique_by=lambda row: row[0],
    ),
    st.sampled_from([".csv", ".fits"]),
)
def test_fractions_and_identifiers_survive_reading(rows, suffix):
    table = tables.willett(["2"] * len(rows))
    table["dr7objid"] = [row[0] for row in rows]
    for k, column in enumerate(gz2.FRACTIONS.values(), 1):
        table[column] = [row[k] for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        path = tables.write_catalogue(table, Path(folder) / f"t{suffix}")
        votes = gz2.read_table(path).set_index("galaxy_id")
    for row in rows:
        assert votes.loc[row[0], list(gz2.FRACTIONS)].tolist() == list(row[1:])


# ---- the competition


def test_challenge_fractions_are_conditional(tmp_path):
    folder = tables.write_challenge(tmp_path / "c", tables.challenge(6), with_image=4)
    survey = open_survey("challenge", folder)
    votes = survey.votes
    assert np.allclose(votes["f_features"], 0.8) and np.allclose(votes["f_not_edge_on"], 0.75)
    assert np.allclose(votes["f_spiral"], 0.5)
    assert np.allclose(votes[list(RHO_COLUMNS)], [0.1, 0.5, 0.2, 0.1, 0.0, 0.1])
    assert votes["has_image"].sum() == 4 and len(votes) == 6
    assert "images of 4" in survey.notes[1]
    assert votes["image_path"][0] == "images_training_rev1/100008.jpg"


def test_challenge_question_nobody_was_asked_is_missing_not_zero(tmp_path):
    table = tables.challenge(3)
    table.loc[0, ["Class1.2", "Class2.2", "Class4.1"]] = 0.0
    table.loc[0, [f"Class11.{k}" for k in range(1, 7)]] = 0.0
    table.loc[1, ["Class4.1", *[f"Class11.{k}" for k in range(1, 7)]]] = 0.0
    votes = open_survey("challenge", tables.write_challenge(tmp_path / "c", table)).votes
    assert votes["f_features"].tolist() == [0.0, 0.8, 0.8]
    assert votes["f_not_edge_on"].isna().tolist() == [True, False, False]
    assert votes["f_spiral"].isna().tolist() == [True, False, False]
    assert votes["f_spiral"][1] == 0.0
    assert votes["rho_1"].isna().tolist() == [True, True, False]


@pytest.mark.parametrize(("column", "value"), [("Class1.2", 1.3), ("Class4.1", 0.7)])
def test_challenge_product_larger_than_its_parent_is_refused(tmp_path, column, value):
    table = tables.challenge(3)
    table.loc[1, column] = value
    with pytest.raises(InputError, match=rf"{column} has 1 values outside.*galaxy 100023"):
        open_survey("challenge", tables.write_challenge(tmp_path / "c", table))


def test_challenge_rejects_duplicates_and_missing_columns(tmp_path):
    table = tables.challenge(3)
    twice = pd.concat([table, table.iloc[:1]])
    with pytest.raises(InputError, match="galaxy_id: 2 rows fail.*100008"):
        open_survey("challenge", tables.write_challenge(tmp_path / "a", twice))
    with pytest.raises(InputError, match=r"no column Class11.6"):
        lacking = table.drop(columns="Class11.6")
        open_survey("challenge", tables.write_challenge(tmp_path / "b", lacking))


# ---- real files


@pytest.mark.real
def test_real_gz2_rows(gz2_tables):
    path = gz2_tables / "gz2_ferengi_288.csv"
    votes = gz2.read_table(path)
    raw = pd.read_csv(path, dtype={"objid": str}).set_index("objid")
    assert len(votes) == 288 and "specobjid" not in votes
    assert {str(i) for i in votes["galaxy_id"]} == set(raw.index)
    raw = raw.loc[votes["galaxy_id"].astype(str)]
    for new, column in (gz2.FRACTIONS | gz2.COUNTS | gz2.FLAGS).items():
        assert np.array_equal(votes[new].astype(float), raw[column].astype(float)), column
    assert not votes["subsample"].str.contains("b'").any()


@pytest.mark.real
def test_real_rows_with_repeated_galaxies(gz2_tables, tmp_path):
    path = gz2_tables / "gz2_rows_288.csv"
    with pytest.raises(InputError, match="index lists 94 galaxies more than once"):
        gz2.read_table(path)
    once = pd.read_csv(path, dtype={"index": str}).drop_duplicates("index")
    votes = gz2.read_table(tables.write_catalogue(once, tmp_path / "t.csv"))
    assert sorted(votes["galaxy_id"].astype(str)) == sorted(once["index"])


@pytest.mark.real
def test_real_identifiers_match_another_catalogue(gz2_tables):
    votes = gz2.read_table(gz2_tables / "gz2_ferengi_288.csv")
    spirals = read_columns(
        gz2_tables / "hart2017_logmstar_6222.csv",
        ids={"dr7objid": "dr7objid"},
        numbers={"ra": "ra", "dec": "dec"},
    )
    both = votes.merge(spirals, on="dr7objid")
    assert len(both) > 0
    assert np.allclose(both["ra_x"], both["ra_y"], atol=1e-4)
    assert np.allclose(both["dec_x"], both["dec_y"], atol=1e-4)


# ---- cost


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_million_galaxies_are_read_and_selected_within_2_gigabytes(tmp_path):
    """In a process of its own, from the CSV files to the sample, images aside."""
    rows = 1_000_000
    head, line = tables.willett(["2"]).to_csv(index=False).splitlines()
    before, after = line.split(str(tables.FIRST_ID))
    with open(tmp_path / "zoo2MainSpecz.csv", "w") as file:
        file.write(head + "\n")
        file.writelines(f"{before}{tables.FIRST_ID + i}{after}\n" for i in range(rows))
    with open(tmp_path / "gz2_filename_mapping.csv", "w") as file:
        file.write("objid,sample,asset_id\n")
        file.writelines(f"{tables.FIRST_ID + i},original,{i}\n" for i in range(rows))
    # Not getrusage: its maximum outlives exec, and is that of the process which started this one.
    script = (
        "import re, sys; from lib import selection; from lib.surveys import open_survey\n"
        "votes = open_survey('gz2', sys.argv[1]).votes\n"
        "cuts = ['f_features >= .43', 'total_votes * f_features >= 20', 'clean']\n"
        "sample, _ = selection.select(votes, cuts)\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())\n"
        "print(len(sample), peak[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    selected, kilobytes = map(int, done.stdout.split())
    assert selected == rows
    assert kilobytes < 2_000_000
    (tmp_path / "zoo2MainSpecz.csv").unlink()  # 0.9 GB
