"""A disk that really fills up: a tmpfs of one megabyte, mounted where that is allowed."""

import subprocess
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib import images, paths
from lib.schema import InputError
from lib.workflow import download

SIDE = 200
COUNT = 30


@pytest.fixture
def small_disk(tmp_path):
    """Folder on a file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no command `mount` here")
    if done.returncode:
        pytest.skip(f"may not mount a file system here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def cut_outs(tmp_path):
    """Thirty noisy images, together larger than the disk, and their sample."""
    folder = tmp_path / "survey"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(1, COUNT + 1):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg", quality=95)
    ids = range(1, COUNT + 1)
    sample = pd.DataFrame({"galaxy_id": ids, "image_path": [f"{i}.jpg" for i in ids]})
    assert sum(p.stat().st_size for p in folder.iterdir()) > 1 << 20
    return sample, folder


def test_a_cache_that_does_not_fit_is_refused_before_it_is_begun(small_disk, cut_outs):
    sample, folder = cut_outs
    with pytest.raises(InputError, match="GB free"):
        images.write_cache(sample, folder, small_disk / "out", crop=150, size=SIDE)
    assert list((small_disk / "out").iterdir()) == []


def test_a_disk_that_fills_up_under_a_cache_leaves_none(small_disk, cut_outs, monkeypatch):
    """Another program takes the space after it has been checked."""
    sample, folder = cut_outs
    small, _ = images.write_cache(sample[:5], folder, small_disk / "out", crop=100, size=SIDE)
    before = small.sha256
    monkeypatch.setattr(images, "check_space", lambda *_: None)
    with pytest.raises(OSError, match="No space left"):
        images.write_cache(sample, folder, small_disk / "out", crop=100, size=SIDE)
    names = sorted(p.name for p in (small_disk / "out").iterdir())
    assert names == ["images_rgb_100.npy", "images_rgb_100.parquet"]
    assert images.open_cache(small_disk / "out", 100).sha256 == before


def test_a_disk_that_fills_up_under_a_file_keeps_the_earlier_one(small_disk):
    target = small_disk / "table.csv"
    target.write_text("whole")
    with pytest.raises(OSError, match="No space left"):
        with paths.atomic(target) as temporary:
            temporary.write_bytes(bytes(2 << 20))
    assert target.read_text() == "whole"
    assert [p.name for p in small_disk.iterdir()] == ["table.csv"]


def test_unpacking_on_a_full_disk_leaves_nothing_and_works_later(
    small_disk, cut_outs, tmp_path, monkeypatch
):
    _, folder = cut_outs
    packed = tmp_path / "images_gz2.zip"
    with zipfile.ZipFile(packed, "w") as file:
        for path in folder.iterdir():
            file.write(path, f"images/{path.name}")
    target = small_disk / "images"
    with pytest.raises(InputError, match="GB free"):
        download.unpack(packed, "images", target, COUNT)
    monkeypatch.setattr(download, "check_space", lambda *_: None)
    with pytest.raises(InputError, match="could not be unpacked .*No space left.*make room"):
        download.unpack(packed, "images", target, COUNT)
    assert list(small_disk.iterdir()) == []
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    download.unpack(packed, "images", target, COUNT)
    assert len(list((small_disk / "images").iterdir())) == COUNT
