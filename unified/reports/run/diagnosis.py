"""What is wrong with a run, in words: from its records and its log, each by a limit that is stated."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unified.pipeline.loader import SETTLED
from unified.reports.experts.routing import COLLAPSED, CROWDED
from unified.reports.run.read import TRAINED, Curve, Run, not_finite
from unified.reports.run_course import COURSE_LIMITS, clipping, memory, speed
from unified.reports.run_findings import MEDIAN_DIFFERENCE, TAIL, THIRD, Diagnosis, Level, Limit

DATA_BOUND = Limit(
    0.1, "share of the time that may be spent waiting for data: more is speed that loader processes give"
)
WINDOW = Limit(
    11,
    "values before a value whose median is the usual one: so few that a curve that rises evenly, whose "
    "median lies 6 steps behind, is never above it by 6 spreads",
)
STEADY = Limit(
    50, "differences of neighbours before a value that say how much is noise: the trend hardly counts in them"
)
BEFORE = Limit(8, "values that must come before one that is judged: a median and spread of fewer say little")
SPIKE = Limit(6.0, "spreads (standard deviations, by the median difference) above that median: noise does not reach it")
LOSS_RISE = Limit(0.1, "share above the running median as well: less does no harm, however even the curve is")
NORM_RISE = Limit(1.0, "the same of gradient norms, which differ much from step to step")
FALL = Limit(0.02, "share by which a loss falls at least from the first third to the last one: less may be noise")
RISE = Limit(0.1, "share by which the last third may lie above the lowest third: more is a loss that rises again")
LEARNED = Limit(0.01, "nats: a loss below need not fall any more, and a rise by less is no spike")
UNEVEN = Limit(
    1.15, "times the mean of all ranks that the forward passes of the slowest may take: the others wait for the rest"
)
NEAR_BAD = Limit(0.5, "share of data.max_bad_fraction: beyond it a run that stops over bad samples is near")
COLLAPSE = Limit(COLLAPSED, "equally busy experts that are as diverse as a load: fewer is a layer that has collapsed")
CROWD = Limit(CROWDED, "share of the load that one expert may have")
PART = "gradient_norm/"
HALF = 0.5
SHOWN = 4
"""Places or events that a sentence names; the rest is counted."""

LIMITS = {
    "data_bound": DATA_BOUND, "window": WINDOW, "steady": STEADY, "before": BEFORE, "spike": SPIKE,
    "loss_rise": LOSS_RISE, "norm_rise": NORM_RISE, "third": THIRD, "fall": FALL, "rise": RISE,
    "learned": LEARNED, "uneven": UNEVEN, "tail": TAIL, "near_bad": NEAR_BAD,
    "collapse": COLLAPSE, "crowd": CROWD, **COURSE_LIMITS,
}  # fmt: skip


@dataclass(frozen=True)
class Spike:
    """A rise above what was usual, over one or more neighbouring records."""

    first: int
    last: int
    peak: float
    usual: float


def diagnose(run: Run) -> list[Diagnosis]:
    """All that is found, problems first."""
    found = [diagnosis for look in LOOKS for diagnosis in look(run)]
    return sorted(found, key=lambda diagnosis: diagnosis.level != "problem")


def numbers(run: Run) -> Iterator[Diagnosis]:
    """Values that are not finite."""
    for name, steps in not_finite([*run.records, *run.evaluations]).items():
        yield Diagnosis(
            "not finite", "problem",
            f"{name} is not a finite number in {_count(len(steps), 'record')}, first at step {steps[0]}",
            tuple(steps), name,
        )  # fmt: skip


def loss_spikes(run: Run) -> Iterator[Diagnosis]:
    """Losses far above what was usual."""
    for task in run.tasks():
        if found := spikes(run.curve(f"loss/{task}"), LOSS_RISE.value, LEARNED.value):
            yield _spiked("loss spike", "problem", f"the loss of {task}", task, found)


def gradient_spikes(run: Run) -> Iterator[Diagnosis]:
    """Gradient norms far above what was usual; of the steps that were recorded, which are not all."""
    if found := spikes(run.curve("gradient_norm"), NORM_RISE.value):
        yield _spiked("gradient spike", "note", "the gradient norm (before clipping, of recorded steps)", None, found)
        highest = max(found, key=lambda spike: spike.peak)
        record = next(one for one in run.records if one["step"] >= highest.first and one[TRAINED] == highest.peak)
        parts = {name.removeprefix(PART): record[name] for name in run.names(PART) if name in record}
        if parts:
            part = max(parts, key=lambda name: parts[name])
            yield Diagnosis(
                "spike in part", "note",
                f"at the highest, step {record['step']}, most of the gradient was in {part} "
                f"(norm {parts[part]:.4g} of {highest.peak:.4g})", (int(record["step"]),), part,
            )  # fmt: skip


def _spiked(kind: str, level: Level, what: str, subject: str | None, found: Sequence[Spike]) -> Diagnosis:
    worst = sorted(found, key=lambda spike: spike.usual - spike.peak)[:SHOWN]
    words = [
        f"step {spike.first}{f' to {spike.last}' if spike.last > spike.first else ''} "
        f"({spike.peak:.4g}, usually {spike.usual:.4g})"
        for spike in sorted(worst, key=lambda spike: spike.first)
    ]
    times = "" if len(found) == 1 else f" {len(found)} times"
    more = f"; the highest: {', '.join(words)}" if len(found) > len(words) else f": {', '.join(words)}"
    return Diagnosis(kind, level, f"{what} spiked{times}{more}", tuple(spike.first for spike in found), subject)


def spikes(curve: Curve, rise: float, least: float = 0.0) -> list[Spike]:
    """Values above what is usual by `SPIKE` spreads, by the share `rise` of it, and by `least`."""
    curve = curve.finite()
    usual, spread = running(curve.values)
    above = np.maximum(np.maximum(SPIKE.value * spread, rise * usual), least)
    high = np.flatnonzero(curve.values > usual + above)
    found = []
    for group in np.split(high, np.flatnonzero(np.diff(high) > 1) + 1) if len(high) else ():
        peak = group[curve.values[group].argmax()]
        ends = int(curve.steps[group[0]]), int(curve.steps[group[-1]])
        found.append(Spike(*ends, float(curve.values[peak]), float(usual[peak])))
    return found


def running(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median and spread of the values before each; infinite, so that nothing is above, where these are too few.

    The spread is that of Gaussian noise with the same median difference of neighbours (von Neumann et al., 1941, with
    a median in place of a mean), which an outlier or a trend hardly changes.
    """
    before = int(BEFORE.value)
    median, spread = np.full((2, len(values)), np.inf)
    if len(values) > before:
        differences = np.abs(np.diff(values, prepend=np.nan))
        median[before:] = np.nanmedian(_preceding(values, int(WINDOW.value))[before:], axis=1)
        spread[before:] = np.nanmedian(_preceding(differences, int(STEADY.value))[before:], axis=1) / MEDIAN_DIFFERENCE
    return median, spread


def _preceding(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The values before each, NaN where there are none: (values, count)."""
    padded = np.concatenate([np.full(count, np.nan), values[:-1]])
    return np.lib.stride_tricks.sliding_window_view(padded, count)


def losses(run: Run) -> Iterator[Diagnosis]:
    """Tasks that are not learned, once warm-up is over."""
    for task in run.tasks():
        found = run.curve(f"loss/{task}").finite()
        values = found.values[found.steps > run.recipe.optim.warmup]
        if len(values) < 3 * THIRD.value:
            continue
        first, middle, last = (float(np.median(part)) for part in np.array_split(values, 3))
        lowest = min(first, middle)
        if max(first, last) < LEARNED.value:
            continue
        if last > first * (1 - FALL.value):
            yield Diagnosis(
                "no fall", "problem",
                f"the loss of {task} does not fall: {first:.4g} in the first third after warm-up, {last:.4g} in the "
                "last. Look at its samples (`unified shards inspect`), the learning rate, and the task's share of the "
                "slots; a task that was learned before need not fall",
                subject=task,
            )  # fmt: skip
        elif last > lowest * (1 + RISE.value):
            yield Diagnosis(
                "rises", "problem",
                f"the loss of {task} rises again: {lowest:.4g} at its lowest third, {last:.4g} in the last one",
                subject=task,
            )  # fmt: skip
    missing = [task for task in run.recipe.tasks if task not in run.tasks()]
    if missing and len(run.records) > BEFORE.value:
        yield Diagnosis(
            "unseen", "note", f"no step until now had {', '.join(missing)}; look at the weights of the tasks"
        )


def data(run: Run) -> Iterator[Diagnosis]:
    """Training that waits for its loader."""
    share = waiting(run)
    if share is not None and share > DATA_BOUND.value:
        yield Diagnosis(
            "data-bound", "problem",
            f"data-bound: {share:.0%} of the time was spent waiting for data (limit {DATA_BOUND.value:.0%}). More "
            f"loader processes (data.workers, now {run.recipe.data.workers}), data.cache_mb for small pictures, or a "
            "faster disk",
        )  # fmt: skip
    if run.stalls:
        yield Diagnosis(
            "stall", "problem", f"the loader stalled {_count(len(run.stalls), 'time')}; the last: {run.stalls[-1]}"
        )


def waiting(run: Run) -> float | None:
    """The share of the training time spent waiting for data, without the first record of each process."""
    kept = ~run.first_of_process()
    waits = np.array([record["data_wait"] for record in run.records])[kept]
    speeds = np.array([record["samples_per_second"] for record in run.records])[kept]
    fine = np.isfinite(waits) & np.isfinite(speeds) & (speeds > 0)
    if not fine.any():
        return None
    seconds = run.covered()[kept][fine] / speeds[fine]  # in proportion: steps have about as many samples
    return float((waits[fine] * seconds).sum() / seconds.sum())


def ranks(run: Run) -> Iterator[Diagnosis]:
    """A rank that is slower than the others, in the last records."""
    slow = run.curve("imbalance").finite().values
    part = max(int(len(slow) * TAIL.value), int(THIRD.value))
    if len(slow) < part or float(np.median(slow[-part:])) < UNEVEN.value:
        return
    named = [record["slowest_rank"] for record in run.records if "slowest_rank" in record][-part:]
    worst = max(set(named), key=named.count)
    often = named.count(worst) / len(named)
    who = (
        f"rank {worst} is the slowest in {often:.0%} of the records: look at its machine"
        if often > HALF
        else ("now one rank is slow, now another: texts of different lengths, or machines that others use as well")
    )
    yield Diagnosis(
        "imbalance", "problem",
        f"ranks differ: the slowest takes {np.median(slow[-part:]):.2f} times the mean for its forward passes "
        f"(limit {UNEVEN.value:.2f}), and the others wait for it; {who}", subject=str(worst),
    )  # fmt: skip


def skipped(run: Run) -> Iterator[Diagnosis]:
    """Steps that changed nothing, as a loss or a gradient was not finite."""
    counts = run.curve("skipped_steps").finite()
    if len(counts.values) and counts.values[-1] > 0:
        rises = counts.steps[np.flatnonzero(np.diff(counts.values, prepend=0) > 0)]
        yield Diagnosis(
            "skipped steps", "note",
            f"{_count(int(counts.values[-1]), 'step')} changed nothing, as a loss or a gradient was not finite; "
            f"log.txt names tasks and samples. Recorded at step {_some([str(step) for step in rises])}",
            tuple(int(step) for step in rises),
        )  # fmt: skip


def experts(run: Run) -> Iterator[Diagnosis]:
    """Experts that nothing reaches, and layers in which few do all; by the last records."""
    rows, settings = run.rows(), run.recipe.model.experts
    if settings is None or rows == 1:  # one row has the same experts for every token
        return
    loads = late_loads(run)
    collapsed = {place: effective(load) for place, load in loads.items() if effective(load) < COLLAPSE.value}
    where = [f"{place} (as diverse as {value:.2f} of {settings.count})" for place, value in collapsed.items()]
    crowded = [
        f"{place} (expert {int(load.argmax())} has {load.max():.0%})"
        for place, load in loads.items()
        if place not in collapsed and load.max() > CROWD.value
    ]
    see = "`unified report routing` shows who uses which"
    if where:
        yield Diagnosis("collapsed", "problem", f"experts have collapsed in {_some(where)}; {see}")
    if crowded:
        yield Diagnosis("crowded", "problem", f"one expert does nearly all in {_some(crowded)}; {see}")
    if rows is not None and rows * settings.top < settings.count:
        return  # too few kinds of token for all experts
    idle = {place: np.flatnonzero(load == 0).tolist() for place, load in loads.items()}
    names = [f"{place} ({', '.join(map(str, found))})" for place, found in idle.items() if found]
    if names:
        total, every = sum(map(len, idle.values())), sum(map(len, loads.values()))
        why = "; few kinds of token need few experts" if rows is not None else ""
        yield Diagnosis(
            "idle", "note" if rows is not None else "problem",
            f"{total} of {every} experts had nothing to do in the last records: {_some(names)}{why}; {see}",
        )  # fmt: skip


def late_loads(run: Run) -> dict[str, NDArray[np.float64]]:
    """By layer and decision the share of each expert in the last records, as many as it takes to have every task."""
    begin = len(run.records) - max(int(len(run.records) * TAIL.value), 1)
    wanted = {f"loss/{task}" for task in run.tasks()}
    while begin > 0 and not wanted <= {name for record in run.records[begin:] for name in record}:
        begin -= 1
    found = {}
    for name in run.names("experts/"):
        if name.endswith("/load"):
            pairs = zip(run.records[begin:], run.covered()[begin:], strict=True)
            load = sum(np.array(record[name], dtype=np.float64) * steps for record, steps in pairs if name in record)
            if np.size(load) > 1 and np.isfinite(load).all() and np.sum(load) > 0:
                found[name.removeprefix("experts/").removesuffix("/load")] = np.asarray(load / np.sum(load))
    return found


def effective(load: NDArray[np.float64]) -> float:
    """How many equally busy experts would be as diverse as these shares."""
    busy = load[load > 0]
    return float(np.exp(-(busy * np.log(busy)).sum()))


def samples(run: Run) -> Iterator[Diagnosis]:
    """Samples that could not be used."""
    found, limit = run.samples, run.recipe.data.max_bad_fraction
    if not found.bad:
        return
    share = found.bad / max(found.seen or 0, SETTLED)
    near = share > limit * NEAR_BAD.value
    of = "" if found.seen is None else f" of {found.seen:,} until the newest checkpoint"
    last = f". The last: {found.named[-1]}" if found.named else ""
    yield Diagnosis(
        "bad samples", "problem" if near else "note",
        f"{_count(found.bad, 'bad sample')}{of}, replaced by the next good ones "
        f"({share:.3%}; training stops above data.max_bad_fraction, {limit:.3%}). `unified shards verify` names "
        f"them{last}",
    )  # fmt: skip


def resumed(run: Run) -> Iterator[Diagnosis]:
    """Where the run went on from a checkpoint, and what the curves do not have for that."""
    words = []
    for resume in run.resumes:
        again = f", {_count(resume.repeated, 'step')} done again" if resume.repeated else ""
        gap = f", steps {resume.gap[0]} to {resume.gap[1]} are in no record" if resume.gap else ""
        words.append(f"from step {resume.step}{again}{gap}")
    if words:
        steps = tuple(resume.step for resume in run.resumes)
        yield Diagnosis("resumed", "note", f"resumed {_count(len(words), 'time')}: {'; '.join(words)}", steps)
    if run.overwritten:
        yield Diagnosis(
            "overwritten", "note",
            f"{_count(run.overwritten, 'record')} left out, as later records go back to earlier steps",
        )  # fmt: skip


LOOKS = (
    *(numbers, loss_spikes, losses, clipping, experts, data, ranks, speed, memory),
    *(skipped, gradient_spikes, samples, resumed),
)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
