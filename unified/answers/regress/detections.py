"""What is read from object queries: boxes with scores, a mask of each, and one image of all parts (panoptic)."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unified.answers.boxes import corners
from unified.answers.map.maps import resized


class Detections(NamedTuple):
    """The likeliest pairs of query and class of each sample, best first."""

    scores: Float[Tensor, "b k"]
    labels: Int[Tensor, "b k"]
    queries: Int[Tensor, "b k"]


def detections(classes: Float[Tensor, "b q c"], most: int) -> Detections:
    """At most `most` pairs by σ(logit); a query may answer for several classes."""
    count = classes.shape[2]
    scores, index = classes.float().sigmoid().flatten(1).topk(min(most, classes[0].numel()), dim=1)
    return Detections(scores, index % count, index // count)


def boxes_of(queries: Int[Tensor, "b k"], boxes: Float[Tensor, "b q 4"]) -> Float[Tensor, "b k 4"]:
    """The boxes of queries as (x0, y0, x1, y1), cut off at the borders 0 and 1."""
    return corners(boxes.gather(1, queries[..., None].expand(-1, -1, 4))).clamp(0, 1)


def masks_of(
    queries: Int[Tensor, "b k"], maps: Float[Tensor, "b q h w"], size: tuple[int, int]
) -> tuple[Bool[Tensor, "b k H W"], Float[Tensor, "b k"]]:
    """The masks of queries at `size` (height, width), and how sure each is: its mean σ inside; 0 for an empty one."""
    chosen = maps.gather(1, queries[..., None, None].expand(-1, -1, *maps.shape[2:]))
    found = []
    for of_one in chosen.unbind(1):  # all of them at the size of a photograph are gigabytes of logits
        logits = resized(of_one[:, None], size)[:, 0]
        inside = logits > 0
        share = (logits.sigmoid() * inside).sum(dim=(1, 2)) / inside.sum(dim=(1, 2)).clamp(min=1)
        found.append((inside, share))
    masks, sure = zip(*found, strict=True)
    return torch.stack(masks, dim=1), torch.stack(sure, dim=1)


class Part(NamedTuple):
    """One part of a picture: its number in the map of parts, its class, and the score of its query."""

    number: int
    label: int
    score: float


def panoptic(
    classes: Float[Tensor, "q c"],
    maps: Float[Tensor, "q h w"],
    size: tuple[int, int],
    things: Bool[Tensor, "c"],
    *,
    threshold: float,
    kept: float,
) -> tuple[Int[Tensor, "H W"], list[Part]]:
    """The part that each pixel of one picture belongs to, from 1; 0 is none (MaskFormer, NeurIPS 2021).

    Queries below `threshold` say nothing, nor do those of whose mask less than the share `kept` is left to them by
    others. Queries of a class that has no single things share one part.
    """
    scores, labels = classes.float().sigmoid().max(dim=1)
    sure = scores >= threshold
    scores, labels = scores[sure], labels[sure]
    numbers = torch.zeros(size, dtype=torch.long, device=maps.device)
    if not sure.any():
        return numbers, []
    masks = resized(maps[sure][None], size)[0].sigmoid()
    owner = (masks * scores[:, None, None]).argmax(dim=0)
    parts: list[Part] = []
    shared: dict[int, int] = {}
    for query in range(len(scores)):
        whole = masks[query] >= 0.5
        own = whole & (owner == query)
        if not own.any() or own.sum() < kept * whole.sum():
            continue
        label = int(labels[query])
        number = shared.get(label, len(parts) + 1)
        numbers[own] = number
        if number > len(parts):
            parts.append(Part(number, label, float(scores[query])))
            if not things[label]:
                shared[label] = number
    return numbers, parts
