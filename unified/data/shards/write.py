"""Writing shards: tars with their indexes and a manifest, in a folder that is complete or absent."""

import glob
import hashlib
import json
import os
import shutil
import tarfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from webdataset import TarWriter

from unified.core.atomic_files import naming
from unified.core.errors import DataError, quoted
from unified.core.log import logger
from unified.data.dataset_card import describe_for_others
from unified.data.shards.index import IndexBuilder, index_path, split_name, write_index
from unified.data.shards.patterns import FORMAT, MANIFEST

SAMPLES_PER_SHARD = 10_000
PROGRESS_SECONDS = 5.0

T = TypeVar("T")


class ShardWriter:
    """Writes samples into `folder` as shards "SERIES-00000.tar" with their indexes and a manifest.

    The bytes depend on the samples alone: members carry no time and no owner. Use it in a `with` statement: the
    manifest is written at the end of a block that raised nothing.
    """

    def __init__(self, folder: Path, *, kind: str, source: str, samples_per_shard: int = SAMPLES_PER_SHARD) -> None:
        if samples_per_shard < 1:
            raise DataError(f"samples per shard: expected at least 1, found {samples_per_shard}")
        self.folder = folder
        source = source.encode(errors="backslashreplace").decode()  # of a folder whose name is not UTF-8
        self.manifest: dict[str, Any] = {"format": FORMAT, "kind": kind, "source": source}  # further keys may be added
        self._limit = samples_per_shard
        self._open: dict[str, _Tar] = {}
        self._shards: dict[str, list[dict[str, Any]]] = {}
        self._columns: Counter[str] = Counter()
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, key: str, columns: Mapping[str, Any], series: str = "shard") -> None:
        """One sample: bytes as they are, text and numbers as UTF-8, anything else as JSON."""
        tar = self._open.get(series)
        if tar is None or tar.samples == self._limit:
            tar = self._next(series)
        tar.add(key, {column: _encoded(value, f"{tar.path}: {key}: {column}") for column, value in columns.items()})
        self._columns.update(columns.keys())

    def _next(self, series: str) -> "_Tar":
        done = self._shards.setdefault(series, [])
        if series in self._open:
            done.append(self._open[series].close())
        self._open[series] = _Tar(self.folder / f"{series}-{len(done):05d}.tar")
        return self._open[series]

    def close(self) -> dict[str, Any]:
        """Finish the shards and write the manifest, which is returned."""
        for series, tar in self._open.items():
            self._shards[series].append(tar.close())
        self._open = {}
        shards = [shard for series in sorted(self._shards) for shard in self._shards[series]]
        self.manifest["samples"] = sum(shard["samples"] for shard in shards)
        self.manifest["columns"] = dict(sorted(self._columns.items()))
        self.manifest["shards"] = shards
        write_json(self.folder / MANIFEST, self.manifest)
        return self.manifest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            for tar in self._open.values():
                tar.abandon()


class _Tar:
    """One shard in the making, and its index."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples = 0
        self.file = path.open("wb")
        self.tar = TarWriter(self.file, user="", group="", mode=0o644, mtime=0, encoder=False, keep_meta=True)
        self.index = IndexBuilder(str(path))

    def add(self, key: str, columns: Mapping[str, bytes]) -> None:
        for column, value in columns.items():
            if column == "__key__" or split_name(f"{key}.{column}") != (key, column):
                raise DataError(
                    f"{self.path}: {key!r} and {column!r} do not make a member's name; leave out dots in keys"
                )
            self.tar.write({"__key__": key, column: value})  # each by itself, as the writer sorts columns
            self.tar.tarstream.members.clear()  # otherwise tarfile keeps all of them
            padded = -(-len(value) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            self.index.add(f"{key}.{column}", self.tar.tarstream.offset - padded, len(value))
        self.samples += 1
        if len(self.index.keys) != self.samples:
            raise DataError(f"{self.path}: sample {key!r} has no columns, or comes twice")

    def abandon(self) -> None:
        """Let go of a tar that will not be finished; its stream would write the rest when it is collected."""
        self.tar.tarstream.fileobj.closed = True
        self.file.close()

    def close(self) -> dict[str, Any]:
        self.tar.close()
        self.file.close()
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        write_index(self.index.finish(size, digest.digest()), index_path(self.path))
        return {"path": self.path.name, "samples": self.samples, "bytes": size, "sha256": digest.hexdigest()}


def encode(value: Any) -> bytes:
    """A column's value as the bytes of a tar member."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str | int):
        return str(value).encode()
    return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False).encode()


def _encoded(value: Any, where: str) -> bytes:
    try:
        return encode(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f"{where}: expected bytes, text, an integer or values of JSON, got {quoted(value)} ({error})"
        ) from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON file, indented and ending in a newline."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


@contextmanager
def complete_folder(out: Path) -> Iterator[Path]:
    """A new folder to write into, which becomes `out` when the block ends without an error and is removed otherwise.

    Shards in it get what other tools read beside them (`dataset_card.py`).
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: exists already; name another folder, or remove it first")
    for old in out.parent.glob(f".{glob.escape(out.name)}.*.partial"):
        logger.info("%s: left over from an interrupted build; it may be deleted", old)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with naming(out):
            temporary.mkdir(parents=True)
            yield temporary
            describe_for_others(temporary, out.name)
            temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The same items; long work logs how far it is and how long it will take."""
    start = last = time.monotonic()
    for number, item in enumerate(items):
        yield item
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS:
            last, share = now, (number + 1) / total
            left = (now - start) * (1 / share - 1)
            logger.info("%s: %s of %s, %d %%, %.0f s left", what, f"{number + 1:,}", f"{total:,}", 100 * share, left)
