"""The index beside each tar: where every member of every sample lies, so that shards are read in any order.

It is built once with `tarfile`, which knows pax and GNU names, and later opened by memory map. The file, little-endian:

    header   `HEADER`, with the format version, sizes and digests
    columns  their names, which end in newlines and hold none, filled up with newlines to a multiple of eight bytes
    bounds   (samples + 1, 2) uint64: the first byte of each sample's key and its first member, then both ends
    members  (members, 3) uint64: the column's number, the offset in the tar, the size
    keys     the samples' keys in UTF-8, one after the other
"""

import hashlib
import mmap
import os
import re
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unified.core.errors import DataError
from unified.core.file_kinds import START, TAR, file_kind
from unified.core.text_files import shown_text
from unified.core.version import check_format
from unified.data.shards.index_tables import tables_problem

FORMAT, TABLES_ONLY = 2, 1
"""Written, and read too: of format 1 the digest is one of the tables alone."""
MAGIC = b"UNIFIDX\0"
# magic, format, bytes of column names, tar bytes, samples, members, key bytes, SHA-256 of the tar, BLAKE2b of the rest
HEADER = struct.Struct("<8sIIQQQQ32s16s")
FACTS = struct.Struct("<QQQQ32s")
MOST_HEADER = 1 << 16
"""Bytes in which a header lies with the names of its columns, but for tars of very many columns."""
WORD = np.dtype("<u8")
BLOCK = tarfile.BLOCKSIZE
BROKEN = (tarfile.TarError, EOFError, OverflowError, ValueError, TypeError, LookupError, RecursionError)
"""What `tarfile` raises for damaged headers: chains of pax records, sparse maps and sizes that are no numbers too."""
_META = re.compile(r"__[^/]*__($|/)")


@dataclass(frozen=True)
class Header:
    """What an index says of its tar before the tables are read."""

    tar_bytes: int
    samples: int
    members: int
    key_bytes: int
    digest: bytes  # SHA-256 of the tar
    body_digest: bytes
    columns: tuple[str, ...]
    format: int = FORMAT

    @property
    def tables_start(self) -> int:
        """The byte at which the tables begin; a multiple of eight."""
        return HEADER.size + len(_packed_columns(self.columns))

    def sealed(self, body: bytes | memoryview) -> bytes:
        """Return the digest of an index of this header and these tables."""
        digest = hashlib.blake2b(digest_size=16)
        if self.format != TABLES_ONLY:
            digest.update(FACTS.pack(self.tar_bytes, self.samples, self.members, self.key_bytes, self.digest))
            digest.update(_packed_columns(self.columns))
        digest.update(body)
        return digest.digest()

    @property
    def file_bytes(self) -> int:
        """The size that the index file must have."""
        return self.tables_start + 16 * (self.samples + 1) + 24 * self.members + self.key_bytes


@dataclass(frozen=True)
class Index:
    """The samples of one tar."""

    tar_bytes: int
    digest: bytes  # SHA-256 of the tar
    columns: tuple[str, ...]
    bounds: NDArray[np.uint64]  # (samples + 1, 2): first byte of the key, first member
    members: NDArray[np.uint64]  # (members, 3): column, offset in the tar, size
    keys: bytes | memoryview

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def entry(self, sample: int) -> tuple[str, list[list[int]]]:
        """The key of a sample and its members, each as [column, offset, size]."""
        (key_start, start), (key_stop, stop) = self.bounds[sample : sample + 2].tolist()
        return str(self.keys[key_start:key_stop], "utf-8"), self.members[start:stop].tolist()

    @cached_property
    def body(self) -> bytes:
        """The tables as they lie in the file."""
        return self.bounds.tobytes() + self.members.tobytes() + bytes(self.keys)

    @property
    def header(self) -> Header:
        """What the header of its file says."""
        sizes = (len(self), len(self.members), len(self.keys))
        facts = Header(self.tar_bytes, *sizes, self.digest, b"", self.columns)
        return replace(facts, body_digest=facts.sealed(self.body))


@dataclass
class IndexBuilder:
    """Groups the members of a tar into samples as webdataset does: same path up to the first dot of the base name."""

    shard: str
    columns: dict[str, int] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    members: list[tuple[int, int, int]] = field(default_factory=list)
    ignored: int = 0
    _first: dict[str, set[str]] = field(default_factory=dict)
    _current: set[str] = field(default_factory=set)

    def add(self, name: str, offset: int, size: int) -> None:
        """One member; names without an extension, hidden files and `__meta__` entries are no part of a sample."""
        check_name(name, self.shard)
        parts = split_name(name)
        if parts is None:
            self.ignored += 1
            return
        key, column = parts
        if not self.keys or key != self.keys[-1]:
            self._begin(key)
        if column in self._current:
            raise DataError(f"{self.shard}: member {name!r}: sample {key!r} has two columns {column!r}")
        self._current.add(column)
        self.members.append((self.columns.setdefault(column, len(self.columns)), offset, size))

    def _begin(self, key: str) -> None:
        self._check_order()
        self.keys.append(key)
        self.starts.append(len(self.members))
        self._current = set()

    def _check_order(self) -> None:
        """A key may come again with the same columns, but a sample whose columns lie apart would be read in halves."""
        if not self.keys:
            return
        before = self._first.setdefault(self.keys[-1], self._current)
        if before is not self._current and before.isdisjoint(self._current):
            raise DataError(
                f"{self.shard}: the columns {sorted(before)} and {sorted(self._current)} of sample {self.keys[-1]!r} "
                "do not lie together; pack the members sorted by name (tar --sort=name)"
            )

    def finish(self, tar_bytes: int, digest: bytes) -> Index:
        """The index, given the size of the whole tar and its SHA-256."""
        self._check_order()
        encoded = [key.encode() for key in self.keys]
        bounds = np.zeros((len(encoded) + 1, 2), dtype=WORD)
        bounds[1:, 0] = np.cumsum([len(key) for key in encoded], dtype=WORD)
        bounds[:, 1] = [*self.starts, len(self.members)]
        members = np.array(self.members, dtype=WORD).reshape(-1, 3)
        return Index(tar_bytes, digest, tuple(self.columns), bounds, members, b"".join(encoded))


def split_name(name: str) -> tuple[str, str] | None:
    """The key and the column in a member's name, or None where it holds no column: "a/b.seg.png" → "a/b", "seg.png"."""
    folder, slash, base = name.rpartition("/")
    stem, _, column = base.partition(".")
    if not stem or not column or _META.match(name):
        return None
    return f"{folder}{slash}{stem}", column.lower()


def check_name(name: str, shard: str) -> None:
    """Refuse a member whose name an index cannot hold: one that is not UTF-8, or has a line break in its column."""
    where = f"{shard}: member {shown_text(name)}"
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: expected a name in UTF-8, got other bytes. Hint: pack it again under one") from error
    if "\n" in name.rpartition("/")[2].partition(".")[2]:
        raise DataError(f"{where}: expected a name on one line, got a line break in it. Hint: pack it again under one")


def index_path(tar: Path) -> Path:
    """The index that belongs to a tar."""
    return tar.with_name(f"{tar.name}.idx")


def build_index(tar: Path) -> Index:
    """Read every header of `tar`. Raises `DataError` where it is cut off or holds what a shard may not hold."""
    if not tar.is_file():
        raise DataError(f"{tar}: no such shard")
    size = tar.stat().st_size
    _check_kind(tar)
    builder = IndexBuilder(str(tar))
    try:
        with tarfile.open(tar, "r:", encoding="utf-8") as archive:
            for member in _members(archive):
                _check(tar, member, size)
                if member.isreg():
                    builder.add(member.name, member.offset_data, member.size)
            end = archive.offset
    except DataError:
        raise
    except BROKEN as error:
        where = f"after member {builder.keys[-1]!r}" if builder.keys else "at its first member"
        raise DataError(
            f"{tar}: cut off, damaged or no plain tar, {where} ({error}); write or copy it again"
        ) from error
    _check_end(tar, end, size)
    with tar.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return builder.finish(size, digest)


def _check_kind(tar: Path) -> None:
    """Refuse what is compressed, or another file, by name."""
    with tar.open("rb") as file:
        kind = file_kind(file.read(START))
    if kind is not None and kind is not TAR:
        raise DataError(f"{tar}: expected a plain tar, got {kind.name}. Hint: {kind.hint}")


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        yield member
        archive.members.clear()  # type: ignore[attr-defined]  # otherwise tarfile keeps all of them


def _check(tar: Path, member: tarfile.TarInfo, tar_bytes: int) -> None:
    name, where = member.name, f"{tar}: member {member.name!r}"
    if name.startswith("/") or ".." in name.split("/"):
        raise DataError(f"{where} lies outside the shard; absolute paths and '..' are refused")
    if member.isdir():
        return
    if not member.isreg() or member.issparse():
        raise DataError(f"{where} is a link, a device or a sparse file; a shard holds plain files only")
    if not 0 <= member.size <= tar_bytes - member.offset_data:
        raise DataError(
            f"{where} claims {member.size:,} bytes from byte {member.offset_data:,} on, but the tar has {tar_bytes:,}: "
            "it is cut off or damaged; write or copy it again"
        )


def _check_end(tar: Path, end: int, size: int) -> None:
    """tarfile stops without a word at a damaged header; only blocks of zeros may follow the last member."""
    with tar.open("rb") as file:
        file.seek(end)
        marker = file.read(BLOCK)
        rest = iter(lambda: file.read(1 << 20), b"")
        if len(marker) < BLOCK:
            raise DataError(
                f"{tar}: ends at byte {size:,} without the end-of-archive marker: its tail is cut off; "
                "write or copy it again"
            )
        if any(marker) or any(any(block) for block in rest):
            raise DataError(f"{tar}: unreadable data from byte {end:,} on: a damaged header, or tars joined together")


def _packed_columns(columns: tuple[str, ...]) -> bytes:
    names = "\n".join(columns).encode()
    return names + b"\n" * (-len(names) % 8)


def write_index(index: Index, path: Path) -> None:
    """Write the index file: complete or not at all."""
    names = _packed_columns(index.columns)
    facts = index.header
    counts = (facts.tar_bytes, facts.samples, facts.members, facts.key_bytes)
    header = HEADER.pack(MAGIC, FORMAT, len(names), *counts, facts.digest, facts.body_digest)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(header + names + index.body)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_header(path: Path) -> Header:
    """The header of an index file. Raises `DataError` where it is damaged, cut off or of a newer format."""
    again = f"rebuild it with: unified shards index {path.with_suffix('')}"
    with path.open("rb") as file:
        start = file.read(MOST_HEADER)
        start += file.read(max(header_bytes(start) - len(start), 0))
    header = parse_header(start, str(path), again)
    found = path.stat().st_size
    if found != header.file_bytes:
        raise DataError(f"{path}: the index has {found:,} bytes, its header says {header.file_bytes:,}; {again}")
    return header


def header_bytes(start: bytes) -> int:
    """Return the size of an index's header with the names of its columns; 0 where it is none."""
    if len(start) < HEADER.size or not start.startswith(MAGIC):
        return 0
    return HEADER.size + int(HEADER.unpack_from(start)[2])


def parse_header(start: bytes, name: str, again: str) -> Header:
    """Return the header of an index.

    Args:
        start: Its first bytes, `header_bytes` or more.
        name: What begins every error message.
        again: What ends it.

    Raises:
        DataError: The header is damaged, cut off or of another format.
    """
    if len(start) < HEADER.size or not start.startswith(MAGIC):
        raise DataError(f"{name}: not an index of a shard; {again}")
    _, version, names_size, size, samples, members, key_bytes, digest, body_digest = HEADER.unpack_from(start)
    check_format(version, FORMAT, name, hint=again)
    try:
        names = start[HEADER.size : HEADER.size + names_size].decode().rstrip("\n")
        columns = tuple(names.split("\n")) if names else ()
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: damaged index ({error}); {again}") from error
    return Header(size, samples, members, key_bytes, digest, body_digest, columns, version)


def open_index(path: Path) -> Index:
    """Return the index by memory map, of which nothing is read until it is asked for once it was found whole.

    Raises:
        DataError: It is damaged, or not what was written; that is looked at once while its size and times stay.
    """
    header = read_header(path)
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        facts = os.fstat(file.fileno())
    bounds = np.frombuffer(data, WORD, 2 * (header.samples + 1), header.tables_start).reshape(-1, 2)
    members = np.frombuffer(data, WORD, 3 * header.members, header.tables_start + bounds.nbytes).reshape(-1, 3)
    body = memoryview(data)[header.tables_start :]
    keys = body[bounds.nbytes + members.nbytes :]
    stamp = (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    if _whole.get(path) != stamp:
        problem: str | None = "its content is not what was written"
        if header.sealed(body) == header.body_digest:
            problem = tables_problem(bounds, members, keys, len(header.columns), header.tar_bytes)
        if problem:
            again = f"rebuild it with: unified shards index {path.with_suffix('')}"
            raise DataError(f"{path}: damaged index ({problem}); {again}")
        _whole[path] = stamp
    return Index(header.tar_bytes, header.digest, header.columns, bounds, members, keys)


_whole: dict[Path, tuple[int, ...]] = {}  # the indexes that this process, or the one it was forked from, found whole
