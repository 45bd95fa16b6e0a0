"""The part of a user's own files that is held out: a seeded fraction of each class, in which groups stay together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from unified.core.errors import DataError, nearest
from unified.core.log import logger
from unified.core.seed import key
from unified.data.builders.dense import SEED, Options, check_fraction, natural
from unified.data.builders.sources import Item, Problems, pack
from unified.data.shards.write import ShardWriter, complete_folder

NAMED = 5  # classes that an error lists
ORDERS = ("key", "end")


def split_items(
    source: Path,
    items: Sequence[Item],
    options: Options,
    classes: Mapping[str, str] | None = None,
    groups: Mapping[str, str] | None = None,
) -> dict[str, list[Item]]:
    """Return all items under "", or those of "train" and "test" where a fraction is held out.

    Of each class the nearest whole number of items to the fraction is held out, and at least one where the class has
    two groups or more; a class of one group is trained on alone. Which ones depends on their keys, or they are the last
    in sorted order (`options.held_out_by` "end"). Where a group has items of several classes the numbers are as near as
    groups allow.

    Args:
        source: What errors name.
        items: The samples to be.
        options: With `held_out` and `held_out_by`.
        classes: The class of each item by key; None: all are of one.
        groups: The group of each item by key; None: each is its own.

    Raises:
        DataError: The fraction is not one, or leaves a class (or all of the data) without a training item.
    """
    if options.held_out is not None:
        check_fraction(options.held_out)
    if options.held_out is None or not items:  # nothing at all is an error of the packing
        return {"": list(items)}
    keys = sorted({item.key for item in items})
    members: dict[str, list[str]] = {}
    for name in keys:
        members.setdefault(groups[name] if groups else name, []).append(name)
    counts = {group: Counter(classes[name] if classes else "" for name in of) for group, of in members.items()}
    held = _chosen(source, counts, options.held_out, _order(list(members), options.held_out_by))
    test = {name for group in held for name in members[group]}
    return {
        "train": [item for item in items if item.key not in test],
        "test": [item for item in items if item.key in test],
    }


def held_out_facts(options: Options) -> dict[str, Any]:
    """Return what the manifests of both parts say of how they were parted."""
    if options.held_out is None:
        return {}
    return {"held_out": {"fraction": options.held_out, "by": options.held_out_by, "seed": SEED}}


def check_order(by: str, columns: Sequence[str] = ()) -> None:
    """Raise `DataError` unless `--held-out-by` is an order of items or one of the columns of a table."""
    known = [*ORDERS, *columns]
    if by not in known:
        raise DataError(f"--held-out-by: expected {' or '.join(ORDERS)}, got {by!r}{nearest(by, known)}")


def _order(groups: list[str], by: str) -> list[str]:
    if by == "end":
        return sorted(groups, key=natural, reverse=True)
    return sorted(groups, key=lambda group: key(SEED, group))


def _chosen(source: Path, counts: Mapping[str, Counter[str]], fraction: float, order: Sequence[str]) -> set[str]:
    """The groups that are held out: classes with the fewest groups first, as others can still choose among theirs."""
    total: Counter[str] = Counter()
    holders: dict[str, list[str]] = {}  # the groups with items of each class, in order
    for group in order:
        total.update(counts[group])
        for label in counts[group]:
            holders.setdefault(label, []).append(group)
    wanted = {label: max(1, int(fraction * n + 0.5)) if len(holders[label]) > 1 else 0 for label, n in total.items()}
    _check_left(source, wanted, total, fraction)
    held: set[str] = set()
    test: Counter[str] = Counter()

    def may_go(group: str) -> bool:
        """Whether none of a group's classes loses its last training item with it."""
        return group not in held and all(total[name] - test[name] > n for name, n in counts[group].items())

    for label in sorted(wanted, key=lambda name: (len(holders[name]), name)):
        for group in holders[label]:
            if test[label] < wanted[label] and may_go(group) and _nearer(counts[group], test, wanted):
                held.add(group)
                test.update(counts[group])
        if wanted[label] and not test[label] and (able := [group for group in holders[label] if may_go(group)]):
            smallest = min(able, key=lambda group: counts[group][label])
            held.add(smallest)
            test.update(counts[smallest])
    if not held:
        found = f"{len(counts)}" if len(counts) < 2 else "each class in one group alone"
        raise DataError(
            f"{source}: --held-out {fraction:g}: expected at least two items (or groups) of a class, got {found}. "
            "Hint: leave --held-out out, or part by another column"
        )
    _tell_untested(source, [label for label in total if not test[label]])
    return held


def _nearer(group: Counter[str], test: Counter[str], wanted: Mapping[str, int]) -> bool:
    """Whether the numbers of the test part come nearer to those that are wanted with a group in it."""
    return sum(abs(wanted[name] - test[name] - n) - abs(wanted[name] - test[name]) for name, n in group.items()) < 0


def _check_left(source: Path, wanted: Mapping[str, int], total: Mapping[str, int], fraction: float) -> None:
    empty = [label for label in wanted if wanted[label] >= total[label]]
    if not empty:
        return
    most = min((total[label] - 0.5) / total[label] for label in empty)
    named = ", ".join(f"{label} ({total[label]})" for label in empty[:NAMED])
    more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
    what = "" if empty == [""] else f" for the classes {named}{more}" if len(empty) > 1 else f" for the class {named}"
    raise DataError(
        f"{source}: --held-out {fraction:g}: expected at least one training item{what}, got none. "
        f"Hint: hold out less than {int(most * 100) / 100:g}"
    )


def _tell_untested(source: Path, classes: Sequence[str]) -> None:
    if classes:
        named = ", ".join(classes[:NAMED]) + (f" and {len(classes) - NAMED} more" if len(classes) > NAMED else "")
        logger.warning("%s: too few items to hold one out, so all are in the training part: %s", source, named)


def counted(item: Item, label: str, counts: Counter[str]) -> Item:
    """Return the item, which counts its class when it could be read."""

    def load() -> dict[str, Any]:
        columns = item.load()
        counts[label] += 1
        return columns

    return Item(item.key, item.name, load)


def check_packed(source: Path, parts: Mapping[str, Counter[str]]) -> None:
    """Raise `DataError` where unreadable samples left a part empty, or a tested class without a training item."""
    for split, counts in parts.items():
        if not counts:
            raise DataError(f"{source}: expected samples in the part {split!r}, got none that could be read")
    missing = sorted(set(parts.get("test", ())) - set(parts.get("train", ())))
    if missing:
        raise DataError(
            f"{source}: expected a readable training item for each class, got none for {', '.join(missing[:NAMED])}. "
            "Hint: mend these files, or hold out less"
        )


def write_parts(
    kind: str,
    source: Path,
    out: Path,
    parts: Mapping[str, Sequence[Item]],
    problems: Problems,
    options: Options,
    series: str,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Pack the items of each part into shards below `out`, complete or not at all; returns the manifest of each.

    `facts`: what all manifests say besides. Raises `DataError` where nothing of a part could be packed.
    """
    manifests, written = {}, {}
    with complete_folder(out) as folder, ExitStack() as stack:
        for split, items in parts.items():
            writer = ShardWriter(
                folder / split, kind=kind, source=source.name, samples_per_shard=options.samples_per_shard
            )
            stack.enter_context(writer)
            problems.part = split
            written[split] = pack(writer, items, problems, series)
            manifests[split] = writer.manifest
        skipped = problems.settle(sum(written.values()))
        said = {**(facts or {}), **held_out_facts(options)}
        for split, manifest in manifests.items():
            if not written[split]:
                raise DataError(
                    f"{source}: expected samples in the part {split!r}, got none that could be read. Hint: mend the "
                    "files, or hold out another fraction"
                )
            manifest |= said | skipped(split)
    return manifests
