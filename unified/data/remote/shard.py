"""A shard that is named by URL: what is known of it before its bytes are here, and the file that remembers it."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from unified.core.atomic_files import replace_file
from unified.core.errors import DataError
from unified.core.json_files import read_json
from unified.core.locations import PIPE, shown
from unified.core.log import logger
from unified.data.shards.index import MOST_HEADER, parse_header

FORMAT = 1


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


def write_record(record: Path, shard: RemoteShard) -> None:
    """Remember what was learned of a shard, without its URL.

    Args:
        record: The file.
        shard: What was learned.
    """
    replace_file(record, json.dumps({"format": FORMAT, **asdict(replace(shard, url=""))}))


def read_record(record: Path, url: str) -> RemoteShard | None:
    """Return what was learned of a shard, or None where that is damaged, or of another format.

    Args:
        record: The file.
        url: The shard, as no file holds it: it may have secrets.
    """
    try:
        content = read_json(record)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        columns = content["columns"]
        samples, size, sha256 = content["samples"], content["tar_bytes"], bytes.fromhex(content["sha256"])
        if type(samples) is not int or type(size) is not int or len(sha256) != 32 or not isinstance(columns, list):
            raise ValueError("other values than expected")
        return RemoteShard(url, samples, size, sha256.hex(), tuple(map(str, columns)))
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s: not used (%s); the shard is read through again", record, error)
        return None


def index_size(shard: RemoteShard, start: bytes) -> int:
    """The size of the index that begins so; `DataError` where it is not one that this very shard may have."""
    header = parse_header(start, shard.name, "")
    same = (header.samples, header.tar_bytes, header.digest.hex()) == (shard.samples, shard.tar_bytes, shard.sha256)
    if not same or header.file_bytes > shard.tar_bytes // 4 + MOST_HEADER:
        raise DataError(f"{shard.name}: the index beside it is another's")
    return header.file_bytes
