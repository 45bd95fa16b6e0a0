"""Which samples of which tasks fill an optimizer step: a pure function of (recipe, seed, step), equal on every rank.

Steps come in blocks. In a block each task has a whole number of slots, proportional to its `sample_weight`, spread
evenly. How often a task came before a step is finished blocks × quota + a count inside the block: nothing is replayed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from unified.config.recipe import Recipe
from unified.config.task import Task
from unified.core.errors import RecipeError
from unified.core.schema import build
from unified.core.version import check_format
from unified.pipeline.mixture import Mixture, set_names
from unified.pipeline.quotas import quotas, spread

FORMAT = 1


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
    sets: dict[str, dict[str, int]] = field(default_factory=dict)
    """By task and data set, the samples that had come from it, where a task mixes several."""


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
    number = list(recipe.tasks).index(task)
    whole = block_quotas(recipe)
    block, inside = divmod(step - origin.step, sum(whole) // recipe.slots)
    rows = spread(whole, recipe.slots, (seed, "schedule", origin.step, block))
    return block * whole[number] + sum(row[number] for row in rows[:inside])


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
    return quotas(tuple(weights), recipe.slots)


def _step_counts(recipe: Recipe, seed: int, step: int, origin: Origin) -> tuple[int, ...]:
    if step < origin.step:
        raise ValueError(f"step {step} is before step {origin.step}, where this schedule begins")
    whole = block_quotas(recipe)
    block, inside = divmod(step - origin.step, sum(whole) // recipe.slots)
    return spread(whole, recipe.slots, (seed, "schedule", origin.step, block))[inside]


def mixture(recipe: Recipe, seed: int, task: str, origin: Origin = START) -> Mixture:
    """How the data sets of a task are mixed since the origin."""
    start, counts = origin.samples.get(task, 0), origin.sets.get(task, {})
    return Mixture.of(recipe.tasks[task], (seed, "data sets", task), start, counts)


def weighed(recipe: Recipe, sizes: Mapping[str, int]) -> Recipe:
    """The recipe with the weights that `mixing.temperature` gives to data of so many samples (by task)."""
    temperature = recipe.mixing.temperature
    if temperature is None:
        return recipe
    tasks = {
        name: replace(task, sample_weight=task.sample_weight * sizes[name] ** (1 / temperature))
        for name, task in recipe.tasks.items()
    }
    return replace(recipe, tasks=tasks, mixing=replace(recipe.mixing, temperature=None))


def record(recipe: Recipe, seed: int, step: int, origin: Origin = START) -> dict[str, Any]:
    """What a checkpoint at `step` keeps of the schedule, as plain JSON; `resume` reads it."""
    samples = samples_before(recipe, seed, step, origin)
    mixed = [name for name, task in recipe.tasks.items() if task.data_weights]
    return {
        "format": FORMAT,
        "plan": _plan(recipe, seed),
        "origin": asdict(origin),
        "samples": samples,
        "sets": {**origin.sets, **{name: mixture(recipe, seed, name, origin).seen(samples[name]) for name in mixed}},
    }


def resume(recipe: Recipe, seed: int, step: int, recorded: Mapping[str, Any]) -> Origin:
    """The origin of a run that goes on at `step`: the recorded one, or this step when tasks or weights have changed."""
    check_format(recorded.get("format"), FORMAT, "schedule", RecipeError)
    if recorded["plan"] == _plan(recipe, seed):
        return build(Origin, recorded["origin"], "schedule.origin")
    sets = recorded.get("sets", {})
    return build(Origin, {"step": step, "samples": recorded["samples"], "sets": sets}, "schedule")


def _plan(recipe: Recipe, seed: int) -> dict[str, Any]:
    tasks = [[name, float(task.sample_weight), task.batch, *_sets(task)] for name, task in recipe.tasks.items()]
    return {"seed": seed, "slots": recipe.slots, "tasks": tasks}


def _sets(task: Task) -> list[Any]:
    """The data sets that a task mixes and their weights, as JSON; nothing where it has one."""
    return [[list(pair) for pair in zip(set_names(task), task.data_weights, strict=True)]] if task.data_weights else []
