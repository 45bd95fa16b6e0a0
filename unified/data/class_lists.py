"""Class numbers of data sets that number their own classes: each is taken by the name that its own list gives it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unified.config.labels import CLASS_NAMES, Labels, name_key, read_names
from unified.core.errors import DataError, nearest, quoted
from unified.core.log import logger
from unified.data.class_folders import class_name
from unified.data.shards.patterns import MANIFEST, read_manifest

LISTED = 50
"""Classes that an error lists; of more it names the nearest alone."""


def manifest_classes(folder: Path) -> tuple[str, ...] | None:
    """Return the class names that the manifest of a folder of shards lists by number; None where it lists none."""
    if not (folder / MANIFEST).is_file() or "classes" not in (manifest := read_manifest(folder)):
        return None
    names = [str(name) for name in manifest["classes"]]
    return tuple(map(class_name, names) if manifest.get("kind") == "imagefolder" else names)


def class_list_file(folder: Path) -> Path | None:
    """Return the class list that lies in a folder of data, or in the one above, as in CLIP_benchmark's layout."""
    return next((place / CLASS_NAMES for place in (folder, folder.parent) if (place / CLASS_NAMES).is_file()), None)


def listed_classes(folder: Path) -> tuple[str, ...] | None:
    """Return the names of the classes that the shards in a folder count; None where nothing there says them."""
    if (found := manifest_classes(folder)) is not None:
        return found
    file = class_list_file(folder)
    return None if file is None else tuple(read_names(file))


def lists_of_shards(shards: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the class list of each shard by its path; those without one, and those at a URL, are left out."""
    by_folder: dict[Path, tuple[str, ...] | None] = {}
    found = {}
    for shard in shards:
        folder = Path(shard).parent
        if folder not in by_folder:
            by_folder[folder] = listed_classes(folder) if folder.is_dir() else None
        if (listed := by_folder[folder]) is not None:
            found[shard] = listed
    return found


class ClassNumbers:
    """The numbers in a label set of the classes that samples name, or number by the list of their own data.

    Lists are matched by name. Where a first list has no name in common with the label set and is as long, the label
    set calls its classes by other words (n01440764 is "tench"), and their numbers are taken.
    """

    def __init__(self, labels: Labels, lists: Mapping[str, Sequence[str]] | None = None) -> None:
        """Match the class lists of shards (by path, in order) with the label set.

        Raises:
            DataError: A list has no name in common with the label set, nor with the list before.
        """
        self.labels = labels
        self._places: dict[str, list[int | None]] = {}
        self._listed: dict[str, tuple[str, ...]] = {}
        self._first: tuple[str, ...] | None = None  # a list whose classes the label set calls by other words
        self.add(lists or {})

    def add(self, lists: Mapping[str, Sequence[str]]) -> None:
        """Match further lists, as those of labelled examples; they are matched by names alone."""
        known: dict[tuple[str, ...], list[int | None]] = {self._listed[s]: self._places[s] for s in self._places}
        for shard, given in lists.items():
            listed = tuple(given)
            if listed not in known:
                known[listed] = self._matched(listed, shard, first=not known)
            self._places[shard], self._listed[shard] = known[listed], listed

    def _matched(self, listed: tuple[str, ...], shard: str, *, first: bool) -> list[int | None]:
        """The number in the label set of each class of a list; None for those that it has not."""
        found = match_names(listed, self._first or self.labels.names)
        if any(place is not None for place in found):
            return found
        if first and len(listed) == len(self.labels):
            self._first = listed
            logger.warning(
                "%s: none of its class names (%s, …) is in the label set (%s, …); they are taken by their numbers",
                Path(shard).parent, listed[0], self.labels.names[0],
            )  # fmt: skip
            return [*range(len(listed))]
        raise DataError(
            f"{Path(shard).parent}: expected class names of the label set ({_some(self._first or self.labels.names)}), "
            f"got {_some(listed)}. Hint: name a label set with the names of these data"
        )

    def number(self, value: Any, shard: str | None = None) -> int:
        """Return the number in the label set of a sample's class.

        Args:
            value: The class as the sample has it: a name, or a number by the list of its own shard.
            shard: Where the sample lies; one without a list counts as the label set does.

        Raises:
            DataError: There is no such class; the message does not say where.
        """
        count = len(self.labels)
        if isinstance(value, str):
            place = self.labels.number(value.strip())
            if place is None:
                known = list(dict.fromkeys(self.labels.names))
                hint = nearest(value, known)
                hint = hint if count <= LISTED else f"{hint.partition(' There are:')[0]} There are {count:,} classes"
                raise DataError(f"{quoted(value)} is not a class of the label set{hint}")
            return place
        listed = self._listed.get(shard) if shard is not None else None
        most = count if listed is None else len(listed)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < most:
            raise DataError(
                f"expected a class name or a number below {most}, found {quoted(value)}; the classes are "
                f"{_some(listed or self.labels.names)}"
            )
        if listed is None or shard is None:
            return value
        place = self._places[shard][value]
        if place is None:
            raise DataError(
                f"number {value} is {quoted(listed[value])} in the class list of these data, which is not a class of "
                f"the label set ({_some(self.labels.names)})"
            )
        return place


def match_names(names: Sequence[str], known: Sequence[str]) -> list[int | None]:
    """Return the place in `known` of each name; None where it is not there.

    Names are equal but for underscores and their Unicode form. Of those that come several times in both, the first is
    the first, the second the second.
    """
    if tuple(names) == tuple(known):
        return [*range(len(names))]
    exact, alike = _places(known), _places(map(name_key, known))
    keys = _counted(map(name_key, names))
    return [exact.get(name, alike.get(key)) for name, key in zip(_counted(names), keys, strict=True)]


def _places(names: Iterable[str]) -> dict[tuple[str, int], int]:
    return {name: place for place, name in enumerate(_counted(names))}


def _counted(names: Iterable[str]) -> list[tuple[str, int]]:
    """Each name with how often it came before."""
    counts = Counter[str]()
    found = []
    for name in names:
        found.append((name, counts[name]))
        counts[name] += 1
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
