"""Checking shards: sizes, hashes and counts against the manifest, every sample decoded, annotations checked."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from unified.core.errors import DataError
from unified.data.samples import annotations
from unified.data.samples.decode import DECODERS, decode_column
from unified.data.shards.index import Index, build_index, index_path, open_index
from unified.data.shards.patterns import MANIFEST, parts, read_manifest, shard_paths, tars_in
from unified.data.shards.shards import LocalShard, Shards
from unified.data.shards.write import progress


@dataclass
class Verification:
    """What a check found."""

    shards: int = 0
    samples: int = 0
    columns: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)  # each names shard, key and column as far as they apply
    digests: dict[Path, str] = field(default_factory=dict)  # SHA-256 of each readable tar
    counts: dict[Path, int] = field(default_factory=dict)  # samples of each readable tar
    frames: Counter[int] = field(default_factory=Counter)  # pictures, by how many frames they have
    not_decoded: set[str] = field(default_factory=set)  # columns that have no decoder


def verify(path: str | Path) -> Verification:
    """Check a folder of shards, a folder of such folders, or the shards of a pattern; nothing is changed."""
    found = Verification()
    for part in parts(path):
        try:
            paths = shard_paths(part)
        except DataError as error:
            found.problems.append(str(error))
            continue
        before = Counter(found.columns)
        listed = (Path(part) / MANIFEST).is_file()
        classes = read_manifest(Path(part)).get("classes") if listed else None
        samples = sum(_verify_shard(shard, found, classes) for shard in paths)
        if listed:
            found.problems += _against_manifest(Path(part), samples, found.columns - before, found)
    return found


def _verify_shard(path: Path, found: Verification, classes: Sequence[str] | None) -> int:
    """Check one tar and its samples; returns how many it has."""
    found.shards += 1
    try:
        index = build_index(path)
        shards = Shards([LocalShard(path, index.header, index)])
    except DataError as error:
        found.problems.append(str(error))
        return 0
    found.digests[path], found.counts[path] = index.digest.hex(), len(index)
    if not len(index):
        found.problems.append(f"{path}: expected samples, got none. Hint: leave it out, or build it anew")
    if index_path(path).is_file():
        found.problems += _index_problems(path, index)
    for number in progress(range(len(shards)), len(shards), f"verifying {path}"):
        found.problems += _sample_problems(shards[number], found, classes)
    found.samples += len(shards)
    return len(shards)


def _index_problems(path: Path, fresh: Index) -> Iterator[str]:
    try:
        stored = open_index(index_path(path))
    except DataError as error:
        yield str(error)
        return
    same = (
        (stored.tar_bytes, stored.columns) == (fresh.tar_bytes, fresh.columns)
        and np.array_equal(stored.bounds, fresh.bounds)
        and np.array_equal(stored.members, fresh.members)
        and bytes(stored.keys) == bytes(fresh.keys)
    )
    if not same:
        yield f"{index_path(path)}: does not fit its tar; rebuild it with: unified shards index {path}"
    elif stored.digest != fresh.digest:
        yield f"{path}: its bytes have changed since it was indexed"


def _sample_problems(raw: dict[str, Any], found: Verification, classes: Sequence[str] | None) -> Iterator[str]:
    decoded = {name: raw[name] for name in raw if name.startswith("__")}
    for name in raw:
        if name.startswith("__"):
            continue
        found.columns[name] += 1
        if name.rpartition(".")[2] not in DECODERS:
            found.not_decoded.add(name)
            continue
        try:
            decoded[name] = value = decode_column(raw, name)
            if isinstance(value, Tensor) and "." not in name:
                found.frames[len(value) if value.dim() == 4 else 1] += 1
        except DataError as error:
            yield str(error)
    yield from annotations.problems(decoded, classes)


def _against_manifest(folder: Path, samples: int, columns: Counter[str], found: Verification) -> Iterator[str]:
    manifest = read_manifest(folder)
    for shard in manifest["shards"]:
        path = folder / shard["path"]
        size, digest = path.stat().st_size, found.digests.get(path, "")
        if not {"bytes", "sha256"} <= shard.keys():
            yield f"{folder / MANIFEST}: of {shard['path']} it lacks bytes or sha256; build the folder anew"
        elif size != shard["bytes"]:
            yield f"{path}: {size:,} bytes, {MANIFEST} says {shard['bytes']:,}"
        elif path in found.counts and shard.get("samples", found.counts[path]) != found.counts[path]:
            yield f"{path}: {found.counts[path]:,} samples, {MANIFEST} says {shard['samples']:,}"
        elif digest and digest != shard["sha256"]:
            yield f"{path}: SHA-256 {digest[:12]}…, {MANIFEST} says {shard['sha256'][:12]}…: its bytes have changed"
    unlisted = {path.name for path in tars_in(folder)} - {shard["path"] for shard in manifest["shards"]}
    for name in sorted(unlisted):
        yield f"{folder / name}: not listed in {MANIFEST}"
    if samples != manifest.get("samples", samples):
        yield f"{folder}: {samples:,} samples can be read, {MANIFEST} says {manifest['samples']:,}"
    for name, count in manifest.get("columns", {}).items():
        if columns[name] != count:
            yield f"{folder}: column {name!r} is in {columns[name]:,} samples, {MANIFEST} says {count:,}"
