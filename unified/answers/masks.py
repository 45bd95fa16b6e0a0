"""Masks of queries: one query a class, or one an object; losses at points (PointRend, CVPR 2020; Mask2Former, 2022).

Points are given, (x, y) uniform in 0..1 of the picture, the same for all queries of a sample: nothing is drawn here.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unified.answers.regress.attributes import presence_loss
from unified.core.types import IGNORE
from unified.nn.queries.modules import grid_points

POINTS = 112
"""Masks are compared at a grid of at most so many points along each axis: as many points as Mask2Former draws."""


class MaskWeights(NamedTuple):
    """What the terms of a loss of masks count. UniHCP: 0.25, 5 and 5, at 12,544 points."""

    presence: float
    mask: float
    dice: float


def sampled(maps: Float[Tensor, "b q h w"], points: Float[Tensor, "_ p 2"]) -> Float[Tensor, "b q p"]:
    """Bilinear values of maps at points, in fp32; beyond the outer centres a map goes on as at its border."""
    grid = (2 * points.float() - 1).expand(maps.shape[0], -1, -1)[:, None]
    return F.grid_sample(maps.float(), grid, padding_mode="border", align_corners=False)[:, :, 0]


def labels_at(labels: Int[Tensor, "b h w"], points: Float[Tensor, "_ p 2"]) -> Int[Tensor, "b p"]:
    """Labels of the pixels that points lie in."""
    height, width = labels.shape[1:]
    x = (points[..., 0] * width).long().clamp(0, width - 1)
    y = (points[..., 1] * height).long().clamp(0, height - 1)
    return labels.flatten(1).gather(1, (y * width + x).expand(len(labels), -1))


def classes_present(labels: Int[Tensor, "b h w"], classes: int) -> Float[Tensor, "b {classes}"]:
    """1 where a class has a pixel, 0 where it has none, −1 in samples without any label."""
    index = torch.where(labels == IGNORE, classes, labels).flatten(1).long()
    seen = torch.zeros(len(labels), classes + 1, device=labels.device).scatter_(1, index, 1.0)[:, :classes]
    return torch.where(seen.any(dim=1, keepdim=True), seen, -1.0)


def dice_loss(
    logits: Float[Tensor, "*n p"], target: Float[Tensor, "*n p"], valid: Bool[Tensor, "*#n p"]
) -> Float[Tensor, "*n"]:
    """1 − (2 Σ σt + 1) / (Σ σ + Σ t + 1) over valid points."""
    share, target = logits.float().sigmoid() * valid, target * valid
    return 1 - (2 * (share * target).sum(-1) + 1) / (share.sum(-1) + target.sum(-1) + 1)


def mask_loss(
    logits: Float[Tensor, "*n p"], target: Float[Tensor, "*n p"], valid: Bool[Tensor, "*#n p"]
) -> Float[Tensor, "*n"]:
    """Binary cross entropy, averaged over valid points."""
    loss = F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none") * valid
    return loss.sum(-1) / valid.sum(-1).clamp(min=1)


def class_mask_loss(
    maps: Float[Tensor, "b q h w"],
    presence: Float[Tensor, "b q"],
    labels: Int[Tensor, "b H W"],
    points: Float[Tensor, "_ p 2"],
    weights: MaskWeights,
) -> Float[Tensor, "b"]:
    """The loss of one query a class, without matching: presence of all, masks of the classes that are there."""
    classes = maps.shape[1]
    there = classes_present(labels, classes)
    at = labels_at(labels, points)[:, None]
    valid = at != IGNORE
    target = (at == torch.arange(classes, device=labels.device)[:, None]).float()
    logits = sampled(maps, points)
    terms = weights.mask * mask_loss(logits, target, valid) + weights.dice * dice_loss(logits, target, valid)
    counted = (there > 0) & valid.any(dim=-1)
    masks = (terms * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
    return masks + weights.presence * presence_loss(presence, there)


def class_scores(
    maps: Float[Tensor, "b q h w"], presence: Float[Tensor, "b q"], size: tuple[int, int]
) -> Float[Tensor, "b q H W"]:
    """σ(presence) · σ(mask) of each class at each pixel of a picture of `size` (height, width)."""
    masks = F.interpolate(maps.float(), size, mode="bilinear", align_corners=False)
    return masks.sigmoid() * presence.float().sigmoid()[..., None, None]


def mask_points(target: Tensor) -> Float[Tensor, "1 p 2"]:
    """Return where masks or labels (…, h, w) are compared, x and y in 0..1."""
    rows, columns = (min(side, POINTS) for side in target.shape[-2:])
    return grid_points(rows, columns, target.device)[None]
