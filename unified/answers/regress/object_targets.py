"""The target of objects: boxes, classes and masks of annotated objects, or of the segments of an image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from unified.answers.base import SceneExample, SceneTask
from unified.core.errors import DataError
from unified.core.types import Sample
from unified.data.augment.geometric import NO_OBJECT, Scene, boxes_in_shares, padded
from unified.data.samples import annotations as said
from unified.data.samples.decode import place

SEGMENTS = "json.segments"
"""A target of regions that share out an image, instead of its objects."""
COARSER = 4
"""Masks of objects are kept at a quarter of the image's height and width."""


def annotated_objects(asked: SceneTask, sample: Sample, image: Tensor, queries: int, *, masks: bool) -> SceneExample:
    """Return an image with its single objects, or with its segments where the target is `SEGMENTS`.

    Args:
        asked: The task.
        sample: The sample.
        image: (3, h, w) uint8.
        queries: How many the task has.
        masks: Whether masks are wanted.

    Raises:
        DataError: There are more objects than queries.
    """
    if asked.task.target == SEGMENTS:
        return _segments(asked, sample, image, masks=masks)
    found = said.objects(sample, asked.classes)
    single = ~found.crowd
    count = int(single.sum())
    if count > queries:
        raise DataError(
            f"{place(sample)}: {count} objects, and task {asked.name!r} has {queries} queries: each object needs "
            "one of its own; raise answer.queries, or leave the picture out"
        )
    own = None
    if masks:
        chosen = [mask for mask, one in zip(found.masks, single.tolist(), strict=True) if one]
        own = said.decode_masks(sample, chosen)
    boxes, classes, areas = found.boxes[single], found.labels[single], found.area[single]
    return SceneExample(sample["__key__"], Scene(image, boxes=boxes, classes=classes, masks=own, areas=areas))


def _segments(asked: SceneTask, sample: Sample, image: Tensor, *, masks: bool) -> SceneExample:
    """Things and stuff alike, as panoptic segmentation wants them; their boxes are those of their masks."""
    found = said.segments(sample, asked.classes)
    all_masks = said.decode_masks(sample, found.masks)
    seen = all_masks.flatten(1).any(1)
    own, labels = all_masks[seen], found.labels[seen]
    boxes, areas, kept = _boxes_of(own), own.flatten(1).sum(1).float(), own if masks else None
    return SceneExample(sample["__key__"], Scene(image, boxes=boxes, classes=labels, masks=kept, areas=areas))


def _boxes_of(masks: Tensor) -> Tensor:
    """The smallest boxes around masks (n, h, w), none of them empty."""
    ends = []
    for axis in (2, 1):  # of columns, then of rows
        line = masks.any(3 - axis).int()
        ends.append((line.argmax(1), masks.shape[axis] - line.flip(1).argmax(1)))
    (left, right), (top, bottom) = ends
    return torch.stack([left, top, right, bottom], dim=1).float()


def object_target(examples: Sequence[SceneExample], height: int, width: int) -> dict[str, Tensor]:
    """Return boxes (b, m, 4) as centre and size in fractions of the image, and labels (b, m), IGNORE for none."""
    scenes = [example.scene for example in examples]
    return {
        "boxes": padded([boxes_in_shares(s.boxes, height, width) for s in scenes if s.boxes is not None]),
        "labels": padded([s.classes for s in scenes if s.classes is not None], NO_OBJECT),
    }


def coarse_masks(examples: Sequence[SceneExample]) -> Tensor:
    """Return masks (b, m, h/4, w/4): cells of which a mask has at least half."""
    masks = [e.scene.masks for e in examples if e.scene.masks is not None]
    return padded([torch.nn.functional.avg_pool2d(of[:, None].float(), COARSER)[:, 0] >= 0.5 for of in masks])
