"""How often 95 % intervals hold the truth: `pytest -m slow -s tests/evaluate/test_coverage.py` prints that."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

from unified.core import statistics
from unified.core.metrics import mean_per_class_recall
from unified.core.seed import generator

CLUSTERS = (5, 6, 8, 13, 30, 50)
Rng = np.random.Generator
Limits = tuple[float, float]


def equal(rng: Rng, count: int) -> NDArray[np.int64]:
    return np.full(count, 20)


def unequal(rng: Rng, count: int) -> NDArray[np.int64]:
    return rng.integers(1, 41, count)


def log_normal(rng: Rng, count: int) -> NDArray[np.int64]:
    return np.maximum(1, np.exp(rng.normal(2.5, 1.0, count))).astype(np.int64)


Sizes = Callable[[Rng, int], NDArray[np.int64]]


def clustered_values(
    rng: Rng, sizes: NDArray[np.int64], within: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Standard normal items whose correlation within a cluster is `within`, and their clusters."""
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    shared = rng.normal(size=len(sizes))[clusters]
    return np.sqrt(within) * shared + np.sqrt(1 - within) * rng.normal(size=len(clusters)), clusters


def mean_of(sizes: Sizes, within: float) -> Callable[[Rng, int], bool]:
    def covered(rng: Rng, count: int) -> bool:
        found = statistics.mean(*clustered_values(rng, sizes(rng, count), within))
        return found.low <= 0 <= found.high

    return covered


def mean_of_items(rng: Rng, count: int) -> bool:
    found = statistics.mean(rng.normal(size=count))
    return found.low <= 0 <= found.high


def proportion_of(sizes: Sizes, within: float, p: float) -> Callable[[Rng, int], bool]:
    """Beta-binomial."""

    def covered(rng: Rng, count: int) -> bool:
        strength = 1 / within - 1
        rates = rng.beta(p * strength, (1 - p) * strength, count)
        clusters = np.repeat(np.arange(count), sizes(rng, count))
        found = statistics.proportion(rng.random(len(clusters)) < rates[clusters], clusters)
        return found.low <= p <= found.high

    return covered


def proportion_of_terms(rng: Rng, count: int) -> bool:
    terms = unequal(rng, count)
    found = statistics.proportion(rng.binomial(terms, rng.beta(7, 3, count)), terms=terms)
    return found.low <= 0.7 <= found.high


def pair_of(sizes: Sizes, within: float) -> Callable[[Rng, int], bool]:
    """Two equal models whose scores have much in common."""

    def covered(rng: Rng, count: int) -> bool:
        difference, clusters = clustered_values(rng, sizes(rng, count), within)
        common = rng.normal(size=len(clusters))
        found = statistics.paired(common + difference, common, clusters)
        assert found.p is not None
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high)
        return found.low <= 0 <= found.high

    return covered


def pair_of_right_and_wrong(p: float, q: float) -> Callable[[Rng, int], bool]:
    """Two models that are right in p and q of the items, in clusters of 20."""

    def covered(rng: Rng, count: int) -> bool:
        common, clusters = clustered_values(rng, equal(rng, count), 0.3)
        first, second = (
            (common + clustered_values(rng, equal(rng, count), 0.3)[0]) / np.sqrt(2) < special.ndtri(rate)
            for rate in (p, q)
        )
        found = statistics.paired(first, second, clusters)
        assert found.p is not None
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high)
        return found.low <= p - q <= found.high

    return covered


KINDS: dict[str, Callable[[Rng, int], bool]] = {
    "mean of items": mean_of_items,
    "mean, equal clusters, correlation 0.3": mean_of(equal, 0.3),
    "mean, clusters of 1 to 40": mean_of(unequal, 0.3),
    "mean, log-normal clusters": mean_of(log_normal, 0.1),
    "proportion 0.7, equal clusters, correlation 0.1": proportion_of(equal, 0.1, 0.7),
    "proportion 0.5, equal clusters, correlation 0.3": proportion_of(equal, 0.3, 0.5),
    "proportion 0.85, equal clusters, correlation 0.1": proportion_of(equal, 0.1, 0.85),
    "proportion 0.7, clusters of 1 to 40": proportion_of(unequal, 0.1, 0.7),
    "proportion 0.7 of terms": proportion_of_terms,
    "pair, equal clusters, correlation 0.5": pair_of(equal, 0.5),
    "pair, clusters of 1 to 40": pair_of(unequal, 0.5),
    "pair of right and wrong, 0.7 and 0.7": pair_of_right_and_wrong(0.7, 0.7),
    "pair of right and wrong, 0.75 and 0.65": pair_of_right_and_wrong(0.75, 0.65),
}


def coverage(covered: Callable[[Rng, int], bool], name: str, draws: int) -> list[float]:
    """Percent of intervals that hold the truth, for each number of clusters."""
    found = []
    for count in CLUSTERS:
        rng = generator("coverage", name, count)
        found.append(100 * float(np.mean([covered(rng, count) for _ in range(draws)])))
    print(f"{name:50} " + " ".join(f"{value:6.1f}" for value in found))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_intervals_of_few_clusters_hold_the_truth_as_often_as_they_say(name: str) -> None:
    print(f"\n{'coverage, %; clusters:':50} " + " ".join(f"{count:6}" for count in CLUSTERS))
    found = coverage(KINDS[name], name, 3000)
    assert all(93 <= value <= 97 for value in found), found


def ratio(rng: Rng, count: int) -> bool:
    """The ratio of two sums, as an mIoU has one for each class."""
    union = rng.gamma(3.0, 1.0, count)
    inside = union * rng.beta(6, 4, count)
    found = statistics.bootstrap(
        lambda index: float(inside[index].sum() / union[index].sum()), count, "ratio", draws=400, bounds=(0.0, 1.0)
    )
    return found.low <= 0.6 <= found.high


def balanced_accuracy(rng: Rng, count: int) -> bool:
    """Mean recall of two classes that are right in 0.8 and 0.6, five items of each in a cluster."""
    target = np.tile(np.repeat([0, 1], 5), count)
    clusters = np.repeat(np.arange(count), 10)
    shared = np.sqrt(0.2) * rng.normal(size=count)[clusters] + np.sqrt(0.8) * rng.normal(size=len(clusters))
    correct = shared < special.ndtri(np.array([0.8, 0.6]))[target]
    found = statistics.bootstrap(
        lambda index: mean_per_class_recall(correct[index], target[index]), len(target), "balanced",
        clusters=clusters, draws=200, bounds=(0.0, 1.0),
    )  # fmt: skip
    return found.low <= 0.7 <= found.high


def stratified_recall(rng: Rng, count: int) -> bool:
    """Mean recall of two classes of independent items, one of `count` and one of twice as many."""
    target = np.repeat([0, 1], [count, 2 * count])
    correct = rng.random(3 * count) < np.array([0.7, 0.5])[target]
    found = statistics.bootstrap(
        lambda index: mean_per_class_recall(correct[index], target[index]), len(target), "stratified", strata=target,
        draws=200, bounds=(0.0, 1.0),
    )  # fmt: skip
    return found.low <= 0.6 <= found.high


@pytest.mark.slow
@pytest.mark.parametrize("covered", [ratio, balanced_accuracy, stratified_recall], ids=lambda f: f.__name__)
def test_the_bootstrap_of_few_clusters_holds_the_truth_as_often_as_it_says(
    covered: Callable[[Rng, int], bool],
) -> None:
    found = coverage(covered, f"bootstrap: {covered.__name__}", 500)
    assert all(91.5 <= value <= 98 for value in found), found  # the standard error of 500 draws is 1 %


def test_pairs_in_five_clusters_are_not_told_apart_by_chance() -> None:
    """A short form of the simulation, for every run: 11.8 % with 1.96."""
    rng = generator("coverage", "short")
    rejected = [not pair_of(equal, 0.5)(rng, 5) for _ in range(600)]
    assert np.mean(rejected) < 0.07
