"""Masses, their match to galaxies, and the statistics of Sec. 6, against independent references."""

import itertools
import json
import subprocess
import sys

import jupytext
import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from astropy.io import fits
from conftest import ROOT
from PIL import Image
from scipy import stats

from lib import paper, selection
from lib import report as run_report
from lib.figures import mass as figures
from lib.schema import ARM_CLASSES, RHO_COLUMNS, InputError, probability_columns
from lib.stellar_mass import catalogue, dilution, groups, published, report, statistics
from lib.surveys import open_survey
from lib.surveys.mock import MASS_SHIFT
from lib.surveys.mock.survey import _write_tables, draw_truth, mass_at_redshift

FIRST = 1802674929645152256  # 19 digits, beyond what a float can hold
CLASSES = groups.CLASSES


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


def measure(folder, sample, prop="stellar_mass", **options):
    return catalogue.measure(sample, prop, "gz2", folder, **options)


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
    measured = measure(tmp_path, sample_of(), need_sfr=True)
    assert measured.cuts["removed"].tolist() == [0, 1, 1, 1, 1, 1]
    assert measured.values["galaxy_id"].tolist() == [5]
    assert measure(tmp_path, sample_of()).values["galaxy_id"].tolist() == [4, 5]
    sfr = measure(tmp_path, sample_of(), "sfr")
    assert sfr.values["value"].tolist() == pytest.approx([0, 0.5])


def test_fibres_without_a_result_are_left_out(tmp_path):
    ids = np.array([str(FIRST), "", "-1", str(FIRST + 3), "", str(FIRST + 5)], dtype="S22")
    write_pair(tmp_path, rows(SPECOBJID=ids))
    assert measure(tmp_path, sample_of()).values["galaxy_id"].tolist() == [0, 3, 5]


def test_integer_identifiers_are_read_as_well(tmp_path):
    columns = rows(SPECOBJID=FIRST + np.arange(6))
    write_pair(tmp_path, columns, FORMATS | {"SPECOBJID": "K"})
    measured = measure(tmp_path, sample_of())
    np.testing.assert_allclose(measured.values["value"], columns["LGM_TOT_P50"], rtol=1e-6)


def test_identifiers_that_differ_in_the_last_digit_do_not_match(tmp_path):
    assert float(FIRST) == float(FIRST + 1), "floats would confuse these two"
    write_pair(tmp_path, rows(1))
    far = {"ra": [10.0, 20.0], "dec": [0.0, 0.0]}
    sample = sample_of(2, specobjid=pd.array([FIRST + 1, FIRST], dtype="Int64"), **far)
    measured = measure(tmp_path, sample)
    assert measured.values["galaxy_id"].tolist() == [1]
    as_text = sample.assign(specobjid=[str(FIRST + 1), str(FIRST)])
    assert measure(tmp_path, as_text).values["galaxy_id"].tolist() == [1]


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
    measured = measure(tmp_path, sample_of(), mass_files=[str(path)], need_sfr=True)
    assert measured.values["galaxy_id"].tolist() == [0, 2, 3, 4, 5]
    assert measured.cuts["cut"].str.contains("left to its query").sum() == 3
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
    measured = measure(tmp_path, sample)
    assert measured.values["galaxy_id"].tolist() == [0, 1, 2, 4, 5]
    by = measured.values["matched_by"].tolist()
    assert by == ["identifier", "sky", "sky", "identifier", "identifier"]
    np.testing.assert_allclose(measured.values["value"], [10, 10.1, 10.2, 10.4, 10.5], rtol=1e-6)
    assert measure(tmp_path, sample, radius=1.0).values["galaxy_id"].tolist() == [0, 4, 5]


def test_ambiguous_pairs_are_reported_and_left_out(tmp_path):
    # Catalogue rows 0 and 1 lie within 2 arcsec of galaxy 0; galaxies 2 and 3 within it of row 2.
    ra = 150.0 + np.array([0, 0.0003, 2, 3, 4, 5])
    write_pair(tmp_path, rows(RA=ra))
    sample = sample_of(
        specobjid=pd.array([pd.NA] * 5 + [FIRST + 5], dtype="Int64"),
        ra=150.0 + np.array([0.0001, 1, 2, 2.0002, 4, 5]),
    )
    measured = measure(tmp_path, sample)
    assert measured.values["galaxy_id"].tolist() == [4, 5]
    match = measured.match.set_index("check")["galaxies"]
    assert match["ambiguous by position, left out"] == 3
    assert match["matched by position alone"] == 1


def test_cut_row_is_not_replaced_by_a_neighbour(tmp_path):
    ra = np.array([150.0, 150.0002])
    write_pair(tmp_path, rows(2, RA=ra, RELIABLE=[0, 1]))
    measured = measure(tmp_path, sample_of(1))
    assert measured.values.empty
    match = measured.match.set_index("check")["galaxies"]
    assert match["in the catalogue, but cut"] == 1


def test_cross_check_sees_a_repeated_observation(tmp_path):
    write_pair(tmp_path, rows(3, RA=[150.0, 150.0002, 200.0]))
    sample = sample_of(2, specobjid=pd.array([FIRST + 1, FIRST + 2], dtype="Int64"), ra=[150.0, 10])
    match = measure(tmp_path, sample).match.set_index("check")["galaxies"]
    assert match["- nearest within 2 arcsec: another row"] == 1
    assert match["- nothing within 2 arcsec"] == 1
    assert match["with a value"] == 2


def test_catalogue_and_sample_share_only_the_photometric_identifier(tmp_path):
    path = tmp_path / "masses.csv"
    lines = [f"{100 + i},{10 + i / 10}" for i in range(6) if i != 2]
    path.write_text("\n".join(["dr7objid,logMstar", *lines]))
    sample = sample_of(dr7objid=100 + np.arange(6))
    measured = measure(tmp_path, sample, mass_files=[str(path)])
    assert measured.values["galaxy_id"].tolist() == [0, 1, 3, 4, 5]
    assert catalogue.shared_key(sample, measured.masses) == "dr7objid"
    joined = catalogue.join_by_position(sample, measured.masses)
    assert joined["value"].tolist() == pytest.approx(
        [10, 10.1, 10.3, 10.4, 10.5, np.nan], nan_ok=True
    )
    assert joined["own"].tolist() == [True, True, False, False, False, False]
    # An identifier without an entry is none.
    empty = sample.assign(specobjid=pd.array([pd.NA] * 6, dtype="Int64"))
    both = measured.masses.assign(specobjid=1)
    assert catalogue.shared_key(empty, both) == "dr7objid"
    with pytest.raises(InputError, match="sample has specobjid, ra, dec, the catalogue dr7objid"):
        measure(tmp_path, sample.drop(columns="dr7objid"), mass_files=[str(path)])
    assert catalogue.shared_key(sample, pd.DataFrame()) is None


def test_catalogue_of_other_galaxies_gives_a_reason(tmp_path):
    write_pair(tmp_path, rows())
    far = sample_of(specobjid=pd.array(np.arange(1, 7), dtype="Int64"), ra=np.arange(6.0))
    measured = measure(tmp_path, far)
    assert "None of the 6 galaxies of survey gz2 has a trustworthy row" in measured.reason
    assert measured.values.empty and measure(tmp_path, sample_of()).reason == ""


def test_redshift_of_the_spectrum_fills_that_of_the_survey(tmp_path):
    write_pair(tmp_path, rows(2, Z=[0.05, 0.06]))
    measured = measure(tmp_path, sample_of(2, redshift=[0.01, np.nan]))
    assert measured.values["redshift"].tolist() == pytest.approx([0.01, 0.06])


def test_survey_without_identifiers_has_no_masses(tmp_path):
    sample = pd.DataFrame({"galaxy_id": [1, 2], "label": ["1", "2"], "f_spiral": [0.8, 0.9]})
    measured = catalogue.measure(sample, "stellar_mass", "challenge", tmp_path)
    assert "challenge has no stellar masses" in measured.reason
    assert measured.values.empty
    assert groups.classified(measured.values, {}) == {}


def test_any_numeric_column_can_be_compared(tmp_path):
    sample = sample_of(redshift=[0.1, np.nan, 0.3, 0.4, 0.5, 0.6], name=list("abcdef"))
    sample["petror90_r"] = np.arange(6.0)
    size = measure(tmp_path, sample, "petror90_r")
    assert (size.unit, size.shift_unit) == ("petror90_r [arcsec]", "arcsec")
    measured = measure(tmp_path, sample, "redshift")
    assert (measured.unit, measured.shift_unit) == ("redshift", "units of redshift")
    assert measured.values["value"].tolist() == [0.1, 0.3, 0.4, 0.5, 0.6]
    for wrong in ("name", "colour"):
        with pytest.raises(InputError, match=f"{wrong}.*numeric column.*redshift"):
            measure(tmp_path, sample, wrong)


@pytest.mark.real
def test_real_rows_all_have_a_mass(gz2_tables):
    hart = gz2_tables / "hart2017_logmstar_6222.csv"
    galaxies = pd.read_csv(gz2_tables / "gz2_rows_288.csv", usecols=["index"])
    sample = pd.DataFrame({"galaxy_id": galaxies["index"], "dr7objid": galaxies["index"]})
    measured = measure(gz2_tables, sample, mass_files=[str(hart)])
    assert len(measured.values) == 288
    by_hand = pd.read_csv(hart, dtype={"dr7objid": str}).set_index("dr7objid")["logMstar"]
    expected = by_hand[measured.values["galaxy_id"].astype(str)]
    np.testing.assert_array_equal(measured.values["value"], expected)


@pytest.mark.real
def test_real_sky_match_agrees_with_the_identifiers(gz2_tables):
    hart = gz2_tables / "hart2017_logmstar_6222.csv"
    table = pd.read_csv(hart, dtype={"dr7objid": "int64"})
    sample = table[["dr7objid", "ra", "dec"]].assign(galaxy_id=table["dr7objid"])
    # Every third galaxy has lost its identifier and moved by an arcsec.
    lost = np.arange(len(sample)) % 3 == 0
    ids = sample["dr7objid"].astype("Int64").mask(lost)
    sample = sample.assign(dr7objid=ids, dec=sample["dec"] + np.where(lost, 1 / 3600, 0))
    measured = measure(gz2_tables, sample, mass_files=[str(hart)])
    match = measured.match.set_index("check")["galaxies"]
    same = match["- nearest within 2 arcsec: the same row"]
    assert same == (~lost).sum()
    by_sky = measured.values[measured.values["matched_by"] == "sky"]
    assert len(by_sky) + match["ambiguous by position, left out"] == lost.sum()
    assert len(by_sky) > 0.99 * lost.sum()
    truth = table.set_index("dr7objid")["logMstar"][by_sky["galaxy_id"]]
    np.testing.assert_array_equal(by_sky["value"], truth)


# --- statistics -----------------------------------------------------------------------------------


def test_cliffs_delta_counts_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 13), rng.integers(0, 6, 29)
    pairs = [np.sign(x - y) for x, y in itertools.product(a, b)]
    assert statistics.cliffs_delta(a, b) == pytest.approx(np.mean(pairs))
    both = np.stack([a, a + 10])
    assert statistics.cliffs_delta(both, np.stack([b, b])).tolist() == pytest.approx(
        [np.mean(pairs), 1.0]
    )


def test_compare_agrees_with_scipy_and_by_hand():
    rng = np.random.default_rng(1)
    a, b = rng.normal(10.3, 0.4, 60), rng.normal(10.1, 0.6, 250)
    result = statistics.compare(a, b, n_resamples=300, n_permutations=199)
    error = np.sqrt(a.var(ddof=1) / 60 + b.var(ddof=1) / 250)
    t = (a.mean() - b.mean()) / error
    parts = a.var(ddof=1) / 60, b.var(ddof=1) / 250
    degrees = sum(parts) ** 2 / (parts[0] ** 2 / 59 + parts[1] ** 2 / 249)
    assert result["t"] == pytest.approx(t)
    assert result["welch_p"] == pytest.approx(2 * stats.t.sf(abs(t), degrees))
    assert result["welch_p_higher"] == pytest.approx(stats.t.sf(t, degrees))
    assert result["welch_p_lower"] == pytest.approx(stats.t.cdf(t, degrees))
    steps = np.sort(np.concatenate([a, b]))
    distance = [np.mean(a <= x) - np.mean(b <= x) for x in steps]
    assert result["ks_d"] == pytest.approx(np.abs(distance).max())
    assert result["ks_p"] == stats.ks_2samp(a, b).pvalue
    assert result["mw_p"] == stats.mannwhitneyu(a, b, alternative="two-sided").pvalue
    u = sum(np.sum(x > b) + np.sum(x == b) / 2 for x in a)
    assert result["mw_u"] == pytest.approx(u)
    assert result["delta"] == pytest.approx(2 * u / (60 * 250) - 1)
    with pytest.warns(UserWarning, match="floored"):
        asymptotic = stats.anderson_ksamp([a, b], variant="midrank")
    assert result["ad"] == pytest.approx(asymptotic.statistic)
    assert result["ad_p"] >= 1 / 200
    assert result["shift_low"] < result["shift"] < result["shift_high"]
    width = (result["shift_high"] - result["shift_low"]) / 2
    assert width == pytest.approx(1.96 * error, rel=0.15)


def test_one_sided_p_value_does_not_underflow():
    rng = np.random.default_rng(16)
    a, b = rng.normal(0, 1, 400), rng.normal(3, 1, 400)
    result = statistics.compare(a, b, n_resamples=10, n_permutations=9)
    assert result["welch_p_lower"] == pytest.approx(result["welch_p"] / 2)
    assert 0 < result["welch_p_lower"] < 1e-100 and result["welch_p_higher"] == 1


def test_permutations_give_anderson_darling_a_uniform_p_value_under_the_null():
    rng = np.random.default_rng(2)
    p = [
        statistics.compare(
            rng.normal(size=15), rng.normal(size=30), n_resamples=10, n_permutations=99, seed=i
        )["ad_p"]
        for i in range(60)
    ]
    assert stats.kstest(p, "uniform").pvalue > 0.001
    assert max(p) > 0.5, "the tabulated p-values would end at 0.25"


def test_bootstrap_interval_covers_the_truth():
    rng = np.random.default_rng(3)
    truth, repeats = 0.25, 200
    delta = 2 * stats.norm.cdf(truth / np.sqrt(2)) - 1
    covered = np.zeros(2)
    for i in range(repeats):
        a, b = rng.normal(truth, 1, 40), rng.normal(0, 1, 120)
        for j, (statistic, value) in enumerate(
            [(statistics.mean_difference, truth), (statistics.cliffs_delta, delta)]
        ):
            low, high = statistics.bootstrap_interval(a, b, statistic, 300, seed=i)
            covered[j] += low <= value <= high
    # Binomial error of 200 repeats: 1.5 %; the percentile bootstrap of 40 galaxies is a bit narrow.
    assert np.all(covered / repeats > 0.90) and np.all(covered / repeats < 0.985)


def test_bootstrap_is_repeatable():
    a, b = np.arange(10.0), np.arange(5.0, 30)
    first = statistics.bootstrap_interval(a, b, statistics.mean_difference, 100, seed=5)
    assert first == statistics.bootstrap_interval(a, b, statistics.mean_difference, 100, seed=5)
    assert first != statistics.bootstrap_interval(a, b, statistics.mean_difference, 100, seed=6)


def test_holm_by_hand():
    # Sorted .005, .01, .03, .04 times 4, 3, 2, 1 = .02, .03, .06, .04; never falling: .04 -> .06.
    p = [0.01, 0.04, 0.03, 0.005]
    assert statistics.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with_gap = statistics.holm([0.01, np.nan, 0.04, 0.03, 0.005])
    assert with_gap == pytest.approx([0.03, np.nan, 0.06, 0.06, 0.02], nan_ok=True)
    assert statistics.holm([0.6, 0.7]).tolist() == [1.0, 1.0]


def test_sound_tests_compare_with_the_complement():
    rng = np.random.default_rng(4)
    labels = rng.choice(CLASSES, 400, p=[0.2, 0.5, 0.2, 0.0, 0.1])
    values = rng.normal(size=400) + np.where(labels == "1", 0.8, 0)
    table = statistics.sound_tests(values, labels, n_resamples=50, n_permutations=49)
    table = table.set_index("label")
    inside, rest = values[labels == "1"], values[labels != "1"]
    assert table.loc["1", "welch_p"] == stats.ttest_ind(inside, rest, equal_var=False).pvalue
    assert table.loc["1", "n"] + table.loc["1", "n_rest"] == 400
    assert table.loc["4+5+", "n"] == 0 and np.isnan(table.loc["4+5+", "welch_p"])
    tested = table["welch_p"].notna()
    expected = statistics.holm(table.loc[tested, "welch_p"])
    assert table.loc[tested, "welch_p_holm"].tolist() == pytest.approx(expected.tolist())


def test_published_tests_compare_with_the_whole_sample():
    rng = np.random.default_rng(5)
    labels, values = rng.choice(CLASSES, 300), rng.normal(size=300)
    table = published.published_tests(values, labels).set_index("label")
    part = values[labels == "3"]
    t, p = stats.ttest_ind(part, values)
    assert (table.loc["3", "t"], table.loc["3", "t_p_two_sided"]) == (t, p)
    assert p == pytest.approx(2 * stats.t.sf(abs(t), len(part) + 300 - 2))
    assert table.loc["3", "ks_p"] == stats.ks_2samp(part, values).pvalue


def test_overall_tests_agree_with_scipy():
    rng = np.random.default_rng(6)
    labels, values = rng.choice(CLASSES[:3], 90), rng.normal(size=90)
    parts = [values[labels == c] for c in CLASSES[:3]]
    result = statistics.overall_tests(values, labels)
    assert result["anova_p"] == stats.f_oneway(*parts).pvalue
    assert result["kruskal_p"] == stats.kruskal(*parts).pvalue
    assert statistics.overall_tests(values[:1], labels[:1]) == {"classes": 0}


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


def test_matching_removes_a_shift_that_redshift_makes():
    rng = np.random.default_rng(8)
    labels = rng.choice(["1", "2"], 3000, p=[0.2, 0.8])
    redshift = rng.normal(0.06, 0.02, 3000) + np.where(labels == "1", 0.01, 0)
    values = 10 + 10 * redshift + rng.normal(0, 0.1, 3000)
    options = dict(n_resamples=200, n_permutations=19)
    direct = statistics.sound_tests(values, labels, **options).set_index("label").loc["1"]
    table = statistics.matched_tests(
        values, labels, pd.DataFrame({"redshift": redshift}), **options
    )
    matched = table.set_index("label").loc["1"]
    assert direct["shift_low"] > 0.05
    assert matched["shift_low"] < 0 < matched["shift_high"]
    assert abs(matched["redshift_after"]) < 0.02 < 0.3 < matched["redshift_before"]


def test_pairs_are_compared_by_their_differences():
    rng = np.random.default_rng(17)
    common = rng.normal(0, 1, 80)
    a, b = common + rng.normal(0.1, 0.2, 80), common + rng.normal(0, 0.2, 80)
    result = statistics.compare_pairs(a, b, n_resamples=500)
    difference = a - b
    error = difference.std(ddof=1) / np.sqrt(80)
    assert result["shift"] == pytest.approx(difference.mean())
    assert result["paired_t"] == pytest.approx(difference.mean() / error)
    assert result["paired_p"] == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)
    width = (result["shift_high"] - result["shift_low"]) / 2
    assert width == pytest.approx(1.96 * error, rel=0.15)
    low, high = statistics.bootstrap_interval(a, b, statistics.mean_difference, 500)
    assert high - low > 3 * 2 * width, "as independent samples the pairs' common part is noise"
    assert statistics.compare_pairs(a[:1], b[:1]) == {}


def test_matched_table_reports_the_pairs():
    rng = np.random.default_rng(18)
    labels, z = rng.choice(["1", "2"], 600, p=[0.3, 0.7]), rng.normal(size=600)
    values = z + rng.normal(0, 0.2, 600)
    table = statistics.matched_tests(
        values, labels, pd.DataFrame({"z": z}), n_resamples=50, n_permutations=9
    ).set_index("label")
    first, second = statistics.matched_pairs(labels == "1", z[:, None], seed=42)
    assert table.loc["1", "paired_p"] == stats.ttest_rel(values[first], values[second]).pvalue
    tested = table["paired_p"].notna()
    assert tested.sum() == 2
    holm = statistics.holm(table.loc[tested, "paired_p"])
    assert table.loc[tested, "paired_p_holm"].tolist() == holm.tolist()


def test_covariates_leave_out_what_is_not_there():
    table = pd.DataFrame({"redshift": [0.1, 0.2], "petror90_r": [np.nan, np.nan]})
    wanted = ["redshift", "petror90_r", "colour"]
    assert statistics.covariates(table, wanted, "stellar_mass") == ["redshift"]
    assert statistics.covariates(table, wanted, "redshift") == []


def test_minimum_detectable_shift_is_found_four_times_in_five():
    n, rest, spread = 25, 200, 0.5
    shift = statistics.minimum_detectable_shift(n, rest, spread)
    rng = np.random.default_rng(9)
    a = rng.normal(shift, spread, (4000, n))
    b = rng.normal(0, spread, (4000, rest))
    found = np.mean(stats.ttest_ind(a, b, axis=1).pvalue < 0.05)
    assert found == pytest.approx(0.8, abs=0.025)
    # For large samples: (1.960 + 0.8416) standard errors.
    large = statistics.minimum_detectable_shift(5000, 5000, 1.0)
    assert large == pytest.approx(2.8016 * np.sqrt(2 / 5000), rel=1e-3)
    assert np.isnan(statistics.minimum_detectable_shift(1, 100, 1.0))


def test_power_table_has_the_papers_sizes():
    table = pd.DataFrame({"value": np.arange(10.0), "arm_class": list("12") * 5})
    sizes = paper.TABLE_4["n"].rename(index={"4,5+": "4+5+"})
    power = statistics.power_table({"label": table}, sizes).set_index(["sizes", "label"])
    assert power.loc[("paper: label", "4+5+"), "n"] == 54
    spread = np.std(np.arange(10), ddof=1)
    expected = statistics.minimum_detectable_shift(54, 11291 - 54, spread)
    assert power.loc[("paper: label", "4+5+"), "one_test"] == pytest.approx(expected)
    assert (power["all_classes"].dropna() > power["one_test"].dropna()).all()


# --- the printed table ----------------------------------------------------------------------------


def test_printed_rows_that_contradict_each_other():
    table = published.check_printed_rows(paper.table_4_p_values())
    contradictory = set(table.index[table["ks_contradiction"]])
    assert contradictory == {("label", "?"), ("B0", "1")}
    assert table["t_two_sided"].all() and not table["t_one_sided"].any()
    right = paper.table_4_p_values()
    right["ks_p"] = (right["ks_p_low"] + right["ks_p_high"]) / 2
    right["t_p"] = right["t_p_one_sided"]
    corrected = published.check_printed_rows(right)
    assert not corrected["ks_contradiction"].any()
    assert corrected["t_one_sided"].all() and not corrected["t_two_sided"].any()


def test_implied_shifts_recover_the_data_behind_a_table():
    rng = np.random.default_rng(10)
    labels = rng.choice(CLASSES, 5000, p=[0.05, 0.8, 0.05, 0.02, 0.08])
    values = rng.normal(0, 1, 5000) + np.where(labels == "1", 0.3, 0)
    table = published.published_tests(values, labels).set_index("label")
    implied = published.implied_shifts(table["n"], table["t"], 5000)
    expected = dilution.class_shifts(values, labels)
    np.testing.assert_allclose(implied["shift"], expected, rtol=0.02, atol=0.002)
    anova = stats.f_oneway(*[values[labels == c] for c in CLASSES]).pvalue
    assert np.log(implied.attrs["anova_p"]) == pytest.approx(np.log(anova), rel=0.1)
    assert abs(implied.attrs["balance"]) < 0.01 * abs(table["n"] * implied["shift"]).sum()


def test_beside_paper_keeps_our_rows():
    ours = published.published_table(
        {"label": pd.DataFrame({"value": np.arange(20.0), "arm_class": ["1", "2"] * 10})}
    )
    printed = published.check_printed_rows(paper.table_4_p_values().rename(index={"4,5+": "4+5+"}))
    both = published.beside_paper(ours, printed)
    assert both.loc[("label", "4+5+"), ("paper", "n")] == 54
    assert both.loc[("label", "1"), ("ours", "n")] == 10
    assert len(both) == len(CLASSES)


# --- galaxies that a model has learnt -------------------------------------------------------------


def test_models_are_judged_by_galaxies_they_have_not_learnt():
    values = sample_of(4).assign(value=[1.0, 2, 3, 4], label=["1", "2", "5+", "?"])
    predictions = pd.DataFrame(
        {
            "galaxy_id": [3, 2, 1, 0],
            "split": ["test", "train", "unused", "validation"],
            "predicted": ["?", "4", "1", "1"],
        }
    )
    by_source = groups.classified(values, {"B0": predictions})
    assert by_source["B0"]["galaxy_id"].tolist() == [0, 1, 2, 3]
    unseen = groups.unseen(by_source | {"V2M": by_source["B0"].assign(split="train")})
    assert list(unseen) == ["label", "B0"], "V2M has learnt them all"
    assert unseen["label"]["galaxy_id"].tolist() == [0, 1, 2, 3]
    assert unseen["B0"]["galaxy_id"].tolist() == [0, 1, 3]


# --- wrong and uncertain classes ------------------------------------------------------------------


def test_merged_labels_and_probabilities():
    assert groups.merge_labels(pd.Series(list(ARM_CLASSES))).tolist() == [
        "1", "2", "3", "4+5+", "4+5+", "?",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"3\+4.*merge none or 4\+5\+"):
        groups.merge_labels(pd.Series(["1", "3+4"]))
    table = pd.DataFrame([[0.1, 0.2, 0.3, 0.05, 0.15, 0.2], [0] * 6], columns=RHO_COLUMNS)
    result = groups.merge_probabilities(table, "rho")
    assert result[0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.2, 0.2])
    assert np.isnan(result[1]).all()
    merged = pd.DataFrame([[0.1, 0.2, 0.3, 0.2, 0.2]], columns=probability_columns(CLASSES))
    assert groups.merge_probabilities(merged, "p")[0].tolist() == pytest.approx(result[0].tolist())
    with pytest.raises(InputError, match="p_3"):
        groups.merge_probabilities(merged.drop(columns="p_3"), "p")


def test_drawn_shifts_with_certain_classes_are_a_bootstrap():
    rng = np.random.default_rng(11)
    codes = rng.integers(0, 3, 400)
    values = rng.normal(size=400) + 0.5 * (codes == 1)
    certain = np.eye(5)[codes]
    table = dilution.drawn_shifts(values, certain, n_draws=400).set_index("label")
    a, b = values[codes == 1], values[codes != 1]
    assert table.loc["2", "shift"] == pytest.approx(a.mean() - b.mean(), abs=0.02)
    width = (table.loc["2", "shift_high"] - table.loc["2", "shift_low"]) / 2
    error = np.sqrt(a.var() / len(a) + b.var() / len(b))
    assert width == pytest.approx(1.96 * error, rel=0.15)
    assert table["spread_of_classes"].dropna().abs().max() < 1e-12
    assert table.loc["4+5+"].drop("n").isna().all()


def test_drawn_shifts_with_even_chances_vanish():
    rng = np.random.default_rng(12)
    values = rng.normal(size=1000) + np.repeat([0, 1], 500)
    table = dilution.drawn_shifts(values, np.full((1000, 5), 0.2), n_draws=300)
    assert (table["shift"].abs() < 0.02).all()
    assert (table["shift_low"] < 0).all() and (table["shift_high"] > 0).all()
    assert table["n"].tolist() == pytest.approx([200] * 5, rel=0.02)


def test_dilution_by_hand():
    # Reference means 1 (class 1) and 0 (class 2). Predicted "1" holds 6 + 2, "2" holds 4 + 8.
    reference = np.repeat(["1", "2"], 10)
    values = np.repeat([1.0, 0.0], 10)
    predicted = np.array(["1"] * 6 + ["2"] * 4 + ["1"] * 2 + ["2"] * 8)
    table = dilution.predicted_dilution(values, reference, predicted, n_resamples=20)
    first = table.set_index("label").loc["1"]
    assert first["reference_shift"] == 1
    assert first["expected_shift"] == pytest.approx(6 / 8 - 4 / 12)
    assert first["observed_shift"] == pytest.approx(6 / 8 - 4 / 12)
    assert first["purity"] == 6 / 8
    assert first["excess"] == pytest.approx(0)
    assert np.isnan(table.set_index("label").loc["?", "purity"])


@pytest.mark.filterwarnings("error")
def test_class_that_is_empty_or_everything_has_no_shift():
    assert np.isnan(dilution.class_shifts(np.array([0.1, 0.2, 0.3]), np.array(["2"] * 3))).all()
    some = dilution.class_shifts(np.array([1.0, 2.0, 4.0]), np.array(["1", "2", "2"]))
    assert some.tolist() == pytest.approx([-2, 2, np.nan, np.nan, np.nan], nan_ok=True)


def random_errors(rng, labels, rate):
    wrong = rng.random(len(labels)) < rate
    return np.where(wrong, rng.choice(CLASSES, len(labels)), labels)


def test_dilution_tells_random_errors_from_those_that_go_with_the_property():
    rng = np.random.default_rng(13)
    labels = rng.choice(CLASSES, 4000)
    values = rng.normal(0, 0.3, 4000) + 0.3 * (labels == "1") - 0.3 * (labels == "3")
    random = dilution.predicted_dilution(values, labels, random_errors(rng, labels, 0.4), 200)
    random = random.set_index("label")
    assert abs(random.loc["1", "observed_shift"]) < 0.8 * random.loc["1", "reference_shift"]
    assert (random["excess_low"] <= 0.01).all() and (random["excess_high"] >= -0.01).all()
    # Now massive galaxies are called m = 1, whatever their label.
    biased = np.where(values > 0.4, "1", labels)
    table = dilution.predicted_dilution(values, labels, biased, 200).set_index("label")
    assert table.loc["1", "excess_low"] > 0.05


def test_dilution_interval_covers_no_excess():
    rng = np.random.default_rng(14)
    covered, excess, width = 0, [], []
    for i in range(60):
        labels = rng.choice(CLASSES, 300)
        values = rng.normal(0, 0.3, 300) + 0.3 * (labels == "1")
        predicted = random_errors(rng, labels, 0.4)
        row = dilution.predicted_dilution(values, labels, predicted, 200, seed=i).iloc[0]
        covered += row["excess_low"] <= 0 <= row["excess_high"]
        excess.append(row["excess"])
        width.append(row["excess_high"] - row["excess_low"])
    assert covered >= 51, "95 % of 60 is 57, with an error of 1.7"
    # The spread of 60 repeats is known to 9 %.
    assert np.mean(width) == pytest.approx(2 * 1.96 * np.std(excess, ddof=1), rel=0.25)


def test_join_by_position_shifts_all_rows_after_the_first_gap():
    sample = sample_of(5).iloc[[3, 1, 0, 4, 2]]
    masses = pd.DataFrame(
        {"specobjid": FIRST + np.array([4, 0, 1, 3, 77]), "value": [4.0, 0, 1, 3, 77]}
    )
    joined = catalogue.join_by_position(sample, masses)
    assert joined["galaxy_id"].tolist() == [0, 1, 2, 3, 4]
    assert joined["value"].tolist() == pytest.approx([0, 1, 3, 4, np.nan], nan_ok=True)
    assert joined["own"].tolist() == [True, True, False, False, False]


# --- the simulated survey -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mock_folder(tmp_path_factory):
    """Folder and sample of a simulated survey without images, predictions with random errors."""
    folder = tmp_path_factory.mktemp("mock")
    truth = draw_truth(3000, 7, spiral_fraction=0.9, arm_frequencies="enriched")
    _write_tables(folder, truth, 7)
    survey = open_survey("mock", folder)
    criteria = selection.make_criteria("paper-text", {"has_image": None})
    sample, _ = selection.select(survey.votes, criteria)
    rng = np.random.default_rng(15)
    predictions = pd.DataFrame({"galaxy_id": sample["galaxy_id"], "split": "validation"})
    predictions["predicted"] = random_errors(rng, sample["label"].to_numpy(dtype=str), 0.5)
    predictions["predicted"] = predictions["predicted"].replace({"4+5+": "4"})
    shares = rng.dirichlet(np.ones(6), len(sample))
    predictions[probability_columns(ARM_CLASSES)] = shares
    return folder, sample, predictions


@pytest.fixture(scope="module")
def mock_groups(mock_folder):
    """The sample, its masses, the classes by label and by predictions, and the truth."""
    folder, sample, predictions = mock_folder
    measured = catalogue.measure(sample, "stellar_mass", "mock", folder)
    by_source = groups.classified(measured.values, {"B0": predictions})
    truth = pd.read_parquet(folder / "truth.parquet").set_index("galaxy_id")
    return sample, measured, by_source, truth


def test_masses_of_the_mock_are_those_of_the_truth(mock_groups):
    sample, measured, _, truth = mock_groups
    true_mass = truth["log_mass"][measured.values["galaxy_id"]].to_numpy()
    assert np.abs(measured.values["value"] - true_mass).max() < 0.3
    quality = truth["mass_quality"][sample["galaxy_id"]]
    assert len(measured.values) == (quality == "good").sum()


def test_built_in_shifts_are_diluted_in_the_predictions(mock_groups):
    _, _, by_source, truth = mock_groups
    by_redshift = mass_at_redshift(truth["redshift"])
    table = dilution.truth_test(by_source, truth["arm_class"], MASS_SHIFT, by_redshift, 300)
    table = table.set_index(["source", "label"])
    for source, arm_class in itertools.product(("truth", "label", "B0"), ("1", "3")):
        row = table.loc[(source, arm_class)]
        sign = np.sign(MASS_SHIFT[arm_class])
        assert sign * row["class_part"] > 0 and sign * row["observed_shift"] > 0
        assert row["deviation"] == pytest.approx(row["observed_shift"] - row["built_in_shift"])
    for arm_class in ("1", "3"):
        ratio = table["observed_shift"].unstack("source")[["B0", "label"]].loc[arm_class]
        assert abs(ratio["B0"]) < 0.8 * abs(ratio["label"])
        assert table.loc[("B0", arm_class), "expected_shift"] == pytest.approx(
            table.loc[("B0", arm_class), "observed_shift"], abs=0.06
        )


def test_built_in_shifts_lie_in_their_intervals_as_often_as_they_should():
    tests, without_redshift = [], []
    for seed in range(30):
        truth = draw_truth(600, seed, spiral_fraction=1, arm_frequencies="enriched")
        truth = truth.set_index("galaxy_id")
        rng = np.random.default_rng(seed)
        table = truth.reset_index()[["galaxy_id"]].assign(
            value=truth["log_mass"].to_numpy() + rng.normal(0, 0.05, len(truth)),
            arm_class=groups.merge_labels(truth["arm_class"]),
        )
        # The arms of distant galaxies are hard to see.
        unclear = rng.random(len(truth)) < truth["redshift"].rank(pct=True).to_numpy() ** 2
        label = table.assign(arm_class=table["arm_class"].where(~unclear, "?"))
        by_redshift = mass_at_redshift(truth["redshift"])
        for found, part in ((tests, by_redshift), (without_redshift, 0 * by_redshift)):
            found.append(
                dilution.truth_test({"label": label}, truth["arm_class"], MASS_SHIFT, part, 2)
            )
    tests, without_redshift = pd.concat(tests), pd.concat(without_redshift)
    assert len(tests) == 30 * 2 * len(CLASSES)
    for source, rows in tests.groupby("source"):
        # 150 intervals: 95 % with an error of 1.8 %.
        assert 0.85 < rows["recovered"].mean() < 1, source
        assert rows["z"].std() == pytest.approx(1, abs=0.2)
    wrong = without_redshift[without_redshift["source"] == "label"]
    assert wrong["recovered"].mean() < 0.8, "the classes differ in redshift here"


def test_join_by_position_destroys_the_built_in_shifts(mock_groups):
    sample, measured, by_source, _ = mock_groups
    table = dilution.position_table(sample, measured.masses, by_source, 200)
    label = table[table["source"] == "label"].set_index(["join", "label"])
    assert label.loc[("position", "1"), "own_share"] < 0.1
    for arm_class in ("1", "3"):
        assert label.loc[("identifier", arm_class), "welch_p_holm"] < 1e-6
        assert label.loc[("position", arm_class), "welch_p_holm"] > 0.01
        shifts = label["shift"].xs(arm_class, level="label").abs()
        assert shifts["position"] < 0.25 * shifts["identifier"]


def all_tables(sample, measured, by_source, truth):
    options = dict(n_resamples=50, n_permutations=19)
    sound = statistics.sound_table(by_source, **options)
    matched = statistics.matched_table(by_source, ["redshift"], **options)
    diluted = dilution.dilution_table(by_source, n_resamples=50)
    by_redshift = mass_at_redshift(truth["redshift"])
    tested = dilution.truth_test(by_source, truth["arm_class"], MASS_SHIFT, by_redshift, 50)
    position = dilution.position_table(sample, measured.masses, by_source, 50)
    table_4 = paper.TABLE_4.rename(index={"4,5+": "4+5+"})
    implied = published.implied_table(table_4, paper.MATCHED_SIZE)
    overall = statistics.overall_table(by_source)
    power = statistics.power_table(by_source, table_4["n"])
    return sound, matched, diluted, tested, position, implied, overall, power


def test_report_states_the_numbers(mock_groups):
    sample, measured, by_source, truth = mock_groups
    tables = all_tables(sample, measured, by_source, truth)
    numbers = report.summary(*tables)
    assert json.loads(json.dumps(numbers)) == numbers
    assert {"1", "3"} <= set(numbers["label"]["different"])
    assert numbers["label"]["different_by_position"] == []
    assert numbers["paper"]["anova_p"]["label"] == pytest.approx(0.17, abs=0.005)
    text = " ".join(report.words(numbers, "dex", 0.35))
    shift = numbers["label"]["shifts"]["1"]["shift"]
    assert f"m = 1 by {shift:+.3f}" in text
    assert f"to {max(numbers['label']['detectable'].values()):.3f} dex" in text
    assert f"to {max(numbers['paper']['detectable'].values()):.3f} dex" in text
    missed = sum(not test["recovered"] for test in numbers["truth"]["truth"].values())
    assert f"By the true classes: {missed} of 5 intervals (95 %) miss" in text
    assert "0.25 would by chance" in text
    assert "Hart et al. (2016)" in text
    flat = run_report.flatten(run_report.plain(numbers))
    assert flat["label.shifts.1.shift"] == shift and "B0.truth.1.z" in flat


def test_only_shifts_by_label_are_called_diluted():
    # By label m = 1 and 3 have a shift; the predicted m = 3 has another than the mixture's.
    diluted = pd.DataFrame(
        {
            "source": "B0",
            "label": ["1", "2", "3"],
            "reference_shift_low": [0.1, -0.1, -0.4],
            "reference_shift_high": [0.3, 0.1, -0.2],
            "excess": [0.0, 0.0, 0.2],
            "excess_low": [-0.1, -0.1, 0.1],
            "excess_high": [0.1, 0.1, 0.3],
        }
    )
    none = pd.DataFrame()
    shifts = dict(zip(["shift", "shift_low", "shift_high", "welch_p_holm"], [0.0, -1, 1, 1]))
    sound = pd.DataFrame([{"source": s, "label": "1", **shifts} for s in ("label", "B0")])
    overall = pd.DataFrame({"source": ["label", "B0"]})
    power = pd.DataFrame({"sizes": ["label"], "label": ["1"], "all_classes": [0.2]})
    numbers = report.summary(sound, none, diluted, none, none, none, overall, power, "sfr")
    assert (numbers["B0"]["consistent"], numbers["B0"]["inconsistent"]) == (["1"], ["3"])
    text = " ".join(report.words(numbers, "dex", 0.35))
    assert "is consistent with m = 1, not with m = 3." in text and "explain" not in text


@pytest.mark.parametrize("prop", ["redshift", "sfr", "petror90_r"])
def test_another_property_is_not_set_beside_the_papers_masses(mock_folder, prop):
    folder, sample, predictions = mock_folder
    measured = catalogue.measure(sample, prop, "mock", folder)
    by_source = groups.unseen(groups.classified(measured.values, {"B0": predictions}))
    options = dict(n_resamples=50, n_permutations=19)
    used = statistics.covariates(by_source["label"], ["redshift", "petror90_r"], prop)
    assert prop not in used
    position = pd.DataFrame()
    if catalogue.shared_key(sample, measured.masses):
        position = dilution.position_table(sample, measured.masses, by_source, 50)
    assert bool(len(position)) == (prop == "sfr")
    numbers = report.summary(
        statistics.sound_table(by_source, **options),
        statistics.matched_table(by_source, used, **options),
        dilution.dilution_table(by_source, n_resamples=50),
        pd.DataFrame(),
        position,
        published.implied_table(paper.TABLE_4, paper.MATCHED_SIZE),
        statistics.overall_table(by_source),
        statistics.power_table(by_source, paper.TABLE_4["n"]),
        prop,
    )
    label = by_source["label"]
    inside = label["arm_class"] == "1"
    expected = label.loc[inside, "value"].mean() - label.loc[~inside, "value"].mean()
    assert numbers["label"]["shifts"]["1"]["shift"] == pytest.approx(expected, abs=1e-6)
    text = " ".join(report.words(numbers, measured.shift_unit, 0.35))
    assert measured.shift_unit in text
    for word in ("Hart", "paper", "stellar mass", "dex" if prop != "sfr" else "arcsec"):
        assert word not in text
    figures.histograms(by_source, measured.unit).canvas.draw()


def test_empty_and_single_classes_do_not_break_the_tables(mock_groups):
    sample, measured, by_source, truth = mock_groups
    few = {source: table.iloc[:3] for source, table in by_source.items()}
    numbers = report.summary(*all_tables(sample, measured, few, truth))
    assert report.words(numbers, "dex", 0.35)
    shifts = statistics.estimates({"direct": statistics.sound_table(few, n_resamples=20)})
    for figure in (
        figures.histograms(few, "mass"),
        figures.violins(few, "mass"),
        figures.shifts(shifts, "dex"),
    ):
        figure.canvas.draw()


def test_figures_show_the_data(mock_groups, tmp_path):
    sample, _, by_source, _ = mock_groups
    histograms = figures.histograms(by_source, "mass", bins=20)
    assert len(histograms.axes) == len(by_source) * len(CLASSES)
    violins = figures.violins(by_source, "mass")
    means = [
        c.get_segments()[0][0][1]
        for c in violins.axes[0].collections
        if hasattr(c, "get_segments") and len(c.get_segments()) == 1
    ]
    expected = by_source["label"].groupby("arm_class")["value"].mean()[list(CLASSES)]
    assert means == pytest.approx(expected.tolist())
    table = by_source["B0"].assign(image_path="absent.jpg")
    called = (table["label"] == "2") & (table["predicted"] == "1")
    best = table[called]["p_1"].idxmax()
    table.loc[best, "image_path"] = "there.png"
    Image.new("RGB", (32, 32), "red").save(tmp_path / "there.png")
    panel = figures.misclassified(table, tmp_path, per_side=3, crop=16, size=32)
    left, right = panel.subfigs
    assert f"({called.sum():,} galaxies)" in left.get_suptitle()
    assert left.axes[0].images[0].get_array().shape == (16, 16, 3)
    assert f"{table.loc[best, 'p_1']:.2f}" in left.axes[0].get_title()
    assert not left.axes[1].images and not right.axes[0].images
    diluted = dilution.dilution_table(by_source, n_resamples=20)
    figures.dilution(diluted, "dex").canvas.draw()


def test_histogram_keeps_bins_above_one_per_cent():
    values = np.concatenate([[0.0], np.full(500, 5.5), np.full(500, 6.5), [10.0]])
    assert figures.kept_bins(values, 10, 0.01).tolist() == [5, 6, 7]


@pytest.mark.chain
def test_notebook_stops_cleanly_without_masses(tmp_path):
    sample = pd.DataFrame({"galaxy_id": [1, 2], "label": ["1", "2"], "f_spiral": [0.8, 0.9]})
    (tmp_path / "01_sample_selection").mkdir()
    sample.to_parquet(tmp_path / "01_sample_selection/sample.parquet")
    source = jupytext.read(ROOT / "notebooks/06_stellar_mass.py")
    nbformat.write(source, tmp_path / "06.ipynb")
    papermill.execute_notebook(
        str(tmp_path / "06.ipynb"),
        str(tmp_path / "done.ipynb"),
        parameters=dict(run_dir=str(tmp_path), survey="challenge", data_dir=str(tmp_path)),
        progress_bar=False,
        cwd=ROOT,
    )
    metrics = json.loads((tmp_path / "06_stellar_mass/metrics.json").read_text())
    assert "challenge has no stellar masses" in metrics["reason"]
