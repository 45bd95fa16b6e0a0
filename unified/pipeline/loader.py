"""Batches of the steps of a run, in order, from any step on: the same for any number of workers and ranks."""

import os
import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Event, Thread
from time import monotonic, perf_counter
from typing import Self

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from unified.answers.base import SceneExample
from unified.answers.match.kind import Example
from unified.config.labels import Labels
from unified.config.recipe import Recipe
from unified.core import distributed
from unified.core.errors import DataError, RecipeError, UserError
from unified.core.log import logger
from unified.core.seed import torch_generator
from unified.core.types import Batch
from unified.data.pinned import pinned
from unified.data.remote.shards import CachedShard
from unified.data.remote.transfer import UnavailableError
from unified.data.samples.decode import using
from unified.data.shards.shards import Shards
from unified.modalities.base import Tokenizer
from unified.modalities.image.patches import PatchRows
from unified.pipeline.collate import Collator
from unified.pipeline.dense_collate import SceneCollator, make_collator
from unified.pipeline.prefetch import Prefetcher, check_room
from unified.pipeline.sample_cache import SampleCache
from unified.pipeline.schedule import START, Origin, Slot, samples_before, schedule
from unified.pipeline.sources import SampleOrder, TaskData, epochs, open_data

SETTLED = 2000
"""Samples after which the share of bad ones is taken as it is; before, it is counted as if so many were seen."""
ATTEMPTS = 1000
"""Samples that may be tried in place of a bad one."""
MESSAGES = 20
"""Bad samples that are named in the log; the others are counted."""

GRACE = 20
"""Seconds that a loader process goes on after SIGTERM."""


@dataclass
class Report:
    """What preparing a step cost on this rank, in seconds of one worker, and what was wrong."""

    samples: int = 0
    bytes: int = 0  # of the samples that were read
    decode_seconds: float = 0.0  # reading included
    collate_seconds: float = 0.0
    bad: list[str] = field(default_factory=list)
    """A message for each sample that could not be used and was replaced by the next good one in the data order."""


@dataclass(frozen=True)
class Source:
    """Where the samples of a task come from, and how they become a batch."""

    shards: Shards
    order: SampleOrder
    collator: Collator | SceneCollator


@dataclass(frozen=True)
class Step:
    """A loaded step, as it comes from a worker; `failure` stands in for its batches."""

    number: int
    slots: list[tuple[Slot, Batch]]
    report: Report
    failure: UserError | None = None

    def pin_memory(self) -> Self:
        """The step in memory that a GPU reads directly; torch calls this in a thread."""
        return replace(self, slots=pinned(self.slots))


class Steps(Dataset[Step]):
    """Step number -> this rank's batches: what a step contains depends on its number alone."""

    def __init__(self, recipe: Recipe, sources: Mapping[str, Source], origin: Origin, rank: int, world: int) -> None:
        self.recipe, self.sources, self.origin, self.rank, self.world = recipe, dict(sources), origin, rank, world
        self._cache = SampleCache(recipe.data.cache_mb * 2**20)

    def __getitem__(self, number: int) -> Step:
        report = Report()
        try:
            slots = schedule(self.recipe, self.recipe.seed, number, self.origin)
            return Step(number, [(slot, self.batch(slot, report)) for slot in slots], report)
        except UserError as error:
            return Step(number, [], report, error)
        except OSError as error:
            lost = f"step {number}: {error}. Make that readable again; then the same command goes on"
            return Step(number, [], report, DataError(lost))

    def share(self, slot: Slot) -> range:
        """This rank's contiguous part of the global samples of a slot."""
        size = len(slot) // self.world
        return range(slot.start + self.rank * size, slot.start + (self.rank + 1) * size)

    def positions(self, slot: Slot) -> list[int]:
        """Where this rank's samples of a slot lie in the task's shards."""
        return self.sources[slot.task].order.positions(np.array(self.share(slot))).tolist()

    def remote_shards(self, number: int) -> list[CachedShard]:
        """The remote shards that this rank reads in a step, each once."""
        found: dict[str, CachedShard] = {}
        for slot in schedule(self.recipe, self.recipe.seed, number, self.origin):
            shards = self.sources[slot.task].shards
            if shards.remote:
                for place in dict.fromkeys(shards.locate(position)[0] for position in self.positions(slot)):
                    if isinstance(file := shards.files[place], CachedShard):
                        found.setdefault(file.shard.sha256, file)
        return list(found.values())

    def batch(self, slot: Slot, report: Report) -> Batch:
        """This rank's batch of a slot; `report` is added to."""
        share = self.share(slot)
        collator = self.sources[slot.task].collator
        start = perf_counter()
        rows = collator.rows(len(share))
        examples = [
            self._example(slot.task, index, position, report, rows, row)
            for row, (index, position) in enumerate(zip(share, self.positions(slot), strict=True))
        ]
        self.sources[slot.task].shards.release()
        middle = perf_counter()
        batch = collator.batch(examples, np.array(share), rows)  # type: ignore[arg-type]  # its own examples
        report.decode_seconds += middle - start
        report.collate_seconds += perf_counter() - middle
        report.samples += len(examples)
        return batch

    def _example(
        self, task: str, index: int, position: int, report: Report, rows: PatchRows | None, row: int
    ) -> Example | SceneExample:
        """The sample at `position`, or the next good one in the data order after the global `index`."""
        source = self.sources[task]
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._read(source, position, report, rows, row)
            except UnavailableError:
                raise
            except DataError as error:
                report.bad.append(str(error))
                position = int(source.order.positions(np.array([index + attempt]))[0])
        raise DataError(f"task {task!r}: {ATTEMPTS} samples in a row could not be used; the last: {report.bad[-1]}")

    def _read(
        self, source: Source, position: int, report: Report, rows: PatchRows | None, row: int
    ) -> Example | SceneExample:
        sample, size = self._cache.sample(source.shards, position, source.collator.columns)
        report.bytes += size
        with using(sample):
            return source.collator.example(sample, rows, row)


class Watchdog:
    """A thread that calls `complain(step)` once for each step that is waited for longer than `patience` seconds."""

    def __init__(self, patience: float, complain: Callable[[int], None]) -> None:
        self.patience, self.complain = patience, complain
        self._waiting: tuple[int, float] | None = None  # the step, and since when
        self._ended = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def wait_for(self, step: int | None) -> None:
        """Begin to wait for a step; None: it is here."""
        self._waiting = None if step is None else (step, monotonic())

    def _watch(self) -> None:
        complained = -1
        while not self._ended.wait(self.patience / 4):
            waiting = self._waiting
            if waiting and waiting[0] != complained and monotonic() - waiting[1] > self.patience:
                complained = waiting[0]
                self.complain(complained)


def check_split(recipe: Recipe, world: int) -> None:
    """Refuse, with a `RecipeError`, a batch that cannot be split evenly over the processes."""
    for name, task in recipe.tasks.items():
        if task.batch % world:
            raise RecipeError(
                f"tasks.{name}.batch: {task.batch} samples cannot be split evenly over {world} processes; "
                f"{task.batch // world * world or world} or {(task.batch // world + 1) * world} would do"
            )


class StepLoader:
    """Iterates over (step, [(slot, batch)], report) for this rank, from `start_step` to the end of the recipe, without
    those that it passes over."""

    def __init__(
        self,
        recipe: Recipe,
        tokenizers: Mapping[str, Tokenizer],
        labels: Mapping[str, Labels],
        *,
        start_step: int = 0,
        origin: Origin = START,
        rank: int | None = None,
        world: int | None = None,
        patience: float = 60.0,
        data: Mapping[str, TaskData] | None = None,
    ) -> None:
        """`labels`: by task, of those that pick from a label set. `patience`: seconds without a batch until a warning.

        `data`: what `open_data` has opened, for the recipe that it returned; None opens it.

        Raises `RecipeError` where a batch cannot be split over ranks, `DataError` where shards are missing or wrong.
        """
        self.start_step, self.patience = start_step, patience
        world = distributed.world_size() if world is None else world
        rank = distributed.rank() if rank is None else rank
        check_split(recipe, world)
        self.recipe, data = (recipe, data) if data is not None else open_data(recipe)
        sources = {
            name: Source(
                data[name].shards,
                SampleOrder(self.recipe, name, data[name], origin),
                make_collator(
                    name, task, tokenizers, labels.get(name), recipe.seed, [s.name for s in data[name].shards.files]
                ),
            )
            for name, task in self.recipe.tasks.items()
        }
        check_room({name: source.shards for name, source in sources.items()}, recipe.data)
        self.steps = Steps(self.recipe, sources, origin, rank, world)
        self.seen = 0
        self.bad = 0
        self._named: set[str] = set()

    def digests(self) -> dict[str, str]:
        """Return what identifies the data of each task by manifests and indexes; no shard is read for it."""
        return {name: source.shards.digest for name, source in self.steps.sources.items()}

    def sizes(self) -> dict[str, int]:
        """The number of samples of each task's data."""
        return {name: len(source.shards) for name, source in self.steps.sources.items()}

    def epochs(self, step: int) -> dict[str, float]:
        """`epochs/TASK` before a step: how often its data were seen; with `/NUMBER` those of each mixed data set."""
        orders = {name: source.order for name, source in self.steps.sources.items()}
        return epochs(orders, samples_before(self.recipe, self.recipe.seed, step, self.steps.origin))

    def probe(self) -> list[tuple[Slot, Batch]]:
        """The first batch of every task, loaded in this process."""
        slots = [Slot(name, 0, task.batch, 0) for name, task in self.recipe.tasks.items()]
        report = Report()
        found = [(slot, self.steps.batch(slot, report)) for slot in slots]
        self._name(report.bad)
        return found

    def first_samples(self, task: str, count: int) -> Iterator[Batch]:
        """The first samples of a task with queries in their order, not changed at random, whole on every rank.

        At most `count`, and none twice; in batches of the task's size, loaded in this process.
        """
        source, size = self.steps.sources[task], self.recipe.tasks[task].batch
        assert isinstance(source.collator, SceneCollator)
        steps = Steps(self.recipe, {task: replace(source, collator=source.collator.unchanged())}, START, 0, 1)
        count = min(count, len(source.shards))
        for start in range(0, count, size):
            yield steps.batch(Slot(task, start, min(start + size, count), 0), Report())

    def _numbers(self) -> Sequence[int]:
        """The steps to load: those from the start on that are not passed over."""
        numbers, passed = range(self.start_step, self.recipe.max_steps), self.recipe.train.passed_over()
        return [number for number in numbers if number + 1 not in passed] if passed else numbers

    def __len__(self) -> int:
        return len(self._numbers())

    def __iter__(self) -> Generator[tuple[int, list[tuple[Slot, Batch]], Report], None, None]:
        batches = iter(self._torch_loader())
        steps = range(self.start_step, self.recipe.max_steps)
        remote = any(source.shards.remote for source in self.steps.sources.values())
        prefetcher = Prefetcher(self.steps.remote_shards, steps, self.recipe.data, remote=remote)  # threads after forks
        with prefetcher, Watchdog(self.patience, self._complain) as watchdog:
            try:
                for number in self._numbers():
                    prefetcher.reached(number)
                    watchdog.wait_for(number)
                    step = _next(batches, number)
                    watchdog.wait_for(None)
                    self._agree(step)
                    yield step.number, step.slots, step.report
            finally:
                del batches  # ends the loader processes now, also where a traceback keeps this frame

    def _torch_loader(self) -> DataLoader[Step]:
        workers = self.recipe.data.workers
        return DataLoader(
            self.steps,
            batch_size=None,
            sampler=self._numbers(),
            num_workers=workers,
            prefetch_factor=self.recipe.data.prefetch if workers else None,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_set_up_worker,
            generator=torch_generator(self.recipe.seed, "loader"),  # otherwise torch draws from its global one
        )

    def _complain(self, number: int) -> None:
        slots = schedule(self.recipe, self.recipe.seed, number, self.steps.origin)
        waiting = []
        for slot in slots:
            shards = self.steps.sources[slot.task].shards
            where = sorted({shards.files[shards.locate(position)[0]].name for position in self.steps.positions(slot)})
            more = f" and {len(where) - 3} more" if len(where) > 3 else ""
            waiting.append(f"{slot.task} from {', '.join(where[:3])}{more}")
        logger.warning(
            "step %d: no batch for %.0f s; waiting for %d loader processes to read %s",
            number,
            self.patience,
            self.recipe.data.workers,
            "; ".join(waiting),
        )

    def _agree(self, step: Step) -> None:
        """Count the samples of all ranks, which end together where one of them has no batch or too many are bad."""
        report = step.report
        failed, samples, bad = distributed.totals(step.failure is not None, report.samples, len(report.bad))
        if failed:
            failures = distributed.gather_objects(None if step.failure is None else str(step.failure))
            raise step.failure or DataError(
                "; ".join(f"rank {rank}: {failure}" for rank, failure in enumerate(failures) if failure is not None)
            )
        messages = [text for of_rank in distributed.gather_objects(report.bad) for text in of_rank] if bad else []
        self._count(int(samples), messages)

    def _name(self, bad: Sequence[str]) -> None:
        """Log bad samples, each once."""
        for message in bad:
            if message not in self._named and len(self._named) < MESSAGES:
                self._named.add(message)
                logger.warning("bad sample, replaced by the next good one: %s", message)

    def _count(self, samples: int, bad: list[str]) -> None:
        self.seen += samples
        self.bad += len(bad)
        self._name(bad)
        limit = self.recipe.data.max_bad_fraction
        if self.bad > limit * max(self.seen, SETTLED):
            raise DataError(
                f"{self.bad} of {self.seen} samples could not be used, more than data.max_bad_fraction = {limit} "
                f"allows. Look at the shards with `unified shards verify`.{f' The last: {bad[-1]}' if bad else ''}"
            )


def _next(batches: Iterator[Step], number: int) -> Step:
    """The next step; what ends loader processes (no memory, a shard cut short) is its failure, to be told to all."""
    try:
        return next(batches)
    except (RuntimeError, OSError) as error:
        return Step(number, [], Report(), DataError(f"step {number}: the loader processes failed: {error}"))


def _set_up_worker(number: int) -> None:  # noqa: ARG001
    """One thread each, as loader processes share the cores with training, which also decides when they end.

    Ctrl-C and the signals of schedulers reach all processes of a run; training then wants to finish its step.
    """
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
