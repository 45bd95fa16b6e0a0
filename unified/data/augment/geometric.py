"""A picture and what is known of its places, changed together: mirrored, cut, resized."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from unified.core.types import IGNORE
from unified.modalities.image.transforms import Range, Transform

KEPT = 0.2
"""Share of its box that an object must keep to be one after a cut."""
DRAWN = 4
"""Numbers that a change needs of a sample."""


@dataclass(frozen=True)
class Scene:
    """A picture, and what is known of it; what a task does not ask for is empty. All in pixels of the picture."""

    image: UInt8[Tensor, "3 h w"]
    labels: Int[Tensor, "h w"] | None = None  # the class of each pixel
    values: Float[Tensor, "c h w"] | None = None
    valid: Bool[Tensor, "1 h w"] | None = None  # where `values` are known
    boxes: Float[Tensor, "n 4"] | None = None  # x0, y0, x1, y1
    classes: Int[Tensor, "n"] | None = None  # of the boxes
    masks: Bool[Tensor, "n h w"] | None = None
    areas: Float[Tensor, "n"] | None = None  # of the whole objects, in square pixels
    points: Float[Tensor, "j 3"] | None = None  # x, y, and 0 where it is not known
    vectors: bool = False  # whether `values` are directions, whose first axis goes to the right

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[-2], self.image.shape[-1]


@dataclass(frozen=True, kw_only=True)
class FlipScene(Transform):
    """Left and right exchanged, also those of named points."""

    probability: float = 0.5

    def __call__(self, scene: Scene, draws: NDArray[np.float64], partners: Sequence[int]) -> Scene:  # noqa: ARG002
        """The mirrored scene; `partners`: for each point the one that is on the other side."""
        return flipped(scene, partners)


@dataclass(frozen=True, kw_only=True)
class CropScene(Transform):
    """A random part of the picture."""

    area: Range = (0.5, 1.0)
    """Of the part, as a share of the picture."""
    ratio: Range = (0.75, 4 / 3)
    """Width by height of the part, in units of the picture's own; uniform in the logarithm."""

    def __call__(self, scene: Scene, draws: NDArray[np.float64], partners: Sequence[int]) -> Scene:  # noqa: ARG002
        """The part that four draws choose."""
        height, width = scene.size
        area = self.area[0] + (self.area[1] - self.area[0]) * draws[0]
        low, high = np.log(self.ratio)
        stretch = np.exp(0.5 * (low + (high - low) * draws[1]))
        wide = int(np.clip(round(np.sqrt(area) * stretch * width), 1, width))
        tall = int(np.clip(round(np.sqrt(area) / stretch * height), 1, height))
        return cut(scene, int(draws[2] * (height - tall + 1)), int(draws[3] * (width - wide + 1)), tall, wide)


def flipped(scene: Scene, partners: Sequence[int]) -> Scene:
    """The scene in a mirror."""
    width = scene.size[1]
    boxes, points, values = scene.boxes, scene.points, scene.values
    if boxes is not None:
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
    if points is not None:
        points = torch.stack([width - points[:, 0], points[:, 1], points[:, 2]], dim=1)[list(partners)]
    if values is not None:
        values = values.flip(-1)
        if scene.vectors:
            values = torch.cat([-values[:1], values[1:]])
    return replace(
        scene,
        image=scene.image.flip(-1),
        labels=None if scene.labels is None else scene.labels.flip(-1),
        values=values,
        valid=None if scene.valid is None else scene.valid.flip(-1),
        boxes=boxes,
        masks=None if scene.masks is None else scene.masks.flip(-1),
        points=points,
    )


def cut(scene: Scene, top: int, left: int, height: int, width: int) -> Scene:
    """A part of the scene; objects of which little is left are gone, points outside are unknown.

    Areas stay: how large an object is does not depend on how much of it is seen.
    """
    rows, columns = slice(top, top + height), slice(left, left + width)
    changed = replace(
        scene,
        image=scene.image[:, rows, columns],
        labels=None if scene.labels is None else scene.labels[rows, columns],
        values=None if scene.values is None else scene.values[:, rows, columns],
        valid=None if scene.valid is None else scene.valid[:, rows, columns],
    )
    if scene.points is not None:
        moved = scene.points - scene.points.new_tensor([left, top, 0])
        inside = (moved[:, :2] >= 0).all(1) & (moved[:, 0] <= width) & (moved[:, 1] <= height)
        changed = replace(changed, points=moved * inside[:, None])
    if scene.boxes is None:
        return changed
    moved = scene.boxes - scene.boxes.new_tensor([left, top, left, top])
    clipped = torch.stack([moved[:, 0::2].clamp(0, width), moved[:, 1::2].clamp(0, height)], dim=2).flatten(1)
    kept = _area(clipped) >= KEPT * _area(moved).clamp(min=1e-6)
    assert scene.classes is not None
    masks = None if scene.masks is None else scene.masks[kept][:, rows, columns]
    areas = None if scene.areas is None else scene.areas[kept]
    return replace(changed, boxes=clipped[kept], classes=scene.classes[kept], masks=masks, areas=areas)


def _area(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n"]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def resized(scene: Scene, height: int, width: int, resample: str) -> Scene:
    """The scene with a picture of another size; labels and values are those of the nearest pixel."""
    old_height, old_width = scene.size
    if (old_height, old_width) == (height, width):
        return scene
    image = F.interpolate(scene.image[None].contiguous(), (height, width), mode=resample, antialias=True)[0]
    by = torch.tensor([width / old_width, height / old_height])
    return replace(
        scene,
        image=image,
        labels=None if scene.labels is None else _nearest(scene.labels, height, width),
        values=None if scene.values is None else _nearest(scene.values, height, width),
        valid=None if scene.valid is None else _nearest(scene.valid, height, width),
        boxes=None if scene.boxes is None else scene.boxes * by.repeat(2),
        masks=None if scene.masks is None else _nearest(scene.masks, height, width),
        areas=None if scene.areas is None else scene.areas * by.prod(),
        points=None if scene.points is None else scene.points * torch.cat([by, by.new_ones(1)]),
    )


def _nearest(maps: Tensor, height: int, width: int) -> Tensor:
    """The pixels whose centres are nearest to those of the new ones."""
    rows = ((torch.arange(height) + 0.5) * maps.shape[-2] / height).long()
    columns = ((torch.arange(width) + 0.5) * maps.shape[-1] / width).long()
    return maps[..., rows[:, None], columns]


def boxes_in_shares(boxes: Float[Tensor, "n 4"], height: int, width: int) -> Float[Tensor, "n 4"]:
    """Corners in pixels as (cx, cy, w, h) in 0..1 of the picture."""
    x0, y0, x1, y1 = (boxes / boxes.new_tensor([width, height, width, height])).unbind(1)
    return torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dim=1)


def padded(parts: Sequence[Tensor], fill: float = 0) -> Tensor:
    """Rows of several pictures as one tensor; those of pictures with fewer are filled up."""
    longest = max(1, *(len(part) for part in parts))
    first = parts[0]
    out = first.new_full((len(parts), longest, *first.shape[1:]), fill)
    for row, part in enumerate(parts):
        out[row, : len(part)] = part
    return out


NO_OBJECT = float(IGNORE)
