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
# **Question.** Do spirals with one, two, three or many arms differ in stellar mass, and would the
# classes that a network predicts show it?
#
# **Reproduces** Sec. 6, Table 4 and Figs. 11 to 13 of Lee, Soo & Sharoni (arXiv:2412.11696), first
# by the published protocol, then by a sound one.
#
# **Inputs**
# - `01_sample_selection`: `sample.parquet`
# - `03_train_b0` and `04_train_v2m`: `predictions.parquet`
# - the folder of the survey: the MPA-JHU files `galSpecInfo-dr8.fits` and `galSpecExtra-dr8.fits`,
#   the images, and for a simulated survey `truth.parquet`
#
# **Outputs**
# - `values.parquet`: the galaxies with their mass
# - `cuts.csv`, `match.csv`: what the quality cuts and the match left
# - `published.csv`, `sound.csv`, `matched.csv`, `drawn.csv`, `power.csv`, `dilution.csv`,
#   `dilution_all.csv`, `truth.csv`, `position.csv`: the tests
# - `metrics.json`: the main numbers, or the reason why there are none
#
# Terms of the field are explained in the [glossary](../docs/glossary.md).

# %% [markdown]
# ## 1 Set-up
#
# ### 1.1 Import packages
#
# Import the project's library; it does the work, and this notebook tells the story.

# %%
import pandas as pd
from IPython.display import Markdown, display

from lib import evaluation, paper, paths
from lib.figures import mass as figures
from lib.figures import style
from lib.report import write_json
from lib.stellar_mass import catalogue, dilution, groups, published, report, statistics
from lib.surveys.mock.survey import MASS_SHIFT, mass_at_redshift

style.use()

# %% [markdown]
# ### 1.2 Define parameters
#
# Change these to compare another property or another survey. The defaults are those of the
# embedded, simulated survey.

# %% tags=["parameters"]
# Folder of the run; a relative path starts at the project root.
run_dir = "runs/mock"
# Name of this notebook's folder below it.
output = "06_stellar_mass"
# Survey: gz2, gz2_hart16, challenge or mock.
survey = "mock"
# Folder of the survey's files.
data_dir = "runs/mock/00_mock_survey"
# What to compare: stellar_mass, sfr, or a numeric column of the survey such as redshift.
property = "stellar_mass"
# The two MPA-JHU files or one CSV file; null looks for the former in data_dir.
mass_files = None
# Keep only galaxies that also have a star-formation rate, as the authors' query does.
need_sfr = False
# Largest separation of the match on the sky, in arcsec.
match_radius = 2.0
# Columns in which galaxies are matched; those that the survey lacks are left out.
match_on = ["redshift", "petror90_r"]
# Largest distance of a matched pair, in standard deviations of those columns.
caliper = 0.1
# Bootstrap resamples behind each interval.
n_resamples = 1000
# Permutations of the Anderson-Darling test.
n_permutations = 999
# Bins of the histograms.
bins = 40
# Misclassified galaxies to show on each side of Fig. 13.
per_side = 6
# Side of the survey's images in pixels.
image_size = 424
# Side of the central crop shown, in pixels.
crop = 224
# Seed of everything random.
seed = 42

# %% [markdown]
# ### 1.3 Check the parameters
#
# Stop here, before any work, if a value is not possible.

# %%
catalogue.check_settings(match_radius=match_radius, caliper=caliper, bins=bins)
catalogue.check_settings(n_resamples=n_resamples, n_permutations=n_permutations)
out = paths.output_folder(run_dir, output)
folder = paths.resolve(data_dir)

# %% [markdown]
# ## 2 Masses
#
# ### 2.1 Give the galaxies their masses
#
# Read the sample and the mass catalogue, keep its trustworthy rows, and match them by the
# spectroscopic identifier (19 digits, never as floating point), by position where that fails.

# %%
sample = pd.read_parquet(paths.step_folder(run_dir, "01_sample_selection") / "sample.parquet")
measured = catalogue.measure(sample, property, survey, data_dir, mass_files, match_radius, need_sfr)
measured.values.to_parquet(out / "values.parquet")

# %% [markdown]
# ### 2.2 Say whether there is anything to compare
#
# A survey without identifiers and positions cannot be given masses, and a catalogue of other
# galaxies gives none. Then the reason is written down, and every cell below does nothing.

# %%
measurable = measured.reason == ""
if not measurable:
    write_json(out / "metrics.json", {"reason": measured.reason})
display(Markdown(measured.reason or f"{len(measured.values):,} galaxies have a value."))

# %% [markdown]
# ### 2.3 Count the quality cuts
#
# Show how many rows of the catalogue each cut of Sec. 6 leaves.

# %%
if measurable:
    measured.cuts.to_csv(out / "cuts.csv", index=False)
    display(measured.cuts)

# %% [markdown]
# ### 2.4 Check the match
#
# Count what the identifier found, and let the sky check it: the nearest row within the radius
# should be the same one. Where it is another, the galaxy was observed more than once. Pairs that
# are ambiguous on the sky are left out. Only stellar masses are set beside the paper's numbers.

# %%
if measurable:
    measured.match.to_csv(out / "match.csv", index=False)
    display(measured.match)
masses = property == "stellar_mass"
if measurable and masses:
    display(Markdown(f"The paper keeps {paper.MATCHED_SIZE:,} of {paper.SAMPLE_SIZE:,} galaxies."))

# %% [markdown]
# ### 2.5 Sort the galaxies into classes
#
# Take the class from the volunteers' label and from each model. Classes 4 and 5+ are merged. As
# the paper does, section 3 takes every galaxy with an image, whether the model was trained on it or
# not.

# %%
by_source = {}
if measurable:
    runs = [
        evaluation.read_run(paths.step_folder(run_dir, s)) for s in ("03_train_b0", "04_train_v2m")
    ]
    predictions = {run.settings["role"]: run.predictions for run in runs}
    by_source = groups.classified(measured.values, predictions)
    display(groups.size_table(by_source))

# %% [markdown]
# ### 2.6 Keep the galaxies that a model has not learnt
#
# A model repeats the labels of the galaxies it was trained on, and what it makes of them says
# little about others. Sections 4 and 5 therefore take for each model only galaxies it was not
# trained on, and all of them for the labels. (The validation galaxies stay: they have chosen the
# epoch, but not the weights.) Rare classes have lost the larger part to the training.

# %%
unseen = groups.unseen(by_source)
if unseen:
    display(groups.size_table(unseen))

# %% [markdown]
# ## 3 As published
#
# ### 3.1 Draw the distributions
#
# Lay the distribution of each class over that of the whole sample. Only bins with more than 1 % of
# the sample are drawn.

# %%
if by_source:
    style.show(
        figures.histograms(by_source, measured.unit, bins),
        out / "figure_11.png",
        f"Fig. 11: density of {measured.unit} for each arm class (line; number of galaxies in "
        "brackets) and all galaxies (grey), by label and by model. A class that differs stands off "
        "the grey.",
    )

# %% [markdown]
# ### 3.2 Draw the violins
#
# Show the same as violins, without the lowest 5 % and the highest 1 % of each class; the dotted
# lines are the means of all its galaxies.

# %%
if by_source:
    style.show(
        figures.violins(by_source, measured.unit),
        out / "figure_12.png",
        f"Fig. 12: {measured.unit} by arm class, with the mean of each class (dotted) and of all "
        "galaxies (grey line).",
    )

# %% [markdown]
# ### 3.3 Check the printed Table 4
#
# Show Table 4 as printed. The last columns are computed: whether the p-value of K-S contradicts
# the D and the sizes in its own row, and whether the p-value of t is the two-sided or the
# one-sided one. The paper calls its t-test one-tailed.

# %%
table_4 = paper.table_4_p_values().rename(index={"4,5+": "4+5+"})
printed = published.check_printed_rows(table_4)
display(printed)

# %% [markdown]
# ### 3.4 Make Table 4 by the published method
#
# Compare each class with the *whole* sample, which contains it, by the two-sample
# Kolmogorov-Smirnov test and by Student's t with two-sided p-values, as printed.

# %%
if by_source:
    ours = published.published_table(by_source)
    ours.to_csv(out / "published.csv", index=False)
    display((published.beside_paper(ours, printed) if masses else ours).round(4))

# %% [markdown]
# ### 3.5 Read the printed numbers again
#
# Turn the printed t, class against whole, into the shift of the class against the rest, in units of
# the spread of the sample. The whole contains the class, so the printed t is too small, most of
# all for the largest class. One analysis of variance per source then asks all classes at once.

# %%
implied = published.implied_table(table_4, paper.MATCHED_SIZE)
share = table_4["n"] / paper.MATCHED_SIZE
display(implied.round(3), Markdown(f"By label, m = 2 is {share['label', '2']:.0%} of the whole."))

# %% [markdown]
# ### 3.6 Look at two-armed galaxies that a model calls otherwise
#
# Show galaxies labelled m = 2 that the V2M model calls m = 1 or m = 3, the most confident ones
# first. Look for disturbed arms, neighbours and faint arms, which the paper blames.

# %%
if "V2M" in by_source:
    style.show(
        figures.misclassified(by_source["V2M"], folder, per_side, crop, image_size),
        out / "figure_13.png",
        "Fig. 13: galaxies labelled m = 2 that V2M calls m = 1 (left) or m = 3 (right), with the "
        "probability of the predicted class.",
    )

# %% [markdown]
# ## 4 As it should be
#
# ### 4.1 Ask all classes at once
#
# Test first whether the classes differ at all: one-way analysis of variance for the means,
# Kruskal-Wallis for the ranks.

# %%
if unseen:
    overall = statistics.overall_table(unseen)
    display(overall)

# %% [markdown]
# ### 4.2 Compare each class with its complement
#
# Now compare samples that have no galaxy in common. The size of the difference comes first, as
# the difference of means and as Cliff's delta, with bootstrap intervals; then Welch's t,
# Kolmogorov-Smirnov, Anderson-Darling and Mann-Whitney, with Holm's correction over the classes.

# %%
if unseen:
    options = dict(n_resamples=n_resamples, n_permutations=n_permutations)
    sound = statistics.sound_table(unseen, seed=seed, **options)
    sound.to_csv(out / "sound.csv", index=False)
    display(sound[statistics.EFFECT_COLUMNS].round(3))

# %% [markdown]
# Show the p-values of the same comparison. `welch_p_higher` and `welch_p_lower` are one-sided: the
# class has the higher or the lower mean. Columns that end with `holm` are corrected.

# %%
if unseen:
    display(sound[statistics.P_COLUMNS].round(4))

# %% [markdown]
# ### 4.3 Match the galaxies in redshift and size
#
# In a flux-limited sample distant galaxies are more massive, and their arms are harder to see.
# Compare each galaxy with one that is alike in these respects. `_before` and `_after` say how far
# the two groups are apart, in standard deviations. The two galaxies of a pair are not independent:
# the interval of the shift comes from a bootstrap over pairs, and the test is the paired t.

# %%
matched = pd.DataFrame()
if unseen:
    used = statistics.covariates(unseen["label"], match_on, property)
    display(Markdown(f"Matched in: {', '.join(used) or 'nothing, the survey has no such column'}."))

# %% [markdown]
# Make the comparison and show it.

# %%
if unseen and used:
    matched = statistics.matched_table(unseen, used, caliper=caliper, seed=seed, **options)
    matched.to_csv(out / "matched.csv", index=False)
    balance = matched.filter(regex="_before$|_after$").columns
    display(
        matched[[*statistics.EFFECT_COLUMNS[:7], "paired_p_holm", "unmatched", *balance]].round(3)
    )

# %% [markdown]
# ### 4.4 Carry the uncertainty of the classes through
#
# A galaxy's class is not certain. Draw it from the vote fractions, or from the predicted
# probabilities, and draw the galaxies too: the interval then holds both. Classes mix, so shifts
# come out smaller.

# %%
drawn = pd.DataFrame()
if unseen:
    drawn = dilution.drawn_table(unseen, n_draws=n_resamples, seed=seed)
    drawn.to_csv(out / "drawn.csv", index=False)
    display(drawn.round(3))

# %% [markdown]
# ### 4.5 State what could have been seen
#
# Compute the smallest true shift that a two-sided t-test would find four times out of five, for
# classes of our sizes and of the paper's, with the spread of this sample: for one test, and for
# the strictest step of Holm's correction over all classes.

# %%
if unseen:
    power = statistics.power_table(unseen, table_4["n"])
    power.to_csv(out / "power.csv", index=False)
    display(power.round(3))

# %% [markdown]
# ### 4.6 See all shifts together
#
# Put the three estimates side by side. A class differs where its interval leaves zero; an interval
# inside the grey band says only that the sample was too small.

# %%
if unseen:
    estimates = statistics.estimates({"direct": sound, "matched": matched, "classes drawn": drawn})
    style.show(
        figures.shifts(estimates, measured.shift_unit, power[power["sizes"] == "label"]),
        out / "shifts.png",
        f"Shift of each class against the rest in {measured.unit}, with 95 % intervals. Grey: "
        "shifts that classes of the labels' sizes would miss more than one time in five.",
    )

# %% [markdown]
# ## 5 Dilution and truth
#
# ### 5.1 Predict the dilution by wrong classes
#
# The paper explains the missing shifts of the predictions by misclassification. Test that: if
# errors do not depend on the property, a predicted class is a mixture of the labels' classes, and
# the confusion matrix gives the shift that is left. `excess` is observed minus expected. An interval
# that holds zero is consistent with dilution alone, and proves nothing more.

# %%
if unseen:
    excess = [*dilution.SHIFT_COLUMNS, "excess", "excess_low", "excess_high"]
    diluted = dilution.dilution_table(unseen, n_resamples=n_resamples, seed=seed)
    diluted.to_csv(out / "dilution.csv", index=False)
    display(diluted[excess].round(3))

# %% [markdown]
# For comparison, the same with the galaxies that the models were trained on, as in section 3. A
# model that has learnt their labels has purer classes there, and dilutes their shifts less.

# %%
if by_source:
    diluted_all = dilution.dilution_table(by_source, n_resamples=n_resamples, seed=seed)
    diluted_all.to_csv(out / "dilution_all.csv", index=False)
    display(diluted_all[excess].round(3))

# %% [markdown]
# Draw the former. Dots on the diagonal are what misclassification alone would leave; the crosses
# show the shift before dilution.

# %%
if unseen and len(diluted):
    style.show(
        figures.dilution(diluted, measured.shift_unit),
        out / "dilution.png",
        "Observed shift of each predicted class against the shift that the confusion matrix "
        "predicts (dots, with 95 % intervals), and against the labels' own shift (crosses), for "
        "galaxies that the model was not trained on.",
    )

# %% [markdown]
# ### 5.2 Hold it against the truth
#
# A simulated survey has shifts of the mass built in by true arm number. Its mass also grows with
# redshift, and classes are not seen equally far. Compare what the true classes, the labels and the
# predictions show with the sum of both parts, given the galaxies in them: `deviation` is what the
# scatter of the masses must explain, and `z` the same in standard errors. A real survey has no such
# table.

# %%
truth_file = folder / "truth.parquet"
truth = pd.DataFrame()
if unseen and masses and truth_file.is_file():
    true = pd.read_parquet(truth_file).set_index("galaxy_id")
    parts = MASS_SHIFT, mass_at_redshift(true["redshift"])
    truth = dilution.truth_test(unseen, true["arm_class"], *parts, n_resamples, seed)
    truth.to_csv(out / "truth.csv", index=False)
    display(truth[dilution.TRUTH_COLUMNS].round(3))

# %% [markdown]
# ### 5.3 Join by row position, on purpose
#
# The authors' public notebook sorts galaxies and masses by identifier and lays the two tables side
# by side, without comparing the identifiers. One galaxy without a mass is enough to give all later
# ones another galaxy's. Do that here, and compare with the join by identifier.

# %%
position = pd.DataFrame()
if unseen and catalogue.shared_key(sample, measured.masses):
    position = dilution.position_table(sample, measured.masses, unseen, n_resamples, seed)
    position.to_csv(out / "position.csv", index=False)
    display(position.round(3))

# %% [markdown]
# ## 6 What the data say
#
# Write the main numbers down and state them in words. Stellar masses are set beside the paper's and
# those of Hart et al. (2016, arXiv:1607.01019), who find that all arm numbers occupy similar ranges.

# %%
if unseen:
    tables = sound, matched, diluted, truth, position, implied, overall, power
    numbers = report.summary(*tables, property)
    write_json(out / "metrics.json", {"property": property} | numbers)
    text = report.words(numbers, measured.shift_unit, measured.values["value"].std())

# %% [markdown]
# Read the result.

# %%
display(Markdown("\n\n".join(text) if unseen else measured.reason))
