"""The one place that decides degrees of freedom and the correction for few items and clusters."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

LEVEL = 0.975
"""Of the upper limit of a two-sided 95 % interval."""
Z = float(special.ndtri(LEVEL))
FEW_CLUSTERS = 30
"""Below this many clusters, corrected intervals hold on average, but a single one may be far off."""
FLAT = 1e-9
"""A standard error below this fraction of the value is rounding: items or clusters do not differ."""


@dataclass(frozen=True)
class Clustered:
    """A ratio of sums over clusters: its value, CR2 error, degrees of freedom, and the clusters that count."""

    value: float
    se: float
    df: float
    count: int
    effective: float
    """The number of clusters of equal size whose mean would vary as much."""


def clustered(values: NDArray[np.float64], clusters: ArrayLike | None, terms: ArrayLike | None) -> Clustered:
    """The mean of values in clusters, or the mean of a term; without `clusters`, each item is one."""
    weights = np.ones_like(values) if terms is None else np.asarray(terms, dtype=np.float64)
    if clusters is not None:
        index = np.unique(np.asarray(clusters), return_inverse=True)[1]
        values, weights = (np.bincount(index, weights=of).astype(np.float64) for of in (values, weights))
    total = float(weights.sum())
    if total <= 0:
        raise ValueError("a mean of no terms has no interval")
    value = float(values.sum()) / total
    counted = weights > 0  # the others have no terms: they say nothing, and are not independent evidence
    share = weights[counted] / total
    count = len(share)
    if count < 2:
        return Clustered(value, math.nan, math.nan, count, float(count))
    residual = values[counted] - weights[counted] * value
    se = math.sqrt(float((residual**2 / (1 - share)).sum())) / total
    return Clustered(value, se, degrees(share), count, 1 / float(share @ share))


def degrees(share: NDArray[np.float64]) -> float:
    """Satterthwaite's degrees of freedom of the CR2 variance of a mean; `share` (g,) of each cluster, summing to 1.

    With independent items as the working model, residual g has variance share_g (1 − share_g) and covariance
    −share_g share_h; the variance estimate is Σ e_g² / (1 − share_g). Clusters of equal size: g − 1.
    """
    lever = share**2 / (1 - share)
    return 1 / float(share @ share + lever.sum() ** 2 - lever @ lever)


def t_quantile(df: float, level: float = LEVEL) -> float:
    """Student's t with `df` degrees of freedom, which need not be whole, at a level from 0 to 1."""
    return float(special.stdtrit(df, level))


def lost_variance(items: NDArray[np.int64], stratum: NDArray[np.int64]) -> tuple[float, float]:
    """By what factor the variance of resamples is too small, and its degrees of freedom.

    Of a statistic that weighs clusters by their number of `items`; with strata, one that weighs strata alike.
    """
    sizes = np.bincount(stratum).astype(np.float64)
    if len(sizes) == 1:
        share = items / items.sum()
        return 1 / (1 - float(share @ share)), degrees(share)
    several = sizes[sizes > 1]
    kept = (several - 1) / several**2
    return float((1 / sizes).sum() / kept.sum()), float(kept.sum() ** 2 / (kept**2 / (several - 1)).sum())
