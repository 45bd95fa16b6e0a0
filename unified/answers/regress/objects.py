"""Objects of named classes, matched to queries as a set: bounding boxes, and masks.

Queries are assigned to objects before their loss can be computed; a step does that once for all of its tasks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unified.answers import baselines as base
from unified.answers import boxes as box
from unified.answers.assignment import assign
from unified.answers.base import Begun, QueryStates, SceneExample, SceneTask, Size, Target, layer_mean
from unified.answers.kind import QueryKind
from unified.answers.masks import mask_points
from unified.answers.named import NamedSettings
from unified.answers.regress import detections, set_prediction
from unified.answers.regress.object_targets import annotated_objects, coarse_masks, object_target
from unified.config.task import Task
from unified.core.errors import RecipeError
from unified.core.transfers import constant
from unified.core.types import IGNORE, Sample
from unified.nn.queries.modules import RARE, SMALL, inverse_sigmoid, spread_points

OBJECTS = set_prediction.SetWeights(classes=2.0, box=5.0, overlap=2.0, mask=5.0, dice=5.0)  # UniHCP and Mask2Former
MOST = 100
"""Detections of an image."""


@dataclass(frozen=True, kw_only=True)
class ObjectSettings(NamedSettings):
    """Objects of named classes."""

    queries: int = 100

    def check(self, where: str, task: Task) -> None:
        """Refuse answers without queries."""
        super().check(where, task)
        if self.queries < 1:
            raise RecipeError(f"{where}.answer.queries: expected at least 1, found {self.queries}")


@dataclass(frozen=True, kw_only=True)
class BoxSettings(ObjectSettings):
    """Objects of named classes."""

    kind: ClassVar[str] = "boxes"
    regress: Literal["boxes"] = "boxes"


@dataclass(frozen=True, kw_only=True)
class MaskSettings(ObjectSettings):
    """Objects of named classes, with a mask each."""

    kind: ClassVar[str] = "masks"
    regress: Literal["masks"] = "masks"


class Boxes(QueryKind):
    """Bounding boxes of objects."""

    name, key = BoxSettings.kind, "regress"
    Settings: type[ObjectSettings] = BoxSettings
    objects = True

    def made(self, task: Task, names: Sequence[str], cell: int) -> dict[str, Any]:
        """Return as many queries as the recipe says."""
        answer: Any = task.answer
        return {"queries": answer.queries}

    def row_shapes(self, spec: Any, width: int) -> dict[str, tuple[int, int]]:
        """Return one row of content, as objects differ by where they are looked for; anchors, and rows of classes."""
        rows = {"content": (1, width), "anchors": (spec.queries, 2)}
        return rows if spec.from_names else rows | {"classes": (len(spec.names), width)}

    def baseline_shapes(self, spec: Any) -> dict[str, tuple[int, ...]]:
        """Return logits of each query for each class, centres and sides."""
        queries, classes = spec.queries, 1 if spec.from_names else len(spec.names)
        return {"logits": (queries, classes), "centres": (queries, 2), "sides": (queries, 2)}

    def baseline(self, spec: Any, targets: Iterable[Target], places: int) -> base.Slots:
        """Begin at the mean box of the objects nearest to each anchor, each class as likely as among these.

        What is known of all objects counts as much as one object and as one image more.
        """
        anchors, classes = spread_points(spec.queries), len(spec.names)
        counts, boxes, images = torch.zeros(spec.queries, classes), torch.zeros(spec.queries, 4), 0
        for target in targets:
            real = target["labels"] != IGNORE
            labels, found, images = target["labels"][real].long(), target["boxes"][real].float(), images + len(real)
            nearest = torch.cdist(found[:, :2], anchors).argmin(1)
            counts.index_put_((nearest, labels), torch.ones(len(labels)), accumulate=True)
            boxes.index_add_(0, nearest, found)
        number = counts.sum(1, keepdim=True)
        small = torch.full((2,), SMALL).sigmoid()
        sides = (boxes[:, 2:].sum(0) + small) / (number.sum() + 1)
        mean = (boxes + torch.cat([anchors, sides.expand_as(anchors)], dim=1)) / (number + 1)
        likely = (counts + (counts.sum(0) + 0.5) / (images * spec.queries)) / (images + 1)
        logits = inverse_sigmoid(likely.clamp(max=1 - base.SURE)) - RARE
        return {
            "logits": logits.mean(1, keepdim=True) if spec.from_names else logits,
            "centres": inverse_sigmoid(mean[:, :2]) - inverse_sigmoid(anchors),
            "sides": inverse_sigmoid(mean[:, 2:]) - SMALL,
        }

    def annotated(self, asked: SceneTask, sample: Sample, image: Tensor) -> SceneExample:
        """Return an image with its objects."""
        return self._annotated(asked, sample, image, masks=False)

    def _annotated(self, asked: SceneTask, sample: Sample, image: Tensor, *, masks: bool) -> SceneExample:
        answer: Any = asked.task.answer
        return annotated_objects(asked, sample, image, answer.queries, masks=masks)

    def target(self, asked: SceneTask, examples: Sequence[SceneExample]) -> dict[str, Tensor]:
        """Return boxes and labels."""
        return object_target(examples, asked.height, asked.width)

    def object_queries(self, found: QueryStates, states: Tensor) -> set_prediction.ObjectQueries:
        """Return what the queries say of objects in the states of one layer."""
        assert found.anchors is not None
        boxes = found.boxes(states, found.anchors)
        return set_prediction.ObjectQueries(found.class_logits(states), boxes, None)

    def begin(self, found: QueryStates, target: Target) -> Begun[tuple[Tensor, Tensor]]:
        """Return loss and score, up to the assignment of queries to objects."""
        there = set_prediction.Objects(target["labels"], target["boxes"], target.get("masks"))
        points = mask_points(there.masks) if there.masks is not None else None
        of_layers = [self.object_queries(found, states) for states in found.states]

        def finish(matched: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
            of_each = zip(of_layers, matched, strict=True)
            loss = layer_mean([set_prediction.matched_loss(own, there, of, OBJECTS, points) for own, of in of_each])
            with torch.no_grad():
                score = _detected(of_layers[-1], there)
            return loss, score

        return Begun(finish, tuple(set_prediction.costs(queries, there, OBJECTS, points) for queries in of_layers))

    def loss(self, found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
        """Return the losses of matched queries; the score is the fraction of objects detected at IoU 0.5."""
        begun = self.begin(found, target)
        return begun.finish(assign(begun.costs))

    def predict(self, found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
        """Return boxes (k, 4) as x0, y0, x1, y1 in pixels, labels (k,) and scores (k,); masks (k, h, w) where read."""
        queries = self.object_queries(found, found.states[-1])
        assert queries.boxes is not None
        best = detections.detections(queries.classes, MOST)
        corners = detections.boxes_of(best.queries, queries.boxes)
        answers = []
        for row, (height, width) in enumerate(sizes):
            scaled = corners[row] * constant((width, height, width, height), corners.device)
            answer = {"boxes": scaled, "labels": best.labels[row], "scores": best.scores[row]}
            if queries.maps is not None:
                only = slice(row, row + 1)
                inside, sure = detections.masks_of(best.queries[only], queries.maps[only], (height, width))
                answer |= {"masks": inside[0], "scores": best.scores[row] * sure[0]}
            answers.append(answer)
        return answers

    def logits(self, found: QueryStates, target: Target | None) -> Tensor:
        """Return class logits of each query."""
        return found.class_logits(found.states[-1])


class Masks(Boxes):
    """Bounding boxes and masks of objects; a mask begins as the inside of its box."""

    name = MaskSettings.kind
    Settings = MaskSettings

    def baseline_shapes(self, spec: Any) -> dict[str, tuple[int, ...]]:
        """Return those of boxes, and how much the inside of a box counts."""
        return super().baseline_shapes(spec) | {"inside": (1,)}

    def baseline(self, spec: Any, targets: Iterable[Target], places: int) -> base.Slots:
        """Begin as boxes do, masks at their inside."""
        return super().baseline(spec, targets, places) | {"inside": torch.full((1,), base.INSIDE)}

    def annotated(self, asked: SceneTask, sample: Sample, image: Tensor) -> SceneExample:
        """Return an image with its objects and their masks."""
        return self._annotated(asked, sample, image, masks=True)

    def target(self, asked: SceneTask, examples: Sequence[SceneExample]) -> dict[str, Tensor]:
        """Return boxes, labels and masks."""
        return super().target(asked, examples) | {"masks": coarse_masks(examples)}

    def object_queries(self, found: QueryStates, states: Tensor) -> set_prediction.ObjectQueries:
        """Return what the queries say of objects, with a map each."""
        queries = super().object_queries(found, states)
        assert queries.boxes is not None
        logits = found.maps(states)
        if found.baseline.inside is not None:  # a mask leaves its box alone
            size = (logits.shape[2], logits.shape[3])
            logits = logits + found.baseline.inside * box.inwards(queries.boxes.detach(), size)
        return set_prediction.ObjectQueries(queries.classes, queries.boxes, logits)


def _detected(queries: set_prediction.ObjectQueries, there: set_prediction.Objects) -> Float[Tensor, "b"]:
    """The fraction of objects that one of the likeliest detections, as many as objects, has with IoU 0.5."""
    assert queries.boxes is not None
    assert there.boxes is not None
    real = there.labels != IGNORE
    count = real.sum(dim=1)
    if there.labels.shape[1] == 0:
        return count.float() + 1  # nothing was missed
    best = detections.detections(queries.classes, there.labels.shape[1])
    likely = torch.arange(best.labels.shape[1], device=count.device) < count[:, None]
    ours = box.corners(queries.boxes.gather(1, best.queries[..., None].expand(-1, -1, 4)))
    right = box.corners(torch.where(real[..., None], there.boxes, 0.5))
    same = (best.labels[:, :, None] == there.labels[:, None]) & likely[:, :, None] & real[:, None]
    overlap = box.overlap(ours[:, :, None], right[:, None])[0] * same
    hit = (overlap.amax(dim=1) > 0.5).sum(dim=1)
    return torch.where(count > 0, hit / count.clamp(min=1), 1.0)


BOXES, MASKS = Boxes(), Masks()
