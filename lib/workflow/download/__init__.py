"""Get the real files of a profile: verified, whole or absent, the large one resumed.

``make data PROFILE=gz2`` (``python -m lib.workflow.download --profile gz2``) puts the files where
the survey's reader looks for them. What is there is checked and left; attached Kaggle datasets are
linked to; what is still missing is downloaded by `pooch`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import time
import zipfile
import zlib
from functools import partial
from pathlib import Path, PurePosixPath

import pooch
import requests
import urllib3
from tqdm.auto import tqdm

from lib import paths
from lib.schema import InputError
from lib.workflow import profiles
from lib.workflow.download.registry import (
    CHECKPOINT,
    CHECKPOINT_FILES,
    DATASETS,
    Dataset,
    File,
    ImageSet,
)

__all__ = ["CHECKPOINT", "DATASETS", "LOCK", "fetch", "fetch_profile"]

LOCK = "data/downloads.lock.json"
"""SHA-256 of files whose publishers give no checksum, as first downloaded. Keep it under git."""

WORK = "downloads"
"""Folder below the survey's for archives and for what is under way."""

ATTEMPTS = 6
WAIT = 1.0
"""Half the seconds before the second attempt; doubled with each failure without progress."""

_ABOVE = "images_gz2"
"""Folder of the Kaggle dataset that holds the folder of images."""

BEGINNINGS = {".gz": b"\x1f\x8b", ".zip": b"PK", ".fits": b"SIMPLE  ="}
"""First bytes of a file, by its ending."""


def fetch_profile(name: str, data_dir: str | None = None, *, masses: bool = False) -> None:
    """Get the files that a profile needs: its survey's, and Zoobot's weights where it names them.

    Parameters
    ----------
    name : str
        Profile. With notebook 06_stellar_mass among its steps, masses are got too.
    data_dir : str, optional
        Folder of the survey's data; takes the place of the profile's own.
    masses : bool
        Get the catalogues of stellar masses whatever the profile's steps.

    Raises
    ------
    InputError
        See `fetch`.
    """
    profile = profiles.load(name, data_dir)
    if f"zoobot-checkpoint:{CHECKPOINT}" in [s.get("weights") for s in profile.overrides.values()]:
        for file in CHECKPOINT_FILES:
            _get(file, paths.resolve(CHECKPOINT).parent)
    defaults = {step: profiles.default_parameters(step) for step in profile.steps}
    settings = [{**defaults[step], **profile.overrides[step]} for step in profile.steps]
    reading = next((s for s in settings if s.get("survey", "mock") != "mock"), None)
    if reading is None:
        print(f"profile {name} simulates its own survey: there is nothing to download")
        return
    masses = masses or "06_stellar_mass" in profile.steps
    fetch(reading["survey"], reading["data_dir"], masses=masses)


def fetch(survey: str, data_dir: str | Path, *, masses: bool = False) -> None:
    """Get a survey's files, or say which of them cannot be had and what to do.

    Parameters
    ----------
    survey : str
        A key of `DATASETS`.
    data_dir : path
        Folder to put them into; a relative path starts at the project root.
    masses : bool
        Whether the MPA-JHU catalogues are wanted too.

    Raises
    ------
    InputError
        If the survey is unknown, a file cannot be had, or one in `data_dir` is not what it should
        be; such a file is never replaced.
    """
    if survey not in DATASETS:
        raise InputError(f"survey {survey!r} has no downloads: choose {', '.join(DATASETS)}")
    dataset, folder = DATASETS[survey], paths.resolve(data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    places = _places(dataset, folder)
    for file in dataset.tables + (dataset.masses if masses else ()):
        _get(file, folder, places, dataset.kaggle)
    _get_images(dataset.images, folder, places, dataset.kaggle)
    print(f"{survey}: all files are in {folder}", flush=True)


def _places(dataset: Dataset, folder: Path) -> list[Path]:
    """Folders that may hold what needs no download: what Kaggle has attached, or hands out."""
    places = [folder, Path(os.environ.get("KAGGLE_INPUT", "/kaggle/input"))]
    if dataset.images.archive.url is None and not _find(dataset.images.folder, places):
        try:  # kagglehub finds the user's credentials by itself; none pass through here
            import kagglehub

            places.append(Path(kagglehub.competition_download(dataset.kaggle)))
        except ImportError:
            print("kagglehub is not installed (pip install kagglehub)", flush=True)
        except Exception as error:  # kagglehub's own errors, and those of the libraries below it
            print(f"kagglehub failed ({type(error).__name__})", flush=True)
    return places


def _find(name: str, places: list[Path]) -> Path | None:
    """First file or folder of that name; neither what is hidden nor images, which are many."""
    for place in places:
        for folder, folders, files in os.walk(place):
            if name in files + folders and Path(folder, name).exists():
                return Path(folder, name)
            folders[:] = [f for f in folders if not f.startswith(("images", ".")) or f == _ABOVE]
    return None


def _get(
    file: File, folder: Path, places: list[Path] | None = None, kaggle: str | None = None
) -> None:
    """Have a catalogue in a folder: there already, linked to, unpacked or downloaded."""
    target = folder / file.name
    plain = folder / file.name.removesuffix(".gz")  # the readers take a CSV file either way
    if present := next((p for p in (target, plain) if p.exists()), None):
        if problem := _problem(file, present):
            raise InputError(f"{present} {problem}: delete it and run the same command again")
        print(f"{present.name}: present", flush=True)
        return
    for name in (target.name, plain.name):
        found = _find(name, places or [])
        if found and found.parent != folder / WORK and _is_usable(file, found):
            _link(found, folder / name)
            return
    if archive := _find(f"{target.stem}.zip", places or []):
        unpack(archive, file.name, target)
        return
    os.replace(_download(file, folder / WORK, kaggle), target)


def _get_images(images: ImageSet, folder: Path, places: list[Path], kaggle: str) -> None:
    """Have a folder of images, all of them: there already, linked to, or unpacked."""
    target = folder / images.folder
    found = target if target.is_dir() else _find(images.folder, places)
    if found:
        count = _count(found)
        # What Kaggle mounts cannot be half unpacked; what lies in the user's folder can.
        if count != images.count and found.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"{found} holds {count:,} images instead of {images.count:,}: delete that folder "
                "and run the same command again"
            )
        print(f"{images.folder}/: {count:,} images present", flush=True)
        if found != target:
            _link(found, target)
        return
    archive = _find(images.archive.name, places)
    if archive is None or not _is_usable(images.archive, archive):
        archive = _download(images.archive, folder / WORK, kaggle)
    print(f"{archive.name}: unpacking {images.count:,} images ...", flush=True)
    unpack(archive, images.folder, target, images.count)


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


def _problem(file: File, path: Path, hashed: bool = True) -> str:
    """What is wrong with a file, as far as format, size and checksum tell; empty if nothing.

    Without `hashed`, MD5 and SHA-256 are left to pooch, which knows no hashes of git.
    """
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
    kind, _, expected = (_checksum(file) or "").partition(":")
    if kind == "git":
        matches = _git_blob(path) == expected
    else:
        matches = not (hashed and kind) or pooch.file_hash(str(path), kind) == expected
    return "" if matches else f"is not the known file (expected {kind}:{expected})"


def _git_blob(path: Path) -> str:
    """Hash that git gives a file: SHA-1 of ``blob <size>``, a zero byte and the content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _checksum(file: File) -> str | None:
    """Checksum that a file must have: the publisher's, or that of its first download."""
    entry = _read_lock().get(file.name)
    first = f"sha256:{entry['sha256']}" if entry and entry["url"] == file.url else None
    return file.checksum or first


def _read_lock() -> dict[str, dict]:
    path = paths.resolve(LOCK)
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise InputError(
            f"{path} is damaged ({error}): get it back from git, or delete it to accept the next "
            "downloads as they are"
        ) from None


def _record(file: File, path: Path) -> None:
    """Write down what the first download of a file without a published checksum was."""
    entry = {"url": file.url, "bytes": path.stat().st_size, "sha256": pooch.file_hash(str(path))}
    with paths.atomic(paths.resolve(LOCK)) as temporary:
        content = {**_read_lock(), file.name: entry}
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    print(f"{file.name}: SHA-256 {entry['sha256']} recorded in {LOCK}", flush=True)


def _download(file: File, folder: Path, kaggle: str | None) -> Path:
    """Download a file, whole and verified, into a folder."""
    if file.url is None:
        raise InputError(
            f"{file.name} is only to be had with an account: accept the rules of "
            f"www.kaggle.com/c/{kaggle}, put its files into {folder.parent} and run the same "
            "command again; or install kagglehub and set up its credentials"
        )
    known = _checksum(file)
    print(f"{file.name}: downloading from {file.url} ...", flush=True)
    pooch.get_logger().setLevel("WARNING")
    try:
        path = pooch.retrieve(
            file.url,
            known_hash=None if known and known.startswith("git:") else known,
            fname=file.name,
            path=folder,
            downloader=partial(_transfer, file=file),
        )
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"{file.name}: {error}. What has arrived is kept: make room, run the same command again"
        ) from error
    except ValueError as error:
        source = "its publisher" if file.checksum else LOCK
        raise InputError(f"{file.name}: {error} (The hash is from {source}.)") from error
    if known is None:
        _record(file, Path(path))
    return Path(path)


def _transfer(url: str, output_file: str, _: object, *, file: File) -> None:
    """Download for pooch, going on where a broken transfer ended, in this run or an earlier one.

    What has arrived stays in ``<name>.part``. Of a file without any checksum nobody could tell
    whether two parts belong together: an earlier run's part is not used.
    """
    part = Path(output_file).with_name(f"{file.name}.part")
    if _checksum(file) is None:
        part.unlink(missing_ok=True)
    failures, furthest = 0, part.stat().st_size if part.exists() else 0
    while True:
        try:
            _append(url, part, file)
            break
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            have = part.stat().st_size if part.exists() else 0
            failures = 1 if have > furthest else failures + 1  # in a row, without any progress
            furthest = max(have, furthest)
            if failures == ATTEMPTS:
                raise InputError(
                    f"{file.name} could not be downloaded from {url}: {error}. What has arrived is "
                    f"kept in {part}; run the same command again later."
                ) from error
            print(f"  {file.name}: {error}; trying again", flush=True)
            time.sleep(WAIT * 2**failures)
    if problem := _problem(file, part, hashed=False):
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
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise requests.HTTPError("the server sends another part than was asked for")
        rest = int(answer.headers.get("Content-Length", 0))
        if not rest and _checksum(file) is None and file.size is None:
            raise InputError(f"{url} does not say how long {file.name} is: get it by hand")
        _check_space(part.parent, rest)
        bar = tqdm(desc=file.name, initial=have, total=have + rest, unit="B", unit_scale=True)
        # Raw bytes: `requests` would unpack a .gz file that is served as Content-Encoding: gzip.
        with bar, open(part, "ab" if have else "wb") as opened:
            for chunk in answer.raw.stream(1 << 20, decode_content=False):
                opened.write(chunk)
                bar.update(len(chunk))
    if part.stat().st_size < have + rest:
        raise requests.ConnectionError(f"the connection ended before {have + rest:,} bytes")


def _check_space(folder: Path, needed: int) -> None:
    """Refuse to start what the disk has no room for."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{needed / 1e9:.2f} GB are needed but {folder} has {free / 1e9:.2f} GB free: make "
            "room, or give another folder with DATA=..."
        )


def unpack(archive: Path, member: str, target: Path, count: int | None = None) -> None:
    """Unpack a zip file, and put one file or folder of it into place when it is whole.

    Parameters
    ----------
    archive : Path
        Zip file.
    member : str
        File or folder in it that is wanted.
    target : Path
        Where that ends up; a link there is replaced.
    count : int, optional
        JPEG files that a folder must have.

    Raises
    ------
    InputError
        Before anything is written: a file in it would leave the folder or is a link, or the disk
        has no room. Afterwards: damage, or not what is wanted; then nothing stays.
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
            _check_space(target.parent, sum(entry.file_size for entry in file.infolist()))
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
