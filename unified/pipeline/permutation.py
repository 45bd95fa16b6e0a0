"""The order of the data: which sample stands at a global index, a pure function that ranks and workers do not enter.

A counter is all the state: index 10¹² costs what index 0 costs. Every epoch visits every sample once. Samples are
permuted by a keyed Feistel network with cycle walking (Black & Rogaway, CT-RSA 2002), which needs no table.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from unified.core.errors import DataError
from unified.core.seed import key, mix

ROUNDS = 6
"""Of the network. Four give a pseudo-random permutation for long words (Luby & Rackoff 1988); ours are short."""


def order(seed: int, task: str, index: int, sizes: Sequence[int], window: int | None = None) -> int:
    """The position, in the concatenated shards of `sizes` samples, of the task's global sample `index`."""
    return int(positions(seed, task, np.array([index]), sizes, window)[0])


def positions(
    seed: int, task: str, indices: NDArray[np.int64], sizes: Sequence[int], window: int | None = None
) -> NDArray[np.int64]:
    """`order` for many indices at once.

    `window` None: one permutation of all samples. Otherwise the shards are permuted, and the samples inside windows of
    so many consecutive ones, so that reading touches few shards at a time.
    """
    total = int(sum(sizes))
    if total == 0:
        raise DataError(f"task {task!r}: its shards hold no samples")
    epochs, inside = np.divmod(np.asarray(indices, dtype=np.uint64), np.uint64(total))
    length = min(window or total, total)
    windows, offsets = np.divmod(inside, np.uint64(length))
    lengths = np.minimum(np.uint64(length), np.uint64(total) - windows * np.uint64(length))
    keys = mix(mix(epochs ^ np.uint64(key(seed, task, "samples"))) ^ windows)
    shuffled = (windows * np.uint64(length) + permute(offsets, lengths, keys)).astype(np.int64)
    if length == total or len(sizes) == 1:
        return shuffled
    result = np.empty_like(shuffled)
    for epoch in np.unique(epochs):
        rows = epochs == epoch
        result[rows] = _unshuffle_shards(shuffled[rows], _shard_order(seed, task, int(epoch), tuple(sizes)))
    return result


def permute(values: NDArray[np.uint64], sizes: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each value below its size mapped to another one below it; a bijection for each (size, key)."""
    bits = np.maximum(np.ceil(np.log2(sizes.astype(np.float64))), 1).astype(np.uint64)
    bits += (np.uint64(1) << bits) < sizes  # log2 rounds above 2⁵³
    result: NDArray[np.uint64] = _network(values, bits, keys)
    outside = np.flatnonzero(result >= sizes)
    while len(outside):  # the network permutes a power of two: walk its cycle until inside again
        result[outside] = _network(result[outside], bits[outside], keys[outside])
        outside = outside[result[outside] >= sizes[outside]]
    return result


def _network(values: NDArray[np.uint64], bits: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Feistel rounds on the low and the high half of `bits`: each half is changed by a hash of the other."""
    low_bits = bits >> np.uint64(1)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << (bits - low_bits)) - np.uint64(1)
    low: NDArray[np.uint64] = values & low_mask
    high: NDArray[np.uint64] = values >> low_bits
    for number in range(0, ROUNDS, 2):
        high = high ^ (_hash(low, keys, number) & high_mask)
        low = low ^ (_hash(high, keys, number + 1) & low_mask)
    return (high << low_bits) | low


def _hash(values: NDArray[np.uint64], keys: NDArray[np.uint64], number: int) -> NDArray[np.uint64]:
    return mix(keys ^ (values << np.uint64(3)) ^ np.uint64(number)) >> np.uint64(13)


@lru_cache(maxsize=64)
def _shard_order(
    seed: int, task: str, epoch: int, sizes: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each shard of the epoch's order ends, and by how much its samples move back to their own position."""
    count = len(sizes)
    ones = np.ones(count, dtype=np.uint64)
    numbers = permute(np.arange(count, dtype=np.uint64), ones * count, ones * key(seed, task, "shards", epoch))
    chosen = np.asarray(sizes, dtype=np.int64)[numbers.astype(np.int64)]
    ends = np.cumsum(chosen)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return ends, starts[numbers.astype(np.int64)] - (ends - chosen)


def _unshuffle_shards(
    shuffled: NDArray[np.int64], layout: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> NDArray[np.int64]:
    ends, moves = layout
    return shuffled + moves[np.searchsorted(ends, shuffled, side="right")]
