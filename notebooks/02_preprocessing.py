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
# # 02  Pre-processing
#
# **Question.** What does a network see of each galaxy, and which images cannot be used?
#
# **Reproduces** Secs. 2.2 and 2.3 of Lee, Soo & Sharoni (arXiv:2412.11696).
#
# **Inputs**
# - `01_sample_selection`: the selected galaxies
# - the survey's folder with its images
#
# **Outputs**
# - `images_<colour>_<crop>.npy`: the central pixels of every galaxy, uint8, memory-mapped later
# - `images_<colour>_<crop>.parquet`: which galaxy is in which row
# - `missing.csv`: galaxies without a usable image, and why
# - figures
#
# Terms of the field are explained in the [glossary](../docs/glossary.md).

# %% tags=["remove-input"]
# What made the outputs below: the run fills it in.

# %% [markdown]
# ## 1 Set-up
#
# ### 1.1 Packages
#
# `lib.images` decodes, crops and augments.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from lib import images, paper, paths
from lib.figures import style
from lib.figures import training as figures

style.use()

# %% [markdown]
# ### 1.2 Parameters
#
# Change these to read another survey's images or to keep more of each. The defaults are those of
# the embedded, simulated survey.

# %% tags=["parameters"]
# Folder of the run; a relative path starts at the project root.
run_dir = "runs/mock"
# Name of this notebook's folder below it.
output = "02_preprocessing"
# Folder of the survey's files, which the image paths start from.
data_dir = "runs/mock/00_mock_survey"
# Side of the images in the files, in pixels.
size = 424
# Pixels along each side whose mean makes one pixel; 1 is the paper's, 2 is four times as fast.
binning = 2
# Side of the central crop that is kept, in pixels after binning; networks can take this or less
# (212 keeps the whole image, for the sizes of notebook 07).
crop = 212
# Colour that is kept: rgb (from which grey can be made) or grey.
colour = "rgb"
# Seed of the galaxies and the augmentation that are shown.
seed = 42

# %% [markdown]
# ### 1.3 Sample
#
# Check the sizes before any work, and read the selected galaxies.

# %%
images.check_binning(binning, size)
images.check_crop(crop, size // binning)
out = paths.output_folder(run_dir, output)
sample = pd.read_parquet(paths.step_folder(run_dir, "01_sample_selection") / "sample.parquet")

# %% [markdown]
# ## 2 The images
#
# ### 2.1 Decoding and cropping
#
# Read every selected galaxy's image once, keep its centre, and write all of them into one array.
# Later steps read that array and never a JPEG.

# %%
start = time.perf_counter()
cache, missing = images.write_cache(
    sample,
    paths.resolve(data_dir),
    out,
    crop=crop,
    colour=colour,
    size=size,
    binning=binning,
    progress=images.print_progress,
)
decoding_rate = len(sample) / (time.perf_counter() - start)

# %% [markdown]
# ### 2.2 Unusable images
#
# Galaxies whose image is missing, broken, or not of the size and colour that it should have are left
# out of everything that follows.

# %%
with paths.atomic(out / "missing.csv") as file:
    missing.to_csv(file, index=False)
if missing.empty:
    display(Markdown("Every selected galaxy has a usable image."))
else:
    display(missing["reason"].value_counts().to_frame("galaxies").sort_index())
    display(missing.sort_values("galaxy_id").head())

# %% [markdown]
# ### 2.3 Usable images per class
#
# The classes before and after: has one of them lost more than its share?

# %%
usable = pd.Series(cache.has(sample["galaxy_id"]), index=sample.index)
counts = pd.DataFrame(
    {
        "selected": sample["label"].value_counts(),
        "with an image": sample["label"][usable].value_counts(),
    }
)
display(counts.fillna(0).astype(int).sort_index())

# %% [markdown]
# ### 2.4 Rates of reading and decoding
#
# Read galaxies back in random order, as training does.

# %%
shuffled = np.random.default_rng(seed).permutation(len(cache.index))
start = time.perf_counter()
for part in np.array_split(shuffled, max(1, len(shuffled) // 16)):
    cache.arrays[np.sort(part)]
reading_rate = len(shuffled) / (time.perf_counter() - start)

# %% [markdown]
# ## 3 What a network sees
#
# ### 3.1 The crop
#
# One galaxy of each class: the whole image with the frame of the crop, what is inside it, and
# the grey image, the mean of the three channels, that B0 is given. Most of an image is sky and
# neighbours.

# %%
shown = sample[usable].groupby("label").sample(1, random_state=seed).sort_values("label")
whole = np.stack([images.decode(paths.resolve(data_dir) / p, size) for p in shown["image_path"]])
titles = [style.arm_label(label) for label in shown["label"]]
style.show(
    figures.crops(whole, crop, titles, binning),
    out / "crops.png",
    f"One galaxy of each class. Top: the {size} x {size} px image with the frame of the crop. "
    f"Middle: the central {crop * binning} x {crop * binning} px as {crop} x {crop} px. Bottom: the "
    "same in grey.",
)

# %% [markdown]
# ### 3.2 The augmentation
#
# Augmented copies of the same galaxies as training sees them: rotated, mirrored, and stretched or
# shrunk in each direction. A pixel at $(x, y)$ from the centre shows what was at
# $$\begin{pmatrix} x' \\ y' \end{pmatrix} = \begin{pmatrix} \cos\alpha & -\sin\alpha \\
# \sin\alpha & \cos\alpha \end{pmatrix} \begin{pmatrix} \pm z_x\, x \\ \pm z_y\, y \end{pmatrix},$$
# so that the number of arms stays. What lies beyond the edge is filled by reflection.

# %%
rows = cache.rows(shown["galaxy_id"])
pixels = images.network_input(cache.arrays[rows], cache.colour)
augmentation = images.Augmentation()
copies = [
    images.random_transforms(rows, len(cache.arrays), crop, augmentation, seed, copy)
    for copy in range(5)
]
warped = np.stack([images.warp(pixels, maps) for maps in copies], axis=1)

# %% [markdown]
# One galaxy per row. All three changes are made with one interpolation, where Keras' layers would
# make three, so that the copies are a little sharper than the paper's.

# %%
style.show(
    figures.augmented(pixels, warped, titles),
    out / "augmentation.png",
    f"Augmented copies (Sec. 2.3): rotation by up to {augmentation.rotation:.0f} degrees either "
    f"way, mirrors, height and width changed independently by up to {augmentation.zoom:.0%}.",
)

# %% [markdown]
# ### 3.3 The steps for one galaxy (Fig. 2)
#
# Each step by itself, with the geometry set by hand.

# %%
example = len(shown) // 2
grey = images.network_input(cache.arrays[rows[[example]]], "grey")
stages = {"cut-out": whole[example], "crop": cache.arrays[rows[example]], "grey": grey[0] / 255}
steps = {
    "rotation": {"angle": 60},
    "flip": {"left_right": 1},
    "zoom": {"zoom_height": 0.8, "zoom_width": 1.2},
}

# %% [markdown]
# The last three are made at random, and only while training.

# %%
for name, geometry in steps.items():
    stages[name] = np.asarray(images.warp(grey, images.transforms(crop, **geometry)))[0] / 255
figure, axes = plt.subplots(1, 6, figsize=(style.WIDTH, 1.6), layout="constrained")
for axis, (name, image) in zip(axes, stages.items(), strict=True):
    axis.imshow(image.squeeze(), cmap="grey")
    axis.set_title(name, fontsize=7)
    axis.set_xlabel(f"{image.shape[1]} px", fontsize=7)
    axis.set(xticks=[], yticks=[])
caption = f"Pre-processing of one galaxy ({titles[example]}), as Fig. 2 of the paper: the survey's "
caption += "cut-out, the crop, the mean of its channels, and the three changes of the augmentation."
style.show(figure, out / "fig02_flow.png", caption)

# %% [markdown]
# ## 4 Conclusions
#
# This run beside the paper.

# %%
share = (crop * binning) ** 2 / size**2
bullets = [
    f"{len(cache.index):,} of {len(sample):,} selected galaxies have a usable image, "
    f"{len(missing):,} are left out.",
    f"The crop keeps {share:.0%} of each image, {cache.arrays.nbytes / 1e6:.0f} MB in all; the paper "
    f"crops to {paper.FIGURE_5.loc['B0', 'size']} px.",
    f"Decoding went at {decoding_rate:,.0f} images per second; the cache gives back "
    f"{reading_rate:,.0f} per second, {reading_rate / decoding_rate:.0f} times as many.",
]
display(Markdown("\n".join(f"- {bullet}" for bullet in bullets)))

# %% [markdown]
# ## Exercises
#
# 1. Change `{"angle": 60}` to `{"angle": 180}` in 3.3 and run from there on: does the galaxy look the
#    same? Is it symmetric?
# 2. Change `images.Augmentation()` in 3.2 to `images.Augmentation(zoom=0.5)` and run from there on:
#    in which copies are the arms hard to count?
