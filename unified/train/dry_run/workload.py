"""What a slot sends through the network: for the speed of a run, and its share of what the machine can do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from unified.config.task import Match, Task
from unified.core.distributed import rows_of_rank
from unified.core.types import IGNORE, Batch, Tokens
from unified.modalities.text.length_buckets import by_length
from unified.model.pretrained import UnifiedModel
from unified.nn.moe.routing import BY_TOKEN
from unified.train.dry_run.flops import forward_flops, matrix_parameters
from unified.train.dry_run.query_flops import asked_flops


@dataclass(frozen=True)
class Work:
    """The sizes of the products of one slot on one rank."""

    sequences: tuple[tuple[int, int, int], ...]  # (how many, tokens of each, states that are read of each)
    image_tokens: int  # embedded by a product; text is looked up
    read: int  # states that become representations
    pairs: int  # of representations that are compared
    asked: tuple[str, int, int] | None = None  # the task whose queries are asked, of so many samples of so many patches

    @property
    def tokens(self) -> int:
        """Tokens through the encoder, with the padding that buckets of like length leave."""
        return sum(count * length for count, length, _ in self.sequences)


def work(
    task: Task, batch: Batch, labels: Tokens | None, vocabulary: int, *, bucketed: bool = True, ranks: int = 1
) -> Work:
    """The work of a batch, whose texts are encoded in buckets of like length on a CPU (`bucketed`), as `score` does.

    `labels`: tokens of the task's label set; `vocabulary`: entries of the vocabulary.
    """
    images = sum(t.values.shape[0] * t.values.shape[1] for t in batch.inputs.values() if t.modality == "image")
    answer = task.answer
    if not isinstance(answer, Match):
        names = _own_labels(labels, bucketed, ranks) if labels is not None else ()
        read = sum(count for count, _, _ in names)
        ((samples, length, _),) = _represented(batch.inputs, bucketed)
        return Work(
            ((samples, length, length), *names),
            images,
            read,
            0,
            (batch.task, len(batch), images // len(batch)),
        )
    if answer.read != "prefix":
        asked = batch.target.mask.sum() if isinstance(batch.target, Tokens) else (batch.target != IGNORE).sum()
        sequences = _worded(batch, bucketed)
        if answer.vocabulary == "encoder":
            sequences = (*sequences, (vocabulary, 3, 1))
        return Work(sequences, images, int(asked) + vocabulary, int(asked) * vocabulary)
    sequences = _represented(batch.inputs, bucketed)
    if labels is None:
        texts = batch.target["tokens"]
        pairs = 2 * len(batch) * len(batch) * ranks  # in both directions
        return Work((*sequences, *_represented({"text": texts}, bucketed)), images, 2 * len(batch), pairs)
    own = _own_labels(labels, bucketed, ranks)
    encoded = sum(count for count, _, _ in own)
    return Work((*sequences, *own), images, len(batch) + encoded, len(batch) * len(labels))


def _own_labels(labels: Tokens, bucketed: bool, ranks: int) -> tuple[tuple[int, int, int], ...]:
    """Sequences of the labels that a rank encodes: those of any other are like it, but for one label."""
    own = rows_of_rank(len(labels), 0, ranks)
    return _represented({"text": labels.rows(slice(own.start, own.stop))}, bucketed)


def _represented(inputs: Mapping[str, Tokens], bucketed: bool) -> tuple[tuple[int, int, int], ...]:
    """Sequences of samples that are read at their prefix."""
    if set(inputs) == {"text"}:
        return tuple((count, 1 + length, 1) for count, length in _texts(inputs["text"], bucketed))
    first = next(iter(inputs.values()))
    return ((len(first), 1 + sum(tokens.values.shape[1] for tokens in inputs.values()), 1),)


def _worded(batch: Batch, bucketed: bool) -> tuple[tuple[int, int, int], ...]:
    """Sequences of samples whose words are asked for."""
    captions = isinstance(batch.target, Tokens)
    text, times = (batch.target, 2) if captions else (batch.inputs["text"], 1)  # a caption, and a query for each word
    extra = 1 + sum(t.values.shape[1] for name, t in batch.inputs.items() if captions or name != "text")
    found = _texts(text, bucketed, extra // times)
    return tuple((n, extra + times * length, length if captions else extra + length) for n, length in found)


def _texts(text: Tokens, bucketed: bool, extra: int = 0) -> list[tuple[int, int]]:
    """(How many, tokens of each) of texts in buckets of like length."""
    buckets = by_length(text, extra) if bucketed else None
    if buckets is None:
        return [(len(text), text.values.shape[1])]
    lengths = text.mask.sum(dim=1)
    return [(len(rows), int(lengths[rows].max())) for rows in buckets]


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
