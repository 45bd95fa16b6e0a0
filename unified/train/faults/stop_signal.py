"""Ctrl-C and SIGTERM end a run after the step that is being made, with its checkpoint."""

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self

import torch

from unified.core.distributed import reduce_sum, world_size
from unified.core.transfers import HostCopy

_MESSAGE = (
    b"\nstopping after this step, with a checkpoint; press Ctrl-C again to stop at once (and lose the last steps)\n"
)


class StopRequest:
    """Within it the first SIGINT or SIGTERM only raises `requested`; a second SIGINT is a `KeyboardInterrupt`.

    The handlers of before come back at the end. To be entered by the main thread, as signals go there.
    """

    def __init__(self) -> None:
        self.requested = False
        self._process = 0
        self._told: HostCopy | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._process = os.getpid()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A loader worker: Ctrl-C reaches it as well, and the step that is being made still needs its batches.
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested = True
            os.write(2, _MESSAGE)  # print and logging may be interrupted halfway and must not be entered again

    def agreed(self, device: torch.device | str = "cpu") -> bool:
        """Whether any rank was asked to stop; all ranks call it after the same step, so they stop at the same one.

        An accelerator tells of several ranks a step later, so that nobody waits for it.
        """
        if world_size() == 1:
            return self.requested
        told, self._told = self._told, HostCopy(reduce_sum(torch.full((), float(self.requested), device=device)))
        if torch.device(device).type == "cpu":
            told = self._told
        return told is not None and bool(told.read())
