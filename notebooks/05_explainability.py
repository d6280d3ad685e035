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
# **Question.** Which parts of a galaxy decide how many arms a network sees, and can the maps that
# claim to show it be believed?
#
# **Reproduces** Sec. 5.3 and Figs. 8, 9 and 10 of Lee, Soo & Sharoni (arXiv:2412.11696), for the very
# networks whose scores notebook 09 reports (the authors trained separate ones for their maps), and
# measures what the paper judges by eye.
#
# **Inputs**
# - `02_preprocessing`: the image cache
# - `03_train_b0` and `04_train_v2m`: trained networks and their predictions
# - of simulated galaxies the truth: which pixels are arms
#
# **Outputs**
# - `fig08_feature_maps.png`, `fig09_*.png`, `fig10_*.png`: the paper's figures, and others
# - `faithfulness.csv`, `sanity.csv`, `localisation.csv`, `sentences.csv`, `arms.csv`: all scores
# - `metrics.json`: the same numbers for the run's report
# - in the run's folder, `cache/explained`: every map and score made, so that a rerun is quick
#
# Terms of the field are explained in the [glossary](../docs/glossary.md).

# %% tags=["remove-input"]
# What made the outputs below: the run fills it in.

# %% [markdown]
# ## 1 Set-up
#
# ### 1.1 Import packages
#
# Import tf-keras-vis, which makes the maps of the paper, scipy's tests and scikit-learn's scores. The
# project's library keeps the maps, and scores them.

# %%
import numpy as np
import pandas as pd
import seaborn as sns
import tensorflow as tf
from IPython.display import Markdown, display
from matplotlib import pyplot as plt
from scipy import stats
from sklearn.metrics import roc_auc_score
from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
from tf_keras_vis.saliency import Saliency

from lib import evaluation, paths, surveys
from lib.explain import arms, faithfulness, localisation, maps, pixels, sanity
from lib.explain.subject import open_subject
from lib.figures import style
from lib.figures.explain import show_map
from lib.schema import InputError
from lib.workflow import report

style.use()

# %% [markdown]
# ### 1.2 Define parameters
#
# The defaults are those of the embedded survey. Put the identifier of your galaxy into `galaxy_ids`.

# %% tags=["parameters"]
# Folder of the run; a relative path starts at the project root.
run_dir = "runs/mock"
# Name of this notebook's folder below it.
output = "05_explainability"
# Step below `run_dir` that trained the first network.
b0 = "03_train_b0"
# Step that trained the second network.
v2m = "04_train_v2m"
# Step that made the image cache.
images = "02_preprocessing"
# Survey: mock, challenge, gz2 or gz2_hart16.
survey = "mock"
# Folder of its data: the mock survey's truth lies there.
data_dir = "runs/mock/00_mock_survey"
# Identifiers of galaxies to explain in section 5; empty shows the surest galaxy of each class.
galaxy_ids = []
# Validation galaxies per class whose maps are scored (sections 6, 8 and 9), where there are so many.
scored_per_class = 10
# Galaxies in the sanity check (section 7), of those that are scored.
sanity_galaxies = 6
# Seed of everything random.
seed = 42

# %% [markdown]
# ### 1.3 Open networks and images
#
# Load both networks, check that they give the probabilities that were scored, and open the truth, if
# the survey has one. Sort the validation galaxies by $p$, the probability of the class predicted.

# %%
if min(scored_per_class, sanity_galaxies) < 1:
    raise InputError(f"{scored_per_class = }, {sanity_galaxies = }: each must be at least 1")
out = paths.output_folder(run_dir, output)
truth = surveys.open_survey(survey, data_dir).truth
kind = "real" if truth is None else "simulated"
subjects = {s.name: s for s in (open_subject(run_dir, step, images) for step in (b0, v2m))}
known = {name: s.table().query("split == 'validation'") for name, s in subjects.items()}
predicted = {name: table.sort_values("probability")[::-1] for name, table in known.items()}

# %% [markdown]
# ## 2 Attribution maps
#
# ### 2.1 Grad-CAM++
#
# From the feature maps $A^k$ of the last convolution and the logit $y$ of the predicted class
# (Chattopadhay et al. 2018),
#
# $$L_{ij} = \mathrm{ReLU}\Big(\sum_k w_k A^k_{ij}\Big), \qquad
# w_k = \sum_{ij} \alpha^k_{ij}\,\mathrm{ReLU}\Big(\frac{\partial y}{\partial A^k_{ij}}\Big), \qquad
# \alpha^k_{ij} \propto \frac{(\partial y/\partial A^k_{ij})^2}
# {2\,(\partial y/\partial A^k_{ij})^2 + \sum_{ab} A^k_{ab}\,(\partial y/\partial A^k_{ij})^3}.$$
#
# tf-keras-vis multiplies all of it by $e^y$, which overflows for large logits: so the score is taken
# relative to its own value, which leaves the gradient as it is.


# %%
def logit(target):
    return lambda logits: logits[:, target] - tf.stop_gradient(logits[:, target])


def grad_cam_plus_plus(network, image, target):
    small = GradcamPlusPlus(network, clone=False)(
        logit(target),
        image[None],
        penultimate_layer="top_activation",
        seek_penultimate_conv_layer=False,
        expand_cam=False,
        normalize_cam=False,
    )
    return tf.image.resize(small[0, ..., None], image.shape[:2])[..., 0]


# %% [markdown]
# ### 2.2 SmoothGrad
#
# The absolute gradient with respect to the pixels $x_c$ of channel $c$, averaged over noisy copies
# (Smilkov et al. 2017; the paper: $n = 20$ copies, $\sigma = 0.20$ of the image's range),
#
# $$M = \max_c \frac{1}{n} \sum_{i=1}^{n} \Big|\frac{\partial y}{\partial x_c}
# \big(x + \varepsilon_i\big)\Big|, \qquad
# \varepsilon_i \sim \mathcal{N}\big(0, \sigma^2 (x_\mathrm{max} - x_\mathrm{min})^2\big).$$
#
# Two more methods stand beside: integrated gradients (Sundararajan et al. 2017) and occlusion (Zeiler
# & Fergus 2014).


# %%
def smooth_grad(network, image, target):
    noise = np.random.default_rng(seed).normal(size=(20, *image.shape)).astype("float32")
    noise *= 0.20 * (tf.reduce_max(image) - tf.reduce_min(image))
    slopes = Saliency(network, clone=False)(
        logit(target), image + noise, keepdims=True, normalize_map=False, gradient_modifier=tf.abs
    )
    return tf.reduce_max(tf.reduce_mean(slopes, axis=0), axis=-1)


methods = {
    "Grad-CAM++": grad_cam_plus_plus,
    "SmoothGrad": smooth_grad,
    "integrated gradients": maps.integrated_gradients,
    "occlusion": maps.occlusion,
}

# %% [markdown]
# ## 3 Feature maps at three depths (Fig. 8)
#
# Take the galaxy with two arms that B0 is surest about, and draw the 16 channels that vary most in
# the authors' three layers, each stretched to its own range.

# %%
right = predicted["B0"].query("label == predicted")
example = pd.concat([right.query("label == '2'"), right, predicted["B0"]]).iloc[0]
b0_network, depths = subjects["B0"].run.model, [f"block{k}a_activation" for k in (2, 3, 5)]
tap = tf.keras.Model(b0_network.inputs[0], [b0_network.get_layer(name).output for name in depths])
figure, panels = plt.subplots(1, 3, figsize=(style.WIDTH, 2.9))
for axes, name, layer in zip(panels, depths, tap(subjects["B0"].inputs([example["galaxy_id"]]))):
    channels = np.moveaxis(layer.numpy()[0], -1, 0)
    best = channels[np.argsort(-channels.std(axis=(1, 2)), kind="stable")[:16]]
    best = np.pad(best / best.max(axis=(1, 2), keepdims=True), [(0, 0), (0, 1), (0, 1)])
    axes.imshow(np.vstack([np.hstack(best[k : k + 4]) for k in (0, 4, 8, 12)]), cmap="cividis")
    axes.set(title=name, xticks=[], yticks=[])
    axes.set_xlabel(f"16 of {len(channels)} channels, each {layer.shape[1]} px wide", fontsize=7)
caption = (
    f"Feature maps of B0 for the {kind} galaxy {example['galaxy_id']}, m = {example['label']}. "
)
caption += "With depth they become coarser and more abstract. Compare with the paper's Fig. 8."
style.show(figure, out / "fig08_feature_maps.png", caption)

# %% [markdown]
# ## 4 Galaxies that the networks are surest about
#
# Draw galaxies side by side, each followed by its maps; titles are label → prediction, and $p$.


# %%
def gallery(galaxies, subject, names, across):
    across = min(across, len(galaxies))
    rows, columns = -(-len(galaxies) // across), across * (1 + len(names))
    size = style.WIDTH, rows * (style.WIDTH / columns + 0.25) + 0.3
    figure, panels = plt.subplots(rows, columns, figsize=size, squeeze=False)
    made = [subject.maps(methods[name], galaxies) for name in names]
    cutouts = subject.cutouts(galaxies["galaxy_id"])
    blocks = panels.reshape(-1, 1 + len(names))
    for axes, galaxy, image, *values in zip(blocks, galaxies.itertuples(), cutouts, *made):
        axes[0].set_title(f"{galaxy.label} → {galaxy.predicted}, p = {galaxy.probability:.2f}")
        for panel, name, overlay in zip(axes, ["", *names], [None, *values]):
            show_map(panel, image, overlay)
            panel.set_title(panel.get_title() or name, fontsize=7)
    for axes in panels.flat:
        axes.axis("off")
    figure.suptitle(f"{subject.name}, {kind} galaxies", fontsize=9)
    figure.tight_layout(w_pad=0.2, h_pad=0.4)
    return figure


# %% [markdown]
# Take, of each class, the two galaxies with the highest $p$ that are classified correctly (Fig. 9),
# and wrongly (Fig. 10). Look for what pulled the network to the wrong class.

# %%
for number, test in (("09", "=="), ("10", "!=")):
    for name, s in subjects.items():
        chosen = predicted[name].query(f"label {test} predicted").groupby("label").head(2)
        figure = gallery(chosen.sort_values("label"), s, ["Grad-CAM++", "SmoothGrad"], across=2)
        caption = f"{name}, label {test} prediction; compare with the paper's Fig. {int(number)}."
        style.show(figure, out / f"fig{number}_{name}.png", caption)

# %% [markdown]
# ## 5 Your galaxy, by every method
#
# Take the galaxies of `galaxy_ids`, or else B0's surest galaxy of each class. The maps need not
# agree; the scores below say which to trust.

# %%
asked = galaxy_ids or predicted["B0"].groupby("label").head(1).sort_values("label")["galaxy_id"]
for name, s in subjects.items():
    figure = gallery(s.table(asked), s, list(methods), across=1)
    caption = f"{name}: four attribution methods for the class predicted of the same galaxies."
    style.show(figure, out / f"methods_{name}.png", caption)

# %% [markdown]
# ## 6 Faithfulness
#
# ### 6.1 Maps and controls
#
# Draw validation galaxies of each class at random, the same for both networks, and make their maps.
# Three control maps know nothing of the network: smooth noise, a Gaussian in the centre, and the
# image's edges.

# %%
shuffled = predicted["B0"].sort_values("galaxy_id").sample(frac=1, random_state=seed)
ids = shuffled.groupby("label").head(scored_per_class)["galaxy_id"].sort_values()
scored, made = {name: s.table(ids) for name, s in subjects.items()}, {}
for name, s in subjects.items():
    made[name] = {method: s.maps(function, scored[name]) for method, function in methods.items()}
    made[name] |= faithfulness.control_maps(s.inputs(ids), seed)
display(scored["B0"]["label"].value_counts(sort=False).to_frame("galaxies that are scored").T)

# %% [markdown]
# ### 6.2 Insertion and deletion
#
# Bring pixels back into a blurred image in the order of each map, or replace them by sky, and follow
# the probability $p$ of the predicted class over the fraction $f$ of the pixels (Petsiuk et al.
# 2018). The score of a map is
#
# $$S = \int_0^1 p_\mathrm{insertion}\,df - \int_0^1 p_\mathrm{deletion}\,df.$$
#
# *Gain* is its mean difference from the score of the centred Gaussian on the same galaxies; intervals
# are 95 % bootstrap intervals over galaxies.

# %%
curves = pd.concat(s.curves(made[name], scored[name], steps=7) for name, s in subjects.items())
areas = faithfulness.areas(curves)
board = faithfulness.scoreboard(areas, seed)
board.to_csv(out / "faithfulness.csv", index=False)
better = board[board["map"].isin(methods) & (board["gain low"] > 0)].groupby("model")["map"]
beats = {name: "no map" for name in subjects} | better.agg(", ".join).to_dict()
display(board.round(3))

# %% [markdown]
# Draw the scores. A map is worth its name if it lies clear of the centred Gaussian.

# %%
grid = sns.catplot(areas, x="difference", y="map", hue="map", col="model", kind="point",
                   linestyle="none", errorbar=("ci", 95), seed=seed, palette="colorblind",
                   legend=False, sharex=False, height=2.8, aspect=1.25)  # fmt: skip
grid.set_titles(f"{{col_name}}, {kind} galaxies").set_axis_labels("score S", "")
caption = "; ".join(f"{name}: {which}" for name, which in beats.items())
caption = f"Scores, mean and 95 % interval. More faithful than a centred Gaussian: {caption}."
style.show(grid.figure, out / "faithfulness.png", caption)

# %% [markdown]
# ## 7 Sanity
#
# Re-initialise the network stage by stage from its output down, by each layer's own initialiser, with
# BatchNorm statistics recalibrated on 32 galaxies (Adebayo et al. 2018). A map of the network's
# reasons has to change. Maps are compared by Spearman's rank correlation along rings round the
# galaxy, since all of them fall off from its centre; a mean above 0.5 counts as survival.

# %%
tried, tuned = ids.sample(min(sanity_galaxies, len(ids)), random_state=seed), ids.head(32)
cascaded = (s.sanity(methods, s.table(tried), tuned, 4, seed) for s in subjects.values())
cascaded = pd.concat(cascaded, ignore_index=True)
verdicts = cascaded.query("depth == 1").groupby(["model", "map"])["correlation"].mean()
survivors = verdicts[verdicts > sanity.SURVIVES]
cascaded.to_csv(out / "sanity.csv", index=False)

# %% [markdown]
# Draw how alike the maps stay. What ends above the line shows edges, not reasons.

# %%
grid = sns.relplot(cascaded, x="depth", y="correlation", hue="map", style="map", col="model",
                   kind="line", errorbar=None, markers=True, palette="colorblind", height=2.6)  # fmt: skip
grid.refline(y=sanity.SURVIVES).set_titles(f"{{col_name}}, {kind} galaxies")
grid.set_axis_labels("share of the stages re-initialised", "rank correlation along rings")
caption = f"Maps of ever more random networks against the trained ones', {len(tried)} galaxies."
style.show(grid.figure, out / "sanity.png", caption)

# %% [markdown]
# ## 8 Localisation
#
# ### 8.1 Where the evidence lies
#
# The simulator says which pixels are arm, bulge and disc; of real galaxies only the galaxy, within
# R90 in the plane of its disc, and its surroundings are told apart. *Energy* is the share of a map's
# positive evidence, *area* the share of the pixels. *Gain* (simulated galaxies) is how much better a
# map finds the arms, by average precision, than its own azimuthal average does.

# %%
located = [
    localisation.locate(values, s.wide_cutouts(ids), scored[name], truth, s.binning).assign(
        model=name, map=method
    )
    for name, s in subjects.items()
    for method, values in made[name].items()
]
located = pd.concat(located, ignore_index=True)
located.to_csv(out / "localisation.csv", index=False)

# %% [markdown]
# Draw the mean of each score by map.

# %%
scores = located.filter(regex="^(model|map|energy|gain)").groupby(["model", "map"], sort=False)
figure, axes = plt.subplots(figsize=(style.WIDTH, 4))
sns.heatmap(scores.mean(), annot=True, fmt=".2f", cmap="cividis", cbar=False, ax=axes)
axes.set(xlabel=f"mean over {len(ids)} {kind} galaxies", ylabel="network and map")
axes.set_xticklabels([t.get_text().replace("_", " on\n") for t in axes.get_xticklabels()])
area = ", ".join(f"{k[5:]} {v:.2f}" for k, v in located.filter(like="area_").mean().items())
style.show(figure, out / "localisation.png", f"Where maps lie; shares of the pixels: {area}.")

# %% [markdown]
# ### 8.2 The paper's sentences
#
# Test what Sec. 5.3 says of the maps. Any map in the middle covers a galaxy, so the energy of Grad-CAM++
# on the galaxy is taken relative to that of the centred Gaussian. An effect is positive where the
# sentence holds.

# %%
outside = located.pivot(index="galaxy_id", columns=["map", "model"], values="energy_surroundings")
inside = (outside["centred Gaussian"] - outside["Grad-CAM++"]).dropna()
claims = {f"{name}: Grad-CAM++ covers the galaxy": [inside[name]] for name in subjects}
claims["V2M keeps to the galaxy better than B0"] = [inside["V2M"] - inside["B0"]]
for name in subjects:
    unclear = inside.index.isin(scored[name].query("predicted == '?'")["galaxy_id"])
    claims[f"{name}: looks outside for ?"] = [-inside[name][unclear], -inside[name][~unclear]]
if truth is not None:
    gains = located.pivot(index="galaxy_id", columns=["map", "model"], values="gain")
    gain = gains["SmoothGrad"].dropna()
    claims |= {f"{name}: SmoothGrad traces the arms": [gain[name]] for name in subjects}
    claims["V2M: SmoothGrad traces the arms better than B0's"] = [gain["V2M"] - gain["B0"]]

# %% [markdown]
# Use the Wilcoxon signed-rank test, and the Mann-Whitney test for the class ?, both two-sided;
# correct the p-values for the number of tests (Holm).

# %%
rows = []
for sentence, samples in claims.items():
    test = stats.wilcoxon if len(samples) == 1 else stats.mannwhitneyu
    if min(map(len, samples)) >= 3:
        effect = samples[0].mean() - (samples[1].mean() if samples[1:] else 0)
        rows.append({"sentence": sentence, "effect": effect, "p": test(*samples).pvalue})
tested = pd.DataFrame(rows).assign(p_holm=lambda table: evaluation.holm(table["p"]))
signs = [tested["p_holm"] >= 0.05, tested["effect"] > 0]
tested["verdict"] = np.select(signs, ["undecided", "supported"], "contradicted")
tested.to_csv(out / "sentences.csv", index=False)
display(tested.round(3))

# %% [markdown]
# ## 9 Arms read from maps
#
# In polar coordinates $(\ln r, \theta)$ logarithmic arms are straight lines, and the strongest Fourier
# mode gives their number $m$ and pitch angle $\alpha$, $\tan\alpha = m / |p|$ with the wave number $p$
# along $\ln r$. Read them between 0.2 and 1.2 R90 from each map, and from the image itself, the one to
# beat.

# %%
wide, r90 = subjects["B0"].wide_cutouts(ids), localisation.R90 / subjects["B0"].binning
light = {"image": (wide - pixels.sky_level(wide)).mean(axis=-1)}
light |= {f"{name}: {method}": made[name][method] for name in subjects for method in methods}
half = min(values.shape[1] for values in light.values()) / 2
radii = {"r_min": 0.2 * r90, "r_max": min(1.2 * r90, half)}
read = [arms.arm_table(values, wide, scored["B0"], **radii) for values in light.values()]
read = pd.concat(read, keys=light, names=["read from"]).reset_index("read from")
read.to_csv(out / "arms.csv", index=False)

# %% [markdown]
# Compare with the labels, class by class: the share of galaxies whose arm number is read right.
# *Multiple or flocculent* (simulated galaxies) is the paper's closing idea: the area under the ROC
# curve of the coherence, the share of the variance along azimuth that equal arms explain, for true
# $m \ge 3$ against flocculent galaxies.

# %%
right = read.assign(right=read["arm_class"] == read["label"]).query("label != '?'")
agreement = right.pivot_table("right", "read from", "label")
agreement["mean"] = agreement.mean(axis=1)
if truth is not None:
    true = read.merge(truth[["galaxy_id", "n_arms"]]).query("n_arms == 0 or n_arms >= 3")
    pairs = {name: (t["n_arms"] > 0, t["coherence"]) for name, t in true.groupby("read from")}
    agreement["multiple or flocculent"] = {k: roc_auc_score(*pair) for k, pair in pairs.items()}
display(agreement.sort_values("mean", ascending=False).dropna(axis=1).round(2))

# %% [markdown]
# ## 10 What was found
#
# Sum up with this run's numbers, and keep them for the run's report.

# %%
best = board[board["map"].isin(methods)].groupby("model").first()
lines = [
    f"- **More faithful to {name} than a centred Gaussian: {beats[name]}.** Gain of the best map, "
    f"{row['map']}: {row['gain']:+.3f} (95 % interval {row['gain low']:+.3f} to "
    f"{row['gain high']:+.3f}; {row['galaxies']} {kind} galaxies)."
    for name, row in best.iterrows()
]
flagged = ", ".join(f"{method} ({name})" for name, method in survivors.index) or "none"
lines.append(f"- Maps that stay alike when the network is random: {flagged}.")
told = tested.groupby("verdict")["sentence"].agg("; ".join)
lines += ["- Paper's sentences (8.2), " + "; ".join(f"**{k}**: {v}" for k, v in told.items()) + "."]
means = agreement["mean"].sort_values(ascending=False)
top = means.drop("image").index[0]
lines.append(
    f"- Arm numbers read right (mean of the classes): {means['image']:.0%} from the image, at most "
    f"{means[top]:.0%} from a map ({top})."
)
report.write_json(out / "metrics.json", {"maps": board, "arms": agreement.to_dict("index")})
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## Exercises
#
# 1. Put the identifier of a misclassified galaxy of section 4.2 into `galaxy_ids` and run section 5.
#    Do the four methods point at the same place?
# 2. In 2.1 replace `GradcamPlusPlus` by `Gradcam` (`from tf_keras_vis.gradcam import Gradcam`), and
#    run from there on: all its maps and scores are made anew. Which of the two is more faithful?
# 3. In 2.2 change the noise from 0.20 to 0.05 and run from there on. Does SmoothGrad still pass the
#    sanity check?
