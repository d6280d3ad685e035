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
# # 07  Image size
#
# **Question.** How much of the cut-out should a network see to tell two arms from three?
#
# **Reproduces** Sec. 4.2.1 and Fig. 5 of Lee, Soo & Sharoni (arXiv:2412.11696).
#
# **Inputs**
# - `sweeps/07_image_size`: trainings of notebooks 03 and 04 with m = 2 and m = 3 alone, at several
#   sizes of the crop, with several seeds
# - `02_preprocessing`: how large a pixel is
#
# **Outputs**
# - `sizes.csv`: F1, its standard deviation and coefficient of variation at each size
# - `metrics.json`: the chosen sizes
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
# Import the project's library. This notebook trains nothing: the runs that it gathers are named
# under `sweeps` in the profile.

# %%
import pandas as pd
from IPython.display import Markdown, display

from lib import evaluation, paper, paths, report, sweeps
from lib.figures import style
from lib.figures import sweeps as figures
from lib.schema import InputError

style.use()

# %% [markdown]
# ### 1.2 Define parameters
#
# Change these to gather other runs.

# %% tags=["parameters"]
# Folder of the run; a relative path starts at the project root.
run_dir = "runs/mock"
# Name of this notebook's folder below it.
output = "07_image_size"
# Folders of the runs below run_dir; None takes all in sweeps/07_image_size.
sweep = None

# %% [markdown]
# ### 1.3 Read the runs
#
# Read what each training left behind. The sound protocol would score a fold; here, as in the paper,
# the validation galaxies that chose the epoch are scored.

# %%
out = paths.output_folder(run_dir, output)
runs = [evaluation.read_run(folder) for folder in sweeps.folders(run_dir, output, sweep)]
if not runs:
    raise InputError(f"no runs in {run_dir}/sweeps/{output}: name them in the profile's sweeps")

# %% [markdown]
# ### 1.4 Measure a pixel
#
# Read how many pixels of the survey's images make one pixel of the cache, so that sizes can be
# compared with the paper's. A polar view follows the crop: it reaches to the edge, in rows of one and
# the same step in ln(radius), so that what a network has learnt at one size means the same at another.

# %%
index = next(paths.step_folder(run_dir, "02_preprocessing").glob("images_*.parquet"))
binning = pd.read_parquet(index).attrs["binning"]
display(Markdown(f"One pixel of the cache is {binning} x {binning} pixels of the survey's images."))

# %% [markdown]
# ## 2 F1 at each size
#
# ### 2.1 Gather the spread over seeds
#
# Average macro-F1 over the seeds of each size. `sd` and `cv` = sd / mean say how much the outcome
# depends on the seed; `low` and `high` bound the mean (95 %, Student). `sampling` is half the width
# of a single run's interval: what other galaxies of the same kind would change. `one_class` counts the
# runs that give all galaxies one and the same class: these have learnt nothing, and their equal F1 is
# no sign of stability.

# %%
spread = evaluation.size_spread(runs)
spread.insert(2, "sky", spread["crop"] * binning)
display(spread.round(4))

# %% [markdown]
# ### 2.2 Say what the spread lacks
#
# A frozen backbone's features are computed once for all seeds where these share the augmentation
# (`view_seed`). The spread is then that of the head and of the order of the galaxies alone, and the
# CV too small to be set beside one that has the augmentation in it.

# %%
shared = {
    run.settings["role"] for run in runs if run.settings["training"].get("view_seed") is not None
}
lacking = f"without the augmentation's part for {', '.join(sorted(shared))}" if shared else "whole"
display(Markdown(f"The spread over seeds is {lacking}."))

# %% [markdown]
# ### 2.3 Choose a size
#
# Take the smallest size whose mean is within one standard error of the best mean. The paper takes the
# size with the lowest CV and a high F1; its column is `lowest_cv`. Sizes at which no run has learnt
# anything are not chosen from; where that is all of them, nothing is chosen (`<NA>`).

# %%
choice = evaluation.choose_size(spread)
display(choice)

# %% [markdown]
# ### 2.4 Draw it
#
# Draw F1 and its CV. Differences between sizes that are smaller than the shaded band may be those of
# the galaxies at hand.

# %%
seeds = spread["n"].max()
style.show(
    figures.size_spread(spread, choice["chosen"] * binning, paper.FIGURE_5),
    out / "image_size.png",
    f"Left: macro-F1 of m = 2 against m = 3 at each size of the crop, mean and standard deviation of "
    f"up to {seeds} seeds (bars) and 95 % sampling error of one run (shaded). Right: coefficient of "
    "variation. Dotted: the chosen sizes. Crosses: a run gives all galaxies one class. Diamonds: the paper's best (Fig. 5).",
)

# %% [markdown]
# ## 3 Write the results
#
# Write the table and the chosen sizes.

# %%
with paths.atomic(out / "sizes.csv") as file:
    spread.to_csv(file, index=False)
best = spread.merge(choice["best"].rename("crop").dropna().reset_index()).set_index("role")
report.write_json(
    out / "metrics.json",
    {"best": best.to_dict("index"), "choice": choice.to_dict("index")},
)

# %% [markdown]
# ## 4 What was found
#
# Sum up these runs and compare them with the paper.

# %%
lines = [
    f"- **{role}**: at every size each run gives all galaxies one class: nothing is learnt, and no size "
    "chosen."
    for role in choice.index[choice["best"].isna()]
]
for row in best.reset_index().itertuples():
    theirs = paper.FIGURE_5.loc[row.role]
    lines.append(
        f"- **{row.role}**: best at {row.crop} px ({row.sky} px of the survey's images) with a macro-F1 "
        f"of {row.mean:.3f}, standard deviation {row.sd:.3f}, CV {row.cv:.1%} over {row.n} seeds, on "
        f"{row.galaxies} validation galaxies (sampling error {row.sampling:.3f}). Chosen: "
        f"{choice.loc[row.role, 'chosen']} px. The paper has {theirs['f1']:.3f} and "
        f"{theirs['cv_percent'] / 100:.1%} at {theirs['size']:.0f} px."
    )
display(Markdown("\n".join(lines)))
