"""A unit vector for each pixel: surface normals, by one query an axis."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from unified.answers import baselines as base
from unified.answers.base import QueryStates, SceneExample, SceneTask, Size, Target, layer_mean
from unified.answers.kind import FieldOps, QueryKind, QuerySettings, map_of, map_target, mirrored
from unified.answers.map import maps
from unified.config.task import Task
from unified.core.types import Sample
from unified.data.augment.geometric import Scene
from unified.data.samples import annotations as said

AXES = 3


@dataclass(frozen=True, kw_only=True)
class NormalSettings(QuerySettings):
    """The axes of a unit vector."""

    kind: ClassVar[str] = "directions"
    map: Literal["directions"] = "directions"


class Normals(QueryKind):
    """A unit vector for each pixel."""

    name, key = NormalSettings.kind, "map"
    Settings = NormalSettings
    mapped = True

    def made(self, task: Task, names: Sequence[str], cell: int) -> dict[str, Any]:
        """Return a query for each axis."""
        return {"queries": AXES}

    def baseline_shapes(self, spec: Any) -> dict[str, tuple[int, ...]]:
        """Return maps."""
        return base.maps_shape(spec)

    def baseline(self, spec: Any, targets: Iterable[Target], places: int) -> base.Slots:
        """Begin at the mean direction."""
        return {"maps": base.mean_maps(targets, unit=True)[0]}

    def annotated(self, asked: SceneTask, sample: Sample, image: Tensor) -> SceneExample:
        """Return an image with the normal of each pixel."""
        values, valid = said.normal_map(sample, asked.task.target)
        return SceneExample(sample["__key__"], Scene(image, values=values, valid=valid[None], vectors=True))

    def target(self, asked: SceneTask, examples: Sequence[SceneExample]) -> dict[str, Tensor]:
        """Return a map (b, 3, h, w), and where it is known."""
        return map_of(examples)

    def labelled(self, spec: Any, labels: Tensor, samples: int) -> dict[str, Tensor]:
        """Return a map that is known everywhere."""
        return map_target(self, labels, samples)

    def loss(self, found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
        """Return the distance of directions; the score is the fraction of pixels within 30 degrees."""
        vectors, valid = target["map"], target["valid"]
        loss = layer_mean([maps.direction_loss(found.maps(s), vectors, valid) for s in found.states])
        with torch.no_grad():
            ours = maps.directions(found.maps(found.states[-1]), (vectors.shape[-2], vectors.shape[-1]))
            right = (ours * F.normalize(vectors, dim=1)).sum(1, keepdim=True) > 3**0.5 / 2
        return loss, maps.mean_of_valid(right.float(), valid)

    def predict(self, found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
        """Return vectors (3, h, w) of unit length."""
        of_all = found.maps(found.states[-1])
        return [{"vectors": maps.directions(of_all[row : row + 1], size)[0]} for row, size in enumerate(sizes)]

    def merge(self) -> FieldOps:
        """Return how fields are averaged."""
        return FieldOps(
            lambda found, sizes: [answer["vectors"] for answer in self.predict(found, sizes)],
            lambda field, _: {"vectors": F.normalize(field, dim=0)},
            lambda field, names, width: _unmirrored(mirrored(field, names, width)),
        )


def _unmirrored(field: Tensor) -> Tensor:
    """The first axis goes to the right, which a mirror turns round."""
    return torch.cat([-field[:1], field[1:]])


NORMALS = Normals()
