"""Floating-point operations of task queries: what they look at, their decoder, and what is read from them."""

from typing import Any

from torch import nn

from unified.model.task_queries import TaskQueries
from unified.nn.queries.modules import Doubling, Pyramid
from unified.train.dry_run.flops import matrix_parameters


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
