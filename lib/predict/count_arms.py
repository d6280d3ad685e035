"""How many spiral arms has this galaxy? Give images, names or positions.

Prints the probability of each arm class and the set of classes that holds the right one of 90 % of
galaxies like the training's, and draws one picture per galaxy. The network is ArmNet, which has
learnt from votes for real galaxies of the Galaxy Challenge (data/weights/arm-counter/card.md).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image

from lib import paths
from lib.evaluation import apply_temperature, conformal
from lib.explain import arms
from lib.explain.localisation import disc_shape, galaxy_mask
from lib.explain.pixels import sky_level
from lib.images import ImageError, central_crop, decode, network_input
from lib.predict import package, sky
from lib.predict.engine import averaged
from lib.schema import InputError, probability_columns

MODEL = "data/weights/arm-counter"

THUMBNAILS = "data/galaxy-challenge/images_training_rev1"
"""Where images of the training galaxies are, if the user has them."""

WIDTH = 212
"""Width in pixels of a cut-out at the training's scale, of 0.04 R90 a pixel."""

R90 = 25.0
"""Petrosian radius in its pixels."""

ISOPHOTE = 35.2
"""Radius in pixels of a circle as large as the galaxy's mask, in the median of 100 galaxies of the
Galaxy Challenge; two thirds of them lie within 15 %."""

FROM_TO = (0.1, 1.4)
"""First and last radius of the polar view in R90."""

ROUNDS = 6
VIEWS = package.VIEWS[-1]
NEIGHBOURS = 4


@dataclass(frozen=True)
class Cutout:
    """A galaxy at the training's scale.

    Attributes
    ----------
    pixels : ndarray, uint8, (`WIDTH`, `WIDTH`, 3)
    side : float
        Width of the same part in the pixels of the image that it is from.
    whole : bool
        Whether the image covers what the network sees.
    """

    pixels: np.ndarray
    side: float
    whole: bool

    @property
    def r90(self) -> float:
        """Estimated Petrosian radius in pixels of the image."""
        return self.side * R90 / WIDTH


def at_training_scale(image: np.ndarray, crop: int) -> Cutout:
    """Estimate how large the galaxy in the middle of an image is, and cut it out.

    The area of the galaxy's mask is measured, and the image resampled until it is that of training
    galaxies; what the image does not cover is filled with its sky.

    Parameters
    ----------
    image : ndarray, uint8, (height, width, 3)
    crop : int
        Pixels of the cut-out that the network sees.

    Raises
    ------
    ImageError
        If there is no galaxy in the middle.
    """
    least, side = min(image.shape[:2]), float(min(image.shape[:2]))
    for _ in range(ROUNDS):
        pixels = _resampled(image, side)
        mask = galaxy_mask(pixels)
        if mask.sum() < 20 or np.ptp(pixels) < 10:
            raise ImageError("no galaxy with sky around it in the middle: cut it out like that")
        ratio = float(np.sqrt(mask.sum() / np.pi)) / ISOPHOTE
        side = float(np.clip(side * ratio, 16, 4 * least))
        if abs(np.log(ratio)) < 0.02:
            break
    return Cutout(_resampled(image, side), side, side * crop / WIDTH <= least)


def _resampled(image: np.ndarray, side: float) -> np.ndarray:
    """The middle of an image, `side` pixels wide, in `WIDTH` pixels."""
    margin = max(0, int(np.ceil((side - min(image.shape[:2])) / 2)))
    if margin:
        level = np.rint(sky_level(image[None])[0, 0, 0]).astype(np.uint8)
        padded = np.full(np.add(image.shape, (2 * margin, 2 * margin, 0)), level, np.uint8)
        padded[margin:-margin, margin:-margin] = image
        image = padded
    x, y = image.shape[1] / 2, image.shape[0] / 2
    kernel = Image.Resampling.BOX if side >= WIDTH else Image.Resampling.BICUBIC
    box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    return np.asarray(Image.fromarray(image).resize((WIDTH, WIDTH), kernel, box))


def from_sky(ra: float, dec: float, size: float | None, crop: int) -> tuple[Cutout, str]:
    """Galaxy at a position, and the survey that its image is from.

    Without a size in arcminutes, the image is asked for again until it is as wide as those of the
    training.
    """
    width = size or 3.0
    for _ in range(4):
        image, survey = sky.image(ra, dec, width)
        cutout = at_training_scale(image, crop)
        ratio = cutout.side / sky.PIXELS
        if size or abs(np.log(ratio)) < 0.2:
            break
        width = round(min(width * ratio, 60.0), 3)
    return cutout, survey


def count(cutout: Cutout, exported: package.Package, engine) -> dict[str, object]:
    """What the network says of a galaxy: a row of the catalogue."""
    card, reference = exported.card, exported.reference
    pixels = central_crop(cutout.pixels, card["preprocessing"]["crop"])[None]
    features, p = averaged(engine, network_input(pixels, card["preprocessing"]["colour"]), VIEWS)
    calibrated = apply_temperature(p, exported.temperature(VIEWS))
    chosen = conformal.sets(calibrated, card["conformal"]["least"][str(VIEWS)])[0]
    nearest, distance = reference.nearest(features, NEIGHBOURS)
    known = [f"{reference.galaxy_id[i]} ({reference.label[i]})" for i in nearest[0]]
    return {
        "predicted": exported.classes[calibrated[0].argmax()],
        "prediction_set": " ".join(np.array(exported.classes)[chosen]),
        **dict(zip(probability_columns(exported.classes), calibrated[0].round(4))),
        "r90_px": round(cutout.r90, 1),
        "training_distance": round(float(distance[0, 0]), 4),
        "unlike_training": bool(distance[0, 0] > card["out_of_distribution"]["flag_distance"]),
        "similar": "; ".join(known),
    }


def traced(cutout: Cutout) -> tuple[np.ndarray, dict, np.ndarray, np.ndarray]:
    """Polar view of a galaxy (contrast with each ring) and its strongest logarithmic spiral.

    Returns
    -------
    view : ndarray, (radii, angles)
        Radii as `FROM_TO` says, evenly in their logarithm.
    found : dict
        See `lib.explain.arms.read_arms`.
    radii : ndarray, (n,)
        In R90.
    ridges : ndarray, (m, n)
        Angle of each arm at the radii, in degrees from the major axis, anticlockwise.
    """
    ratio, angle = disc_shape(cutout.pixels)
    where = {"axis_ratio": ratio, "position_angle": angle}
    where |= {"r_min": FROM_TO[0] * R90, "r_max": FROM_TO[1] * R90}
    light = (cutout.pixels - sky_level(cutout.pixels[None])[0]).mean(axis=-1)
    view = arms.contrast(arms.polar_view(light.clip(0), **where))
    found = arms.read_arms(light, **where)
    radii = np.geomspace(*FROM_TO, 100)
    m = found["m"]
    if not m:
        return view, found, radii, np.empty((0, 100))
    wave = -found["winding"] * m / np.tan(np.radians(found["pitch"]))
    mode = arms.mode_amplitudes(view, *FROM_TO, m, np.array([wave]))[0]
    turn = 2 * np.pi * np.arange(m)[:, None] - np.angle(mode)
    return view, found, radii, np.degrees((turn - wave * np.log(radii)) / m) % 360


def picture(cutout: Cutout, row: dict[str, object], exported: package.Package):
    """Figure: the cut-out, its polar view with arms traced, probabilities, similar galaxies."""
    import matplotlib.pyplot as plt

    from lib.figures.style import ARM_COLOURS

    crop = exported.card["preprocessing"]["crop"]
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
    extent = np.array([-1, 1, -1, 1]) * crop / 2 / R90
    axes[0].imshow(central_crop(cutout.pixels, crop), extent=extent)
    axes[0].set_title("what the network sees", size=9)
    axes[0].set(xlabel="x [R90]", ylabel="y [R90]")

    view, found, radii, ridges = traced(cutout)
    axes[1].pcolormesh(
        np.linspace(0, 360, view.shape[1] + 1),
        np.geomspace(*FROM_TO, view.shape[0] + 1),
        *(view,),
        **{"cmap": "Greys_r", "vmin": -0.6, "vmax": 0.8, "rasterized": True},
    )
    for degrees in ridges:
        degrees[1:][np.abs(np.diff(degrees)) > 180] = np.nan
        axes[1].plot(degrees, radii, color="#D55E00", lw=1.2)
    axes[1].set(yscale="log", xlabel="angle in the disc [degrees]", ylabel="radius [R90]")
    axes[1].set_yticks([0.1, 0.2, 0.5, 1.0], ["0.1", "0.2", "0.5", "1"], minor=False)
    axes[1].set_yticks([], minor=True)
    title = "strongest spiral: m = {m}, pitch {pitch:.0f} degrees".format_map(found)
    axes[1].set_title(title, size=9)

    classes = exported.classes
    inside = row["prediction_set"].split()
    values = [row[name] for name in probability_columns(classes)]
    bars = axes[2].bar(classes, values, color=[ARM_COLOURS[c] for c in classes])
    for bar, name in zip(bars, classes):
        bar.set_alpha(1.0 if name in inside else 0.3)
    axes[2].set(xlabel="arm class m", ylabel="calibrated probability", ylim=(0, 1))
    axes[2].set_title(f"90 % prediction set: {', '.join(inside)} (dark)", size=9)

    axes[3].axis("off")
    axes[3].set_title("most similar training galaxies (label)", size=9)
    for k, name in enumerate(row["similar"].split("; ")):
        across, down = k % 2, k // 2
        path = paths.resolve(THUMBNAILS) / f"{name.split()[0]}.jpg"
        place = axes[3].inset_axes([0.5 * across, 0.5 - 0.5 * down, 0.48, 0.4])
        place.axis("off")
        if path.is_file():
            place.imshow(central_crop(decode(path, None), 144))
        place.set_title(name, size=8)
    verdict = f"{Path(str(row['name'])).name}: m = {row['predicted']}"
    if row["unlike_training"]:
        verdict += "   UNLIKE the training images: do not trust the probabilities"
    figure.suptitle(verdict, color="#B00000" if row["unlike_training"] else "black")
    return figure


def _galaxies(given: argparse.Namespace) -> Iterator[tuple[str, object]]:
    """Name of each galaxy, and its image's path or its position."""
    for what in given.what:
        if Path(what).is_dir():
            raise InputError(f"{what} is a folder: give its files ({what}/*), or use make predict")
        named = Path(what).suffix.lower() in (".jpg", ".jpeg", ".png", ".fits", ".fit", ".gz")
        yield what, Path(what) if named or Path(what).exists() else None
    if given.radec:
        yield "{:.5f}{:+.5f}".format(*given.radec), tuple(given.radec)
    if given.table:
        table = sky_table(given.table)
        yield from zip(table["name"], zip(table["ra"], table["dec"]))


def sky_table(path: Path) -> pd.DataFrame:
    """Table of positions: `name` (made where the file has none), `ra` and `dec` in degrees."""
    from lib.surveys.tables import read_columns

    if not path.is_file():
        raise InputError(f"{path} is missing: --table is a file with the columns ra and dec")
    numbers = {"ra": "ra", "dec": "dec"}
    table = read_columns(path, names={"name": "name"}, numbers=numbers, optional=["name"])
    if table[["ra", "dec"]].isna().any(axis=None):
        row = int(table[["ra", "dec"]].isna().any(axis=1).to_numpy().argmax()) + 1
        raise InputError(f"{path}: ra or dec is empty in row {row}: fill it in")
    made = [f"{ra:.5f}{dec:+.5f}" for ra, dec in zip(table["ra"], table["dec"])]
    names = table["name"].astype("str") if "name" in table else pd.Series(made, dtype="str")
    return table.assign(name=names.fillna(pd.Series(made, dtype="str")))


def run(given: argparse.Namespace) -> int:
    """Count the arms of all galaxies that are asked for; returns how many could not be done."""
    matplotlib.use("Agg")
    exported = package.load(paths.resolve(MODEL))
    engine = exported.engine()
    crop = exported.card["preprocessing"]["crop"]
    folder = given.out.parent if given.out else Path()
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    for name, source in _galaxies(given):
        row: dict[str, object] = {"name": name, "reason": ""}
        rows.append(row)
        try:
            if isinstance(source, Path):
                cutout = at_training_scale(decode(source, None), crop)
            else:
                ra, dec = source or sky.position(name)
                cutout, row["survey"] = from_sky(ra, dec, given.size, crop)
                row |= {"ra": ra, "dec": dec}
        except (ImageError, InputError) as error:
            row["reason"] = str(error)
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            continue
        row |= count(cutout, exported, engine)
        stem = re.sub(r"[^\w.+-]+", "_", Path(name).name if isinstance(source, Path) else name)
        stem += f"-{len(rows)}" if any(r.get("picture") == f"{stem}.arms.png" for r in rows) else ""
        row["picture"] = f"{stem}.arms.png"
        figure = picture(cutout, row, exported)
        with paths.atomic(folder / row["picture"]) as temporary:
            figure.savefig(temporary, dpi=120)
        figure.clear()
        matplotlib.pyplot.close(figure)
        print(told(row, exported, cutout), flush=True)
    if given.out:
        with paths.atomic(given.out) as temporary:
            pd.DataFrame(rows).to_csv(temporary, index=False)
    return sum(row["reason"] != "" for row in rows)


def told(row: dict[str, object], exported: package.Package, cutout: Cutout) -> str:
    """What is printed of a galaxy."""
    columns = probability_columns(exported.classes)
    lines = [
        f"{row['name']}: m = {row['predicted']}; 90 % prediction set "
        f"{{{row['prediction_set'].replace(' ', ', ')}}}",
        "  " + "  ".join(f"{c}: {row[name]:.2f}" for c, name in zip(exported.classes, columns)),
        f"  similar training galaxies (label): {row['similar']}",
    ]
    if row["unlike_training"]:
        lines.append(
            "  UNLIKE the training images (nearly face-on spirals): do not trust the probabilities"
        )
    if not cutout.whole:
        lines.append("  The galaxy fills the image: take a wider one, with some sky around it")
    return "\n".join([*lines, f"  {row['picture']}"])


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="count-arms", description=__doc__)
    parser.add_argument("what", nargs="*", help="JPEG, PNG or FITS (g, r, i) images, or names")
    parser.add_argument("--radec", nargs=2, type=float, metavar=("RA", "DEC"), help="degrees, ICRS")
    parser.add_argument("--size", type=float, help="width of images from the sky, arcminutes")
    parser.add_argument("--table", type=Path, help="table of positions: ra, dec, perhaps name")
    parser.add_argument("--out", type=Path, help="catalogue to write, .csv; pictures go beside it")
    given = parser.parse_args(argv)
    if not (given.what or given.radec or given.table):
        parser.error("give an image, a name, --radec or --table")
    try:
        return min(run(given), 1)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
