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
# # 11  Pre-train a backbone
#
# **Question.** Can a network learn what spirals look like from simulated galaxies alone, for users
# who cannot download Zoobot's or ImageNet's weights?
#
# **Method.** As Zoobot: answer all questions of the decision tree at once, learning from vote
# counts (Walmsley et al. 2022), here the votes of simulated volunteers. Galaxies are simulated while
# the network trains and are never shown twice. The network is given their *polar views*
# (`lib.networks.polar`): angle along one axis, logarithm of the radius along the other, the disc stretched to
# face-on. Spiral arms are then parallel stripes, and their number is the frequency of a texture. From
# images as they are on the sky, networks learn it far more slowly.
#
# **Inputs**
# - none for the training: `lib.surveys.mock` draws the galaxies
# - for the comparison, `01_sample_selection` and `02_preprocessing` of this run and of those that
#   `compare_runs` names; no other is read
#
# **Outputs**
# - `data/weights/polarnet-3ch.safetensors`: the backbone in half precision
# - `data/weights/polarnet-3ch.json`: its card, with how it was made
# - `curve.csv`: scores on held-out simulations while it learnt, and figures
# - `probes.csv`, `gains.csv`, `gains_over_random.csv`: what the weights are worth on each run's galaxies
# - `runs.json`: which runs these are
#
# Terms of the field are explained in the [glossary](../docs/glossary.md).

# %% tags=["remove-input"]
# What made the outputs below: the run fills it in.

# %% [markdown]
# ## 1 Set-up
#
# ### 1.1 Import packages
#
# Import Keras and the project's library; `lib.counting.pretraining` simulates galaxies and votes.

# %%
import json

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from threadpoolctl import threadpool_limits

from lib import evaluation, images, networks, paths
from lib.counting import ablation, armnet, classical, controls, pretraining
from lib.figures import arm_counters, style
from lib.networks import weights
from lib.networks.polar import PolarView
from lib.networks.polar_features import feature_network
from lib.schema import ARM_CLASSES

style.use()

# %% [markdown]
# ### 1.2 Define parameters
#
# The defaults made the bundled weights.

# %% tags=["parameters"]
# Folder of the run; a relative path starts at the project root.
run_dir = "runs/mock"
# Name of this notebook's folder below it.
output = "11_pretrain_backbone"
# Folder for the finished weights and their card.
weights_dir = "data/weights"
# Train again where that folder has weights made with these settings (`make weights` does).
rebuild = False
# Simulated galaxies to learn from; a multiple of 8,192.
galaxies = 98304
# Part of the training in which the share of easy galaxies falls from 1 to 0.
easy = 0.4
# Weight of the question for the number of arms; that of the others is 1.
arms_weight = 5.0
# Highest learning rate of AdamW.
learning_rate = 2e-3
# Seed of the simulations, of the first weights and of the folds.
seed = 0
# Further runs whose galaxies the features are compared on, beside those of this run; all must be done.
compare_runs = []
# Galaxies of a run that ArmNet has learnt from: refuse or leave out.
overlap = "refuse"

# %% [markdown]
# ### 1.3 Settings
#
# Everything that decides the weights, for their card. Images are 72 px wide, of 2 x 2 pixels of a GZ2
# cut-out each; 85 % of the galaxies are spirals.

# %%
SIZE = armnet.SIZE
look = {"easy": easy, "spiral_fraction": 0.85, "binning": 2}
settings = {"backbone": "PolarNet", "channels": 3, "size": SIZE}
settings |= {"chunk": pretraining.CHUNK, "batch_size": pretraining.BATCH}
settings |= {"arms_weight": arms_weight, "learning_rate": learning_rate, "weight_decay": 1e-4}
settings |= {"average": 0.99, "seed": seed, "curriculum": {"galaxies": galaxies, **look}}
out = paths.output_folder(run_dir, output)

# %% [markdown]
# ## 2 The galaxies
#
# Simulate some galaxies of the first and of the last part of the training. The first ones are
# easier: strong, regular arms, seen almost from above. Blur, brightness, contrast and noise are
# varied beyond what the mock survey has, because real images vary in ways no simulation knows.

# %%
figure, axes = plt.subplots(2, 10, figsize=(style.WIDTH, 1.6), layout="constrained")
for row, progress, name in zip(axes, (0.0, 1.0), ("start", "end")):
    shown, _ = pretraining.simulate(seed, 10, progress, size=SIZE, **look)
    for axis, image in zip(row, shown):
        axis.imshow(image)
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)
caption = (
    "Simulated galaxies: above from the start of the training, below the same ones at its end."
)
style.show(figure, out / "galaxies.png", caption)

# %% [markdown]
# ## 3 The training
#
# ### 3.1 Network
#
# PolarNet on the polar view, and a layer with one concentration $\alpha = 1 + 100\,\sigma(Wx + b)$ per
# answer of the decision tree. The loss is the negative logarithm of the Dirichlet-multinomial likelihood
# of the votes $k$, summed over the questions:
# $\ln\Gamma(n + A) - \ln\Gamma(A) - \sum_j [\ln\Gamma(k_j + \alpha_j) - \ln\Gamma(\alpha_j)]$ and a
# constant, with $n = \sum_j k_j$, $A = \sum_j \alpha_j$.

# %%
keras.utils.set_random_seed(seed)
view = PolarView.of_crop(SIZE, name="polar_view")(keras.Input((SIZE, SIZE, 3)))
backbone, _ = networks.on_images("PolarNet", view, "none")
pooled = keras.layers.GlobalAveragePooling2D()(backbone.output)
concentrations = 1 + 100 * keras.layers.Dense(37, activation="sigmoid")(pooled)
network = keras.Model(backbone.inputs[0], concentrations)
optimizer = pretraining.averaged_adamw(galaxies, learning_rate=learning_rate)
network.compile(optimizer, pretraining.VotesLoss(arms_weight), jit_compile=False)

# %% [markdown]
# ### 3.2 Fit
#
# Train, one line every 8,192 galaxies. The state is saved with each line: if the notebook is killed,
# running it again goes on from there. What is kept is the running mean of the weights, in half precision.
# Where `weights_dir` already has weights of these settings, and `rebuild` is not asked for, those are
# taken. Who changes the network or `compile` adds a word about it to `settings`, which tell trainings apart.

# %%
folder, state = paths.resolve(weights_dir), paths.resolve(run_dir) / "pretraining" / "PolarNet"
card = None if rebuild else pretraining.finished_card(settings, folder)
if card is None:
    with pretraining.Simulated(galaxies, seed, size=SIZE, **look) as simulated:
        progress = pretraining.Progress(state, settings, simulated)
        network.fit(
            simulated, epochs=simulated.epochs, callbacks=[progress], shuffle=False, verbose=0
        )
    card = pretraining.card(settings, progress.curve, pretraining.Simulated)
    weights.save_bundled(backbone, card, folder)

# %% [markdown]
# ### 3.3 Learning curve
#
# Loss, and how well the most voted number of arms is found, on simulations held out.

# %%
curve = pd.DataFrame(card["curve"])
curve.to_csv(out / "curve.csv", index=False)
display(curve[["galaxies", "train_loss", "loss", "accuracy", "macro_f1"]].round(3))

# %% [markdown]
# Draw it.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(style.WIDTH, 2.6), layout="constrained")
curve.plot("galaxies", ["loss"], ax=left, marker="o", ylabel="held-out loss (nats per galaxy)")
curve.plot("galaxies", ["macro_f1", "accuracy"], ax=right, marker="o", ylabel="score", ylim=(0, 1))
for axis in (left, right):
    axis.set_xlabel("simulated galaxies")
caption = (
    "PolarNet on held-out simulations: loss of all questions, and the most voted number of arms."
)
style.show(figure, out / "curve.png", caption)

# %% [markdown]
# ## 4 Comparison of features
#
# ### 4.1 Networks
#
# A linear classifier is to learn from features of an untrained network, of the pre-trained one, and of
# ArmNet, which went on learning from votes for real galaxies (notebook 12).

# %%
bodies = {
    "random PolarNet": feature_network("PolarNet", seed=seed),
    "pre-trained PolarNet": feature_network("PolarNet", "mock"),
    "ArmNet and amplitudes": feature_network("ArmNet", "votes", amplitudes=True),
}

# %% [markdown]
# ### 4.2 Galaxies
#
# Take all galaxies of the sample of this run and of the runs that are named, except those whose votes
# ArmNet has learnt from.

# %%
samples, seen = {}, {}
for run in dict.fromkeys([run_dir, *compare_runs]):
    sample = pd.read_parquet(paths.step_folder(run, "01_sample_selection") / "sample.parquet")
    sample, seen[run] = weights.unseen(sample, "votes", "ArmNet", overlap=overlap)
    cache = images.open_cache(paths.step_folder(run, "02_preprocessing"), 96)
    samples[run] = sample[cache.has(sample["galaxy_id"])], cache
    display(Markdown(f"**{run}**, survey {seen[run]['survey']}: {seen[run]['note']}"))
(out / "runs.json").write_text(json.dumps(seen, indent=1) + "\n")

# %% [markdown]
# ### 4.3 Features
#
# Classical features (Fourier amplitudes of the arms, asymmetry, concentration, colour), and those of the
# networks, as means over the eight orientations of the image.

# %%
features = {}
for run, (sample, cache) in samples.items():
    pixels = np.asarray(cache.arrays[cache.rows(sample["galaxy_id"])])
    features[run] = {"classical": classical.features(pixels, r90=25)}
    shown = images.network_input(images.central_crop(pixels, SIZE), "rgb")
    for name, (body, _) in bodies.items():
        turned = (body.predict(images.dihedral(shown, k), verbose=0) for k in range(8))
        features[run][name] = sum(turned) / 8
    both = features[run]["classical"], features[run]["pre-trained PolarNet"]
    features[run]["classical and pre-trained PolarNet"] = np.hstack(both)

# %% [markdown]
# ### 4.4 Linear classifiers
#
# Predict every galaxy by a balanced logistic regression that was trained on the other four fifths; the
# strength of its penalty is chosen inside them (protocol `sound`). Beside it stands the majority class.

# %%
found = {run: {} for run in samples}
for run, (sample, _) in samples.items():
    label = sample["label"].to_numpy()
    for name, x in features[run].items():
        table = pd.DataFrame(
            {"repeat": 0, "galaxy": range(len(x)), "label": label, "predicted": ""}
        )
        for train, tested in evaluation.repeated_folds(label, 5, 1, seed):
            with threadpool_limits(1):
                model = controls.classifier(x[train], seed).fit(x[train], label[train])
            table.loc[tested, "predicted"] = model.predict(x[tested])
        found[run][name] = table
        print(f"{run}: {name}", flush=True)
    found[run]["majority class"] = table.assign(predicted=sample["label"].mode()[0])

# %% [markdown]
# ### 4.5 Scores
#
# Macro-F1 and balanced accuracy beside each other; all scores have 95 % confidence intervals in `probes.csv`.

# %%
scores = {run: ablation.score_table(tables, ARM_CLASSES) for run, tables in found.items()}
pd.concat(scores, names=["run"]).to_csv(out / "probes.csv")
wanted = ["macro_f1", "balanced_accuracy"]
for run, table in scores.items():
    words = table.apply("{value:.3f} ({low:.3f} to {high:.3f})".format_map, axis=1)
    display(Markdown(f"**{run}**"), words.unstack()[wanted].loc[[*found[run]]])

# %% [markdown]
# ### 4.6 Figure of the scores
#
# Each point is a method, the line the classical features; a network left of it has learnt nothing that
# Fourier amplitudes do not know.

# %%
titles = {f"{seen[run]['survey']}: {run}": table for run, table in scores.items()}
caption = "Linear classifiers on all galaxies of each run's sample, five folds, 95 % confidence intervals."
style.show(arm_counters.scores(titles, "classical"), out / "probes.png", caption)

# %% [markdown]
# ### 4.7 Paired gains
#
# How much better each method is than the classical features, and than the untrained network, galaxy by
# galaxy (paired bootstrap, 95 % confidence interval): an interval clear of zero is more than chance.

# %%
gains = {}
for over, name in (("classical", "gains.csv"), ("random PolarNet", "gains_over_random.csv")):
    tables = {run: ablation.gains(f, over, ARM_CLASSES) for run, f in found.items()}
    gains[over] = pd.concat(tables, names=["run"])
    gains[over].to_csv(out / name)
    words = gains[over].apply("{difference:+.3f} ({low:+.3f} to {high:+.3f})".format_map, axis=1)
    display(Markdown(f"**over: {over}**"), words.unstack("metric", sort=False)[wanted])

# %% [markdown]
# ## 5 Conclusions
#
# For each run, with its own numbers; the training first.

# %%
end = curve.iloc[-1]
lines = [
    f"- After {int(end['galaxies']):,} simulated galaxies PolarNet finds the most voted number of arms of "
    f"{end['accuracy']:.1%} of held-out simulated spirals, macro-F1 {end['macro_f1']:.3f}."
]
for run in found:
    for over, table in gains.items():
        gain = table.loc[(run, "pre-trained PolarNet", "macro_f1")]
        lines.append(
            f"- {run}: pre-trained PolarNet gains {gain['difference']:+.3f} in macro-F1 "
            f"({gain['low']:+.3f} to {gain['high']:+.3f}) over {over}."
        )
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## Exercises
#
# 1. Set `galaxies = 8192` and another `weights_dir` (a new folder) and run all: how far is the learning curve
#    from that of the bundled weights?
# 2. Set `easy = 0`, `galaxies = 24576` and a new `weights_dir`, and run all; then the same with `easy = 0.4`:
#    which rare arm numbers are learnt later without the easy galaxies (`recall_...` in `curve`)?
# 3. Add `"amplitudes": feature_network("PolarNet", amplitudes=True)` to `bodies` and run from 4.1 on.
