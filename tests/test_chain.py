"""The whole chain on profile `smoke`, through Snakemake and papermill, as `make run` calls it."""

import json

import nbformat
import pandas as pd
import pytest
import yaml
from conftest import chain

from lib.schema import ARM_CLASSES
from lib.workflow import profiles, receipts

pytestmark = pytest.mark.chain


def test_every_step_is_done_and_said(smoke):
    printed, folder = smoke
    done = profiles.load("smoke").steps
    for number, step in enumerate(done, 1):
        assert f"[{number}/{len(done)}] {step} done in" in printed
        assert receipts.verify(folder / step) == []
        assert not (folder / f"{step}.partial").exists()


def test_rendered_notebooks_have_outputs_and_no_errors(smoke):
    _, folder = smoke
    for step in profiles.load("smoke").steps:
        notebook = nbformat.read(folder / step / f"{step}.ipynb", as_version=4)
        outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
        assert outputs and not [o for o in outputs if o.output_type == "error"]
        pictures = [o for o in outputs if {"image/png", "image/jpeg"} & set(o.get("data", ()))]
        assert all(
            o.metadata[kind]["alt"]
            for o in pictures
            for kind in {"image/png", "image/jpeg"} & set(o.data)
        )


def test_predictions_hold_every_galaxy_of_the_sample(smoke):
    _, folder = smoke
    sample = pd.read_parquet(folder / "01_sample_selection" / "sample.parquet")
    for step in ("03_train_b0", "04_train_v2m"):
        predictions = pd.read_parquet(folder / step / "predictions.parquet")
        assert set(predictions["galaxy_id"]) == set(sample["galaxy_id"])
        probabilities = predictions.filter(regex="^p_").to_numpy()
        assert abs(probabilities.sum(axis=1) - 1).max() < 1e-5
        settings = json.loads((folder / step / "model.json").read_text())
        assert settings["protocol"] == "published"


def test_trainings_of_loops_are_kept_apart_and_whole(smoke):
    _, folder = smoke
    trainings = sorted(p for p in (folder / "trainings").iterdir() if p.is_dir())
    assert {"B0", "V2M"} <= {path.name.split("-")[0] for path in trainings}
    for path in trainings:
        assert {"model.json", "history.csv", "predictions.parquet"} <= {
            p.name for p in path.iterdir()
        }
        assert not (path / "checkpoint").exists()
    assert not list(folder.glob("[0-9]*.part-*"))


def test_a_second_run_does_nothing_and_says_so(smoke, chain_checkout):
    _, folder = smoke
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != ".lock"}
    result = chain(chain_checkout, "smoke")
    assert result.returncode == 0, result.stderr
    assert "nothing to do: every step of profile smoke is up to date" in result.stdout
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != ".lock"} == before


@pytest.mark.slow
@pytest.mark.real
def test_real_galaxies_run_through_selection_and_preprocessing(chain_checkout, challenge_sample):
    content = yaml.safe_load(
        (chain_checkout / "notebooks" / "profiles" / "challenge.yaml").read_text()
    )
    steps = ["01_sample_selection", "02_preprocessing"]
    short = {k: v for k, v in content.items() if k in ("all", "description", *steps)}
    known = {name for step in steps for name in profiles.default_parameters(step)}
    short["all"] = {k: v for k, v in short["all"].items() if k in known}
    (chain_checkout / "notebooks" / "profiles" / "real.yaml").write_text(
        yaml.safe_dump({**short, "steps": steps})
    )
    result = chain(chain_checkout, "real", "--data", str(challenge_sample))
    assert result.returncode == 0, result.stdout + result.stderr
    folder = chain_checkout / "runs" / "real"
    sample = pd.read_parquet(folder / "01_sample_selection" / "sample.parquet")
    counts = sample["label"].value_counts()
    assert [counts[c] for c in ARM_CLASSES] == [50, 756, 126, 34, 31, 229]
    missing = pd.read_csv(folder / "02_preprocessing" / "missing.csv")
    assert missing.empty
