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
# **Question.** What does the trained network say of galaxies that nobody has labelled, how sure is
# it, and which of them are unlike anything it was trained on?
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
# The same on any number of images, in parallel and on clusters, is `make predict`.
#
# Terms of the field are explained in the [glossary](../docs/glossary.md).

# %% tags=["remove-input"]
# What made the outputs below: the run fills it in.

# %% [markdown]
# ## 1 Set-up
#
# ### 1.1 Import packages
#
# Import the project's library; `lib.predict` exports the network and applies it.

# %%
import time

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from lib import paths
from lib.figures import predict as figures
from lib.figures import style
from lib.images import central_crop, decode
from lib.networks import weights
from lib.predict import package, survey
from lib.schema import InputError

style.use()

# %% [markdown]
# ### 1.2 Define parameters
#
# Change these to take another network or other images. The defaults are those of the embedded,
# simulated survey.

# %% tags=["parameters"]
# Folder of the run; a relative path starts at the project root.
run_dir = "runs/mock"
# Name of this notebook's folder below it.
output = "10_predict_survey"
# Training step whose network is applied, e.g. 12_beyond_the_paper/arm_counter.
model = "03_train_b0"
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
# ### 1.3 Check the parameters
#
# Stop here, before any work, if a value is not possible.

# %%
if limit < 1 or shard_size < 1 or views not in package.VIEWS:
    raise InputError(f"limit = {limit}, shard_size = {shard_size}, views = {views}: see above")
out = paths.output_folder(run_dir, output)
run_folder = paths.step_folder(run_dir, model)

# %% [markdown]
# ## 2 The network
#
# ### 2.1 Export it
#
# Write the network as ONNX beside its `.keras`, calibrate it and keep the features of its training
# galaxies. The export is refused if both networks do not agree on the validation galaxies.

# %%
exported = package.export(run_folder, out / survey.MODEL)

# %% [markdown]
# ### 2.2 Read its card
#
# Show the model card, which travels with the network.

# %%
display(Markdown(package.describe(exported.card).replace("\n# ", "\n#### ").lstrip("# ")))

# %% [markdown]
# ## 3 The images
#
# ### 3.1 List them
#
# Unless a list is given, take galaxies that the selection left out: most of them are no face-on
# spirals, or spirals that volunteers did not agree on.

# %%
root = paths.resolve(data_dir)
listed = paths.resolve(images) if images else out / "images.parquet"
if images is None:
    catalogue = paths.step_folder(run_dir, "01_sample_selection")
    votes = pd.read_parquet(catalogue / "votes.parquet", columns=["galaxy_id", "image_path"])
    selected = pd.read_parquet(catalogue / "sample.parquet", columns=["galaxy_id"])["galaxy_id"]
    left_out = votes[~votes["galaxy_id"].isin(selected)]
    drawn = left_out.sample(min(limit, len(left_out)), random_state=seed).sort_index()
    drawn.to_parquet(listed, index=False)

# %% [markdown]
# ### 3.2 Plan the shards
#
# Copy the list into one file whose parts are the shards. A shard needs nothing but this plan and
# the network, so that shards can run side by side or on other machines.

# %%
plan = survey.plan(out / survey.MODEL, listed, out, root=root, views=views, shard_size=shard_size)
planned = survey.read_plan(plan)
print(f"{planned['galaxies']:,} images in {planned['shards']} shards")

# %% [markdown]
# ### 3.3 Know which of them were learnt from
#
# Count those whose votes the weights at the start have learnt from, where these are listed: what the
# network says of them is no test of it.

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
# ### 4.1 Predict
#
# Read, crop and bin each image as for the training, run the network, calibrate, and write the
# catalogue. An image that cannot be read costs its own row only.

# %%
start = time.perf_counter()
path = survey.run(plan)
rate = planned["galaxies"] / (time.perf_counter() - start)
rows = pd.read_parquet(path)

# %% [markdown]
# ### 4.2 Look at it
#
# Show the galaxies that the network is most sure of.

# %%
shown = rows.drop(columns=["image_path", "reason"]).sort_values(["entropy", "galaxy_id"])
display(shown.head(8).round(3))

# %% [markdown]
# ### 4.3 List what could not be read
#
# Count the reasons.

# %%
counts = survey.summary(path)
display(pd.Series(counts["reasons"], name="images", dtype=int).to_frame())

# %% [markdown]
# ## 5 What came out
#
# ### 5.1 Count the classes
#
# Compare how often each class is predicted with the mean of its probability. The second is the
# better estimate of how frequent a class is; where the two differ, the network is unsure.

# %%
read = rows[rows["reason"] == ""]
style.show(
    figures.classes(read, exported.classes),
    out / "classes.png",
    f"Left: share of each class among {len(read):,} galaxies, by predicted class (bars) and by mean "
    "probability (diamonds); where the two differ, the network is unsure of that class. Right: "
    "further left is surer; at the dotted line it cannot tell the classes apart at all.",
)

# %% [markdown]
# ### 5.2 Measure how unusual the galaxies are
#
# Compare the distance to the nearest training galaxy with that of galaxies of the training survey
# which the network was not trained on. Beyond the dashed line a galaxy is flagged.

# %%
distance_limit = exported.card["out_of_distribution"]["flag_distance"]
style.show(
    figures.distances(
        exported.reference.distances, read["training_distance"].to_numpy(), distance_limit
    ),
    out / "distances.png",
    f"Distance to the nearest of {len(exported.reference.features)} training galaxies. The further "
    "the galaxies of this survey lie to the right of those held out, the less they resemble what the "
    f"network has learnt from; {counts['flagged']} of {len(read)} lie beyond the dashed line and are "
    "flagged.",
)

# %% [markdown]
# ### 5.3 Look at the extremes
#
# Show the most certain, the most uncertain, and the farthest galaxies.

# %%
side = exported.card["preprocessing"]["crop"] * exported.card["preprocessing"]["binning"]
size = exported.card["preprocessing"]["size"]
groups = {
    "most certain": read.nsmallest(6, "entropy"),
    "least certain": read.nlargest(6, "entropy"),
    "farthest": read.nlargest(6, "training_distance"),
}

# %% [markdown]
# Draw what the network sees of them, before binning, where the cut-outs are JPEG or PNG.

# %%
pictures = {
    name: ([central_crop(decode(root / p, size), side) for p in part["image_path"]], part)
    for name, part in groups.items()
    if not part["image_path"].str.contains(r"\.fits?$", case=False).any()
}
if pictures:
    style.show(
        figures.examples(pictures),
        out / "extremes.png",
        "Cut-outs with the predicted class, the entropy and the distance d to the nearest training "
        "galaxy. See whether arms can be counted where the network is certain, what hides them where "
        "it is not, and whether the farthest are spirals at all.",
    )

# %% [markdown]
# ### 5.4 Compare with the truth, where it is known
#
# For the simulated survey, count per kind of galaxy how many are flagged, and how often the
# predicted class of a true spiral is right.

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
# ## 6 What was found
#
# Sum up this run.

# %%
share = counts["flagged"] / max(1, counts["predicted"])
expected = (100 - package.FLAG_PERCENTILE) / 100
display(
    Markdown(
        f"{counts['predicted']:,} of {counts['galaxies']:,} images were predicted at {rate:,.0f} "
        f"images per second, {views} view(s) each. The most frequent class is "
        f"{read['predicted'].mode()[0]}; the median entropy is {read['entropy'].median():.2f} of at "
        f"most {np.log2(len(exported.classes)):.2f} bit. {share:.1%} are unlike the training images, "
        f"where {expected:.0%} of galaxies of the training survey would be flagged. The paper "
        "applies its networks to its own sample only, so that there is no number to compare with."
    )
)
