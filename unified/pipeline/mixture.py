"""Which of a task's data sets each of its samples comes from: by weight, a pure function of the sample's number.

Numbers come in blocks in which each data set has a whole share, spread evenly; so the samples that came from a data set
before any number are finished blocks × share + a count inside the block, and a run goes on anywhere at the same cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from unified.config.task import Task
from unified.core.locations import shown
from unified.data.shards.patterns import several
from unified.pipeline.quotas import quotas, spread


@dataclass(frozen=True)
class Mixture:
    """The data sets of one task. From sample `start` on it holds, when `counts` samples had come from each of them."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    key: tuple[int | str, ...]
    start: int
    counts: tuple[int, ...]

    @classmethod
    def of(cls, task: Task, key: tuple[int | str, ...], start: int, counts: Mapping[str, int]) -> "Mixture":
        """That of a task; data sets that are not among `counts` are new."""
        names = set_names(task)
        return cls(names, tuple(task.data_weights), key, start, tuple(counts.get(name, 0) for name in names))

    @cached_property
    def _quotas(self) -> tuple[int, ...]:
        return quotas(self.weights, 1)

    def choose(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For the task's samples `indices`: the number of the data set, and that of the sample in the set's order."""
        blocks, offsets = np.divmod(np.asarray(indices) - self.start, sum(self._quotas))
        sets, inner = np.empty_like(blocks), np.empty_like(blocks)
        for block in np.unique(blocks):
            rows = blocks == block
            which, before = _block(self._quotas, (*self.key, self.start, int(block)))
            sets[rows], inner[rows] = which[offsets[rows]], before[offsets[rows]]
        return sets, inner + np.array(self.counts)[sets] + blocks * np.array(self._quotas)[sets]

    def seen(self, index: int) -> dict[str, int]:
        """By data set, the samples that come from it before the task's sample `index`."""
        block, offset = divmod(index - self.start, sum(self._quotas))
        which, _ = _block(self._quotas, (*self.key, self.start, block))
        inside = np.bincount(which[:offset], minlength=len(self.names)).tolist()
        return {
            name: count + block * quota + more
            for name, count, quota, more in zip(self.names, self.counts, self._quotas, inside, strict=True)
        }


def set_names(task: Task) -> tuple[str, ...]:
    """What tells the data sets of a task apart, in its record too: their patterns, without secrets.

    Where that makes some alike they are numbered.
    """
    names = [shown(pattern) for pattern in several(task.data)]
    earlier = [names[:number].count(name) for number, name in enumerate(names)]
    return tuple(f"{name} ({count + 1})" if count else name for name, count in zip(names, earlier, strict=True))


@lru_cache(maxsize=64)
def _block(quotas: tuple[int, ...], key: tuple[int | str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each sample of a block its data set, and how many of that set come before it in the block."""
    rows = np.array(spread(quotas, 1, key), dtype=np.int64)
    which = rows.argmax(axis=1)
    return which, (np.cumsum(rows, axis=0) - rows)[np.arange(len(which)), which]
