"""Training checkpoints: engine-neutral folders of tensors by name that are complete or absent.

    step_00001234/
        weights.safetensors      one file a group of tensors; a large group is split over several
        state.json               counters and settings
        manifest.json            every file with its size and hash; written last, and the folder is renamed after that

One process writes at a time (the lock of the run folder sees to it); any number may read.
"""

import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unified import __version__
from unified.config import nearest
from unified.errors import UserError
from unified.log import logger

FORMAT = 1
HASHED_BELOW = 10**9  # bytes: hashing this much costs about a second, and resuming reads the files anyway
MAX_FILE_BYTES = 4 * 2**30  # bounds the copy in host memory while tensors of a device are written
_STEP = re.compile(r"step_(\d{8,})")
_WRITING, _REMOVING = ".writing_", ".removing_"  # folders under these names are never read

Tensors = Mapping[str, Tensor]


class CheckpointError(UserError):
    """A checkpoint cannot be written or read; the message names the file, what was expected and what else is there."""


class NewerFormatError(CheckpointError):
    """A checkpoint was written by a later version of this package."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds."""

    step: int
    tensors: dict[str, dict[str, Tensor]]  # by group and name, on the CPU
    state: dict[str, Any]


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensors],
    state: Mapping[str, Any],
    *,
    keep_last: int,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Path:
    """Write the checkpoint of `step` into `folder`, then remove all but the newest `keep_last`; returns its path.

    `tensors` by group (letters, digits and underscores) and name; `state` is plain JSON data. Whatever goes wrong,
    a full disk included, leaves the earlier checkpoints as they were and no half of this one, and raises
    `CheckpointError`. A complete checkpoint of the same step is never overwritten: it is kept when it holds the same
    tensors, and a `CheckpointError` otherwise; a damaged one is replaced.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last: {keep_last} would keep no checkpoint; expected at least 1")
    _check_plain(dict(state), "state")
    for group in tensors:
        if not re.fullmatch(r"[A-Za-z0-9_]+", group):
            raise ValueError(f"{group!r} cannot name a file of tensors; use letters, digits and underscores")
    final = folder / f"step_{step:08d}"
    temporary = folder / f"{_WRITING}{final.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        temporary.mkdir()
        manifest = _write(temporary, step, tensors, state, max_file_bytes)
        if final.exists() and _stands(final, manifest):
            _remove(temporary)
        else:
            os.replace(temporary, final)
            _sync_folder(folder)
    except (OSError, SafetensorError) as error:
        _remove(temporary)
        kept = _newest_before(folder, None)
        raise CheckpointError(
            f"{final}: could not be written: {error}. Nothing of it was left behind; "
            f"{f'the newest complete checkpoint is still {kept}' if kept else 'there is no earlier checkpoint'}. "
            "Make room on the disk (or lower train.keep_last), then start again to continue from there"
        ) from error
    except BaseException:
        _remove(temporary)
        raise
    prune(folder, keep_last, until=step)
    return final


def _write(
    folder: Path, step: int, tensors: Mapping[str, Tensors], state: Mapping[str, Any], max_file_bytes: int
) -> dict[str, Any]:
    """Write all files of a checkpoint, the manifest last, each safely on the disk; returns the manifest."""
    files: dict[str, Any] = {}
    tied: dict[str, dict[str, str]] = {}
    for group, named in tensors.items():
        tied[group] = _tied(named)
        parts = list(_split({n: t for n, t in named.items() if n not in tied[group]}, max_file_bytes))
        for number, part in enumerate(parts, start=1):
            ending = "" if len(parts) == 1 else f"-{number:05d}-of-{len(parts):05d}"
            path = folder / f"{group}{ending}.safetensors"
            save_file(_packed(part), path)
            files[path.name] = {**_sealed(path), "group": group, "tensors": list(part)}
    _write_json(folder / "state.json", {"format": FORMAT, "step": step, "state": dict(state)})
    files["state.json"] = _sealed(folder / "state.json")
    manifest = {"format": FORMAT, "written_by": f"unified {__version__}", "step": step, "files": files, "tied": tied}
    _write_json(folder / "manifest.json", {**manifest, "blake2b": _digest(manifest)})
    _sealed(folder / "manifest.json")
    _sync_folder(folder)
    return manifest


def _tied(named: Tensors) -> dict[str, str]:
    """Names of tensors that are the very same memory as an earlier one: stored once, tied again by `load`."""
    first: dict[Any, str] = {}
    tied = {}
    for name, tensor in named.items():
        if tensor.numel():
            place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            if first.setdefault(place, name) != name:
                tied[name] = first[place]
    return tied


def _split(named: Tensors, max_bytes: int) -> Iterator[dict[str, Tensor]]:
    """The tensors in their order, cut where a file would exceed `max_bytes`; at least one part, though empty."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, tensor in named.items():
        if part and size + tensor.nbytes > max_bytes:
            yield part
            part, size = {}, 0
        part[name] = tensor
        size += tensor.nbytes
    yield part


def _packed(named: Tensors) -> dict[str, Tensor]:
    """The tensors on the CPU, row by row; views are copied, because the format refuses tensors that share memory."""
    packed: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in named.items():
        moved = tensor.detach().cpu()
        storage = moved.untyped_storage()
        if not moved.is_contiguous() or storage.nbytes() != moved.nbytes or storage.data_ptr() in seen:
            moved = moved.clone(memory_format=torch.contiguous_format)
        seen.add(moved.untyped_storage().data_ptr())
        packed[name] = moved
    return packed


def _check_plain(value: Any, where: str) -> None:
    """Refuse what JSON would bring back as something else: tuples, numbers as keys, arrays."""
    if type(value) is dict:
        for name, item in value.items():
            if type(name) is not str:
                raise TypeError(f"{where}: the key {name!r} is not text and would come back from JSON as text")
            _check_plain(item, f"{where}.{name}")
    elif type(value) is list:
        for number, item in enumerate(value):
            _check_plain(item, f"{where}[{number}]")
    elif value is not None and type(value) not in (bool, int, float, str):
        raise TypeError(
            f"{where}: {type(value).__name__} would not come back from JSON as it is; give a list, a dict, a number, "
            "text, or put it among the tensors"
        )


def _stands(final: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a checkpoint of the same step stays; a damaged one is set aside, and one that differs is an error."""
    problem = _problem(final, hashes=True)
    if problem:
        logger.warning("%s is replaced: it is damaged (%s)", final, problem)
        _remove(final)
        return False

    def hashes(of: Mapping[str, Any]) -> dict[str, str]:
        return {name: entry["blake2b"] for name, entry in of["files"].items() if "group" in entry}

    if hashes(_manifest(final)) != hashes(manifest):
        raise CheckpointError(
            f"{final}: a complete checkpoint with other tensors is there already, and it is not overwritten. "
            "Continue from the newest checkpoint, move this one away, or train into another folder"
        )
    return True


def newest(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that is complete; damaged ones are skipped with a warning.

    Sizes are always compared, hashes where a checkpoint is smaller than `HASHED_BELOW`.
    """
    for path in reversed(_checkpoints(folder)):
        problem = _problem(path)
        if problem is None:
            return path
        logger.warning("%s is skipped: %s", path, problem)
    return None


def verify(path: Path, *, hashes: bool | None = None) -> None:
    """Raise `CheckpointError` unless every file of a checkpoint is there and whole.

    `hashes`: True compares them however large the files are, False compares sizes only; by default they are compared
    below `HASHED_BELOW` bytes.
    """
    problem = _problem(path, hashes=hashes)
    if problem:
        older = _newest_before(path.parent, path)
        instead = f"the next older complete checkpoint is {older}" if older else "there is no older complete checkpoint"
        raise CheckpointError(f"{path}: {problem}; {instead}")


def load(path: Path, groups: Collection[str] | None = None, *, hashes: bool | None = None) -> Checkpoint:
    """Read a checkpoint, or some of its groups of tensors; `hashes` as in `verify`, which it does first."""
    verify(path, hashes=hashes)
    manifest = _manifest(path)
    there = list(manifest["tied"])
    for group in groups or ():
        if group not in there:
            raise CheckpointError(f"{path}: no group {group!r} of tensors{nearest(group, there)}")
    wanted = there if groups is None else [group for group in there if group in groups]
    tensors: dict[str, dict[str, Tensor]] = {group: {} for group in wanted}
    for name, entry in manifest["files"].items():
        if entry.get("group") in tensors:
            try:
                with safe_open(path / name, framework="pt") as file:
                    tensors[entry["group"]].update({key: file.get_tensor(key) for key in entry["tensors"]})
            except SafetensorError as error:
                raise CheckpointError(f"{path / name}: cannot be read: {error}") from error
    for group in wanted:
        for name, first in manifest["tied"][group].items():
            tensors[group][name] = tensors[group][first]
    return Checkpoint(manifest["step"], tensors, _read_json(path / "state.json")["state"])


def prune(folder: Path, keep_last: int, *, until: int | None = None) -> None:
    """Remove checkpoints older than the newest `keep_last` complete ones; those after step `until` are left alone.

    What training wrote beyond `until`, before it went back to an older checkpoint, neither counts nor goes.
    """
    mine = [path for path in _checkpoints(folder) if until is None or _step(path) <= until]
    complete = [path for path in mine if _problem(path, hashes=False) is None]
    if complete:
        oldest = _step(complete[-keep_last:][0])
        for path in mine:
            if _step(path) < oldest:
                _remove(path)


def _checkpoints(folder: Path) -> list[Path]:
    """Everything in `folder` that is named like a checkpoint, by step."""
    found = [path for path in folder.iterdir() if _STEP.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _newest_before(folder: Path, path: Path | None) -> Path | None:
    """The newest complete checkpoint that is older than `path`; the newest of all when there is no path."""
    older = [
        p for p in _checkpoints(folder) if path is None or not _STEP.fullmatch(path.name) or _step(p) < _step(path)
    ]
    return next((p for p in reversed(older) if p != path and _problem(p) is None), None)


def _problem(path: Path, *, hashes: bool | None = None) -> str | None:
    """What is wrong with a checkpoint, in words for people; None for a complete one."""
    try:
        files = _manifest(path)["files"]
    except NewerFormatError:
        raise
    except CheckpointError as error:
        return str(error)
    for name, entry in files.items():
        if not (path / name).is_file():
            return f"{name} is missing; expected a file of {entry['bytes']} bytes"
        size = (path / name).stat().st_size
        if size != entry["bytes"]:
            return f"{name} has {size} bytes; expected {entry['bytes']}"
    if hashes is None:
        hashes = sum(entry["bytes"] for entry in files.values()) < HASHED_BELOW
    for name, entry in files.items() if hashes else ():
        found = _hash(path / name)
        if found != entry["blake2b"]:
            return f"{name} has changed since it was written: its blake2b is {found}; expected {entry['blake2b']}"
    return None


def _manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, itself checked; `CheckpointError` when it is missing, damaged or too new."""
    if not path.is_dir():
        raise CheckpointError("there is no such folder")
    if not (path / "manifest.json").is_file():
        raise CheckpointError("manifest.json is missing; expected the list of files that is written last")
    try:
        manifest = _read_json(path / "manifest.json")
    except ValueError as error:
        raise CheckpointError(f"manifest.json is not valid JSON: {error}") from error
    number = manifest.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise NewerFormatError(
            f"{path / 'manifest.json'}: format {number}, written by {manifest.get('written_by')}; this version of "
            f"unified ({__version__}) reads formats up to {FORMAT}. Install the version that wrote it"
        )
    digest = manifest.pop("blake2b", None)
    if digest != _digest(manifest):
        raise CheckpointError(
            f"manifest.json has changed since it was written: its blake2b is {_digest(manifest)}; expected {digest}"
        )
    return manifest


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half written or half removed."""
    for prefix in (_WRITING, _REMOVING):
        for path in folder.glob(f"{prefix}*"):
            shutil.rmtree(path)


def _remove(path: Path) -> None:
    """Remove a folder so that no moment shows half of it under the name of a checkpoint."""
    if not path.exists():
        return
    try:
        if _STEP.fullmatch(path.name):
            path = path.rename(path.with_name(f"{_REMOVING}{path.name}"))
        shutil.rmtree(path)
    except OSError as error:
        logger.warning("%s could not be removed (%s); the next checkpoint tries again", path, error)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"expected keys and values, found {type(content).__name__}")
    return content


def _sealed(path: Path) -> dict[str, Any]:
    """Wait until a file is on the disk; its size and hash for the manifest."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "blake2b": _hash(path)}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, lambda: blake2b(digest_size=32)).hexdigest()  # type: ignore[arg-type]


def _digest(manifest: Mapping[str, Any]) -> str:
    return blake2b(json.dumps(manifest, sort_keys=True).encode(), digest_size=32).hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
