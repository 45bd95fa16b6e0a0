"""Reading webdataset tars by memory map: sample i of many shards, in any order, at the cost of a slice."""

import hashlib
import mmap
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, Self

from unified.config.recipe import DataSettings
from unified.core.consent import check_commands
from unified.core.errors import DataError
from unified.core.locations import is_remote, named
from unified.core.log import logger
from unified.data.remote.cache import ShardCache
from unified.data.remote.shards import CachedShard, remote_shards
from unified.data.shards.index import (
    BLOCK,
    Header,
    Index,
    build_index,
    index_path,
    open_index,
    read_header,
    write_index,
)
from unified.data.shards.index_tables import is_header
from unified.data.shards.patterns import MANIFEST, local_shards, read_manifest, several

OPEN_SHARDS = 128  # each open shard holds two file descriptors


class ShardFile(Protocol):
    """One tar: its facts, and its bytes when they are needed."""

    @property
    def name(self) -> str:
        """Path or URL, for messages."""
        ...

    @property
    def samples(self) -> int:
        """How many it holds."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of its samples."""
        ...

    @property
    def digest(self) -> bytes:
        """SHA-256 of the tar."""
        ...

    @property
    def stays_open(self) -> bool:
        """Whether it may stay mapped while nothing of it is read."""
        ...

    def is_here(self) -> bool:
        """Whether it can be opened without waiting."""
        ...

    def open(self) -> tuple[Index, mmap.mmap]:
        """Its index and its bytes."""
        ...


@dataclass(frozen=True)
class LocalShard:
    """A tar of this machine with its index beside it, or `built` where that could not be written."""

    path: Path
    header: Header
    built: Index | None = None
    stays_open = True

    @classmethod
    def find(cls, path: Path) -> Self:
        """The shard at `path`; a tar without an index gets one. Raises `DataError` where the two do not fit."""
        if index_path(path).is_file():
            header = read_header(index_path(path))
            _check_size(path, header.tar_bytes)
            _check_members(path, open_index(index_path(path)))  # compared whole now, and not again while it stays
            return cls(path, header)
        index = _add_index(path)
        return cls(path, index.header, None if index_path(path).is_file() else index)

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    @property
    def samples(self) -> int:
        """How many it holds."""
        return self.header.samples

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of its samples."""
        return self.header.columns

    @property
    def digest(self) -> bytes:
        """SHA-256 of the tar."""
        return self.header.digest

    def is_here(self) -> bool:
        """Always."""
        return True

    def open(self) -> tuple[Index, mmap.mmap]:
        """Its index and its bytes."""
        index = self.built or open_index(index_path(self.path))
        _check_size(self.path, index.tar_bytes)
        with self.path.open("rb") as file:
            return index, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@dataclass(frozen=True)
class _OpenShard:
    name: str
    index: Index
    data: mmap.mmap


class Shards:
    """The samples of a list of tars, numbered through: `shards[i]` is a dict of bytes by column.

    Tars are opened when first read, in each process anew: an instance may be handed to forked and spawned workers.
    """

    def __init__(self, files: Sequence[ShardFile]) -> None:
        self.files = tuple(files)
        self.sizes = tuple(file.samples for file in files)
        self.columns = tuple(sorted({column for file in files for column in file.columns}))
        self.digest = hashlib.sha256(b"".join(file.digest for file in files)).hexdigest()
        self.remote = [file for file in files if isinstance(file, CachedShard)]
        self._stops = list(accumulate(self.sizes))
        self._open: dict[int, _OpenShard] = {}

    @classmethod
    def open(cls, patterns: str | Path | Sequence[str | Path], settings: DataSettings | None = None) -> Self:
        """The shards that `patterns` name: a folder, a tar, a glob, braces such as "s-{000..012}.tar", or URLs.

        A tar without an index gets one. `settings`: how remote shards are fetched and kept. Raises `DataError` where a
        shard is missing, damaged, or not that of its index, `UserError` for a command that may not run.
        """
        cache = ShardCache(settings or DataSettings())
        files: list[ShardFile] = []
        check_commands(several(patterns), "data")
        for pattern in several(patterns):
            if is_remote(pattern):
                files += remote_shards(pattern, cache)
            else:
                files += _local(pattern)
        if not sum(file.samples for file in files):
            raise DataError(f"{named(several(patterns))}: the {len(files)} shards hold no samples")
        return cls(files)

    def __len__(self) -> int:
        return self._stops[-1]

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Sample `number`: its columns as bytes, its key under "__key__", its tar's path or URL under "__shard__"."""
        shard, sample = self.locate(number)
        opened = self._opened(shard)
        key, members = opened.index.entry(sample)
        raw: dict[str, Any] = {"__key__": key, "__shard__": opened.name}
        data, columns = opened.data, opened.index.columns
        for column, offset, size in members:
            raw[columns[column]] = data[offset : offset + size]
        return raw

    def locate(self, number: int) -> tuple[int, int]:
        """The shard of a sample and its place in it."""
        if not 0 <= number < self._stops[-1]:
            raise IndexError(f"sample {number} of {len(self)}")
        shard = bisect_right(self._stops, number)
        return shard, number - (self._stops[shard - 1] if shard else 0)

    def release(self) -> None:
        """Close the remote shards, so that they may leave the cache; they are opened again when they are read."""
        if self.remote:
            self._open = {shard: opened for shard, opened in self._open.items() if self.files[shard].stays_open}

    def _opened(self, shard: int) -> _OpenShard:
        opened = self._open.pop(shard, None)
        if opened is None:
            opened = self._map(shard)
            if len(self._open) >= OPEN_SHARDS:
                self._open.pop(next(iter(self._open)), None)
        self._open[shard] = opened  # last in, last out
        return opened

    def _map(self, shard: int) -> _OpenShard:
        file = self.files[shard]
        if not file.is_here():
            self.release()  # whoever waits for a shard must not keep others from leaving
        return _OpenShard(file.name, *file.open())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


def _local(pattern: str) -> list[LocalShard]:
    """The shards of this machine that a pattern names, if the manifests beside them say the same."""
    found = {path: LocalShard.find(path) for path in local_shards(pattern)}
    if Path(pattern).is_dir() and (Path(pattern) / MANIFEST).is_file():
        _check_manifest(Path(pattern), found)
    else:
        for folder in {path.parent for path in found if (path.parent / MANIFEST).is_file()}:
            if _is_ours(folder):
                _check_manifest(folder, found)
    return list(found.values())


def _is_ours(folder: Path) -> bool:
    """Whether the manifest beside a tar that was named itself can be read; other tools have files of this name."""
    try:
        read_manifest(folder)
    except DataError as error:
        logger.info("%s; not compared with its shards", error)
        return False
    return True


def _check_manifest(folder: Path, found: Mapping[Path, LocalShard]) -> None:
    """Compare sizes and numbers of samples with those that a manifest lists; it may list none of these shards."""
    manifest = read_manifest(folder)
    again = f"Hint: copy the folder again, or build it anew; without its {MANIFEST} the shards are taken as they are"
    listed = [(found[folder / shard["path"]], shard) for shard in manifest["shards"] if folder / shard["path"] in found]
    for shard, said in listed:
        for name, there in (("bytes", shard.header.tar_bytes), ("samples", shard.samples)):
            if said.get(name, there) != there:
                raise DataError(
                    f"{shard.path}: expected {said[name]:,} {name}, as its {MANIFEST} says, got {there:,}. {again}"
                )
    total = sum(shard.samples for shard, _ in listed)
    if len(listed) == len(manifest["shards"]) and manifest.get("samples", total) != total:
        raise DataError(
            f"{folder}: expected {manifest['samples']:,} samples, as its {MANIFEST} says, got {total:,}. {again}"
        )


def _check_size(path: Path, expected: int) -> None:
    found = path.stat().st_size
    if found != expected:
        raise DataError(
            f"{path}: the tar has {found:,} bytes, its index was made for {expected:,}. If the tar is the right one, "
            f"rebuild the index with: unified shards index {path}"
        )


def _check_members(path: Path, index: Index) -> None:
    """Look at the first, the middle and the last sample in the tar: an index of another tar may have its very size."""
    with path.open("rb") as file:
        for sample in sorted({0, len(index) // 2, len(index) - 1}) if len(index) else ():
            key, members = index.entry(sample)
            column, offset, size = members[0]
            file.seek(max(offset - BLOCK, 0))
            if not is_header(file.read(BLOCK), f"{key}.{index.columns[column]}", size):
                raise DataError(
                    f"{path}: expected {key!r} at byte {offset:,}, as its index says, got another member. Hint: "
                    f"rebuild the index with: unified shards index {path}"
                )


def _add_index(path: Path) -> Index:
    """Build the index of a tar and write it beside it, or keep it in memory where the folder is read-only."""
    index = build_index(path)
    try:
        write_index(index, index_path(path))
        logger.info("%s: indexed %s samples", path, f"{len(index):,}")
    except OSError as error:
        logger.info("%s: indexed %s samples, in memory only (%s)", path, f"{len(index):,}", error)
    return index
