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
# # 00  A simulated survey
#
# **Question.** What would Galaxy Zoo 2 look like if the true number of arms of each galaxy were
# known?
#
# **Reproduces** the data behind Sec. 2.1 and Sec. 6 of Lee, Soo & Sharoni (arXiv:2412.11696), in the
# file layout of the real survey (Willett et al. 2013), so that every later notebook runs offline and
# can be checked against a truth.
#
# **Inputs**
# - none: everything is simulated
#
# **Outputs**
# - `zoo2MainSpecz.csv.gz`: votes of simulated volunteers in the columns of Galaxy Zoo 2
# - `gz2_filename_mapping.csv`, `images/`: colour images, R90 = 50 of 424 pixels
# - `gz2sample.csv.gz`: redshifts, magnitudes and sizes
# - `galSpecInfo-dr8.fits`, `galSpecExtra-dr8.fits`: stellar masses, matched line by line
# - `truth.parquet`: what each galaxy really is; images and masks can be made again from it
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
import time

import pandas as pd
from IPython.display import Markdown, display

from lib import paths
from lib.figures import style
from lib.figures import survey as figures
from lib.schema import ARM_CLASSES, RHO_COLUMNS
from lib.surveys import open_survey
from lib.surveys.mock import MASS_SHIFT, write_survey
from lib.surveys.mock.galaxies import ARM_FREQUENCIES, SPIRAL_FRACTION
from lib.surveys.mock.survey import mass_at_redshift

style.use()

# %% [markdown]
# ### 1.2 Define parameters
#
# Change these for a larger survey or for the mix of galaxies of the real one. The embedded survey
# is enriched: it holds more face-on spirals and more of the rare arm classes than the sky does,
# because a small survey with the true mix would have next to no galaxy with four arms.

# %% tags=["parameters"]
# Folder of the run; a relative path starts at the project root.
run_dir = "runs/mock"
# Name of this notebook's folder below it.
output = "00_mock_survey"
# Number of galaxies to simulate.
n_galaxies = 1800
# Share of face-on spirals among them (about 0.2 in Galaxy Zoo 2).
spiral_fraction = 0.8
# Mix of arm classes: gz2-like (as on the sky) or enriched (nearly flat).
arm_frequencies = "enriched"
# Width of the images in pixels.
size = 424
# Processes that render images.
workers = 2
# Seed of everything random: the same seed gives the same files, byte for byte.
seed = 42

# %% [markdown]
# ## 2 The simulation
#
# ### 2.1 Write the survey
#
# Draw the galaxies, let volunteers vote, render the images, and move the files into place when all
# are whole. Parameters that cannot be are refused before anything is written.

# %%
out = paths.output_folder(run_dir, output)
start = time.perf_counter()
truth = write_survey(
    out,
    n_galaxies,
    seed,
    size=size,
    workers=workers,
    spiral_fraction=spiral_fraction,
    arm_frequencies=arm_frequencies,
)
print(f"{n_galaxies} galaxies in {time.perf_counter() - start:.0f} s")

# %% [markdown]
# ### 2.2 Read it as if it were the real one
#
# Open the survey through the reader of the real files; nothing below knows that it is simulated
# but the truth table.

# %%
survey = open_survey("mock", out)
votes = survey.votes.set_index("galaxy_id")
display(Markdown("\n".join(f"- {note}" for note in survey.notes)))

# %% [markdown]
# ### 2.3 Look at the true parameters
#
# Show the parameters of the first spirals. Lengths are in units of R90, angles in degrees.

# %%
shown = ["arm_class", "pitch", "arm_contrast", "inclination", "bulge_fraction", "redshift"]
spirals = truth[truth["kind"] == "spiral"]
display(spirals.set_index("galaxy_id")[[*shown, "arm_visibility"]].head().round(2))

# %% [markdown]
# ## 3 The galaxies
#
# ### 3.1 See the arm classes
#
# Show spirals of each true class. The arms are logarithmic spirals of unequal strength on an
# exponential disc; the class "?" is flocculent, with patches and no arm that could be followed.

# %%
figure = figures.galaxies(spirals, "arm_class", list(ARM_CLASSES))
caption = (
    "Simulated spirals by true arm class (rows), the central half of each image. Arms differ in "
    "contrast, pitch angle and length; some are too faint or too fine to be counted, as on the sky."
)
style.show(figure, out / "arm_classes.png", caption)

# %% [markdown]
# ### 3.2 See the other kinds
#
# Show discs without arms, smooth galaxies and edge-on discs, which the selection has to reject.

# %%
others = [k for k in ("disc", "smooth", "edge-on") if (truth["kind"] == k).any()]
if others:
    figure = figures.galaxies(truth, "kind", others)
    caption = "Galaxies of the survey that are not face-on spirals, one kind in each row."
    style.show(figure, out / "other_kinds.png", caption)

# %% [markdown]
# ### 3.3 Check the arms against their mask
#
# Take the face-on two-armed spiral with the clearest arms. Its mask follows from the parameters
# alone; in log-polar coordinates a logarithmic spiral is a straight line.

# %%
face_on = spirals[(spirals["arm_class"] == "2") & (spirals["inclination"] < 35)]
best = (face_on["arm_visibility"] * face_on["arm_contrast"]).nlargest(1).index
for row in best:
    galaxy = truth.loc[row]
    caption = (
        f"A face-on galaxy with two arms and a pitch angle of {galaxy.pitch:.0f} deg. Left: image. "
        "Middle: outlines of the arms (solid) and of the bulge (dotted). Right: the disc unrolled, "
        "divided by its mean at each radius, with the arms' outline; each arm is one stripe."
    )
    style.show(figures.masks(galaxy, size=size), out / "arm_mask.png", caption)

# %% [markdown]
# ## 4 The volunteers
#
# ### 4.1 Compare votes with truth
#
# Label each spiral with the answer that has the highest debiased fraction, among those that most
# volunteers called spirals. Labels off the diagonal are not mistakes of the simulation: arms that
# cannot be seen are not counted.

# %%
seen = votes.loc[spirals["galaxy_id"]]
called_spiral = (seen["f_features"] > 0.43) & (seen["f_spiral"] > 0.715)
label = seen[list(RHO_COLUMNS)].set_axis(ARM_CLASSES, axis=1).idxmax(axis=1)[called_spiral]
true_class = spirals.set_index("galaxy_id")["arm_class"].loc[label.index]
confusion = pd.crosstab(true_class, label).reindex(
    index=list(ARM_CLASSES), columns=list(ARM_CLASSES), fill_value=0
)

# %% [markdown]
# Draw the table. Most confusion is with "?", and downwards by one arm.

# %%
caption = (
    "Label against truth: number of galaxies in each cell, colour the share of the true class. "
    "A classifier trained on the labels learns what volunteers can see, not what is there."
)
style.show(figures.votes_against_truth(confusion), out / "votes_and_truth.png", caption)

# %% [markdown]
# ### 4.2 See why some cannot tell
#
# Plot the share of "can't tell" against the visibility of the arms, which combines contrast,
# seeing, inclination and depth.

# %%
armed = spirals[spirals["n_arms"] > 0].set_index("galaxy_id")
armed = armed[votes.loc[armed.index, "n_spiral"] >= 5]
caption = (
    "Mean fraction of can't-tell votes against the visibility of the arms, by true class: the "
    "fainter or finer the arms, the fewer volunteers count them."
)
figure = figures.visibility(armed, votes.loc[armed.index, "rho_unclear"])
style.show(figure, out / "visibility.png", caption)

# %% [markdown]
# ### 4.3 Compare the mix with the sky
#
# Put the true mix of arm classes and that of the labels beside the mix of real face-on spirals.

# %%
shares = pd.DataFrame(
    {
        "truth": spirals["arm_class"].value_counts(normalize=True),
        "labels": label.value_counts(normalize=True),
        "real spirals": pd.Series(ARM_FREQUENCIES["gz2-like"]),
    }
)
shares = shares.reindex(list(ARM_CLASSES)).fillna(0.0)
display(shares.round(3))

# %% [markdown]
# Draw the shares. An enriched survey is nearly flat, where the sky is dominated by two arms.

# %%
caption = (
    "Share of the arm classes: true classes of the simulated spirals, their labels, and real "
    "face-on spirals without a cut on the arm fraction."
)
style.show(figures.frequencies(shares), out / "frequencies.png", caption)

# %% [markdown]
# ## 5 Stellar masses
#
# ### 5.1 Recover the built-in shifts
#
# One-armed galaxies are made more massive and three-armed ones less massive than the others, by a
# known amount. Compare each class with the classes that have no shift. Since distant galaxies of a
# survey are the more massive ones, the mean mass at each galaxy's redshift is taken out first.

# %%
excess = spirals["log_mass"] - mass_at_redshift(spirals["redshift"])
plain = excess[~spirals["arm_class"].isin(MASS_SHIFT)]
recovered = excess.groupby(spirals["arm_class"]).agg(["size", "mean", "sem"])
recovered["built in"] = [MASS_SHIFT.get(c, 0.0) for c in recovered.index]
recovered["found"] = recovered["mean"] - plain.mean()
recovered["95 % +-"] = 1.96 * recovered["sem"]
display(recovered.reindex(list(ARM_CLASSES)).round(3))

# %% [markdown]
# Draw the masses of each class.

# %%
caption = (
    "True stellar masses by true arm class, with mean and its 95 % interval; on the right the shift "
    "built into each class."
)
style.show(figures.masses(spirals, MASS_SHIFT), out / "masses.png", caption)

# %% [markdown]
# ### 5.2 Count the gaps
#
# Some galaxies have no spectrum in the mass files, or one that a careful reader must drop.

# %%
gaps = truth["mass_quality"].value_counts().rename("galaxies").to_frame()
gaps["share"] = (gaps["galaxies"] / n_galaxies).round(3)
display(gaps)

# %% [markdown]
# ## 6 What was found
#
# Sum up in words, from the numbers of this run.

# %%
kept = true_class == label
display(
    Markdown(
        f"The survey holds {n_galaxies:,} galaxies, {len(spirals) / n_galaxies:.0%} of them face-on "
        f"spirals (about {SPIRAL_FRACTION:.0%} on the sky). Of the {len(spirals):,} spirals "
        f"volunteers call {len(label):,} spirals, and for {kept.mean():.0%} of these the label is "
        f"the true class; {(label == '?').mean():.0%} are labelled '?' although only "
        f"{(true_class == '?').mean():.0%} have no countable arms. The share of m = 2 is "
        f"{shares.loc['2', 'labels']:.0%} among the labels and {shares.loc['2', 'real spirals']:.0%} "
        "among real spirals: scores on this survey are therefore not to be set beside the paper's, "
        "but its truth tests every method that is."
    )
)
