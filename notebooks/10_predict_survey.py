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
# # 10  Predict a survey
#
# **Question.** Which arm numbers does the trained network predict for galaxies without labels, how
# certain are they, and which images are unlike the training images?
#
# **Goes beyond** the paper, which classifies the galaxies of its own sample only.
#
# **Inputs**
# - `03_train_b0` (or another training step): the network, and the galaxies that calibrate it
# - `02_preprocessing`: how its images were made
# - a folder, text file or table of JPEG, PNG or FITS cut-outs; by default those galaxies of the
#   survey that the selection left out
#
# **Outputs**
# - `model/`: the network as `.keras` and ONNX with a card, ready to be applied elsewhere
# - `catalogue.parquet`, `.fits`, `.vot`: one row per cut-out (no `.vot` of very many)
# - figures
#
# The same on any number of images, in parallel and on clusters, is `make predict`; for a few
# galaxies, by file, name or position, it is the command `count-arms`.
#
# Terms of the field are explained in the [glossary](../docs/glossary.md).

# %% tags=["remove-input"]
# What made the outputs below: the run fills it in.

# %% [markdown]
# ## 1 Set-up
#
# ### 1.1 Packages
#
# Import the project's library; `lib.predict` exports the network and applies it.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from lib import evaluation, paths
from lib.figures import style
from lib.images import FITS, central_crop, decode
from lib.networks import weights
from lib.predict import package, survey
from lib.schema import InputError, probability_columns

style.use()

# %% [markdown]
# ### 1.2 Parameters
#
# Change these to take another network or other images. The defaults are those of the embedded,
# simulated survey.

# %% tags=["parameters"]
# Folder of the run; a relative path starts at the project root.
run_dir = "runs/mock"
# Name of this notebook's folder below it.
output = "10_predict_survey"
# Training step whose network is applied, e.g. 12_beyond_the_paper/arm_counter, and the run that it is
# of; empty for this one.
model = "03_train_b0"
model_run = ""
# Folder, text file or table of cut-outs; None takes the galaxies that the selection left out.
images = None
# Folder that relative image paths start from.
data_dir = "runs/mock/00_mock_survey"
# Galaxies at most, drawn at random, where images is None.
limit = 400
# Views of an image over which probabilities are averaged: 1, or 8 for its rotations and mirrors.
views = 8
# Images per shard.
shard_size = 200
# Seed of the galaxies that are drawn.
seed = 42

# %% [markdown]
# ### 1.3 Check of the parameters
#
# Stop here, before any work, if a value is not possible.

# %%
if limit < 1 or shard_size < 1 or views not in package.VIEWS:
    raise InputError(f"limit = {limit}, shard_size = {shard_size}, views = {views}: see above")
out, root = paths.output_folder(run_dir, output), paths.resolve(data_dir)
run_folder = paths.step_folder(model_run or run_dir, model)

# %% [markdown]
# ## 2 The network
#
# ### 2.1 Export
#
# Write the network as ONNX beside its `.keras`, and keep the features of its training galaxies. The
# export stops if the two networks differ by more than $10^{-4}$ on the validation galaxies. These
# also calibrate the probabilities with a temperature $T$, $q_m \propto p_m^{1/T}$ (Guo et al. 2017).

# %%
exported = package.export(run_folder, out / survey.MODEL)

# %% [markdown]
# ### 2.2 Model card
#
# Show the card that is kept beside the network.

# %%
display(Markdown(package.describe(exported.card).replace("\n# ", "\n#### ").lstrip("# ")))

# %% [markdown]
# ## 3 The images
#
# ### 3.1 List of images
#
# Unless a list is given, take galaxies that the selection left out: most of them are no face-on
# spirals, or spirals that volunteers did not agree on.

# %%
listed = paths.resolve(images) if images else out / "images.parquet"
if images is None:
    catalogue = paths.step_folder(run_dir, "01_sample_selection")
    votes = pd.read_parquet(catalogue / "votes.parquet", columns=["galaxy_id", "image_path"])
    selected = pd.read_parquet(catalogue / "sample.parquet", columns=["galaxy_id"])["galaxy_id"]
    drawn = votes[~votes["galaxy_id"].isin(selected)]
    drawn = drawn.sample(min(limit, len(drawn)), random_state=seed)
    drawn.sort_index().to_parquet(listed, index=False)

# %% [markdown]
# ### 3.2 Plan of the shards
#
# Copy the list into one file whose parts are the shards. A shard needs nothing but this plan and
# the network, so that shards can run side by side or on other machines.

# %%
plan = survey.plan(out / survey.MODEL, listed, out, root=root, views=views, shard_size=shard_size)
planned = survey.read_plan(plan)
print(f"{planned['galaxies']:,} images in {planned['shards']} shards")

# %% [markdown]
# ### 3.3 Overlap with the training of the initial weights
#
# Where the initial weights were trained on votes, count the galaxies of this list that were among
# them: their predictions are no test of the network.

# %%
start_weights = exported.card["initial_weights"]["source"]
if start_weights == "votes":
    origin, learnt = weights.learnt_from(exported.card["backbone"])
    asked = pd.read_parquet(out / survey.LIST, columns=["galaxy_id"])["galaxy_id"].astype("str")
    known = asked.isin(learnt.astype("str")).sum()
    display(
        Markdown(
            f"{known:,} of {len(asked):,} galaxies have the identifier of one of the {len(learnt):,} "
            f"galaxies of {origin!r} that {exported.card['backbone']} has learnt from. "
            + exported.card["seen"].get("note", "")
        )
    )

# %% [markdown]
# ## 4 The catalogue
#
# ### 4.1 Prediction
#
# Read, crop and bin each image as for the training, run the network, calibrate, and write the
# catalogue. An image that cannot be read costs its own row only.

# %%
start = time.perf_counter()
path = survey.run(plan)
rate = planned["galaxies"] / (time.perf_counter() - start)
rows = pd.read_parquet(path)

# %% [markdown]
# ### 4.2 The most certain rows
#
# Show the galaxies whose probabilities have the smallest entropy, $H = -\sum_m q_m \log_2 q_m$.

# %%
shown = rows.drop(columns=["image_path", "reason"]).sort_values(["entropy", "galaxy_id"])
display(shown.head(8).round(3))

# %% [markdown]
# ### 4.3 Images that could not be read
#
# Count the reasons; they are in the column `reason` of the catalogue.

# %%
counts = survey.summary(path)
unread = pd.Series(counts["reasons"], name="images", dtype=int).to_frame()
display(unread if len(unread) else Markdown("All images could be read."))

# %% [markdown]
# ## 5 Results
#
# ### 5.1 Classes and their certainty
#
# Compare how often each class is predicted with the mean of its probability, which estimates how
# frequent the class is. The entropy has its maximum, $\log_2$ of the number of classes, where all
# are equally probable.

# %%
read, classes = rows[rows["reason"] == ""], exported.classes
share = read["predicted"].value_counts(normalize=True).reindex(classes, fill_value=0)
mean = read[probability_columns(classes)].mean()
figure, (left, right) = plt.subplots(1, 2, figsize=(style.WIDTH, 2.6), layout="constrained")
left.bar(classes, share, color=[style.ARM_COLOURS[c] for c in classes], label="predicted class")
left.plot(classes, mean, "kD", markersize=5, label="mean probability")
left.set(xlabel="arm class m", ylabel="share of the galaxies")
right.hist(read["entropy"], bins=np.linspace(0, np.log2(len(classes)), 31), color="#0072B2")
right.axvline(np.log2(len(classes)), color="black", linestyle=":", label="all classes alike")
right.set(xlabel="entropy of the probabilities [bit]", ylabel="number of galaxies")
for axis in (left, right):
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=8)
style.show(
    figure,
    out / "classes.png",
    f"Left: share of each class among {len(read):,} galaxies. Right: smaller entropy is more certain.",
)

# %% [markdown]
# ### 5.2 Distance from the training galaxies
#
# The distance of a galaxy from the nearest training galaxy, of $k$ standardised features $x_i$, is
# $d = \min_j \sqrt{\sum_i (x_i - x_{ij})^2 / k}$. A galaxy is flagged beyond the 99th percentile of
# validation galaxies, which the network was not trained on.

# %%
held_out, distances = exported.reference.distances, read["training_distance"].to_numpy()
flag_limit = exported.card["out_of_distribution"]["flag_distance"]
both = np.concatenate([held_out, distances])
bins = np.linspace(both.min(), np.percentile(both, 99.5), 41)
figure, axis = plt.subplots(figsize=(style.WIDTH, 2.6), layout="constrained")
for values, name in ((held_out, "validation galaxies"), (distances, "this list")):
    share = np.full(len(values), 1 / len(values))
    axis.hist(values.clip(max=bins[-1]), bins, weights=share, histtype="step", lw=1.8, label=name)
axis.axvline(flag_limit, color="black", linestyle="--", label="flagged beyond")
axis.set(xlabel="distance from the nearest training galaxy", ylabel="share of the galaxies")
axis.legend()
style.show(
    figure,
    out / "distances.png",
    f"{counts['flagged']} of {len(read)} galaxies are flagged; the last bin holds all beyond it.",
)

# %% [markdown]
# ### 5.3 The extremes
#
# Choose the most certain, the least certain and the farthest galaxies among JPEG and PNG images.

# %%
pixels = exported.card["preprocessing"]
side, size = pixels["crop"] * pixels["binning"], pixels["size"]
drawn = read[~read["image_path"].str.lower().str.endswith(FITS)]
certain = {"most certain": drawn.nsmallest(6, "entropy")}
groups = certain | {"least certain": drawn.nlargest(6, "entropy")}
groups["farthest"] = drawn.nlargest(6, "training_distance")

# %% [markdown]
# Draw what the network sees of them, before binning.

# %%
if len(drawn):
    figure, axes = plt.subplots(3, 6, figsize=(style.WIDTH, 4.2), layout="constrained")
    for line, (name, part) in zip(axes, groups.items()):
        line[0].set_ylabel(name)
        for axis, row in zip(line, part.itertuples()):
            axis.imshow(central_crop(decode(root / row.image_path, size), side))
            title = f"m = {row.predicted}, {row.entropy:.1f} bit\nd = {row.training_distance:.2f}"
            axis.set_title(title, fontsize=7)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    style.show(
        figure,
        out / "extremes.png",
        f"Central {side} x {side} px, with the predicted class, the entropy and the distance d.",
    )

# %% [markdown]
# ### 5.4 Comparison with the truth of the simulation
#
# For the simulated survey, give per kind of galaxy the share that is flagged, and for true spirals
# the share whose class is right.

# %%
truth_path = root / "truth.parquet"
if truth_path.is_file() and images is None:
    truth = pd.read_parquet(truth_path, columns=["galaxy_id", "kind", "arm_class"])
    known = read.merge(truth, on="galaxy_id")
    known["right"] = (known["predicted"] == known["arm_class"]).where(known["kind"] == "spiral")
    table = known.groupby("kind").agg(
        galaxies=("kind", "size"),
        flagged=("out_of_distribution", "mean"),
        right=("right", "mean"),
        entropy=("entropy", "mean"),
    )
    display(table.sort_index().astype(float).round(3))

# %% [markdown]
# ### 5.5 Comparison with labels
#
# Where the list has a column `label`, as the sample of another survey has, score the network on it,
# beside the most frequent class, with 95 % confidence intervals. The galaxies have not been trained
# on, if the surveys have none in common.

# %%
labels = pd.read_parquet(listed) if listed.suffix == ".parquet" else pd.DataFrame()
if "label" in labels:
    label = labels.set_index(labels["galaxy_id"].astype(str))["label"].astype(str)
    found = read.set_index(read["galaxy_id"].astype(str))["predicted"].astype(str)
    label = label.loc[found.index]
    majority = pd.Series(label.mode()[0], found.index)
    said = {"network": found, f"always m = {majority.iloc[0]}": majority}
    matrices = {name: evaluation.confusion(label, p, classes) for name, p in said.items()}
    scores = {name: evaluation.score_intervals(m) for name, m in matrices.items()}
    display(matrices["network"], pd.concat(scores).round(3))

# %% [markdown]
# ## 6 Conclusions
#
# The numbers of this run.

# %%
share = counts["flagged"] / max(1, counts["predicted"])
expected = (100 - package.FLAG_PERCENTILE) / 100
display(
    Markdown(
        f"- The most frequent predicted class of {counts['predicted']:,} galaxies is "
        f"m = {read['predicted'].mode()[0]}; the median entropy is {read['entropy'].median():.2f} "
        f"of at most {np.log2(len(classes)):.2f} bit.\n"
        f"- {share:.1%} are unlike the training images; of galaxies drawn as the training sample "
        f"it would be {expected:.0%}.\n"
        f"- {counts['galaxies'] - counts['predicted']:,} images could not be read.\n"
        f"- {rate:,.0f} images per second, {views} orientation(s) each.\n"
        "- The paper applies its networks to its own sample only: there is no number to compare."
    )
)

# %% [markdown]
# ## Exercises
#
# 1. Set `views = 1` and run from 3.2 on: by how much does the median entropy change?
# 2. Set `images` and `data_dir` to a folder of JPEG images of your own, as large as those of the
#    survey, and run from 3.1 on: which are flagged?
# 3. Replace `0.5` in `read[read["p_2"] > 0.5]` by other limits, in a new cell: what share of these
#    galaxies is predicted as m = 2?
