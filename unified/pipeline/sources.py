"""The data of tasks: their shards, and where each of a task's samples lies in them."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from unified.config.recipe import Recipe
from unified.data.shards.patterns import several
from unified.data.shards.shards import Shards
from unified.pipeline.grouped import Together, identities_of
from unified.pipeline.permutation import positions
from unified.pipeline.schedule import Origin, mixture, weighed


@dataclass(frozen=True)
class TaskData:
    """The shards of a task, and the numbers of samples of those of each data set that it mixes."""

    shards: Shards
    sets: tuple[tuple[int, ...], ...]


def open_data(recipe: Recipe) -> tuple[Recipe, dict[str, TaskData]]:
    """The recipe with the weights that sizes give, and the data of its tasks, opened once where they are the same.

    Raises `DataError` where shards are missing or wrong.
    """
    opened: dict[tuple[str, ...], Shards] = {}
    joined: dict[tuple[tuple[str, ...], ...], TaskData] = {}
    found = {}
    for name, task in recipe.tasks.items():
        patterns = several(task.data)
        sets = tuple((pattern,) for pattern in patterns) if task.data_weights else (tuple(patterns),)
        for entries in sets:
            if entries not in opened:
                opened[entries] = Shards.open(entries, recipe.data)
        if sets not in joined:
            parts = [opened[entries] for entries in sets]
            whole = parts[0] if len(parts) == 1 else Shards([file for part in parts for file in part.files])
            joined[sets] = TaskData(whole, tuple(part.sizes for part in parts))
        found[name] = joined[sets]
    return weighed(recipe, {name: len(data.shards) for name, data in found.items()}), found


class SampleOrder:
    """Where a task's samples lie in its shards, and how often they have been seen."""

    def __init__(self, recipe: Recipe, task: str, data: TaskData, origin: Origin) -> None:
        self._seed, self._task, self._sets = recipe.seed, task, data.sets
        self._window = recipe.data.window
        self._mixture = mixture(recipe, recipe.seed, task, origin) if recipe.tasks[task].data_weights else None
        together = recipe.tasks[task].together
        self._together = Together(recipe.seed, task, identities_of(data.shards), together) if together > 1 else None
        self._sizes = [sum(sizes) for sizes in data.sets]
        self._firsts = [0, *accumulate(self._sizes)]

    def positions(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place in the task's shards of each of its samples `indices`."""
        if self._together is not None:
            return self._together.positions(indices)
        if self._mixture is None:
            return positions(self._seed, self._task, indices, self._sets[0], self._window)
        sets, inner = self._mixture.choose(indices)
        result = np.empty_like(inner)
        for number, sizes in enumerate(self._sets):
            rows = sets == number
            if rows.any():
                places = positions(self._seed, f"{self._task}[{number}]", inner[rows], sizes, self._window)
                result[rows] = self._firsts[number] + places
        return result

    def epochs(self, index: int) -> dict[str, float]:
        """How often the data were seen before the task's sample `index`: of "TASK", and of "TASK/NUMBER" for a set."""
        found = {self._task: index / sum(self._sizes)}
        if self._mixture is not None:
            counts = self._mixture.seen(index).values()
            for number, (count, size) in enumerate(zip(counts, self._sizes, strict=True)):
                found[f"{self._task}/{number}"] = count / size
        return found


def epochs(orders: Mapping[str, SampleOrder], seen: Mapping[str, int]) -> dict[str, float]:
    """`epochs/…` of all tasks after so many samples of each, for the log."""
    return {
        f"epochs/{name}": value for task, order in orders.items() for name, value in order.epochs(seen[task]).items()
    }
