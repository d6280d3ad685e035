"""Zoobot's encoder from the hub: features against timm itself, downloads against a small server.

`tests/data/timm-efficientnet_b0.npz` holds names, shapes and features of the two timm networks,
computed by timm (`tests/references/timm_features.py`); the weights follow from a seed.
"""

import functools
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import keras
import numpy as np
import pytest
import safetensors.numpy
from references.random_weights import random_images, random_state

from lib.networks import weights
from lib.networks.weights import hub
from lib.networks.weights.pytorch import read_state_dict
from lib.schema import InputError

DATA = Path(__file__).parent / "data"
SCRIPT = Path(__file__).parent / "references" / "timm_features.py"
ARCHITECTURES = ("efficientnet_b0", "tf_efficientnet_b0")
SIDE = 64
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def reference():
    """What timm found."""
    return np.load(DATA / "timm-efficientnet_b0.npz")


@pytest.fixture(scope="module")
def state(reference):
    """Random weights under timm's names; the two networks have the same ones."""
    shapes = [json.loads(str(reference[f"{a}/shapes"])) for a in ARCHITECTURES]
    assert shapes[0] == shapes[1] and len(shapes[0]) == 358
    return random_state(shapes[0], 20)


def save(folder, architecture, state, **more):
    """Write a network in the hub's layout."""
    folder.mkdir(exist_ok=True)
    config = {"architecture": architecture, "num_classes": 0, "num_features": 1280, **more}
    (folder / hub.CONFIG).write_text(json.dumps(config))
    safetensors.numpy.save_file(state, folder / "model.safetensors")
    return f"zoobot-hub:{folder}"


@pytest.fixture(scope="module")
def folder(state, tmp_path_factory):
    """The PyTorch-like variant in the hub's layout, as a source of weights."""
    return save(tmp_path_factory.mktemp("hub"), "efficientnet_b0", state)


def load(source, channels, **options):
    """Backbone with the hub's weights, and the receipt."""
    variant = weights.variant(source, "EfficientNetB0", channels=channels, **options)
    backbone = weights.build("EfficientNetB0", keras.Input((SIDE, SIDE, channels)), variant)
    return backbone, weights.initialise(backbone, source, channels=channels, **options)


def distance(found, expected):
    """Largest deviation, relative to the largest feature."""
    return np.abs(found - expected).max() / np.abs(expected).max()


def features(backbone, images):
    """Feature map for images in [0, 1]."""
    return backbone(255 * images, training=False).numpy()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_features_are_those_of_timm(architecture, reference, state, tmp_path):
    source = save(tmp_path / "hub", architecture, state, model_args={"in_chans": 3})
    backbone, receipt = load(source, 3)
    images = random_images(20, (2, SIDE, SIDE, 3))
    found = features(backbone, images)
    assert distance(found, reference[f"{architecture}/features"]) < 1e-4
    other = next(a for a in ARCHITECTURES if a != architecture)
    assert distance(found, reference[f"{other}/features"]) > 0.01, "the test can tell them apart"
    assert receipt["architecture"] == architecture and receipt["stem"] == "as stored"
    assert receipt["revision"] is None and receipt["file"] == "model.safetensors"


def test_a_grey_stem_is_the_sum_of_the_three(folder):
    colour, _ = load(folder, 3)
    grey, receipt = load(folder, 1)
    images = random_images(21, (2, SIDE, SIDE, 1))
    assert distance(features(grey, images), features(colour, images.repeat(3, -1))) < 1e-5
    assert receipt["stem"] == "summed"


def test_the_wrong_graph_is_refused(folder):
    plain = weights.build("EfficientNetB0", keras.Input((SIDE, SIDE, 3)))
    with pytest.raises(InputError, match="layer stem_conv_pad .* need .*symmetric.*build the"):
        weights.initialise(plain, folder, channels=3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"architecture": "convnext_nano"}', "timm architecture 'convnext_nano'; known are tf_"),
        (
            '{"architecture": "efficientnet_b0", "model_args": {"act_layer": "relu"}}',
            "with the arguments act_layer",
        ),
        ('{"architecture": ', "is not a timm configuration"),
        ("[]", "not a JSON object"),
    ],
)
def test_a_configuration_that_is_not_understood_is_refused(config, message, tmp_path):
    (tmp_path / hub.CONFIG).write_text(config)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=message):
        weights.variant(f"zoobot-hub:{tmp_path}", "EfficientNetB0", channels=3)


def test_names_shapes_hash_and_damage_are_checked(state, tmp_path):
    wrong = dict(state)
    del wrong["bn1.weight"]
    wrong["blocks.0.0.bn9.weight"] = wrong["bn1.bias"]
    wrong["conv_head.weight"] = wrong["conv_head.weight"][:, :100]
    source = save(tmp_path, "tf_efficientnet_b0", wrong)
    backbone = weights.build("EfficientNetB0", keras.Input((SIDE, SIDE, 3)))
    with pytest.raises(InputError) as error:
        weights.initialise(backbone, source, channels=3)
    for part in (
        "stem_bn/gamma (32,) is missing",
        "top_conv/kernel has shape (1, 1, 100, 1280), not (1, 1, 320, 1280)",
        "blocks.0.0.bn9/gamma is not in the network",
    ):
        assert part in str(error.value)
    save(tmp_path, "tf_efficientnet_b0", state)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1_000_000])
    with pytest.raises(InputError, match="is not a whole safetensors file"):
        weights.initialise(backbone, source, channels=3)
    file.unlink()
    with pytest.raises(InputError, match="must hold config.json and model.safetensors or pytorch"):
        weights.initialise(backbone, source, channels=3)


def test_a_real_pytorch_file_is_read_without_pytorch():
    state = read_state_dict(DATA / "torch-state.bin")
    numbers = np.arange(24, dtype="float32").reshape(2, 3, 4)
    assert list(state) == ["plain", "transposed", "part", "steps"]
    np.testing.assert_array_equal(state["plain"], numbers)
    np.testing.assert_array_equal(state["transposed"], numbers.transpose(2, 0, 1))
    np.testing.assert_array_equal(state["part"], numbers[1, 1:])
    assert state["steps"] == 7 and state["steps"].dtype == np.int64 and state["steps"].shape == ()
    assert state["plain"].dtype == np.float32


class _Harmful:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_a_pytorch_file_cannot_run_anything(tmp_path):
    file, target = tmp_path / "pytorch_model.bin", tmp_path / "harm"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": _Harmful(target)}))
    with pytest.raises(InputError, match=r"asks for \w+\.mkdir, .* refused"):
        read_state_dict(file)
    assert not target.exists()


def test_damaged_pytorch_files_are_refused(tmp_path):
    whole = (DATA / "torch-state.bin").read_bytes()
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is not a whole PyTorch state dict"):
        read_state_dict(file)
    # The numbers of the first tensor, 0 1 2 ..., stand in the archive as they are.
    at = whole.index(np.arange(4, dtype="<f4").tobytes())
    file.write_bytes(whole[:at] + b"\x01" + whole[at + 1 :])
    with pytest.raises(InputError, match="is not a whole PyTorch state dict"):
        read_state_dict(file)


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as a download needs."""

    files, asked, cut = {}, [], False

    def _answer(self, with_body):
        self.asked.append(self.path)
        name = self.path.rsplit("/", 1)[1]
        if self.path.startswith("/api/models/"):
            return self._describe()
        found = name in self.files
        self.send_response(200 if found else 404)
        self.send_header("X-Repo-Commit", COMMIT)
        body = self.files.get(name, b"")
        if not found:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("ETag", f'"{name}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body[: len(body) // 2] if self.cut else body)

    def _describe(self):
        """The commit of a revision, or its files."""
        facts = {"id": hub.REPOSITORY, "sha": COMMIT}
        facts["siblings"] = [{"rfilename": name} for name in self.files]
        if "/tree/" in self.path:
            oid = "0" * 40
            facts = [
                {"type": "file", "path": name, "size": len(content), "oid": oid}
                for name, content in self.files.items()
            ]
        body = json.dumps(facts).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self):
        self._answer(False)

    def do_GET(self):
        self._answer(True)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub on this machine, with an empty cache, and the class that it answers with."""
    _Hub.files = {"config.json": b'{"architecture": "efficientnet_b0"}', "README.md": b""}
    _Hub.asked, _Hub.cut = [], False
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        options = {
            "endpoint": f"http://127.0.0.1:{running.server_port}",
            "cache_dir": tmp_path / "cache",
            "token": False,
        }
        download = functools.partial(huggingface_hub.snapshot_download, **options)
        monkeypatch.setattr(hub, "snapshot_download", download)
        yield _Hub
        running.shutdown()


@pytest.mark.parametrize("name", hub.WEIGHTS)
def test_download_resolves_the_revision_and_then_works_offline(server, name, monkeypatch):
    server.files[name] = b"0123456789" * 1000
    files = hub.fetch(revision="v1")
    assert files.revision == COMMIT and files.weights.name == name
    assert files.weights.read_bytes() == server.files[name]
    assert f"/{hub.REPOSITORY}/resolve/{COMMIT}/{name}" in server.asked
    assert not [path for path in server.asked if path.endswith("README.md")]
    before = len(server.asked)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.fetch(revision="v1") == files
    assert len(server.asked) == before, "offline mode asks nobody"


def test_the_name_of_the_weights_may_pin_the_revision(server, state, tmp_path):
    save(tmp_path / "files", "efficientnet_b0", state)
    for name in (hub.CONFIG, hub.WEIGHTS[0]):
        server.files[name] = (tmp_path / "files" / name).read_bytes()
    _, receipt = load(f"zoobot-hub@{COMMIT}", 3)
    assert "learnt from the votes of all Galaxy Zoo projects" in receipt["warning"]
    assert receipt["source"] == "zoobot-hub" and receipt["revision"] == COMMIT
    assert {
        f"/{hub.REPOSITORY}/resolve/{COMMIT}/{name}" for name in (hub.CONFIG, hub.WEIGHTS[0])
    } <= set(server.asked)


@pytest.mark.parametrize("name", ["zoobot-hub@", "zoobot-hub@v1:folder", "imagenet@v1", "mock@v1"])
def test_a_revision_is_only_for_the_hub(name):
    with pytest.raises(InputError, match="only zoobot-hub@<revision>"):
        weights.variant(name, "EfficientNetB0", channels=3)


def test_offline_without_cache_names_the_files_and_where_to_put_them(server, monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as error:
        weights.variant("zoobot-hub@v1", "EfficientNetB0", channels=1)
    for part in (
        "fetch config.json and model.safetensors or pytorch_model.bin from",
        f"{hub.REPOSITORY}/tree/v1",
        "set weights to zoobot-hub:<that folder>",
    ):
        assert part in str(error.value)
    assert not server.asked


def test_half_a_download_is_never_used(server, monkeypatch):
    server.files["model.safetensors"] = bytes(1_000_000)
    server.cut = True
    with pytest.raises(InputError, match="Without internet, fetch config.json and"):
        hub.fetch()
    with monkeypatch.context() as patch, pytest.raises(InputError, match="Without internet"):
        patch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
        hub.fetch()
    server.cut = False
    assert len(hub.fetch().weights.read_bytes()) == 1_000_000


def test_a_repository_without_weights_is_reported(server):
    with pytest.raises(InputError, match="must hold config.json and model.safetensors or pytorch"):
        hub.fetch()


def _timm_python():
    """Interpreter that has timm, or None."""
    if os.environ.get("TIMM_PYTHON"):
        return os.environ["TIMM_PYTHON"]
    return sys.executable if importlib.util.find_spec("timm") else None


@pytest.mark.skipif(_timm_python() is None, reason="needs timm and torch, or $TIMM_PYTHON")
def test_timm_run_now_gives_the_stored_features_and_its_own_files_load(reference, tmp_path):
    subprocess.run([_timm_python(), SCRIPT, tmp_path / "f.npz", tmp_path], check=True, timeout=300)
    again = np.load(tmp_path / "f.npz")
    images = random_images(20, (2, SIDE, SIDE, 3))
    for architecture in ARCHITECTURES:
        expected = again[f"{architecture}/features"]
        assert str(again[f"{architecture}/shapes"]) == str(reference[f"{architecture}/shapes"])
        assert distance(reference[f"{architecture}/features"], expected) < 1e-5
        folder = tmp_path / architecture
        backbone, _ = load(f"zoobot-hub:{folder}", 3)
        assert distance(features(backbone, images), expected) < 1e-4
        (folder / "model.safetensors").unlink()
        pickled, receipt = load(f"zoobot-hub:{folder}", 3)
        assert receipt["file"] == "pytorch_model.bin"
        for one, other in zip(backbone.weights, pickled.weights, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())
