"""What the builders of annotated pictures share: their options, the part that is held out, and the writing."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unified.config.labels import read_names
from unified.core.errors import DataError
from unified.core.seed import key
from unified.data.builders.crops import crops
from unified.data.builders.sources import Files, Item, Problems, pack
from unified.data.shards.write import SAMPLES_PER_SHARD, ShardWriter, complete_folder

SEED = "held out 1"
BY = ("key", "end", "identity")
NAME_FILES = {
    "classes": "classnames.txt",
    "points": "pointnames.txt",
    "attributes": "attributenames.txt",
    "identities": "identitynames.txt",
}
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Options:
    """How a source of annotated pictures is read; each builder takes those that apply to it."""

    samples_per_shard: int = SAMPLES_PER_SHARD
    skip_bad: bool = False
    held_out: float | None = None
    """The fraction that goes to the test part; None: there are no parts."""
    held_out_by: str = "key"
    classes: str | None = None
    """Class names in the order of their numbers, with commas between, or a file with a name a line."""
    ignore: int | None = None
    """The number in index masks that means: no label."""
    depth_unit: float | None = None
    """Metres a step of the depth pictures."""
    crops: str | None = None
    """The class whose objects with joints become samples of their own."""
    columns: str | None = None
    """For tables of attributes, what becomes of their columns."""


@dataclass
class Found:
    """What a builder found in its source: the samples to be, and what the manifest says of all of them."""

    items: list[Item]
    facts: dict[str, Any]
    identities: Mapping[str, str] = field(default_factory=dict)  # by key of the item
    attributes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # by key of the item
    pictures: Files | None = None  # where these lie in an archive of their own, which is closed when all are packed


Finder = Callable[[Files, Problems, Options], Found]


def build_dense(kind: str, finder: Finder, source: Path, out: Path, options: Options) -> dict[str, dict[str, Any]]:
    """Pack what `finder` finds in a folder, a zip or a table; returns one manifest under "", or of "train" and "test".

    Raises `DataError` listing all that is wrong with the source, unless `options.skip_bad`.
    """
    folder = source.parent if source.is_file() and source.suffix.lower() != ".zip" else source
    with Files(folder) as files, ExitStack() as stack:
        problems = Problems(source, options.skip_bad)
        files.report(problems)
        found = finder(files, problems, options)
        if found.pictures:
            stack.callback(found.pictures.close)
        splits = _split(source, found, options)
        manifests, written = {}, {}
        with complete_folder(out) as made, ExitStack() as writers:
            for split, items in splits.items():
                writer = ShardWriter(
                    made / split, kind=kind, source=source.name, samples_per_shard=options.samples_per_shard
                )
                writers.enter_context(writer)
                problems.part = split
                if options.crops is not None:
                    items = [crop for item in items for crop in crops(item, options.crops)]
                written[split] = pack(writer, items, problems, kind)
                writer.manifest |= found.facts | _positives(found, items)
                manifests[split] = writer.manifest
            facts = problems.settle(sum(written.values()))
            for split, manifest in manifests.items():
                if not written[split]:
                    raise DataError(f"{source}: no sample of the part {split!r} could be packed; change --held-out")
                manifest |= facts(split)
            for split in {"", *splits}:
                _write_names(made / split, found.facts | _identities(found, splits.get(split, found.items)))
    return manifests


def _write_names(folder: Path, facts: Mapping[str, Any]) -> None:
    for name, file in NAME_FILES.items():
        if name in facts:
            (folder / file).write_text("".join(f"{line}\n" for line in facts[name]), encoding="utf-8")


def _identities(found: Found, items: Sequence[Item]) -> dict[str, list[str]]:
    """Who is in the pictures of a part: what training on it can tell apart."""
    names = sorted({found.identities[item.key] for item in items if item.key in found.identities})
    return {"identities": names} if names else {}


def _positives(found: Found, items: Sequence[Item]) -> dict[str, dict[str, float]]:
    """How often each attribute holds among the pictures of a part of which it is known; 0 where it never is."""
    said = [found.attributes[item.key] for item in items if item.key in found.attributes]
    if not said:
        return {}
    known = {name: [of[name] for of in said if of[name] >= 0] for name in found.facts["attributes"]}
    return {"positives": {name: round(sum(values) / max(len(values), 1), 6) for name, values in known.items()}}


def _split(source: Path, found: Found, options: Options) -> dict[str, list[Item]]:
    """All items under "", or those of "train" and "test"."""
    if options.held_out is None:
        return {"": found.items}
    held = held_out(sorted({item.key for item in found.items}), options, found.identities, source)
    parts: dict[str, list[Item]] = {"train": [], "test": []}
    for item in found.items:
        parts["test" if item.key in held else "train"].append(item)
    return parts


def check_fraction(fraction: float) -> None:
    """Raise `DataError` unless something is held out, and something left to train on."""
    if not 0 < fraction < 1:
        raise DataError(f"--held-out: expected a fraction between 0 and 1, got {fraction:g}. Hint: 0.2 is usual")


def held_out(keys: Sequence[str], options: Options, identities: Mapping[str, str], source: Path) -> set[str]:
    """The keys that are not trained on: the share that comes first in a keyed order, or last in the sorted one.

    "identity" holds out all pictures of a share of the identities.
    """
    assert options.held_out is not None
    check_fraction(options.held_out)
    if options.held_out_by not in BY:
        raise DataError(f"--held-out-by: expected {', '.join(BY)}, got {options.held_out_by!r}")
    if options.held_out_by == "identity" and not identities:
        raise DataError(f"{source}: --held-out-by identity: this source names no identities; use key or end")
    groups: dict[str, list[str]] = {}
    for name in keys:
        groups.setdefault(identities[name] if options.held_out_by == "identity" else name, []).append(name)
    count = max(1, round(options.held_out * len(groups)))
    if options.held_out_by == "end":
        chosen = sorted(groups, key=natural)[-count:]
    else:
        chosen = sorted(groups, key=lambda group: key(SEED, group))[:count]
    return {name for group in chosen for name in groups[group]}


def natural(name: str) -> list[Any]:
    """A sorting key by which frame 9 comes before frame 10."""
    return [int(part) if part.isdecimal() else part for part in _DIGITS.split(name)]


def class_names(options: Options) -> list[str] | None:
    """The names that the option gives, or None. Raises `DataError` where one comes twice or is empty."""
    if options.classes is None:
        return None
    path = Path(options.classes)
    names = read_names(path) if path.is_file() else [name.strip() for name in options.classes.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise DataError(f"--classes {options.classes}: expected different names, separated by commas, or a file")
    return names
