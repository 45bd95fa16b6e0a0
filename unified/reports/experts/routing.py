"""Which experts a model uses: for each kind of token by the gates alone, or for each task and modality by counting.

Routers that do not look at the data have one answer for each row (kind of token), which needs no data. Of routers that
look at tokens, choices are counted on batches of each task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unified.answers.score import token_kinds
from unified.config.recipe import Recipe
from unified.core.errors import UserError
from unified.core.types import Tokens
from unified.evaluate.context import evaluating
from unified.modalities.sequence import Attributes
from unified.model.pretrained import UnifiedModel
from unified.model.routing_attributes import Conditioner, key
from unified.nn.moe.balance import effective_experts
from unified.nn.moe.routing import BY_TOKEN, FOLDED, Choice
from unified.reports.source import Questions, Ticker

COLLAPSED = 1.5
"""A layer whose load is as diverse as that of fewer equally busy experts has collapsed."""
CROWDED = 0.9
"""So has one in which a single expert has more than this share of the load."""

Place = tuple[int, str]
"""A layer and the name of one of its decisions."""


@dataclass(frozen=True)
class Row:
    """A kind of token, or the tokens of one modality of one task."""

    label: str
    tasks: tuple[str, ...]
    key: str | None = None
    """Its name under a router that does not look at the data."""
    tokens: int | None = None
    """Those that were counted."""


@dataclass(frozen=True)
class Routing:
    """What the routers of a model do with each row."""

    router: str
    top: int
    rows: tuple[Row, ...]
    shares: Mapping[Place, Float[Tensor, "r e"]]
    """Of each layer and decision: the weight of each expert for a row (1 in sum), or its share of the row's choices."""

    def load(self, place: Place) -> Float[Tensor, "e"]:
        """The share of each expert over all rows: by tokens where they were counted, otherwise all rows alike."""
        weight = torch.tensor([float(1 if row.tokens is None else row.tokens) for row in self.rows])
        total = weight.double() @ self.shares[place].double()
        return total / total.sum().clamp(min=torch.finfo(total.dtype).tiny)

    def dead(self, place: Place) -> list[int]:
        """The experts that no row uses."""
        return [expert for expert, share in enumerate(self.load(place).tolist()) if share == 0]

    def problems(self, place: Place) -> list[str]:
        """What is wrong with a decision, in words; nothing where it is fine."""
        load = self.load(place)
        experts, effective = len(load), float(effective_experts(load))
        found = []
        if effective < COLLAPSED:
            found.append(f"collapsed: as diverse as {effective:.2f} of {experts} experts")
        elif float(load.max()) > CROWDED:
            found.append(f"crowded: expert {int(load.argmax())} has {float(load.max()):.0%} of the load")
        dead = self.dead(place)
        counted = self.rows[0].tokens is not None
        if dead and (counted or len(self.rows) * self.top >= experts):  # otherwise rows are too few for all experts
            found.append(f"dead: no row has expert {', '.join(map(str, dead))}")
        used = self.shares[place] > 0
        if not counted and len(self.rows) > 1 and self.top < experts and bool((used == used[0]).all()):
            found.append(f"same experts: all {len(self.rows)} rows have them, and differ in their weights alone")
        return found


def check(model: UnifiedModel, name: str) -> Mapping[str, Any]:
    """The settings of a model's experts; a `UserError` where there are no routers."""
    experts: Mapping[str, Any] | None = model.config.experts
    if experts is None:
        raise UserError(
            f"{name}: a dense model, which has no routers. `unified report interference` shows what its tasks do to "
            "each other; a recipe with model.experts trains one that has routers"
        )
    if experts["router"] == FOLDED:
        raise UserError(
            f"{name}: a folded model, whose experts were merged into one linear a row: nothing is chosen any more. "
            "Report the model that it was folded from"
        )
    return experts


def looks_at_data(experts: Mapping[str, Any]) -> bool:
    """Whether the choices can only be counted."""
    return experts["router"] in BY_TOKEN


def kinds_of_tasks(model: UnifiedModel, recipe: Recipe | None) -> dict[str, list[Attributes]]:
    """The kinds of token of each task: of a recipe, or those that the model was made for."""
    if recipe is not None:
        return {name: list(token_kinds(task, name)) for name, task in recipe.tasks.items()}
    if not model.config.tasks:
        raise UserError("this model's configuration names no tasks; name a recipe that has them: --data RECIPE.yaml")
    return {task: model.config.kinds(task) for task in model.config.tasks}


@torch.no_grad()
def gate_table(model: UnifiedModel, kinds: Mapping[str, Sequence[Attributes]]) -> Routing:
    """The gates of every kind of token, without noise, as in evaluation: a pure function of the weights."""
    experts = model.config.experts
    found: dict[str, list[tuple[str, Attributes]]] = {}
    for task, attributes in kinds.items():
        for kind in attributes:
            found.setdefault(key(kind, experts, model.config.families), []).append((task, kind))
    conditions = Conditioner.of(model.config).conditions(list(found), model.device)
    shares = {}
    for number, layer in model.encoder.conditional_layers().items():
        for name, gates in zip(layer.keys(), layer.gates(conditions)[0], strict=True):
            shares[number, name] = gates.cpu()
    rows = tuple(_row(name, uses, experts["router"]) for name, uses in found.items())
    return Routing(experts["router"], experts["top"], rows, shares)


def _row(name: str, uses: Sequence[tuple[str, Attributes]], router: str) -> Row:
    tasks = tuple(dict.fromkeys(task for task, _ in uses))
    if router == "task":
        return Row(name, tasks, name)
    words = ", ".join(tasks[:2]) + (f" +{len(tasks) - 2}" if len(tasks) > 2 else "")
    if router == "modality":
        return Row(f"{name}: {words}", tasks, name)
    what = " / ".join(dict.fromkeys(_what(kind) for _, kind in uses))
    return Row(f"{what}: {words}\n{name}", tasks, name)


def _what(kind: Attributes) -> str:
    causal, role = ("causal " if kind.causal else ""), (f" {kind.role}" if kind.role != "input" else "")
    return f"{causal}{kind.modality}{role}"


def count(questions: Questions, batches: int) -> Routing:
    """The experts that tokens of each task and modality are sent to, counted on seeded batches.

    A token counts 1/k for each of its k experts, before any is left out for capacity; padding does not count.
    """
    if batches < 1:
        raise UserError(f"--batches: {batches}; choices are counted on batches, so at least 1 is needed")
    model, experts = questions.model, questions.model.config.experts
    ticker = Ticker("routing: batches", len(questions.tasks) * batches)
    with evaluating(model), Watch(model) as watch:
        for task in questions.tasks:
            watch.task = task
            for number in range(batches):
                questions.loss(task, number)
                ticker.tick()
    names = list(dict.fromkeys(name for counts in watch.counts.values() for name in counts))
    tokens = {name: next(counts[name] for counts in watch.counts.values() if name in counts).sum() for name in names}
    rows = tuple(Row(" · ".join(name), name[:1], None, round(float(tokens[name]))) for name in names)
    shares = {
        place: torch.stack([counts[name] / counts[name].sum() for name in names])
        for place, counts in watch.counts.items()
    }
    return Routing(experts["router"], experts["top"], rows, shares)


@dataclass
class Watch:
    """Counts the choices of token routers while a model answers questions of a task, by forward hooks."""

    model: UnifiedModel
    task: str = ""
    counts: dict[Place, dict[tuple[str, str], Tensor]] = field(default_factory=dict)
    """By place, then by task and modality: how often each expert was chosen, in tokens."""
    _parts: list[Tokens] = field(default_factory=list)
    _sequence: list[Tokens] = field(default_factory=list)
    _handles: list[Any] = field(default_factory=list)

    def __enter__(self) -> Self:
        for embedding in self.model.embeddings.values():
            self._handles.append(embedding.register_forward_hook(self._embedded))
        self._handles.append(self.model.encoder.register_forward_pre_hook(self._begins))
        for number, layer in self.model.encoder.conditional_layers().items():
            for name, router in layer.items():
                self._handles.append(router.register_forward_hook(partial(self._chosen, (number, name))))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _embedded(self, module: nn.Module, given: tuple[Any, ...], output: Any) -> None:  # noqa: ARG002
        """A part of the next sequence."""
        self._parts.append(given[0])

    def _begins(self, module: nn.Module, given: tuple[Any, ...]) -> None:  # noqa: ARG002
        self._sequence, self._parts = self._parts, []

    def _chosen(self, place: Place, router: nn.Module, given: tuple[Any, ...], choice: Choice) -> None:  # noqa: ARG002
        """Split the choices over the parts of the sequence; its prefix belongs to the first one."""
        samples, experts = len(self._sequence[0]), choice.logits.shape[1]
        chosen = choice.experts.view(samples, -1, choice.experts.shape[1])
        start = 0
        for number, part in enumerate(self._sequence):
            real = part.mask if number else nn.functional.pad(part.mask, (1, 0), value=True)
            picked = chosen[:, start : start + real.shape[1]][real].flatten()
            counts = torch.bincount(picked, minlength=experts).double().cpu() / chosen.shape[2]
            by_row = self.counts.setdefault(place, {})
            name = (self.task, part.modality)
            by_row[name] = by_row[name] + counts if name in by_row else counts
            start += real.shape[1]
