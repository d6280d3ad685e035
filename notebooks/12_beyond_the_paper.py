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
# amplitudes of the arms are joined to its features, and the last layer (the *vote head*) is fitted to
# vote fractions.
#
# **Protocol** `sound`: a fifth of the sample is set aside first and looked at once, at the end. The
# methods are compared on the rest, in repeated stratified cross-validation; penalty, decision,
# temperature and prediction sets of a method are chosen inside its training folds.
#
# **Inputs**
# - `01_sample_selection`, `02_preprocessing`: the sample and the cache of its images
# - `data/weights`: the bundled networks
# - where the network is trained anew (`real_views`), the survey's images and votes
#
# **Outputs**
# - `scores.csv`, `gains.csv`, `quality.csv`: the ablation; `curves.csv`: the learning curve
# - `coverage.csv`: how often the prediction sets of each class hold the label
# - `test.csv`, `test_quality.csv`: the test part
# - `arm_counter`: the recipe as a trained network, for notebook 10 and `make predict`
# - `predictions.parquet`: what the recipe says of every development galaxy, in turn unseen
# - `seen.json`: whether the bundled network has learnt from galaxies of the sample
# - `armnet-3ch.safetensors`, `.json`, `.galaxies.txt`: the network, where it was trained anew
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
# Import the packages: `lib.counting.vote_head` learns from vote fractions, `lib.counting.armnet` has
# the network's features, `lib.counting.ablation` decides, calibrates and scores.

# %%
import json

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Markdown, display
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from lib import evaluation, images, networks, paths, surveys, training
from lib.counting import ablation, armnet, classical, pretraining, vote_head
from lib.figures import arm_counters, comparison, style
from lib.networks import weights
from lib.networks.polar import PolarView
from lib.schema import ARM_CLASSES, InputError

style.use()
threadpool_limits(1)  # small matrices are slower on several threads

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
# Views of galaxies outside the sample to train a network on, a multiple of 8,192; 0 takes the bundled
# one. Only the Galaxy Challenge has the votes for all questions that this needs.
real_views = 0
# Numbers of galaxies of the sample that the head is fitted to for the learning curve.
head_sizes = [50, 100, 200, 400]
# Repeats of the five-fold cross-validation.
repeats = 1
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
if repeats < 1 or least < 10:
    raise InputError(f"repeats = {repeats}: 1 or more; least = {least}: 10 or more")
out = paths.output_folder(run_dir, output)
prepared = paths.step_folder(run_dir, "02_preprocessing")
sample = pd.read_parquet(paths.step_folder(run_dir, "01_sample_selection") / "sample.parquet")

# %% [markdown]
# ## 2 The network
#
# ### 2.1 Training on votes
#
# ArmNet is two small networks side by side that see a galaxy's polar view. One has learnt from
# simulated galaxies (notebook 11). With `real_views`, the other goes on from there with real galaxies
# and the votes for all questions of the decision tree; no galaxy of the sample is among them. For each
# question $1 + 100\,\sigma(Wx + b)$ are the concentrations of a Dirichlet distribution. A training that
# was stopped goes on.

# %%
backbone = None
if real_views:
    states = paths.resolve(run_dir) / "pretraining"
    source = surveys.open_survey(survey, data_dir)
    voted = pretraining.voted_galaxies(source, sample["galaxy_id"], states, real_views, seed)
    keras.utils.set_random_seed(seed)
    view = PolarView.of_crop(armnet.SIZE)(keras.Input((armnet.SIZE, armnet.SIZE, 3)))
    tower, _ = networks.on_images("PolarNet", view, "mock")
    pooled = keras.layers.GlobalAveragePooling2D()(tower.output)
    concentrations = 1 + 100 * keras.layers.Dense(37, activation="sigmoid")(pooled)
    network = keras.Model(tower.inputs[0], concentrations)
    optimizer = pretraining.averaged_adamw(real_views, learning_rate=2e-3, weight_decay=1e-3)
    network.compile(optimizer, pretraining.VotesLoss(arms_weight=5.0), jit_compile=False)
    settings = {"weights": "mock", "views": real_views, "seed": seed, **voted.identity()}
    progress = pretraining.Progress(states / "real", settings, voted)
    network.fit(voted, epochs=voted.epochs, callbacks=[progress], shuffle=False, verbose=0)
    card = pretraining.card(settings, progress.curve, pretraining.Voted)
    backbone = armnet.build_armnet(tower)
    weights.save_bundled(backbone, card, out, survey=survey, galaxy_ids=voted.ids)

# %% [markdown]
# ### 2.2 The sample and its features
#
# The bundled network may not be judged on galaxies whose votes it has learnt from; what was checked
# is kept in `seen.json`. Classes with fewer than `least` galaxies are left out. Features: classical ones
# (`lib.counting.classical`; $R_{90}$ is 25 px of the cache), the amplitudes of the polar view
# (`lib.networks.amplitudes`), and those of both parts of ArmNet.

# %%
wide = images.open_cache(prepared, armnet.SIDE)
sample, seen = sample[wide.has(sample["galaxy_id"])].sort_values("galaxy_id"), {}
if backbone is None:
    sample, seen = weights.unseen(sample, "votes", "ArmNet", overlap=overlap)
    display(Markdown(seen["note"]))
    (out / "seen.json").write_text(json.dumps(seen, indent=1) + "\n")
members = sample["label"].value_counts()
classes = tuple(c for c in ARM_CLASSES if members.get(c, 0) >= least)
if len(classes) < 2:
    raise InputError(f"only class(es) {classes} have {least} galaxies: loosen the selection")
sample = sample[sample["label"].isin(classes)].reset_index(drop=True)
narrow = images.open_cache(prepared, armnet.SIZE)
pixels = np.asarray(narrow.arrays[narrow.rows(sample["galaxy_id"])])
features = armnet.features(pixels, backbone)
features["classical"] = classical.features(wide.arrays[wide.rows(sample["galaxy_id"])], r90=25)

# %% [markdown]
# ### 2.3 Development and test part
#
# Set a fifth of each class aside. `fractions` are the votes; of the development part `votes`
# are the same, and `number` is the most voted class.

# %%
every = np.arange(len(sample))
share = {"test_size": 0.2, "stratify": sample["label"], "random_state": seed}
development, test = (np.sort(part) for part in train_test_split(every, **share))
fractions = vote_head.fractions(sample, classes)
votes = fractions[development]
number = evaluation.class_index(sample["label"].iloc[development], classes)
display(sample["label"].iloc[development].value_counts().loc[[*classes]].to_frame())

# %% [markdown]
# ## 3 The ablation
#
# ### 3.1 Methods
#
# A method gets features `x`, vote fractions and class numbers of the training galaxies, and the features
# of those tested. It returns probabilities of the training galaxies by classifiers that had not seen
# them, probabilities of the tested ones, and the classes' frequencies. *Labels*: logistic regression on
# the most voted class, classes weighing alike. *Votes*: a linear softmax fitted to the vote fractions
# $\rho_{im}$ of galaxy $i$ and class $m$ (the vote head), which minimises
# $-\sum_i \sum_m \rho_{im} \log p_{im} + \lVert w \rVert^2 / 2C$.

# %%
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def by_labels(x, fractions, number, tested):
    inner = StratifiedKFold(3, shuffle=True, random_state=seed)
    reduce = PCA(min(128, x.shape[1], len(x) // 2), random_state=seed)
    logistic = LogisticRegression(class_weight="balanced", max_iter=2000)
    model = make_pipeline(StandardScaler(), reduce, logistic)
    strengths = {"logisticregression__C": [3e-4, 3e-3, 3e-2]}
    search = GridSearchCV(model, strengths, scoring="f1_macro", cv=inner).fit(x, number)
    best = search.best_estimator_
    inside = cross_val_predict(best, x, number, cv=inner, method="predict_proba")
    return inside, best.predict_proba(tested), np.bincount(number) / len(number)


def by_votes(x, fractions, number, tested):
    head = vote_head.fit(x, fractions, label=number, seed=seed)
    return head.unseen, head.probabilities(tested), fractions.mean(axis=0)


# %% [markdown]
# ### 3.2 Variants
#
# Each is a list of features that are joined, and a method. *Majority*: the frequencies, whatever the
# galaxy. Add a line to try another.


# %%
def by_majority(x, fractions, number, tested):
    shares = np.bincount(number) / len(number)
    return np.tile(shares, (len(x), 1)), np.tile(shares, (len(tested), 1)), shares


RECIPE, BASELINE = "recipe: ArmNet and amplitudes, votes", "classical, labels"
variants = {
    "majority class": (["classical"], by_majority),
    BASELINE: (["classical"], by_labels),
    "classical, votes": (["classical"], by_votes),
    "amplitudes, votes": (["amplitudes"], by_votes),
    "simulated part of ArmNet, votes": (["simulated"], by_votes),
    "real part of ArmNet, votes": (["real"], by_votes),
    "ArmNet, votes": (["simulated", "real"], by_votes),
    RECIPE: (["simulated", "real", "amplitudes"], by_votes),
    "recipe and classical, votes": (["simulated", "real", "amplitudes", "classical"], by_votes),
    "recipe, but labels": (["simulated", "real", "amplitudes"], by_labels),
}

# %% [markdown]
# ### 3.3 Folds
#
# `ablation.judge` decides by arg-max and by the rare-class decision,
# $\hat m = \arg\max_m (\log p_m - \tau \log f_m)$ with the frequencies $f_m$; $\tau$, the temperature and
# the thresholds of the prediction sets come from the training galaxies.


# %%
def cross_validate(names, method, folds):
    x = np.hstack([features[name] for name in names])[development]
    tables = []
    for k, (train, tested) in enumerate(folds):
        said = method(x[train], votes[train], number[train], x[tested])
        table = ablation.judge(*said, number[train], number[tested], classes)
        tables.append(table.assign(repeat=k // 5, galaxy=development[tested]))
    return pd.concat(tables, ignore_index=True)


# %% [markdown]
# ### 3.4 Loop
#
# Predict every galaxy of the development part by every variant, in the same folds. Macro-F1 and balanced
# accuracy by both decisions are shown; all scores have 95 % confidence intervals in `scores.csv`.

# %%
folds = evaluation.repeated_folds(number, 5, repeats, seed)
found = {}
for name, (joined, method) in variants.items():
    found[name] = cross_validate(joined, method, folds)
    print(f"{name} done", flush=True)
recipe = found[RECIPE].assign(galaxy_id=sample["galaxy_id"].to_numpy()[found[RECIPE]["galaxy"]])
recipe.to_parquet(out / "predictions.parquet", index=False)
RULES = {"arg-max": "largest", "rare classes": "predicted"}
scores = {rule: ablation.score_table(found, classes, by) for rule, by in RULES.items()}
scores = pd.concat(scores, names=["rule"])
scores.to_csv(out / "scores.csv")
wanted = ["macro_f1", "balanced_accuracy"]
shown = scores[scores.index.get_level_values("score").isin(wanted)]["value"]
display(shown.unstack(["rule", "score"], sort=False).loc[[*variants]].round(3))

# %% [markdown]
# ### 3.5 Figure of the scores
#
# Further right is better; the grey line is the recipe.

# %%
figure = arm_counters.scores({f"survey {survey}": scores.loc["rare classes"]}, RECIPE)
caption = (
    f"Each variant on the same {len(development):,} galaxies by the decision for rare classes, five-fold "
    f"cross-validation, {repeats} repeat(s), 95 % confidence intervals. The line marks the recipe."
)
style.show(figure, out / "ablation.png", caption)

# %% [markdown]
# ### 3.6 Paired gains
#
# The difference to the classical features with labels, and to the recipe, galaxy by galaxy (paired
# bootstrap, 95 % confidence interval), so that what makes all of them right or wrong cancels.

# %%
gains = {over: ablation.gains(found, over, classes) for over in (BASELINE, RECIPE)}
gains = pd.concat(gains, names=["over"])
gains.to_csv(out / "gains.csv")
words = gains.apply("{difference:+.3f} ({low:+.3f} to {high:+.3f})".format_map, axis=1)
display(words.unstack("metric", sort=False)[wanted])

# %% [markdown]
# ### 3.7 Probabilities and conformal prediction sets
#
# Root mean square error of the vote fractions (the measure of the Galaxy Challenge), cross-entropy
# against them and log-loss of the label in nats, expected calibration error, and prediction sets. Sets
# with one threshold hold the label of 90 % of *all* galaxies, which can hide a rare class that is covered
# too seldom. Sets with a threshold for each class hold the label of at least 90 % of *each*, and are
# larger; a class with fewer than nine training galaxies is in every one of them.

# %%
quality = {name: ablation.quality(table, fractions, classes) for name, table in found.items()}
quality = pd.DataFrame(quality).T.rename_axis("variant")
quality.to_csv(out / "quality.csv")
first = recipe[recipe["repeat"] == 0]
sets = ablation.coverage(first, classes)
sets.to_csv(out / "coverage.csv")
display(quality.round(3), sets.round(3))

# %% [markdown]
# ## 4 More galaxies
#
# Fit the vote head to fewer galaxies of each training fold, each class in proportion. A curve that still
# rises at its right end says that more galaxies would help.

# %%
rows = []
for size in head_sizes:
    some = []
    for train, tested in folds:
        if size < len(train) - len(classes):
            own = {"train_size": size, "stratify": number[train], "random_state": seed}
            train, _ = train_test_split(train, **own)
        some.append((train, tested))
    table = cross_validate(variants[RECIPE][0], by_votes, some)
    for repeat, part in table.groupby("repeat"):
        value = evaluation.scores(evaluation.confusion(part["label"], part["predicted"], classes))
        rows += [
            {"galaxies": size, "repeat": repeat, "score": s, "value": value[s]} for s in wanted
        ]
curve = pd.DataFrame(rows)
curve.to_csv(out / "curves.csv", index=False)

# %% [markdown]
# Lines are means of the repeats, bands their range.

# %%
figure, axis = plt.subplots(figsize=(4.5, 2.8), layout="constrained")
look = {"hue": "score", "style": "score", "markers": True, "errorbar": ("pi", 100)}
sns.lineplot(curve, x="galaxies", y="value", ax=axis, **look)
axis.set(xlabel="galaxies that the vote head is fitted to", ylabel=f"score (survey {survey})")
caption = "Scores of the recipe in the development folds against the galaxies it learns from."
style.show(figure, out / "curves.png", caption)

# %% [markdown]
# ## 5 The test part
#
# ### 5.1 Scores
#
# Fit the recipe to the whole development part and predict the galaxies that were set aside. Nothing
# above has seen them.

# %%
x = np.hstack([features[name] for name in armnet.RECIPE])
head = vote_head.fit(x[development], votes, label=number, seed=seed)
said = head.unseen, head.probabilities(x[test]), votes.mean(axis=0)
test_number = evaluation.class_index(sample["label"].iloc[test], classes)
judged = ablation.judge(*said, number, test_number, classes).assign(repeat=0, galaxy=test)

# %% [markdown]
# Scores by both decisions, probabilities and prediction sets.

# %%
of_test = {r: ablation.score_table({"recipe": judged}, classes, by) for r, by in RULES.items()}
of_test["rare classes"].to_csv(out / "test.csv")
test_quality = pd.Series(ablation.quality(judged, fractions, classes), name="test part")
test_quality.to_csv(out / "test_quality.csv")
test_sets = ablation.coverage(judged, classes)
display(*(t.round(3) for t in (pd.concat(of_test, axis=1), test_quality.to_frame(), test_sets)))

# %% [markdown]
# ### 5.2 Arm counter
#
# The recipe as one network from pixels to vote fractions. The test part, as its validation galaxies,
# calibrates its probabilities where it is applied.

# %%
model, origin = armnet.arm_counter(head, classes, backbone)
settings = {
    **{"role": "arm counter", "backbone": "ArmNet", "weights": "votes", "trainable": "frozen"},
    **{"protocol": "sound", "classes": classes, "merge": "none", "crop": armnet.SIZE},
    **{"colour": "rgb", "epochs": 1, "batch_size": len(development), "seed": seed},
    **{"decision": head.offsets.tolist(), "initial_weights": origin, "seen": seen},
    "images": {"image_cache_sha256": narrow.sha256},
}
assignment = sample[["galaxy_id", "label"]].assign(split="train")
assignment.loc[test, "split"] = "validation"
probabilities = model.predict(images.network_input(pixels, "rgb"), verbose=0)
table = training.prediction_table(assignment, probabilities, classes, settings["decision"])
training.save_run(out / "arm_counter", settings, pd.DataFrame({"epoch": [1]}), table, model)

# %% [markdown]
# ## 6 Mistakes
#
# Confusion matrices: rows are labels; a perfect method has all galaxies on the diagonal.

# %%
matrices = {}
for name, part in {"development": first, "test part": judged}.items():
    counts = evaluation.confusion(part["label"], part["predicted"], classes)
    matrices[f"{name} of survey {survey}"] = counts
caption = (
    "Share (and number) of the galaxies of each label (rows) that are predicted in each class."
)
style.show(comparison.confusion_matrices(matrices), out / "confusion_matrices.png", caption)

# %% [markdown]
# The surest mistakes of the most frequent kinds. Judge for yourself who is right: many labels are decided
# by few votes.

# %%
figure = arm_counters.mistakes(first, pixels, fractions, classes)
caption = (
    f"Galaxies of survey {survey} that the recipe takes for another class, one row per kind of mistake, "
    "surest first. Titles: share of the votes for the label, expected share for the prediction."
)
style.show(figure, out / "mistakes.png", caption)

# %% [markdown]
# ## 7 Conclusions
#
# Numbers of the test part, of the ablation and of the learning curve.

# %%
gain = gains.loc[(BASELINE, RECIPE, "macro_f1")]
plain, rare = (of_test[rule]["value"]["recipe", "macro_f1"] for rule in RULES)
ends = curve[curve["score"] == "macro_f1"].groupby("galaxies")["value"].mean()
worst = test_sets["coverage"].drop("all", level="label").groupby(level="sets").min()
lines = [
    f"- On {len(test):,} galaxies set aside, macro-F1 is {rare:.3f} by the decision for rare classes and "
    f"{plain:.3f} by arg-max; RMSE of the vote fractions {test_quality['rmse']:.3f}.",
    f"- Over the classical features with labels the recipe gains {gain['difference']:+.3f} in macro-F1 "
    f"({gain['low']:+.3f} to {gain['high']:+.3f}, paired, 95 % confidence interval).",
    f"- A vote head fitted to {ends.index[0]:,} galaxies has macro-F1 {ends.iloc[0]:.3f}, one fitted to "
    f"{ends.index[-1]:,} has {ends.iloc[-1]:.3f}.",
    f"- Prediction sets made for 90 % cover {worst['one threshold']:.0%} of the worst class with one "
    f"threshold and {worst['one for each class']:.0%} with one for each class.",
]
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## Exercises
#
# 1. Add `"amplitudes and classical, votes": (["amplitudes", "classical"], by_votes)` to `variants` and run
#    from 3.2 on. Does the network add anything to the two?
# 2. Replace `LogisticRegression` in 3.1 by `sklearn.svm.SVC(probability=True, class_weight="balanced")`,
#    with `strengths = {"svc__C": [0.1, 1, 10]}`, and compare the log-loss in 3.7.
# 3. Set `scoring="neg_log_loss"` in 3.1 and run from there on: how far does macro-F1 change?
