"""The manifest of a checkpoint: which files it has, and whether they are as they were written."""

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from unified.checkpoint.place import MANIFEST, Place
from unified.core.errors import CheckpointError
from unified.core.json_files import MOST_BYTES, parse_json
from unified.core.version import __version__, check_format

FORMAT = 2
"""The first had other names of weights, see `names.py`."""
HASHED_BELOW = 10**9  # bytes: hashing this much costs about a second, and resuming reads the files anyway


class NewerFormatError(CheckpointError):
    """A checkpoint was written by a later version of this package."""


def complete(step: int, files: Mapping[str, Any], tied: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a manifest. `files`: size and hash by name; of tensors also their group and names. `tied`: for
    each group the names that stand for an earlier tensor."""
    manifest = {
        "format": FORMAT,
        "written_by": f"unified {__version__}",
        "step": step,
        "files": dict(files),
        "tied": dict(tied),
    }
    return {**manifest, "blake2b": _digest(manifest)}


def read_manifest(place: Place) -> dict[str, Any]:
    """The manifest of a checkpoint, itself checked; `CheckpointError` when it is missing, damaged or too new."""
    if place.size(MANIFEST) is None:
        if not place.names():
            raise CheckpointError("there is no such folder")
        raise CheckpointError(f"{MANIFEST} is missing; expected the list of files that is written last")
    try:
        manifest = parsed(_limited(place, MANIFEST))
    except ValueError as error:
        raise CheckpointError(f"{MANIFEST} is not valid JSON: {error}") from error
    number = manifest.get("format")
    if isinstance(number, int):
        check_format(number, FORMAT, f"{place}/{MANIFEST}", NewerFormatError)
    digest = manifest.pop("blake2b", None)
    if digest != _digest(manifest):
        raise CheckpointError(
            f"{MANIFEST} has changed since it was written: its blake2b is {_digest(manifest)}; expected {digest}"
        )
    if not _fits(manifest):
        raise CheckpointError(f"{MANIFEST}: expected the files of a checkpoint with their sizes, got other content")
    return manifest


def _limited(place: Place, file: str) -> bytearray:
    size = place.size(file)
    if size is not None and size > MOST_BYTES:
        raise CheckpointError(f"{file}: expected at most {MOST_BYTES:,} bytes, got {size:,}")
    return place.read(file)


def _fits(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest has the types that its readers count on, and names no file outside of its folder."""
    files, tied = manifest.get("files"), manifest.get("tied")
    if type(manifest.get("step")) is not int or not isinstance(files, dict) or not isinstance(tied, dict):
        return False
    groups = {group for group, names in tied.items() if _texts(names, dict) and _texts([*names.values()], list)}
    return groups == tied.keys() and all(
        "/" not in name
        and isinstance(entry, dict)
        and type(entry.get("bytes")) is int
        and isinstance(entry.get("blake2b"), str)
        and ("group" not in entry or (entry["group"] in groups and _texts(entry.get("tensors"), list)))
        for name, entry in files.items()
    )


def _texts(value: Any, kind: type[Any]) -> bool:
    return isinstance(value, kind) and all(isinstance(item, str) for item in value)


def problem(place: Place, *, hashes: bool | None = None) -> str | None:
    """What is wrong with a checkpoint, in words for people; None for a complete one. `hashes` as in `verify`."""
    try:
        files = read_manifest(place)["files"]
    except NewerFormatError:
        raise
    except CheckpointError as error:
        return str(error)
    for name, entry in files.items():
        size = place.size(name)
        if size is None:
            return f"{name} is missing; expected a file of {entry['bytes']} bytes"
        if size != entry["bytes"]:
            return f"{name} has {size} bytes; expected {entry['bytes']}"
    if hashes is None:
        hashes = sum(entry["bytes"] for entry in files.values()) < HASHED_BELOW
    for name, entry in files.items() if hashes else ():
        found = place.hash(name)
        if found != entry["blake2b"]:
            return f"{name} has changed since it was written: its blake2b is {found}; expected {entry['blake2b']}"
    return None


def listed(folder: Place) -> list[Place]:
    """Everything in a folder that is named like a checkpoint, by step."""
    return sorted((folder.child(name) for name in folder.checkpoints()), key=step_of)


def step_of(place: Place) -> int:
    """The step that a checkpoint is named after."""
    return int(place.name.removeprefix("step_"))


def newest_complete(folder: Place, *, before: int | None = None) -> Place | None:
    """The newest complete checkpoint, or the newest of those before a step."""
    older = [place for place in listed(folder) if before is None or step_of(place) < before]
    return next((place for place in reversed(older) if problem(place) is None), None)


def parsed(content: bytes | bytearray) -> dict[str, Any]:
    """Keys and values of a JSON file; `DataError` where it holds something else."""
    return dict(parse_json(bytes(content), "its content"))


def _digest(manifest: Mapping[str, Any]) -> str:
    return blake2b(json.dumps(manifest, sort_keys=True).encode(), digest_size=32).hexdigest()
