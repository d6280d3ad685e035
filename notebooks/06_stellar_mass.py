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
# # 06  Stellar mass against arm number
#
# **Question.** Do spirals with one, two, three or many arms differ in stellar mass, and would a
# table that is joined by row position show it?
#
# **Reproduces** Sec. 6, Table 4 and Figs. 11 to 13 of Lee, Soo & Sharoni (arXiv:2412.11696), first
# as published, then by sound tests.
#
# **Inputs**
# - survey `hart17` (profile `masses`): one table of real masses and labels; nothing else
# - any other survey: `sample.parquet` of `01_sample_selection`, the MPA-JHU files in the folder of
#   the survey, and the predictions of `03_train_b0` and `04_train_v2m` where there are any
#
# **Outputs**
# - `galaxies.parquet`, `classes.parquet`: masses and arm classes
# - `published.csv`, `shifts.csv`, `covariates.csv`, `power.csv`, `position.csv`, `labels.csv`,
#   `agreement.csv`, `dilution.csv`: the tests
# - `metrics.json`: the main numbers
#
# Terms of the field are explained in the [glossary](../docs/glossary.md).

# %% [markdown]
# ## 1 Set-up
#
# ### 1.1 Import packages
#
# The tests are scipy's, the tables pandas', the figures seaborn's. The library reads the
# catalogues, joins them by exact identifiers, and has the few estimates that scipy lacks.

# %%
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Markdown, display
from scipy import stats

from lib import paper, paths
from lib.evaluation import holm
from lib.figures import mass as figures
from lib.figures import style
from lib.stellar_mass import catalogue, classes, dilution, literature, statistics
from lib.workflow.report import write_json

style.use()

# %% [markdown]
# ### 1.2 Define parameters
#
# The defaults are those of the simulated survey.

# %% tags=["parameters"]
# Folder of the run; a relative path starts at the project root.
run_dir = "runs/mock"
# Name of this notebook's folder below it.
output = "06_stellar_mass"
# Survey: hart17, gz2, gz2_hart16 or mock.
survey = "mock"
# Folder of the survey's files.
data_dir = "runs/mock/00_mock_survey"
# The two MPA-JHU files or one CSV file; null looks for the former in data_dir.
mass_files = None
# Keep only galaxies that also have a star-formation rate, as the authors' query does.
need_sfr = False
# Held fixed beside the redshift in section 4.2, where the survey has them.
covariates = ["p_bar", "concentration"]
# Largest distance of a matched pair in redshift, in standard deviations.
caliper = 0.1
# Bootstrap resamples behind an interval.
n_resamples = 1000
# Repeats of the join by row position.
repeats = 1000
# Seed of everything random.
seed = 42

# %% [markdown]
# ## 2 Galaxies
#
# ### 2.1 Join galaxies and masses by identifier
#
# Identifiers have 18 or 19 digits and are never floating point. Rows that fail a quality cut or
# hold a placeholder are left out and counted. The second table is the sample's selection.

# %%
out = paths.output_folder(run_dir, output)
galaxies, counts = catalogue.galaxies_with_masses(run_dir, survey, data_dir, mass_files, need_sfr)
galaxies.to_parquet(out / "galaxies.parquet")
mass_columns = [c for c in catalogue.MASS_NAMES if c in galaxies]
selection = galaxies[["redshift", *mass_columns]].quantile([0, 0.01, 0.5, 0.99, 1])
display(counts, selection.rename_axis("quantile").round(3))

# %% [markdown]
# ### 2.2 Collect the arm classes
#
# Every source of classes that there is, in one table: GZ2's label, people's votes and drawings,
# networks, the truth of a simulation. Networks are judged by galaxies that they have not learnt
# from. In `data` each row is one galaxy with one class and one kind of mass; a simulated galaxy
# also has its mass without scatter, which is what any estimate should find.

# %%
every = classes.collect(galaxies, run_dir, data_dir, seed)
every.to_parquet(out / "classes.parquet")
data = every.merge(galaxies[["galaxy_id", "redshift", *mass_columns]], on="galaxy_id").melt(
    [*every, "redshift"], mass_columns, var_name="mass", value_name="log_mass"
)
data["mass"] = data["mass"].map(catalogue.MASS_NAMES)
masses = list(data["mass"].unique())
label = data[(data["source"] == classes.LABEL) & data["merged"].isin(classes.CLASSES)]
sizes = label[label["mass"] == masses[0]]["merged"].value_counts()
tested = [m for m in classes.CLASSES if sizes.get(m, 0) > 2]
display(pd.crosstab(every["source"], every["arm_class"]).loc[every["source"].unique()])

# %% [markdown]
# ## 3 As published
#
# ### 3.1 Repeat Table 4
#
# Each class against the whole sample, which contains it, by the Kolmogorov-Smirnov test and
# Student's t. The p-values of t are two-sided, as the printed ones are, although the paper calls
# its test one-tailed. Beside them the paper's numbers.

# %%
rows = []
main = data[data["mass"] == masses[0]]
for source in [s for s in (classes.LABEL, "B0", "V2M") if s in set(main["source"])]:
    whole = main[main["source"] == source]
    for m in [m for m in tested if (whole["merged"] == m).sum() > 1]:
        values = whole.loc[whole["merged"] == m, "log_mass"]
        ks, t = (test(values, whole["log_mass"]) for test in (stats.ks_2samp, stats.ttest_ind))
        row = {"source": source, "m": m, "n": len(values), "ks_d": ks.statistic}
        rows.append(row | {"ks_p": ks.pvalue, "t": t.statistic, "t_p": t.pvalue})
published = pd.DataFrame(rows).set_index(["source", "m"])
printed = paper.TABLE_4.rename(index={"label": classes.LABEL, "4,5+": "4+5+"})
published.to_csv(out / "published.csv")
beside = pd.concat({"ours": published, "paper": printed}, axis=1).reindex(published.index)
display(beside.round(4))

# %% [markdown]
# ### 3.2 Draw the distributions (Fig. 11)
#
# The density of each class over that of the whole sample, for the labels.

# %%
grid = sns.FacetGrid(label, row="mass", col="merged", col_order=tested, height=1.9, aspect=0.8)
for (mass, m), axis in grid.axes_dict.items():
    whole = label[label["mass"] == mass]
    bins = np.linspace(*whole["log_mass"].quantile([0.005, 0.995]), 13)
    own = whole[whole["merged"] == m]
    options = dict(x="log_mass", bins=bins, stat="density", element="step", ax=axis)
    sns.histplot(whole, color="0.8", lw=0, **options)
    sns.histplot(own, color=style.ARM_COLOURS[m], fill=False, **options)
    axis.set_title(f"{mass}, m = {m} ({len(own):,})", fontsize=8)
grid.set_axis_labels("log10 M* [Msun]", "density")
caption = "Fig. 11: density of stellar mass for each arm class (line) and all galaxies (grey), by "
caption += "GZ2 label. A class that differs stands off the grey; the number of galaxies is given."
style.show(grid.figure, out / "figure_11.png", caption)

# %% [markdown]
# ### 3.3 Draw the violins (Fig. 12)
#
# The same without the lowest 5 % and the highest 1 % of each class, as the paper draws it.

# %%
share = label.groupby(["mass", "merged"])["log_mass"].rank(pct=True)
trimmed = label[share.between(0.05, 0.99)].rename(columns={"merged": "arm number m"})
grid = sns.catplot(
    trimmed, x="arm number m", y="log_mass", hue="arm number m", col="mass", kind="violin",
    order=tested, hue_order=tested, palette=style.ARM_COLOURS, inner="quart", height=3, cut=0,
    density_norm="width", legend=False,
)  # fmt: skip
grid.set_axis_labels("arm number m", "log10 M* [Msun]").set_titles("{col_name}")
caption = "Fig. 12: stellar mass by arm class of the GZ2 label, with quartiles (dashed). Violins "
caption += "have the same width, however few galaxies they stand for."
style.show(grid.figure, out / "figure_12.png", caption)

# %% [markdown]
# ## 4 Sound tests
#
# ### 4.1 Compare each class with the rest
#
# Welch's t against the complement; Cliff's delta, $P(a > b) - P(a < b)$, with a bootstrap
# interval; Holm's correction over the classes. In a flux-limited sample distant galaxies are more
# massive and their arms are harder to count, so the shift $\beta$ is also estimated at fixed
# redshift, from $\log M_* = \alpha + \beta\,[m] + \gamma z$ and from pairs of equal redshift.

# %%
rows = []
for mass, table in label.groupby("mass", sort=False):
    values, z = table["log_mass"].to_numpy(), table[["redshift"]].to_numpy()
    for m in tested:
        inside = (table["merged"] == m).to_numpy()
        a, b = values[inside], values[~inside]
        members, controls = statistics.matched_pairs(inside, z, caliper, seed)
        welch = stats.ttest_ind(a, b, equal_var=False)
        paired = stats.ttest_rel(values[members], values[controls])
        delta = statistics.cliffs_interval(a, b, n_resamples, seed)
        fixed = statistics.adjusted_shift(values, inside, z)
        row = {"mass": mass, "m": m, "n": len(a)}
        rows.append(row | {"method": "against the rest"} | statistics.of_test(welch) | delta)
        rows.append(row | {"method": "at fixed redshift"} | fixed)
        row["n"] = len(members)
        rows.append(row | {"method": "matched in redshift"} | statistics.of_test(paired))
shifts = pd.DataFrame(rows)
shifts["p_holm"] = shifts.groupby(["mass", "method"])["p"].transform(holm)
shifts.to_csv(out / "shifts.csv", index=False)
display(
    shifts.set_index(["mass", "method", "m"]).sort_index(level=[0, 1], sort_remaining=0).round(4)
)

# %% [markdown]
# ### 4.2 Ask three questions at fixed redshift
#
# Are two-armed galaxies different from all others, are galaxies with three or more arms different
# from them, and those with four? Does the answer change when more is held fixed (the bar fraction
# of the votes, or the concentration, as far as the survey has them)?

# %%
others = ("1", *classes.MANY, "?")
comparisons = {
    "2 against the rest": (("2",), others),
    "3 or more against 2": (classes.MANY, ("2",)),
    "4 against 2": (("4",), ("2",)),
}
wide = galaxies.assign(arm_class=galaxies["label"])
more = [c for c in covariates if c in wide]
rows = []
for column in mass_columns:
    for fixed in (["redshift"], ["redshift", *more]):
        table = statistics.class_shifts(wide, column, fixed, comparisons)
        rows.append(table.assign(mass=catalogue.MASS_NAMES[column], fixed=" and ".join(fixed)))
questions = pd.concat(rows, ignore_index=True).drop_duplicates()
questions.to_csv(out / "covariates.csv", index=False)
display(questions.set_index(["comparison", "mass", "fixed"]).sort_index().round(4))

# %% [markdown]
# ### 4.3 State what could have been seen
#
# The smallest true shift that a two-sided t-test finds four times out of five, with classes of
# these sizes and of the paper's. The paper prints no spread: that of this sample stands for it.

# %%
spread = label[label["mass"] == masses[0]].groupby("merged")["log_mass"].std().loc["2"]
table_4 = literature.table_4()
rows = []
for sample, n in {"here": sizes[tested], "paper": table_4["n"]}.items():
    for m, size in n.items():
        least = statistics.minimum_detectable_shift(size, n.sum() - size, spread)
        rows.append({"m": m, "sample": sample, "n": size, "detectable [dex]": least})
power = pd.DataFrame(rows).pivot(index="m", columns="sample")
power.to_csv(out / "power.csv")
display(Markdown(f"Spread within m = 2: {spread:.2f} dex."), power.round(3))

# %% [markdown]
# ### 4.4 See all shifts together
#
# The estimates of each class beside the shift that the paper's printed t implies. With spread $s$,
# $t = d / (s \sqrt{1/n + 1/N})$ gives the difference $d$ to the whole, and $d N / (N - n)$ that to
# the rest.

# %%
implied = literature.implied_shifts(table_4["n"], table_4["t"], paper.MATCHED_SIZE)
ends = ["shift", "shift_low", "shift_high"]
implied[ends] *= spread
implied = implied.rename_axis("m").reset_index().assign(method="the paper's Table 4")
drawn = pd.concat([shifts, implied.assign(mass=masses[0])])
drawn = drawn[drawn["m"].isin(tested)].assign(row="m = " + drawn["m"])
bands = power["detectable [dex]"]["here"].rename(index="m = {}".format)
caption = "Shift of each class against the rest with 95 % intervals. Grey: shifts that classes of "
caption += "these sizes would miss more than one time in five. The paper's t is scaled by the "
caption += "spread of this sample."
style.show(figures.forest(drawn, "mass", "row", "method", bands), out / "forest.png", caption)

# %% [markdown]
# ## 5 The join by row position
#
# ### 5.1 Lay the same table beside itself, with some rows dropped
#
# The authors' public notebook sorts galaxies and masses by identifier and lays the two tables side
# by side, without comparing the identifiers. Do that here, with rows dropped at random from the
# table of masses: none, one, ten, and the share that the paper has lost. How often is the shift of
# galaxies with three or more arms against two-armed ones still found?

# %%
ordered = label[label["mass"] == masses[0]].sort_values("galaxy_id")
values, n = ordered["log_mass"].to_numpy(), len(ordered)
many, two = (ordered["arm_class"].isin(c).to_numpy() for c in (classes.MANY, ("2",)))
lost = round(n * (1 - paper.MATCHED_SIZE / paper.SAMPLE_SIZE))
rng = np.random.default_rng(seed)
rows = []
for dropped in sorted({0, 1, 10, lost}):
    for _ in range(repeats if dropped else 1):
        kept = ~np.isin(np.arange(n), rng.choice(n, dropped, replace=False))
        beside = dilution.join_by_position(values, kept)
        known, own = np.isfinite(beside), np.mean(beside == values)
        a, b = beside[many & known], beside[two & known]
        test = stats.ttest_ind(a, b, equal_var=False)
        rows.append({"dropped": dropped, "own": own, "shift": a.mean() - b.mean()})
        rows[-1] |= {"p": test.pvalue}
trials = pd.DataFrame(rows)
same_sign = np.sign(trials["shift"]) == np.sign(trials["shift"].iloc[0])
trials["found"] = same_sign & (trials["p"] < 0.05)

# %% [markdown]
# Show how often the signal survives. A test without any signal would report this sign 2.5 % of
# the time; `own` is the share of galaxies that kept their own mass.

# %%
position = trials.groupby("dropped").agg(
    repeats=("found", "size"), own=("own", "mean"), shift=("shift", "mean"), found=("found", "mean")
)
position.to_csv(out / "position.csv")
display(position.round(3))
figure = sns.displot(
    trials[trials["dropped"] > 0], x="shift", hue="dropped", palette="viridis", bins=30,
    element="step", height=3, aspect=1.8,
)  # fmt: skip
figure.refline(x=trials["shift"].iloc[0], color="k")
figure.set_axis_labels("shift of three or more arms against two [dex]", "repeats")
caption = "Shifts after a join by row position, for several numbers of dropped rows. Dashed: the "
caption += "join by identifier. One dropped row already moves the result towards nothing."
style.show(figure.figure, out / "position.png", caption)

# %% [markdown]
# ## 6 The label
#
# ### 6.1 Repeat the three questions with other classes
#
# The same galaxies by other classifications, for galaxies that a network has not learnt. Each
# source has galaxies of its own, so that intervals differ; masses without scatter show, where
# there are any, what each source would find in a perfect measurement.

# %%
unlearnt = data[~data["learnt"] & ~data["source"].str.endswith(classes.AGAIN)]
rows = []
for (source, mass), table in unlearnt.groupby(["source", "mass"], sort=False):
    found = statistics.class_shifts(table, "log_mass", ["redshift"], comparisons)
    rows.append(found.assign(source=source, mass=mass))
labels = pd.concat(rows, ignore_index=True)
labels.to_csv(out / "labels.csv", index=False)
display(labels.set_index(["comparison", "mass", "source"]).sort_index().round(4))
caption = "The three comparisons at fixed redshift with 95 % intervals, by source of the classes. "
caption += "A result that rests on the label differs between rows."
style.show(figures.forest(labels, "comparison", "source", "mass"), out / "labels.png", caption)

# %% [markdown]
# ### 6.2 How well do the sources agree?
#
# The agreement of label and other sources is the purity of the label as they see it. A source
# that is asked again sets a ceiling: no classifier of the same images can agree with it better than
# it does with itself. `same` is the share with the same class (m = 4 and 5+ as one), `within_one`
# that of at most one arm apart, `spearman` the rank correlation of the numbers (votes: their mean).

# %%
agreement = classes.agreement(every[~every["learnt"]])
agreement.to_csv(out / "agreement.csv", index=False)
display(agreement.round(3))

# %% [markdown]
# ### 6.3 What wrong classes leave of the shifts
#
# If errors do not depend on mass, a class of another source is a mixture of the label's classes,
# and the confusion matrix says which shift is left. `excess` is observed minus expected;
# `p_holm` is corrected for all classes of all sources.

# %%
reference = label[label["mass"] == masses[0]].set_index("galaxy_id")["merged"]
rows = []
for source, table in unlearnt[unlearnt["mass"] == masses[0]].groupby("source", sort=False):
    table = table[table["galaxy_id"].isin(reference.index) & (source != classes.LABEL)]
    truth = table["galaxy_id"].map(reference)
    found = dilution.predicted_dilution(
        table["log_mass"].to_numpy(), truth, table["merged"], n_resamples, seed=seed
    )
    rows.append(found[found["n"] > 9].assign(source=source))
diluted = pd.concat(rows, ignore_index=True)
diluted["p_holm"] = holm(diluted["p"])
diluted.to_csv(out / "dilution.csv", index=False)
display(diluted.set_index(["source", "label"]).round(3))

# %% [markdown]
# ### 6.4 Look at misclassified galaxies (Fig. 13)
#
# Galaxies labelled m = 2 that a network calls m = 1 or 3; none where no network has been trained.

# %%
for role, table in classes.predictions(run_dir, galaxies).items():
    caption = f"Fig. 13: galaxies labelled m = 2 that {role} calls m = 1 (left) and m = 3 (right)."
    figure = figures.misclassified(table, paths.resolve(data_dir))
    style.show(figure, out / f"figure_13_{role}.png", caption)

# %% [markdown]
# ## 7 What the data say
#
# ### 7.1 Beside other work
#
# What others report, from their abstracts, and what is found here.

# %%
first = questions[questions["fixed"] == "redshift"].set_index(["comparison", "mass"])
text = "{shift:+.3f} dex ({shift_low:+.3f} to {shift_high:+.3f}, p = {p:.2g}, n = {n:.0f})"
said = {key: text.format(**row) for key, row in first.to_dict("index").items()}
rows = [
    ("this notebook", survey, f"{len(reference):,} labelled galaxies", f"{name}: {said[name, m]}")
    for name, m in said
    if m == masses[0]
]
ours = pd.DataFrame(rows, columns=literature.FINDINGS.columns)
display(pd.concat([literature.FINDINGS, ours]).style.hide(axis="index"))

# %% [markdown]
# ### 7.2 Read the result
#
# Every number below is computed above.

# %%
strict = shifts[(shifts["p_holm"] < 0.05) & (shifts["mass"] == masses[0])]
strict = strict.groupby("method", sort=False)["m"].agg(", ".join)
again = agreement[agreement["second"].str.endswith(classes.AGAIN)]
by_label = labels[(labels["comparison"] == "3 or more against 2") & (labels["mass"] == masses[0])]
repeated = [f"{a.first} {a.same:.0%} of {a.n:,}" for a in again.itertuples()]
seen = [f"{a.source} {a.shift:+.2f} (n = {a.n})" for a in by_label.dropna().itertuples()]
found = "; ".join(f"m = {m} {method}" for method, m in strict.items())
bullets = [
    *(f"{q}, at fixed redshift: " + "; ".join(f"{m} {said[q, m]}" for m in masses)
      for q in list(comparisons)[:2]),
    f"Joined by row position with {lost} of {n:,} rows dropped, {position['found'][lost]:.0%} of "
    f"{repeats:,} repeats find the shift of three or more arms (p < 0.05); a null result of "
    f"such a join says nothing. By identifier its p is {trials['p'].iloc[0]:.1g}.",
    f"Single classes that differ after Holm's correction ({masses[0]}): {found or 'none'}. The "
    f"paper's m = 3 could have shown {power['detectable [dex]']['paper']['3']:.2f} dex, ours "
    f"{power['detectable [dex]']['here'].get('3', np.nan):.2f} dex.",
    f"The shift of three or more arms by source: {', '.join(seen)}. Asked twice, a source gives "
    f"the same class: {', '.join(repeated)}. No classifier can be held to more.",
]  # fmt: skip
metrics = {"questions": first.reset_index(), "position": position.reset_index()}
write_json(out / "metrics.json", metrics | {"agreement": agreement, "labelled": len(reference)})
display(Markdown("\n".join(f"- {bullet}" for bullet in bullets)))

# %% [markdown]
# **Exercises**
#
# 1. Hold the axis ratio fixed as well: arms of inclined galaxies are harder to count. Does the
#    shift of three or more arms stay?
# 2. In 5.1, sort by mass and not by identifier before joining by position. Why does the signal
#    survive then, and what would that say about a table sorted by a related column?
