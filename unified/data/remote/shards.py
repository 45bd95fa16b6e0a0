"""Shards that are named by URL: what is known of them at the start, and how they are opened when they are needed."""

import mmap
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from unified.core.errors import DataError
from unified.core.locations import PIPE, shown
from unified.core.log import logger
from unified.core.text_files import shown_text
from unified.data.remote.cache import ShardCache
from unified.data.remote.download import read_bytes
from unified.data.remote.shard import RemoteShard, index_url
from unified.data.remote.transfer import RefusedError
from unified.data.shards.braces import expand_braces
from unified.data.shards.index import BLOCK, MOST_HEADER, Index, header_bytes, parse_header
from unified.data.shards.patterns import MANIFEST, MOST_MANIFEST, parse_manifest

ASKED_AT_ONCE = 16
FETCHED_AT_ONCE = 4
MOST_COLUMNS = 1 << 22
"""Bytes of an index before its tables, with the names of columns."""


@dataclass(frozen=True)
class CachedShard:
    """A remote shard as one of `Shards`: fetched into the cache where it is not there."""

    shard: RemoteShard
    cache: ShardCache
    stays_open = False  # a mapped shard cannot leave the cache

    @property
    def name(self) -> str:
        """The URL for messages."""
        return self.shard.name

    @property
    def samples(self) -> int:
        """How many it holds."""
        return self.shard.samples

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of all its samples, or of its data set."""
        return self.shard.columns

    @property
    def digest(self) -> bytes:
        """SHA-256 of the tar."""
        return bytes.fromhex(self.shard.sha256)

    def is_here(self) -> bool:
        """Whether the cache has it."""
        return self.cache.has(self.shard)

    def open(self) -> tuple[Index, mmap.mmap]:
        """Its index and its bytes."""
        return self.cache.open(self.shard)


def remote_shards(pattern: str, cache: ShardCache) -> list[CachedShard]:
    """The shards that a URL names: a folder's manifest (the folder with a slash at its end), a tar, or braces of tars.

    The manifest tells all of them at once. Without it the head of each index beside its tar is read; a tar without an
    index is fetched now. Raises `DataError` where one cannot be had.
    """
    address = pattern.partition("?")[0]
    if not pattern.startswith(PIPE) and (address.endswith(("/", f"/{MANIFEST}"))):
        shards = _of_manifest(pattern, cache)
    elif not pattern.startswith(PIPE) and re.search(r"[*\[]", address):
        raise DataError(
            f"{shown(pattern)}: what matches cannot be listed over the network; name shards with braces such as "
            f"{{000..012}}.tar, or a folder that has a {MANIFEST} as FOLDER/"
        )
    else:
        shards = _of_tars(expand_braces(pattern), cache)
    cache.check(shards)
    return [CachedShard(shard, cache) for shard in shards]


def _of_manifest(pattern: str, cache: ShardCache) -> list[RemoteShard]:
    address, mark, query = pattern.partition("?")
    folder = address.removesuffix(MANIFEST)
    url = f"{folder}{MANIFEST}{mark}{query}"
    try:
        content = read_bytes(url, cache.patience, MOST_MANIFEST + 1)
    except RefusedError as error:
        raise RefusedError(
            f"{error}. Without a {MANIFEST} name the shards with braces such as {{000..012}}.tar"
        ) from error
    if len(content) > MOST_MANIFEST:
        raise DataError(f"{shown(url)}: expected a manifest of at most {MOST_MANIFEST:,} bytes, got more")
    manifest = parse_manifest(content, shown(url))
    web = address.lower().startswith(("http://", "https://"))
    columns = manifest.get("columns")
    if not isinstance(columns, dict):
        raise DataError(f"{shown(url)}: expected its columns, got none. Hint: build the manifest anew")
    return [
        _listed(
            shard, f"{folder}{quote(shard['path']) if web else shard['path']}{mark}{query}", tuple(columns), shown(url)
        )
        for shard in manifest["shards"]
    ]


def _listed(
    shard: Mapping[str, Any], url: str, columns: tuple[str, ...], where: str, what: str = "manifest"
) -> RemoteShard:
    """A shard as a manifest or an index tells it, if that can be."""
    samples, size, sha256 = (shard.get(name) for name in ("samples", "bytes", "sha256"))
    again = f"{where}: shard {shown_text(shown(str(shard['path'])))}"
    hint = f"Hint: build the {what} anew"
    if type(size) is not int or not 0 < size < 2**63:
        raise DataError(f"{again}: expected its size in bytes, got {shown_text(str(size))}. {hint}")
    if type(samples) is not int or not 0 < samples <= size // BLOCK:
        raise DataError(
            f"{again}: expected a number of samples from 1 to {size // BLOCK:,}, as {size:,} bytes hold, got "
            f"{shown_text(str(samples))}. {hint}"
        )
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise DataError(f"{again}: expected a SHA-256 of 64 hex digits, got {shown_text(str(sha256))}. {hint}")
    return RemoteShard(url, samples, size, sha256, columns)


def _of_tars(urls: Sequence[str], cache: ShardCache) -> list[RemoteShard]:
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        found = list(pool.map(lambda url: _by_index(url, cache), urls))
    unknown = [url for url, shard in zip(urls, found, strict=True) if shard is None]
    new = [url for url in unknown if not cache.knows(url)]
    if new:
        cache.check(())
        logger.info(
            "%s: %d of %d shards have no index beside them: they are fetched now, to be read through. Indexes (unified "
            "shards index) or a manifest spare this",
            *(shown(new[0]), len(new), len(urls)),
        )
    with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
        learned = dict(zip(unknown, pool.map(cache.learn, unknown), strict=True))
    return [shard or learned[url] for url, shard in zip(urls, found, strict=True)]


def _by_index(url: str, cache: ShardCache) -> RemoteShard | None:
    address = index_url(url)
    if address is None:
        return None
    try:
        start = read_bytes(address, cache.patience, MOST_HEADER)
        if header_bytes(start) > MOST_COLUMNS:
            raise DataError(
                f"{shown(address)}: expected at most {MOST_COLUMNS:,} bytes of columns, got {header_bytes(start):,}. "
                "Hint: build the index anew"
            )
        if header_bytes(start) > len(start):
            start = read_bytes(address, cache.patience, header_bytes(start))
    except RefusedError:
        return None
    header = parse_header(start, shown(address), "build it anew with unified shards index, beside its tar")
    said = {"path": url, "samples": header.samples, "bytes": header.tar_bytes, "sha256": header.digest.hex()}
    return _listed(said, url, header.columns, shown(address), "index")
