"""How much the tasks of a generalist hurt each other, in one number: before experts (dense) and after."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median

from unified.config.recipe import Recipe
from unified.reports.experts.interference import ALL, measure
from unified.reports.source import Questions, open_subject

BATCHES = 8

Matrix = dict[str, dict[str, float]]
"""By affected task, then by the task that causes it."""


def between_tasks(folder: Path, recipe: Recipe) -> Matrix:
    """The matrix of the second feed-forward linears of the layers that have experts by default, in every model."""
    questions = Questions(open_subject(folder), recipe, recipe.seed)
    found = measure(questions, linear="down", layers=range(0, recipe.model.depth, 2), batches=BATCHES)[ALL].mean()
    return {
        affected: dict(zip(questions.tasks, map(float, row), strict=True))
        for affected, row in zip(questions.tasks, found, strict=True)
    }


def off_diagonal(matrix: Mapping[str, Mapping[str, float]]) -> float:
    """The median effect of a step for another task, as a share of one for the task itself; negative is conflict.

    The median, as a task that is nearly learned divides by almost nothing, and its cells would rule the mean.
    """
    return median(value for affected, row in matrix.items() for cause, value in row.items() if cause != affected)
