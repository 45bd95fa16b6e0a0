"""One line and one record for every so many steps: losses, speed, and when the run will end."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from unified.log import logger

Record = dict[str, Any]


class Progress:
    """Collects what steps report and tells it every `every` steps, after the first one and at the end; for rank 0."""

    def __init__(
        self,
        total: int,
        *,
        every: int,
        tell: Callable[[Record], None],
        start: int = 0,
        peak: float | None = None,
        more: Callable[[], Record] = dict,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`tell` takes each record (metrics.jsonl, trackers); `start`: steps done before this process began.

        `peak`: operations a second of all devices together, for the share that is reached (MFU); None leaves it out.
        `more`: what else belongs into a record, since the last one.
        """
        self._total, self._every, self._tell, self._peak, self._clock = total, every, tell, peak, clock
        self._more = more
        self._start = start
        self._begin: float | None = None  # of the second step: the first one warms up and would spoil the estimate
        self._clear()

    def _clear(self) -> None:
        self._since = self._clock()
        self._waited = self._paused = 0.0
        self._losses: dict[str, list[float]] = {}
        self._metrics: dict[str, list[float]] = {}
        self._samples = self._tokens = self._flops = self._steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The time in which training waits for data."""
        begin = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - begin

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is not training: evaluating and saving. It counts for the end of the run, not for the speed."""
        begin = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - begin

    def step(
        self,
        done: int,
        *,
        losses: Mapping[str, float],
        metrics: Mapping[str, float],
        lr: float,
        norm: float,
        samples: int,
        tokens: int,
        flops: int,
    ) -> None:
        """Report the step after which `done` are done: by task the mean loss, over all ranks the numbers handled."""
        for values, kept in ((losses, self._losses), (metrics, self._metrics)):
            for name, value in values.items():
                kept.setdefault(name, []).append(value)
        self._samples += samples
        self._tokens += tokens
        self._flops += flops
        self._steps += 1
        if done % self._every == 0 or done in (1, self._total):
            self._report(done, lr, norm)
        if self._begin is None:
            self._begin = self._clock()

    def _report(self, done: int, lr: float, norm: float) -> None:
        now = self._clock()
        whole = max(now - self._since, 1e-9)
        trained = max(whole - self._paused, 1e-9)
        after_first = done - self._start - 1
        left = (self._total - done) * (now - self._begin) / after_first if self._begin is not None else None
        record: Record = {"step": done}
        record |= {f"loss/{task}": _mean(values) for task, values in self._losses.items()}
        record |= {f"metric/{name}": _mean(values) for name, values in self._metrics.items()}
        record |= {"lr": lr, "gradient_norm": norm}
        record |= {"samples_per_second": self._samples / trained, "tokens_per_second": self._tokens / trained}
        if self._peak is not None:
            record["mfu"] = self._flops / trained / self._peak
        record |= {"data_wait": self._waited / trained, "seconds_left": left} | self._more()
        logger.info("%s", line(record, self._total))
        self._tell(record)
        self._clear()


def line(record: Record, total: int) -> str:
    """A record as one line for people."""
    width = len(str(total))
    parts = [f"step {record['step']:>{width}}/{total}"]
    parts += [f"{name.removeprefix('loss/')} {value:.3f}" for name, value in record.items() if name.startswith("loss/")]
    parts += [f"lr {record['lr']:.2e}", f"{record['samples_per_second']:.0f} samples/s"]
    parts.append(f"{record['tokens_per_second'] / 1000:.1f}k tokens/s")
    if "mfu" in record:
        parts.append(f"MFU {record['mfu']:.0%}")
    parts.append(f"data wait {record['data_wait']:.0%}")
    dead = sum(value for name, value in record.items() if name.startswith("experts/") and name.endswith("/dead"))
    if dead:
        parts.append(f"idle experts {dead}")
    if record["seconds_left"] is not None:
        parts.append(f"ETA {duration(record['seconds_left'])}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as 4:05, 3:04:05 or 2d 3:04:05."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    text = f"{hour}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
    return f"{days}d {text}" if days else text


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
