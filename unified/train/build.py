"""From a recipe to objects: the one place where they are made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unified.answers.score import token_kinds
from unified.answers.spec import QuerySpec, query_spec
from unified.config.labels import Labels, check_unique, load_labels
from unified.config.recipe import Recipe
from unified.config.recipe_facts import families, label_sets, made_of_names, query_names
from unified.config.task import Match, Task
from unified.core import seed
from unified.core.locations import named
from unified.core.log import logger
from unified.core.types import Tokens
from unified.data.shards.patterns import MANIFEST, read_manifest, several
from unified.modalities import load_tokenizers
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
    tokenizers = load_tokenizers(recipe.model.image, recipe.model.text)
    labels = {name: load_labels(reference) for name, reference in label_sets(recipe).items()}
    named = {name: _names_of(reference) for name, reference in query_names(recipe).items()}
    config = network(recipe, tokenizers, labels)
    with seed.seeded(recipe.seed, "initial weights"):
        model = UnifiedModel(config)
    text, kept = tokenizers["text"], frozenset[str]()
    if recipe.start is not None and fresh:
        assert isinstance(text, TextTokenizer)
        kept = begin(model, text, recipe.start, recipe.seed)
    read = {**labels, **{name: found for name, found in named.items() if made_of_names(recipe.tasks[name])}}
    label_tokens = {name: text.tokens([text.prepare(word) for word in found.names]) for name, found in read.items()}
    processor = UnifiedProcessor.from_tokenizers(tokenizers)
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
    specs = query_specs(recipe, tokenizers["image"], find)
    answers = {
        name: _kept(task, task.answer, (labels or {}).get(name))
        for name, task in recipe.tasks.items()
        if isinstance(task.answer, Match)
    }
    return UnifiedConfig.from_settings(recipe.model, tokenizers, _of_model(recipe), kinds, specs, answers)


def _kept(task: Task, answer: Match, labels: Labels | None) -> dict[str, Any]:
    """What a model keeps of a task that matches, so that it can be asked without the recipe and its files."""
    kept: dict[str, Any] = {"inputs": list(task.inputs.values()), "read": answer.read}
    if labels is not None:
        kept |= {"id2label": dict(enumerate(labels.names)), "templates": list(labels.templates)}
    return kept | ({"vocabulary": answer.vocabulary} if answer.read == "caption" else {})


def _of_model(recipe: Recipe) -> list[str]:
    """The families that the model tells apart: those with a temperature, or all where experts are chosen by them."""
    experts = recipe.model.experts
    if experts is not None and by_family({"router": experts.router, "bits": experts.bits}):
        return families(recipe)
    matched = {name: task for name, task in recipe.tasks.items() if isinstance(task.answer, Match)}
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
        if isinstance(task.answer, Match):
            continue
        names = check_unique(find(references[name]), references[name]).names if name in references else ()
        listed = getattr(task.answer, "identities", None)
        identities = len(find(listed)) if listed else 0
        spec = query_spec(name, task, names, identities, (image.height, image.width), cell)
        bones = _skeleton(Path(references[name]), names) if spec.read in ("points", "places") else ()
        holds = _positives(task, names) if spec.read == "presence" else ()
        found[name] = replace(spec, skeleton=bones, positives=holds)
    return found


def _skeleton(listed: Path, names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The pairs of points that the manifest beside their names joins, if it is there."""
    if not (listed.parent / MANIFEST).is_file():
        return ()
    number = {name: place for place, name in enumerate(names)}
    pairs = read_manifest(listed.parent).get("skeleton", ())
    return tuple((number[a], number[b]) for a, b in pairs if a in number and b in number)


def _positives(task: Task, names: Sequence[str]) -> tuple[float, ...]:
    """How often each attribute holds, as the manifest of the data says; nothing where it does not."""
    entries = several(task.data)
    known = len(entries) == 1 and (Path(entries[0]) / MANIFEST).is_file()
    said = read_manifest(Path(entries[0])).get("positives", {}) if known else {}
    if all(name in said for name in names):
        return tuple(float(said[name]) for name in names)
    logger.info(
        "%s: no manifest says how often attributes hold, so what holds weighs as what does not", named(task.data)
    )
    return ()
