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
# # 04  Train V2M
#
# **Question.** How well does a network all of whose weights are trained, the paper's V2M, count
# spiral arms?
#
# **Reproduces** Secs. 3.4, 3.5 and 4.2.2 and the V2M column of Table 2 of Lee, Soo & Sharoni
# (arXiv:2412.11696); Fig. 4 is in notebook 03, which explains the steps that both have in common.
# **Protocol** `published`: the validation galaxies that choose the epoch also give the scores.
# Notebook 09 has the sound one.
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
# As in notebook 03: Keras builds and trains the network, scikit-learn scores it, and the project's
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

style.use()

# %% [markdown]
# ### 1.2 Hardware
#
# On a GPU, half precision and XLA make training faster; on processors XLA makes it slower.

# %% tags=["hardware"]
# What layers compute in: float32 (as published), mixed_bfloat16 or mixed_float16.
precision = "float32"
# Parts of a batch of 16, computed one after the other, where a whole one does not fit into memory.
accumulate = 1
# Compile the training step by XLA.
jit = False
# one GPU (or the processor), or all GPUs, between which each batch is divided.
devices = "one"

# %% [markdown]
# ### 1.3 Parameters
#
# Change these to train another network or in another way. The defaults are those of the embedded
# survey; `notebooks/profiles/gz2.yaml` has the paper's, for a GPU.

# %% tags=["parameters"]
# Folder of the run (a relative path starts at the project root), and this notebook's folder in it.
run_dir = "runs/mock"
output = "04_train_v2m"
# Backbone, as Keras names it, and its weights: none, imagenet, zoobot-checkpoint:<path>, zoobot-hub.
backbone_name = "EfficientNetLite0"
weights = "imagenet"
# Side of the central crop, in pixels of the cache.
crop = 112
# Most galaxies of one class (the paper: 300); 0 takes all.
max_per_class = 300
# Class merge: none, 3+4 or 4+5+.
merge = "none"
# Learning rate of Adam, constant (the paper, for EfficientNetV2-M: 1e-4), and most epochs (50).
learning_rate = 0.00003
epochs = 4
# Train BatchNorm statistics and stochastic depth too; the paper leaves them as in prediction.
train_batch_norm = False
# Seed of every random choice; and whether to go on when a class has no galaxy to train on.
seed = 42
allow_empty = False

# %% [markdown]
# ### 1.4 Random numbers
#
# Every random choice follows from the seed, and operations are deterministic: a rerun on the same
# machine gives the same numbers. V2M sees the images in colour.

# %%
keras.utils.set_random_seed(seed)
tf.config.experimental.enable_op_determinism()
training.check_hardware(precision, accumulate, jit, devices)
colour = "rgb"

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
# Take the same galaxies as notebook 03: at most `max_per_class` of each class, split 70 : 30.

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
# Take a convolutional network with weights trained on other images. Unlike those of B0, all of them
# are trained further. With several GPUs each has a copy of the network.

# %%
one = tf.distribute.get_strategy()
strategy = tf.distribute.MirroredStrategy() if devices == "all" else one
keras.config.set_dtype_policy(precision)
with strategy.scope():
    backbone, origin = networks.backbone(backbone_name, crop, colour, weights)
    features = layers.GlobalAveragePooling2D(name="features", dtype="float32")(backbone.output)

# %% [markdown]
# ### 3.2 Head
#
# The same two dense layers as in B0 (Sec. 3.4). BatchNorm statistics and stochastic depth stay as in
# prediction, unless they are to be trained: the paper calls its backbone with `training=False`.

# %%
network = keras.Model if train_batch_norm else networks.InferenceMode
with strategy.scope():
    dense = layers.Dense(1024, activation="relu", name="dense", dtype="float32")
    last = layers.Dense(len(classes), activation="softmax", name="classes", dtype="float32")
    model = network(backbone.input, last(dense(features)), name="v2m")

# %% [markdown]
# ### 3.3 Parameters of the network
#
# Count the parameters (Table 2), beside those the paper prints for its V2M. Of B0 only the head is
# trained, here all but the BatchNorm statistics.

# %%
counts = pd.DataFrame({"this run": networks.parameter_counts(model)}).rename_axis("parameters")
counts["paper"] = pd.Series({"total": paper.TABLE_2["V2M"]})
display(counts.style.format("{:,.0f}", na_rep=""))

# %% [markdown]
# ## 4 Training
#
# ### 4.1 Augmented copies
#
# In every epoch each galaxy is seen as another copy, turned by up to 180 degrees, mirrored, and
# stretched by up to 20 % (Sec. 2.3). Features of such images cannot be kept, since the weights that
# make them change: this is why V2M takes so much longer than B0.

# %%
copies = images.Copies(cache, seed)
data = training.Batches(
    copies.get, galaxies[train], targets[train], batch_size=16 // accumulate, seed=seed
)
judged_by = training.Batches(copies.get, galaxies[validation], targets[validation])

# %% [markdown]
# ### 4.2 Settings
#
# State what decides the training; it is kept beside the network, and a killed training goes on only
# where all of it is the same.

# %%
settings = {
    **{"role": "V2M", "backbone": backbone_name, "weights": weights, "trainable": "all"},
    **{"protocol": "published", "classes": classes, **chosen, "crop": crop, "colour": colour},
    **{"learning_rate": learning_rate, "epochs": epochs},
    **{"batch_size": 16, "precision": precision, "accumulate": accumulate},
    **{"train_batch_norm": train_batch_norm, "seed": seed, "initial_weights": origin},
    "images": copies.settings(),
}

# %% [markdown]
# ### 4.3 Fit
#
# Minimise the cross-entropy $L = -\sum_c y_c \ln p_c$ by Adam, which changes each weight by
# $\Delta\theta = -\eta\,\hat m / (\sqrt{\hat v} + \epsilon)$, about the learning rate $\eta$, however small
# its gradient is. If $\eta$ is too large, most features of an EfficientNet-Lite soon have the same value
# for all galaxies (exercise 1): its ReLU6 has no gradient below 0 and above 6, and BatchNorm
# statistics that stay as they are do not bring the activations back. Hence a smaller rate than the
# paper's, whose EfficientNetV2-M has swish instead.

# %%
with strategy.scope():
    model.compile(
        keras.optimizers.Adam(
            learning_rate, gradient_accumulation_steps=accumulate if accumulate > 1 else None
        ),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=jit,
    )

# %% [markdown]
# Stop after 30 epochs without a better validation accuracy and keep the best weights (Sec. 3.5). As
# in notebook 03, a killed training goes on when run again, and ends with the same weights.

# %%
stopping = keras.callbacks.EarlyStopping("val_accuracy", patience=30, restore_best_weights=True)
resume = training.Resume(out, settings, stopping=stopping, data=data)
model.fit(
    data,
    validation_data=judged_by,
    epochs=epochs,
    callbacks=[stopping, resume],
    shuffle=False,  # the batches have an order of their own
    verbose=2,
)

# %% [markdown]
# ### 4.4 Learning curves
#
# Draw loss and accuracy. Where the training loss goes on falling while the validation loss rises,
# the network overfits: it fits the training galaxies one by one.

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
figure.suptitle(f"V2M, {kind} galaxies")
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
# The class with the largest probability is the prediction. Write the network, its settings, its
# history and all predictions.

# %%
probabilities = model.predict(training.Batches(copies.get, galaxies), verbose=0)
predictions = training.prediction_table(assignment, probabilities, classes)
judged = predictions[predictions["split"] == "validation"]
outcome = {
    "best_epoch": resume.best_epoch,
    "epochs_run": len(resume.history),
    "parameters": networks.parameter_counts(model).to_dict(),
}
training.save_run(out, settings | outcome, resume.history, predictions, model)

# %% [markdown]
# ### 5.2 Scores of each class
#
# Precision $P = TP / (TP + FP)$, recall $R = TP / (TP + FN)$ and $F_1 = 2PR / (P + R)$ of each class
# on the validation galaxies (Table 3); they have also chosen the epoch, as published.

# %%
print(classification_report(judged["label"], judged["predicted"], labels=classes, zero_division=0))

# %% [markdown]
# ### 5.3 Confusion matrix
#
# Draw the confusion matrix: rows are labels, columns predictions.

# %%
matrix = confusion_matrix(judged["label"], judged["predicted"], labels=classes)
figure, axes = plt.subplots(figsize=(5, 4))
sns.heatmap(matrix, annot=True, fmt="d", cmap="Blues", xticklabels=classes, yticklabels=classes)
axes.set(xlabel="predicted class", ylabel="label", title=f"V2M, {kind} galaxies")
style.show(
    figure,
    out / "confusion.png",
    f"Validation galaxies of each label (rows) by predicted class (columns), {backbone_name}. A "
    "perfect network has all of them on the diagonal.",
)

# %% [markdown]
# ### 5.4 Scores of all classes
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
published = paper.deduced_scores("V2M down-sampled").iloc[0]
lines = [
    f"- {backbone_name} (weights: {weights}) predicts the label of {accuracy['value']:.1%} of "
    f"{len(judged):,} {kind} validation galaxies (95 % interval {accuracy['low']:.1%} to "
    f"{accuracy['high']:.1%}); macro-F1 is {macro['value']:.3f} ({macro['low']:.3f} to "
    f"{macro['high']:.3f}).",
    f"- Always predicting the most frequent class is right for {most_frequent:.1%}.",
    f"- The paper's V2M, on its own {int(published['total']):,} purer galaxies with all classes, "
    f"has {published['accuracy']:.1%} and {published['macro_f1']:.3f}.",
    f"- The best epoch was {resume.best_epoch} of {len(resume.history)}, at "
    f"{resume.history['seconds'].median():.1f} s per epoch.",
]
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## Exercises
#
# 1. Set `learning_rate = 0.0003` in 1.3 and run all cells. Which classes are still predicted (5.3)?
#    `keras.Model(model.input, features).predict(copies.get(galaxies[:64])).std(axis=0)` is the spread
#    of each feature over 64 galaxies: of how many is it 0?
# 2. Insert `backbone.trainable = False` as the first line of the cell of `compile` in 4.3 and run from
#    3.1 on: V2M is then a B0 in colour. What do the trained weights of the backbone gain?
# 3. Set `train_batch_norm = True` in 1.3 and run all cells. Compare the validation loss (4.4).
