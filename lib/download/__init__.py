"""Get the real files of a survey: verified, atomic, and taken up where an earlier run stopped.

``make data PROFILE=gz2`` (``python -m lib.download --profile gz2``) puts the files where the
survey's reader looks for them. A file that is there is checked and left; then attached Kaggle
datasets are looked through and linked to; what is still missing is downloaded.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pooch

from lib import paths, profiles, receipts
from lib.download import kaggle
from lib.download.archive import check_images, count_images, unpack_images, unpack_table
from lib.download.http import ResumingDownloader
from lib.download.registry import DATASETS, Dataset, File, ImageSet
from lib.download.whole import DownloadError, check_content, check_space
from lib.schema import InputError

__all__ = ["DATASETS", "LOCK", "DownloadError", "fetch", "fetch_profile"]

LOCK = "data/downloads.lock.json"
"""SHA-256 of files whose publishers give no checksum, as first downloaded. Keep it under git."""

WORK = "downloads"
"""Folder below the survey's for archives and for what is under way."""


def fetch_profile(name: str, data_dir: str | None = None, *, masses: bool = False) -> None:
    """Get the files that a profile's survey needs.

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
    InputError, DownloadError
        See `fetch`.
    """
    profile = profiles.load(name, data_dir)
    step = next(s for s in profile.steps if "survey" in profiles.default_parameters(s))
    settings = {**profiles.default_parameters(step), **profile.overrides[step]}
    if settings["survey"] == "mock":
        print(f"profile {name} simulates its own survey: there is nothing to download")
        return
    fetch(
        settings["survey"],
        settings["data_dir"],
        masses=masses or "06_stellar_mass" in profile.steps,
    )


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
        If the survey is unknown, or a file that lies in `data_dir` is not the one it should be;
        such a file is never replaced.
    DownloadError
        If a file cannot be had.
    """
    if survey not in DATASETS:
        raise InputError(f"survey {survey!r} has no downloads: choose {', '.join(DATASETS)}")
    dataset = DATASETS[survey]
    folder = paths.resolve(data_dir)
    with _alone(folder / WORK):
        tables = dataset.tables + (dataset.masses if masses else ())
        missing = [file for file in tables if not _is_present(file, folder)]
        no_images = not _has_images(dataset.images, folder)
        places = _places(dataset, folder)
        while (missing or no_images) and (place := next(places, None)):
            missing = [file for file in missing if not _take_table(file, folder, place)]
            no_images = no_images and not _take_images(dataset.images, folder, place)
        _check_room(missing, dataset.images if no_images else None, folder)
        for file in missing:
            _download(file, folder, dataset)
        if no_images:
            _unpack(_download(dataset.images.archive, folder, dataset), folder, dataset.images)
    print(f"{survey}: all files are in {folder}", flush=True)


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Keep a second download of the same survey out, and clear up after a killed one."""
    work.mkdir(parents=True, exist_ok=True)
    with open(work / ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another download to {work.parent} is under way") from None
        for stale in work.glob("tmp*"):  # pooch's temporary files
            stale.unlink()
        yield


def _alternatives(file: File) -> tuple[str, ...]:
    """Names under which the readers take a catalogue: as it is, or with a CSV (un)compressed."""
    if file.name.endswith(".csv.gz"):
        return file.name, file.name.removesuffix(".gz")
    return (file.name, file.name + ".gz") if file.name.endswith(".csv") else (file.name,)


def _known_checksum(file: File) -> str | None:
    """Checksum that a file must have: the publisher's, or that of its first download."""
    if file.checksum or file.url is None:
        return file.checksum
    entry = _read_lock().get(file.name)
    return f"sha256:{entry['sha256']}" if entry and entry["url"] == file.url else None


def _read_lock() -> dict[str, dict]:
    path = paths.resolve(LOCK)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(
            f"{path} is damaged ({error}): get it back from git, or delete it to accept the next "
            "downloads as they are"
        ) from None


def _record(file: File, path: Path) -> None:
    """Write down what the first download of a file without a published checksum was."""
    entry = {"url": file.url, "bytes": path.stat().st_size, "sha256": receipts.sha256(path)}
    with paths.atomic(paths.resolve(LOCK)) as temporary:
        temporary.write_text(
            json.dumps({**_read_lock(), file.name: entry}, indent=1, sort_keys=True) + "\n",
            encoding="utf-8",
        )
    print(f"{file.name}: SHA-256 {entry['sha256']} recorded in {LOCK}", flush=True)


def _problem(file: File, path: Path) -> str:
    """What is wrong with a file; empty if nothing is."""
    if path.name == file.name:
        if file.size is not None and path.stat().st_size != file.size:
            return f"has {path.stat().st_size:,} bytes instead of {file.size:,}"
        checksum = _known_checksum(file)
        if checksum and not pooch.hashes.hash_matches(path, checksum):
            return f"is not the known file (expected {checksum})"
    try:
        check_content(path, path.name)
    except ValueError as error:
        return f"cannot be used: {error}"
    return ""


def _is_present(file: File, folder: Path) -> bool:
    """Whether the survey's folder has a catalogue already, and it is whole."""
    path = next((folder / n for n in _alternatives(file) if (folder / n).is_file()), None)
    if path is None:
        return False
    if problem := _problem(file, path):
        raise InputError(f"{path} {problem}: delete it and run the same command again")
    print(f"{path.name}: present", flush=True)
    return True


def _has_images(images: ImageSet, folder: Path) -> bool:
    """Whether the survey's folder has the images already, all of them."""
    target = folder / images.folder
    if not target.is_dir():
        return False
    number = check_images(target, images, exactly=not target.is_symlink())
    print(f"{images.folder}/: {number:,} images present", flush=True)
    return True


def _places(dataset: Dataset, folder: Path) -> Iterator[Path]:
    """Folders that may hold what needs no download, one after the other.

    kagglehub is asked on Kaggle, where it only mounts what is there, and for files that have no
    other source; elsewhere the publishers' own copies come first.
    """
    yield folder  # archives that the user has put there
    if kaggle.on_kaggle():
        yield kaggle.input_folder()
    if kaggle.on_kaggle() or dataset.images.archive.url is None:
        path, problem = kaggle.by_kagglehub(dataset.kaggle)
        if path is not None:
            yield path
        else:
            print(f"not by kagglehub: {problem}", flush=True)


def _link(source: Path, target: Path) -> None:
    if target.is_symlink():  # to a dataset that is no longer attached
        target.unlink()
    target.symlink_to(source, target_is_directory=source.is_dir())
    print(f"{target.name}: linked to {source}", flush=True)


def _take_table(file: File, folder: Path, place: Path) -> bool:
    """Link to a catalogue below `place`, or unpack it where it is zipped there."""
    path = kaggle.find_file(place, _alternatives(file))
    # What a killed run left in the working folder is for `_download` to check and record.
    if path is not None and path.parent != folder / WORK and _is_usable(file, path):
        _link(path, folder / path.name)
        return True
    archive = kaggle.find_file(place, (Path(file.name).stem + ".zip",))
    if archive is None:
        return False
    unpack_table(archive, folder / file.name)
    print(f"{file.name}: unpacked from {archive}", flush=True)
    return True


def _take_images(images: ImageSet, folder: Path, place: Path) -> bool:
    """Link to a folder of images below `place`, or unpack an archive of them."""
    path = kaggle.find_images(place, (images.folder, *images.also))
    if path is not None:
        # What Kaggle mounts cannot be half unpacked; what lies in the user's folder can.
        number = check_images(path, images, exactly=place == folder)
        if number != images.count:
            print(f"{path} holds {number:,} of {images.count:,} images", flush=True)
        _link(path, folder / images.folder)
        return True
    archive = kaggle.find_file(place, (images.archive.name,))
    if archive is None or not _is_usable(images.archive, archive):
        return False
    _unpack(archive, folder, images)
    return True


def _is_usable(file: File, path: Path) -> bool:
    if problem := _problem(file, path):
        print(f"{path} is not used: it {problem}", flush=True)
    return not problem


def _unpack(archive: Path, folder: Path, images: ImageSet) -> None:
    target = folder / images.folder
    if target.is_symlink():  # to a dataset that is no longer attached
        target.unlink()
    print(f"{archive.name}: unpacking {images.count:,} images ...", flush=True)
    unpack_images(archive, target, images)


def _check_room(missing: list[File], images: ImageSet | None, folder: Path) -> None:
    """Refuse to begin when the disk cannot hold all that is to come."""
    needed = sum(file.space for file in missing)
    if images is not None:
        # The archive, and what it unpacks to: JPEG files are not compressed any further.
        archive = folder / WORK / images.archive.name
        partial = folder / (images.folder + ".partial")
        share = count_images(partial) / images.count if partial.is_dir() else 0.0
        needed += int(images.archive.space * (1 - min(share, 1.0)))
        needed += 0 if archive.is_file() else images.archive.space
    for part in (folder / WORK).glob("*.part"):
        needed -= part.stat().st_size
    check_space(folder, needed)


def _download(file: File, folder: Path, dataset: Dataset) -> Path:
    """Download a catalogue into the survey's folder, or an archive into its working folder."""
    if file.url is None:
        raise DownloadError(
            f"{file.name} is only to be had with an account: accept the rules of "
            f"www.kaggle.com/c/{dataset.kaggle}, put its files into {folder} and run the same "
            "command again; or install kagglehub and set up its credentials"
        )
    work, checksum = folder / WORK, _known_checksum(file)
    fetcher = pooch.create(
        path=work,
        base_url="",
        registry={file.name: checksum},
        urls={file.name: file.url},
        retry_if_failed=1,
        allow_updates=False,
    )
    print(f"{file.name}: downloading from {file.url} ...", flush=True)
    downloader = ResumingDownloader(work / f"{file.name}.part", file.size)
    try:
        path = Path(fetcher.fetch(file.name, downloader=downloader))
    except ValueError as error:
        source = "its publisher" if file.checksum else LOCK
        raise DownloadError(
            f"{file.name} from {file.url} is not what it should be: {error} (Known from {source}.) "
            f"Run the same command again; if {work / file.name} is there, delete it first."
        ) from error
    if checksum is None:
        _record(file, path)
    if file not in dataset.tables + dataset.masses:
        return path
    os.replace(path, folder / file.name)
    return folder / file.name
