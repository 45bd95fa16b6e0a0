"""How sure a number is: sampling error (another test set?) and spread over seeds (another subset?), never merged.

Wilson, JASA 1927; clustered standard errors as in Miller, "Adding Error Bars to Evals", arXiv 2411.00640; McNemar 1947;
Holm 1979. Intervals are two-sided at 95 %.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from unified.seed import generator

Z = 1.96
FEW_CLUSTERS = 30
"""Below this many clusters, bootstrap and clustered intervals are too narrow."""


@dataclass(frozen=True)
class Interval:
    """A number with its sampling error: 95 % limits, standard error, and the items it rests on."""

    value: float
    low: float
    high: float
    se: float
    n: int
    method: str
    clusters: int | None = None

    @property
    def few_clusters(self) -> bool:
        """Whether the interval is narrower than it should be because it rests on few clusters."""
        return self.clusters is not None and self.clusters < FEW_CLUSTERS


@dataclass(frozen=True)
class Seeds:
    """A number over repeated runs: the mean, its t-interval, and every single value."""

    mean: float
    sd: float | None
    half_width: float | None  # None with one seed: nothing is known about the spread
    values: tuple[float, ...]


@dataclass(frozen=True)
class Paired:
    """The difference of two models on the same items."""

    difference: float
    low: float
    high: float
    se: float
    n: int
    p: float | None
    """Exact McNemar for scores of 0 and 1 without clusters, else of the normal approximation; None when SE is 0."""
    test: str
    detectable: float
    clusters: int | None = None


def wilson(successes: float, n: float) -> tuple[float, float]:
    """The Wilson score limits of a proportion."""
    if n <= 0:
        raise ValueError("a proportion of no items has no interval")
    p = successes / n
    scale = 1 + Z**2 / n
    centre = (p + Z**2 / (2 * n)) / scale
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def clustered_se(values: ArrayLike, clusters: ArrayLike, terms: ArrayLike | None = None) -> float:
    """The standard error of a mean whose items come in clusters (captions of one image, frames of a video).

    With `terms`, each value is a sum over so many terms and the mean is that of a term.
    """
    array = np.asarray(values, dtype=np.float64)
    weight = np.ones_like(array) if terms is None else np.asarray(terms, dtype=np.float64)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    count = int(index.max()) + 1
    if count < 2:
        return math.nan
    residual = np.bincount(index, weights=array - weight * (array.sum() / weight.sum()))
    return math.sqrt(count / (count - 1) * float(residual @ residual)) / float(weight.sum())


def proportion(correct: ArrayLike, clusters: ArrayLike | None = None, terms: ArrayLike | None = None) -> Interval:
    """The interval of a share of right items: Wilson; with clusters, Wilson at the effective number of items.

    With `terms`, each value counts the right ones among so many terms (items are then the clusters).
    """
    array = np.asarray(correct, dtype=np.float64)
    n = len(array)
    if n == 0:
        raise ValueError("a proportion of no items has no interval")
    p = float(array.sum() / (n if terms is None else np.sum(np.asarray(terms, dtype=np.float64))))
    if clusters is None and terms is None:
        low, high = wilson(float(array.sum()), n)
        return Interval(p, low, high, math.sqrt(p * (1 - p) / n), n, "wilson")
    groups = np.arange(n) if clusters is None else np.asarray(clusters)
    count = _count_clusters(groups)
    se = clustered_se(array, groups, terms)
    effective = p * (1 - p) / se**2 if se > 0 else float(count)  # all right or all wrong: one item a cluster
    low, high = wilson(p * effective, effective)
    return Interval(p, low, high, se, n, "wilson_clustered", count)


def mean(values: ArrayLike, clusters: ArrayLike | None = None, terms: ArrayLike | None = None) -> Interval:
    """The interval of a mean of scores; with `terms`, of the mean of a term (items are then the clusters)."""
    array = np.asarray(values, dtype=np.float64)
    n = len(array)
    if n == 0:
        raise ValueError("a mean of no items has no interval")
    if clusters is None and terms is None:
        se = float(array.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
        value = float(array.mean())
        return Interval(value, value - Z * se, value + Z * se, se, n, "normal")
    groups = np.arange(n) if clusters is None else np.asarray(clusters)
    se = clustered_se(array, groups, terms)
    value = float(array.sum() / (n if terms is None else np.sum(np.asarray(terms, dtype=np.float64))))
    return Interval(value, value - Z * se, value + Z * se, se, n, "normal_clustered", _count_clusters(groups))


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    n: int,
    *key: int | str,
    clusters: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    draws: int = 1000,
) -> Interval:
    """The percentile interval of any statistic of items, resampling clusters inside strata; the draw is keyed.

    `statistic` takes the indices of a resample (with repeats); resamples of which it is NaN do not count. Needed where
    a score is not a plain mean.
    """
    groups = np.arange(n) if clusters is None else np.asarray(clusters)
    names, index = np.unique(groups, return_inverse=True)
    members = np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index))[:-1])
    stratum = np.zeros(len(names), dtype=np.int64)
    if strata is not None:
        layers = np.asarray(strata)
        stratum = np.unique(layers[[m[0] for m in members]], return_inverse=True)[1]
        if clusters is not None and any(len(np.unique(layers[m])) > 1 for m in members):
            raise ValueError("a cluster lies in more than one stratum")
    order = np.argsort(stratum, kind="stable")
    sizes = np.bincount(stratum)
    size = np.repeat(sizes, sizes)
    start = np.repeat(np.cumsum(sizes) - sizes, sizes)
    single = len(names) == n
    items = np.concatenate(members)
    rng = generator("bootstrap", *key)
    values = np.empty(draws)
    for draw in range(draws):
        chosen = order[start + (rng.random(len(order)) * size).astype(np.int64)]
        picked = items[chosen] if single else np.concatenate([members[c] for c in chosen])
        values[draw] = statistic(picked)
    low, high = np.nanpercentile(values, [2.5, 97.5])
    count = None if clusters is None else len(names)
    se = float(np.nanstd(values, ddof=1))
    return Interval(statistic(np.arange(n)), float(low), float(high), se, n, "bootstrap", count)


def over_seeds(values: Sequence[float]) -> Seeds:
    """Mean and t-interval over independent seeds; with one seed the spread is unknown."""
    array = np.asarray(values, dtype=np.float64)
    count = len(array)
    if count < 2:
        return Seeds(float(array.mean()), None, None, tuple(float(v) for v in array))
    sd = float(array.std(ddof=1))
    half = float(special.stdtrit(count - 1, 0.975)) * sd / math.sqrt(count)
    return Seeds(float(array.mean()), sd, half, tuple(float(v) for v in array))


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """The exact two-sided p of "both models are right equally often", from the items on which they differ."""
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b == 0:
        return 1.0
    return min(1.0, 2.0 * float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def paired(
    first: ArrayLike, second: ArrayLike, clusters: ArrayLike | None = None, terms: ArrayLike | None = None
) -> Paired:
    """First minus second on the same items, in the same order; with `terms`, per term."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired scores must be of the same items, found {a.shape} and {b.shape}")
    interval = mean(a - b, clusters, terms)
    binary = clusters is None and terms is None and np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()
    se = interval.se
    if binary:
        p: float | None = mcnemar(a, b)
    else:
        p = math.erfc(abs(interval.value) / se / math.sqrt(2)) if se > 0 else None
    test = "mcnemar" if binary else "normal"
    return Paired(
        interval.value, interval.low, interval.high, se, interval.n, p, test, detectable(se), interval.clusters
    )


def detectable(se: float) -> float:
    """The smallest difference that a test at 5 % finds with a power of 80 %: 2.8 standard errors."""
    return 2.8 * se


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number (step-down), in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    running = 0.0
    for place, position in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - place) * p_values[position]))
        adjusted[position] = running
    return [float(p) for p in adjusted]


def _count_clusters(clusters: ArrayLike) -> int:
    return len(np.unique(np.asarray(clusters)))
