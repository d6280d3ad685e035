"""Keys of results that are made once and read back: they change with all that these rest on."""

from __future__ import annotations

import hashlib
from dataclasses import asdict

import numpy as np

from lib.networks import weights_hash


def model_hash(explainer) -> str:
    """Hash of an explainer's weights, and of its settings but for the size of a batch."""
    settings = {k: v for k, v in asdict(explainer.settings).items() if k != "batch"}
    return fingerprint(weights_hash(explainer.model), settings)


def fingerprint(*parts) -> str:
    """Hash of arrays, by type, shape and value, and of other parts by how they are printed."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()[:16]
