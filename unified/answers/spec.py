"""What a model keeps of a task that queries answer: enough to ask it again without the recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from unified.config.task import Map, Regress, Task
from unified.core.schema import build

OBJECTS = ("boxes", "masks")
"""Readings whose queries are matched to objects; their classes have rows of their own."""
MAPPED = ("classes", "points", "bins", "directions", "share", "pixels", "density")
"""Readings in which each query has a map."""


@dataclass(frozen=True)
class QuerySpec:
    """The queries of one task, and how they are read."""

    read: str
    """What `Map.map` or `Regress.regress` says."""
    queries: int
    names: tuple[str, ...] = ()
    """Of the queries, or of the classes of objects."""
    from_names: bool = False
    softmax: bool = False
    """Of `classes` and `points`."""
    limits: tuple[float, float] = (0.0, 0.0)
    """Of `bins`."""
    scale: int = 1
    """Of `pixels`."""
    operator: str = ""
    residual: bool = False
    """Of `pixels`, as in `Map`."""
    identities: int = 0
    parts: bool = False
    """Of `identity`, as in `Regress`."""
    size: tuple[int, int] = (0, 0)
    """Height and width of the images that it learned from."""
    family: str = ""
    positives: tuple[float, ...] = ()
    """Of `presence`, how often each holds in the training data; empty where that is not known."""
    skeleton: tuple[tuple[int, int], ...] = ()
    """Pairs of named points that a line joins."""

    @property
    def objects(self) -> bool:
        """Whether the queries stand for objects."""
        return self.read in OBJECTS

    @property
    def maps(self) -> bool:
        """Whether each query has a map."""
        return self.read in MAPPED


def query_spec(
    name: str, task: Task, names: Sequence[str], identities: int, size: tuple[int, int], cell: int
) -> QuerySpec:
    """The spec of a recipe's task with queries.

    `names`: of its label set, empty where it has none; `size`: height and width of its images; `cell`: pixels of the
    input that a place of the maps stands for, along each axis.
    """
    answer = task.answer
    common = QuerySpec("", 0, names=tuple(names), size=task.size or size, family=task.family or name)
    if isinstance(answer, Regress):
        rows = len(names) if answer.regress in ("presence", "places") else answer.queries
        return replace(
            common, read=answer.regress, queries=rows, from_names=answer.from_names, identities=identities,
            parts=answer.parts,
        )  # fmt: skip
    assert isinstance(answer, Map)
    fixed = {"bins": answer.bins, "pixels": 3 * (cell * answer.scale) ** 2, "directions": 3, "share": 1, "density": 1}
    return replace(
        common, read=answer.map, queries=fixed.get(answer.map, len(names)), from_names=answer.from_names,
        softmax=answer.softmax, limits=answer.limits, scale=answer.scale, operator=answer.operator or "",
        residual=answer.residual,
    )  # fmt: skip


def plain_specs(specs: Mapping[str, QuerySpec]) -> dict[str, dict[str, Any]]:
    """Specs as a config.json holds them."""
    return {
        name: {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(spec).items()}
        for name, spec in specs.items()
    }


def read_specs(content: Mapping[str, Mapping[str, Any]]) -> dict[str, QuerySpec]:
    """What `plain_specs` wrote."""
    return {name: build(QuerySpec, spec, f"config.json: queries.tasks.{name}") for name, spec in content.items()}
