"""Tests of lib.download against a local server that does everything wrong a server can do."""

import gzip
import hashlib
import io
import json
import shutil
import stat
import subprocess
import sys
import threading
import types
import zipfile
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import tables
from astropy.io import fits
from conftest import ROOT
from PIL import Image

from lib import download
from lib.download import archive, http, kaggle, registry
from lib.download.__main__ import main
from lib.download.http import ResumingDownloader
from lib.download.whole import DownloadError, check_content
from lib.schema import InputError
from lib.surveys import open_survey

SIDE = 16
DATA = gzip.compress(np.random.default_rng(1).bytes(60_000))
"""A catalogue: 60 kB that do not compress."""


@dataclass
class Item:
    """How the server answers for one path."""

    data: bytes
    ranges: bool = True
    cut_after: list = field(default_factory=list)  # bytes sent by the first answers before a cut
    length: int | None = None  # Content-Length that is claimed; 0 for none at all
    codes: list = field(default_factory=list)  # status of the first answers
    headers: dict = field(default_factory=dict)
    moved_to: str | None = None
    etag: str | None = '"v1"'
    wrong_start: int = 0  # added to the first byte of a range that is sent
    asked: list = field(default_factory=list)  # Range header of each request


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def end_headers(self):
        self.send_header("Connection", "close")
        super().end_headers()

    def do_GET(self):
        item = self.server.items.get(self.path)
        if item is None:
            return self.send_error(404)
        item.asked.append(self.headers.get("Range"))
        if item.codes and (code := item.codes.pop(0)) != 200:
            self.send_response(code)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if item.moved_to:
            self.send_response(302)
            self.send_header("Location", item.moved_to)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self._send(item)

    def _send(self, item):
        start, asked = 0, item.asked[-1]
        same = self.headers.get("If-Range") in (None, item.etag)
        if asked and item.ranges and same:
            start = int(asked.removeprefix("bytes=").removesuffix("-")) + item.wrong_start
            if start >= len(item.data):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206)
            last = len(item.data) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(item.data)}")
        else:
            self.send_response(200)
        body = item.data[start:]
        length = len(body) if item.length is None else item.length
        if length:
            self.send_header("Content-Length", str(length))
        if item.etag:
            self.send_header("ETag", item.etag)
        for name, value in item.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if item.cut_after:
            body = body[: item.cut_after.pop(0)]
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # a client that has seen enough


@pytest.fixture
def server():
    """A server on the loopback; `server.items` says what is where."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.items = {}
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def get(server, folder, name="a.csv.gz", size=None, attempts=4):
    """Download once; returns the content."""
    downloader = ResumingDownloader(
        folder / f"{name}.part", size, attempts=attempts, wait=0.01, chunk=1024, timeout=(2, 2)
    )
    downloader(f"{server.url}/{name}", str(folder / name), None)
    return (folder / name).read_bytes()


def only(folder):
    return sorted(p.name for p in folder.iterdir())


# ------------------------------------------------------------------------------- the transfer


def test_a_whole_file_arrives_and_nothing_else_stays(server, tmp_path):
    server.items["/a.csv.gz"] = Item(DATA)
    assert get(server, tmp_path, size=len(DATA)) == DATA
    assert only(tmp_path) == ["a.csv.gz"]


def test_cut_connections_are_resumed_from_the_last_byte(server, tmp_path, capsys):
    item = server.items["/a.csv.gz"] = Item(DATA, cut_after=[20_000, 10_000])
    assert get(server, tmp_path) == DATA
    starts = [int(r[6:-1]) if r else 0 for r in item.asked]
    assert starts[0] == 0 and 18_000 < starts[1] <= 20_000 and 28_000 < starts[2] <= 30_000
    assert "trying again" in capsys.readouterr().out


def test_more_cuts_than_attempts_are_survived_while_bytes_arrive(server, tmp_path):
    item = server.items["/a.csv.gz"] = Item(DATA, cut_after=[5_000] * 9)
    assert get(server, tmp_path, attempts=2) == DATA
    assert len(item.asked) > 9


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    item = server.items["/a.csv.gz"] = Item(DATA, ranges=False, cut_after=[20_000])
    assert get(server, tmp_path) == DATA
    assert item.asked[1].startswith("bytes=")  # asked for the rest, got the whole


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(server, tmp_path):
    item = server.items["/a.csv.gz"] = Item(DATA, cut_after=[20_000, 0, 0, 0, 0])
    with pytest.raises(DownloadError, match="bytes are kept"):
        get(server, tmp_path, attempts=3)
    assert "a.csv.gz" not in only(tmp_path)
    item.cut_after.clear()
    item.asked.clear()
    assert get(server, tmp_path) == DATA
    assert int(item.asked[0][6:-1]) > 18_000


def test_a_file_that_changed_meanwhile_is_not_patched_together(server, tmp_path):
    item = server.items["/a.csv.gz"] = Item(DATA, cut_after=[20_000, 0, 0])
    with pytest.raises(DownloadError):
        get(server, tmp_path, attempts=2)
    new = gzip.compress(np.random.default_rng(2).bytes(60_000))
    item.data, item.etag, item.cut_after = new, '"v2"', []
    assert get(server, tmp_path) == new


@pytest.mark.parametrize("shift", [-1000, 1000])
def test_another_range_than_asked_for_is_not_appended(server, tmp_path, shift):
    server.items["/a.csv.gz"] = Item(DATA, cut_after=[20_000], wrong_start=shift)
    assert get(server, tmp_path) == DATA


def test_a_part_that_was_whole_needs_no_further_request(server, tmp_path):
    item = server.items["/a.csv.gz"] = Item(DATA)
    (tmp_path / "a.csv.gz.part").write_bytes(DATA)
    note = {"url": f"{server.url}/a.csv.gz", "total": len(DATA), "validator": None, "done": False}
    (tmp_path / "a.csv.gz.part.json").write_text(json.dumps(note))
    assert get(server, tmp_path) == DATA
    assert item.asked == []


def test_a_part_without_its_note_is_not_trusted(server, tmp_path):
    item = server.items["/a.csv.gz"] = Item(DATA)
    (tmp_path / "a.csv.gz.part").write_bytes(b"of another file")
    assert get(server, tmp_path) == DATA
    assert item.asked == [None]


@pytest.mark.parametrize("size", [None, len(DATA)])
def test_a_length_that_is_too_large_is_a_short_file(server, tmp_path, size):
    server.items["/a.csv.gz"] = Item(DATA, length=len(DATA) + 500, etag=None)
    message = "no such range|ended after" if size is None else "offers"
    with pytest.raises(DownloadError, match=message):
        get(server, tmp_path, size=size)
    assert "a.csv.gz" not in only(tmp_path)


def test_a_length_that_is_too_small_is_seen_by_the_format(server, tmp_path):
    server.items["/a.csv.gz"] = Item(DATA, length=len(DATA) - 500)
    with pytest.raises(ValueError, match="not whole"):
        get(server, tmp_path)
    assert only(tmp_path) == []


def test_a_cut_without_any_length_is_seen_by_the_format(server, tmp_path):
    item = server.items["/a.csv.gz"] = Item(DATA, length=0, cut_after=[30_000])
    with pytest.raises(ValueError, match="not whole"):
        get(server, tmp_path)
    assert only(tmp_path) == []
    assert get(server, tmp_path) == DATA
    assert item.asked == [None, None]


def test_more_bytes_than_the_known_size_are_refused(server, tmp_path):
    server.items["/a.csv.gz"] = Item(DATA, length=0)
    with pytest.raises(DownloadError, match="more than"):
        get(server, tmp_path, size=20_000)
    assert only(tmp_path) == []


def test_another_size_than_the_known_one_is_refused_at_once(server, tmp_path):
    item = server.items["/a.csv.gz"] = Item(DATA)
    with pytest.raises(DownloadError, match=f"offers {len(DATA):,} bytes, but .* 54,035,492"):
        get(server, tmp_path, size=54_035_492)
    assert len(item.asked) == 1


@pytest.mark.parametrize("declared", ["text/html; charset=utf-8", "application/gzip"])
def test_a_web_page_with_status_200_is_no_data(server, tmp_path, declared):
    page = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"
    server.items["/a.csv.gz"] = Item(page, headers={"Content-Type": declared})
    with pytest.raises((DownloadError, ValueError), match="web page"):
        get(server, tmp_path)
    assert only(tmp_path) == []


def test_redirects_are_followed_and_loops_end(server, tmp_path):
    server.items["/a.csv.gz"] = Item(b"", moved_to="/elsewhere")
    server.items["/elsewhere"] = Item(DATA, cut_after=[20_000])
    assert get(server, tmp_path) == DATA
    server.items["/b.csv.gz"] = Item(b"", moved_to="/b.csv.gz")
    with pytest.raises(DownloadError, match="redirects without end"):
        get(server, tmp_path, "b.csv.gz")


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_final(server, tmp_path, code):
    item = server.items["/a.csv.gz"] = Item(DATA, codes=[code] * 5)
    with pytest.raises(DownloadError, match=f"{code} .*data/README.md"):
        get(server, tmp_path)
    assert len(item.asked) == 1


def test_a_busy_server_is_asked_again(server, tmp_path):
    item = server.items["/a.csv.gz"] = Item(DATA, codes=[503, 429, 200])
    assert get(server, tmp_path) == DATA
    assert len(item.asked) == 3


def test_back_off_doubles_and_heeds_the_server(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(http.time, "sleep", waits.append)
    server.items["/a.csv.gz"] = Item(DATA, codes=[503] * 9)
    with pytest.raises(DownloadError, match="answers 503"):
        get(server, tmp_path, attempts=5)
    assert waits == pytest.approx([0.01, 0.02, 0.04, 0.08])
    downloader = ResumingDownloader(tmp_path / "a.part")
    downloader._wait_or_give_up("url", http._Transient("busy", wait=30.0), 1)
    downloader._wait_or_give_up("url", http._Transient("busy", wait=1e6), 1)
    assert waits[-2:] == [30.0, http.LONGEST_WAIT]


def test_a_server_that_is_not_there(tmp_path, server):
    gone = types.SimpleNamespace(url="http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="connection failed"):
        get(gone, tmp_path, attempts=2)


def test_bytes_stay_as_they_are_stored(server, tmp_path):
    """Object stores serve .gz files as compressed transfers, which HTTP clients undo."""
    server.items["/a.csv.gz"] = Item(DATA, headers={"Content-Encoding": "gzip"})
    assert get(server, tmp_path) == DATA


def test_a_disk_too_small_is_found_before_the_transfer(server, tmp_path, monkeypatch):
    server.items["/a.csv.gz"] = Item(DATA)
    usage = shutil.disk_usage(tmp_path)._replace(free=50_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match="GB free"):
        get(server, tmp_path)
    assert (tmp_path / "a.csv.gz.part").stat().st_size == 0


# --------------------------------------------------------------------------- formats of files


def fits_bytes():
    file = io.BytesIO()
    fits.BinTableHDU.from_columns([fits.Column("Z", "D", array=np.arange(2000.0))]).writeto(file)
    return file.getvalue()


def zip_bytes(members, **attributes):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            for key, value in attributes.items():
                setattr(info, key, value)
            packed.writestr(info, data)
    return file.getvalue()


@pytest.mark.parametrize(
    "name, data", [("a.csv.gz", DATA), ("a.fits", fits_bytes()), ("a.zip", zip_bytes({"b": b"b"}))]
)
def test_a_file_cut_anywhere_is_not_whole(tmp_path, name, data):
    path = tmp_path / "file"
    path.write_bytes(data)
    check_content(path, name)
    for length in (0, 1, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="empty|not whole"):
            check_content(path, name)


def test_text_is_neither_binary_nor_an_error_message(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"objid,sample,asset_id\n1,original,2\n")
    check_content(path, "a.csv")
    for data in (b"\x1f\x8b\0\0", b"<?xml version='1.0'?><Error>NoSuchKey</Error>"):
        path.write_bytes(data)
        with pytest.raises(ValueError):
            check_content(path, "a.csv")


# -------------------------------------------------------------------------------- the archive


def jpeg(seed, side=SIDE):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


IMAGES = {f"images/{i}.jpg": jpeg(i) for i in range(1, 6)}
RUBBISH = {"images/": b"", "__MACOSX/images/._1.jpg": b"Mac", "images/.DS_Store": b"x"}
WANTED = registry.ImageSet(registry.File("images_gz2.zip"), "images", 5, ("images_gz2",), SIDE)


def unpack(tmp_path, members, wanted=WANTED, **attributes):
    path = tmp_path / "images_gz2.zip"
    path.write_bytes(zip_bytes(members, **attributes))
    archive.unpack_images(path, tmp_path / "images", wanted)
    return tmp_path / "images"


def test_images_are_unpacked_and_a_macs_rubbish_is_not(tmp_path):
    folder = unpack(tmp_path, RUBBISH | IMAGES)
    assert {f"images/{p.name}": p.read_bytes() for p in folder.iterdir()} == IMAGES
    assert only(tmp_path) == ["images", "images_gz2.zip"]


@pytest.mark.parametrize("name", ["../out.jpg", "/tmp/out.jpg", "a/../../b.jpg", "..\\o", "C:o"])
def test_members_that_would_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(DownloadError, match="leave the folder"):
        unpack(tmp_path, IMAGES | {name: b"out"})
    assert only(tmp_path) == ["images.partial", "images_gz2.zip"]
    assert only(tmp_path / "images.partial") == []


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path, kind):
    with pytest.raises(DownloadError, match="link or a device"):
        unpack(tmp_path, IMAGES, external_attr=(kind | 0o777) << 16)


def test_bombs_are_refused_before_they_go_off(tmp_path):
    with pytest.raises(DownloadError, match="plausible"):
        unpack(tmp_path, IMAGES | {"images/5.jpg": bytes(3_000_000)})
    assert only(tmp_path / "images.partial") == []


def test_a_member_larger_than_it_says_is_refused(tmp_path):
    data = bytearray(zip_bytes(IMAGES | {"images/5.jpg": jpeg(5) + bytes(100_000)}))
    stated = (len(jpeg(5)) + 100_000).to_bytes(4, "little")
    path = tmp_path / "images_gz2.zip"
    path.write_bytes(bytes(data).replace(stated, len(jpeg(5)).to_bytes(4, "little")))
    with pytest.raises(DownloadError, match="damaged"):
        archive.unpack_images(path, tmp_path / "images", WANTED)
    assert sum(p.stat().st_size for p in (tmp_path / "images.partial").iterdir()) < 10_000


def test_encrypted_repeated_and_missing_members_are_refused(tmp_path):
    data = zip_bytes(IMAGES)
    path = tmp_path / "images_gz2.zip"
    central = bytearray(data)
    central[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(central)
    with pytest.raises(DownloadError, match="encrypted"):
        archive.unpack_images(path, tmp_path / "images", WANTED)
    with pytest.raises(DownloadError, match="more than once"):
        unpack(tmp_path, IMAGES | {"copy/images/1.jpg": b"another"})
    with pytest.raises(DownloadError, match="holds 4 images .* instead of 5"):
        unpack(tmp_path, dict(list(IMAGES.items())[:4]))
    assert not (tmp_path / "images").exists()


def test_damage_inside_an_archive_is_found(tmp_path):
    data = bytearray(zip_bytes(IMAGES))
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "images_gz2.zip"
    path.write_bytes(data)
    with pytest.raises(DownloadError, match="damaged"):
        archive.unpack_images(path, tmp_path / "images", WANTED)
    assert not (tmp_path / "images").exists()


def test_files_that_are_no_cut_outs_are_found(tmp_path):
    with pytest.raises(DownloadError, match="expected 16 x 16"):
        unpack(tmp_path, IMAGES | {"images/3.jpg": jpeg(3, side=20)})
    assert not (tmp_path / "images").exists()


def test_unpacking_goes_on_after_a_kill_and_mends_a_half_written_image(tmp_path):
    staging = tmp_path / "images.partial"
    staging.mkdir()
    (staging / "1.jpg").write_bytes(IMAGES["images/1.jpg"])
    (staging / "2.jpg").write_bytes(IMAGES["images/2.jpg"][:-9])
    (staging / "3.jpg").write_bytes(bytes(len(IMAGES["images/3.jpg"])))
    untouched = (staging / "1.jpg").stat().st_ino, (staging / "1.jpg").stat().st_mtime_ns
    folder = unpack(tmp_path, IMAGES)
    assert {f"images/{p.name}": p.read_bytes() for p in folder.iterdir()} == IMAGES
    assert ((folder / "1.jpg").stat().st_ino, (folder / "1.jpg").stat().st_mtime_ns) == untouched


# ----------------------------------------------------------------------------- a whole survey


def catalogue(path, rows):
    rows.to_csv(path, index=False)
    return path.read_bytes()


@pytest.fixture
def survey(server, tmp_path, monkeypatch):
    """A small Galaxy Zoo 2 on the server, a registry that points there, and no Kaggle."""
    monkeypatch.setenv("SPIRAL_ARMS_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("KAGGLE_INPUT", str(tmp_path / "kaggle"))
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    votes = tables.willett(["1", "2", "2", "3", "?"])
    mapping = votes[["dr7objid", "sample"]].set_axis(["objid", "sample"], axis=1)
    mapping["asset_id"] = range(1, 6)
    (tmp_path / "made").mkdir()
    files = {
        "zoo2MainSpecz.csv.gz": catalogue(tmp_path / "made" / "a.csv.gz", votes),
        "gz2_filename_mapping.csv": catalogue(tmp_path / "made" / "b.csv", mapping),
        "gz2sample.csv.gz": catalogue(
            tmp_path / "made" / "c.csv.gz", votes[["dr7objid"]].set_axis(["OBJID"], axis=1)
        ),
        "galSpecInfo-dr8.fits": fits_bytes(),
        "galSpecExtra-dr8.fits": fits_bytes(),
        "images_gz2.zip": zip_bytes(RUBBISH | IMAGES),
    }
    server.items = {f"/{name}": Item(data) for name, data in files.items()}

    def here(file):
        data = files[file.name]
        return replace(
            file,
            url=f"{server.url}/{file.name}",
            size=file.size and len(data),
            checksum=file.checksum and "md5:" + hashlib.md5(data).hexdigest(),
            about=file.about and len(data),
        )

    real = registry.DATASETS["gz2"]
    dataset = registry.Dataset(
        tuple(map(here, real.tables)),
        tuple(map(here, real.masses)),
        replace(real.images, archive=here(real.images.archive), count=5, side=SIDE),
        real.kaggle,
    )
    monkeypatch.setitem(registry.DATASETS, "gz2", dataset)
    monkeypatch.setattr(ResumingDownloader, "__init__", quick(ResumingDownloader.__init__))
    return types.SimpleNamespace(
        folder=tmp_path / "root" / "data" / "gz2",
        lock=tmp_path / "root" / download.LOCK,
        kaggle=tmp_path / "kaggle",
        files=files,
        items=server.items,
    )


def quick(init):
    """The downloader with short waits."""

    def __init__(self, part, size):
        init(self, part, size, attempts=3, wait=0.01, chunk=1024)

    return __init__


def asked(survey):
    return {name for name, item in survey.items.items() if item.asked}


def test_a_survey_arrives_where_its_reader_looks(survey, capsys):
    download.fetch("gz2", "data/gz2")
    votes = open_survey("gz2", "data/gz2").votes
    assert votes["has_image"].all() and len(votes) == 5
    assert not open_survey("gz2", "data/gz2").has_masses
    download.fetch("gz2", "data/gz2", masses=True)
    assert open_survey("gz2", "data/gz2").has_masses
    for item in survey.items.values():
        item.asked.clear()
    download.fetch("gz2", "data/gz2", masses=True)
    assert asked(survey) == set()
    assert "present" in capsys.readouterr().out
    assert only(survey.folder / "downloads") == [".lock", "images_gz2.zip"]


def test_the_first_download_is_recorded_and_later_ones_must_match(survey):
    download.fetch("gz2", "data/gz2")
    lock = json.loads(survey.lock.read_text())
    assert set(lock) == {"zoo2MainSpecz.csv.gz", "gz2sample.csv.gz"}  # the others have MD5 sums
    data = survey.files["gz2sample.csv.gz"]
    assert lock["gz2sample.csv.gz"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert lock["gz2sample.csv.gz"]["bytes"] == len(data)
    before = survey.lock.read_bytes()
    (survey.folder / "gz2sample.csv.gz").unlink()
    survey.items["/gz2sample.csv.gz"].data = gzip.compress(b"OBJID\n1\n")
    with pytest.raises(DownloadError, match="downloads.lock.json"):
        download.fetch("gz2", "data/gz2")
    assert not (survey.folder / "gz2sample.csv.gz").exists()
    assert survey.lock.read_bytes() == before


def test_a_damaged_lock_is_not_overwritten(survey):
    survey.lock.parent.mkdir(parents=True)
    survey.lock.write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        download.fetch("gz2", "data/gz2")
    assert survey.lock.read_text() == "{"


def test_corrupt_bytes_are_fetched_anew_once_and_then_refused(survey):
    name = "gz2_filename_mapping.csv"
    good = survey.files[name]
    item = survey.items[f"/{name}"]
    item.data = good.replace(b"original", b"Original", 1)
    with pytest.raises(DownloadError, match="its publisher"):
        download.fetch("gz2", "data/gz2")
    assert len(item.asked) == 2 and not (survey.folder / name).exists()
    item.data = good
    download.fetch("gz2", "data/gz2")
    assert (survey.folder / name).read_bytes() == good


def test_cuts_during_a_whole_survey_leave_the_same_files(survey):
    for item in survey.items.values():
        item.cut_after = [len(item.data) // 2]
    download.fetch("gz2", "data/gz2")
    for name in ("zoo2MainSpecz.csv.gz", "gz2_filename_mapping.csv", "gz2sample.csv.gz"):
        assert (survey.folder / name).read_bytes() == survey.files[name]
    assert len(only(survey.folder / "images")) == 5


def test_a_users_own_file_is_checked_and_never_replaced(survey):
    survey.folder.mkdir(parents=True)
    path = survey.folder / "zoo2MainSpecz.csv.gz"
    path.write_bytes(survey.files[path.name][:-100])
    with pytest.raises(InputError, match="bytes instead of"):
        download.fetch("gz2", "data/gz2")
    assert len(path.read_bytes()) == len(survey.files[path.name]) - 100
    path.write_bytes(survey.files[path.name])
    (survey.folder / "images_gz2.zip").write_bytes(survey.files["images_gz2.zip"])
    download.fetch("gz2", "data/gz2")
    assert not {"/zoo2MainSpecz.csv.gz", "/images_gz2.zip"} & asked(survey)


def test_a_half_filled_image_folder_is_not_taken_for_whole(survey):
    folder = survey.folder / "images"
    folder.mkdir(parents=True)
    (folder / "1.jpg").write_bytes(jpeg(1))
    with pytest.raises(DownloadError, match="holds 1 images instead of 5"):
        download.fetch("gz2", "data/gz2")


def test_the_disk_is_checked_for_all_files_before_the_first(survey, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=len(survey.files["images_gz2.zip"]))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match="GB free"):
        download.fetch("gz2", "data/gz2")
    assert asked(survey) == set()


def test_a_file_left_before_it_was_recorded_is_recorded_by_the_next_run(survey):
    name = "gz2sample.csv.gz"
    (survey.folder / "downloads").mkdir(parents=True)
    (survey.folder / "downloads" / name).write_bytes(survey.files[name])
    download.fetch("gz2", "data/gz2")
    assert name in json.loads(survey.lock.read_text())
    assert not (survey.folder / name).is_symlink() and f"/{name}" not in asked(survey)


@pytest.mark.parametrize("number", [4, 5])
def test_images_unpacked_by_hand_are_used_only_when_whole(survey, number):
    folder = survey.folder / "images_gz2" / "images"
    folder.mkdir(parents=True)
    for name in list(IMAGES)[:number]:
        (folder.parent / name).write_bytes(IMAGES[name])
    if number < 5:
        with pytest.raises(DownloadError, match="holds 4 images instead of 5"):
            download.fetch("gz2", "data/gz2")
        return
    download.fetch("gz2", "data/gz2")
    assert "/images_gz2.zip" not in asked(survey)
    assert open_survey("gz2", "data/gz2").votes["has_image"].all()


def test_the_lock_can_be_kept_under_git():
    ignored = subprocess.run(["git", "-C", ROOT, "check-ignore", "-q", download.LOCK])
    assert ignored.returncode != 0


def test_two_downloads_at_once_are_kept_apart(survey):
    with download._alone(survey.folder / "downloads"):
        with pytest.raises(InputError, match="under way"):
            download.fetch("gz2", "data/gz2")
    (survey.folder / "downloads" / "tmp123").write_bytes(b"left by a killed run")
    download.fetch("gz2", "data/gz2")
    assert "tmp123" not in only(survey.folder / "downloads")


# ------------------------------------------------------------------------------------- Kaggle


def attach(survey, dataset="galaxy-zoo-2-images"):
    """The dataset as Kaggle mounts it: read from, never written to."""
    folder = survey.kaggle / dataset
    (folder / "images_gz2" / "images").mkdir(parents=True)
    for name, data in IMAGES.items():
        (folder / "images_gz2" / name).write_bytes(data)
    (folder / "gz2_filename_mapping.csv").write_bytes(survey.files["gz2_filename_mapping.csv"])
    return folder


def test_attached_files_are_linked_not_downloaded_or_copied(survey):
    attach(survey)
    (survey.kaggle / "votes").mkdir()
    plain = gzip.decompress(survey.files["zoo2MainSpecz.csv.gz"])
    (survey.kaggle / "votes" / "zoo2MainSpecz.csv").write_bytes(plain)  # Kaggle unpacks .gz
    download.fetch("gz2", "data/gz2")
    assert asked(survey) == {"/gz2sample.csv.gz"}
    for name in ("images", "gz2_filename_mapping.csv", "zoo2MainSpecz.csv"):
        assert (survey.folder / name).is_symlink()
    assert open_survey("gz2", "data/gz2").votes["has_image"].all()


def test_an_attached_file_that_is_not_the_known_one_is_not_used(survey, capsys):
    folder = attach(survey)
    (folder / "gz2_filename_mapping.csv").write_text("objid,sample,asset_id\n")
    download.fetch("gz2", "data/gz2")
    assert "is not used" in capsys.readouterr().out
    assert "/gz2_filename_mapping.csv" in asked(survey)
    assert not (survey.folder / "gz2_filename_mapping.csv").is_symlink()


def test_links_to_a_dataset_that_is_gone_are_replaced(survey):
    shutil.rmtree(attach(survey).parent, ignore_errors=False)
    attach(survey)
    download.fetch("gz2", "data/gz2")
    shutil.rmtree(survey.kaggle)
    download.fetch("gz2", "data/gz2")
    assert not (survey.folder / "images").is_symlink()
    assert (survey.folder / "images" / "1.jpg").read_bytes() == jpeg(1)


def challenge_files(folder, zipped):
    folder.mkdir(parents=True)
    columns = sorted({c for pair in tables_of_challenge().values() for c in pair if c})
    rows = "\n".join(f"{i}," + ",".join("1.0" for _ in columns) for i in range(1, 6))
    text = f"GalaxyID,{','.join(columns)}\n{rows}\n".encode()
    pictures = {f"images_training_rev1/{i}.jpg": jpeg(i) for i in range(1, 6)}
    if zipped:
        table = zip_bytes({"training_solutions_rev1.csv": text})
        (folder / "training_solutions_rev1.zip").write_bytes(table)
        (folder / "images_training_rev1.zip").write_bytes(zip_bytes(pictures))
        return
    (folder / "training_solutions_rev1.csv").write_bytes(text)
    (folder / "images_training_rev1").mkdir()
    for name, data in pictures.items():
        (folder / name).write_bytes(data)


def tables_of_challenge():
    from lib.surveys import challenge

    return challenge.RATIOS


@pytest.fixture
def competition(survey, monkeypatch):
    real = registry.DATASETS["challenge"]
    tables_ = tuple(replace(file, about=1) for file in real.tables)
    images_ = replace(real.images, archive=replace(real.images.archive, about=1), count=5)
    dataset = replace(real, tables=tables_, images=replace(images_, side=SIDE))
    monkeypatch.setitem(registry.DATASETS, "challenge", dataset)
    return survey


@pytest.mark.parametrize("where", ["attached", "kagglehub", "own folder"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zipped", "unpacked"])
def test_the_competition_by_every_way(competition, tmp_path, monkeypatch, where, zipped):
    handles = []
    if where == "attached":
        challenge_files(competition.kaggle / "competitions" / "galaxy-zoo", zipped)
    elif where == "own folder":
        challenge_files(tmp_path / "root" / "data" / "gc", zipped)
    else:
        challenge_files(tmp_path / "cache", zipped)
        hub = types.SimpleNamespace(
            competition_download=lambda handle: handles.append(handle) or str(tmp_path / "cache")
        )
        monkeypatch.setitem(sys.modules, "kagglehub", hub)
    download.fetch("challenge", "data/gc")
    votes = open_survey("challenge", "data/gc").votes
    assert len(votes) == 5 and votes["has_image"].all()
    assert handles == (["galaxy-zoo-the-galaxy-challenge"] if where == "kagglehub" else [])


def test_without_an_account_the_competition_says_what_to_do(competition, monkeypatch, capsys):
    with pytest.raises(DownloadError, match="accept the rules"):
        download.fetch("challenge", "data/gc")
    assert "kagglehub is not installed" in capsys.readouterr().out

    def refuse(handle):
        raise RuntimeError("401 for token=planted-secret")

    hub = types.SimpleNamespace(competition_download=refuse)
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    with pytest.raises(DownloadError, match="accept the rules"):
        download.fetch("challenge", "data/gc")
    printed = capsys.readouterr().out
    assert "kagglehub failed (RuntimeError)" in printed and "planted-secret" not in printed


def test_large_folders_are_not_listed_to_their_end(tmp_path, monkeypatch):
    monkeypatch.setattr(kaggle, "_LISTED", 10)
    images_ = tmp_path / "set" / "images"
    images_.mkdir(parents=True)
    for i in range(40):
        (images_ / f"{i}.jpg").touch()
    assert kaggle.find_images(tmp_path, ("images",)) == images_
    listed = {folder: len(entries) for folder, entries in kaggle._folders(tmp_path, 5)}
    assert listed[images_] == 10


# ------------------------------------------------------------------------------- command line


def profile(tmp_path, survey, steps):
    """A checkout with one notebook per step and a profile `gz2`."""
    folder = tmp_path / "root" / "notebooks"
    (folder / "profiles").mkdir(parents=True)
    for step in steps:
        (folder / f"{step}.py").write_text(
            '# %% tags=["parameters"]\n'
            'run_dir = "runs/mock"\nsurvey = "mock"\ndata_dir = "runs/mock/00_mock_survey"\n'
        )
    (folder / "profiles" / "gz2.yaml").write_text(
        f"steps: [{', '.join(steps)}]\nall: {{survey: {survey}, data_dir: data/gz2}}\n"
    )


@pytest.mark.parametrize("masses", [True, False])
def test_a_profile_gets_masses_where_it_has_the_step(survey, tmp_path, masses):
    steps = ["01_sample_selection"] + ["06_stellar_mass"] * masses
    profile(tmp_path, "gz2", steps)
    assert main(["--profile", "gz2"]) == 0
    assert ("/galSpecInfo-dr8.fits" in asked(survey)) is masses
    assert (survey.folder / "galSpecExtra-dr8.fits").is_file() is masses


def test_the_command_tells_errors_in_one_line(survey, tmp_path, capsys):
    assert main(["--profile", "nowhere"]) == 1
    profile(tmp_path, "gz2", ["01_sample_selection"])
    del survey.items["/zoo2MainSpecz.csv.gz"]
    assert main(["--profile", "gz2", "--data", str(tmp_path / "other")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all(line.startswith("error: ") for line in errors)
    assert "404" in errors[1]


def test_a_simulated_survey_needs_no_download(survey, tmp_path, capsys):
    profile(tmp_path, "mock", ["01_sample_selection"])
    assert main(["--profile", "gz2"]) == 0
    assert "nothing to download" in capsys.readouterr().out
    with pytest.raises(InputError, match="choose gz2"):
        download.fetch("mock", "data/mock")


def test_the_registry_is_that_of_the_papers_sources():
    """Numbers of the publishers, kept apart from the registry so that a slip is seen."""
    files = {f.name: f for d in registry.DATASETS.values() for f in d.tables + d.masses}
    assert files["zoo2MainSpecz.csv.gz"].size == 54_035_492
    assert files["gz2_filename_mapping.csv"].size == 13_166_201
    assert {"gz2sample.csv.gz", "gz2_hart16.csv.gz"} < files.keys()
    assert {"galSpecInfo-dr8.fits", "galSpecExtra-dr8.fits"} < files.keys()
    assert registry.DATASETS["challenge"].images.count == 61_578
    assert all(f.url is None or f.url.startswith("https://") for f in files.values())
    assert all(f.space for f in files.values())
