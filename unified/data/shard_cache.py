"""Remote shards on the local disk, in a folder that all processes of a machine share and that is bounded in bytes.

A complete shard lies there under its SHA-256, with its index beside it:

    SHA256.tar            last used at its time of modification; whoever has it mapped holds a shared lock on it
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
import json
import mmap
import os
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from io import FileIO
from pathlib import Path
from time import monotonic, sleep
from typing import Any, BinaryIO

from unified.core.atomic_files import replace_file
from unified.core.locations import PIPE, shown
from unified.data.download import Download, Patience, read_bytes
from unified.data.index import (
    Index,
    build_index,
    index_path,
    open_index,
    read_header,
    write_index,
)
from unified.data.transfer import UnavailableError
from unified.log import logger
from unified.paths import cache_folder
from unified.recipe import DataSettings
from unified.types import DataError

FORMAT = 1
POLL = 0.05
"""Seconds between looks at what another process is doing."""
ROOM_PATIENCE = 120.0
"""Seconds after which a process no longer waits for room."""


@dataclass(frozen=True)
class RemoteShard:
    """What is known of a shard before its bytes are here."""

    url: str
    samples: int
    tar_bytes: int
    sha256: str
    columns: tuple[str, ...]

    @property
    def name(self) -> str:
        """The URL for messages."""
        return shown(self.url)


def index_url(url: str) -> str | None:
    """Where the index of a shard would lie; the output of a command has none."""
    if url.startswith(PIPE):
        return None
    address, mark, query = url.partition("?")
    return f"{address}.idx{mark}{query}"


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
        """The shard and its index by memory map; fetches it where it is not here. The map holds a shared lock."""
        file = self._held(shard.sha256) or self.fetch(shard)
        assert file is not None
        with file:
            try:
                index = open_index(index_path(self._tar(shard.sha256)))
            except (OSError, DataError):
                index = build_index(self._tar(shard.sha256))
                write_index(index, index_path(self._tar(shard.sha256)))
            return index, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # which keeps the locked file open

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
            partial.rename(self._tar(shard.sha256))
            os.utime(file.fileno())
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
                    temporary.write_bytes(read_bytes(url, self.patience))
                    if read_header(temporary).digest.hex() == shard.sha256 and _body_is_whole(temporary):
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
                return _remembered(record, url)
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
        sha256 = Download(url, file).run(self.patience)
        index = build_index(partial)
        shard = RemoteShard(url, len(index), index.tar_bytes, sha256, index.columns)
        with self._accounts():
            if not self._make_room(0, ()):
                partial.unlink()
                raise self._too_small(shown(url), index.tar_bytes)
            write_index(index, index_path(self._tar(sha256)))
            os.fsync(file.fileno())
            # Before the rename, which lets the next process lock a new part and ask for the record.
            self._remember(shard)
            partial.rename(self._tar(sha256))
        return shard

    def _remember(self, shard: RemoteShard) -> None:
        record = self._record(shard.url)
        replace_file(record, json.dumps({"format": FORMAT, **asdict(replace(shard, url=""))}))

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
        os.utime(file.fileno())
        return file

    def _make_room(self, size: int, keep: Collection[str]) -> bool:
        """Unlink what was used least recently and is not locked, until `size` more bytes fit."""
        files = []
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):
                facts = entry.stat()
                files.append((facts.st_mtime_ns, max(facts.st_size, _promised(entry.name)), Path(entry.path)))
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


def _unlinked(path: Path) -> bool:
    """Remove a file that nobody has locked, and the index beside it."""
    with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        index_path(path).unlink(missing_ok=True)
        logger.debug("%s: removed from the shard cache", path)
        return True
    return False


def _promised(name: str) -> int:
    """The bytes that a partial file will have."""
    size = name.removesuffix(".partial").rpartition("-")[2]
    return int(size) if name.endswith(".partial") and size.isdecimal() else 0


def _body_is_whole(path: Path) -> bool:
    index = open_index(path)
    return index.header.body_digest == read_header(path).body_digest


def _remembered(record: Path, url: str) -> RemoteShard:
    content: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    version = content.pop("format")
    if version != FORMAT:
        raise DataError(f"{record}: format {version}, this version of unified reads {FORMAT}; delete it")
    return RemoteShard(**{**content, "url": url, "columns": tuple(content["columns"])})
