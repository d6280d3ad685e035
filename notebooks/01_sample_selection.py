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
# - `criteria.csv`: galaxies per arm class by the paper's text and by its authors' code
#
# Terms of the field are explained in the [glossary](../docs/glossary.md).

# %% tags=["remove-input"]
# What made the outputs below: the run fills it in.

# %% [markdown]
# ## 1 Set-up
#
# ### 1.1 Packages
#
# The cuts are pandas expressions, the figures seaborn's and matplotlib's. The library reads the
# survey and refuses cuts that would fail silently: on a missing value or an absent column.

# %%
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from IPython.display import Markdown, display

from lib import images, paper, paths, schema, selection
from lib.figures import style
from lib.surveys import gz2, open_survey

style.use()

# %% [markdown]
# ### 1.2 Parameters
#
# Change these to select from another survey. The defaults are those of the embedded, simulated
# survey.

# %% tags=["parameters"]
# Folder of the run; a relative path starts at the project root.
run_dir = "runs/mock"
# Name of this notebook's folder below it.
output = "01_sample_selection"
# Survey: gz2, gz2_hart16, challenge or mock.
survey = "mock"
# Folder of the survey's files.
data_dir = "runs/mock/00_mock_survey"
# Cuts: paper-text (as printed, section 3.1) or authors-code (as run, section 3.2).
criteria = "paper-text"
# Columns that are not cut on: those that the survey lacks, or, in a small survey, the purity of the arm
# number, whose cut would leave next to none of the rare classes.
dropped = ["rho_max"]
# Most galaxies of one class when down-sampling.
max_per_class = 300
# Side of the survey's images in pixels.
size = 424
# Side of the central crop shown in the figures, in pixels.
crop = 224
# Seed of everything random.
seed = 42

# %% [markdown]
# ## 2 The survey
#
# ### 2.1 Votes
#
# Read the table of votes and look for the images. Fractions are conditional: the share of those who
# were *asked* a question and gave that answer.

# %%
out = paths.output_folder(run_dir, output)
images.check_crop(crop, size)
opened = open_survey(survey, data_dir)
votes = opened.votes
kind = "simulated galaxies" if survey == "mock" else "real galaxies"
display(Markdown("\n".join(f"- {note}" for note in opened.notes)))

# %% [markdown]
# ### 2.2 First galaxies
#
# The fractions that the cuts and the labels use.

# %%
fractions = ["f_features", "f_not_edge_on", "f_spiral", *schema.RHO_COLUMNS]
display(votes[["galaxy_id", *fractions]].head())

# %% [markdown]
# ### 2.3 Decision tree (Table 1)
#
# The questions that volunteers were asked (Willett et al. 2013). The number of arms is the last of
# them: a galaxy gets there only by being called featured (task 01), not edge-on (task 02) and
# spiral (task 04), so the cuts follow that path. Zoobot, whose weights the paper starts from, was
# trained on the same tree under other names.

# %%
display(gz2.decision_tree().style)

# %% [markdown]
# ## 3 The cuts
#
# ### 3.1 Criteria of the paper
#
# One condition a line, as in `votes.query(...)`; edit them here. With $\rho_k$ the debiased fraction
# of answer $k$ to the number of arms, `rho_max` is $\max_k \rho_k$.

# %%
paper_text = [
    "f_features > 0.430",  # Sec. 2.1: features or disc
    "f_not_edge_on > 0.715",  # not edge-on
    "f_spiral > 0.715",  # spiral
    "n_spiral > 20",  # votes for spiral
    "rho_max > 0.8",  # largest debiased fraction of the arm number
    "has_image",  # the image file is there
]

# %% [markdown]
# ### 3.2 Criteria of the authors' code
#
# The authors' public notebook has the lower spiral threshold of Willett et al. (2013, Table 3), asks
# for GZ2's `clean` flag of the label instead of a debiased fraction above the cut, and counts
# *expected votes* from the total number of votes. That total is of all answers to all questions, so
# that its cut removes little.

# %%
authors_code = [
    "f_features >= 0.430",
    "f_not_edge_on >= 0.715",
    "f_spiral >= 0.619",
    "total_votes >= 20",
    "total_votes * f_features >= 20",
    "total_votes * f_features * f_not_edge_on >= 20",
    "clean",
    "has_image",
]

# %% [markdown]
# ### 3.3 Selection
#
# Each cut is made on the galaxies that the one before it left. A survey without a column cannot be
# cut on it: such a cut is dropped by the name of the column, and listed as dropped.

# %%
written = {"paper-text": paper_text, "authors-code": authors_code}
if criteria not in written:
    raise schema.InputError(f"criteria is {criteria!r}: choose one of {', '.join(written)}")
sample, cuts = selection.select(votes, written[criteria], dropped)
display(Markdown(f"Criteria: **{criteria}**; not cut on: {', '.join(dropped) or 'nothing'}."))
display(cuts)

# %% [markdown]
# ### 3.4 Galaxies left
#
# The same numbers. Most galaxies go at the questions of the decision tree: they are smooth, edge-on
# or without arms.

# %%
figure, axis = plt.subplots(figsize=(style.WIDTH, 0.4 + 0.32 * len(cuts)), layout="constrained")
bars = axis.barh(cuts["cut"], cuts["kept"], height=0.7)
texts = cuts["kept"].map("{:,}".format) + cuts["lost"].map(" (-{:,})".format)
axis.bar_label(bars, texts, padding=4, fontsize=8)
axis.invert_yaxis()
axis.set(xlabel="galaxies left (lost by this cut)", xlim=(0, 1.25 * len(votes)), title=kind)
caption = f"Galaxies left after each cut of the criteria {criteria}, and those that it removes."
style.show(figure, out / "cuts.png", caption)

# %% [markdown]
# ## 4 The labels
#
# ### 4.1 Class counts
#
# The label is the answer with the largest debiased fraction, $m = \arg\max_k \rho_k$; the first of
# the tied answers where several share the largest.

# %%
counts = selection.class_counts(sample["label"])
class_table = pd.DataFrame({"galaxies": counts, "paper": paper.CLASS_COUNTS}).rename_axis("m")
class_table["share"] = class_table["galaxies"] / len(sample)
class_table["share in the paper"] = class_table["paper"] / paper.SAMPLE_SIZE
display(class_table.style.format("{:.3f}", subset=["share", "share in the paper"]))
display(Markdown(f"{sample['tied'].sum():,} of {len(sample):,} labels are ties."))

# %% [markdown]
# ### 4.2 Agreement of the volunteers
#
# The share of each class whose debiased fraction lies above a value. A cut on it (dotted: the
# paper's) removes different shares of the classes.

# %%
present = list(counts[counts > 0].index)
figure, axis = plt.subplots(figsize=(style.WIDTH, 3.0), layout="constrained")
options = dict(hue="label", hue_order=present, palette=style.ARM_COLOURS, complementary=True)
sns.ecdfplot(sample, x="rho_max", **options, ax=axis)
axis.axvline(0.8, color="0.5", linestyle=":")
axis.set(xlabel=r"debiased fraction $\rho_m$ of the label", ylabel="share above it", title=kind)
caption = "Share of each class whose debiased vote fraction lies above the value on the axis."
style.show(figure, out / "label_confidence.png", caption)

# %% [markdown]
# ### 4.3 Galaxies of each class (Fig. 1)
#
# Some galaxies of each class, drawn at random; an image that cannot be read is passed over.


# %%
def readable(galaxies, number=7):
    """The first galaxies whose image can be read: debiased fraction and central pixels."""
    found = []
    for galaxy in galaxies.sample(frac=1, random_state=seed).itertuples():
        try:
            image = images.decode(opened.data_dir / galaxy.image_path, size)
        except images.ImageError:
            continue
        found.append((galaxy.rho_max, images.central_crop(image, crop)))
        if len(found) == number:
            break
    return sorted(found, key=lambda pair: -pair[0])


# %% [markdown]
# One row for each class that has any.

# %%
shown = {m: readable(sample[sample["label"] == m]) for m in present}
shown = {m: row for m, row in shown.items() if row}
figure = plt.figure(figsize=(0.8 * style.WIDTH, len(shown) + 0.1), layout="constrained")
parts = figure.subfigures(max(len(shown), 1), 1, squeeze=False)[:, 0]
for part, (m, row) in zip(parts, shown.items(), strict=False):
    part.supylabel(f"m = {m}", color=style.ARM_COLOURS[m], fontsize=9)
    for axis, (rho, image) in zip(part.subplots(1, 7), row, strict=False):
        axis.imshow(image)
        axis.set_title(rf"$\rho$ = {rho:.2f}", fontsize=7, pad=2)
    for axis in part.axes:
        axis.set_axis_off()
caption = f"{kind.capitalize()} of each arm class, the central {crop} pixels of their images, with "
caption += "the debiased vote fraction of the label, the surest first. As Fig. 1 of the paper."
style.show(figure, out / "examples.png", caption)

# %% [markdown]
# ## 5 Paper and code on the same galaxies
#
# Both criteria applied to this survey, whatever was chosen above, with or without images. Criteria
# that need a column which the survey lacks are named below and left blank in the table.

# %%
columns = {}
for name, conditions in written.items():
    try:
        chosen, _ = selection.select(votes, conditions, dropped=["has_image"])
        columns[name] = selection.class_counts(chosen["label"])
    except schema.InputError as error:
        display(Markdown(f"- {name}: {error}"))
both = pd.DataFrame(columns, columns=list(written), index=counts.index).astype("Int64")
both["paper"] = pd.Series(paper.CLASS_COUNTS)
both.loc["all"] = both.sum(min_count=1)
both = both.rename_axis("m")
display(both)

# %% [markdown]
# ## 6 Down-sampling
#
# ### 6.1 Training and validation galaxies
#
# Take at most the chosen number of each class, the first in catalogue order as the authors did, and
# split each class: 30 % are for validation. Training notebooks do the same with parameters of their
# own.

# %%
options = dict(choose="first", validation_fraction=0.3, seed=seed, allow_empty=True)
assigned = selection.assign(sample, max_per_class=max_per_class, **options)
split = pd.crosstab(assigned["label"], assigned["split"])
display(split.reindex(index=counts.index, columns=["train", "validation", "rest"], fill_value=0))

# %% [markdown]
# ### 6.2 Counts before and after (Fig. 6)
#
# The axis is logarithmic: two-armed galaxies outnumber four-armed ones by a large factor.

# %%
table = pd.DataFrame({"all": counts, "down-sampled": counts.clip(upper=max_per_class)})
table["all, in the paper"] = pd.Series(paper.CLASS_COUNTS)
table = table.rename_axis("m").melt(var_name="set", value_name="galaxies", ignore_index=False)
figure, axis = plt.subplots(figsize=(style.WIDTH, 3.0), layout="constrained")
sns.barplot(table.reset_index(), x="m", y="galaxies", hue="set", ax=axis)
for bars in axis.containers:
    axis.bar_label(bars, fmt="{:,.0f}", fontsize=6)
axis.set(yscale="log", xlabel="arm class m", title=kind, ylim=(0.7, 3 * table["galaxies"].max()))
axis.legend(title=None, ncols=3, loc="upper right", fontsize=8)
caption = f"Galaxies per arm class before and after down-sampling to at most {max_per_class} of "
caption += "each, beside the paper's full sample. As Fig. 6 of the paper."
style.show(figure, out / "class_counts.png", caption)

# %% [markdown]
# ## 7 Tables
#
# Files for the next notebooks; each appears under its name only when whole. The sample keeps the
# name of its survey, for identifiers of two surveys cannot be compared.

# %%
sample.attrs["survey"] = survey
for name, rows in {"votes": votes, "sample": sample}.items():
    with paths.atomic(out / f"{name}.parquet") as file:
        rows.to_parquet(file)
tables = {"cuts": cuts.set_index("cut"), "class_counts": class_table, "criteria": both}
for name, rows in tables.items():
    with paths.atomic(out / f"{name}.csv") as file:
        rows.to_csv(file)

# %% [markdown]
# ## 8 Conclusions
#
# This run beside the paper.

# %%
common, rare = counts.idxmax(), counts.idxmin()
split = assigned["split"].value_counts()
paper_split = paper.split_sizes(paper.down_sampled(paper.CLASS_COUNTS)).sum()
bullets = [
    f"Of {len(votes):,} {kind}, {len(sample):,} ({len(sample) / len(votes):.1%}) pass the criteria "
    f"{criteria}; in the paper it is {paper.SAMPLE_SIZE:,} of {paper.CATALOGUE_ROWS:,} "
    f"({paper.SAMPLE_SIZE / paper.CATALOGUE_ROWS:.1%}).",
    f"The most frequent class is m = {common} with {counts[common] / len(sample):.1%} of the sample "
    f"(in the paper m = 2 with {paper.CLASS_COUNTS['2'] / paper.SAMPLE_SIZE:.1%}), the rarest "
    f"m = {rare} with {counts[rare]:,} galaxies.",
    f"{split['train']:,} galaxies are for training, {split['validation']:,} for validation (in the "
    f"paper's down-sampled set {paper_split['train']} and {paper_split['validation']}).",
]
display(Markdown("\n".join(f"- {bullet}" for bullet in bullets)))

# %% [markdown]
# ## Exercises
#
# 1. Change `rho_max > 0.8` to `rho_max > 0.5` in 3.1 and run from there on: which classes gain most?
# 2. Set `max_per_class = 30` and run section 6: what is the largest ratio of two classes now?
# 3. With that, keep `assigned` as `first`, set `choose="random"` in 6.1 and run the cell: how many
#    galaxies have `first["split"] != assigned["split"]`?
