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
# Sharoni (arXiv:2412.11696). **Protocol** `published`: the validation galaxies that choose the epoch
# also give the scores. Notebook 09 has the sound one.
#
# **Inputs**
# - `01_sample_selection`: the selected galaxies and their labels
# - `02_preprocessing`: the cache of their images
#
# **Outputs**
# - `model.keras`: the network with the weights of its best epoch
# - `model.json`: what the network is, how it was trained and on what
# - `history.csv`: loss and accuracy of every epoch
# - `predictions.parquet`: class probabilities of every galaxy that has an image
# - `metrics.json`: scores of every part of the data
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
# Import Keras, which builds and trains the network, and scikit-learn, which scores it. The project's
# library opens the images, draws augmented copies and keeps what a killed training needs to go on.

# %%
import keras
import pandas as pd
import seaborn as sns
import tensorflow as tf
from IPython.display import Markdown, display
from keras import layers
from matplotlib import pyplot as plt
from sklearn.metrics import classification_report, confusion_matrix

from lib import evaluation, images, networks, paper, paths, selection, training
from lib.figures import style
from lib.figures import training as figures

style.use()

# %% [markdown]
# ### 1.2 Parameters
#
# Change these to train another network or in another way. The defaults are those of the embedded
# survey; `notebooks/profiles/gz2.yaml` has the paper's.

# %% tags=["parameters"]
# Folder of the run (a relative path starts at the project root), and this notebook's folder in it.
run_dir = "runs/mock"
output = "03_train_b0"
# Backbone, as Keras names it, and its weights: none, imagenet, zoobot-checkpoint:<path>, zoobot-hub.
backbone_name = "EfficientNetLite0"
weights = "imagenet"
# Side of the central crop, in pixels of the cache.
crop = 112
# Class merge: none, 3+4 or 4+5+; and most galaxies of one class (the paper: 300), 0 for all.
merge = "none"
max_per_class = 300
# Learning rate of Adam, constant (the paper: 1e-4), and most epochs (the paper: 50).
learning_rate = 0.001
epochs = 30
# Augmented copies of each galaxy whose features are kept; the published training has one per epoch.
copies = 2
# Seed of the split, the initial weights, the order of the galaxies and the augmentation.
seed = 42
# Go on when a class has no galaxy to train or validate on.
allow_empty = False

# %% [markdown]
# ### 1.3 Random numbers
#
# Every random choice follows from the seed, and operations are deterministic: a rerun on the same
# machine gives the same numbers. B0 sees grey images, the mean of the three channels (Sec. 2.2).

# %%
keras.utils.set_random_seed(seed)
tf.config.experimental.enable_op_determinism()
colour = "grey"

# %% [markdown]
# ## 2 The data
#
# ### 2.1 Images and labels
#
# Open the cache of images, and keep the galaxies of the sample that are in it.

# %%
out = paths.output_folder(run_dir, output)
cache = images.open_cache(paths.step_folder(run_dir, "02_preprocessing"), crop, colour)
sample = pd.read_parquet(paths.step_folder(run_dir, "01_sample_selection") / "sample.parquet")
kind = "simulated" if sample.attrs.get("survey") == "mock" else "real"
sample = sample[cache.has(sample["galaxy_id"])]

# %% [markdown]
# ### 2.2 Training and validation galaxies
#
# Take at most `max_per_class` galaxies of each class, the first in catalogue order as the authors
# did, and split each class 70 : 30 (Sec. 3.5). Galaxies left over (rest) are predicted too.

# %%
chosen = {
    "merge": merge,
    "merge_order": "after split",
    "sampling": "down-sampled" if max_per_class else "all",
    "max_per_class": max_per_class or len(sample),
    "choose": "first",
    "validation_fraction": 0.3,
}
assignment = selection.assign(sample, **chosen, seed=seed, allow_empty=allow_empty)
display(pd.crosstab(assignment["label"], assignment["split"]))

# %% [markdown]
# ### 2.3 Targets
#
# Give each class a place in the network's output; a target is 1 at the place of the label.

# %%
classes = training.check_assignment(assignment)
targets = training.one_hot(assignment["label"], classes)
train, validation = (assignment["split"] == part for part in ("train", "validation"))
galaxies = assignment["galaxy_id"]

# %% [markdown]
# ## 3 The network
#
# ### 3.1 Backbone
#
# Take a convolutional network with weights trained on other images, and freeze them. The mean
# over the image of its last feature maps, $f_k = \frac{1}{hw}\sum_{ij} A^k_{ij}$, are the features
# of a galaxy.

# %%
backbone, origin = networks.backbone(backbone_name, crop, colour, weights)
backbone.trainable = False
pooled = layers.GlobalAveragePooling2D(name="features")(backbone.output)
encoder = keras.Model(backbone.input, pooled, name=backbone_name)

# %% [markdown]
# Print a warning where these weights were trained on galaxies that are scored here.

# %%
if warning := origin.get("warning"):
    display(Markdown(f"**Warning.** {warning}"))

# %% [markdown]
# ### 3.2 Head
#
# Two dense layers turn the features into class probabilities (Sec. 3.4). The paper prints 1028 units
# for the first; its parameter counts say 1024. Head and backbone together are the network.

# %%
head = keras.Sequential(
    [
        keras.Input(encoder.output_shape[1:]),
        layers.Dense(1024, activation="relu", name="dense"),
        layers.Dense(len(classes), activation="softmax", name="classes"),
    ]
)
probability = pooled
for layer in head.layers:
    probability = layer(probability)
model = keras.Model(backbone.input, probability, name="b0")

# %% [markdown]
# ### 3.3 Parameters of the network
#
# Count the parameters (Table 2), beside those the paper prints for its B0.

# %%
counts = pd.DataFrame({"this run": networks.parameter_counts(model)}).rename_axis("parameters")
counts["paper"] = pd.Series({"total": paper.TABLE_2["B0"]})
display(counts.style.format("{:,.0f}", na_rep=""))

# %% [markdown]
# ### 3.4 Its last layers
#
# Draw the layers that turn the backbone's output into class probabilities (Fig. 4), as built.

# %%
tail = model.layers[len(backbone.layers) - 1 :]
style.show(
    figures.network_tail(tail, backbone_name, counts.loc["backbone", "this run"]),
    out / "network.png",
    f"The last layers of the network on {backbone_name}, with the shape of the output and the number "
    "of parameters of each. As Fig. 4 of the paper, where x stands for the backbone.",
)

# %% [markdown]
# ## 4 Training
#
# ### 4.1 Features
#
# A frozen backbone gives the same features for the same image, so that they are computed once and
# kept on disk: of each galaxy as it is, and of its augmented copies, turned by up to 180 degrees,
# mirrored, and stretched by up to 20 % (Sec. 2.3). Only the head is trained, on what is kept.

# %%
augmented = images.Copies(cache, seed)
store = training.FeatureStore(encoder, augmented, paths.resolve(run_dir) / "features")
store.prepare(galaxies, copies)
data = training.Batches(
    store.get, galaxies[train], targets[train], batch_size=16, seed=seed, copies=copies
)
judged_by = (store.get(galaxies[validation]), targets[validation])

# %% [markdown]
# State what decides the training; it is kept beside the network, and a killed training goes on only
# where all of it is the same.

# %%
settings = {
    **{"role": "B0", "backbone": backbone_name, "weights": weights, "trainable": "frozen"},
    **{"protocol": "published", "classes": classes, **chosen, "crop": crop, "colour": colour},
    **{"learning_rate": learning_rate, "epochs": epochs, "batch_size": 16, "copies": copies},
    **{"seed": seed, "initial_weights": origin, "images": augmented.settings()},
}

# %% [markdown]
# ### 4.2 Fit
#
# Minimise the cross-entropy, the mean over the galaxies of $L = -\sum_c y_c \ln p_c$, where $y_c$ is 1
# for the labelled class and 0 else. After each batch Adam changes every weight by
# $\Delta\theta = -\eta\,\hat m / (\sqrt{\hat v} + \epsilon)$: $\eta$ is the learning rate, $\hat m$ and
# $\hat v$ are running means of the gradient and of its square. Training stops after 30 epochs without
# a better validation accuracy, and the best weights are kept (Sec. 3.5). The state is written after
# every epoch: run again after a kill, the training goes on and ends with the same weights.

# %%
head.compile(
    keras.optimizers.Adam(learning_rate), loss="categorical_crossentropy", metrics=["accuracy"]
)
stopping = keras.callbacks.EarlyStopping("val_accuracy", patience=30, restore_best_weights=True)
resume = training.Resume(out, settings, stopping=stopping, data=data)
head.fit(
    data,
    validation_data=judged_by,
    epochs=epochs,
    callbacks=[stopping, resume],
    shuffle=False,  # the batches have an order of their own
    verbose=2,
)

# %% [markdown]
# ### 4.3 Learning curves
#
# Draw loss and accuracy. Where the training loss goes on falling while the validation loss rises,
# the head overfits: it fits the training galaxies one by one.

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
figure.suptitle(f"B0, {kind} galaxies")
for axis, name in zip(axes, ("loss", "accuracy")):
    axis.plot(resume.history["epoch"], resume.history[name], ".-", label="training")
    axis.plot(resume.history["epoch"], resume.history[f"val_{name}"], ".-", label="validation")
    axis.axvline(resume.best_epoch, color="0.4", linestyle=":", label="best epoch")
    axis.set(xlabel="epoch", ylabel={"loss": "cross-entropy / nat"}.get(name, name))
    axis.xaxis.get_major_locator().set_params(integer=True)
axes[0].legend()
style.show(
    figure,
    out / "learning_curves.png",
    f"Loss and accuracy of {backbone_name} over {len(resume.history)} epoch(s); the weights of epoch "
    f"{resume.best_epoch}, the first with the highest validation accuracy, are kept.",
)

# %% [markdown]
# ## 5 The result
#
# ### 5.1 Predictions
#
# The class with the largest probability is the prediction.

# %%
probabilities = head.predict(store.get(galaxies), verbose=0)
predictions = training.prediction_table(assignment, probabilities, classes)
judged = predictions[predictions["split"] == "validation"]

# %% [markdown]
# ### 5.2 Files
#
# Write the network, its settings, its history and all predictions.

# %%
outcome = {
    "best_epoch": resume.best_epoch,
    "epochs_run": len(resume.history),
    "parameters": networks.parameter_counts(model).to_dict(),
}
training.save_run(out, settings | outcome, resume.history, predictions, model)

# %% [markdown]
# ### 5.3 Scores of each class
#
# Precision $P = TP / (TP + FP)$, recall $R = TP / (TP + FN)$ and $F_1 = 2PR / (P + R)$ of each class
# on the validation galaxies (Table 3); they have also chosen the epoch, as published.

# %%
print(classification_report(judged["label"], judged["predicted"], labels=classes, zero_division=0))

# %% [markdown]
# ### 5.4 Confusion matrix
#
# Draw the confusion matrix: rows are labels, columns predictions.

# %%
matrix = confusion_matrix(judged["label"], judged["predicted"], labels=classes)
figure, axes = plt.subplots(figsize=(5, 4))
sns.heatmap(matrix, annot=True, fmt="d", cmap="Blues", xticklabels=classes, yticklabels=classes)
axes.set(xlabel="predicted class", ylabel="label", title=f"B0, {kind} galaxies")
style.show(
    figure,
    out / "confusion.png",
    f"Validation galaxies of each label (rows) by predicted class (columns), {backbone_name}. A "
    "perfect network has all of them on the diagonal.",
)

# %% [markdown]
# ### 5.5 Scores of all classes
#
# Accuracy, balanced accuracy $\frac{1}{k}\sum_c R_c$ and macro-F1 $\frac{1}{k}\sum_c F_{1,c}$ over the
# $k$ classes, with 95 % confidence intervals; and the accuracy of always predicting the most frequent
# class.

# %%
scores = evaluation.score_intervals(evaluation.read_run(out).confusion())
most_frequent = judged["label"].value_counts(normalize=True).max()
display(scores.round(3))

# %% [markdown]
# ## 6 Conclusions
#
# Sum up this run and compare it with the paper.

# %%
accuracy, macro = scores.loc["accuracy"], scores.loc["macro_f1"]
published = paper.deduced_scores("B0 down-sampled").iloc[0]
lines = [
    f"- {backbone_name} (weights: {weights}) predicts the label of {accuracy['value']:.1%} of "
    f"{len(judged):,} {kind} validation galaxies (95 % interval {accuracy['low']:.1%} to "
    f"{accuracy['high']:.1%}); macro-F1 is {macro['value']:.3f} ({macro['low']:.3f} to "
    f"{macro['high']:.3f}).",
    f"- Always predicting the most frequent class is right for {most_frequent:.1%}.",
    f"- The paper's B0, on its own {int(published['total']):,} purer galaxies with all classes, "
    f"has {published['accuracy']:.1%} and {published['macro_f1']:.3f}.",
    f"- The best epoch was {resume.best_epoch} of {len(resume.history)}, at "
    f"{resume.history['seconds'].median():.1f} s per epoch.",
]
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## Exercises
#
# 1. Set `crop = 64` in 1.2 and run all cells: does a network that sees less sky do worse?
# 2. Replace the two dense layers in 3.2 by `layers.Dense(len(classes), activation="softmax",
#    name="classes")` alone, and run from 3.2 on: what do the 1.3 million weights of the first gain?
# 3. Set `merge = "3+4"` in 1.2 and run all cells. Which part of the higher macro-F1 comes from having
#    one class less?
