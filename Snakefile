# The flow of the analysis: one rule per notebook, files between the steps.
#
# A rule is one papermill run of one notebook, in a process of its own (lib.steps). It is done when
# its receipt is there, and done again when its notebook, its parameters, the bundled weights that it
# starts from or the receipt of a step before it has changed. `make run` calls this file; by hand:
#     .venv/bin/snakemake --cores 2 --config profile=mock
import json
import os
import re
import sys
from pathlib import Path

from lib import profiles, receipts
from lib.processes import end_with_the_chain

end_with_the_chain()

PROFILE = profiles.load(config.get("profile", "mock"), config.get("data"))
DATA = f"--data '{config['data']}'" if config.get("data") else ""

# step: the steps whose files it reads (those that the profile has)
FLOW = {
    "00_mock_survey": [],
    "01_sample_selection": ["00_mock_survey"],
    "02_preprocessing": ["01_sample_selection"],
    "03_train_b0": ["01_sample_selection", "02_preprocessing"],
    "04_train_v2m": ["01_sample_selection", "02_preprocessing"],
    "05_explainability": ["02_preprocessing", "03_train_b0", "04_train_v2m"],
    "06_stellar_mass": ["01_sample_selection", "03_train_b0", "04_train_v2m"],
    "07_image_size": [],
    "08_class_balance": ["01_sample_selection", "03_train_b0"],
    "09_model_comparison": ["01_sample_selection", "03_train_b0", "04_train_v2m"],
    "10_predict_survey": ["01_sample_selection", "02_preprocessing", "03_train_b0"],
    "11_pretrain_backbone": ["01_sample_selection", "02_preprocessing"],
    "12_beyond_the_paper": ["01_sample_selection", "02_preprocessing"],
    "13_explore": ["01_sample_selection", "02_preprocessing", "03_train_b0", "04_train_v2m"],
}
GPUS = max(1, int(config.get("gpus", 0)))
USES_GPU = {
    "03_train_b0",
    "04_train_v2m",
    "05_explainability",
    "11_pretrain_backbone",
    "12_beyond_the_paper",
    "13_explore",
}


def receipt(step):
    return f"{PROFILE.run_dir}/{step}/receipt.json"


def bundled_weights(step, parameters):
    """Files of weights that travel with the project, where the step starts from them."""
    settings = {**profiles.default_parameters(step), **parameters}
    return [os.path.relpath(path) for path in receipts.bundled_weights(settings)]


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


def sweep_runs(**wanted):
    """Output folders of the profile's sweep runs with the wanted `sweep` or `step`."""
    runs = PROFILE.sweep_runs.items()
    return [out for out, run in runs if all(getattr(run, k) == v for k, v in wanted.items())]


rule all:
    input:
        [receipt(step) for step in PROFILE.steps],


for step in PROFILE.steps:

    rule:
        name:
            step[3:]
        input:
            f"notebooks/{step}.py",
            after=[receipt(need) for need in FLOW[step] if need in PROFILE.steps]
            + [receipt(run) for run in sweep_runs(sweep=step)],
            weights=bundled_weights(step, PROFILE.overrides[step]),
        output:
            # `update`: an earlier result is kept until lib.steps puts a whole one in its place
            update(receipt(step)),
        params:
            step=step,
            # Not in the command itself: Snakemake reads `step` there when the loop has ended.
            gpu="--gpu" if step in USES_GPU else "",
            settings=PROFILE.overrides[step],
        threads: share_of_cores() if step in USES_GPU else 1
        resources:
            gpu=gpus_of(PROFILE.overrides[step]) if step in USES_GPU else 0,
        # What other steps wait for comes before the runs of sweeps.
        priority: 2
        shell:
            f"'{sys.executable}' -m lib.launcher run {{params.step}} "
            f"--profile {PROFILE.name} {DATA} {{params.gpu}} --after {{input.after}}"


# Sweeps: a training notebook run many times, one job per run (lib.sweeps).
for step in sorted({run.step for run in PROFILE.sweep_runs.values()}):

    rule:
        name:
            f"sweep_{step[3:]}"
        input:
            f"notebooks/{step}.py",
            after=[receipt(need) for need in FLOW[step] if need in PROFILE.steps],
            weights=lambda wildcards, step=step: bundled_weights(
                step, PROFILE.sweep_runs[wildcards.run].parameters
            ),
        output:
            update(receipt("{run}")),
        wildcard_constraints:
            run="|".join(map(re.escape, sweep_runs(step=step))),
        params:
            settings=lambda wildcards: PROFILE.sweep_runs[wildcards.run].parameters,
        threads: share_of_cores()
        # Fine-tuning takes longest: left for the end, it would run when nothing else does.
        priority: int(step == "04_train_v2m")
        resources:
            gpu=lambda wildcards: gpus_of(PROFILE.sweep_runs[wildcards.run].parameters),
        shell:
            f"'{sys.executable}' -m lib.launcher run '{{wildcards.run}}' "
            f"--profile {PROFILE.name} {DATA} --gpu --after {{input.after}}"


# A survey: shards of the images of a plan (lib.predict), and the catalogue that gathers them.
# `make predict` writes the plan and calls this; by hand: --config predict=<plan.json> predict_gather
if "predict" in config:
    SURVEY = Path(config["predict"]).parent
    SHARDS = json.loads(Path(config["predict"]).read_text())["shards"]

    rule predict_shard:
        input:
            config["predict"],
        output:
            f"{SURVEY}/shards/{{number}}.parquet",
        wildcard_constraints:
            number=r"\d{6}",
        threads: 4
        shell:
            f"'{sys.executable}' -m lib.predict shard '{{input}}' {{wildcards.number}} --threads {{threads}}"

    rule predict_gather:
        input:
            [f"{SURVEY}/shards/{number:06d}.parquet" for number in range(SHARDS)],
            plan=config["predict"],
        output:
            # A VOTable too, but not of very many galaxies.
            [f"{SURVEY}/{name}" for name in ("catalogue.parquet", "catalogue.fits")],
        shell:
            f"'{sys.executable}' -m lib.predict gather '{{input.plan}}'"
