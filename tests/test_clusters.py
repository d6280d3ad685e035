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

from lib import networks
from lib.predict import package, survey

PROFILE = ROOT / "profiles" / "slurm" / "config.yaml"


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A survey of 60 images in two shards, and its catalogue made in this process."""
    folder = tmp_path_factory.mktemp("survey")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks.sources, "build", made.backbone)
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


LOOPS = {"07_image_size": "image_size", "08_class_balance": "class_balance"}
LOOPS["09_model_comparison"] = "model_comparison"


def jobs(*options, parts):
    """Jobs of the paper's loops by a dry run: rule, what it reads, what it makes, resources."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--forceall", "--nolock"]
    command += ["--executor", "dryrun", *options, "--config", "profile=gz2", f"parts={parts}"]
    command += ["gpus=1", "--", *(f"runs/gz2/{step}/receipt.json" for step in LOOPS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(
        r"rule (\w+):\n    input: (.*?)\n    output: (.*?)\n.*?resources: ([^\n]*)",
        done.stdout,
        re.DOTALL,
    )
    return [
        (rule, inputs.split(", "), output, dict(r.split("=") for r in resources.split(", ")))
        for rule, inputs, output, resources in found
    ]


@pytest.mark.parametrize("options", [("--cores", "4"), ("--workflow-profile", PROFILE.parent)])
def test_parts_of_a_loop_are_jobs_before_the_step_that_gathers_them(options):
    found = jobs(*map(str, options), parts=2)
    for step, name in LOOPS.items():
        marks = {f"runs/gz2/.{step}.{k}-of-2" for k in (1, 2)}
        assert {output for rule, _, output, _ in found if rule == f"part_{name}"} == marks
        ((_, inputs, _, _),) = [job for job in found if job[0] == name]
        assert marks <= set(inputs)
    for rule, inputs, _, _ in found:
        if rule.startswith("part_"):
            assert "runs/gz2/03_train_b0/receipt.json" in inputs, "its settings are read"
    assert not [job for job in jobs(*map(str, options), parts=1) if job[0].startswith("part_")]


def test_parts_ask_slurm_for_a_gpu_time_and_memory():
    found = {rule: r for rule, _, _, r in jobs("--workflow-profile", str(PROFILE.parent), parts=4)}
    wanted = yaml.safe_load(PROFILE.read_text())["set-resources"]
    for name in LOOPS.values():
        asked = found[f"part_{name}"]
        assert asked["gpu"] == "1"
        for resource, value in wanted[f"part_{name}"].items():
            assert asked[resource] == str(value)
        assert int(found[name]["mem_mb"]) < int(asked["mem_mb"]), "to gather needs little"


def test_the_profile_names_rules_that_exist():
    rules = set(re.findall(r"rule (\w+):", (ROOT / "Snakefile").read_text()))
    rules |= {path.stem[3:] for path in (ROOT / "notebooks").glob("[0-9]*.py")}
    rules |= {f"part_{name}" for name in LOOPS.values()}
    wanted = yaml.safe_load(PROFILE.read_text())
    assert wanted["executor"] == "slurm"
    for part in ("set-resources", "set-threads"):
        assert set(wanted[part]) <= rules


@pytest.mark.slow
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
