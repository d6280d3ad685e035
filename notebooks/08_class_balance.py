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
# Change these to try other ways. On several GPUs, `part` divides the trainings between runs of this
# notebook.

# %% tags=["parameters"]
# Folder of the run; a relative path starts at the project root.
run_dir = "runs/mock"
# Name of this notebook's folder below it.
output = "08_class_balance"
# Ways that are compared: down-sampled, all data, class weights, balanced sampling, focal loss.
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
# ### 1.3 Open the data
#
# Take the sample, and the settings of B0 as notebook 03 has trained it.

# %%
out = paths.output_folder(run_dir, output)
prepared = paths.step_folder(run_dir, "02_preprocessing")
base = {"B0": training.settings_of(paths.step_folder(run_dir, "03_train_b0"))}
cache = images.open_cache(prepared, base["B0"]["crop"], "grey")
sample = pd.read_parquet(paths.step_folder(run_dir, "01_sample_selection") / "sample.parquet")
sample = sample[cache.has(sample["galaxy_id"])]
trainings = paths.resolve(run_dir) / "trainings"
keras.utils.set_random_seed(base["B0"]["seed"])
tf.config.experimental.enable_op_determinism()

# %% [markdown]
# ## 2 How unequal are the classes?
#
# ### 2.1 Count the galaxies
#
# Count each class in all data and after down-sampling, beside the paper's counts.

# %%
sample = pd.read_parquet(paths.step_folder(run_dir, "01_sample_selection") / "sample.parquet")
counts = pd.DataFrame({"all data": selection.class_counts(sample["label"])})
counts["down-sampled"] = counts["all data"].clip(upper=max_per_class)
display(counts.assign(paper=pd.Series(paper.CLASS_COUNTS)))

# %% [markdown]
# ### 2.2 Draw them
#
# Draw both. Where no class exceeds the limit, down-sampling changes nothing.

# %%
style.show(
    figures.training_counts(counts),
    out / "class_counts.png",
    f"Galaxies of each arm class in all data and after down-sampling to at most {max_per_class} per "
    "class. As Fig. 6 of the paper.",
)

# %% [markdown]
# ## 3 The trainings
#
# ### 3.1 Open the features of B0
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
    store.prepare(sample["galaxy_id"], base["B0"]["copies"])
    return store


# %% [markdown]
# ### 3.2 Define the head of B0
#
# As in notebook 03: two dense layers on the features of the frozen backbone.


# %%
def head(width, n_classes, seed, loss):
    """The head of B0, compiled, with the initial weights of a seed."""
    keras.utils.set_random_seed(seed)
    dense, classes = layers.Dense(1024, activation="relu"), layers.Dense(n_classes, "softmax")
    model = keras.Sequential([keras.Input((width,)), dense, classes])
    adam = keras.optimizers.Adam(base["B0"]["learning_rate"])
    model.compile(adam, loss=loss, metrics=["accuracy"])
    return model


# %% [markdown]
# ### 3.3 Define the ways
#
# Class weights scale the loss of a galaxy by $w_c = n / (k\,n_c)$ for a class of $n_c$ of $n$ galaxies
# in $k$ classes; balanced sampling draws every class equally often; the focal loss is
# $-(1 - p)^\gamma \ln p$ with $\gamma = 2$ (Lin et al. 2017). All three train on all data.

# %%
FOCAL = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=2.0)


def train(option, **parts):
    """Train B0 with one way to deal with unequal classes, and return its run."""
    sampling = {"sampling": "down-sampled" if option == "down-sampled" else "all"}
    chosen = {**sampling, "max_per_class": max_per_class, **parts}
    assignment = selection.assign(
        sample, **chosen, seed=base["B0"]["seed"], allow_empty=allow_empty
    )
    classes = training.check_assignment(assignment)
    settings = base["B0"] | chosen | {"classes": list(classes), "balance": option}
    settings |= {"protocol": "sound" if "fold" in parts else "published"}
    if option == "balanced sampling":
        settings |= {"order": option}
    labels = assignment.loc[assignment["split"] == "train", "label"]
    weights = training.class_weights(labels, classes) if option == "class weights" else None
    loss = FOCAL if option == "focal loss" else "categorical_crossentropy"
    model = head(store.width, len(classes), settings["seed"], loss)
    return training.train(model, store.get, assignment, trainings, settings, class_weight=weights)


# %% [markdown]
# ### 3.4 Train
#
# As published, on all and on down-sampled data. Soundly, every way with each fold set aside; of the
# rest 7 of 8 are trained on, since there the validation galaxies only choose the epoch.

# %% tags=["trainings"]
store = features(base["B0"]["crop"])
wanted = [(option, {"validation_fraction": 0.3}) for option in ("down-sampled", "all data")]
sound = {"validation_fraction": 0.125, "folds": folds}
wanted += [(option, sound | {"fold": fold}) for fold in tested for option in options]
trained = []
for option, parts in training.part_of(wanted, part):
    trained.append(train(option, **parts))
    scores = evaluation.scores(trained[-1].confusion())
    print(f"{option}, {trained[-1].protocol}: macro-F1 {scores['macro_f1']:.3f}", flush=True)

# %% [markdown]
# Divide them by protocol. Runs with a fold are tested on galaxies that were set aside before anything
# was balanced; runs without are scored as published.

# %%
as_published = [run for run in trained if run.protocol == "published"]
groups = evaluation.fold_groups(trained)

# %% [markdown]
# ### 3.5 List what is compared
#
# Name each way and how often it was trained. With the sound protocol `trainings` counts the parts of
# the sample that were tested, each by a network that had not seen it.

# %%
listing = [
    (g[0].settings["role"], evaluation.option(g[0]), g[0].protocol, len(g))
    for g in [*groups, *([run] for run in as_published)]
]
columns = ["role", "option", "protocol", "trainings"]
display(pd.DataFrame(listing, columns=columns).sort_values(columns, ignore_index=True))

# %% [markdown]
# ## 4 As published
#
# ### 4.1 Compare F1 of all data and of down-sampled data
#
# Set F1 of each class beside the paper's (left of Table 3). Both validation sets are parts of what
# was trained with: the one of all data has the sky's frequencies, the other not, so that these F1
# differ even for one and the same network. No change is given where F1 on all data is 0.

# %%
reports = {
    evaluation.option(run): evaluation.class_report(run.confusion("validation"))["f1"]
    for run in as_published
    if run.settings["role"] == "B0"
}
table_3 = pd.DataFrame(reports).reindex(columns=["all data", "down-sampled"])
found = table_3["all data"].where(table_3["all data"] > 0)
table_3["change / %"] = 100 * (table_3["down-sampled"] / found - 1)
for name in ("all data", "down-sampled"):
    table_3[f"paper, {name}"] = paper.TABLE_3[f"B0 {name}", "f1"]
table_3["paper, change / %"] = pd.Series(paper.TABLE_3_F1_CHANGE)
display(table_3.round(3))

# %% [markdown]
# ### 4.2 Carry both over to other frequencies
#
# Show why the two columns cannot be compared: the same recalls, at the frequencies of all data and
# at those of the down-sampled data, give different F1.

# %%
moved = {}
for run in as_published:
    matrix = run.confusion("validation")
    for name in counts:
        natural = evaluation.at_frequencies(matrix, counts[name].reindex(matrix.index).to_dict())
        moved[run.name, f"F1 at the frequencies of {name}"] = evaluation.class_report(natural)["f1"]
display(pd.DataFrame(moved).round(3))

# %% [markdown]
# ## 5 On the same galaxies
#
# ### 5.1 Score every way
#
# Score each way twice: on its own validation galaxies, which have also chosen the epoch (as
# published), and on the common test galaxies, which had no part in anything (sound). Only the latter
# can be compared from row to row.

# %%
rows = []
for group in groups:
    matrix, summary = evaluation.cross_validate(group)
    own = sum(run.confusion("validation") for run in group) / len(group)
    for name, table, n in (
        ("common test", summary[["value", "low", "high"]], matrix.to_numpy().sum()),
        ("own validation", evaluation.score_intervals(own), own.to_numpy().sum()),
    ):
        about = {"role": group[0].settings["role"], "option": evaluation.option(group[0])}
        rows.append(table.assign(**about, galaxies=name, n=round(n)).reset_index())
balance = pd.concat(rows, ignore_index=True)
words = balance.apply("{value:.3f} ({low:.3f} to {high:.3f})".format_map, axis=1)
index = ["role", "galaxies", "n", "option"]
display(balance.assign(words=words).pivot(index=index, columns="metric", values="words"))

# %% [markdown]
# ### 5.2 Draw the scores
#
# Draw both. Accuracy rewards whoever names the large class; balanced accuracy and macro-F1 give each
# class the same weight.

# %%
style.show(
    figures.balance_scores(balance, options),
    out / "balance.png",
    "Scores of each way to deal with unequal classes, with 95 % intervals: on its own validation "
    "galaxies, which differ from way to way (published), and on common test galaxies (sound). Class "
    "weights, balanced sampling and focal loss train on all data.",
)

# %% [markdown]
# ### 5.3 Look at each class
#
# Compute the recall of each class on the common galaxies; unlike precision it does not depend on how
# frequent the classes are.

# %%
classes = []
for group in groups:
    matrix, _ = evaluation.cross_validate(group)
    cells = evaluation.cell_intervals(evaluation.class_report(matrix)).xs("recall", level="metric")
    about = {"role": group[0].settings["role"], "option": evaluation.option(group[0])}
    classes.append(cells.assign(**about).reset_index())
recalls = pd.concat(classes, ignore_index=True)
display(recalls.pivot(index=["role", "option"], columns="label", values="value").round(3))

# %% [markdown]
# Draw them. What the rare classes gain, the large ones may lose.

# %%
style.show(
    figures.recalls(recalls, options),
    out / "recall.png",
    "Recall of each arm class on the common test galaxies, with 95 % Wilson intervals.",
)

# %% [markdown]
# ### 5.4 Test the ways against down-sampling
#
# Count the common galaxies that only one of two networks gets right (McNemar's exact test), with
# Holm's correction for several tests, and bootstrap the differences of the scores.

# %%
tests, differences = [], []
for role in sorted({group[0].settings["role"] for group in groups}):
    pooled = {
        evaluation.option(group[0]): evaluation.pool(group)
        for group in groups
        if group[0].settings["role"] == role
    }
    for name in [option for option in options if option != "down-sampled" and option in pooled]:
        pair = [pooled["down-sampled"], pooled[name]]
        test, difference = evaluation.compare_pairs(pair, seed=seed)
        tests.append(test.assign(role=role, a="down-sampled", b=name))
        differences.append(difference.assign(role=role, option=name))
tests = pd.concat(tests, ignore_index=True)
tests["p_holm"] = evaluation.holm(tests["p_value"])
display(tests.round(4))

# %% [markdown]
# Show the differences of the scores, each way minus down-sampling.

# %%
differences = pd.concat(differences, ignore_index=True)
display(differences[["role", "option", "metric", "a", "b", "difference", "low", "high"]].round(3))

# %% [markdown]
# ## 6 Write the results
#
# Write the tables, and the scores on the common galaxies for the report of the whole run.

# %%
tables = {"balance": balance, "classes": recalls, "table_3_left": table_3.reset_index()}
for name, table in tables.items():
    with paths.atomic(out / f"{name}.csv") as file:
        table.to_csv(file, index=False)

# %% [markdown]
# Gather what is compared between runs.

# %%
common = balance[balance["galaxies"] == "common test"]
scores = common.set_index(["role", "option", "metric"])["value"]
content = {role: {} for role in scores.index.unique("role")}
for (role, option), values in scores.groupby(level=["role", "option"]):
    content[role][option] = values.droplevel(["role", "option"]).to_dict()
report.write_json(out / "metrics.json", content)

# %% [markdown]
# ## 7 What was found
#
# Sum up these runs and compare them with the paper.

# %%
lines = []
macro = common[common["metric"] == "macro_f1"].sort_values("value", ascending=False)
for role, ranked in macro.groupby("role"):
    words = [
        f"{row.option} {row.value:.3f} ({row.low:.3f} to {row.high:.3f})"
        for row in ranked.itertuples()
    ]
    lines.append(
        f"- **{role}**, macro-F1 on the same {ranked['n'].iloc[0]:,} galaxies: {', '.join(words)}."
    )
significant = tests[tests["p_holm"] < 0.05]
lines.append(
    f"- {len(significant)} of {len(tests)} ways differ from down-sampling in the galaxies they get "
    f"right (McNemar, Holm, 5 %)."
)
change = table_3[["change / %", "paper, change / %"]].dropna()
if len(change):
    ours, theirs = change.mean()
    lines.append(
        f"- As published, on different validation sets, down-sampling changes F1 of B0 by {ours:+.0f} "
        f"% on average over {len(change)} classes; the paper prints {theirs:+.0f} % for these."
    )
display(Markdown("\n".join(lines)))
