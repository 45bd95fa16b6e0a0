"""Checks of a recipe against its label sets, tokenizers and data, before anything is built."""

import math

from torch import nn

from unified.config.recipe import Recipe
from unified.config.recipe_facts import families
from unified.config.task import Map, Match, Regress, Task
from unified.core.log import logger
from unified.core.schema import RecipeError, nearest
from unified.data.augment.image_operators import OPERATORS, RESHADE
from unified.evaluate.spec import load_spec
from unified.modalities import MODALITIES
from unified.modalities.sequence import Attributes
from unified.model.routing_attributes import bits
from unified.pipeline.grouped import TARGET
from unified.train.step import TASK_METRICS


def check(recipe: Recipe) -> None:
    """Refuse tasks and evaluations that cannot be, before any data is read."""
    for name, task in recipe.tasks.items():
        check_task(name, task)
        if not isinstance(task.answer, Match) and recipe.model.queries is None:
            raise RecipeError(f"tasks.{name}.answer: queries need a decoder; write `queries: {{}}` below `model`")
        if recipe.model.queries is not None and recipe.model.queries.sharing == "head":
            _check_head(name, task)
        inside = recipe.model.queries is not None and recipe.model.queries.place == "encoder"
        if inside and getattr(task.answer, "parts", False):
            raise RecipeError(
                f"tasks.{name}.answer.parts: they begin with what a decoder looks at; leave them out with "
                "model.queries.place: encoder"
            )
        _check_size(name, task, recipe.model.image.patch)
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
        bits(Attributes("text"), [name])
        kind, _, family = name.partition(":")
        if kind == "family" and family not in known:
            logger.warning("model.experts.bits: no task is of the family %r%s", family, nearest(family, known))


def check_task(name: str, task: Task) -> None:
    """Refuse what a task cannot be, before any data is read."""
    where = f"tasks.{name}"
    answer = task.answer
    for column, modality in task.inputs.items():
        if modality not in MODALITIES:
            known = nearest(modality, list(MODALITIES))
            raise RecipeError(f"{where}.inputs.{column}: {modality!r} is not a modality{known}")
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
    if isinstance(answer, Match):
        _check_match(where, task, answer)
    else:
        _check_queries(where, name, task, answer)


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


def _check_match(where: str, task: Task, answer: Match) -> None:
    words = answer.candidates == "vocabulary"
    if words != (answer.read != "prefix"):
        fits = "masked, caption or causal" if words else "prefix"
        raise RecipeError(f"{where}.answer.read: {answer.read!r} does not fit {answer.candidates!r}; expected {fits}")
    if answer.read in ("masked", "causal") and "text" not in task.inputs.values():
        raise RecipeError(f"{where}.inputs: reading {answer.read!r} needs a text column among the inputs")
    if answer.read == "causal" and len(task.inputs) > 1:
        raise RecipeError(f"{where}.inputs: reading 'causal' takes text alone; 'caption' reads text about other inputs")
    for key, share in (("label_smoothing", answer.label_smoothing), ("mask_fraction", answer.mask_fraction)):
        if not 0 <= share < 1:
            raise RecipeError(f"{where}.answer.{key}: expected at least 0 and below 1, found {share}")


def _check_head(name: str, task: Task) -> None:
    """Refuse what heads without queries cannot read."""
    answer = task.answer
    if isinstance(answer, Match) or (isinstance(answer, Map) and not answer.from_names):
        return
    if not isinstance(answer, Regress) or answer.regress != "presence":
        what = "queries from names" if answer.from_names else repr(getattr(answer, "regress", ""))
        raise RecipeError(
            f"tasks.{name}.answer: {what} needs queries, and model.queries.sharing 'head' has none; it reads maps and "
            "presence"
        )


def _check_queries(where: str, name: str, task: Task, answer: Map | Regress) -> None:
    if hasattr(nn.ParameterDict(), name):
        raise RecipeError(f"{where}: torch keeps the name {name!r} for itself; name the task anew")
    if set(task.inputs.values()) != {"image"}:
        raise RecipeError(f"{where}.inputs: queries are asked about one image, found {task.inputs}")
    kind = answer.map if isinstance(answer, Map) else answer.regress
    named = kind in ("classes", "points", "boxes", "masks", "presence", "places")
    if named != (answer.names is not None) and kind != "density":
        needs = "needs the names of its classes, points or attributes" if named else "has no names"
        raise RecipeError(f"{where}.answer.names: {kind!r} {needs}; found {answer.names!r}")
    if answer.from_names and not named:
        raise RecipeError(f"{where}.answer.from_names: {kind!r} has no names to make queries from")
    if isinstance(answer, Regress):
        if answer.queries < 1:
            raise RecipeError(f"{where}.answer.queries: expected at least 1, found {answer.queries}")
        if (kind == "identity") != (answer.identities is not None):
            raise RecipeError(f"{where}.answer.identities: for 'identity' alone, which needs it; found {kind!r}")
        if answer.parts and kind != "identity":
            raise RecipeError(f"{where}.answer.parts: for 'identity' alone; found {kind!r}")
        return
    if answer.bins < 2 or not 0 < answer.limits[0] < answer.limits[1] or answer.scale < 1:
        raise RecipeError(
            f"{where}.answer: expected at least 2 bins, 0 < nearest < farthest limit and a scale of at least 1; found "
            f"{answer.bins}, {list(answer.limits)} and {answer.scale}"
        )
    if (kind == "pixels") != (answer.operator is not None):
        raise RecipeError(f"{where}.answer.operator: for 'pixels' alone, which needs it; found {kind!r}")
    if answer.residual and kind != "pixels":
        raise RecipeError(f"{where}.answer.residual: for 'pixels' alone; found {kind!r}")
    if answer.operator is not None and answer.operator not in (*OPERATORS, RESHADE):
        known = nearest(answer.operator, [*OPERATORS, RESHADE])
        raise RecipeError(f"{where}.answer.operator: {answer.operator!r} is not an image operator{known}")
