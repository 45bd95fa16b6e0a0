"""The content of shards as a run compares it: the SHA-256 of the bytes that lie there now, whatever indexes say."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from unified.core.distributed import broadcast_object, rank
from unified.core.errors import DataError
from unified.core.file_hashes import FileHashes
from unified.core.log import logger
from unified.core.paths import cache_folder
from unified.data.shards.shards import LocalShard, ShardFile

READERS = 4
"""Files that are read at once."""
TOLD_SECONDS = 5.0


@dataclass(frozen=True)
class Content:
    """A shard by name and content."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Contents:
    """The shards of each task, in the order in which it numbers their samples."""

    shards: Mapping[str, tuple[Content, ...]]

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of those of all shards of each task."""
        return {task: _joined(shard.sha256 for shard in shards) for task, shards in self.shards.items()}


def read_contents(files: Mapping[str, Sequence[ShardFile]], alive: Callable[[], None] = lambda: None) -> Contents:
    """Return the content of all shards; rank 0 reads what this machine has not read before, the others wait.

    Remote shards are compared with their SHA-256 whenever they are fetched, and are not read for this.

    Args:
        files: The shards of each task.
        alive: Is called every few seconds meanwhile, on every rank.

    Raises:
        DataError: A shard cannot be read; on every rank.
    """
    local = {file.path: file for listed in files.values() for file in listed if isinstance(file, LocalShard)}
    found = _by_rank_0(list(local), alive)
    _tell_stale([file for path, file in local.items() if found[path] != file.digest])

    def content(file: ShardFile) -> Content:
        return Content(file.name, (found[file.path] if isinstance(file, LocalShard) else file.digest).hex())

    return Contents({task: tuple(content(file) for file in listed) for task, listed in files.items()})


def _joined(sha256: Iterable[str]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(one) for one in sha256)).hexdigest()


def _by_rank_0(paths: Sequence[Path], alive: Callable[[], None]) -> dict[Path, bytes]:
    """The SHA-256 of files, read by rank 0, which tells the others every few seconds that it is still at it."""
    hashed: dict[Path, bytes] = {}
    work = _hashed(paths, hashed) if rank() == 0 else None
    while True:
        answer: dict[Path, bytes] | str | None = None
        if work is not None:
            try:
                answer = hashed if next(work, True) else None
            except OSError as error:
                answer = f"{error}. Hint: make that readable again; then the same command goes on"
        answer = broadcast_object(answer)
        alive()
        if isinstance(answer, str):
            raise DataError(answer)
        if answer is not None:
            return answer


def _hashed(paths: Sequence[Path], found: dict[Path, bytes]) -> Iterator[bool]:
    """Hash files into `found`; yield False every few seconds until all are there."""
    hashes = FileHashes(cache_folder("hashes"))
    sizes = {}
    for path in paths:
        if known := hashes.remembered(path):
            found[path] = known
        else:
            sizes[path] = path.stat().st_size
    reading = _Reading(sum(sizes.values()), len(sizes))
    pool = ThreadPoolExecutor(min(READERS, os.cpu_count() or 1))
    try:
        left = {pool.submit(hashes.read, path, reading.told): path for path in sizes}
        while left:
            done, _ = wait(left, TOLD_SECONDS, FIRST_EXCEPTION)
            found.update((left.pop(one), one.result()) for one in done)
            if left:
                hashes.save()
                reading.log()
                yield False
        hashes.save()
    finally:
        reading.end.set()
        pool.shutdown(cancel_futures=True)


class _Reading:
    """How far the reading of files is."""

    def __init__(self, total: int, files: int) -> None:
        self.total, self.files, self.end = total, files, threading.Event()
        self._done, self._begun, self._lock = 0, time.monotonic(), threading.Lock()

    def told(self, size: int) -> None:
        if self.end.is_set():
            raise InterruptedError("the hashing of shards was ended")
        with self._lock:
            self._done += size

    def log(self) -> None:
        seconds = time.monotonic() - self._begun
        left = (self.total - self._done) * seconds / max(self._done, 1)
        logger.info(
            "reading %d shards once, to know them when the run is resumed: %.1f of %.1f GB, %.0f s left",
            *(self.files, self._done / 1e9, self.total / 1e9, left),
        )


def _tell_stale(files: Sequence[LocalShard]) -> None:
    """Warn of tars that were changed after their indexes were made: members may not lie where these say."""
    for file in files[:3]:
        logger.warning(
            "%s: expected the tar that its index was made for, got other content of the same size. Hint: rebuild the "
            "index with: unified shards index %s",
            *(file.path, file.path),
        )
    if len(files) > 3:
        logger.warning("and %d more tars that are not those of their indexes", len(files) - 3)
