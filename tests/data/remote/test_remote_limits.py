"""Servers that send without end, or tell sizes that cannot be: limits hold before disk or memory is taken."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shard_server import Fault, ShardServer, serve
from unified.config.recipe import DataSettings
from unified.core.errors import DataError
from unified.data.remote import cache
from unified.data.remote.transfer import UnavailableError
from unified.data.shards.index import HEADER, MAGIC
from unified.data.shards.patterns import read_manifest
from unified.data.shards.shards import Shards
from unified.data.shards.write import ShardWriter, write_json

LIMIT = 4_000_000
TAR, INDEX, MANIFEST = "shard-00000.tar", "shard-00000.tar.idx", "manifest.json"
ENDLESS = {
    "no length": Fault(endless=True, length=""),
    "a length of 10^18": Fault(endless=True, length=str(10**18)),
    "a length of 5000 digits": Fault(endless=True, length="9" * 5000),
    "a length that is none": Fault(endless=True, length="-5"),
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ShardServer]:
    with ShardWriter(tmp_path / "d", kind="x", source="x") as writer:
        for number in range(20):
            writer.write(f"{number:02d}", {"txt": f"a red square number {number}", "bin": bytes([number]) * 10_000})
    with serve(tmp_path / "d") as found:
        yield found


def opened(server: ShardServer, tmp_path: Path, name: str = "") -> list[bytes]:
    settings = DataSettings(shard_cache=str(tmp_path / "c"), shard_cache_gb=LIMIT / 1e9, retries=1, timeout=1.0)
    shards = Shards.open(f"{server.url}/{name}", settings)
    return [shards[number]["txt"] for number in range(len(shards))]


def on_disk(tmp_path: Path) -> int:
    """Bytes that really lie in the cache, whatever sizes its files tell."""
    return sum(512 * path.stat().st_blocks for path in (tmp_path / "c").glob("*"))


@pytest.mark.parametrize("what", ENDLESS)
@pytest.mark.parametrize("name", [MANIFEST, TAR])
def test_what_the_manifest_says_ends_a_transfer(
    server: ShardServer, tmp_path: Path, name: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unified.data.remote.shards.MOST_MANIFEST", 1 << 20)
    server.faults[name] = [ENDLESS[what]] * 9
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=rf"{name}: .*(expected a manifest of at most|found|ended after)"):
        opened(server, tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert on_disk(tmp_path) < LIMIT if (tmp_path / "c").exists() else True


@pytest.mark.parametrize("what", ENDLESS)
def test_without_sizes_the_limit_of_the_cache_ends_a_transfer(
    server: ShardServer, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "GROWN", 300_000)
    (server.folder / INDEX).unlink()
    server.faults[TAR] = [ENDLESS[what]] * 9
    with pytest.raises(UnavailableError, match="do not fit into the shard cache"):
        opened(server, tmp_path, TAR)
    assert not list((tmp_path / "c").glob("*.partial"))


def test_a_shard_of_unknown_size_takes_the_room_of_others(
    server: ShardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "GROWN", 100_000)
    expected = opened(server, tmp_path)
    old = tmp_path / "c" / ("0" * 64 + ".tar")
    old.write_bytes(bytes(LIMIT - 600_000))
    os.utime(old, (1, 1))
    (server.folder / INDEX).unlink()
    tar = server.folder / TAR
    (server.folder / "other.tar").write_bytes(tar.read_bytes() + bytes(300_000))
    server.faults["other.tar"] = [Fault(length="")]
    assert opened(server, tmp_path, "other.tar") == expected
    assert not old.exists()
    (kept,) = [path for path in (tmp_path / "c").glob("*.tar") if path.stat().st_size > tar.stat().st_size]
    assert kept.stat().st_size == tar.stat().st_size + 300_000
    assert on_disk(tmp_path) < LIMIT


@pytest.mark.parametrize("what", ENDLESS)
def test_an_index_without_end_is_not_awaited(server: ShardServer, tmp_path: Path, what: str) -> None:
    expected = opened(server, tmp_path)
    for path in (tmp_path / "c").glob("*"):
        path.unlink()
    server.faults[INDEX] = [ENDLESS[what]] * 9
    assert opened(server, tmp_path) == expected


def header(names: int = 0, tar_bytes: int = 10_000, samples: int = 1, members: int = 1, key_bytes: int = 1) -> bytes:
    return HEADER.pack(MAGIC, 2, names, tar_bytes, samples, members, key_bytes, bytes(32), bytes(16)) + bytes(100)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(names=2**32 - 1), "at most 4,194,304 bytes of columns"),
        (header(samples=2**60), "expected a number of samples from 1 to 19"),
        (header(tar_bytes=2**63 + 5), "expected its size in bytes"),
        (header(samples=0), "expected a number of samples from 1"),
        (b"<html>", "not an index"),
    ],
)
def test_an_index_that_cannot_be_is_refused(server: ShardServer, tmp_path: Path, content: bytes, message: str) -> None:
    (server.folder / INDEX).write_bytes(content)
    with pytest.raises(DataError, match=message):
        opened(server, tmp_path, TAR)


def test_a_shard_of_another_size_is_refused_before_it_comes(server: ShardServer, tmp_path: Path) -> None:
    manifest = read_manifest(server.folder)
    manifest["shards"][0]["bytes"] += 512
    write_json(server.folder / MANIFEST, manifest)
    with pytest.raises(UnavailableError, match=r"found [\d,]+ bytes, but [\d,]+ in its manifest"):
        opened(server, tmp_path)
    assert server.asked(TAR)
    assert on_disk(tmp_path) < 20_000


@pytest.mark.parametrize("url", ["http://[::1/a.tar", "http://a..b/a.tar", "http://a:port/a.tar", "http:///a.tar"])
def test_addresses_that_are_none_are_told_in_a_line(tmp_path: Path, url: str) -> None:
    settings = DataSettings(shard_cache=str(tmp_path / "c"), retries=0, timeout=0.5)
    with pytest.raises(DataError) as caught:
        Shards.open(url, settings)
    assert "\n" not in str(caught.value)
