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
# # 03  Train B0
#
# **Question.** How well does a frozen backbone with a small trained head, the paper's B0, count
# spiral arms?
#
# **Reproduces** Secs. 3.4, 3.5 and 4.2.2, the B0 column of Table 2 and Fig. 4 of Lee, Soo &
# Sharoni (arXiv:2412.11696).
#
# **Inputs**
# - `01_sample_selection`: the selected galaxies and their labels
# - `02_preprocessing`: the cache of their images
#
# **Outputs**
# - `model.keras`: the network with the weights of its best epoch (if `keep_model`)
# - `model.json`: what the network is, how it was trained and on what
# - `history.csv`: loss and accuracy of every epoch
# - `predictions.parquet`: class probabilities of every galaxy that has an image
# - `validation_probabilities.npy`: those of the validation galaxies after every epoch
# - `metrics.json`: scores of every part of the data
# - figures
#
# Terms of the field are explained in the [glossary](../docs/glossary.md).

# %% [markdown]
# ## 1 Set-up
#
# ### 1.1 Import packages
#
# Import the project's library; `lib.models` builds the network, `lib.training` trains it.

# %%
import pandas as pd
from IPython.display import Markdown, display

from lib import evaluation, images, models, paper, paths, recipes, selection, training
from lib.figures import style
from lib.figures import training as figures
from lib.schema import InputError

style.use()

# %% [markdown]
# ### 1.2 Define parameters
#
# Change these to train another network or in another way. The defaults are those of the embedded
# survey; `notebooks/profiles/gz2.yaml` has the paper's.

# %% tags=["parameters"]
# Folder of the run; a relative path starts at the project root.
run_dir = "runs/mock"
# Name of this notebook's folder below it.
output = "03_train_b0"
# published (as the parameters below say) or votes (`lib.recipes`: the best without downloads; it sets
# network, view and head itself).
recipe = "published"
# Backbone, as Keras Applications names it.
backbone = "EfficientNetB0"
# Where the backbone's weights come from: none, mock, imagenet, zoobot-hub, zoobot-checkpoint:<path>.
weights = "none"
# Side of the central crop, in pixels.
crop = 96
# Colour of the images: grey (one channel) or rgb (three).
colour = "grey"
# How galaxies are shown: sky (as they are) or polar (angle and radius in the plane of the disc).
view = "sky"
# Width of the dense layer (the paper prints 1028, its parameter counts say 1024).
dense_units = 1024
# Train the backbone's weights too, or only the head's.
train_backbone = False
# A trained backbone's BatchNorm and stochastic depth: inference (as published) or train.
batch_norm = "inference"
# Class merge: none, 3+4 or 4+5+.
merge = "none"
# Classes to keep, by their (merged) names; an empty list keeps all.
classes = []
# down-sampled (at most max_per_class galaxies of each class) or all.
sampling = "down-sampled"
# Most galaxies of one class when down-sampling.
max_per_class = 300
# Which of them: first (in catalogue order) or random.
choose = "first"
# Share of each class that is kept for validation.
validation_fraction = 0.3
# Go on when a class has no galaxy to train or validate on.
allow_empty = False
# What is done about unequal classes: none, class weights, balanced sampling or focal loss.
balance = "none"
# Exponent of the focal loss.
focal_gamma = 2.0
# published (validation galaxies give the scores) or sound (others, kept for testing, give them).
protocol = "published"
# Fold of the sample to test on (sound only), from 0; None keeps half of the validation galaxies.
fold = None
# Folds of the sample; fold = folds and more are those of a repeat, divided otherwise.
folds = 5
# Most epochs.
epochs = 50
# Galaxies per step.
batch_size = 16
# Learning rate of Adam, constant.
learning_rate = 1e-4
# Epochs without a better validation accuracy after which training stops.
patience = 30
# Augmented views per galaxy whose features are computed once (frozen backbones only); 0 runs the
# backbone in every epoch, as published.
feature_views = 5
# Seed of the augmentation, where runs with several seeds are to share features; None takes seed.
view_seed = None
# Seed of the split, where runs with several seeds are to have the same galaxies; None takes seed.
split_seed = None
# Seed of the initial weights, the order of the galaxies and the augmentation.
seed = 42
# Write model.keras, which only explaining and predicting need.
keep_model = True
# What a GPU computes in: float32 (as published), mixed_bfloat16 or mixed_float16.
precision = "float32"
# Parts of a batch computed one after the other, where a whole one does not fit into memory.
accumulate = 1
# Compile the training step by XLA (only where there is a GPU).
jit = False
# one GPU (or the processor), or all GPUs, between which each batch is divided.
devices = "one"

# %% [markdown]
# ### 1.3 Check the parameters
#
# Describe the network and the protocol; a value that is not possible stops the notebook here.

# %%
selection.check_sampling(
    *(merge, sampling, max_per_class, choose, validation_fraction),
    **{"classes": classes, "fold": fold, "folds": folds},
)
if fold is not None and protocol != "sound":
    raise InputError(f"fold = {fold} goes with protocol = 'sound', not with {protocol!r}")
network = models.Network(
    role="B0",
    backbone=backbone,
    weights=weights,
    crop=crop,
    colour=colour,
    view=view,
    trainable="all" if train_backbone else "frozen",
    dense_units=dense_units,
)
rules = training.Protocol(
    name=protocol,
    epochs=epochs,
    batch_size=batch_size,
    learning_rate=learning_rate,
    patience=patience,
    batch_norm=batch_norm,
    balance=balance,
    focal_gamma=focal_gamma,
    feature_views=feature_views or None,
    view_seed=view_seed,
    seed=seed,
    precision=precision,
    accumulate=accumulate,
    jit=jit,
    devices=devices,
)
network, rules = recipes.apply(recipe, network, rules)
out = paths.output_folder(run_dir, output)

# %% [markdown]
# ### 1.4 State the network
#
# Say which network is trained in the role of the paper's B0, and with which weights it starts.

# %%
display(
    Markdown(
        f"In the role of the paper's {network.role}: **{network.backbone}** on {network.crop} px "
        f"{network.colour} images, shown as **{network.view}** views, weights at the start: "
        f"**{network.weights}**, trained weights: **{network.trainable}**, recipe: **{recipe}**, "
        f"protocol: **{protocol}**."
    )
)

# %% [markdown]
# ## 2 The data
#
# ### 2.1 Open images and labels
#
# Open the cache of images, and keep the galaxies of the sample that are in it.

# %%
prepared = paths.step_folder(run_dir, "02_preprocessing")
cache = images.open_cache(prepared, network.crop, network.colour)
sample = pd.read_parquet(paths.step_folder(run_dir, "01_sample_selection") / "sample.parquet")
sample = sample[cache.has(sample["galaxy_id"])]

# %% [markdown]
# ### 2.2 Choose training and validation galaxies
#
# Merge classes where asked to, take at most the chosen number of each, and split each class into
# training and validation; a fold to test on is set aside before anything else. The galaxies left
# over (rest) are predicted too.

# %%
assignment = selection.assign(
    sample,
    merge=merge,
    classes=classes,
    sampling=sampling,
    max_per_class=max_per_class,
    choose=choose,
    validation_fraction=validation_fraction,
    fold=fold,
    folds=folds,
    seed=seed if split_seed is None else split_seed,
    allow_empty=allow_empty,
)
if protocol == "sound" and fold is None:
    assignment = evaluation.sound_split(assignment, seed=seed if split_seed is None else split_seed)
display(pd.crosstab(assignment["label"], assignment["split"]))

# %% [markdown]
# ## 3 Training
#
# ### 3.1 Train and predict
#
# Train, one line per epoch. The state is kept after every epoch: if the notebook is killed, running
# it again goes on from there and ends with the same weights. Then predict every galaxy with the
# weights of the best epoch. The recipe `votes` solves for its head at once, from vote fractions.

# %%
run = training.train(
    network,
    rules,
    cache,
    assignment,
    out,
    votes=sample,
    features=paths.resolve(run_dir) / "features" if rules.feature_views else None,
    notes={
        **{"recipe": recipe},
        **{"merge": merge, "sampling": sampling, "choose": choose, "max_per_class": max_per_class},
        **{"validation_fraction": validation_fraction, "fold": fold, "folds": folds},
    },
)

# %% [markdown]
# Say so where the weights at the start have learnt from the galaxies that are scored here.

# %%
if warning := run.settings["initial_weights"].get("warning"):
    display(Markdown(f"**Warning.** {warning}"))

# %% [markdown]
# ### 3.2 Save the run
#
# Write the network, its settings, its history and all predictions.

# %%
training.save_run(run, out, keep_model=keep_model)

# %% [markdown]
# ### 3.3 Watch it learn
#
# Draw loss and accuracy. Where the training loss goes on falling while the validation loss rises,
# the network learns its galaxies by heart.

# %%
best = run.settings["best_epoch"]
style.show(
    figures.learning_curves(run.history, best),
    out / "learning_curves.png",
    f"Loss and accuracy of {network.backbone} over {len(run.history)} epoch(s); the weights of epoch "
    f"{best}, the first with the highest validation accuracy, are kept.",
)

# %% [markdown]
# ## 4 The network
#
# ### 4.1 Count its parameters
#
# Count the parameters (Table 2), beside those the paper prints for its B0.

# %%
counts = pd.DataFrame({"this run": models.parameter_counts(run.model)}).rename_axis("parameters")
counts["paper"] = pd.Series({"total": paper.TABLE_2["B0"]})
display(counts.style.format("{:,.0f}", na_rep=""))

# %% [markdown]
# ### 4.2 Draw its tail
#
# Draw the layers that turn the backbone's output into class probabilities (Fig. 4), as built.

# %%
style.show(
    figures.network_tail(
        models.tail(run.model), network.backbone, counts.loc["backbone", "this run"]
    ),
    out / "network.png",
    f"The tail of the network on {network.backbone} with the shape and the parameters of each layer's "
    "output. As Fig. 4 of the paper, where x stands for the backbone.",
)

# %% [markdown]
# ## 5 The result
#
# ### 5.1 Score each class
#
# Show precision, recall and F1 of each class with 95 % intervals, on the validation galaxies, or on
# the test galaxies where the protocol is sound. Notebook 09 compares them with the paper's Table 3.

# %%
result = evaluation.read_run(out)
report = evaluation.class_report(result.confusion())
intervals = evaluation.cell_intervals(report).round(3)
display(intervals.unstack("metric").swaplevel(axis=1)[["precision", "recall", "f1"]])

# %% [markdown]
# ### 5.2 Score the whole
#
# Show accuracy, balanced accuracy and macro-F1, beside what always naming the most frequent class
# would give.

# %%
scores = evaluation.score_intervals(result.confusion())
most_frequent = result.part()["label"].value_counts(normalize=True).max()
display(scores.round(3))

# %% [markdown]
# ## 6 What was found
#
# Sum up this run and compare it with the paper.

# %%
accuracy = scores.loc["accuracy"]
published = paper.deduced_scores("B0 down-sampled").iloc[0]
same_task = merge == "none" and not classes
beside = (
    f" The paper's B0, on its own {int(published['total']):,} validation galaxies, has "
    f"{published['accuracy']:.1%} and {published['macro_f1']:.3f}."
)
display(
    Markdown(
        f"{network.backbone} (weights: {network.weights}, recipe: {recipe}) names the arm class of "
        f"{accuracy['value']:.1%} of {len(result.part()):,} {result.reported_split} galaxies (95 % "
        f"interval {accuracy['low']:.1%} to {accuracy['high']:.1%}); always naming the most frequent "
        f"class would be right for {most_frequent:.1%}. Macro-F1 is {scores.loc['macro_f1', 'value']:.3f}."
        f"{beside if same_task else ''} The best epoch was {best} of "
        f"{len(run.history)}, at {run.history['seconds'].median():.1f} s per epoch."
    )
)
