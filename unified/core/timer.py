"""How long parts of a computation take on their device, without waiting for it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stopwatch:
    """Adds up seconds by name: by the clock on a CPU, by events between its kernels on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any, Any]] = []

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """The time in which this block runs."""
        begin = self._mark()
        try:
            yield
        finally:
            self._marks.append((name, begin, self._mark()))

    def lap(self) -> "Lap":
        """Return what was measured since the last lap, whose device may still be at work."""
        marks, self._marks = self._marks, []
        return Lap(marks, self._cuda)

    def seconds(self) -> dict[str, float]:
        """Those since the last lap, once the device has done the work."""
        return self.lap().seconds()


class Lap:
    """What a stopwatch measured in one stretch."""

    def __init__(self, marks: list[tuple[str, Any, Any]], cuda: bool) -> None:
        self._marks, self._cuda = marks, cuda

    def seconds(self) -> dict[str, float]:
        """Return seconds by name, once the device has done the work."""
        found: dict[str, float] = {}
        for name, begin, end in self._marks:
            spent = begin.elapsed_time(end) / 1000 if self._cuda else end - begin
            found[name] = found.get(name, 0.0) + spent
        return found
