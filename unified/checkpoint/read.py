"""Find, check and read checkpoints."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unified.checkpoint import manifest
from unified.checkpoint.place import STEP, Location, Place, place
from unified.checkpoint.stored import Stored, TensorFile
from unified.core.errors import CheckpointError, DataError, nearest, quoted
from unified.core.log import logger


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds."""

    step: int
    tensors: dict[str, dict[str, Tensor]]  # by group and name, on the CPU
    state: dict[str, Any]


@dataclass(frozen=True)
class Opened:
    """A checkpoint whose tensors are read one by one, where they are asked for."""

    step: int
    tensors: dict[str, Stored]
    state: dict[str, Any]


def newest(folder: Location) -> Location | None:
    """The newest checkpoint in `folder` that is complete; damaged ones are skipped with a warning.

    Sizes are always compared, hashes where a checkpoint is smaller than `manifest.HASHED_BELOW`.
    """
    with _reading(folder):
        for found in reversed(manifest.listed(place(folder))):
            problem = manifest.problem(found)
            if problem is None:
                return found.location
            logger.warning("%s is skipped: %s", found, problem)
    return None


def listed(folder: Location) -> list[Location]:
    """Everything in `folder` that is named like a checkpoint, by step, whether complete or not."""
    with _reading(folder):
        return [found.location for found in manifest.listed(place(folder))]


def verify(path: Location, *, hashes: bool | None = None) -> None:
    """Raise `CheckpointError` unless every file of a checkpoint is there and whole.

    `hashes`: True compares them however large the files are, False compares sizes only; by default they are compared
    below `manifest.HASHED_BELOW` bytes.
    """
    with _reading(path):
        _verify(place(path), hashes)


def _verify(found: Place, hashes: bool | None) -> None:
    problem = manifest.problem(found, hashes=hashes)
    if problem:
        named = STEP.fullmatch(found.name)
        older = manifest.newest_complete(found.parent, before=manifest.step_of(found)) if named else None
        instead = f"the next older complete checkpoint is {older}" if older else "there is no older complete checkpoint"
        raise CheckpointError(f"{found}: {problem}; {instead}")


def load(path: Location, groups: Collection[str] | None = None, *, hashes: bool | None = None) -> Checkpoint:
    """Read a checkpoint, or some of its groups of tensors; `hashes` as in `verify`, which it does first."""
    found = opened(path, groups, hashes=hashes)
    tensors = {group: {name: stored[name] for name in stored if name not in stored.tied} for group, stored in
               found.tensors.items()}  # fmt: skip
    for group, stored in found.tensors.items():
        tensors[group].update({name: tensors[group][first] for name, first in stored.tied.items()})
    return Checkpoint(found.step, tensors, found.state)


def opened(path: Location, groups: Collection[str] | None = None, *, hashes: bool | None = None) -> Opened:
    """As `load`, but each tensor is read when it is asked for, and again each time."""
    found = place(path)
    with _reading(path):
        _verify(found, hashes)
        content = manifest.read_manifest(found)
    there = list(content["tied"])
    for group in groups or ():
        if group not in there:
            raise CheckpointError(f"{path}: no group {group!r} of tensors{nearest(group, there)}")
    files: dict[str, dict[str, TensorFile]] = {g: {} for g in there if groups is None or g in groups}
    for name, entry in content["files"].items():
        if entry.get("group") in files:
            files[entry["group"]].update(dict.fromkeys(entry["tensors"], TensorFile(found, name)))
    tensors = {group: Stored(of, content["tied"][group]) for group, of in files.items()}
    return Opened(content["step"], tensors, state(path))


def state(path: Location) -> dict[str, Any]:
    """The state that was saved with a checkpoint, which is not checked."""
    with _reading(path):
        found = manifest.parsed(place(path).read("state.json")).get("state")
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: state.json: expected counters and settings, got {quoted(found)}")
    return found


@contextmanager
def _reading(path: Location) -> Iterator[None]:
    try:
        yield
    except (OSError, DataError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
