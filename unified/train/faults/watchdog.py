"""A thread on every rank that ends a run which hangs, and says where it hangs.

A launcher restarts what has ended, and nothing restarts what waits: a rank that is stuck holds all others in the next
collective. The stacks of all ranks tell which one it is: the one that is in no collective.
"""

import contextlib
import faulthandler
import os
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from threading import Event, Thread
from typing import Self

from unified.core.distributed import rank

STATUS = 75
"""Exit status of a process that hung: EX_TEMPFAIL, to be tried again."""
GRACE = 5.0
"""Seconds between its stacks and the end of a process: ranks that wait for it began a little later, and the first one
that ends makes the launcher end them all."""


class Watchdog:
    """Ends this process where a phase of training takes longer than `patience` seconds; None: never.

    Phases are entered by the thread that trains, which may then be stuck in C++; the end therefore asks nothing of it.
    """

    def __init__(self, patience: float | None, log: Path, *, grace: float = GRACE) -> None:
        """`log`: the file to which the stacks are added, besides standard error."""
        self.patience, self.log, self.grace = patience, log, grace
        self._step, self._tasks = 0, ""
        self._entered = ("starting", time.monotonic())
        self._ended = Event()
        self._thread = Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self.enter("starting")
        if self.patience is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def begin(self, step: int) -> None:
        """Begin to prepare `step`, counted from 1."""
        self._step, self._tasks = step, ""
        self.enter("waiting for data")

    def has(self, tasks: Iterable[str]) -> None:
        """The tasks of the step, which are known when its data are there."""
        self._tasks = ", ".join(tasks)

    def enter(self, phase: str) -> None:
        """Enter a phase of the step: its time begins anew."""
        self._entered = (phase, time.monotonic())

    def _watch(self) -> None:
        assert self.patience is not None
        while not self._ended.wait(min(self.patience / 10, 10.0)):
            # A thread that holds the interpreter's lock stops this one too; the timer below runs without it.
            faulthandler.dump_traceback_later(self.patience + 2 * self.grace, exit=True)
            phase, since = self._entered
            if time.monotonic() - since > self.patience:
                self._end(phase)

    def _end(self, phase: str) -> None:
        tasks = f", tasks {self._tasks}" if self._tasks else ""
        message = (
            f"rank {rank()}, process {os.getpid()} on {socket.gethostname()}: no progress for {self.patience:g} s "
            f"(train.hang_seconds) in step {self._step}{tasks}, phase: {phase}. This process ends with status "
            f"{STATUS}; the same command goes on from the last checkpoint. The rank at fault is the one that waits in "
            "no collective; a run that is only slow needs a larger train.hang_seconds. Stacks of all threads:\n"
        )
        # Not through the logger: the thread that hangs may hold its lock. What cannot be written must not stop the end.
        with contextlib.suppress(OSError, ValueError), self.log.open("a", encoding="utf-8") as file:
            _write(file.fileno(), message)
        with contextlib.suppress(OSError, ValueError):
            _write(sys.stderr.fileno(), message)
        time.sleep(self.grace)
        os._exit(STATUS)


def _write(file: int, message: str) -> None:
    os.write(file, message.encode())
    faulthandler.dump_traceback(file, all_threads=True)
