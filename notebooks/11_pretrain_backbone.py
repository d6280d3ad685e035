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
# - `data/weights/<network>-<channels>ch.safetensors`: the backbone in half precision
# - `data/weights/<network>-<channels>ch.json`: its card, with how it was made
# - `curve.csv`: scores on held-out simulations while it learnt, and figures
# - `probes.csv`, `gains.csv`, `gains_over_random.csv`: what the weights buy on each run's galaxies
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
# Import the project's library; `lib.counting.pretraining` simulates and trains.

# %%
import json

import pandas as pd
from IPython.display import Markdown, display

from lib import paths
from lib.counting import pretraining, probe
from lib.figures import pretraining as figures
from lib.figures import style
from lib.networks import weights
from lib.networks.models import Network
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
# Backbone, see `lib.networks.weights.graph.BACKBONES`.
backbone = "PolarNet"
# Channels of the images: 1 (grey) or 3.
channels = 3
# Side of the images in pixels.
size = 72
# Pixels of a GZ2 cut-out per pixel of the images, along each side.
binning = 2
# Simulated galaxies to learn from; a multiple of 1,024.
galaxies = 98304
# Part of the training in which the share of easy galaxies falls from 1 to 0.
easy = 0.4
# Share of spirals among them.
spiral_fraction = 0.85
# Galaxies simulated at a time.
chunk = 1024
# Galaxies per step.
batch_size = 64
# Weight of the question for the number of arms; that of the others is 1.
arms_weight = 5.0
# Highest learning rate of AdamW.
learning_rate = 2e-3
# Momentum of the running mean of the weights, which is what is kept.
average = 0.99
# Seed of the simulations, of the first weights and of the folds.
seed = 0
# Further runs whose galaxies the features are compared on, beside those of this run; all must be done.
compare_runs = []
# Galaxies of a run that ArmNet has learnt from: refuse or leave out.
overlap = "refuse"
# Weights of an EfficientNetB0 (whole images, grey) to compare with, as `lib.networks.weights` names them.
b0_weights = ["none"]

# %% [markdown]
# ### 1.3 Check the parameters
#
# A value that is not possible stops the notebook here.

# %%
settings = pretraining.Settings(
    backbone=backbone,
    channels=channels,
    size=size,
    chunk=chunk,
    batch_size=batch_size,
    arms_weight=arms_weight,
    learning_rate=learning_rate,
    average=average,
    seed=seed,
    curriculum=pretraining.Curriculum(galaxies, easy, spiral_fraction, binning),
)
out = paths.output_folder(run_dir, output)

# %% [markdown]
# ## 2 The galaxies
#
# ### 2.1 Look at them
#
# Simulate some galaxies of the first and of the last part of the training. The first ones are
# easier: strong, regular arms, seen almost from above. Blur, brightness, contrast and noise are
# varied beyond what the mock survey has, because real images vary in ways no simulation knows.

# %%
draw = {"size": size, "channels": channels, "curriculum": settings.curriculum}
early, _ = pretraining.simulate(seed, 12, progress=0.0, **draw)
late, _ = pretraining.simulate(seed, 12, progress=1.0, **draw)
style.show(
    figures.stages(early, late),
    out / "galaxies.png",
    "Simulated galaxies as the network is given them: above from the start of the training, below "
    "the same galaxies as they would be drawn at its end.",
)

# %% [markdown]
# ## 3 The training
#
# ### 3.1 Train
#
# Train, one line every few thousand galaxies. The state is saved with each line: if the notebook is
# killed, running it again goes on from there. The backbone is written in half precision, and beside it
# a card with how it was made. Where `weights_dir` already has weights of these settings, and `rebuild`
# is not asked for, those are taken.

# %%
card = None if rebuild else pretraining.finished_card(settings, paths.resolve(weights_dir))
if card is None:
    curve, trained = pretraining.pretrain(
        settings, paths.resolve(run_dir) / "pretraining" / backbone
    )
    card = pretraining.card(settings, curve)
    weights.save_bundled(trained, card, paths.resolve(weights_dir))

# %% [markdown]
# ### 3.2 Watch it learn
#
# Show how well the number of arms is found on simulations that it has not seen, while it learns.

# %%
curve = pd.DataFrame(card["curve"])
curve.to_csv(out / "curve.csv", index=False)
display(curve[["galaxies", "train_loss", "loss", "accuracy", "macro_f1"]].round(3))

# %% [markdown]
# Draw it, with the loss.

# %%
style.show(
    figures.curve(curve),
    out / "curve.png",
    f"Pre-training of {backbone} on {curve['galaxies'].max():,} simulated galaxies. Left: negative "
    "log-likelihood of the votes of all questions; the first galaxies are easier than those held "
    "out. Right: macro-F1 and accuracy of the most voted number of arms on held-out simulations.",
)

# %% [markdown]
# ## 4 What the weights buy
#
# ### 4.1 Choose what to compare
#
# A linear classifier is to learn from classical numbers (Fourier amplitudes of the arms, asymmetry,
# concentration, colour), from features of untrained networks, from those of the pre-trained one, and
# from those of ArmNet, which went on learning from votes for real galaxies (notebook 12).

# %%
polar = {"crop": size, "view": "polar", "colour": "rgb" if channels == 3 else "grey"}
networks = {
    f"random {backbone}": Network("B0", backbone, **polar),
    f"pre-trained {backbone}": Network("B0", backbone, weights="mock", **polar),
    "ArmNet and amplitudes": Network("B0", "ArmNet", weights="votes", amplitudes=True, **polar),
} | {f"EfficientNetB0, {w}": Network("B0", "EfficientNetB0", w, 96, "grey") for w in b0_weights}

# %% [markdown]
# ### 4.2 Choose on which galaxies
#
# Take all galaxies of the sample of this run and of the runs that are named, except those whose votes
# ArmNet has learnt from.

# %%
seen, left_out = {}, {}
for run in dict.fromkeys([run_dir, *compare_runs]):
    table = paths.step_folder(run, "01_sample_selection") / "sample.parquet"
    sample = pd.read_parquet(table)
    judged, seen[run] = weights.unseen(
        sample, "votes", "ArmNet", channels=channels, overlap=overlap
    )
    left_out[run] = sorted(set(sample["galaxy_id"]) - set(judged["galaxy_id"]))
    display(Markdown(f"**{run}**, survey {seen[run]['survey']}: {seen[run]['note']}"))
(out / "runs.json").write_text(json.dumps(seen, indent=1) + "\n")

# %% [markdown]
# ### 4.3 Cross-validate linear classifiers
#
# Predict every galaxy by a logistic regression that was trained on the other four fifths; the
# strength of its penalty is chosen inside them (protocol `sound`).

# %%
best = f"pre-trained {backbone}"
found = {
    run: probe.compare(run, networks, binning=binning, join=best, leave_out=ids, seed=seed)
    for run, ids in left_out.items()
}

# %% [markdown]
# ### 4.4 Compare
#
# Put the scores with their 95 % intervals beside each other.

# %%
scores = pd.concat({r: probe.score_table(f, ARM_CLASSES) for r, f in found.items()}, names=["run"])
scores.to_csv(out / "probes.csv")
wanted = ["macro_f1", "balanced_accuracy"]
chosen = scores[scores.index.get_level_values("score").isin(wanted)]
display(chosen.unstack().swaplevel(axis=1)[wanted].round(3))

# %% [markdown]
# ### 4.5 Look at each class
#
# Show F1 class by class, with its 95 % interval. Classes with few galaxies have wide ones.

# %%
words = scores.apply("{value:.2f} ({low:.2f} to {high:.2f})".format_map, axis=1)
display(words.unstack()[[f"f1 of m = {c}" for c in ARM_CLASSES]])

# %% [markdown]
# ### 4.6 Measure the gain over classical numbers
#
# Show how much better each method is than the classical numbers, galaxy by galaxy (paired bootstrap):
# an interval that lies clear of zero is more than chance.

# %%
gains = pd.concat({r: probe.gains(f, "classical", ARM_CLASSES) for r, f in found.items()})
gains.to_csv(out / "gains.csv")
paired = gains[gains.index.get_level_values(-1).isin(wanted)][["difference", "low", "high"]]
display(paired.unstack().swaplevel(axis=1)[wanted].round(3))

# %% [markdown]
# ### 4.7 Measure the gain over random weights
#
# Do the same for the network itself, pre-trained against random.

# %%
pairs = {
    run: {name: tables[f"{name} {backbone}"] for name in ("random", "pre-trained")}
    for run, tables in found.items()
}
over_random = pd.concat(
    {run: probe.gains(pair, "random", ARM_CLASSES) for run, pair in pairs.items()}
)
over_random.to_csv(out / "gains_over_random.csv")
display(over_random.unstack().swaplevel(axis=1)[wanted].round(3))

# %% [markdown]
# ### 4.8 Draw the scores
#
# Each point is a method; a network that lies left of the classical one has learnt nothing that Fourier
# amplitudes do not know.

# %%
style.show(
    figures.probes(scores),
    out / "probes.png",
    "Macro-F1 and balanced accuracy on all galaxies of each run's sample, five-fold cross-validated, "
    "with 95 % intervals: linear classifiers on the features of each method. Weights: "
    f"{backbone} pre-trained on {curve['galaxies'].max():,} simulated galaxies.",
)

# %% [markdown]
# ## 5 What was found
#
# Sum up.

# %%
end = curve.iloc[-1]
recalls = ", ".join(
    f"{end[f'recall_{c}']:.0%} (m = {c})" for c in style.ARM_COLOURS if f"recall_{c}" in end
)
display(
    Markdown(
        f"After {int(end['galaxies']):,} simulated galaxies, {backbone} finds the most voted number "
        f"of arms of {end['accuracy']:.1%} of held-out simulated spirals, macro-F1 "
        f"{end['macro_f1']:.3f}; found of each class: {recalls}."
    )
)

# %% [markdown]
# ### 5.1 On which galaxies the weights are worth what
#
# Say so for each run, with its own numbers.

# %%
for run in found:
    at = scores["value"][run].unstack()["macro_f1"].round(3)
    gain = gains.loc[run].xs("macro_f1", level=-1).round(3)
    lines = [
        f"- {name}: macro-F1 {at[name]}, {line['difference']:+} over the classical numbers "
        f"({line['low']} to {line['high']})"
        for name, line in gain.sort_values("difference", ascending=False).iterrows()
    ]
    display(Markdown("\n".join([f"**{run}**, classical numbers: {at['classical']}", "", *lines])))
