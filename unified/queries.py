"""Task queries of a model: rows for each task, and what is shared by all of them (UniHCP, CVPR 2023).

A task owns its rows alone: what its queries begin with, where they look first, and the classes of its objects. The
decoder, the pyramid of features and the readings are those of all tasks, and know no task.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unified.nn.queries import Interpreter, Memory, PointEmbedding, Pyramid, grid_points
from unified.nn.query_decoder import QueryDecoder, Remembered
from unified.query_spec import QuerySpec


@dataclass(frozen=True)
class QueryStates:
    """What the queries of one task found in a batch; `unified/readings.py` makes it a loss or an answer."""

    spec: QuerySpec
    states: tuple[Float[Tensor, "b q d"], ...]  # of the layers that learn, the last one last
    features: Float[Tensor, "b h w d"]  # of every place
    interpreter: Interpreter
    anchors: Float[Tensor, "q 2"] | None = None  # x, y in 0..1
    classes: Float[Tensor, "c d"] | None = None  # rows of the classes of objects
    identities: Float[Tensor, "i e"] | None = None  # rows of those that were seen in training


@dataclass(frozen=True)
class Seen:
    """What queries look at, computed once for all tasks that are asked about a batch."""

    layers: tuple[Remembered, ...]  # of the decoder
    features: Float[Tensor, "b h w d"]


class Rows(nn.ParameterDict):
    """Rows of each task by its name. Called, so that weights kept elsewhere (accelerate, ZeRO) are fetched."""

    __call__ = nn.Module.__call__  # a plain ParameterDict refuses calls

    def forward(self, task: str) -> Tensor:
        """A copy: what was fetched for the call is let go after it."""
        return self[task].clone()


class TaskQueries(nn.Module):
    """The rows of all tasks, and the one decoder and interpreter that they share."""

    def __init__(self, width: int, settings: Mapping[str, Any], specs: Mapping[str, QuerySpec]) -> None:
        """`width` of the encoder; `settings`: the keys of `QuerySettings`."""
        super().__init__()
        self.specs, own = dict(specs), settings["width"]
        self.deep = settings["deep_supervision"]
        self.memory = Memory(width, own, 1)
        self.position = PointEmbedding(own)
        self.pyramid = Pyramid(width, own, settings["doublings"])
        shape = (settings["depth"], own, settings["heads"], settings["hidden"])
        self.decoder = QueryDecoder(*shape, norm=settings["norm"], activation=settings["activation"])
        self.interpreter = Interpreter(own)
        tables = row_shapes(specs, own)
        self.content, self.place, self.anchors, self.classes, self.identities = (
            Rows({task: nn.Parameter(torch.empty(shape)) for task, shape in tables[kind].items()})
            for kind in ("content", "place", "anchors", "classes", "identities")
        )
        named = any(spec.from_names for spec in specs.values())
        self.names = nn.Sequential(nn.Linear(width, own), nn.LayerNorm(own)) if named else None
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # Maps begin near zero: they are numbers and logits, and products of many features would be large ones.
        with torch.no_grad():
            for parameter in self.interpreter.map_filter.layers[-1].parameters():
                parameter.mul_(0.1)
        self.reset()

    def reset(self) -> None:
        """Draw the rows anew: anchors all over the picture, the others as tables of queries are (DETR)."""
        for rows in (self.content, self.place, self.classes):
            for parameter in rows.values():
                nn.init.normal_(parameter)
        for parameter in self.anchors.values():
            nn.init.uniform_(parameter)
        for parameter in self.identities.values():
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)

    def look(self, states: Float[Tensor, "b n w"], rows: int, columns: int) -> Seen:
        """What is to be seen in the states of an image's patches, which lie in `rows` of `columns`."""
        places = grid_points(rows, columns, states.device)
        seen = self.decoder.remember(self.memory(states), self.position(places)[None])
        return Seen(seen, self.pyramid(states.unflatten(1, (rows, columns))))

    def forward(self, task: str, seen: Seen, names: Float[Tensor, "c w"] | None = None) -> QueryStates:
        """The queries of a task after the decoder. `names`: the representations of its names, if it is made of them."""
        spec, samples = self.specs[task], len(seen.features)
        named = None
        if spec.from_names:
            if names is None or self.names is None:
                raise ValueError(f"task {task!r} makes its queries from names; give their representations")
            named = self.names(names)
        anchors = self.anchors(task) if spec.objects else None
        if anchors is not None:
            place, content = self.position(anchors), self.content(task).expand(spec.queries, -1)
        else:
            content = named if named is not None else self.content(task)
            place = self.place(task).expand_as(content)
        states = self.decoder.decode(content.expand(samples, -1, -1), place[None], seen.layers)
        classes = None
        if spec.objects:
            classes = named if named is not None else self.classes(task)
        identities = self.identities(task) if spec.read == "identity" else None
        learn = states if self.deep else states[-1:]
        return QueryStates(spec, learn, seen.features, self.interpreter, anchors, classes, identities)


def row_shapes(specs: Mapping[str, QuerySpec], width: int) -> dict[str, dict[str, tuple[int, int]]]:
    """The shapes of the rows of each kind, by task."""
    kinds = ("content", "place", "anchors", "classes", "identities")
    found: dict[str, dict[str, tuple[int, int]]] = {kind: {} for kind in kinds}
    for name, spec in specs.items():
        if spec.objects:
            found["content"][name] = (1, width)  # objects differ by where they are looked for
            found["anchors"][name] = (spec.queries, 2)
            if not spec.from_names:
                found["classes"][name] = (len(spec.names), width)
            continue
        # A new name has no place of its own, so those that are known have none either.
        found["place"][name] = (1 if spec.from_names else spec.queries, width)
        if not spec.from_names:
            found["content"][name] = (spec.queries, width)
        if spec.read == "identity":
            found["identities"][name] = (spec.identities, spec.queries * width)
    return found
