"""Training on remote shards: the same batches as from the disk, and shards that are there before they are needed."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.test_loader import same_steps
from tests.shard_server import Fault, ShardServer, serve
from unified.config.recipe import DataSettings, Recipe
from unified.config.task import Answer, Task
from unified.core.errors import DataError
from unified.data.remote import download
from unified.data.remote.cache import ShardCache
from unified.data.remote.shard import RemoteShard
from unified.data.remote.shards import CachedShard
from unified.data.remote.transfer import UnavailableError
from unified.data.shards.shards import Shards
from unified.data.shards.write import ShardWriter
from unified.modalities.text.tokenizer import TextTokenizer
from unified.pipeline.loader import StepLoader
from unified.pipeline.prefetch import HORIZON, Coming, check_room
from unified.pipeline.schedule import Origin

SHARDS, SAMPLES, BATCH = 8, 8, 4


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ShardServer]:
    with ShardWriter(tmp_path / "d", kind="test", source="test", samples_per_shard=SAMPLES) as writer:
        for number in range(SHARDS * SAMPLES):
            writer.write(f"k{number}", {"txt": f"the word number {number * number}"})
    with serve(tmp_path / "d") as running:
        yield running


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {"text": TextTokenizer.load("text", max_length=16)}


def recipe(server: ShardServer, data: str, *, steps: int = 40, shards: float = 100.0, **settings: Any) -> Recipe:
    """Steps of one slot; a cache for so many shards, and a shuffle among the samples of two."""
    size = max(path.stat().st_size for path in server.folder.glob("*.tar"))
    plain = {"workers": 0, "window": 2 * SAMPLES, "retries": 2, "timeout": 5.0, "prefetch": 1}
    cache = {"shard_cache": str(server.folder.parent / "cache"), "shard_cache_gb": shards * size / 1e9}
    task = Task(data, {"txt": "text"}, "txt", Answer.of(candidates="vocabulary", read="masked"), "accuracy", BATCH)
    return Recipe({"words": task}, max_steps=steps, slots=1, data=DataSettings(**{**plain, **cache, **settings}))


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shards", [100.0, 4.5], ids=["all fit", "most do not fit"])
def test_the_same_batches_as_from_the_disk(server: ShardServer, tokenizers: Any, workers: int, shards: float) -> None:
    plain = recipe(server, str(server.folder))
    remote = recipe(server, f"{server.url}/", workers=workers, shards=shards)
    for rank in range(2):
        expected = StepLoader(plain, tokenizers, {}, rank=rank, world=2)
        loader = StepLoader(remote, tokenizers, {}, rank=rank, world=2)
        assert (loader.digests(), loader.sizes()) == (expected.digests(), expected.sizes())
        assert same_steps(list(loader), list(expected))
    begin = {"start_step": 23, "origin": Origin(20, {"words": 7 * BATCH})}
    resumed = StepLoader(remote, tokenizers, {}, **begin)  # type: ignore[arg-type]
    assert same_steps(list(resumed), list(StepLoader(plain, tokenizers, {}, **begin)))  # type: ignore[arg-type]
    again = any(len(server.asked(path.name)) > 1 for path in server.folder.glob("*.tar"))
    assert again is (shards < SHARDS)


def test_training_begins_before_all_shards_are_here(server: ShardServer, tokenizers: Any) -> None:
    loader = StepLoader(recipe(server, f"{server.url}/", prefetch_shards=0), tokenizers, {})
    asked = []
    for _ in loader:
        asked.append(len({name for name, _, _ in server.requests if name.endswith(".tar")}))
    assert asked[0] <= 3
    assert asked[-1] == SHARDS


def test_shards_are_here_before_they_are_needed(server: ShardServer, tokenizers: Any) -> None:
    loader = StepLoader(recipe(server, f"{server.url}/", prefetch_shards=2), tokenizers, {})
    steps = iter(loader)
    for number in range(16):
        next(steps)
        needed = [file for later in range(number, number + 3) for file in loader.steps.remote_shards(later)]
        until(lambda needed=needed: all(file.is_here() for file in needed))
        if number == 0:
            assert sum(file.is_here() for file in loader.steps.sources["words"].shards.remote) < SHARDS
    steps.close()  # type: ignore[attr-defined]
    assert [server.asked(path.name) for path in server.folder.glob("*.tar")] == [[0]] * SHARDS


def test_a_shard_that_disappears_ends_the_run(server: ShardServer, tokenizers: Any) -> None:
    for workers in (0, 1):
        loader = StepLoader(recipe(server, f"{server.url}/", workers=workers), tokenizers, {})
        for path in server.folder.glob("*.tar"):
            path.rename(path.with_suffix(".gone"))
        with pytest.raises(UnavailableError, match=rf"{server.url}/shard-0000\d.tar: HTTP 404"):
            list(loader)
        for path in server.folder.glob("*.gone"):
            path.rename(path.with_suffix(".tar"))


def test_what_fails_ahead_is_left_to_the_step_that_needs_it(
    server: ShardServer, tokenizers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "FIRST_WAIT", 0.002)
    loader = StepLoader(recipe(server, f"{server.url}/", prefetch_shards=4), tokenizers, {})
    expected = StepLoader(recipe(server, str(server.folder)), tokenizers, {})
    at_once = {file.name for number in range(4) for file in loader.steps.remote_shards(number)}
    for number in range(SHARDS):
        name = f"shard-{number:05d}.tar"
        if f"{server.url}/{name}" not in at_once:
            server.faults[name] = [Fault(500)] * 3  # a thread gives up; then it comes
    steps = iter(loader)
    found = [next(steps)]
    for number in range(1, 40):
        files = loader.steps.remote_shards(number)
        until(lambda files=files: all(file.is_here() or len(server.asked(file.shard.url[-15:])) >= 3 for file in files))
        found.append(next(steps))
    assert same_steps(found, list(expected))


def test_a_shuffle_that_the_cache_cannot_hold_is_refused(server: ShardServer, tokenizers: Any) -> None:
    with pytest.raises(DataError, match=r"data.window: a shuffle among all samples .*: --data.window 16") as error:
        StepLoader(recipe(server, f"{server.url}/", shards=3.5, window=None), tokenizers, {})
    StepLoader(recipe(server, f"{server.url}/", shards=3.5, window=16), tokenizers, {})
    assert "fetched again and again" in str(error.value)
    with pytest.raises(DataError, match=r"Raise it above$"):
        StepLoader(recipe(server, f"{server.url}/", shards=1.5), tokenizers, {})
    settings = recipe(server, "", shards=4.5).data
    shards = Shards.open(f"{server.url}/", settings)
    check_room({"a": shards}, settings)
    with pytest.raises(DataError, match=r"data.window"):
        check_room({"a": shards, "b": shards}, settings)
    check_room({"a": Shards.open(server.folder)}, DataSettings(shard_cache_gb=1e-9))


def test_coming_shards_in_the_order_of_need(tmp_path: Path) -> None:
    cache = ShardCache(DataSettings(shard_cache=str(tmp_path)))
    files = [CachedShard(RemoteShard(f"http://x/{n}.tar", 1, 1, f"{n}", ()), cache) for n in range(12)]
    calls: list[int] = []

    def needed(step: int) -> list[CachedShard]:
        calls.append(step)
        return files[step // 10 * 2 % 12 :][:2]

    coming = Coming(needed, range(10_000), 2)
    assert coming.at(0) == files[:2]
    for file in files[:2]:
        (tmp_path / f"{file.shard.sha256}.tar").touch()
    assert coming.at(1) == files[2:4]
    assert coming.in_use(1) == {"0", "1", "2", "3"}
    assert calls == list(range(11)), "no further than to the next missing shards"
    assert coming.at(10) == files[2:4]
    assert coming.in_use(10) == {"2", "3"}
    assert coming.at(21) == files[4:6], "of the first step after it that misses any"
    same = Coming(lambda _: files[:1], range(10_000), 2)
    assert (same.at(0), same._scanned) == ([], HORIZON)
