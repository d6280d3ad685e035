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
# # 08  Class balance
#
# **Question.** What is best done about classes of very unequal size: train on all galaxies, leave
# most of the large classes out, or weight, draw or penalise them differently?
#
# **Reproduces** Sec. 4.2.2, Fig. 6 and the left of Table 3 of Lee, Soo & Sharoni (arXiv:2412.11696),
# and adds class weights, balanced sampling and focal loss, which the paper did not try.
#
# **Inputs**
# - `01_sample_selection`: the galaxies of each class
# - `02_preprocessing`: the cache of their images
# - `03_train_b0`: the settings of B0
#
# **Outputs**
# - `balance.csv`: scores of every way, on its own validation galaxies and on the common ones
# - `classes.csv`: recall of every class
# - `table_3_left.csv`: F1 of all data against down-sampled data, beside the paper
# - `metrics.json`: scores on the common galaxies
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
# Keras builds and trains the networks, scikit-learn gives the class weights.

# %%
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from IPython.display import Markdown, display
from keras import layers
from matplotlib import pyplot as plt
from sklearn.utils.class_weight import compute_class_weight

from lib import evaluation, images, networks, paper, paths, selection, training
from lib.figures import style
from lib.workflow import report

style.use()

# %% [markdown]
# ### 1.2 Parameters
#
# Change these to try other methods. On several GPUs, `part` divides the trainings between runs of this
# notebook.

# %% tags=["parameters"]
# Folder of the run (a relative path starts at the project root), and this notebook's folder in it.
run_dir = "runs/mock"
output = "08_class_balance"
# Methods that are compared: down-sampled, all data, class weights, balanced sampling, focal loss.
options = ["down-sampled", "all data", "class weights", "focal loss"]
# Folds of the sample, and those of them that are tested.
folds = 3
tested = [0]
# Most galaxies of one class in the down-sampled data; the paper has 300.
max_per_class = 100
# Which part of the trainings this run does: k/n, or 1/1 for all.
part = "1/1"
# Go on when a class has no galaxy to train or validate on.
allow_empty = False
# Seed of the bootstrap.
seed = 42

# %% [markdown]
# ### 1.3 Data
#
# Take the sample, and the settings of B0 as notebook 03 has trained it.

# %%
out = paths.output_folder(run_dir, output)
base = training.settings_of(paths.step_folder(run_dir, "03_train_b0"))
cache = images.open_cache(paths.step_folder(run_dir, "02_preprocessing"), base["crop"], "grey")
sample = pd.read_parquet(paths.step_folder(run_dir, "01_sample_selection") / "sample.parquet")
kind = "simulated" if sample.attrs.get("survey") == "mock" else "real"
sample = sample[cache.has(sample["galaxy_id"])]
trainings = paths.resolve(run_dir) / "trainings"
tf.config.experimental.enable_op_determinism()

# %% [markdown]
# ## 2 Class frequencies
#
# ### 2.1 Counts
#
# Count each class in all data and after down-sampling, beside the paper's counts.

# %%
counts = pd.DataFrame({"all data": selection.class_counts(sample["label"])})
counts["down-sampled"] = counts["all data"].clip(upper=max_per_class)
display(counts.assign(paper=pd.Series(paper.CLASS_COUNTS)))

# %% [markdown]
# ### 2.2 Figure 6
#
# Draw both. Where no class exceeds the limit, down-sampling changes nothing.

# %%
axes = counts.plot.bar(logy=True, rot=0, figsize=(7, 2.8), title=f"{kind} galaxies")
for bars in axes.containers:
    axes.bar_label(bars, fmt="{:,.0f}", fontsize=7)
axes.set(xlabel="arm number m", ylabel="galaxies", ylim=(1, None))
axes.yaxis.set_major_formatter("{x:,.0f}")
style.show(
    axes.figure,
    out / "class_counts.png",
    f"Galaxies of each arm class in all data and after down-sampling to at most {max_per_class} per "
    "class. As Fig. 6 of the paper.",
)

# %% [markdown]
# ## 3 The trainings
#
# ### 3.1 Features of B0
#
# Build the frozen backbone, and compute its features of every galaxy and of its augmented copies; they
# are kept on disk and shared by all trainings.

# %%
keras.utils.set_random_seed(base["seed"])
backbone, _ = networks.backbone(base["backbone"], base["crop"], "grey", base["weights"])
pooled = layers.GlobalAveragePooling2D()(backbone.output)
encoder = keras.Model(backbone.input, pooled, name=base["backbone"])
copies = images.Copies(cache, base["seed"])
store = training.FeatureStore(encoder, copies, paths.resolve(run_dir) / "features")
store.prepare(sample["galaxy_id"], base["copies"])

# %% [markdown]
# ### 3.2 Head of B0
#
# As in notebook 03: two dense layers on the features of the frozen backbone.


# %%
def head(width, n_classes, seed, loss):
    """The head of B0, compiled, with the initial weights of a seed."""
    keras.utils.set_random_seed(seed)
    dense, classes = layers.Dense(1024, activation="relu"), layers.Dense(n_classes, "softmax")
    model = keras.Sequential([keras.Input((width,)), dense, classes])
    adam = keras.optimizers.Adam(base["learning_rate"])
    model.compile(adam, loss=loss, metrics=["accuracy"])
    return model


# %% [markdown]
# ### 3.3 Methods
#
# With class weights the cross-entropy of a galaxy of class $c$ is multiplied by $w_c = n / (k\,n_c)$,
# where $n_c$ of $n$ training galaxies in $k$ classes have that label: the mean weight is 1. Balanced
# sampling draws every class equally often. The focal loss $L = -(1 - p)^\gamma \ln p$ of the
# probability $p$ of the label, with $\gamma = 2$, reduces the weight of galaxies that are easy to
# classify (Lin et al. 2017). All three train on all data.

# %%
FOCAL = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=2.0)


def train(option, **parts):
    """Train B0 with one method, and return its run."""
    sampling = {"sampling": "down-sampled" if option == "down-sampled" else "all"}
    chosen = {**sampling, "max_per_class": max_per_class, **parts}
    assignment = selection.assign(sample, **chosen, seed=base["seed"], allow_empty=allow_empty)
    classes = training.check_assignment(assignment)
    settings = base | chosen | {"classes": list(classes), "balance": option}
    settings |= {"protocol": "sound" if "fold" in parts else "published"}
    settings |= {"order": option} if option == "balanced sampling" else {}
    labels, weights = assignment.loc[assignment["split"] == "train", "label"], None
    if option == "class weights":
        found = compute_class_weight("balanced", classes=np.array(classes), y=labels)
        weights = dict(enumerate(found))
    loss = FOCAL if option == "focal loss" else "categorical_crossentropy"
    model = head(store.width, len(classes), settings["seed"], loss)
    return training.train(model, store.get, assignment, trainings, settings, class_weight=weights)


# %% [markdown]
# ### 3.4 Loop over methods and folds
#
# Protocol `published`: all and down-sampled data, scored on their own validation galaxies. Protocol
# `sound`: every method with each fold set aside for testing; of the rest 7 of 8 are trained on, since
# there the validation galaxies only choose the epoch.

# %% tags=["trainings"]
wanted = [(option, {"validation_fraction": 0.3}) for option in ("down-sampled", "all data")]
sound = {"validation_fraction": 0.125, "folds": folds}
wanted += [(option, sound | {"fold": fold}) for fold in tested for option in options]
trained = []
for option, parts in training.part_of(wanted, part):
    trained.append(train(option, **parts))
    scores = evaluation.scores(trained[-1].confusion())
    print(f"{option}, {trained[-1].protocol}: macro-F1 {scores['macro_f1']:.3f}", flush=True)

# %% [markdown]
# Group the runs by protocol. Runs with a fold are tested on galaxies that were set aside before
# anything was balanced.

# %%
as_published = [run for run in trained if run.protocol == "published"]
groups = {evaluation.option(group[0]): group for group in evaluation.fold_groups(trained)}

# %% [markdown]
# ## 4 Protocol `published`
#
# ### 4.1 Table 3, left
#
# Set $F_1 = 2PR / (P + R)$ of each class, of precision $P$ and recall $R$, beside the paper's. Both
# validation sets are parts of what was trained with: the one of all data has the natural class
# frequencies, the other not, so that these $F_1$ differ even for one and the same network. No change
# is given where $F_1$ on all data is 0.

# %%
reports = {
    evaluation.option(run): evaluation.class_report(run.confusion("validation"))["f1"]
    for run in as_published
}
table_3 = pd.DataFrame(reports).reindex(columns=["all data", "down-sampled"])
found = table_3["all data"].where(table_3["all data"] > 0)
table_3["change / %"] = 100 * (table_3["down-sampled"] / found - 1)
for name in ("all data", "down-sampled"):
    table_3[f"paper, {name}"] = paper.TABLE_3[f"B0 {name}", "f1"]
table_3["paper, change / %"] = pd.Series(paper.TABLE_3_F1_CHANGE)
display(table_3.round(3))

# %% [markdown]
# ### 4.2 The same recalls at other frequencies
#
# The two columns cannot be compared: the same recalls give different $F_1$ at the frequencies of all
# data and at those of the down-sampled data.

# %%
moved = {}
for run in as_published:
    matrix = run.confusion("validation")
    for name, found in counts.reindex(matrix.index).items():
        natural = evaluation.at_frequencies(matrix, found.to_dict())
        f1 = evaluation.class_report(natural)["f1"]
        moved[evaluation.option(run), f"F1, frequencies of {name}"] = f1
display(pd.DataFrame(moved).round(3))

# %% [markdown]
# ## 5 Protocol `sound`: the same test galaxies
#
# ### 5.1 Scores of each method
#
# Score each method twice: on its own validation galaxies, which have also chosen the epoch (as
# published), and on the common test galaxies, which had no part in anything (sound). Only the latter
# can be compared from row to row.

# %%
rows = []
for option, group in groups.items():
    matrix, summary = evaluation.cross_validate(group)
    own = sum(run.confusion("validation") for run in group) / len(group)
    for name, table, n in (
        ("common test", summary[["value", "low", "high"]], matrix.to_numpy().sum()),
        ("own validation", evaluation.score_intervals(own), own.to_numpy().sum()),
    ):
        rows.append(table.assign(option=option, galaxies=name, n=round(n)).reset_index())
balance = pd.concat(rows, ignore_index=True)
words = balance.apply("{value:.3f} ({low:.3f} to {high:.3f})".format_map, axis=1)
index = ["galaxies", "n", "option"]
display(balance.assign(words=words).pivot(index=index, columns="metric", values="words"))

# %% [markdown]
# ### 5.2 Scores drawn
#
# Accuracy rewards predicting the large class; balanced accuracy and macro-F1 give each class the same
# weight.


# %%
def intervals(axis, table, shift, label):
    """Values of the methods with their intervals, side by side for several tables."""
    rows = table.set_index("option").reindex(options)
    ends = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
    axis.errorbar(rows["value"], np.arange(len(options)) + shift, xerr=ends, fmt="o", label=label)
    axis.set_yticks(range(len(options)), options)
    axis.set_ylim(len(options) - 0.5, -0.5)


# %% [markdown]
# Each method, on both sets of galaxies.

# %%
metrics = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}
figure, axes = plt.subplots(1, 3, figsize=(7, 3), sharey=True, layout="constrained")
figure.suptitle(f"B0, {kind} galaxies")
for axis, (metric, name) in zip(axes, metrics.items()):
    for galaxies, shift in (("own validation", -0.13), ("common test", 0.13)):
        part = balance[(balance["metric"] == metric) & (balance["galaxies"] == galaxies)]
        intervals(axis, part, shift, galaxies)
    axis.set_xlabel(name)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
style.show(
    figure,
    out / "balance.png",
    "Scores of each method with 95 % intervals: on its own validation galaxies, which differ from "
    "method to method (published), and on common test galaxies (sound). Class weights, balanced "
    "sampling and focal loss train on all data.",
)

# %% [markdown]
# ### 5.3 Recall of each class
#
# Compute the recall of each class on the common galaxies; unlike precision it does not depend on how
# frequent the classes are.

# %%
found = {}
for option, group in groups.items():
    cells = evaluation.cell_intervals(evaluation.class_report(evaluation.cross_validate(group)[0]))
    found[option] = cells.xs("recall", level="metric").reset_index()
recalls = pd.concat(found, names=["option"]).reset_index("option")
display(recalls.pivot(index="option", columns="label", values="value").round(3))

# %% [markdown]
# Draw them. What the rare classes gain, the large ones may lose.

# %%
figure, axis = plt.subplots(figsize=(7, 0.7 * len(options) + 1), layout="constrained")
labels = list(counts.index.intersection(recalls["label"]))
axis.set_prop_cycle(color=[style.ARM_COLOURS[label] for label in labels])
for place, label in enumerate(labels):
    shift = 0.7 * ((place + 0.5) / len(labels) - 0.5)
    intervals(axis, recalls[recalls["label"] == label], shift, style.arm_label(label))
axis.set(xlabel="recall", xlim=(-0.02, 1.02), title=f"B0, {kind} galaxies")
figure.legend(loc="outside right center")
style.show(
    figure,
    out / "recall.png",
    "Recall of each arm class on the common test galaxies, with 95 % Wilson intervals.",
)

# %% [markdown]
# ### 5.4 Tests against down-sampling
#
# Count the common galaxies that only one of two networks classifies correctly (McNemar's exact test,
# with Holm's correction for several tests), and bootstrap the differences of the scores.

# %%
tests, differences = [], []
pooled = {option: evaluation.pool(group) for option, group in groups.items()}
for option in [option for option in options if option != "down-sampled" and option in pooled]:
    pair = [pooled["down-sampled"], pooled[option]]
    test, difference = evaluation.compare_pairs(pair, seed=seed)
    tests.append(test.assign(a="down-sampled", b=option))
    differences.append(difference.assign(option=option))
tests = pd.concat(tests, ignore_index=True)
tests["p_holm"] = evaluation.holm(tests["p_value"])
display(tests.round(4))

# %% [markdown]
# The differences of the scores, each method minus down-sampling.

# %%
differences = pd.concat(differences, ignore_index=True)
display(differences[["option", "metric", "a", "b", "difference", "low", "high"]].round(3))

# %% [markdown]
# ## 6 Files
#
# Write the tables, and the scores on the common galaxies for the report of the whole run.

# %%
tables = {"balance": balance, "classes": recalls, "table_3_left": table_3.reset_index()}
for name, table in tables.items():
    with paths.atomic(out / f"{name}.csv") as file:
        table.to_csv(file, index=False)
common = balance[balance["galaxies"] == "common test"]
scores = common.pivot(index="option", columns="metric", values="value")
report.write_json(out / "metrics.json", {"B0": scores.to_dict("index")})

# %% [markdown]
# ## 7 Conclusions
#
# Sum up these runs and compare them with the paper.

# %%
macro = common[common["metric"] == "macro_f1"].sort_values("value", ascending=False)
ranked = macro.apply("{option} {value:.3f} ({low:.3f} to {high:.3f})".format_map, axis=1)
lines = [
    f"- Macro-F1 of B0 on the same {macro['n'].iloc[0]:,} {kind} galaxies (95 % confidence interval): "
    f"{', '.join(ranked)}.",
    f"- {(tests['p_holm'] < 0.05).sum()} of {len(tests)} methods differ from down-sampling in the "
    "number of galaxies that they classify correctly (McNemar, Holm, 5 %).",
]
change = table_3[["change / %", "paper, change / %"]].dropna()
if len(change):
    ours, theirs = change.mean()
    lines.append(
        f"- As published, on different validation sets, down-sampling changes $F_1$ by {ours:+.0f} % "
        f"on average over {len(change)} classes; the paper prints {theirs:+.0f} % for these."
    )
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## Exercises
#
# Trainings are told apart by their settings: say there what is changed.
#
# 1. Set `gamma=5.0` and add `settings["gamma"] = 5.0` before `loss` in 3.3, and run from 3.3 on. Does
#    a stronger focus on difficult galaxies help the rare classes (5.3)?
# 2. Set `max_per_class = 30` in 1.2 and run all cells: more equal classes, but fewer galaxies.
# 3. Take softer class weights: `weights = dict(enumerate(np.sqrt(found)))`, with
#    `settings["softer"] = True` above it in 3.3, and run from 3.3 on.
