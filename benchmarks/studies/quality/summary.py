"""From results of runs to the rows of the table: means over seeds, and the gap to the specialists."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from benchmarks.studies.quality.interference import off_diagonal
from benchmarks.studies.quality.results import Result
from benchmarks.studies.quality.scores import Score
from benchmarks.studies.quality.variants import SPECIALISTS, VARIANTS

Values = Mapping[str, float]
"""A value for each question."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its standard error; None with one seed, which says nothing about the spread."""

    mean: float
    error: float | None
    seeds: int


@dataclass(frozen=True)
class Row:
    """One variant."""

    variant: str
    scores: dict[str, Estimate]
    gap: Estimate | None
    """To the specialists, as a share; positive is better than they are."""
    by_task: dict[str, float]
    """The relative difference of each task to its specialists, of which the gap is the mean."""
    interference: Estimate | None
    """The median effect of one task's step on another task, as a share of that of its own; negative is conflict."""
    stored: int
    active: int
    seconds: float


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error over seeds."""
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(fmean(values), error, len(values))


def relative(value: float, reference: float, higher_is_better: bool) -> float:
    """The relative difference to a reference, positive where the value is better."""
    return (value - reference) / abs(reference) * (1 if higher_is_better else -1)


def gap(runs: Sequence[Values], specialists: Mapping[str, Estimate], higher: Mapping[str, bool]) -> Estimate | None:
    """The relative difference to the specialists, averaged over the tasks (Δm of Maninis et al., CVPR 2019).

    `runs`: the values of each seed. The error counts the spread of both sides; the specialists' means are independent
    of each other, the scores of one generalist are not. None where a specialist scores 0: nothing relates to that.
    """
    if not all(reference.mean for reference in specialists.values()):
        return None
    tasks = list(specialists)
    mean = {task: reference.mean for task, reference in specialists.items()}
    each = estimate([fmean(relative(run[task], mean[task], higher[task]) for task in tasks) for run in runs])
    if each.error is None or any(reference.error is None for reference in specialists.values()):
        return Estimate(each.mean, None, each.seeds)
    variance = each.error**2
    for task, reference in specialists.items():
        value = fmean(run[task] for run in runs)
        variance += (value * (reference.error or 0.0) / mean[task] ** 2 / len(tasks)) ** 2
    return Estimate(each.mean, math.sqrt(variance), each.seeds)


def summarise(results: Iterable[Result], tasks: Sequence[str], higher: Mapping[str, bool]) -> list[Row]:
    """A row for each variant with a whole seed, in the order of the variants; `tasks` are those that the gap counts."""
    by_seed: dict[str, dict[int, list[Result]]] = {}
    for result in results:
        by_seed.setdefault(result.variant, {}).setdefault(result.seed, []).append(result)
    whole = {
        variant: [parts for parts in seeds.values() if {task for part in parts for task in part.tasks} >= set(tasks)]
        for variant, seeds in by_seed.items()
    }
    values = {variant: [_values(parts) for parts in seeds] for variant, seeds in whole.items() if seeds}
    specialists = None
    if SPECIALISTS in values:
        specialists = {task: estimate([run[task] for run in values[SPECIALISTS]]) for task in tasks}
    return [
        Row(
            variant,
            {name: estimate([run[name] for run in values[variant]]) for name in values[variant][0]},
            None if specialists is None or variant == SPECIALISTS else gap(values[variant], specialists, higher),
            by_task=_by_task(values[variant], specialists or {}, higher),
            interference=_interference(whole[variant]),
            stored=sum(part.stored for part in whole[variant][0]),
            active=max(part.active for part in whole[variant][0]),
            seconds=fmean(sum(part.seconds for part in parts) for parts in whole[variant]),
        )
        for variant in VARIANTS
        if variant in values
    ]


def _values(parts: Sequence[Result]) -> dict[str, float]:
    """The values of one seed, whether one model has them or several."""
    return {name: score.value for part in parts for name, score in part.scores.items()}


def _by_task(
    runs: Sequence[Values], specialists: Mapping[str, Estimate], higher: Mapping[str, bool]
) -> dict[str, float]:
    return {
        task: relative(fmean(run[task] for run in runs), reference.mean, higher[task])
        for task, reference in specialists.items()
        if reference.mean
    }


def _interference(seeds: Sequence[Sequence[Result]]) -> Estimate | None:
    values = [off_diagonal(part.interference) for parts in seeds for part in parts if part.interference]
    return estimate(values) if values else None


def sampling(results: Iterable[Result]) -> dict[str, Score]:
    """The scores of one run for each question, which say how sure the test data make a number."""
    return {name: score for result in results for name, score in result.scores.items()}
