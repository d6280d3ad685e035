"""A simulated survey in the file layout of Galaxy Zoo 2, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.coordinates import Angle
from astropy.table import Table
from PIL import Image

from lib.schema import InputError
from lib.surveys.mock.galaxies import SPIRAL_FRACTION, draw_galaxies
from lib.surveys.mock.render import JPEG_QUALITY, render
from lib.surveys.mock.votes import (
    answer_probabilities,
    arm_visibility,
    draw_counts,
    morphology_names,
    vote_columns,
)

MASS_SHIFT = {"1": 0.25, "3": -0.25}
"""Built-in shift of log stellar mass by true arm class, in dex; the other classes have none."""

MASS_SCATTER = 0.30
"""Scatter of log stellar mass at a given redshift, in dex."""

MASS_DEFECTS = {"unmatched": 0.03, "unreliable": 0.015, "bad redshift": 0.01, "no mass": 0.015}
"""Shares of galaxies without a spectrum in the mass files, with RELIABLE = 0, with Z_WARNING set,
and with a mass of -9999."""


def mass_at_redshift(redshift: pd.Series) -> pd.Series:
    """Mean log stellar mass at a redshift, before `MASS_SHIFT`; solar masses.

    A flux-limited sample holds more massive galaxies farther out.
    """
    return 10.55 + 0.6 * np.log10(redshift / 0.06)


def _spectrum_identifiers(table: pd.DataFrame) -> np.ndarray:
    """SDSS's specObjID: plate, fibre, date and reduction in the bits of an int64."""
    plate, fibre, mjd = (table[c].to_numpy(np.int64) for c in ("plate", "fibre", "mjd"))
    return (plate << 50) + (fibre << 38) + ((mjd - 50000) << 24) + (26 << 10)


def _identifiers(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Identifiers with the digits and the bit fields of SDSS ones, unique."""
    field = rng.choice(2**22, n, replace=False).astype(np.int64)
    dr7 = (np.int64(0x0827) << 48) + (field << 16) + rng.integers(1, 500, n)
    dr8 = (np.int64(0x1122) << 48) + (field << 16) + rng.integers(1, 500, n)
    fibres = rng.choice(1900 * 640, n, replace=False).astype(np.int64)
    plate = 900 + fibres // 640
    table = pd.DataFrame({"galaxy_id": dr7, "dr8objid": dr8, "plate": plate})
    table["fibre"] = 1 + fibres % 640
    table["mjd"] = 52000 + (plate * 7) % 2500
    table["specobjid"] = _spectrum_identifiers(table)
    return table


def _draw_masses(rng: np.random.Generator, truth: pd.DataFrame) -> None:
    """True stellar mass and star-formation rate (log10, solar units), in place."""
    n = len(truth)
    mass = mass_at_redshift(truth["redshift"]) + rng.normal(0, MASS_SCATTER, n)
    mass += np.where(truth["kind"] == "smooth", 0.15, 0.0)
    truth["log_mass"] = mass + truth["arm_class"].map(MASS_SHIFT).fillna(0.0)
    quiet = np.where(truth["kind"] == "smooth", -1.3, 0.0)
    truth["log_sfr"] = 0.65 * (mass - 10.5) + 0.25 + quiet + rng.normal(0, 0.3, n)
    truth["mass_quality"] = rng.choice(
        ["good", *MASS_DEFECTS],
        n,
        p=[1 - sum(MASS_DEFECTS.values()), *MASS_DEFECTS.values()],
    )


def draw_truth(
    n_galaxies: int,
    seed: int,
    *,
    spiral_fraction: float = SPIRAL_FRACTION,
    arm_frequencies: str | Mapping[str, float] = "gz2-like",
) -> pd.DataFrame:
    """Truth table of a survey: identifiers, positions, shapes, masses, sorted by galaxy_id.

    See `lib.surveys.mock.galaxies.draw_galaxies` for the parameters and columns.
    """
    rng = np.random.default_rng([seed, 1])
    galaxies = draw_galaxies(
        rng, n_galaxies, spiral_fraction=spiral_fraction, frequencies=arm_frequencies
    )
    truth = pd.concat([_identifiers(rng, n_galaxies), galaxies], axis=1)
    truth["ra"] = rng.uniform(110, 260, n_galaxies)
    truth["dec"] = np.degrees(np.arcsin(rng.uniform(-0.05, 0.9, n_galaxies)))
    _draw_masses(rng, truth)
    truth["arm_visibility"] = arm_visibility(truth)
    truth = truth.sort_values("galaxy_id", ignore_index=True)
    truth["asset_id"] = np.arange(1, n_galaxies + 1)
    return truth


def _vote_table(truth: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Rows of ``zoo2MainSpecz``."""
    rng = np.random.default_rng([seed, 2])
    counts = draw_counts(rng, answer_probabilities(truth))
    head = pd.DataFrame(
        {
            "specobjid": truth["specobjid"],
            "dr8objid": truth["dr8objid"],
            "dr7objid": truth["galaxy_id"],
            "ra": truth["ra"].round(6),
            "dec": truth["dec"].round(6),
            "rastring": Angle(truth["ra"], "deg").to_string("hourangle", sep=":", precision=2),
            "decstring": Angle(truth["dec"], "deg").to_string(
                sep=":", precision=1, alwayssign=True
            ),
            "sample": "original",
            "gz2class": morphology_names(counts),
        }
    )
    return pd.concat([head, vote_columns(rng, counts, truth["redshift"].to_numpy())], axis=1)


def _sample_table(truth: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``gz2sample``: redshifts, magnitudes and sizes."""
    # Colour of the whole galaxy, between those of bulge and disc.
    bulge = truth["bulge_fraction"]
    g_r = bulge * truth["bulge_g_r"] + (1 - bulge) * truth["disc_g_r"]
    distance = 4283.0 * truth["redshift"] * (1 + 0.77 * truth["redshift"])
    return pd.DataFrame(
        {
            "OBJID": truth["galaxy_id"],
            "RA": truth["ra"].round(6),
            "DEC": truth["dec"].round(6),
            "PETROR50_R": (truth["r90_arcsec"] * (0.44 - 0.1 * truth["bulge_fraction"])).round(4),
            "PETROR90_R": truth["r90_arcsec"].round(4),
            "PETROMAG_G": (truth["mag_r"] + g_r).round(4),
            "PETROMAG_R": truth["mag_r"].round(4),
            "PETROMAG_I": (truth["mag_r"] - 0.08 - 0.38 * g_r - truth["r_i_offset"]).round(4),
            "PETROMAG_MR": (truth["mag_r"] - 5 * np.log10(distance) - 25).round(4),
            "REDSHIFT": truth["redshift"].round(6),
            "REDSHIFTERR": 1e-4,
        }
    )


def _mass_tables(truth: pd.DataFrame, seed: int) -> tuple[Table, Table]:
    """``galSpecInfo`` and ``galSpecExtra``, line by line matched, in the order of the plates.

    As in the real files, identifiers are text, other spectra lie between those of the galaxies, and
    spectra that the pipeline left out have -1 and blanks.
    """
    rng = np.random.default_rng([seed, 3])
    quality = truth["mass_quality"].to_numpy()
    found = truth[quality != "unmatched"]
    n_other = max(len(truth) // 4, 1)
    other = pd.DataFrame(
        {
            "plate": rng.integers(300, 880, n_other),
            "fibre": rng.integers(1, 641, n_other),
            "mjd": rng.integers(51600, 54000, n_other),
            "ra": rng.uniform(0, 360, n_other),
            "dec": rng.uniform(-10, 60, n_other),
            "redshift": rng.uniform(0.01, 0.3, n_other),
            "log_mass": rng.normal(10.7, 0.6, n_other),
            "log_sfr": rng.normal(0, 0.7, n_other),
            "mass_quality": rng.choice(["good", "not run"], n_other),
            "kind": "other",
        }
    )
    other["specobjid"] = _spectrum_identifiers(other)
    rows = pd.concat([found, other]).sort_values(["plate", "mjd", "fibre"])
    run = (rows["mass_quality"] != "not run").to_numpy()
    good = rows["mass_quality"].to_numpy()
    ra, dec = rows["ra"].to_numpy(), rows["dec"].to_numpy()
    n = len(rows)
    # Fibres are plugged within a few tenths of an arcsec of the galaxy.
    offset = rng.normal(0, 0.15 / 3600, (2, n))
    info = Table(
        {
            "SPECOBJID": np.where(run, rows["specobjid"].astype(str), "").astype("S22"),
            "PLATEID": np.where(run, rows["plate"], -1).astype(np.int16),
            "MJD": np.where(run, rows["mjd"], -1).astype(np.int32),
            "FIBERID": np.where(run, rows["fibre"], -1).astype(np.int16),
            "RA": (ra + offset[0] / np.cos(np.radians(dec))).astype(np.float32),
            "DEC": (dec + offset[1]).astype(np.float32),
            "TARGETTYPE": np.where(run, "GALAXY", "").astype("S18"),
            "SPECTROTYPE": np.where(run, "GALAXY", "").astype("S6"),
            "Z": np.where(run, rows["redshift"], -1).astype(np.float32),
            "Z_ERR": np.where(run, 1e-4, -1).astype(np.float32),
            "Z_WARNING": np.where(good == "bad redshift", 4, 0).astype(np.int16),
            "SN_MEDIAN": np.where(run, rng.lognormal(2.7, 0.4, n), 0).astype(np.float32),
            "RELEASE": np.where(run, "dr4", "").astype("S3"),
            "RELIABLE": (run & (good != "unreliable")).astype(np.int16),
        }
    )
    has_mass = run & (good != "no mass")
    mass = rows["log_mass"].to_numpy() + rng.normal(0, 0.05, n)
    extra = Table({"SPECOBJID": info["SPECOBJID"]})
    extra["BPTCLASS"] = np.where(rows["kind"] == "smooth", -1, 1).astype(np.int16)
    for name, value, error in (("LGM", mass, 0.09), ("SFR", rows["log_sfr"].to_numpy(), 0.25)):
        for percentile, step in (("P16", -1), ("P50", 0), ("P84", 1)):
            extra[f"{name}_TOT_{percentile}"] = np.where(
                has_mass, value + step * error, -9999
            ).astype(np.float32)
    return info, extra


def _write_images(rows: pd.DataFrame, folder: Path, size: int) -> None:
    """Render a part of the survey into JPEG files."""
    for galaxy in rows.itertuples(index=False):
        image = Image.fromarray(render(galaxy, size))
        image.save(folder / f"{galaxy.asset_id}.jpg", quality=JPEG_QUALITY)


def write_survey(
    folder: str | Path,
    n_galaxies: int,
    seed: int,
    *,
    size: int = 424,
    workers: int = 2,
    spiral_fraction: float = SPIRAL_FRACTION,
    arm_frequencies: str | Mapping[str, float] = "gz2-like",
) -> pd.DataFrame:
    """Simulate a survey and write it in the file layout of the real one.

    The files are ``zoo2MainSpecz.csv.gz``, ``gz2_filename_mapping.csv``, ``gz2sample.csv.gz``,
    ``galSpecInfo-dr8.fits``, ``galSpecExtra-dr8.fits``, ``images/<asset_id>.jpg`` and
    ``truth.parquet``. They are made in a hidden folder beside `folder` and moved when all are
    whole; files of the same names in `folder` are replaced, others are left alone.

    Parameters
    ----------
    folder : path
        Where the survey goes; made if needed.
    n_galaxies : int
        Number of galaxies, at least 1.
    seed : int
        The same seed gives the same bytes, whatever the number of workers.
    size : int
        Width of the images in pixels.
    workers : int
        Processes that render images.
    spiral_fraction : float
        Share of face-on spirals, in [0, 1]; about 0.2 in GZ2.
    arm_frequencies : str or mapping
        Shares of the arm classes among them: ``gz2-like``, ``enriched`` or one number per class.

    Returns
    -------
    DataFrame
        The truth table.

    Raises
    ------
    InputError
        If a parameter is out of its range; nothing has been written then.
    """
    if size < 16:
        raise InputError(f"parameter size is {size}: images need at least 16 pixels")
    if workers < 1:
        raise InputError(f"parameter workers is {workers}: at least one process is needed")
    truth = draw_truth(
        n_galaxies, seed, spiral_fraction=spiral_fraction, arm_frequencies=arm_frequencies
    )
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    (staging / "images").mkdir(parents=True)
    try:
        _write_tables(staging, truth, seed)
        parts = [truth.iloc[k : k + 64] for k in range(0, n_galaxies, 64)]
        write = partial(_write_images, folder=staging / "images", size=size)
        if workers == 1:
            for part in parts:
                write(part)
        else:
            # Fresh processes: a fork of a process that runs TensorFlow's threads may hang.
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                for _ in pool.map(write, parts):
                    pass
        folder.mkdir(exist_ok=True)
        for made in staging.iterdir():
            old = folder / made.name
            if old.is_dir():
                shutil.rmtree(old)
            os.replace(made, old)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return truth


def _write_tables(folder: Path, truth: pd.DataFrame, seed: int) -> None:
    # A fixed time stamp inside the archives keeps equal surveys equal in every byte.
    compression = {"method": "gzip", "mtime": 0}
    _vote_table(truth, seed).to_csv(
        folder / "zoo2MainSpecz.csv.gz", index=False, compression=compression
    )
    _sample_table(truth).to_csv(folder / "gz2sample.csv.gz", index=False, compression=compression)
    mapping = truth[["galaxy_id", "asset_id"]].rename(columns={"galaxy_id": "objid"})
    mapping.insert(1, "sample", "original")
    mapping.to_csv(folder / "gz2_filename_mapping.csv", index=False)
    info, extra = _mass_tables(truth, seed)
    info.write(folder / "galSpecInfo-dr8.fits")
    extra.write(folder / "galSpecExtra-dr8.fits")
    truth.drop(columns=["plate", "fibre", "mjd"]).to_parquet(folder / "truth.parquet")
