"""A linear head that learns from vote fractions, and decides with rare classes in mind.

An arg-max label throws away what volunteers did not agree on: two galaxies with m = 3 may have 35
and 95 % of the votes. Here the probabilities are fitted to the fractions themselves (cross-entropy
with soft targets). They say how often an answer is given, so that the most frequent class nearly
always has the largest one; the decision therefore divides them by a power of the classes'
frequencies ("logit adjustment", Menon et al. 2021). Strength of the penalty and power are chosen in
folds inside the training galaxies.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.decomposition import PCA
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from lib import evaluation
from lib.schema import ARM_CLASSES, MERGES, RHO_COLUMNS, InputError, merged_classes

COMPONENTS = 128
"""Principal components of the features that are used, at most."""

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Inverse strengths of the penalty to choose from, per galaxy as scikit-learn's C, rising."""

POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Powers of the class frequencies to choose from, rising; 0 takes the largest probability."""

FOLDS = 3
"""Folds inside the training galaxies."""


@dataclass(frozen=True)
class Head:
    """A fitted head.

    Attributes
    ----------
    components : sklearn.pipeline.Pipeline
        From features, (n, width), to standardised principal components, (n, k).
    weights : ndarray, (k, classes)
    bias : ndarray, (classes,)
    strength : float
        As chosen from `STRENGTHS`.
    offsets : ndarray, (classes,)
        Of the decision, see `fit_decision`.
    unseen : ndarray, (n, classes)
        Probabilities of the training galaxies by heads that had not seen them, from the folds.
    """

    components: Pipeline
    weights: np.ndarray
    bias: np.ndarray
    strength: float
    offsets: np.ndarray
    unseen: np.ndarray

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Expected vote fractions, float64, (n, classes)."""
        reduced = self.components.transform(np.asarray(features, float))
        return softmax(reduced @ self.weights + self.bias, axis=1)

    def layers(self, units: int) -> tuple[np.ndarray, ...]:
        """Kernel and bias of a linear dense layer of `units`, and of the softmax layer after it."""
        (_, scaler), (_, pca) = self.components.steps
        k = len(self.weights)
        kernel = np.zeros((pca.n_features_in_, units))
        kernel[:, :k] = (pca.components_ / scaler.scale_).T
        last = np.zeros((units, len(self.bias)))
        last[:k] = self.weights
        return kernel, -scaler.mean_ @ kernel, last, self.bias


def fractions(sample: pd.DataFrame, classes: tuple[str, ...]) -> np.ndarray:
    """Vote fractions of galaxies for classes, float64, (n, classes), rows adding up to one.

    Parameters
    ----------
    sample : DataFrame
        With `RHO_COLUMNS`; a row where one is missing has no fractions (NaN).
    classes : tuple of str
        Some or all of a merge's classes (`lib.schema.MERGES`), whose votes are added up.
    """
    merge = next(
        merge for name, merge in MERGES.items() if set(classes) <= set(merged_classes(name))
    )
    columns = dict(zip(ARM_CLASSES, RHO_COLUMNS))
    table = np.stack(
        [
            sum(sample[columns[a]].to_numpy(float) for a in ARM_CLASSES if merge.get(a, a) == c)
            for c in classes
        ],
        axis=1,
    )
    return table / table.sum(axis=1, keepdims=True)


def fit(features: np.ndarray, fractions: np.ndarray, *, label=None, seed: int = 0) -> Head:
    """Fit a head; penalty and power of the decision are chosen inside the galaxies given.

    Parameters
    ----------
    features : ndarray, (n, width)
    fractions : ndarray, (n, classes)
        Vote fractions; each row adds up to 1.
    label : ndarray of int, (n,), optional
        Class numbers that macro-F1 and balanced accuracy are measured by in the choice; those with
        the largest fraction by default.
    seed : int
        Of the folds.

    Raises
    ------
    InputError
        If fractions are missing or do not add up to one.
    """
    fractions = np.asarray(fractions, float)
    bad = ~np.isclose(fractions.sum(axis=1), 1, atol=1e-3)
    if bad.any():
        raise InputError(
            f"{bad.sum()} of {len(bad)} galaxies have vote fractions that are missing or do not "
            "add up to 1: a vote head needs the fractions of every galaxy it trains on"
        )
    label = fractions.argmax(axis=1) if label is None else np.asarray(label)
    features = np.asarray(features, float)
    unseen = _unseen(features, fractions, label, seed)
    offsets = {s: fit_decision(p, label, fractions.mean(axis=0)) for s, p in unseen.items()}
    merit = {s: _merit(label, evaluation.decide(p, offsets[s])) for s, p in unseen.items()}
    strength = max(merit, key=merit.get)  # of equal ones the strongest penalty
    reducer = _components(features)
    weights, bias = soft_regression(reducer.transform(features), fractions, strength)
    return Head(reducer, weights, bias, strength, offsets[strength], unseen[strength])


def fit_decision(
    probabilities: np.ndarray, label: np.ndarray, frequencies: np.ndarray
) -> np.ndarray:
    """Offsets of the decision that has rare classes in mind, for any classifier's probabilities.

    Parameters
    ----------
    probabilities : ndarray, (n, classes)
        Of galaxies that the classifier has not learnt from, and that no score is reported on.
    label : ndarray of int, (n,)
        Class number of each.
    frequencies : ndarray, (classes,)
        Share of each class among the galaxies that the classifier has learnt from.

    Returns
    -------
    ndarray, (classes,)
        What `lib.evaluation.decide` subtracts: the power, of `POWERS`, with the largest macro-F1
        plus balanced accuracy, times the logarithm of the frequencies. Of equal powers the least.
    """
    logs = np.log(np.maximum(frequencies, 1e-4))
    power = max(
        POWERS, key=lambda power: _merit(label, evaluation.decide(probabilities, power * logs))
    )
    return power * logs


def soft_regression(
    features: np.ndarray, fractions: np.ndarray, strength: float, start: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression on soft targets.

    Minimises strength times the sum of the galaxies' cross-entropies, plus half the square of the
    weights (not of the bias): what scikit-learn's LogisticRegression does with C = strength, if
    every galaxy is given once per class with its fraction as weight, in a small part of the time.

    Parameters
    ----------
    features : ndarray, (n, k)
    fractions : ndarray, (n, classes)
    strength : float
    start : ndarray, (k + 1, classes), optional
        Where to begin.

    Returns
    -------
    weights : ndarray, (k, classes)
    bias : ndarray, (classes,)
    """
    n, classes = fractions.shape
    design = np.hstack([features, np.ones((n, 1))])
    transposed = strength * design.T
    total = fractions.sum(axis=1, keepdims=True)
    # The loss curves about as much along each feature as if all classes were equally probable. In
    # units in which that curvature is one, a quarter of the steps is enough.
    curvature = strength * (design**2).sum(axis=0) * (1 - 1 / classes) / classes
    curvature[:-1] += 1
    unit = 1 / np.sqrt(curvature)[:, None]

    def loss(flat):
        table = unit * flat.reshape(-1, classes)
        logits = design @ table
        # Called 100,000 times by notebook 12: scipy's log_softmax takes thrice as long.
        logits -= logits.max(axis=1, keepdims=True)
        p = np.exp(logits)
        norm = p.sum(axis=1, keepdims=True)
        p *= total / norm
        slope = transposed @ (p - fractions)
        slope[:-1] += table[:-1]
        value = strength * (np.vdot(total, np.log(norm)) - np.vdot(fractions, logits))
        return value + np.vdot(table[:-1], table[:-1]) / 2, (unit * slope).ravel()

    start = np.zeros((design.shape[1], classes)) if start is None else start / unit
    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    table = unit * found.x.reshape(-1, classes)
    return table[:-1], table[-1] - table[-1].mean()


def _components(features: np.ndarray) -> Pipeline:
    """Standardised principal components, at most half as many as there are galaxies."""
    k = min(COMPONENTS, features.shape[1], len(features) // 2)
    return make_pipeline(StandardScaler(), PCA(k, random_state=0)).fit(features)


def _unseen(features, fractions, label, seed: int) -> dict[float, np.ndarray]:
    """Probabilities of each galaxy by heads of the other folds, for every strength."""
    found = {strength: np.empty(fractions.shape) for strength in STRENGTHS}
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer galaxies than folds is then missing from the tests of some.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = list(folds.split(label, label))
    for train, test in parts:
        reducer, start = _components(features[train]), None
        own, other = (reducer.transform(features[part]) for part in (train, test))
        for strength in STRENGTHS:
            weights, bias = soft_regression(own, fractions[train], strength, start)
            start = np.vstack([weights, bias])
            found[strength][test] = softmax(other @ weights + bias, axis=1)
    return found


def _merit(label: np.ndarray, decided: np.ndarray) -> float:
    """What is chosen by: macro-F1 plus balanced accuracy, which rare classes weigh in alike."""
    k = max(label.max(), decided.max()) + 1
    found = evaluation.matrix_scores(evaluation.count_matrices(label, decided[None], k))
    return float(found["macro_f1"][0] + found["balanced_accuracy"][0])
