import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from unified.core.errors import DataError
from unified.core.seed import generator
from unified.evaluate.protocols.knn import nearest_neighbours
from unified.evaluate.protocols.probe import fit_logistic, validation_part


def blobs(items: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    rng = generator("blobs", name)
    target = np.arange(items) % 3
    return (np.eye(5)[target] * 2 + rng.normal(size=(items, 5))).astype(np.float32), target


def test_validation_takes_a_tenth_of_each_class_and_spares_single_items() -> None:
    target = np.repeat([0, 1, 2, 3], [40, 10, 3, 1])
    held = validation_part(target, "set")
    assert np.bincount(target[held], minlength=4).tolist() == [4, 1, 1, 0]
    with pytest.raises(DataError, match="no class has two items"):
        validation_part(np.arange(4), "set")


def test_logistic_probe_agrees_with_a_plain_fit_at_its_strength() -> None:
    (features, target), (asked, _) = blobs(120, "train"), blobs(80, "test")
    found = fit_logistic((features, target), asked, "set")
    plain = LogisticRegression(C=found.strength, tol=1e-8, max_iter=1000).fit(features.astype(np.float64), target)
    assert found.converged
    assert (found.predicted == plain.predict(asked.astype(np.float64))).mean() > 0.98  # ties apart


def test_logistic_probe_on_more_features_than_items() -> None:
    (features, target), (asked, wanted) = blobs(60, "train"), blobs(60, "test")
    turn = generator("turn").normal(size=(5, 200)).astype(np.float32)
    wide = fit_logistic((features @ turn, target), asked @ turn, "set")
    assert (wide.predicted == wanted).mean() > 0.6


def test_logistic_probe_needs_two_classes() -> None:
    features, _ = blobs(10, "one")
    with pytest.raises(DataError, match="at least two classes"):
        fit_logistic((features, np.zeros(10, dtype=np.int64)), features, "set")


def test_neighbours_vote_and_k_is_clipped_to_the_items() -> None:
    (features, target), (asked, wanted) = blobs(30, "train"), blobs(90, "test")
    found = nearest_neighbours((features, target), asked, 3)
    assert sorted(found.predicted) == [10, 20, 29]
    assert (found.predicted[found.best] == wanted).mean() > 0.6


def test_nearest_of_one_neighbour_is_that_neighbour() -> None:
    train = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32), np.array([1, 0])
    found = nearest_neighbours(train, np.array([[0.9, 0.1]], dtype=np.float32), 2)
    assert found.predicted[found.best].tolist() == [1]


def test_the_number_of_neighbours_is_chosen_without_the_test_part() -> None:
    (features, target), (asked, _) = blobs(60, "train"), blobs(20, "test")
    first, second = (nearest_neighbours((features, target), x, 3) for x in (asked, -asked))
    assert (first.best, first.validation_accuracy) == (second.best, second.validation_accuracy)
