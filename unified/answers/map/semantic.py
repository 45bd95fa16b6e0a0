"""A class for each pixel: semantic segmentation, by one query a class."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unified.answers import baselines as base
from unified.answers import masks
from unified.answers.base import QueryStates, SceneExample, SceneTask, Size, Target, layer_mean
from unified.answers.kind import FieldOps, QueryKind, ignored, mirrored, shaped
from unified.answers.map import maps
from unified.answers.masks import mask_points
from unified.answers.named import NamedSettings
from unified.answers.spec import QuerySpec
from unified.config.task import Task
from unified.core.types import IGNORE, Sample
from unified.data.augment.geometric import Scene
from unified.data.samples import annotations as said

MASKS = masks.MaskWeights(presence=0.25, mask=5.0, dice=5.0)  # UniHCP


@dataclass(frozen=True, kw_only=True)
class SemanticSettings(NamedSettings):
    """A class for each pixel."""

    kind: ClassVar[str] = "classes"
    map: Literal["classes"] = "classes"
    softmax: bool = False
    """Classes share out each place; otherwise each is there or not, with a presence (UniHCP)."""


@dataclass(frozen=True)
class SemanticSpec(QuerySpec):
    """With what tells how maps become classes."""

    softmax: bool = False


class Semantic(QueryKind):
    """A class for each pixel: the one whose map is highest."""

    name, key = SemanticSettings.kind, "map"
    Settings, Spec = SemanticSettings, SemanticSpec
    mapped = True

    def made(self, task: Task, names: Sequence[str], cell: int) -> dict[str, Any]:
        """Return a query for each class."""
        answer: Any = task.answer
        return {"queries": len(names), "softmax": answer.softmax}

    def plain_head(self, spec: Any) -> tuple[bool, bool]:
        """Give maps, and presence where classes do not share out places."""
        return True, not spec.softmax

    def baseline_shapes(self, spec: Any) -> dict[str, tuple[int, ...]]:
        """Return maps unless names are open, and logits of presence."""
        shapes = {} if spec.from_names else base.maps_shape(spec)
        return shapes if spec.softmax else shapes | base.logits_shape(spec)

    def baseline(self, spec: Any, targets: Iterable[Target], places: int) -> base.Slots:
        """Begin at class frequencies: of pixels, or of images and, where an image has the class, of its pixels."""
        counts = [base.counts(_labels(target), len(spec.names)) for target in targets]
        if spec.softmax:
            return {} if spec.from_names else {"maps": base.log_shares(sum(of.sum(0) for of in counts))}  # type: ignore[arg-type]
        share = torch.cat([of / of.sum(dim=1, keepdim=True).clamp(min=1) for of in counts])
        known = torch.cat([of.sum(dim=1) > 0 for of in counts])
        there = (share > 0).flatten(2).any(2)
        logits = base.logit_of_share(there.float(), known.flatten(1).any(1)[:, None].expand_as(there))
        if spec.from_names:
            return {"logits": logits.mean(0, keepdim=True)}
        weight = there[..., None, None] * known[:, None]
        inside, having = (share * weight).sum(0), weight.sum(0)
        prior = inside.sum(dim=(1, 2), keepdim=True) / having.sum(dim=(1, 2), keepdim=True).clamp(min=1)
        return {"logits": logits, "maps": base.logit((inside + prior) / (having + 1))}

    def annotated(self, asked: SceneTask, sample: Sample, image: Tensor) -> SceneExample:
        """Return an image with the class of each pixel."""
        labels = said.class_map(sample, len(asked.names), asked.task.target)
        return SceneExample(sample["__key__"], Scene(image, labels=labels))

    def target(self, asked: SceneTask, examples: Sequence[SceneExample]) -> dict[str, Tensor]:
        """Return labels (b, h, w), IGNORE where they are not known."""
        return {"labels": torch.stack([e.scene.labels for e in examples if e.scene.labels is not None])}

    def labelled(self, spec: Any, labels: Tensor, samples: int) -> dict[str, Tensor]:
        """Return class numbers (b, h, w)."""
        return {"labels": ignored(shaped(self, labels, (samples, "…", "…")), IGNORE)}

    def loss(self, found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
        """Return cross entropy, or mask losses and presence; the score is the fraction of right pixels."""
        labels, points = target["labels"], mask_points(target["labels"])
        if found.spec.softmax:
            loss = layer_mean([maps.class_loss(found.maps(states), labels) for states in found.states])
        else:
            loss = layer_mean(
                [masks.class_mask_loss(found.maps(s), found.presence(s), labels, points, MASKS) for s in found.states]
            )
        with torch.no_grad():
            right = class_logits(found, (labels.shape[-2], labels.shape[-1])).argmax(1) == labels
        return loss, maps.mean_of_valid(right.float(), labels != IGNORE)

    def predict(self, found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
        """Return labels (h, w)."""
        return [{"labels": class_logits(found.row(row), size)[0].argmax(0)} for row, size in enumerate(sizes)]

    def logits(self, found: QueryStates, target: Target | None) -> Tensor:
        """Return class logits at the size of the labels, or of the features."""
        labels = None if target is None else target["labels"]
        size = tuple(found.features.shape[1:3]) if labels is None else tuple(labels.shape[-2:])
        return class_logits(found, size)  # type: ignore[arg-type]

    def merge(self) -> FieldOps:
        """Return how fields are averaged."""
        return FieldOps(
            lambda found, sizes: [class_logits(found.row(row), size)[0] for row, size in enumerate(sizes)],
            lambda field, _: {"labels": field.argmax(0)},
            mirrored,
        )


def class_logits(found: QueryStates, size: Size) -> Float[Tensor, "b c H W"]:
    """Return how much each class is at each pixel: the highest one is the answer."""
    states = found.states[-1]
    if found.spec.softmax:
        return maps.resized(found.maps(states), size)
    return masks.class_scores(found.maps(states), found.presence(states), size)


def _labels(target: Target) -> Tensor:
    labels = base.fine(target["labels"]).long()
    return torch.where(labels == IGNORE, -1, labels)


SEMANTIC = Semantic()
