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
# ### 1.1 Import packages
#
# Import Keras, which builds and trains the networks, and the project's library.

# %%
import keras
import pandas as pd
import tensorflow as tf
from IPython.display import Markdown, display
from keras import layers

from lib import evaluation, images, networks, paper, paths, selection, training
from lib.figures import style
from lib.figures import sweeps as figures
from lib.workflow import report

style.use()

# %% [markdown]
# ### 1.2 Define parameters
#
# Change these to try other sizes and seeds. On several GPUs, `part` divides the trainings between
# runs of this notebook.

# %% tags=["parameters"]
# Folder of the run; a relative path starts at the project root.
run_dir = "runs/mock"
# Name of this notebook's folder below it.
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
# ### 1.3 Choose the galaxies
#
# The paper's test problem: at most 300 galaxies of m = 2 and of m = 3, split 70 : 30 as in notebooks
# 03 and 04, whose networks are trained again here at other sizes.

# %%
out = paths.output_folder(run_dir, output)
prepared = paths.step_folder(run_dir, "02_preprocessing")
sample = pd.read_parquet(paths.step_folder(run_dir, "01_sample_selection") / "sample.parquet")
sample = sample[images.open_cache(prepared, max(sizes + v2m_sizes)).has(sample["galaxy_id"])]
base = {
    role: training.settings_of(paths.step_folder(run_dir, step))
    for role, step in (("B0", "03_train_b0"), ("V2M", "04_train_v2m"))
}
assignment = selection.assign(sample, classes=["2", "3"], seed=base["B0"]["seed"])
trainings = paths.resolve(run_dir) / "trainings"
keras.utils.set_random_seed(base["B0"]["seed"])
tf.config.experimental.enable_op_determinism()

# %% [markdown]
# ### 1.4 Measure a pixel
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
# ### 2.1 Open the features of B0
#
# Build the frozen backbone once, and compute its features of every galaxy and of its augmented copies;
# they are kept on disk and shared by all trainings.

# %%


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
# ### 2.2 Define the head of B0
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
# ### 2.3 Define V2M
#
# As in notebook 04: all weights train, while BatchNorm statistics and stochastic depth stay as in
# prediction.


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
# ### 2.4 Train at each size with each seed
#
# Train every combination, unless it is done; a training that was killed goes on where it was.


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
# Do those of this part; print how each has ended.

# %% tags=["trainings"]
wanted = [("B0", crop, seed) for crop in sizes for seed in seeds]
wanted += [("V2M", crop, seed) for crop in v2m_sizes for seed in v2m_seeds]
runs = []
for role, crop, seed in training.part_of(wanted, part):
    runs.append(train(role, crop, seed))
    scores = evaluation.scores(runs[-1].confusion())
    print(f"{role}, {crop} px, seed {seed}: macro-F1 {scores['macro_f1']:.3f}", flush=True)

# %% [markdown]
# ## 3 F1 at each size
#
# ### 3.1 Gather the spread over seeds
#
# Average macro-F1 over the seeds of each size. `sd` and `cv` = sd / mean say how much the outcome
# depends on the seed; `low` and `high` bound the mean (95 %, Student). `sampling` is half the width
# of a single run's interval: what other galaxies of the same kind would change. `one_class` counts the
# runs that give all galaxies one and the same class: these have learnt nothing, and their equal F1 is
# no sign of stability.

# %%
spread = evaluation.size_spread(runs)
spread.insert(2, "sky", spread["crop"] * binning)
display(spread.round(4))

# %% [markdown]
# ### 3.2 What the spread lacks
#
# The features of B0 are computed once for all seeds, which share the augmented copies: its spread is
# that of the head and of the order of the galaxies alone, too small to be set beside the CV of V2M,
# which has the augmentation in it.

# %% [markdown]
# ### 3.3 Choose a size
#
# Take the smallest size whose mean is within one standard error of the best mean. The paper takes the
# size with the lowest CV and a high F1; its column is `lowest_cv`. Sizes at which no run has learnt
# anything are not chosen from; where that is all of them, nothing is chosen (`<NA>`).

# %%
choice = evaluation.choose_size(spread)
display(choice)

# %% [markdown]
# ### 3.4 Draw it
#
# Draw F1 and its CV. Differences between sizes that are smaller than the shaded band may be those of
# the galaxies at hand.

# %%
seeds = spread["n"].max()
style.show(
    figures.size_spread(spread, choice["chosen"] * binning, paper.FIGURE_5),
    out / "image_size.png",
    f"Left: macro-F1 of m = 2 against m = 3 at each size of the crop, mean and standard deviation of "
    f"up to {seeds} seeds (bars) and 95 % sampling error of one run (shaded). Right: coefficient of "
    "variation. Dotted: the chosen sizes. Crosses: a run gives all galaxies one class. Diamonds: the paper's best (Fig. 5).",
)

# %% [markdown]
# ## 4 Write the results
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
# ## 5 What was found
#
# Sum up these runs and compare them with the paper.

# %%
lines = [
    f"- **{role}**: at every size each run gives all galaxies one class: nothing is learnt, and no size "
    "chosen."
    for role in choice.index[choice["best"].isna()]
]
for row in best.reset_index().itertuples():
    theirs = paper.FIGURE_5.loc[row.role]
    lines.append(
        f"- **{row.role}**: best at {row.crop} px ({row.sky} px of the survey's images) with a macro-F1 "
        f"of {row.mean:.3f}, standard deviation {row.sd:.3f}, CV {row.cv:.1%} over {row.n} seeds, on "
        f"{row.galaxies} validation galaxies (sampling error {row.sampling:.3f}). Chosen: "
        f"{choice.loc[row.role, 'chosen']} px. The paper has {theirs['f1']:.3f} and "
        f"{theirs['cv_percent'] / 100:.1%} at {theirs['size']:.0f} px."
    )
display(Markdown("\n".join(lines)))
