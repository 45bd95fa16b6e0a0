"""From a recipe to objects: the one place where they are made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from unified import seed
from unified.conditions import bits
from unified.config import RecipeError, nearest
from unified.configuration import UnifiedConfig
from unified.evaluate.spec import load_spec
from unified.labels import Labels, load_labels
from unified.layout import Attributes
from unified.log import logger
from unified.matching import token_kinds
from unified.modalities import MODALITIES, load_tokenizers
from unified.modalities.base import Tokenizer
from unified.modalities.text import TextTokenizer
from unified.model import UnifiedModel
from unified.processor import UnifiedProcessor
from unified.recipe import Recipe
from unified.task import Task
from unified.train.step import TASK_METRICS
from unified.types import Tokens
from unified.upcycling import begin


@dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    model: UnifiedModel
    processor: UnifiedProcessor
    tokenizers: Mapping[str, Tokenizer]
    labels: Mapping[str, Labels]  # by task, of tasks that pick from a label set
    label_tokens: Mapping[str, Tokens]


def build(recipe: Recipe, *, fresh: bool = True) -> Parts:
    """The model with its first weights (a pure function of recipe and seed) and all that prepares data for it.

    `fresh` False leaves out the weights of `recipe.start`: a run that goes on loads its own.
    """
    check(recipe)
    tokenizers = load_tokenizers(recipe.model.image, recipe.model.text)
    labels = {name: load_labels(reference) for name, reference in label_sets(recipe).items()}
    config = network(recipe, tokenizers)
    with seed.seeded(recipe.seed, "initial weights"):
        model = UnifiedModel(config)
    text = tokenizers["text"]
    if recipe.start is not None and fresh:
        assert isinstance(text, TextTokenizer)
        begin(model, text, recipe.start, recipe.seed)
    label_tokens = {name: text.tokens([text.prepare(word) for word in found.names]) for name, found in labels.items()}
    return Parts(model, UnifiedProcessor.from_tokenizers(tokenizers), tokenizers, labels, label_tokens)


def check(recipe: Recipe) -> None:
    """Refuse tasks and evaluations that cannot be, before any data is read."""
    for name, task in recipe.tasks.items():
        check_task(name, task)
    for spec in recipe.evaluate:
        load_spec(spec)  # otherwise a wrong name would end the run at its first evaluation
    _check_bits(recipe)


def _check_bits(recipe: Recipe) -> None:
    """Refuse attributes that do not exist; warn of families without a task, which a model to go on from may have."""
    known = families(recipe)
    for name in recipe.model.experts.bits if recipe.model.experts else ():
        bits(Attributes("text"), [name])
        kind, _, family = name.partition(":")
        if kind == "family" and family not in known:
            logger.warning("model.experts.bits: no task is of the family %r%s", family, nearest(family, known))


def families(recipe: Recipe) -> list[str]:
    """The families of a recipe's tasks, in their order."""
    return list(dict.fromkeys(task.family or name for name, task in recipe.tasks.items()))


def label_sets(recipe: Recipe) -> dict[str, str]:
    """What names the label set of each task that picks from one."""
    answers = {name: task.answer.candidates for name, task in recipe.tasks.items()}
    return {name: reference for name, reference in answers.items() if reference not in ("batch", "vocabulary")}


def network(recipe: Recipe, tokenizers: Mapping[str, Tokenizer]) -> UnifiedConfig:
    """The configuration of a recipe's model."""
    kinds = {name: token_kinds(task, name) for name, task in recipe.tasks.items()}
    return UnifiedConfig.from_settings(recipe.model, tokenizers, families(recipe), kinds)


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
    words = answer.candidates == "vocabulary"
    if words != (answer.read != "prefix"):
        fits = "masked, caption or causal" if words else "prefix"
        raise RecipeError(f"{where}.answer.read: {answer.read!r} does not fit {answer.candidates!r}; expected {fits}")
    if answer.read in ("masked", "causal") and "text" not in task.inputs.values():
        raise RecipeError(f"{where}.inputs: reading {answer.read!r} needs a text column among the inputs")
    if answer.read == "causal" and len(task.inputs) > 1:
        raise RecipeError(f"{where}.inputs: reading 'causal' takes text alone; 'caption' reads text about other inputs")
    for key, value in (("batch", task.batch), ("sample_weight", task.sample_weight), ("loss_weight", task.loss_weight)):
        if not 0 < value < math.inf:
            raise RecipeError(f"{where}.{key}: {value} must be positive; leave a task without a share out")
    for key, share in (("label_smoothing", answer.label_smoothing), ("mask_fraction", answer.mask_fraction)):
        if not 0 <= share < 1:
            raise RecipeError(f"{where}.answer.{key}: expected at least 0 and below 1, found {share}")
    if hasattr(nn.ParameterDict(), task.family or name):
        raise RecipeError(
            f"{where}: torch keeps the name {task.family or name!r} for itself; name another `family`, or the task anew"
        )
