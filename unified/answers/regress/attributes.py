"""Attributes: whether there is what a query asks for; classes of an image, joints that can be seen."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unified.answers import baselines as base
from unified.answers.base import QueryStates, SceneExample, SceneTask, Size, Target, layer_mean
from unified.answers.kind import FieldOps, QueryKind, shaped
from unified.answers.named import NamedSettings
from unified.answers.spec import QuerySpec
from unified.config.task import Task
from unified.core.locations import named
from unified.core.log import logger
from unified.core.transfers import constant
from unified.core.types import Sample
from unified.data.augment.geometric import Scene
from unified.data.samples import annotations as said
from unified.data.shards.patterns import MANIFEST, read_manifest, several


@dataclass(frozen=True, kw_only=True)
class AttributeSettings(NamedSettings):
    """Whether each named attribute holds."""

    kind: ClassVar[str] = "presence"
    regress: Literal["presence"] = "presence"


@dataclass(frozen=True)
class AttributeSpec(QuerySpec):
    """With the frequency of attributes."""

    positives: tuple[float, ...] = ()
    """How often each holds in the training data; empty where that is not known."""


class Attributes(QueryKind):
    """Whether each named attribute holds."""

    name, key = AttributeSettings.kind, "regress"
    Settings, Spec = AttributeSettings, AttributeSpec

    def made(self, task: Task, names: Sequence[str], cell: int) -> dict[str, Any]:
        """Return a query for each attribute."""
        return {"queries": len(names), "positives": _positives(task, names)}

    def plain_head(self, spec: Any) -> tuple[bool, bool]:
        """Give presence alone."""
        return False, True

    def baseline_shapes(self, spec: Any) -> dict[str, tuple[int, ...]]:
        """Return logits."""
        return base.logits_shape(spec)

    def baseline(self, spec: Any, targets: Iterable[Target], places: int) -> base.Slots:
        """Begin at the frequency of each."""
        there = torch.cat([target["presence"] for target in targets]).float()
        logits = base.logit_of_share(there, there >= 0)
        return {"logits": logits.mean(0, keepdim=True) if spec.from_names else logits}

    def annotated(self, asked: SceneTask, sample: Sample, image: Tensor) -> SceneExample:
        """Return an image with what holds of it."""
        return SceneExample(sample["__key__"], Scene(image), said.presence(sample, asked.names))

    def target(self, asked: SceneTask, examples: Sequence[SceneExample]) -> dict[str, Tensor]:
        """Return presence (b, q): 1, 0, or -1 where it is not known."""
        return {"presence": torch.stack([e.target for e in examples if e.target is not None])}

    def labelled(self, spec: Any, labels: Tensor, samples: int) -> dict[str, Tensor]:
        """Return presence (b, q)."""
        return {"presence": shaped(self, labels, (samples, spec.queries))}

    def loss(self, found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
        """Return `presence_loss`; the score is the fraction of right attributes."""
        there = target["presence"]
        ratio = constant(found.spec.positives, there.device) if found.spec.positives else None
        loss = layer_mean([presence_loss(found.presence(s), there, ratio) for s in found.states])
        with torch.no_grad():
            known = there >= 0
            right = ((found.presence(found.states[-1]) > 0) == (there > 0.5)) & known
        return loss, right.sum(1) / known.sum(1).clamp(min=1)

    def predict(self, found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
        """Return the probability of each attribute (q,)."""
        shares = found.presence(found.states[-1]).float().sigmoid()
        return [{"presence": of} for of, _ in zip(shares, sizes, strict=True)]

    def logits(self, found: QueryStates, target: Target | None) -> Tensor:
        """Return logits of presence."""
        return found.presence(found.states[-1])

    def merge(self) -> FieldOps:
        """Return how fields are averaged."""
        return FieldOps(
            lambda found, sizes: [answer["presence"] for answer in self.predict(found, sizes)],
            lambda field, _: {"presence": field},
            lambda field, names, width: field,
            windows=False,
        )


def presence_loss(
    logits: Float[Tensor, "b q"], target: Float[Tensor, "b q"], ratio: Float[Tensor, "q"] | None = None
) -> Float[Tensor, "b"]:
    """Binary cross entropy, averaged over the queries that are known; 0 where none is.

    `target`: 1, 0, or −1 for unknown. `ratio`: r, the share of positives of each query over the data: positives weigh
    e^(1−r) and negatives e^r, so that rare ones count (the attribute loss of UniHCP, which sums over queries).
    """
    known = target >= 0
    target = target.clamp(min=0).float()
    loss = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    if ratio is not None:
        loss = loss * torch.where(target > 0.5, (1 - ratio.float()).exp(), ratio.float().exp())
    return (loss * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)


def _positives(task: Task, names: Sequence[str]) -> tuple[float, ...]:
    """How often each attribute holds, as the manifest of the data says; nothing where it does not."""
    entries = several(task.data)
    known = len(entries) == 1 and (Path(entries[0]) / MANIFEST).is_file()
    said = read_manifest(Path(entries[0])).get("positives", {}) if known else {}
    if all(name in said for name in names):
        return tuple(float(said[name]) for name in names)
    logger.info(
        "%s: no manifest says how often attributes hold, so what holds weighs as what does not", named(task.data)
    )
    return ()


ATTRIBUTES = Attributes()
