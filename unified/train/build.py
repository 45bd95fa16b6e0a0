"""From a recipe to objects: the one place where they are made."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from unified import seed
from unified.conditions import bits, by_family
from unified.config import RecipeError, nearest
from unified.configuration import UnifiedConfig
from unified.core.locations import named
from unified.data.operators import OPERATORS, RESHADE
from unified.data.patterns import MANIFEST, read_manifest, several
from unified.data.together import TARGET
from unified.evaluate.spec import load_spec
from unified.labels import Labels, check_unique, load_labels
from unified.layout import Attributes
from unified.log import logger
from unified.matching import token_kinds
from unified.modalities import MODALITIES, load_tokenizers
from unified.modalities.base import Tokenizer
from unified.modalities.image import ImageTokenizer
from unified.modalities.text import TextTokenizer
from unified.model import UnifiedModel
from unified.processor import UnifiedProcessor
from unified.query_spec import QuerySpec, query_spec
from unified.recipe import Recipe
from unified.task import Map, Match, Regress, Task
from unified.train.step import TASK_METRICS
from unified.types import Tokens
from unified.upcycling import begin


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


def families(recipe: Recipe) -> list[str]:
    """The families of a recipe's tasks, in their order."""
    return list(dict.fromkeys(task.family or name for name, task in recipe.tasks.items()))


def label_sets(recipe: Recipe) -> dict[str, str]:
    """What names the label set of each task that picks from one."""
    answers = {name: task.answer.candidates for name, task in recipe.tasks.items() if isinstance(task.answer, Match)}
    return {name: reference for name, reference in answers.items() if reference not in ("batch", "vocabulary")}


def query_names(recipe: Recipe) -> dict[str, str]:
    """What names the queries, or the classes of objects, of each task that has them."""
    answers = {name: task.answer for name, task in recipe.tasks.items()}
    return {name: a.names for name, a in answers.items() if not isinstance(a, Match) and a.names is not None}


def made_of_names(task: Task) -> bool:
    """Whether a task's queries are made from names by the text encoder."""
    return not isinstance(task.answer, Match) and task.answer.from_names


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
