"""Random weights that are the same everywhere, for references written by other packages."""

import numpy as np


def random_state(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """State dict of a timm network: He-scaled kernels, BatchNorm statistics off their defaults.

    `numpy.random.RandomState` is used because NumPy promises never to change its numbers.
    """
    random = np.random.RandomState(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(7, "int64")
        elif len(shape) == 4:
            values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
            state[name] = values.astype("float32")
        elif name.endswith("running_var") or (name.endswith("weight") and ".se." not in name):
            state[name] = random.uniform(0.5, 1.5, shape).astype("float32")
        else:
            state[name] = (0.1 * random.standard_normal(shape)).astype("float32")
    return state


def random_images(seed: int, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Images in [0, 1), float32, (n, height, width, channels)."""
    return np.random.RandomState(seed).random_sample(shape).astype("float32")
