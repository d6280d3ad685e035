"""Which public files each survey needs, where they are, and how they are known to be whole."""

from __future__ import annotations

from dataclasses import dataclass

ZOONIVERSE = "https://zooniverse-data.s3.amazonaws.com/galaxy-zoo-2/"
ZENODO = "https://zenodo.org/records/3565489/files/"
SDSS = "https://data.sdss3.org/sas/dr8/common/sdss-spectro/redux/"


@dataclass(frozen=True)
class File:
    """One public file.

    Attributes
    ----------
    name : str
        Name on the disk.
    url : str or None
        Where it is downloaded from; None where that needs an account.
    size : int or None
        Exact length in bytes where it is known.
    checksum : str or None
        ``md5:<hex>`` where its publisher gives one, ``git:<hex>`` where it is a blob of a git
        repository. Otherwise the first download is recorded in `lib.workflow.download.LOCK`.
    """

    name: str
    url: str | None = None
    size: int | None = None
    checksum: str | None = None


@dataclass(frozen=True)
class ImageSet:
    """Cut-outs that come as one zip file: `folder` inside it holds `count` images."""

    archive: File
    folder: str
    count: int


@dataclass(frozen=True)
class Dataset:
    """All files of a survey; `masses` are optional.

    `kaggle` is Kaggle's handle: ``owner/name`` of a dataset, or the name of a competition.
    """

    tables: tuple[File, ...]
    masses: tuple[File, ...]
    images: ImageSet
    kaggle: str


_MAPPING = File(
    "gz2_filename_mapping.csv",
    ZENODO + "gz2_filename_mapping.csv",
    size=13_166_201,
    checksum="md5:7e28465e6dfbf96c0d828c595a5bbd80",
)
_PROPERTIES = File("gz2sample.csv.gz", ZOONIVERSE + "gz2sample.csv.gz")
_MASSES = tuple(
    File(name, SDSS + name) for name in ("galSpecInfo-dr8.fits", "galSpecExtra-dr8.fits")
)
_GZ2_IMAGES = ImageSet(
    File(
        "images_gz2.zip",
        ZENODO + "images_gz2.zip",
        checksum="md5:bc647032d31e50c798770cf4430525c7",
    ),
    folder="images",
    count=243_434,
)
_WILLETT = File("zoo2MainSpecz.csv.gz", ZOONIVERSE + "zoo2MainSpecz.csv.gz", size=54_035_492)
_HART = File("gz2_hart16.csv.gz", "https://gz2hart.s3.amazonaws.com/gz2_hart16.csv.gz")

DATASETS = {
    "gz2": Dataset(
        (_WILLETT, _MAPPING, _PROPERTIES), _MASSES, _GZ2_IMAGES, "jaimetrickz/galaxy-zoo-2-images"
    ),
    "gz2_hart16": Dataset(
        (_HART, _MAPPING, _PROPERTIES), _MASSES, _GZ2_IMAGES, "jaimetrickz/galaxy-zoo-2-images"
    ),
    "challenge": Dataset(
        (File("training_solutions_rev1.csv"),),
        (),
        ImageSet(File("images_training_rev1.zip"), "images_training_rev1", 61_578),
        "galaxy-zoo-the-galaxy-challenge",
    ),
}
"""Survey -> its files. Sizes, numbers of images and the MD5 sums (Zenodo's) are the publishers'."""

_ZOOBOT = (
    "https://raw.githubusercontent.com/mwalmsley/zoobot/5630c7b2fb844f64c243b5b9e2a6a522a4211492/"
    "data/pretrained_models/decals_dr_train_set_only_replicated/"
)

CHECKPOINT = "data/zoobot/decals_dr_train_set_only_replicated/checkpoint"
"""Where the paper's Zoobot weights are put, without ending: the grey-scale EfficientNetB0 that
learnt from the training part of GZ DECaLS (Walmsley et al. 2022)."""

CHECKPOINT_FILES = (
    File(
        "checkpoint.index",
        _ZOOBOT + "checkpoint.index",
        size=53_615,
        checksum="git:c1df06704312f48634f857c3944aceca62135d50",
    ),
    File(
        "checkpoint.data-00000-of-00001",
        _ZOOBOT + "checkpoint.data-00000-of-00001",
        checksum="git:1a2aa498617020525a1fac8002a6d2d68c715e82",
    ),
)
"""Files of `CHECKPOINT`, as they are in Zoobot's repository at one commit."""
