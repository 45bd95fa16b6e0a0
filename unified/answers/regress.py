"""Regress: numbers of queries, matched with objects as sets (DETR, ECCV 2020), or each with its own target.

Losses are one number a sample, in fp32, averaged over what the sample holds.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from unified.answers.boxes import corners, generalised_overlap
from unified.answers.masks import dice_loss, mask_loss, sampled
from unified.errors import UserError
from unified.types import IGNORE

ALPHA, GAMMA = 0.25, 2.0
"""Of the focal loss (RetinaNet, ICCV 2017)."""


class RegressError(UserError):
    """Objects that queries cannot answer for."""


class SetWeights(NamedTuple):
    """What the terms of a set loss count, in the matching and in the loss. UniHCP: 2, 5 and 2 for boxes."""

    classes: float
    box: float
    overlap: float
    mask: float
    dice: float


@dataclass(frozen=True)
class ObjectQueries:
    """What queries say of objects."""

    classes: Float[Tensor, "b q c"]
    boxes: Float[Tensor, "b q 4"] | None = None  # (cx, cy, w, h) in 0..1
    maps: Float[Tensor, "b q h w"] | None = None


@dataclass(frozen=True)
class Objects:
    """The objects of pictures, padded; a label of IGNORE is no object."""

    labels: Int[Tensor, "b m"]
    boxes: Float[Tensor, "b m 4"] | None = None  # (cx, cy, w, h) in 0..1
    masks: Bool[Tensor, "b m h w"] | None = None


def focal_loss(logits: Float[Tensor, "*n"], target: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """α (1 − p)^γ · −log p where there is something, (1 − α) p^γ · −log(1 − p) where there is not."""
    loss = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    missed = (target - logits.float().sigmoid()).abs()
    return (ALPHA * target + (1 - ALPHA) * (1 - target)) * missed**GAMMA * loss


@torch.no_grad()
def costs(
    queries: ObjectQueries, objects: Objects, weights: SetWeights, points: Float[Tensor, "_ p 2"] | None = None
) -> Float[Tensor, "b q m"]:
    """What it would cost each query to stand for each object, for the whole batch at once. `points`: for masks."""
    with torch.autocast(queries.classes.device.type, enabled=False):
        logits, labels = queries.classes.float(), objects.labels.clamp(min=0)
        gain = focal_loss(logits, torch.ones_like(logits)) - focal_loss(logits, torch.zeros_like(logits))
        cost = weights.classes * gain.gather(2, labels[:, None].expand(-1, logits.shape[1], -1))
        if queries.boxes is not None and objects.boxes is not None:
            ours, theirs = queries.boxes.float(), objects.boxes.float()
            cost += weights.box * torch.cdist(ours, theirs, p=1)
            cost -= weights.overlap * generalised_overlap(corners(ours)[:, :, None], corners(theirs)[:, None])
        if queries.maps is not None and objects.masks is not None and points is not None:
            cost += _mask_costs(sampled(queries.maps, points), sampled(objects.masks.float(), points), weights)
    return cost


def _mask_costs(logits: Float[Tensor, "b q p"], target: Float[Tensor, "b m p"], weights: SetWeights) -> Tensor:
    inside, outside = target.mT, 1 - target.mT
    entropy = (F.softplus(-logits) @ inside + F.softplus(logits) @ outside) / logits.shape[-1]
    share = logits.sigmoid()
    total = share.sum(-1)[:, :, None] + target.sum(-1)[:, None]
    return weights.mask * entropy + weights.dice * (1 - (2 * share @ inside + 1) / (total + 1))


def assign(cost: Float[Tensor, "b q m"], objects: Objects) -> Int[Tensor, "b m"]:
    """The query of each object at the least total cost (Hungarian matching), IGNORE where there is no object.

    Raises `RegressError` for more objects than queries and for boxes that are none.
    """
    real = (objects.labels != IGNORE).cpu().numpy()
    _check(objects, real, queries=cost.shape[1])
    # A query that is not finite matches last; its loss is not finite either, which is for the trainer to see.
    finite = cost.nan_to_num(nan=1e9, posinf=1e9, neginf=-1e9).cpu().numpy()
    found = np.full(real.shape, IGNORE, dtype=np.int64)
    for sample, held in enumerate(real):
        rows, columns = linear_sum_assignment(finite[sample][:, held])
        found[sample, np.flatnonzero(held)[columns]] = rows
    return torch.from_numpy(found).to(cost.device)


def _check(objects: Objects, real: np.ndarray, queries: int) -> None:
    most = int(real.sum(axis=1).max(initial=0))
    if most > queries:
        raise RegressError(
            f"a picture has {most} objects and the task has {queries} queries: each object needs a query of its own; "
            f"give the task at least {most} queries, or leave objects out when the data are built"
        )
    if objects.boxes is not None:
        boxes = objects.boxes.cpu().numpy()
        wrong = real & ~(np.isfinite(boxes).all(axis=-1) & (boxes[..., 2:] >= 0).all(axis=-1))
        if wrong.any():
            sample, place = np.argwhere(wrong)[0]
            raise RegressError(
                f"sample {sample} of the batch, object {place}: its box is {boxes[sample, place].tolist()}; expected "
                "finite cx, cy, w, h with w and h of at least 0; mend or drop it when the data are built"
            )


def set_loss(
    queries: ObjectQueries, objects: Objects, weights: SetWeights, points: Float[Tensor, "_ p 2"] | None = None
) -> Float[Tensor, "b"]:
    """Focal loss of all queries' classes, and of matched queries L1 and GIoU of boxes, cross entropy and dice of masks.

    Divided by the number of objects, or by 1 where there is none. `points` (x, y) in 0..1 are where masks are compared.
    """
    matched = assign(costs(queries, objects, weights, points), objects)
    real, index = matched != IGNORE, matched.clamp(min=0)
    number = real.sum(dim=1).clamp(min=1)
    target = torch.zeros_like(queries.classes, dtype=torch.float32)
    sample, place = real.nonzero(as_tuple=True)
    target[sample, matched[sample, place], objects.labels[sample, place]] = 1.0
    total = weights.classes * focal_loss(queries.classes, target).sum(dim=(1, 2))
    if queries.boxes is not None and objects.boxes is not None:
        ours = queries.boxes.float().gather(1, index[..., None].expand(-1, -1, 4))
        theirs = torch.where(real[..., None], objects.boxes.float(), 0.5)
        distance = (ours - theirs).abs().sum(dim=-1)
        apart = 1 - generalised_overlap(corners(ours), corners(theirs))
        total = total + ((weights.box * distance + weights.overlap * apart) * real).sum(dim=1)
    if queries.maps is not None and objects.masks is not None and points is not None:
        logits = sampled(queries.maps, points).gather(1, index[..., None].expand(-1, -1, points.shape[1]))
        masks, everywhere = sampled(objects.masks.float(), points), torch.ones_like(real)[..., None]
        everywhere = everywhere.expand_as(logits)
        terms = weights.mask * mask_loss(logits, masks, everywhere) + weights.dice * dice_loss(
            logits, masks, everywhere
        )
        total = total + (terms * real).sum(dim=1)
    return total / number


def point_loss(found: Float[Tensor, "b q 2"], target: Float[Tensor, "b q 3"]) -> Float[Tensor, "b"]:
    """|x − x'| + |y − y'|, averaged over the points that are known (v > 0); 0 where none is."""
    known = target[..., 2] > 0
    distance = (found.float() - torch.where(known[..., None], target[..., :2].float(), 0.5)).abs().sum(dim=-1)
    return (distance * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)


def identity_loss(logits: Float[Tensor, "b i"], identity: Int[Tensor, "b"]) -> Float[Tensor, "b"]:
    """Cross entropy over the identities of the training data; 0 where it is IGNORE."""
    return F.cross_entropy(logits.float(), identity, ignore_index=IGNORE, reduction="none")


def triplet_loss(
    features: Float[Tensor, "b d"],
    identity: Int[Tensor, "b"],
    others: Float[Tensor, "n d"],
    of_others: Int[Tensor, "n"],
    own: Int[Tensor, "b"],
) -> Float[Tensor, "b"]:
    """log(1 + e^(farthest of the same − nearest of another)) over a whole batch: the triplet loss with a soft margin.

    Source: In Defense of the Triplet Loss (2017); distances are Euclidean. `others`: the features of all processes,
    `own`: the place of each sample among them. 0 for a sample whose batch has none of its identity, or only those.
    """
    with torch.autocast(features.device.type, enabled=False):
        squared = (features.float()[:, None] - others.float()).square().sum(dim=-1)
        distance = squared.clamp(min=1e-12).sqrt()
    same = identity[:, None] == of_others
    self_ = own[:, None] == torch.arange(len(of_others), device=own.device)
    known = (identity != IGNORE)[:, None] & (of_others != IGNORE)
    positive, negative = known & same & ~self_, known & ~same
    farthest = distance.where(positive, -torch.inf).max(dim=1).values
    nearest = distance.where(negative, torch.inf).min(dim=1).values
    usable = positive.any(dim=1) & negative.any(dim=1)
    return torch.where(usable, F.softplus(torch.where(usable, farthest - nearest, 0.0)), 0.0)
