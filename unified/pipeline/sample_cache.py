"""Decoded samples kept in the memory of a loader process: data sets of small pictures are decoded once a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from unified.core.types import Sample
from unified.data.samples.decode import decode
from unified.data.shards.shards import Shards

OVERHEAD = 2000
"""Bytes that a kept sample takes beside its pictures and arrays, roughly."""
DECODED = "__decoded__"


class SampleCache:
    """Reads and decodes samples, and keeps the first ones that fit into `limit` bytes.

    Nothing is thrown out: an epoch visits every sample once, so those used last are needed last.
    """

    def __init__(self, limit: int) -> None:
        self.limit = self.room = limit
        self._kept: dict[tuple[str, int], dict[str, Any]] = {}

    def sample(self, shards: Shards, position: int, columns: Sequence[str]) -> tuple[Sample, int]:
        """The named columns of a sample, and the bytes of the sample that was read: 0 if all of them are kept."""
        if not self.limit:
            raw = shards[position]
            return decode(raw, columns), _length(raw)
        place = (shards.digest, position)
        kept = self._kept.get(place, {})
        missing = [name for name in columns if name not in kept.get(DECODED, ())]
        if not missing and kept:
            return kept, 0
        raw = shards[position]
        decoded = decode(raw, missing)
        sample = {**kept, **decoded, DECODED: (*kept.get(DECODED, ()), *missing)}
        size = sum(getattr(value, "nbytes", 0) for name, value in decoded.items() if name not in kept)
        size += 0 if kept else OVERHEAD
        if size <= self.room:
            self.room -= size
            self._kept[place] = sample
        return sample, _length(raw)


def _length(raw: Mapping[str, Any]) -> int:
    return sum([len(value) for value in raw.values() if isinstance(value, bytes)])
