"""A map whose sum is a count: objects of named classes, or of all."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unified.answers import baselines as base
from unified.answers.base import QueryStates, SceneExample, SceneTask, Size, Target, layer_mean
from unified.answers.kind import FieldOps, QueryKind, QuerySettings, mirrored, shaped
from unified.answers.map import maps
from unified.answers.map.heatmaps import HEAT, SIGMA
from unified.config.task import Task
from unified.core.types import Sample
from unified.data.augment.geometric import Scene, boxes_in_shares, padded
from unified.data.samples import annotations as said
from unified.nn.queries.modules import RARE

COUNTED = (1.0, 0.5)
"""What map and count of a density count."""


@dataclass(frozen=True, kw_only=True)
class DensitySettings(QuerySettings):
    """One map whose sum is a count."""

    kind: ClassVar[str] = "density"
    map: Literal["density"] = "density"
    names: str | None = None
    """The classes that are counted; null: all."""


class Density(QueryKind):
    """A map whose sum is a count."""

    name, key = DensitySettings.kind, "map"
    Settings = DensitySettings
    mapped = True

    def made(self, task: Task, names: Sequence[str], cell: int) -> dict[str, Any]:
        """Return one query."""
        return {"queries": 1}

    def baseline_shapes(self, spec: Any) -> dict[str, tuple[int, ...]]:
        """Return maps."""
        return base.maps_shape(spec)

    def baseline(self, spec: Any, targets: Iterable[Target], places: int) -> base.Slots:
        """Begin at the mean count, spread evenly: the inverse of the softplus that makes densities of maps."""
        counts = torch.cat([(target["points"][..., 2] > 0).sum(1).float() for target in targets])
        density = (counts.mean() / places).clamp(min=1e-6)
        return {"maps": (density.expm1().log() - RARE).expand(1, base.GRID, base.GRID)}

    def annotated(self, asked: SceneTask, sample: Sample, image: Tensor) -> SceneExample:
        """Return an image with the boxes of what is counted."""
        labels = dict.fromkeys(said.labels_of(sample, "objects"), 0)
        found = said.objects(sample, {**labels, **dict.fromkeys(asked.names, 1)})
        kept = (found.labels == int(bool(asked.names))) & ~found.crowd
        return SceneExample(sample["__key__"], Scene(image, boxes=found.boxes[kept], classes=found.labels[kept]))

    def target(self, asked: SceneTask, examples: Sequence[SceneExample]) -> dict[str, Tensor]:
        """Return the centres of objects (b, m, 3), as points."""
        scenes = [example.scene for example in examples]
        boxes = [boxes_in_shares(s.boxes, asked.height, asked.width) for s in scenes if s.boxes is not None]
        return {"points": padded([torch.cat([of[:, :2], of.new_ones(len(of), 1)], dim=1) for of in boxes])}

    def labelled(self, spec: Any, labels: Tensor, samples: int) -> dict[str, Tensor]:
        """Return points (b, m, 3)."""
        return {"points": shaped(self, labels, (samples, "…", "…"))}

    def loss(self, found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
        """Return errors of map and count; the score is 1 − the relative error of the count."""
        losses = []
        first = _counting_maps(found, found.states[0])
        right = maps.density_maps(target["points"], (first.shape[-2], first.shape[-1]), SIGMA)
        everywhere = torch.ones_like(right, dtype=torch.bool)
        for states in found.states:
            of_layer = _counting_maps(found, states)
            losses.append(
                maps.density_loss(of_layer, right, everywhere, map_weight=HEAT * COUNTED[0], count_weight=COUNTED[1])
                + maps.whereabouts_loss(of_layer, right)
            )
        with torch.no_grad():
            count, true = maps.density(of_layer).sum(dim=(1, 2, 3)), right.sum(dim=(1, 2, 3))
            score = (1 - (count - true).abs() / true.clamp(min=1)).clamp(min=0)
        return layer_mean(losses), score

    def predict(self, found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
        """Return a density (h, w) at the size of maps, and its count."""
        of_all = maps.density(_counting_maps(found, found.states[-1]))
        return [{"density": of[0], "count": float(of.sum())} for of, _ in zip(of_all, sizes, strict=True)]

    def merge(self) -> FieldOps:
        """Return how fields are averaged."""
        return FieldOps(
            lambda found, sizes: [_field(answer, size) for answer, size in
                                  zip(self.predict(found, sizes), sizes, strict=True)],
            lambda field, _: {"density": field[0], "count": float(field.sum())},
            mirrored,
        )  # fmt: skip


def _counting_maps(found: QueryStates, states: Tensor) -> Float[Tensor, "b 1 h w"]:
    """Nearly nothing at each place before anything is learned: half a thing there would be hundreds in all."""
    return found.maps(states) + RARE


def _field(answer: dict[str, Any], size: Size) -> Tensor:
    """The density for each pixel of the image; its sum stays."""
    small = answer["density"]
    large = maps.resized(small[None, None], size)[0]
    return large * (small.sum() / large.sum().clamp(min=1e-12))


DENSITY = Density()
