# The flow of the analysis: one rule per notebook, files between the steps.
#
# A rule is one papermill run of one notebook, in a process of its own (lib.steps). It is done when
# its receipt is there, and done again when its notebook, its parameters or the receipt of a step
# before it has changed. `make run` calls this file; by hand:
#     .venv/bin/snakemake --cores 2 --config profile=mock
import json
import sys
from pathlib import Path

from lib import profiles

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
    "09_model_comparison": ["01_sample_selection", "03_train_b0", "04_train_v2m"],
    "10_predict_survey": ["01_sample_selection", "02_preprocessing", "03_train_b0"],
    "11_pretrain_backbone": [],
    "13_explore": ["01_sample_selection", "02_preprocessing", "03_train_b0", "04_train_v2m"],
}
GPUS = int(config.get("gpus", 1))
USES_GPU = {
    "03_train_b0",
    "04_train_v2m",
    "05_explainability",
    "11_pretrain_backbone",
    "13_explore",
}


def receipt(step):
    return f"{PROFILE.run_dir}/{step}/receipt.json"


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
        output:
            # `update`: an earlier result is kept until lib.steps puts a whole one in its place
            update(receipt(step)),
        params:
            step=step,
            settings=PROFILE.overrides[step],
        # one training per GPU; on a CPU, one at a time on all cores
        threads: max(1, workflow.cores // GPUS) if step in USES_GPU else 1
        resources:
            gpu=int(step in USES_GPU),
        shell:
            f"'{sys.executable}' -m lib.steps run {{params.step}} "
            f"--profile {PROFILE.name} {DATA} {'--gpu' if step in USES_GPU else ''} --after {{input.after}}"


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
            [f"{SURVEY}/{name}" for name in ("catalogue.parquet", "catalogue.fits", "catalogue.vot")],
        shell:
            f"'{sys.executable}' -m lib.predict gather '{{input.plan}}'"
