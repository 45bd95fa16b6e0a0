"""The manifest of a checkpoint: which files it has, and whether they are as they were written."""

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from unified import __version__
from unified.checkpoint.place import MANIFEST, CheckpointError, Place

FORMAT = 1
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
        manifest = parsed(place.read(MANIFEST))
    except ValueError as error:
        raise CheckpointError(f"{MANIFEST} is not valid JSON: {error}") from error
    number = manifest.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise NewerFormatError(
            f"{place}/{MANIFEST}: format {number}, written by {manifest.get('written_by')}; this version of "
            f"unified ({__version__}) reads formats up to {FORMAT}. Install the version that wrote it"
        )
    digest = manifest.pop("blake2b", None)
    if digest != _digest(manifest):
        raise CheckpointError(
            f"{MANIFEST} has changed since it was written: its blake2b is {_digest(manifest)}; expected {digest}"
        )
    return manifest


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
    """Keys and values of a JSON file; `ValueError` where it holds something else."""
    found = json.loads(content.decode("utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"expected keys and values, found {type(found).__name__}")
    return found


def _digest(manifest: Mapping[str, Any]) -> str:
    return blake2b(json.dumps(manifest, sort_keys=True).encode(), digest_size=32).hexdigest()
