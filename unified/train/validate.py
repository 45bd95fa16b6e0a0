"""Checks of a recipe against its label sets, tokenizers and data, before anything is built."""

import math
from collections.abc import Sequence

from torch import nn

from unified.answers.table import query_kind
from unified.config.recipe import Recipe
from unified.config.recipe_facts import families
from unified.config.task import Task
from unified.core.errors import RecipeError, nearest
from unified.core.log import logger
from unified.evaluate.spec import load_spec
from unified.modalities import MODALITIES
from unified.modalities.sequence import Attributes
from unified.model.routing_attributes import bits
from unified.pipeline.grouped import TARGET
from unified.train.step import TASK_METRICS


def check(recipe: Recipe) -> None:
    """Refuse tasks and evaluations that cannot be, before any data is read."""
    modalities = [MODALITIES.row(key).name for key in recipe.model.modalities]
    for name, task in recipe.tasks.items():
        check_task(name, task, modalities)
        if task.answer.queried and recipe.model.queries is None:
            raise RecipeError(f"tasks.{name}.answer: queries need a decoder; write `queries: {{}}` below `model`")
        if recipe.model.queries is not None and recipe.model.queries.sharing == "head":
            _check_head(name, task)
        inside = recipe.model.queries is not None and recipe.model.queries.place == "encoder"
        if inside and task.answer.queried:
            query_kind(task.answer.kind).check_in_encoder(f"tasks.{name}", task.answer)
        _check_size(name, task, recipe.model.spatial.patch)
    for spec in recipe.evaluate:
        load_spec(spec)  # otherwise a wrong name would end the run at its first evaluation
    _check_bits(recipe)


def _check_size(name: str, task: Task, patch: int) -> None:
    if task.size is not None and any(side < 1 or side % patch for side in task.size):
        height, width = task.size
        raise RecipeError(
            f"tasks.{name}.size: {height} x {width} pixels cannot be cut into patches of {patch}; give multiples of it"
        )


def _check_bits(recipe: Recipe) -> None:
    """Refuse attributes that do not exist; warn of families without a task, which a model to go on from may have."""
    known = families(recipe)
    for name in recipe.model.experts.bits if recipe.model.experts else ():
        bits(Attributes(MODALITIES.language), [name])
        kind, _, family = name.partition(":")
        if kind == "family" and family not in known:
            logger.warning("model.experts.bits: no task is of the family %r%s", family, nearest(family, known))


def check_task(name: str, task: Task, modalities: Sequence[str] = MODALITIES.built_in) -> None:
    """Refuse what a task cannot be, before any data is read; `modalities`: those of the model."""
    where = f"tasks.{name}"
    answer = task.answer
    for column, modality in task.inputs.items():
        if modality not in modalities:
            known = nearest(modality, list(modalities))
            raise RecipeError(
                f"{where}.inputs.{column}: expected a modality of the model, got {modality!r}{known}. Hint: others "
                "are named below model.modalities"
            )
    if task.metric not in TASK_METRICS:
        raise RecipeError(f"{where}.metric: {task.metric!r} is not a metric{nearest(task.metric, list(TASK_METRICS))}")
    for key, value in (("sample_weight", task.sample_weight), ("loss_weight", task.loss_weight)):
        if not 0 < value < math.inf:
            raise RecipeError(
                f"{where}.{key}: expected a positive finite number, got {value}. Hint: leave out a task that is not to "
                "be trained"
            )
    _check_together(where, task)
    if hasattr(nn.ParameterDict(), task.family or name):
        raise RecipeError(
            f"{where}: torch keeps the name {task.family or name!r} for itself; name another `family`, or the task anew"
        )
    if answer.queried and hasattr(nn.ParameterDict(), name):
        raise RecipeError(f"{where}: torch keeps the name {name!r} for itself; name the task anew")
    answer.check(where, task)


def _check_together(where: str, task: Task) -> None:
    if task.together == 1:
        return
    if task.target != TARGET:
        raise RecipeError(
            f"{where}.together: for tasks whose target is {TARGET}, found {task.target!r}; leave it out, as the data "
            "are shuffled then"
        )
    if not 1 < task.together <= task.batch // 2:
        raise RecipeError(
            f"{where}.together: expected 1 to {max(task.batch // 2, 1)}, half of the batch, so that it has several "
            f"identities; found {task.together}"
        )
    if task.data_weights:
        raise RecipeError(
            f"{where}.together: data sets that are mixed part what belongs together; leave one of them out"
        )


def _check_head(name: str, task: Task) -> None:
    """Refuse what heads without queries cannot read."""
    answer = task.answer
    if not answer.queried:
        return
    if answer.encodes_names() or not any(query_kind(answer.kind).plain_head(answer)):
        what = "queries from names" if answer.encodes_names() else repr(answer.kind)
        raise RecipeError(
            f"tasks.{name}.answer: {what} needs queries, and model.queries.sharing 'head' has none; it reads maps and "
            "presence"
        )
