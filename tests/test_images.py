"""Tests of lib.images: what is decoded, what is refused, and that a cache is whole or absent."""

import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFile

from lib import images
from lib.schema import InputError

SIZE = 48


def random_image(seed, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.fixture
def survey(tmp_path):
    """Six galaxies as PNG, whose pixels are known exactly."""
    folder = tmp_path / "survey"
    folder.mkdir()
    for i in range(6):
        Image.fromarray(random_image(i)).save(folder / f"{i}.png")
    sample = pd.DataFrame(
        {
            "galaxy_id": [587722952230174996 + i for i in range(6)],
            "image_path": [f"{i}.png" for i in range(6)],
        }
    )
    return sample, folder


def make_bad(path, kind):
    good = Image.fromarray(random_image(1))
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<html>404 Not Found</html>")
    elif kind == "truncated":
        good.save(path, "JPEG")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "size":
        Image.new("RGB", (SIZE + 2, SIZE)).save(path, "JPEG")
    elif kind == "cmyk":
        good.convert("CMYK").save(path, "JPEG")
    elif kind == "16 bit":
        Image.fromarray(np.zeros((SIZE, SIZE), np.uint16)).save(path, "PNG")
    elif kind == "huge":
        Image.new("1", (20000, 10000)).save(path, "PNG")
    elif kind == "gif":
        good.save(path, "GIF")
    elif kind == "folder":
        path.mkdir()


BAD = {
    "absent": "no such file",
    "folder": "no such file",
    "empty": "empty file",
    "text": "not a JPEG or PNG",
    "gif": "not a JPEG or PNG",
    "truncated": "cannot be decoded",
    "size": "50 x 48 px, expected 48 x 48",
    "cmyk": "colour mode CMYK",
    "16 bit": "colour mode I;16",
    "huge": "far more pixels",
}


@pytest.mark.parametrize("kind", BAD)
def test_decode_says_why_a_file_is_refused(tmp_path, kind):
    make_bad(tmp_path / "image", kind)
    with pytest.raises(images.ImageError, match=BAD[kind]):
        images.decode(tmp_path / "image", SIZE)


def test_png_of_other_modes_shows_the_same(tmp_path):
    """Grey, palette and opaque alpha are what RGB says too; what is transparent is not."""
    rgb = np.repeat(np.repeat(np.arange(48, dtype=np.uint8)[:, None, None], 48, 1), 3, 2)
    picture = Image.fromarray(rgb)
    for mode in ("L", "LA", "P", "RGBA"):
        picture.convert(mode, palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
        np.testing.assert_array_equal(images.decode(tmp_path / "a.png", SIZE), rgb)
    picture.putalpha(200)
    picture.save(tmp_path / "a.png")
    with pytest.raises(images.ImageError, match="transparent"):
        images.decode(tmp_path / "a.png", SIZE)


def test_half_an_image_is_refused_whatever_other_libraries_allow(tmp_path, monkeypatch):
    make_bad(tmp_path / "half.jpg", "truncated")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(images.ImageError, match="truncated"):
        images.decode(tmp_path / "half.jpg", SIZE)


def test_cache_holds_the_central_pixels_in_catalogue_order(survey, tmp_path):
    sample, folder = survey
    cache, missing = images.write_cache(sample, folder, tmp_path / "out", crop=20, size=SIZE)
    assert missing.empty and list(missing) == ["galaxy_id", "image_path", "reason"]
    assert cache.arrays.shape == (6, 20, 20, 3) and cache.arrays.dtype == np.uint8
    for i in range(6):
        np.testing.assert_array_equal(cache.arrays[i], random_image(i)[14:34, 14:34])
    assert list(cache.index["galaxy_id"]) == list(sample["galaxy_id"])
    ids = sample["galaxy_id"].to_numpy()
    assert list(cache.rows(ids[[4, 0, 2]])) == [4, 0, 2]


def test_bad_images_are_listed_and_left_out(survey, tmp_path):
    sample, folder = survey
    kinds = list(BAD)
    paths = [f"bad {kind}" for kind in kinds]
    for kind, path in zip(kinds, paths, strict=True):
        make_bad(folder / path, kind)
    bad = pd.DataFrame({"galaxy_id": range(len(kinds)), "image_path": paths})
    mixed = pd.concat([bad.iloc[:5], sample, bad.iloc[5:]], ignore_index=True)
    cache, missing = images.write_cache(mixed, folder, tmp_path / "out", crop=20, size=SIZE)
    assert list(missing["galaxy_id"]) == list(range(len(kinds)))
    for kind, reason in zip(kinds, missing["reason"], strict=True):
        assert BAD[kind] in reason
    np.testing.assert_array_equal(cache.arrays[3], random_image(3)[14:34, 14:34])
    assert list(cache.has([*sample["galaxy_id"], 0, 1])) == [True] * 6 + [False, False]
    with pytest.raises(InputError, match="2 galaxies have no image in the cache .first: 0, 1"):
        cache.rows([0, 1, sample["galaxy_id"].iloc[0]])


def test_a_smaller_crop_is_the_same_pixels(survey, tmp_path):
    sample, folder = survey
    large, _ = images.write_cache(sample, folder, tmp_path / "large", crop=40, size=SIZE)
    small, _ = images.write_cache(sample, folder, tmp_path / "small", crop=16, size=SIZE)
    view = images.open_cache(tmp_path / "large", 16)
    np.testing.assert_array_equal(view.arrays, small.arrays)
    assert view.crop == 16 and view.sha256 == large.sha256


def test_the_smallest_sufficient_cache_is_opened(survey, tmp_path):
    sample, folder = survey
    caches = {
        crop: images.write_cache(sample, folder, tmp_path, crop=crop, size=SIZE)[0].sha256
        for crop in (48, 20, 32)
    }
    for crop, expected in {8: 20, 20: 20, 22: 32, 34: 48}.items():
        assert images.open_cache(tmp_path, crop).sha256 == caches[expected]


def test_grey_is_the_channel_mean(survey, tmp_path):
    sample, folder = survey
    cache, _ = images.write_cache(sample, folder, tmp_path, crop=SIZE, size=SIZE)
    grey = images.network_input(cache.arrays, "grey")
    expected = np.stack([random_image(i) for i in range(6)]).mean(axis=-1, keepdims=True)
    assert grey.dtype == np.float32 and grey.shape == (6, SIZE, SIZE, 1)
    np.testing.assert_allclose(grey, expected, atol=1e-4)
    luma = np.asarray(Image.fromarray(random_image(0)).convert("L"))
    assert np.abs(grey[0, ..., 0] - luma).max() > 10
    rgb = images.network_input(cache.arrays, "rgb")
    np.testing.assert_array_equal(rgb[2], random_image(2))


def test_a_grey_cache_is_written_in_grey_and_cannot_give_colour(survey, tmp_path):
    sample, folder = survey
    cache, _ = images.write_cache(sample, folder, tmp_path, crop=20, colour="grey", size=SIZE)
    assert cache.arrays.shape == (6, 20, 20, 1)
    expected = np.rint(random_image(5)[14:34, 14:34].astype(float).mean(axis=-1))
    np.testing.assert_array_equal(cache.arrays[5, ..., 0], expected)
    with pytest.raises(InputError, match="no rgb images"):
        images.open_cache(tmp_path, 20, "rgb")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": 50}, "crop = 50 px is outside 1 to 48 px"),
        ({"crop": 0}, "crop = 0 px is outside"),
        ({"crop": 21}, "cannot be central in 48 px"),
        ({"colour": "luma"}, "unknown colour 'luma': choose one of grey, rgb"),
        ({"data_dir": "/nowhere"}, "folder /nowhere is missing"),
    ],
)
def test_impossible_parameters_are_refused(survey, tmp_path, change, message):
    sample, folder = survey
    settings = {"data_dir": folder, "folder": tmp_path / "out", "crop": 20, "size": SIZE}
    with pytest.raises(InputError, match=message):
        images.write_cache(sample, **{**settings, **change})
    assert not (tmp_path / "out").exists()


def test_no_readable_image_is_an_error_and_leaves_the_earlier_cache(survey, tmp_path):
    sample, folder = survey
    before, _ = images.write_cache(sample, folder, tmp_path / "out", crop=20, size=SIZE)
    with pytest.raises(InputError, match="none of the 6 images .* 48 x 48 px, expected 50 x 50"):
        images.write_cache(sample, folder, tmp_path / "out", crop=20, size=50)
    after = images.open_cache(tmp_path / "out", 20)
    assert after.sha256 == before.sha256
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "images_rgb_20.npy",
        "images_rgb_20.parquet",
    ]


def test_a_cache_that_is_not_whole_is_refused(survey, tmp_path):
    sample, folder = survey
    with pytest.raises(InputError, match="run notebook 02_preprocessing with crop = 20"):
        images.open_cache(tmp_path, 20)
    images.write_cache(sample, folder, tmp_path, crop=20, size=SIZE)
    array = tmp_path / "images_rgb_20.npy"
    whole = array.read_bytes()
    array.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="not whole"):
        images.open_cache(tmp_path, 20)
    np.save(array, np.zeros((5, 20, 20, 3), np.uint8))
    with pytest.raises(InputError, match="5 images but its index 6"):
        images.open_cache(tmp_path, 20)
    (tmp_path / "images_rgb_20.parquet").unlink()
    with pytest.raises(InputError, match="has no index"):
        images.open_cache(tmp_path, 20)


def test_too_little_space_is_found_before_decoding(survey, tmp_path, monkeypatch):
    sample, folder = survey
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="needs .* GB"):
        images.write_cache(sample, folder, tmp_path / "out", crop=20, size=SIZE)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_disk_that_fills_up_leaves_no_cache(survey, tmp_path, monkeypatch):
    sample, folder = survey
    real_open = open
    monkeypatch.setattr(
        images, "open", lambda path, mode: real_open("/dev/full", mode), raising=False
    )
    with pytest.raises(OSError, match="No space left"):
        images.write_cache(sample, folder, tmp_path / "out", crop=48, size=SIZE)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_killed_writer_leaves_no_cache(survey, tmp_path):
    sample, folder = survey
    sample.to_csv(tmp_path / "sample.csv", index=False)
    program = f"""
        import os, signal
        import pandas as pd
        from lib import images
        decode = images.decode
        def kill_at_the_fourth(path, size):
            if path.name == "4.png":
                os.kill(os.getpid(), signal.SIGKILL)
            return decode(path, size)
        images.decode = kill_at_the_fourth
        sample = pd.read_csv({str(tmp_path / "sample.csv")!r})
        images.write_cache(sample, {str(folder)!r}, {str(tmp_path / "out")!r}, crop=20, size=48)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)])
    assert done.returncode == -9
    with pytest.raises(InputError, match="no rgb images"):
        images.open_cache(tmp_path / "out", 20)
    cache, _ = images.write_cache(sample, folder, tmp_path / "out", crop=20, size=SIZE)
    assert len(cache.index) == 6


def test_progress_reaches_the_end(survey, tmp_path):
    sample, folder = survey
    seen = []
    images.write_cache(
        sample, folder, tmp_path, crop=20, size=SIZE, progress=lambda *a: seen.append(a)
    )
    assert seen == [(6, 6)]


def test_importing_images_does_not_import_tensorflow():
    program = "import sys, lib.images; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.real
def test_real_cut_outs(challenge_sample, tmp_path):
    """The competition's cut-outs give Pillow's pixels; one that is absent is listed."""
    paths = sorted((challenge_sample / "images_training_rev1").glob("*.jpg"))[:20]
    names = [str(p.relative_to(challenge_sample)) for p in paths] + ["images_training_rev1/1.jpg"]
    sample = pd.DataFrame({"galaxy_id": range(21), "image_path": names})
    cache, missing = images.write_cache(sample, challenge_sample, tmp_path)
    assert cache.arrays.shape == (20, 224, 224, 3)
    assert list(missing["reason"]) == ["no such file"]
    expected = np.asarray(Image.open(paths[7]))[100:324, 100:324]
    np.testing.assert_array_equal(cache.arrays[7], expected)


# Augmentation


def squares(n=3, crop=9):
    return np.random.default_rng(5).uniform(0, 1, (n, crop, crop, 2)).astype(np.float32)


def warped(pictures, **geometry):
    maps = np.repeat(images.transforms(pictures.shape[1], **geometry), len(pictures), axis=0)
    return images.warp(pictures, maps).numpy()


@pytest.mark.parametrize("crop", [8, 9])
def test_exact_geometry(crop):
    """Quarter turns and mirrors move whole pixels, so NumPy gives them exactly."""
    pictures = squares(crop=crop)
    np.testing.assert_allclose(warped(pictures), pictures)
    for turns in (1, 2, 3, -1):
        expected = np.rot90(pictures, turns, axes=(1, 2))
        np.testing.assert_allclose(warped(pictures, angle=90 * turns), expected, atol=1e-5)
    np.testing.assert_allclose(warped(pictures, left_right=1), pictures[:, :, ::-1], atol=1e-5)
    np.testing.assert_allclose(warped(pictures, up_down=1), pictures[:, ::-1], atol=1e-5)
    both = warped(pictures, angle=90, left_right=1)
    np.testing.assert_allclose(both, np.rot90(pictures, 1, (1, 2))[:, :, ::-1], atol=1e-5)


def test_zoom_of_one_axis_samples_a_linear_ramp():
    """An image whose value is x shows centre + z (x - centre) when its width is zoomed by z."""
    x = np.broadcast_to(np.arange(21, dtype=np.float32), (1, 21, 21))[..., None]
    shown = warped(np.ascontiguousarray(x), zoom_width=0.8)
    np.testing.assert_allclose(shown[0, :, :, 0], 10 + 0.8 * (x[0, :, :, 0] - 10), atol=1e-5)
    np.testing.assert_allclose(warped(np.ascontiguousarray(x), zoom_height=0.8), x, atol=1e-5)


@pytest.mark.parametrize("degrees", [-137.0, 20.0, 171.0])
def test_rotation_is_that_of_keras(degrees):
    keras = pytest.importorskip("keras")
    pictures = squares(crop=24)
    part = degrees / 360
    layer = keras.layers.RandomRotation((part, part), fill_mode="reflect")
    expected = np.asarray(layer(pictures, training=True))
    np.testing.assert_allclose(warped(pictures, angle=degrees), expected, atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(-0.2, 0.1), (0.2, 0.2), (0.05, -0.15)])
def test_zoom_is_that_of_keras(height, width):
    keras = pytest.importorskip("keras")
    pictures = squares(crop=24)
    layer = keras.layers.RandomZoom((height, height), (width, width), fill_mode="reflect")
    expected = np.asarray(layer(pictures, training=True))
    shown = warped(pictures, zoom_height=1 + height, zoom_width=1 + width)
    np.testing.assert_allclose(shown, expected, atol=1e-3)


def test_random_views_have_the_published_ranges_and_no_state():
    augmentation = images.Augmentation()
    rows = np.arange(4000)
    maps = images.random_transforms(rows, 5000, 24, augmentation, seed=42, view=3)
    again = images.random_transforms(rows[[7, 900]], 5000, 24, augmentation, seed=42, view=3)
    np.testing.assert_array_equal(maps[[7, 900]], again)
    for other in ({"seed": 43, "view": 3}, {"seed": 42, "view": 4}):
        assert (
            not np.isclose(maps, images.random_transforms(rows, 5000, 24, augmentation, **other))
            .all(axis=1)
            .any()
        )
    # Undo the map: columns have the lengths zoom_width and zoom_height.
    zoom_width = np.hypot(maps[:, 0], maps[:, 3])
    zoom_height = np.hypot(maps[:, 1], maps[:, 4])
    for zoom in (zoom_width, zoom_height):
        assert 0.8 <= zoom.min() < 0.81 and 1.19 < zoom.max() <= 1.2 + 1e-6
        assert abs(zoom.mean() - 1) < 0.01
    assert abs(np.corrcoef(zoom_width, zoom_height)[0, 1]) < 0.05
    mirrored = np.linalg.det(maps[:, [0, 1, 3, 4]].reshape(-1, 2, 2)) < 0
    assert 0.47 < mirrored.mean() < 0.53
    direction = np.arctan2(maps[:, 3], maps[:, 0])
    assert np.histogram(direction, 8, (-np.pi, np.pi))[0].min() > 400


def test_augmentation_can_be_switched_off():
    off = images.Augmentation(rotation=0, flip=False, zoom=0)
    maps = images.random_transforms(np.arange(9), 9, 24, off, seed=1, view=2)
    identity = np.tile([1, 0, 0, 0, 1, 0, 0, 0], (9, 1))
    np.testing.assert_allclose(maps, identity, atol=1e-6)
    with pytest.raises(InputError, match="rotation = 200"):
        images.Augmentation(rotation=200)
    with pytest.raises(InputError, match="zoom = 1"):
        images.Augmentation(zoom=1)


def test_orders_are_permutations_without_state():
    order = images.epoch_order(100, seed=42, epoch=7)
    assert sorted(order) == list(range(100))
    np.testing.assert_array_equal(order, images.epoch_order(100, seed=42, epoch=7))
    assert (order != images.epoch_order(100, seed=42, epoch=8)).any()
    assert (order != images.epoch_order(100, seed=43, epoch=7)).any()


def test_copies_are_of_the_galaxies_asked_for(survey, tmp_path):
    sample, folder = survey
    images.write_cache(sample, folder, tmp_path, crop=32, size=SIZE)
    cache = images.open_cache(tmp_path, 32, "grey")
    rows = np.array([5, 1, 1, 4, 0])
    ids = cache.index.set_index("row")["galaxy_id"].loc[rows].to_numpy()
    pixels = images.network_input(cache.arrays[rows], "grey")
    copies = images.Copies(cache, 1)
    assert copies.shape == pixels.shape[1:]
    np.testing.assert_array_equal(copies.get(ids), pixels)
    still = images.Copies(cache, 1, images.Augmentation(rotation=0, flip=False, zoom=0))
    np.testing.assert_allclose(still.get(ids, np.arange(5)), pixels, atol=1e-3)
    turned = images.warp(pixels, images.transforms(32, angle=np.full(5, 90.0)))
    np.testing.assert_allclose(turned, np.rot90(pixels, axes=(1, 2)), atol=0.02)


def test_binned_pixels_are_block_means_of_the_central_pixels(survey, tmp_path):
    sample, folder = survey
    cache, _ = images.write_cache(sample, folder, tmp_path, crop=10, size=SIZE, binning=2)
    assert cache.arrays.shape == (6, 10, 10, 3) and cache.index.attrs["binning"] == 2
    whole = random_image(3)[14:34, 14:34].astype(float)
    expected = (whole[::2, ::2] + whole[1::2, ::2] + whole[::2, 1::2] + whole[1::2, 1::2]) / 4
    assert abs(cache.arrays[3] - expected).max() <= 0.5


def test_binning_must_divide_the_image(survey, tmp_path):
    sample, folder = survey
    with pytest.raises(InputError, match="binning = 5.*divide 48 px"):
        images.write_cache(sample, folder, tmp_path, crop=4, size=SIZE, binning=5)
