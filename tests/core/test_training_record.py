"""The record of training data: what is written is read, and nothing else is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unified.core import training_record
from unified.core.errors import DataError
from unified.core.training_record import (
    FILE,
    TrainedShard,
    TrainedTask,
    TrainingRecord,
    as_text,
    joined,
    names_hash,
    read_record,
    training_note,
    write_record,
)

A, B = "a" * 64, "b" * 64
SHARDS = (TrainedShard(A, 3, "data/a.tar", "pairs here"), TrainedShard(B, 4, "https://host/b.tar", ""))
TASK = TrainedTask("colour", "names", (("png", "image"), ("txt", "text")), "cls", "labels", "c" * 64, (B,))
RECORD = TrainingRecord(SHARDS, (TASK, replace(TASK, name="words", labels=None, shards=(A, B))), ("something",))


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path) == RECORD
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    write_record(tmp_path, None)
    assert read_record(tmp_path) is None


def test_records_are_joined_by_shard_and_task() -> None:
    more = TrainingRecord(SHARDS[:1], (replace(TASK, shards=(A,)), replace(TASK, target="txt", shards=(A,))))
    found = joined(replace(RECORD, tasks=(TASK,)), more)
    assert found.shards == SHARDS
    assert found.tasks == (replace(TASK, shards=(B, A)), replace(TASK, target="txt", shards=(A,)))
    assert found.unrecorded == ("something",)


@pytest.mark.parametrize("location", ["/home/someone/a.tar", "~/a.tar", "file:///a.tar", "pipe:cat … a.tar"])
def test_a_published_record_has_no_paths_of_this_machine(location: str) -> None:
    private = replace(RECORD, shards=(replace(SHARDS[0], location=location), SHARDS[1]))
    assert private.published().shards == (replace(SHARDS[0], location=""), SHARDS[1])
    assert location not in as_text(private.published())
    assert RECORD.published() == RECORD


def test_lists_of_the_same_names_are_equal() -> None:
    assert names_hash(["Blue Car", "red"]) == names_hash(["red", "blue_car"])
    assert names_hash(["blue", "red"]) != names_hash(["blue"])


def changed(**changes: Any) -> str:
    return json.dumps({**json.loads(as_text(RECORD)), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON, got damaged or other text"),
        ("[]", "expected an object, got a list"),
        ("null", "expected an object, got null"),
        ("[" * 100_000, "brackets in too many levels"),
        (changed(format=2), "expected a format up to 1, got 2. Hint: install the version of unified"),
        (changed(format="1"), "expected a format up to 1, got '1'"),
        (changed(shards=[{"sha256": "../x", "samples": 1, "location": "", "dataset": ""}]), "sha256 '../x'"),
        (changed(shards=[{"sha256": A, "samples": -1, "location": "", "dataset": ""}]), "samples -1"),
        (changed(shards=[{"sha256": A, "samples": True, "location": "", "dataset": ""}]), "samples True"),
        (changed(shards=[{"sha256": A, "samples": 1, "location": 7, "dataset": ""}]), "expected text, got 7"),
        (changed(shards=[]), "names a shard that is not listed"),
        (changed(shards=3), "expected a record of training data"),
        (changed(tasks=[{}]), "expected a record of training data"),
        (changed(unrecorded=[1]), "expected text, got 1"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(DataError, match=message):
        read_record(tmp_path)


def test_a_file_beyond_all_measure_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(tmp_path, RECORD)
    monkeypatch.setattr(training_record, "MOST_BYTES", 100)
    with pytest.raises(DataError, match="expected at most 100 bytes, got"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("data", "tasks", "note"),
    [
        (None, None, ""),
        ("unseen", (), ""),
        ("unseen", ("a",), "trained task, other data"),
        ("not checked", (), "training data not checked"),
        ("not checked", ("a",), "trained task; training data not checked"),
        ("unknown", None, "training data unknown"),
        ("unknown", ("a",), "trained task; training data unknown"),
    ],
)
def test_notes(data: str | None, tasks: tuple[str, ...] | None, note: str) -> None:
    assert training_note({"training_data": data, "trained_tasks": tasks, "notes": {}}) == note


def test_notes_of_seen_data() -> None:
    details = {"samples": 1000, "seen": 1000, "shards": 3, "seen_shards": 3, "missing_shards": 0}
    item: dict[str, Any] = {"training_data": "seen", "trained_tasks": ["a"], "notes": {"training_data": details}}
    assert training_note(item) == "trained on this data (3 of 3 shards)"
    details |= {"seen_shards": 0}
    assert training_note(item) == "trained on this data (all 1,000 samples)"
    details |= {"seen": 5, "missing_shards": 2}
    assert training_note(item) == "trained on at least 0.5 % of this data (5 of 1,000 samples)"
