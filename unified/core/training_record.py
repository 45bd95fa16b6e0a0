"""The record of training data: the SHA-256 of each shard that a model was trained on, and the tasks that read it.

A run keeps it as model/training_data.json; it goes with the weights into exports and into runs that start from them.
An evaluation compares its own shards with it. Without a record nothing is known of a model's training data.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unified.core.atomic_files import replace_file
from unified.core.errors import DataError, quoted
from unified.core.json_files import read_json
from unified.core.version import check_format

FILE = "training_data.json"
FORMAT = 1
MOST_BYTES = 64 * 2**20
"""Largest file that is read: it may come from a hub repository. 300,000 shards take half of it."""
ZERO_SHOT_LABEL = "zero-shot, "
"""What the labels of rows begin with that are answered from class names alone."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TrainedShard:
    """A shard that was trained on."""

    sha256: str
    samples: int
    location: str
    """Path or URL where it was read, without secrets; empty where it is not told."""
    dataset: str
    """Kind and source in the manifest beside it, which all parts of a dataset share; empty without a manifest."""


@dataclass(frozen=True)
class TrainedTask:
    """A task that was trained, as far as evaluations compare with it."""

    name: str
    family: str
    inputs: tuple[tuple[str, str], ...]
    """Column and modality of each input."""
    target: str
    answer: str
    """`labels`, `batch`, `masked`, `caption`, `causal`, or what task queries read (`classes`, `boxes`, …)."""
    labels: str | None
    """`names_hash` of its label set or of the names of its queries."""
    shards: tuple[str, ...]
    """SHA-256 of each."""


@dataclass(frozen=True)
class TrainingRecord:
    """All that the weights of a model were trained on."""

    shards: tuple[TrainedShard, ...]
    tasks: tuple[TrainedTask, ...]
    unrecorded: tuple[str, ...] = ()
    """Training of which there is no record, in words: the data may be any."""

    def published(self) -> "TrainingRecord":
        """The record without paths that begin at the root of this machine's file system, for others to read."""
        shards = tuple(replace(s, location="" if _is_private(s.location) else s.location) for s in self.shards)
        return replace(self, shards=shards)


def joined(first: TrainingRecord, second: TrainingRecord) -> TrainingRecord:
    """Return the record of weights that were trained on the data of both records, one after the other."""
    shards = {shard.sha256: shard for shard in (*first.shards, *second.shards)}
    tasks: dict[TrainedTask, dict[str, None]] = {}
    for task in (*first.tasks, *second.tasks):
        tasks.setdefault(replace(task, shards=()), {}).update(dict.fromkeys(task.shards))
    return TrainingRecord(
        tuple(shards.values()),
        tuple(replace(task, shards=tuple(found)) for task, found in tasks.items()),
        tuple(dict.fromkeys((*first.unrecorded, *second.unrecorded))),
    )


def names_hash(names: Sequence[str]) -> str:
    """Return a SHA-256 that is equal for lists of the same names, whatever their order, case and underscores."""
    plain = sorted(" ".join(name.replace("_", " ").lower().split()) for name in names)
    return hashlib.sha256("\n".join(plain).encode()).hexdigest()


def write_record(folder: Path, record: TrainingRecord | None) -> None:
    """Write the record into the folder of a model, whole or not at all; remove an earlier one where there is none."""
    path = folder / FILE
    if record is None:
        path.unlink(missing_ok=True)
        return
    replace_file(path, as_text(record))


def as_text(record: TrainingRecord) -> str:
    """Return the record as the JSON of its file; tasks name shards by their place in the list."""
    place = {shard.sha256: number for number, shard in enumerate(record.shards)}
    tasks = [
        {**asdict(task), "inputs": dict(task.inputs), "shards": [place[name] for name in task.shards]}
        for task in record.tasks
    ]
    shards = ",\n  ".join(json.dumps(asdict(shard), ensure_ascii=False) for shard in record.shards)
    head = json.dumps(
        {"format": FORMAT, "unrecorded": record.unrecorded, "tasks": tasks}, ensure_ascii=False, indent=1
    ).removesuffix("\n}")
    return f'{head},\n "shards": [\n  {shards}\n ]\n}}\n'


def read_record(folder: Path) -> TrainingRecord | None:
    """Return the record in the folder of a model, or None where there is none.

    Raises:
        DataError: The file is damaged, larger than `MOST_BYTES`, or of a newer format.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    hint = "Hint: copy it again; without the file, evaluations say that the training data is unknown"
    try:
        content = read_json(path, most=MOST_BYTES)
    except DataError as error:
        raise DataError(f"{error}. {hint}") from error
    check_format(content.get("format"), FORMAT, str(path))
    try:
        return _parsed(content)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"{path}: expected a record of training data, got {quoted(error)}. {hint}") from error


def _parsed(content: Mapping[str, Any]) -> TrainingRecord:
    shards = tuple(_shard(item) for item in content["shards"])
    tasks = tuple(_task(item, shards) for item in content["tasks"])
    return TrainingRecord(shards, tasks, tuple(_text(words) for words in content["unrecorded"]))


def _shard(item: Mapping[str, Any]) -> TrainedShard:
    sha256, samples = _text(item["sha256"]), item["samples"]
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"sha256 {sha256[:80]!r}")
    if type(samples) is not int or samples < 0:
        raise ValueError(f"samples {quoted(samples)}")
    return TrainedShard(sha256, samples, _text(item["location"]), _text(item["dataset"]))


def _task(item: Mapping[str, Any], shards: Sequence[TrainedShard]) -> TrainedTask:
    numbers = item["shards"]
    if not all(type(number) is int and 0 <= number < len(shards) for number in numbers):
        raise ValueError("a task names a shard that is not listed")
    inputs = tuple((_text(column), _text(modality)) for column, modality in item["inputs"].items())
    labels = None if item["labels"] is None else _text(item["labels"])
    return TrainedTask(
        name=_text(item["name"]),
        family=_text(item["family"]),
        inputs=inputs,
        target=_text(item["target"]),
        answer=_text(item["answer"]),
        labels=labels,
        shards=tuple(shards[number].sha256 for number in numbers),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {value!r:.80}")
    return value


def training_note(item: Mapping[str, Any]) -> str:
    """Return what a row of results says of training, in words; "" where nothing need be said.

    Args:
        item: A row with `training_data`, `trained_tasks` and `notes`, as far as they are known.
    """
    data = item.get("training_data")
    if data == "seen":
        return _seen_note(item["notes"]["training_data"])
    trained = "trained task" if item.get("trained_tasks") else ""
    words = {"unseen": ", other data" if trained else "", "not checked": "training data not checked"}
    words["unknown"] = "training data unknown"
    found = words.get(str(data), "")
    return f"{trained}; {found}" if trained and found and found[0] != "," else f"{trained}{found}"


def _seen_note(details: Mapping[str, Any]) -> str:
    samples, seen, shards = (int(details[name]) for name in ("samples", "seen", "shards"))
    if seen < samples:
        least = "at least " if details["missing_shards"] else ""
        return f"trained on {least}{100 * seen / samples:.2g} % of this data ({seen:,} of {samples:,} samples)"
    of = f"{details['seen_shards']} of {shards} shards" if details["seen_shards"] else f"all {samples:,} samples"
    return f"trained on this data ({of})"


def _is_private(location: str) -> bool:
    return location.startswith(("/", "~", "file:", "pipe:")) or Path(location).is_absolute()
