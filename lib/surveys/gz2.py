"""Galaxy Zoo 2 in the layout of its public files.

Votes are those of Willett et al. (2013, MNRAS 435, 2835), file ``zoo2MainSpecz``, or as debiased
anew by Hart et al. (2016, MNRAS 461, 3663), file ``gz2_hart16``. Images come with a table that
says which of them shows which galaxy (zenodo.org/records/3565489).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lib.schema import ARM_CLASSES, CLEAN_COLUMNS, RHO_COLUMNS, InputError, slug, validate_votes
from lib.surveys.base import Survey, files_in, find_file
from lib.surveys.tables import SUFFIXES, column_names, read_columns

DECISION_TREE = {
    "t01_smooth_or_features": (
        "Is the galaxy simply smooth and rounded, with no sign of a disc?",
        {"a01_smooth": "07", "a02_features_or_disk": "02", "a03_star_or_artifact": "end"},
    ),
    "t02_edgeon": (
        "Could this be a disc viewed edge-on?",
        {"a04_yes": "09", "a05_no": "03"},
    ),
    "t03_bar": (
        "Is there a sign of a bar feature through the centre of the galaxy?",
        {"a06_bar": "04", "a07_no_bar": "04"},
    ),
    "t04_spiral": (
        "Is there any sign of a spiral arm pattern?",
        {"a08_spiral": "10", "a09_no_spiral": "05"},
    ),
    "t05_bulge_prominence": (
        "How prominent is the central bulge, compared with the rest of the galaxy?",
        {"a10_no_bulge": "06", "a11_just_noticeable": "06", "a12_obvious": "06",
         "a13_dominant": "06"},
    ),
    "t06_odd": (
        "Is there anything odd?",
        {"a14_yes": "08", "a15_no": "end"},
    ),
    "t07_rounded": (
        "How rounded is it?",
        {"a16_completely_round": "06", "a17_in_between": "06", "a18_cigar_shaped": "06"},
    ),
    "t08_odd_feature": (
        "Is the odd feature a ring, or is the galaxy disturbed or irregular?",
        {"a19_ring": "end", "a20_lens_or_arc": "end", "a21_disturbed": "end",
         "a22_irregular": "end", "a23_other": "end", "a24_merger": "end", "a38_dust_lane": "end"},
    ),
    "t09_bulge_shape": (
        "Does the galaxy have a bulge at its centre? If so, what shape?",
        {"a25_rounded": "06", "a26_boxy": "06", "a27_no_bulge": "06"},
    ),
    "t10_arms_winding": (
        "How tightly wound do the spiral arms appear?",
        {"a28_tight": "11", "a29_medium": "11", "a30_loose": "11"},
    ),
    "t11_arms_number": (
        "How many spiral arms are there?",
        {"a31_1": "05", "a32_2": "05", "a33_3": "05", "a34_4": "05", "a36_more_than_4": "05",
         "a37_cant_tell": "05"},
    ),
}  # fmt: skip
"""Table 1 of the paper (Willett et al. 2013, Table 2): task -> question, {answer: next task}.

Task and answer are spelled as in the files, whose columns are ``<task>_<answer>_<measure>``.
Zoobot's own schema of the tree (see `ZOOBOT`) has neither this spelling nor T08, and does not know
that bars, arms and bulges are asked of discs only that are not edge-on.
"""

ZOOBOT = {
    "t01": "smooth-or-featured-gz2",
    "t02": "disk-edge-on-gz2",
    "t03": "bar-gz2",
    "t04": "has-spiral-arms-gz2",
    "t05": "bulge-size-gz2",
    "t06": "something-odd-gz2",
    "t07": "how-rounded-gz2",
    "t09": "bulge-shape-gz2",
    "t10": "spiral-winding-gz2",
    "t11": "spiral-arm-count-gz2",
}
"""Task -> the question in ``zoobot.shared.schemas``; Zoobot does not learn T08."""

ARM_ANSWERS = dict(zip(ARM_CLASSES, DECISION_TREE["t11_arms_number"][1], strict=True))
"""Arm class -> answer of task T11."""

MEASURES = ("count", "weight", "fraction", "weighted_fraction", "debiased", "flag")
"""What the files hold for each answer."""

FRACTIONS = {
    "f_features": "t01_smooth_or_features_a02_features_or_disk_weighted_fraction",
    "f_not_edge_on": "t02_edgeon_a05_no_weighted_fraction",
    "f_spiral": "t04_spiral_a08_spiral_weighted_fraction",
    **{
        rho: f"t11_arms_number_{answer}_debiased"
        for rho, answer in zip(RHO_COLUMNS, ARM_ANSWERS.values(), strict=True)
    },
}
COUNT_COLUMNS = tuple(f"n_arms_{slug(m)}" for m in ARM_CLASSES)
"""Number of volunteers who gave each answer of T11, in the order of `ARM_CLASSES`."""

COUNTS = {
    "total_votes": "total_votes",
    "n_spiral": "t04_spiral_a08_spiral_count",
    **{
        n: f"t11_arms_number_{answer}_count"
        for n, answer in zip(COUNT_COLUMNS, ARM_ANSWERS.values(), strict=True)
    },
}
FLAGS = {
    clean: f"t11_arms_number_{answer}_flag"
    for clean, answer in zip(CLEAN_COLUMNS, ARM_ANSWERS.values(), strict=True)
}
ID_COLUMNS = ("dr7objid", "objid", "index")
"""Names under which files in circulation keep the SDSS DR7 object identifier, best first."""

PROPERTIES = {
    "redshift": "REDSHIFT",
    "petromag_g": "PETROMAG_G",
    "petromag_r": "PETROMAG_R",
    "petromag_i": "PETROMAG_I",
    "petromag_mr": "PETROMAG_MR",
    "petror50_r": "PETROR50_R",
    "petror90_r": "PETROR90_R",
}
"""Columns taken from ``gz2sample``: redshift, magnitudes (AB), Petrosian radii (arcsec)."""

IMAGE_FOLDERS = ("images", "images_gz2/images", "images_gz2")
"""Where the archive of the images unpacks to, on Zenodo and on Kaggle."""

FIRST_FIELD = 1 << 28
"""Bit of an SDSS object identifier, see `as_listed`."""

MASS_FILES = ("galSpecInfo-dr8.fits", "galSpecExtra-dr8.fits")

DOWNLOADS = "data/README.md lists where to download it"


def read(data_dir: Path) -> Survey:
    """Read the survey with the votes of Willett et al. (2013).

    The folder has ``zoo2MainSpecz`` and ``gz2_filename_mapping.csv``, each perhaps compressed, an
    image folder (`IMAGE_FOLDERS`) and perhaps ``gz2sample`` and `MASS_FILES`.

    Raises
    ------
    InputError
        If a file or column is missing, or a table breaks `lib.schema.votes_contract`.
    """
    return _read(Path(data_dir), "gz2", "zoo2MainSpecz")


def read_hart16(data_dir: Path) -> Survey:
    """Read the survey with the debiasing of Hart et al. (2016); otherwise as `read`."""
    return _read(Path(data_dir), "gz2_hart16", "gz2_hart16")


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a table of GZ2 votes in canonical columns, without images.

    Parameters
    ----------
    path : path
        CSV or FITS file in the layout of Willett et al. (2013) or Hart et al. (2016).

    Returns
    -------
    DataFrame
        Columns of `lib.schema.votes_contract` but `image_path`, the counts `COUNT_COLUMNS`, and
        `subsample` (GZ2's original, extra or stripe82) where the file has them; rows sorted by
        `galaxy_id` = `dr7objid`.

    Raises
    ------
    InputError
        If a column is missing, an identifier inexact or missing, a fraction outside [0, 1], a
        flag not 0 or 1, or a galaxy is listed twice.
    """
    path = Path(path)
    id_column = _id_column(path)
    table = read_columns(
        path,
        ids={"dr7objid": id_column, "specobjid": "specobjid"},
        fractions=FRACTIONS,
        numbers=COUNTS | FLAGS | {"ra": "ra", "dec": "dec"},
        texts={"subsample": "sample"},
        optional={"specobjid", "ra", "dec", "subsample", *COUNTS, *FLAGS},
    )
    _check_ids(table["dr7objid"], id_column, path)
    for new in CLEAN_COLUMNS:
        if new in table:
            table[new] = _booleans(table[new], FLAGS[new], path)
    table.insert(0, "galaxy_id", table["dr7objid"].astype("int64"))
    return table.sort_values("galaxy_id", ignore_index=True)


def decision_tree() -> pd.DataFrame:
    """Table 1 of the paper: one row per task with its question, answers and what comes next.

    Beside them are question and answers as Zoobot names them, which learns from their votes.
    """
    from zoobot.shared import schemas

    zoobot = {
        q.text: [a.text.removeprefix(q.text + "_") for a in q.answers]
        for q in schemas.gz2_ortho_schema.questions
    }
    names = {task: f"{name}: {', '.join(zoobot[name])}" for task, name in ZOOBOT.items()}
    rows = {
        task[1:3]: {
            "question": question,
            "answers": ", ".join(answer[4:].replace("_", " ") for answer in answers),
            "next task": ", ".join(dict.fromkeys(answers.values()))
            if len(set(answers.values())) == 1
            else ", ".join(answers.values()),
            "in Zoobot": names.get(task[:3], ""),
        }
        for task, (question, answers) in DECISION_TREE.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("task")


def _read(data_dir: Path, name: str, stem: str) -> Survey:
    path = find_file(data_dir, tuple(stem + s for s in SUFFIXES), f"the GZ2 votes. {DOWNLOADS}.")
    mapping = find_file(
        data_dir,
        ("gz2_filename_mapping.csv", "gz2_filename_mapping.csv.gz"),
        f"the table that says which image shows which galaxy. {DOWNLOADS}.",
    )
    votes = read_table(path)
    votes, image_note = _with_images(votes, mapping, data_dir)
    votes, property_note = _with_properties(votes, data_dir)
    return Survey(
        name=name,
        votes=validate_votes(votes, str(path)),
        data_dir=data_dir,
        notes=(f"Votes of {len(votes):,} galaxies from {path.name}.", image_note, property_note),
    )


def _id_column(path: Path) -> str:
    names = {name.strip().lower() for name in column_names(path)}
    for name in ID_COLUMNS:
        if name in names:
            return name
    raise InputError(
        f"{path} has none of the columns {', '.join(ID_COLUMNS)} with the SDSS DR7 object "
        "identifier. Name that column dr7objid."
    )


def _check_ids(ids: pd.Series, column: str, path: Path) -> None:
    if ids.isna().any():
        raise InputError(
            f"{path}: column {column} is empty in {ids.isna().sum()} rows, the first is row "
            f"{ids.isna().to_numpy().argmax() + 1}. Every galaxy needs its identifier."
        )
    if column == "index" and (ids < 10**17).any():
        raise InputError(
            f"{path}: column index holds {ids.min()}, which is no SDSS DR7 object identifier (18 "
            "digits). Name the column that holds them dr7objid."
        )
    twice = ids[ids.duplicated()]
    if len(twice):
        raise InputError(
            f"{path}: column {column} lists {twice.nunique()} galaxies more than once (first: "
            f"{twice.iloc[0]}). Remove the repeated rows."
        )


def _booleans(flags: pd.Series, column: str, path: Path) -> pd.Series:
    odd = flags[~flags.isin([0, 1]) & flags.notna()]
    if len(odd):
        raise InputError(
            f"{path}: column {column} holds {odd.iloc[0]:g}; a flag is 0 or 1. Correct the file."
        )
    return flags.astype("boolean")


def as_listed(ids: pd.Series, known: pd.Series) -> tuple[pd.Series, str]:
    """SDSS DR7 identifiers as another table spells them.

    One object may have identifiers that differ in the bit `FIRST_FIELD`, which says that its field
    was the first of a segment. An identifier that is known stays; one that is known with the other
    bit only becomes that, unless both stand in `ids`.

    Returns
    -------
    ids : Series, int64
    note : str
        How many were changed, to be added to a sentence; empty if none.
    """
    ids = ids.astype("int64")
    other = ids ^ FIRST_FIELD
    changed = ~ids.isin(known) & other.isin(known) & ~other.isin(ids)
    note = f"{changed.sum():,} identifiers were matched though their firstfield bit differs"
    return ids.mask(changed, other), f" ({note})" if changed.any() else ""


def _with_images(
    votes: pd.DataFrame, mapping_file: Path, data_dir: Path
) -> tuple[pd.DataFrame, str]:
    """Add `image_path` and `has_image` by the object identifier.

    Overlapping subsamples can list a galaxy twice; then the image of the same subsample is taken,
    else the first.
    """
    mapping = read_columns(
        mapping_file,
        ids={"galaxy_id": "objid", "asset_id": "asset_id"},
        texts={"subsample": "sample"},
        optional={"subsample"},
    ).dropna(subset=["galaxy_id", "asset_id"])
    mapping["galaxy_id"], note = as_listed(mapping["galaxy_id"], votes["galaxy_id"])
    if {"subsample"} <= set(mapping) & set(votes):
        own = mapping["galaxy_id"].map(votes.set_index("galaxy_id")["subsample"])
        mapping = mapping.assign(other=mapping["subsample"] != own).sort_values(
            "other", kind="stable"
        )
    asset = mapping.drop_duplicates("galaxy_id").set_index("galaxy_id")["asset_id"]
    votes["asset_id"] = votes["galaxy_id"].map(asset).astype("Int64")
    folder = next((f for f in IMAGE_FOLDERS if (data_dir / f).is_dir()), IMAGE_FOLDERS[0])
    file_name = votes["asset_id"].astype("str") + ".jpg"
    known = votes["asset_id"].notna()
    votes["image_path"] = (folder + "/" + file_name).where(known, "")
    votes["has_image"] = known & file_name.isin(files_in(data_dir / folder))
    return votes, (
        f"{known.sum():,} galaxies have an entry in {mapping_file.name}; the images of "
        f"{votes['has_image'].sum():,} are in {folder}/{note}."
    )


def _with_properties(votes: pd.DataFrame, data_dir: Path) -> tuple[pd.DataFrame, str]:
    """Add redshift, magnitudes and sizes where ``gz2sample`` is there."""
    names = tuple("gz2sample" + suffix for suffix in SUFFIXES)
    path = next((data_dir / n for n in names if (data_dir / n).is_file()), None)
    if path is None:
        return votes, "No gz2sample file: redshifts, magnitudes and sizes are not known."
    properties = read_columns(
        path, ids={"galaxy_id": "OBJID"}, numbers=PROPERTIES, optional=PROPERTIES
    )
    properties = properties.dropna(subset="galaxy_id")
    properties["galaxy_id"], note = as_listed(properties["galaxy_id"], votes["galaxy_id"])
    properties = properties.drop_duplicates("galaxy_id")
    values = properties.drop(columns="galaxy_id")
    # SDSS tables write an unknown value as -9999 (or -999).
    properties[values.columns] = values.mask(values <= -999)
    votes = votes.merge(properties, on="galaxy_id", how="left", validate="one_to_one")
    known = votes["redshift"].notna().sum() if "redshift" in votes else 0
    return votes, f"{known:,} galaxies have a redshift in {path.name}{note}."
