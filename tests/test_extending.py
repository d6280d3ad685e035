"""docs/extending.md and docs/architecture.md: the examples run, and the drawing is of this flow."""

import ast
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT
from PIL import Image

from lib import images, networks, selection, surveys
from lib.explain.maps import Explainer, integrated_gradients
from lib.networks.weights import graph
from lib.workflow import profiles, steps

PAGE = (ROOT / "docs" / "extending.md").read_text()
SECTIONS = dict(
    zip(re.findall(r"^## (.+)$", PAGE, re.M), re.split(r"^## .+$", PAGE, flags=re.M)[1:])
)


def blocks(section, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[section], re.M | re.S)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project root with the notebooks of the checkout and no profiles."""
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    for path in (ROOT / "notebooks").glob("*.py"):
        shutil.copy(path, tmp_path / "notebooks")
    monkeypatch.setenv("SPIRAL_ARMS_ROOT", str(tmp_path))
    return tmp_path


def load_profile(root, text, name):
    (root / "notebooks" / "profiles" / f"{name}.yaml").write_text(text)
    return profiles.load(name)


def test_a_survey_is_added(root, monkeypatch):
    reader, registration = blocks("Add a survey", "python")
    module = types.ModuleType("lib.surveys.backyard")
    exec(reader, module.__dict__)
    monkeypatch.setattr(surveys, "backyard", module, raising=False)
    monkeypatch.setattr(surveys, "READERS", dict(surveys.READERS))
    exec(registration, {})

    folder = root / "data" / "backyard"
    (folder / "images").mkdir(parents=True)
    (folder / "catalogue.csv").write_text(blocks("Add a survey", "text")[0])
    Image.new("RGB", (64, 64)).save(folder / "images" / "101.png")
    profile = load_profile(root, blocks("Add a survey", "yaml")[0], "backyard")
    settings = profile.settings("01_sample_selection")
    survey = surveys.open_survey(settings["survey"], settings["data_dir"])
    assert list(survey.votes["galaxy_id"]) == [101, 102, 103]
    assert list(survey.votes["has_image"]) == [True, False, False]
    assert survey.votes.loc[1, "rho_1"] == 0.9 and survey.votes.loc[0, "n_spiral"] == 36

    cuts = ["f_spiral > 0.715", "n_spiral > 20", "rho_max > 0.8", "has_image"]
    dropped = [*settings["dropped"], "has_image"]
    sample, _ = selection.select(survey.votes, cuts, dropped)
    assert dict(zip(sample["galaxy_id"], sample["label"])) == {101: "2", 102: "1"}


def test_a_backbone_is_added(root, monkeypatch):
    make, registration, use = blocks("Add a backbone", "python")
    monkeypatch.setattr(graph, "BACKBONES", dict(graph.BACKBONES))
    names = {}
    for block in (make, registration, use):
        exec(block, names)
    model = names["model"]
    assert model.output_shape == (None, 6)
    pixels = 255 * np.random.default_rng(1).random((2, 64, 64, 1), np.float32)
    np.testing.assert_allclose(np.asarray(model(pixels)).sum(axis=1), 1, atol=1e-5)
    made = Explainer(model).maps(integrated_gradients, pixels, np.array([0, 1]))
    assert made.shape == (2, 64, 64)
    profile = load_profile(root, blocks("Add a backbone", "yaml")[0], "smaller")
    told = profile.overrides["04_train_v2m"]
    smaller, _ = networks.backbone(told["backbone_name"], told["crop"], "rgb", told["weights"])
    assert smaller.output_shape == (None, 3, 3, 1280)


def test_an_experiment_is_a_profile(root):
    profile = load_profile(root, blocks("Add an experiment", "yaml")[0], "merged")
    assert profile.overrides["03_train_b0"]["merge"] == "3+4"
    assert profile.overrides["03_train_b0"]["max_per_class"] == 0
    assert profile.overrides["03_train_b0"]["seed"] == 7


def test_an_experiment_is_a_notebook(root):
    (source,) = blocks("Add an experiment", "python")
    (root / "notebooks" / "14_colour.py").write_text(source)
    folder = root / "runs" / "mock"
    for step in ("01_sample_selection", "02_preprocessing"):
        (folder / step).mkdir(parents=True)
    sample = pd.DataFrame({"galaxy_id": [1, 2], "label": ["1", "2"]})
    sample["image_path"] = [f"{i}.png" for i in sample["galaxy_id"]]
    for path, colour in zip(sample["image_path"], [(100, 0, 50), (100, 0, 200)]):
        Image.new("RGB", (32, 32), colour).save(folder / path)
    sample.to_parquet(folder / "01_sample_selection" / "sample.parquet")
    images.write_cache(sample, folder, folder / "02_preprocessing", crop=32, size=32)

    (line,) = blocks("Add an experiment", "text")
    ((step, needs),) = ast.literal_eval("{" + line + "}").items()
    assert (root / "notebooks" / f"{step}.py").exists()
    assert all((folder / need).is_dir() for need in needs)
    table = pd.read_csv(steps.run(step, {}) / "colour.csv", index_col="label")
    assert table["mean"].to_dict() == {1: 0.5, 2: 2.0}


def test_every_example_is_run():
    """A block more on the page needs a line more in the tests above."""
    counts = {
        name: {k: len(blocks(name, k)) for k in ("python", "yaml", "text")} for name in SECTIONS
    }
    assert counts == {
        "Add a survey": {"python": 2, "yaml": 1, "text": 1},
        "Add a backbone": {"python": 3, "yaml": 1, "text": 0},
        "Add an experiment": {"python": 1, "yaml": 1, "text": 1},
    }


def test_the_drawing_is_of_this_flow():
    """Rules and arrows of figures/rulegraph.svg, against those that Snakemake finds."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--rulegraph", "--forceall"]
    done = subprocess.run(
        [*command, "--config", "profile=mock"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', done.stdout))
    arrows = {(names[a], names[b]) for a, b in re.findall(r"(\d+) -> (\d+)", done.stdout)}

    drawing = (ROOT / "figures" / "rulegraph.svg").read_text()
    labels = dict(re.findall(r"<title>(\d+)</title>.*?>(\w+)</text>", drawing, re.S))
    found = {(labels[a], labels[b]) for a, b in re.findall(r"<title>(\d+)&#45;&gt;(\d+)<", drawing)}
    assert found == {(a, b) for a, b in arrows if b != "all"}, "stale: run `make rulegraph`"


def test_profiles_on_the_page_name_only_steps_of_the_flow():
    text = (ROOT / "Snakefile").read_text()
    for section in SECTIONS:
        for block in blocks(section, "yaml"):
            assert all(f'"{step}": ' in text for step in yaml.safe_load(block)["steps"])
