"""What a report is made from: a model, the recipe of its tasks, and seeded batches of their data."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unified.answers.score import score
from unified.config.labels import load_labels
from unified.config.recipe import Recipe
from unified.config.recipe_facts import label_sets
from unified.core.consent import check_locations
from unified.core.errors import DataError, RecipeError, UserError, nearest
from unified.core.log import logger
from unified.core.paths import find
from unified.core.schema import build, read_yaml
from unified.core.types import Batch, Tokens
from unified.hub.load import open_model
from unified.modalities import MODALITIES
from unified.model.pretrained import UnifiedModel
from unified.pipeline.loader import Report, StepLoader
from unified.pipeline.schedule import Slot
from unified.train.monitor.progress import duration
from unified.train.monitor.records import read_recipe
from unified.train.validate import check_task

FORMAT = 1
SILENCE = 10.0
"""Seconds between two lines about progress."""


@dataclass(frozen=True)
class Subject:
    """A model that a report is about, and what people call it."""

    name: str
    model: UnifiedModel
    tokenizers: Mapping[str, Any]
    source: str


def open_subject(reference: str | Path) -> Subject:
    """The model that `unified.load` finds under `reference`, on a GPU where there is one."""
    loaded = open_model(reference)
    if loaded.source != str(reference):  # a run says at which step it is, a folder its own name
        logger.info("%s: %s", reference, loaded.source)
    loaded.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return Subject(Path(reference).name, loaded.model, loaded.processor.tokenizers, loaded.source)


def find_recipe(reference: str | Path, data: str | None) -> Recipe:
    """The recipe with the tasks: the one that `data` names, otherwise that of the run `reference`."""
    if data is not None:
        path = find("recipes", data, ".yaml")
        return build(Recipe, read_yaml(path), path.name)
    recipe = read_recipe(Path(reference) / "recipe.yaml")
    if recipe is None:
        raise UserError(
            f"{reference}: not the folder of a run, so its tasks are unknown; name the recipe that has them: "
            "--data RECIPE.yaml"
        )
    check_locations(recipe.locations, str(Path(reference) / "recipe.yaml"))
    return recipe


def data_commands(recipe: Recipe, data: str | None) -> list[str]:
    """The commands of a recipe that `find_recipe` found which the user named with it: those of `data` alone."""
    return recipe.commands if data is not None else []


def chosen_tasks(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """The recipe with the named tasks alone, in their order; all where none is named."""
    for name in names:
        if name not in recipe.tasks:
            raise RecipeError(f"--tasks: the recipe has no task {name!r}{nearest(name, list(recipe.tasks))}")
    return replace(recipe, tasks={name: recipe.tasks[name] for name in names}) if names else recipe


class Questions:
    """Seeded batches of the tasks of a recipe, and a model's loss on them.

    Sample order, augmentation and hidden words are keyed by `seed`, as in a run of that seed; the model is asked as in
    evaluation, without drop path and gate noise.
    """

    def __init__(self, subject: Subject, recipe: Recipe, seed: int) -> None:
        """Raises `RecipeError` where the model knows no such task, `DataError` where data are missing."""
        self.model = subject.model
        self.recipe = replace(recipe, seed=seed)
        families = list(self.model.config.families)
        for name, task in recipe.tasks.items():
            check_task(name, task, list(subject.model.config.modalities))
            if (family := task.family or name) not in families:
                known = nearest(family, families)
                raise RecipeError(f"tasks.{name}: {subject.source} was not trained on the family {family!r}{known}")
        text = subject.tokenizers[MODALITIES.language]
        labels = {name: load_labels(reference) for name, reference in label_sets(recipe).items()}
        try:
            self._steps = StepLoader(self.recipe, subject.tokenizers, labels, rank=0, world=1).steps
        except DataError as error:
            raise DataError(
                f"{error}. Paths in a recipe count from the current folder ({Path.cwd()}); --data names another recipe"
            ) from error
        self._labels = {
            name: text.tokens([text.prepare(word) for word in found.names]).to(self.model.input_device)
            for name, found in labels.items()
        }

    @property
    def tasks(self) -> tuple[str, ...]:
        """Their names, in the order of the recipe."""
        return tuple(self.recipe.tasks)

    def sizes(self) -> dict[str, int]:
        """Samples of one batch of each task."""
        return {name: task.batch for name, task in self.recipe.tasks.items()}

    def batch(self, task: str, number: int) -> Batch:
        """Batch `number` of a task."""
        size = self.recipe.tasks[task].batch
        slot = Slot(task, number * size, (number + 1) * size, 0)
        return self._steps.batch(slot, Report()).to(self.model.input_device)

    def labels(self, task: str) -> Tokens | None:
        """The tokens of a task's label set, where it has one."""
        return self._labels.get(task)

    def loss(self, task: str, number: int) -> Tensor:
        """The mean loss of the terms of a batch."""
        found = score(
            self.model, self.recipe.tasks[task], self.batch(task, number), labels=self.labels(task), name=task
        )
        return found.loss.sum() / found.terms.sum().clamp(min=1)


class Ticker:
    """Tells how far long work is, and when it will end."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._begin = self._told = time.monotonic()

    def tick(self) -> None:
        """One part of the work is done."""
        self._done += 1
        now = time.monotonic()
        if now - self._told > SILENCE and self._done < self._total:
            left = (self._total - self._done) * (now - self._begin) / self._done
            logger.info("%s  %d/%d  ETA %s", self._what, self._done, self._total, duration(left))
            self._told = now
