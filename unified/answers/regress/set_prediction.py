"""Regress: numbers of queries, matched with objects as sets (DETR, ECCV 2020), or each with its own target.

Losses are one number a sample, in fp32, averaged over what the sample holds.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unified.answers.assignment import assign, assignable
from unified.answers.boxes import corners, generalised_overlap
from unified.answers.masks import dice_loss, mask_loss, sampled
from unified.core.errors import UserError
from unified.core.types import IGNORE

ALPHA, GAMMA = 0.25, 2.0
"""Of the focal loss (RetinaNet, ICCV 2017)."""


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
    """What it would cost each query to stand for each object, for the whole batch at once; infinite for no object.

    Args:
        queries: what they say.
        objects: what there is.
        weights: what the terms count.
        points: (x, y) in 0..1, where masks are compared.
    """
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
    return assignable(cost, objects.labels != IGNORE)


def _mask_costs(logits: Float[Tensor, "b q p"], target: Float[Tensor, "b m p"], weights: SetWeights) -> Tensor:
    inside, outside = target.mT, 1 - target.mT
    entropy = (F.softplus(-logits) @ inside + F.softplus(logits) @ outside) / logits.shape[-1]
    share = logits.sigmoid()
    total = share.sum(-1)[:, :, None] + target.sum(-1)[:, None]
    return weights.mask * entropy + weights.dice * (1 - (2 * share @ inside + 1) / (total + 1))


def check_boxes(objects: Objects) -> None:
    """Refuse boxes that are none with a `UserError`: an accelerator would be waited for, so data are checked before.

    Args:
        objects: as they are given, on the host.
    """
    if objects.boxes is None:
        return
    boxes, real = objects.boxes, objects.labels != IGNORE
    wrong = real & ~(boxes.isfinite().all(dim=-1) & (boxes[..., 2:] >= 0).all(dim=-1))
    if bool(wrong.any()):
        sample, place = wrong.nonzero()[0].tolist()
        raise UserError(
            f"sample {sample} of the batch, object {place}: its box is {boxes[sample, place].tolist()}; expected "
            "finite cx, cy, w, h with w and h of at least 0; mend or drop it when the data are built"
        )


def set_loss(
    queries: ObjectQueries, objects: Objects, weights: SetWeights, points: Float[Tensor, "_ p 2"] | None = None
) -> Float[Tensor, "b"]:
    """Return `matched_loss` at the cheapest assignment, of objects on the host whose boxes are checked.

    Training assigns the objects of all tasks and layers of a step at once instead.
    """
    check_boxes(objects)
    (matched,) = assign([costs(queries, objects, weights, points)])
    return matched_loss(queries, objects, matched, weights, points)


def matched_loss(
    queries: ObjectQueries,
    objects: Objects,
    matched: Int[Tensor, "b m"],
    weights: SetWeights,
    points: Float[Tensor, "_ p 2"] | None = None,
) -> Float[Tensor, "b"]:
    """Focal loss of all queries' classes, and of matched queries L1 and GIoU of boxes, cross entropy and dice of masks.

    Divided by the number of objects, or by 1 where there is none.

    Args:
        queries: what they say.
        objects: what there is.
        matched: the query of each object, as `assign` gives it.
        weights: what the terms count.
        points: (x, y) in 0..1, where masks are compared.
    """
    real, index = matched != IGNORE, matched.clamp(min=0)
    number = real.sum(dim=1).clamp(min=1)
    samples, count, classes = queries.classes.shape
    # One more place takes what is no object.
    place = torch.where(real, matched * classes + objects.labels, count * classes)
    target = queries.classes.new_zeros(samples, count * classes + 1, dtype=torch.float32).scatter_(1, place, 1.0)
    total = weights.classes * focal_loss(queries.classes, target[:, :-1].view_as(queries.classes)).sum(dim=(1, 2))
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
