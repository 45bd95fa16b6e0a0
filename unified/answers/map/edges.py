"""A fraction for each pixel, such as how many annotators saw an edge there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from unified.answers import baselines as base
from unified.answers.base import QueryStates, SceneExample, SceneTask, Size, Target, layer_mean
from unified.answers.kind import FieldOps, QueryKind, QuerySettings, map_of, map_target, mirrored
from unified.answers.map import maps
from unified.config.task import Task
from unified.core.types import Sample
from unified.data.augment.geometric import Scene
from unified.data.samples import annotations as said


@dataclass(frozen=True, kw_only=True)
class EdgeSettings(QuerySettings):
    """A number from 0 to 1."""

    kind: ClassVar[str] = "share"
    map: Literal["share"] = "share"


class Edges(QueryKind):
    """A fraction for each pixel."""

    name, key = EdgeSettings.kind, "map"
    Settings = EdgeSettings
    mapped = True

    def made(self, task: Task, names: Sequence[str], cell: int) -> dict[str, Any]:
        """Return one query."""
        return {"queries": 1}

    def baseline_shapes(self, spec: Any) -> dict[str, tuple[int, ...]]:
        """Return maps."""
        return base.maps_shape(spec)

    def baseline(self, spec: Any, targets: Iterable[Target], places: int) -> base.Slots:
        """Begin at the frequency of each place; their mean is a half, as both sides count the same in the loss."""
        each, mean = base.mean_maps(targets)
        return {"maps": base.logit(each) - base.logit(mean)[:, None, None]}

    def annotated(self, asked: SceneTask, sample: Sample, image: Tensor) -> SceneExample:
        """Return an image with the fraction of each pixel."""
        values = said.edge_map(sample, asked.task.target)[None]
        valid = torch.ones_like(values, dtype=torch.bool)
        return SceneExample(sample["__key__"], Scene(image, values=values, valid=valid))

    def target(self, asked: SceneTask, examples: Sequence[SceneExample]) -> dict[str, Tensor]:
        """Return a map (b, 1, h, w), and where it is known."""
        return map_of(examples)

    def labelled(self, spec: Any, labels: Tensor, samples: int) -> dict[str, Tensor]:
        """Return a map that is known everywhere."""
        return map_target(self, labels, samples)

    def loss(self, found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
        """Return balanced cross entropy; the score is the F measure at a half."""
        share, valid = target["map"], target["valid"]
        loss = layer_mean([maps.edge_loss(found.maps(s), share, valid) for s in found.states])
        with torch.no_grad():
            size = (share.shape[-2], share.shape[-1])
            ours = (maps.resized(found.maps(found.states[-1]), size) > 0) & valid
            there = (share > 0.5) & valid
            both, all_ = (ours & there).flatten(1).sum(1), ours.flatten(1).sum(1) + there.flatten(1).sum(1)
            score = torch.where(all_ > 0, 2 * both / all_.clamp(min=1), 1.0)
        return loss, score

    def predict(self, found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
        """Return fractions (h, w)."""
        of_all = found.maps(found.states[-1])
        return [{"share": maps.resized(of_all[row : row + 1], size)[0, 0].sigmoid()} for row, size in enumerate(sizes)]

    def merge(self) -> FieldOps:
        """Return how fields are averaged."""
        return FieldOps(
            lambda found, sizes: [answer["share"][None] for answer in self.predict(found, sizes)],
            lambda field, _: {"share": field[0]},
            mirrored,
        )


EDGES = Edges()
