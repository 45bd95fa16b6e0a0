"""From a recipe to objects: the one place where they are made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from unified.answers.score import token_kinds
from unified.answers.spec import QuerySpec
from unified.answers.table import match_kind, query_spec
from unified.config.labels import Labels, check_unique, load_labels
from unified.config.recipe import Recipe
from unified.config.recipe_facts import families, label_sets, query_names
from unified.core import seed
from unified.core.types import Tokens
from unified.modalities import MODALITIES, load_tokenizers
from unified.modalities.base import Tokenizer
from unified.modalities.image.tokenizer import ImageTokenizer
from unified.modalities.text.tokenizer import TextTokenizer
from unified.model.config import UnifiedConfig
from unified.model.pretrained import UnifiedModel
from unified.model.processor import UnifiedProcessor
from unified.model.routing_attributes import by_family
from unified.train.validate import check
from unified.train.warm_start import begin


@dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    model: UnifiedModel
    processor: UnifiedProcessor
    tokenizers: Mapping[str, Tokenizer]
    labels: Mapping[str, Labels]  # by task, of tasks that pick from a label set or have queries with names
    label_tokens: Mapping[str, Tokens]  # of those that the text encoder reads
    kept: frozenset[str] = frozenset()  # weights that are those of the model that the recipe starts from


def build(recipe: Recipe, *, fresh: bool = True) -> Parts:
    """The model with its first weights (a pure function of recipe and seed) and all that prepares data for it.

    `fresh` False leaves out the weights of `recipe.start`: a run that goes on loads its own.
    """
    check(recipe)
    tokenizers = load_tokenizers(recipe.model.modalities)
    labels = {name: load_labels(reference) for name, reference in label_sets(recipe).items()}
    named = {name: _names_of(reference) for name, reference in query_names(recipe).items()}
    config = network(recipe, tokenizers, labels)
    with seed.seeded(recipe.seed, "initial weights"):
        model = UnifiedModel(config)
    text, kept = tokenizers[MODALITIES.language], frozenset[str]()
    if recipe.start is not None and fresh:
        assert isinstance(text, TextTokenizer)
        kept = begin(model, text, recipe.start, recipe.seed)
    read = {**labels, **{name: found for name, found in named.items() if recipe.tasks[name].answer.encodes_names()}}
    label_tokens = {name: text.tokens([text.prepare(word) for word in found.names]) for name, found in read.items()}
    processor = UnifiedProcessor.from_tokenizers(tokenizers, recipe.model.modalities)
    return Parts(model, processor, tokenizers, {**labels, **named}, label_tokens, kept)


def _names_of(reference: str) -> Labels:
    """The names that queries answer for, each once."""
    return check_unique(load_labels(reference), reference)


def network(
    recipe: Recipe,
    tokenizers: Mapping[str, Tokenizer],
    labels: Mapping[str, Labels] | None = None,
    find: Callable[[str], Labels] = load_labels,
) -> UnifiedConfig:
    """Return the configuration of a recipe's model.

    Args:
        recipe: The recipe.
        tokenizers: By modality.
        labels: The label sets by task, which the configuration keeps.
        find: Gives the label set of a reference; a plan assumes those that are not there.
    """
    inside = recipe.model.queries is not None and recipe.model.queries.place == "encoder"
    kinds = {name: token_kinds(task, name, inside=inside) for name, task in recipe.tasks.items()}
    specs = query_specs(recipe, tokenizers[MODALITIES.spatial], find)
    answers = {
        name: match_kind(task).kept(task, (labels or {}).get(name))
        for name, task in recipe.tasks.items()
        if not task.answer.queried
    }
    return UnifiedConfig.from_settings(recipe.model, tokenizers, _of_model(recipe), kinds, specs, answers)


def _of_model(recipe: Recipe) -> list[str]:
    """The families that the model tells apart: those with a temperature, or all where experts are chosen by them."""
    experts = recipe.model.experts
    if experts is not None and by_family({"router": experts.router, "bits": experts.bits}):
        return families(recipe)
    matched = {name: task for name, task in recipe.tasks.items() if not task.answer.queried}
    return list(dict.fromkeys(task.family or name for name, task in matched.items())) or ["default"]


def query_specs(recipe: Recipe, image: Tokenizer, find: Callable[[str], Labels] = load_labels) -> dict[str, QuerySpec]:
    """What the model keeps of the tasks that queries answer; `find` gives the label set of a reference."""
    assert isinstance(image, ImageTokenizer)
    settings, references = recipe.model.queries, query_names(recipe)
    if settings is None:
        return {}
    cell = max(image.patch >> settings.doublings, 1)
    found = {}
    for name, task in recipe.tasks.items():
        if not task.answer.queried:
            continue
        names = check_unique(find(references[name]), references[name]).names if name in references else ()
        listed = task.answer.identity_names()
        identities = len(find(listed)) if listed else 0
        found[name] = query_spec(name, task, names, identities, (image.height, image.width), cell)
    return found
