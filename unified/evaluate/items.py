"""The items of an evaluation: which samples, their keys, and the columns that score them."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unified.core.errors import DataError, quoted
from unified.core.locations import named
from unified.core.seed import generator
from unified.data.class_lists import ClassNumbers
from unified.data.samples.decode import column, decode, place, resolve
from unified.data.shards.write import progress
from unified.evaluate.sources import Source, class_lists, open_source


@dataclass(frozen=True)
class Items:
    """Samples in a fixed order, without what is large in them."""

    source: Source
    numbers: NDArray[np.int64]  # which samples of the source
    keys: tuple[str, ...]
    columns: dict[str, list[Any]]
    pictures: NDArray[np.int64]  # items of one number have equal bytes in the input columns
    digest: str  # of the source's content and the selection
    places: tuple[str, ...]  # shard and key, for errors
    shards: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)


def read_items(
    data: str | tuple[str, ...], inputs: Iterable[str], columns: Iterable[str], limit: int | None = None
) -> Items:
    """Read keys and `columns` of all samples, or of a fixed choice of `limit` of them (smaller ones lie in larger).

    Raises `DataError` where two samples have one key: results could not be paired.
    """
    source = open_source(data)
    numbers = choose_items(len(source), limit)
    wanted = list(dict.fromkeys(columns))
    values: dict[str, list[Any]] = {name: [] for name in wanted}
    keys, places, shards, content = [], [], [], []
    for number in progress([int(n) for n in numbers], len(numbers), "reading"):
        raw = source[number]
        sample = decode(raw, wanted)
        for name in wanted:
            values[name].append(column(sample, name))
        keys.append(str(raw["__key__"]))
        places.append(place(raw))
        shards.append(str(raw["__shard__"]))
        content.append(b"".join(hashlib.sha256(raw[resolve(raw, name)[0]]).digest() for name in inputs))
    repeated = [key for key, count in Counter(keys).items() if count > 1]
    if repeated:
        raise DataError(
            f"{named(data)}: {len(repeated):,} keys occur more than once, such as {repeated[0]!r}; name them apart"
        )
    digest = hashlib.sha256(f"{source.digest}:{limit if limit and limit < len(source) else 'all'}".encode()).hexdigest()
    return Items(source, numbers, tuple(keys), values, number_through(content), digest, tuple(places), tuple(shards))


def choose_items(count: int, limit: int | None) -> NDArray[np.int64]:
    """The numbers of all of `count` samples, or of the fixed choice of `limit` of them."""
    if limit is None or limit >= count:
        return np.arange(count, dtype=np.int64)
    return np.sort(generator("limit", count).permutation(count)[:limit])


def targets(items: Items, name: str, classes: ClassNumbers) -> NDArray[np.int64]:
    """The class number of each item from a column of names, or of numbers by the class list of its own data."""
    counted = name == "cls"
    if counted:
        classes.add(class_lists(items.source))
    found = np.empty(len(items), dtype=np.int64)
    for row, value in enumerate(items.columns[name]):
        try:
            found[row] = classes.number(value, items.shards[row] if counted else None)
        except DataError as error:
            raise DataError(f"{items.places[row]}: column {name!r}: {error}") from error
    return found


def texts_in(items: Items, name: str) -> list[str]:
    """Return the texts in a column; raise `DataError` where one is none."""
    for row, value in enumerate(items.columns[name]):
        if not isinstance(value, str):
            raise DataError(f"{items.places[row]}: column {quoted(name)}: expected a text, found {quoted(value)}")
    return items.columns[name]


def number_through(values: Sequence[Any]) -> NDArray[np.int64]:
    """A number for each value, equal for equal ones, counted by first appearance."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(_hashable(value), len(seen)) for value in values], dtype=np.int64)


def _hashable(value: Any) -> Hashable:
    """A value as it is compared: facts of samples may be lists and objects."""
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else value


def clusters_of(values: Sequence[Any] | None) -> NDArray[np.int64] | None:
    """Cluster numbers, or None where every item is its own cluster."""
    if values is None:
        return None
    numbers = number_through(values)
    return None if len(set(numbers.tolist())) == len(numbers) else numbers


def ceiling(pictures: Sequence[Hashable], answers: Sequence[Hashable], k: int = 1) -> float:
    """The best share of right answers among k from the input alone: equal inputs may have different right answers."""
    votes: dict[Hashable, Counter[Hashable]] = defaultdict(Counter)
    for picture, answer in zip(pictures, answers, strict=True):
        votes[picture][answer] += 1
    return sum(count for found in votes.values() for _, count in found.most_common(k)) / max(len(pictures), 1)
