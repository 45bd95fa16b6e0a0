"""What a run would do, found without training: sizes, work and memory of a step; also before there are data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import yaml
from torch import Tensor

from unified import hub
from unified.config import RecipeError
from unified.configuration import UnifiedConfig
from unified.data.loader import StepLoader, check_split
from unified.data.schedule import block_quotas, schedule, weighed
from unified.data.shards import Shards
from unified.dist import world_size
from unified.labels import Labels, load_labels
from unified.matching import token_kinds
from unified.modalities import load_tokenizers
from unified.modalities.base import Tokenizer, timeline
from unified.modalities.text import TextTokenizer
from unified.model_settings import TextSettings
from unified.parameters import Parameters, active, skeleton, stored
from unified.recipe import Recipe
from unified.task import Match, Task
from unified.train.build import check, label_sets, made_of_names, network, query_names
from unified.train.memory import Activations, Memory, memory
from unified.train.recipe_diff import plain
from unified.train.step import in_chunks
from unified.train.work import Cost, Work, bucketed_on, work
from unified.types import IGNORE, Batch, DataError, Tokens
from unified.upcycling import foresee

ASSUMED_CLASSES, ASSUMED_NAME = 1000, 8
"""Names of a label set that is not there, and tokens of each."""


@dataclass(frozen=True)
class SlotPlan:
    """What one slot of a task is on one process."""

    work: Work
    flops: int  # forward and backward
    kept: int  # bytes of activations that the backward pass needs
    passing: int  # bytes that the backward pass has beside them at one time
    samples: int | None  # of data; None where there are none, and shapes are assumed
    share: float  # slots of this task in a step, on average


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    recipe: Recipe
    processes: int
    config: UnifiedConfig
    slots: Mapping[str, SlotPlan]
    notes: tuple[str, ...]  # what was not found, and what was assumed in its place
    start: str | None = None  # what a new run begins with, in words; None: weights are drawn

    @cached_property
    def stored(self) -> Parameters:
        """Parameters of the network."""
        return stored(self.config)

    @property
    def tokens(self) -> float:
        """Of a step over all processes, on average."""
        return self.processes * sum(slot.share * slot.work.tokens for slot in self.slots.values())

    @property
    def flops(self) -> float:
        """Of a step over all processes, on average."""
        return self.processes * sum(slot.share * slot.flops for slot in self.slots.values())

    @cached_property
    def memory(self) -> Memory:
        """Of one process, in the step of the schedule that needs most."""
        recipe = self.recipe
        steps = range(min(sum(block_quotas(recipe)) // recipe.slots, recipe.max_steps))
        slots = [[slot.task for slot in schedule(recipe, recipe.seed, step)] for step in steps]
        most = max(self._activations(chunk) for tasks in slots for chunk in in_chunks(tasks, recipe.engine.chunks))
        return memory(self.stored.total, most, average=recipe.optim.ema is not None)

    def _activations(self, tasks: Sequence[str]) -> int:
        slots = [self.slots[task] for task in tasks]
        return sum(slot.kept for slot in slots) + max(slot.passing for slot in slots)


@dataclass(frozen=True)
class _Found:
    """What of a recipe's inputs is there."""

    config: UnifiedConfig
    tokenizers: Mapping[str, Tokenizer] | None
    labels: Mapping[str, Labels]
    shards: Mapping[str, Shards]
    notes: tuple[str, ...]


def make_plan(recipe: Recipe, processes: int | None = None) -> Plan:
    """The plan of a recipe on so many processes (default: those of this run).

    Data, label sets and a text tokenizer that are not there are assumed, and noted. Raises `RecipeError` and
    `DataError` for what is there and wrong, also with the model to start from.
    """
    processes = processes or world_size()
    check(recipe)
    check_split(recipe, processes)
    found = _find(recipe)
    recipe = _weighed(recipe, found)
    cost = Cost(skeleton(found.config))
    held = Activations(
        found.config, half=recipe.train.precision != "fp32", recomputed=recipe.train.checkpoint_activations
    )
    quotas, per_block = block_quotas(recipe), sum(block_quotas(recipe)) // recipe.slots
    slots = {}
    for (name, task), quota in zip(recipe.tasks.items(), quotas, strict=True):
        done, samples = _work_of_slot(recipe, name, found, processes)
        kept, passing = held.of(done, token_kinds(task, name)), held.backward(done)
        slots[name] = SlotPlan(done, 3 * cost.forward(done), kept, passing, samples, quota / per_block)
    return Plan(recipe, processes, found.config, slots, found.notes, _start(recipe, found))


def _weighed(recipe: Recipe, found: _Found) -> Recipe:
    """The recipe with the weights that the sizes of its data give; its own where some are not there."""
    known = set(recipe.tasks) <= set(found.shards)
    return weighed(recipe, {name: len(shards) for name, shards in found.shards.items()}) if known else recipe


def _start(recipe: Recipe, found: _Found) -> str | None:
    """What the weights begin with, checked where it is there."""
    if recipe.start is None:
        return None
    if found.tokenizers is None:
        return f"starts with {recipe.start.model}: not checked, as the tokenizer is not there"
    text = found.tokenizers["text"]
    assert isinstance(text, TextTokenizer)
    try:
        return "\n".join(foresee(found.config, text, recipe.start))
    except hub.AbsentError as error:
        return f"starts with {recipe.start.model}, which is not there yet, so it is not checked: {error}"


def _find(recipe: Recipe) -> _Found:
    notes: list[str] = []
    config, tokenizers = _network(recipe, notes)
    labels, shards, missing = {}, {}, []
    for name, reference in {**label_sets(recipe), **query_names(recipe)}.items():
        try:
            labels[name] = load_labels(reference)
        except RecipeError as error:
            notes.append(f"tasks.{name}: {error}. Assumed: {ASSUMED_CLASSES:,} names of {ASSUMED_NAME} tokens")
    for name, task in recipe.tasks.items():
        try:
            shards[name] = Shards.open(task.data, recipe.data)
        except DataError as error:
            missing.append(f"  {name}: {error}")
    if missing:
        longest = f"texts of {config.text['max_length']} tokens (model.text.max_length)"
        size = f"{config.image['width']} x {config.image['height']} pixels"
        notes.append("\n".join([f"data not found; assumed in their place: images of {size}, {longest}", *missing]))
    return _Found(config, tokenizers, labels, shards, tuple(notes))


def _network(recipe: Recipe, notes: list[str]) -> tuple[UnifiedConfig, Mapping[str, Tokenizer] | None]:
    """The configuration, and the tokenizers unless that of text cannot be had."""
    image, text = recipe.model.image, recipe.model.text
    try:
        tokenizers = load_tokenizers(image, text)
        return network(recipe, tokenizers), tokenizers
    except RecipeError as error:
        config = network(recipe, load_tokenizers(image, replace(text, tokenizer=TextSettings.tokenizer)))
        config.vocabulary_size = UnifiedConfig.vocabulary_size
        notes.append(f"{error}. Assumed: {config.vocabulary_size:,} ids, as the published models have")
        return config, None


def _work_of_slot(recipe: Recipe, name: str, found: _Found, processes: int) -> tuple[Work, int | None]:
    """The work of a task's slot on one process, and the samples of its data, None where the batch is assumed."""
    task = recipe.tasks[name]
    picks = name in label_sets(recipe) or made_of_names(task)
    batch, samples = _assumed_batch(name, task, found.config, processes), None
    if found.tokenizers is not None and name in found.shards and (not picks or name in found.labels):
        alone = replace(recipe, tasks={name: task})
        loader = StepLoader(alone, found.tokenizers, found.labels, rank=0, world=processes)
        samples, batch = len(found.shards[name]), loader.probe()[0][1]
    done = work(
        task,
        batch,
        _label_tokens(found.labels.get(name), found.tokenizers) if picks else None,
        found.config.vocabulary_size,
        bucketed=bucketed_on(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        ranks=processes,
    )
    return done, samples


def _assumed_batch(name: str, task: Task, config: UnifiedConfig, processes: int) -> Batch:
    """A process's batch of the sizes that the recipe allows at most: whole images, texts of full length."""
    size, length = task.batch // processes, config.text["max_length"]
    patch = config.image["patch"]
    height, width = task.size or (config.image["height"], config.image["width"])
    places = {"image": (height // patch) * (width // patch), "text": length}
    inputs = {modality: _blank(modality, size, places[modality]) for modality in task.inputs.values()}
    target: Tensor | Tokens | dict[str, Tokens] = torch.zeros(size, dtype=torch.long)
    answer = task.answer
    if not isinstance(answer, Match):
        return Batch(name, inputs, {}, [""] * size)
    if answer.candidates == "batch":
        target = {"tokens": _blank("text", size, length)}
    elif answer.read == "caption":
        target = _blank("text", size, length)
    elif answer.candidates == "vocabulary":
        asked = length if answer.read == "causal" else round(answer.mask_fraction * length)
        target = torch.full((size, length), IGNORE)
        target[:, :asked] = 0
    return Batch(name, inputs, target, [""] * size)


def _blank(modality: str, size: int, length: int) -> Tokens:
    """Tokens without content, of which memory holds one row."""
    mask = torch.ones(1, length, dtype=torch.bool).expand(size, -1)
    return Tokens(modality, torch.zeros(1, length, dtype=torch.long).expand(size, -1), mask, timeline(size, length))


def _label_tokens(labels: Labels | None, tokenizers: Mapping[str, Tokenizer] | None) -> Tokens:
    if labels is None:
        return _blank("text", ASSUMED_CLASSES, ASSUMED_NAME)
    if tokenizers is None:
        return _blank("text", len(labels), ASSUMED_NAME)
    text = tokenizers["text"]
    return text.tokens([text.prepare(name) for name in labels.names])


def dry_run(recipe: Recipe, processes: int | None = None) -> None:
    """Print the resolved recipe and its plan on so many processes; trains nothing."""
    plan = make_plan(recipe, processes)
    print(yaml.safe_dump(plain(recipe), sort_keys=False, allow_unicode=True, width=120))  # noqa: T201
    print(describe(plan))  # noqa: T201


def describe(plan: Plan) -> str:
    """The plan for people."""
    start = [] if plan.start is None else [plan.start]
    return "\n\n".join([_parameters(plan), _work(plan), _memory(plan), _steps(plan), *start, *plan.notes])


def _parameters(plan: Plan) -> str:
    used = active(plan.config)
    rows = [f"{'parameters':<16} {'stored':>15} {'of one token':>15}"]
    for part in (*Parameters.__dataclass_fields__, "total"):
        rows.append(f"{part:<16} {getattr(plan.stored, part):>15,} {getattr(used, part):>15,}")
    return "\n".join(rows)


def _work(plan: Plan) -> str:
    rows = [f"{'task':<16} {'slots a step':>12} {'batch':>8} {'tokens':>12} {'GFLOP':>12} {'samples of data':>16}"]
    for name, slot in plan.slots.items():
        samples = "not found" if slot.samples is None else f"{slot.samples:,}"
        tokens, flops = plan.processes * slot.work.tokens, plan.processes * slot.flops / 1e9
        batch = plan.recipe.tasks[name].batch
        rows.append(f"{name:<16} {slot.share:>12.3f} {batch:>8,} {tokens:>12,} {flops:>12,.1f} {samples:>16}")
    rows.append(f"{'mean step':<16} {plan.recipe.slots:>12} {'':>8} {plan.tokens:>12,.0f} {plan.flops / 1e9:>12,.1f}")
    whole = plan.flops * plan.recipe.max_steps
    many = "process" if plan.processes == 1 else "processes"
    rows.append(f"{plan.recipe.max_steps:,} steps on {plan.processes} {many}: {whole:.3g} floating-point operations")
    return "\n".join(rows)


def _memory(plan: Plan) -> str:
    need = plan.memory
    rows = [f"{'memory':<16} {'MiB':>12}   of one process; an estimate"]
    rows += [f"{name:<16} {getattr(need, name) / 2**20:>12,.0f}" for name in Memory.__dataclass_fields__]
    return "\n".join([*rows, f"{'total':<16} {need.total / 2**20:>12,.0f}   beside data, libraries and fragments"])


def _steps(plan: Plan) -> str:
    rows = []
    for step in range(min(3, plan.recipe.max_steps)):
        slots = schedule(plan.recipe, plan.recipe.seed, step)
        rows.append(f"step {step}: " + ", ".join(f"{slot.task} {slot.start}…{slot.stop - 1}" for slot in slots))
    return "\n".join(rows)
