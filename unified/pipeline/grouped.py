"""An order in which samples of one identity come together, for losses that compare the samples of a batch.

What identities samples have is read once and kept beside each tar, as `NAME.tar.ids`, little-endian: `HEADER`, with the
SHA-256 of the tar, then a uint64 for each sample, alike where identities are.
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unified.core.atomic_files import replace_file
from unified.core.errors import DataError
from unified.core.json_files import parse_json
from unified.core.log import logger
from unified.core.seed import key, mix
from unified.data.shards.shards import LocalShard, Shards

COLUMN, FACT = "json", "identity"
TARGET = f"{COLUMN}.{FACT}"
FORMAT = 1
MAGIC = b"UNIFIDS\0"
HEADER = struct.Struct("<8sII32s")  # magic, format, nothing, SHA-256 of the tar
WORD = np.dtype("<u8")


class Together:
    """An order of which every epoch visits every sample once, in groups of one identity.

    The n samples of an identity are shuffled and make ⌈n / most⌉ groups, as equal as can be: 6 make 3 and 3 where
    `most` is 4. Groups are shuffled among one another. An epoch is a table of its own, which needs none before it.
    """

    def __init__(self, seed: int, task: str, identities: NDArray[np.uint64], most: int) -> None:
        """`identities`: a number for each sample, alike where identities are."""
        self._key = (seed, task)
        _, self._who, counts = np.unique(identities, return_inverse=True, return_counts=True)
        groups = -(-counts // most)
        owner = np.repeat(np.arange(len(counts)), counts)
        rank = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
        self._group = (np.cumsum(groups) - groups)[owner] + rank * groups[owner] // counts[owner]
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def positions(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place of each of the task's samples `indices` among the samples."""
        epochs, inside = np.divmod(np.asarray(indices), len(self._who))
        result = np.empty_like(inside)
        for epoch in np.unique(epochs).tolist():
            rows = epochs == epoch
            result[rows] = self._epoch(epoch)[inside[rows]]
        return result

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._epochs:
            if len(self._epochs) > 1:  # a batch touches two at most, unless it is larger than the data
                self._epochs.clear()
            by_identity = np.lexsort((self._draws(len(self._who), "members", epoch), self._who))
            groups = self._draws(int(self._group[-1]) + 1, "groups", epoch)
            self._epochs[epoch] = by_identity[np.argsort(groups[self._group], kind="stable")]
        return self._epochs[epoch]

    def _draws(self, count: int, what: str, epoch: int) -> NDArray[np.uint64]:
        """Different numbers in a random order."""
        return mix(np.arange(count, dtype=np.uint64) ^ np.uint64(key(*self._key, what, epoch)))


def identities_of(shards: Shards) -> NDArray[np.uint64]:
    """A number for each sample, alike where `json.identity` is; of a sample that has none it is its own.

    Raises `DataError` where shards are remote or have no such column.
    """
    return np.concatenate([_of_shard(file) for file in shards.files if file.samples])


def _of_shard(file: Any) -> NDArray[np.uint64]:
    if not isinstance(file, LocalShard):
        raise DataError(
            f"{file.name}: `together` needs to know all identities before the first step, and these shards are remote; "
            "copy them to a disk, or leave `together` out"
        )
    if COLUMN not in file.columns:
        raise DataError(
            f"{file.name}: `together` needs {TARGET}, found the columns {', '.join(file.columns)}; build the shards "
            "with a column of identities (--kind attributes --columns …=identity), or leave `together` out"
        )
    path = file.path.with_name(f"{file.path.name}.ids")
    kept = _read(path, file)
    if kept is not None:
        return kept
    found = _scan(file)
    try:
        replace_file(path, HEADER.pack(MAGIC, FORMAT, 0, file.digest) + found.astype(WORD).tobytes())
        where = f"kept as {path.name}"
    except OSError as error:
        where = f"in memory only ({error})"
    logger.info("%s: read the identities of %s samples, %s", file.path, f"{len(found):,}", where)
    return found


def _scan(file: LocalShard) -> NDArray[np.uint64]:
    index, data = file.open()
    column = index.columns.index(COLUMN)
    found = np.empty(len(index), dtype=WORD)
    for number in range(len(index)):
        _, members = index.entry(number)
        said = [data[offset : offset + size] for of, offset, size in members if of == column]
        name = _identity(said)
        found[number] = key("alone", file.digest.hex(), number) if name is None else key(FACT, name)
    return found


def _identity(said: Sequence[bytes]) -> str | None:
    """The identity in a sample's facts; damaged ones are told when the sample is used."""
    try:
        facts = parse_json(said[0], FACT, None) if said else None
    except DataError:
        return None
    name = facts.get(FACT) if isinstance(facts, dict) else None
    return name if isinstance(name, str) else None


def _read(path: Path, file: LocalShard) -> NDArray[np.uint64] | None:
    """What was kept for this very tar; None where that is absent, damaged, or of another tar or format."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    if len(content) != HEADER.size + WORD.itemsize * file.samples:
        return None
    magic, version, _, digest = HEADER.unpack_from(content)
    if (magic, version, digest) != (MAGIC, FORMAT, file.digest):
        return None
    return np.frombuffer(content, WORD, offset=HEADER.size)
