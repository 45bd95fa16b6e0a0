"""Floating-point operations in closed form: what counts are compared with."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from unified.model.pretrained import UnifiedModel
from unified.model.task_queries import TaskQueries
from unified.nn.moe.experts import ConditionalLinear
from unified.nn.moe.routing import BY_TOKEN, AttributeRouter, NameRouter
from unified.nn.queries.modules import Doubling, Pyramid
from unified.train.dry_run.workload import Work


def matrix_parameters(module: nn.Module, experts: int = 1) -> int:
    """Numbers in the matrices that every token is multiplied with; tables of embeddings are looked up instead.

    `experts`: those of a conditional linear that a token is sent to; 1 where they are merged. Routers that do not look
    at tokens are asked once for each kind of token, which does not count.
    """
    if isinstance(module, (nn.Embedding, AttributeRouter, NameRouter)):
        return 0
    if isinstance(module, ConditionalLinear):
        return experts * module.weight[0].numel()
    own = sum(parameter.numel() for parameter in module.parameters(recurse=False) if parameter.dim() > 1)
    return own + sum(matrix_parameters(child, experts) for child in module.children())


def forward_flops(sequences: Iterable[tuple[int, int]], *, matrices: int, depth: int, width: int) -> int:
    """Operations of a forward pass over `sequences`, pairs of (how many, tokens of each).

    2 a token and matrix parameter, and 4 · tokens · width a token and layer for attention (its two products, all
    pairs). A multiplication with an addition counts as two, as peak rates do; padding counts like any token.
    """
    return sum(count * length * (2 * matrices + 4 * length * width * depth) for count, length in sequences)


def training_flops(sequences: Iterable[tuple[int, int]], *, matrices: int, depth: int, width: int) -> int:
    """Operations of forward and backward pass: the backward pass has two products for each one of the forward pass.

    What recomputed activations cost is not counted: it is no progress.
    """
    return 3 * forward_flops(sequences, matrices=matrices, depth=depth, width=width)


def asked_flops(queries: TaskQueries, task: str, samples: int, patches: int) -> int:
    """Operations of a forward pass of a task's queries over so many samples of so many patches, after the encoder."""
    if queries.heads:
        head: Any = queries.heads[task]
        if head.map_head is None:
            return 0  # one product of a sample
        places, products = _pyramid(head.map_head.pyramid, patches)
        return 2 * samples * (products + places * matrix_parameters(head.map_head.out))
    places, pyramid = _pyramid(queries.pyramid, patches)
    count, group = queries.specs[task].queries, queries.group(task)
    learning, width = 1, queries.interpreter.presence_logit.in_features
    if queries.inside:
        decoder = count * matrix_parameters(queries.exit)
    else:
        layers = queries.decoder.layers
        learning = queries.learning(task)
        keyed = 2 * width * width * len(layers)  # keys and values of all layers, of the patches
        own = matrix_parameters(queries.decoder) - keyed
        attention = 2 * count * (patches + count) * width * len(layers)
        decoder = patches * (matrix_parameters(queries.memory) + keyed) + count * own + attention
    read = learning * count * (matrix_parameters(queries.interpreter) + places * width)
    return 2 * samples * (_shared(queries, group, patches) + pyramid + decoder + read)


def _pyramid(pyramid: Pyramid, patches: int) -> tuple[int, int]:
    """The places that it ends with, and the products on the way."""
    places, products = patches, 0
    for step in pyramid.steps:
        products += places * matrix_parameters(step)
        places *= 4 if isinstance(step, Doubling) else 1
    if (detail := pyramid.detail) is not None:
        of_pixels = matrix_parameters(detail.first) + matrix_parameters(detail.second)
        products += places * (matrix_parameters(detail.out) + detail.cell**2 * of_pixels)
    return places, products


def _shared(queries: TaskQueries, group: str, patches: int) -> int:
    """Products of what lies between the encoder and what a group of tasks sees."""
    if queries.sharing == "projector":
        projector: Any = queries.projectors[group]
        narrow = projector.out.in_features
        return patches * (matrix_parameters(projector) + 2 * patches * narrow * len(projector.blocks))
    if queries.sharing == "attention":
        attention, number = queries.attended.attention, queries.reads.index(group)
        parts: tuple[nn.Module, ...] = (
            attention.query,
            attention.key,
            attention.values[number],
            attention.outs[number],
        )
        return patches * (sum(map(matrix_parameters, parts)) + 2 * patches * attention.query.in_features)
    return 0


class Formula:
    """Floating-point operations of a model's work."""

    def __init__(self, model: UnifiedModel) -> None:
        experts = model.config.experts or {}
        chosen = experts["top"] if experts.get("router") in BY_TOKEN else 1
        self._encoder = matrix_parameters(model.encoder, chosen)
        last: Any = model.encoder.blocks[-1]
        self._last = last.reads_parts
        self._after_attention = sum(map(matrix_parameters, (last.attention.out, last.mlp))) if self._last else 0
        self._head, self._image = matrix_parameters(model.proj), matrix_parameters(model.embeddings["image"])
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
        around = done.inputs.get("image", 0) * self._image + done.read * self._head + done.pairs * self._width
        if done.asked is None:
            return encoder + 2 * around
        assert self._queries is not None
        return encoder + 2 * around + asked_flops(self._queries, *done.asked)

    def _not_read(self, length: int) -> int:
        """Operations that the last block leaves out for each token whose state nobody reads."""
        return 2 * self._after_attention + 4 * length * self._width if self._last else 0
