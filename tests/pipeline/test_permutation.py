import time

import numpy as np
import pytest

from unified.core.errors import DataError
from unified.pipeline.permutation import order, permute, positions

SIZES = [7, 1, 30, 12, 0, 13]


@pytest.mark.parametrize("window", [None, 1, 5, 10, 63, 1000])
@pytest.mark.parametrize("epoch", [0, 3, 10**12 // 63])
def test_every_epoch_visits_every_sample_once(window: int | None, epoch: int) -> None:
    indices = np.arange(63) + 63 * epoch
    assert sorted(positions(4, "a", indices, SIZES, window)) == list(range(63))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 64, 65, 1000])
def test_permute_is_a_bijection_for_each_key(size: int) -> None:
    values = np.arange(size, dtype=np.uint64)
    sizes, keys = np.full(size, size, dtype=np.uint64), np.full(size, 99, dtype=np.uint64)
    assert sorted(permute(values, sizes, keys)) == list(range(size))


def test_epochs_seeds_and_tasks_have_different_orders() -> None:
    indices = np.arange(63)
    orders = [
        positions(0, "a", indices, SIZES),
        positions(0, "a", indices + 63, SIZES),
        positions(1, "a", indices, SIZES),
        positions(0, "b", indices, SIZES),
    ]
    assert len({tuple(found) for found in orders}) == 4


@pytest.mark.parametrize("window", [None, 10])
def test_one_index_equals_many(window: int | None) -> None:
    indices = np.array([500, 3, 64, 3])
    assert [order(2, "a", int(i), SIZES, window) for i in indices] == list(positions(2, "a", indices, SIZES, window))


def test_windows_hold_samples_of_neighbouring_shards_only() -> None:
    sizes = [10] * 100
    shards = positions(0, "a", np.arange(1000), sizes, window=40) // 10
    for first in range(0, 1000, 40):
        assert len(set(shards[first : first + 40])) == 4
    assert list(shards[:40]) != sorted(shards[:40])
    assert set(shards[:40]) != {0, 1, 2, 3}, "shards are permuted"


def test_order_is_uniform() -> None:
    """Over many epochs each sample comes first equally often (χ² of 20 cells, 4000 draws; 99.9 % quantile 43.8)."""
    first = positions(0, "a", np.arange(4000) * 20, [20])
    counts = np.bincount(first, minlength=20)
    assert ((counts - 200) ** 2 / 200).sum() < 43.8


def test_neighbours_are_independent() -> None:
    """The correlation of successive positions in a large epoch is that of chance."""
    found = positions(0, "a", np.arange(20_000), [1_000_003]).astype(float)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.03


@pytest.mark.parametrize("window", [None, 1000])
def test_a_late_index_costs_what_an_early_one_costs(window: int | None) -> None:
    def seconds(first: int) -> float:
        start = time.perf_counter()
        positions(0, "a", first + np.arange(256), [10_000] * 100, window)
        return time.perf_counter() - start

    assert min(seconds(10**12) for _ in range(5)) < 10 * min(seconds(0) for _ in range(5))


def test_no_samples_is_an_error() -> None:
    with pytest.raises(DataError, match="no samples"):
        positions(0, "a", np.arange(2), [])
