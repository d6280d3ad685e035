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
# **Reproduces** Secs. 3.4, 3.5 and 4.2.2, the V2M column of Table 2 and Fig. 4 of Lee, Soo &
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
# - `validation_probabilities.npy`: those of the validation galaxies after every epoch
# - `metrics.json`: scores of every part of the data
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
# ### 1.2 Describe the hardware
#
# Where there is a GPU, half precision and XLA make training faster; on processors XLA makes it slower.

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
# ### 1.3 Define parameters
#
# Change these to train another network or in another way. The defaults are those of the embedded
# survey; `notebooks/profiles/gz2.yaml` has the paper's, for a GPU.

# %% tags=["parameters"]
# Folder of the run; a relative path starts at the project root.
run_dir = "runs/mock"
# Name of this notebook's folder below it.
output = "04_train_v2m"
# Backbone, as Keras Applications names it; EfficientNetLite0 has ImageNet weights offline.
backbone_name = "EfficientNetLite0"
# Where the backbone's weights come from: none, imagenet, zoobot-checkpoint:<path>, zoobot-hub.
weights = "imagenet"
# Side of the central crop, in pixels of the cache.
crop = 112
# Class merge: none, 3+4 or 4+5+.
merge = "none"
# Most galaxies of one class (the paper: 300); 0 takes all.
max_per_class = 300
# Learning rate of Adam, constant (the paper: 1e-4).
learning_rate = 0.0003
# Most epochs (the paper: 50).
epochs = 3
# Train BatchNorm statistics and stochastic depth too; the paper leaves them as in prediction.
train_batch_norm = False
# Seed of the split, the initial weights, the order of the galaxies and the augmentation.
seed = 42
# Go on when a class has no galaxy to train or validate on.
allow_empty = False

# %% [markdown]
# ### 1.4 Fix the random numbers
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
# ### 2.1 Open images and labels
#
# Open the cache of images, and keep the galaxies of the sample that are in it.

# %%
out = paths.output_folder(run_dir, output)
cache = images.open_cache(paths.step_folder(run_dir, "02_preprocessing"), crop, colour)
sample = pd.read_parquet(paths.step_folder(run_dir, "01_sample_selection") / "sample.parquet")
sample = sample[cache.has(sample["galaxy_id"])]

# %% [markdown]
# ### 2.2 Choose training and validation galaxies
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
# ### 2.3 Write labels as targets
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
# ### 3.1 Build the backbone
#
# Take a convolutional network whose weights have learnt from other images; all of them go on
# learning. With several GPUs each has a copy of the network.

# %%
strategy = training.strategy(devices)
keras.config.set_dtype_policy(precision)
with strategy.scope():
    backbone, origin = networks.backbone(backbone_name, crop, colour, weights)
    features = layers.GlobalAveragePooling2D(name="features", dtype="float32")(backbone.output)

# %% [markdown]
# ### 3.2 Add the head
#
# Two dense layers turn the features into class probabilities (Sec. 3.4). BatchNorm statistics and
# stochastic depth stay as in prediction, unless they are to be trained: the paper calls its backbone
# with `training=False`.

# %%
network = keras.Model if train_batch_norm else networks.InferenceMode
with strategy.scope():
    dense = layers.Dense(1024, activation="relu", name="dense", dtype="float32")(features)
    probability = layers.Dense(len(classes), activation="softmax", name="classes", dtype="float32")(
        dense
    )
    model = network(backbone.input, probability, name="v2m")

# %% [markdown]
# ### 3.3 Count its parameters
#
# Count the parameters (Table 2), beside those the paper prints for its V2M.

# %%
counts = pd.DataFrame({"this run": networks.parameter_counts(model)}).rename_axis("parameters")
counts["paper"] = pd.Series({"total": paper.TABLE_2["V2M"]})
display(counts.style.format("{:,.0f}", na_rep=""))

# %% [markdown]
# ### 3.4 Draw its tail
#
# Draw the layers that turn the backbone's output into class probabilities (Fig. 4), as built.

# %%
style.show(
    figures.network_tail(networks.tail(model), backbone_name, counts.loc["backbone", "this run"]),
    out / "network.png",
    f"The tail of the network on {backbone_name} with the shape and the parameters of each layer's "
    "output. As Fig. 4 of the paper, where x stands for the backbone.",
)

# %% [markdown]
# ## 4 Training
#
# ### 4.1 Draw augmented copies
#
# In every epoch each galaxy is seen as another copy, turned by up to 180 degrees, mirrored, and
# stretched by up to 20 % (Sec. 2.3).

# %%
copies = images.Copies(cache, seed)
data = training.Batches(
    copies.get, galaxies[train], targets[train], batch_size=16 // accumulate, seed=seed
)
judged_by = training.Batches(copies.get, galaxies[validation], targets[validation])

# %% [markdown]
# State what decides the training; it is kept beside the network, and a killed training goes on only
# where all of it is the same.

# %%
settings = {
    **{"role": "V2M", "backbone": backbone_name, "weights": weights, "trainable": "all"},
    **{"protocol": "published", "classes": classes, **chosen, "crop": crop, "colour": colour},
    **{"learning_rate": learning_rate, "epochs": epochs, "batch_size": 16},
    **{"train_batch_norm": train_batch_norm, "precision": precision, "accumulate": accumulate},
    **{"seed": seed, "initial_weights": origin, "images": copies.settings()},
}

# %% [markdown]
# ### 4.2 Fit
#
# Minimise the cross-entropy $-\sum_c y_c \ln p_c$ by Adam. Training stops after 30 epochs without a
# better validation accuracy, and the best weights are kept (Sec. 3.5). The state is written after
# every epoch: run again after a kill, the training goes on and ends with the same weights.

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
stopping = keras.callbacks.EarlyStopping("val_accuracy", patience=30, restore_best_weights=True)
resume = training.Resume(out, settings, stopping=stopping, data=data)
kept = training.EpochProbabilities(out, judged_by)

# %% [markdown]
# Train, one line per epoch.

# %%
model.fit(
    data,
    validation_data=judged_by,
    epochs=epochs,
    callbacks=[stopping, kept, resume],
    shuffle=False,  # the batches have an order of their own
    verbose=2,
)

# %% [markdown]
# ### 4.3 Watch it learn
#
# Draw loss and accuracy. Where the training loss goes on falling while the validation loss rises,
# the network learns its galaxies by heart.

# %%
style.show(
    figures.learning_curves(resume.history, resume.best_epoch),
    out / "learning_curves.png",
    f"Loss and accuracy of {backbone_name} over {len(resume.history)} epoch(s); the weights of epoch "
    f"{resume.best_epoch}, the first with the highest validation accuracy, are kept.",
)

# %% [markdown]
# ## 5 The result
#
# ### 5.1 Predict every galaxy
#
# The class with the largest probability is the prediction.

# %%
probabilities = model.predict(training.Batches(copies.get, galaxies), verbose=0)
predictions = training.prediction_table(assignment, probabilities, classes)
judged = predictions[predictions["split"] == "validation"]

# %% [markdown]
# ### 5.2 Save the run
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
# ### 5.3 Score each class
#
# Precision $P = TP / (TP + FP)$, recall $R = TP / (TP + FN)$ and $F_1 = 2PR / (P + R)$ of each class
# on the validation galaxies (Table 3); they have also chosen the epoch, as published.

# %%
print(classification_report(judged["label"], judged["predicted"], labels=classes, zero_division=0))

# %% [markdown]
# ### 5.4 Draw what is taken for what
#
# Draw the confusion matrix: rows are labels, columns predictions.

# %%
matrix = confusion_matrix(judged["label"], judged["predicted"], labels=classes)
figure, axes = plt.subplots(figsize=(5, 4))
sns.heatmap(matrix, annot=True, fmt="d", cmap="Blues", xticklabels=classes, yticklabels=classes)
axes.set(xlabel="predicted arms", ylabel="labelled arms")
style.show(
    figure,
    out / "confusion.png",
    f"Validation galaxies of each label (rows) by predicted class (columns), {backbone_name}. A "
    "perfect network has all of them on the diagonal.",
)

# %% [markdown]
# ### 5.5 Score the whole
#
# Accuracy, balanced accuracy (the mean recall of the classes) and macro-F1 (the mean of their $F_1$)
# with 95 % intervals, beside what always naming the most frequent class would give.

# %%
scores = evaluation.score_intervals(evaluation.read_run(out).confusion())
most_frequent = judged["label"].value_counts(normalize=True).max()
display(scores.round(3))

# %% [markdown]
# ## 6 What was found
#
# Sum up this run and compare it with the paper.

# %%
accuracy, macro = scores.loc["accuracy"], scores.loc["macro_f1"]
published = paper.deduced_scores("V2M down-sampled").iloc[0]
lines = [
    f"- {backbone_name} (weights: {weights}) names the arm class of {accuracy['value']:.1%} of "
    f"{len(judged):,} validation galaxies (95 % interval {accuracy['low']:.1%} to "
    f"{accuracy['high']:.1%}); macro-F1 is {macro['value']:.3f} ({macro['low']:.3f} to "
    f"{macro['high']:.3f}).",
    f"- Always naming the most frequent class is right for {most_frequent:.1%}.",
    f"- The paper's V2M, on its own {int(published['total']):,} purer galaxies with all classes, "
    f"has {published['accuracy']:.1%} and {published['macro_f1']:.3f}.",
    f"- The best epoch was {resume.best_epoch} of {len(resume.history)}, at "
    f"{resume.history['seconds'].median():.1f} s per epoch.",
]
display(Markdown("\n".join(lines)))
