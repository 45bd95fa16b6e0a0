"""A number for each pixel, such as depth: the mean of bins, weighted by their maps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unified.answers import baselines as base
from unified.answers.base import QueryStates, SceneExample, SceneTask, Size, Target, layer_mean
from unified.answers.kind import FieldOps, QueryKind, QuerySettings, map_of, map_target, mirrored
from unified.answers.map import maps
from unified.answers.spec import QuerySpec
from unified.config.task import Task
from unified.core.errors import RecipeError
from unified.core.transfers import constant, kept
from unified.core.types import Sample
from unified.data.augment.geometric import Scene
from unified.data.samples import annotations as said


@dataclass(frozen=True, kw_only=True)
class DepthSettings(QuerySettings):
    """Bins of distance, whose weighted mean is a number."""

    kind: ClassVar[str] = "bins"
    map: Literal["bins"] = "bins"
    bins: int = 32
    """Queries: one a bin."""
    limits: tuple[float, float] = (0.1, 10.0)
    """The nearest and the farthest bin, in the unit of the data."""

    def check(self, where: str, task: Task) -> None:
        """Refuse bins that have no order."""
        super().check(where, task)
        if self.bins < 2 or not 0 < self.limits[0] < self.limits[1]:
            raise RecipeError(
                f"{where}.answer: expected at least 2 bins and 0 < nearest < farthest limit; found {self.bins} and "
                f"{list(self.limits)}"
            )


@dataclass(frozen=True)
class DepthSpec(QuerySpec):
    """With the range of the bins."""

    limits: tuple[float, float] = (0.0, 0.0)


class Depth(QueryKind):
    """A number for each pixel."""

    name, key = DepthSettings.kind, "map"
    Settings, Spec = DepthSettings, DepthSpec
    mapped = True

    def made(self, task: Task, names: Sequence[str], cell: int) -> dict[str, Any]:
        """Return a query for each bin."""
        answer: Any = task.answer
        return {"queries": answer.bins, "limits": answer.limits}

    def baseline_shapes(self, spec: Any) -> dict[str, tuple[int, ...]]:
        """Return maps."""
        return base.maps_shape(spec)

    def baseline(self, spec: Any, targets: Iterable[Target], places: int) -> base.Slots:
        """Begin at the frequencies of bins, alike at all places: their mean is the mean value."""
        low, high = spec.limits
        total = torch.zeros(spec.queries, base.GRID, base.GRID)
        for target in targets:
            values, valid = base.fine(target["map"])[:, 0], base.fine(target["valid"])[:, 0]
            share = (values.clamp(min=low, max=high) / low).log() / torch.tensor(high / low).log()
            bins = (share * spec.queries).long().clamp(0, spec.queries - 1)
            total += base.counts(torch.where(valid, bins, -1), spec.queries).sum(0)
        return {"maps": base.log_shares(total.mean(dim=(1, 2), keepdim=True).expand_as(total))}

    def annotated(self, asked: SceneTask, sample: Sample, image: Tensor) -> SceneExample:
        """Return an image with the number of each pixel."""
        values, valid = said.depth_map(sample, asked.task.target)
        return SceneExample(sample["__key__"], Scene(image, values=values[None], valid=valid[None]))

    def target(self, asked: SceneTask, examples: Sequence[SceneExample]) -> dict[str, Tensor]:
        """Return a map (b, 1, h, w), and where it is known."""
        return map_of(examples)

    def labelled(self, spec: Any, labels: Tensor, samples: int) -> dict[str, Tensor]:
        """Return a map that is known everywhere."""
        return map_target(self, labels, samples)

    def loss(self, found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
        """Return SigLoss of logarithms; the score is the fraction of pixels within a factor of 1.25 (δ1)."""
        value, valid = target["map"], target["valid"]
        size = (value.shape[-2], value.shape[-1])
        loss = layer_mean([maps.sig_loss(_values(found, s, size), value, valid, warm=True) for s in found.states])
        with torch.no_grad():
            ours, theirs = _values(found, found.states[-1], size), torch.where(valid, value, 1.0)
            right = torch.maximum(ours / theirs, theirs / ours) < 1.25
        return loss, maps.mean_of_valid(right.float(), valid)

    def predict(self, found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
        """Return values (h, w), in the unit of the data."""
        states = found.states[-1]
        return [
            {"values": _values(found.row(row), states[row : row + 1], size)[0, 0]} for row, size in enumerate(sizes)
        ]

    def merge(self) -> FieldOps:
        """Return how fields are averaged."""
        return FieldOps(
            lambda found, sizes: [answer["values"][None] for answer in self.predict(found, sizes)],
            lambda field, _: {"values": field[0]},
            mirrored,
        )


def _values(found: QueryStates, states: Tensor, size: Size) -> Float[Tensor, "b 1 H W"]:
    low, high = found.spec.limits
    centres = _centres(found.spec.queries, low, high, states.device)
    return maps.expected_value(found.maps(states), centres, size)


@kept(256)
def _centres(count: int, low: float, high: float, device: torch.device) -> Float[Tensor, "{count}"]:
    return constant(maps.bin_centres(count, low, high, log=True).tolist(), device)


DEPTH = Depth()
