"""Masses, their join to galaxies, arm classes of all sources, and the statistics of notebook 06.

References are scipy, analytic cases, tables made by hand and the paper's own arithmetic; tests
marked `real` hold the result of real galaxies within bounds.
"""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from conftest import ROOT
from scipy import stats

from lib import selection
from lib.figures import mass as figures
from lib.schema import InputError
from lib.stellar_mass import catalogue, classes, statistics
from lib.surveys import open_survey
from lib.surveys.gz2 import COUNT_COLUMNS
from lib.surveys.mock import MASS_SHIFT
from lib.surveys.mock.survey import _write_tables, draw_truth, mass_at_redshift

FIRST = 1802674929645152256  # 19 digits, beyond what a float can hold
CLASSES = classes.CLASSES


def write_fits(path, formats, **columns):
    table = [fits.Column(name, formats[name], array=array) for name, array in columns.items()]
    fits.BinTableHDU.from_columns(table).writeto(path)


FORMATS = {
    "SPECOBJID": "22A", "RA": "E", "DEC": "E", "Z": "E", "Z_WARNING": "I", "RELIABLE": "I",
    "LGM_TOT_P50": "E", "SFR_TOT_P50": "E",
}  # fmt: skip


def rows(n=6, **changed):
    """Columns of the two MPA-JHU files for n good galaxies, one degree apart."""
    columns = {
        "SPECOBJID": (FIRST + np.arange(n)).astype("S22"),
        "RA": 150.0 + np.arange(n),
        "DEC": np.full(n, 10.0),
        "Z": np.full(n, 0.05),
        "Z_WARNING": np.zeros(n, int),
        "RELIABLE": np.ones(n, int),
        "LGM_TOT_P50": 10 + 0.1 * np.arange(n),
        "SFR_TOT_P50": 0.1 * np.arange(n),
    }
    return columns | changed


def write_pair(folder, columns, formats=FORMATS, extra_rows=slice(None)):
    info, extra = {}, {}
    for name, array in columns.items():
        if name in ("LGM_TOT_P50", "SFR_TOT_P50"):
            extra[name] = np.asarray(array)[extra_rows]
        else:
            info[name] = array
    if "SPECOBJID" in columns:
        extra["SPECOBJID"] = np.asarray(columns["SPECOBJID"])[extra_rows]
    write_fits(folder / "galSpecInfo-dr8.fits", formats, **info)
    write_fits(folder / "galSpecExtra-dr8.fits", formats, **extra)
    return folder


def sample_of(n=6, **columns):
    base = {
        "galaxy_id": np.arange(n),
        "specobjid": pd.array(FIRST + np.arange(n), dtype="Int64"),
        "ra": 150.0 + np.arange(n),
        "dec": np.full(n, 10.0),
    }
    return pd.DataFrame(base | columns)


def measure(folder, sample, mass_files=None, need_sfr=False, radius=2.0):
    """Galaxies with a mass, the rows left after each cut, and the counts of the join."""
    raw = catalogue.read_masses(catalogue.find_files(folder, mass_files))
    good, cuts = catalogue.quality_cuts(raw, need_sfr)
    matched, match = catalogue.match_masses(sample, good, raw, radius)
    found = matched[matched["log_mass_mpa"].notna()]
    return found, cuts.set_index("cut")["rows"], match.set_index("step")["rows"]


# --- reading --------------------------------------------------------------------------------------


def test_each_quality_cut_is_counted(tmp_path):
    changed = rows(
        RELIABLE=[0, 1, 1, 1, 1, 1],
        Z_WARNING=[0, 4, 0, 0, 0, 0],
        Z=[0.1, 0.1, 0, 0.1, 0.1, 0.1],
        LGM_TOT_P50=[10, 10, 10, -9999, 10.4, 10.5],
        SFR_TOT_P50=[0, 0, 0, 0, -9999, 0.5],
    )
    write_pair(tmp_path, changed)
    found, cuts, _ = measure(tmp_path, sample_of(), need_sfr=True)
    assert cuts.tolist() == [6, 5, 4, 3, 2, 1]
    assert found["galaxy_id"].tolist() == [5]
    assert measure(tmp_path, sample_of())[0]["galaxy_id"].tolist() == [4, 5]


def test_fibres_without_a_result_are_left_out(tmp_path):
    ids = np.array([str(FIRST), "", "-1", str(FIRST + 3), "", str(FIRST + 5)], dtype="S22")
    write_pair(tmp_path, rows(SPECOBJID=ids))
    assert measure(tmp_path, sample_of())[0]["galaxy_id"].tolist() == [0, 3, 5]


def test_integer_identifiers_are_read_as_well(tmp_path):
    columns = rows(SPECOBJID=FIRST + np.arange(6))
    write_pair(tmp_path, columns, FORMATS | {"SPECOBJID": "K"})
    found, _, _ = measure(tmp_path, sample_of())
    np.testing.assert_allclose(found["log_mass_mpa"], columns["LGM_TOT_P50"], rtol=1e-6)


def test_identifiers_that_differ_in_the_last_digit_do_not_match(tmp_path):
    assert float(FIRST) == float(FIRST + 1), "floats would confuse these two"
    write_pair(tmp_path, rows(1))
    far = {"ra": [10.0, 20.0], "dec": [0.0, 0.0]}
    sample = sample_of(2, specobjid=pd.array([FIRST + 1, FIRST], dtype="Int64"), **far)
    assert measure(tmp_path, sample)[0]["galaxy_id"].tolist() == [1]
    as_text = sample.assign(specobjid=[str(FIRST + 1), str(FIRST)])
    assert measure(tmp_path, as_text)[0]["galaxy_id"].tolist() == [1]


def test_float_identifiers_are_refused(tmp_path):
    write_pair(tmp_path, rows())
    sample = sample_of().assign(specobjid=lambda t: t["specobjid"].astype(float))
    with pytest.raises(InputError, match="specobjid.*floating point"):
        measure(tmp_path, sample)
    folder = tmp_path / "floats"
    folder.mkdir()
    write_pair(folder, rows(SPECOBJID=FIRST + np.arange(6.0)), FORMATS | {"SPECOBJID": "D"})
    with pytest.raises(InputError, match="SPECOBJID.*floating point"):
        measure(folder, sample_of())


def test_missing_column_is_named(tmp_path):
    columns = rows()
    del columns["LGM_TOT_P50"]
    write_pair(tmp_path, columns)
    with pytest.raises(InputError, match=r"galSpecExtra-dr8.fits has no column LGM_TOT_P50"):
        measure(tmp_path, sample_of())


def test_files_of_different_length_are_refused(tmp_path):
    write_pair(tmp_path, rows(), extra_rows=slice(0, 4))
    with pytest.raises(InputError, match="has 6 rows.*has 4.*line by line"):
        measure(tmp_path, sample_of())


def test_files_in_different_order_are_refused(tmp_path):
    write_pair(tmp_path, rows(), extra_rows=[0, 1, 3, 2, 4, 5])
    with pytest.raises(InputError, match="differ in SPECOBJID in 2 rows, first in row 3"):
        measure(tmp_path, sample_of())


def test_nan_mass_in_a_trustworthy_row_is_refused(tmp_path):
    masses = [10, np.nan, np.nan, 10.3, 10.4, 10.5]
    write_pair(tmp_path, rows(LGM_TOT_P50=masses, RELIABLE=[1, 0, 1, 1, 1, 1]))
    with pytest.raises(InputError, match=f"stellar_mass is NaN in 1 trustworthy.*{FIRST + 2}"):
        measure(tmp_path, sample_of())


@pytest.mark.filterwarnings("ignore:File may have been truncated")
def test_truncated_file_is_refused(tmp_path):
    write_pair(tmp_path, rows(2000))
    path = tmp_path / "galSpecInfo-dr8.fits"
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(InputError, match="galSpecInfo-dr8.fits cannot be read"):
        measure(tmp_path, sample_of())


def test_missing_files_name_the_remedy(tmp_path):
    with pytest.raises(InputError, match="galSpecInfo-dr8.fits and .*mass_files"):
        measure(tmp_path, sample_of())
    with pytest.raises(InputError, match="names 3 files"):
        measure(tmp_path, sample_of(), mass_files=["a", "b", "c"])


def test_repeated_identifier_is_refused(tmp_path):
    ids = np.array([str(FIRST)] * 2 + [str(FIRST + i) for i in range(2, 6)], dtype="S22")
    write_pair(tmp_path, rows(SPECOBJID=ids))
    with pytest.raises(InputError, match=f"1 rows with a specobjid.*{FIRST}"):
        measure(tmp_path, sample_of())


def test_casjobs_csv(tmp_path):
    path = tmp_path / "casjobs.csv"
    lines = [f"{FIRST + i},{10 + i / 10},{'-9999' if i == 1 else 0.1}" for i in range(6)]
    path.write_text("\n".join(["specObjID,LGM_TOT_P50,SFR_TOT_P50", *lines]))
    found, cuts, _ = measure(tmp_path, sample_of(), mass_files=[str(path)], need_sfr=True)
    assert found["galaxy_id"].tolist() == [0, 2, 3, 4, 5]
    assert cuts.index.str.contains("left to its query").sum() == 3
    path.write_text("specObjID,SFR_TOT_P50\n1,2\n")
    with pytest.raises(InputError, match="no column LGM_TOT_P50"):
        measure(tmp_path, sample_of(), mass_files=[str(path)])
    path.write_text(f"specObjID,LGM_TOT_P50\n{float(FIRST)},10\n")
    with pytest.raises(InputError, match="floating point"):
        measure(tmp_path, sample_of(), mass_files=[str(path)])


MEMORY = """
import re, sys
from pathlib import Path
from lib.stellar_mass import catalogue

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before = peak()
raw = catalogue.read_masses(catalogue.find_files(Path(sys.argv[1])))
print(len(raw), peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_reading_1_8_million_rows_stays_below_1_gb(tmp_path):
    sizes, used = (50_000, 300_000), []
    for n in sizes:
        folder = tmp_path / str(n)
        folder.mkdir()
        wide = {"OTHER": np.zeros((n, 20))}
        write_pair(folder, rows(n) | wide, FORMATS | {"OTHER": "20D"})
        command = [sys.executable, "-c", MEMORY, str(folder)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        read, growth = map(int, result.stdout.split())
        assert read == n
        used.append(growth)
    per_row = (used[1] - used[0]) / (sizes[1] - sizes[0])
    # Python and its libraries take 0.2 GB before.
    assert used[1] + per_row * (1_800_000 - sizes[1]) < 0.8e9, used


# --- matching -------------------------------------------------------------------------------------


def test_sky_match_is_the_fall_back(tmp_path):
    write_pair(tmp_path, rows())
    arcsec = 1 / 3600
    sample = sample_of(
        specobjid=pd.array([FIRST, pd.NA, 999, pd.NA, FIRST + 4, FIRST + 5], dtype="Int64"),
        dec=10 + np.array([0, 1.5, 1.9, 2.5, 0, 0]) * arcsec,
    )
    found, _, _ = measure(tmp_path, sample)
    assert found["galaxy_id"].tolist() == [0, 1, 2, 4, 5]
    assert (found["matched_by"] == "sky").tolist() == [False, True, True, False, False]
    np.testing.assert_allclose(found["log_mass_mpa"], [10, 10.1, 10.2, 10.4, 10.5], rtol=1e-6)
    assert measure(tmp_path, sample, radius=1.0)[0]["galaxy_id"].tolist() == [0, 4, 5]


def test_ambiguous_pairs_are_reported_and_left_out(tmp_path):
    # Catalogue rows 0 and 1 lie within 2 arcsec of galaxy 0; galaxies 2 and 3 within it of row 2.
    ra = 150.0 + np.array([0, 0.0003, 2, 3, 4, 5])
    write_pair(tmp_path, rows(RA=ra))
    sample = sample_of(
        specobjid=pd.array([pd.NA] * 5 + [FIRST + 5], dtype="Int64"),
        ra=150.0 + np.array([0.0001, 1, 2, 2.0002, 4, 5]),
    )
    found, _, match = measure(tmp_path, sample)
    assert found["galaxy_id"].tolist() == [4, 5]
    assert match["ambiguous by position, left out"] == 3
    assert match["matched by position alone"] == 1


def test_cut_row_is_not_replaced_by_a_neighbour(tmp_path):
    ra = np.array([150.0, 150.0002])
    write_pair(tmp_path, rows(2, RA=ra, RELIABLE=[0, 1]))
    found, _, match = measure(tmp_path, sample_of(1))
    assert found.empty and match["in the catalogue, but cut"] == 1


def test_cross_check_sees_a_repeated_observation(tmp_path):
    write_pair(tmp_path, rows(3, RA=[150.0, 150.0002, 200.0]))
    sample = sample_of(2, specobjid=pd.array([FIRST + 1, FIRST + 2], dtype="Int64"), ra=[150.0, 10])
    _, _, match = measure(tmp_path, sample)
    assert match["- nearest within 2 arcsec: another row"] == 1
    assert match["- nothing within 2 arcsec"] == 1
    assert match["with a mass"] == 2


def test_catalogue_and_sample_share_only_the_photometric_identifier(tmp_path):
    path = tmp_path / "masses.csv"
    lines = [f"{100 + i},{10 + i / 10}" for i in range(6) if i != 2]
    path.write_text("\n".join(["dr7objid,logMstar", *lines]))
    sample = sample_of(dr7objid=100 + np.arange(6))
    found, _, _ = measure(tmp_path, sample, mass_files=[str(path)])
    assert found["galaxy_id"].tolist() == [0, 1, 3, 4, 5]
    with pytest.raises(InputError, match="sample has specobjid, ra, dec, the catalogue dr7objid"):
        measure(tmp_path, sample.drop(columns="dr7objid"), mass_files=[str(path)])


def test_redshift_of_the_spectrum_fills_that_of_the_survey(tmp_path):
    write_pair(tmp_path, rows(2, Z=[0.05, 0.06]))
    found, _, _ = measure(tmp_path, sample_of(2, redshift=[0.01, np.nan]))
    assert found["redshift"].tolist() == pytest.approx([0.01, 0.06])


def test_survey_without_masses_is_refused(tmp_path):
    write_pair(tmp_path, rows())
    step = tmp_path / "01_sample_selection"
    step.mkdir()
    arguments = tmp_path, "challenge", tmp_path
    pd.DataFrame({"galaxy_id": [1, 2], "label": ["1", "2"]}).to_parquet(step / "sample.parquet")
    with pytest.raises(InputError, match="sample has no key at all"):
        catalogue.galaxies_with_masses(*arguments)
    far = sample_of(specobjid=pd.array(np.arange(1, 7), dtype="Int64"), ra=np.arange(6.0))
    far.to_parquet(step / "sample.parquet")
    with pytest.raises(InputError, match="none of the 6 galaxies of survey challenge has a trust"):
        catalogue.galaxies_with_masses(*arguments)


@pytest.mark.real
def test_real_sky_match_agrees_with_the_identifiers(gz2_tables):
    hart = gz2_tables / "hart2017_logmstar_6222.csv"
    table = pd.read_csv(hart, dtype={"dr7objid": "int64"})
    sample = table[["dr7objid", "ra", "dec"]].assign(galaxy_id=table["dr7objid"])
    # Every third galaxy has lost its identifier and moved by an arcsec.
    lost = np.arange(len(sample)) % 3 == 0
    ids = sample["dr7objid"].astype("Int64").mask(lost)
    sample = sample.assign(dr7objid=ids, dec=sample["dec"] + np.where(lost, 1 / 3600, 0))
    found, _, match = measure(gz2_tables, sample, mass_files=[str(hart)])
    assert match["- nearest within 2 arcsec: the same row"] == (~lost).sum()
    by_sky = found[found["matched_by"] == "sky"]
    assert len(by_sky) + match["ambiguous by position, left out"] == lost.sum()
    assert len(by_sky) > 0.99 * lost.sum()
    truth = table.set_index("dr7objid")["logMstar"][found["galaxy_id"]]
    np.testing.assert_array_equal(found["log_mass_mpa"], truth)


# --- the table of Hart et al. (2017) --------------------------------------------------------------

HART = {
    "dr7objid": [587739609160417293, 587739609160417294, 587739609160417295, 587739609160417296],
    "ra": 150.0, "dec": 2.0, "p_bar": [0.0, -999.0, 0.5, 1.0],
    "Z": [0.03, 0.0, 0.04, 0.05], "logMstar": [10.1, 10.2, -999.0, 10.4],
    "ELPETRO_MASS": [1e10, 2e10, 3e10, 0.0],
    "t01_smooth_or_features_a02_features_or_disk_debiased": 0.9,
    "t02_edgeon_a05_no_debiased": 0.9, "t04_spiral_a08_spiral_debiased": 0.9,
    "t11_arms_number_a31_1_flag": 0, "t11_arms_number_a32_2_flag": [1, 0, 0, 0],
    "t11_arms_number_a33_3_flag": 0, "t11_arms_number_a34_4_flag": 0,
    "t11_arms_number_a36_more_than_4_flag": [0, 0, 1, 0], "t11_arms_number_a37_cant_tell_flag": 0,
}  # fmt: skip


def write_hart(folder, **changed):
    table = pd.DataFrame(HART | changed)
    table.to_csv(folder / "hart2017_t11flags_6222.csv")
    return open_survey("hart17", folder)


def test_placeholders_of_hart17_are_left_out_and_counted(tmp_path):
    survey = write_hart(tmp_path)
    votes = survey.votes.set_index("galaxy_id")
    assert votes.index.tolist() == HART["dr7objid"], "identifiers that differ in the last digit"
    assert votes["label"].tolist() == ["2", *votes["label"].iloc[1:2], "5+", votes["label"].iloc[3]]
    assert votes["label"].isna().tolist() == [False, True, False, True]
    known = votes[["redshift", "log_mass_sed", "log_mass_nsa", "p_bar"]].notna()
    assert known.to_numpy().tolist() == [
        [True] * 4, [False, True, True, False], [True, False, True, True], [True, True, False, True]
    ]  # fmt: skip
    assert votes["log_mass_nsa"].iloc[1] == pytest.approx(np.log10(2e10))
    assert [note[:6] for note in survey.notes[1:5]] == ["1 have"] * 4
    galaxies, counts = catalogue.galaxies_with_masses(tmp_path, "hart17", tmp_path)
    assert counts["rows"].tolist() == [4, 3, 2, 1, 1]
    assert galaxies["galaxy_id"].tolist() == HART["dr7objid"][:1]


def test_hart17_refuses_what_it_cannot_trust(tmp_path):
    ids = HART["dr7objid"]
    with pytest.raises(InputError, match="dr7objid must name every galaxy once"):
        write_hart(tmp_path, dr7objid=[ids[0], *ids[:3]])
    with pytest.raises(InputError, match="at most one of a galaxy"):
        write_hart(tmp_path, t11_arms_number_a33_3_flag=[1, 0, 0, 0])
    with pytest.raises(InputError, match="floating point"):
        write_hart(tmp_path, dr7objid=np.array(ids, float))
    with pytest.raises(InputError, match="no column ELPETRO_MASS"):
        pd.DataFrame(HART).drop(columns="ELPETRO_MASS").to_csv(
            tmp_path / "hart2017_t11flags_6222.csv"
        )
        open_survey("hart17", tmp_path)


@pytest.fixture(scope="module")
def real(gz2_tables):
    galaxies, counts = catalogue.galaxies_with_masses(gz2_tables, "hart17", gz2_tables)
    return galaxies, counts, classes.collect(galaxies, gz2_tables, gz2_tables, 42)


@pytest.mark.real
def test_real_masses_contradict_the_papers_null_result(real):
    """Found by hand with pandas and scipy before: residuals of a line in z, Welch's test."""
    galaxies, counts, _ = real
    assert counts["rows"].tolist() == [6222, 6113, 6113, 6112, 1554]
    table = galaxies[galaxies["label"].notna()].assign(arm_class=lambda t: t["label"])
    rest = ("1", *classes.MANY, "?")
    asked = {"2": (("2",), rest), "many": (classes.MANY, ("2",)), "4": (("4",), ("2",))}
    bounds = {
        "log_mass_sed": {"2": (-0.067, 0.0095), "many": (0.079, 0.0037), "4": (0.191, 0.0022)},
        "log_mass_nsa": {"2": (-0.075, 0.0032), "many": (0.090, 0.0009), "4": (0.227, 0.0038)},
    }
    for mass, expected in bounds.items():
        found = statistics.class_shifts(table, mass, ["redshift"], asked).set_index("comparison")
        assert found["n"].to_dict() == {"2": 1465, "many": 78, "4": 9}
        for name, (shift, p) in expected.items():
            assert found.loc[name, "shift"] == pytest.approx(shift, abs=0.005), (mass, name)
            assert found.loc[name, "p"] == pytest.approx(p, rel=0.15), (mass, name)


@pytest.mark.real
def test_real_people_set_a_ceiling(real, gz2_tables):
    _, _, table = real
    agreement = classes.agreement(table).set_index(["first", "second"])
    drawn = agreement.loc["drawn arms", "drawn arms, again"]
    by_hand = pd.read_csv(gz2_tables / "galaxy_builder_arms_296.csv").dropna(subset="n_spirals")
    by_hand = by_hand.pivot(index="dr7objid", columns="is_validation", values="n_spirals").dropna()
    difference = (by_hand[True] - by_hand[False]).abs()
    assert drawn["n"] == len(difference) == 98
    assert drawn["same"] == pytest.approx((difference == 0).mean()) == pytest.approx(0.51, abs=0.01)
    assert drawn["within_one"] == pytest.approx((difference <= 1).mean())
    assert drawn["within_one"] == pytest.approx(0.93, abs=0.005)
    assert drawn["spearman"] == pytest.approx(by_hand.corr("spearman").iloc[0, 1])
    assert agreement.loc[("volunteers' label", "GZ2 name"), "same"] == 1
    assert 0.75 < agreement.loc[("votes", "votes, again"), "same"] < 0.95


# --- classes --------------------------------------------------------------------------------------


def test_votes_by_hand():
    votes = pd.DataFrame(
        [[0, 6, 2, 0, 0, 2], [0, 0, 0, 1, 3, 0], [0, 0, 0, 0, 0, 5]], [11, 12, 13], COUNT_COLUMNS
    )
    table = classes.classes_of(votes)
    assert table["galaxy_id"].tolist() == [11, 12, 13]
    assert table["arm_class"].tolist() == ["2", "5+", "?"]
    assert table["number"].tolist() == pytest.approx([18 / 8, 19 / 4, np.nan], nan_ok=True)
    again = pd.concat([classes.vote_again(votes, seed) for seed in range(400)])
    assert (again.sum(axis=1) == again.index.map(votes.sum(axis=1))).all()
    assert again.loc[11].mean().tolist() == pytest.approx([0, 6, 2, 0, 0, 2], abs=0.3)
    assert again.loc[11].var().iloc[1] == pytest.approx(10 * 0.6 * 0.4, rel=0.3)


def test_agreement_by_hand():
    table = pd.DataFrame(
        {
            "source": ["a"] * 4 + ["b"] * 4 + ["a, again"] * 4,
            "galaxy_id": [1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3, 4],
            "arm_class": ["2", "2", "5+", "?", "2", "3", "4", "1", "2", "4", "?", "?"],
        }
    )
    table["merged"] = classes.merge_labels(table["arm_class"])
    table["number"] = table["arm_class"].map(classes.NUMBER)
    found = classes.agreement(table, fewest=2).set_index(["first", "second"])
    assert found.index.tolist() == [("a", "b"), ("a", "a, again")]
    assert found["n"].tolist() == [3, 4]
    assert found["same"].tolist() == pytest.approx([2 / 3, 1 / 2])
    assert found["within_one"].tolist() == pytest.approx([1, 1 / 2])


def test_classes_of_another_merge_are_refused():
    assert classes.merge_labels(pd.Series(["4", "5+", "?"])).tolist() == ["4+5+", "4+5+", "?"]
    with pytest.raises(InputError, match="3\\+4 cannot be compared"):
        classes.merge_labels(pd.Series(["3+4"]))


# --- statistics -----------------------------------------------------------------------------------


def test_shift_without_covariates_is_welchs_test():
    rng = np.random.default_rng(5)
    a, b = rng.normal(0.3, 0.6, 12), rng.normal(0, 0.3, 200)
    values, inside = np.concatenate([a, b]), np.arange(212) < 12
    found = statistics.adjusted_shift(values, inside, np.empty((212, 0)))
    assert found["n"] == 12 and found["shift"] == pytest.approx(a.mean() - b.mean())
    error = np.sqrt(a.var(ddof=1) / 12 + b.var(ddof=1) / 200)
    # Degrees of freedom of Welch's formula for equal scatter.
    degrees = (1 / 12 + 1 / 200) ** 2 / (1 / 12**2 / 11 + 1 / 200**2 / 199)
    assert found["p"] == pytest.approx(2 * stats.t.sf(found["shift"] / error, degrees))
    half = stats.t.ppf(0.975, degrees) * error
    assert found["shift_high"] - found["shift"] == pytest.approx(half)
    nothing = statistics.adjusted_shift(values, np.arange(212) < 1, np.empty((212, 0)))
    assert nothing["n"] == 1 and np.isnan(nothing["shift"])


def test_shift_at_fixed_covariates_agrees_with_sklearn_and_ignores_what_they_make():
    from sklearn.linear_model import LinearRegression

    rng = np.random.default_rng(6)
    z = rng.normal(size=(500, 2))
    inside = rng.random(500) < 1 / (1 + np.exp(2 - z[:, 0]))
    values = z @ [0.5, -0.2] + 0.1 * inside + rng.normal(0, 0.3, 500)
    found = statistics.adjusted_shift(values, inside, z)
    sklearn = LinearRegression().fit(np.column_stack([inside, z]), values)
    assert found["shift"] == pytest.approx(sklearn.coef_[0])
    direct = values[inside].mean() - values[~inside].mean()
    assert direct > 0.3 and found["shift_low"] < 0.1 < found["shift_high"]
    z[3, 1] = np.nan
    assert statistics.adjusted_shift(values, inside, z)["n"] == inside.sum() - inside[3]


def test_small_groups_reject_a_true_null_as_often_as_they_should():
    rng, p = np.random.default_rng(7), []
    z = rng.normal(size=300)
    inside = np.arange(300) < 5
    for _ in range(1000):
        values = z + rng.normal(0, np.where(inside, 2.0, 1.0))
        p.append(statistics.adjusted_shift(values, inside, z[:, None])["p"])
    # Errors of 0.7 %; a test with 297 degrees of freedom would be near 11 %.
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.025)


def test_class_shifts_compare_the_named_classes():
    table = pd.DataFrame({"arm_class": list("2233?1"), "v": [1.0, 2, 4, 6, 9, 0]})
    asked = {"3 against 2": (("3",), ("2",)), "2 against all": (("2",), ("1", "3", "?"))}
    found = statistics.class_shifts(table, "v", [], asked).set_index("comparison")
    assert found["shift"].tolist() == pytest.approx([3.5, 1.5 - 19 / 4])
    assert found[["n", "n_rest"]].to_numpy().tolist() == [[2, 2], [2, 4]]


def test_matching_is_one_to_one_and_within_the_caliper():
    rng = np.random.default_rng(7)
    z = rng.normal(size=(500, 2))
    inside = rng.random(500) < 0.2
    z[inside] += 0.5
    members, controls = statistics.matched_pairs(inside, z, caliper=0.3)
    assert inside[members].all() and not inside[controls].any()
    assert len(set(members)) == len(members) and len(set(controls)) == len(controls)
    assert np.linalg.norm((z[members] - z[controls]) / z.std(axis=0), axis=1).max() <= 0.3
    # The other way round the class is the larger group.
    controls, members = statistics.matched_pairs(~inside, z, caliper=0.3)
    assert inside[members].all() and not inside[controls].any() and len(members) > 50


def test_matching_by_hand():
    z = np.array([[1.0], [2.0], [1.1], [5.0], [2.2], [np.nan]])
    inside = np.array([True, True, False, False, False, True])
    members, controls = statistics.matched_pairs(inside, z, caliper=0.2)
    assert dict(zip(members.tolist(), controls.tolist())) == {0: 2, 1: 4}
    nobody, _ = statistics.matched_pairs(np.zeros(6, bool), z)
    assert len(nobody) == 0


# --- dilution and the join by position ------------------------------------------------------------


def test_dilution_by_hand():
    # Reference means 1 (class 1) and 0 (class 2). Predicted "1" holds 6 + 2, "2" holds 4 + 8.
    reference = np.repeat(["1", "2"], 10)
    values = np.repeat([1.0, 0.0], 10)
    predicted = np.array(["1"] * 6 + ["2"] * 4 + ["1"] * 2 + ["2"] * 8)
    table = statistics.predicted_dilution(values, reference, predicted, n_resamples=20)
    first = table.set_index("label").loc["1"]
    assert first["reference_shift"] == 1
    assert first["expected_shift"] == pytest.approx(6 / 8 - 4 / 12)
    assert first["observed_shift"] == pytest.approx(6 / 8 - 4 / 12)
    assert first["purity"] == 6 / 8
    assert first["excess"] == pytest.approx(0)
    assert np.isnan(table.set_index("label").loc["?", "purity"])


def random_errors(rng, labels, rate):
    wrong = rng.random(len(labels)) < rate
    return np.where(wrong, rng.choice(CLASSES, len(labels)), labels)


def test_dilution_tells_random_errors_from_those_that_go_with_the_property():
    rng = np.random.default_rng(13)
    labels = rng.choice(CLASSES, 4000)
    values = rng.normal(0, 0.3, 4000) + 0.3 * (labels == "1") - 0.3 * (labels == "3")
    random = statistics.predicted_dilution(values, labels, random_errors(rng, labels, 0.4), 200)
    random = random.set_index("label")
    assert abs(random.loc["1", "observed_shift"]) < 0.8 * random.loc["1", "reference_shift"]
    assert (random["excess_low"] <= 0.01).all() and (random["excess_high"] >= -0.01).all()
    # Now massive galaxies are called m = 1, whatever their label.
    biased = np.where(values > 0.4, "1", labels)
    table = statistics.predicted_dilution(values, labels, biased, 200).set_index("label")
    assert table.loc["1", "excess_low"] > 0.05


def test_dilution_interval_covers_no_excess():
    rng = np.random.default_rng(14)
    covered, excess, width = 0, [], []
    for i in range(60):
        labels = rng.choice(CLASSES, 300)
        values = rng.normal(0, 0.3, 300) + 0.3 * (labels == "1")
        predicted = random_errors(rng, labels, 0.4)
        row = statistics.predicted_dilution(values, labels, predicted, 200, seed=i).iloc[0]
        covered += row["excess_low"] <= 0 <= row["excess_high"]
        excess.append(row["excess"])
        width.append(row["excess_high"] - row["excess_low"])
    assert covered >= 51, "95 % of 60 is 57, with an error of 1.7"
    # The spread of 60 repeats is known to 9 %.
    assert np.mean(width) == pytest.approx(2 * 1.96 * np.std(excess, ddof=1), rel=0.25)


def test_every_source_is_compared_with_the_reference():
    rng = np.random.default_rng(19)
    labels, galaxy_id = rng.choice(["1", "2"], 200), np.arange(200)
    values = rng.normal(0, 0.3, 200)
    parts = {"label": labels} | {c: random_errors(rng, labels, 0.3) for c in ("a", "b")}
    rows = [
        {"galaxy_id": galaxy_id, "source": s, "merged": m, "log_mass": values}
        for s, m in parts.items()
    ]
    data = pd.concat([pd.DataFrame(row) for row in rows])
    # A galaxy without a label cannot be compared.
    more = pd.DataFrame({"galaxy_id": [999], "source": "a", "merged": "2", "log_mass": 99.0})
    found = statistics.dilution_by_source(pd.concat([data, more]), "label", 50, 1)
    assert set(found["source"]) == {"a", "b"} and (found["n"] >= 10).all()
    assert found["observed_shift"].abs().max() < 1
    alone = statistics.predicted_dilution(values, labels, parts["a"], 50, 1)
    np.testing.assert_array_equal(found[found["source"] == "a"]["p"], alone[alone["n"] > 9]["p"])


def test_class_without_errors_has_no_excess_to_test():
    labels = np.repeat(["1", "2"], 20)
    table = statistics.predicted_dilution(np.arange(40.0), labels, labels, 30).set_index("label")
    assert table.loc["1", "excess"] == pytest.approx(0) and np.isnan(table.loc["1", "p"])
    assert np.isnan(table.loc["3", "observed_shift"]) and table.loc["3", "n"] == 0
    empty = statistics.predicted_dilution(np.array([]), np.array([]), np.array([]), 10)
    assert (empty["n"] == 0).all()


# --- the simulated survey -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mock(tmp_path_factory):
    """Galaxies of a simulated survey without images, with their masses, and all their classes."""
    folder = tmp_path_factory.mktemp("mock")
    truth = draw_truth(3000, 7, spiral_fraction=0.9, arm_frequencies="enriched")
    _write_tables(folder, truth, 7)
    cuts = ["f_features > 0.43", "f_not_edge_on > 0.715", "f_spiral > 0.715", "n_spiral > 20"]
    sample, _ = selection.select(open_survey("mock", folder).votes, cuts)
    (folder / "01_sample_selection").mkdir()
    sample.to_parquet(folder / "01_sample_selection" / "sample.parquet")
    galaxies, counts = catalogue.galaxies_with_masses(folder, "mock", folder)
    return galaxies, counts, classes.collect(galaxies, folder, folder, 1), truth


def test_masses_of_the_mock_are_those_of_the_truth(mock):
    galaxies, counts, table, truth = mock
    true = truth.set_index("galaxy_id").loc[galaxies["galaxy_id"]].reset_index()
    assert (true["mass_quality"] == "good").all()
    # The catalogue adds 0.05 dex of noise.
    assert (galaxies["log_mass_mpa"] - true["log_mass"]).std() == pytest.approx(0.05, rel=0.1)
    by_hand = mass_at_redshift(true["redshift"]) + true["arm_class"].map(MASS_SHIFT).fillna(0)
    np.testing.assert_allclose(galaxies["log_mass_built_in"], by_hand, atol=1e-4)
    assert counts["rows"].iloc[-1] == len(galaxies) > 500
    assert set(table["source"]) == {"volunteers' label", "truth", "votes", "votes, again"}
    seen = table[table["source"] == "truth"].set_index("galaxy_id")["arm_class"]
    expected = true.set_index("galaxy_id")["arm_class"][seen.index]
    assert (seen == expected).all()


def test_built_in_shifts_are_recovered(mock):
    """The difference to the mass without scatter is scatter: within three standard errors."""
    galaxies, _, table, _ = mock
    data = table.merge(galaxies, on="galaxy_id", suffixes=("", "_2"))
    asked = {m: ((m,), tuple(c for c in "1234?" if c != m) + ("5+",)) for m in ("1", "2", "3", "?")}
    for source, rows_of in data.groupby("source"):
        seen = statistics.class_shifts(rows_of, "log_mass_mpa", ["redshift"], asked)
        built_in = statistics.class_shifts(rows_of, "log_mass_built_in", ["redshift"], asked)
        error = (seen["shift_high"] - seen["shift_low"]) / 4
        assert ((seen["shift"] - built_in["shift"]).abs() < 3 * error).all(), source
        # Labels mix the classes, which makes the shifts smaller.
        assert seen["shift_low"].iloc[0] > 0.05 and seen["shift_high"].iloc[2] < -0.05, source


# --- figures --------------------------------------------------------------------------------------


def test_forest_draws_each_shift_where_it_is():
    table = pd.DataFrame(
        {
            "mass": ["A", "A", "B"], "m": ["1", "2", "1"], "method": "raw", "n": [5, 1200, 7],
            "shift": [0.1, -0.2, np.nan], "shift_low": [0.0, -0.3, np.nan],
            "shift_high": [0.2, -0.1, np.nan],
        }
    )  # fmt: skip
    figure = figures.forest(table, "mass", "m", "method", pd.Series({"1": 0.15}))
    left, right = figure.axes
    marks = [line for line in left.lines if len(line.get_xdata()) == 1]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in marks] == [(0.1, 0), (-0.2, 1)]
    assert [text.get_text() for text in left.texts] == ["5", "1,200"]
    (band,) = left.patches
    assert (band.get_x(), band.get_width()) == (-0.15, 0.3)
    assert left.get_title() == "A" and right.get_title() == "B"
    assert [t.get_text() for t in left.get_yticklabels()] == ["1", "2"]
