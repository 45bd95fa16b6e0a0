"""Shards as a record of training data tells them, and back: which of those in a record are at hand."""

from collections.abc import Sequence
from pathlib import Path

from unified.core.errors import DataError
from unified.core.log import logger
from unified.core.training_record import TrainedShard
from unified.data.remote.cache import default_folder
from unified.data.shards.contents import Content
from unified.data.shards.patterns import MANIFEST, read_manifest
from unified.data.shards.shards import LocalShard, ShardFile


def describe_shards(files: Sequence[ShardFile], contents: Sequence[Content]) -> tuple[TrainedShard, ...]:
    """Return what a record keeps of shards.

    Args:
        files: The shards.
        contents: The content of each.
    """
    described = zip(files, contents, datasets_of(files), strict=True)
    return tuple(TrainedShard(content.sha256, file.samples, file.name, dataset) for file, content, dataset in described)


def datasets_of(files: Sequence[ShardFile]) -> list[str]:
    """Return kind and source in the manifest beside each local shard, which all parts of a dataset share, or ""."""
    folders = [file.path.parent if isinstance(file, LocalShard) else None for file in files]
    found = {folder: _dataset(folder) for folder in set(folders)}
    return [found[folder] for folder in folders]


def _dataset(folder: Path | None) -> str:
    if folder is None or not (folder / MANIFEST).is_file():
        return ""
    manifest = read_manifest(folder)
    return f"{manifest.get('kind', '')} {manifest.get('source', '')}".strip()


def shard_at_hand(shard: TrainedShard) -> LocalShard | None:
    """Return a shard of a record, from where it was read or from the cache of remote shards, or None.

    A file of that name with another hash is another shard.
    """
    for path in (Path(shard.location), default_folder() / f"{shard.sha256}.tar"):
        try:
            if path.suffix == ".tar" and path.is_file():
                found = LocalShard.find(path)
                if found.digest.hex() == shard.sha256:
                    return found
        except (DataError, OSError) as error:
            logger.info("%s is not compared with evaluated data: %s", path, error)
    return None
