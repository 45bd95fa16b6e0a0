"""One task's forward pass: read the inputs, encode the candidates, match; or ask the task's queries."""

from collections.abc import Sequence

import torch
from torch import Tensor

from unified.answers.assignment import assign
from unified.answers.base import AnsweringNetwork, Begun, Drawn, Scores
from unified.answers.match.kind import MatchKind, label_features
from unified.answers.table import begin_queries, kind_of
from unified.config.task import Task
from unified.core.types import Batch, Tokens
from unified.modalities.sequence import Attributes


def score(
    model: AnsweringNetwork,
    task: Task,
    batch: Batch,
    *,
    labels: Tokens | None = None,
    noise: Drawn | None = None,
    name: str = "",
) -> Scores:
    """Return losses and hits of a batch of one task.

    Args:
        model: The network.
        task: The task.
        batch: Its batch.
        labels: Tokens of the task's label set, or of the names that its queries are made of.
        noise: Of inputs and candidates.
        name: Stands in for the task's family where it names none.
    """
    begun = begin(model, task, batch, labels=labels, noise=noise, name=name)
    return begun.finish(assign(begun.costs))


def begin(
    model: AnsweringNetwork,
    task: Task,
    batch: Batch,
    *,
    labels: Tokens | None = None,
    noise: Drawn | None = None,
    name: str = "",
) -> Begun[Scores]:
    """Return what `score` does, up to the assignment of queries to objects, if there is one."""
    kind = kind_of(task)
    if not isinstance(kind, MatchKind):
        return _begin_queries(model, batch, labels, noise)
    scores = kind.score(model, task, batch, labels, noise, task.family or name or batch.task)
    return Begun(lambda _: scores)


def _begin_queries(model: AnsweringNetwork, batch: Batch, labels: Tokens | None, noise: Drawn | None) -> Begun[Scores]:
    of_inputs, of_names = (noise.inputs, noise.candidates) if noise else (None, None)
    names = None
    if labels is not None:
        assert model.queries is not None
        family = model.queries.specs[batch.task].family
        names = {batch.task: label_features(model, labels, of_names, batch, family)}
    found = model.ask(batch.inputs, [batch.task], names=names, noise=of_inputs)[batch.task]
    begun = begin_queries(found, batch.target)

    def finish(matched: Sequence[Tensor]) -> Scores:
        loss, score = begun.finish(matched)
        return Scores(loss, torch.ones_like(loss, dtype=torch.long), score)

    return Begun(finish, begun.costs)


def token_kinds(task: Task, name: str, *, inside: bool = False) -> tuple[Attributes, ...]:
    """Return every kind of token that `score` runs through the encoder for a task: the rows that its routing has.

    Args:
        task: The task.
        name: Its name, which stands in for a family.
        inside: Whether queries pass the encoder.
    """
    return kind_of(task).token_kinds(task, task.family or name, inside=inside)
