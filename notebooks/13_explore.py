# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 13  Explore
#
# **Question.** What do volunteers and networks say of *this* galaxy, and where do the networks look?
#
# **Paper.** Sec. 5.3 and Figs. 9 and 10 show a few galaxies that the authors chose; here you choose.
#
# **Inputs** (of the run, `run_dir`)
# - `01_sample_selection/sample.parquet`: labels and votes
# - `02_preprocessing/`: the image cache
# - `03_train_b0/`, `04_train_v2m/`: the trained networks and their predictions
#
# **Outputs**
# - `examples.png`, `examples.csv`: a fixed page of galaxies
# - `selection.csv`, `selection.vot`: the galaxies that you have filtered, when you press *save
#   selection*; the second is a VOTable, which TOPCAT and Aladin read
#
# In JupyterLab, run all cells and go to section 4. In batch there is nobody to turn a page, so the
# notebook shows the fixed page of section 3 only; the pages of the documentation do so too.
#
# Terms of the field are explained in the [glossary](../docs/glossary.md).

# %% tags=["remove-input"]
# What made the outputs below: the run fills it in.

# %% [markdown]
# ## 1 Set-up
#
# ### 1.1 Import packages

# %%
from functools import partial

import numpy as np
import pandas as pd
import tensorflow as tf
from IPython.display import Markdown, display
from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
from tf_keras_vis.saliency import Saliency

from lib import paths
from lib.explain import explore
from lib.explain.subject import open_subject
from lib.figures import explain as figures
from lib.figures import style
from lib.schema import RHO_COLUMNS, InputError, probability_columns

style.use()

# %% [markdown]
# ### 1.2 Define parameters
#
# The defaults are those of the embedded survey.

# %% tags=["parameters"]
# Folder of the run; a relative path starts at the project root.
run_dir = "runs/mock"
# Name of this notebook's output folder below `run_dir`.
output = "13_explore"
# Step below `run_dir` that trained the first network.
b0 = "03_train_b0"
# Step that trained the second network.
v2m = "04_train_v2m"
# Step that made the image cache.
images = "02_preprocessing"
# Part of the sample that the fixed page is chosen from.
split = "validation"
# Galaxies on a page of the browser.
per_page = 3
# %% [markdown]
# ## 2 The galaxies
#
# ### 2.1 Open networks and images
#
# Load both networks with the weights that were scored, and the sample.

# %%
if per_page < 1:
    raise InputError(f"per_page = {per_page}: it must be at least 1")
out = paths.output_folder(run_dir, output)
subjects = {s.name: s for s in (open_subject(run_dir, step, images) for step in (b0, v2m))}
classes = subjects["B0"].run.classes
sample = pd.read_parquet(paths.step_folder(run_dir, "01_sample_selection") / "sample.parquet")

# %% [markdown]
# ### 2.2 Put votes and predictions side by side
#
# Join the votes of the volunteers with both networks' predictions, and sort by their *disagreement*
# $\tfrac{1}{2}\sum_c |p_c - q_c|$ over the classes $c$: 0 where they say the same, 1 where they have no
# class in common.

# %%
told = {role: s.table().set_index("galaxy_id") for role, s in subjects.items()}
both = told["B0"].join(told["V2M"], how="inner", lsuffix="_B0", rsuffix="_V2M")
p = [both[[f"{c}_{role}" for c in probability_columns(classes)]].to_numpy() for role in told]
both = both.filter(regex="^pr").assign(label=both["label_B0"], split=both["split_B0"])
both["disagreement"] = np.abs(p[0] - p[1]).sum(axis=1) / 2
table = both.join(sample.set_index("galaxy_id")[list(RHO_COLUMNS)], how="inner").reset_index()
table = table.sort_values(["disagreement", "galaxy_id"], ascending=[False, True])
display(table.head().round(3))

# %% [markdown]
# ### 2.3 Define the maps
#
# Explain the logit of the predicted class by Grad-CAM++ and SmoothGrad, as notebook 05 does, which has
# their equations and tests. What has been made once is kept in the run's cache.


# %%
def logit(target):
    return lambda logits: logits[:, target] - tf.stop_gradient(logits[:, target])


def grad_cam_plus_plus(network, image, target):
    small = GradcamPlusPlus(network, clone=False)(
        logit(target),
        image[None],
        penultimate_layer="top_activation",
        seek_penultimate_conv_layer=False,
        expand_cam=False,
        normalize_cam=False,
    )
    return tf.image.resize(small[0, ..., None], image.shape[:2])[..., 0]


# %% [markdown]
# SmoothGrad averages over 20 noisy copies of the image; fewer are quicker.

# %%
seed = 42


def smooth_grad(network, image, target):
    noise = np.random.default_rng(seed).normal(size=(20, *image.shape)).astype("float32")
    noise *= 0.20 * (tf.reduce_max(image) - tf.reduce_min(image))
    slopes = Saliency(network, clone=False)(
        logit(target), image + noise, keepdims=True, normalize_map=False, gradient_modifier=tf.abs
    )
    return tf.reduce_max(tf.reduce_mean(slopes, axis=0), axis=-1)


methods = {"Grad-CAM++": grad_cam_plus_plus, "SmoothGrad": smooth_grad}

# %% [markdown]
# ## 3 A fixed page
#
# Take, of each label, the galaxy that the networks disagree on most.

# %%
chosen = table[table["split"] == split].drop_duplicates("label").sort_values("label")
chosen.to_csv(out / "examples.csv", index=False)
display(chosen.round(3))

# %% [markdown]
# Draw each with the volunteers' votes, and of each network the class probabilities, Grad-CAM++ and
# SmoothGrad for the class that it predicts. See whether both networks look at the same place.


# %%
draw = partial(figures.page, subjects=subjects, methods=methods)
caption = (
    f"The {split} galaxy of each label that the networks disagree on most: votes, and of each "
)
caption += "network the probabilities, and its maps for the class it predicts."
style.show(draw(chosen), out / "examples.png", caption)

# %% [markdown]
# ## 4 Your galaxies
#
# Filter by label, by a network's prediction and its probability, by disagreement, or by a part of
# the identifier; turn the pages; save what is left as a table. A page takes some seconds when its
# maps are made for the first time.

# %%
if paths.in_batch():
    display(Markdown("*Run this notebook in JupyterLab to browse galaxies here.*"))
else:
    browser = explore.Browser(table, classes, subjects, draw, out, per_page)
    display(browser.widget)

# %% [markdown]
# ## 5 What was found
#
# Say how often the networks agree.

# %%
agree = (table["predicted_B0"] == table["predicted_V2M"]).mean()
most = table.iloc[0]
display(
    Markdown(
        f"Both networks name the same class for {agree:.1%} of {len(table):,} galaxies; the median "
        f"disagreement of their probabilities is {table['disagreement'].median():.2f}. They "
        f"disagree most on galaxy {most['galaxy_id']}, which volunteers label m = {most['label']}: "
        f"B0 says m = {most['predicted_B0']} (p = {most['probability_B0']:.2f}), V2M m = "
        f"{most['predicted_V2M']} (p = {most['probability_V2M']:.2f}). The paper compares its "
        "networks by their scores only (Table 3)."
    )
)

# %% [markdown]
# ## Exercises
#
# 1. In section 3 take the galaxies on which the networks agree most (`table[::-1]` for `table`) and
#    draw them. What do their votes have in common?
# 2. In section 4 show the galaxies with label 4 that B0 calls 3, and save them. Open `selection.vot`
#    in TOPCAT.
