"""Tests of downloads against a local server that answers well, badly, or only in part."""

import gzip
import hashlib
import io
import shutil
import stat
import subprocess
import threading
import types
import zipfile
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import tables
from astropy.io import fits
from PIL import Image

from lib.schema import InputError
from lib.surveys import challenge, open_survey
from lib.surveys.gz2 import MASS_FILES
from lib.workflow import download
from lib.workflow.download import main


@dataclass
class Item:
    """How the server answers for one path."""

    data: bytes
    cut_after: list = field(default_factory=list)  # bytes sent by the first answers before a cut
    codes: list = field(default_factory=list)  # status of the first answers
    headers: dict = field(default_factory=dict)
    ranges: bool = True
    asked: list = field(default_factory=list)  # Range header of each request


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        item = self.server.items.get(self.path) or Item(b"", codes=[404])
        item.asked.append(self.headers.get("Range"))
        code, start, headers = 200, 0, {"Connection": "close", **item.headers}
        if item.codes:
            code = item.codes.pop(0)
        elif item.asked[-1] and item.ranges:
            code, start = 206, int(item.asked[-1][len("bytes=") : -1])
            headers["Content-Range"] = f"bytes {start}-{len(item.data) - 1}/{len(item.data)}"
            code = 416 if start >= len(item.data) else 206
        body = item.data[start:] if code in (200, 206) else b""
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: item.cut_after.pop(0)] if item.cut_after else body)


@pytest.fixture
def server(monkeypatch):
    """A server on the loopback; `server.items` says what is where."""
    monkeypatch.setattr(download, "WAIT", 0.001)
    monkeypatch.setattr(download, "ATTEMPTS", 3)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.items, server.url = {}, f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def jpeg(seed):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
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


def fits_bytes():
    file = io.BytesIO()
    fits.BinTableHDU.from_columns([fits.Column("Z", "D", array=np.arange(2000.0))]).writeto(file)
    return file.getvalue()


def csv_bytes(rows):
    return rows.to_csv(index=False).encode()


IMAGES = {f"images/{i}.jpg": jpeg(i) for i in range(1, 6)}
RUBBISH = {"__MACOSX/images/._1.jpg": b"Mac"}


def only(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def survey(server, tmp_path, monkeypatch):
    """A small Galaxy Zoo 2 on the server, a registry that points there."""
    monkeypatch.setenv("SPIRAL_ARMS_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("KAGGLE_INPUT", str(tmp_path / "kaggle"))
    votes = tables.willett(["1", "2", "2", "3", "?"])
    mapping = votes[["dr7objid", "sample"]].set_axis(["objid", "sample"], axis=1)
    mapping["asset_id"] = range(1, 6)
    properties = votes[["dr7objid"]].set_axis(["OBJID"], axis=1)
    files = {
        "zoo2MainSpecz.csv.gz": gzip.compress(csv_bytes(votes)),
        "gz2_filename_mapping.csv": csv_bytes(mapping),
        "gz2sample.csv.gz": gzip.compress(csv_bytes(properties)),
        "galSpecInfo-dr8.fits": fits_bytes(),
        "galSpecExtra-dr8.fits": fits_bytes(),
        "images_gz2.zip": zip_bytes(RUBBISH | IMAGES),
        "checkpoint.index": b"\0index",
        "checkpoint.data-00000-of-00001": b"\0weights",
    }
    server.items = {f"/{name}": Item(data) for name, data in files.items()}

    def here(file):
        data = files[file.name]
        kinds = {
            "md5": hashlib.md5(data).hexdigest(),
            "git": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
        }
        kind = (file.checksum or "").partition(":")[0]
        checksum = kind and f"{kind}:{kinds[kind]}"
        url = f"{server.url}/{file.name}"
        return replace(file, url=url, size=file.size and len(data), checksum=checksum or None)

    real = download.DATASETS["gz2"]
    files_of = {"tables": tuple(map(here, real.tables)), "masses": tuple(map(here, real.masses))}
    small = replace(real, archive=here(real.archive), count=5, **files_of)
    monkeypatch.setitem(download.DATASETS, "gz2", small)
    monkeypatch.setattr(download, "CHECKPOINT_FILES", tuple(map(here, download.CHECKPOINT_FILES)))
    return types.SimpleNamespace(
        root=tmp_path / "root",
        folder=tmp_path / "root" / "data" / "gz2",
        kaggle=tmp_path / "kaggle",
        files=files,
        items=server.items,
    )


def get(survey, masses=False):
    download.fetch("gz2", "data/gz2", masses=masses)


def asked(survey):
    return {name[1:] for name, item in survey.items.items() if item.asked}


# ------------------------------------------------------------------------------- the transfer


def test_a_survey_arrives_where_its_reader_looks(survey):
    get(survey)
    votes = open_survey("gz2", "data/gz2").votes
    assert votes["has_image"].all() and len(votes) == 5
    assert {
        f"images/{p.name}": p.read_bytes() for p in (survey.folder / "images").iterdir()
    } == IMAGES
    assert not any((survey.folder / name).exists() for name in MASS_FILES)
    get(survey, masses=True)
    assert all((survey.folder / name).exists() for name in MASS_FILES)
    for item in survey.items.values():
        item.asked.clear()
    get(survey, masses=True)
    assert asked(survey) == set()
    assert only(survey.folder / "downloads") == ["images_gz2.zip"]


def test_cut_connections_are_resumed(survey):
    item = survey.items["/images_gz2.zip"]
    item.cut_after = [200, 200]
    get(survey)
    assert [int(r[6:-1]) if r else 0 for r in item.asked] == [0, 200, 400]
    assert len(only(survey.folder / "images")) == 5


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(survey):
    item = survey.items["/images_gz2.zip"]
    item.cut_after = [500, 0, 0, 0]
    with pytest.raises(InputError, match="What has arrived is kept in .*images_gz2.zip.part"):
        get(survey)
    assert not (survey.folder / "images").exists()
    item.cut_after, item.asked = [], []
    get(survey)
    assert item.asked == ["bytes=500-"] and len(only(survey.folder / "images")) == 5


def test_parts_of_a_file_without_checksum_are_not_patched_together(survey):
    item = survey.items["/gz2sample.csv.gz"]
    (survey.folder / "downloads").mkdir(parents=True)
    (survey.folder / "downloads" / "gz2sample.csv.gz.part").write_bytes(b"of another version")
    get(survey)
    assert item.asked == [None]


def test_a_server_without_ranges_is_asked_for_the_whole(survey):
    item = survey.items["/images_gz2.zip"]
    item.ranges, item.cut_after = False, [700]
    get(survey)
    assert item.asked[1] == "bytes=700-" and len(only(survey.folder / "images")) == 5


def test_a_part_that_was_whole_is_used_and_one_of_another_file_refused_once(survey):
    part = survey.folder / "downloads" / "images_gz2.zip.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(survey.files["images_gz2.zip"][:-1] + b"?")
    with pytest.raises(InputError, match="is not the known file"):
        get(survey)
    assert only(part.parent) == []
    part.write_bytes(survey.files["images_gz2.zip"])
    get(survey)
    assert len(only(survey.folder / "images")) == 5


PAGE = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"


@pytest.mark.parametrize("declared", ["text/html; charset=utf-8", "application/gzip"])
@pytest.mark.parametrize("name", ["gz2sample.csv.gz", "gz2_filename_mapping.csv"])
def test_a_web_page_with_status_200_is_never_saved(survey, name, declared):
    survey.items[f"/{name}"] = Item(PAGE, headers={"Content-Type": declared})
    with pytest.raises(InputError, match="web page|text/html"):
        get(survey)
    assert not (survey.folder / name).exists()
    assert not list((survey.folder / "downloads").glob(f"{name}*"))


def test_redirects_are_followed(survey):
    survey.items["/elsewhere"] = Item(survey.files["images_gz2.zip"])
    survey.items["/images_gz2.zip"] = Item(b"", codes=[302], headers={"Location": "/elsewhere"})
    get(survey)
    assert len(only(survey.folder / "images")) == 5


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_final(survey, code):
    item = survey.items["/zoo2MainSpecz.csv.gz"]
    item.codes = [code] * 5
    with pytest.raises(InputError, match=f"answers {code} .*data/README.md"):
        get(survey)
    assert len(item.asked) == 1


def test_a_busy_server_is_asked_again(survey):
    item = survey.items["/zoo2MainSpecz.csv.gz"]
    item.codes = [503, 429]
    get(survey)
    assert len(item.asked) == 3


def test_bytes_stay_as_they_are_stored(survey):
    """Object stores serve .gz files as compressed transfers, which HTTP clients undo."""
    survey.items["/gz2sample.csv.gz"].headers = {"Content-Encoding": "gzip"}
    get(survey)
    name = "gz2sample.csv.gz"
    assert (survey.folder / name).read_bytes() == survey.files[name]


def test_a_disk_too_small_is_found_before_the_transfer(survey, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="GB free"):
        get(survey)
    assert only(survey.folder / "downloads") == []


# ------------------------------------------------------------------- what a file is known to be


@pytest.mark.parametrize("change", ["size", "content", "beginning"])
def test_a_users_own_file_is_checked_and_never_replaced(survey, change):
    get(survey)
    name = download._MAPPING if change == "content" else "zoo2MainSpecz.csv.gz"
    path, data = survey.folder / name, survey.files[name]
    bad = {"size": data[:-9], "content": data[:-1] + b"?", "beginning": b"PK" + data[2:]}[change]
    path.write_bytes(bad)
    message = {"size": "bytes instead of", "content": "not the known", "beginning": "format"}
    with pytest.raises(InputError, match=f"{message[change]}.*: delete it and run"):
        get(survey)
    assert path.read_bytes() == bad


def test_a_half_filled_image_folder_is_not_taken_for_whole(survey):
    (survey.folder / "images").mkdir(parents=True)
    (survey.folder / "images" / "1.jpg").write_bytes(jpeg(1))
    with pytest.raises(InputError, match="holds 1 images instead of 5"):
        get(survey)


# -------------------------------------------------------------------------------- the archive


def unpack(tmp_path, members, **attributes):
    path = tmp_path / "images_gz2.zip"
    path.write_bytes(zip_bytes(members, **attributes))
    download.unpack(path, "images", tmp_path / "images", 5)


@pytest.mark.parametrize("name", ["../out.jpg", "/tmp/out.jpg", "a/../../b.jpg"])
def test_members_that_would_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="leave the folder"):
        unpack(tmp_path, IMAGES | {name: b"out"})
    assert only(tmp_path) == ["images_gz2.zip"]


def test_links_are_refused(tmp_path):
    with pytest.raises(InputError, match="is a link"):
        unpack(tmp_path, IMAGES, external_attr=(stat.S_IFLNK | 0o777) << 16)
    assert only(tmp_path) == ["images_gz2.zip"]


@pytest.mark.parametrize("number", [0, 4])
def test_an_archive_without_all_images_is_refused(tmp_path, number):
    with pytest.raises(InputError, match="does not hold images|holds 4 images instead of 5"):
        unpack(tmp_path, dict(list(IMAGES.items())[:number]))
    assert only(tmp_path) == ["images_gz2.zip"]


def test_damage_inside_an_archive_is_found(tmp_path):
    data = bytearray(zip_bytes(IMAGES))
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "images_gz2.zip"
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        download.unpack(path, "images", tmp_path / "images", 5)
    assert only(tmp_path) == ["images_gz2.zip"]


def test_what_a_killed_run_unpacked_is_not_taken_for_images(survey):
    half = survey.folder / ".images.partial" / "images"
    half.mkdir(parents=True)
    (half / "1.jpg").write_bytes(jpeg(1)[:-9])
    get(survey)
    files = {f"images/{p.name}": p.read_bytes() for p in (survey.folder / "images").iterdir()}
    assert files == IMAGES and not half.parent.exists()


# ------------------------------------------------------------------------------------- Kaggle


def test_attached_files_are_linked_not_downloaded_or_copied(survey):
    folder = survey.kaggle / "datasets" / "someone" / "galaxy-zoo-2-images"
    (folder / "images_gz2" / "images").mkdir(parents=True)
    for name, data in IMAGES.items():
        (folder / "images_gz2" / name).write_bytes(data)
    (folder / "gz2_filename_mapping.csv").write_text("objid,sample,asset_id\n")  # not the known one
    votes = gzip.decompress(survey.files["zoo2MainSpecz.csv.gz"])
    (folder / "zoo2MainSpecz.csv").write_bytes(votes)  # Kaggle unpacks .gz
    get(survey)
    assert asked(survey) == {"gz2sample.csv.gz", "gz2_filename_mapping.csv"}
    assert (survey.folder / "images").is_symlink()
    assert (survey.folder / "zoo2MainSpecz.csv").is_symlink()
    assert open_survey("gz2", "data/gz2").votes["has_image"].all()
    shutil.rmtree(survey.kaggle)  # no longer attached: the links lead nowhere
    get(survey)
    assert (survey.folder / "images" / "1.jpg").read_bytes() == jpeg(1)
    assert not (survey.folder / "images").is_symlink()


@pytest.fixture
def competition(survey, monkeypatch):
    real = download.DATASETS["challenge"]
    monkeypatch.setitem(download.DATASETS, "challenge", replace(real, count=5))
    return survey


def challenge_files(folder, zipped):
    columns = sorted({c for pair in challenge.RATIOS.values() for c in pair if c})
    rows = "\n".join(f"{i}," + ",".join("1.0" for _ in columns) for i in range(1, 6))
    text = f"GalaxyID,{','.join(columns)}\n{rows}\n".encode()
    files = {f"images_training_rev1/{i}.jpg": jpeg(i) for i in range(1, 6)}
    table = {"training_solutions_rev1.csv": text}
    if zipped:
        files = {
            "images_training_rev1.zip": zip_bytes(files),
            "training_solutions_rev1.zip": zip_bytes(table),
        }
        table = {}
    for name, data in (files | table).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("where", ["attached", "own folder"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zipped", "unpacked"])
def test_the_competition_by_every_way(competition, tmp_path, where, zipped):
    places = {
        "attached": competition.kaggle / "competitions" / "galaxy-zoo",
        "own folder": tmp_path / "root" / "data" / "gc",
    }
    challenge_files(places[where], zipped)
    download.fetch("challenge", "data/gc")
    votes = open_survey("challenge", "data/gc").votes
    assert len(votes) == 5 and votes["has_image"].all()


def test_without_its_files_the_competition_says_what_to_do(competition):
    with pytest.raises(InputError, match="accept the rules .*kaggle competitions download"):
        download.fetch("challenge", "data/gc")


# ------------------------------------------------------------------------------- command line


def profile(survey, steps, name="gz2", weights="none"):
    """A checkout with one notebook per step and a profile `gz2`."""
    folder = survey.root / "notebooks"
    (folder / "profiles").mkdir(parents=True)
    for step in steps:
        (folder / f"{step}.py").write_text(
            '# %% tags=["parameters"]\nrun_dir = "runs/mock"\nsurvey = "mock"\n'
            'data_dir = "runs/mock/00_mock_survey"\nweights = "none"\n'
        )
    (folder / "profiles" / "gz2.yaml").write_text(
        f"steps: [{', '.join(steps)}]\n"
        f"all: {{survey: {name}, data_dir: data/gz2, weights: '{weights}'}}\n"
    )


@pytest.mark.parametrize("masses", [True, False])
def test_a_profile_gets_masses_where_it_has_the_step(survey, masses):
    profile(survey, ["01_sample_selection"] + ["06_stellar_mass"] * masses)
    assert main(["--profile", "gz2"]) == 0
    assert ("galSpecInfo-dr8.fits" in asked(survey)) is masses
    assert (survey.folder / "galSpecExtra-dr8.fits").is_file() is masses
    assert "checkpoint.index" not in asked(survey)


def test_a_profile_gets_the_weights_that_it_names_and_only_the_known_ones(survey, capsys):
    profile(survey, ["03_train_b0"], weights=f"zoobot-checkpoint:{download.CHECKPOINT}")
    data = survey.items["/checkpoint.data-00000-of-00001"]
    data.data = b"\0Weights"
    assert main(["--profile", "gz2"]) == 1
    assert "is not the known file (expected git:" in capsys.readouterr().err
    folder = (survey.root / download.CHECKPOINT).parent
    assert "checkpoint.data-00000-of-00001" not in only(folder)
    data.data = b"\0weights"
    assert main(["--profile", "gz2"]) == 0
    assert (folder / "checkpoint.data-00000-of-00001").read_bytes() == b"\0weights"


def test_profile_gz2_names_the_papers_weights():
    from lib.workflow import profiles

    settings = profiles.load("gz2").overrides["03_train_b0"]
    assert settings["weights"] == f"zoobot-checkpoint:{download.CHECKPOINT}"


def test_git_hashes_are_those_of_git(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"weights\n" * 1000)
    told = subprocess.run(["git", "hash-object", path], capture_output=True, text=True)
    assert download._git_blob(path) == told.stdout.strip()


@pytest.mark.real
def test_the_index_of_the_registry_is_the_real_one(zoobot_parts):
    index = download.CHECKPOINT_FILES[0]
    path = zoobot_parts / "replicated.index"
    assert f"git:{download._git_blob(path)}" == index.checksum


def test_the_command_tells_errors_in_one_line(survey, tmp_path, capsys):
    assert main(["--profile", "nowhere"]) == 1
    profile(survey, ["01_sample_selection"])
    del survey.items["/zoo2MainSpecz.csv.gz"]
    assert main(["--profile", "gz2", "--data", str(tmp_path / "other")]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and "404" in errors[1]


def test_a_simulated_survey_needs_no_download(survey, capsys):
    profile(survey, ["01_sample_selection"], name="mock")
    assert main(["--profile", "gz2"]) == 0
    assert "nothing to download" in capsys.readouterr().out
    with pytest.raises(InputError, match="choose gz2"):
        download.fetch("mock", "data/mock")


def test_the_registry_is_that_of_the_papers_sources():
    """Numbers of the publishers, kept apart from the registry so that a slip is seen."""
    files = {f.name: f for d in download.DATASETS.values() for f in d.tables + d.masses}
    assert files["zoo2MainSpecz.csv.gz"].size == 54_035_492
    assert files["gz2_filename_mapping.csv"].size == 13_166_201
    assert {"gz2sample.csv.gz", "gz2_hart16.csv.gz"} < files.keys()
    assert {"galSpecInfo-dr8.fits", "galSpecExtra-dr8.fits"} < files.keys()
    assert download.DATASETS["challenge"].count == 61_578
    urls = [f.url for f in [*files.values(), *download.CHECKPOINT_FILES] if f.url]
    assert all(url.startswith("https://") for url in urls)
