"""Tests of `count-arms`: its network, scale, command line, and the sky by a server of the test."""

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, unquote, urlparse

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates.name_resolve import sesame_url
from astropy.io import fits
from conftest import ROOT
from PIL import Image

from lib import paths
from lib.images import ImageError
from lib.predict import count_arms, package, sky
from lib.predict.engine import OnnxEngine
from lib.schema import ARM_CLASSES, InputError, probability_columns

P = probability_columns(ARM_CLASSES)


def spiral(width, r90, m=2, pitch=20.0):
    """A galaxy with m logarithmic arms, uint8 (width, width, 3); the disc ends beyond R90."""
    y, x = np.mgrid[:width, :width] - (width - 1) / 2
    r, theta = np.hypot(x, y) / r90, np.arctan2(-y, x)
    arms = 1 + 0.8 * np.cos(m * (theta - np.log(r + 0.01) / np.tan(np.radians(pitch))))
    light = 90 * np.exp(-r / 0.6) * np.where(r < 0.15, 1, arms) + 120 * np.exp(-((r / 0.1) ** 2))
    colour = np.array([1.0, 0.9, 0.8])
    noise = np.random.default_rng(1).normal(0, 1.5, (width, width, 3))
    return (light[..., None] * colour + noise + 4).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def shipped():
    return package.load(paths.resolve(count_arms.MODEL))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Pictures and cached answers of each test go into a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# ---- the network that is shipped


def test_the_shipped_network_is_armnet_as_keras_runs_it(shipped):
    """Features by Keras from the bundled weights; the head in NumPy, from the file."""
    onnx = pytest.importorskip("onnx")
    from lib.counting import armnet

    # Inclined: of a round disc, rounding errors turn the major axis.
    pixels = np.full((4, 72, 72, 3), 4, np.uint8)
    for k in range(4):
        pixels[k, 12:60] = np.asarray(Image.fromarray(spiral(72, 25, k + 1)).resize((72, 48)))
    features, probabilities = OnnxEngine(shipped.folder / package.ONNX).run(pixels.astype("f4"))
    parts = armnet.features(pixels)
    expected = np.concatenate([parts[name] for name in (*armnet.TOWERS, "amplitudes")], axis=1)
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4)
    tensors = [
        onnx.numpy_helper.to_array(t)
        for t in onnx.load(shipped.folder / package.ONNX).graph.initializer
    ]
    width, classes = features.shape[1], len(shipped.classes)
    kernel = next(t for t in tensors if t.ndim == 2 and t.shape[0] == width)
    units = kernel.shape[1]
    last = next(t for t in tensors if t.shape == (units, classes))
    bias = next(t for t in tensors if t.shape == (units,))
    last_bias = next(t for t in tensors if t.shape == (classes,))
    logits = (expected @ kernel + bias) @ last + last_bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(probabilities, p / p.sum(axis=1, keepdims=True), atol=1e-4)


def test_the_card_says_what_it_was_made_of(shipped):
    card = shipped.card
    assert card["initial_weights"]["source"] == "votes" and tuple(card["classes"]) == ARM_CLASSES
    assert card["onnx"]["largest_difference"] <= package.PARITY
    bundled = json.loads(paths.resolve("data/weights/armnet-3ch.json").read_text())
    assert card["initial_weights"]["sha256"] == bundled["sha256"]
    # None of the galaxies that it is compared with or calibrated on has taught the backbone.
    seen = paths.resolve("data/weights/armnet-3ch.galaxies.txt").read_text().split()
    assert not set(shipped.reference.galaxy_id) & set(seen)
    assert len(shipped.reference.galaxy_id) == len(shipped.reference.features)
    assert card["conformal"]["galaxies"] == card["calibration"]["galaxies"] > 100


def test_nearest_by_hand(shipped):
    """Each training galaxy is its own nearest one; the others by all distances."""
    known = shipped.reference
    alive = np.isfinite(known.scale)
    features = known.features[:5] * np.where(alive, known.scale, 0) + known.centre
    found, distance = known.nearest(features, 4)
    assert found[:, 0].tolist() == list(range(5)) and distance[:, 0].max() < 2e-3
    every = np.sqrt(((known.features[:5, None] - known.features[None]) ** 2).mean(axis=-1))
    np.testing.assert_allclose(distance[:, 1:], np.sort(every, axis=1)[:, 1:4], atol=2e-3)


# ---- scale


@pytest.mark.parametrize("width, r90", [(424, 50), (1000, 50), (300, 70), (1500, 200), (200, 20)])
def test_the_size_of_a_galaxy_does_not_depend_on_the_image(width, r90):
    cutout = count_arms.at_training_scale(spiral(width, r90), 72)
    usual = count_arms.at_training_scale(spiral(424, 50), 72).r90 / 50
    assert cutout.r90 / r90 == pytest.approx(usual, rel=0.12)
    assert cutout.pixels.shape == (count_arms.WIDTH, count_arms.WIDTH, 3) and cutout.whole


def test_galaxies_that_are_cut_off_or_absent_are_told(shipped):
    for image in (spiral(200, 150), np.full((100, 100, 3), 7, np.uint8)):
        with pytest.raises(ImageError, match="no galaxy with sky around it"):
            count_arms.at_training_scale(image, 72)


@pytest.mark.parametrize("m, pitch", [(2, 20.0), (3, 25.0), (2, -15.0)])
def test_arms_are_traced_where_they_were_drawn(m, pitch):
    """The polar view is bright along the ridges, and dark in the middle between two of them."""
    pixels = np.asarray(Image.fromarray(spiral(424, 50, m, pitch)).resize((212, 212)))
    view, found, radii, ridges = count_arms.traced(count_arms.Cutout(pixels, 424.0, True))
    assert found["m"] == m and found["pitch"] == pytest.approx(abs(pitch), abs=4)
    assert found["winding"] == np.sign(pitch)
    used = (radii > 0.25) & (radii < 1)
    depth = np.log(radii / radii[0]) / np.log(radii[-1] / radii[0]) * (len(view) - 1)
    rows = np.rint(depth).astype(int)[used]

    def along(degrees):
        columns = np.rint(degrees[:, used] / 360 * view.shape[1]).astype(int) % view.shape[1]
        return view[rows, columns].mean()

    assert along(ridges) > 0.3 and along(ridges + 180 / m) < -0.3


BOUNDS = {
    "turned": (0.01, 0.97),
    "smaller": (0.04, 0.88),
    "larger": (0.03, 0.92),
    "measured": (0.06, 0.75),
}
"""Mean change of a probability at most, and share of the galaxies with the same class at least."""


@pytest.mark.real
@pytest.mark.parametrize("change", BOUNDS)
def test_real_galaxies_keep_their_class_when_turned_or_rescaled(change, shipped, challenge_sample):
    """Of 60 galaxies, by a quarter turn, at half the size, at 1.6 times the size; and against the
    cut-out by their Petrosian radius, which the images of the competition are."""
    engine = shipped.engine()
    ids = sorted(set(shipped.reference.galaxy_id))[::15][:60]
    size = {"smaller": 212, "larger": 680}.get(change, 424)
    before, after = [], []
    for name in ids:
        picture = Image.open(challenge_sample / "images_training_rev1" / f"{name}.jpg")
        changed = picture.rotate(90) if change == "turned" else picture
        changed = changed.resize((size, size), Image.Resampling.LANCZOS)
        first = count_arms.at_training_scale(np.asarray(picture), 72)
        if change == "measured":
            pixels = picture.resize((count_arms.WIDTH,) * 2, Image.Resampling.BOX)
            first = count_arms.Cutout(np.asarray(pixels), 424.0, True)
        before.append(count_arms.count(first, shipped, engine))
        second = count_arms.at_training_scale(np.asarray(changed), 72)
        after.append(count_arms.count(second, shipped, engine))
    before, after = pd.DataFrame(before), pd.DataFrame(after)
    moved = float(np.abs(before[P].to_numpy() - after[P].to_numpy()).mean())
    same = float((before["predicted"] == after["predicted"]).mean())
    print(f"{change}: probabilities move by {moved:.3f}, {same:.0%} keep their class")
    assert moved <= BOUNDS[change][0] and same >= BOUNDS[change][1]


# ---- the command line


def test_files_give_a_catalogue_and_pictures(tmp_path, capsys):
    Image.fromarray(spiral(424, 50)).save("a.jpg", quality=95)
    (tmp_path / "other").mkdir()
    Image.fromarray(spiral(300, 40, m=3)).convert("RGBA").save("other/a.jpg.png")
    cube = np.moveaxis(spiral(256, 40).astype("f4"), -1, 0)[::-1, ::-1] / 1e4
    cube[:, :20, :20] = np.nan  # a corner without data
    fits.PrimaryHDU(cube.copy(), fits.Header({"BANDS": "gri"})).writeto("b.fits")
    asked = ["a.jpg", "other/a.jpg.png", "b.fits", "gone.jpg", "--out", "out/catalogue.csv"]
    assert count_arms.main(asked) == 1  # one of them is missing
    said = capsys.readouterr()
    assert said.err == "gone.jpg: no such file\n"
    assert said.out.count("90 % prediction set {") == 3
    rows = pd.read_csv(tmp_path / "out" / "catalogue.csv", keep_default_na=False)
    assert rows["name"].tolist() == ["a.jpg", "other/a.jpg.png", "b.fits", "gone.jpg"]
    done = rows[rows["reason"] == ""]
    assert len(done) == 3 and done["picture"].is_unique
    for _, row in done.iterrows():
        assert sum(float(row[name]) for name in P) == pytest.approx(1, abs=1e-3)
        best = ARM_CLASSES[int(np.argmax([float(row[name]) for name in P]))]
        assert best in row["prediction_set"].split()
        with Image.open(tmp_path / "out" / row["picture"]) as picture:
            assert picture.size[0] > 1000


def test_noise_is_flagged_as_unlike_the_training(capsys):
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    noise[120:180, 120:180] = 255
    Image.fromarray(noise).save("noise.png")
    assert count_arms.main(["noise.png"]) == 0
    assert "UNLIKE the training images" in capsys.readouterr().out


def test_the_command_is_installed_and_needs_no_tensorflow(tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, function = project["scripts"]["count-arms"].split(":")
    Image.fromarray(spiral(424, 50)).save("a.jpg")
    code = (
        f"import sys; from {module} import {function} as main\n"
        "assert main(['a.jpg']) == 0\n"
        "assert not {'tensorflow', 'keras', 'torch'} & set(sys.modules)"
    )
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    print(f"a local file takes {time.perf_counter() - start:.1f} s")


# ---- the sky


@pytest.fixture
def cds(monkeypatch):
    """A server that answers as Sesame and hips2fits do; asked[...] counts the questions."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            asked.append(self.path)
            query = parse_qs(urlparse(self.path).query)
            if "hips" in query:
                fov, width = float(query["fov"][0]) * 60, int(query["width"][0])
                picture = spiral(width, 0.5 * width / fov)  # R90 is half an arcminute
                if "SDSS" in query["hips"][0] and float(query["dec"][0]) < -10:
                    picture[:] = 0  # not seen
                file = io.BytesIO()
                Image.fromarray(picture).save(file, "JPEG", quality=95)
                content = file.getvalue()
            elif "NGC 1232" in unquote(self.path):
                content = b"# NGC 1232\n%J 47.43979 -20.57926 = 03:09:45.5 -20:34:45\n"
            else:
                content = b"# nothing found\n"
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setattr(sky, "HIPS2FITS", address + "hips2fits")
    with sesame_url.set([address + "sesame/"]):
        yield asked
    server.shutdown()
    server.server_close()


def test_a_name_is_resolved_imaged_and_kept(cds, tmp_path, capsys):
    assert count_arms.main(["NGC 1232", "--out", "a.csv"]) == 0
    row = pd.read_csv("a.csv").iloc[0]
    assert (row["ra"], row["dec"]) == (47.43979, -20.57926)
    assert row["survey"] == sky.SURVEYS[1]  # the first has not seen that sky
    # Whatever the first image's width, the last shows 8.48 R90, as the training's do.
    widths = [60 * float(parse_qs(urlparse(q).query)["fov"][0]) for q in cds if "hips=" in q]
    usual = count_arms.at_training_scale(spiral(424, 50), 72).r90 / 50
    assert widths[0] == 3 and widths[-1] == pytest.approx(8.48 * 0.5 * usual, rel=0.25)
    questions = len(cds)
    assert count_arms.main(["NGC 1232", "--out", "b.csv"]) == 0
    assert len(cds) == questions  # all answers were kept
    pd.testing.assert_frame_equal(pd.read_csv("a.csv"), pd.read_csv("b.csv"))
    cards = list((tmp_path / "cache" / "spiral-arms").glob("*.json"))
    assert len(cards) == questions
    assert all(re.fullmatch("[0-9a-f]{64}", json.loads(c.read_text())["sha256"]) for c in cards)
    cards[0].with_suffix("").write_bytes(b"changed")  # what has changed is asked for again
    assert count_arms.main(["NGC 1232"]) == 0 and len(cds) == questions + 1


def test_a_table_of_positions_gives_a_catalogue(cds):
    with open("positions.csv", "w") as file:
        file.write("name;ra;dec\n007;150.1;2.2\n;151.5;40.0\n")
    asked = ["--table", "positions.csv", "--size", "4", "--out", "catalogue.csv"]
    assert count_arms.main(asked) == 0
    rows = pd.read_csv("catalogue.csv", dtype={"name": str})
    assert rows["name"].tolist() == ["007", "151.50000+40.00000"]
    assert rows["survey"].tolist() == [sky.SURVEYS[0]] * 2
    assert count_arms.main(["--radec", "52.08", "-20.57", "--size", "3"]) == 0


def test_what_the_sky_cannot_give_is_told(cds, capsys, monkeypatch):
    assert count_arms.main(["no such galaxy"]) == 1
    assert "Sesame does not resolve it" in capsys.readouterr().err
    assert count_arms.main(["--radec", "400", "0"]) == 1
    assert "degrees from 0 to 360" in capsys.readouterr().err
    monkeypatch.setattr(sky, "HIPS2FITS", "http://127.0.0.1:9/")  # nobody listens there
    assert count_arms.main(["--radec", "10", "0"]) == 1
    assert "need the network; image files do not" in capsys.readouterr().err
    with pytest.raises(InputError, match="is missing: --table is a file"):
        count_arms.sky_table(paths.Path("gone.csv"))
