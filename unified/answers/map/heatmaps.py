"""Named points, each by a heat map: keypoints as UniHCP has them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unified.answers import baselines as base
from unified.answers.base import QueryStates, Size, Target, in_pixels, layer_mean, near
from unified.answers.kind import FieldOps, mirrored
from unified.answers.map import maps
from unified.answers.named import NamedSettings
from unified.answers.points import PointKind, PointSpec
from unified.answers.regress.attributes import presence_loss
from unified.config.labels import partners
from unified.config.task import Task
from unified.core.transfers import constant
from unified.nn.queries.modules import grid_points

PRESENCE_OF_POINTS = 0.001  # UniHCP
SIGMA = 1.5
"""Of the heat maps of points, in places of the maps."""
HEAT = 100.0
"""What a heat map counts: its squares are small numbers."""


@dataclass(frozen=True, kw_only=True)
class HeatmapSettings(NamedSettings):
    """A heat map for each named point."""

    kind: ClassVar[str] = "points"
    map: Literal["points"] = "points"
    softmax: bool = False
    """Places share out each point, which learns in far fewer steps; otherwise squares of heat maps (UniHCP)."""


@dataclass(frozen=True)
class HeatmapSpec(PointSpec):
    """With what tells how maps become points."""

    softmax: bool = False


class Heatmaps(PointKind):
    """Named points: the place where the map of each is highest."""

    name, key = HeatmapSettings.kind, "map"
    Settings, Spec = HeatmapSettings, HeatmapSpec
    mapped = True

    def made(self, task: Task, names: Sequence[str], cell: int) -> dict[str, Any]:
        """Return a query for each point."""
        answer: Any = task.answer
        return {**super().made(task, names, cell), "softmax": answer.softmax}

    def plain_head(self, spec: Any) -> tuple[bool, bool]:
        """Give maps, and presence where these are heat maps."""
        return True, not spec.softmax

    def baseline_shapes(self, spec: Any) -> dict[str, tuple[int, ...]]:
        """Return logits of presence, and maps unless names are open."""
        return base.logits_shape(spec) if spec.from_names else base.logits_shape(spec) | base.maps_shape(spec)

    def baseline(self, spec: Any, targets: Iterable[Target], places: int) -> base.Slots:
        """Begin at the mean place: a bell as wide as places differ, as high as heat maps are there in the mean."""
        found = base.point_statistics(spec, targets)
        if spec.from_names:
            return {"logits": found.seen}
        wide = found.spread.square() + base.NEAREST**2
        away = grid_points(base.GRID, base.GRID).view(base.GRID, base.GRID, 2) - found.mean[:, None, None]
        apart = (away.square() / wide[:, None, None]).sum(-1)
        if spec.softmax:  # of shares, one with long tails, as points that are changed at random may lie anywhere
            return {"maps": -1.5 * apart.log1p(), "logits": found.seen}
        height = (base.NEAREST**2 / wide.prod(-1).sqrt())[:, None, None]
        return {"maps": height * (-apart / 2).exp(), "logits": found.seen}

    def loss(self, found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
        """Return squares of heat maps or a divergence, and presence; the score is the fraction of near points."""
        points = target["points"]
        seen = (points[..., 2] > 0).float()

        def of_layer(states: Tensor) -> Tensor:
            heat = found.maps(states)
            if found.spec.softmax:
                where = maps.place_loss(heat, points, SIGMA)
            else:
                where = HEAT * maps.heat_loss(heat, points, SIGMA)
            return where + PRESENCE_OF_POINTS * presence_loss(found.presence(states), seen)

        loss = layer_mean([of_layer(states) for states in found.states])
        with torch.no_grad():
            return loss, near(maps.heat_points(found.maps(found.states[-1])), points)

    def predict(self, found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
        """Return points (j, 2) in pixels, and scores (j,)."""
        return in_pixels(highest(heat_maps(found)), sizes)

    def merge(self) -> FieldOps:
        """Return how fields are averaged."""
        return FieldOps(
            lambda found, sizes: list(heat_maps(found)),
            lambda field, size: _answer(field, size),
            lambda field, names, width: mirrored(field, names, width)[:, partners(names)],
            windows=False,
        )


def heat_maps(found: QueryStates) -> Float[Tensor, "b k j h w"]:
    """Return how much each point is at each place; where that is a logit, a second map says how sure it is."""
    heat = found.maps(found.states[-1]).float()
    if not found.spec.softmax:
        return heat[:, None]
    sure = found.presence(found.states[-1]).float().sigmoid()
    return torch.stack([heat, sure[..., None, None].expand_as(heat)], dim=1)


def highest(heat: Float[Tensor, "b k j h w"]) -> Float[Tensor, "b j 3"]:
    """Return the places of points, x and y in 0..1, and how sure each is; of what `heat_maps` gives."""
    places = maps.heat_points(heat[:, 0])
    if heat.shape[1] == 1:
        return places
    return torch.cat([places[..., :2], heat[:, 1].mean(dim=(2, 3))[..., None]], dim=-1)


def _answer(field: Tensor, size: Size) -> dict[str, Any]:
    point = highest(field[None])[0]
    return {"points": point[:, :2] * constant((size[1], size[0]), point.device), "scores": point[:, 2]}


HEATMAPS = Heatmaps()
