"""Do maps lie on the arms? Scores against the simulator's truth, and the paper's claims as tests.

On the mock survey it is known which pixels are arm, bulge and rest of the disc. On real galaxies
only galaxy and surroundings can be told apart, from the image itself. The surroundings are what
lies beyond R90, the Petrosian radius that holds 90 % of the light, in the plane of the disc.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import ndimage, stats
from skimage import measure
from sklearn.metrics import average_precision_score

from lib.evaluation import holm
from lib.explain.faithfulness import CONTROLS, mean_interval
from lib.explain.pixels import energy
from lib.images import central_crop
from lib.surveys.mock.render import arm_mask, bulge_mask, disc_coordinates

"""Parts of a simulated cut-out, each pixel in one; ``disc`` is the disc between the arms."""

R90_WIDTH = 50 / 424
"""R90 in widths of a whole cut-out: GZ2's have 424 pixels of 0.02 R90 (Willett et al. 2013, Sec.
2.2)."""


def truth_parts(galaxy, size: int, crop: int) -> dict[str, np.ndarray]:
    """Which pixels of a simulated cut-out are arm, bulge, disc and surroundings.

    Parameters
    ----------
    galaxy : row of the mock survey's truth table
    size, crop : int
        Width of the whole image, and of its central crop, in pixels.

    Returns
    -------
    dict
        For each of arms, bulge, disc and surroundings a bool (crop, crop), and ``radius``: float32
        (crop, crop), the distance from the centre in the plane of the disc, in R90.
    """
    radius, _ = disc_coordinates(galaxy, size)
    inside = radius < 1
    bulge = bulge_mask(galaxy, size) & inside
    arms = arm_mask(galaxy, size) & inside & ~bulge
    parts = {"arms": arms, "bulge": bulge, "disc": inside & ~arms & ~bulge, "surroundings": ~inside}
    parts["radius"] = radius
    return {name: central_crop(part[..., None], crop)[..., 0] for name, part in parts.items()}


def galaxy_mask(image: np.ndarray) -> np.ndarray:
    """Pixels of the galaxy in the middle of a cut-out, found without any truth.

    Parameters
    ----------
    image : ndarray, (height, width, channels)

    Returns
    -------
    ndarray of bool, (height, width)
        The bright region that holds the centre, its holes filled; the nearest one if the centre
        itself is dark, and nothing if all is dark. Bright, after smoothing by 2 px, is what is
        three robust standard deviations of the border above the sky, and at least 4 % of the
        image's range, for images with a flat sky.
    """
    grey = np.asarray(image, float).mean(axis=-1)
    smooth = ndimage.gaussian_filter(grey, 2)
    width = max(1, len(grey) // 16)
    border = np.ones(grey.shape, bool)
    border[width:-width, width:-width] = False
    sky = np.median(smooth[border])
    noise = stats.median_abs_deviation(smooth[border], scale="normal")
    bright = smooth > sky + max(3 * noise, 0.04 * np.ptp(smooth), 1e-12)
    regions = measure.label(bright)
    if not regions.any():
        return bright
    rows, columns = np.nonzero(regions)
    middle = (len(grey) - 1) / 2
    nearest = np.argmin((rows - middle) ** 2 + (columns - middle) ** 2)
    return ndimage.binary_fill_holes(regions == regions[rows[nearest], columns[nearest]])


def disc_shape(image: np.ndarray) -> tuple[float, float]:
    """Axis ratio and position angle of a galaxy from its mask's second moments.

    Parameters
    ----------
    image : ndarray, (height, width, channels)

    Returns
    -------
    axis_ratio : float
        In [0.3, 1]; 1 if no galaxy is found.
    position_angle : float
        Of the major axis, in degrees from the image's x axis, anticlockwise, in [0, 180).
    """
    rows, columns = np.nonzero(galaxy_mask(image))
    if len(rows) < 20:
        return 1.0, 0.0
    values, vectors = np.linalg.eigh(np.cov(columns, -rows))
    axis_ratio = float(np.sqrt(values[0] / values[1]))
    angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])) % 180)
    return max(axis_ratio, 0.3), angle


def within_r90(cutout: np.ndarray, crop: int, size: int) -> np.ndarray:
    """Pixels of a real galaxy within R90 in the plane of its disc.

    Parameters
    ----------
    cutout : ndarray, (height, width, channels)
    crop : int
        Width of the central part that is wanted, in pixels.
    size : int
        Width of the whole image in pixels of the same scale.

    Returns
    -------
    ndarray of bool, (crop, crop)
    """
    axis_ratio, angle = disc_shape(cutout)
    axis = np.arange(crop) - (crop - 1) / 2
    x, y = np.meshgrid(axis, -axis)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.hypot(cos * x + sin * y, (cos * y - sin * x) / axis_ratio) < R90_WIDTH * size


def azimuthal_average(values: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Replace each value by the mean over its ring, one of 40 of equal width.

    Parameters
    ----------
    values, radius : ndarray, (height, width)

    Returns
    -------
    ndarray, float64 (height, width)
    """
    bins = 40
    ring = np.minimum((radius / radius.max() * bins).astype(int), bins - 1).ravel()
    total = np.bincount(ring, values.ravel(), bins)
    count = np.bincount(ring, minlength=bins)
    return (total / np.maximum(count, 1))[ring].reshape(values.shape)


def part_scores(values: np.ndarray, parts: dict[str, np.ndarray]) -> dict[str, float]:
    """Where one map's evidence lies, compared with how large the parts are.

    Parameters
    ----------
    values : ndarray, (height, width)
        Attribution map.
    parts : dict
        Masks by name, bool (height, width), e.g. from `truth_parts`.

    Returns
    -------
    dict
        ``energy_<part>``: share of the positive evidence; ``area_<part>``: share of the pixels;
        NaN energies for an empty map.
    """
    share = energy(values[None])[0]
    empty = not share.any()
    scores = {}
    for name, mask in parts.items():
        scores[f"energy_{name}"] = np.nan if empty else float(share[mask].sum())
        scores[f"area_{name}"] = float(mask.mean())
    return scores


def arm_scores(values: np.ndarray, arms: np.ndarray, radius: np.ndarray) -> dict[str, float]:
    """How well one map finds the arms.

    Parameters
    ----------
    values : ndarray, (height, width)
    arms : ndarray of bool, (height, width)
    radius : ndarray, (height, width)
        Distance from the centre in the plane of the disc.

    Returns
    -------
    dict
        ``pointing``: 1 if the map's highest pixel lies on an arm (Zhang et al. 2018), else 0;
        ``precision``: area under the precision-recall curve (average precision); ``gain``: the same
        less that of the map's own azimuthal average, which has all of its radial information and
        none about arms. NaN without arms.
    """
    if not arms.any():
        return dict.fromkeys(("pointing", "precision", "gain"), np.nan)
    if np.ptp(values) == 0:
        return {"pointing": np.nan, "precision": float(arms.mean()), "gain": 0.0}
    found = average_precision_score(arms.ravel(), values.ravel())
    rings = azimuthal_average(values, radius)
    return {
        "pointing": float(arms.ravel()[values.argmax()]),
        "precision": found,
        "gain": found - average_precision_score(arms.ravel(), rings.ravel()),
    }


def locate(
    maps: np.ndarray, cutouts: np.ndarray, galaxies: pd.DataFrame, truth: pd.DataFrame | None,
    size: int = 424,
) -> pd.DataFrame:  # fmt: skip
    """Scores of one method's maps, galaxy by galaxy.

    Parameters
    ----------
    maps : ndarray, (n, height, width)
    cutouts : ndarray, (n, height, width, channels)
        The same galaxies, as wide as there are, to measure a real disc's orientation.
    galaxies : DataFrame
        n rows with galaxy_id, label and predicted.
    truth : DataFrame or None
        The mock survey's truth table; None for real galaxies, where only galaxy and surroundings
        are told apart and the arm scores are NaN.
    size : int
        Width in pixels, after binning, of the images before they were cropped.

    Returns
    -------
    DataFrame
        galaxy_id, label, predicted, n_arms (true number; missing for real galaxies), energy and
        area per part, pointing, precision and gain.
    """
    rows = []
    if truth is not None:
        truth = truth.set_index("galaxy_id")
    for values, image, galaxy in zip(maps, cutouts, galaxies.itertuples(), strict=True):
        row = {k: getattr(galaxy, k) for k in ("galaxy_id", "label", "predicted")}
        if truth is None:
            inside = within_r90(image, values.shape[0], size)
            parts = {"galaxy": inside, "surroundings": ~inside}
            row |= {"n_arms": np.nan, **part_scores(values, parts)}
            row |= dict.fromkeys(("pointing", "precision", "gain"), np.nan)
        else:
            true = truth.loc[galaxy.galaxy_id]
            parts = truth_parts(true, size, values.shape[0])
            radius = parts.pop("radius")
            row |= {"n_arms": float(true.n_arms), **part_scores(values, parts)}
            row |= arm_scores(values, parts["arms"], radius)
        rows.append(row)
    return pd.DataFrame(rows)


def by_class(located: pd.DataFrame) -> pd.DataFrame:
    """Mean of every score per score, model and map (rows) and label (columns); ``all`` last.

    Parameters
    ----------
    located : DataFrame
        Rows of `locate` with columns model and map.

    Returns
    -------
    DataFrame
        Shares of the energy, and the arm scores where any galaxy has them: rows sorted by score,
        in the order of the columns of `located`, and by model, best map first.
    """
    scores = [
        name
        for name in located
        if name.startswith("energy_") or name in ("pointing", "precision", "gain")
    ]
    table = located.melt(["model", "map", "label"], scores, var_name="score").dropna()
    rows = ["score", "model", "map"]
    means = table.pivot_table("value", rows, "label", aggfunc="mean", sort=False)
    means = means.assign(all=table.groupby(rows)["value"].mean()).reset_index()
    means["score"] = pd.Categorical(means["score"], scores)
    means = means.sort_values(["score", "model", "all"], ascending=[True, True, False])
    return means.astype({"score": str}).set_index(rows)


def best_map(located: pd.DataFrame, maps: list[str]) -> str:
    """Map that finds the arms best: the largest mean ``gain`` over galaxies and models.

    Parameters
    ----------
    located : DataFrame
        Rows of `locate` with a column map.
    maps : list of str
        Maps to choose from.
    """
    return located[located["map"].isin(maps)].groupby("map")["gain"].mean().idxmax()


def over_geometry(energy: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Energy on a part of the image beyond what the size of that part lets expect.

    A galaxy that is seen at a slant leaves more of the image to its surroundings, and so more of
    the energy of any map, whatever it shows. How much more differs from map to map: it is read off
    the straight line through all galaxies.

    Parameters
    ----------
    energy, area : ndarray, (n,)
        Share of one method's energy, and of the pixels, on the part.

    Returns
    -------
    ndarray, (n,)
        Residuals; NaN stays NaN.
    """
    energy, area = np.asarray(energy, float), np.asarray(area, float)
    known = np.isfinite(energy)
    width = area - area[known].mean() if known.any() else area
    spread = (width[known] ** 2).sum()
    slope = (width[known] * energy[known]).sum() / spread if spread > 1e-12 else 0.0
    return energy - np.nanmean(energy) - slope * width if known.any() else energy


NO_TEST = dict.fromkeys(("mean", "low", "high", "p", "p_against"), np.nan)
"""Result of a test for which there are too few galaxies."""


def _p_values(test, *samples: np.ndarray) -> dict[str, float]:
    """p-values of a test in both directions: ``p`` for "greater", ``p_against`` for "less"."""
    return {
        "p": float(test(*samples, alternative="greater").pvalue),
        "p_against": float(test(*samples, alternative="less").pvalue),
    }


def _positive(values: np.ndarray, seed: int) -> dict[str, float]:
    """Test whether paired differences are positive, with their mean's interval."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if len(values) < 3 or not values.any():
        return {**NO_TEST, **mean_interval(values, seed)}
    return {**mean_interval(values, seed), **_p_values(stats.wilcoxon, values)}


def _greater(a: np.ndarray, b: np.ndarray, seed: int) -> dict[str, float]:
    """Test whether one group exceeds another, with the interval of the difference of means."""
    a, b = (values[np.isfinite(values)] for values in (np.asarray(a, float), np.asarray(b, float)))
    n = len(a) + len(b)
    if min(len(a), len(b)) < 3:
        return {**NO_TEST, "n": n}
    low, high = stats.bootstrap(
        (a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), n_resamples=2000,
        method="percentile", vectorized=True, rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    effect = {"mean": a.mean() - b.mean(), "low": low, "high": high, "n": n}
    return {**effect, **_p_values(stats.mannwhitneyu, a, b)}


def _falls(x: np.ndarray, y: np.ndarray, seed: int) -> dict[str, float]:
    """Test whether `y` falls with `x`: minus Spearman's rank correlation."""
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = -np.asarray(x, float)[keep], np.asarray(y, float)[keep]
    if len(x) < 5 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return {**NO_TEST, "n": len(x)}
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(x), len(x)) for _ in range(1000)]
    ranks = [stats.spearmanr(x[d], y[d]).statistic for d in draws if np.ptp(x[d]) > 0]
    low, high = np.nanpercentile(ranks, [2.5, 97.5])
    effect = {"mean": stats.spearmanr(x, y).statistic, "low": low, "high": high, "n": len(x)}
    return {**effect, **_p_values(stats.spearmanr, x, y)}


def hypotheses(located: pd.DataFrame, seed: int = 42) -> pd.DataFrame:
    """Sentences of the paper's Sec. 5.3, each as a test on the maps.

    Parameters
    ----------
    located : DataFrame
        Rows of `locate` with columns model ("B0", "V2M") and map, the same galaxies for both
        models: Grad-CAM++ and SmoothGrad, and any of `lib.explain.faithfulness.CONTROLS`.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    DataFrame
        One row per sentence, model and map: ``effect`` (positive where the sentence holds) with its
        95 % bootstrap interval ``low``, ``high``; ``n`` galaxies; ``p`` of the one-sided test and
        ``p_against`` of the opposite one, ``p_holm`` and ``p_against_holm`` corrected for all of
        them together; ``verdict``: supported (p_holm < 0.05), contradicted (p_against_holm < 0.05),
        undecided, or not testable here. Sentences on the surroundings are also put to the control
        maps, which are corrected among themselves: a sentence that holds for a map that knows
        nothing of the network says nothing about the network.
    """
    covers = located["area_surroundings"] - located["energy_surroundings"]
    table = located.assign(covers=covers)
    controls = [name for name in CONTROLS if (located["map"] == name).any()]
    rows = []

    def part(model: str, name: str) -> pd.DataFrame:
        return table.query("model == @model and map == @name").set_index("galaxy_id")

    def add(sentence: str, model: str, name: str, measure: str, test: dict[str, float]) -> None:
        rows.append({"sentence": sentence, "model": model, "map": name, "measure": measure, **test})

    for model in ("B0", "V2M"):
        for name in ("Grad-CAM++", *controls):
            own = part(model, name)
            add("Grad-CAM++ covers the galaxy", model, name,
                "share of pixels in the surroundings - share of energy there",
                _positive(own["covers"], seed))  # fmt: skip
            unclear = own["predicted"] == "?"
            outside = over_geometry(own["energy_surroundings"], own["area_surroundings"])
            add("looks at the surroundings for ?", model, name,
                "energy on surroundings beyond what their area gives, predicted ? - other classes",
                _greater(outside[unclear], outside[~unclear], seed))  # fmt: skip
        smooth = part(model, "SmoothGrad")
        add("SmoothGrad traces the arms", model, "SmoothGrad",
            "precision for arms, map - its azimuthal average",
            _positive(smooth["gain"], seed))  # fmt: skip
        add("traces them less well the more there are", model, "SmoothGrad",
            "- rank correlation of gain with m",
            _falls(smooth["n_arms"].to_numpy(), smooth["gain"].to_numpy(), seed))  # fmt: skip
        right = smooth["label"] == smooth["predicted"]
        add("well-traced arms give a correct class", model, "SmoothGrad",
            "gain, correct - misclassified",
            _greater(smooth.loc[right, "gain"], smooth.loc[~right, "gain"], seed))  # fmt: skip
    b0, v2m = (part(model, "SmoothGrad")["gain"] for model in ("B0", "V2M"))
    add("V2M traces the arms better than B0", "both", "SmoothGrad", "gain, V2M - B0",
        _positive(v2m - b0, seed))  # fmt: skip
    b0, v2m = (part(model, "Grad-CAM++")["energy_surroundings"] for model in ("B0", "V2M"))
    add("V2M keeps to the galaxy better than B0", "both", "Grad-CAM++",
        "energy on surroundings, B0 - V2M", _positive(b0 - v2m, seed))  # fmt: skip
    result = pd.DataFrame(rows).rename(columns={"mean": "effect"})
    for family in (result["map"].isin(CONTROLS), ~result["map"].isin(CONTROLS)):
        both = holm(result.loc[family, ["p", "p_against"]].to_numpy().ravel()).reshape(-1, 2)
        result.loc[family, ["p_holm", "p_against_holm"]] = both
    result["verdict"] = np.select(
        [result["p"].isna(), result["p_holm"] < 0.05, result["p_against_holm"] < 0.05],
        ["not testable here", "supported", "contradicted"],
        "undecided",
    )
    return result
