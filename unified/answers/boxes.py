"""Boxes: their two forms, and how far they overlap."""

import torch
from jaxtyping import Float
from torch import Tensor


def corners(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """(cx, cy, w, h) as (x0, y0, x1, y1)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def centres(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """(x0, y0, x1, y1) as (cx, cy, w, h)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def area(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Of boxes by corners."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def overlap(a: Float[Tensor, "*#n 4"], b: Float[Tensor, "*#n 4"]) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Intersection over union of boxes by corners, and the union; pairs by broadcasting."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    union = area(a) + area(b) - shared
    return shared / union.clamp(min=1e-12), union


def generalised_overlap(a: Float[Tensor, "*#n 4"], b: Float[Tensor, "*#n 4"]) -> Float[Tensor, "*n"]:
    """GIoU of boxes by corners, −1..1 (CVPR 2019): negative where they lie apart; pairs by broadcasting."""
    share, union = overlap(a, b)
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    hull = (high - low).clamp(min=0).prod(dim=-1)
    return share - (hull - union) / hull.clamp(min=1e-12)


def inwards(boxes: Float[Tensor, "b q 4"], size: tuple[int, int]) -> Float[Tensor, "b q h w"]:
    """How far inside of boxes (cx, cy, w, h) in 0..1 the places of a grid of `size` (height, width) lie.

    1 in the middle, 0 at the border, −1 as far outside as the middle is inside, and beyond.
    """
    height, width = size
    x = (torch.arange(width, device=boxes.device) + 0.5) / width
    y = (torch.arange(height, device=boxes.device) + 0.5) / height
    cx, cy, w, h = boxes[..., None, None].float().unbind(2)
    across, down = (x - cx).abs() / w.clamp(min=1e-6), (y[:, None] - cy).abs() / h.clamp(min=1e-6)
    return (1 - 2 * torch.maximum(across, down)).clamp(min=-1)
