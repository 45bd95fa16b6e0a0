"""Which evaluated samples a model was trained on: by the hashes of shards, then by those of samples' input bytes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unified.core.training_record import TrainingRecord
from unified.data.samples.decode import resolve
from unified.data.shards.shards import LocalShard, Shards
from unified.data.shards.write import progress
from unified.data.training_shards import shard_at_hand
from unified.evaluate.items import choose_items
from unified.evaluate.sources import Source, open_source
from unified.evaluate.spec import Evaluation

MOST_BYTES = 8_000_000_000
"""Of training samples that are hashed for one evaluation; more would take minutes."""


@dataclass(frozen=True)
class Overlap:
    """How many of an evaluation's samples were trained on."""

    samples: int
    seen: int
    """Samples that were trained on, as far as training shards could be compared."""
    shards: int
    seen_shards: int
    missing_shards: int
    """Training shards that are not at hand, or too large to compare."""

    @property
    def fraction(self) -> float:
        """Of the samples, those that were trained on."""
        return self.seen / max(self.samples, 1)


_known: dict[Any, Overlap] = {}
"""Overlaps by all that they depend on: evaluations of a run in training ask for the same ones each time."""


def find_overlap(evaluation: Evaluation, record: TrainingRecord) -> Overlap:
    """Return how many of an evaluation's samples are among the training data of a record.

    Samples of shards with the hash of a training shard are, whatever they hold. Others are where the training shards
    at hand have a sample with the same bytes in all of the evaluation's inputs; a re-encoded image is another sample.
    """
    source = open_source(evaluation.several)
    asked = (source.digest, evaluation.limit, tuple(evaluation.inputs), record)
    if asked not in _known:
        _known[asked] = _overlap(source, evaluation, record)
    return _known[asked]


def _overlap(source: Source, evaluation: Evaluation, record: TrainingRecord) -> Overlap:
    numbers = choose_items(len(source), evaluation.limit)
    files = source.files if isinstance(source, Shards) else ()
    known = {shard.sha256 for shard in record.shards}
    trained = np.array([file.digest.hex() in known for file in files], dtype=bool)
    of_shard = np.repeat(trained, [file.samples for file in files]) if files else np.zeros(len(source), dtype=bool)
    rest = numbers[~of_shard[numbers]]
    seen, missing = _compare(source, rest, tuple(evaluation.inputs), record) if len(rest) else (0, 0)
    return Overlap(len(numbers), len(numbers) - len(rest) + seen, len(files), int(trained.sum()), missing)


def _compare(
    source: Source, numbers: NDArray[np.int64], columns: Sequence[str], record: TrainingRecord
) -> tuple[int, int]:
    """The number of samples that shards at hand hold, and the number of training shards that are not compared."""
    here = [shard for shard in map(shard_at_hand, record.shards) if shard is not None]
    if not here:
        return 0, len(record.shards)
    wanted: list[list[tuple[str, bytes]]] = []
    sizes: set[int] = set()
    for number in progress([int(n) for n in numbers], len(numbers), "comparing with the training data"):
        raw = source[number]
        names = [resolve(raw, name)[0] for name in columns]
        sizes |= {len(raw[name]) for name in names}
        wanted.append([(_kind(name), hashlib.sha256(raw[name]).digest()) for name in names])
    search = _Search({value for values in wanted for value in values}, sizes)
    for place, shard in enumerate(progress(here, len(here), "reading training shards")):
        search.add(place, shard)
    seen = sum(bool(set.intersection(*(search.found.get(value, set()) for value in values))) for values in wanted)
    return seen, len(record.shards) - len(here) + search.left_out


def _kind(column: str) -> str:
    """What the bytes of a column are, by the end of its name: a text "3" is not the class 3."""
    ending = column.rpartition(".")[2]
    return "jpg" if ending == "jpeg" else ending


class _Search:
    """Looks for values in training shards, of which only those of a fitting size are read."""

    def __init__(self, wanted: set[tuple[str, bytes]], sizes: set[int]) -> None:
        self.found: dict[tuple[str, bytes], set[tuple[int, int]]] = {}
        """By kind and SHA-256 of a value, the samples that hold it, as places of shard and sample."""
        self.left_out = 0
        """Shards that were not compared, as `MOST_BYTES` were read."""
        self._wanted, self._bytes = wanted, 0
        self._kinds = {kind for kind, _ in wanted}
        self._sizes = np.array(sorted(sizes), dtype=np.uint64)

    def add(self, place: int, shard: LocalShard) -> None:
        """Look through one shard."""
        index, data = shard.open()
        kinds = [_kind(name) for name in index.columns]
        numbers = [number for number, kind in enumerate(kinds) if kind in self._kinds]
        members = np.asarray(index.members)
        fits = np.isin(members[:, 0], numbers) & np.isin(members[:, 2], self._sizes)
        rows = np.flatnonzero(fits)
        self._bytes += int(members[rows, 2].sum())
        if self._bytes > MOST_BYTES:
            self.left_out += 1
            return
        samples = np.searchsorted(index.bounds[:, 1], rows.astype(np.uint64), side="right") - 1
        for row, sample in zip(rows.tolist(), samples.tolist(), strict=True):
            column, offset, size = members[row].tolist()
            value = kinds[column], hashlib.sha256(data[offset : offset + size]).digest()
            if value in self._wanted:
                self.found.setdefault(value, set()).add((place, sample))
