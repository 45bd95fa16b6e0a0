"""What is read from queries that are objects: boxes, masks, and the classes of both.

Queries are assigned to objects before their loss can be computed; a step does that once for all of its tasks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unified.answers import boxes as box
from unified.answers.assignment import assign
from unified.answers.base import QueryStates
from unified.answers.regress import objects, set_prediction
from unified.core.transfers import constant
from unified.core.types import IGNORE
from unified.nn.queries.modules import grid_points

Target = Mapping[str, Tensor]
Size = tuple[int, int]
OBJECTS = set_prediction.SetWeights(classes=2.0, box=5.0, overlap=2.0, mask=5.0, dice=5.0)  # UniHCP and Mask2Former
POINTS = 112
"""Masks are compared at a grid of at most so many points along each axis: as many points as Mask2Former draws."""
MOST = 100
"""Detections of a picture."""


@dataclass(frozen=True)
class Begun:
    """A loss and a score, for which queries may have to be assigned to objects first: for all of a step at once."""

    finish: Callable[[Sequence[Int[Tensor, "b m"]]], tuple[Float[Tensor, "b"], Float[Tensor, "b"]]]
    """The loss and the score of each sample, given the assignment of each of `costs`."""
    costs: tuple[Float[Tensor, "b q m"], ...] = ()


def mask_points(target: Tensor) -> Float[Tensor, "1 p 2"]:
    """Return where masks or labels (…, h, w) are compared, x and y in 0..1."""
    rows, columns = (min(side, POINTS) for side in target.shape[-2:])
    return grid_points(rows, columns, target.device)[None]


def layer_mean(values: Sequence[Tensor]) -> Tensor:
    """Return the mean of the losses of all layers that learn."""
    return torch.stack(list(values)).mean(0)


def object_queries(found: QueryStates, states: Tensor) -> set_prediction.ObjectQueries:
    """What the queries say of objects in the states of one layer."""
    assert found.anchors is not None
    boxes = found.boxes(states, found.anchors)
    logits = found.maps(states) if found.spec.read == "masks" else None
    if logits is not None and found.baseline.inside is not None:  # a mask begins as its box, and leaves that alone
        logits = logits + found.baseline.inside * box.inwards(boxes.detach(), (logits.shape[2], logits.shape[3]))
    return set_prediction.ObjectQueries(found.class_logits(states), boxes, logits)


def begin_objects(found: QueryStates, target: Target) -> Begun:
    """Return the loss and the score of object queries, up to their assignment."""
    there = set_prediction.Objects(target["labels"], target["boxes"], target.get("masks"))
    points = mask_points(there.masks) if there.masks is not None else None
    of_layers = [object_queries(found, states) for states in found.states]

    def finish(matched: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        of_each = zip(of_layers, matched, strict=True)
        loss = layer_mean([set_prediction.matched_loss(queries, there, of, OBJECTS, points) for queries, of in of_each])
        with torch.no_grad():
            score = _found_objects(of_layers[-1], there)
        return loss, score

    return Begun(finish, tuple(set_prediction.costs(queries, there, OBJECTS, points) for queries in of_layers))


def objects_loss(found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
    """Return the loss and the score of object queries."""
    begun = begin_objects(found, target)
    return begun.finish(assign(begun.costs))


def _found_objects(queries: set_prediction.ObjectQueries, there: set_prediction.Objects) -> Float[Tensor, "b"]:
    """The share of objects that one of the likeliest detections, as many as there are objects, has with IoU 0.5."""
    assert queries.boxes is not None
    assert there.boxes is not None
    real = there.labels != IGNORE
    count = real.sum(dim=1)
    if there.labels.shape[1] == 0:
        return count.float() + 1  # nothing was missed
    best = objects.detections(queries.classes, there.labels.shape[1])
    likely = torch.arange(best.labels.shape[1], device=count.device) < count[:, None]
    ours = box.corners(queries.boxes.gather(1, best.queries[..., None].expand(-1, -1, 4)))
    right = box.corners(torch.where(real[..., None], there.boxes, 0.5))
    same = (best.labels[:, :, None] == there.labels[:, None]) & likely[:, :, None] & real[:, None]
    overlap = box.overlap(ours[:, :, None], right[:, None])[0] * same
    hit = (overlap.amax(dim=1) > 0.5).sum(dim=1)
    return torch.where(count > 0, hit / count.clamp(min=1), 1.0)


def found_boxes(found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    """Return boxes with labels and scores, and masks where they are read, for images of (height, width)."""
    queries = object_queries(found, found.states[-1])
    assert queries.boxes is not None
    best = objects.detections(queries.classes, MOST)
    corners = objects.boxes_of(best.queries, queries.boxes)
    answers = []
    for row, (height, width) in enumerate(sizes):
        scaled = corners[row] * constant((width, height, width, height), corners.device)
        answer = {"boxes": scaled, "labels": best.labels[row], "scores": best.scores[row]}
        if queries.maps is not None:
            only = slice(row, row + 1)
            inside, sure = objects.masks_of(best.queries[only], queries.maps[only], (height, width))
            answer |= {"masks": inside[0], "scores": best.scores[row] * sure[0]}
        answers.append(answer)
    return answers
