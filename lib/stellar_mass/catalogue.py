"""Galaxies and their stellar masses: read a catalogue, cut it, join it by identifier.

The catalogue of the paper is MPA-JHU in SDSS DR8 (Kauffmann et al. 2003; Brinchmann et al. 2004):
two FITS files whose rows belong together line by line. An export of CasJobs, or any CSV file with
an identifier and a mass, is read as well. `lib.surveys.hart17` brings its masses itself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lib import paths
from lib.paths import resolve
from lib.schema import InputError
from lib.surveys import open_survey
from lib.surveys.gz2 import MASS_FILES
from lib.surveys.tables import column_names, exact_ids, read_columns

MISSING = -9999.0
"""MPA-JHU's mark of a value that was not measured."""

MASS_NAMES = {
    "log_mass_sed": "SED",
    "log_mass_nsa": "NSA",
    "log_mass_mpa": "MPA-JHU",
    "log_mass_built_in": "built in",
}
"""Columns of stellar masses (log10 of solar masses), and how tables and figures call them."""

_INFO_COLUMNS = {
    "ra": "RA",
    "dec": "DEC",
    "z": "Z",
    "z_warning": "Z_WARNING",
    "reliable": "RELIABLE",
}
_EXTRA_COLUMNS = {"stellar_mass": "LGM_TOT_P50", "sfr": "SFR_TOT_P50"}
_IDS = {"specobjid": "SPECOBJID", "dr7objid": "DR7OBJID"}
_CSV_ALIASES = {"zWarning": "z_warning", "logMstar": "stellar_mass"}
"""Names in CSV files that differ from those in the FITS files: of SDSS, of Hart et al. (2017)."""


def galaxies_with_masses(
    run_dir: str | Path,
    survey: str,
    data_dir: str | Path,
    mass_files: list[str] | None = None,
    need_sfr: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All galaxies of a run that have a redshift and every stellar mass, one row each.

    The sample is that of `01_sample_selection` in `run_dir`, or the table of survey hart17.
    `mass_files` (the two of MPA-JHU, info and extra, or one CSV file) replace those in `data_dir`;
    `need_sfr` keeps only rows that also have a star-formation rate, as the authors' query.

    Returns
    -------
    galaxies : DataFrame
        The sample's columns with ``redshift``, ``label`` (missing where there is none), one or
        more columns of `MASS_NAMES` and, where the radii are known, ``concentration``
        (r90 / r50). A simulated survey has ``log_mass_built_in``: the mass of each galaxy
        without its scatter. Sorted by ``galaxy_id``.
    counts : DataFrame
        ``step``, ``rows``: what every cut and the join left.

    Raises
    ------
    InputError
        If a file or column is missing, or no galaxy has a mass.
    """
    if survey == "hart17":
        galaxies = open_survey(survey, data_dir).votes
        counts = {"spirals in the table": len(galaxies)}
        for column in ("redshift", "log_mass_sed", "log_mass_nsa"):
            galaxies = galaxies[galaxies[column].notna()]
            counts[f"with {column}"] = len(galaxies)
        counts["of these with a clean flag of T11"] = int(galaxies["label"].notna().sum())
        return galaxies.reset_index(drop=True), _counts("step", counts)
    sample = pd.read_parquet(paths.step_folder(run_dir, "01_sample_selection") / "sample.parquet")
    raw = read_masses(find_files(data_dir, mass_files))
    good, cuts = quality_cuts(raw, need_sfr)
    matched, match = match_masses(sample, good, raw)
    found = matched[matched["log_mass_mpa"].notna() & matched["redshift"].notna()]
    if found.empty:
        raise InputError(
            f"none of the {len(sample):,} galaxies of survey {survey} has a trustworthy row in the "
            "mass catalogue: is it that of another sky area or data release?"
        )
    if {"petror50_r", "petror90_r"} <= set(found):
        found = found.assign(concentration=found["petror90_r"] / found["petror50_r"])
    truth = resolve(data_dir) / "truth.parquet"
    if truth.is_file():
        # The simulator takes long to import, and no other survey needs it.
        from lib.surveys.mock.survey import MASS_SHIFT, mass_at_redshift

        true_class = pd.read_parquet(truth).set_index("galaxy_id")["arm_class"]
        shift = found["galaxy_id"].map(true_class).map(MASS_SHIFT).fillna(0.0)
        found = found.assign(log_mass_built_in=mass_at_redshift(found["redshift"]) + shift)
    counts = pd.concat([cuts.set_axis(["step", "rows"], axis=1), match], ignore_index=True)
    return found.sort_values("galaxy_id", ignore_index=True), counts


def _counts(what: str, counts: dict[str, int]) -> pd.DataFrame:
    return pd.DataFrame({what: list(counts), "rows": list(counts.values())})


def find_files(data_dir: str | Path, mass_files: list[str] | None = None) -> list[Path]:
    """Files of the mass catalogue, which must be there: one CSV file, or info and extra FITS."""
    folder = resolve(data_dir)
    if mass_files is not None and len(mass_files) not in (1, 2):
        raise InputError(
            f"mass_files names {len(mass_files)} files: give one CSV file, or {MASS_FILES[0]} and "
            f"{MASS_FILES[1]} in this order"
        )
    given = [folder / name for name in MASS_FILES] if mass_files is None else mass_files
    files = [resolve(path) for path in given]
    absent = [str(path) for path in files if not path.is_file()]
    if absent:
        raise InputError(
            f"{' and '.join(absent)} missing: put the MPA-JHU files there (data/README.md says "
            "where they are), or name a CSV file in the parameter mass_files"
        )
    return files


def read_masses(files: list[Path]) -> pd.DataFrame:
    """Read the files of `find_files` in canonical columns.

    Returns
    -------
    DataFrame
        ``specobjid`` (or ``dr7objid``), int64; as far as the file has them ``ra``, ``dec`` (deg),
        ``z``, ``z_warning``, ``reliable``, ``stellar_mass``, ``sfr`` (log10, solar units).
        Fibres without a result, whose identifier is -1 or blank, are left out.

    Raises
    ------
    InputError
        If a column is missing, the two files differ in length or order, or identifiers were
        written as floats.
    """
    table = _read_pair(*files) if len(files) == 2 else _read_csv(files[0])
    for name in [name for name in _IDS if name in table]:
        table = table[(table[name] > 0).fillna(False)]
        table = table.assign(**{name: table[name].astype("int64")})
    return table.reset_index(drop=True)


def _read_pair(info: Path, extra: Path) -> pd.DataFrame:
    ids = {"specobjid": _IDS["specobjid"]}
    first = read_columns(info, ids=ids, numbers=_INFO_COLUMNS)
    second = read_columns(extra, ids=ids, numbers=_EXTRA_COLUMNS, optional=ids)
    if len(first) != len(second):
        raise InputError(
            f"{info} has {len(first)} rows and {extra} has {len(second)}: they belong together "
            "line by line. Take both from the same data release."
        )
    if "specobjid" in second:
        here, there = (table["specobjid"].fillna(-1) for table in (first, second))
        differ = (here != there).to_numpy()
        if differ.any():
            row = differ.argmax()
            raise InputError(
                f"{info} and {extra} differ in SPECOBJID in {differ.sum()} rows, first in row "
                f"{row + 1} ({here[row]} and {there[row]}): they belong together line by line. "
                "Do not sort or cut one of them alone."
            )
        second = second.drop(columns="specobjid")
    return pd.concat([first, second], axis=1)


def _read_csv(path: Path) -> pd.DataFrame:
    names = {name.lower() for name in column_names(path)}
    ids = {new: name for new, name in _IDS.items() if name.lower() in names}
    numbers = _INFO_COLUMNS | _EXTRA_COLUMNS
    for name, new in _CSV_ALIASES.items():
        if name.lower() in names and numbers[new].lower() not in names:
            numbers[new] = name
    if not ids:
        raise InputError(
            f"{path} has no column {' or '.join(_IDS)} to match by: add it to the query"
        )
    return read_columns(path, ids=ids, numbers=numbers, optional=set(numbers) - {"stellar_mass"})


def quality_cuts(raw: pd.DataFrame, need_sfr: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows that the paper trusts (Sec. 6), and a table ``cut``, ``rows`` of what each cut leaves.

    The cuts are reliable != 0, z_warning = 0, z > 0 and a measured mass. A CSV file may lack the
    columns of a cut, since a CasJobs query can apply it; the table then says so. A mass that is
    NaN in a row that is trustworthy otherwise is an InputError.
    """
    keep = pd.Series(True, index=raw.index)
    counts = {"catalogue rows with a result": len(raw)}
    for cut in ("reliable != 0", "z_warning == 0", "z > 0"):
        if cut.split()[0] in raw:
            keep &= raw.eval(cut)
            counts[cut] = int(keep.sum())
        else:
            counts[f"{cut} (not in the file: left to its query)"] = int(keep.sum())
    for column in ["stellar_mass", *(["sfr"] if need_sfr else [])]:
        if column not in raw:
            raise InputError(
                f"the mass catalogue has no column {column}: add it, or set need_sfr to False"
            )
        undefined = keep & raw[column].isna()
        if undefined.any():
            key = next(k for k in _IDS if k in raw)
            raise InputError(
                f"the mass catalogue: column {column} is NaN in {undefined.sum()} trustworthy rows "
                f"(first: {key} {raw.loc[undefined, key].iloc[0]}). Mark values that were not "
                f"measured by {MISSING:.0f}, or remove those rows."
            )
        keep &= raw[column] != MISSING
        counts[f"{column} measured"] = int(keep.sum())
    return raw[keep], _counts("cut", counts)


def match_masses(
    sample: pd.DataFrame, good: pd.DataFrame, raw: pd.DataFrame, radius: float = 2.0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Match catalogue rows to galaxies by identifier, and by position where that fails.

    A galaxy whose identifier is in the catalogue but whose row was cut stays without a mass. The
    sky match takes galaxies whose identifier the catalogue does not have; a pair is left out as
    ambiguous when a galaxy has several rows, or a row several galaxies, within `radius`. For
    galaxies matched by identifier the nearest row on the sky is a cross-check.

    Parameters
    ----------
    sample : DataFrame
        An identifier (``specobjid`` or ``dr7objid``; integers or text), or ``ra`` and ``dec``.
    good, raw : DataFrame
        The catalogue after and before `quality_cuts`.
    radius : float
        Largest separation, arcsec.

    Returns
    -------
    matched, report : DataFrame
        `sample` with ``log_mass_mpa`` (NaN where there is none), ``matched_by`` and, where the
        catalogue has it, ``redshift`` of galaxies that had none; ``step``, ``rows``: how many.

    Raises
    ------
    InputError
        If sample and catalogue share neither an identifier nor positions, identifiers were written
        as floats, or the catalogue repeats one.
    """
    matched = sample.reset_index(drop=True).copy()
    row = np.full(len(matched), -1)
    known = np.zeros(len(matched), dtype=bool)
    key = next((c for c in _keys(matched) if c in _IDS and c in raw), None)
    has_sky = {"ra", "dec"} <= set(matched.columns) and {"ra", "dec"} <= set(good.columns)
    if key is None and not has_sky:
        here, there = (", ".join(_keys(table)) or "no key at all" for table in (matched, raw))
        raise InputError(
            f"the mass catalogue cannot be matched: the sample has {here}, the catalogue {there}. "
            "Add one of the sample's to the catalogue (with ra and dec in degrees the match is by "
            "position)."
        )
    if key is not None:
        ids = exact_ids(matched[key], key, "the sample").fillna(-1).to_numpy(dtype=np.int64)
        repeats = good[key][good[key].duplicated()]
        if len(repeats):
            raise InputError(
                f"the mass catalogue has {len(repeats)} rows with a {key} that stands there "
                f"already (first: {repeats.iloc[0]}): keep one row for each"
            )
        row = pd.Index(good[key]).get_indexer(ids)
        known = (ids > 0) & np.isin(ids, raw[key])
    by_id = row >= 0
    counts = {
        "galaxies of the sample": len(matched),
        f"matched by {key or 'identifier'}": int(by_id.sum()),
    }
    if has_sky and len(good):
        row, found = _sky_match(matched, good, row, known, radius)
        counts |= found
    counts["in the catalogue, but cut"] = int((known & ~by_id).sum())
    counts["with a mass"] = int((row >= 0).sum())
    matched["matched_by"] = np.select([by_id, row >= 0], ["identifier", "sky"], default="")
    matched["log_mass_mpa"] = _taken(good["stellar_mass"], row)
    if "z" in good:
        # The survey's own redshift comes first; the spectrum's where the survey has none.
        known_z = matched.get("redshift", pd.Series(np.nan, index=matched.index))
        matched["redshift"] = known_z.fillna(pd.Series(_taken(good["z"], row)))
    return matched, _counts("step", counts)


def _keys(table: pd.DataFrame) -> list[str]:
    """Columns to match by that hold any value."""
    return [c for c in (*_IDS, "ra", "dec") if c in table and table[c].notna().any()]


def _taken(column: pd.Series, row: np.ndarray) -> np.ndarray:
    """Values of the given rows as float, NaN for row -1."""
    return np.append(column.to_numpy(dtype=float), np.nan)[row]


def _sky_match(
    matched: pd.DataFrame, good: pd.DataFrame, row: np.ndarray, known: np.ndarray, radius: float
) -> tuple[np.ndarray, dict[str, int]]:
    """Rows completed by position, and the counts of the cross-check."""
    import astropy.units as u  # slow to import, and only needed here
    from astropy.coordinates import SkyCoord, search_around_sky

    row = row.copy()
    placed = np.flatnonzero((matched["ra"].notna() & matched["dec"].notna()).to_numpy())
    usable = np.flatnonzero((good["ra"].between(0, 360) & good["dec"].between(-90, 90)).to_numpy())
    here, there = (
        SkyCoord(table["ra"].to_numpy(float), table["dec"].to_numpy(float), unit="deg")
        for table in (matched.iloc[placed], good.iloc[usable])
    )
    galaxy, other, separation, _ = search_around_sky(here, there, radius * u.arcsec)
    pairs = pd.DataFrame(
        {"galaxy": placed[galaxy], "row": usable[other], "separation": separation.arcsec}
    ).sort_values("separation", kind="stable")
    nearest = pairs.drop_duplicates("galaxy").set_index("galaxy")["row"]
    by_id = np.flatnonzero(row >= 0)
    by_id = by_id[np.isin(by_id, placed)]
    agree = nearest.reindex(by_id)
    open_pairs = pairs[~known[pairs["galaxy"]] & (row[pairs["galaxy"]] < 0)]
    taken = np.isin(open_pairs["row"], row[row >= 0])
    several = open_pairs["galaxy"].duplicated(keep=False) | open_pairs["row"].duplicated(keep=False)
    ambiguous = several | taken
    clear = open_pairs[~ambiguous]
    row[clear["galaxy"]] = clear["row"]
    same = agree.to_numpy() == row[by_id]
    other_row = agree.notna().to_numpy() & ~same
    return row, {
        f"- nearest within {radius:g} arcsec: the same row": int(same.sum()),
        f"- nearest within {radius:g} arcsec: another row": int(other_row.sum()),
        f"- nothing within {radius:g} arcsec": int(agree.isna().sum()),
        "matched by position alone": len(clear),
        "ambiguous by position, left out": int(open_pairs.loc[ambiguous, "galaxy"].nunique()),
    }
