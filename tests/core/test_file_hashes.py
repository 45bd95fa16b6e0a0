import hashlib
import json
import os
from pathlib import Path

import pytest

from unified.core import file_hashes
from unified.core.file_hashes import FileHashes

CONTENT = b"0123456789abcdef" * 2**16 + b"."  # just above what is read each time


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this moment count as those of long ago, whose times tell."""
    monkeypatch.setattr(file_hashes, "SETTLED_NS", -1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    found = tmp_path / "data" / "a.tar"
    found.write_bytes(CONTENT)
    return found


def kept(path: Path, cache: Path) -> bytes | None:
    """What another process remembers of a file."""
    return FileHashes(cache).remembered(path)


def read(path: Path, cache: Path) -> bytes:
    hashes = FileHashes(cache)
    found = hashes.read(path)
    hashes.save()
    return found


def test_a_file_is_read_once(path: Path, tmp_path: Path) -> None:
    expected = hashlib.sha256(CONTENT).digest()
    assert kept(path, tmp_path / "cache") is None
    assert read(path, tmp_path / "cache") == expected
    assert kept(path, tmp_path / "cache") == expected
    read(path.rename(path.with_name("b.tar")), tmp_path / "cache")
    path.write_bytes(CONTENT[1:])
    assert read(path, tmp_path / "cache") != expected
    assert kept(path.with_name("b.tar"), tmp_path / "cache") == expected  # one folder's files are kept together


def test_a_small_file_is_read_each_time(path: Path, tmp_path: Path) -> None:
    path.write_bytes(CONTENT[: 2**20])
    read(path, tmp_path / "cache")
    assert kept(path, tmp_path / "cache") is None
    assert not (tmp_path / "cache").exists()


def test_a_file_that_was_written_a_moment_ago_is_read_again(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_hashes, "SETTLED_NS", 3600 * 10**9)
    read(path, tmp_path / "cache")
    assert kept(path, tmp_path / "cache") is None


@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) - 1])
def test_a_change_shows_though_the_time_of_the_content_is_set_back(path: Path, tmp_path: Path, size: int) -> None:
    read(path, tmp_path / "cache")
    before = path.stat()
    path.write_bytes((b"x" + CONTENT[1:])[:size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert kept(path, tmp_path / "cache") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda data: data[:-20],
        lambda data: b"\xff" + data,
        lambda _: b"[]",
        lambda _: b"[" * 200_000,
        lambda data: json.dumps({**json.loads(data), "format": 2}).encode(),
        lambda data: json.dumps({**json.loads(data), "files": 5}).encode(),
        lambda data: data.replace(hashlib.sha256(CONTENT).hexdigest().encode(), b"0" * 64),
    ],
)
def test_what_is_remembered_may_be_damaged(path: Path, tmp_path: Path, damage: object) -> None:
    read(path, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    assert kept(path, tmp_path / "cache") is None
    expected = read(path, tmp_path / "cache")
    assert kept(path, tmp_path / "cache") == expected == hashlib.sha256(CONTENT).digest()


def test_a_place_that_cannot_be_written_to_costs_only_time(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with caplog.at_level("INFO", "unified"):
        assert read(path, tmp_path / "cache" / "hashes") == hashlib.sha256(CONTENT).digest()
    assert "they are made again next time" in caplog.text


def test_reading_can_be_ended(path: Path, tmp_path: Path) -> None:
    def end(size: int) -> None:
        raise InterruptedError

    hashes = FileHashes(tmp_path / "cache")
    with pytest.raises(InterruptedError):
        hashes.read(path, end)
    hashes.save()
    assert kept(path, tmp_path / "cache") is None
