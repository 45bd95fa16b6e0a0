"""The kinds of answers, looked up by settings and specs: what the rest of the package asks of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unified.answers import ANSWERS
from unified.answers.base import Begun, QueryStates, Size, Target
from unified.answers.baselines import Slots
from unified.answers.kind import AnswerKind, QueryKind
from unified.answers.match.kind import MatchKind
from unified.answers.spec import QuerySpec
from unified.config.task import Answer, Task
from unified.core.errors import RecipeError, nearest, quoted
from unified.core.schema import build

OF_OTHERS = frozenset(
    {"softmax", "limits", "scale", "operator", "residual", "identities", "parts", "positives", "skeleton"}
)
"""Keys that configurations of format 1 have for tasks of every kind."""


def kind_of(task: Task) -> AnswerKind:
    """Return the kind of answer of a task."""
    return ANSWERS[task.answer.kind]


def match_kind(task: Task) -> MatchKind:
    """Return the kind of a task that compares representations."""
    kind = kind_of(task)
    assert isinstance(kind, MatchKind)
    return kind


def query_kind(read: str) -> QueryKind:
    """Return the kind of a task that queries answer, by what its spec reads."""
    kind = ANSWERS[read]
    assert isinstance(kind, QueryKind)
    return kind


def readings() -> list[str]:
    """Return where kinds that compare representations read their states."""
    return sorted({kind.reading for kind in ANSWERS.values() if isinstance(kind, MatchKind)})


def settings_of(content: Mapping[str, Any], where: str) -> type[Answer]:
    """Return the settings that the keys of an `answer:` name.

    Raises:
        RecipeError: No kind has such keys.
    """
    keys = dict.fromkeys(kind.key for kind in ANSWERS.values() if isinstance(kind, QueryKind))
    given = [key for key in ("candidates", *keys) if key in content]
    if len(given) > 1:
        raise RecipeError(
            f"{where}: expected one of {', '.join(given)}, got all of them. Hint: a recipe that extends another keeps "
            "the keys of its answers; leave that task out (null) and name yours anew"
        )
    claiming = [kind for kind in ANSWERS.values() if kind.claims(content)]
    if claiming:
        _check_reading(claiming[-1], content, where)
        return claiming[-1].Settings
    for key in (key for key in keys if key in content):
        if isinstance(content[key], str) and content[key] in ANSWERS:
            ANSWERS.find(content[key], f"{where}.{key}")  # says why its package cannot be used
        known = [kind.name for kind in ANSWERS.values() if isinstance(kind, QueryKind) and kind.key == key]
        raise RecipeError(f"{where}.{key}: {quoted(content[key])} does not fit{nearest(str(content[key]), known)}")
    raise RecipeError(f"{where}: expected `candidates`, `map` or `regress`, got {quoted(list(content))}")


def _check_reading(kind: AnswerKind, content: Mapping[str, Any], where: str) -> None:
    """Refuse a `read` that the kind of the other keys does not have."""
    if "read" not in content or not isinstance(kind, MatchKind) or content["read"] == kind.reading != "prefix":
        return
    words = [reading for reading in readings() if reading != "prefix"]
    if content.get("candidates") == "vocabulary":
        known = nearest(str(content["read"]), words)
        raise RecipeError(f"{where}.read: expected {', '.join(words)}, got {quoted(content['read'])}{known}")
    raise RecipeError(
        f"{where}.read: expected none with these candidates, got {quoted(content['read'])}. Hint: it belongs to "
        "candidates: vocabulary"
    )


def own_keys(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return an `answer:` of the first format of recipes of runs, which had the keys of several kinds.

    Args:
        content: Its keys.
        where: Its place, for messages.
    """
    content = {key: value for key, value in content.items() if (key, value) != ("read", "prefix")}
    known = {field.name for field in fields(settings_of(content, where))}
    others = OF_OTHERS | {field.name for kind in ANSWERS.values() for field in fields(kind.Settings)}
    return {key: value for key, value in content.items() if key in known or key not in others}


def make_spec(read: str, queries: int, **kept: Any) -> QuerySpec:
    """Return a spec of a kind of answer.

    Args:
        read: The name of the kind.
        queries: How many.
        kept: What else the specs of this kind keep.
    """
    return query_kind(read).Spec(read=read, queries=queries, **kept)


def query_spec(
    name: str, task: Task, names: Sequence[str], identities: int, size: tuple[int, int], cell: int
) -> QuerySpec:
    """Return the spec of a recipe's task with queries.

    Args:
        name: Of the task, which stands in for a family.
        task: The task.
        names: Of its label set; empty where it has none.
        identities: How many its training data have.
        size: Height and width of its images, where the task says none.
        cell: Pixels of the input that a place of the maps stands for, along each axis.
    """
    common = {"size": task.size or size, "family": task.family or name}
    return query_kind(task.answer.kind).spec(task, names, identities, cell, **common)


def read_specs(content: Mapping[str, Mapping[str, Any]]) -> dict[str, QuerySpec]:
    """Return what `plain_specs` wrote.

    Raises:
        RecipeError: A kind is not known, or does not have a key.
    """
    return {name: _read_spec(spec, f"config.json: queries.tasks.{name}") for name, spec in content.items()}


def _read_spec(content: Any, where: str) -> QuerySpec:
    read = content.get("read") if isinstance(content, Mapping) else None
    kind = ANSWERS.get(read) if isinstance(read, str) else None
    if not isinstance(kind, QueryKind):
        known = [kind.name for kind in ANSWERS.values() if isinstance(kind, QueryKind)]
        raise RecipeError(f"{where}.read: {quoted(read)} is no kind of answer{nearest(str(read), known)}")
    other = OF_OTHERS - {field.name for field in fields(kind.Spec)}
    return build(kind.Spec, {key: value for key, value in content.items() if key not in other}, where)


def baseline_shapes(spec: QuerySpec) -> dict[str, tuple[int, ...]]:
    """Return the slots of a task's baseline, and their shapes."""
    return query_kind(spec.read).baseline_shapes(spec)


def measure(spec: QuerySpec, targets: Iterable[Target], places: int) -> Slots:
    """Return the values of the slots of a task's baseline.

    Args:
        spec: What its queries are.
        targets: Batches of what is right of training samples, as losses take them; at least one.
        places: Of the maps, in training.

    Returns:
        fp32 tensors of the shapes that `baseline_shapes` says.
    """
    measured = query_kind(spec.read).baseline(spec, targets, places)
    return {slot: value.float() for slot, value in measured.items()}


def begin_queries(found: QueryStates, target: Target) -> Begun[tuple[Tensor, Tensor]]:
    """Return what `loss_and_score` does up to the assignment of queries to objects, if there is one."""
    with torch.autocast(found.features.device.type, enabled=False):
        begun = query_kind(found.spec.read).begin(found, target)

    def finish(matched: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        with torch.autocast(found.features.device.type, enabled=False):
            return begun.finish(matched)

    return Begun(finish, begun.costs)


def loss_and_score(found: QueryStates, target: Target) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Return the loss of each sample, and for people how well it was answered, from 0 to 1."""
    with torch.autocast(found.features.device.type, enabled=False):
        return query_kind(found.spec.read).loss(found, target)


@torch.no_grad()
def answers(found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    """Return the answer for each sample, for an image of its (height, width); boxes and points are in its pixels."""
    with torch.autocast(found.features.device.type, enabled=False):
        return query_kind(found.spec.read).predict(found, sizes)
