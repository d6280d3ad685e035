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
# # 12  Beyond the paper
#
# **Question.** What counts spiral arms best when no weights can be downloaded, and which of its
# parts matter?
#
# **Goes beyond** the paper, which learns from the most voted class of some thousand clean galaxies.
# Here a network also learns from the *votes* for galaxies outside the sample, classical Fourier
# amplitudes of the arms are joined to its features, and the head is fitted to vote fractions.
#
# **Protocol** `sound`: a fifth of the sample is set aside first and looked at once, at the end. The
# methods are compared on the rest, in repeated stratified cross-validation; whatever a method
# chooses, it chooses inside its training folds.
#
# **Inputs**
# - `01_sample_selection`, `02_preprocessing`: the sample and the cache of its images
# - `data/weights`: the bundled networks
# - where the network is trained anew (`real_views`), the survey's images and votes
#
# **Outputs**
# - `armnet-3ch.safetensors`, `.json`, `.galaxies.txt`: the network, its card and the galaxies it has
#   learnt from, where it was trained anew
# - `seen.json`: whether galaxies of the sample were among those that the bundled network learnt from
# - `scores.csv`, `gains.csv`, `quality.csv`: the ablation; `curves.csv`: the learning curves;
#   `test.csv`: the test part
# - `arm_counter`: the winning recipe as a trained network, for notebook 10 and `make predict`
# - `coverage.csv`: how often the prediction sets of each class hold the label
# - `predictions.parquet`: what the winning recipe says of every galaxy, in turn unseen
# - figures
#
# Notebook 10 applies it with `model = "12_beyond_the_paper/arm_counter"`.
#
# Terms of the field are explained in the [glossary](../docs/glossary.md).

# %% tags=["remove-input"]
# What made the outputs below: the run fills it in.

# %% [markdown]
# ## 1 Set-up
#
# ### 1.1 Import packages
#
# Import the project's library; `lib.counting.beyond` compares, `lib.counting.votes` learns from fractions.

# %%
import json

import pandas as pd
from IPython.display import Markdown, display

from lib import evaluation, images, paths, surveys, training
from lib.counting import beyond, pretraining, probe, votes
from lib.evaluation import conformal
from lib.figures import beyond as figures
from lib.figures import comparison, style
from lib.figures import pretraining as training_figures
from lib.networks import weights
from lib.schema import InputError

style.use()

# %% [markdown]
# ### 1.2 Define parameters
#
# The defaults are those of the embedded, simulated survey, on which the bundled network is used.

# %% tags=["parameters"]
# Folder of the run; a relative path starts at the project root.
run_dir = "runs/mock"
# Name of this notebook's folder below it.
output = "12_beyond_the_paper"
# Survey, as in notebook 01.
survey = "mock"
# Folder of the survey's data.
data_dir = "runs/mock/00_mock_survey"
# Views of galaxies outside the sample to train a network on; 0 takes the bundled one. Only the
# Galaxy Challenge has the votes for all questions that this needs.
real_views = 0
# Numbers of those galaxies (all, if beyond) that networks are trained on for the learning curve.
real_sizes = []
# Numbers of simulated galaxies that networks are trained on for the learning curve.
simulated_sizes = []
# Numbers of galaxies of the sample that the head is fitted to for the learning curve.
head_sizes = [50, 100, 200, 400]
# Repeats of the five-fold cross-validation.
repeats = 1
# Share of the sample that is set aside.
test_share = 0.2
# Galaxies of the sample that the bundled network has learnt from: refuse or leave out.
overlap = "refuse"
# Galaxies that a class must have to be learnt and scored.
least = 10
# Seed of the parts, the folds and the training.
seed = 0

# %% [markdown]
# ### 1.3 Check the parameters
#
# A value that is not possible stops the notebook here.

# %%
if real_views and survey != "challenge":
    raise InputError(f"real_views = {real_views}: survey = {survey!r} has no votes to train on")
if (real_sizes or simulated_sizes) and not real_views:
    raise InputError("real_sizes and simulated_sizes go with real_views, which trains networks")
if not 0 < test_share < 1 or repeats < 1:
    raise InputError(f"test_share = {test_share}, repeats = {repeats}: see above")
out = paths.output_folder(run_dir, output)
states = paths.resolve(run_dir) / "pretraining"

# %% [markdown]
# ## 2 The network
#
# ### 2.1 Train on votes
#
# ArmNet is two small networks side by side that see a galaxy's polar view. One has learnt from
# simulated galaxies (notebook 11). The other goes on from there with real galaxies and the votes for
# all questions of the decision tree; no galaxy of the sample is among them. Training goes on where
# it was stopped.

# %%
armnet, curve = None, None
if real_views:
    voted = beyond.voted_galaxies(run_dir, surveys.open_survey(survey, data_dir))
    settings = beyond.real_settings(seed, real_views)
    curve, real = voted.train(settings, states)
    armnet = beyond.build_armnet(real)
    card = pretraining.card(settings, curve, pretraining.Voted)
    weights.save_bundled(armnet, card, out, survey=survey, galaxy_ids=voted.ids)

# %% [markdown]
# ### 2.2 Watch it learn
#
# Draw the loss and the arm scores on a tenth of the voted galaxies that it does not learn from, where
# the network was trained here.

# %%
if curve is not None:
    style.show(
        training_figures.curve(curve, "views of real galaxies"),
        out / "curve.png",
        f"Training on {len(voted.ids):,} real galaxies outside the sample. Left: negative "
        "log-likelihood of the votes of all questions. Right: macro-F1 and accuracy of the most voted "
        "number of arms on galaxies held out; most of them are no clear spirals.",
    )

# %% [markdown]
# ### 2.3 Take the features of the sample
#
# Measure, for each galaxy of the sample, the classical numbers (`lib.counting.classical`), the amplitudes of
# the polar view (`lib.networks.amplitudes`) and the features of both networks, and set the test part aside.
# The bundled network may not be judged on galaxies whose votes it has learnt from; what was checked
# is kept in `seen.json`.

# %%
everything = beyond.read(run_dir, armnet, least=least, overlap=overlap)
if everything.seen:
    display(Markdown(everything.seen["note"]))
    (out / "seen.json").write_text(json.dumps(everything.seen, indent=1) + "\n")
development, test = beyond.development_and_test(everything.label, share=test_share, seed=seed)
data = everything.take(development)
parts = {"development": data.sample["label"], "test": everything.sample["label"].iloc[test]}
display(
    pd.DataFrame({name: part.value_counts() for name, part in parts.items()}).loc[[*data.classes]]
)

# %% [markdown]
# ## 3 The ablation
#
# ### 3.1 Compare
#
# Predict every galaxy of the development part from each set of features. *Labels*: a logistic
# regression on the most voted class, classes weighing alike. *Votes*: a regression on the vote
# fractions, whose decision favours rare classes (`lib.counting.votes`).

# %%
found = beyond.ablation(data, repeats=repeats, seed=seed)
scores, gains, quality = beyond.summary(found, data)
scores.to_csv(out / "scores.csv")
gains.to_csv(out / "gains.csv")
quality.to_csv(out / "quality.csv")
winner = found[beyond.RECIPE]
winner.to_parquet(out / "predictions.parquet", index=False)

# %% [markdown]
# ### 3.2 Draw the scores
#
# Further right is better; the grey line is the recipe.

# %%
style.show(
    figures.ablation(scores, beyond.RECIPE),
    out / "ablation.png",
    f"Macro-F1 and balanced accuracy of each method on the same {len(data.label):,} galaxies, "
    f"five-fold cross-validation, {repeats} repeat(s), with 95 % intervals of the galaxies drawn. The "
    "line marks the recipe; a method whose interval lies left of it is worse by more than chance.",
)

# %% [markdown]
# ### 3.3 Measure each effect
#
# The gain of each method over the classical numbers with labels, galaxy by galaxy (paired
# bootstrap), so that what makes all of them right or wrong cancels.

# %%
wanted = ["macro_f1", "balanced_accuracy"]
paired = gains[gains.index.get_level_values(-1).isin(wanted)][["difference", "low", "high"]]
display(paired.unstack().swaplevel(axis=1)[wanted].round(3))

# %% [markdown]
# ### 3.4 What each part of the recipe adds
#
# The same differences against the recipe itself: negative where leaving a part out costs something.

# %%
_, against, _ = beyond.summary(found, data, over=beyond.RECIPE)
paired = against[against.index.get_level_values(-1).isin(wanted)][["difference", "low", "high"]]
display(paired.unstack().swaplevel(axis=1)[wanted].round(3))

# %% [markdown]
# ### 3.5 Class by class
#
# F1 of each class; the rare ones are what macro-F1 hangs on.

# %%
by_class = scores["value"].unstack()[[f"f1 of m = {c}" for c in data.classes]]
display(by_class.round(3))

# %% [markdown]
# ### 3.6 How good the probabilities are
#
# Root mean square error of the vote fractions (the measure of the Galaxy Challenge), cross-entropy
# against them in nats, expected calibration error of the predicted class after temperature
# scaling, and the sets that shall hold the label of 90 % of the galaxies.

# %%
display(quality.round(3))

# %% [markdown]
# ## 4 Other tasks
#
# ### 4.1 Two arms or three
#
# The paper's test problem: as many galaxies of m = 2 as of m = 3.

# %%
pair = None
if {"2", "3"} <= set(data.classes):
    pair = beyond.two_against_three(data, repeats=repeats, seed=seed)
    pair_scores = probe.score_table({"recipe": pair}, ("2", "3"))
    display(pair_scores.round(3))

# %% [markdown]
# ### 4.2 Merged classes and purer galaxies
#
# The recipe and the classical numbers where 4 and 5+ are one class, and where more than half of the
# volunteers agree.

# %%
for task, (tables, classes) in beyond.variants(
    data, repeats=repeats, seed=seed, least=least
).items():
    of_task = probe.score_table(tables, classes)
    display(Markdown(f"**{task}** ({', '.join(classes)})"))
    display(of_task["value"].unstack()[["accuracy", *wanted]].round(3))

# %% [markdown]
# ## 5 What more galaxies would bring
#
# ### 5.1 Learning curves
#
# Fit the head to fewer galaxies of the sample, and (where networks are trained here) train networks
# on fewer real or simulated galaxies. Curves that still rise say that more data would help.

# %%
curves = {"galaxies of the sample (head)": beyond.learning_curve(data, head_sizes, repeats=repeats)}
if real_sizes:
    curves["real galaxies with votes"] = voted.curve(data, real_sizes, settings, states, repeats)
if simulated_sizes:
    curves["simulated galaxies"] = beyond.simulated_curve(data, simulated_sizes, states, repeats)
pd.concat(curves, names=["kind"]).to_csv(out / "curves.csv")

# %% [markdown]
# ### 5.2 Draw them
#
# Means of the repeats; bars span the repeats.

# %%
style.show(
    figures.learning_curves(curves),
    out / "curves.png",
    "Macro-F1 and balanced accuracy of the recipe against the number of galaxies learnt from, in "
    "development folds. See whether the curves have levelled off at their right ends.",
)

# %% [markdown]
# ## 6 Are the probabilities right?
#
# ### 6.1 Draw reliability
#
# Compare the probability of the class predicted with how often that is right, before and after
# temperature scaling; the temperature is fitted inside the training folds.

# %%
first = winner[winner["repeat"] == 0]
reliability = beyond.reliability(first, data.classes)
style.show(
    comparison.reliability_diagram({"recipe votes": reliability}),
    out / "reliability.png",
    "Share of right labels against the probability of the class predicted. Expected vote fractions "
    "are less sure than the label, which is what most volunteers said; scaled, the points shall lie on "
    "the diagonal.",
)

# %% [markdown]
# ### 6.2 Count what the prediction sets hold, class by class
#
# The sets are made to hold the label of 90 % of all galaxies together; nothing promises that for a
# single class. A frequent class that is covered too often hides a rare one that is covered too
# seldom, which is the more serious the fewer galaxies it has.

# %%
sets = conformal.by_class(first["in_set"], first["label"], first["set_size"], data.classes)
sets.to_csv(out / "coverage.csv")
display(sets.round(3))

# %% [markdown]
# ## 7 The test part
#
# ### 7.1 Look once
#
# Fit the recipe to the whole development part and predict the galaxies that were set aside. Nothing
# above has seen them.

# %%
names = beyond.LEVERS[beyond.RECIPE]
judged = beyond.judge_once(everything, names, development, test)
of_test = probe.score_table({"recipe on the test part": judged}, data.classes)
test_quality = beyond.quality(judged, everything.fractions, data.classes)
of_test.to_csv(out / "test.csv")
display(of_test.round(3))
display(pd.Series(test_quality, name="recipe on the test part").to_frame().round(3))
of_sets = (judged[name] for name in ("in_set", "label", "set_size"))
display(conformal.by_class(*of_sets, data.classes).round(3))

# %% [markdown]
# ### 7.2 Keep the arm counter
#
# Keep the recipe as one network from pixels to probabilities, with the head that was fitted to the
# development part. The test part calibrates its probabilities where it is applied.

# %%
numbers = evaluation.class_index(everything.label, data.classes)
inputs, fractions = everything.joined(names)[development], everything.fractions[development]
fitted = votes.fit(inputs, fractions, label=numbers[development])
model, origin = beyond.arm_counter(fitted, data.classes, armnet)
assignment = everything.sample[["galaxy_id", "label"]].assign(split="train")
assignment.loc[test, "split"] = "validation"

# %% [markdown]
# Write it, with what is predicted of every galaxy.

# %%
cache = images.open_cache(paths.step_folder(run_dir, "02_preprocessing"), beyond.SIZE)
settings = {
    **{"role": "arm counter", "backbone": "ArmNet", "weights": "votes", "trainable": "frozen"},
    **{"protocol": "sound", "classes": data.classes, "merge": "none", "crop": beyond.SIZE},
    **{"colour": "rgb", "epochs": 1, "batch_size": len(development), "seed": seed},
    **{"decision": fitted.offsets.tolist(), "initial_weights": origin, "seen": data.seen},
    "images": {"image_cache_sha256": cache.sha256},
}
probabilities = model.predict(images.network_input(everything.pixels, "rgb"), verbose=0)
table = training.prediction_table(assignment, probabilities, data.classes, settings["decision"])
training.save_run(out / "arm_counter", settings, pd.DataFrame({"epoch": [1]}), table, model)

# %% [markdown]
# ### 7.3 Draw what is taken for what
#
# Rows are labels; a perfect method has all galaxies on the diagonal.

# %%
matrices = {
    "development, in turn unseen": evaluation.confusion(
        first["label"], first["predicted"], data.classes
    ),
    "test part": evaluation.confusion(judged["label"], judged["predicted"], data.classes),
}
style.show(
    comparison.confusion_matrices(matrices),
    out / "confusion_matrices.png",
    "Share (and number) of the galaxies of each label that are predicted in each class. See which "
    "neighbours are mixed up, and what is said of galaxies whose arms volunteers could not count.",
)

# %% [markdown]
# ## 8 What is still wrong
#
# ### 8.1 Look at the surest mistakes
#
# For the most frequent kinds of mistake, show the galaxies on which the recipe is surest.

# %%
groups = beyond.mistakes(first, data)
style.show(
    figures.mistakes(groups, data.classes),
    out / "mistakes.png",
    "Galaxies that the recipe takes for another class, one row per kind of mistake, surest first. "
    "Titles: share of the votes for the label, and of the expected votes for the prediction. Judge "
    "for yourself who is right: many labels are decided by few votes.",
)

# %% [markdown]
# ### 8.2 Arms that volunteers could not count
#
# On the simulated survey the truth is known of galaxies labelled "?" too: see how often the most
# probable number is the true one.

# %%
truth_path = paths.resolve(data_dir) / "truth.parquet"
if truth_path.is_file():
    hidden = beyond.unseen_arms(winner, data, pd.read_parquet(truth_path))
    hidden.to_csv(out / "unseen_arms.csv")
    display(hidden.round(3))

# %% [markdown]
# ## 9 What was found
#
# Sum up.

# %%
at, over = scores["value"].unstack(), gains.loc[beyond.RECIPE]
worst = sets.loc[sets.loc[[*data.classes], "coverage"].idxmin()]
head = next(iter(curves.values()))
head = head[head["score"] == "macro_f1"].set_index("galaxies")["value"]
display(
    Markdown(
        f"On {len(data.label):,} galaxies the recipe has macro-F1 "
        f"{at.loc[beyond.RECIPE, 'macro_f1']:.3f} and balanced accuracy "
        f"{at.loc[beyond.RECIPE, 'balanced_accuracy']:.3f}; the classical numbers with labels have "
        f"{at.loc[beyond.BASELINE, 'macro_f1']:.3f} and "
        f"{at.loc[beyond.BASELINE, 'balanced_accuracy']:.3f}. The paired gains are "
        + " and ".join(
            f"{over.loc[score, 'difference']:+.3f} ({over.loc[score, 'low']:+.3f} to "
            f"{over.loc[score, 'high']:+.3f})"
            for score in wanted
        )
        + f". With a head that is fitted to {head.index[-2]:,} galaxies a fold, macro-F1 is "
        f"{head.iloc[-2]:.3f}, with {head.index[-1]:,} it is {head.iloc[-1]:.3f}. On the "
        f"{len(test):,} galaxies of the test part: macro-F1 "
        f"{of_test['value'].xs('macro_f1', level='score').iloc[0]:.3f}, balanced accuracy "
        f"{of_test['value'].xs('balanced_accuracy', level='score').iloc[0]:.3f}; sets made for 90 % "
        f"hold the label of {test_quality['coverage']:.1%} and have {test_quality['set_size']:.1f} "
        f"classes on average, but of the worst covered class ({worst.name}) only "
        f"{worst['coverage']:.1%} of {worst['galaxies']:.0f} development galaxies "
        f"({worst['low']:.1%} to {worst['high']:.1%}); the expected calibration error is "
        f"{test_quality['ece']:.3f}."
    )
)
