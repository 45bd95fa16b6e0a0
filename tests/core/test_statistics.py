import json
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from unified.core import statistics
from unified.core.metrics import mean_per_class_recall
from unified.core.seed import generator


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),  # the worked example of Newcombe, Statistics in Medicine 1998
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert statistics.wilson(successes, n) == pytest.approx((low, high), abs=6e-5)


def test_clustered_error_of_single_items_is_the_plain_one() -> None:
    values = generator("clusters").normal(size=200)
    plain = statistics.mean(values)
    assert statistics.mean(values, np.arange(200)).se == pytest.approx(plain.se, rel=1e-12)


def test_repeating_items_leaves_the_clustered_interval_unchanged() -> None:
    correct = generator("repeat").random(60) < 0.7
    once = statistics.proportion(correct, np.arange(60))
    often = statistics.proportion(np.repeat(correct, 5), np.repeat(np.arange(60), 5))
    assert (often.low, often.high, often.se) == pytest.approx((once.low, once.high, once.se), rel=1e-12)
    naive = statistics.proportion(np.repeat(correct, 5))
    assert naive.se < 0.5 * often.se


def test_permuting_items_changes_nothing() -> None:
    rng = generator("permute")
    values, clusters = rng.normal(size=100), rng.integers(40, size=100)
    order = rng.permutation(100)
    first, second = statistics.mean(values, clusters), statistics.mean(values[order], clusters[order])
    assert (second.low, second.high) == pytest.approx((first.low, first.high), rel=1e-12)


def test_all_right_in_clusters_still_has_an_interval() -> None:
    interval = statistics.proportion(np.ones(90), np.repeat(np.arange(45), 2))
    assert interval.high == 1.0
    assert interval.low == pytest.approx(statistics.wilson(45, 45, 2.0154)[0], abs=1e-5)  # t with 44 degrees of freedom


def test_mean_of_terms_weighs_items_by_their_terms() -> None:
    interval = statistics.mean(np.array([2.0, 9.0]), terms=np.array([1.0, 3.0]))
    assert interval.value == pytest.approx(11 / 4)
    assert interval.clusters == 2


def test_few_clusters_are_known() -> None:
    assert statistics.mean(np.arange(6.0), np.arange(6) // 2).few_clusters
    assert not statistics.mean(np.arange(60.0), np.arange(60) // 2).few_clusters
    assert not statistics.mean(np.arange(6.0)).few_clusters


def restated(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """CR2 error and Satterthwaite's degrees of freedom of a mean, by the matrices of Pustejovsky & Tipton (2018)."""
    n = len(values)
    hat = np.full((n, n), 1 / n)
    residual = np.eye(n) - hat
    columns, variance = [], 0.0
    for name in np.unique(clusters):
        rows = clusters == name
        size, vectors = np.linalg.eigh(residual[np.ix_(rows, rows)])
        adjusted = vectors @ np.diag(size**-0.5) @ vectors.T
        variance += float((adjusted @ (values - values.mean())[rows]).sum() / n) ** 2
        columns.append(residual[:, rows] @ adjusted @ np.full(rows.sum(), 1 / n))
    products = np.stack(columns) @ np.stack(columns).T
    return math.sqrt(variance), float(np.trace(products) ** 2 / (products**2).sum())


@pytest.mark.parametrize("sizes", [(4, 4, 4, 4, 4), (1, 2, 9, 30, 3, 3), (50, 2)])
def test_clustered_means_have_the_error_and_degrees_of_freedom_of_the_matrices(sizes: tuple[int, ...]) -> None:
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    values = generator("matrices", *sizes).normal(size=len(clusters)) + clusters
    se, df = restated(values, clusters)
    found = statistics.mean(values, clusters)
    assert (found.se, found.df) == pytest.approx((se, df), rel=1e-9)
    half = float(stats.t.ppf(0.975, df)) * se
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-9)
    result = statistics.paired(values, np.zeros_like(values), clusters)
    assert result.p == pytest.approx(2 * stats.t.sf(abs(values.mean()) / se, df))


def test_means_and_pairs_of_items_are_those_of_the_t_test() -> None:
    values = generator("few").normal(1.0, 1.0, size=5)
    expected = stats.ttest_1samp(values, 0.0)
    low, high = expected.confidence_interval(0.95)
    interval, result = statistics.mean(values), statistics.paired(values, np.zeros(5))
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert (result.low, result.high, result.p) == pytest.approx((low, high, expected.pvalue))
    assert result.detectable == pytest.approx((2.7764 + 0.9410) * result.se, rel=1e-4)  # t with 4 at 97.5 % and 80 %


def test_proportions_of_clusters_are_t_intervals_of_the_logit() -> None:
    correct = np.array([1, 1, 1, 0, 1, 1, 0, 0, 1, 1, 1, 1], dtype=float)
    clusters = np.repeat(np.arange(4), 3)
    se, df = restated(correct, clusters)
    p = correct.mean()
    ends = math.log(p / (1 - p)) + np.array([-1, 1]) * stats.t.ppf(0.975, df) * se / (p * (1 - p))
    found = statistics.proportion(correct, clusters)
    assert (found.low, found.high) == pytest.approx(tuple(1 / (1 + np.exp(-ends))))
    assert 0 < found.low < p < found.high < 1


def test_clusters_that_are_equal_by_chance_are_not_taken_as_certain() -> None:
    correct = np.tile([1.0, 1.0, 0.0, 1.0], 5)
    found = statistics.proportion(correct, np.repeat(np.arange(5), 4))
    assert found.se == 0
    assert found.high - found.low > 0.5  # as of five items


@pytest.mark.parametrize("first", [[1.0, 1.0, 1.0], [0.3, 0.4, 0.5]])
def test_one_item_or_one_cluster_has_no_interval(first: list[float]) -> None:
    values, one = np.array(first), np.zeros(3)
    found = [
        statistics.mean(values, one), statistics.proportion(values, one), statistics.mean(values[:1]),
        statistics.proportion(values[:1]), statistics.mean(values[:1], terms=np.array([7.0])),
        statistics.proportion(values, terms=np.array([0, 5, 0])),
        statistics.exponential(statistics.mean(values[:1])),
        statistics.bootstrap(lambda index: float(np.median(values[index])), 3, "one", clusters=one),
        statistics.bootstrap(lambda index: float(values[index].max()), 1, "one"),
    ]  # fmt: skip
    for interval in found:
        assert math.isfinite(interval.value)
        assert np.isnan([interval.low, interval.high, interval.se]).all()
        assert interval.df is None
    for result in (statistics.paired(values, values / 2, one), statistics.paired(values[:1], values[1:2])):
        assert np.isnan([result.low, result.high, result.se, result.detectable]).all()
        assert (result.p, result.test) == (None, "none")


@pytest.mark.parametrize("clustered", [False, True])
def test_p_is_below_five_percent_exactly_where_the_interval_leaves_out_zero(clustered: bool) -> None:
    rng, rejected = generator("agree", int(clustered)), 0
    for trial in range(400):
        n = int(rng.integers(4, 40))
        first, second = (rng.random(n) < rate for rate in (0.8, 0.8 - 0.6 * (trial % 2)))
        clusters = np.arange(n) % 6 if clustered else None
        result = statistics.paired(first, second, clusters)
        if result.p is not None:
            assert (result.p < 0.05) == (not result.low <= 0 <= result.high), (first, second)
            rejected += result.p < 0.05
    assert 20 < rejected < 380


def test_a_difference_that_is_the_same_everywhere_has_the_exact_sign_test() -> None:
    for count, told in ((5, False), (6, True)):
        clusters = np.repeat(np.arange(count), 3)
        result = statistics.paired(np.full(3 * count, 0.7), np.full(3 * count, 0.5), clusters)
        assert (result.test, result.p) == ("sign", pytest.approx(2 * 0.5**count))
        assert (result.low > 0) == told
        assert result.high == pytest.approx(0.2)


BOOTSTRAP = """
import json, numpy as np
from unified.core import statistics as intervals
values = np.arange(50.0) ** 2
i = intervals.bootstrap(lambda index: float(np.median(values[index])), 50, "a", 1, draws=200)
print(json.dumps([i.value, i.low, i.high, i.se]))
"""


def test_bootstrap_is_the_same_in_every_process() -> None:
    runs = [subprocess.run([sys.executable, "-c", BOOTSTRAP], capture_output=True, text=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout, runs[0].stderr
    value, low, high, se = json.loads(runs[0].stdout)
    assert low < value < high
    assert se > 0


def test_bootstrap_of_a_mean_agrees_with_the_formula() -> None:
    values = generator("mean").normal(size=400)
    drawn = statistics.bootstrap(lambda index: float(values[index].mean()), 400, "mean")
    assert drawn.se == pytest.approx(statistics.mean(values).se, rel=0.1)


def test_bootstrap_inside_strata_keeps_the_number_of_each_class() -> None:
    target = np.repeat([0, 1, 2], [30, 10, 2])
    sizes = []

    def statistic(index: np.ndarray) -> float:
        sizes.append(tuple(np.bincount(target[index], minlength=3)))
        return mean_per_class_recall(target[index] > 0, target[index])

    interval = statistics.bootstrap(statistic, 42, "strata", strata=target, draws=20)
    assert set(sizes) == {(30, 10, 2)}
    assert (interval.low, interval.high) == pytest.approx((2 / 3, 2 / 3))


def test_bootstrap_resamples_whole_clusters() -> None:
    clusters = np.repeat(np.arange(40), 3)

    def whole(index: np.ndarray) -> float:
        return float((np.bincount(clusters[index], minlength=40) % 3 == 0).all())

    assert statistics.bootstrap(whole, 120, "whole", clusters=clusters, draws=20).low == 1.0


def test_bootstrap_limits_of_few_clusters_are_widened_to_those_of_t() -> None:
    values = np.repeat(generator("five").normal(size=5), 4)
    clusters = np.repeat(np.arange(5), 4)
    drawn = statistics.bootstrap(lambda index: float(values[index].mean()), 20, "five", clusters=clusters, draws=4000)
    exact = statistics.mean(values, clusters)
    assert drawn.se == pytest.approx(exact.se, rel=0.05)
    assert drawn.high - drawn.low == pytest.approx(exact.high - exact.low, rel=0.1)


def test_bootstrap_limits_stay_within_bounds_and_all_right_is_not_certain() -> None:
    values = np.array([1.0, 1.0, 1.0, 0.6, 1.0, 1.0])
    part = statistics.bootstrap(lambda index: float(values[index].mean()), 6, "bounds", bounds=(0.0, 1.0))
    assert part.low < 0.8
    assert part.high == 1.0
    whole = statistics.bootstrap(lambda index: float(np.ones(6)[index].mean()), 6, "whole", bounds=(0.0, 1.0))
    assert (whole.low, whole.high) == pytest.approx((statistics.wilson(6, 6, 2.5706)[0], 1.0), abs=1e-4)


def test_strata_of_one_item_are_taken_to_vary_as_others_do() -> None:
    target = np.array([0, 0, 0, 1, 2, 2])
    values = np.array([1.0, 0.0, 1.0, 1.0, 1.0, 0.0])

    def recall(index: np.ndarray) -> float:
        return mean_per_class_recall(values[index], target[index])

    some = statistics.bootstrap(recall, 6, "some", strata=target, draws=2000)
    # Of the variance 1/3 + 1/1 + 1/2, resampling keeps 2/9 + 0 + 1/4.
    drawn = (2 / 27 + 1 / 8) / 9  # p (1 − p) / n of both
    assert some.se**2 == pytest.approx(drawn * (11 / 6) / (2 / 9 + 1 / 4), rel=0.1)
    alone = statistics.bootstrap(recall, 6, "alone", strata=np.arange(6), draws=200)
    assert alone.low < alone.value < alone.high


def test_interval_over_seeds_uses_student() -> None:
    seeds = statistics.over_seeds([0.70, 0.74, 0.72])
    assert seeds.half_width == pytest.approx(4.303 * 0.02 / math.sqrt(3), rel=1e-3)
    assert statistics.over_seeds([1.0, 2, 3, 4, 5]).half_width == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=1e-3)
    assert statistics.over_seeds([0.7]).half_width is None


def test_mcnemar_is_the_exact_binomial_test() -> None:
    first = np.array([1] * 8 + [0] * 2 + [1] * 20)
    second = np.array([0] * 8 + [1] * 2 + [1] * 20)
    assert statistics.mcnemar(first, second) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert statistics.mcnemar(first, first) == 1.0


def test_equal_models_differ_by_exactly_nothing() -> None:
    correct = generator("equal").random(50) < 0.5
    result = statistics.paired(correct, correct)
    assert (result.difference, result.low, result.high, result.p, result.detectable) == (0, 0, 0, 1, 0)


def test_paired_difference_is_tighter_than_two_intervals() -> None:
    rng = generator("paired")
    hard = rng.normal(size=500)
    result = statistics.paired(hard + 0.1, hard + rng.normal(scale=0.05, size=500))
    assert result.test == "t"
    assert result.p is not None
    assert result.p < 1e-6
    assert result.detectable == pytest.approx((1.96473 + 0.84234) * result.se, rel=1e-4)  # t with 499


def test_holm_adjusts_step_by_step() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([]) == []
