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
# # 07  Image size
#
# **Question.** How much of the cut-out should a network see to tell two arms from three?
#
# **Reproduces** Sec. 4.2.1 and Fig. 5 of Lee, Soo & Sharoni (arXiv:2412.11696).
#
# **Inputs**
# - `01_sample_selection`, `02_preprocessing`: the galaxies and the cache of their images
# - `03_train_b0`, `04_train_v2m`: the settings of both networks
#
# **Outputs**
# - `sizes.csv`: F1, its standard deviation and coefficient of variation at each size
# - `metrics.json`: the chosen sizes
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
# Keras builds and trains the networks.

# %%
from functools import cache

import keras
import pandas as pd
import tensorflow as tf
from IPython.display import Markdown, display
from keras import layers
from matplotlib import pyplot as plt

from lib import evaluation, images, networks, paper, paths, selection, training
from lib.figures import style
from lib.workflow import report

style.use()

# %% [markdown]
# ### 1.2 Parameters
#
# Change these to try other sizes and seeds. On several GPUs, `part` divides the trainings between
# runs of this notebook.

# %% tags=["parameters"]
# Folder of the run (a relative path starts at the project root), and this notebook's folder in it.
run_dir = "runs/mock"
output = "07_image_size"
# Sides of the crops for B0, in pixels of the cache; one of them must not exceed the cache's.
sizes = [32, 112, 212]
# Seeds of its trainings.
seeds = [42, 43]
# The same for V2M, and its most epochs.
v2m_sizes = [32, 112]
v2m_seeds = [42, 43]
v2m_epochs = 2
# Which part of the trainings this run does: k/n, or 1/1 for all.
part = "1/1"

# %% [markdown]
# ### 1.3 Settings
#
# Read how notebooks 03 and 04 have trained B0 and V2M. Operations are deterministic.

# %%
base = {
    role: training.settings_of(paths.step_folder(run_dir, step))
    for role, step in (("B0", "03_train_b0"), ("V2M", "04_train_v2m"))
}
keras.utils.set_random_seed(base["B0"]["seed"])
tf.config.experimental.enable_op_determinism()

# %% [markdown]
# ### 1.4 Galaxies
#
# The paper's test problem: at most 300 galaxies of m = 2 and of m = 3, split 70 : 30 as in notebooks
# 03 and 04, whose networks are trained again here at other sizes.

# %%
out, trainings = paths.output_folder(run_dir, output), paths.resolve(run_dir) / "trainings"
prepared = paths.step_folder(run_dir, "02_preprocessing")
sample = pd.read_parquet(paths.step_folder(run_dir, "01_sample_selection") / "sample.parquet")
kind = "simulated" if sample.attrs.get("survey") == "mock" else "real"
sample = sample[images.open_cache(prepared, max(sizes + v2m_sizes)).has(sample["galaxy_id"])]
assignment = selection.assign(sample, classes=["2", "3"], seed=base["B0"]["seed"])

# %% [markdown]
# ### 1.5 Pixel scale
#
# Read how many pixels of the survey's images make one pixel of the cache, so that sizes can be
# compared with the paper's.

# %%
index = next(paths.step_folder(run_dir, "02_preprocessing").glob("images_*.parquet"))
binning = pd.read_parquet(index).attrs["binning"]
display(Markdown(f"One pixel of the cache is {binning} x {binning} pixels of the survey's images."))

# %% [markdown]
# ## 2 The trainings
#
# ### 2.1 Features of B0
#
# Build the frozen backbone once for each size, and compute its features of every galaxy and of its
# augmented copies; they are kept on disk and shared by all trainings.


# %%
@cache
def features(crop):
    """Features of the frozen backbone on images of one size, kept on disk."""
    backbone, _ = networks.backbone(base["B0"]["backbone"], crop, "grey", base["B0"]["weights"])
    pooled = layers.GlobalAveragePooling2D()(backbone.output)
    encoder = keras.Model(backbone.input, pooled, name=base["B0"]["backbone"])
    copies = images.Copies(images.open_cache(prepared, crop, "grey"), base["B0"]["seed"])
    store = training.FeatureStore(encoder, copies, paths.resolve(run_dir) / "features")
    store.prepare(assignment["galaxy_id"], base["B0"]["copies"])
    return store


# %% [markdown]
# ### 2.2 Head of B0
#
# As in notebook 03: two dense layers on the features of the frozen backbone.


# %%
def head(width, n_classes, seed):
    """The head of B0, compiled, with the initial weights of a seed."""
    keras.utils.set_random_seed(seed)
    dense, classes = layers.Dense(1024, activation="relu"), layers.Dense(n_classes, "softmax")
    model = keras.Sequential([keras.Input((width,)), dense, classes])
    adam = keras.optimizers.Adam(base["B0"]["learning_rate"])
    model.compile(adam, loss="categorical_crossentropy", metrics=["accuracy"])
    return model


# %% [markdown]
# ### 2.3 V2M
#
# As in notebook 04: all weights are trained, while BatchNorm statistics and stochastic depth stay as
# in prediction.


# %%
def v2m(crop, n_classes, seed):
    """V2M on images of one size, compiled, with the initial weights of a seed."""
    keras.utils.set_random_seed(seed)
    backbone, _ = networks.backbone(base["V2M"]["backbone"], crop, "rgb", base["V2M"]["weights"])
    pooled = layers.GlobalAveragePooling2D(name="features")(backbone.output)
    dense = layers.Dense(1024, activation="relu")(pooled)
    probability = layers.Dense(n_classes, activation="softmax")(dense)
    model = networks.InferenceMode(backbone.input, probability)
    adam = keras.optimizers.Adam(base["V2M"]["learning_rate"])
    model.compile(adam, loss="categorical_crossentropy", metrics=["accuracy"])
    return model


# %% [markdown]
# ### 2.4 Loop over sizes and seeds
#
# Train with every combination of size and seed, unless that is done; a training that was killed goes
# on where it was.


# %%
def train(role, crop, seed):
    """Train one network at one size with one seed, and return its run."""
    settings = base[role] | {"crop": crop, "seed": seed, "classes": ["2", "3"]}
    if role == "B0":
        store = features(crop)
        model = head(store.width, 2, seed)
        return training.train(model, store.get, assignment, trainings, settings)
    cache = images.open_cache(prepared, crop, "rgb")
    copies = images.Copies(cache, seed)
    settings |= {"epochs": v2m_epochs}
    return training.train(v2m(crop, 2, seed), copies.get, assignment, trainings, settings)


# %% [markdown]
# Run the trainings of this part, and print the score of each.

# %% tags=["trainings"]
wanted = [("B0", crop, seed) for crop in sizes for seed in seeds]
wanted += [("V2M", crop, seed) for crop in v2m_sizes for seed in v2m_seeds]
runs = []
for role, crop, seed in training.part_of(wanted, part):
    runs.append(train(role, crop, seed))
    scores = evaluation.scores(runs[-1].confusion())
    print(f"{role}, {crop} px, seed {seed}: macro-F1 {scores['macro_f1']:.3f}", flush=True)

# %% [markdown]
# ## 3 F1 as a function of size
#
# ### 3.1 Spread over seeds
#
# Average macro-F1, $\frac{1}{2}(F_{1,m=2} + F_{1,m=3})$, over the $n$ seeds of each size. The standard
# deviation $s$ (`sd`) and the coefficient of variation $s / \bar F$ (`cv`) measure how much the result
# depends on the seed; `low` and `high` bound the 95 % confidence interval of the mean (Student).
# `sampling` is half the width of a single run's interval: the uncertainty from the choice of galaxies.
# `one_class` counts the runs that predict the same class for all galaxies: these have learnt nothing,
# and their equal F1 is no sign of stability.

# %%
spread = evaluation.size_spread(runs)
spread.insert(2, "sky", spread["crop"] * binning)
display(spread.round(4))

# %% [markdown]
# ### 3.2 Limits of the spread
#
# The features of B0 are computed once for all seeds, which share the augmented copies. Its spread is
# that of the head and of the order of the galaxies alone, and cannot be compared with the CV of V2M,
# which includes the augmentation.

# %% [markdown]
# ### 3.3 Choice of a size
#
# Take the smallest size whose mean is at least $\bar F_{best} - s_{best} / \sqrt{n}$ (`least`), within
# one standard error of the best mean. The paper takes the size with the lowest CV and a high F1; its
# column is `lowest_cv`. Sizes at which no run has learnt anything are left out; where that is all of
# them, nothing is chosen (`<NA>`).

# %%
choice = evaluation.choose_size(spread)
display(choice)

# %% [markdown]
# ### 3.4 Figure 5
#
# Draw F1 and its CV. Differences between sizes that are smaller than the shaded band may be those of
# the galaxies at hand.


# %%
def draw(role, colour, f1, cv):
    """F1 and CV of one network at each size, its chosen size, and the paper's best."""
    rows, theirs = spread[spread["role"] == role], paper.FIGURE_5.loc[role]
    size, mean, band = rows["sky"], rows["mean"], rows["sampling"]
    f1.errorbar(size, mean, rows["sd"], fmt="o-", capsize=3, color=colour, label=role)
    f1.fill_between(size, mean - band, mean + band, color=colour, alpha=0.12, linewidth=0)
    idle = rows["one_class"] > 0
    f1.plot(size[idle], mean[idle], "kx", markersize=9)
    cv.plot(size, 100 * rows["cv"], "o-", color=colour)
    for axis, value in ((f1, theirs["f1"]), (cv, theirs["cv_percent"])):
        axis.plot(theirs["size"], value, "D", mfc="white", color=colour, label=f"{role}, paper")
        if pd.notna(choice.loc[role, "chosen"]):
            axis.axvline(choice.loc[role, "chosen"] * binning, color=colour, linestyle=":")


# %% [markdown]
# Both networks, in pixels of the survey's images.

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
figure.suptitle(f"m = 2 against m = 3, {kind} galaxies")
for role, colour in (("B0", "#0072B2"), ("V2M", "#D55E00")):
    draw(role, colour, *axes)
for axis, label in zip(axes, ("macro-F1", "CV of macro-F1 over seeds / %")):
    axis.set(xlabel="side of the crop / px", ylabel=label)
axes[1].axhline(0, color="0.8", linewidth=0.8)
axes[0].legend()
style.show(
    figure,
    out / "image_size.png",
    f"Left: macro-F1 of m = 2 against m = 3 at each size of the crop, mean and standard deviation of "
    f"up to {spread['n'].max()} seeds (bars) and 95 % sampling error of one run (shaded). Right: "
    "coefficient of variation. Dotted: the chosen sizes. Crosses: a run predicts one class for all "
    "galaxies. Diamonds: the paper's best (Fig. 5).",
)

# %% [markdown]
# ## 4 Files
#
# Write the table and the chosen sizes.

# %%
with paths.atomic(out / "sizes.csv") as file:
    spread.to_csv(file, index=False)
best = spread.merge(choice["best"].rename("crop").dropna().reset_index()).set_index("role")
report.write_json(
    out / "metrics.json",
    {"best": best.to_dict("index"), "choice": choice.to_dict("index")},
)

# %% [markdown]
# ## 5 Conclusions
#
# Sum up these runs and compare them with the paper.

# %%
lines = []
for row in best.reset_index().itertuples():
    theirs = paper.FIGURE_5.loc[row.role]
    seeds_say = f"standard deviation {row.sd:.3f} and CV {row.cv:.1%} over {row.n} seeds"
    lines.append(
        f"- **{row.role}**: best at {row.crop} px ({row.sky} px of the survey's images) with a macro-F1 "
        f"of {row.mean:.3f}, {seeds_say if row.n > 1 else 'with one seed'}, on {row.galaxies} {kind} "
        f"validation galaxies (sampling error {row.sampling:.3f}). Chosen: "
        f"{choice.loc[row.role, 'chosen']} px. The paper has {theirs['f1']:.3f} and "
        f"{theirs['cv_percent'] / 100:.1%} at {theirs['size']:.0f} px."
    )
for role in choice.index[choice["best"].isna()]:
    lines.append(
        f"- **{role}** predicts one class for all galaxies at every size: it learnt nothing."
    )
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## Exercises
#
# 1. Add a size to `sizes` in 1.2 and run all cells: only the trainings of the new size are run, the
#    others are found in the folder of the trainings.
# 2. Give `sizes` and `v2m_sizes` one size, and B0 five seeds in 1.2. How large is the standard
#    deviation over seeds beside the sampling error of one run (3.1)?
# 3. Replace `classes=["2", "3"]` in 1.4 and `["2", "3"]` in 2.4 by `["1", "2"]`, change the labels in
#    3.4, and run all cells: is m = 1 easier to tell from m = 2?
