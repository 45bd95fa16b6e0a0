"""The folder of remote shards: bounded, shared by processes, and whole after any of them is killed."""

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.shard_server import Fault, ShardServer, serve
from unified.config.recipe import DataSettings
from unified.core.seed import generator
from unified.data.remote import cache as module
from unified.data.remote import cache as shard_cache
from unified.data.remote.cache import ShardCache, default_folder
from unified.data.remote.download import Download, Stopped
from unified.data.remote.transfer import UnavailableError
from unified.data.shards.shards import Shards
from unified.data.shards.write import ShardWriter

COUNT, SIZE = 6, 200_000
processes = multiprocessing.get_context("fork")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ShardServer]:
    with ShardWriter(tmp_path / "d", kind="test", source="test", samples_per_shard=1) as writer:
        for number in range(COUNT):
            writer.write(f"{number}", {"bin": generator("bytes", number).bytes(SIZE)})
    with serve(tmp_path / "d") as running:
        yield running


def settings(tmp_path: Path, shards: float = COUNT) -> DataSettings:
    """A cache for so many shards of a sample each, with room for their indexes."""
    return DataSettings(
        shard_cache=str(tmp_path / "cache"), shard_cache_gb=shards * (SIZE + 20_000) / 1e9, retries=2, timeout=2.0
    )


def name(number: int) -> str:
    return f"shard-{number:05d}.tar"


def here(shards: Shards) -> list[int]:
    """The shards that the cache holds."""
    return [number for number, file in enumerate(shards.files) if file.is_here()]


def read(shards: Shards, number: int) -> None:
    assert shards[number]["bin"] == generator("bytes", number).bytes(SIZE)
    shards.release()


def until(true: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_least_recently_used_shards_go_first(server: ShardServer, tmp_path: Path) -> None:
    shards = Shards.open(f"{server.url}/", settings(tmp_path, 3))
    for number in (0, 1, 2, 0, 3):
        read(shards, number)
    assert here(shards) == [0, 2, 3]
    read(shards, 4)
    assert here(shards) == [0, 3, 4]
    assert (
        sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
        <= settings(tmp_path, 3).shard_cache_gb * 1e9
    )
    assert len(list((tmp_path / "cache").glob("*.idx"))) == 3, "an index leaves with its tar"
    read(shards, 1)
    assert len(server.asked(name(1))) == 2


def test_mapped_shards_stay(server: ShardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOM_PATIENCE", 0.3)
    first, second = (Shards.open(f"{server.url}/", settings(tmp_path, 2)) for _ in range(2))
    assert first[0]["bin"]
    for number in (1, 2, 3):
        read(second, number)
    assert here(first) == [0, 3], "used last by nobody, but mapped"
    assert first[0]["bin"] == generator("bytes", 0).bytes(SIZE)
    assert second[3]["bin"]
    with pytest.raises(UnavailableError, match=r"no room for its .* were in use for 0.3 s. Raise data.shard_cache_gb"):
        ShardCache(settings(tmp_path, 2)).fetch(second.remote[4].shard)
    assert ShardCache(settings(tmp_path, 2)).fetch(second.remote[4].shard, wait=False) is None
    read(second, 4)  # it closes the one that it has mapped before it waits
    assert here(first) == [0, 4]


def test_a_process_that_ends_lets_go(server: ShardServer, tmp_path: Path) -> None:
    shards = Shards.open(f"{server.url}/", settings(tmp_path, 1))
    ready = processes.Event()

    def hold() -> None:
        shards[0]
        ready.set()
        time.sleep(60)

    other = processes.Process(target=hold)
    other.start()
    assert ready.wait(10)
    assert ShardCache(settings(tmp_path, 1)).fetch(shards.remote[1].shard, wait=False) is None
    other.kill()
    other.join()
    read(shards, 1)
    assert here(shards) == [1]


def test_shards_that_are_needed_stay_for_those_fetched_ahead(server: ShardServer, tmp_path: Path) -> None:
    shards = Shards.open(f"{server.url}/", settings(tmp_path, 2))
    cache, files = shards.remote[0].cache, [file.shard for file in shards.remote]
    for number in (0, 1):
        read(shards, number)
    assert cache.fetch(files[2], wait=False, keep={files[0].sha256, files[1].sha256}) is None
    held = cache.fetch(files[2], wait=False, keep={files[0].sha256})
    assert held is not None
    held.close()
    assert here(shards) == [0, 2]


def test_a_cache_smaller_than_a_shard_is_refused(server: ShardServer, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"shard-0000\d.tar: its 2\d\d,\d\d\d bytes do not fit into"):
        Shards.open(f"{server.url}/", settings(tmp_path, 0.5))
    (tmp_path / "d" / "manifest.json").unlink()
    for path in (tmp_path / "d").glob("*.idx"):
        path.unlink()
    with pytest.raises(UnavailableError, match="do not fit into the shard cache"):
        Shards.open(f"{server.url}/{name(0)}", settings(tmp_path, 0.5))
    assert not [path for path in (tmp_path / "cache").iterdir() if path.stat().st_size]


def test_a_full_disk_is_told(server: ShardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Shards.open(f"{server.url}/", settings(tmp_path))
    write = Download._write

    def full(self: Download, chunk: bytes) -> None:
        write(self, chunk[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Download, "_write", full)
    with pytest.raises(UnavailableError, match=r"the disk of .*cache is full .*lower data.shard_cache_gb"):
        shards[0]
    assert not list((tmp_path / "cache").glob("*.partial")), "its room is free again"
    monkeypatch.undo()
    read(shards, 0)


def test_processes_that_want_the_same_shard_fetch_it_once(server: ShardServer, tmp_path: Path) -> None:
    shards = Shards.open(f"{server.url}/", settings(tmp_path))
    server.rate = 5 * SIZE
    found = processes.Queue()
    others = [processes.Process(target=lambda: found.put(shards[0]["bin"])) for _ in range(3)]
    for other in others:
        other.start()
    results = [found.get(timeout=20) for _ in others]
    for other in others:
        other.join()
    assert results == [generator("bytes", 0).bytes(SIZE)] * 3
    assert server.asked(name(0)) == [0]


def requests_without_an_index(server: ShardServer, tmp_path: Path) -> list[int]:
    """The first byte of each request of three processes that want one shard, which has no index, at once."""
    for path in (tmp_path / "d").glob("*.idx"):
        path.unlink()
    server.rate = 5 * SIZE
    found = processes.Queue()
    url, plan = f"{server.url}/{name(0)}", settings(tmp_path)
    others = [processes.Process(target=lambda: found.put(Shards.open(url, plan)[0]["bin"])) for _ in range(3)]
    for other in others:
        other.start()
    assert [found.get(timeout=20) for _ in others] == [generator("bytes", 0).bytes(SIZE)] * 3
    for other in others:
        other.join()
    return server.asked(name(0))


def test_without_an_index_too(server: ShardServer, tmp_path: Path) -> None:
    assert requests_without_an_index(server, tmp_path) == [0]


def test_a_process_that_is_slow_to_note_a_shard_is_waited_for(
    server: ShardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*arguments: Any) -> None:
        time.sleep(0.5)
        remember(*arguments)

    remember = shard_cache.write_record
    monkeypatch.setattr(shard_cache, "write_record", slow)
    assert requests_without_an_index(server, tmp_path) == [0]


def test_a_killed_download_is_gone_on_with(server: ShardServer, tmp_path: Path) -> None:
    shards = Shards.open(f"{server.url}/", settings(tmp_path))
    server.rate = SIZE
    other = processes.Process(target=lambda: shards[0])
    other.start()
    until(lambda: sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.partial")) > SIZE // 4)
    assert other.pid
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    server.rate = None
    read(shards, 0)
    first, second = server.asked(name(0))
    assert first == 0
    assert second >= SIZE // 4
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_a_waiting_process_takes_over_from_a_killed_one(server: ShardServer, tmp_path: Path) -> None:
    shards = Shards.open(f"{server.url}/", settings(tmp_path))
    server.faults[name(0)] = [Fault(stall_after=SIZE // 2)]
    found = processes.Queue()
    stuck = processes.Process(target=lambda: shards[0])
    stuck.start()
    until(lambda: server.sent >= SIZE // 2)
    waiting = processes.Process(target=lambda: found.put(shards[0]["bin"]))
    waiting.start()
    stuck.kill()
    stuck.join()
    assert found.get(timeout=20) == generator("bytes", 0).bytes(SIZE)
    waiting.join()
    assert server.asked(name(0)) == [0, SIZE // 2]


def test_abandoned_parts_leave_like_shards(server: ShardServer, tmp_path: Path) -> None:
    shards = Shards.open(f"{server.url}/", settings(tmp_path, 2))
    shard = shards.remote[5].shard
    partial = tmp_path / "cache" / f"{shard.sha256}-{shard.tar_bytes}.partial"
    partial.write_bytes(b"begun")
    os.utime(partial, (1, 1))
    read(shards, 0)
    assert partial.exists()
    read(shards, 1)
    assert not partial.exists(), "it counts with all the bytes that it would have"


def test_a_stopped_transfer_keeps_what_came(server: ShardServer, tmp_path: Path) -> None:
    shards = Shards.open(f"{server.url}/", settings(tmp_path))
    server.rate = SIZE
    stop = module.threading.Event()
    module.threading.Timer(0.3, stop.set).start()
    with pytest.raises(Stopped):
        shards.remote[0].cache.fetch(shards.remote[0].shard, stop=stop)
    (partial,) = (tmp_path / "cache").glob("*.partial")
    assert 0 < partial.stat().st_size < SIZE


def test_a_lost_index_is_made_again(server: ShardServer, tmp_path: Path) -> None:
    shards = Shards.open(f"{server.url}/", settings(tmp_path))
    read(shards, 0)
    (index,) = (tmp_path / "cache").glob("*.idx")
    content = index.read_bytes()
    index.unlink()
    read(shards, 0)
    assert index.read_bytes() == content
    assert server.asked(name(0)) == [0]


def test_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_folder() == Path("/somewhere/unified/shards") == ShardCache(DataSettings()).folder
