"""Parameters of simulated galaxies, drawn so that the survey resembles Galaxy Zoo 2.

Lengths that shape a galaxy are in units of R90, the Petrosian radius that holds 90 % of the light,
because GZ2 cut-outs are scaled by it (0.02 R90 per pixel, so R90 is 50 px of 424).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lib.schema import ARM_CLASSES, InputError

ARM_FREQUENCIES = {
    "gz2-like": dict(zip(ARM_CLASSES, (0.05, 0.46, 0.12, 0.03, 0.04, 0.30), strict=True)),
    "enriched": dict(zip(ARM_CLASSES, (0.14, 0.20, 0.20, 0.18, 0.18, 0.10), strict=True)),
}
"""Share of each true arm class among simulated spirals. ``gz2-like`` is fitted so that the labels
after the paper's cuts, without that on the purity, have the mix of real face-on spirals (notebook
00, section 4.4); ``enriched`` leaves enough of the rare labels, of which volunteers agree on few,
to train on."""

SPIRAL_FRACTION = 0.2
"""Share of face-on spirals in GZ2; the embedded profile raises it, since only they are used."""

KIND_RATIOS = {"smooth": 0.62, "edge-on": 0.2, "disc": 0.18}
"""How the galaxies that are not face-on spirals divide into kinds."""

MAGNITUDE_LIMIT = 17.0
"""GZ2 holds galaxies brighter than this r magnitude (Willett et al. 2013, Sec. 2)."""

SIZE_LIMIT = 3.0
"""GZ2 holds galaxies with R90 above this many arcsec (Willett et al. 2013, Sec. 2)."""


def arm_frequencies(frequencies: str | Mapping[str, float]) -> dict[str, float]:
    """Checked shares of the arm classes, normalised to sum 1.

    Parameters
    ----------
    frequencies : str or mapping
        A key of `ARM_FREQUENCIES`, or a share for every class of `ARM_CLASSES`.

    Raises
    ------
    InputError
        If the name is unknown, a class is unknown or missing, or a share is negative.
    """
    if isinstance(frequencies, str):
        if frequencies not in ARM_FREQUENCIES:
            raise InputError(
                f"parameter arm_frequencies is {frequencies!r}: choose one of "
                f"{', '.join(ARM_FREQUENCIES)}, or give a share per arm class"
            )
        frequencies = ARM_FREQUENCIES[frequencies]
    wrong = set(ARM_CLASSES).symmetric_difference(frequencies)
    if wrong:
        raise InputError(
            f"parameter arm_frequencies must name exactly the classes {', '.join(ARM_CLASSES)}; "
            f"unknown or missing: {', '.join(sorted(map(str, wrong)))}"
        )
    total = sum(frequencies.values())
    if min(frequencies.values()) < 0 or total <= 0:
        raise InputError(
            f"parameter arm_frequencies holds {dict(frequencies)}: shares must be at least 0 and "
            "not all 0"
        )
    return {c: frequencies[c] / total for c in ARM_CLASSES}


def draw_galaxies(
    rng: np.random.Generator,
    n: int,
    *,
    spiral_fraction: float = SPIRAL_FRACTION,
    frequencies: str | Mapping[str, float] = "gz2-like",
) -> pd.DataFrame:
    """Draw the true parameters of galaxies.

    Parameters
    ----------
    rng : Generator
        All randomness comes from it, so one seed gives one table.
    n : int
        Number of galaxies, at least 1.
    spiral_fraction : float
        Share of face-on spirals, in [0, 1].
    frequencies : str or mapping
        Shares of the arm classes among them, see `arm_frequencies`.

    Returns
    -------
    DataFrame
        One row per galaxy. ``kind`` is spiral, disc (no arms), smooth or edge-on; ``arm_class`` the
        true class, ``?`` for flocculent galaxies without countable arms and ``none`` for other
        kinds; ``n_arms`` the true number m (0 to 6). Angles are in degrees except ``arm_phase``,
        ``arm_width`` and ``lopsided_angle`` (radians), lengths in R90 unless the name ends with
        ``arcsec``, colours in magnitudes.

    Raises
    ------
    InputError
        If a parameter is out of its range.
    """
    shares = arm_frequencies(frequencies)
    if n < 1:
        raise InputError(f"number of galaxies is {n}: it must be at least 1")
    if not 0 <= spiral_fraction <= 1:
        raise InputError(f"parameter spiral_fraction is {spiral_fraction}: it must lie in [0, 1]")

    kind = rng.choice(
        ["spiral", *KIND_RATIOS],
        size=n,
        p=[spiral_fraction, *((1 - spiral_fraction) * np.array(list(KIND_RATIOS.values())))],
    )
    spiral = kind == "spiral"
    arm_class = np.where(spiral, rng.choice(list(shares), size=n, p=list(shares.values())), "none")
    table = pd.DataFrame({"kind": kind, "arm_class": arm_class})
    table["image_seed"] = rng.integers(0, 2**62, n)
    _draw_sky(rng, table)
    _draw_disc(rng, table)
    _draw_arms(rng, table)
    _draw_colours(rng, table)
    return table


def _draw_sky(rng: np.random.Generator, table: pd.DataFrame) -> None:
    """Redshift, angular size, magnitude, seeing and sky noise, within GZ2's limits."""
    n = len(table)
    kept: list[np.ndarray] = []
    while sum(map(len, kept)) < n:
        z = np.clip(0.072 * np.exp(0.5 * rng.standard_normal(4 * n)), 0.01, 0.25)
        kpc = 11.5 * (z / 0.07) ** 0.35 * np.exp(0.36 * rng.standard_normal(4 * n))
        # Angular-diameter distance of a flat universe to second order in z; H0 = 70 km/s/Mpc.
        kpc_per_arcsec = 4283.0 * z / (1 + 1.23 * z) * 4.848e-3
        arcsec = kpc / kpc_per_arcsec
        surface_brightness = 21.76 + 0.5 * rng.standard_normal(4 * n)
        magnitude = surface_brightness - 2.5 * np.log10(np.pi * arcsec**2)
        passes = (magnitude < MAGNITUDE_LIMIT) & (arcsec > SIZE_LIMIT) & (arcsec < 45)
        kept.append(np.stack([z, arcsec, magnitude], axis=1)[passes])
    table[["redshift", "r90_arcsec", "mag_r"]] = np.concatenate(kept)[:n]
    table["psf_fwhm_arcsec"] = np.clip(1.36 + 0.14 * rng.standard_normal(n), 0.9, 1.8)
    # Galaxies without star formation are more compact in light.
    smooth = table["kind"] == "smooth"
    table.loc[smooth, "mag_r"] -= rng.uniform(0.1, 0.5, smooth.sum())
    # Relative to the typical noise: sky brightness and transparency vary from night to night.
    table["sky_noise"] = np.exp(0.16 * rng.standard_normal(n))


def _draw_disc(rng: np.random.Generator, table: pd.DataFrame) -> None:
    """Disc, bulge and bar, or the Sersic profile of a smooth galaxy."""
    n = len(table)
    spiral, smooth, edge = (table["kind"] == k for k in ("spiral", "smooth", "edge-on"))
    # Random orientations, so cos i is uniform; discs beyond 70 deg are the edge-on ones.
    table["inclination"] = np.degrees(np.arccos(rng.uniform(0.35, 1.0, n)))
    table.loc[edge, "inclination"] = 90.0
    table.loc[smooth, "inclination"] = 0.0
    table["position_angle"] = rng.uniform(0, 180, n)
    table["offset_x"], table["offset_y"] = 0.032 * rng.standard_normal((2, n))
    table["scale_length"] = 1 / rng.uniform(1.6, 2.3, n)
    table["truncation"] = rng.uniform(1.2, 2.1, n)
    bulge = np.clip(0.105 * np.exp(0.75 * rng.standard_normal(n)), 0.005, 0.5)
    bulge_disc = np.clip(0.3 * np.exp(0.4 * rng.standard_normal(n)), 0.1, 0.7)
    table["bulge_fraction"] = np.where(spiral | edge, bulge, bulge_disc)
    table.loc[smooth, "bulge_fraction"] = 1.0
    radius = 0.1 * (table["bulge_fraction"] / 0.1) ** 0.3 * np.exp(0.25 * rng.standard_normal(n))
    table["bulge_radius"] = np.where(smooth, rng.uniform(0.38, 0.5, n), radius.clip(0.04, 0.3))
    table["bulge_sersic"] = np.where(smooth, rng.uniform(1.3, 4.5, n), rng.uniform(0.9, 2.6, n))
    table["axis_ratio"] = np.where(smooth, 1 - 0.6 * rng.beta(1.3, 2.2, n), rng.uniform(0.75, 1, n))
    table["thickness"] = rng.uniform(0.13, 0.3, n)
    barred = rng.random(n) < np.where(spiral, 0.42, 0.25)
    barred &= ~(smooth | edge)
    table["bar_length"] = np.where(barred, rng.uniform(0.2, 0.42, n), 0.0)
    table["bar_strength"] = np.where(barred, rng.uniform(0.4, 1.3, n), 0.0)
    table["dust"] = np.where(smooth, 0.0, rng.uniform(0.0, 0.5, n))


def _draw_arms(rng: np.random.Generator, table: pd.DataFrame) -> None:
    """Arms, clumps and lopsidedness; galaxies of class "?" have the clumps but no arms."""
    n = len(table)
    spiral = (table["kind"] == "spiral").to_numpy()
    known = table["arm_class"].map({"1": 1, "2": 2, "3": 3, "4": 4, "5+": 5})
    n_arms = known.fillna(0).to_numpy().astype(int)
    table["n_arms"] = n_arms + ((n_arms == 5) & (rng.random(n) < 0.45))

    # From here on nothing depends on the number of arms: what is easier to measure than arms would
    # give it away.
    table["winding"] = rng.choice([-1, 1], n)
    table["pitch"] = np.where(spiral, np.clip(rng.normal(20, 5.5, n), 11, 36), 0.0)
    table["arm_width"] = np.where(spiral, rng.uniform(0.15, 0.28, n), 0.0)
    contrast = 1.2 * np.exp(0.5 * rng.standard_normal(n))
    table["arm_contrast"] = np.where(spiral, np.clip(contrast, 0.15, 2.6), 0.0)
    start = np.where(
        table["bar_length"] > 0, 0.85 * table["bar_length"], rng.uniform(0.08, 0.24, n)
    )
    table["arm_start"] = np.where(spiral, start, 0.0)
    table["arm_end"] = np.where(spiral, rng.uniform(0.85, 1.55, n), 0.0)
    table["arm_phase"] = rng.uniform(0, 2 * np.pi, n)
    table["arm_inequality"] = np.where(spiral, rng.beta(1.8, 2.8, n), 0.0)
    table["arm_wiggle"] = np.where(spiral, np.abs(rng.normal(0, 0.2, n)), 0.0)
    table["arm_breaks"] = np.where(spiral, rng.uniform(0.1, 0.8, n), 0.0)
    table["flocculence"] = np.where(spiral, 0.08 + 0.6 * rng.beta(2, 3.5, n), 0.0)
    # Discs without arms are lopsided too (Zaritsky & Rix 1997: a third of the spirals).
    disc = table["kind"].isin(["spiral", "disc"])
    lopsided = np.minimum(np.abs(rng.normal(0, 0.24, n)), 0.7)
    table["lopsidedness"] = np.where(disc, lopsided, 0.0)
    table["lopsided_angle"] = rng.uniform(0, 2 * np.pi, n)
    # A bar lies along the start of the arms.
    table["bar_angle"] = np.degrees(table["arm_phase"]) % 180


def _draw_colours(rng: np.random.Generator, table: pd.DataFrame) -> None:
    """Colours of the old (bulge) and young (disc, arms) light, reddened with redshift."""
    n = len(table)
    spiral, smooth = (table["kind"] == k for k in ("spiral", "smooth"))
    redshifting = 1.1 * (table["redshift"] - 0.06)
    disc = np.where(spiral, rng.normal(0.34, 0.16, n), rng.normal(0.6, 0.16, n))
    table["bulge_g_r"] = rng.normal(np.where(smooth, 0.74, 0.80), 0.13) + redshifting
    table["disc_g_r"] = np.minimum(np.clip(disc, 0.0, 0.95) + redshifting, table["bulge_g_r"])
    # Age, metals and dust shift r - i a little against g - r.
    table["r_i_offset"] = rng.normal(0, 0.05, n)
    table["arm_blueness"] = np.where(spiral, np.clip(rng.normal(0.17, 0.06, n), 0, 0.35), 0.0)
