"""Batches on the device that trains: on an accelerator those of the next step move while this one computes.

A step that is fetched ahead changes nothing but time: steps come in the same order with the same bytes, what ends the
data (its end, or an error) comes at its own step, and the counts that a checkpoint keeps are those of the step that
was handed out last.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch

from unified.core.errors import UserError
from unified.core.types import Batch
from unified.data.pinned import tensors
from unified.pipeline.loader import StepLoader
from unified.pipeline.schedule import Slot


def steps_ahead(device: torch.device) -> int:
    """Return how many steps are fetched before they are due; none where copying takes the processor's own time."""
    return 0 if device.type == "cpu" else 1


@dataclass(frozen=True)
class Fed:
    """A step's batches, on the host and on the device."""

    number: int
    slots: Sequence[tuple[Slot, Batch]]  # on the host, where their lengths and keys cost no wait
    moved: Sequence[Batch]  # the same on the device
    seen: int  # samples of the run up to this step, over all processes
    bad: int  # of these, those that could not be used


class Mover:
    """Copies batches to a device, on a stream of their own where it is a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ready: dict[int, torch.cuda.Event] = {}

    def begin(self, number: int, batches: Sequence[Batch]) -> list[Batch]:
        """Begin to copy the batches of step `number`; the computation must `wait` before it reads them."""
        if self._stream is None:
            return [batch.to(self.device, non_blocking=True) for batch in batches]
        with torch.cuda.stream(self._stream):
            moved = [batch.to(self.device, non_blocking=True) for batch in batches]
        self._ready[number] = self._stream.record_event()
        return moved

    def wait(self, number: int, moved: Sequence[Batch]) -> None:
        """Let the computation that follows begin after the copies of step `number`; the host does not wait.

        The memory was reserved on the stream of copies, so its tensors are marked as read by that of the computation,
        lest a later copy gets memory that is still read.
        """
        if self._stream is None:
            return
        current = torch.cuda.current_stream(self.device)
        current.wait_event(self._ready.pop(number))
        for tensor in tensors(list(moved)):
            if tensor.device.type == "cuda":
                tensor.record_stream(current)


class Feeder:
    """Iterates over the steps of a loader with their batches on a device; a context that closes the loader's end."""

    def __init__(self, loader: StepLoader, device: torch.device) -> None:
        """Fetches nothing yet; the loader must have its counts by the first step."""
        self._loader, self._mover, self._ahead = loader, Mover(device), steps_ahead(device)
        self._queue: deque[Fed] = deque()
        self._ended: UserError | StopIteration | None = None
        self._last: Fed | None = None

    def __enter__(self) -> Self:
        # Where a step fails its traceback keeps the iterator, and loader processes would hold up the end of this one.
        self._closing = closing(iter(self._loader))
        self._steps = self._closing.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.__exit__(kind, error, traceback)

    def __iter__(self) -> Iterator[Fed]:
        return self

    def __next__(self) -> Fed:
        """The next step; raises what its loading raised, whenever that was."""
        while len(self._queue) <= self._ahead and self._ended is None:
            self._fetch()
        if not self._queue:
            assert self._ended is not None
            raise self._ended
        self._last = self._queue.popleft()
        self._mover.wait(self._last.number, self._last.moved)
        return self._last

    def _fetch(self) -> None:
        try:
            number, slots, _ = next(self._steps)
        except (UserError, StopIteration) as error:
            self._ended = error  # steps before it are trained first
            return
        moved = self._mover.begin(number, [batch for _, batch in slots])
        self._queue.append(Fed(number, slots, moved, self._loader.seen, self._loader.bad))

    @property
    def counts(self) -> tuple[int, int]:
        """Samples of the run up to the step that was handed out last, and how many of them could not be used."""
        if self._last is None:
            return self._loader.seen, self._loader.bad
        return self._last.seen, self._last.bad
