"""The checkpoints of a run: its ranks share the writing, in step or beside training."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unified.checkpoint.place import Location, place
from unified.checkpoint.write import (
    MAX_FILE_BYTES,
    Files,
    check_arguments,
    discard,
    file_name,
    name_of,
    not_written,
    prepare,
    prune,
    publish,
    split,
    write_tensors,
)
from unified.core.distributed import broadcast_object, gather_objects, rank, world_size
from unified.core.errors import CheckpointError

Parts = dict[str, list[dict[str, Tensor]]]
"""The tensors of a group, for each file that they go to."""


class Shares:
    """Gives each tensor to a rank: the one that has the fewest bytes so far, so that all ranks come to the same."""

    def __init__(self, ranks: int) -> None:
        self.bytes = [0] * ranks

    def owner(self, nbytes: int) -> int:
        """The rank that keeps the next tensor."""
        owner = self.bytes.index(min(self.bytes))
        self.bytes[owner] += nbytes
        return owner


@dataclass
class _Write:
    """A checkpoint that is being written."""

    step: int
    state: dict[str, Any]
    groups: Sequence[str]
    standing: bool
    job: Future[dict[str, Any]]  # of this rank; its result are the files that it wrote
    told: list[dict[str, Any]] = field(default_factory=list)  # what all ranks wrote, once they have


class Writer:
    """Writes checkpoints into a folder. All ranks do everything together, on the thread that trains.

    Each rank takes its share of the tensors and writes it to files of its own; rank 0 adds the manifest when all have.
    With `background` the ranks copy their shares to the host's memory and write in a thread while training goes on; the
    memory is kept for the next time. One checkpoint is written at a time. `CheckpointError` on all ranks where any
    could not write, at the next call of `check`, `save` or `wait`.
    """

    def __init__(
        self,
        folder: Location,
        *,
        keep_last: int,
        keep_every: int | None = None,
        background: bool = False,
        max_file_bytes: int = MAX_FILE_BYTES,
    ) -> None:
        self.folder = folder
        self.keep_last, self.keep_every, self.background = keep_last, keep_every, background
        self.max_file_bytes = max_file_bytes
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._write: _Write | None = None
        self._copies: dict[tuple[str, str], Tensor] = {}

    def save(
        self, step: int, groups: Sequence[str], tensors: Iterable[tuple[str, str, Tensor]], state: Mapping[str, Any]
    ) -> None:
        """Begin to write the checkpoint of `step`, after the one before; without `background` also end it.

        `tensors`: group, name and tensor, in the same order on all ranks; any of `groups` may be empty.
        """
        self.wait()
        check_arguments(dict.fromkeys(groups), state, self.keep_last)
        root = place(self.folder)
        shares = Shares(world_size())
        own = self._share(shares, groups, tensors)
        parts = {group: split(named, self.max_file_bytes) for group, named in own.items()}
        standing, failure = False, ""
        if rank() == 0:
            try:
                standing = prepare(root, step)
            except (OSError, CheckpointError) as error:
                failure = not_written(root, step, str(error))
        told = gather_objects(({group: len(of) for group, of in parts.items()}, shares.bytes, standing, failure))
        _, _, standing, failure = told[0]
        if failure:
            raise CheckpointError(failure)
        if any(of_rank != shares.bytes for _, of_rank, _, _ in told):
            raise RuntimeError(
                "ranks were given tensors of different sizes, so that some would be lost; nothing is saved"
            )
        files = _named(parts, [counts for counts, _, _, _ in told])
        job = self._threads.submit(self._written, step, files, standing)
        self._write = _Write(step, dict(state), groups, standing, job)
        if not self.background:
            self.wait()

    def _share(
        self, shares: Shares, groups: Sequence[str], tensors: Iterable[tuple[str, str, Tensor]]
    ) -> dict[str, dict[str, Tensor]]:
        """What this rank writes of the tensors, on the CPU: the tensors themselves, or copies that stay as they are."""
        own: dict[str, dict[str, Tensor]] = {group: {} for group in groups}
        for group, name, tensor in tensors:
            if shares.owner(tensor.nbytes) == rank():
                tensor = tensor.detach()
                own[group][name] = self._copy(group, name, tensor) if self.background else tensor.cpu()
        return own

    def _copy(self, group: str, name: str, tensor: Tensor) -> Tensor:
        copy = self._copies.get((group, name))
        if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._copies[group, name] = copy
        return copy.copy_(tensor)

    def _written(self, step: int, files: dict[str, Files], standing: bool) -> dict[str, Any]:
        draft = place(self.folder).draft(name_of(step), standing=standing)
        return {name: entry for group, of in files.items() for name, entry in write_tensors(draft, group, of).items()}

    def _published(self, write: _Write) -> dict[str, Any]:
        files = {name: entry for of_rank in write.told for name, entry in of_rank.items()}
        tied: dict[str, Any] = {group: {} for group in write.groups}
        publish(place(self.folder), write.step, files, write.state, tied=tied, standing=write.standing)
        prune(self.folder, self.keep_last, keep_every=self.keep_every, until=write.step)
        return {}

    @property
    def writing(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._write is not None

    def check(self) -> None:
        """Go on with a checkpoint that is being written, as far as it is; called after each step, on all ranks."""
        write = self._write
        if write is None:
            return
        told = gather_objects(_outcome(write.job))
        if any(isinstance(outcome, str) for outcome in told):
            self._fail(write)
        if any(outcome is None for outcome in told):
            return
        if write.told:
            self._write = None
            return
        write.told = told
        if rank() == 0:
            write.job = self._threads.submit(self._published, write)

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is complete."""
        while self._write is not None:
            wait([self._write.job])
            self.check()

    def close(self) -> None:
        """End the thread; a checkpoint that is being written by then is left without a name, as if killed."""
        self._threads.shutdown()

    def _fail(self, write: _Write) -> None:
        """End the run on all ranks, when no one writes any more, with the first rank's reason."""
        self._write = None
        error = write.job.exception()
        text = next(text for text in gather_objects(_outcome(write.job)) if isinstance(text, str))
        if rank() == 0:
            root = place(self.folder)
            discard(root, write.step, standing=write.standing)
            if not text.startswith(str(root.child(name_of(write.step)))):
                text = not_written(root, write.step, text)
        raise CheckpointError(broadcast_object(text)) from error


def _outcome(job: Future[dict[str, Any]]) -> dict[str, Any] | str | None:
    """What a rank wrote, why it could not, or None while it does."""
    if not job.done():
        return None
    error = job.exception()
    if error is None:
        return job.result()
    return str(error) if isinstance(error, OSError | CheckpointError) else f"{type(error).__name__}: {error}"


def _named(parts: Parts, counts: Sequence[Mapping[str, int]]) -> dict[str, Files]:
    """This rank's files by name: those of all ranks are numbered through, `counts` of each group of each rank."""
    files: dict[str, Files] = {}
    for group, own in parts.items():
        before, total = sum(of[group] for of in counts[: rank()]), sum(of[group] for of in counts)
        if total == 0 and rank() == 0:  # so that the group is there
            own, total = [{}], 1
        files[group] = {file_name(group, before + n, total): part for n, part in enumerate(own, start=1)}
    return files
