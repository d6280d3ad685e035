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
# Run the chain of notebooks, or one training of it, on a machine with two T4 GPUs. `make kaggle`
# builds this notebook and the data set with the project's code; results are kept in
# `/kaggle/working/runs`. A session that ends before the work does is taken up by the next one: build
# again with `--resume`, which attaches its output, and push again.
#
# ## 1 Set-up
#
# ### 1.1 Import packages

# %%
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from IPython.display import display

# %% [markdown]
# ### 1.2 Define parameters

# %% tags=["parameters"]
# Profile to run, a file in notebooks/profiles.
profile = "gz2"
# Step to end with; empty for the whole chain.
until = ""
# Stop after this many hours; Kaggle ends a session after 12.
hours = 11.0
# File of the data set that holds the project's code.
wheel = ""
# Its SHA-256: this notebook runs with the code that it was built with, and no other.
wheel_sha256 = ""
# Install packages from the internet, or else from the wheels in that data set.
internet = True

# %% [markdown]
# ### 1.3 Find the code
#
# Kaggle mounts a data set directly below the inputs or, lately, below `datasets/<owner>`.

# %%
inputs = Path(os.environ.get("KAGGLE_INPUT", "/kaggle/input"))
found = [*inputs.glob(f"*/{wheel}"), *inputs.glob(f"datasets/*/*/{wheel}")]
fitting = [p for p in found if hashlib.sha256(p.read_bytes()).hexdigest() == wheel_sha256]
if not fitting:
    raise FileNotFoundError(
        f"{wheel} with SHA-256 {wheel_sha256} is not attached (found: {found}): upload the data set "
        "that was built together with this notebook"
    )

# %% [markdown]
# ### 1.4 Install the code
#
# Install the wheel alone, in a folder of its own: nothing that Kaggle has installed is changed.

# %%
packages = tempfile.mkdtemp()
install = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", packages]
subprocess.run([sys.executable, *install, str(fitting[0])], check=True)
sys.path.insert(0, packages)

# %% [markdown]
# Let the processes of the chain find it, and the project's files, too.

# %%
earlier_path = os.environ.get("PYTHONPATH", "")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [packages, earlier_path]))
os.environ.setdefault("SPIRAL_ARMS_ROOT", str(Path(tempfile.gettempdir()) / "spiral-arms"))

# %% [markdown]
# ### 1.5 Install what is missing
#
# Install packages that Kaggle lacks, in the versions of requirements.lock. A package that is there
# stays in its version, TensorFlow above all.

# %%
from lib.kaggle import packages as requirements

requirements.install_missing(None if internet else fitting[0].parent)

# %% [markdown]
# ### 1.6 Lay out the project
#
# Put notebooks, profiles and Snakefile in place. Two GPUs are asked for; where there is one, the
# trainings run one after the other.

# %%
from lib import profiles, steps
from lib.download import fetch_profile
from lib.kaggle import session

session.lay_out()
print("code:", session.lib.__path__[0])
print("GPUs:", len(steps.visible_gpus()))

# %% [markdown]
# ## 2 The run
#
# ### 2.1 Get the data
#
# Link to the attached survey, and download what is not attached.

# %%
run = profiles.load(profile)
fetch_profile(profile)

# %% [markdown]
# ### 2.2 Take up earlier sessions
#
# Take over what the attached outputs of earlier sessions hold, as far as it is whole.

# %%
print("already done:", ", ".join(session.restore(run)) or "nothing")

# %% [markdown]
# ### 2.3 Run
#
# Run what is left. Trainings run side by side, each on a GPU of its own; their state is saved after
# every epoch.

# %%
finished = session.run_chain(run, until, hours)

# %% [markdown]
# ### 2.4 Say how far it is
#
# Show the state of each step. What is begun is taken up by the next session.

# %%
display(session.progress(run))
