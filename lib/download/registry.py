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
        Name in the survey's folder.
    url : str or None
        Where it is downloaded from; None where that needs an account.
    size : int or None
        Exact length in bytes where it is known.
    checksum : str or None
        ``md5:<hex>`` where its publisher gives one. Otherwise the first download records the
        file's SHA-256 in `lib.download.LOCK`.
    about : int
        Upper estimate of the length in bytes, for the check of the disk; 0 where `size` is known.
    """

    name: str
    url: str | None = None
    size: int | None = None
    checksum: str | None = None
    about: int = 0

    @property
    def space(self) -> int:
        """Bytes to reserve on the disk."""
        return self.size or self.about


@dataclass(frozen=True)
class ImageSet:
    """Cut-outs that come as one archive.

    Attributes
    ----------
    archive : File
        Zip file.
    folder : str
        Folder below the survey's, and inside the archive, that holds ``<number>.jpg``.
    count : int
        Number of images.
    also : tuple of str
        Other names that the folder has in copies of the archive.
    side : int
        Height and width of each image in pixels.
    """

    archive: File
    folder: str
    count: int
    also: tuple[str, ...] = ()
    side: int = 424


@dataclass(frozen=True)
class Dataset:
    """All files of a survey.

    Attributes
    ----------
    tables, masses : tuple of File
        Catalogues, and the optional ones of stellar masses.
    images : ImageSet
    kaggle : str
        Kaggle's handle: ``owner/name`` of a dataset, or the name of a competition.
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
_PROPERTIES = File("gz2sample.csv.gz", ZOONIVERSE + "gz2sample.csv.gz", about=150_000_000)
_MASSES = (
    File("galSpecInfo-dr8.fits", SDSS + "galSpecInfo-dr8.fits", about=385_000_000),
    File("galSpecExtra-dr8.fits", SDSS + "galSpecExtra-dr8.fits", about=360_000_000),
)
_GZ2_IMAGES = ImageSet(
    File(
        "images_gz2.zip",
        ZENODO + "images_gz2.zip",
        checksum="md5:bc647032d31e50c798770cf4430525c7",
        about=3_600_000_000,
    ),
    folder="images",
    count=243_434,
    also=("images_gz2",),
)
_WILLETT = File("zoo2MainSpecz.csv.gz", ZOONIVERSE + "zoo2MainSpecz.csv.gz", size=54_035_492)
_HART = File(
    "gz2_hart16.csv.gz", "https://gz2hart.s3.amazonaws.com/gz2_hart16.csv.gz", about=100_000_000
)

DATASETS = {
    "gz2": Dataset(
        (_WILLETT, _MAPPING, _PROPERTIES),
        _MASSES,
        _GZ2_IMAGES,
        kaggle="jaimetrickz/galaxy-zoo-2-images",
    ),
    "gz2_hart16": Dataset(
        (_HART, _MAPPING, _PROPERTIES),
        _MASSES,
        _GZ2_IMAGES,
        kaggle="jaimetrickz/galaxy-zoo-2-images",
    ),
    "challenge": Dataset(
        (File("training_solutions_rev1.csv", about=30_000_000),),
        (),
        ImageSet(
            File("images_training_rev1.zip", about=1_000_000_000), "images_training_rev1", 61_578
        ),
        kaggle="galaxy-zoo-the-galaxy-challenge",
    ),
}
"""Survey -> its files.

Sizes and number of images are those their publishers state. The MD5 sums are Zenodo's. The weights
of pre-trained networks are got, and checked, by `lib.weights`.
"""
