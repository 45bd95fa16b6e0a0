"""Writing shards: equal bytes for equal samples, a manifest that is true, a folder that is complete or absent."""

import hashlib
import json
import logging
import tarfile
from pathlib import Path

import pytest

from unified.core.errors import DataError
from unified.data.shards import write as module
from unified.data.shards.index import build_index, index_path, open_index
from unified.data.shards.write import ShardWriter, complete_folder, progress


def fill(folder: Path, samples: int = 5, limit: int = 2) -> ShardWriter:
    with ShardWriter(folder, kind="test", source="here", samples_per_shard=limit) as writer:
        for number in range(samples):
            series = "odd" if number % 2 else "even"
            writer.write(
                f"{number}", {"txt": f"größe {number}", "cls": number, "json": {"b": 1, "a": [number]}}, series
            )
        writer.manifest["classes"] = ["x"]
    return writer


def test_manifest_says_what_was_written(tmp_path: Path) -> None:
    manifest = fill(tmp_path).manifest
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
    assert {name: manifest[name] for name in ("format", "kind", "source", "samples", "columns", "classes")} == {
        "format": 1,
        "kind": "test",
        "source": "here",
        "samples": 5,
        "columns": {"cls": 5, "json": 5, "txt": 5},
        "classes": ["x"],
    }
    assert [(shard["path"], shard["samples"]) for shard in manifest["shards"]] == [
        ("even-00000.tar", 2),
        ("even-00001.tar", 1),
        ("odd-00000.tar", 2),
    ]
    for shard in manifest["shards"]:
        data = (tmp_path / shard["path"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_index_written_with_the_tar_is_that_read_from_it(tmp_path: Path) -> None:
    fill(tmp_path)
    for tar in tmp_path.glob("*.tar"):
        written, read = open_index(index_path(tar)), build_index(tar)
        assert (written.digest, written.tar_bytes, written.columns) == (read.digest, read.tar_bytes, read.columns)
        assert (written.body, len(written)) == (read.body, len(read))


def test_long_and_foreign_keys_are_indexed_right(tmp_path: Path) -> None:
    keys = ["x" * 150, "größe", f"{'d' * 90}/{'e' * 90}"]
    with ShardWriter(tmp_path, kind="test", source="here") as writer:
        for key in keys:
            writer.write(key, {"txt": key})
    index = build_index(tmp_path / "shard-00000.tar")
    assert open_index(index_path(tmp_path / "shard-00000.tar")).body == index.body
    assert [index.entry(number)[0] for number in range(3)] == keys


def test_equal_samples_make_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fill(tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    with tarfile.open(tmp_path / "a" / "odd-00000.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in tar.getmembers()} == {(0, 0, 0, "", 0o644)}


@pytest.mark.parametrize(("key", "column"), [("a.b", "txt"), ("a", "TXT"), ("", "txt"), ("__x__", ""), (".a", "txt")])
def test_names_that_would_read_differently_are_refused(tmp_path: Path, key: str, column: str) -> None:
    with (
        pytest.raises(DataError, match="do not make a member's name"),
        ShardWriter(tmp_path, kind="t", source="t") as w,
    ):
        w.write(key, {column: "x"})
    assert not (tmp_path / "manifest.json").exists()


def test_empty_and_repeated_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no columns"), ShardWriter(tmp_path / "a", kind="t", source="t") as writer:
        writer.write("a", {})
    with ShardWriter(tmp_path / "b", kind="t", source="t") as writer:
        writer.write("a", {"txt": "x"})
        with pytest.raises(DataError, match="comes twice"):
            writer.write("a", {"cls": 1})
    with pytest.raises(DataError, match="at least 1, found 0"):
        ShardWriter(tmp_path / "c", kind="t", source="t", samples_per_shard=0)


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": {1}}, 0.5 + 1j, {"a": 1, 2: 3}])
def test_values_that_are_no_json_are_told_with_their_column(tmp_path: Path, value: object) -> None:
    with (
        pytest.raises(
            DataError, match=r"shard-00000\.tar: 07: json: expected bytes, text, an integer or values of JSON"
        ),
        ShardWriter(tmp_path / "d", kind="x", source="x") as writer,
    ):
        writer.write("07", {"json": value})


def test_folder_appears_when_complete(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with complete_folder(out) as folder:
        (folder / "file").write_text("x")
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "file").read_text() == "x"


def test_folder_stays_absent_on_an_error(tmp_path: Path) -> None:
    def interrupted() -> None:
        with complete_folder(tmp_path / "out") as folder:
            (folder / "file").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with complete_folder(tmp_path / "out") as folder:  # an empty one may be filled
        (folder / "file").write_text("x")
    with pytest.raises(DataError, match="exists already"), complete_folder(tmp_path / "out"):
        pytest.fail("was begun")
    assert (tmp_path / "out" / "file").read_text() == "x"


def test_left_over_of_a_killed_build_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".out.1.partial").mkdir()
    with caplog.at_level(logging.INFO, "unified"), complete_folder(tmp_path / "out"):
        pass
    assert ".out.1.partial: left over" in caplog.text


def test_progress_tells_what_is_left(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = iter([0.0, 1.0, 6.0, 7.0, 12.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, "unified"):
        assert list(progress("abcd", 4, "letters")) == list("abcd")
    assert [record.getMessage() for record in caplog.records] == [
        "letters: 2 of 4, 50 %, 6 s left",
        "letters: 4 of 4, 100 %, 0 s left",
    ]
