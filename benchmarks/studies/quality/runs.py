"""Carry out the runs one after the other: train, score, note; what is finished is skipped, the rest goes on."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.studies.quality import results
from benchmarks.studies.quality.interference import between_tasks
from benchmarks.studies.quality.plan import Run
from benchmarks.studies.quality.results import Result
from benchmarks.studies.quality.scores import Question, asked_of, spec
from unified import checkpoint
from unified.evaluate.results import write_results
from unified.evaluate.run import evaluate
from unified.hub.load import load
from unified.model import parameter_count
from unified.pipeline.schedule import samples_before
from unified.train import loop
from unified.train.monitor.progress import duration
from unified.train.monitor.records import read_metrics


def carry_out(runs: Sequence[Run], out: Path, questions: Mapping[str, Question]) -> Iterator[tuple[Run, Result]]:
    """Each run with its result; prints how far all of them are.

    Raises `KeyboardInterrupt` when a run was asked to stop; it has saved where it stands.
    """
    found = {
        run.name: results.read(out / run.name, run, asked_of(run.tasks)) for run in runs
    }  # refuses before training
    times = Times()
    for number, run in enumerate(runs, start=1):
        result = found[run.name]
        if result is None:
            left = [r for r in runs[number - 1 :] if found[r.name] is None]
            print(f"[{number}/{len(runs)}] {run.name}: {_outlook(times, left)}", flush=True)
            start = time.monotonic()
            result = found[run.name] = _carry_out(run, out / run.name, questions)
            times.add(run, time.monotonic() - start)
        yield run, result


class Times:
    """How long runs took, to say how long others will take."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._slots: dict[str, int] = {}

    def add(self, run: Run, seconds: float) -> None:
        """Note the duration of a run."""
        self._seconds[run.variant] = self._seconds.get(run.variant, 0.0) + seconds
        self._slots[run.variant] = self._slots.get(run.variant, 0) + run.slots

    def expected(self, runs: Sequence[Run]) -> float | None:
        """Seconds for `runs`, by slots of the same variant, or of all variants where it is a new one."""
        if not self._slots:
            return None
        overall = sum(self._seconds.values()) / sum(self._slots.values())
        rate = {name: self._seconds[name] / self._slots[name] for name in self._slots}
        return sum(run.slots * rate.get(run.variant, overall) for run in runs)


def _outlook(times: Times, left: Sequence[Run]) -> str:
    expected = times.expected(left)
    return f"{len(left)} runs to do" + ("" if expected is None else f", about {duration(expected)} in all")


def _carry_out(run: Run, folder: Path, questions: Mapping[str, Question]) -> Result:
    loop.run(run.recipe, folder)
    newest = checkpoint.newest(folder / "checkpoints")
    if newest is None or checkpoint.load(newest, groups=()).step < run.recipe.max_steps:
        raise KeyboardInterrupt
    result = _scored(run, folder, {name: questions[name] for name in asked_of(run.tasks)})
    results.write(folder, result)
    return result


def _scored(run: Run, folder: Path, asked: Mapping[str, Question]) -> Result:
    """The run's weights on every question."""
    model, processor = load(folder)
    found = evaluate(model, processor, [spec(asked)], name=run.name, command="python -m benchmarks.studies.quality")
    write_results(folder / "results.json", found)  # with every item, for `unified compare`
    return Result(
        run.variant,
        run.seed,
        run.tasks,
        samples=samples_before(run.recipe, run.seed, run.recipe.max_steps),
        seconds=results.training_seconds(run.recipe, read_metrics(folder / "metrics.jsonl")),
        threads=torch.get_num_threads(),
        stored=parameter_count.stored(model.config).total,
        active=parameter_count.active(model.config).total,
        interference=between_tasks(folder, run.recipe) if len(run.tasks) > 1 else {},
        scores={name: question.score(found) for name, question in asked.items()},
    )
