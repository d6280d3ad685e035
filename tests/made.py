"""What several tests make: simulated predictions, and the files of a training run."""

import json

import numpy as np
import pandas as pd

from lib.schema import ARM_CLASSES, probability_columns

K = len(ARM_CLASSES)


def simulate(n=339, seed=0, sharpness=1.5, classes=ARM_CLASSES):
    """Labels, calibrated probabilities (labels are drawn from them) and predictions."""
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.normal(size=(n, len(classes)))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    label = (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return label, p, p.argmax(axis=1)


def names(index):
    return np.array(ARM_CLASSES)[index]


def write_run(folder, *, seed=0, n=339, role="B0", splits=None, **settings):
    """A training run's files with simulated predictions; the model of `seed` sees fixed labels."""
    label, p, _ = simulate(n)
    rng = np.random.default_rng(100 + seed)
    mixed = p ** rng.uniform(0.5, 2, size=(n, 1))
    mixed /= mixed.sum(axis=1, keepdims=True)
    table = pd.DataFrame(mixed, columns=probability_columns(ARM_CLASSES))
    table.insert(0, "galaxy_id", np.arange(n) + 587_722_981_741_363_294)
    table.insert(1, "label", names(label))
    table.insert(2, "split", splits if splits is not None else "validation")
    table.insert(3, "predicted", names(np.where(rng.random(n) < 0.1, 0, mixed.argmax(axis=1))))
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / "predictions.parquet")
    model = {
        "role": role,
        "classes": list(ARM_CLASSES),
        "merge": "none",
        "protocol": "published",
        "sampling": "down-sampled",
        **settings,
    }
    (folder / "model.json").write_text(json.dumps(model))
    pd.DataFrame({"epoch": range(2)}).to_csv(folder / "history.csv", index=False)
    return folder
