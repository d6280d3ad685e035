"""Get the real files of a profile: verified, whole or absent, the large one resumed.

``make data PROFILE=gz2`` (``python -m lib.workflow.download --profile gz2``) puts the files where
the survey's reader looks for them. What is there is checked and left; attached Kaggle datasets are
linked to; what is still missing is downloaded by `pooch`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import stat
import sys
import time
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import pooch
import requests
import urllib3
from tqdm.auto import tqdm

from lib import paths
from lib.paths import check_space
from lib.schema import InputError
from lib.workflow import profiles
from lib.workflow.processes import exit_status


@dataclass(frozen=True)
class File:
    """A public file: name, address (None where that needs an account), bytes and checksum if known.

    The checksum is ``md5:<hex>``, or ``git:<hex>`` for a blob of a git repository.
    """

    name: str
    url: str | None = None
    size: int | None = None
    checksum: str | None = None


@dataclass(frozen=True)
class Dataset:
    """Files of a survey: tables, stellar masses, and a zip file with a `folder` of `count` images.

    `kaggle` is Kaggle's handle: ``owner/name`` of a dataset, or the name of a competition.
    """

    tables: tuple[File, ...]
    masses: tuple[File, ...]
    archive: File
    folder: str
    count: int
    kaggle: str


_ZOONIVERSE = "https://zooniverse-data.s3.amazonaws.com/galaxy-zoo-2/"
_ZENODO = "https://zenodo.org/records/3565489/files/"
_SDSS = "https://data.sdss3.org/sas/dr8/common/sdss-spectro/redux/"
_MAPPING, _MAPPING_MD5 = "gz2_filename_mapping.csv", "7e28465e6dfbf96c0d828c595a5bbd80"
_GZ2 = {
    "masses": tuple(
        File(name, _SDSS + name) for name in ("galSpecInfo-dr8.fits", "galSpecExtra-dr8.fits")
    ),
    "archive": File(
        "images_gz2.zip",
        _ZENODO + "images_gz2.zip",
        checksum="md5:bc647032d31e50c798770cf4430525c7",
    ),
    "folder": "images",
    "count": 243_434,
    "kaggle": "jaimetrickz/galaxy-zoo-2-images",
}
_GZ2_TABLES = (
    File(_MAPPING, _ZENODO + _MAPPING, 13_166_201, f"md5:{_MAPPING_MD5}"),
    File("gz2sample.csv.gz", _ZOONIVERSE + "gz2sample.csv.gz"),
)
_WILLETT = File("zoo2MainSpecz.csv.gz", _ZOONIVERSE + "zoo2MainSpecz.csv.gz", 54_035_492)
_HART = File("gz2_hart16.csv.gz", "https://gz2hart.s3.amazonaws.com/gz2_hart16.csv.gz")

DATASETS = {
    "gz2": Dataset((_WILLETT, *_GZ2_TABLES), **_GZ2),
    "gz2_hart16": Dataset((_HART, *_GZ2_TABLES), **_GZ2),
    "challenge": Dataset(
        (File("training_solutions_rev1.csv"),),
        (),
        File("images_training_rev1.zip"),
        "images_training_rev1",
        61_578,
        "galaxy-zoo-the-galaxy-challenge",
    ),
}
"""Survey -> its files. Sizes, numbers of images and the MD5 sums (Zenodo's) are the publishers'."""

CHECKPOINT = "data/zoobot/decals_dr_train_set_only_replicated/checkpoint"
"""Where the paper's Zoobot weights are put, without ending: the grey-scale EfficientNetB0 that
learnt from the training part of GZ DECaLS (Walmsley et al. 2022)."""

_ZOOBOT = (
    "https://raw.githubusercontent.com/mwalmsley/zoobot/5630c7b2fb844f64c243b5b9e2a6a522a4211492/"
    "data/pretrained_models/decals_dr_train_set_only_replicated/"
)
CHECKPOINT_FILES = tuple(
    File(name, _ZOOBOT + name, checksum=f"git:{sha1}")
    for name, sha1 in {
        "checkpoint.index": "c1df06704312f48634f857c3944aceca62135d50",
        "checkpoint.data-00000-of-00001": "1a2aa498617020525a1fac8002a6d2d68c715e82",
    }.items()
)
"""Files of `CHECKPOINT`, as they are in Zoobot's repository at one commit."""

WORK = "downloads"
"""Folder below the survey's for archives and for what is under way."""

ROOM = "make room, or give another folder with DATA=..."
"""What is to be done where the disk is too small."""

ATTEMPTS = 6
WAIT = 1.0
"""Half the seconds before the second attempt; doubled with each failure."""

_ABOVE = "images_gz2"
"""Folder of the Kaggle dataset that holds the folder of images."""

BEGINNINGS = {".gz": b"\x1f\x8b", ".zip": b"PK", ".fits": b"SIMPLE  ="}
"""First bytes of a file, by its ending."""


def fetch_profile(name: str, data_dir: str | None = None) -> None:
    """Get the files that a profile needs: its survey's, and Zoobot's weights where it names them.

    `data_dir` takes the place of the profile's own. Raises as `fetch`.
    """
    profile = profiles.load(name, data_dir)
    settings = [profile.settings(step) for step in profile.steps]
    if f"zoobot-checkpoint:{CHECKPOINT}" in [s.get("weights") for s in settings]:
        for file in CHECKPOINT_FILES:
            _get(file, paths.resolve(CHECKPOINT).parent)
    reading = next((s for s in settings if s.get("survey", "mock") != "mock"), None)
    if reading is None:
        print(f"profile {name} simulates its own survey: there is nothing to download")
        return
    fetch(reading["survey"], reading["data_dir"], masses="06_stellar_mass" in profile.steps)


def fetch(survey: str, data_dir: str | Path, *, masses: bool = False) -> None:
    """Get a survey's files, or say which of them cannot be had and what to do.

    `survey` is a key of `DATASETS`; `data_dir` starts at the project root if it is relative;
    `masses` asks for the MPA-JHU catalogues too. Raises InputError if the survey is unknown, a file
    cannot be had, or one in `data_dir` is not what it should be; such a file is never replaced.
    """
    if survey not in DATASETS:
        raise InputError(f"survey {survey!r} has no downloads: choose {', '.join(DATASETS)}")
    dataset, folder = DATASETS[survey], paths.resolve(data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    places = [folder, Path(os.environ.get("KAGGLE_INPUT", "/kaggle/input"))]
    for file in dataset.tables + (dataset.masses if masses else ()):
        _get(file, folder, places, dataset.kaggle)
    _get_images(dataset, folder, places)
    print(f"{survey}: all files are in {folder}", flush=True)


def _find(name: str, places: Sequence[Path]) -> Path | None:
    """First file or folder of that name; neither what is hidden nor images, which are many."""
    for place in places:
        for folder, folders, files in os.walk(place):
            if name in files + folders and Path(folder, name).exists():
                return Path(folder, name)
            folders[:] = [f for f in folders if not f.startswith(("images", ".")) or f == _ABOVE]
    return None


def _get(file: File, folder: Path, places: Sequence[Path] = (), kaggle: str | None = None) -> None:
    """Have a file in a folder: there already, linked to, unpacked or downloaded."""
    target = folder / file.name
    plain = folder / file.name.removesuffix(".gz")  # the readers take a CSV file either way
    if present := next((p for p in (target, plain) if p.exists()), None):
        if problem := _problem(file, present):
            raise InputError(f"{present} {problem}: delete it and run the same command again")
        print(f"{present.name}: present", flush=True)
        return
    for name in (target.name, plain.name):
        found = _find(name, places)
        if found and found.parent != folder / WORK and _is_usable(file, found):
            _link(found, folder / name)
            return
    if archive := _find(f"{target.stem}.zip", places):
        unpack(archive, file.name, target)
        return
    os.replace(_download(file, folder / WORK, kaggle), target)


def _get_images(dataset: Dataset, folder: Path, places: list[Path]) -> None:
    """Have a folder of images, all of them: there already, linked to, or unpacked."""
    target = folder / dataset.folder
    if found := target if target.is_dir() else _find(dataset.folder, places):
        count = _count(found)
        # What Kaggle mounts cannot be half unpacked; what lies in the user's folder can.
        if count != dataset.count and found.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"{found} holds {count:,} images instead of {dataset.count:,}: delete that folder "
                "and run the same command again"
            )
        print(f"{dataset.folder}/: {count:,} images present", flush=True)
        if found != target:
            _link(found, target)
        return
    archive = _find(dataset.archive.name, places)
    if archive is None or not _is_usable(dataset.archive, archive):
        archive = _download(dataset.archive, folder / WORK, dataset.kaggle)
    print(f"{archive.name}: unpacking {dataset.count:,} images ...", flush=True)
    unpack(archive, dataset.folder, target, dataset.count)


def _count(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.name.endswith(".jpg") for entry in entries)


def _is_usable(file: File, path: Path) -> bool:
    if problem := _problem(file, path):
        print(f"{path} is not used: it {problem}", flush=True)
    return not problem


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)  # a link to a dataset that is no longer attached
    target.symlink_to(source)
    print(f"{target.name}: linked to {source}", flush=True)


def _problem(file: File, path: Path) -> str:
    """What is wrong with a file, as far as format, size and checksum tell; empty if nothing."""
    name = path.name.removesuffix(".part")
    with open(path, "rb") as opened:
        start = opened.read(512)
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "is a web page or an error message, not data"
    if not start or not start.startswith(BEGINNINGS.get(Path(name).suffix, b"")):
        return "is empty, or in another format than its name says"
    if name != file.name:  # a catalogue without its compression
        return ""
    if file.size is not None and path.stat().st_size != file.size:
        return f"has {path.stat().st_size:,} bytes instead of {file.size:,}"
    kind, _, expected = (file.checksum or "").partition(":")
    if kind:
        found = _git_blob(path) if kind == "git" else pooch.file_hash(str(path), kind)
        if found != expected:
            return f"is not the known file (expected {kind}:{expected}, found {found})"
    return ""


def _git_blob(path: Path) -> str:
    """Hash that git gives a file: SHA-1 of ``blob <size>``, a zero byte and the content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _download(file: File, folder: Path, kaggle: str | None) -> Path:
    """Download a file, whole and verified, into a folder."""
    if file.url is None:
        raise InputError(
            f"{file.name} is only to be had with an account: accept the rules of "
            f"www.kaggle.com/c/{kaggle}, `kaggle competitions download {kaggle}`, unpack that zip "
            f"file into {folder.parent} and run the same command again"
        )
    path = folder / file.name
    if path.exists() and (problem := _problem(file, path)):
        raise InputError(f"{path} {problem}: delete it and run the same command again")
    print(f"{file.name}: downloading from {file.url} ...", flush=True)
    pooch.get_logger().setLevel("WARNING")
    try:
        transfer = partial(_transfer, file=file)  # checks what has arrived
        pooch.retrieve(file.url, None, fname=file.name, path=folder, downloader=transfer)
    except OSError as error:
        raise InputError(
            f"{file.name}: {error}. What has arrived is kept: make room, run the same command again"
        ) from error
    return path


def _transfer(url: str, output_file: str, _: object, *, file: File) -> None:
    """Download for pooch, going on where a broken transfer ended, in this run or an earlier one.

    What has arrived stays in ``<name>.part``. Of a file without a checksum nobody could tell
    whether two parts belong together: an earlier run's part is not used.
    """
    part = Path(output_file).with_name(f"{file.name}.part")
    if file.checksum is None:
        part.unlink(missing_ok=True)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _append(url, part, file)
            break
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if attempt == ATTEMPTS:
                raise InputError(
                    f"{file.name} could not be downloaded from {url}: {error}. What has arrived is "
                    f"kept in {part}; run the same command again later."
                ) from error
            print(f"  {file.name}: {error}; trying again", flush=True)
            time.sleep(WAIT * 2**attempt)
    if problem := _problem(file, part):
        part.unlink()
        raise InputError(f"what {url} sends {problem}: look at it in a browser; see data/README.md")
    os.replace(part, output_file)


def _append(url: str, part: Path, file: File) -> None:
    """Ask a server for what is missing of a file, and append it to its part."""
    have = part.stat().st_size if part.exists() else 0
    # Compression on the way would make lengths and ranges those of another file.
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with requests.get(url, headers=headers, stream=True, timeout=(15, 60)) as answer:
        code = answer.status_code
        if code == 416:  # no more to come: the checks will say whether the part is the file
            return
        if code in (408, 425, 429) or code >= 500:
            raise requests.HTTPError(f"the server answers {code}")
        if code not in (200, 206) or answer.headers.get("Content-Type", "").startswith("text/html"):
            raise InputError(
                f"{url} answers {code} {answer.reason}, {answer.headers.get('Content-Type')}: "
                f"{file.name} is not to be had there. Get it by hand (data/README.md) and put it "
                "into the survey's folder."
            )
        if code == 200:
            have = 0
        rest = int(answer.headers.get("Content-Length", 0))
        if not (rest or file.checksum or file.size):
            raise InputError(f"{url} does not say how long {file.name} is: get it by hand")
        check_space(part.parent, rest, file.name, ROOM)
        bar = tqdm(desc=file.name, initial=have, total=have + rest, unit="B", unit_scale=True)
        # Raw bytes: `requests` would unpack a .gz file that is served as Content-Encoding: gzip.
        with bar, open(part, "ab" if have else "wb") as opened:
            for chunk in answer.raw.stream(1 << 20, decode_content=False):
                opened.write(chunk)
                bar.update(len(chunk))
    if part.stat().st_size < have + rest:
        raise requests.ConnectionError(f"the connection ended before {have + rest:,} bytes")


def unpack(archive: Path, member: str, target: Path, count: int | None = None) -> None:
    """Unpack a zip file, and put one file or folder of it, `member`, into place when it is whole.

    A link at `target` is replaced; `count` JPEG files are expected in a folder. Raises InputError
    before anything is written if a file in it would leave the folder or is a link, or the disk has
    no room; afterwards for damage, or if it is not what is wanted: then nothing stays.
    """
    staging = target.with_name(f".{target.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as file:
            for entry in file.infolist():
                path = PurePosixPath(entry.filename)
                if path.is_absolute() or ".." in path.parts:
                    raise InputError(f"{archive} is refused: {path} would leave the folder")
                if stat.S_ISLNK(entry.external_attr >> 16):
                    raise InputError(f"{archive} is refused: {path} is a link")
            needed = sum(entry.file_size for entry in file.infolist())
            check_space(target.parent, needed, f"the content of {archive.name}", ROOM)
        pooch.Unzip(extract_dir=str(staging.absolute()))(str(archive), "download", None)
        if not (staging / member).exists():
            raise InputError(f"{archive} does not hold {member}: it is another archive")
        if count is not None and (found := _count(staging / member)) != count:
            raise InputError(f"{archive} holds {found:,} images instead of {count:,}")
        os.sync()  # names may reach the disk before contents: no empty files after a power cut
        if target.is_symlink():  # to a dataset that is no longer attached
            target.unlink()
        os.replace(staging / member, target)
    # zipfile says by NotImplementedError and RuntimeError what it cannot read, e.g. encrypted files
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InputError(
            f"{archive} could not be unpacked ({error}): make room, or delete it if it is damaged, "
            "and run the same command again"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def main(argv: list[str] | None = None) -> int:
    """Command line of this module; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.workflow.download")
    parser.add_argument("--profile", required=True)
    parser.add_argument("--data", help="folder of the survey's data")
    arguments = parser.parse_args(argv)
    return exit_status(fetch_profile, arguments.profile, arguments.data)


if __name__ == "__main__":
    sys.exit(main())
