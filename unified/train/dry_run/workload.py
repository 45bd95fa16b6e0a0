"""What a slot sends through the network: for the speed of a run, and its share of what the machine can do."""

from typing import Any

import torch

from unified.answers.table import kind_of
from unified.answers.workload import Setting, Work
from unified.config.task import Task
from unified.core.types import Batch, Tokens
from unified.model.pretrained import UnifiedModel
from unified.nn.moe.routing import BY_TOKEN
from unified.train.dry_run.flops import forward_flops, matrix_parameters
from unified.train.dry_run.query_flops import asked_flops


def work(
    task: Task, batch: Batch, labels: Tokens | None, vocabulary: int, *, bucketed: bool = True, ranks: int = 1
) -> Work:
    """Return the work of a batch, as `score` does it.

    Args:
        task: The task.
        batch: Its batch.
        labels: Tokens of the task's label set, or of the names that its queries are made of.
        vocabulary: Entries of the vocabulary.
        bucketed: Whether texts are encoded in buckets of like length, as on a CPU.
        ranks: How many share a label set.
    """
    images = sum(t.values.shape[0] * t.values.shape[1] for t in batch.inputs.values() if t.modality == "image")
    setting = Setting(labels, vocabulary, bucketed, ranks)
    return kind_of(task).workload(task, batch, images, setting)


class Cost:
    """Floating-point operations of a model's work."""

    def __init__(self, model: UnifiedModel) -> None:
        experts = model.config.experts or {}
        chosen = experts["top"] if experts.get("router") in BY_TOKEN else 1
        self._encoder = matrix_parameters(model.encoder, chosen)
        last: Any = model.encoder.blocks[-1]
        self._last = last.reads_parts
        self._after_attention = sum(map(matrix_parameters, (last.attention.out, last.mlp))) if self._last else 0
        self._head, self._image = matrix_parameters(model.proj), matrix_parameters(model.image)
        self._depth, self._width = model.config.depth, model.config.width
        self._queries = model.queries

    def forward(self, done: Work) -> int:
        """Operations of the forward pass; a training step has three times as many (see `training_flops`)."""
        sequences = done.sequences
        if done.asked is not None and self._queries is not None and self._queries.inside:
            (samples, length, _), *names = sequences
            whole = length + self._queries.specs[done.asked[0]].queries
            sequences = ((samples, whole, whole), *names)
        pairs = ((count, length) for count, length, _ in sequences)
        encoder = forward_flops(pairs, matrices=self._encoder, depth=self._depth, width=self._width)
        encoder -= sum(count * (length - read) * self._not_read(length) for count, length, read in sequences)
        around = done.image_tokens * self._image + done.read * self._head + done.pairs * self._width
        if done.asked is None:
            return encoder + 2 * around
        assert self._queries is not None
        return encoder + 2 * around + asked_flops(self._queries, *done.asked)

    def _not_read(self, length: int) -> int:
        """Operations that the last block leaves out for each token whose state nobody reads."""
        return 2 * self._after_attention + 4 * length * self._width if self._last else 0


def bucketed_on(device: torch.device) -> bool:
    """Whether texts are encoded in buckets there."""
    return device.type == "cpu"
