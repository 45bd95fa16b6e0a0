"""An embedding that is alike for the same identity: re-identification.

It has no baseline: only differences between images count in it, and what is the same for all of them counts nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unified.answers.base import QueryStates, SceneExample, SceneTask, Size, Target
from unified.answers.kind import FieldOps, QueryKind, QuerySettings, shaped
from unified.answers.regress import set_prediction
from unified.answers.spec import QuerySpec
from unified.config.task import Answer, Task
from unified.core.distributed import gather_rows, rank, world_size
from unified.core.errors import RecipeError
from unified.core.types import IGNORE, Sample
from unified.data.augment.geometric import Scene
from unified.data.samples import annotations as said
from unified.nn.queries.modules import spread_points

IDENTITY_SCALE = 16.0
"""Of the cosines with the rows of identities."""


@dataclass(frozen=True, kw_only=True)
class IdentitySettings(QuerySettings):
    """A vector that is alike for the same one."""

    kind: ClassVar[str] = "identity"
    regress: Literal["identity"] = "identity"
    identities: str
    """The names of all identities of the training data."""
    queries: int = 100
    parts: bool = False
    """Each query begins with what lies at its point of a grid over the image, so that the vector tells what is where
    (after PCB, ECCV 2018)."""

    def identity_names(self) -> str:
        """Return the label set of all identities."""
        return self.identities

    def check(self, where: str, task: Task) -> None:
        """Refuse answers without queries."""
        super().check(where, task)
        if self.queries < 1:
            raise RecipeError(f"{where}.answer.queries: expected at least 1, found {self.queries}")


@dataclass(frozen=True)
class IdentitySpec(QuerySpec):
    """With the number of identities, which have rows."""

    identities: int = 0
    parts: bool = False


class Identity(QueryKind):
    """A vector that is alike for the same one."""

    name, key = IdentitySettings.kind, "regress"
    Settings, Spec = IdentitySettings, IdentitySpec

    def made(self, task: Task, names: Sequence[str], cell: int) -> dict[str, Any]:
        """Return the queries whose states are the vector."""
        answer: Any = task.answer
        return {"queries": answer.queries, "parts": answer.parts}

    def row_shapes(self, spec: Any, width: int) -> dict[str, tuple[int, int]]:
        """Return rows of queries, and one for each identity."""
        return super().row_shapes(spec, width) | {"identities": (spec.identities, spec.queries * width)}

    def query_points(self, spec: Any, device: torch.device) -> Float[Tensor, "q 2"] | None:
        """Return the grid of parts."""
        return spread_points(spec.queries, device) if spec.parts else None

    def check_in_encoder(self, where: str, answer: Answer) -> None:
        """Refuse parts, which a decoder samples from the image."""
        if isinstance(answer, IdentitySettings) and answer.parts:
            raise RecipeError(
                f"{where}.answer.parts: they begin with what a decoder looks at; leave them out with "
                "model.queries.place: encoder"
            )

    def annotated(self, asked: SceneTask, sample: Sample, image: Tensor) -> SceneExample:
        """Return an image with the number of its identity."""
        number = asked.numbers.get(said.identity(sample), IGNORE)
        return SceneExample(sample["__key__"], Scene(image), torch.tensor(number))

    def target(self, asked: SceneTask, examples: Sequence[SceneExample]) -> dict[str, Tensor]:
        """Return the number of each identity (b,)."""
        return {"identity": torch.stack([e.target for e in examples if e.target is not None])}

    def labelled(self, spec: Any, labels: Tensor, samples: int) -> dict[str, Tensor]:
        """Return numbers of identities (b,)."""
        return {"identity": shaped(self, labels, (samples,))}

    def loss(self, found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
        """Return cross entropy over identities and a triplet loss; the score is whether the right one is first."""
        who: Int[Tensor, b] = target["identity"]
        assert found.identities is not None
        rows = F.normalize(found.identities.float(), dim=-1)
        own = torch.arange(len(who), device=who.device) + rank() * len(who)
        features = identity_features(found.states[-1])
        logits = IDENTITY_SCALE * features @ rows.T
        everyone = gather_rows(who.float()).long() if world_size() > 1 else who
        apart = set_prediction.triplet_loss(features, who, gather_rows(features), everyone, own)
        return set_prediction.identity_loss(logits, who) + apart, (logits.argmax(1) == who).float()

    def predict(self, found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
        """Return features (e,) of unit length."""
        features = identity_features(found.states[-1])
        return [{"features": of} for of, _ in zip(features, sizes, strict=True)]

    def merge(self) -> FieldOps:
        """Return how fields are averaged."""
        return FieldOps(
            lambda found, sizes: [answer["features"] for answer in self.predict(found, sizes)],
            lambda field, _: {"features": F.normalize(field, dim=0)},
            lambda field, names, width: field,
            windows=False,
        )


def identity_features(states: Tensor) -> Float[Tensor, "b e"]:
    """Return what all queries of an identity say, one after the other, at unit length."""
    return F.normalize(states.float().flatten(1), dim=-1)


IDENTITY = Identity()
