"""What a run began with, by content: its shards, label sets and tokenizers. A resumed run is compared with it."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unified.config.labels import Labels, load_labels
from unified.config.recipe import Recipe
from unified.config.recipe_facts import label_sets, query_names
from unified.core.atomic_files import naming
from unified.core.errors import RecipeError
from unified.core.log import logger
from unified.data.shards.contents import Content, Contents
from unified.modalities import MODALITIES
from unified.modalities.base import Tokenizer

NAMED = 3
"""Differences that a message names; the others are counted."""


def describe_origins(
    recipe: Recipe, contents: Contents, labels: Mapping[str, Labels], tokenizers: Mapping[str, Tokenizer]
) -> dict[str, Any]:
    """Return what checkpoints keep of a run's data, as JSON.

    Args:
        recipe: The recipe that is trained.
        contents: The shards of each task.
        labels: The label set of each task that has one, or the names of its queries.
        tokenizers: The tokenizer of each modality.
    """
    references = {**label_sets(recipe), **query_names(recipe)}
    sets = {name: _label_set(references[name], found) for name, found in labels.items()}
    for name, task in recipe.tasks.items():
        if listed := getattr(task.answer, "identities", None):
            sets[f"{name}.identities"] = _label_set(listed, load_labels(listed))
    named = {MODALITIES.row(key).name: settings.tokenizer for key, settings in recipe.model.modalities.items()}
    return {
        "shards": _listed_once(contents),
        "labels": sets,
        "tokenizers": {
            name: {"name": named.get(name, name), "sha256": _saved_hash(tokenizer)}
            for name, tokenizer in tokenizers.items()
        },
    }


def check_origins(
    stored: Mapping[str, Any], now: Mapping[str, Any], contents: Contents, indexed: Mapping[str, str], recipe: Recipe
) -> None:
    """Refuse to go on exactly over other data, names or tokens than a run began with.

    Args:
        stored: The state of a checkpoint: `data`, and `origins` unless an earlier version wrote it.
        now: What `describe_origins` says now.
        contents: The shards of each task now.
        indexed: The digest of each task's shards by their indexes, which earlier versions kept as `data`.
        recipe: The recipe; with `data.allow_change` differences are logged alone.

    Raises:
        RecipeError: Something differs; the message names the files and what moved.
    """
    before = stored.get("origins")
    changed = [task for task, digest in contents.digests().items() if stored["data"].get(task, digest) != digest]
    if before is None:
        logger.info(
            "the checkpoint is of an earlier version: shards are compared by their indexes, label sets and tokenizers "
            "are not"
        )
        found = [
            f"the shards of task {task!r}: expected those that this run began with, got others"
            for task in changed
            if stored["data"][task] != indexed[task]
        ]
    else:
        found = [one for task in changed for one in _moved_shards(before["shards"], contents, task)]
        found += _moved_labels(before["labels"], now["labels"])
        found += _moved_tokenizers(before["tokenizers"], now["tokenizers"])
    found = list(dict.fromkeys(found))
    if found and not recipe.data.allow_change:
        more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise RecipeError(
            f"{'; '.join(found[:NAMED])}{more}. Hint: put back what the run began with, so that it goes on exactly, or "
            "accept the change with --data.allow-change"
        )
    for one in found:
        logger.warning("goes on over a change, as data.allow_change says: %s", one)


def _moved_shards(before: Mapping[str, Any], now: Contents, task: str) -> Iterator[str]:
    """How the shards of a task differ, one message a shard."""
    listed = before[task] if isinstance(before[task], list) else before[before[task]]
    were, are = _by_name([Content(*pair) for pair in listed], now.shards[task])
    lost = [name for name in were if name not in are]
    new = [name for name in are if name not in were]
    changed = [name for name in are if name in were and were[name].sha256 != are[name].sha256]
    for name in changed:
        was, found = were[name].sha256, are[name].sha256
        yield (
            f"{are[name].name}: expected the content that this run began with (SHA-256 {was[:12]}…), "
            f"got other content ({found[:12]}…)"
        )
    for name in lost:
        yield f"{were[name].name}: expected this shard, with which task {task!r} began, got none"
    for name in new:
        yield f"{are[name].name}: expected no such shard, as task {task!r} began without it, got one"
    if not (changed or lost or new):
        yield f"the shards of task {task!r}: expected the order of the run's beginning, got another"


def _by_name(before: Sequence[Content], now: Sequence[Content]) -> tuple[dict[str, Content], dict[str, Content]]:
    """Both lists by name; by the name of the file alone where a folder was moved."""
    were, are = ({shard.name: shard for shard in shards} for shards in (before, now))
    files = [Counter(Path(shard.name).name for shard in shards) for shards in (before, now)]
    if were.keys() & are.keys() or any(count > 1 for counts in files for count in counts.values()):
        return were, are
    first, second = ({Path(shard.name).name: shard for shard in shards} for shards in (before, now))
    return first, second


def _moved_labels(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for task, found in now.items():
        was = before.get(task, found)
        where = f"label set {found['name']} of task {task.removesuffix('.identities')!r}"
        if was["names"] != found["names"]:
            same = was["set"] == found["set"]
            others = "the same in another order" if same else f"others ({was['count']:,} then, {found['count']:,} now)"
            yield f"{where}: expected the names that this run began with, got {others}"
        if was["templates"] != found["templates"]:
            yield f"{where}: expected the templates that this run began with, got others"


def _moved_tokenizers(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for modality, found in now.items():
        was = before.get(modality, found)
        if was["sha256"] != found["sha256"]:
            yield (
                f"tokenizer {found['name']} (model.modalities.{modality}.tokenizer): expected the content that this "
                f"run began with (SHA-256 {was['sha256'][:12]}…), got other content ({found['sha256'][:12]}…)"
            )


def _listed_once(contents: Contents) -> dict[str, Any]:
    """Name and SHA-256 of each task's shards, or the first task that has the same ones."""
    first: dict[tuple[Content, ...], str] = {}
    found: dict[str, Any] = {}
    for task, shards in contents.shards.items():
        same = first.setdefault(shards, task)
        found[task] = [[shard.name, shard.sha256] for shard in shards] if same == task else same
    return found


def _label_set(name: str, labels: Labels) -> dict[str, Any]:
    return {
        "name": name,
        "count": len(labels),
        "names": _hash(labels.names),
        "set": _hash(sorted(labels.names)),
        "templates": _hash(labels.templates),
    }


def _hash(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def _saved_hash(tokenizer: Tokenizer) -> str:
    """The SHA-256 of the files that a tokenizer is saved as."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        with naming(Path(folder)):
            tokenizer.save(Path(folder))
        for path in sorted(Path(folder).iterdir()):
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
