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
# # 09  Model comparison
#
# **Question.** How well do the two networks count spiral arms, and is one better than the other, or
# than simple controls on the same galaxies?
#
# **Reproduces** Sec. 5.1, Table 3 and Fig. 7 of Lee, Soo & Sharoni (arXiv:2412.11696). What the
# paper's own numbers say is in notebook 14.
#
# **Inputs**
# - `01_sample_selection`, `02_preprocessing`: the galaxies and the cache of their images
# - `03_train_b0`, `04_train_v2m`: predictions and settings
#
# **Outputs**
# - `comparison.csv`: every number of Table 3 beside ours
# - `same_galaxies.csv`: networks and controls on the same galaxies, by the same decision rules
# - `trainings.csv`: the trainings of this notebook; `report.json`: its scores, tests, calibration
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
# Statistics are in `lib.evaluation`, the paper's numbers in `lib.paper`.

# %%
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from IPython.display import Markdown, display
from keras import layers

from lib import evaluation, images, networks, paths, selection, training
from lib.counting import armnet, controls, vote_head
from lib.figures import comparison as figures
from lib.figures import style
from lib.networks import weights
from lib.schema import MERGES
from lib.workflow import report

style.use()

# %% [markdown]
# ### 1.2 Parameters
#
# Merges, seeds and folds to train with. On several GPUs, `part` divides the trainings between runs
# of this notebook.

# %% tags=["parameters"]
# Folder of the run; a relative path starts at the project root.
run_dir = "runs/mock"
# Name of this notebook's folder below it.
output = "09_model_comparison"
# Class merges that B0 and V2M are trained with, beside none: 3+4, 4+5+.
merges = ["3+4"]
v2m_merges = []
# Seeds that they are trained with, beside that of notebooks 03 and 04.
seeds = [43]
v2m_seeds = []
# Folds of the sample, and those of them that are tested; folds and more are those of a repeat.
folds = 3
tested = [0, 1, 2]
v2m_tested = [0, 1, 2]
# Which part of the trainings this run does: k/n, or 1/1 for all.
part = "1/1"
# Go on when a class has no galaxy to train or validate on.
allow_empty = False
# Seed of the bootstrap and of the temperature's folds.
seed = 42

# %% [markdown]
# ### 1.3 Data
#
# The sample, and what notebooks 03 and 04 have trained.

# %%
out, root = paths.output_folder(run_dir, output), paths.resolve(run_dir)
steps = {"B0": "03_train_b0", "V2M": "04_train_v2m"}
trained = [evaluation.read_run(paths.step_folder(run_dir, step)) for step in steps.values()]
base = {role: training.settings_of(paths.step_folder(run_dir, s)) for role, s in steps.items()}
prepared = paths.step_folder(run_dir, "02_preprocessing")
sample = pd.read_parquet(paths.step_folder(run_dir, "01_sample_selection") / "sample.parquet")
sample = sample[images.open_cache(prepared, base["B0"]["crop"], "grey").has(sample["galaxy_id"])]
tf.config.experimental.enable_op_determinism()

# %% [markdown]
# ### 1.4 Features of B0
#
# The frozen backbone is built once; its features of every galaxy and of its augmented copies are
# kept on disk and shared by all trainings.

# %%


def features(crop):
    """Features of the frozen backbone on images of one size, kept on disk."""
    backbone, _ = networks.backbone(base["B0"]["backbone"], crop, "grey", base["B0"]["weights"])
    pooled = layers.GlobalAveragePooling2D()(backbone.output)
    encoder = keras.Model(backbone.input, pooled, name=base["B0"]["backbone"])
    copies = images.Copies(images.open_cache(prepared, crop, "grey"), base["B0"]["seed"])
    store = training.FeatureStore(encoder, copies, root / "features")
    store.prepare(sample["galaxy_id"], base["B0"]["copies"])
    return store


# %% [markdown]
# ### 1.5 The two networks
#
# As in notebook 03: two dense layers on the features of the frozen backbone, with the cross-entropy
# $-\sum_k y_k \ln p_k$ as loss.


# %%
def head(width, n_classes, seed):
    """The head of B0, compiled, with the initial weights of a seed."""
    keras.utils.set_random_seed(seed)
    dense, classes = layers.Dense(1024, activation="relu"), layers.Dense(n_classes, "softmax")
    model = keras.Sequential([keras.Input((width,)), dense, classes])
    adam = keras.optimizers.Adam(base["B0"]["learning_rate"])
    model.compile(adam, loss="categorical_crossentropy", metrics=["accuracy"])
    return model


# %% [markdown]
# As in notebook 04: all weights train, while BatchNorm statistics and stochastic depth stay as in
# prediction.


# %%
def v2m(crop, n_classes, seed):
    """V2M on images of one size, compiled, with the initial weights of a seed."""
    keras.utils.set_random_seed(seed)
    backbone, _ = networks.backbone(base["V2M"]["backbone"], crop, "rgb", base["V2M"]["weights"])
    pooled = layers.GlobalAveragePooling2D(name="features")(backbone.output)
    dense = layers.Dense(1024, activation="relu")(pooled)
    probability = layers.Dense(n_classes, activation="softmax")(dense)
    model = networks.InferenceMode(backbone.input, probability)
    adam = keras.optimizers.Adam(base["V2M"]["learning_rate"])
    model.compile(adam, loss="categorical_crossentropy", metrics=["accuracy"])
    return model


# %% [markdown]
# ### 1.6 Trainings with other merges, seeds and folds
#
# A fold is set aside before anything else, and looked at once; of the rest 7 of 8 are trained on,
# since there the validation galaxies only choose the epoch. Trainings with other seeds have the split
# of notebooks 03 and 04.


# %%
SPLIT = ("merge", "merge_order", "sampling", "max_per_class", "choose")
SPLIT += ("validation_fraction", "fold", "folds")


def train(role, seed=None, **parts):
    """Train one network in one way, unless that is done, and return its run."""
    settings = base[role] | parts | {"seed": base[role]["seed"] if seed is None else seed}
    settings |= {"protocol": "sound" if "fold" in parts else "published"}
    chosen = {name: settings[name] for name in SPLIT if name in settings}
    chosen |= {"seed": base[role]["seed"], "allow_empty": allow_empty}
    assignment = selection.assign(sample, **chosen)
    settings["classes"] = list(training.check_assignment(assignment))
    if role == "B0":
        model, inputs = head(store.width, len(settings["classes"]), settings["seed"]), store
    else:
        inputs = images.Copies(
            images.open_cache(prepared, settings["crop"], "rgb"), settings["seed"]
        )
        model = v2m(settings["crop"], len(settings["classes"]), settings["seed"])
    return training.train(model, inputs.get, assignment, root / "trainings", settings)


# %% [markdown]
# All trainings of this part, and how each has ended. Finished ones are read, not trained again.

# %% tags=["trainings"]
store = features(base["B0"]["crop"])
wanted = []
ways = (("B0", merges, seeds, tested), ("V2M", v2m_merges, v2m_seeds, v2m_tested))
for role, of_merges, of_seeds, of_folds in ways:
    fold = {"validation_fraction": 0.125, "folds": folds}
    wanted += [(role, {"merge": merge}) for merge in of_merges]
    wanted += [(role, {"seed": number}) for number in of_seeds]
    wanted += [(role, fold | {"fold": number}) for number in of_folds]
swept = []
for role, parts in training.part_of(wanted, part):
    swept.append(train(role, **parts))
    scores = evaluation.scores(swept[-1].confusion())
    print(f"{role}, {parts}: macro-F1 {scores['macro_f1']:.3f}", flush=True)
single = [run for run in swept if run.settings.get("fold") is None]

# %% [markdown]
# ## 2 Confusion matrices (Fig. 7)
#
# Each role's runs with all classes, with m = 3 and 4 merged and with m = 4 and 5+ merged, as far as
# they were trained. A further seed of a configuration belongs to section 4.2.

# %%
own = [run for run in single if run.settings["seed"] == base[run.settings["role"]]["seed"]]
found = {(run.settings["merge"], run.settings["role"]): run for run in [*own, *trained]}
order = [(merge, role) for merge in MERGES for role in ("B0", "V2M")]
configurations = {key: found[key] for key in order if key in found}
merged = [run for (merge, _), run in configurations.items() if merge != "none"]

# %% [markdown]
# Rows are labels, columns predictions. Colours and upper numbers are shares of the label's
# galaxies, lower numbers count galaxies: a share of a class with few galaxies is a coarse number.

# %%
names = {"none": "all classes", "3+4": "3+4 merged", "4+5+": "4+5+ merged"}
matrices = {f"{role}, {names[m]}": run.confusion() for (m, role), run in configurations.items()}
caption = (
    "Confusion matrices of the validation galaxies (published protocol). Upper number and colour: "
    "share of the label's galaxies; lower number: galaxies. As Fig. 7 of the paper."
)
style.show(figures.confusion_matrices(matrices), out / "confusion_matrices.png", caption)

# %% [markdown]
# ## 3 Table 3, cell by cell
#
# Precision $P$, recall $R$ and $F_1 = 2PR/(P+R)$ of each class with 95 % confidence intervals, their
# mean over the classes (macro-F1) and balanced accuracy $\frac1K\sum_k R_k$, beside the printed number;
# `inside` says whether the paper's number lies in our interval. The rows `all` follow from the
# paper's table, which does not print them.

# %%
comparison = pd.concat(
    [evaluation.compare_with_paper(run) for run in [*trained, *merged]], ignore_index=True
)
plain = comparison[comparison["merge"] == "none"]
shown = ["run", "protocol", "label", "metric", "n", "ours", "low", "high", "paper", "inside"]
display(plain.loc[plain["ours"].notna(), shown].round(3))

# %% [markdown]
# The same as a figure. The paper's intervals come from the whole numbers of galaxies behind its
# rounded scores (notebook 14). Wide bars are classes with few galaxies, in the paper as here.

# %%
cells = plain[plain["label"] != "all"]
caption = (
    "Precision, recall and F1-score per arm class of each run (coloured, with 95 % Wilson intervals) "
    "beside the paper's Table 3 (white diamonds; grey: 95 % intervals of its deduced counts)."
)
style.show(figures.table_3(cells), out / "table_3.png", caption)

# %% [markdown]
# ## 4 Tests between the networks
#
# ### 4.1 The same galaxies
#
# McNemar's exact test asks whether the galaxies that only one network gets right, $b$ and $c$, fall
# to both sides alike: $b \sim B(b + c, 1/2)$; `p_holm` corrects for the number of tests. First the runs
# of notebooks 03 and 04 and those with merged classes (published protocol: these galaxies have also
# chosen the epochs), then the pooled folds, where each galaxy is named by a network that had no part
# of it (sound).

# %%
groups = evaluation.fold_groups(swept)
pooled = evaluation.pool_groups(groups)
compared = {"published": [*trained, *merged], "sound": pooled}
pairs = {name: evaluation.compare_pairs(runs, seed=seed) for name, runs in compared.items()}
tests = pd.concat({name: table for name, (table, _) in pairs.items()}, names=["protocol"])
tests["p_holm"] = tests.groupby("protocol")["p_value"].transform(evaluation.holm)
differences = pd.concat({n: table for n, (_, table) in pairs.items()}, names=["protocol"])
display(tests.round(4), differences.round(3))

# %% [markdown]
# ### 4.2 Other seeds
#
# Two reasons for another score: other seeds of the same training on the same galaxies (`sd`), and
# other galaxies of the same kind (`half_width` of a single run's 95 % confidence interval). Where
# `ratio`, 1.96 sd over the half-width, is not small, a comparison of two single runs says little
# about the two kinds of network.

# %%
spread = evaluation.seed_sampling([*trained, *single])
if len(spread):
    display(spread.round(3))

# %% [markdown]
# ## 5 Calibration
#
# Confidence against accuracy, before and after temperature scaling, $p_k \propto p_k^{1/T}$ (Guo et al.
# 2017); the temperature of each fold is fitted on the other folds. ECE is the mean gap between
# confidence and accuracy, Brier the squared distance to the label, NLL the log-loss: less is better.

# %%
calibrated = {run.name: evaluation.calibrate(run, bins=10, folds=5, seed=seed) for run in trained}
calibration = pd.concat({name: table for name, (table, _) in calibrated.items()}, names=["run"])
display(calibration.round(3))
caption = (
    "Accuracy against confidence, with 95 % Wilson intervals, as trained and after temperature "
    "scaling. A calibrated network lies on the grey diagonal; below it, it is too sure."
)
diagram = figures.reliability_diagram({name: curves for name, (_, curves) in calibrated.items()})
style.show(diagram, out / "reliability.png", caption)

# %% [markdown]
# ## 6 All methods on the same galaxies
#
# Beside the networks: the majority class, and classical features of the images
# (`lib.counting.classical`) with a balanced logistic regression; and what notebook 12 found best, the
# bundled ArmNet and Fourier amplitudes with a vote head. All are fitted without the fold that they are
# tested on (protocol sound).

# %%
ids = sample["galaxy_id"]
numbers = controls.features(run_dir, ids)
cache = images.open_cache(prepared, armnet.SIZE)
known = armnet.features(np.asarray(cache.arrays[cache.rows(ids)]))
known = pd.DataFrame(np.hstack([*known.values()]), index=ids)
_, seen = weights.unseen(sample, "votes", "ArmNet", overlap="leave out")
display(Markdown(seen["note"]))


# %% [markdown]
# The vote head of a fold: probabilities, the offsets of its decision, and how many galaxies it has
# learnt from.


# %%
def arm_counter(run):
    """ArmNet, amplitudes and a vote head: probabilities, offsets, and galaxies learnt from."""
    own = run.predictions[run.predictions["split"] != "test"]
    fractions = vote_head.fractions(
        sample.set_index("galaxy_id").loc[own["galaxy_id"]], run.classes
    )
    label = evaluation.class_index(own["label"], run.classes)
    head = vote_head.fit(known.loc[own["galaxy_id"]].to_numpy(), fractions, label=label, seed=seed)
    tested = known.loc[run.part("test")["galaxy_id"]].to_numpy()
    return head.probabilities(tested), head.offsets, len(own)


# %% [markdown]
# Two decision rules for all: the largest probability, and the one that has rare classes in mind
# (`lib.counting.vote_head`), $\arg\max_k\,(\ln p_k - \lambda \ln f_k)$ with class frequencies $f_k$ and a power
# $\lambda$ chosen without the galaxies of the fold. ArmNet is left out where it has learnt from some of the
# galaxies.

# %%
scored = {}
for same in controls.same_galaxies(groups):
    counted = same[0][0].settings["merge"] == "none" and not seen["left_out"]
    more = {"ArmNet, amplitudes, vote head": arm_counter} if counted else {}
    said = controls.predict(same, numbers, more=more, seed=seed)
    scored[len(scored) + 1] = controls.score(said, same[0][0].classes)
beside = pd.concat(scored, names=["set"]).reset_index(0) if scored else pd.DataFrame()

# %% [markdown]
# Scores with 95 % confidence intervals. A network is worth its training where it is ahead of both
# controls by the same rule; only numbers of one `set`, which has the same galaxies, can be compared.

# %%
if scored:
    words = beside.apply("{value:.3f} ({low:.3f} to {high:.3f})".format_map, axis=1)
    index = ["set", "protocol", "galaxies", "method", "trained_on", "rule", "metric"]
    shown = beside.assign(words=words, trained_on=beside["trained_on"].round()).set_index(index)
    display(shown["words"].unstack(sort=False))

# %% [markdown]
# ## 7 Results
#
# Tables, the names of the trainings for notebook 14, and one machine-readable summary.

# %%
names = pd.DataFrame({"name": [run.name for run in swept]})
tables = {"comparison": comparison, "same_galaxies": beside, "trainings": names}
for name, table in tables.items():
    with paths.atomic(out / f"{name}.csv") as file:
        table.to_csv(file, index=False)
summary = {
    run.name: {
        "protocol": run.protocol,
        "galaxies": len(run.part()),
        "scores": evaluation.scores(run.confusion()),
        "calibration": calibrated[run.name][0].to_dict("index"),
    }
    for run in trained
}
content = {"runs": summary, "seeds": spread, "pairs": tests.reset_index(), "same_galaxies": beside}
report.write_json(out / "report.json", content)

# %% [markdown]
# ## 8 What was found
#
# The main result first.

# %%
lines = []
macro = beside.query("metric == 'macro_f1'") if len(beside) else beside
for (_, n), rows in macro.groupby(["set", "galaxies"]) if len(macro) else ():
    words = [
        f"{r.method}, {r.rule}: {r.value:.3f} ({r.low:.3f} to {r.high:.3f})"
        for r in rows.itertuples()
    ]
    lines.append(f"- **Macro-F1 on the same {n:,} galaxies** (sound): {'; '.join(words)}.")
for name, rows in plain.groupby("run", sort=False):
    total = rows.query("label == 'all' and metric == 'macro_f1'").iloc[0]
    judged = rows[(rows["label"] != "all") & rows["inside"].notna()]
    lines.append(
        f"- {name} (published protocol, {total['n']} galaxies): macro-F1 {total['ours']:.3f} "
        f"({total['low']:.3f} to {total['high']:.3f}), the paper's table gives {total['paper']:.3f}; "
        f"{int(judged['inside'].sum())} of {len(judged)} cells of Table 3 lie in our intervals."
    )
told = tests[tests["p_holm"] < 0.05]
lines.append(f"- {len(told)} of {len(tests)} tests between networks find a difference (Holm, 5 %).")
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## Exercises
#
# 1. Add `"balanced"` frequencies to the decision: set the offsets of `arm_counter` to the logarithm of
#    the class frequencies and run from section 6 on. What happens to accuracy, what to macro-F1?
# 2. Give `seeds` two more numbers and run from 1.6 on: only the new trainings are done. Does `ratio`
#    in section 4.2 change?
