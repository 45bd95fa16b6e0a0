"""Which runs there are, and the recipe of each: equal data, and a schedule that keeps its shape when steps are fewer.

A specialist takes one step for each slot that the generalist of the same seed gives its task, and sees in it the very
samples of that slot: the order of a task's samples depends on seed, task and number alone. The specialists of a seed
together thus have one generalist's budget of samples, and each as many updates as the generalist has with its task.

Warm-up keeps its share of a run's steps. As runs are short, the weights themselves are scored, at the end of a rate
that falls to nothing: their moving average would still hold much of the beginning.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.studies.quality.variants import SPECIALISTS, VARIANTS, Variant
from unified.config.recipe import Recipe
from unified.core.errors import RecipeError, nearest
from unified.core.schema import build, merge, read_yaml
from unified.pipeline.schedule import count

BASE = "recipes/quickstart.yaml"
OWN: dict[str, Any] = {
    "optim": {"ema": None, "final_lr": 0.0},
    "data": {"cache_mb": 400},
    "train": {"save_every": 100, "log_every": 50, "keep_last": 1, "eval_every": None},
}
"""What all runs have beside the base recipe; they are saved often, so that a stopped one loses little."""


@dataclass(frozen=True)
class Run:
    """One training."""

    variant: str
    seed: int
    tasks: tuple[str, ...]
    recipe: Recipe

    @property
    def name(self) -> str:
        """The run's folder."""
        part = f"-{self.tasks[0]}" if self.variant == SPECIALISTS else ""
        return f"{self.variant}{part}-{self.seed}"

    @property
    def slots(self) -> int:
        """Batches of the run: what its duration is in proportion to."""
        return self.recipe.max_steps * self.recipe.slots


def plan(steps: int, only: Sequence[str] = (), seeds: int | None = None, base: Path | str = BASE) -> list[Run]:
    """All runs, first those of seed 0, so that a first table is there early.

    `only`: names of variants; none: all that are no extras. `seeds`: for each variant, instead of its own number.
    """
    content = merge(read_yaml(base), OWN)
    chosen = {name: _variant(name) for name in only} or {n: v for n, v in VARIANTS.items() if not v.extra}
    numbers = {name: variant.seeds if seeds is None else seeds for name, variant in chosen.items()}
    return [
        run
        for seed in range(max(numbers.values()))
        for name, variant in chosen.items()
        if seed < numbers[name]
        for run in _runs(name, _generalist(content, variant.changes, steps, seed, str(base)))
    ]


def _variant(name: str) -> Variant:
    if name not in VARIANTS:
        raise RecipeError(f"--only: {name!r} is not a variant{nearest(name, list(VARIANTS))}")
    return VARIANTS[name]


def _generalist(content: Mapping[str, Any], changes: Mapping[str, Any], steps: int, seed: int, where: str) -> Recipe:
    changed = merge(merge(content, changes), {"seed": seed})
    return scaled(build(Recipe, changed, where), steps)


def scaled(recipe: Recipe, steps: int) -> Recipe:
    """The recipe over another number of steps, with a warm-up of the same share."""
    warmup = round(recipe.optim.warmup * steps / recipe.max_steps)
    return replace(recipe, max_steps=steps, optim=replace(recipe.optim, warmup=warmup))


def _runs(variant: str, generalist: Recipe) -> Iterator[Run]:
    if variant == SPECIALISTS:
        for task, steps in budget(generalist).items():
            yield Run(variant, generalist.seed, (task,), specialist(generalist, task, steps))
    else:
        yield Run(variant, generalist.seed, tuple(generalist.tasks), generalist)


def budget(recipe: Recipe) -> dict[str, int]:
    """The slots of each task in a whole run, at least one: the steps of its specialist."""
    return {task: max(1, count(recipe, recipe.seed, task, recipe.max_steps)) for task in recipe.tasks}


def specialist(generalist: Recipe, task: str, steps: int) -> Recipe:
    """The generalist's recipe for one task, one slot a step."""
    return replace(scaled(generalist, steps), tasks={task: generalist.tasks[task]}, slots=1)
