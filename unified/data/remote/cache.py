"""Remote shards on the local disk, in a folder that all processes of a machine share and that is bounded in bytes.

A complete shard lies there under its SHA-256, with its index beside it:

    SHA256.tar            whoever has it mapped holds a shared lock on it; compared with its name when it is opened
    SHA256.used           last used at its time of modification
    SHA256-BYTES.partial  on its way; its process holds an exclusive lock. Without one it was left, and will be resumed
    url-KEY.json          what is known of a shard that came without index and manifest
    lock                  held for the moments in which room is made

Locks (flock) belong to open files, so that they end with their process, however it ends. Room is made by unlinking the
tars and the abandoned parts that were used least recently and that nobody has locked: a shard that any process has
mapped stays, and so does its room. A process maps shards only while it prepares a slot, one data set at a time, and
none while it waits for another shard; so whoever waits for room will get it as soon as there is room for one shard.
"""

import errno
import fcntl
import hashlib
import mmap
import os
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import FileIO
from pathlib import Path
from time import monotonic, sleep
from typing import BinaryIO

from unified.config.recipe import DataSettings
from unified.core.errors import DataError
from unified.core.file_hashes import FileHashes
from unified.core.locations import shown
from unified.core.log import logger
from unified.core.paths import cache_folder
from unified.data.remote.download import Download, Patience, read_bytes
from unified.data.remote.shard import RemoteShard, index_size, index_url, read_record, write_record
from unified.data.remote.transfer import UnavailableError
from unified.data.shards.index import (
    MOST_HEADER,
    Index,
    build_index,
    index_path,
    open_index,
    write_index,
)

GROWN = 1 << 26
"""Bytes by which room is made for a shard whose size nobody tells."""
POLL = 0.05
"""Seconds between looks at what another process is doing."""
ROOM_PATIENCE = 120.0
"""Seconds after which a process no longer waits for room."""


_hashes = cache(FileHashes)  # one for a process: files are compared once


def default_folder() -> Path:
    """Where shards are kept if the recipe does not say."""
    return cache_folder("shards")


class ShardCache:
    """Fetches, keeps and opens remote shards; holds no file open itself, so that it may go to any process."""

    def __init__(self, settings: DataSettings) -> None:
        self.folder = Path(settings.shard_cache).expanduser() if settings.shard_cache else default_folder()
        self.limit = int(settings.shard_cache_gb * 1e9)
        self.patience = Patience(settings.retries, settings.timeout)

    def has(self, shard: RemoteShard) -> bool:
        """Whether the shard is here, whole."""
        return self._tar(shard.sha256).exists()

    def open(self, shard: RemoteShard) -> tuple[Index, mmap.mmap]:
        """Return the shard and its index by memory map, which holds a shared lock.

        It is fetched where it is not here, and once more where what is here is not it any more.

        Raises:
            UnavailableError: It cannot be had, or is not what its manifest says.
        """
        for again in (False, True):
            file = self._held(shard.sha256) or self.fetch(shard)
            assert file is not None
            with file:
                problem = self._problem(shard, file)
                if problem is None:
                    index = self._index(shard)
                    return index, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # which keeps the file locked
                if not again:
                    logger.warning("%s: its copy in the cache %s; it is fetched again", shard.name, problem)
                self._discard(shard, file)
        raise UnavailableError(f"{shard.name}: its copy in {self.folder} {problem}, twice. Hint: look at that disk")

    def _problem(self, shard: RemoteShard, file: BinaryIO | FileIO) -> str | None:
        """What shows that a file is not the shard; its content is read once for each time that it was written."""
        size = os.fstat(file.fileno()).st_size
        if size != shard.tar_bytes:
            return f"has {size:,} bytes, not {shard.tar_bytes:,}"
        path, hashes = self._tar(shard.sha256), _hashes(cache_folder("hashes"))
        found = hashes.remembered(path)
        if found is None:
            found = hashes.read(path)
            hashes.save()
        return None if found.hex() == shard.sha256 else "has changed since it was fetched"

    def _discard(self, shard: RemoteShard, file: BinaryIO | FileIO) -> None:
        """Remove a file that is not the shard, unless another process has put the shard in its place."""
        path = self._tar(shard.sha256)
        with self._accounts(), suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                path.unlink()
                index_path(path).unlink(missing_ok=True)

    def _index(self, shard: RemoteShard) -> Index:
        """The index of a shard that is here, made anew where it is not whole or another's."""
        path = self._tar(shard.sha256)
        try:
            index = open_index(index_path(path))
            fits = index.digest.hex() == shard.sha256 and index.tar_bytes == shard.tar_bytes
        except (OSError, DataError):
            fits = False
        if not fits:
            index = build_index(path)
            write_index(index, index_path(path))
        if len(index) != shard.samples:
            raise UnavailableError(
                f"{shard.name}: expected {shard.samples:,} samples, as its manifest or index says, got {len(index):,}. "
                "Hint: build the manifest anew"
            )
        return index

    def fetch(
        self,
        shard: RemoteShard,
        *,
        wait: bool = True,
        keep: Collection[str] = (),
        stop: threading.Event | None = None,
    ) -> BinaryIO | FileIO | None:
        """The complete shard, open and under a shared lock.

        Without `wait`, None where another process is at it, or where there is no room without the shards `keep`
        (SHA-256). Raises `UnavailableError` where it cannot be had, `Stopped` where `stop` is set meanwhile.
        """
        begin = monotonic()
        while True:
            with self._accounts():
                if held := self._held(shard.sha256):
                    return held
                partial = self._partial(shard.sha256, shard.tar_bytes)
                room = partial.exists() or self._make_room(shard.tar_bytes, keep)
                if room:
                    partial.touch()
            file = _locked(partial) if room else None
            if file is not None:
                return self._complete(shard, file, partial, stop)
            if not wait:
                return None
            if not room and monotonic() - begin > ROOM_PATIENCE:
                raise UnavailableError(
                    f"{shard.name}: no room for its {shard.tar_bytes:,} bytes in {self.folder}: all of "
                    f"{self.limit:,} were in use for {ROOM_PATIENCE:g} s. Raise data.shard_cache_gb, or lower "
                    "data.workers"
                )
            sleep(POLL)

    def _complete(
        self, shard: RemoteShard, file: FileIO, partial: Path, stop: threading.Event | None
    ) -> BinaryIO | FileIO:
        """Finish the partial file, which this process has locked, and publish it under its name."""
        try:
            with self._disk_full(shard.name, shard.tar_bytes, partial):
                Download(shard.url, file, shard.tar_bytes, shard.sha256).run(self.patience, stop)
                self._add_index(shard, partial)
                os.fsync(file.fileno())
            self._publish(partial, shard.sha256)
            fcntl.flock(file, fcntl.LOCK_SH)
        except BaseException:
            file.close()
            raise
        return file

    def _add_index(self, shard: RemoteShard, tar: Path) -> None:
        """The index of a shard: from beside it if it is that of this tar, or built."""
        path = index_path(self._tar(shard.sha256))
        url = index_url(shard.url)
        if path.exists():
            return
        if url is not None:
            try:
                temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.new")
                with suppress(DataError):  # it is built then
                    size = index_size(shard, read_bytes(url, self.patience, MOST_HEADER))
                    temporary.write_bytes(read_bytes(url, self.patience, size))
                    if open_index(temporary).digest.hex() == shard.sha256:
                        temporary.replace(path)
                        return
            finally:
                temporary.unlink(missing_ok=True)
        write_index(build_index(tar), path)

    def knows(self, url: str) -> bool:
        """Whether `learn` has the answer already."""
        return self._record(url).exists()

    def learn(self, url: str) -> RemoteShard:
        """What is to be known of a shard without index and manifest: fetched and read once, then remembered."""
        record = self._record(url)
        while True:
            with suppress(FileNotFoundError):
                if known := read_record(record, url):
                    return known
                record.unlink()
            partial = record.with_name(f"{record.stem}-0.partial")
            with self._accounts():
                partial.touch()
            file = _locked(partial)
            if file is None:
                sleep(POLL)
                continue
            with file, self._disk_full(shown(url), 0, partial):
                if record.exists():  # another process was faster
                    partial.unlink()
                    continue
                return self._read_through(url, file, partial)

    def _read_through(self, url: str, file: FileIO, partial: Path) -> RemoteShard:
        try:
            sha256 = Download(url, file, room=lambda size: self._reserve(url, file, size)).run(self.patience)
            index = build_index(partial)
        except DataError:
            partial.unlink(missing_ok=True)  # nothing of it could be used again
            raise
        shard = RemoteShard(url, len(index), index.tar_bytes, sha256, index.columns)
        with self._accounts():
            if not self._make_room(0, ()):
                partial.unlink()
                raise self._too_small(shown(url), index.tar_bytes)
            write_index(index, index_path(self._tar(sha256)))
            os.fsync(file.fileno())
            # Before the rename, which lets the next process lock a new part and ask for the record.
            write_record(self._record(url), shard)
            self._publish(partial, sha256)
        return shard

    def _reserve(self, url: str, file: FileIO, size: int) -> None:
        """Make a file of unknown size as long as it may soon be, before it is: so its room is counted as used."""
        there = os.fstat(file.fileno()).st_size
        if size <= there:
            return
        if size > self.limit:
            raise self._too_small(shown(url), size)
        wanted = min(max(size, there + GROWN), self.limit)
        with self._accounts():
            if not self._make_room(wanted - there, ()):
                wanted = size
                if not self._make_room(wanted - there, ()):
                    raise self._too_small(shown(url), size)
            file.truncate(wanted)

    def _publish(self, partial: Path, sha256: str) -> None:
        """Give a complete file its name; its hash was just computed, and is kept."""
        path = self._tar(sha256)
        partial.rename(path)
        _mark_used(path)
        hashes = _hashes(cache_folder("hashes"))
        hashes.note(path, sha256)
        hashes.save()

    def check(self, shards: Collection[RemoteShard]) -> None:
        """Refuse a cache that cannot hold the largest of `shards`."""
        largest = max(shards, key=lambda shard: shard.tar_bytes, default=None)
        if largest is not None and largest.tar_bytes > self.limit:
            raise self._too_small(largest.name, largest.tar_bytes)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"data.shard_cache: {self.folder} cannot be made ({error}); name another folder") from error

    def _too_small(self, name: str, size: int) -> DataError:
        return UnavailableError(
            f"{name}: its {size:,} bytes do not fit into the shard cache {self.folder} of {self.limit:,}; raise "
            "data.shard_cache_gb, or pack smaller shards"
        )

    def _record(self, url: str) -> Path:
        return self.folder / f"url-{hashlib.sha256(url.encode()).hexdigest()[:32]}.json"

    def _tar(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.tar"

    def _partial(self, sha256: str, size: int) -> Path:
        return self.folder / f"{sha256}-{size}.partial"

    def _held(self, sha256: str) -> BinaryIO | None:
        """The complete shard under a shared lock, marked as used now; None where it is not here."""
        try:
            file = self._tar(sha256).open("rb")
        except FileNotFoundError:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        if not os.fstat(file.fileno()).st_nlink:  # removed between the two lines above
            file.close()
            return None
        _mark_used(self._tar(sha256))
        return file

    def _make_room(self, size: int, keep: Collection[str]) -> bool:
        """Unlink what was used least recently and is not locked, until `size` more bytes fit."""
        files = []
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):
                facts, path = entry.stat(), Path(entry.path)
                files.append((_last_used(path, facts), max(facts.st_size, _promised(entry.name)), path))
        used = sum(length for _, length, _ in files)
        for _, length, path in sorted(files):
            if used + size <= self.limit:
                break
            if path.suffix in (".tar", ".partial") and not path.name.startswith(tuple(keep)) and _unlinked(path):
                used -= length
        return used + size <= self.limit

    @contextmanager
    def _accounts(self) -> Iterator[None]:
        """Alone on this machine in counting and unlinking."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _disk_full(self, name: str, size: int, partial: Path) -> Iterator[None]:
        """Turn a full disk into an error that says what would help."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            partial.unlink(missing_ok=True)
            stat = os.statvfs(self.folder)
            raise UnavailableError(
                f"{name}: the disk of {self.folder} is full ({stat.f_bavail * stat.f_frsize:,} bytes free, the shard "
                f"has {size:,}); free some, lower data.shard_cache_gb, or name another disk as data.shard_cache"
            ) from error


def _locked(partial: Path) -> FileIO | None:
    """A partial file under an exclusive lock; None where another process has it, or has just finished it."""
    try:
        file = FileIO(partial, "r+")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.stat(partial).st_ino == os.fstat(file.fileno()).st_ino
    except (BlockingIOError, FileNotFoundError):  # locked by another process, or renamed by it just now
        ours = False
    if ours:
        return file
    file.close()
    return None


def _use(tar: Path) -> Path:
    """The empty file that was last written to when a tar was used: the times of the tar tell whether it changed."""
    return tar.with_suffix(".used")


def _mark_used(tar: Path) -> None:
    _use(tar).touch()


def _last_used(path: Path, facts: os.stat_result) -> int:
    with suppress(FileNotFoundError):
        return max(facts.st_mtime_ns, _use(path).stat().st_mtime_ns)
    return facts.st_mtime_ns


def _unlinked(path: Path) -> bool:
    """Remove a file that nobody has locked, and the index beside it."""
    with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        index_path(path).unlink(missing_ok=True)
        _use(path).unlink(missing_ok=True)
        logger.debug("%s: removed from the shard cache", path)
        return True
    return False


def _promised(name: str) -> int:
    """The bytes that a partial file will have."""
    size = name.removesuffix(".partial").rpartition("-")[2]
    return int(size) if name.endswith(".partial") and size.isdecimal() else 0
