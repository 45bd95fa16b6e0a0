"""Remote shards on their way before they are needed: the order of the data is known, so it can be looked ahead in."""

from collections.abc import Callable, Mapping
from math import ceil
from threading import Condition, Event, Lock, Thread
from typing import Self

from unified.config.recipe import DataSettings
from unified.core.errors import DataError
from unified.core.log import logger
from unified.data.remote.download import Stopped
from unified.data.remote.shards import CachedShard
from unified.data.remote.transfer import UnavailableError
from unified.data.shards.shards import Shards

THREADS = 4
"""Transfers at once."""
HORIZON = 2000
"""Steps that are looked ahead."""
GRACE = 2.0
"""Seconds for transfers to end; what has arrived is kept."""


class Coming:
    """The shards that steps from the present one on will need and that are not here, in the order of their need."""

    def __init__(self, needed: Callable[[int], list[CachedShard]], steps: range, ahead: int) -> None:
        """`needed`: the shards of a step. `ahead`: how many missing shards are looked for."""
        self._needed, self._steps, self._ahead = needed, steps, ahead
        self._scanned = steps.start
        self._first: dict[str, tuple[int, CachedShard]] = {}  # the step that will first need a missing shard
        self._last: dict[str, int] = {}  # the last step, of those scanned, that needs a shard

    def at(self, step: int) -> list[CachedShard]:
        """The shards to have ready at `step`."""
        self._first = {sha256: entry for sha256, entry in self._first.items() if entry[0] >= step}
        self._scanned = max(self._scanned, step)
        stop = min(self._steps.stop, step + HORIZON)
        while len(self._first) < self._ahead and self._scanned < stop:
            for file in self._needed(self._scanned):
                sha256 = file.shard.sha256
                if sha256 not in self._first and not file.is_here():
                    self._first[sha256] = (self._scanned, file)
                self._last[sha256] = self._scanned
            self._scanned += 1
        return [file for _, file in self._first.values()]

    def in_use(self, step: int) -> set[str]:
        """SHA-256 of all shards that are known to be needed at `step` or later."""
        self._last = {sha256: last for sha256, last in self._last.items() if last >= step}
        return set(self._last)


class Prefetcher:
    """Threads that fetch the shards of coming steps while training runs."""

    def __init__(
        self, needed: Callable[[int], list[CachedShard]], steps: range, settings: DataSettings, *, remote: bool
    ) -> None:
        """`needed`: the remote shards of a step; `remote` False: there are none, and no threads."""
        self._coming = Coming(needed, steps, settings.prefetch_shards)
        self._step = steps.start
        self._changed, self._ended, self._planning = Condition(), Event(), Lock()
        self._taken: set[str] = set()  # by a thread, or given up
        count = min(settings.prefetch_shards, THREADS) if remote else 0
        self._threads = [Thread(target=self._run, name="prefetch", daemon=True) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(GRACE)

    def reached(self, step: int) -> None:
        """Training has come to `step`."""
        with self._changed:
            self._step = step
            self._changed.notify_all()

    def _run(self) -> None:
        while not self._ended.is_set():
            step = self._step
            with self._planning:
                found = self._next(step)
            if found is None or not self._fetched(*found):
                with self._changed:
                    self._changed.wait_for(lambda step=step: self._ended.is_set() or self._step != step)  # type: ignore[misc]

    def _next(self, step: int) -> tuple[CachedShard, set[str]] | None:
        """The next shard to fetch, now taken, and what must stay for the steps to come."""
        for file in self._coming.at(step):
            if file.shard.sha256 not in self._taken and not file.is_here():
                self._taken.add(file.shard.sha256)
                return file, self._coming.in_use(step)
        return None

    def _fetched(self, file: CachedShard, needed: set[str]) -> bool:
        """Fetch a shard; one that fails is left to the step that needs it, which will tell."""
        try:
            held = file.cache.fetch(file.shard, wait=False, keep=needed, stop=self._ended)
        except (Stopped, UnavailableError, OSError) as error:
            logger.info("%s: not fetched ahead (%s)", file.name, error or "training has ended")
            return True
        with self._planning:
            self._taken.discard(file.shard.sha256)
        if held is not None:
            held.close()
        return held is not None  # None: another process is at it, or there is no room before training goes on


def check_room(tasks: Mapping[str, Shards], settings: DataSettings) -> None:
    """Refuse a shuffle that would fetch the same remote shards again and again, as the cache cannot hold its window."""
    remote = [shards for shards in tasks.values() if shards.remote]
    limit, room = settings.shard_cache_gb * 1e9, 0
    for shards in {id(shards): shards for shards in remote}.values():
        sizes = [file.shard.tar_bytes for file in shards.remote]
        in_window = ceil((settings.window or len(shards)) * len(shards.sizes) / len(shards)) + 1
        users = sum(other is shards for other in remote)  # each task has an order of its own
        room += min(sum(sizes), users * in_window * max(sizes))
    if room <= limit:
        return
    largest = max(file.shard.tar_bytes for shards in remote for file in shards.remote)
    fitting = int(limit / largest / len(remote)) - 1  # shards
    samples = fitting * min(len(shards) // len(shards.sizes) for shards in remote)
    other = f", or shuffle among fewer samples: --data.window {samples}" if samples > 0 else ""
    raise DataError(
        f"data.window: a shuffle among {settings.window or 'all'} samples (null: all) reads {room / 1e9:.3g} GB of "
        f"remote shards at a time, but data.shard_cache_gb is {settings.shard_cache_gb:g}: they would be fetched again "
        f"and again. Raise it above{other}"
    )
