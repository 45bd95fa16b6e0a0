"""Write checkpoints so that they are complete or absent, and remove old ones."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from unified.checkpoint import manifest
from unified.checkpoint.place import MANIFEST, Location, Place, place
from unified.core.errors import CheckpointError
from unified.core.log import logger

MAX_FILE_BYTES = 4 * 2**30  # what is sent to a store at once, and lies on this machine's disk meanwhile

Tensors = Mapping[str, Tensor]
Files = dict[str, Tensors]
"""Tensors by the name of the file that they go to."""
FAILURES = (OSError, SafetensorError)


def save(
    folder: Location,
    step: int,
    tensors: Mapping[str, Tensors],
    state: Mapping[str, Any],
    *,
    keep_last: int,
    keep_every: int | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Location:
    """Write the checkpoint of `step` into `folder` from one process, then `prune`; returns where it is.

    `tensors` by group (letters, digits and underscores) and name; `state` is plain JSON data. Whatever goes wrong,
    a full disk included, leaves the earlier checkpoints as they were and no half of this one, and raises
    `CheckpointError`. A complete checkpoint of the same step is never overwritten: it is kept when it holds the same
    tensors, and a `CheckpointError` otherwise; a damaged one is replaced.
    """
    check_arguments(tensors, state, keep_last)
    root = place(folder)
    try:
        standing = prepare(root, step)
    except OSError as error:
        raise CheckpointError(not_written(root, step, str(error))) from error
    try:
        tied = {group: _tied(named) for group, named in tensors.items()}
        files: dict[str, Any] = {}
        for group, named in tensors.items():
            parts = split({n: t for n, t in named.items() if n not in tied[group]}, max_file_bytes) or [{}]
            for number, part in enumerate(parts, start=1):
                draft = root.draft(name_of(step), standing=standing)
                files |= write_tensors(draft, group, {file_name(group, number, len(parts)): part})
        publish(root, step, files, state, tied=tied, standing=standing)
    except FAILURES as error:
        discard(root, step, standing=standing)
        raise CheckpointError(not_written(root, step, str(error))) from error
    except BaseException:
        discard(root, step, standing=standing)
        raise
    prune(folder, keep_last, keep_every=keep_every, until=step)
    return root.child(name_of(step)).location


def name_of(step: int) -> str:
    """The name of the checkpoint of a step."""
    return f"step_{step:08d}"


def file_name(group: str, number: int, of: int) -> str:
    """The name of one of the files of a group."""
    return f"{group}.safetensors" if of == 1 else f"{group}-{number:05d}-of-{of:05d}.safetensors"


def check_arguments(groups: Mapping[str, Any], state: Mapping[str, Any], keep_last: int) -> None:
    """Refuse what a checkpoint cannot hold, before anything is written."""
    if keep_last < 1:
        raise ValueError(f"keep_last: {keep_last} would keep no checkpoint; expected at least 1")
    _check_plain(dict(state), "state")
    for group in groups:
        if not re.fullmatch(r"[A-Za-z0-9_]+", group):
            raise ValueError(f"{group!r} cannot name a file of tensors; use letters, digits and underscores")


def prepare(root: Place, step: int) -> bool:
    """Make ready to write; returns whether a complete checkpoint of the same step stands. A damaged one is removed."""
    final = root.child(name_of(step))
    damage = manifest.problem(final, hashes=True) if final.names() else None
    standing = bool(final.names()) and damage is None
    if damage is not None:
        logger.warning("%s is replaced: it is damaged (%s)", final, damage)
        final.remove()
    root.prepare(name_of(step))
    return standing


def write_tensors(draft: Place, group: str, files: Files) -> dict[str, Any]:
    """Write files of a group of tensors; returns their entries of the manifest."""
    return {
        name: {**draft.put(name, partial(save_file, _packed(part))), "group": group, "tensors": list(part)}
        for name, part in files.items()
    }


def publish(
    root: Place,
    step: int,
    files: Mapping[str, Any],
    state: Mapping[str, Any],
    *,
    tied: Mapping[str, Any],
    standing: bool,
) -> None:
    """Complete a checkpoint of which all tensors are written: counters, then the manifest, then its name."""
    draft = root.draft(name_of(step), standing=standing)
    if standing:
        _check_same(root.child(name_of(step)), files)
    else:
        for name, entry in files.items():
            if draft.size(name) != entry["bytes"]:
                raise OSError(
                    f"{name} has {draft.size(name)} bytes here and {entry['bytes']} where it was written; all "
                    "processes must write to one folder, on a disk that they share or in an object store"
                )
        content = {"format": manifest.FORMAT, "step": step, "state": dict(state)}
        entries = {**files, "state.json": draft.put("state.json", partial(_write_json, content))}
        draft.put(MANIFEST, partial(_write_json, manifest.complete(step, entries, tied)))
    root.publish(name_of(step), standing=standing)


def discard(root: Place, step: int, *, standing: bool) -> None:
    """Remove what was written of a checkpoint that will not be."""
    root.draft(name_of(step), standing=standing).remove()


def not_written(root: Place, step: int, why: str) -> str:
    """What to say when a checkpoint could not be written."""
    try:
        kept = manifest.newest_complete(root)
        earlier = f"the newest complete checkpoint is still {kept}" if kept else "there is no earlier checkpoint"
    except (OSError, CheckpointError) as error:
        earlier = f"earlier checkpoints were left alone, and cannot be read at present: {error}"
    return (
        f"{root.child(name_of(step))}: could not be written: {why}. Nothing of it counts as a checkpoint; {earlier}. "
        f"{root.mend}, then start again to continue from there"
    )


def prune(folder: Location, keep_last: int, *, keep_every: int | None = None, until: int | None = None) -> None:
    """Remove checkpoints older than the newest `keep_last` complete ones, but for complete ones of every
    `keep_every`-th step; those after step `until` are left alone.

    What training wrote beyond `until`, before it went back to an older checkpoint, neither counts nor goes.
    """
    mine = [found for found in manifest.listed(place(folder)) if until is None or manifest.step_of(found) <= until]
    complete = [found for found in mine if manifest.problem(found, hashes=False) is None]
    if complete:
        oldest = manifest.step_of(complete[-keep_last:][0])
        for found in mine:
            kept = keep_every is not None and manifest.step_of(found) % keep_every == 0 and found in complete
            if manifest.step_of(found) < oldest and not kept:
                found.remove()


def split(named: Tensors, max_bytes: int) -> list[dict[str, Tensor]]:
    """The tensors in their order, cut where a file would exceed `max_bytes`."""

    def parts() -> Iterator[dict[str, Tensor]]:
        part: dict[str, Tensor] = {}
        size = 0
        for name, tensor in named.items():
            if part and size + tensor.nbytes > max_bytes:
                yield part
                part, size = {}, 0
            part[name] = tensor
            size += tensor.nbytes
        if part:
            yield part

    return list(parts())


def _tied(named: Tensors) -> dict[str, str]:
    """Names of tensors that are the very same memory as an earlier one: stored once, tied again by `load`."""
    first: dict[Any, str] = {}
    tied = {}
    for name, tensor in named.items():
        if tensor.numel():
            at = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            if first.setdefault(at, name) != name:
                tied[name] = first[at]
    return tied


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


def _check_same(final: Place, files: Mapping[str, Any]) -> None:
    """A complete checkpoint of the same step stays, and must be of the same tensors."""

    def hashes(of: Mapping[str, Any]) -> dict[str, str]:
        return {name: entry["blake2b"] for name, entry in of.items() if "group" in entry}

    if hashes(manifest.read_manifest(final)["files"]) != hashes(files):
        raise CheckpointError(
            f"{final}: a complete checkpoint with other tensors is there already, and it is not overwritten. "
            "Continue from the newest checkpoint, move this one away, or train into another folder"
        )


def _write_json(content: Any, path: Path) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
