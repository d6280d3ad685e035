"""Attribution maps of a classifier: which pixels speak for the class it chose.

All maps explain the *logit* of one class: the softmax is replaced by a linear output, as
tf-keras-vis recommends, because a saturated softmax has almost no gradient, and because the
softmax of a class also rises when another class falls. Both models are treated alike.

A map is float32 of the image's height and width; a larger value is more evidence for the class.
Grad-CAM++, SmoothGrad and the plain gradient are >= 0; integrated gradients and occlusion are
signed, in units of the logit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
from tf_keras_vis.saliency import Saliency
from tf_keras_vis.utils.model_modifiers import ReplaceToLinear

from lib.explain.cache import fingerprint, model_hash
from lib.explain.pixels import sky_level
from lib.networks import LAST_CONVOLUTION
from lib.networks.polar import PolarView
from lib.paths import atomic
from lib.schema import InputError
from lib.workflow.code import closure_hash


@dataclass(frozen=True)
class MapSettings:
    """How maps are made; part of the key under which they are cached.

    Attributes
    ----------
    layer : str
        Activation layer that Grad-CAM++ reads.
    smooth_samples : int
        Noisy copies per galaxy in SmoothGrad (paper, Sec. 5.3: 20).
    smooth_noise : float
        Standard deviation of the noise as a fraction of the image's range (paper: 0.20).
    integration_steps : int
        Points on the path of integrated gradients.
    occlusion_cells : int
        Occluding squares along each axis; each is two cells wide, so that they overlap.
    batch : int
        Images that pass through the network at once: bounds the memory. It changes no map.
    seed : int
        Seed of SmoothGrad's noise.
    """

    layer: str = LAST_CONVOLUTION
    smooth_samples: int = 20
    smooth_noise: float = 0.20
    integration_steps: int = 16
    occlusion_cells: int = 8
    batch: int = 16
    seed: int = 42

    def __post_init__(self) -> None:
        """Refuse impossible values before any work."""
        for name in ("smooth_samples", "integration_steps", "occlusion_cells", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: must be at least 1")
        if not 0 < self.smooth_noise <= 1:
            raise InputError(
                f"smooth_noise = {self.smooth_noise}: must lie in (0, 1], a fraction of the range"
            )


def check_model(model: keras.Model, layer: str) -> None:
    """Refuse a network whose maps would be wrong or fail late.

    Parameters
    ----------
    model : keras.Model
        Functional classifier with a softmax output.
    layer : str
        Name of the layer that Grad-CAM++ reads.

    Raises
    ------
    InputError
        If a backbone is nested as one layer (tf-keras-vis cannot reach into it), if `layer` is
        missing or has no spatial axes, or if the output is not a softmax.
    """
    nested = [part.name for part in model.layers if isinstance(part, keras.Model)]
    if nested:
        raise InputError(
            f"model {model.name!r} holds the nested model {nested[0]!r}, whose layers Grad-CAM++ "
            "cannot reach: build the head on the backbone's output, as notebook 03 does, so that "
            "all layers lie in one flat graph"
        )
    names = [part.name for part in model.layers]
    if layer not in names:
        raise InputError(
            f"model {model.name!r} has no layer {layer!r} for Grad-CAM++: name its last "
            f"convolutional activation (its last layers: {', '.join(names[-5:])})"
        )
    if len(model.get_layer(layer).output.shape) != 4:
        raise InputError(f"layer {layer!r} has no rows and columns left: name an earlier layer")
    activation = getattr(model.layers[-1], "activation", None)
    if activation is not keras.activations.softmax:
        raise InputError(
            f"the last layer {names[-1]!r} of model {model.name!r} is not a softmax: maps explain "
            "the logit below a softmax output"
        )


@contextmanager
def _accept_list_input() -> Iterator[None]:
    """Silence Keras 3 about tf-keras-vis handing the one input over as a list of one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The structure of `inputs`", UserWarning)
        yield


class Explainer:
    """Makes the attribution maps of one classifier, in batches of a fixed size.

    Parameters
    ----------
    model : keras.Model
        Flat functional classifier with a softmax output, images in its own scale. It is copied.
    settings : MapSettings

    Raises
    ------
    InputError
        See `check_model`.
    """

    def __init__(self, model: keras.Model, settings: MapSettings = MapSettings()) -> None:
        check_model(model, settings.layer)
        self.settings = settings
        self.model = keras.models.clone_model(model)
        self.model.set_weights(model.get_weights())
        ReplaceToLinear()(self.model)
        # tf-keras-vis runs layer by layer; traced into a graph the same calls are 5 x faster.
        self._saliency = Saliency(self.model, clone=False)
        self._cam = GradcamPlusPlus(self.model, clone=False)
        self.polar = next((x for x in self.model.layers if isinstance(x, PolarView)), None)
        if self.polar is not None:
            self.to_grey_levels = keras.Model(self.model.input, self.polar.input)
        self._traced_gradients = tf.function(self._trace_gradients, autograph=False)
        self._traced_cam = tf.function(self._trace_cam, autograph=False)
        self._traced_logits = tf.function(
            lambda images: self.model(images, training=False), autograph=False
        )

    def _trace_gradients(self, images: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        with _accept_list_input():
            return self._saliency(
                lambda logits: tf.gather(logits, targets, axis=1, batch_dims=1),
                images,
                gradient_modifier=None,
                keepdims=True,
                normalize_map=False,
            )

    def _trace_cam(self, images: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        # Grad-CAM++ multiplies by exp(logit), which overflows for large logits. The factor only
        # scales a map, so the logit is taken relative to its own value.
        def score(logits: tf.Tensor) -> tf.Tensor:
            chosen = tf.gather(logits, targets, axis=1, batch_dims=1)
            return chosen - tf.stop_gradient(chosen)

        # The library stretches the small map corner to corner, which shifts it by up to half a
        # cell; resizing by pixel centres, below, does not.
        with _accept_list_input():
            return self._cam(
                score,
                images,
                penultimate_layer=self.settings.layer,
                seek_penultimate_conv_layer=False,
                expand_cam=False,
                normalize_cam=False,
            )

    def _batches(self, function: Callable, *arrays: np.ndarray) -> Iterator[np.ndarray]:
        """Apply a traced function to batches of one size, padding the last one."""
        size = self.settings.batch
        for start in range(0, len(arrays[0]), size):
            parts = [a[start : start + size] for a in arrays]
            used = len(parts[0])
            padded = [np.concatenate([p, np.repeat(p[-1:], size - used, axis=0)]) for p in parts]
            yield np.asarray(function(*(tf.constant(p) for p in padded)))[:used]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Logits, float32 (n, classes), of images (n, height, width, channels)."""
        return np.concatenate(list(self._batches(self._traced_logits, images)))

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities, float32 (n, classes), of images (n, height, width, channels)."""
        return np.asarray(tf.nn.softmax(self.logits(images)))

    def gradients(self, images: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Gradient of each image's target logit with respect to its pixels.

        Parameters
        ----------
        images : ndarray, float32 (n, height, width, channels)
        targets : ndarray, int32 (n,)
            Index of the class to explain.

        Returns
        -------
        ndarray, float32 (n, height, width, channels)
        """
        return np.concatenate(list(self._batches(self._traced_gradients, images, targets)))

    def maps(self, method: str, images: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Attribution maps of one method.

        Parameters
        ----------
        method : str
            A key of `METHODS`.
        images : ndarray, (n, height, width, channels)
            In the scale that the model takes.
        targets : ndarray, int (n,)
            Index of the class to explain.

        Returns
        -------
        ndarray, float32 (n, height, width)

        Raises
        ------
        InputError
            If the method is unknown, or a map holds NaN or infinity.
        """
        if method not in METHODS:
            raise InputError(f"unknown method {method!r}: choose from {', '.join(METHODS)}")
        images = np.asarray(images, "float32")
        made = METHODS[method](self, images, np.asarray(targets, "int32"))
        check_finite(made, method)
        return made


def check_finite(maps: np.ndarray, method: str) -> None:
    """Raise `InputError` if any of the maps (n, height, width) holds NaN or infinity."""
    bad = ~np.isfinite(maps).all(axis=(1, 2))
    if bad.any():
        raise InputError(
            f"{method}: {bad.sum()} of {len(maps)} maps hold NaN or infinity (the first is number "
            f"{bad.argmax()}). The network's activations overflow, as those of an untrained deep "
            "network do: train it, or recalibrate its BatchNorm statistics "
            "(lib.explain.sanity.recalibrate)"
        )


def grad_cam_plus_plus(explainer: Explainer, images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Grad-CAM++ (Chattopadhay et al. 2018) of the last convolutional activation, >= 0.

    The map of a network that is shown polar views is laid back onto the sky.
    """
    small = np.concatenate(list(explainer._batches(explainer._traced_cam, images, targets)))
    if explainer.polar is not None:
        grey_levels = np.concatenate(list(explainer._batches(explainer.to_grey_levels, images)))
        return np.asarray(explainer.polar.on_sky(small, grey_levels))
    return np.asarray(tf.image.resize(small[..., None], images.shape[1:3]))[..., 0]


def gradient(explainer: Explainer, images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Plain gradient (Simonyan et al. 2014): largest absolute value over the channels."""
    return np.abs(explainer.gradients(images, targets)).max(axis=-1)


def _gradients_of_variants(
    explainer: Explainer,
    images: np.ndarray,
    targets: np.ndarray,
    count: int,
    variants: Callable[[np.ndarray], np.ndarray],
) -> Iterator[np.ndarray]:
    """Gradients (count, height, width, channels) of `count` variants of each image, one by one.

    Some images go through together, so that few places in a batch stay empty: at most four batches
    at once, which bounds the memory.
    """
    together = max(1, 4 * explainer.settings.batch // count)
    for start in range(0, len(images), together):
        part = slice(start, start + together)
        stack = np.concatenate([variants(image) for image in images[part]]).astype("float32")
        made = explainer.gradients(stack, np.repeat(targets[part], count))
        yield from made.reshape(-1, count, *images.shape[1:])


def smooth_grad(explainer: Explainer, images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """SmoothGrad (Smilkov et al. 2017) as tf-keras-vis defines it.

    The mean over noisy copies of the absolute gradient, then the largest value over the channels.
    The noise pattern is the same for every galaxy, so that a galaxy's map does not depend on which
    others are explained beside it.
    """
    settings = explainer.settings
    noise = np.random.RandomState(settings.seed).standard_normal(
        (settings.smooth_samples, *images.shape[1:])
    )

    def noisy(image: np.ndarray) -> np.ndarray:
        return image + settings.smooth_noise * np.ptp(image) * noise

    made = _gradients_of_variants(explainer, images, targets, settings.smooth_samples, noisy)
    return np.stack([np.abs(slopes).mean(axis=0).max(axis=-1) for slopes in made])


def integrated_gradients(
    explainer: Explainer, images: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """Integrated gradients (Sundararajan et al. 2017) on the way from empty sky to the image.

    The baseline is the image's own sky level. Summed over channels and signed: all pixels of a map
    together give the logit's rise above that of empty sky, up to the error of the midpoint rule.
    """
    steps = explainer.settings.integration_steps
    fractions = ((np.arange(steps) + 0.5) / steps)[:, None, None, None]

    def path(image: np.ndarray) -> np.ndarray:
        sky = sky_level(image[None])
        return sky + fractions * (image - sky)

    made = _gradients_of_variants(explainer, images, targets, steps, path)
    rise = images - sky_level(images)
    return np.stack([(r * g.mean(axis=0)).sum(axis=-1) for r, g in zip(rise, made, strict=True)])


def occlusion(explainer: Explainer, images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Occlusion (Zeiler & Fergus 2014): the logit's fall when a square is replaced by sky.

    The squares are centred on a grid of cells, two cells wide; the falls are then interpolated
    between the cells' centres.
    """
    cells = explainer.settings.occlusion_cells
    size = images.shape[1]
    edges = (np.arange(cells)[:, None] + np.array([-0.5, 1.5])) * size / cells
    edges = edges.round().astype(int).clip(0, size)
    before = np.take_along_axis(explainer.logits(images), targets[:, None], axis=1)[:, 0]
    falls = np.empty((len(images), cells, cells), "float32")
    for n, (image, sky) in enumerate(zip(images, sky_level(images), strict=True)):
        covered = np.repeat(image[None], cells * cells, axis=0)
        for k in range(cells * cells):
            (top, bottom), (left, right) = edges[k // cells], edges[k % cells]
            covered[k, top:bottom, left:right] = sky
        falls[n] = before[n] - explainer.logits(covered)[:, targets[n]].reshape(cells, cells)
    return np.asarray(tf.image.resize(falls[..., None], images.shape[1:3]))[..., 0]


METHODS: dict[str, Callable[[Explainer, np.ndarray, np.ndarray], np.ndarray]] = {
    "Grad-CAM++": grad_cam_plus_plus,
    "SmoothGrad": smooth_grad,
    "gradient": gradient,
    "integrated gradients": integrated_gradients,
    "occlusion": occlusion,
}
"""Name of each method, as tables and figures print it, and its function."""


def cached_maps(
    explainer: Explainer,
    method: str,
    images: np.ndarray,
    targets: np.ndarray,
    galaxy_ids: np.ndarray,
    folder: str | Path,
) -> tuple[np.ndarray, int]:
    """Maps of one method, each made once and then read back.

    A map's key holds the code, the weights, the method with all its settings, the galaxy, the class
    explained and the image's own values, so that a changed crop or a retrained model gives new
    maps.

    Parameters
    ----------
    explainer : Explainer
    method : str
    images : ndarray, float32 (n, height, width, channels)
    targets : ndarray, int (n,)
    galaxy_ids : sequence of n int or str
    folder : path
        Cache folder; made if needed.

    Returns
    -------
    maps : ndarray, float32 (n, height, width)
    made : int
        How many of them were not read back.

    Raises
    ------
    InputError
        As `Explainer.maps`.
    """
    key = fingerprint(model_hash(explainer), closure_hash(__file__))
    home = Path(folder) / key / method.replace(" ", "-")
    images = np.asarray(images, "float32")
    files = [
        home / f"{galaxy}-{target}-{fingerprint(image)}.npy"
        for galaxy, target, image in zip(galaxy_ids, targets, images, strict=True)
    ]
    missing = [n for n, file in enumerate(files) if not file.exists()]
    if missing:
        made = explainer.maps(method, images[missing], np.asarray(targets)[missing])
        for n, values in zip(missing, made, strict=True):
            with atomic(files[n]) as temporary:
                np.save(temporary, values)
    return np.stack([np.load(file) for file in files]), len(missing)


def feature_maps(model: keras.Model, image: np.ndarray, layers: list[str]) -> dict:
    """Activations of named layers for one image (Fig. 8).

    Parameters
    ----------
    model : keras.Model
        Flat functional model.
    image : ndarray, float32 (height, width, channels)
    layers : list of str

    Returns
    -------
    dict
        Layer name to ndarray, float32 (rows, columns, channels).

    Raises
    ------
    InputError
        If a layer is missing; names the activation layers there are.
    """
    names = [part.name for part in model.layers]
    for layer in layers:
        if layer not in names:
            there = ", ".join(n for n in names if n.endswith("activation"))
            raise InputError(f"no layer {layer!r} in model {model.name!r}; choose from {there}")
    tap = keras.Model(model.inputs[0], [model.get_layer(name).output for name in layers])
    made = tap.predict_on_batch(np.asarray(image, "float32")[None])
    return {
        name: values[0]
        for name, values in zip(layers, made if len(layers) > 1 else [made], strict=True)
    }
