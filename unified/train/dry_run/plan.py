"""What a run would do, found without training: sizes, work and memory of a step; also before there are data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from unified.answers.score import token_kinds
from unified.answers.table import kind_of
from unified.answers.workload import Work
from unified.config.labels import Labels, load_labels
from unified.config.recipe import EngineSettings, Recipe
from unified.config.recipe_facts import label_sets, query_names
from unified.config.task import Task
from unified.core.consent import commands_of
from unified.core.distributed import world_size
from unified.core.errors import DataError, RecipeError
from unified.core.locations import shown
from unified.core.seed import torch_generator
from unified.core.types import Batch, Tokens
from unified.data.shards.patterns import several
from unified.data.shards.shards import Shards
from unified.hub.load import AbsentError
from unified.modalities import MODALITIES, load_tokenizers
from unified.modalities.base import Tokenizer, timeline
from unified.modalities.image.tokenizer import ImageTokenizer
from unified.modalities.text.settings import TextSettings
from unified.modalities.text.tokenizer import TextTokenizer
from unified.model.config import UnifiedConfig
from unified.model.parameter_count import Parameters, skeleton, stored
from unified.nn.moe.routing import BY_TOKEN
from unified.pipeline.loader import StepLoader, check_split
from unified.pipeline.schedule import block_quotas, schedule, weighed
from unified.train.build import network
from unified.train.dry_run.activation_memory import FLOAT, HALF, Activations
from unified.train.dry_run.communication import Collective, of_candidates, of_experts, of_states
from unified.train.dry_run.flops import Cost
from unified.train.dry_run.model_states import Sizes, States, states
from unified.train.dry_run.workload import bucketed_on, work
from unified.train.engines.deepspeed import deepspeed_settings
from unified.train.image_sizes import ImageSizes, image_sizes
from unified.train.optim import parameter_groups
from unified.train.precision import resolved
from unified.train.step import in_chunks
from unified.train.validate import check
from unified.train.warm_start import foresee

ASSUMED_CLASSES, ASSUMED_NAME = 1000, 8
"""Names of a label set that is not there, and tokens of each."""
ASSUMED_NAMES = 80
"""Names of queries that are not there, each of which is a query: as many as COCO has classes."""
ENGINES = {
    "ZeRO 1": EngineSettings("deepspeed", 1),
    "ZeRO 2": EngineSettings("deepspeed", 2),
    "ZeRO 3": EngineSettings("deepspeed", 3),
    "ZeRO 2, optimizer on host": EngineSettings("deepspeed", 2, "optimizer"),
    "ZeRO 3, optimizer on host": EngineSettings("deepspeed", 3, "optimizer"),
    "ZeRO 3, all on host": EngineSettings("deepspeed", 3, "all"),
}
"""Those that a plan compares, beside `none` and `ddp`."""


@dataclass(frozen=True)
class SlotPlan:
    """What one slot of a task is on one process."""

    work: Work
    flops: int  # forward and backward
    kept: int  # bytes of activations that the backward pass needs
    passing: int  # bytes that the backward pass has beside them at one time
    samples: int | None  # of data; None where there are none, and shapes are assumed
    share: float  # slots of this task in a step, on average
    labels: int  # of its label set; 0 where it has none


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    recipe: Recipe
    processes: int
    config: UnifiedConfig
    slots: Mapping[str, SlotPlan]
    notes: tuple[str, ...]  # what was not found, and what was assumed in its place
    images: Mapping[str, ImageSizes] = field(default_factory=dict)  # of the tasks that read images
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
    def activations(self) -> int:
        """Bytes of one process, in the step of the schedule that needs most."""
        recipe = self.recipe
        steps = range(min(sum(block_quotas(recipe)) // recipe.slots, recipe.max_steps))
        slots = [[slot.task for slot in schedule(recipe, recipe.seed, step)] for step in steps]
        return max(self.activations_of(tasks) for tasks in slots)

    def activations_of(self, tasks: Sequence[str]) -> int:
        """Bytes of one process in a step of slots of these tasks, in the pass that needs most."""
        return max(self._of_pass(chunk) for chunk in in_chunks(tasks, self.recipe.engine.chunks))

    @cached_property
    def engines(self) -> dict[str, EngineSettings]:
        """What the recipe may run under on these processes, its own first."""
        own, whole = self.recipe.engine, "none" if self.processes == 1 else "ddp"
        rows = {whole: EngineSettings("none" if self.processes == 1 else "ddp"), **ENGINES}
        found = {name: replace(one, expert_parallel=own.expert_parallel) for name, one in rows.items()}
        if own.kind != "deepspeed":
            return found
        stage = 2 if own.zero is None else own.zero
        alike = [name for name, one in found.items() if (one.zero, one.offload) == (stage, own.offload)]
        name = own.deepspeed or (alike[0] if alike else f"ZeRO {stage}, {own.offload} on host")
        return {name: own, **{other: one for other, one in found.items() if other != name}}

    @cached_property
    def sizes(self) -> Sizes:
        """Those of the network; groups of the optimizer as if every task used all parameters, which is the most."""
        model = skeleton(self.config)
        every = frozenset(self.recipe.tasks)
        uses = {name: every for name, _ in model.named_parameters()}
        groups = parameter_groups(model, uses, self.recipe.optim, depth=self.recipe.model.depth)
        experts = self.recipe.model.experts
        return Sizes(
            total=self.stored.total,
            largest=max(parameter.numel() for parameter in model.parameters()),
            group=max(sum(parameter.numel() for parameter in group["params"]) for group in groups),
            experts=self.stored.experts if experts is not None and experts.router in BY_TOKEN else 0,
        )

    def states(self, engine: EngineSettings) -> States:
        """What a process holds under an engine, beside activations."""
        average = self.recipe.optim.ema is not None
        return states(
            self.sizes, self._zero(engine), self.processes, average=average, expert_parallel=engine.expert_parallel
        )

    def traffic(self, engine: EngineSettings) -> list[Collective]:
        """What processes exchange in a mean step under an engine; in a step of all tasks as to gradients."""
        tasks = self.recipe.tasks
        passes = sum(slot.share * kind_of(tasks[name]).passes for name, slot in self.slots.items())
        found = of_states(
            self.sizes, self._zero(engine), self.processes, passes=passes, expert_parallel=engine.expert_parallel,
            recomputed=self.recipe.train.checkpoint_activations,
        )  # fmt: skip
        rows = sum(slot.share * self._shared_features(name) for name, slot in self.slots.items())
        number = FLOAT if self.recipe.train.precision == "fp32" else HALF
        sent = of_experts(self.config, self.tokens / self.processes, engine.expert_parallel, number)
        return [*found, *of_candidates(rows, self.config.width, self.processes), *sent]

    def _shared_features(self, name: str) -> int:
        """Rows of a slot that every process needs and none has whole."""
        task, labels = self.recipe.tasks[name], self.slots[name].labels
        return kind_of(task).shared_rows(task, labels, self.processes)

    def _zero(self, engine: EngineSettings) -> Mapping[str, Any] | None:
        if engine.kind != "deepspeed":
            return None
        found: Mapping[str, Any] = deepspeed_settings(replace(self.recipe, engine=engine))["zero_optimization"]
        return found

    def _of_pass(self, tasks: Sequence[str]) -> int:
        slots = [self.slots[task] for task in tasks]
        return sum(slot.kept for slot in slots) + max(slot.passing for slot in slots)


@dataclass(frozen=True)
class _Found:
    """What of a recipe's inputs is there."""

    config: UnifiedConfig
    tokenizers: Mapping[str, Tokenizer] | None
    labels: Mapping[str, Labels]
    shards: Mapping[str, Shards]
    missing: frozenset[str]  # references of label sets that are not there
    notes: tuple[str, ...]


def make_plan(recipe: Recipe, processes: int | None = None) -> Plan:
    """The plan of a recipe on so many processes (default: those of this run).

    Data, label sets and a text tokenizer that are not there are assumed, and noted. Raises `RecipeError` and
    `DataError` for what is there and wrong, also with the model to start from.
    """
    processes, recipe = processes or world_size(), resolved(recipe)
    check(recipe)
    check_split(recipe, processes)
    found = _find(recipe)
    recipe = _weighed(recipe, found)
    cost = Cost(skeleton(found.config))
    held = Activations(
        found.config, half=recipe.train.precision != "fp32", recomputed=recipe.train.checkpoint_activations
    )
    quotas, per_block = block_quotas(recipe), sum(block_quotas(recipe)) // recipe.slots
    slots, picking = {}, label_sets(recipe)
    for (name, task), quota in zip(recipe.tasks.items(), quotas, strict=True):
        done, samples = _work_of_slot(recipe, name, found, processes)
        kept, passing = held.of(done, token_kinds(task, name)), held.backward(done)
        labels = len(found.labels[name]) if name in found.labels else ASSUMED_CLASSES if name in picking else 0
        slots[name] = SlotPlan(done, 3 * cost.forward(done), kept, passing, samples, quota / per_block, labels)
    return Plan(recipe, processes, found.config, slots, found.notes, _images(recipe, found), _start(recipe, found))


def _weighed(recipe: Recipe, found: _Found) -> Recipe:
    """The recipe with the weights that the sizes of its data give; its own where some are not there."""
    known = set(recipe.tasks) <= set(found.shards)
    return weighed(recipe, {name: len(shards) for name, shards in found.shards.items()}) if known else recipe


def _images(recipe: Recipe, found: _Found) -> dict[str, ImageSizes]:
    tokenizer = MODALITIES[MODALITIES.spatial].tokenizer(recipe.model.spatial)
    assert isinstance(tokenizer, ImageTokenizer)
    tasks = {name: task for name, task in recipe.tasks.items() if MODALITIES.spatial in task.inputs.values()}
    return {name: image_sizes(task, found.config, tokenizer, found.shards.get(name)) for name, task in tasks.items()}


def _start(recipe: Recipe, found: _Found) -> str | None:
    """What the weights begin with, checked where it is there."""
    if recipe.start is None:
        return None
    if found.tokenizers is None:
        return f"starts with {recipe.start.model}: not checked, as the tokenizer is not there"
    if found.missing.intersection(query_names(recipe).values()):
        return f"starts with {recipe.start.model}: not checked, as names of queries are not there"
    text = found.tokenizers[MODALITIES.language]
    assert isinstance(text, TextTokenizer)
    try:
        return "\n".join(foresee(found.config, text, recipe.start))
    except AbsentError as error:
        return f"starts with {recipe.start.model}, which is not there yet, so it is not checked: {error}"


class _LabelSets:
    """The label sets of a recipe; those that are not there, as they come with the data, are assumed."""

    def __init__(self) -> None:
        self.missing: dict[str, str] = {}
        """By reference, why a label set was not found."""

    def __call__(self, reference: str) -> Labels:
        """Return a label set, or one of `ASSUMED_NAMES` names; raise `RecipeError` for one that is there and wrong."""
        try:
            return load_labels(reference)
        except RecipeError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            self.missing[reference] = str(error)
        return Labels(tuple(f"name {number}" for number in range(ASSUMED_NAMES)))


def _find(recipe: Recipe) -> _Found:
    notes: list[str] = []
    sets = _LabelSets()
    config, tokenizers = _network(recipe, sets, notes)
    labels, shards, missing = {}, {}, []
    for name, reference in {**label_sets(recipe), **query_names(recipe)}.items():
        found = sets(reference)
        if reference not in sets.missing:
            labels[name] = found
            continue
        count = ASSUMED_CLASSES if name in label_sets(recipe) else ASSUMED_NAMES
        notes.append(f"tasks.{name}: {sets.missing[reference]}. Assumed: {count:,} names of {ASSUMED_NAME} tokens")
    for name, task in recipe.tasks.items():
        if commands := commands_of(several(task.data)):
            missing.append(f"  {name}: {shown(commands[0])}: a command, which a dry run does not start")
            continue
        try:
            shards[name] = Shards.open(task.data, recipe.data)
        except DataError as error:
            missing.append(f"  {name}: {error}")
    if missing:
        longest = f"texts of {config.language['max_length']} tokens (model.modalities.text.max_length)"
        size = f"{config.spatial['width']} x {config.spatial['height']} pixels"
        notes.append("\n".join([f"data not found; assumed in their place: images of {size}, {longest}", *missing]))
    return _Found(config, tokenizers, labels, shards, frozenset(sets.missing), tuple(notes))


def _network(
    recipe: Recipe, sets: _LabelSets, notes: list[str]
) -> tuple[UnifiedConfig, Mapping[str, Tokenizer] | None]:
    """The configuration, and the tokenizers unless that of text cannot be had."""
    settings = recipe.model.modalities
    try:
        tokenizers = load_tokenizers(settings)
    except RecipeError as error:
        text = replace(recipe.model.language, tokenizer=TextSettings.tokenizer)
        assumed = load_tokenizers({**settings, MODALITIES.language: text})
        config = network(recipe, assumed, find=sets)
        config.vocabulary_size = UnifiedConfig.vocabulary_size
        notes.append(f"{error}. Assumed: {config.vocabulary_size:,} ids, as the published models have")
        return config, None
    return network(recipe, tokenizers, find=sets), tokenizers


def _known(task: Task, name: str, recipe: Recipe, found: _Found) -> bool:
    """Whether all label sets that the loader of a task reads are there."""
    references = [{**label_sets(recipe), **query_names(recipe)}.get(name), task.answer.identity_names()]
    return not found.missing.intersection(reference for reference in references if reference is not None)


def _work_of_slot(recipe: Recipe, name: str, found: _Found, processes: int) -> tuple[Work, int | None]:
    """The work of a task's slot on one process, and the samples of its data, None where the batch is assumed."""
    task = recipe.tasks[name]
    picks = name in label_sets(recipe) or task.answer.encodes_names()
    batch, samples = _assumed_batch(name, task, found.config, processes), None
    if found.tokenizers is not None and name in found.shards and _known(task, name, recipe, found):
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
    size, length = task.batch // processes, config.language["max_length"]
    inputs = {modality: _blank(modality, size, _most(modality, task, config)) for modality in task.inputs.values()}
    target = kind_of(task).assumed_target(task, lambda length: _blank(MODALITIES.language, size, length), size, length)
    return Batch(name, inputs, target, [""] * size)


def _most(modality: str, task: Task, config: UnifiedConfig) -> int:
    """Tokens of the longest sample of a modality that the settings allow."""
    row, section = MODALITIES[modality], config.section(modality)
    if row.spatial and task.size is not None:
        section = {**section, "height": task.size[0], "width": task.size[1]}
    tokens = row.read_features(row.example(section, torch_generator("example", modality), True), section)
    assert tokens is not None
    return int(tokens.values.shape[1])


def _blank(modality: str, size: int, length: int) -> Tokens:
    """Tokens without content, of which memory holds one row."""
    mask = torch.ones(1, length, dtype=torch.bool).expand(size, -1)
    return Tokens(modality, torch.zeros(1, length, dtype=torch.long).expand(size, -1), mask, timeline(size, length))


def _label_tokens(labels: Labels | None, tokenizers: Mapping[str, Tokenizer] | None) -> Tokens:
    if labels is None:
        return _blank(MODALITIES.language, ASSUMED_CLASSES, ASSUMED_NAME)
    if tokenizers is None:
        return _blank(MODALITIES.language, len(labels), ASSUMED_NAME)
    text = tokenizers[MODALITIES.language]
    return text.tokens([text.prepare(name) for name in labels.names])
