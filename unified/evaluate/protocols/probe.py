"""Logistic regression on frozen features (after DINOv3): the penalty is chosen inside the training part.

DINOv3 fits 45 strengths from 1e-6 to 1e5. This search goes the same way from strong to weak penalty, each fit from the
one before, and ends once the training part is fitted and validation has not improved for two decades.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from unified.core.errors import DataError
from unified.core.seed import generator

STRENGTHS = 10.0 ** np.linspace(-6, 5, 45)
PATIENCE = 8  # points of the grid, two decades
VALIDATION = 0.1
SEARCH = {"tol": 1e-4, "max_iter": 100}  # enough to rank strengths
FINAL = {"tol": 1e-6, "max_iter": 1000}
RANK = 1e-6  # singular values below this share of the largest are rounding
SMALL = 10_000_000  # numbers in the features below which threads of the linear algebra only wait for each other


@dataclass(frozen=True)
class Logistic:
    """A fitted probe: its prediction for each test item, and what was chosen."""

    predicted: NDArray[np.int64]
    probability: NDArray[np.float64]  # of the predicted class
    strength: float
    validation_accuracy: float
    converged: bool


def fit_logistic(
    train: tuple[NDArray[np.float32], NDArray[np.int64]], test: NDArray[np.float32], dataset: str
) -> Logistic:
    """Choose C on a tenth of each class of the training part, fit again on all of it, predict the test part."""
    target = train[1]
    if len(np.unique(target)) < 2:
        raise DataError(f"{dataset}: a probe needs at least two classes in the training part")
    held = validation_part(target, dataset)
    with warnings.catch_warnings(), threadpool_limits(1 if train[0].size < SMALL else None):
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported as `converged`
        features, test_features = _compact(train[0], test)
        strength, accuracy = _choose(features, target, held)
        final = LogisticRegression(C=strength, **FINAL).fit(features, target)
        probability = final.predict_proba(test_features).max(1)
    converged = bool(final.n_iter_.max() < FINAL["max_iter"])
    return Logistic(final.predict(test_features), probability, strength, accuracy, converged)


def validation_part(target: NDArray[np.int64], dataset: str) -> NDArray[np.bool_]:
    """A tenth of each class, at least one item; a class of one item stays in training."""
    held = np.zeros(len(target), dtype=bool)
    for name in np.unique(target):
        members = np.flatnonzero(target == name)
        if len(members) > 1:
            order = generator("validation", dataset, int(name)).permutation(len(members))
            held[members[order[: max(1, int(len(members) * VALIDATION))]]] = True
    if not held.any():
        raise DataError(f"{dataset}: no class has two items, so none can be set aside to choose the penalty")
    return held


def _choose(features: NDArray[np.float64], target: NDArray[np.int64], held: NDArray[np.bool_]) -> tuple[float, float]:
    """The strength with the best validation accuracy; of equal ones the strongest penalty."""
    model = LogisticRegression(warm_start=True, **SEARCH)
    best, accuracy, since = float(STRENGTHS[0]), -1.0, 0
    for strength in STRENGTHS:
        model.set_params(C=float(strength)).fit(features[~held], target[~held])
        found = float((model.predict(features[held]) == target[held]).mean())
        since = 0 if found > accuracy else since + 1
        if found > accuracy:
            best, accuracy = float(strength), found
        fitted = model.score(features[~held], target[~held]) == 1.0
        if since >= PATIENCE and (fitted or accuracy == 1.0):
            break
    return best, accuracy


def _compact(train: NDArray[np.float32], test: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both parts, centred, in the basis of the training items' span.

    The optimum is the same: the bias is free, and the weights of a fit lie in the span. It is found much faster.
    """
    array = np.asarray(train, dtype=np.float64)
    mean = array.mean(0)
    _, size, basis = np.linalg.svd(array - mean, full_matrices=False)
    basis = basis[size > RANK * size[0]]
    return (array - mean) @ basis.T, (np.asarray(test, dtype=np.float64) - mean) @ basis.T
