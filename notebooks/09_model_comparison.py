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
# **Question.** How well do the two networks count spiral arms, is one better than the other, and
# which of the paper's numbers stand?
#
# **Reproduces** Sec. 5.1, Table 3 and Fig. 7 of Lee, Soo & Sharoni (arXiv:2412.11696), and checks
# the paper's own arithmetic.
#
# **Inputs**
# - `01_sample_selection`: the votes and the selected galaxies
# - `02_preprocessing`: the cache of their images
# - `03_train_b0`, `04_train_v2m`: predictions and settings
#
# **Outputs**
# - `comparison.csv`: every number of Table 3 beside ours
# - `audit.csv`: statements of the paper, recomputed
# - `protocols.csv`, `optimism.csv`: scores under both protocols, and whether the published one flatters
# - `same_galaxies.csv`: every network and two controls on the same galaxies, by the same decisions;
#   `purity.csv`: the networks on purer labels
# - `report.json`: all scores, tests and calibration of this notebook
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
# Import the project's library; the statistics are in `lib.evaluation`, the paper's numbers in
# `lib.paper`.

# %%
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from IPython.display import Markdown, display
from keras import layers

from lib import evaluation, images, networks, paper, paths, selection, training
from lib.counting import beyond, controls
from lib.counting import votes as vote_head
from lib.figures import comparison as figures
from lib.figures import style
from lib.networks import weights
from lib.schema import MERGES, RHO_COLUMNS
from lib.workflow import report

style.use()

# %% [markdown]
# ### 1.2 Define parameters
#
# Change these to train with other merges, seeds and folds. On several GPUs, `part` divides the
# trainings between runs of this notebook.

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
# Seed of the bootstrap, of the temperature's folds and of the random choice in the audit.
seed = 42

# %% [markdown]
# ### 1.3 Open the data
#
# Take the votes and the sample, and what notebooks 03 and 04 have trained.

# %%
out = paths.output_folder(run_dir, output)
runs = ["03_train_b0", "04_train_v2m"]
trained = [evaluation.read_run(paths.step_folder(run_dir, name)) for name in runs]
base = {
    role: training.settings_of(paths.step_folder(run_dir, step))
    for role, step in (("B0", "03_train_b0"), ("V2M", "04_train_v2m"))
}
prepared = paths.step_folder(run_dir, "02_preprocessing")
selected = paths.step_folder(run_dir, "01_sample_selection")
votes = pd.read_parquet(selected / "votes.parquet")
sample = pd.read_parquet(selected / "sample.parquet")
sample = sample[images.open_cache(prepared, base["B0"]["crop"], "grey").has(sample["galaxy_id"])]
max_per_class = base["B0"]["max_per_class"]
trainings = paths.resolve(run_dir) / "trainings"
keras.utils.set_random_seed(base["B0"]["seed"])
tf.config.experimental.enable_op_determinism()

# %% [markdown]
# ### 1.4 Open the features of B0
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
# ### 1.5 Define the head of B0
#
# As in notebook 03: two dense layers on the features of the frozen backbone.


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
# ### 1.6 Define V2M
#
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
# ### 1.7 Train with other merges, seeds and folds
#
# A fold is set aside before anything else, and looked at once; of the rest 7 of 8 are trained on,
# since there the validation galaxies only choose the epoch. Trainings with other seeds have the split
# of notebooks 03 and 04.


# %%
def train(role, seed=None, **parts):
    """Train one network in one way, unless that is done, and return its run."""
    settings = base[role] | parts | {"seed": base[role]["seed"] if seed is None else seed}
    settings |= {"protocol": "sound" if "fold" in parts else "published"}
    names = (
        "merge",
        "merge_order",
        "sampling",
        "max_per_class",
        "choose",
        "validation_fraction",
        "fold",
        "folds",
    )
    chosen = {name: settings[name] for name in names if name in settings}
    split = {"seed": base[role]["seed"], "allow_empty": allow_empty}
    assignment = selection.assign(sample, **chosen, **split)
    classes = training.check_assignment(assignment)
    settings |= {"classes": list(classes)}
    if role == "B0":
        model, inputs = head(store.width, len(classes), settings["seed"]), store.get
    else:
        copies = images.Copies(
            images.open_cache(prepared, settings["crop"], "rgb"), settings["seed"]
        )
        model, inputs = v2m(settings["crop"], len(classes), settings["seed"]), copies.get
    return training.train(model, inputs, assignment, trainings, settings)


# %% [markdown]
# Do those of this part; print how each has ended.

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
# ### 1.8 Name what is compared
#
# List the runs. `protocol` says how to read every number below: under `published` the galaxies that
# a score is reported on have also chosen the best epoch, as in the paper; under `sound` they have
# not. Section 6.3 measures whether that choice flatters the score.

# %%
settings = pd.DataFrame([run.settings for run in trained], index=runs)
wanted = ["role", "backbone", "weights", "crop", "colour", "merge", "sampling", "protocol"]
listing = settings.reindex(columns=wanted)
listing["reported on"] = [f"{len(run.part()):,} {run.reported_split}" for run in trained]
display(listing.T)

# %% [markdown]
# ## 2 Confusion matrices
#
# ### 2.1 Draw them
#
# Draw one matrix per run (Fig. 7). Colours and the upper numbers are shares of the label's
# galaxies, the lower numbers count galaxies. A share of a class with few galaxies is a coarse number.

# %%
matrices = {run.name: run.confusion() for run in trained}
style.show(
    figures.confusion_matrices(
        {f"{run.name} ({run.protocol})": run.confusion() for run in trained}
    ),
    out / "confusion_matrices.png",
    "Confusion matrices of the reported galaxies (rows: label, columns: prediction). Upper number "
    "and colour: share of the label's galaxies; lower number: galaxies. As Fig. 7 of the paper.",
)

# %% [markdown]
# ### 2.2 Compare class configurations
#
# Gather each role's runs with all classes, with m = 3 and 4 merged and with m = 4 and 5+ merged, as
# far as they were trained. Runs that repeat a configuration with another seed are left
# to section 4.5.

# %%
merging = {"merge", "merge_order", "classes"}
alike = [
    run
    for run in single
    for own in trained
    if own.settings["role"] == run.settings["role"]
    and evaluation.differing([own, run]).keys() <= merging
]
found = {(run.settings["merge"], run.settings["role"]): run for run in [*alike, *trained]}
order = [(merge, role) for merge in MERGES for role in ("B0", "V2M")]
configurations = {key: found[key] for key in order if key in found}
merged = [run for (merge, _), run in configurations.items() if merge != "none"]

# %% [markdown]
# Draw their confusion matrices, one line per configuration.

# %%
style.show(
    figures.confusion_matrices(
        {
            f"{role}, " + ("all classes" if merge == "none" else f"{merge} merged"): run.confusion()
            for (merge, role), run in configurations.items()
        }
    ),
    out / "class_configurations.png",
    "Confusion matrices of the class configurations of Fig. 7. Upper number and colour: share of "
    "the label's galaxies; lower number: galaxies.",
)

# %% [markdown]
# List their scores with 95 % intervals. With fewer classes a network has fewer ways to err: scores
# of different configurations are no contest.

# %%
configured = pd.concat(
    {key: evaluation.score_intervals(run.confusion()) for key, run in configurations.items()},
    names=["merge", "role"],
)
display(configured.round(3))

# %% [markdown]
# ### 2.3 Look at the paper's own matrix
#
# Draw the confusion matrix that the authors' log prints for B0. In Sec. 5.2 the paper says that
# galaxies with m = 3 are called m = 4: the matrix shows the reverse.

# %%
style.show(
    figures.confusion_matrices({"paper, B0 (published)": paper.B0_CONFUSION}),
    out / "confusion_paper_b0.png",
    "Confusion matrix of the paper's B0 on its validation galaxies, from the authors' run log. "
    "Galaxies with m = 4 are called m = 3, not the other way round.",
)

# %% [markdown]
# ### 2.4 Find the commonest mistakes
#
# List the pairs of classes that are confused most often, largest share first.

# %%
shares = pd.concat({name: evaluation.normalise(m).stack() for name, m in matrices.items()})
mistakes = shares.rename("share").rename_axis(["run", "label", "predicted"]).reset_index()
mistakes = mistakes[mistakes["label"] != mistakes["predicted"]]
mistakes = mistakes.sort_values(["run", "share"], ascending=[True, False])
display(mistakes.groupby("run").head(4).reset_index(drop=True).round(3))

# %% [markdown]
# ## 3 Table 3, cell by cell
#
# ### 3.1 Put the paper beside our runs
#
# Compute precision, recall and F1 of each class with 95 % intervals, and set the printed number
# beside each. `inside` says whether the paper's number lies in our interval.

# %%
comparison = pd.concat(
    [evaluation.compare_with_paper(run) for run in [*trained, *merged]], ignore_index=True
)
cells = comparison[(comparison["label"] != "all") & (comparison["merge"] == "none")]
shown = ["run", "protocol", "label", "metric", "n", "ours", "low", "high", "paper", "difference"]
display(cells[[*shown, "inside"]].round(3))

# %% [markdown]
# ### 3.2 Draw it
#
# Draw the same numbers. The paper's intervals come from the whole galaxies behind its rounded
# numbers (section 7.2). Wide bars are classes with few galaxies, in the paper as here.

# %%
style.show(
    figures.table_3(cells),
    out / "table_3.png",
    "Precision, recall and F1-score per arm class of each run (coloured, with 95 % Wilson "
    "intervals) beside the paper's Table 3 (white diamonds; grey: 95 % intervals of its deduced "
    "counts).",
)

# %% [markdown]
# ### 3.3 Sum up over the classes
#
# Compare the overall scores. Accuracy is ruled by the large classes; balanced accuracy and macro-F1
# give each class the same weight. The paper prints none of them: its column follows from its table.

# %%
overall = comparison[comparison["label"] == "all"]
display(overall[[*shown, "inside"]].drop(columns="label").reset_index(drop=True).round(3))

# %% [markdown]
# ### 3.4 Carry the precision over to the sky
#
# Compute what the same recalls mean at the frequencies of the whole sample. A precision measured on
# a down-sampled set holds for that set only: where m = 2 outnumbers the rest, a few per cent of it
# swamp the rare classes.

# %%
sky = []
for run in trained:
    counts = selection.class_counts(sample["label"], run.settings.get("merge", "none")).to_dict()
    natural = evaluation.class_report(evaluation.at_frequencies(run.confusion(), counts))
    reported = evaluation.class_report(run.confusion())["precision"]
    sky.append(pd.DataFrame({"reported": reported, "at sample frequencies": natural["precision"]}))
natural = evaluation.at_frequencies(paper.B0_CONFUSION, paper.CLASS_COUNTS)
paper_sky = pd.DataFrame(
    {
        "reported": evaluation.class_report(paper.B0_CONFUSION)["precision"],
        "at sample frequencies": evaluation.class_report(natural)["precision"],
    }
)
precision = pd.concat([*sky, paper_sky], keys=[*runs, "paper, B0"], names=["run", "label"])
display(precision.unstack("run").swaplevel(axis=1).sort_index(axis=1).round(3))

# %% [markdown]
# ## 4 Is one network better?
#
# ### 4.1 Test the runs against each other
#
# Count the galaxies that only one network gets right. McNemar's exact test asks whether they fall
# to both sides alike; `p_holm` corrects for the number of tests. Runs with merged classes are tested
# against each other. Under the published protocol these galaxies have chosen both networks' epochs.

# %%
tests, differences = evaluation.compare_pairs([*trained, *merged], seed=seed)
tests["p_holm"] = evaluation.holm(tests["p_value"])
display(tests.round(4))

# %% [markdown]
# ### 4.2 Bootstrap the differences
#
# Resample the galaxies, the same ones for both networks, and look at the difference of each score
# (second minus first) with its 95 % interval.

# %%
display(differences.round(3))

# %% [markdown]
# ### 4.3 Do the same soundly
#
# Pool the folds of each network: every galaxy is named by a network that had no part of it, neither
# in training nor in the choice of the epoch, and there are several times as many galaxies. The tests
# take the networks as they are; another seed gives others (section 4.5).

# %%
groups = evaluation.fold_groups(swept)
pooled = evaluation.pool_groups(groups)
sound_tests, sound_differences = evaluation.compare_pairs(pooled, seed=seed)
sound_tests["p_holm"] = evaluation.holm(sound_tests["p_value"])
display(sound_tests.round(4))
display(sound_differences.round(3))

# %% [markdown]
# ### 4.4 Do the same for the published networks
#
# Deduce how many galaxies each of the paper's networks got right. Which ones is not published, so
# that McNemar's p-value is only known to lie among the values drawn; knowing the counts class by
# class leaves fewer.

# %%
their_b0 = paper.deduce_table_3("B0 down-sampled").loc[0]
their_v2m = paper.deduce_table_3("V2M down-sampled").loc[0]
outcomes = evaluation.mcnemar_outcomes(
    their_b0["tp"].sum(), their_v2m["tp"].sum(), their_b0["support"].sum()
)
by_class = evaluation.mcnemar_outcomes(their_b0["tp"], their_v2m["tp"], their_b0["support"])
least, most = by_class["p_value"].min(), by_class["p_value"].max()

# %% [markdown]
# Draw the p-value for every possible number of galaxies that only B0 gets right.

# %%
style.show(
    figures.mcnemar_possible(outcomes, by_class["only_a"].min(), by_class["only_a"].max()),
    out / "mcnemar_published.png",
    f"McNemar's exact test of the paper's B0 ({their_b0['tp'].sum()} of {their_b0['support'].sum()} right) "
    f"against V2M ({their_v2m['tp'].sum()}), for every overlap that the published numbers allow: blue "
    f"dots agree with the counts class by class. Whatever the overlap, p is between {least:.3f} "
    f"and {most:.2f}; the line is at 0.05.",
)

# %% [markdown]
# ### 4.5 Train with other seeds
#
# Compare two reasons for another score: other seeds of the same training on the same galaxies (`sd`),
# and other galaxies of the same kind (`half_width` of a single run's 95 % interval). Where `ratio`,
# 1.96 sd over the half-width, is not small, a comparison of two single runs says little about the two
# kinds of network, whatever the test of their galaxies says.

# %%
seeds = evaluation.seed_sampling([*trained, *single])
display(seeds.round(3))

# %% [markdown]
# ## 5 Can the probabilities be believed?
#
# ### 5.1 Measure the calibration
#
# Compare confidence with accuracy, before and after temperature scaling (Guo et al. 2017). The
# temperature of each fold is fitted on the other folds. ECE is the mean gap between confidence
# and accuracy, Brier the squared distance to the label, NLL the log-loss; less is better.

# %%
calibrated = {run.name: evaluation.calibrate(run, bins=10, folds=5, seed=seed) for run in trained}
calibration = pd.concat({name: table for name, (table, _) in calibrated.items()}, names=["run"])
display(calibration.round(3))

# %% [markdown]
# ### 5.2 Draw the reliability diagrams
#
# Points below the diagonal belong to a network that is surer than it should be.

# %%
style.show(
    figures.reliability_diagram({name: curves for name, (_, curves) in calibrated.items()}),
    out / "reliability.png",
    "Accuracy against confidence, with 95 % Wilson intervals, as trained and after temperature "
    "scaling. A calibrated network lies on the grey diagonal.",
)

# %% [markdown]
# ## 6 Two protocols
#
# ### 6.1 Score under both protocols
#
# Score each run twice: as published, on the galaxies that chose the epoch; and soundly, by
# cross-validation where folds were trained, on the very galaxies that the published protocol trains
# and validates with; else on test galaxies where the run has set some aside; else on each half of
# the validation galaxies at the epoch that the *other* half chooses. Where there are few folds, their
# networks are trained on fewer galaxies than the published one, which lowers the sound score too.

# %%
protocols = pd.concat(
    [evaluation.protocols(run, swept, seed=seed) for run in trained], ignore_index=True
)
display(protocols.round(3))

# %% [markdown]
# ### 6.2 Draw it
#
# Set both beside the paper. Their difference is not the optimism: they are scores of different
# networks on different galaxies, and the published validation set is a small part of these.

# %%
style.show(
    figures.optimism(protocols),
    out / "optimism.png",
    "Scores under the published protocol (circles, 95 % sampling interval) and the sound one "
    "(squares; 95 % sampling interval, but range over halvings where no folds were trained), with "
    "the paper's (diamonds).",
)

# %% [markdown]
# ### 6.3 Measure whether the published protocol is optimistic
#
# Score the network of each fold twice: on the validation galaxies that chose its epoch, as published,
# and on the test galaxies that it was not shown, carried over to the same class frequencies. What is
# left of the difference is the optimism, if there is any: its interval is the corrected one of section
# 6.4, and `told_from_0` says whether that leaves 0 out.

# %%
names = evaluation.group_names(groups)
optimism = {name: evaluation.fold_optimism(group) for name, group in zip(names, groups)}
optimism = pd.concat(optimism, names=["run"]).reset_index() if optimism else pd.DataFrame()
display(optimism.round(3))

# %% [markdown]
# ### 6.4 Cross-validate
#
# Score every galaxy of the sample by the network of the fold that it was set aside for. `low` and
# `high` are the sampling error of the galaxies; `fold_low` and `fold_high` bound the mean over folds
# for galaxies and training together, corrected for training sets that overlap by the galaxies tested
# on over those trained on (Nadeau & Bengio 2003).

# %%
crossed = {name: evaluation.cross_validate(group)[1] for name, group in zip(names, groups)}
if crossed:
    display(pd.concat(crossed, names=["run"]).round(3))

# %% [markdown]
# ### 6.5 Look at galaxies that nobody has looked at
#
# Down-sampling leaves galaxies of the large classes aside. Neither training nor the choice of the
# epoch has seen them, so that nothing can have flattered their recall.

# %%
unseen = {run.name: evaluation.unseen_recall(run) for run in trained}
display(pd.concat(unseen, names=["run"]).round(3))

# %% [markdown]
# Draw the recall of both. Nothing is drawn where no galaxies were left aside.

# %%
if any(len(table) for table in unseen.values()):
    style.show(
        figures.unseen_recall(unseen),
        out / "unseen_recall.png",
        "Recall of the validation galaxies (filled) and of galaxies that took no part in training "
        "or in the choice of the epoch (open), with 95 % Wilson intervals.",
    )

# %% [markdown]
# ### 6.6 Put everything on the same galaxies
#
# Set beside each network what little would have done: always the majority class, and classical
# features of the galaxies (`lib.counting.classical`) with a balanced logistic regression. All are tested in the
# same folds (protocol sound), first by the largest probability, then by the decision that has rare
# classes in mind (`lib.counting.votes`), whose offsets are fitted without the galaxies of the fold. Only
# numbers of one `set`, which has the same galaxies, can be compared.

# %%
ids = sample["galaxy_id"]
numbers = controls.features(run_dir, ids)
pixels = images.open_cache(prepared, beyond.SIZE)
known = beyond.features(np.asarray(pixels.arrays[pixels.rows(ids)]))
known = pd.DataFrame(np.hstack([*known.values()]), index=ids)
_, seen = weights.unseen(sample, "votes", "ArmNet", overlap="leave out")
display(Markdown(seen["note"]))

# %% [markdown]
# Beside them stands what notebook 12 found best: the bundled ArmNet and Fourier amplitudes, with a
# head that is fitted to the vote fractions of the galaxies outside the fold.


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
# Score them all; ArmNet is left out where it has learnt from some of the galaxies.

# %%
scored = {}
for same in controls.same_galaxies(groups):
    counted = same[0][0].settings["merge"] == "none" and not seen["left_out"]
    more = {"ArmNet, amplitudes, vote head": arm_counter} if counted else {}
    said = controls.predict(same, numbers, more=more, seed=seed)
    scored[len(scored) + 1] = controls.score(said, same[0][0].classes)
beside = pd.concat(scored, names=["set"]).reset_index(0) if scored else pd.DataFrame()

# %% [markdown]
# Show the scores with 95 % intervals. A network is worth its training where it is ahead of both
# controls by the same rule; `trained_on` counts the galaxies that each has learnt from.

# %%
if scored:
    words = beside.apply("{value:.3f} ({low:.3f} to {high:.3f})".format_map, axis=1)
    index = ["set", "protocol", "galaxies", "method", "trained_on", "rule", "metric"]
    shown = beside.assign(words=words, trained_on=beside["trained_on"].round()).set_index(index)
    display(shown["words"].unstack(sort=False))

# %% [markdown]
# ### 6.7 Score purer labels
#
# Score the same galaxies again where more of the votes agree with the label: the paper's sample has a
# debiased fraction $\rho$ above 0.8, and purer labels are easier. Each network is the one that had not
# seen the galaxy (protocol sound).

# %%
rho = sample.set_index("galaxy_id")[[*RHO_COLUMNS]].max(axis=1)
purity = []
for run in pooled:
    part = run.part("test")
    for cut in (0.0, 0.3, 0.5, 0.65, 0.8):
        pure = part[part["galaxy_id"].map(rho) > cut]
        matrix = evaluation.confusion(pure["label"], pure["predicted"], run.classes)
        about = {"run": run.name, "rho above": cut, "galaxies": len(pure)}
        purity.append(evaluation.score_intervals(matrix).reset_index().assign(**about))
purity = pd.concat(purity, ignore_index=True) if purity else pd.DataFrame()

# %% [markdown]
# Show the scores with 95 % intervals. Rare classes have few pure galaxies, and macro-F1 is a mean over
# the classes that are left.

# %%
if len(purity):
    words = purity.apply("{value:.3f} ({low:.3f} to {high:.3f})".format_map, axis=1)
    index = ["run", "rho above", "galaxies", "metric"]
    display(purity.assign(words=words).set_index(index)["words"].unstack(sort=False))

# %% [markdown]
# ## 7 Appendix: what of the paper stands
#
# ### 7.1 Recompute its statements
#
# Recompute from the paper's own numbers whatever can be recomputed; what does not hold comes first.
# Rows of the kind `derived` are not said in the paper, but follow from its numbers or the authors' run
# log; `open` ones are said without the numbers that would decide them. Only those that are `printed`
# count as statements of the paper.

# %%
audit = paper.audit().sort_values(["kind", "holds"], ascending=[False, True], kind="stable")
audit = audit.reset_index(drop=True)
printed = audit[audit["kind"] == "printed"]
with pd.option_context("display.max_colwidth", None):
    display(audit)

# %% [markdown]
# ### 7.2 Deduce the counts behind Table 3
#
# Search all whole numbers of galaxies that round to the printed precision, recall and F1, and add
# up to the validation set. Where more than one solution is left, all are shown.

# %%
for column in paper.TABLE_3_COLUMNS:
    display(Markdown(f"**{column}**"))
    display(paper.deduce_table_3(column).unstack("solution"))

# %% [markdown]
# ### 7.3 Count the parameters
#
# Compare the printed numbers of parameters (Table 2) with a dense layer of either width on top of
# Keras' backbones, and with the networks trained here.

# %%
display(paper.parameter_table().T)
display(pd.DataFrame({run.name: run.settings.get("parameters", {}) for run in trained}))

# %% [markdown]
# ### 7.4 Apply both selection criteria
#
# Count the galaxies that the criteria printed in the paper and those run by its authors take from
# this survey. A blank column means that the survey lacks what a cut needs.

# %%
selected = paths.step_folder(run_dir, "01_sample_selection")
criteria = pd.read_csv(selected / "criteria.csv", index_col="m").astype("Int64")
display(criteria)

# %% [markdown]
# ### 7.5 Compare the first galaxies with random ones
#
# Sec. 4.2.2 says that galaxies of the large classes are left out at random; the authors' code keeps the
# first in catalogue order. Count for this sample how many of the first a random choice would have kept
# too (`overlap`, and `expected` by chance), and test whether the first differ from the rest in right
# ascension and redshift (Kolmogorov-Smirnov), as far as the survey has them.

# %%
choices = selection.compare_choices(sample, max_per_class, seed)
display(Markdown(f"{len(choices)} classes have more than {max_per_class} galaxies."))
display(choices.round(4))

# %% [markdown]
# ### 7.6 Ask how the published networks do on the whole sample
#
# Bound precision and recall over all galaxies by the sizes in Table 4. A class cannot have more
# true positives than labels, nor more than predictions. (Table 4 does not say which of the trained
# configurations it uses.)

# %%
display(paper.whole_sample_bounds().round(3))

# %% [markdown]
# ## 8 Write the results
#
# Write the tables and one machine-readable summary.

# %%
tables = {"comparison": comparison, "audit": audit, "protocols": protocols, "optimism": optimism}
tables |= {"same_galaxies": beside, "purity": purity}
for name, table in tables.items():
    with paths.atomic(out / f"{name}.csv") as file:
        table.to_csv(file, index=False)

# %% [markdown]
# Gather what the report of the whole run shows.

# %%
summary = {
    run.name: {
        "protocol": run.protocol,
        "split": run.reported_split,
        "galaxies": len(run.part()),
        "scores": evaluation.scores(run.confusion()),
        "calibration": calibrated[run.name][0].to_dict("index"),
    }
    for run in trained
}

# %% [markdown]
# Add the tests between networks and the paper's audit, and write.

# %%
both = pd.concat([tests, sound_tests])
pairs = both.set_index(both["a"] + " v " + both["b"]).drop(columns=["a", "b"])
content = {
    "runs": summary,
    "class_configurations": {
        f"{role} {merge}": evaluation.scores(run.confusion())
        for (merge, role), run in configurations.items()
    },
    "cross_validation": {name: table.to_dict("index") for name, table in crossed.items()},
    "optimism": optimism,
    "same_galaxies": beside,
    "seeds": seeds,
    "choices": choices.to_dict("index"),
    "pairs": pairs.to_dict("index"),
    "published_pair": {"p_least": least, "p_most": most},
    "audit": {"holds": printed["holds"].sum(), "does_not_hold": (~printed["holds"]).sum()},
}
report.write_json(out / "report.json", content)

# %% [markdown]
# ## 9 What was found
#
# Sum up this run and compare it with the paper.

# %%
lines = []
for run in trained:
    rows = overall[overall["run"] == run.name].set_index("metric")
    judged = cells[(cells["run"] == run.name) & cells["inside"].notna()]
    accuracy, macro = rows.loc["accuracy"], rows.loc["macro_f1"]
    lines.append(
        f"- **{run.name}** ({run.settings['role']}, {run.protocol} protocol, {accuracy['n']} "
        f"{run.reported_split} galaxies): accuracy {accuracy['ours']:.3f} ({accuracy['low']:.3f} to "
        f"{accuracy['high']:.3f}), macro-F1 {macro['ours']:.3f} ({macro['low']:.3f} to "
        f"{macro['high']:.3f}); the paper has {accuracy['paper']:.3f} and {macro['paper']:.3f}. "
        f"{int(judged['inside'].sum())} of {len(judged)} cells of Table 3 lie in our intervals."
    )

# %% [markdown]
# Add the tests and the spread over seeds.

# %%
for _, test in both.iterrows():
    lines.append(
        f"- {test['a']} v {test['b']}: {test['only_a']} galaxies are right by the first alone, "
        f"{test['only_b']} by the second alone (McNemar p = {test['p_value']:.3g}, "
        f"{test['p_holm']:.3g} after Holm)."
    )
lines.append(
    f"- The published networks differ by {their_v2m['tp'].sum() - their_b0['tp'].sum()} of "
    f"{their_b0['support'].sum()} galaxies; whatever the overlap of their errors, p is at least "
    f"{least:.3f}: the paper does not show that V2M is the better one."
)
for _, row in seeds[seeds["metric"] == "macro_f1"].iterrows() if len(seeds) else ():
    lines.append(
        f"- {row['role']}: over {row['seeds']} seeds macro-F1 has a standard deviation of "
        f"{row['sd']:.3f}, beside a sampling error of {row['half_width']:.3f} (half of the 95 % "
        f"interval on {row['galaxies']} galaxies)."
    )

# %% [markdown]
# Add whether the published protocol is optimistic.

# %%
measured = optimism.query("metric == 'macro_f1' and low.notna()") if len(optimism) else optimism
for _, row in measured.iterrows():
    bounds = f"{row['low']:+.3f} to {row['high']:+.3f}"
    verdict = "" if row["told_from_0"] else ", which cannot be told from 0: no optimism is shown"
    lines.append(
        f"- {row['run']}: macro-F1 of the validation galaxies that choose the epoch, minus that of test "
        f"galaxies at the same class mix, is {row['optimism']:+.3f} ({bounds}){verdict}."
    )

# %% [markdown]
# Add the networks beside the controls.

# %%
macro = beside.query("metric == 'macro_f1'") if len(beside) else beside
for (_, n), part in macro.groupby(["set", "galaxies"]) if len(macro) else ():
    words = [
        f"{row.method}, {row.rule}: {row.value:.3f} ({row.low:.3f} to {row.high:.3f})"
        for row in part.itertuples()
    ]
    lines.append(f"- Macro-F1 on the same {n:,} galaxies, protocol sound: {'; '.join(words)}.")

# %% [markdown]
# Add the audit.

# %%
lines.append(
    f"- Of {len(printed)} statements of the paper that can be recomputed, "
    f"{(~printed['holds']).sum()} do not hold."
)
display(Markdown("\n".join(lines)))
