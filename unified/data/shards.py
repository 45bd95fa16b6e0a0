"""Reading webdataset tars by memory map: sample i of many shards, in any order, at the cost of a slice."""

import hashlib
import json
import mmap
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from unified.data.index import Header, Index, build_index, index_path, open_index, read_header, write_index
from unified.log import logger
from unified.types import DataError

OPEN_SHARDS = 128  # each open shard holds two file descriptors
MANIFEST = "manifest.json"
FORMAT = 1
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class _OpenShard:
    name: str
    index: Index
    data: mmap.mmap


class Shards:
    """The samples of a list of tars, numbered through: `shards[i]` is a dict of bytes by column.

    Tars are opened when first read, in each process anew: an instance may be handed to forked and spawned workers.
    """

    def __init__(self, paths: Sequence[Path], headers: Sequence[Header], built: dict[int, Index]) -> None:
        self.paths = tuple(paths)
        self.sizes = tuple(header.samples for header in headers)
        self.columns = tuple(sorted({column for header in headers for column in header.columns}))
        self.digest = hashlib.sha256(b"".join(header.digest for header in headers)).hexdigest()
        self._stops = list(accumulate(self.sizes))
        self._built = built  # indexes that could not be written beside their tars
        self._open: dict[int, _OpenShard] = {}

    @classmethod
    def open(cls, patterns: str | Path | Sequence[str | Path]) -> Self:
        """The shards that `patterns` name: a folder, a tar, a glob, or braces such as "s-{000..012}.tar".

        A tar without an index gets one. Raises `DataError` where a shard is missing, damaged, or not that of its index.
        """
        paths = shard_paths(patterns)
        headers, built = [], {}
        for number, path in enumerate(paths):
            if not index_path(path).is_file():
                built[number] = _add_index(path)
            headers.append(built[number].header if number in built else _checked_header(path))
            if number in built and index_path(path).is_file():
                del built[number]
        if not sum(header.samples for header in headers):
            raise DataError(f"{patterns}: the {len(paths)} shards hold no samples")
        return cls(paths, headers, built)

    def __len__(self) -> int:
        return self._stops[-1]

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Sample `number`: its columns as bytes, its key under "__key__", the path of its tar under "__shard__"."""
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

    def _opened(self, shard: int) -> _OpenShard:
        opened = self._open.pop(shard, None)
        if opened is None:
            opened = self._map(shard)
            if len(self._open) >= OPEN_SHARDS:
                self._open.pop(next(iter(self._open)), None)
        self._open[shard] = opened  # last in, last out
        return opened

    def _map(self, shard: int) -> _OpenShard:
        path = self.paths[shard]
        index = self._built.get(shard) or open_index(index_path(path))
        _check_size(path, index.tar_bytes)
        with path.open("rb") as file:
            return _OpenShard(str(path), index, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


def _checked_header(path: Path) -> Header:
    header = read_header(index_path(path))
    _check_size(path, header.tar_bytes)
    return header


def _check_size(path: Path, expected: int) -> None:
    found = path.stat().st_size
    if found != expected:
        raise DataError(
            f"{path}: the tar has {found:,} bytes, its index was made for {expected:,}. If the tar is the right one, "
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


def shard_paths(patterns: str | Path | Sequence[str | Path]) -> list[Path]:
    """The tars that `patterns` name, in order; every pattern must name at least one that exists."""
    several = [patterns] if isinstance(patterns, str | Path) else list(patterns)
    if not several:
        raise DataError("no shard pattern given; expected a folder, a tar, a glob or braces")
    return [path for pattern in several for path in _expand(str(pattern))]


def _expand(pattern: str) -> list[Path]:
    if Path(pattern).is_dir():
        return _folder(Path(pattern))
    found: list[Path] = []
    for name in expand_braces(pattern):
        matches = sorted(_glob(name), key=natural) if re.search(r"[*?\[]", name) else [Path(name)]
        if not matches or not matches[0].is_file():
            raise DataError(
                f"{pattern}: no shard {name}; expected a folder, a tar, a glob, or braces such as {{000..012}}.tar"
            )
        found += matches
    return found


def _glob(pattern: str) -> list[Path]:
    path = Path(pattern)
    return list(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def _folder(folder: Path) -> list[Path]:
    """The tars that a folder's manifest lists, or all that lie in it, by number."""
    if (folder / MANIFEST).is_file():
        found = [folder / shard["path"] for shard in read_manifest(folder)["shards"]]
        for path in found:
            if not path.is_file():
                raise DataError(f"{path}: listed in {MANIFEST} but missing; copy it again or rebuild the folder")
        return found
    found = sorted(folder.glob("*.tar"), key=natural)
    if not found:
        inner = sorted(path.name for path in folder.iterdir() if path.is_dir() and any(path.glob("*.tar")))
        hint = f"name one of its parts: {', '.join(inner)}" if inner else "expected *.tar files"
        raise DataError(f"{folder}: no shards in this folder; {hint}")
    return found


def parts(path: str | Path) -> list[str | Path]:
    """The folders of shards that lie in a folder of splits, or `path` alone where it is no such folder."""
    folder = Path(path)
    if not folder.is_dir() or (folder / MANIFEST).is_file() or any(folder.glob("*.tar")):
        return [path]
    return sorted(inner for inner in folder.iterdir() if inner.is_dir() and any(inner.glob("*.tar"))) or [path]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of shards. Raises `DataError` where it is damaged or of a newer format."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, shards = manifest["format"], [Path(shard["path"]) for shard in manifest["shards"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a manifest of shards ({type(error).__name__}: {error})") from error
    if version != FORMAT:
        raise DataError(f"{path}: manifest format {version}, this version of unified reads {FORMAT}; update unified")
    if any(shard.is_absolute() or ".." in shard.parts for shard in shards):
        raise DataError(f"{path}: lists shards outside its folder")
    return dict(manifest)


def natural(path: Path) -> list[tuple[int, int, str]]:
    """A sort key under which 2.tar comes before 10.tar."""
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(part), part) if part.isdecimal() else (0, 0, part) for part in parts]


def expand_braces(pattern: str) -> list[str]:
    """All names of a brace pattern: "{00..02}" counts with the width of its first number, "{a,b}" lists."""
    found = _BRACES.search(pattern)
    if not found:
        return [pattern]
    bounds = _RANGE.fullmatch(found[1])
    if bounds:
        width = len(bounds[1])
        choices = [f"{number:0{width}d}" for number in range(int(bounds[1]), int(bounds[2]) + 1)]
    else:
        choices = found[1].split(",")
    return [
        name for choice in choices for name in expand_braces(pattern[: found.start()] + choice + pattern[found.end() :])
    ]
