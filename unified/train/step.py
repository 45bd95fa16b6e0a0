"""The multi-task step: slots in one forward pass, one weighted loss, normalised over all ranks."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from unified.answers.assignment import assign
from unified.answers.base import Begun, Drawn, Scores
from unified.answers.score import begin
from unified.answers.table import kind_of
from unified.config.task import Task
from unified.core import seed
from unified.core.distributed import rank, reduce_sum, waits_measured, world_size
from unified.core.timer import Stopwatch
from unified.core.transfers import sent
from unified.core.types import Batch, Tokens
from unified.modalities.text.length_buckets import whole_batches
from unified.model.pretrained import UnifiedModel
from unified.nn.encoder import Noise
from unified.train.expert_load import routing_loss
from unified.train.precision import PRECISIONS

T = TypeVar("T")

TASK_METRICS: dict[str, Callable[[float, float, float], float]] = {
    "score": lambda _loss, terms, score: score / terms,
    "accuracy": lambda _loss, terms, correct: correct / terms,
    "perplexity": lambda loss, terms, _correct: math.exp(min(loss / terms, 700.0)),
}
"""What `Task.metric` may name: a number for people from the sum of losses, the terms and the hits of a slot."""


@dataclass(frozen=True)
class Item:
    """One slot of a step: this rank's batch, the tokens of the task's label set, and its noise."""

    task: str
    batch: Batch
    labels: Tokens | None = None
    noise: Drawn | None = None


class StepModel(nn.Module):
    """The module that an engine wraps: its forward pass runs the slots of an optimizer step, or a chunk of them.

    One forward and one backward of the weighted sum are exact on every engine, however many slots they have.
    """

    def __init__(self, model: UnifiedModel, tasks: Mapping[str, Task], precision: str = "fp32") -> None:
        super().__init__()
        self.model = model
        self.tasks = dict(tasks)
        self.computes_in = PRECISIONS[precision]
        self.watch = Stopwatch(model.device)
        """Measures the forward pass of each task, and as `WAITING` what of it was spent in exchanges."""
        self.whole_batches = False
        """Run each batch as one, so that all ranks run the same modules in the same order, whatever their data."""

    def forward(
        self, items: Sequence[Item], slots: int | None = None
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "s 4"], Float[Tensor, "m d e"] | None]:
        """Return the loss of the step, and for each slot the sum of losses, the terms and the hits over all ranks.

        A slot's loss is its sum divided by the number of its valid terms on all ranks. The loss of the step is the mean
        over its slots of weight × loss: never divided by weights, so that a task's factor does not depend on which
        tasks share the step. Engines average gradients over ranks, so the local part is multiplied by the world size.

        Args:
            items: the slots of the step, or a chunk of them.
            slots: how many slots the whole step has; None: `items` are all of them. The losses of all chunks add up to
                that of the step, but that experts are balanced over a chunk at a time.

        Returns:
            The loss; the sums (slots, 4) float32, whose fourth column has the losses of this rank alone; and the load
            of all experts over all ranks, by layer and decision, None for a dense model.
        """
        device = self.model.device.type
        autocast = torch.autocast(device, self.computes_in, enabled=self.computes_in != torch.float32)
        with autocast, whole_batches(self.whole_batches), self.model.encoder.sharing() as passes:
            begun = [self._begin(item) for item in items]
            matched = iter(assign([cost for each in begun for cost in each.costs]))
            scores = [self._finish(item, each, matched) for item, each in zip(items, begun, strict=True)]
        sums = torch.stack([s.loss.sum() for s in scores])
        local = torch.stack([torch.stack([s.loss.sum(), s.terms.sum(), s.correct.sum()]).float() for s in scores])
        whole = reduce_sum(local)
        count = len(items) if slots is None else slots
        weights = torch.stack([sums.new_full((), self.tasks[item.task].loss_weight) for item in items])
        factor = weights / count * world_size() / whole[:, 1].clamp(min=1)
        extra, load = routing_loss(passes, self.model.config.experts)
        loss = (factor * sums).sum()
        if extra is not None:
            loss = loss + extra * (len(items) / count)
        return loss, torch.cat([whole, local[:, :1]], dim=1), load

    def _begin(self, item: Item) -> Begun:
        with self.watch.measure(item.task), waits_measured(self.watch):
            task = self.tasks[item.task]
            return begin(self.model, task, item.batch, labels=item.labels, noise=item.noise, name=item.task)

    def _finish(self, item: Item, begun: Begun, matched: Iterator[Tensor]) -> Scores:
        with self.watch.measure(item.task), waits_measured(self.watch):
            return begun.finish(list(islice(matched, len(begun.costs))))


def in_chunks(slots: Sequence[T], chunks: int) -> list[Sequence[T]]:
    """The slots of a step in at most so many runs of nearly equal length, none of them empty."""
    count = min(chunks, len(slots))
    bounds = [number * len(slots) // count for number in range(count + 1)]
    return [slots[start:stop] for start, stop in pairwise(bounds)]


def draw_noise(
    task: Task,
    *,
    rate: float,
    depth: int,
    labels: int,
    seed_value: int,
    step: int,
    slot: int,
    device: torch.device,
    gates: tuple[int, int, int] | None = None,
) -> Drawn | None:
    """The noise of a slot, drawn by (seed, step, slot): drop-path factors for its global batch, this rank's rows of
    them, and numbers for the gates, which all ranks have alike.

    Candidates of a batch, and the labels of a set, are split over ranks like the samples.
    `gates`: layers with noisy gates, decisions of each, experts; None: there are none.
    """
    if rate == 0.0 and gates is None:
        return None
    size = task.batch // world_size()
    own = np.arange(rank() * size, (rank() + 1) * size)

    def drawn(rows: np.ndarray, purpose: str) -> Noise:
        factors = None
        if rate:
            uniform = seed.uniform(rows, 2 * depth, seed_value, "drop path", purpose, step, slot)
            kept = torch.from_numpy((uniform >= rate).astype(np.float32) / (1 - rate))
            factors = sent(kept.T.reshape(depth, 2, len(rows)), device)
        normal = None
        if gates is not None:
            layers, decisions, experts = gates
            generator = seed.torch_generator(seed_value, "gate noise", purpose, step, slot)
            most = len(task.inputs) + 2  # rows of one sequence: its inputs, a caption and its queries
            normal = sent(torch.randn(layers, decisions, most, experts, generator=generator), device)
        return Noise(factors, normal)

    inputs = drawn(own, "inputs")
    return Drawn(inputs, kind_of(task).candidate_noise(drawn, own, labels))
