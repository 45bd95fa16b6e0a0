"""Asking task queries: one pass over the encoder for all tasks, and the loss of one task in training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from unified.answers.base import QueryStates
from unified.core.errors import DataError, nearest
from unified.core.types import Tokens
from unified.modalities import MODALITIES
from unified.modalities.sequence import Attributes
from unified.model.network import Network
from unified.model.query_states import Seen, Trunk
from unified.model.routing_attributes import by_family
from unified.nn.encoder import Noise
from unified.nn.queries.modules import unpatched


def ask(
    model: Network,
    tokens: Mapping[str, Tokens],
    tasks: Sequence[str],
    *,
    names: Mapping[str, Any] | None = None,
    noise: Noise | None = None,
) -> dict[str, QueryStates]:
    """What the queries of tasks find in a batch of pictures of one size; see `UnifiedModel.ask`."""
    if model.queries is None:
        raise KeyError("this model has no task queries; train it with a recipe that has `model.queries`")
    for task in tasks:
        if task not in model.queries.specs:
            raise KeyError(f"task {task!r} has no queries in this model{nearest(task, list(model.queries.specs))}")
    if set(tokens) != {MODALITIES.spatial}:
        raise TypeError(f"task queries are asked about one image, found {sorted(tokens)}")
    image, queries = tokens[MODALITIES.spatial], model.queries
    trunks: dict[str, Trunk] = {}
    seen: dict[tuple[str, str], Seen] = {}
    found = {}
    for task in tasks:
        named = _named(model, task, (names or {}).get(task))
        # States depend on who asks only where queries are among them, or routers look at the family.
        family = queries.specs[task].family
        whose = task if queries.inside else family if by_family(model.config.experts) else ""
        if whose not in trunks:
            inner = queries.inner(task, named) if queries.inside else None
            trunks[whose] = _trunk(model, image, family, noise, inner)
        place = (whose, queries.group(task))
        if place not in seen:
            seen[place] = queries.look(trunks[whose], place[1])
        found[task] = queries(task, trunks[whose], seen[place], named)
    return found


def _trunk(model: Network, image: Tokens, family: str, noise: Noise | None, inner: Tensor | None) -> Trunk:
    assert model.queries is not None
    rows, columns = _grid(image)
    given = Attributes(image.modality, family=family)
    queries = None if inner is None else (replace(given, role="query"), inner.expand(len(image), -1, -1))
    keep = model.queries.sharing == "projector"
    encoded = model.encode([(given, image)], noise=noise, keep_layers=keep, queries=queries)
    patches = slice(1, 1 + rows * columns)
    pixels: Any = model.embeddings[MODALITIES.spatial]
    return Trunk(
        encoded.states[:, patches],
        rows,
        columns,
        tuple(layer[:, patches] for layer in encoded.layers),
        None if inner is None else encoded.states[:, patches.stop :],
        pixels.normalise(image.values) if model.queries.detail else None,
        unpatched(image.values.float().unflatten(1, (rows, columns))) / 255 if model.queries.residual else None,
    )


def _grid(image: Tokens) -> tuple[int, int]:
    """Rows and columns of patches, which all pictures of the batch must have."""
    grid = image.grid
    if grid is None or grid[0] != 1:
        raise DataError(
            "task queries are asked about pictures of one size and no videos; ask about pictures of other sizes one "
            "by one"
        )
    return grid[1:]


def _named(model: Network, task: str, given: Any) -> Tensor | None:
    """The representations of the names that a task's queries are made of, if they are."""
    assert model.queries is not None
    spec = model.queries.specs[task]
    if not spec.from_names:
        if given is not None:
            raise ValueError(
                f"task {task!r}: its queries are not made from names (answer.from_names), so it has its own"
            )
        return None
    if isinstance(given, Tensor):
        return given
    return model.candidates(list(given or spec.names), given=(MODALITIES.spatial,), family=spec.family)
