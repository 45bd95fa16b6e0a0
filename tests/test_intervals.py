import json
import math
import subprocess
import sys

import numpy as np
import pytest

from unified import intervals
from unified.metrics import mean_per_class_recall
from unified.seed import generator


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
    assert intervals.wilson(successes, n) == pytest.approx((low, high), abs=6e-5)


def test_clustered_error_of_single_items_is_the_plain_one() -> None:
    values = generator("clusters").normal(size=200)
    plain = intervals.mean(values)
    assert intervals.clustered_se(values, np.arange(200)) == pytest.approx(plain.se, rel=1e-12)


def test_repeating_items_leaves_the_clustered_interval_unchanged() -> None:
    correct = generator("repeat").random(60) < 0.7
    once = intervals.proportion(correct, np.arange(60))
    often = intervals.proportion(np.repeat(correct, 5), np.repeat(np.arange(60), 5))
    assert (often.low, often.high, often.se) == pytest.approx((once.low, once.high, once.se), rel=1e-12)
    naive = intervals.proportion(np.repeat(correct, 5))
    assert naive.se < 0.5 * often.se


def test_permuting_items_changes_nothing() -> None:
    rng = generator("permute")
    values, clusters = rng.normal(size=100), rng.integers(40, size=100)
    order = rng.permutation(100)
    first, second = intervals.mean(values, clusters), intervals.mean(values[order], clusters[order])
    assert (second.low, second.high) == pytest.approx((first.low, first.high), rel=1e-12)


def test_all_right_in_clusters_still_has_an_interval() -> None:
    interval = intervals.proportion(np.ones(90), np.repeat(np.arange(45), 2))
    assert interval.high == 1.0
    assert interval.low == pytest.approx(intervals.wilson(45, 45, 2.0154)[0], abs=1e-5)  # t with 44 degrees of freedom


def test_mean_of_terms_weighs_items_by_their_terms() -> None:
    interval = intervals.mean(np.array([2.0, 9.0]), terms=np.array([1.0, 3.0]))
    assert interval.value == pytest.approx(11 / 4)
    assert interval.clusters == 2


def test_few_clusters_are_known() -> None:
    assert intervals.mean(np.arange(6.0), np.arange(6) // 2).few_clusters
    assert not intervals.mean(np.arange(60.0), np.arange(60) // 2).few_clusters
    assert not intervals.mean(np.arange(6.0)).few_clusters


BOOTSTRAP = """
import json, numpy as np
from unified import intervals
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
    drawn = intervals.bootstrap(lambda index: float(values[index].mean()), 400, "mean")
    assert drawn.se == pytest.approx(intervals.mean(values).se, rel=0.1)


def test_bootstrap_inside_strata_keeps_the_number_of_each_class() -> None:
    target = np.repeat([0, 1, 2], [30, 10, 2])
    sizes = []

    def statistic(index: np.ndarray) -> float:
        sizes.append(tuple(np.bincount(target[index], minlength=3)))
        return mean_per_class_recall(target[index] > 0, target[index])

    interval = intervals.bootstrap(statistic, 42, "strata", strata=target, draws=20)
    assert set(sizes) == {(30, 10, 2)}
    assert (interval.low, interval.high) == pytest.approx((2 / 3, 2 / 3))


def test_bootstrap_resamples_whole_clusters() -> None:
    clusters = np.repeat(np.arange(40), 3)

    def whole(index: np.ndarray) -> float:
        return float((np.bincount(clusters[index], minlength=40) % 3 == 0).all())

    assert intervals.bootstrap(whole, 120, "whole", clusters=clusters, draws=20).low == 1.0


def test_interval_over_seeds_uses_student() -> None:
    seeds = intervals.over_seeds([0.70, 0.74, 0.72])
    assert seeds.half_width == pytest.approx(4.303 * 0.02 / math.sqrt(3), rel=1e-3)
    assert intervals.over_seeds([1.0, 2, 3, 4, 5]).half_width == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=1e-3)
    assert intervals.over_seeds([0.7]).half_width is None


def test_mcnemar_is_the_exact_binomial_test() -> None:
    first = np.array([1] * 8 + [0] * 2 + [1] * 20)
    second = np.array([0] * 8 + [1] * 2 + [1] * 20)
    assert intervals.mcnemar(first, second) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert intervals.mcnemar(first, first) == 1.0


def test_equal_models_differ_by_exactly_nothing() -> None:
    correct = generator("equal").random(50) < 0.5
    result = intervals.paired(correct, correct)
    assert (result.difference, result.low, result.high, result.p, result.detectable) == (0, 0, 0, 1, 0)


def test_paired_difference_is_tighter_than_two_intervals() -> None:
    rng = generator("paired")
    hard = rng.normal(size=500)
    result = intervals.paired(hard + 0.1, hard + rng.normal(scale=0.05, size=500))
    assert result.test == "t"
    assert result.p is not None
    assert result.p < 1e-6
    assert result.detectable == pytest.approx((1.96473 + 0.84234) * result.se, rel=1e-4)  # t with 499


def test_holm_adjusts_step_by_step() -> None:
    assert intervals.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert intervals.holm([]) == []
