"""The Snakefile on SLURM: the jobs' resources by a dry run, and survey shards on a real one."""

import json
import os
import re
import subprocess
import sys

import exported as made
import numpy as np
import pandas as pd
import pytest
import slurm
import yaml
from conftest import ROOT

from lib.networks import models
from lib.predict import package, survey

PROFILE = ROOT / "profiles" / "slurm" / "config.yaml"


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A survey of 60 images in two shards, and its catalogue made in this process."""
    folder = tmp_path_factory.mktemp("survey")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.weights, "build", made.backbone)
        made.make_run(folder)
    model = package.export(folder / "03_train_b0", folder / "model")
    plans = [
        survey.plan(model.folder, folder / "images", folder / name, shard_size=40)
        for name in ("here", "there")
    ]
    return survey.run(plans[0], log=lambda line: None), plans[1]


def snakemake(plan, *options, **more):
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", str(PROFILE.parent)]
    command += [*options, "--nolock", "--config", f"predict={plan}", "--", "predict_gather"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **more)


def test_jobs_ask_for_the_resources_of_the_profile(plan):
    said = snakemake(plan[1], "--dry-run", "--executor", "dryrun").stdout
    jobs = re.findall(r"rule (\w+):(.*?)resources: ([^\n]*)", said, re.DOTALL)
    assert [name for name, *_ in jobs] == ["predict_shard", "predict_shard", "predict_gather"]
    wanted = yaml.safe_load(PROFILE.read_text())
    for name, facts, resources in jobs:
        for resource, value in wanted["set-resources"][name].items():
            assert f"{resource}={value}" in resources.split(", ")
        if name in wanted["set-threads"]:
            assert f"threads: {wanted['set-threads'][name]}\n" in facts


@pytest.fixture(scope="module")
def sweep():
    """Jobs behind Fig. 5 on a cluster with GPUs, by a dry run: rule and resources by output."""
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", str(PROFILE.parent)]
    command += ["--dry-run", "--forceall", "--executor", "dryrun", "--nolock"]
    command += ["--config", "profile=gz2", "gpus=1", "--", "runs/gz2/07_image_size/receipt.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(
        r"rule (\w+):.*?output: \S*?runs/gz2/(\S+)/receipt.*?resources: ([^\n]*)",
        done.stdout,
        re.DOTALL,
    )
    return {
        output: (rule, dict(r.split("=") for r in resources.split(", ")))
        for rule, output, resources in found
    }


def test_trainings_of_a_sweep_ask_for_a_gpu_time_and_memory(sweep):
    trainings = {k: v for k, v in sweep.items() if k.startswith("sweeps/07_image_size/")}
    assert len(trainings) == 2 * 10 * 5  # two networks, ten sizes, five seeds
    for output, (rule, resources) in trainings.items():
        assert rule == ("sweep_train_v2m" if "/v2m-" in output else "sweep_train_b0")
        wanted = {"sweep_train_b0": (240, 16000), "sweep_train_v2m": (720, 24000)}[rule]
        found = tuple(int(resources[name]) for name in ("runtime", "mem_mb"))
        assert (resources["gpu"], found) == ("1", wanted)
    assert int(sweep["07_image_size"][1]["mem_mb"]) == 4000


def test_the_profile_names_rules_that_exist():
    rules = set(re.findall(r"rule (\w+):", (ROOT / "Snakefile").read_text()))
    notebooks = {path.stem[3:] for path in (ROOT / "notebooks").glob("[0-9]*_train_*.py")}
    rules |= {f"{prefix}{name}" for name in notebooks for prefix in ("", "sweep_")}
    wanted = yaml.safe_load(PROFILE.read_text())
    assert wanted["executor"] == "slurm"
    assert {"sweep_train_b0", "sweep_train_v2m", "train_b0", "train_v2m"} < set(
        wanted["set-resources"]
    )
    for part in ("set-resources", "set-threads"):
        assert set(wanted[part]) <= rules


@pytest.mark.skipif(slurm.missing() is not None, reason=f"no SLURM here: {slurm.missing()}")
def test_shards_on_a_real_slurm(plan, tmp_path):
    here, there = plan
    options = ["--slurm-no-account", "--slurm-status-command", "squeue", "--slurm-logdir"]
    options += [str(tmp_path / "logs"), "--slurm-init-seconds-before-status-checks", "2"]
    with slurm.cluster(tmp_path) as environment:
        done = snakemake(there, *options, "--latency-wait", "5", env=environment, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"has been submitted with SLURM jobid", done.stdout + done.stderr)) == 3
    rows = pd.read_parquet(there.parent / "catalogue.parquet")
    expected = pd.read_parquet(here)
    pd.testing.assert_frame_equal(rows, expected, rtol=1e-4, atol=1e-5)
    assert json.loads(there.read_text())["shards"] == 2
    assert np.isfinite(rows["p_1"]).all() and os.path.exists(there.parent / "catalogue.vot")
