"""Hand-made tables in the layouts of the real files, for tests of any module that reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from astropy.table import Table
from PIL import Image

from lib.schema import ARM_CLASSES, CLEAN_COLUMNS, RHO_COLUMNS
from lib.surveys import gz2

FIRST_ID = 587722981742084144
"""An 18-digit SDSS identifier that floating point cannot hold: as a double it ends in 128."""

FIRST_SPECOBJID = 1802674929645152257

F_FEATURES = gz2.FRACTIONS["f_features"]
F_NOT_EDGE_ON = gz2.FRACTIONS["f_not_edge_on"]
F_SPIRAL = gz2.FRACTIONS["f_spiral"]
N_SPIRAL = gz2.COUNTS["n_spiral"]


def answer_columns() -> list[str]:
    """``tNN_..._aNN_...`` for all 37 answers of the decision tree."""
    return [f"{t}_{a}" for t, (_, answers) in gz2.DECISION_TREE.items() for a in answers]


def willett(labels: list[str], rho: float = 0.9) -> pd.DataFrame:
    """Rows of ``zoo2MainSpecz``, one clear spiral per label, that pass both published criteria.

    Parameters
    ----------
    labels : list of str
        Arm class of each galaxy.
    rho : float
        Debiased fraction of that class; the rest goes to another class.
    """
    n = len(labels)
    head = {
        "specobjid": FIRST_SPECOBJID + np.arange(n),
        "dr8objid": 1237648720693755918 + np.arange(n),
        "dr7objid": FIRST_ID + np.arange(n),
        "ra": np.linspace(150.0, 200.0, n),
        "dec": np.linspace(-1.0, 60.0, n),
        "rastring": "10:00:00.00",
        "decstring": "+10:00:00.0",
        "sample": "original",
        "gz2class": "Sc2m",
        "total_classifications": 45,
        "total_votes": 300,
    }
    empty = {"count": 0, "weight": 0.0, "fraction": 0.0, "weighted_fraction": 0.0}
    measures = {
        f"{answer}_{measure}": empty.get(measure, 0.0 if measure == "debiased" else 0)
        for answer in answer_columns()
        for measure in gz2.MEASURES
    }
    table = pd.DataFrame({**head, **measures}, index=range(n))
    table[[F_FEATURES, F_NOT_EDGE_ON, F_SPIRAL]] = 0.9, 0.95, 0.92
    table[N_SPIRAL] = 35
    for row, label in enumerate(labels):
        answer = f"t11_arms_number_{gz2.ARM_ANSWERS[label]}"
        other = f"t11_arms_number_{gz2.ARM_ANSWERS['2' if label != '2' else '?']}"
        table.loc[row, f"{other}_debiased"] = round(1 - rho, 6)
        table.loc[row, f"{answer}_debiased"] = rho
        table.loc[row, f"{answer}_count"] = 30
        table.loc[row, f"{answer}_flag"] = 1
    return table


def hart(labels: list[str]) -> pd.DataFrame:
    """Rows of ``gz2_hart16``: as `willett`, without spectroscopic identifiers."""
    table = willett(labels).rename(columns={"gz2class": "gz2_class"})
    return table.drop(columns=["specobjid", "dr8objid"])


def write_catalogue(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV or FITS, by the suffix of the path."""
    if ".fits" in path.name:
        Table.from_pandas(table).write(path)
    else:
        table.to_csv(path, index=False)
    return path


def write_gz2(folder: Path, table: pd.DataFrame, name: str = "zoo2MainSpecz.csv.gz") -> Path:
    """Write a GZ2 folder: votes, the table of images, and an image for each galaxy.

    Galaxy number i (from 0) has image ``images/<100 + i>.jpg``.
    """
    (folder / "images").mkdir(parents=True)
    write_catalogue(table, folder / name)
    assets = 100 + np.arange(len(table))
    mapping = pd.DataFrame(
        {"objid": table["dr7objid"], "sample": table["sample"], "asset_id": assets}
    )
    mapping.to_csv(folder / "gz2_filename_mapping.csv", index=False)
    for asset in assets:
        write_image(folder / "images" / f"{asset}.jpg")
    return folder


def write_image(path: Path, size: int = 32) -> None:
    """Write a small grey JPEG."""
    Image.new("RGB", (size, size), (90, 90, 90)).save(path)


def votes(labels: list[str], rho: float = 0.9) -> pd.DataFrame:
    """Canonical `votes` of clear spirals that pass both published criteria."""
    n = len(labels)
    table = pd.DataFrame(
        {
            "galaxy_id": FIRST_ID + np.arange(n),
            "f_features": 0.9,
            "f_not_edge_on": 0.95,
            "f_spiral": 0.92,
            "n_spiral": 35.0,
            "total_votes": 300.0,
        },
        index=range(n),
    )
    own = np.array(labels)[:, None] == np.array(ARM_CLASSES)
    table[list(RHO_COLUMNS)] = np.where(own, rho, (1 - rho) / 5)
    table[list(CLEAN_COLUMNS)] = pd.DataFrame(own, columns=list(CLEAN_COLUMNS)).astype("boolean")
    table["image_path"] = "images/" + table["galaxy_id"].astype("str") + ".jpg"
    table["has_image"] = True
    return table


def challenge(n: int = 6) -> pd.DataFrame:
    """Rows of ``training_solutions_rev1.csv``: products of fractions down the decision tree."""
    table = pd.DataFrame(
        {"GalaxyID": 100008 + 15 * np.arange(n), "Class1.2": 0.8, "Class2.2": 0.6, "Class4.1": 0.3},
        index=range(n),
    )
    for k, share in enumerate((0.1, 0.5, 0.2, 0.1, 0.0, 0.1), 1):
        table[f"Class11.{k}"] = 0.3 * share
    return table


def write_challenge(folder: Path, table: pd.DataFrame, with_image: int | None = None) -> Path:
    """Write a competition folder in which the first `with_image` galaxies have their image."""
    (folder / "images_training_rev1").mkdir(parents=True)
    table.to_csv(folder / "training_solutions_rev1.csv", index=False)
    for galaxy in table["GalaxyID"].iloc[:with_image]:
        write_image(folder / "images_training_rev1" / f"{galaxy}.jpg")
    return folder
