"""How sure a number is: sampling error (another test set?) and spread over seeds (another subset?), never merged.

Intervals are two-sided at 95 % and hold for few items and few clusters too:

* mean of items: Student's t with n − 1 degrees of freedom;
* mean of clusters, or ratio of sums: CR2 standard error, t with Satterthwaite's degrees of freedom (Bell & McCaffrey,
  Survey Methodology 2002; Pustejovsky & Tipton, JBES 2018, arXiv 1601.01981), in closed form for a mean;
* proportion: Wilson, JASA 1927; of clusters: t on the logit scale with the same error and degrees of freedom (Korn &
  Graubard, Survey Methodology 1998);
* what is no mean: percentile bootstrap whose limits are moved out by t and the lost variance (Hesterberg, American
  Statistician 2015, arXiv 1411.5279, corrects the levels instead, which so few resamples cannot reach);
* difference of two models: that of the mean, and p from the same t; exact McNemar 1947 for 0 and 1.

`tests/evaluate/test_coverage.py` simulates what they cover. Clusters as in Miller, "Adding Error Bars to Evals",
arXiv 2411.00640; Holm 1979.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from unified.core.metrics import perplexity
from unified.core.seed import generator
from unified.core.small_samples import (
    FEW_CLUSTERS,
    FLAT,
    LEVEL,
    Clustered,
    Z,
    clustered,
    lost_variance,
    t_quantile,
)

POWER = 0.8


@dataclass(frozen=True)
class Interval:
    """A number with its sampling error: 95 % limits, standard error, and the items it rests on.

    Limits and error are NaN where one item or one cluster leaves them unknown.
    """

    value: float
    low: float
    high: float
    se: float
    n: int
    method: str
    clusters: int | None = None
    df: float | None = None
    """Degrees of freedom of t; None where the limits rest on the normal distribution (Wilson) or are unknown."""

    @property
    def few_clusters(self) -> bool:
        """Whether the interval rests on few clusters."""
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
    """The difference of two models on the same items; p is below 0.05 exactly where the limits exclude 0.

    Limits, error and detectable difference are NaN, and p is None, with one item or one cluster.
    """

    difference: float
    low: float
    high: float
    se: float
    n: int
    p: float | None
    test: str
    """mcnemar: exact, for scores of 0 and 1 without clusters; t: with the degrees of freedom of the interval; sign:
    exact, where all items or clusters differ by the same; none."""
    detectable: float
    clusters: int | None = None
    df: float | None = None

    @property
    def few_clusters(self) -> bool:
        """Whether the interval rests on few clusters."""
        return self.clusters is not None and self.clusters < FEW_CLUSTERS


def wilson(successes: float, n: float, quantile: float = Z) -> tuple[float, float]:
    """The Wilson score limits of a proportion; `quantile` is that of the normal distribution, or of t."""
    if n <= 0:
        raise ValueError("a proportion of no items has no interval")
    p = successes / n
    scale = 1 + quantile**2 / n
    centre = (p + quantile**2 / (2 * n)) / scale
    half = quantile * math.sqrt(p * (1 - p) / n + quantile**2 / (4 * n**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def proportion(correct: ArrayLike, clusters: ArrayLike | None = None, terms: ArrayLike | None = None) -> Interval:
    """The interval of a fraction of right items: Wilson; with clusters, t on the logit scale.

    With clusters that are all right or all wrong: Wilson with t at the effective number of clusters.

    Args:
        correct: Scores from 0 to 1 (n,); with `terms`, how many of an item's terms are right.
        clusters: Cluster of each item (n,); None: items are independent.
        terms: Number of terms of each item (n,); items are then the clusters, unless others are given.

    Returns:
        The interval; unknown limits with one item or one cluster.

    Raises:
        ValueError: Without items or terms.
    """
    array = np.asarray(correct, dtype=np.float64)
    n = len(array)
    if n == 0:
        raise ValueError("a proportion of no items has no interval")
    if clusters is None and terms is None:
        p = float(array.mean())
        if n == 1:
            return Interval(p, math.nan, math.nan, math.nan, n, "wilson")
        low, high = wilson(float(array.sum()), n)
        return Interval(p, low, high, math.sqrt(p * (1 - p) / n), n, "wilson")
    found = clustered(array, clusters, terms)
    low, high = _logit_limits(found)
    return Interval(found.value, low, high, found.se, n, "logit_t", found.count, _known(found.df))


def _logit_limits(found: Clustered) -> tuple[float, float]:
    p, se = found.value, found.se
    if math.isnan(se):
        return math.nan, math.nan
    quantile = t_quantile(found.df)
    if not FLAT < p < 1 - FLAT:
        return wilson(p * found.effective, found.effective, quantile)
    if se <= FLAT:  # equal by chance, as fractions of few items are: one draw a cluster is what they tell
        se = math.sqrt(p * (1 - p) / found.effective)
    centre, half = float(special.logit(p)), quantile * se / (p * (1 - p))
    return float(special.expit(centre - half)), float(special.expit(centre + half))


def mean(values: ArrayLike, clusters: ArrayLike | None = None, terms: ArrayLike | None = None) -> Interval:
    """The t-interval of a mean of scores; with clusters or terms, CR2 with Satterthwaite's degrees of freedom.

    Args:
        values: Scores (n,); with `terms`, sums over so many terms.
        clusters: Cluster of each item (n,); None: items are independent.
        terms: Number of terms of each item (n,); items are then the clusters, unless others are given.

    Returns:
        The interval; unknown limits with one item or one cluster.

    Raises:
        ValueError: Without items or terms.
    """
    array = np.asarray(values, dtype=np.float64)
    n = len(array)
    if n == 0:
        raise ValueError("a mean of no items has no interval")
    if clusters is None and terms is None:
        value = float(array.mean())
        if n == 1:
            return Interval(value, math.nan, math.nan, math.nan, n, "t")
        se, df = float(array.std(ddof=1)) / math.sqrt(n), n - 1.0
        half = t_quantile(df) * se
        return Interval(value, value - half, value + half, se, n, "t", None, df)
    found = clustered(array, clusters, terms)
    half = t_quantile(found.df) * found.se
    low, high = found.value - half, found.value + half
    return Interval(found.value, low, high, found.se, n, "tclustered", found.count, _known(found.df))


def exponential(interval: Interval) -> Interval:
    """The interval of exp(x) from that of x, such as of a perplexity from a mean loss in nats."""
    value, low, high = (perplexity(x, 1) for x in (interval.value, interval.low, interval.high))
    # The error of an exponential: its derivative is itself.
    return Interval(value, low, high, value * interval.se, interval.n, "exp_t", interval.clusters, interval.df)


def _known(df: float) -> float | None:
    return None if math.isnan(df) else df


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    n: int,
    *key: int | str,
    clusters: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    draws: int = 1000,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """The interval of any statistic of items, resampling clusters inside strata; needed where it is no plain mean.

    Percentile limits are too narrow with few clusters. Their distances from the median of the resamples are
    multiplied by t / z and by the root of the variance that resampling loses (1 / g of g equal clusters).

    Args:
        statistic: Takes the indices of a resample, with repeats; resamples of which it is NaN do not count.
        n: Number of items.
        key: Of the random draw.
        clusters: Cluster of each item (n,); None: items are independent.
        strata: Stratum of each item (n,), whose number of clusters every resample keeps. A stratum of one cluster
            is taken to vary as the others do; where all are such, they are resampled together.
        draws: Number of resamples.
        bounds: Least and largest value that the statistic can have.

    Returns:
        The interval; unknown limits with one cluster.

    Raises:
        ValueError: Where a cluster lies in more than one stratum.
    """
    groups = np.arange(n) if clusters is None else np.asarray(clusters)
    names, index = np.unique(groups, return_inverse=True)
    members = np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index))[:-1])
    value, count = statistic(np.arange(n)), None if clusters is None else len(names)
    if len(names) < 2:
        return Interval(value, math.nan, math.nan, math.nan, n, "bootstrap", count)
    stratum = np.zeros(len(names), dtype=np.int64)
    if strata is not None:
        layers = np.asarray(strata)
        if clusters is not None and any(len(np.unique(layers[m])) > 1 for m in members):
            raise ValueError("a cluster lies in more than one stratum")
        of_cluster = np.unique(layers[[m[0] for m in members]], return_inverse=True)[1]
        if np.bincount(of_cluster).max() > 1:
            stratum = of_cluster
    values = _resampled(statistic, members, stratum, generator("bootstrap", *key), draws)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return Interval(value, math.nan, math.nan, math.nan, n, "bootstrap", count)
    lost, df = lost_variance(np.bincount(index), stratum)
    if values.min() == values.max() == value and value in bounds and np.isfinite(bounds).all():
        low, high = _all_at(value, bounds, len(names), t_quantile(df))
    else:
        low, middle, high = np.quantile(values, [1 - LEVEL, 0.5, LEVEL], method="weibull")  # unbiased in level
        widening = t_quantile(df) / Z * math.sqrt(lost)
        low = max(middle - widening * (middle - low), bounds[0])
        high = min(middle + widening * (high - middle), bounds[1])
    se = float(values.std(ddof=1)) * math.sqrt(lost)
    return Interval(value, min(float(low), value), max(float(high), value), se, n, "bootstrap", count, df)


def _resampled(
    statistic: Callable[[NDArray[np.int64]], float],
    members: list[NDArray[np.int64]],
    stratum: NDArray[np.int64],
    rng: np.random.Generator,
    draws: int,
) -> NDArray[np.float64]:
    order = np.argsort(stratum, kind="stable")
    sizes = np.bincount(stratum)
    size = np.repeat(sizes, sizes)
    start = np.repeat(np.cumsum(sizes) - sizes, sizes)
    items = np.concatenate(members)
    single = len(items) == len(members)
    values = np.empty(draws)
    for draw in range(draws):
        chosen = order[start + (rng.random(len(order)) * size).astype(np.int64)]
        values[draw] = statistic(items[chosen] if single else np.concatenate([members[c] for c in chosen]))
    return values


def _all_at(value: float, bounds: tuple[float, float], clusters: int, quantile: float) -> tuple[float, float]:
    """Limits where no resample leaves the end of the range: as of a proportion that is 0 or 1 in all clusters."""
    least, largest = bounds
    ends = wilson(clusters * (value - least) / (largest - least), clusters, quantile)
    return least + (largest - least) * ends[0], least + (largest - least) * ends[1]


def over_seeds(values: Sequence[float]) -> Seeds:
    """Mean and t-interval over independent seeds; with one seed the spread is unknown."""
    array = np.asarray(values, dtype=np.float64)
    count = len(array)
    if count < 2:
        return Seeds(float(array.mean()), None, None, tuple(float(v) for v in array))
    sd = float(array.std(ddof=1))
    half = t_quantile(count - 1) * sd / math.sqrt(count)
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
    """First minus second on the same items, in the same order.

    Args:
        first: Scores of one model (n,); with `terms`, sums over so many terms.
        second: Those of the other.
        clusters: Cluster of each item (n,); None: items are independent.
        terms: Number of terms of each item (n,); items are then the clusters, unless others are given.

    Returns:
        The mean difference, its 95 % limits, and p; unknown with one item or one cluster.

    Raises:
        ValueError: Where the scores differ in number, or there are none.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired scores must be of the same items, found {a.shape} and {b.shape}")
    found = mean(a - b, clusters, terms)
    value, low, high, p, test = found.value, found.low, found.high, None, "none"
    if found.df is not None:
        if clusters is None and terms is None and np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
            p, test = mcnemar(a, b), "mcnemar"
            # The t-limits exclude 0 wherever the exact test rejects, but for few items elsewhere too.
            exact = _exact_limits(int((a > b).sum()), int((a < b).sum()), found.n)
            low, high = min(low, exact[0]), max(high, exact[1])
        elif value != 0 and found.se <= FLAT * abs(value):
            count = found.n if found.clusters is None else found.clusters
            p, test = 2.0 ** (1 - count), "sign"
            low, high = sorted((value, value * (2 * (1 - LEVEL) ** (1 / count) - 1)))
        else:
            p, test = (2 * float(special.stdtr(found.df, -abs(value) / found.se)) if value != 0 else 1.0), "t"
    smallest = detectable(found.se, found.df)
    return Paired(value, low, high, found.se, found.n, p, test, smallest, found.clusters, found.df)


def _exact_limits(only_first: int, only_second: int, n: int) -> tuple[float, float]:
    """Limits of a difference that exclude 0 where `mcnemar` rejects: Clopper & Pearson 1934, given the differing items.

    They take the number of differing items as fixed, so they serve beside others.
    """
    differing = only_first + only_second
    low = float(special.betaincinv(only_first, only_second + 1, 1 - LEVEL)) if only_first else 0.0
    high = float(special.betaincinv(only_first + 1, only_second, LEVEL)) if only_second else 1.0
    return (2 * low - 1) * differing / n, (2 * high - 1) * differing / n


def detectable(se: float, df: float | None) -> float:
    """The smallest difference that a test at 5 % finds with a power of 80 %: 2.8 standard errors of many items."""
    if df is None:
        return math.nan
    return (t_quantile(df) + t_quantile(df, POWER)) * se


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number (step-down), in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    running = 0.0
    for place, position in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - place) * p_values[position]))
        adjusted[position] = running
    return [float(p) for p in adjusted]
