"""Cut-outs: decoding, the central crop, and a cache of pixels that every later step reads.

A survey's JPEGs are decoded once. Their central crops lie in one uint8 array on disk,
``images_<colour>_<crop>.npy``, with an index of the same name that says which galaxy is in which
row. The array is memory-mapped, so that a step reads only what it uses, and a smaller crop is a
view of a larger one.

Augmentation (Sec. 2.3) has no state: the random numbers of a view depend on a seed, the number of
the view and the galaxy's row in the cache, and on nothing else. A training run can therefore be
taken up in the middle, and views can be computed ahead, without a change to a single pixel.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageFile

from lib.paths import atomic, check_space
from lib.schema import InputError

CHANNELS = {"grey": 1, "rgb": 3}
"""Colours that a network can be given, and their number of channels."""

_ORDER, _VIEW = 0, 1  # streams of random numbers below one seed
_CHUNK = 512
_DECODERS = 4


class ImageError(Exception):
    """A file is not the cut-out that it should be; the message is the reason kept in the list."""


@dataclass(frozen=True)
class ImageCache:
    """Central crops of a survey.

    Attributes
    ----------
    arrays : ndarray, uint8, (n, crop, crop, 3) or (n, crop, crop, 1)
        Memory-mapped pixels; the last axis is 3 unless the cache itself was written in grey.
    index : DataFrame
        `galaxy_id` and `row`, one per galaxy.
    crop : int
        Side in pixels.
    colour : {"rgb", "grey"}
        What `network_input` makes of the pixels.
    sha256 : str
        Hash of the whole array on disk, which is the cache's identity.
    """

    arrays: np.ndarray
    index: pd.DataFrame
    crop: int
    colour: str
    sha256: str

    def rows(self, galaxy_ids) -> np.ndarray:
        """Rows (int64) of some galaxies, in their order.

        Raises
        ------
        InputError
            Names the first galaxies that have no image here.
        """
        rows = pd.Index(self.index["galaxy_id"]).get_indexer(pd.Index(galaxy_ids))
        if (rows < 0).any():
            absent = pd.Index(galaxy_ids)[rows < 0]
            raise InputError(
                f"{len(absent)} galaxies have no image in the cache (first: "
                f"{', '.join(str(i) for i in absent[:3])}). missing.csv of the pre-processing step "
                "says why; keep only galaxies that ImageCache.has."
            )
        return self.index["row"].to_numpy()[rows]

    def has(self, galaxy_ids) -> np.ndarray:
        """Which galaxies have an image (bool, same length)."""
        return pd.Index(galaxy_ids).isin(self.index["galaxy_id"])


def network_input(images: np.ndarray, colour: str) -> np.ndarray:
    """Cached pixels, uint8 (n, height, width, 1 or 3), as a network takes them: float32 [0, 255].

    Grey is the mean of the channels (Sec. 2.2), not the luma of JPEG.
    """
    if colour == "grey" and images.shape[-1] == 3:
        # A sum over the short last axis is an order of magnitude slower than three plane sums.
        grey = images[..., 0].astype(np.float32)
        grey += images[..., 1]
        grey += images[..., 2]
        return grey[..., np.newaxis] * np.float32(1 / 3)
    return images.astype(np.float32)


def dihedral(pixels: np.ndarray, view: int) -> np.ndarray:
    """One of the 8 rotations by right angles and mirrors of images (n, side, side, channels).

    View 0 is the image itself; none of them interpolates.
    """
    turned = np.rot90(pixels, view % 4, axes=(1, 2))
    return np.ascontiguousarray(turned[:, :, ::-1] if view >= 4 else turned)


def central_crop(images: np.ndarray, crop: int) -> np.ndarray:
    """Central `crop` x `crop` pixels of (..., height, width, channels), as a view.

    Raises
    ------
    InputError
        If the crop is larger than the image, or cannot be central to the pixel.
    """
    height, width = images.shape[-3:-1]
    check_crop(crop, min(height, width))
    top, left = (height - crop) // 2, (width - crop) // 2
    return images[..., top : top + crop, left : left + crop, :]


def bin_pixels(image: np.ndarray, binning: int) -> np.ndarray:
    """Mean of `binning` x `binning` pixels of (height, width, channels), rounded to uint8.

    >>> bin_pixels(np.array([[[0], [2]], [[4], [6]]], np.uint8), 2)
    array([[[3]]], dtype=uint8)
    """
    # Sums of shifted images: five times as fast as a mean over two axes.
    shifts = range(binning)
    total = sum(image[i::binning, j::binning].astype(np.uint32) for i in shifts for j in shifts)
    return np.rint(total / binning**2).astype(np.uint8)


def check_binning(binning: int, size: int) -> None:
    """Raise InputError unless a `size` px wide image divides into blocks `binning` px wide."""
    if binning < 1 or size % binning:
        raise InputError(f"binning = {binning}: it must be 1 or more and divide {size} px")


def check_crop(crop: int, size: int) -> None:
    """Raise InputError unless a `size` px wide image has a central crop `crop` px wide."""
    if not 0 < crop <= size:
        raise InputError(f"crop = {crop} px is outside 1 to {size} px, the size of the images")
    if (size - crop) % 2:
        raise InputError(
            f"crop = {crop} px cannot be central in {size} px: the difference must be even"
        )


@dataclass(frozen=True)
class Lupton:
    """Stretch of FITS images to RGB (Lupton et al. 2004).

    Attributes
    ----------
    stretch : float, optional
        Linear part, in the unit of the pixels. By default it is measured in each image, whatever
        its unit: the brightest 1 % of its central quarter become as bright as in `LEVEL`.
    softening : float
        Lupton's Q.
    """

    stretch: float | None = None
    softening: float = 8.0

    def __post_init__(self):
        if not all(value > 0 for value in (self.stretch, self.softening) if value is not None):
            raise InputError(f"stretch = {self.stretch}, softening = {self.softening}: above 0")


LEVEL = 125
"""Grey level that 1 % of the pixels of the central quarter exceed, in the median of 1,226 galaxies
of the Galaxy Challenge."""

FITS = (".fits", ".fit", ".fits.gz", ".fits.fz")
"""Suffixes of FITS images, in lower case."""

_BANDS = {3: "gri", 4: "griz", 5: "ugriz"}  # of cubes whose header names none
_LARGEST = 10_000  # pixels along a side
_DARK = 32  # an image no brighter than this grey level shows nothing


def decode(
    path: str | Path, size: int | None, used: int | None = None, lupton: Lupton | None = None
) -> np.ndarray:
    """Read one cut-out.

    Parameters
    ----------
    path : path
        JPEG or PNG file (grey, palette and opaque alpha become RGB), or a FITS file whose first
        image is a cube of bands, (n, size, size): those that ``BANDS`` or ``BAND0``... name, else
        gri, griz or ugriz.
    size : int, optional
        Height and width that it must have, in pixels; checked before any pixel is decoded, so
        that a huge image costs nothing. By default any.
    used : int, optional
        Side of the central part that must be finite in a FITS file; half of it by default.
    lupton : Lupton, optional
        Stretch of FITS images.

    Returns
    -------
    ndarray, uint8, (size, size, 3)

    Raises
    ------
    ImageError
        The reason in a few words: not there, empty, not an image, truncated, of another size, or
        not 8-bit RGB.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError("no such file")
    if path.stat().st_size == 0:
        raise ImageError("empty file")
    if path.name.lower().endswith(FITS):
        return _decode_fits(path, size, used, lupton or Lupton())
    # Some libraries set this for the whole process; half an image must not pass as grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            _check_size(image.size, size)
            if image.mode not in ("RGB", "RGBA", "L", "LA", "P", "PA"):
                raise ImageError(f"colour mode {image.mode}: save it as 8-bit RGB")
            if image.has_transparency_data:
                if image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
                    raise ImageError("transparent pixels: save it on a black background")
                image = image.convert("RGBA")
            return np.asarray(image.convert("RGB"))
    except Image.UnidentifiedImageError:
        raise ImageError("not a JPEG or PNG image") from None
    except Image.DecompressionBombError:
        raise ImageError(f"far more pixels than the expected {size} x {size} px") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"cannot be decoded: {error}") from None


def _check_size(found: tuple[int, int], size: int | None) -> None:
    """Width and height of an image."""
    if size and found != (size, size):
        raise ImageError(f"{found[0]} x {found[1]} px, expected {size} x {size} px")
    if max(found) > _LARGEST:
        raise ImageError(f"{found[0]} x {found[1]} px, more than {_LARGEST}: cut out the galaxy")


def _decode_fits(path: Path, size: int | None, used: int | None, lupton: Lupton) -> np.ndarray:
    """RGB, uint8 (size, size, 3), of a cube of bands; its first row is the top of the picture."""
    from astropy.io import fits
    from astropy.visualization import make_lupton_rgb

    try:
        with fits.open(path, memmap=False) as hdus:
            found = next((hdu for hdu in hdus if hdu.is_image and hdu.shape), None)
            if found is None:
                raise ImageError("a FITS file without an image")
            shape = found.shape
            if len(shape) != 3 or shape[0] not in _BANDS:
                raise ImageError(f"FITS image of shape {shape}: bands g, r, i are needed in a cube")
            _check_size(shape[:0:-1], size)
            planes = _gri(found.header, shape[0])
            cube = found.data[planes].astype(np.float32)
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise ImageError(f"cannot be read as FITS: {error}") from None
    side = used or min(shape[1:]) // 2
    top, left = (shape[1] - side) // 2, (shape[2] - side) // 2
    if not np.isfinite(cube[:, top : top + side, left : left + side]).all():
        raise ImageError("pixels that are not finite")
    g, r, i = np.nan_to_num(cube, nan=0.0, posinf=0.0, neginf=0.0)
    stretch = lupton.stretch or _measured(np.mean([g, r, i], axis=0), lupton.softening)
    # FITS images start at the bottom left, pictures at the top left.
    with np.errstate(invalid="ignore"):  # 0 / 0 where there is no light
        rgb = make_lupton_rgb(i, r, g, stretch=stretch, Q=lupton.softening)[::-1]
    if rgb.max() < _DARK:
        raise ImageError(
            f"almost black, the largest value is {rgb.max()} of 255: stretch = {stretch:g} is not "
            "in the unit of its pixels; leave it out to have it measured"
        )
    return rgb


def _gri(header, planes: int) -> list[int]:
    """Which planes of a cube are g, r and i."""
    named = str(header.get("BANDS", "")) or "".join(
        str(header.get(f"BAND{k}", "")).strip()[-1:] for k in range(planes)
    )
    bands = re.sub("[^a-z]", "", named.lower()) or _BANDS[planes]
    if len(bands) != planes or not set("gri") <= set(bands):
        raise ImageError(
            f"bands {bands} in {planes} planes: networks here have learnt from g, r and i, and "
            "other bands look different; get those"
        )
    return [bands.index(band) for band in "gri"]


def _measured(light: np.ndarray, softening: float) -> float:
    """Stretch that gives an image (height, width) the brightness of `LEVEL`."""
    height, width = light.shape
    middle = light[height // 4 : -(height // 4), width // 4 : -(width // 4)]
    bright = float(np.percentile(middle, 99))
    if bright <= 0:
        raise ImageError("nothing brighter than zero in its middle")
    # The inverse of astropy's stretch, whose slope at zero does not depend on Q.
    slope = 0.1 / np.arcsinh(0.1 * softening)
    return bright * softening / np.sinh(LEVEL / 255 / slope)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image (Sec. 2.3); zeros and False switch one off.

    Attributes
    ----------
    rotation : float
        Largest angle in degrees, either way.
    flip : bool
        Mirror left-right and up-down, each with probability 1/2.
    zoom : float
        Largest relative change of the height and, drawn independently, of the width.
    """

    rotation: float = 180.0
    flip: bool = True
    zoom: float = 0.2

    def __post_init__(self):
        if not 0 <= self.rotation <= 180:
            raise InputError(f"rotation = {self.rotation} degrees is outside 0 to 180")
        if not 0 <= self.zoom < 1:
            raise InputError(f"zoom = {self.zoom} is outside 0 to 1")


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """Order of `n` galaxies in an epoch: a permutation, int64, that depends on nothing else."""
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(n)


def random_transforms(
    rows: np.ndarray, n_rows: int, crop: int, augmentation: Augmentation, seed: int, view: int
) -> np.ndarray:
    """Geometry of one augmented view of the galaxies in some rows of a cache, see `transforms`.

    The random numbers are those of a stream (`seed`) and of a view of it; an epoch takes one view.
    `n_rows` is the number of galaxies in the cache, `crop` the side of the images in pixels.
    """
    rng = np.random.default_rng([_VIEW, seed, view])
    rotation, height, width = rng.uniform(-1, 1, (3, n_rows))[:, rows]
    left_right, up_down = rng.integers(0, 2, (2, n_rows))[:, rows] * augmentation.flip
    return transforms(
        crop,
        angle=rotation * augmentation.rotation,
        zoom_height=1 + height * augmentation.zoom,
        zoom_width=1 + width * augmentation.zoom,
        left_right=left_right,
        up_down=up_down,
    )


def transforms(
    crop: int, *, angle=0.0, zoom_height=1.0, zoom_width=1.0, left_right=0, up_down=0
) -> np.ndarray:
    """Rotation, then mirrors, then zoom, about the centre of the image, as one affine map.

    Parameters
    ----------
    crop : int
        Side of the images in pixels.
    angle : array-like, (n,)
        Counter-clockwise rotation as the image is shown, in degrees.
    zoom_height, zoom_width : array-like, (n,)
        Part of the image's height and width that fills the frame: below 1 the galaxy grows.
    left_right, up_down : array-like of {0, 1}, (n,)

    Returns
    -------
    ndarray, float32, (n, 8)
        The place (a0 x + a1 y + a2, b0 x + b1 y + b2) that pixel (x, y) of the result is taken
        from, as TensorFlow's ImageProjectiveTransform takes it.
    """
    angle, zoom_height, zoom_width, left_right, up_down = np.broadcast_arrays(
        *np.atleast_1d(angle, zoom_height, zoom_width, left_right, up_down)
    )
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    x_scale = np.where(left_right, -1.0, 1.0) * zoom_width
    y_scale = np.where(up_down, -1.0, 1.0) * zoom_height
    a0, a1 = cosine * x_scale, -sine * y_scale
    b0, b1 = sine * x_scale, cosine * y_scale
    centre = (crop - 1) / 2
    a2, b2 = centre * (1 - a0 - a1), centre * (1 - b0 - b1)
    zero = np.zeros_like(a0)
    return np.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1).astype(np.float32)


def warp(images, maps):
    """Apply maps, float32 (n, 8), of `transforms` to images, float32 (n, crop, crop, channels).

    Bilinear, mirrored beyond the edge. One interpolation takes the place of the three that Keras'
    RandomRotation, RandomFlip and RandomZoom layers do one after the other: the same geometry with
    less blur.
    """
    import tensorflow as tf

    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=maps,
        output_shape=tf.shape(images)[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


@dataclass(frozen=True)
class Copies:
    """Images of a cache, as they are or as augmented copies, as a network takes them."""

    cache: ImageCache
    seed: int
    augmentation: Augmentation = Augmentation()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Side, side and channels of an image."""
        return self.cache.crop, self.cache.crop, CHANNELS[self.cache.colour]

    def get(self, galaxies, copies: np.ndarray | None = None) -> np.ndarray:
        """Images of some galaxies, float32 [0, 255], (n, crop, crop, channels).

        `copies`, int (n,), says which copy of each; the images as they are by default.
        """
        return self.of_rows(self.cache.rows(galaxies), copies)

    def of_rows(self, rows: np.ndarray, copies: int | np.ndarray | None) -> np.ndarray:
        """The same by rows of the cache; one number of a copy goes for all."""
        pixels = network_input(self.cache.arrays[rows], self.cache.colour)
        if copies is None:
            return pixels
        numbers = np.broadcast_to(copies, len(rows))
        maps = np.empty((len(rows), 8), np.float32)
        for copy in np.unique(numbers):
            chosen = numbers == copy
            maps[chosen] = random_transforms(
                *(rows[chosen], len(self.cache.arrays), self.cache.crop),
                *(self.augmentation, self.seed, int(copy)),
            )
        return np.asarray(warp(pixels, maps))

    def settings(self) -> dict[str, object]:
        """Everything that decides the pixels, as values of JSON types."""
        return {
            "image_cache_sha256": self.cache.sha256,
            "crop": self.cache.crop,
            "colour": self.cache.colour,
            "augmentation": asdict(self.augmentation),
            "augmentation_seed": self.seed,
        }


def write_cache(
    sample: pd.DataFrame,
    data_dir: str | Path,
    folder: str | Path,
    *,
    crop: int = 224,
    colour: str = "rgb",
    size: int = 424,
    binning: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ImageCache, pd.DataFrame]:
    """Decode the cut-outs of a sample into a cache.

    Parameters
    ----------
    sample : DataFrame
        `galaxy_id` and `image_path`, relative to `data_dir`.
    folder : path
        Where ``images_<colour>_<crop>.npy`` and ``.parquet`` are written, the index last.
    crop : int
        Side of the stored images in their pixels, those after binning.
    colour : {"rgb", "grey"}
        Colour that is stored. Grey is rounded to uint8 here; a grey view of an RGB cache is exact.
    size : int
        Side of the files' images in pixels.
    binning : int
        Pixels of a file, along each side, whose mean is one stored pixel; the paper has 1.
    progress : callable, optional
        Called with the galaxies done and their total.

    Returns
    -------
    cache : ImageCache
    missing : DataFrame
        `galaxy_id`, `image_path` and `reason` of each galaxy left out.

    Raises
    ------
    InputError
        Before any decoding: an impossible setting, no folder, galaxies or space. Afterwards, if no
        image could be read. An earlier cache stays as it was in each case.
    """
    _check_colour(colour)
    check_binning(binning, size)
    check_crop(crop, size // binning)
    data_dir, folder = Path(data_dir), Path(folder)
    if not data_dir.is_dir():
        raise InputError(
            f"the survey's folder {data_dir} is missing: correct the data_dir parameter"
        )
    if sample.empty:
        raise InputError("there is no galaxy to read an image of: loosen the selection")
    folder.mkdir(parents=True, exist_ok=True)
    needed = len(sample) * crop * crop * CHANNELS[colour]
    check_space(folder, needed, "the image cache", "choose a smaller crop or another disk")

    path = folder / f"images_{colour}_{crop}.npy"
    index_path = path.with_suffix(".parquet")
    shape = (crop, crop, CHANNELS[colour])
    kept: list[int] = []
    missing: list[tuple[int, str]] = []
    digest = hashlib.sha256()
    with atomic(path) as temporary:
        with open(temporary, "wb") as file:
            # Plain writes, not a writable memory map: on a full disk they fail with an error.
            _write_header(file, (len(sample), *shape))
            for position, image in enumerate(
                _decoded(sample, data_dir, size, crop, colour, binning)
            ):
                if isinstance(image, ImageError):
                    missing.append((position, str(image)))
                else:
                    file.write(image)
                    digest.update(image)
                    kept.append(position)
                if progress and ((position + 1) % _CHUNK == 0 or position + 1 == len(sample)):
                    progress(position + 1, len(sample))
            _write_header(file, (len(kept), *shape))
        if not kept:
            raise InputError(
                f"none of the {len(sample)} images below {data_dir} could be read (first: "
                f"{sample['image_path'].iloc[0]}: {missing[0][1]}). Check data_dir, image_path and "
                f"the expected size of {size} px."
            )
        # Array and index belong together: no index while a new array takes its place.
        index_path.unlink(missing_ok=True)
    index = pd.DataFrame(
        {"galaxy_id": sample["galaxy_id"].iloc[kept].to_numpy(), "row": np.arange(len(kept))}
    )
    index.attrs = {"sha256": digest.hexdigest(), "binning": binning}
    with atomic(index_path) as temporary:
        index.to_parquet(temporary)
    left_out = sample[["galaxy_id", "image_path"]].iloc[[p for p, _ in missing]]
    left_out = left_out.assign(reason=[reason for _, reason in missing]).reset_index(drop=True)
    return open_cache(folder, crop, colour), left_out


def prepare(image: np.ndarray, crop: int, colour: str, binning: int) -> np.ndarray:
    """What a cache keeps, uint8 (crop, crop, 3 or 1), of a cut-out, uint8 (size, size, 3)."""
    image = central_crop(image, crop * binning)
    if binning > 1:
        image = bin_pixels(image, binning)
    if colour == "grey":
        image = np.rint(network_input(image, "grey")).astype(np.uint8)
    return np.ascontiguousarray(image)


def print_progress(done: int, total: int) -> None:
    """Print how far the decoding is, one line per call."""
    print(f"{done:,} of {total:,} images", flush=True)


def open_cache(folder: str | Path, crop: int, colour: str = "rgb") -> ImageCache:
    """Open the crops that the pre-processing step wrote.

    The cache of that crop (side in pixels) is used or, as a central view, the smallest larger one;
    grey is made from RGB by `network_input`.

    Raises
    ------
    InputError
        If there is no such cache, or it is not whole.
    """
    _check_colour(colour)
    folder = Path(folder)
    found = {}
    for path in folder.glob("images_*.npy"):
        match = re.fullmatch(r"images_(rgb|grey)_(\d+)\.npy", path.name)
        if match and int(match[2]) >= crop and match[1] in {colour, "rgb"}:
            found[int(match[2]), match[1] != colour] = path
    if not found:
        raise InputError(
            f"{folder} has no {colour} images of at least {crop} px: run notebook 02_preprocessing "
            f"with crop = {crop} or more"
        )
    path = found[min(found)]
    index_path = path.with_suffix(".parquet")
    if not index_path.is_file():
        raise InputError(f"{path} has no index: run notebook 02_preprocessing again")
    index = pd.read_parquet(index_path)
    try:
        arrays = np.load(path, mmap_mode="r")
    except ValueError as error:
        raise InputError(
            f"{path} is not whole ({error}): run notebook 02_preprocessing again"
        ) from None
    if len(arrays) != len(index):
        raise InputError(
            f"{path} has {len(arrays)} images but its index {len(index)}: run notebook "
            "02_preprocessing again"
        )
    return ImageCache(central_crop(arrays, crop), index, crop, colour, index.attrs["sha256"])


def _check_colour(colour: str) -> None:
    if colour not in CHANNELS:
        raise InputError(f"unknown colour {colour!r}: choose one of {', '.join(CHANNELS)}")


def _write_header(file, shape: tuple[int, ...]) -> None:
    """Write the npy header at the start; NumPy pads it so that a shorter array's is as long."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )


def _decoded(
    sample: pd.DataFrame, data_dir: Path, size: int, crop: int, colour: str, binning: int
) -> Iterator[np.ndarray | ImageError]:
    """Crop, (crop, crop, channels), or the reason why there is none, per galaxy in order."""

    def read(path: str) -> np.ndarray | ImageError:
        try:
            return prepare(decode(data_dir / path, size), crop, colour, binning)
        except ImageError as error:
            return error

    # Threads are enough: Pillow decodes with the interpreter lock released. In chunks, because
    # Executor.map would queue every image of the survey in memory.
    with ThreadPoolExecutor(_DECODERS) as pool:
        for start in range(0, len(sample), _CHUNK):
            yield from pool.map(read, sample["image_path"].iloc[start : start + _CHUNK])
