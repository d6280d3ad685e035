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
# # 05  Explainability
#
# **Question:** which parts of a galaxy decide how many arms a network sees, and can the maps that
# claim to show it be believed?
#
# Reproduces Sec. 5.3 and Figs. 8, 9 and 10 of Lee, Soo & Sharoni (arXiv:2412.11696), for the very
# models whose scores notebook 09 reports (the authors trained separate models for their maps), and
# then measures what the paper only looks at.
#
# **Inputs**
#
# * `02_preprocessing`: the image cache
# * `03_train_b0` and `04_train_v2m`: saved models and their predictions
# * on the mock survey, its truth table: which pixels are arms
#
# **Outputs**
#
# * `fig08_feature_maps.png`, `fig09_*.png`, `fig10_*.png`: the paper's figures; `fig09.csv`,
#   `fig10.csv`: the galaxies in them
# * `faithfulness.csv`, `sanity.csv`, `localisation.csv`, `localisation_by_class.csv`,
#   `hypotheses.csv`, `arms.csv`: the scoreboard, with figures of the same names
# * `metrics.json`: the scoreboard's and the arm readings' numbers, for the run's report
# * beside this notebook's folder, `cache/maps`: every map made and its scores, so that a rerun is
#   quick
#
# Terms of the field are explained in the [glossary](../docs/glossary.md).

# %% tags=["remove-input"]
# What made the outputs below: the run fills it in.

# %% [markdown]
# ## 1 Set-up
#
# ### 1.1 Import packages
#
# TensorFlow's start-up messages say nothing about this analysis, so they are turned off first.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pandas as pd
from IPython.display import Markdown, display

from lib import paths, surveys
from lib.explain import arms, faithfulness, gallery, localisation, maps, sanity
from lib.explain.maps import MapSettings
from lib.explain.subject import check_parameters, open_subject
from lib.figures import explain as figures
from lib.figures import style
from lib.workflow import report

style.use()

# %% [markdown]
# ### 1.2 Define parameters
#
# The defaults are those of the `mock` profile. An astronomer who wants to see *her* galaxy puts its
# identifier into `galaxy_ids`.

# %% tags=["parameters"]
# Folder of the run, relative to the project.
run_dir = "runs/mock"
# Name of this notebook's output folder below `run_dir`.
output = "05_explainability"
# Step below `run_dir` that trained the first model.
b0 = "03_train_b0"
# Step that trained the second model.
v2m = "04_train_v2m"
# Step that made the image cache.
images = "02_preprocessing"
# Survey: mock, challenge, gz2 or gz2_hart16.
survey = "mock"
# Folder of its data: the mock survey's truth lies there.
data_dir = "runs/mock/00_mock_survey"
# Width of the survey's images in their files, in pixels.
image_size = 424
# Identifiers of galaxies to explain in section 5; empty shows the surest galaxy of each class.
galaxy_ids = []
# Part of the sample that all galaxies are chosen from.
split = "validation"
# Galaxies per class in Figs. 9 and 10.
per_class = 2
# Class whose surest example Fig. 8 shows.
feature_class = "2"
# Layers of the B0 role's network that Fig. 8 shows (profile gz2 has the authors' choice).
feature_layers = ["stem_activation", "block1a_activation", "block2b_activation"]
# Rows and columns of tiles for each.
feature_tiles = [[4, 4], [8, 4], [16, 4]]
# SmoothGrad: noisy copies per galaxy.
smooth_samples = 20
# SmoothGrad: noise as a fraction of the image's range.
smooth_noise = 0.20
# Colour map of the maps: cividis is safe for colour-blind eyes; the paper used jet.
colours = "cividis"
# Steps of integrated gradients.
integration_steps = 12
# Occluding squares along each axis.
occlusion_cells = 6
# Galaxies per class whose maps are scored (sections 6 and 8).
scored_per_class = 2
# Points of an insertion or deletion curve.
curve_steps = 7
# Galaxies in the sanity checks (section 7), of those that are scored.
sanity_galaxies = 4
# Depths of re-initialisation; at most as many as the network has stages.
sanity_depths = 3
# Galaxies whose BatchNorm statistics stand in for the trained ones.
calibration_galaxies = 32
# Galaxies per class whose arms are read (section 9).
arms_per_class = 5
# Method that arms are read from beside SmoothGrad; empty takes the one that finds them best, which
# only the mock survey knows.
arm_method = ""
# Radii between which arms are looked for, in units of R90; cut at the edge of the crop.
arm_radii = [0.2, 1.2]
# Images that pass through a network at once; bounds the memory.
batch = 16
# Seed of everything random.
seed = 42

# %% [markdown]
# Check them before any work, and open the survey for its truth, if it has one.

# %%
counts = {
    "per_class": per_class,
    "scored_per_class": scored_per_class,
    "curve_steps": curve_steps,
    "sanity_galaxies": sanity_galaxies,
    "sanity_depths": sanity_depths,
    "calibration_galaxies": calibration_galaxies,
    "arms_per_class": arms_per_class,
}
truth = surveys.open_survey(survey, data_dir).truth
check_parameters(
    counts, arm_radii, feature_layers, feature_tiles, colours, arm_method, truth is not None
)

# %% [markdown]
# ### 1.3 Load both models as they were scored
#
# A map explains the logit of the *predicted* class: with the softmax left in, a confident network
# has almost no gradient. Both models are treated alike.

# %%
settings = MapSettings(
    smooth_samples=smooth_samples,
    smooth_noise=smooth_noise,
    integration_steps=integration_steps,
    occlusion_cells=occlusion_cells,
    batch=batch,
    seed=seed,
)
out = paths.output_folder(run_dir, output)
subjects = {
    subject.name: subject
    for subject in (open_subject(run_dir, step, images, settings) for step in (b0, v2m))
}

# %% [markdown]
# State which networks these are, and that they give the probabilities that were scored.

# %%
checked = {
    name: s.reproduces(s.run.predictions.query("split == @split").head(batch))
    for name, s in subjects.items()
}
display(
    pd.DataFrame(
        {
            name: {
                **{k: s.run.settings[k] for k in ("backbone", "weights", "colour", "crop")},
                "largest difference from saved probabilities": f"{checked[name]:.1e}",
            }
            for name, s in subjects.items()
        }
    )
)

# %% [markdown]
# Note the width of a whole image in pixels of the cache, which may be binned.

# %%
size = image_size // subjects["B0"].images.index.attrs["binning"]

# %% [markdown]
# ## 2 Feature maps at three depths (Fig. 8)
#
# Take the galaxy of class `feature_class` that B0 is surest about.

# %%
first = subjects["B0"]
surest = gallery.top_scoring(first.run.predictions, first.run.classes, correct=True, split=split)
right = surest[surest["reason"] == ""]
example = pd.concat([right.query("label == @feature_class"), right]).head(1)
if example.empty:
    example = first.run.predictions.query("split == @split").head(1)
display(example.drop(columns="reason", errors="ignore"))

# %% [markdown]
# Draw what the channels of three layers respond to.

# %%
features = maps.feature_maps(first.run.model, first.inputs(example["galaxy_id"])[0], feature_layers)
style.show(
    figures.feature_tiles(features, feature_tiles, colours),
    out / "fig08_feature_maps.png",
    f"Feature maps of B0 at three depths for galaxy {example['galaxy_id'].iloc[0]} "
    f"(m = {example['label'].iloc[0]}), each channel stretched to its own range. With depth the "
    "maps become coarser and more abstract. Compare with the paper's Fig. 8.",
)

# %% [markdown]
# ## 3 Galaxies that the models are surest about (Fig. 9)
#
# Choose, per class, the correctly classified galaxies with the highest probability of the class
# predicted.

# %%
fig09 = {
    name: gallery.top_scoring(
        s.run.predictions, s.run.classes, correct=True, count=per_class, split=split
    )
    for name, s in subjects.items()
}
table = pd.concat(fig09, names=["model"]).droplevel(1).reset_index()
table.to_csv(out / "fig09.csv", index=False)
display(table)

# %% [markdown]
# Draw each galaxy with its Grad-CAM++ and SmoothGrad maps. An empty cell says how many galaxies of
# the class the model got right.

# %%
for name, s in subjects.items():
    chosen = fig09[name]
    shown = chosen[chosen["reason"] == ""]
    made = {method: s.maps(method, shown) for method in ("Grad-CAM++", "SmoothGrad")}
    style.show(
        figures.gallery(chosen, s.cutouts(shown["galaxy_id"]), made, colours),
        out / f"fig09_{name}.png",
        f"{name}: the correctly classified {split} galaxies with the highest probability p, with "
        "their Grad-CAM++ and SmoothGrad maps for the predicted class (label → prediction). "
        "Compare with the paper's Fig. 9.",
    )

# %% [markdown]
# ## 4 Galaxies that the models are surest about and get wrong (Fig. 10)
#
# The same for misclassified galaxies; the maps explain the class that was predicted.

# %%
fig10 = {
    name: gallery.top_scoring(
        s.run.predictions, s.run.classes, correct=False, count=per_class, split=split
    )
    for name, s in subjects.items()
}
table = pd.concat(fig10, names=["model"]).droplevel(1).reset_index()
table.to_csv(out / "fig10.csv", index=False)
display(table)

# %% [markdown]
# Look for what pulled the model to the wrong class.

# %%
for name, s in subjects.items():
    chosen = fig10[name]
    shown = chosen[chosen["reason"] == ""]
    made = {method: s.maps(method, shown) for method in ("Grad-CAM++", "SmoothGrad")}
    style.show(
        figures.gallery(chosen, s.cutouts(shown["galaxy_id"]), made, colours),
        out / f"fig10_{name}.png",
        f"{name}: the misclassified {split} galaxies with the highest probability p of the class "
        "predicted (label → prediction), with their maps. Compare with the paper's Fig. 10.",
    )

# %% [markdown]
# ## 5 Your galaxy, by every method
#
# Look up the galaxies of `galaxy_ids`, or else the first model's surest galaxy of each class.

# %%
for name, s in subjects.items():
    wanted = galaxy_ids or fig09["B0"].query("reason == '' and rank == 0")["galaxy_id"].tolist()
    asked = gallery.by_id(s.run.predictions, wanted)
    made = {method: s.maps(method, asked) for method in maps.METHODS}
    style.show(
        figures.methods_row(asked, s.cutouts(asked["galaxy_id"]), made, colours),
        out / f"methods_{name}.png",
        f"{name}: five attribution methods for the predicted class of the same galaxies. They need "
        "not agree; the scoreboard below says which to trust.",
    )

# %% [markdown]
# ## 6 Faithfulness: does the network depend on the pixels a map names?
#
# Draw a few galaxies per class for the scoreboard, the same for both models. Every map explains the
# class that the model at hand predicted.

# %%
drawn = gallery.spread(
    first.run.predictions, first.run.classes, per_class=scored_per_class, seed=seed, split=split
)
scored = {
    name: gallery.by_id(s.run.predictions, drawn["galaxy_id"]) for name, s in subjects.items()
}
display(drawn.groupby("label", sort=False).size().rename("galaxies").to_frame().T)

# %% [markdown]
# Make their maps by five methods, and three control maps that know nothing of the network: smooth
# noise, a Gaussian in the centre, and the image's edges.

# %%
everything = [*maps.METHODS, *faithfulness.CONTROLS]
scored_maps = {name: s.all_maps(everything, scored[name]) for name, s in subjects.items()}

# %% [markdown]
# Remove pixels in the order of each map, replacing them by sky, and bring them back into a blurred
# image (Petsiuk et al. 2018), following the probability of the predicted class.

# %%
curves = {
    name: s.curves(scored_maps[name], scored[name], curve_steps) for name, s in subjects.items()
}

# %% [markdown]
# Look for curves that rise early under insertion and fall early under deletion.

# %%
style.show(
    figures.insertion_deletion(curves),
    out / "faithfulness_curves.png",
    "Mean probability of the predicted class while pixels are inserted (left) or deleted (right) in "
    "the order of each map. Dotted and dashed lines: maps that know nothing of the network.",
)

# %% [markdown]
# Rank the methods by insertion less deletion area, with 95 % bootstrap intervals over galaxies; the
# gains compare with a control galaxy by galaxy.

# %%
areas = pd.concat(
    made.areas.assign(model=name, map=method, galaxy_id=scored[name]["galaxy_id"].to_numpy())
    for name, by_map in curves.items()
    for method, made in by_map.items()
)
board = faithfulness.scoreboard(areas, seed)
board.to_csv(out / "faithfulness.csv", index=False)
display(board.round(3))

# %% [markdown]
# A method is worth its name if its interval lies clear of the centred Gaussian's.

# %%
style.show(
    figures.faithfulness_points(board),
    out / "faithfulness.png",
    "Insertion less deletion area of each map, mean and 95 % bootstrap interval over galaxies; "
    "larger is more faithful.",
)

# %% [markdown]
# ## 7 Sanity: do maps change when the network forgets? (Adebayo et al. 2018)
#
# Re-initialise the network stage by stage from its output down, by each layer's own initialiser,
# with BatchNorm statistics recalibrated on galaxies. A map of the network's reasons has to
# change; the edge detector cannot, and is the control that must fail. Maps are compared along rings
# round the galaxy: that they fall off from its centre is alike in all of them.

# %%
tried = drawn.sample(min(sanity_galaxies, len(drawn)), random_state=seed).index
checks = {}
for name, s in subjects.items():
    before = {method: scored_maps[name][method][tried] for method in [*maps.METHODS, "edges"]}
    calibration = s.run.predictions["galaxy_id"].head(calibration_galaxies)
    checks[name] = s.sanity(
        before, scored[name].loc[tried], calibration, depths=sanity_depths, seed=seed
    )
cascaded = pd.concat(made.assign(model=name) for name, (made, _) in checks.items())
swapped = pd.concat(made.assign(model=name) for name, (_, made) in checks.items())

# %% [markdown]
# Follow how like the trained network's maps the maps stay.

# %%
style.show(
    figures.cascade_lines(cascaded, sanity.SURVIVES),
    out / "sanity.png",
    "Similarity of each method's maps to those of the trained network, while ever more of the network "
    "is re-initialised. A rank correlation along rings that stays above the grey line shows edges, not "
    f"reasons; SSIM is high for any coarse map. Mean of {len(tried)} galaxies.",
)

# %% [markdown]
# Flag what survives full randomisation. Beside it, the correlation of all pixels, which the common
# profile along the radius raises, and how alike the maps for two different classes of the same
# network are (random-logit test).

# %%
verdicts = sanity.verdict(cascaded, seed)
random_logit = swapped.groupby(["model", "map"])["rank_correlation"].mean()
verdicts = verdicts.merge(random_logit.rename("other class").reset_index())
verdicts.to_csv(out / "sanity.csv", index=False)
display(verdicts.round(2))

# %% [markdown]
# ## 8 Localisation: do the maps lie on the arms?
#
# On the mock survey the simulator says which pixels are arm, bulge and disc. On real galaxies only
# the galaxy and its surroundings, beyond R90, can be told apart.

# %%
located = pd.concat(
    localisation.locate(
        made, s.wide_cutouts(scored[name]["galaxy_id"]), scored[name], truth, size
    ).assign(model=name, map=method)
    for name, s in subjects.items()
    for method, made in scored_maps[name].items()
)
located.to_csv(out / "localisation.csv", index=False)

# %% [markdown]
# Compare each map's energy with the parts' areas: a map that knows nothing has shares like the areas.

# %%
parts = [column.removeprefix("energy_") for column in located.filter(regex="^energy_")]
style.show(
    figures.energy_bars(located, parts),
    out / "localisation.png",
    "Share of each map's positive evidence on the parts of the image, mean over galaxies; the first "
    "bar is each part's share of the pixels.",
)

# %% [markdown]
# Show how well arms are found: the pointing game (share of maps whose highest pixel is on an arm),
# the area under the precision-recall curve, and its gain over the map's own azimuthal average.

# %%
found = located.groupby(["model", "map"])[["pointing", "precision", "gain"]].mean()
display(found.sort_values(["model", "gain"], ascending=[True, False]).round(3))

# %% [markdown]
# The same, and the shares of the energy, class by class; the file has the control maps too.

# %%
by_class = localisation.by_class(located)
by_class.to_csv(out / "localisation_by_class.csv")
with pd.option_context("display.max_rows", None):
    display(by_class.query("map in @maps.METHODS").round(3))

# %% [markdown]
# ### 8.1 Test the paper's sentences
#
# Turn each sentence of Sec. 5.3 into a test of whether it holds, and one of whether the opposite
# does. An effect is positive where the sentence holds; p-values are corrected for the number of
# tests in both directions (Holm).

# %%
tested = localisation.hypotheses(located, seed)
tested.to_csv(out / "hypotheses.csv", index=False)
by_network = tested[tested["map"].isin(maps.METHODS)]
display(by_network.sort_values("p_holm").round(3))

# %% [markdown]
# Put the sentences on the surroundings to the control maps. What holds for a map that knows nothing
# of the network says nothing about the network.

# %%
by_control = tested.drop(by_network.index)
display(by_control.sort_values("p_holm").round(3))

# %% [markdown]
# ## 9 Arms read from maps
#
# In polar coordinates logarithmic arms are straight lines; the strongest Fourier mode gives their
# number and pitch angle. Read more galaxies, from SmoothGrad, from the method that finds the arms
# best (`arm_method`; on the mock survey chosen by the gain in section 8) and from the image itself,
# the map to beat.

# %%
more = gallery.spread(
    first.run.predictions, first.run.classes, per_class=arms_per_class, seed=seed + 1, split=split
)
r_min = arm_radii[0] * localisation.R90_WIDTH * size
r_max = min(
    arm_radii[1] * localisation.R90_WIDTH * size,
    min(s.run.settings["crop"] for s in subjects.values()) / 2,
)
cutouts = first.wide_cutouts(more["galaxy_id"])
readings = {
    "image": arms.arm_table(arms.light(cutouts), cutouts, more, truth, r_min=r_min, r_max=r_max)
}

# %% [markdown]
# Make the maps, and read the arms from each.

# %%
better = arm_method or localisation.best_map(located, list(maps.METHODS))
arm_maps = {}
for name, s in subjects.items():
    table = gallery.by_id(s.run.predictions, more["galaxy_id"])
    arm_maps[name] = s.all_maps(list(dict.fromkeys(["SmoothGrad", better])), table)
    for method, made in arm_maps[name].items():
        readings[f"{name}: {method}"] = arms.arm_table(
            made, cutouts, table, truth, r_min=r_min, r_max=r_max
        )
pd.concat(readings, names=["map"]).droplevel(1).to_csv(out / "arms.csv")

# %% [markdown]
# Look at some polar views: arms are bands that rise or fall with azimuth.

# %%
few = more.groupby("label", sort=False).head(1).index
style.show(
    figures.arm_readings(
        readings[f"B0: {better}"].loc[few],
        cutouts[few],
        arms.polar_contrasts(arm_maps["B0"][better][few], cutouts[few], r_min=r_min, r_max=r_max),
        r_min,
        r_max,
    ),
    out / "arms.png",
    f"One galaxy per class (top) and the polar view of its {better} map for B0, as contrast against "
    "each ring's mean (bottom), with the arm number and pitch angle read from it.",
)

# %% [markdown]
# Compare the arms read with the labels and, on the mock survey, with the truth.

# %%
agreements = pd.DataFrame({name: arms.agreement(table) for name, table in readings.items()}).T
display(agreements.sort_values("balanced", ascending=False).round(2))

# %% [markdown]
# ### 9.1 Multiple arms or flocculent?
#
# Try the paper's closing idea: coherent arms against scattered pieces, by the share of the variance
# along the azimuth that equal logarithmic arms explain. Only the mock survey knows which is which.

# %%
separated = pd.DataFrame()
if truth is not None:
    separated = pd.DataFrame(
        {name: arms.multiple_or_flocculent(table, seed) for name, table in readings.items()}
    ).T
    display(separated.sort_values("auc", ascending=False).round(2))

# %% [markdown]
# Draw the trade-off between finding multiple-arm galaxies and taking flocculent ones for them.

# %%
if truth is not None and separated["auc"].notna().all():
    style.show(
        figures.coherence_roc(readings),
        out / "coherence.png",
        "Coherence as a test for multiple arms (true m of 3 and more) against flocculent galaxies, "
        "from the image and from each model's maps.",
    )

# %% [markdown]
# ## 10 What was found
#
# Gather what is compared between runs.

# %%
scores = board.merge(verdicts[["model", "map", "rank_correlation"]], how="left").merge(
    found.reset_index()
)
report.write_json(
    out / "metrics.json",
    {
        "maps": {
            name: part.drop(columns="model").set_index("map").to_dict("index")
            for name, part in scores.groupby("model")
        },
        "arms": agreements.to_dict("index"),
        "multiple or flocculent": separated.to_dict("index"),
    },
)

# %% [markdown]
# Sum up with this run's numbers.

# %%
methods_only = board[board["map"].isin(maps.METHODS)]
best = methods_only.groupby("model").first()
flagged = verdicts.query("survives and map != 'edges'")
lines = [
    f"* **{model}: most faithful is {row['map']}**, insertion less deletion {row['difference']:.2f} "
    f"({row['low']:.2f} to {row['high']:.2f}); over a centred Gaussian it gains "
    f"{row['gain over centred Gaussian']:+.2f} ({row['gain over centred Gaussian low']:+.2f} to "
    f"{row['gain over centred Gaussian high']:+.2f})."
    for model, row in best.iterrows()
]
flags = "; ".join(f"{row['map']} ({row['model']})" for _, row in flagged.iterrows()) or "none"
lines.append(
    "* **Surviving full randomisation, so showing edges rather than reasons** (rank correlation along "
    f"rings above {sanity.SURVIVES}, {len(tried)} galaxies): {flags}."
)
display(Markdown("\n".join(lines)))

# %% [markdown]
# The paper's sentences, and what the maps say about the arms.

# %%
supported = by_network.query("verdict == 'supported'")
verdict_counts = by_network["verdict"].value_counts()
lines = [
    "* **The paper's sentences:** "
    + ", ".join(f"{n} {verdict}" for verdict, n in verdict_counts.items())
    + ". Supported: "
    + ("; ".join(f"{r['sentence']} ({r['model']})" for _, r in supported.iterrows()) or "none")
    + "."
]
empty = sorted(set(by_control.query("verdict == 'supported'")["sentence"]))
lines.append(
    "* **Sentences that maps which know nothing of the network fulfil as well:** "
    f"{'; '.join(empty) or 'none'}."
)
lines += [
    f"* **Arms read from {name}:** {row['label accuracy']:.0%} of {row['galaxies']:.0f} countable "
    f"labels, {row['balanced']:.0%} averaged over classes."
    for name, row in agreements.iterrows()
]
lines += [
    f"* **Multiple arms against flocculent from {name}:** area under the curve {row['auc']:.2f} "
    f"({row['low']:.2f} to {row['high']:.2f})."
    for name, row in separated.iterrows()
]
display(Markdown("\n".join(lines)))
