"""One line and one record for every so many steps: losses, speed, and when the run will end."""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from unified.core.distributed import WAITING
from unified.core.log import logger

Record = dict[str, Any]
LINE = 200
"""Letters of a line; losses that do not fit are in the record alone."""
SLOW = 1.1
"""Share of the mean time that the slowest rank takes, from which on the line names it."""


def alone(*numbers: float) -> list[list[float]]:
    """The numbers of every rank, where there is one."""
    return [list(numbers)]


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
        of_ranks: Callable[..., list[list[float]]] = alone,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`tell` takes each record (metrics.jsonl, trackers); `start`: steps done before this process began.

        `peak`: operations a second of all devices together, for the share that is reached (MFU); None leaves it out.
        `more`: what else belongs into a record, since the last one. `of_ranks`: the numbers of every rank; called for
        each record, on all ranks at the same step.
        """
        self._total, self._every, self._tell, self._peak, self._clock = total, every, tell, peak, clock
        self._more, self._of_ranks = more, of_ranks
        self._seen: dict[str, int] = {}
        self._start = start
        self._begin: float | None = None  # of the second step: the first one warms up and would spoil the estimate
        self._clear()

    def _clear(self) -> None:
        self._since = self._clock()
        self._waited = self._paused = 0.0
        self._losses: dict[str, list[float]] = {}
        self._metrics: dict[str, list[float]] = {}
        self._flops: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._samples = self._tokens = self._steps = 0

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
        norms: Mapping[str, float],
        samples: int,
        tokens: int,
        flops: Mapping[str, int],
        seconds: Mapping[str, float],
        seen: Mapping[str, int],
    ) -> None:
        """Report the step after which `done` are done; the arguments are those of `StepResult`."""
        for values, kept in ((losses, self._losses), (metrics, self._metrics)):
            for name, value in values.items():
                kept.setdefault(name, []).append(value)
        self._samples += samples
        self._tokens += tokens
        for task, count in flops.items():
            self._flops[task] = self._flops.get(task, 0) + count
        for task, spent in seconds.items():
            self._seconds[task] = self._seconds.get(task, 0.0) + spent
        self._seen |= seen
        self._steps += 1
        if self.recorded(done):
            self._report(done, {"lr": lr, "gradient_norm": norm} | {f"gradient_norm/{n}": v for n, v in norms.items()})
        if self._begin is None:
            self._begin = self._clock()

    def recorded(self, done: int) -> bool:
        """Whether the step after which `done` are done has a record."""
        return done % self._every == 0 or done in (1, self._total)

    def _report(self, done: int, of_step: Record) -> None:
        now = self._clock()
        whole = max(now - self._since, 1e-9)
        trained = max(whole - self._paused, 1e-9)
        after_first = done - self._start - 1
        left = (self._total - done) * (now - self._begin) / after_first if self._begin is not None else None
        record: Record = {"step": done}
        record |= {f"loss/{task}": _mean(values) for task, values in self._losses.items()}
        record |= {f"metric/{name}": _mean(values) for name, values in self._metrics.items()}
        record |= of_step | {f"samples/{task}": count for task, count in self._seen.items()}
        record |= {"samples_per_second": self._samples / trained, "tokens_per_second": self._tokens / trained}
        record |= self._by_task(trained) | self._ranks(trained) | {"seconds_left": left} | self._more()
        logger.info("%s", line(record, self._total))
        self._tell(record)
        self._clear()

    def _by_task(self, trained: float) -> Record:
        """Share of the time and of the peak of each task; it is given the part of the time without waiting for data
        that its forward passes have of all."""
        own = {task: spent for task, spent in self._seconds.items() if task != WAITING}
        forward, computed = sum(own.values()), max(trained - self._waited, 1e-9)
        found: Record = {f"time/{task}": spent / forward for task, spent in own.items()} if forward else {}
        if self._peak is not None:
            found["mfu"] = sum(self._flops.values()) / trained / self._peak
            for task in own if forward else ():
                time_of_task = max(computed * own[task] / forward, 1e-9)
                found[f"mfu/{task}"] = self._flops.get(task, 0) / time_of_task / self._peak
        return found

    def _ranks(self, trained: float) -> Record:
        """How ranks differ: longest wait for data, slowest forward passes without exchanges, most memory."""
        waiting = self._seconds.get(WAITING, 0.0)
        own = sum(self._seconds.values()) - 2 * waiting  # it is within the time of the tasks
        rows = self._of_ranks(self._waited / trained, own, *used())
        waits, times, host, device = (list(column) for column in zip(*rows, strict=True))
        found: Record = {"data_wait": max(waits), "memory/host_gib": max(host) / 2**30}
        if max(device):
            found["memory/device_gib"] = max(device) / 2**30
        if len(rows) > 1:
            mean = max(sum(times) / len(times), 1e-9)
            found |= {"data_wait_rank": waits.index(max(waits)), "imbalance": max(times) / mean}
            found["slowest_rank"] = times.index(max(times))
        return found


def line(record: Record, total: int) -> str:
    """A record as one line for people."""
    width = len(str(total))
    parts = [f"lr {record['lr']:.2e}", f"{record['samples_per_second']:.0f} samples/s"]
    parts.append(f"{record['tokens_per_second'] / 1000:.1f}k tokens/s")
    if "mfu" in record:
        parts.append(f"MFU {record['mfu']:.0%}")
    several = "imbalance" in record
    where = f" (rank {record['data_wait_rank']})" if several and record["data_wait"] >= 0.01 else ""
    parts.append(f"data wait {record['data_wait']:.0%}{where}")
    if several and record["imbalance"] >= SLOW:
        parts.append(f"rank {record['slowest_rank']} takes {record['imbalance']:.1f}x the mean")
    dead = sum(value for name, value in record.items() if name.startswith("experts/") and name.endswith("/dead"))
    if dead:
        parts.append(f"idle experts {dead}")
    if record["seconds_left"] is not None:
        parts.append(f"ETA {duration(record['seconds_left'])}")
    begin, end = f"step {record['step']:>{width}}/{total}", "  ".join(parts)
    return "  ".join([begin, *_fitting(_losses(record), LINE - len(begin) - len(end) - 4), end])


def _losses(record: Record) -> list[str]:
    return [f"{n.removeprefix('loss/')} {value:.3f}" for n, value in record.items() if n.startswith("loss/")]


def _fitting(losses: list[str], room: int) -> list[str]:
    """As many as there is room for, and how many more there are."""
    if len("  ".join(losses)) <= room:
        return losses
    kept = losses
    while kept and len("  ".join([*kept, f"({len(losses) - len(kept)} more)"])) > room:
        kept = kept[:-1]
    return [*kept, f"({len(losses) - len(kept)} more)"]


def used() -> tuple[float, float]:
    """The most bytes of the host's and of the device's memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    device = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
    return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss), float(device)


def duration(seconds: float) -> str:
    """Seconds as 4:05, 3:04:05 or 2d 3:04:05."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    text = f"{hour}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
    return f"{days}d {text}" if days else text


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
