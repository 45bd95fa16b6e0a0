"""Task queries of a model: rows for each task, and what is shared by all of them (UniHCP, CVPR 2023).

A task owns its rows alone: what its queries begin with, where they look first, and the classes of its objects. The
decoder, the pyramid of features and the readings are those of all tasks, and know no task.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unified.answers.base import QueryStates
from unified.answers.baselines import SLOTS, Baseline
from unified.answers.spec import QuerySpec
from unified.answers.table import baseline_shapes, query_kind
from unified.core.types import weight_of
from unified.model.query_states import Seen, Trunk
from unified.nn.queries.adapters import LadderProjector, SharedMemory
from unified.nn.queries.decoder import QueryDecoder
from unified.nn.queries.modules import (
    Interpreter,
    MapHead,
    Memory,
    PixelDetail,
    PointEmbedding,
    PresenceHead,
    Pyramid,
    grid_points,
    sampled_at,
    spread_points,
)
from unified.nn.queries.settings import QuerySettings

NEWER = ("queries.baselines.", "queries.filters.")
"""What the names of weights begin with that older models have not, and that change nothing where they are zeros."""


class TaskHead(nn.Module):
    """What one task reads from the patches without queries, to compare with: maps, and what there is."""

    def __init__(self, width: int, hidden: int, spec: QuerySpec, doublings: int, detail: PixelDetail | None) -> None:
        super().__init__()
        maps, presence = query_kind(spec.read).plain_head(spec)
        self.map_head = MapHead(width, hidden, spec.queries, doublings, detail) if maps else None
        self.presence_head = PresenceHead(width, spec.queries) if presence else None

    def features(self, grid: Float[Tensor, "b r c w"], patches: Tensor | None) -> Float[Tensor, "b h w d"]:
        """Of every place, or of each patch where maps are not read."""
        return grid if self.map_head is None else self.map_head.pyramid(grid, patches)  # type: ignore[no-any-return]

    def maps(self, states: Tensor, features: Float[Tensor, "b h w d"]) -> Float[Tensor, "b q h w"]:  # noqa: ARG002
        """As `Interpreter.maps`."""
        assert self.map_head is not None
        return self.map_head(features)  # type: ignore[no-any-return]

    def presence(self, states: Float[Tensor, "b n w"]) -> Float[Tensor, "b q"]:
        """As `Interpreter.presence`; `states` are the patches."""
        assert self.presence_head is not None
        return self.presence_head(states)  # type: ignore[no-any-return]


class Rows(nn.ParameterDict):
    """Rows of each task by its name. Called, so that weights kept elsewhere (accelerate, ZeRO) are fetched."""

    __call__ = nn.Module.__call__  # a plain ParameterDict refuses calls

    def forward(self, task: str) -> Tensor:
        """A copy: what was fetched for the call is let go after it."""
        return self[task].clone()


class ZeroRows(Rows):
    """Rows that begin at zero, and change nothing there."""

    def reset(self) -> None:
        """Put them back there."""
        for parameter in self.values():
            nn.init.zeros_(parameter)


class Baselines(nn.Module):
    """What the answers of each task are before anything is learned, and learned from there; see `baselines`."""

    def __init__(self, specs: Mapping[str, QuerySpec]) -> None:
        super().__init__()
        shapes = {task: baseline_shapes(spec) for task, spec in specs.items()}
        for slot in SLOTS:
            own = {task: nn.Parameter(torch.zeros(of[slot])) for task, of in shapes.items() if slot in of}
            setattr(self, slot, ZeroRows(own))

    def forward(self, task: str) -> Baseline:
        """That of a task."""
        return Baseline(**{slot: rows(task) for slot in SLOTS if task in (rows := getattr(self, slot))})

    @torch.no_grad()
    def put(self, task: str, measured: Mapping[str, Tensor]) -> None:
        """Take the values of a task's slots."""
        for slot, value in measured.items():
            getattr(self, slot)[task].copy_(value)


class TaskQueries(nn.Module):
    """The rows of all tasks, and the one decoder and interpreter that they share.

    Settings may have tasks share less: see `QuerySettings`.
    """

    _keys_to_ignore_on_load_missing = NEWER  # asked for by transformers

    def __init__(
        self, width: int, depth: int, patch: int, settings: Mapping[str, Any], specs: Mapping[str, QuerySpec]
    ) -> None:
        """`width`, `depth` and `patch` of the encoder; `settings`: the keys of `QuerySettings`, or some of them."""
        super().__init__()
        settings = {**asdict(QuerySettings()), **settings}
        self.specs, own, self.detail = dict(specs), settings["width"], settings["detail"] > 0
        self.kinds = {task: query_kind(spec.read) for task, spec in specs.items()}
        self.deep, self.sharing = settings["deep_supervision"], settings["sharing"]
        self.inside = settings["place"] == "encoder"
        self.cell = max(patch >> settings["doublings"], 1)  # pixels of a place of maps, along each axis
        self.residual = any(self.kinds[task].adds_to_input(spec) for task, spec in specs.items())
        self.from_memory = settings["object_content"] == "memory"
        plain, doublings = specs if self.sharing == "head" else {}, settings["doublings"]
        self.heads = nn.ModuleDict(
            {task: TaskHead(width, own, spec, doublings, _detail(patch, settings)) for task, spec in plain.items()}
        )
        self.reads = sorted({spec.read for spec in specs.values()})
        shared = {} if self.heads else dict(specs)
        self.baselines = Baselines(specs)
        self._make_rows(width, own, shared)
        if shared:
            self._make_shared(width, depth, patch, settings)
        self.reset()

    def _make_rows(self, width: int, own: int, specs: Mapping[str, QuerySpec]) -> None:
        tables = row_shapes(specs, own)
        self.content, self.place, self.anchors, self.classes, self.identities = (
            Rows({task: nn.Parameter(torch.empty(shape)) for task, shape in tables[kind].items()})
            for kind in ("content", "place", "anchors", "classes", "identities")
        )
        own_filters = {task: nn.Parameter(torch.zeros(shape)) for task, shape in tables["filters"].items()}
        self.filters = ZeroRows(own_filters)
        named = any(spec.from_names for spec in specs.values())
        self.names = nn.Sequential(nn.Linear(width, own), nn.LayerNorm(own)) if named else None

    def _make_shared(self, width: int, depth: int, patch: int, settings: Mapping[str, Any]) -> None:
        own = settings["width"]
        self.position = PointEmbedding(own)
        self.pyramid = Pyramid(width, own, settings["doublings"], _detail(patch, settings))
        self.interpreter = Interpreter(own)
        if self.inside:
            self.entry, self.exit = nn.Linear(own, width), nn.Sequential(nn.Linear(width, own), nn.LayerNorm(own))
        else:
            self.memory = Memory(width, own, 1)
            shape = (settings["depth"], own, settings["heads"], settings["hidden"])
            self.decoder = QueryDecoder(*shape, norm=settings["norm"], activation=settings["activation"])
        if self.sharing == "projector":
            ladder = (width, depth + 1, settings["reduction"], 2, settings["channel_attention"])
            self.projectors = nn.ModuleDict({read: LadderProjector(*ladder) for read in self.reads})
        elif self.sharing == "attention":
            self.attended = SharedMemory(width, settings["heads"], len(self.reads))

    def reset(self) -> None:
        """Draw the rows anew: anchors all over the picture, the others as tables of queries are (DETR)."""
        for rows in (self.content, self.place, self.classes):
            for parameter in rows.values():
                nn.init.normal_(parameter)
        for parameter in self.anchors.values():
            parameter.data.copy_(spread_points(len(parameter)))
        for parameter in self.identities.values():
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)

    def group(self, task: str) -> str:
        """The tasks of one group look at the same: all of them, or those of one kind of answer."""
        return self.specs[task].read if self.sharing in ("projector", "attention") else ""

    def look(self, trunk: Trunk, group: str) -> Seen:
        """What the tasks of a group see."""
        states = trunk.states
        if self.sharing == "projector":
            states = self.projectors[group](trunk.layers, grid=(trunk.rows, trunk.columns))
        elif self.sharing == "attention":
            (states,) = self.attended(states, [self.reads.index(group)])
        side = (trunk.rows, trunk.columns)
        grid, pixels = states.unflatten(1, side), None if trunk.pixels is None else trunk.pixels.unflatten(1, side)
        if self.heads:
            return Seen((), grid, pixels)
        features = self.pyramid(grid, pixels)
        if self.inside:
            return Seen((), grid, pixels, features)
        memory = self.memory(states)
        layers = self.decoder.remember(memory, self.position(grid_points(*side, states.device))[None])
        return Seen(layers, grid, pixels, features, memory.unflatten(1, side))

    def start(
        self, task: str, named: Tensor | None, points: Float[Tensor, "q 2"] | None
    ) -> tuple[Float[Tensor, "q d"], Float[Tensor, "q d"]]:
        """What the queries of a task are at first, and their places; `points`: what `points` gives."""
        if self.kinds[task].objects:
            return self.content(task).expand(self.specs[task].queries, -1), self.position(points)
        content = named if named is not None else self.content(task)
        place = self.place(task).expand_as(content)
        return content, place if points is None else place + self.position(points)

    def points(self, task: str, device: torch.device) -> Float[Tensor, "q 2"] | None:
        """Where the queries of a task stand in the picture: anchors of objects, parts of an identity."""
        kind = self.kinds[task]
        return self.anchors(task) if kind.objects else kind.query_points(self.specs[task], device)

    def named(self, task: str, names: Float[Tensor, "c w"] | None) -> Float[Tensor, "c d"] | None:
        """The rows that are made from the representations of names, where a task has none of its own."""
        if not self.specs[task].from_names:
            return None
        if names is None or self.names is None:
            raise ValueError(f"task {task!r} makes its queries from names; give their representations")
        return self.names(names.to(weight_of(self.names).dtype))  # type: ignore[no-any-return, arg-type]

    def inner(self, task: str, names: Float[Tensor, "c w"] | None) -> Float[Tensor, "1 q w"]:
        """The queries of a task as tokens of the encoder."""
        named = self.named(task, names)
        content, place = self.start(task, named, self.points(task, weight_of(self.entry).device))
        return self.entry(content + place)[None]  # type: ignore[no-any-return]

    def learning(self, task: str) -> int:
        """How many states of a task learn: the last one, or those of all layers, and the first if it has looked."""
        if not self.deep or self.inside or not self.decoder.layers:
            return 1
        return len(self.decoder.layers) + (self.from_memory and self.kinds[task].objects)

    def forward(self, task: str, trunk: Trunk, seen: Seen, names: Float[Tensor, "c w"] | None = None) -> QueryStates:
        """What the queries of a task find. `names`: the representations of its names, if it is made of them."""
        spec, kind = self.specs[task], self.kinds[task]
        picture = trunk.picture if kind.adds_to_input(spec) else None
        if self.heads:
            head: Any = self.heads[task]
            features = head.features(seen.grid, seen.pixels)
            base = self.baselines(task)
            return QueryStates(spec, (trunk.states,), features, head, picture=picture, baseline=base).exact()
        assert seen.features is not None
        named, points = self.named(task, names), self.points(task, seen.features.device)
        if self.inside:
            assert trunk.queries is not None
            states: tuple[Tensor, ...] = (self.exit(trunk.queries),)
        else:
            content, place = self.start(task, named, points)
            content = content.expand(len(seen.features), -1, -1)
            if points is not None and (self.from_memory or not kind.objects):
                assert seen.memory is not None
                content = content + sampled_at(seen.memory, points)
            states = self.decoder.decode(content, place[None], seen.layers)
        anchors = classes = None
        if kind.objects:
            anchors, classes = points, named if named is not None else self.classes(task)
        identities = self.identities(task) if task in self.identities else None
        learn = states[-self.learning(task) :]
        filters = self.filters(task) if task in self.filters else None
        return QueryStates(
            spec, learn, seen.features, self.interpreter, anchors, classes, identities, picture, filters,
            self.baselines(task),
        ).exact()  # fmt: skip


def _detail(patch: int, settings: Mapping[str, Any]) -> PixelDetail | None:
    if not settings["detail"]:
        return None
    return PixelDetail(patch, 2 ** settings["doublings"], settings["detail"], settings["width"])


def row_shapes(specs: Mapping[str, QuerySpec], width: int) -> dict[str, dict[str, tuple[int, int]]]:
    """The shapes of the rows of each purpose, by task."""
    purposes = ("content", "place", "anchors", "classes", "identities", "filters")
    found: dict[str, dict[str, tuple[int, int]]] = {purpose: {} for purpose in purposes}
    for name, spec in specs.items():
        for purpose, shape in query_kind(spec.read).row_shapes(spec, width).items():
            found[purpose][name] = shape
    return found
