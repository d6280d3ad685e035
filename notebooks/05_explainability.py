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
# # 05  Explainability
#
# **Question:** which parts of a galaxy decide how many arms a network sees, and can the maps that
# claim to show it be believed?
#
# Reproduces Sec. 5.3 and Figs. 8, 9 and 10 of Lee, Soo & Sharoni (arXiv:2412.11696), for the very
# models whose scores notebook 09 reports. (The authors trained separate models for their maps.)
#
# **Inputs**
#
# * `02_preprocessing`: the image cache
# * `03_train_b0` and `04_train_v2m`: saved models and their predictions
#
# **Outputs**
#
# * `fig08_feature_maps.png`, `fig09_*.png`, `fig10_*.png`: the paper's figures
# * `fig09.csv`, `fig10.csv`: the galaxies in them

# %% [markdown]
# ## 1 Set-up
#
# ### 1.1 Import packages
#
# TensorFlow's start-up messages say nothing about this analysis, so they are turned off first.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pandas as pd
from IPython.display import Markdown, display

from lib import paths
from lib.explain import gallery, maps
from lib.explain.maps import MapSettings
from lib.explain.subject import open_subject
from lib.figures import explain as figures
from lib.figures import style

style.use()

# %% [markdown]
# ### 1.2 Define parameters
#
# The defaults are those of the `mock` profile. An astronomer who wants to see *her* galaxy puts its
# identifier into `galaxy_ids`.

# %% tags=["parameters"]
# Folder of the run, relative to the project.
run_dir = "runs/mock"
# Name of this notebook's output folder below `run_dir`.
output = "05_explainability"
# Steps below `run_dir` that trained the two models, and the one that made the image cache.
b0 = "03_train_b0"
v2m = "04_train_v2m"
images = "02_preprocessing"
# Identifiers of galaxies to explain in section 5; empty shows the surest galaxy of each class.
galaxy_ids = []
# Part of the sample that all galaxies are chosen from.
split = "validation"
# Galaxies per class in Figs. 9 and 10.
per_class = 2
# Galaxies class whose surest example Fig. 8 shows.
feature_class = "2"
# Layers of B0 that Fig. 8 shows, and rows and columns of tiles for each (the authors' choice).
feature_layers = ["block2a_activation", "block3a_activation", "block5a_activation"]
feature_tiles = [[4, 8], [8, 16], [12, 24]]
# SmoothGrad: noisy copies per galaxy, and noise as a fraction of the image's range.
smooth_samples = 20
smooth_noise = 0.20
# Colour map of the maps: cividis is safe for colour-blind eyes; the paper used jet.
colours = "cividis"
# Images that pass through a network at once; bounds the memory.
batch = 16
# Seed of everything random.
seed = 42

# %% [markdown]
# ### 1.3 Load both models as they were scored
#
# A map explains the logit of the *predicted* class: with the softmax left in, a confident network
# has almost no gradient. Both models are treated alike.

# %%
out = paths.output_folder(run_dir, output)
settings = MapSettings(
    smooth_samples=smooth_samples, smooth_noise=smooth_noise, batch=batch, seed=seed
)
subjects = {
    subject.name: subject
    for subject in (open_subject(run_dir, step, images, settings) for step in (b0, v2m))
}

# %% [markdown]
# State which networks these are, and that they give the probabilities that were scored.

# %%
checked = {
    name: s.reproduces(s.run.predictions.query("split == @split").head(batch))
    for name, s in subjects.items()
}
display(
    pd.DataFrame(
        {
            name: {
                **{k: s.run.settings[k] for k in ("backbone", "weights", "colour", "crop")},
                "largest difference from saved probabilities": f"{checked[name]:.1e}",
            }
            for name, s in subjects.items()
        }
    )
)

# %% [markdown]
# ## 2 Feature maps at three depths (Fig. 8)
#
# Take the galaxy of class `feature_class` that B0 is surest about.

# %%
first = subjects["B0"]
surest = gallery.top_scoring(first.run.predictions, first.run.classes, correct=True, split=split)
right = surest[surest["reason"] == ""]
example = pd.concat([right.query("label == @feature_class"), right]).head(1)
if example.empty:
    example = first.run.predictions.query("split == @split").head(1)
display(example.drop(columns="reason", errors="ignore"))

# %% [markdown]
# Draw what the channels of three layers respond to.

# %%
features = maps.feature_maps(first.run.model, first.inputs(example["galaxy_id"])[0], feature_layers)
style.show(
    figures.feature_tiles(features, feature_tiles),
    out / "fig08_feature_maps.png",
    f"Feature maps of B0 at three depths for galaxy {example['galaxy_id'].iloc[0]} "
    f"(m = {example['label'].iloc[0]}), each channel stretched to its own range. With depth the "
    "maps become coarser and more abstract. Compare with the paper's Fig. 8.",
)

# %% [markdown]
# ## 3 Galaxies that the models are surest about (Fig. 9)
#
# Choose, per class, the correctly classified galaxies with the highest probability.

# %%
fig09 = {
    name: gallery.top_scoring(
        s.run.predictions, s.run.classes, correct=True, count=per_class, split=split
    )
    for name, s in subjects.items()
}
table = pd.concat(fig09, names=["model"]).droplevel(1).reset_index()
table.to_csv(out / "fig09.csv", index=False)
display(table)

# %% [markdown]
# Draw each galaxy with its Grad-CAM++ and SmoothGrad maps. An empty cell says how many galaxies of
# the class the model got right.

# %%
for name, s in subjects.items():
    chosen = fig09[name]
    shown = chosen[chosen["reason"] == ""]
    made = {method: s.maps(method, shown) for method in ("Grad-CAM++", "SmoothGrad")}
    style.show(
        figures.gallery(chosen, s.cutouts(shown["galaxy_id"]), made, colours),
        out / f"fig09_{name}.png",
        f"{name}: the correctly classified {split} galaxies with the highest probability p, with "
        "their Grad-CAM++ and SmoothGrad maps for the predicted class (label → prediction). "
        "Compare with the paper's Fig. 9.",
    )

# %% [markdown]
# ## 4 Galaxies that the models are surest about and get wrong (Fig. 10)
#
# The same for misclassified galaxies; the maps explain the class that was predicted.

# %%
fig10 = {
    name: gallery.top_scoring(
        s.run.predictions, s.run.classes, correct=False, count=per_class, split=split
    )
    for name, s in subjects.items()
}
table = pd.concat(fig10, names=["model"]).droplevel(1).reset_index()
table.to_csv(out / "fig10.csv", index=False)
display(table)

# %% [markdown]
# Look for what pulled the model to the wrong class.

# %%
for name, s in subjects.items():
    chosen = fig10[name]
    shown = chosen[chosen["reason"] == ""]
    made = {method: s.maps(method, shown) for method in ("Grad-CAM++", "SmoothGrad")}
    style.show(
        figures.gallery(chosen, s.cutouts(shown["galaxy_id"]), made, colours),
        out / f"fig10_{name}.png",
        f"{name}: the misclassified {split} galaxies with the highest probability p of the class "
        "predicted (label → prediction), with their maps. Compare with the paper's Fig. 10.",
    )

# %% [markdown]
# ## 5 Your galaxy, by every method
#
# Look up the galaxies of `galaxy_ids`, or else the first model's surest galaxy of each class.

# %%
for name, s in subjects.items():
    wanted = galaxy_ids or fig09["B0"].query("reason == '' and rank == 0")["galaxy_id"].tolist()
    asked = gallery.by_id(s.run.predictions, wanted)
    asked["probability"] = asked.filter(regex="^p_").max(axis=1)
    made = {method: s.maps(method, asked) for method in maps.METHODS}
    style.show(
        figures.methods_row(asked, s.cutouts(asked["galaxy_id"]), made, colours),
        out / f"methods_{name}.png",
        f"{name}: five attribution methods for the predicted class of the same galaxies. They need "
        "not agree; the scoreboard below says which to trust.",
    )
