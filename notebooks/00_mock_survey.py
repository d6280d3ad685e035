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
# ### 1.1 Packages
#
# Import the libraries and the simulator.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Markdown, display
from PIL import Image
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from lib import paths
from lib.figures import style
from lib.figures.survey import masks
from lib.schema import ARM_CLASSES, RHO_COLUMNS
from lib.surveys import open_survey
from lib.surveys.mock import ANSWERS, MASS_SHIFT, render, write_survey
from lib.surveys.mock.features import NOISE, simple_features
from lib.surveys.mock.galaxies import SPIRAL_FRACTION
from lib.surveys.mock.render import through_jpeg
from lib.surveys.mock.survey import draw_truth, mass_at_redshift
from lib.surveys.mock.votes import ARM_CONFUSION, answer_probabilities, draw_counts, fractions

style.use()

# %% [markdown]
# ### 1.2 Parameters
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
n_galaxies = 1300
# Share of face-on spirals among them (about 0.2 in Galaxy Zoo 2).
spiral_fraction = 0.8
# Mix of arm classes: gz2-like (as on the sky) or enriched (nearly flat).
arm_frequencies = "enriched"
# Width of the images in pixels.
size = 424
# Processes that render images.
workers = 2
# Folder of the Galaxy Zoo Challenge, to compare with real galaxies; "" for none.
real_dir = ""
# Seed of everything random: the same seed gives the same files, byte for byte.
seed = 42

# %% [markdown]
# ## 2 The simulation
#
# ### 2.1 Files of the survey
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
# ### 2.2 Reading as of a real survey
#
# Open the survey through the reader of the real files.

# %%
survey = open_survey("mock", out)
votes = survey.votes.set_index("galaxy_id")
spirals = truth[truth["kind"] == "spiral"]
display(Markdown("\n".join(f"- {note}" for note in survey.notes)))

# %% [markdown]
# ## 3 The galaxies
#
# ### 3.1 Arm classes
#
# Show spirals of each true class, and below them discs without arms, smooth galaxies and edge-on
# discs, which the selection has to reject. The class "?" has patches and no arm that can be
# followed.


# %%
def montage(rows: dict[str, list], title: str):
    """One row of images for each name."""
    height = style.WIDTH / 8 * len(rows)
    figure, axes = plt.subplots(
        len(rows), 8, figsize=(style.WIDTH, height), squeeze=False, layout="constrained"
    )
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=False):
            edge = len(image) // 4
            axis.imshow(image[edge:-edge, edge:-edge])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.suptitle(title)
    return figure


# %% [markdown]
# Draw the first eight of each.

# %%
kinds = truth["arm_class"].where(truth["kind"] == "spiral", truth["kind"])
rows = {
    name: [render(g, 424) for g in truth[kinds == name].head(8).itertuples(index=False)]
    for name in (*ARM_CLASSES, "disc", "smooth", "edge-on")
}
caption = (
    "Simulated galaxies: spirals by true arm class, then the other kinds; the central half of each "
    "image. Some arms are too faint or too fine to be counted, as on the sky."
)
figure = montage({k: v for k, v in rows.items() if v}, "simulated galaxies")
style.show(figure, out / "arm_classes.png", caption)

# %% [markdown]
# ### 3.2 Arms and their mask
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
    style.show(masks(galaxy, size=size), out / "arm_mask.png", caption)

# %% [markdown]
# ## 4 The volunteers
#
# ### 4.1 Labels and truth
#
# Label each spiral with the answer that has the highest debiased fraction, $\arg\max_m \rho_m$,
# among those that most volunteers called spirals.

# %%
seen = votes.loc[spirals["galaxy_id"]]
called_spiral = (seen["f_features"] > 0.43) & (seen["f_spiral"] > 0.715)
label = seen[list(RHO_COLUMNS)].set_axis(ARM_CLASSES, axis=1).idxmax(axis=1)[called_spiral]
true_class = spirals.set_index("galaxy_id")["arm_class"].loc[label.index]
confusion = pd.crosstab(true_class, label).reindex(
    index=list(ARM_CLASSES), columns=list(ARM_CLASSES), fill_value=0
)

# %% [markdown]
# Draw the table. Labels off the diagonal are arms that cannot be seen, and miscounts, mostly by one.

# %%
shares = confusion.div(confusion.sum(axis=1).clip(lower=1), axis=0)
figure, axis = plt.subplots(figsize=(0.55 * style.WIDTH, 0.48 * style.WIDTH))
sns.heatmap(shares, annot=confusion, fmt="d", cmap="Blues", vmin=0, vmax=1, ax=axis)
axis.set(xlabel="most frequent answer of the volunteers", ylabel="true number of arms")
caption = (
    "Label against truth, simulated: number of galaxies in each cell, colour the share of the true "
    "class. A classifier trained on the labels learns what volunteers see, not what is there."
)
style.show(figure, out / "votes_and_truth.png", caption)

# %% [markdown]
# ### 4.2 Visibility of the arms
#
# Plot the share of "can't tell" against the visibility of the arms, which combines contrast,
# seeing, inclination and depth.

# %%
armed = spirals[spirals["n_arms"] > 0].set_index("galaxy_id")
armed = armed[votes.loc[armed.index, "n_spiral"] >= 5]
place = pd.cut(armed["arm_visibility"], np.linspace(0, 1, 6), include_lowest=True)
figure, axis = plt.subplots(figsize=(0.7 * style.WIDTH, 0.4 * style.WIDTH))
middle = place.map(lambda interval: interval.mid).astype(float)
sns.pointplot(x=middle.round(1), y=votes.loc[armed.index, "rho_unclear"], ax=axis)
axis.set(xlabel="visibility of the arms (0 to 1)", ylabel="fraction of can't-tell votes")
caption = "Mean fraction of can't-tell votes with 95 % confidence interval, simulated galaxies."
style.show(figure, out / "visibility.png", caption)

# %% [markdown]
# ### 4.3 Galaxies with the mix of the sky
#
# For the comparison with real galaxies draw simulated ones in the mix of the sky, let volunteers
# vote, and keep those that pass the paper's cuts but the one on $\rho$.

# %%
sky = draw_truth(8000, seed, spiral_fraction=0.9)
counts = draw_counts(np.random.default_rng(seed), answer_probabilities(sky))
mock = pd.DataFrame(fractions(counts), columns=ANSWERS)
mock = mock.rename(columns=dict(zip(ANSWERS[-6:], RHO_COLUMNS, strict=True)))
mock["f_features"] = mock["t01_smooth_or_features_a02_features_or_disk"]
mock["f_not_edge_on"], mock["f_spiral"] = mock["t02_edgeon_a05_no"], mock["t04_spiral_a08_spiral"]
cuts = "f_features > 0.43 and f_not_edge_on > 0.715 and f_spiral > 0.715"
samples = {"simulated": mock.query(cuts)}
if real_dir:
    real = open_survey("challenge", real_dir).votes.query(cuts)
    samples["real"] = real
else:
    display(Markdown("**No real galaxies: `real_dir` is empty, only simulated numbers follow.**"))

# %% [markdown]
# ### 4.4 Fit of the votes
#
# Compare, by label, the share of galaxies, that of pure labels ($\max_m \rho_m > 0.8$), and how
# often the label of 25 volunteers drawn anew is the same (the ceiling of any classifier). Since few
# of the rare labels are pure, profiles `mock` and `smoke` leave out the paper's cut $\rho > 0.8$ in
# notebook 01, as `challenge` does.

# %%
table, rng = {}, np.random.default_rng(seed)
for name, sample in samples.items():
    rho = sample[list(RHO_COLUMNS)].set_axis(ARM_CLASSES, axis=1)
    winner = rho.idxmax(axis=1)
    table[name, "share"] = winner.value_counts(normalize=True)
    table[name, "pure"] = (rho.max(axis=1) > 0.8).groupby(winner).mean()
    chances = rho.clip(lower=1e-6).div(rho.clip(lower=1e-6).sum(axis=1), axis=0).to_numpy()
    again = np.array(ARM_CLASSES)[rng.multinomial(25, chances).argmax(axis=1)]
    print(f"{name}: label ceiling {(again == winner).mean():.2f} ({len(rho):,} galaxies)")
purity = pd.DataFrame(table).reindex(list(ARM_CLASSES)).fillna(0)
display(purity.round(2))

# %% [markdown]
# The confusion in the simulator is the mean vote of real galaxies by label; here it is again.

# %%
for name, sample in samples.items():
    rho = sample[list(RHO_COLUMNS)].set_axis(ARM_CLASSES, axis=1)
    mean = rho.groupby(rho.idxmax(axis=1)).mean().reindex(list(ARM_CLASSES))
    display(Markdown(f"Mean fraction of each answer by label, {name}:"), mean.round(3))
    worst = np.nanmax(np.abs(mean.to_numpy() - ARM_CONFUSION))
    print(f"largest difference from the simulator's table: {worst:.3f}")

# %% [markdown]
# ## 5 Images
#
# ### 5.1 Simple features and class
#
# A tree of depth 3 on one simple feature must not find the true class: chance is 1/6. Arms do
# change the contrast a little.


# %%
def class_accuracy(features: pd.DataFrame, classes) -> pd.Series:
    """Balanced accuracy of a tree on each feature, three folds."""
    tree = DecisionTreeClassifier(max_depth=3, class_weight="balanced", random_state=seed)
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    return pd.Series(
        {
            c: balanced_accuracy_score(classes, cross_val_predict(tree, x, classes, cv=folds))
            for c, x in ((c, features[[c]]) for c in features)
        }
    )


few = spirals.groupby("arm_class").head(60)
files = [out / "images" / f"{asset}.jpg" for asset in few["asset_id"]]
measured = pd.DataFrame([simple_features(np.asarray(Image.open(file))) for file in files])
by_class = pd.DataFrame({"simulated, true class": class_accuracy(measured, few["arm_class"])})

# %% [markdown]
# Measure 300 real galaxies, and 300 simulated ones of the same mix in files of the same kind.

# %%
if real_dir:
    real = real[real["has_image"]].head(300)
    folder = paths.resolve(real_dir)
    images = {"real": [np.asarray(Image.open(folder / p)) for p in real["image_path"]]}
    chosen = sky.loc[samples["simulated"].index[:300]]
    drawn = [through_jpeg(render(g, 424)) for g in chosen.itertuples(index=False)]
    images["simulated"] = drawn
    features = {k: pd.DataFrame([simple_features(i) for i in v]) for k, v in images.items()}
    for name, rows in (("simulated", samples["simulated"].head(300)), ("real", real)):
        winner = rows[list(RHO_COLUMNS)].to_numpy().argmax(axis=1)
        by_class[f"{name}, label"] = class_accuracy(features[name], winner)
display(by_class.round(2))

# %% [markdown]
# ### 5.2 Simulated or real
#
# Let classifiers tell simulated from real galaxies: of three numbers of the noise, and of all simple
# features (five folds). An AUC of 0.5 is chance.

# %%
domain = {}
if real_dir:
    joined = pd.concat([features["real"], features["simulated"]], ignore_index=True)
    origin = np.repeat([0, 1], [len(features["real"]), len(features["simulated"])])
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    boosted = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, random_state=seed)
    for name, columns in (("noise", list(NOISE)), ("simple features", list(joined))):
        for kind, model in (("linear", linear), ("boosted trees", boosted)):
            p = cross_val_predict(model, joined[columns], origin, cv=folds, method="predict_proba")
            domain[f"{name}, {kind}"] = p[:, 1]

# %% [markdown]
# A small convolutional network looks at the images themselves, at 64 x 64 pixels (three folds).


# %%
def small_network(x: np.ndarray, y: np.ndarray):
    """A trained network of three convolutions."""
    keras.utils.set_random_seed(seed)
    k = keras.layers
    body = [k.Input(x.shape[1:]), k.RandomFlip(), k.RandomRotation(0.5)]
    for width in (16, 32, 64):
        body += [k.Conv2D(width, 3), k.BatchNormalization(momentum=0.8), k.ReLU(), k.MaxPool2D()]
    top = [k.GlobalAveragePooling2D(), k.Dropout(0.3), k.Dense(1, activation="sigmoid")]
    network = keras.Sequential([*body, *top])
    network.compile("adam", "binary_crossentropy")
    network.fit(x, y, epochs=20, batch_size=32, verbose=0)
    return network


if real_dir:
    import keras

    pixels = np.stack(images["real"] + images["simulated"])[:, 84:340, 84:340]
    pixels = pixels.reshape(-1, 64, 4, 64, 4, 3).mean(axis=(2, 4)).astype("float32") / 255
    domain["small CNN"] = np.zeros(len(origin))
    for train, test in StratifiedKFold(3, shuffle=True, random_state=seed).split(pixels, origin):
        network = small_network(pixels[train], origin[train])
        domain["small CNN"][test] = network.predict(pixels[test], verbose=0)[:, 0]

# %% [markdown]
# Draw the receiver operating characteristics.

# %%
auc = {name: roc_auc_score(origin, p) for name, p in domain.items()}
if real_dir:
    figure, axis = plt.subplots(figsize=(0.55 * style.WIDTH, 0.5 * style.WIDTH))
    for name, p in domain.items():
        axis.plot(*roc_curve(origin, p)[:2], label=f"{name}: {auc[name]:.2f}")
    axis.set(xlabel="real galaxies called simulated", ylabel="simulated galaxies called simulated")
    axis.legend(title="AUC")
    caption = "How well simulated galaxies are told from real ones; the lower, the better."
    style.show(figure, out / "domain.png", caption)

# %% [markdown]
# ### 5.3 Simulated beside real
#
# Show the first galaxies of both samples, unsorted.

# %%
if real_dir:
    rows = {f"{k} {n}": images[k][8 * n : 8 * n + 8] for k in images for n in (0, 1)}
    caption = "Real and simulated face-on spirals in the mix of the sky, the central half of each."
    style.show(montage(rows, "real and simulated"), out / "beside_real.png", caption)

# %% [markdown]
# ## 6 Stellar masses
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
# ## 7 Conclusions
#
# The numbers are those of this run.

# %%
kept = true_class == label
lines = [
    f"{n_galaxies:,} galaxies, {len(spirals) / n_galaxies:.0%} of them face-on spirals (about "
    f"{SPIRAL_FRACTION:.0%} on the sky); of {len(label):,} that volunteers call spirals "
    f"{kept.mean():.0%} are labelled with their true class.",
    "The best single simple feature finds the true class with a balanced accuracy of "
    f"{by_class.iloc[:, 0].max():.2f} (chance 0.17).",
    f"Of the labels m = 2 {purity.loc['2', ('simulated', 'pure')]:.0%} are pure, of those of m = 3 "
    f"{purity.loc['3', ('simulated', 'pure')]:.0%}.",
]
if real_dir:
    lines.append(
        "Simulated galaxies are told from real ones with AUC "
        + ", ".join(f"{v:.2f} ({k})" for k, v in auc.items())
        + "."
    )
else:
    lines.append("How the images compare with real ones was not measured: `real_dir` is empty.")
display(Markdown("\n".join(f"- {line}" for line in lines)))

# %% [markdown]
# ## Exercises
#
# 1. Set `arm_frequencies` to `gz2-like` and run all: how many labels of four arms are left in 4.1?
# 2. Multiply `sky["arm_contrast"]` by 0.5 at the end of the first line of 4.3 and run from there: what
#    happens to the share of "?" and to the purity in 4.4?
# 3. Leave the noise out of `joined` in 5.2 (real galaxies needed): which classifier loses most?
