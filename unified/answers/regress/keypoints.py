"""Named points, each by its coordinates."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unified.answers import baselines as base
from unified.answers.base import QueryStates, Size, Target, in_pixels, layer_mean, near
from unified.answers.kind import FieldOps
from unified.answers.named import NamedSettings
from unified.answers.points import PointKind, PointSpec
from unified.answers.regress import set_prediction
from unified.config.labels import partners
from unified.nn.queries.modules import inverse_sigmoid


@dataclass(frozen=True, kw_only=True)
class KeypointSettings(NamedSettings):
    """Where each named point is."""

    kind: ClassVar[str] = "places"
    regress: Literal["places"] = "places"


class Keypoints(PointKind):
    """Named points, each by its coordinates."""

    name, key = KeypointSettings.kind, "regress"
    Settings, Spec = KeypointSettings, PointSpec

    def baseline_shapes(self, spec: Any) -> dict[str, tuple[int, ...]]:
        """Return logits of presence, and centres."""
        logits = base.logits_shape(spec)
        return logits | {"centres": (*logits["logits"], 2)}

    def baseline(self, spec: Any, targets: Iterable[Target], places: int) -> base.Slots:
        """Begin at the mean place."""
        found = base.point_statistics(spec, targets)
        return {"centres": inverse_sigmoid(found.mean), "logits": found.seen}

    def loss(self, found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
        """Return distances; the score is the fraction of near points."""
        points = target["points"]
        loss = layer_mean([set_prediction.point_loss(_places(found, states), points) for states in found.states])
        with torch.no_grad():
            return loss, near(_places(found, found.states[-1]), points)

    def predict(self, found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
        """Return points (j, 2) in pixels, and scores (j,)."""
        places = _places(found, found.states[-1])
        sure = found.presence(found.states[-1]).float().sigmoid()
        return in_pixels(torch.cat([places, sure[..., None]], -1), sizes)

    def merge(self) -> FieldOps:
        """Return how fields are averaged."""
        return FieldOps(
            lambda found, sizes: [
                torch.cat([answer["points"], answer["scores"][:, None]], dim=1) for answer in self.predict(found, sizes)
            ],
            lambda field, _: {"points": field[:, :2], "scores": field[:, 2]},
            lambda field, names, width: torch.cat([width - field[:, :1], field[:, 1:]], dim=1)[partners(names)],
            windows=False,
        )


def _places(found: QueryStates, states: Tensor) -> Float[Tensor, "b j 2"]:
    middle = states.new_full((states.shape[1], 2), 0.5)  # other names than those of training may be as many as wanted
    return found.boxes(states, middle)[..., :2]


KEYPOINTS = Keypoints()
