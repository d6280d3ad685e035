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
# # 01  Sample selection
#
# **Question.** Which galaxies of the survey are spirals whose arms volunteers could count, and how
# many has each arm class?
#
# **Reproduces** Sec. 2.1, Table 1 and Figs. 1 and 6 of Lee, Soo & Sharoni (arXiv:2412.11696).
#
# **Inputs**
# - the folder of a survey: the votes of its volunteers and its images
#
# **Outputs**
# - `votes.parquet`: all galaxies of the survey in common columns
# - `sample.parquet`: the selected galaxies with their labels, in the order of the catalogue
# - `cuts.csv`: how many galaxies each cut leaves
# - `class_counts.csv`: galaxies per arm class, beside the paper's
#
# Terms of the field are explained in the [glossary](../docs/glossary.md).

# %% tags=["remove-input"]
# What made the outputs below: the run fills it in.

# %% [markdown]
# ## 1 Set-up
#
# ### 1.1 Import packages
#
# Import the project's library; it does the work, and this notebook tells the story.

# %%
import pandas as pd
from IPython.display import Markdown, display

from lib import paper, paths, schema, selection
from lib.figures import sample as figures
from lib.figures import style
from lib.surveys import gz2, open_survey

style.use()

# %% [markdown]
# ### 1.2 Define parameters
#
# Change these to select from another survey or with other cuts. The defaults are those of the
# embedded, simulated survey.

# %% tags=["parameters"]
# Folder of the run; a relative path starts at the project root.
run_dir = "runs/mock"
# Name of this notebook's folder below it.
output = "01_sample_selection"
# Survey: gz2, gz2_hart16, challenge or mock.
survey = "mock"
# Folder of the survey's files.
data_dir = "runs/mock/00_mock_survey"
# Cuts: paper-text (as printed), authors-code (as run) or free (only the thresholds below).
criteria = "paper-text"
# Thresholds that replace or add to those of the criteria, by quantity; null drops a cut.
thresholds = {}
# Class merge: none, 3+4 or 4+5+.
merge = "none"
# down-sampled (at most max_per_class galaxies of each class) or all.
sampling = "down-sampled"
# Most galaxies of one class when down-sampling.
max_per_class = 300
# Which of them: first (in catalogue order) or random.
choose = "first"
# Share of each class that is kept for validation.
validation_fraction = 0.3
# Go on when a class has no galaxy to train or validate on.
allow_empty = False
# Side of the survey's images in pixels.
size = 424
# Side of the central crop shown in the figures, in pixels.
crop = 224
# Seed of everything random.
seed = 42

# %% [markdown]
# ### 1.3 Check the parameters
#
# Stop here, before any work, if a value is not possible.

# %%
selection.check_sampling(merge, sampling, max_per_class, choose, validation_fraction)
cuts_wanted = selection.make_criteria(criteria, thresholds)
out = paths.output_folder(run_dir, output)

# %% [markdown]
# ## 2 The survey
#
# ### 2.1 Read the votes
#
# Read the table of votes and look for the images. Fractions are conditional: they say which share
# of those who were *asked* a question gave that answer.

# %%
opened = open_survey(survey, data_dir)
votes = opened.votes
display(Markdown("\n".join(f"- {note}" for note in opened.notes)))

# %% [markdown]
# ### 2.2 Look at the first galaxies
#
# Show the fractions that the cuts and the labels use, for the first galaxies of the catalogue.

# %%
fractions = ["f_features", "f_not_edge_on", "f_spiral", *schema.RHO_COLUMNS]
display(votes[["galaxy_id", *fractions]].head())

# %% [markdown]
# ### 2.3 Recall the decision tree
#
# List the questions that volunteers were asked (Table 1; Willett et al. 2013). The number of arms
# is the last of them: a galaxy gets there only by being called featured (task 01), not edge-on
# (task 02) and spiral (task 04), which is why the cuts follow that path. Zoobot, whose weights the
# paper starts from, has learnt the same tree under names of its own.

# %%
display(gz2.decision_tree().style)

# %% [markdown]
# ## 3 The cuts
#
# ### 3.1 Apply the cuts
#
# Cut one after the other, each on the galaxies that the one before it left.

# %%
sample, cuts = selection.select(votes, cuts_wanted)
display(Markdown(f"Criteria: **{cuts_wanted.name}**."))
display(cuts)

# %% [markdown]
# ### 3.2 See where galaxies are lost
#
# Draw the same numbers. Most galaxies go at the questions of the decision tree: they are smooth,
# edge-on or without arms.

# %%
style.show(
    figures.cut_funnel(cuts),
    out / "cuts.png",
    f"Galaxies left after each cut of the criteria {cuts_wanted.name}, from {len(votes):,} in the "
    f"survey to {len(sample):,} in the sample; in brackets those that the cut removes.",
)

# %% [markdown]
# ### 3.3 Name the cuts that were dropped
#
# A survey without a column cannot be cut on it. Such a cut has to be dropped by name, and is listed
# here.

# %%
dropped = [selection.QUANTITIES[c.quantity] for c in cuts_wanted.cuts if c.threshold is None]
display(Markdown("Dropped: " + ("; ".join(dropped) or "none") + "."))

# %% [markdown]
# ## 4 The labels
#
# ### 4.1 Count the classes
#
# Label each galaxy with the answer that has the largest debiased fraction, and count. The first of
# the tied answers is taken where several share the largest.

# %%
counts = selection.class_counts(sample["label"])
class_table = pd.DataFrame({"galaxies": counts, "paper": paper.CLASS_COUNTS}).rename_axis("m")
class_table["share"] = class_table["galaxies"] / len(sample)
class_table["share in the paper"] = class_table["paper"] / paper.SAMPLE_SIZE
display(class_table.style.format("{:.3f}", subset=["share", "share in the paper"]))
display(Markdown(f"{sample['tied'].sum():,} of {len(sample):,} labels are ties."))

# %% [markdown]
# ### 4.2 See how sure the volunteers were
#
# Draw which share of each class has a debiased fraction above a value. The further to the right a
# curve falls, the more the volunteers agreed. A cut on it (dotted: the paper's) weighs on the
# classes differently.

# %%
medians = sample.groupby("label")["rho_max"].median().sort_values(ascending=False)
style.show(
    figures.label_confidence(sample, cut=0.8),
    out / "label_confidence.png",
    "Share of each class whose debiased vote fraction lies above the value on the axis; the dotted "
    "line is the paper's cut. Medians: "
    + ", ".join(f"{rho:.2f} (m = {m})" for m, rho in medians.items())
    + ".",
)

# %% [markdown]
# ### 4.3 Look at galaxies of each class
#
# Show some galaxies of each class, drawn at random, with the debiased fraction of their label
# (Fig. 1).

# %%
style.show(
    figures.examples(sample, opened.data_dir, crop=crop, size=size, seed=seed),
    out / "examples.png",
    f"Galaxies of each arm class, the central {crop} pixels of their images, with the debiased "
    "vote fraction of the label; within a row the surest comes first. As Fig. 1 of the paper.",
)

# %% [markdown]
# ## 5 What the paper says and what its authors ran
#
# ### 5.1 Count both on the same galaxies
#
# Apply the criteria printed in the paper and those of the authors' public notebook to this survey,
# whatever was chosen above, with or without images. The notebook has a lower threshold on the
# spiral fraction, asks for GZ2's clean flag instead of a debiased fraction above the cut, and counts
# *expected votes* from the total number of votes. That total is of all answers to all questions, so
# that its cut removes little.

# %%
both = selection.compare_criteria(votes)
both["paper"] = pd.Series({**paper.CLASS_COUNTS, "all": paper.SAMPLE_SIZE})
display(both)

# %% [markdown]
# ### 5.2 Name what the survey lacks for them
#
# List the cuts that this survey has no column for; their criteria are left blank above.

# %%
for name in ("paper-text", "authors-code"):
    absent = selection.absent_columns(votes, selection.make_criteria(name))
    lacking = "; ".join(f"{cut} ({', '.join(columns)})" for cut, columns in absent.items())
    display(Markdown(f"- {name}: {lacking or 'nothing is lacking'}"))

# %% [markdown]
# ## 6 Down-sampling
#
# ### 6.1 Draw the training and validation galaxies
#
# Merge classes where asked to, take at most the chosen number of each class, and split each class
# into training and validation. Training notebooks do the same with their own parameters; this is
# how it looks with those above.

# %%
assigned = selection.assign(
    sample,
    merge=merge,
    sampling=sampling,
    max_per_class=max_per_class,
    choose=choose,
    validation_fraction=validation_fraction,
    seed=seed,
    allow_empty=allow_empty,
)
classes = list(selection.class_counts(sample["label"], merge).index)
sizes = pd.crosstab(assigned["label"], assigned["split"])
display(sizes.reindex(index=classes, columns=["train", "validation", "rest"], fill_value=0))

# %% [markdown]
# ### 6.2 Compare the class counts
#
# Draw the classes before and after down-sampling (Fig. 6). The axis is logarithmic: two-armed
# galaxies outnumber four-armed ones by a large factor.

# %%
full = selection.class_counts(sample["label"], merge)
used = (
    assigned.loc[assigned["split"] != "rest", "label"].value_counts().reindex(full.index).fillna(0)
)
style.show(
    figures.class_counts(full, used.astype(int), paper.CLASS_COUNTS),
    out / "class_counts.png",
    f"Galaxies per arm class in the sample (pale) and after down-sampling to at most {max_per_class} "
    "of each (solid); black marks are the paper's full sample. As Fig. 6 of the paper.",
)

# %% [markdown]
# ## 7 Write the tables
#
# Write the files for the next notebooks; each appears under its name only when whole. The sample
# keeps the name of its survey, for identifiers of two surveys cannot be compared.

# %%
sample.attrs["survey"] = survey
with paths.atomic(out / "votes.parquet") as file:
    votes.to_parquet(file)
with paths.atomic(out / "sample.parquet") as file:
    sample.to_parquet(file)
with paths.atomic(out / "cuts.csv") as file:
    cuts.to_csv(file, index=False)
with paths.atomic(out / "class_counts.csv") as file:
    class_table.to_csv(file)

# %% [markdown]
# ## 8 What was found
#
# Sum up this run and compare it with the paper.

# %%
common = counts.idxmax()
rare = counts.idxmin()
paper_split = paper.split_sizes(paper.down_sampled(paper.CLASS_COUNTS)).sum()
display(
    Markdown(
        f"Of {len(votes):,} galaxies, {len(sample):,} ({len(sample) / len(votes):.1%}) pass the "
        f"criteria {cuts_wanted.name}; in the paper it is {paper.SAMPLE_SIZE:,} of "
        f"{paper.CATALOGUE_ROWS:,} ({paper.SAMPLE_SIZE / paper.CATALOGUE_ROWS:.1%}). The most "
        f"frequent class is m = {common} with {counts[common] / len(sample):.1%} of the sample "
        f"(in the paper m = 2 with {paper.CLASS_COUNTS['2'] / paper.SAMPLE_SIZE:.1%}), the rarest "
        f"m = {rare} with {counts[rare]:,} galaxies. {(assigned['split'] == 'train').sum():,} "
        f"galaxies are for training, {(assigned['split'] == 'validation').sum():,} for validation "
        f"(in the paper's down-sampled set {paper_split['train']} and {paper_split['validation']})."
    )
)
