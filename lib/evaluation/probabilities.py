"""Whether probabilities can be believed, and temperature scaling (Guo et al. 2017)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy

from lib.evaluation.matrix import wilson
from lib.evaluation.runs import Run
from lib.schema import InputError


def reliability(
    probabilities: np.ndarray,
    label: np.ndarray,
    bins: int = 10,
    *,
    predicted: np.ndarray | None = None,
) -> pd.DataFrame:
    """Reliability diagram of the predicted class.

    Parameters
    ----------
    probabilities : ndarray
        float, shape (n, classes).
    label : ndarray
        int, shape (n,): index of the true class.
    bins : int
        Equal bins of confidence, the probability of the predicted class.
    predicted : ndarray, optional
        int, shape (n,): index of the predicted class; the most probable one by default.

    Returns
    -------
    DataFrame
        Occupied bins: ``confidence`` (mean), ``accuracy``, ``low``, ``high`` (Wilson), ``n``.
    """
    check_probabilities(probabilities, label)
    predicted = probabilities.argmax(axis=1) if predicted is None else predicted
    confidence = probabilities[np.arange(len(label)), predicted]
    right = predicted == label
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    table = (
        pd.DataFrame({"bin": index, "confidence": confidence, "right": right})
        .groupby("bin")
        .agg(confidence=("confidence", "mean"), right=("right", "sum"), n=("right", "size"))
    )
    table["accuracy"] = table["right"] / table["n"]
    table["low"], table["high"] = wilson(table["right"], table["n"])
    return table[["confidence", "accuracy", "low", "high", "n"]]


def calibration(
    probabilities: np.ndarray,
    label: np.ndarray,
    bins: int = 10,
    *,
    predicted: np.ndarray | None = None,
) -> dict[str, float]:
    """Expected calibration error, Brier score and negative log-likelihood.

    ``ece``: mean ``|accuracy - confidence|`` over bins (Guo et al. 2017), see `reliability`;
    ``brier``: mean squared distance to the one-hot label, summed over classes (0 to 2); ``nll``: in
    nats per galaxy.
    """
    bin_table = reliability(probabilities, label, bins, predicted=predicted)
    gap = (bin_table["accuracy"] - bin_table["confidence"]).abs()
    one_hot = np.eye(probabilities.shape[1])[label]
    return {
        "ece": float((gap * bin_table["n"]).sum() / len(label)),
        "brier": float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
        "nll": float(-_log(probabilities)[np.arange(len(label)), label].mean()),
    }


def check_probabilities(probabilities: np.ndarray, label: np.ndarray) -> None:
    """Raise InputError unless there is a row of probabilities per label, and labels are classes."""
    if probabilities.ndim != 2 or len(probabilities) != len(label) or len(label) == 0:
        raise InputError(
            f"probabilities of shape {probabilities.shape} for {len(label)} labels: wanted one "
            "row per galaxy and one column per class, and at least one galaxy."
        )
    if label.min() < 0 or label.max() >= probabilities.shape[1]:
        raise InputError(f"label indices reach {label.min()}..{label.max()}, beyond the classes.")


def _log(probabilities: np.ndarray) -> np.ndarray:
    """Logarithm that takes a probability of 0 (float32 underflow) as 1e-38."""
    return np.log(np.maximum(probabilities, 1e-38))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities with their logits divided by `temperature`; above 1 makes them less sure."""
    return scipy.special.softmax(_log(probabilities) / temperature, axis=1)


def fit_temperature(probabilities: np.ndarray, label: np.ndarray) -> float:
    """Temperature with the smallest negative log-likelihood (Guo et al. 2017).

    The logarithms of probabilities are logits up to a constant per galaxy, which the softmax
    does not see. Searched between 0.05 and 20.
    """
    check_probabilities(probabilities, label)
    logits = _log(probabilities)
    rows = np.arange(len(label))

    def loss(log_temperature):
        return -scipy.special.log_softmax(logits / np.exp(log_temperature), axis=1)[
            rows, label
        ].mean()

    bounds = (np.log(0.05), np.log(20))
    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded").x))


def cross_fitted_temperature(
    probabilities: np.ndarray, label: np.ndarray, *, folds: int = 5, seed: int = 42
) -> tuple[np.ndarray, list[float]]:
    """Temperature-scaled probabilities, each galaxy with a temperature fitted on other galaxies.

    Returns
    -------
    scaled : ndarray
        float, shape of `probabilities`.
    temperatures : list of float
        One per fold.
    """
    if len(label) < 2 * folds:
        raise InputError(f"{len(label)} galaxies are too few for {folds} folds of calibration.")
    from sklearn.model_selection import KFold

    scaled, temperatures = np.empty_like(probabilities), []
    for fit, hold in KFold(folds, shuffle=True, random_state=seed).split(probabilities):
        temperatures.append(fit_temperature(probabilities[fit], label[fit]))
        scaled[hold] = apply_temperature(probabilities[hold], temperatures[-1])
    return scaled, temperatures


def calibrate(run: Run, *, bins: int = 10, folds: int = 5, seed: int = 42):
    """Calibration of a run's reported galaxies before and after temperature scaling.

    Temperatures are cross-fitted: no galaxy is scaled by one that it helped to fit.

    Returns
    -------
    table : DataFrame
        Rows ``as trained`` and ``temperature-scaled``; columns ``ece``, ``brier``, ``nll`` and
        ``temperature`` (1 and the folds' mean).
    curves : dict of str to DataFrame
        Reliability tables under the same names.
    """
    probabilities = run.probabilities()
    label, predicted = run.labels(), run.predicted()
    scaled, temperatures = cross_fitted_temperature(probabilities, label, folds=folds, seed=seed)
    rows, curves = {}, {}
    for name, values, temperature in (
        ("as trained", probabilities, 1.0),
        ("temperature-scaled", scaled, float(np.mean(temperatures))),
    ):
        found = calibration(values, label, bins, predicted=predicted)
        rows[name] = {**found, "temperature": temperature}
        curves[name] = reliability(values, label, bins, predicted=predicted)
    return pd.DataFrame.from_dict(rows, orient="index"), curves
