# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Spiral arms on Kaggle
#
# Run the notebooks of a profile on a machine with two T4 GPUs. `make kaggle` builds this notebook and
# the dataset with the project's code; results are kept in `/kaggle/working/runs`. A session that ends
# before the work does is taken up by the next one: build again with `--resume`, which attaches its
# output, and push again.
#
# ## 1 Set-up
#
# ### 1.1 Import packages

# %%
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

# %% [markdown]
# ### 1.2 Define parameters

# %% tags=["parameters"]
# Profile to run, a file in notebooks/profiles.
profile = "gz2"
# Stop after this many hours; Kaggle ends a session after 12.
hours = 11.0
# File of the dataset that holds `lib`.
wheel = ""
# Its SHA-256: this notebook runs with the code that it was built with, and no other.
wheel_sha256 = ""

# %% [markdown]
# ### 1.3 Find the code
#
# Kaggle mounts a dataset directly below the inputs or, lately, below `datasets/<owner>`.

# %%
inputs = Path(os.environ.get("KAGGLE_INPUT", "/kaggle/input"))
found = [*inputs.glob(f"*/{wheel}"), *inputs.glob(f"datasets/*/*/{wheel}")]
fitting = [p for p in found if hashlib.sha256(p.read_bytes()).hexdigest() == wheel_sha256]
if not fitting:
    raise FileNotFoundError(
        f"{wheel} with SHA-256 {wheel_sha256} is not attached (found: {found}): upload the dataset "
        "that was built together with this notebook"
    )
code = fitting[0].parent

# %% [markdown]
# ### 1.4 Install what is missing
#
# Install the packages that are not here, each alone (`--no-deps`): whatever Kaggle has installed stays
# as it is, TensorFlow with its GPU libraries above all.

# %%
here = {canonicalize_name(d.metadata["Name"] or "") for d in metadata.distributions()}
pins = (code / "requirements.txt").read_text(encoding="utf-8").split()
missing = [pin for pin in pins if pin.partition("==")[0] not in here]
print("installing", ", ".join(missing) or "nothing")
pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
if missing:
    subprocess.run([*pip, *missing], check=True)

# %% [markdown]
# Install `lib` in a folder of its own, and let the processes of the chain find it.

# %%
packages = tempfile.mkdtemp()
subprocess.run([*pip, "--no-index", "--target", packages, str(fitting[0])], check=True)
sys.path.insert(0, packages)
earlier_path = os.environ.get("PYTHONPATH", "")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [packages, earlier_path]))

# %% [markdown]
# ### 1.5 Lay out the project
#
# Put notebooks, profiles and Snakefile outside of what Kaggle keeps, with a link to the results, so
# that downloads and attached images are not kept too.

# %%
root = Path(tempfile.mkdtemp()) / "spiral-arms"
shutil.copytree(code / "project", root)
runs = Path(os.environ.get("KAGGLE_WORKING", "/kaggle/working")) / "runs"
runs.mkdir(exist_ok=True)
(root / "runs").symlink_to(runs, target_is_directory=True)
os.environ["SPIRAL_ARMS_ROOT"] = str(root)

# %% [markdown]
# ## 2 The run
#
# ### 2.1 Get the data
#
# Link to the attached survey, and download what is not attached.

# %%
from lib.workflow import download, kaggle, profiles

chosen = profiles.load(profile)
download.fetch_profile(profile)

# %% [markdown]
# ### 2.2 Take up earlier sessions
#
# Take over what the attached output of an earlier session holds.

# %%
print("already done:", ", ".join(kaggle.restore(chosen)) or "nothing")

# %% [markdown]
# ### 2.3 Run
#
# Run what is left, until time is up. Where there are two GPUs, trainings run side by side. What is
# under way at the end is killed: a training's state is whole on the disk after every epoch, and the
# next session goes on from there.

# %%
chain = [sys.executable, "-m", "lib.workflow.steps", "chain", "--profile", profile]
limit = ["timeout", "--kill-after=60", f"{3600 * hours:.0f}"]
status = subprocess.run([*limit, *chain], cwd=root).returncode
if status == 124:  # as `timeout` says that time was up
    print(f"stopped after {hours:g} h; the next session goes on from here")
elif status:
    raise RuntimeError(f"profile {profile} is not complete: see the message(s) above")

# %% [markdown]
# ### 2.4 Say how far it is
#
# Show which steps are done. What is begun is taken up by the next session.

# %%
for step in chosen.steps:
    states = {f"{step}/receipt.json": "done", f"{step}.partial": "begun"}
    there = [state for name, state in states.items() if (runs / profile / name).exists()]
    print(step, *there[:1] or ["not begun"])
