"""Which samples of which tasks fill an optimizer step: a pure function of (recipe, seed, step), equal on every rank.

Steps come in blocks. In a block each task has a whole number of slots, proportional to its `sample_weight`, spread
evenly. How often a task came before a step is finished blocks × quota + a count inside the block: nothing is replayed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unified.config.recipe import Recipe
from unified.config.task import Task
from unified.core.printed import quoted
from unified.core.schema import RecipeError, build
from unified.core.seed import generator
from unified.pipeline.mixture import Mixture, set_names
from unified.pipeline.quotas import divided, quotas, spread

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
    blocks = _Blocks.of(recipe, seed, origin)
    block, inside = divmod(step - origin.step, blocks.steps)
    return blocks.before(block)[number] + sum(row[number] for row in blocks.rows(block)[:inside])


@dataclass(frozen=True)
class _Blocks:
    """The blocks of a schedule: of one kind, or with shares drawn anew for each (`mixing.alpha`)."""

    quotas: tuple[int, ...]
    slots: int
    key: tuple[int | str, ...]
    alpha: float | None
    steps: int

    @classmethod
    def of(cls, recipe: Recipe, seed: int, origin: Origin) -> "_Blocks":
        quotas, mixing = block_quotas(recipe), recipe.mixing
        steps = sum(quotas) // recipe.slots if mixing.alpha is None else mixing.block
        return cls(quotas, recipe.slots, (seed, "schedule", origin.step), mixing.alpha, steps)

    def before(self, block: int) -> list[int]:
        """The slots of each task in all blocks before one."""
        if self.alpha is None:
            return [block * quota for quota in self.quotas]
        return _totals(self, 1 << max(block - 1, 0).bit_length())[block].tolist()

    def rows(self, block: int) -> tuple[tuple[int, ...], ...]:
        """The slots of each task in each step of a block."""
        quotas = self.quotas if self.alpha is None else self.drawn(block)
        return spread(quotas, self.slots, (*self.key, block))

    def drawn(self, block: int) -> tuple[int, ...]:
        """The slots of a block whose shares are drawn: Dirichlet, with the mean of the weights."""
        assert self.alpha is not None
        mean = np.array(self.quotas, dtype=np.float64) / sum(self.quotas)
        shares = generator(*self.key, block, "shares").gamma(self.alpha * len(mean) * mean)
        return divided(tuple(np.maximum(shares, 1e-12 * (mean > 0)).tolist()), self.slots * self.steps)


@lru_cache(maxsize=8)
def _totals(blocks: _Blocks, count: int) -> NDArray[np.int64]:
    """The slots of each task before each of the first `count` + 1 blocks, (count + 1, tasks)."""
    drawn = np.array([blocks.drawn(block) for block in range(count)], dtype=np.int64)
    return np.concatenate([np.zeros_like(drawn[:1]), np.cumsum(drawn, axis=0)])


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
    blocks = _Blocks.of(recipe, seed, origin)
    block, inside = divmod(step - origin.step, blocks.steps)
    return blocks.rows(block)[inside]


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
    if recorded.get("format") != FORMAT:
        raise RecipeError(
            f"schedule: format {quoted(recorded.get('format'))} is not {FORMAT}; a newer version of unified wrote it"
        )
    if recorded["plan"] == _plan(recipe, seed):
        return build(Origin, recorded["origin"], "schedule.origin")
    sets = recorded.get("sets", {})
    return build(Origin, {"step": step, "samples": recorded["samples"], "sets": sets}, "schedule")


def _plan(recipe: Recipe, seed: int) -> dict[str, Any]:
    tasks = [[name, float(task.sample_weight), task.batch, *_sets(task)] for name, task in recipe.tasks.items()]
    plan = {"seed": seed, "slots": recipe.slots, "tasks": tasks}
    return plan if recipe.mixing.alpha is None else {**plan, "alpha": [recipe.mixing.alpha, recipe.mixing.block]}


def _sets(task: Task) -> list[Any]:
    """The data sets that a task mixes and their weights, as JSON; nothing where it has one."""
    return [[list(pair) for pair in zip(set_names(task), task.data_weights, strict=True)]] if task.data_weights else []
