"""What each kind of answer says before anything is learned: the best that can be said without a look at the image.

A network whose first answers are far below that spends its first steps, and what all tasks share, on getting there. So
last linears begin at zero (`nn.queries.ZeroLinear`), and each task keeps a few numbers that are added to what its
queries say: the *slots* of a `Baseline`, parameters like others, which are measured from the first training samples
(`train.first_samples`). Each kind of answer says which slots it has and how they are measured.

Queries that are made from names have none of single names, as others may be asked for.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unified.answers.spec import QuerySpec
from unified.nn.queries.modules import inverse_sigmoid

Target = Mapping[str, Tensor]
Slots = dict[str, Tensor]
GRID = 16
"""Places of an image along each of its sides at which baselines are kept; between them they are interpolated."""
FINE = 4
"""Pixels of each place that are looked at, along each of its sides."""
NEAREST = 0.05
"""Of the image's sides: how near to their mean points are taken to lie at least, in a heat map."""
SURE = 1e-3
"""How near shares are taken to 0 and 1 before their logit."""
INSIDE = 4.0
"""The logit of a mask in the middle of its box."""


class Baseline(NamedTuple):
    """The slots of one task; None where its kind of answer has no such slot."""

    maps: Float[Tensor, "q g g"] | None = None
    """Added to the maps of queries."""
    colours: Float[Tensor, "3 g g"] | None = None
    """Added to an image."""
    logits: Float[Tensor, "*q c"] | None = None
    """Added to presence (c: queries), or to the logits of each object query for each class."""
    centres: Float[Tensor, "q 2"] | None = None
    """Added to where points or boxes are, as logits of x and y."""
    sides: Float[Tensor, "q 2"] | None = None
    """Added to how wide and high boxes are, as logits."""
    inside: Float[Tensor, "1"] | None = None
    """How much the inside of an object's box counts in its mask."""


NEUTRAL = Baseline()
"""Without any slot."""
SLOTS = Baseline._fields
"""All slots; where one is 0 it changes no answer."""


# shares of classes at each place


def fine(of: Tensor) -> Tensor:
    """Values (b, …, H, W) at `FINE`² pixels of each place, the nearest ones."""
    count = FINE * GRID
    rows, columns = (((torch.arange(count) + 0.5) * side / count).long() for side in of.shape[-2:])
    return of[..., rows[:, None], columns]


def counts(labels: Int[Tensor, "b H W"], classes: int) -> Float[Tensor, "b {classes} g g"]:
    """How many of the pixels that are looked at have each class, at each place; labels below 0 count nowhere."""
    batch, cells = len(labels), GRID * GRID
    place = torch.arange(GRID * FINE) // FINE
    cell = place[:, None] * GRID + place
    index = (torch.arange(batch)[:, None, None] * cells + cell) * classes + labels
    found = torch.bincount(index[labels >= 0], minlength=batch * cells * classes)
    return found.view(batch, GRID, GRID, classes).permute(0, 3, 1, 2).float()


def log_shares(counts: Float[Tensor, "c g g"]) -> Float[Tensor, "c g g"]:
    """Logarithms of the shares of classes at each place; those of the whole image count as a quarter of a sample."""
    everywhere = counts.sum(dim=(1, 2)) + 1
    prior = (everywhere / everywhere.sum())[:, None, None]
    return ((counts + FINE * prior) / (counts.sum(0) + FINE)).log()


# means at each place


def _pooled(values: Float[Tensor, "b c H W"], valid: Bool[Tensor, "b 1 H W"]) -> tuple[Tensor, Tensor]:
    """Sums over a batch of the values that are known at each place (c, g, g), and their number (1, g, g)."""
    valid = fine(valid)
    known = torch.where(valid, fine(values).float(), 0.0)
    pooled = (F.avg_pool2d(of, FINE).sum(0) * FINE**2 for of in (known, valid.float()))
    return tuple(pooled)  # type: ignore[return-value]


def mean_maps(targets: Iterable[Target], *, unit: bool = False) -> tuple[Float[Tensor, "c g g"], Float[Tensor, "c"]]:
    """The mean at each place, that of the whole image among it as one sample; and that of the whole image.

    `unit`: of directions, whatever the length of vectors.
    """
    sums, counts = torch.zeros(()), torch.zeros(())
    for target in targets:
        values = F.normalize(target["map"].float(), dim=1) if unit else target["map"]
        more, known = _pooled(values, target["valid"])
        sums, counts = sums + more, counts + known
    mean = sums.sum(dim=(1, 2)) / counts.sum().clamp(min=1)
    return (sums + FINE**2 * mean[:, None, None]) / (counts + FINE**2), mean


def maps_shape(spec: QuerySpec) -> dict[str, tuple[int, ...]]:
    """Return the slot of maps: one for each query."""
    return {"maps": (spec.queries, GRID, GRID)}


# one answer a query


def logit(share: Tensor) -> Tensor:
    """Return the logit of shares, which are kept away from 0 and 1."""
    return inverse_sigmoid(share.clamp(SURE, 1 - SURE))


def logit_of_share(there: Float[Tensor, "b q"], known: Bool[Tensor, "b q"]) -> Float[Tensor, "q"]:
    """How often what may be there is, of the samples that say so; a half where none does."""
    return logit(((there * known).sum(0) + 0.5) / (known.sum(0) + 1))


def logits_shape(spec: QuerySpec) -> dict[str, tuple[int, ...]]:
    """Return the slot of logits: one for each name, or one for all where names are open."""
    return {"logits": (1 if spec.from_names else len(spec.names),)}


class PointStatistics(NamedTuple):
    """Where points lie, in shares of the image: mean and standard deviation of each, and how often it can be seen."""

    mean: Float[Tensor, "j 2"]
    spread: Float[Tensor, "j 2"]
    seen: Float[Tensor, "j"]  # as a logit


def point_statistics(spec: QuerySpec, targets: Iterable[Target]) -> PointStatistics:
    """Return where the points of training targets lie; of all points as one where names are open."""
    points = torch.cat([target["points"] for target in targets]).nan_to_num()
    known = points[..., 2] > 0
    inside = known & (points[..., :2] >= 0).all(-1) & (points[..., :2] <= 1).all(-1)
    seen = logit_of_share(known.float(), torch.ones_like(known))
    if spec.from_names:
        points, inside, seen = points.flatten(0, 1)[:, None], inside.flatten()[:, None], seen.mean(0, keepdim=True)
    weight = inside[..., None].float()
    count = weight.sum(0)
    mean = torch.where(count > 0, (points[..., :2] * weight).sum(0) / count.clamp(min=1), 0.5)
    variance = ((points[..., :2] - mean).square() * weight).sum(0) / count.clamp(min=1)
    return PointStatistics(mean, variance.sqrt(), seen)
