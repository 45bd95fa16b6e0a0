"""Which samples of which tasks fill an optimizer step: a pure function of (recipe, seed, step), equal on every rank.

Steps come in blocks. In a block each task has a whole number of slots, proportional to its `sample_weight`, spread
evenly. How often a task came before a step is finished blocks × quota + a count inside the block: nothing is replayed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

from unified.config import RecipeError, build
from unified.recipe import Recipe
from unified.seed import generator

FORMAT = 1
LONGEST_BLOCK = 1024
"""Slots. Weights that no shorter block meets exactly are met to one part in so many."""


@dataclass(frozen=True)
class Slot:
    """A batch of one task in an optimizer step: its global samples `start` … `stop` - 1."""

    task: str
    start: int
    stop: int
    ordinal: int  # number of the slot in its step

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Origin:
    """Where a schedule begins: the step, and the samples that each task had seen by then."""

    step: int = 0
    samples: dict[str, int] = field(default_factory=dict)


START = Origin()


def schedule(recipe: Recipe, seed: int, step: int, origin: Origin = START) -> tuple[Slot, ...]:
    """The slots of a step, tasks in the order of the recipe, and different tasks wherever the weights allow it."""
    seen = samples_before(recipe, seed, step, origin)
    slots: list[Slot] = []
    for name, copies in zip(recipe.tasks, _step_counts(recipe, seed, step, origin), strict=True):
        for _ in range(copies):
            stop = seen[name] + recipe.tasks[name].batch
            slots.append(Slot(name, seen[name], stop, len(slots)))
            seen[name] = stop
    return tuple(slots)


def samples_before(recipe: Recipe, seed: int, step: int, origin: Origin = START) -> dict[str, int]:
    """The samples of each task that the steps before `step` used; tasks of earlier segments keep their counts."""
    seen = dict(origin.samples)
    for name in recipe.tasks:
        seen[name] = seen.get(name, 0) + count(recipe, seed, name, step, origin) * recipe.tasks[name].batch
    return seen


def count(recipe: Recipe, seed: int, task: str, step: int, origin: Origin = START) -> int:
    """The slots of a task between the origin and `step`."""
    quotas = block_quotas(recipe)
    number = list(recipe.tasks).index(task)
    block, inside = divmod(step - origin.step, sum(quotas) // recipe.slots)
    rows = _block(quotas, recipe.slots, seed, origin.step, block)
    return block * quotas[number] + sum(row[number] for row in rows[:inside])


def block_quotas(recipe: Recipe) -> tuple[int, ...]:
    """The slots of each task in one block, by largest remainder of the weights; any weight has at least one."""
    weights = [task.sample_weight for task in recipe.tasks.values()]
    for name, weight in zip(recipe.tasks, weights, strict=True):
        if not 0 <= weight < float("inf"):
            raise RecipeError(f"tasks.{name}.sample_weight: expected a number of at least 0, found {weight}")
    if not sum(weights):
        raise RecipeError("tasks: every sample_weight is 0; give at least one task a share")
    if recipe.slots < 1:
        raise RecipeError(f"slots: expected at least 1, found {recipe.slots}")
    return _quotas(tuple(weights), recipe.slots)


@lru_cache(maxsize=256)
def _quotas(weights: tuple[float, ...], slots: int) -> tuple[int, ...]:
    longest = max(LONGEST_BLOCK // slots, len(weights)) * slots
    lengths = range(slots, longest + 1, slots)
    length = next((length for length in lengths if _exact(weights, length)), lengths[-1])
    shares = [weight / sum(weights) * length for weight in weights]
    quotas = [max(int(share + 1e-9), int(share > 0)) for share in shares]
    while sum(quotas) != length:
        sign = 1 if sum(quotas) < length else -1
        movable = [i for i, quota in enumerate(quotas) if shares[i] > 0 and quota + sign > 0]
        quotas[max(movable, key=lambda i: sign * (shares[i] - quotas[i]))] += sign
    return tuple(quotas)


def _exact(weights: tuple[float, ...], length: int) -> bool:
    shares = [weight / sum(weights) * length for weight in weights]
    return all(abs(share - round(share)) < 1e-6 * share for share in shares if share > 0)


def _step_counts(recipe: Recipe, seed: int, step: int, origin: Origin) -> tuple[int, ...]:
    if step < origin.step:
        raise ValueError(f"step {step} is before step {origin.step}, where this schedule begins")
    quotas = block_quotas(recipe)
    block, inside = divmod(step - origin.step, sum(quotas) // recipe.slots)
    return _block(quotas, recipe.slots, seed, origin.step, block)[inside]


@lru_cache(maxsize=8)
def _block(quotas: tuple[int, ...], slots: int, seed: int, first_step: int, block: int) -> tuple[tuple[int, ...], ...]:
    """The slots of each task in each step of a block.

    Every step has the whole part of a task's quota per step. The rest goes, at most once a step, to the tasks whose
    next turn by stride is due (Waldspurger & Weihl 1995; phases are random) and to those that need every step left.
    """
    steps = sum(quotas) // slots
    base = [quota // steps for quota in quotas]
    rest = [quota % steps for quota in quotas]
    phases = generator(seed, "schedule", first_step, block).random(len(quotas))
    due = [phase / left if left else 0.0 for phase, left in zip(phases, rest, strict=True)]
    strides = [1 / left if left else 0.0 for left in rest]
    rows = []
    for step in range(steps):
        waiting = [i for i, left in enumerate(rest) if left]
        waiting.sort(key=lambda i: (rest[i] < steps - step, due[i]))
        row = list(base)
        for i in waiting[: slots - sum(base)]:
            row[i] += 1
            rest[i] -= 1
            due[i] += strides[i]
        rows.append(tuple(row))
    return tuple(rows)


def record(recipe: Recipe, seed: int, step: int, origin: Origin = START) -> dict[str, Any]:
    """What a checkpoint at `step` keeps of the schedule, as plain JSON; `resume` reads it."""
    return {
        "format": FORMAT,
        "plan": _plan(recipe, seed),
        "origin": asdict(origin),
        "samples": samples_before(recipe, seed, step, origin),
    }


def resume(recipe: Recipe, seed: int, step: int, recorded: Mapping[str, Any]) -> Origin:
    """The origin of a run that goes on at `step`: the recorded one, or this step when tasks or weights have changed."""
    if recorded.get("format") != FORMAT:
        raise RecipeError(
            f"schedule: format {recorded.get('format')!r} is not {FORMAT}; a newer version of unified wrote it"
        )
    if recorded["plan"] == _plan(recipe, seed):
        return build(Origin, recorded["origin"], "schedule.origin")
    return build(Origin, {"step": step, "samples": recorded["samples"]}, "schedule")


def _plan(recipe: Recipe, seed: int) -> dict[str, Any]:
    tasks = [[name, float(task.sample_weight), task.batch] for name, task in recipe.tasks.items()]
    return {"seed": seed, "slots": recipe.slots, "tasks": tasks}
