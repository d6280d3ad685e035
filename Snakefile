# The flow of the analysis: one rule per notebook, files between the steps.
#
# A rule is one papermill run of one notebook, in a process of its own (lib.workflow.steps). It is done
# when its receipt is there, and done again when its notebook, its parameters, the weights that it starts
# from or the receipt of a step before it has changed. `make run` calls this file, and tells it
# which steps are to be done again since the code that they import has changed; by hand:
#     .venv/bin/snakemake --cores 2 --config profile=mock
import json
import os
import re
import shlex
import sys
from pathlib import Path

from lib.workflow import profiles
from lib.workflow.processes import end_with_the_chain

end_with_the_chain()

# From `make run` in the environment: `--config` takes some paths for numbers, others for YAML.
DATA = config.get("data") or os.environ.get(profiles.DATA)
PROFILE = profiles.load(config.get("profile", "mock"), DATA or None)


def quoted(*words):
    """Words for a shell command that Snakemake formats, whatever characters they hold."""
    return as_it_is(shlex.join(words))


def as_it_is(text):
    """A text in which Snakemake finds no wildcards."""
    return text.replace("{", "{{").replace("}", "}}")


PYTHON = quoted(sys.executable)
OPTIONS = quoted("--profile", PROFILE.name, *(["--data", DATA] if DATA else []))

# step: the steps whose files it reads (those that the profile has)
FLOW = {
    "00_mock_survey": [],
    "01_sample_selection": ["00_mock_survey"],
    "02_preprocessing": ["01_sample_selection"],
    "03_train_b0": ["01_sample_selection", "02_preprocessing"],
    "04_train_v2m": ["01_sample_selection", "02_preprocessing"],
    "05_explainability": ["02_preprocessing", "03_train_b0", "04_train_v2m"],
    "06_stellar_mass": ["01_sample_selection", "03_train_b0", "04_train_v2m"],
    "07_image_size": ["01_sample_selection", "02_preprocessing", "03_train_b0", "04_train_v2m"],
    "08_class_balance": ["01_sample_selection", "02_preprocessing", "03_train_b0"],
    "09_model_comparison": [
        *("01_sample_selection", "02_preprocessing", "03_train_b0", "04_train_v2m"),
    ],
    "10_predict_survey": ["01_sample_selection", "02_preprocessing", "03_train_b0"],
    "11_pretrain_backbone": ["01_sample_selection", "02_preprocessing"],
    "12_beyond_the_paper": ["01_sample_selection", "02_preprocessing"],
    "13_explore": ["01_sample_selection", "02_preprocessing", "03_train_b0", "04_train_v2m"],
    # The scoreboard tells what the steps of the run have found.
    "14_paper_audit": [
        *("01_sample_selection", "02_preprocessing", "03_train_b0", "04_train_v2m"),
        *("05_explainability", "06_stellar_mass", "07_image_size", "09_model_comparison"),
    ],
}
GPUS = max(1, int(config.get("gpus", 0)))
# Loops of trainings, which so many jobs share (`--config parts=4`) before their step gathers them.
LOOPS = ("07_image_size", "08_class_balance", "09_model_comparison")
PARTS = int(config.get("parts", 1))
USES_GPU = {
    "03_train_b0",
    "04_train_v2m",
    "05_explainability",
    *LOOPS,
    "11_pretrain_backbone",
    "12_beyond_the_paper",
    "13_explore",
}


def receipt(step):
    return f"{PROFILE.run_dir}/{step}/receipt.json"


def weights(step):
    """Files of weights that the step starts from."""
    return [os.path.relpath(path) for path in profiles.weights_files(step, PROFILE.settings(step))]


def gpus_of(parameters):
    """A step takes one GPU; a training that is divided between all of them takes all."""
    if not config.get("gpus"):
        return 0
    return GPUS if parameters.get("devices") == "all" else 1


def share_of_cores():
    """Cores of a step that trains or explains: those of its GPU, or its own on a CPU.

    There two at least go at a time, since none of them keeps all cores busy.
    """
    return max(1, workflow.cores // GPUS if config.get("gpus") else min(4, workflow.cores // 2))


def parts(step):
    """Marks that the parts of a step's trainings are done, if several jobs share them."""
    if step not in LOOPS or PARTS == 1:
        return []
    return [f"{PROFILE.run_dir}/.{step}.{k}-of-{PARTS}" for k in range(1, PARTS + 1)]


rule all:
    input:
        [receipt(step) for step in PROFILE.steps],


for step in PROFILE.steps:

    rule:
        name:
            step[3:]
        input:
            f"notebooks/{step}.py",
            after=[receipt(need) for need in FLOW[step] if need in PROFILE.steps],
            parts=parts(step),
            weights=weights(step),
        output:
            # `update`: an earlier result is kept until a whole one is put in its place
            update(receipt(step)),
        params:
            step=step,
            # Not in the command itself: Snakemake reads `step` there when the loop has ended.
            gpu="--gpu" if step in USES_GPU else "",
            settings=PROFILE.overrides[step],
        threads: share_of_cores() if step in USES_GPU else 1
        resources:
            gpu=gpus_of(PROFILE.overrides[step]) if step in USES_GPU else 0,
        shell:
            f"{PYTHON} -m lib.workflow.steps run {{params.step}} {OPTIONS} {{params.gpu}} "
            "--after {input.after:q}"


# A part of a loop of trainings: the same notebook, up to them. They have folders of their own.
for step in [step for step in PROFILE.steps if step in LOOPS and PARTS > 1]:

    rule:
        name:
            f"part_{step[3:]}"
        input:
            f"notebooks/{step}.py",
            [receipt(need) for need in FLOW[step] if need in PROFILE.steps],
        output:
            temp(touch(f"{as_it_is(PROFILE.run_dir)}/.{step}.{{k}}-of-{PARTS}")),
        params:
            step=step,
            settings=PROFILE.overrides[step],
        threads: share_of_cores()
        resources:
            gpu=gpus_of(PROFILE.overrides[step]),
        shell:
            f"{PYTHON} -m lib.workflow.steps run {{params.step}} {OPTIONS} --gpu --part {{wildcards.k}}/{PARTS}"


# A survey: shards of the images of a plan (lib.predict), and the catalogue that gathers them.
# `make predict` writes the plan and calls this; by hand: --config predict=<plan.json> predict_gather
if "predict" in config:
    PLAN = as_it_is(config["predict"])
    SURVEY = Path(PLAN).parent
    SHARDS = json.loads(Path(config["predict"]).read_text(encoding="utf-8"))["shards"]

    rule predict_shard:
        input:
            PLAN,
        output:
            f"{SURVEY}/shards/{{number}}.parquet",
        wildcard_constraints:
            number=r"\d{6}",
        threads: 4
        shell:
            f"{PYTHON} -m lib.predict shard {{input:q}} {{wildcards.number}} --threads {{threads}}"

    rule predict_gather:
        input:
            [f"{SURVEY}/shards/{number:06d}.parquet" for number in range(SHARDS)],
            plan=PLAN,
        output:
            # A VOTable too, but not of very many galaxies.
            [f"{SURVEY}/{name}" for name in ("catalogue.parquet", "catalogue.fits")],
        shell:
            f"{PYTHON} -m lib.predict gather {{input.plan:q}}"
