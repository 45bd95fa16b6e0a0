"""Cached shards are looked at again: what does not fit is fetched anew."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shard_server import ShardServer, serve

from unified.config.recipe import DataSettings
from unified.core.errors import DataError
from unified.data.remote.transfer import UnavailableError
from unified.data.shards.patterns import read_manifest
from unified.data.shards.shards import Shards
from unified.data.shards.write import ShardWriter, write_json


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShardServer]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with ShardWriter(tmp_path / "d", kind="x", source="x") as writer:
        for number in range(20):
            writer.write(f"{number:02d}", {"cls": number % 10, "txt": f"a red square number {number}"})
    with serve(tmp_path / "d") as found:
        yield found


def texts(url: str) -> list[bytes]:
    shards = Shards.open(url, DataSettings(retries=0, timeout=2.0))
    return [shards[number]["txt"] for number in range(len(shards))]


def in_cache(tmp_path: Path, pattern: str) -> Path:
    (found,) = (tmp_path / "cache" / "unified" / "shards").glob(pattern)
    return found


@pytest.mark.parametrize(
    ("pattern", "change"),
    [
        ("*.tar", lambda data: data.replace(b"a red", b"a big")),
        ("*.tar", lambda data: data[:3000]),
        ("*.tar", lambda _: b""),
        ("*.tar", lambda data: data + bytes(512)),
        ("*.idx", lambda _: b""),
        ("*.idx", lambda data: data[:-200] + bytes([data[-200] ^ 1]) + data[-199:]),
    ],
)
@pytest.mark.parametrize("small", [2**20, 100])
def test_a_damaged_copy_is_fetched_or_made_again(
    server: ShardServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pattern: str,
    change: Callable[[bytes], bytes],
    small: int,
) -> None:
    monkeypatch.setattr("unified.core.file_hashes.SMALL_BYTES", small)
    url = f"{server.url}/"
    expected = texts(url)
    path = in_cache(tmp_path, pattern)
    path.write_bytes(change(path.read_bytes()))
    assert texts(url) == expected
    assert texts(url) == expected


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 7}', b"\xff"])
def test_a_damaged_note_of_a_shard_is_made_again(server: ShardServer, tmp_path: Path, content: bytes) -> None:
    for name in ("manifest.json", "shard-00000.tar.idx"):
        (server.folder / name).unlink()
    url = f"{server.url}/shard-00000.tar"
    expected = texts(url)
    note = in_cache(tmp_path, "url-*.json")
    note.write_bytes(content)
    assert texts(url) == expected
    assert b'"samples": 20' in note.read_bytes()


@pytest.mark.parametrize("samples", [19, 21])
def test_a_manifest_with_other_samples_than_its_shard_ends_a_run(server: ShardServer, samples: int) -> None:
    manifest = read_manifest(server.folder)
    manifest["shards"][0]["samples"] = samples
    write_json(server.folder / "manifest.json", manifest)
    with pytest.raises(UnavailableError, match=rf"expected {samples} samples, .* got 20"):
        texts(f"{server.url}/")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": -5}, "samples: expected a whole number from 0, got -5"),
        ({"samples": 0}, "samples from 1"),
        ({"samples": 10**18}, "samples from 1 to 100"),
        ({"samples": 20.0}, "samples: expected a whole number"),
        ({"samples": True}, "samples: expected a whole number"),
        ({"samples": None}, "samples: expected a whole number"),
        ({"sha256": "../x"}, "sha256: expected 64 hexadecimal digits, got '../x'"),
        ({"sha256": "g" * 64}, "sha256: expected 64 hexadecimal digits"),
        ({"sha256": 5}, "sha256: expected a text, got 5"),
        ({"bytes": -1}, "bytes: expected a whole number from 0, got -1"),
        ({"bytes": "51200"}, "bytes: expected a whole number"),
        ({"bytes": 10**30}, "size in bytes"),
    ],
)
def test_manifests_that_cannot_be_are_refused(server: ShardServer, changes: dict[str, Any], message: str) -> None:
    manifest = read_manifest(server.folder)
    manifest["shards"][0] |= changes
    write_json(server.folder / "manifest.json", manifest)
    with pytest.raises(DataError, match=message):
        Shards.open(f"{server.url}/", DataSettings(retries=0))
