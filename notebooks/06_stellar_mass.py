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

# %% tags=["remove-input"]
# What made the outputs below: the run fills it in.

# %% [markdown]
# ## 1 Set-up
#
# ### 1.1 Packages
#
# The tests are scipy's, the tables pandas', the figures seaborn's. The library reads the
# catalogues, joins them by exact identifiers, and has the estimates that scipy lacks: the shift at
# fixed covariates, matched pairs, and the dilution of a shift by wrong classes.

# %%
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Markdown, display
from scipy import optimize, stats

from lib import images, paper, paths
from lib.evaluation import holm
from lib.figures import mass as figures
from lib.figures import style
from lib.stellar_mass import catalogue, classes, statistics
from lib.workflow.report import write_json

style.use()

# %% [markdown]
# ### 1.2 Parameters
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
# Held fixed beside the redshift in section 4.3, where the survey has them.
covariates = ["p_bar", "concentration"]
# Bootstrap resamples behind an interval.
n_resamples = 1000
# Repeats of the join by row position.
repeats = 1000
# Seed of everything random.
seed = 42

# %% [markdown]
# ## 2 Galaxies
#
# ### 2.1 Join by identifier
#
# Identifiers have 18 or 19 digits and are never floating point. Rows that fail a quality cut or
# hold a placeholder are left out and counted. The second table shows the redshifts and masses
# (log10 of solar masses) that are left.

# %%
out = paths.output_folder(run_dir, output)
galaxies, counts = catalogue.galaxies_with_masses(run_dir, survey, data_dir, mass_files, need_sfr)
galaxies.to_parquet(out / "galaxies.parquet")
mass_columns = [c for c in catalogue.MASS_NAMES if c in galaxies]
left = galaxies[["redshift", *mass_columns]].quantile([0, 0.01, 0.5, 0.99, 1])
kind = "simulated galaxies" if survey == "mock" else "real galaxies"
display(counts, left.rename_axis("quantile").round(3))

# %% [markdown]
# ### 2.2 Arm classes
#
# Every source of classes in one table: GZ2's label, people's votes and drawings, networks, the
# truth of a simulation. Networks are judged by galaxies that they were not trained on. Each row of
# `data` is one galaxy with one class and one kind of mass; a simulated galaxy also has its mass
# without scatter ("built in"), which any estimate should find.

# %%
every = classes.collect(galaxies, run_dir, data_dir, seed)
every.to_parquet(out / "classes.parquet")
display(pd.crosstab(every["source"], every["arm_class"]).loc[every["source"].unique()])
joined = every.merge(galaxies[["galaxy_id", "redshift", *mass_columns]], on="galaxy_id")
data = joined.melt([*every, "redshift"], var_name="mass", value_name="log_mass")
data["mass"] = data["mass"].map(catalogue.MASS_NAMES)

# %% [markdown]
# ## 3 As published
#
# ### 3.1 Kolmogorov-Smirnov and Student's t (Table 4)
#
# Each class against the whole sample, which contains it. The p-values of t are two-sided, as the
# printed ones are, although the paper calls its test one-tailed. Beside them the paper's numbers.

# %%
masses = list(data["mass"].unique())
label = data[(data["source"] == classes.LABEL) & data["merged"].isin(classes.CLASSES)]
sizes = label[label["mass"] == masses[0]]["merged"].value_counts()
tested = [m for m in classes.CLASSES if sizes.get(m, 0) > 2]
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
published.to_csv(out / "published.csv")
printed = paper.TABLE_4.rename(index={"label": classes.LABEL, "4,5+": "4+5+"})
beside = pd.concat({"ours": published, "paper": printed}, axis=1).reindex(published.index)
display(beside.round(4))

# %% [markdown]
# ### 3.2 Distributions and violins (Figs. 11 and 12)
#
# The density of each class over that of the whole sample, for the labels, without the outermost
# 0.5 % on either side (the paper draws bins that hold more than 1 % of the sample); then violins
# without the lowest 5 % and the highest 1 % of each class, as in the paper. NSA masses are for
# h = 1, which moves all galaxies alike.

# %%
options = dict(col="mass", hue="merged", hue_order=tested, palette=style.ARM_COLOURS, height=3)
drawn = label[label.groupby("mass")["log_mass"].rank(pct=True).between(0.005, 0.995)]
grid = sns.displot(drawn, x="log_mass", kind="kde", cut=0, common_norm=False, **options)
for mass, axis in grid.axes_dict.items():
    whole = drawn[drawn["mass"] == mass]
    sns.kdeplot(whole, x="log_mass", fill=True, color="0.4", lw=0, cut=0, ax=axis)
grid.set_axis_labels("log10 M* [Msun]", "density [1/dex]").legend.set_title("m")
caption = "Fig. 11: smoothed density of stellar mass for each arm class (line) and all (grey)."
style.show(grid.set_titles("{col_name}, " + kind).figure, out / "figure_11.png", caption)

drawn = label[label.groupby(["mass", "merged"])["log_mass"].rank(pct=True).between(0.05, 0.99)]
options |= dict(order=tested, inner="quart", density_norm="width", legend=False, sharey=False)
grid = sns.catplot(drawn, x="merged", y="log_mass", kind="violin", cut=0, **options)
grid.set_axis_labels("arm number m", "log10 M* [Msun]").set_titles("{col_name}, " + kind)
caption = "Fig. 12: stellar mass by arm class, with quartiles (dashed); all have the same width."
style.show(grid.figure, out / "figure_12.png", caption)

# %% [markdown]
# ## 4 Sound tests
#
# ### 4.1 Effect size
#
# Cliff's delta of two groups $a$ and $b$, from the Mann-Whitney $U$ (Cliff 1993), with a bootstrap
# interval over galaxies: $\delta = P(a > b) - P(a < b) = 2U / (n_a n_b) - 1$.


# %%
def cliffs_delta(a, b, axis=-1):
    u = stats.mannwhitneyu(a, b, axis=axis, method="asymptotic").statistic
    return 2 * u / (a.shape[axis] * b.shape[axis]) - 1


def cliffs_interval(a, b):
    options = dict(n_resamples=n_resamples, batch=20, vectorized=True, method="percentile")
    found = stats.bootstrap((a, b), cliffs_delta, **options, rng=np.random.default_rng(seed))
    low, high = found.confidence_interval
    return {"delta": cliffs_delta(a, b), "delta_low": low, "delta_high": high}


def with_interval(test):
    low, high = test.confidence_interval()
    return {"shift": (low + high) / 2, "shift_low": low, "shift_high": high, "p": test.pvalue}


# %% [markdown]
# ### 4.2 Each class against the rest
#
# Welch's t against the complement. In a flux-limited sample distant galaxies are more massive and
# their arms are harder to count, so the shift $\beta$ is also estimated at fixed redshift, from
# $\log M_* = \alpha + \beta\,[m] + \gamma z$ and from pairs of equal redshift (within 0.1 standard deviations). The $k$ classes of
# one method and mass are a family of tests, with Holm's correction of the ascending p-values:
# $\tilde p_{(i)} = \max_{j \le i} \min\{1, (k - j + 1)\, p_{(j)}\}$.

# %%
rows = []
for (mass, table), m in itertools.product(label.groupby("mass", sort=False), tested):
    values, z = table["log_mass"].to_numpy(), table[["redshift"]].to_numpy()
    inside = (table["merged"] == m).to_numpy()
    a, b = values[inside], values[~inside]
    members, controls = statistics.matched_pairs(inside, z, 0.1, seed)
    welch = stats.ttest_ind(a, b, equal_var=False)
    paired = stats.ttest_rel(values[members], values[controls])
    fixed = statistics.adjusted_shift(values, inside, z)
    row = {"mass": mass, "m": m, "n": len(a)}
    rows.append(row | {"method": "against the rest"} | with_interval(welch) | cliffs_interval(a, b))
    rows.append(row | {"method": "at fixed redshift"} | fixed)
    row["n"] = len(members)
    rows.append(row | {"method": "matched in redshift"} | with_interval(paired))
shifts = pd.DataFrame(rows)
shifts["p_holm"] = shifts.groupby(["mass", "method"])["p"].transform(holm)
shifts.to_csv(out / "shifts.csv", index=False)
display(shifts.sort_values(["mass", "method"], kind="stable").style.format(precision=4, na_rep=""))

# %% [markdown]
# ### 4.3 Three questions at fixed redshift
#
# Are two-armed galaxies different from all others, are galaxies with three or more arms different
# from them, and those with four? Does the answer change when more is held fixed (the bar fraction
# of the votes, or the concentration, as far as the survey has them)?

# %%
comparisons = {
    "2 against the rest": (("2",), ("1", *classes.MANY, "?")),
    "3 or more against 2": (classes.MANY, ("2",)),
    "4 against 2": (("4",), ("2",)),
}
wide = galaxies.assign(arm_class=galaxies["label"])
fixed_sets = (["redshift"], ["redshift", *[c for c in covariates if c in wide]])
rows = []
for column, fixed in itertools.product(mass_columns, fixed_sets):
    table = statistics.class_shifts(wide, column, fixed, comparisons)
    rows.append(table.assign(mass=catalogue.MASS_NAMES[column], fixed=" and ".join(fixed)))
questions = pd.concat(rows, ignore_index=True).drop_duplicates()
questions.to_csv(out / "covariates.csv", index=False)
display(questions.set_index(["comparison", "mass", "fixed"]).sort_index().round(4))

# %% [markdown]
# ### 4.4 Minimum detectable shift
#
# The smallest true shift $\Delta$ that a two-sided t-test at 5 % finds with a power of 80 %, from
# the non-central t distribution with $\nu = n_1 + n_2 - 2$ and the spread $s$ within a class:
# $$P\left(t'_{\nu,\lambda} > t_{0.975,\nu}\right) = 0.8, \qquad
# \Delta = \lambda s \sqrt{1/n_1 + 1/n_2}.$$
# The paper prints no spread: that of this sample stands for it.

# %%
spread = label[(label["mass"] == masses[0]) & (label["merged"] == "2")]["log_mass"].std()
table_4 = printed.loc[classes.LABEL]


def detectable(n, rest):
    degrees = n + rest - 2
    critical = stats.t.isf(0.025, degrees)
    noncentrality = optimize.brentq(
        lambda x: stats.nct.sf(critical, degrees, x) - 0.8, 0, 2 * critical + 4
    )
    return noncentrality * spread * np.sqrt(1 / n + 1 / rest)


sizes_here = pd.DataFrame({"here": sizes, "paper": table_4["n"]}).loc[tested]
power = sizes_here.apply(lambda n: n.map(lambda k: detectable(k, n.sum() - k)))
power.to_csv(out / "power.csv")
display(Markdown(f"Spread within m = 2: {spread:.2f} dex."))
display(pd.concat({"galaxies": sizes_here, "shift [dex]": power}, axis=1).round(3))

# %% [markdown]
# ### 4.5 Shifts and those that Table 4 implies
#
# The estimates of each class beside the shift that the paper's printed t implies. With spread $s$, $t = d / (s \sqrt{1/n + 1/N})$ gives the difference $d$ of a class to the whole,
# and $d N / (N - n)$ that to the rest, with the standard error $s \sqrt{1/n + 1/(N - n)}$.

# %%
n, total = table_4["n"], paper.MATCHED_SIZE
d = spread * table_4["t"] * np.sqrt(1 / n + 1 / total) * total / (total - n)
half = spread * stats.norm.isf(0.025) * np.sqrt(1 / n + 1 / (total - n))
ends = {"shift_low": d - half, "shift_high": d + half, "mass": masses[0], "method": "Table 4"}
implied = pd.DataFrame({"n": n, "shift": d} | ends).loc[tested].rename_axis("m").reset_index()
figure = figures.forest(pd.concat([shifts, implied]), "mass", "m", "method", power["here"])
caption = f"Shifts with 95 % confidence intervals, {kind}; grey: less than is detectable here."
style.show(figure, out / "forest.png", caption)

# %% [markdown]
# ## 5 The join by row position
#
# ### 5.1 Repeats with dropped rows
#
# The authors' public notebook sorts galaxies and masses by identifier and lays the two tables side
# by side, without comparing the identifiers: the galaxy in row $i$ gets the $i$-th mass that is
# left. Drop rows at random from the table of masses (none, one, ten, and the share that the paper
# has lost): how often is the shift of galaxies with three or more arms against two-armed ones still
# found?

# %%
ordered = label[label["mass"] == masses[0]].sort_values("galaxy_id")
values, n = ordered["log_mass"].to_numpy(), len(ordered)
many, two = (ordered["arm_class"].isin(c).to_numpy() for c in (classes.MANY, ("2",)))
lost = round(n * (1 - paper.MATCHED_SIZE / paper.SAMPLE_SIZE))
rng = np.random.default_rng(seed)
rows = []
for dropped in sorted({0, 1, 10, lost}):
    for _ in range(repeats if dropped else 1):
        beside = np.full(n, np.nan)
        beside[: n - dropped] = np.delete(values, rng.choice(n, dropped, replace=False))
        known = np.isfinite(beside)
        a, b = beside[many & known], beside[two & known]
        row = {"dropped": dropped, "own": np.mean(beside == values), "shift": a.mean() - b.mean()}
        rows.append(row | {"p": stats.ttest_ind(a, b, equal_var=False).pvalue})
trials = pd.DataFrame(rows)
same_sign = np.sign(trials["shift"]) == np.sign(trials["shift"].iloc[0])
trials["found"] = same_sign & (trials["p"] < 0.05)

# %% [markdown]
# ### 5.2 Share of repeats that find the signal
#
# A test without any signal would report this sign 2.5 % of the time; `own` is the share of galaxies
# that kept their own mass.

# %%
columns = {c: (c, "mean") for c in ("own", "shift", "found")}
position = trials.groupby("dropped").agg(repeats=("found", "size"), **columns)
position.to_csv(out / "position.csv")
display(position.round(3))

# %% [markdown]
# The shifts of all repeats; one dropped row already moves most of them.

# %%
figure = sns.displot(
    trials[trials["dropped"] > 0], x="shift", hue="dropped", palette="viridis", bins=30,
    element="step", height=3, aspect=1.8,
)  # fmt: skip
figure.refline(x=trials["shift"].iloc[0], color="k")
figure.set_axis_labels("shift of three or more arms against two [dex]", "repeats")
caption = f"Shifts after a join by row position, {kind}; dashed: the join by identifier."
style.show(figure.figure, out / "position.png", caption)

# %% [markdown]
# ## 6 The label
#
# ### 6.1 Other classes of the same galaxies
#
# The three questions with other classifications, for galaxies that a network was not trained on.
# Each source has galaxies of its own, so that intervals differ.

# %%
untrained = data[~data["learnt"] & ~data["source"].str.endswith(classes.AGAIN)]
rows = []
for (source, mass), table in untrained.groupby(["source", "mass"], sort=False):
    found = statistics.class_shifts(table, "log_mass", ["redshift"], comparisons)
    rows.append(found.assign(source=source, mass=mass))
labels = pd.concat(rows, ignore_index=True)
labels.to_csv(out / "labels.csv", index=False)
display(labels.sort_values(["comparison", "mass"]).style.format(precision=4, na_rep=""))

# %% [markdown]
# A result that only the label gives differs from the other rows.

# %%
caption = f"The three comparisons at fixed redshift with 95 % confidence intervals, {kind}, by "
caption += "source of the classes. Groups of fewer than five galaxies are left out."
figure = figures.forest(labels[labels["n"] > 4], "comparison", "source", "mass")
style.show(figure, out / "labels.png", caption)

# %% [markdown]
# ### 6.2 Agreement of the sources
#
# A source that is asked again sets a ceiling: no classifier of the same images can agree with it
# better than it does with itself. `same` is the share with the same class (m = 4 and 5+ as one),
# `within_one` that of at most one arm apart, `spearman` the rank correlation of the numbers (votes:
# their mean).

# %%
agreement = classes.agreement(every[~every["learnt"]])
agreement.to_csv(out / "agreement.csv", index=False)
display(agreement.round(3))

# %% [markdown]
# ### 6.3 Dilution by wrong classes
#
# If errors do not depend on mass, the mean mass of the predicted class $k$ is a mixture of the
# label's classes $j$, $\bar M_k = \sum_j P(j \mid k)\, \bar M_j$ with $P(j \mid k)$ from the
# confusion matrix. `excess` is the observed shift minus that of the mixture; all classes of all
# sources are one family of tests.

# %%
compared = untrained[untrained["mass"] == masses[0]]
diluted = statistics.dilution_by_source(compared, classes.LABEL, n_resamples, seed)
diluted["p_holm"] = holm(diluted["p"])
diluted.to_csv(out / "dilution.csv", index=False)
display(diluted.set_index(["source", "label"]).style.format(precision=3, na_rep=""))

# %% [markdown]
# ### 6.4 Misclassified galaxies (Fig. 13)
#
# Galaxies labelled m = 2 that a network calls m = 1 or 3; none where no network has been trained.

# %%
for role, table in classes.predictions(run_dir, galaxies).items():
    wrong = table[(table["label"] == "2") & table["predicted"].isin(["1", "3"])].head(6)
    figure, axes = plt.subplots(1, 6, figsize=(style.WIDTH, 1.5), layout="constrained")
    for axis, galaxy in zip(axes, wrong.itertuples(), strict=False):
        axis.imshow(images.decode(paths.resolve(data_dir) / galaxy.image_path, 424))
        axis.set(title=f"called m = {galaxy.predicted}", xlim=(100, 324), ylim=(324, 100))
    caption = f"Fig. 13: {kind} labelled m = 2 that {role} calls m = 1 or m = 3."
    style.show(figure, out / f"figure_13_{role}.png", caption)

# %% [markdown]
# ## 7 What was found
#
# ### 7.1 Other work
#
# From the abstracts of the works; the paper's row from its Sec. 6 and abstract.
#
# | work | sample | finding on stellar mass |
# |---|---|---|
# | Hart et al. 2016, [arXiv:1607.01019](https://arxiv.org/abs/1607.01019) | GZ2, debiased anew, luminosity-limited | all arm numbers occupy similar ranges of stellar mass |
# | Hart et al. 2017, [arXiv:1703.02053](https://arxiv.org/abs/1703.02053) | GZ2, low redshift | none on mass; total star formation depends little on arm number |
# | Porter-Temple et al. 2022, [arXiv:2208.05036](https://arxiv.org/abs/2208.05036) | Galaxy Zoo of GAMA-KiDS | fewer arms have lower masses and higher specific star formation |
# | Smith et al. 2024, [arXiv:2405.01516](https://arxiv.org/abs/2405.01516) | Galaxy Zoo 3D, 245 grand design, 299 multi-armed | grand design (two arms) have lower masses than multi-armed, on average |
# | Smith et al. 2026, [arXiv:2606.14896](https://arxiv.org/abs/2606.14896) | Euclid Q1, Zoobot's classes, z = .4 to 1 | two arms have lower masses and star formation than three, on average |
# | Lee, Soo & Sharoni, [arXiv:2412.11696](https://arxiv.org/abs/2412.11696) | GZ2, the sample of Table 4 | m = 1 higher, m = 3 "tends to lower", nothing else |
#
# Below, what is significant here, and the shifts by source of the classes.

# %%
strict = shifts[(shifts["p_holm"] < 0.05) & (shifts["mass"] == masses[0])].groupby("method")
significant = "; ".join(f"m = {', '.join(rows['m'])} {method}" for method, rows in strict)
seen = labels[(labels["mass"] == masses[0]) & labels["shift"].notna()]
texts = seen["source"] + seen["shift"].map(" {:+.2f}".format) + seen["n"].map(" (n = {})".format)
texts = texts.groupby(seen["comparison"]).agg(", ".join)
write_json(out / "metrics.json", {"questions": questions, "position": position.reset_index()})
display(Markdown(f"Significant: {significant or 'nothing'}."), texts.to_frame("shift [dex]"))

# %% [markdown]
# ### 7.2 Conclusions
#
# A null result after a join by position says nothing, and no classifier can agree with people more
# than people agree with themselves.

# %%
first = questions[questions["fixed"] == "redshift"].set_index(["comparison", "mass"])
text = "{shift:+.3f} dex ({shift_low:+.3f} to {shift_high:+.3f}, p = {p:.2g}, n = {n:.0f})"
said = {key: text.format(**row) for key, row in first.to_dict("index").items()}
again = agreement[agreement["second"].str.endswith(classes.AGAIN)].itertuples()
twice = ", ".join(f"{row.first} {row.same:.0%} of {row.n:,}" for row in again)
asked = list(comparisons)[:2]
bullets = [
    f"{q}, at fixed redshift: " + "; ".join(f"{m} {said[q, m]}" for m in masses) for q in asked
]
bullets += [
    f"Joined by row position with {lost} of {n:,} rows dropped, {position['found'][lost]:.0%} of "
    f"{repeats:,} repeats find 3 or more against 2; by identifier p = {trials['p'].iloc[0]:.1g}.",
    f"Different after Holm's correction: {significant or 'none'}. The minimum detectable shift of "
    f"m = 3 is {power['paper'].get('3', np.nan):.2f} dex in the paper's sample and "
    f"{power['here'].get('3', np.nan):.2f} dex here.",
    f"By source of the classes: {'; '.join(f'{q}: {texts[q]}' for q in asked)}. Asked twice, the "
    f"same class: {twice or 'not known'}.",
]
display(Markdown("\n".join(f"- {bullet}" for bullet in bullets)))

# %% [markdown]
# ## Exercises
#
# 1. Set `covariates` to `[]` and run 4.3 again: how much of each shift does the bar fraction or the
#    concentration take away?
# 2. In 5.1, replace `sort_values("galaxy_id")` by `sort_values("log_mass")` and run from there to
#    5.2. Why does the signal survive the dropped rows now?
# 3. Change the 0.1 of `matched_pairs` in 4.2 to 0.01 and run that cell: how many pairs are left, and do the shifts stay?
