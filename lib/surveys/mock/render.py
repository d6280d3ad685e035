"""Images of simulated galaxies in the manner of SDSS colour cut-outs, and masks of their parts.

A galaxy is a Sersic bulge, an exponential disc that ends at a truncation radius, and on the disc a
bar, logarithmic spiral arms, sheared clumps, dust lanes and H II regions. It is seen through the
seeing in g, r and i with sky noise and with stars and small galaxies around it, and is stretched
as in Lupton et al. (2004). Each galaxy has a seed of its own, so that any one can be rendered
again from its row of the truth table, at any size.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.special import gamma, k1

FIELD = 424 * 0.02
"""Width of a cut-out in R90 (Willett et al. 2013, Sec. 2.2)."""

NATIVE_PIXEL = 0.396
"""SDSS pixel in arcsec; images are simulated at this scale and then resampled, as the real ones."""

SKY_SIGMA = np.array([0.0086, 0.0122, 0.0158], dtype=np.float32)
"""Noise of a native pixel in g, r, i (nanomaggies), tuned to the cut-outs, which are smoothed."""

NOISE_SMOOTHING = 0.51
"""Width (sigma, native pixels) over which resampling of the frames has correlated the noise."""

BANDS_SHARE = np.float32(0.55)
"""Part of the noise's variance that the bands have in common: real colour noise has been compressed
at the scale of the frames and of the cut-outs, and little of it is left."""

REGISTRATION = 0.25
"""Scatter of the shift of each band, in native pixels along each axis."""

SKY_LEFT = np.array([[-0.0030, 0.0020, 0.0022], [0.0012, 0.0012, 0.0018]], dtype=np.float32)
"""Mean (first row) and scatter of what sky subtraction leaves in g, r, i, nanomaggies a native
pixel, tuned to the colour of the sky in real cut-outs; its gradients scatter as much."""

JPEG_QUALITY = 75
"""Of the real files (read off their quantisation tables), with colour at half resolution."""

SHOT_NOISE = 1 / 900
"""Variance of a pixel per nanomaggie of light in it."""

STRETCH = np.array([7.75, 5.85, 5.4], dtype=np.float32) * 0.4
"""Grey level (1 = white) per nanomaggie in g, r, i before the asinh stretch."""

NONLINEARITY = 2.25
"""Softening of the asinh stretch."""

STAR_COLOURS = ((0.2, -0.1), (0.4, -0.08), (0.55, -0.08), (0.9, -0.08), (1.4, 0.5))
"""Colour g - r of field stars, and how far their r - i is off the galaxies' colour locus."""

_LOG_R_MIN = np.float32(np.log(0.02))


@lru_cache(maxsize=32)
def _sky_grid(n: int, field: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres x (right) and y (up) in R90, float32 (n, n)."""
    axis = ((np.arange(n) + 0.5) / n - 0.5) * field
    x, y = np.meshgrid(axis, -axis)
    return x.astype(np.float32), y.astype(np.float32)


def _rotated(galaxy, n: int, field: float) -> tuple[np.ndarray, np.ndarray]:
    """Sky coordinates along the major and minor axis, in R90."""
    x, y = _sky_grid(n, field)
    x, y = x - np.float32(galaxy.offset_x), y - np.float32(galaxy.offset_y)
    angle = np.radians(galaxy.position_angle)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x + sin * y, cos * y - sin * x


def disc_coordinates(galaxy, n: int, field: float = FIELD) -> tuple[np.ndarray, np.ndarray]:
    """Polar coordinates in the plane of the disc for every pixel of an ``n`` x ``n`` image.

    Parameters
    ----------
    galaxy : row of the truth table
        Needs ``position_angle`` and ``inclination`` (degrees).
    n : int
        Image width in pixels.
    field : float
        Image width in R90.

    Returns
    -------
    r, theta : ndarray of float32, (n, n)
        Radius in R90; angle in radians, counted from the major axis.
    """
    u, v = _rotated(galaxy, n, field)
    v = v / np.float32(np.cos(np.radians(galaxy.inclination)))
    return np.sqrt(u * u + v * v) + np.float32(1e-4), np.arctan2(v, u)


def _ramp(r: np.ndarray, centre: float, width: float) -> np.ndarray:
    """Smooth step from 0 below `centre` to 1 above it."""
    return 0.5 + 0.5 * np.tanh((r - np.float32(centre)) / np.float32(width))


def arm_pattern(
    galaxy, r: np.ndarray, theta: np.ndarray, lead: float = 0.0, narrow: float = 1.0
) -> np.ndarray:
    """Brightness pattern of the spiral arms, 1 on the ridge of a full-strength arm.

    Arm k follows ``theta = phase + 2 pi k / m + winding ln(r / arm_start) / tan(pitch)`` and is a
    von Mises bump in angle whose width is ``arm_width`` (radians).

    Parameters
    ----------
    galaxy : row of the truth table
    r, theta : ndarray of float32
        Coordinates in the disc, see `disc_coordinates`.
    lead : float
        Shift of the pattern in units of the arms' width, towards the concave side.
    narrow : float
        Factor on the arms' width.

    Returns
    -------
    ndarray of float32
    """
    m = int(galaxy.n_arms)
    if m == 0:
        return np.zeros_like(r)
    log_r = np.log(r / np.float32(galaxy.arm_start))
    width = galaxy.arm_width
    phi = theta - np.float32(galaxy.winding / np.tan(np.radians(galaxy.pitch))) * log_r
    phi += np.float32(galaxy.arm_wiggle) * np.sin(2.5 * log_r + np.float32(3 * galaxy.arm_phase))
    phi -= np.float32(galaxy.arm_phase + lead * width * galaxy.winding)
    cos, sin = np.cos(phi), np.sin(phi)
    kappa = np.float32(1 / (width * narrow) ** 2)
    ends = _ramp(r, galaxy.arm_start, 0.05)
    pattern = np.zeros_like(r)
    for k in range(m):
        # Arms differ in strength, place and length; all follow from the row, without a generator.
        chance = (0.618 * (k + 1) + galaxy.arm_phase) % 1.0
        strength = 1 - galaxy.arm_inequality * chance
        place = 2 * np.pi * (k + 0.28 * galaxy.arm_inequality * np.sin(7 * chance)) / m
        end = galaxy.arm_end * (1 - 0.4 * galaxy.arm_inequality * chance)
        aligned = np.float32(np.cos(place)) * cos + np.float32(np.sin(place)) * sin
        bump = np.exp(kappa * (aligned - 1))
        # Gaps along an arm, at places of its own.
        whole = 1 + np.float32(galaxy.arm_breaks) * np.sin(6 * log_r + np.float32(40 * chance))
        pattern += np.float32(strength) * bump * whole * (1 - _ramp(r, end, 0.16))
    return pattern * ends


def _clumps(galaxy, r, theta, rng: np.random.Generator) -> np.ndarray:
    """Zero-mean field of clumps that shear has drawn out into short trailing arcs."""
    seeds = np.zeros((48, 128), dtype=np.float32)
    for size, amplitude in ((2.6, 1.0), (1.0, 0.5)):
        scale = rng.standard_normal(seeds.shape, dtype=np.float32)
        # A row is twice as long as a column: round patches before the shear.
        scale = ndimage.gaussian_filter(scale, (size, 2 * size), mode=("nearest", "wrap"))
        seeds += np.float32(amplitude / scale.std()) * scale
    log_r = np.log(r)
    # Looser than the arms, or an eye would count the arcs.
    shear = galaxy.winding / np.tan(np.radians(galaxy.pitch + 25))
    row = (log_r - _LOG_R_MIN) * np.float32(10)
    column = (theta - np.float32(shear) * log_r) * np.float32(128 / (2 * np.pi))
    inside = r < 2.2
    field = np.zeros_like(r)
    field[inside] = ndimage.map_coordinates(
        seeds, (row[inside], column[inside]), order=1, mode="grid-wrap"
    )
    return field


def _sersic(radius: np.ndarray, effective: float, index: float) -> np.ndarray:
    b = 2 * index - 1 / 3 + 0.009876 / index
    scaled = (radius / np.float32(effective)) ** np.float32(1 / index)
    total = effective**2 * 2 * np.pi * index * b ** (-2 * index) * gamma(2 * index)
    return np.exp(np.float32(-b) * scaled) / np.float32(total)


def _bulge(galaxy, n: int, field: float) -> np.ndarray:
    """Bulge (or the whole of a smooth galaxy), unit flux when integrated over R90 squared."""
    u, v = _rotated(galaxy, n, field)
    # A bulge is seen flattened with the disc, but less so.
    tilt = 1 - 0.45 * (1 - np.cos(np.radians(min(galaxy.inclination, 65))))
    q = galaxy.axis_ratio * (tilt if galaxy.kind != "smooth" else 1.0)
    # The core is blunted at the size of a pixel, or the sampling would see a spike.
    radius = np.sqrt(
        u * u * np.float32(q) + v * v / np.float32(q) + np.float32((0.4 * field / n) ** 2)
    )
    return _sersic(radius, galaxy.bulge_radius, galaxy.bulge_sersic)


def _edge_on_disc(galaxy, n: int, field: float) -> tuple[np.ndarray, np.ndarray]:
    """Disc seen from its side (van der Kruit & Searle 1981) and its dust lane."""
    u, v = _rotated(galaxy, n, field)
    x = np.abs(u) / np.float32(galaxy.scale_length) + np.float32(1e-3)
    column = np.where(x < 12, x * k1(np.minimum(x, 12)), 0).astype(np.float32)
    height = np.abs(v) / np.float32(galaxy.thickness)
    disc = column / np.cosh(np.minimum(height, 20)) ** 2
    disc *= 1 - _ramp(np.abs(u), galaxy.truncation, 0.12)
    lane = np.exp(-((v / np.float32(0.35 * galaxy.thickness)) ** 2)) * np.exp(-0.5 * x)
    return disc, np.float32(2.5 * galaxy.dust) * lane


def _face_on_disc(
    galaxy, n: int, field: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smooth disc with bar, the young light on it, and the optical depth of dust."""
    r, theta = disc_coordinates(galaxy, n, field)
    disc = np.exp(-r / np.float32(galaxy.scale_length))
    disc *= 1 - _ramp(r, galaxy.truncation, 0.12 + 0.1 * galaxy.scale_length)
    if galaxy.bar_strength > 0:
        along = theta - np.float32(np.radians(galaxy.bar_angle))
        x = r * np.cos(along) / np.float32(galaxy.bar_length)
        y = r * np.sin(along) / np.float32(0.33 * galaxy.bar_length)
        # The fourth power makes the ends boxy.
        bar = np.exp(-((x * x + y * y) ** 2))
        disc += (
            np.float32(galaxy.bar_strength * np.exp(-0.6 * galaxy.bar_length / galaxy.scale_length))
            * bar
        )
    disc *= 1 + np.float32(galaxy.lopsidedness) * np.minimum(r, 1.5) * np.cos(
        theta - np.float32(galaxy.lopsided_angle)
    )
    if galaxy.kind != "spiral":
        return disc, np.zeros_like(disc), np.float32(galaxy.dust) * np.exp(-2 * r)
    pattern = arm_pattern(galaxy, r, theta)
    clumps = _clumps(galaxy, r, theta, rng)
    outer = _ramp(r, 0.2, 0.1)
    # Between the arms the disc is a little darker than without arms: the light has moved.
    mean = np.float32(0.4 * galaxy.arm_width * galaxy.n_arms)
    # Arms stand out more in the outer disc, where there is less old light.
    arms = np.float32(galaxy.arm_contrast) * (0.8 + 0.35 * np.minimum(r, 1.5)) * pattern
    patches = np.exp(np.float32(1.1 * galaxy.flocculence) * clumps) - 1
    young = disc * outer * (arms * (1 + np.float32(0.5) * patches) + np.float32(0.75) * patches)
    young = np.maximum(young, -0.45 * disc)
    disc = disc * (
        1 - np.float32(0.35) * np.minimum(np.float32(galaxy.arm_contrast) * mean, 1) * outer
    )
    # H II regions: points on arms and clumps, number per area independent of the resolution.
    density = (
        60 * (field / n) ** 2 * (pattern + np.float32(0.7 * galaxy.flocculence) * (clumps > 0.7))
    )
    knots = rng.random((n, n), dtype=np.float32) < density * outer * (r < 1.4)
    strength = 0.012 * (0.3 + galaxy.flocculence) * (n / field) ** 2 / 50
    young[knots] += (
        np.float32(strength) * disc[knots] * rng.exponential(1.0, knots.sum()).astype(np.float32)
    )
    lanes = arm_pattern(galaxy, r, theta, lead=-1.2, narrow=0.45) if galaxy.n_arms else pattern
    dust = np.float32(galaxy.dust) * (np.float32(1.6) * lanes + np.float32(0.4) * np.exp(-2 * r))
    return disc, young, dust


def _flux(magnitude: float) -> float:
    """Flux in nanomaggies."""
    return 10 ** (0.4 * (22.5 - magnitude))


def _colours(g_r: float, r_i_offset: float = 0.0) -> np.ndarray:
    """Flux in g, r, i relative to r for stars of colour g - r, near the galaxies' colour locus."""
    r_i = 0.08 + 0.38 * g_r + r_i_offset
    return np.array([10 ** (-0.4 * g_r), 1.0, 10 ** (0.4 * r_i)], dtype=np.float32)


def _galaxy_light(galaxy, n: int, field: float, rng: np.random.Generator) -> np.ndarray:
    """Light of the galaxy before the seeing: float32 (3, n, n) in g, r, i, nanomaggies a pixel."""
    area = (field / n) ** 2
    total = _flux(galaxy.mag_r)
    bulge = _bulge(galaxy, n, field) * np.float32(total * galaxy.bulge_fraction * area)
    light = _colours(galaxy.bulge_g_r, galaxy.r_i_offset)[:, None, None] * bulge
    if galaxy.kind == "smooth":
        return light
    if galaxy.kind == "edge-on":
        old, dust = _edge_on_disc(galaxy, n, field)
        young = np.zeros_like(old)
    else:
        old, young, dust = _face_on_disc(galaxy, n, field, rng)
    scale = np.float32(total * (1 - galaxy.bulge_fraction) / (old.sum() + young.sum()))
    light += _colours(galaxy.disc_g_r, galaxy.r_i_offset)[:, None, None] * (scale * old)
    light += _colours(galaxy.disc_g_r - 2 * galaxy.arm_blueness, galaxy.r_i_offset)[
        :, None, None
    ] * (scale * young)
    # Galactic extinction curve: g 1.4, r 1, i 0.75 relative to r.
    light *= np.exp(-np.array([1.4, 1.0, 0.75], dtype=np.float32)[:, None, None] * dust)
    return light


def _add_neighbours(light: np.ndarray, galaxy, field: float, rng: np.random.Generator) -> None:
    """Add stars and small galaxies of the field, at random, in place."""
    n = light.shape[-1]
    pixel = field * galaxy.r90_arcsec / n
    square_arcmin = (field * galaxy.r90_arcsec / 60) ** 2
    n_stars, n_galaxies = rng.poisson(2.2 * square_arcmin), rng.poisson(3.5 * square_arcmin)
    for is_star in [True] * n_stars + [False] * n_galaxies:
        # Counts rise with magnitude about tenfold in 3.5 mag for stars, in 2 mag for galaxies.
        faint, slope = (21.8, 0.28) if is_star else (21.5, 0.45)
        magnitude = max(faint + np.log10(1 - rng.random()) / slope, 14.5)
        colours = STAR_COLOURS[rng.integers(len(STAR_COLOURS))]
        if not is_star:
            colours = rng.normal(0.6, 0.3), 0.0
        x, y = rng.uniform(0, n, 2)
        shape, angle, arcsec = rng.uniform(0.35, 1), rng.uniform(0, np.pi), rng.uniform(0.4, 1.3)
        if np.hypot(x - n / 2, y - n / 2) < 0.35 * n / field:
            continue
        flux = _colours(*colours) * np.float32(_flux(magnitude))
        reach = 1 if is_star else int(np.ceil(6 * arcsec / pixel)) + 1
        x0, x1 = max(int(x) - reach, 0), min(int(x) + reach + 1, n)
        y0, y1 = max(int(y) - reach, 0), min(int(y) + reach + 1, n)
        dx = np.arange(x0, x1)[None, :] + 0.5 - x
        dy = np.arange(y0, y1)[:, None] + 0.5 - y
        if is_star:
            stamp = np.maximum(1 - np.abs(dx), 0) * np.maximum(1 - np.abs(dy), 0)
        else:
            u = dx * np.cos(angle) + dy * np.sin(angle)
            v = (dy * np.cos(angle) - dx * np.sin(angle)) / shape
            stamp = np.exp(-np.hypot(u, v) * pixel / arcsec)
            stamp /= max(stamp.sum(), 1.0)
        light[:, y0:y1, x0:x1] += flux[:, None, None] * stamp.astype(np.float32)


def _stretch(light: np.ndarray) -> np.ndarray:
    """Colour image after Lupton et al. (2004): uint8 (n, n, 3), red = i, green = r, blue = g."""
    colour = light * STRETCH[:, None, None]
    radius = np.maximum(colour.sum(axis=0), np.float32(1e-6))
    colour *= np.arcsinh(NONLINEARITY * radius) / (NONLINEARITY * radius)
    return (255 * np.clip(colour[::-1], 0, 1)).astype(np.uint8).transpose(1, 2, 0)


def render(galaxy, size: int = 424, field: float = FIELD) -> np.ndarray:
    """Colour cut-out of a simulated galaxy.

    Parameters
    ----------
    galaxy : row of the truth table
        A Series, or a named tuple of `DataFrame.itertuples`.
    size : int
        Width in pixels.
    field : float
        Width in R90; smaller than a cut-out's to save the sky around a galaxy in pre-training.

    Returns
    -------
    ndarray of uint8, (size, size, 3)
        The same for the same row and size. Noise differs between sizes, the galaxy does not.
    """
    rng = np.random.default_rng(int(galaxy.image_seed))
    native = field * galaxy.r90_arcsec / NATIVE_PIXEL
    n = int(np.clip(round(native), min(64, size), size))
    light = _galaxy_light(galaxy, n, field, rng)
    _add_neighbours(light, galaxy, field, rng)
    pixel = field * galaxy.r90_arcsec / n
    sigma = galaxy.psf_fwhm_arcsec / 2.355 / pixel
    # The seeing is worse in the blue, and the registration of the frames is not perfect.
    for band, worse in zip(light, (1.07, 1.0, 0.95), strict=True):
        shift = rng.normal(0, REGISTRATION * n / native, 2)
        # `ndimage.shift` cannot write into its own input.
        moved = ndimage.shift(band, shift, order=1, mode="nearest")
        ndimage.gaussian_filter(moved, worse * sigma, output=band, mode="nearest", truncate=3.5)
    # A pixel of n / native the number gathers the sky of (native / n)^2 native pixels.
    sky = (SKY_SIGMA * np.float32(galaxy.sky_noise * native / n))[:, None, None]
    common, *noise = rng.standard_normal((4, n, n), dtype=np.float32)
    noise = np.sqrt(1 - BANDS_SHARE) * np.stack(noise) + np.sqrt(BANDS_SHARE) * common
    noise *= np.sqrt(sky**2 + np.float32(SHOT_NOISE) * np.maximum(light, 0))
    width = NOISE_SMOOTHING * n / native
    for band in noise:
        ndimage.gaussian_filter(band, width, output=band, mode="wrap", truncate=3.0)
    noise *= np.sqrt(1 + 4 * np.pi * width**2)  # what smoothing took from the scatter
    # The stretch works on surface brightness, whatever the size of a pixel.
    light = (light + noise) * np.float32((n / native) ** 2) + _sky_left(n, rng)
    image = through_jpeg(_stretch(light))
    if n < size:
        image = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
    return image


def _sky_left(n: int, rng: np.random.Generator) -> np.ndarray:
    """Level and linear gradient that sky subtraction left, float32 (3, n, n)."""
    axis = np.linspace(-1, 1, n, dtype=np.float32)
    level, right, down = rng.standard_normal((3, 3, 1, 1), dtype=np.float32)
    plane = level + 0.5 * right * axis[None, :] + 0.5 * down * axis[:, None]
    return SKY_LEFT[0][:, None, None] + SKY_LEFT[1][:, None, None] * plane


def through_jpeg(image: np.ndarray) -> np.ndarray:
    """The image after the compression that SDSS's server did before Galaxy Zoo scaled it."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=JPEG_QUALITY)
    return np.asarray(Image.open(buffer))


def arm_mask(galaxy, size: int = 424) -> np.ndarray:
    """Pixels on the spiral arms, which end where one has fallen to 0.4 of its ridge.

    Parameters
    ----------
    galaxy : row of the truth table
    size : int
        Width of the image in pixels.

    Returns
    -------
    ndarray of bool, (size, size)
        Empty for galaxies without arms.
    """
    return arm_pattern(galaxy, *disc_coordinates(galaxy, size)) > 0.4


def bulge_mask(galaxy, size: int = 424) -> np.ndarray:
    """Pixels within two effective radii of the bulge: bool (size, size)."""
    u, v = _rotated(galaxy, size, FIELD)
    return np.hypot(u, v / np.float32(galaxy.axis_ratio)) < 2 * galaxy.bulge_radius
