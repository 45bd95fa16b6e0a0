"""How clipping, speed and memory go over a run: what is not seen at its ends alone."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from unified.reports.run.read import TRAINED, Curve, Run
from unified.reports.run_findings import MEDIAN_DIFFERENCE, TAIL, THIRD, Diagnosis, Limit

CLIPPED = Limit(0.9, "fraction of the records after warm-up with a clipped gradient: more is a limit that always holds")
SLOWER = Limit(0.2, "share of the speed that may be lost from the first quarter to the last: machines vary by less")
STRETCH = Limit(0.05, "fraction of the records, one after the other, that must be slow to be a stretch")
SMOOTHED = Limit(5, "records whose median speed is looked at: tasks of different samples take turns")
GROWTH = Limit(0.1, "fraction by which memory may grow from the first quarter of a process to its end")
FAST = 75
"""Percentile of the speeds that is taken for the usual one: a slow half of the run does not lower it."""
SPREADS = 3.0
QUARTERS = 4

COURSE_LIMITS = {
    "clipped": CLIPPED, "slower": SLOWER, "stretch": STRETCH, "smoothed": SMOOTHED, "growth": GROWTH,
}  # fmt: skip


def clipping(run: Run) -> Iterator[Diagnosis]:
    """Gradients that are clipped at nearly every step, so that the learning rate is not what the recipe says."""
    limit = run.recipe.optim.clip
    norms = run.curve(TRAINED).finite()
    values = norms.values[norms.steps > run.recipe.optim.warmup]
    if limit is None or len(values) < 3 * THIRD.value:
        return
    share = float((values > limit).mean())
    if share >= CLIPPED.value:
        median = float(np.median(values))
        yield Diagnosis(
            "clipped", "note",
            f"gradients are clipped in {share:.0%} of the records after warm-up: their norm is {median:.4g} (median), "
            f"optim.clip {limit:g}. Steps are then as long as the limit says, whatever the gradient is. Raise "
            f"optim.clip above {median:.2g}, or lower the learning rate if the loss is unsteady",
        )  # fmt: skip


def speed(run: Run) -> Iterator[Diagnosis]:
    """Training that has become slower, or that was slow for a while."""
    ends = speeds(run)
    if ends is None:
        return
    first, last, spread = ends
    slower = last < first * (1 - SLOWER.value) and last < first - SPREADS * spread
    if slower:
        yield Diagnosis(
            "slower", "problem",
            f"training has become slower: {first:.4g} samples/s in the first quarter of the records, {last:.4g} in the "
            f"last ({last / first - 1:.0%}). Other processes on the machine, a full disk cache, or heat",
        )  # fmt: skip
    measured = _measured(run)
    for begin, end in slow_stretches(measured.values):
        if slower and end == len(measured.values):
            continue  # told above
        inside = float(np.median(measured.values[begin:end]))
        usual = float(np.percentile(measured.values, FAST))
        steps = int(measured.steps[begin]), int(measured.steps[end - 1])
        yield Diagnosis(
            "slow stretch", "problem",
            f"training was slow from step {steps[0]} to {steps[1]}: {inside:.4g} samples/s, usually {usual:.4g} "
            f"({inside / usual - 1:.0%}). Look at what else ran on the machine then, and at the time of these records",
            steps,
        )  # fmt: skip


def slow_stretches(values: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return the stretches of values, as first place and place after the last, that lie below the usual speed."""
    if len(values) < QUARTERS * THIRD.value:
        return []
    smooth = median_filter(values, int(SMOOTHED.value), mode="nearest")
    usual = float(np.percentile(smooth, FAST))
    spread = float(np.median(np.abs(np.diff(values)))) / MEDIAN_DIFFERENCE
    slow = smooth < min(usual * (1 - SLOWER.value), usual - SPREADS * spread)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], slow.astype(np.int8), [0]])))
    least = max(STRETCH.value * len(values), THIRD.value)
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2) if b - a >= least]


def _measured(run: Run) -> Curve:
    """Samples/s of the records that no warm-up is in."""
    kept = ~run.first_of_process()
    steps = np.array([record["step"] for record in run.records])[kept]
    values = np.array([record["samples_per_second"] for record in run.records], dtype=np.float64)[kept]
    return Curve(steps, values).finite()


def speeds(run: Run) -> tuple[float, float, float] | None:
    """Median samples/s of the first and the last part of the records, and the spread of the first; None of too few."""
    values = _measured(run).values
    part = int(len(values) * TAIL.value)
    if part < THIRD.value:
        return None
    first, last = float(np.median(values[:part])), float(np.median(values[-part:]))
    return first, last, float(1.4826 * np.median(np.abs(values[:part] - first)))


def memory(run: Run) -> Iterator[Diagnosis]:
    """Memory of the newest process that keeps growing: it ends where the machine's does."""
    begin = max((resume.step for resume in run.resumes), default=0)
    for name in run.names("memory/"):
        curve = run.curve(name).finite()
        steps, values = curve.steps[curve.steps > begin], curve.values[curve.steps > begin]
        if len(values) < QUARTERS * THIRD.value:
            continue
        ends = [float(np.median(part[-int(THIRD.value) :])) for part in np.array_split(values, QUARTERS)]
        grown = ends[-1] - ends[0]
        even = grown / (QUARTERS - 1)
        # What fills up once, such as a cache, grows in the first quarters alone.
        lasting = ends[-1] - ends[-2] > even / 2 and ends[-2] - ends[-3] > 0
        if grown > GROWTH.value * ends[0] and lasting:
            where = name.removeprefix("memory/").removesuffix("_gib")
            many = 1000 * (ends[-1] - ends[-2]) / max(float(steps[-1] - steps[-1 - len(steps) // QUARTERS]), 1.0)
            yield Diagnosis(
                "memory", "problem",
                f"memory keeps growing ({where}): {ends[0]:.3g} GiB after the first quarter of the process, "
                f"{ends[-1]:.3g} GiB now, {many:.2g} GiB more in 1,000 steps. A cache that is not full yet "
                "(data.cache_mb), or memory that is not given back",
                subject=where,
            )  # fmt: skip
