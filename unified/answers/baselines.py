"""What each kind of answer says before anything is learned: the best that can be said without a look at the image.

A network whose first answers are far below that spends its first steps, and what all tasks share, on getting there. So
last linears begin at zero (`nn.queries.ZeroLinear`), and each task keeps a few numbers that are added to what its
queries say: the *slots* of a `Baseline`, parameters like others, which are measured from the first training samples
(`train.first_samples`). `KINDS` has, for each kind of answer, which slots there are and how they are measured.

An embedding (`identity`) has none: only differences between images count in it, and what is the same for all of them
counts nothing. Queries that are made from names have none of single names, as others may be asked for.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unified.answers.spec import QuerySpec
from unified.core.types import IGNORE
from unified.nn.queries.modules import RARE, SMALL, grid_points, inverse_sigmoid, spread_points

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


class Kind(NamedTuple):
    """The baseline of one kind of answer."""

    shapes: Callable[[QuerySpec], dict[str, tuple[int, ...]]]
    measure: Callable[[QuerySpec, Iterable[Target], int], Slots]
    """From what is right of training samples, in batches, and the number of places of the maps."""


def baseline_shapes(spec: QuerySpec) -> dict[str, tuple[int, ...]]:
    """The slots of a task, and their shapes."""
    return KINDS[spec.read].shapes(spec) if spec.read in KINDS else {}


def measure(spec: QuerySpec, targets: Iterable[Target], places: int) -> Slots:
    """The values of the slots of a task.

    Args:
        spec: what its queries are.
        targets: batches of what is right of training samples, as losses take them; at least one.
        places: of the maps, in training.

    Returns:
        fp32 tensors of the shapes that `baseline_shapes` says.
    """
    return {slot: value.float() for slot, value in KINDS[spec.read].measure(spec, targets, places).items()}


# shares of classes at each place


def _fine(of: Tensor) -> Tensor:
    """Values (b, …, H, W) at `FINE`² pixels of each place, the nearest ones."""
    count = FINE * GRID
    rows, columns = (((torch.arange(count) + 0.5) * side / count).long() for side in of.shape[-2:])
    return of[..., rows[:, None], columns]


def _counts(labels: Int[Tensor, "b H W"], classes: int) -> Float[Tensor, "b {classes} g g"]:
    """How many of the pixels that are looked at have each class, at each place; labels below 0 count nowhere."""
    batch, cells = len(labels), GRID * GRID
    place = torch.arange(GRID * FINE) // FINE
    cell = place[:, None] * GRID + place
    index = (torch.arange(batch)[:, None, None] * cells + cell) * classes + labels
    found = torch.bincount(index[labels >= 0], minlength=batch * cells * classes)
    return found.view(batch, GRID, GRID, classes).permute(0, 3, 1, 2).float()


def _log_shares(counts: Float[Tensor, "c g g"]) -> Float[Tensor, "c g g"]:
    """Logarithms of the shares of classes at each place; those of the whole image count as a quarter of a sample."""
    everywhere = counts.sum(dim=(1, 2)) + 1
    prior = (everywhere / everywhere.sum())[:, None, None]
    return ((counts + FINE * prior) / (counts.sum(0) + FINE)).log()


def _labels(target: Target) -> Int[Tensor, "b n n"]:
    labels = _fine(target["labels"]).long()
    return torch.where(labels == IGNORE, -1, labels)


def _classes(spec: QuerySpec, targets: Iterable[Target], places: int) -> Slots:  # noqa: ARG001
    """At class frequencies: of pixels, or of images and, where an image has the class, of its pixels."""
    counts = [_counts(_labels(target), len(spec.names)) for target in targets]
    if spec.softmax:
        return {} if spec.from_names else {"maps": _log_shares(sum(of.sum(0) for of in counts))}  # type: ignore[arg-type]
    share = torch.cat([of / of.sum(dim=1, keepdim=True).clamp(min=1) for of in counts])
    known = torch.cat([of.sum(dim=1) > 0 for of in counts])
    there = (share > 0).flatten(2).any(2)
    logits = _logit_of_share(there.float(), known.flatten(1).any(1)[:, None].expand_as(there))
    if spec.from_names:
        return {"logits": logits.mean(0, keepdim=True)}
    weight = there[..., None, None] * known[:, None]
    inside, having = (share * weight).sum(0), weight.sum(0)
    prior = inside.sum(dim=(1, 2), keepdim=True) / having.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    return {"logits": logits, "maps": _logit((inside + prior) / (having + 1))}


def _classes_shapes(spec: QuerySpec) -> dict[str, tuple[int, ...]]:
    maps: dict[str, tuple[int, ...]] = {} if spec.from_names else {"maps": (spec.queries, GRID, GRID)}
    return maps if spec.softmax else maps | _logits_shape(spec)


def _bins(spec: QuerySpec, targets: Iterable[Target], places: int) -> Slots:  # noqa: ARG001
    """At the frequencies of bins, alike at all places: their mean is the mean value."""
    low, high = spec.limits
    total = torch.zeros(spec.queries, GRID, GRID)
    for target in targets:
        values, valid = _fine(target["map"])[:, 0], _fine(target["valid"])[:, 0]
        share = (values.clamp(min=low, max=high) / low).log() / torch.tensor(high / low).log()
        bins = (share * spec.queries).long().clamp(0, spec.queries - 1)
        total += _counts(torch.where(valid, bins, -1), spec.queries).sum(0)
    return {"maps": _log_shares(total.mean(dim=(1, 2), keepdim=True).expand_as(total))}


# means at each place


def _pooled(values: Float[Tensor, "b c H W"], valid: Bool[Tensor, "b 1 H W"]) -> tuple[Tensor, Tensor]:
    """Sums over a batch of the values that are known at each place (c, g, g), and their number (1, g, g)."""
    valid = _fine(valid)
    known = torch.where(valid, _fine(values).float(), 0.0)
    pooled = (F.avg_pool2d(of, FINE).sum(0) * FINE**2 for of in (known, valid.float()))
    return tuple(pooled)  # type: ignore[return-value]


def _mean_maps(targets: Iterable[Target], *, unit: bool = False) -> tuple[Float[Tensor, "c g g"], Float[Tensor, "c"]]:
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


def _directions(spec: QuerySpec, targets: Iterable[Target], places: int) -> Slots:  # noqa: ARG001
    """At the mean direction."""
    return {"maps": _mean_maps(targets, unit=True)[0]}


def _share(spec: QuerySpec, targets: Iterable[Target], places: int) -> Slots:  # noqa: ARG001
    """At the frequency of each place; their mean is a half, as what is and what is not count the same in the loss."""
    each, mean = _mean_maps(targets)
    return {"maps": _logit(each) - _logit(mean)[:, None, None]}


def _pixels(spec: QuerySpec, targets: Iterable[Target], places: int) -> Slots:  # noqa: ARG001
    """At the mean image; what is added to an image begins at nothing."""
    return {} if spec.residual else {"colours": _mean_maps(targets)[0]}


def _pixels_shapes(spec: QuerySpec) -> dict[str, tuple[int, ...]]:
    return {} if spec.residual else {"colours": (3, GRID, GRID)}


def _maps_shape(spec: QuerySpec) -> dict[str, tuple[int, ...]]:
    return {"maps": (spec.queries, GRID, GRID)}


def _density(spec: QuerySpec, targets: Iterable[Target], places: int) -> Slots:  # noqa: ARG001
    """At the mean count, spread evenly: the inverse of the softplus that makes densities of maps."""
    counts = torch.cat([(target["points"][..., 2] > 0).sum(1).float() for target in targets])
    density = (counts.mean() / places).clamp(min=1e-6)
    return {"maps": (density.expm1().log() - RARE).expand(1, GRID, GRID)}


# one answer a query


def _logit(share: Tensor) -> Tensor:
    return inverse_sigmoid(share.clamp(SURE, 1 - SURE))


def _logit_of_share(there: Float[Tensor, "b q"], known: Bool[Tensor, "b q"]) -> Float[Tensor, "q"]:
    """How often what may be there is, of the samples that say so; a half where none does."""
    return _logit(((there * known).sum(0) + 0.5) / (known.sum(0) + 1))


def _presence(spec: QuerySpec, targets: Iterable[Target], places: int) -> Slots:  # noqa: ARG001
    """At the frequency of each."""
    there = torch.cat([target["presence"] for target in targets]).float()
    logits = _logit_of_share(there, there >= 0)
    return {"logits": logits.mean(0, keepdim=True) if spec.from_names else logits}


def _logits_shape(spec: QuerySpec) -> dict[str, tuple[int, ...]]:
    return {"logits": (1 if spec.from_names else len(spec.names),)}


class _Points(NamedTuple):
    """Where points lie, in shares of the image: mean and standard deviation of each, and how often it can be seen."""

    mean: Float[Tensor, "j 2"]
    spread: Float[Tensor, "j 2"]
    seen: Float[Tensor, "j"]  # as a logit


def _where(spec: QuerySpec, targets: Iterable[Target]) -> _Points:
    points = torch.cat([target["points"] for target in targets]).nan_to_num()
    known = points[..., 2] > 0
    inside = known & (points[..., :2] >= 0).all(-1) & (points[..., :2] <= 1).all(-1)
    seen = _logit_of_share(known.float(), torch.ones_like(known))
    if spec.from_names:
        points, inside, seen = points.flatten(0, 1)[:, None], inside.flatten()[:, None], seen.mean(0, keepdim=True)
    weight = inside[..., None].float()
    count = weight.sum(0)
    mean = torch.where(count > 0, (points[..., :2] * weight).sum(0) / count.clamp(min=1), 0.5)
    variance = ((points[..., :2] - mean).square() * weight).sum(0) / count.clamp(min=1)
    return _Points(mean, variance.sqrt(), seen)


def _points(spec: QuerySpec, targets: Iterable[Target], places: int) -> Slots:  # noqa: ARG001
    """At the mean place: a bell as wide as places differ, of the height that heat maps have there in the mean."""
    found = _where(spec, targets)
    if spec.from_names:
        return {"logits": found.seen}
    wide = found.spread.square() + NEAREST**2
    away = grid_points(GRID, GRID).view(GRID, GRID, 2) - found.mean[:, None, None]
    apart = (away.square() / wide[:, None, None]).sum(-1)
    if spec.softmax:  # of shares, one with long tails, as points that are changed at random may lie anywhere
        return {"maps": -1.5 * apart.log1p(), "logits": found.seen}
    height = (NEAREST**2 / wide.prod(-1).sqrt())[:, None, None]
    return {"maps": height * (-apart / 2).exp(), "logits": found.seen}


def _points_shapes(spec: QuerySpec) -> dict[str, tuple[int, ...]]:
    return _logits_shape(spec) if spec.from_names else _logits_shape(spec) | _maps_shape(spec)


def _places(spec: QuerySpec, targets: Iterable[Target], places: int) -> Slots:  # noqa: ARG001
    """At the mean place."""
    found = _where(spec, targets)
    return {"centres": inverse_sigmoid(found.mean), "logits": found.seen}


def _places_shapes(spec: QuerySpec) -> dict[str, tuple[int, ...]]:
    logits = _logits_shape(spec)
    return logits | {"centres": (*logits["logits"], 2)}


def _objects(spec: QuerySpec, targets: Iterable[Target], places: int) -> Slots:  # noqa: ARG001
    """Each query at the mean box of the objects nearest to its anchor, each class as likely as among these.

    What is known of all objects counts as much as one object and as one image more. Masks begin as the inside of boxes.
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
    logits = inverse_sigmoid(likely.clamp(max=1 - SURE)) - RARE
    slots = {
        "logits": logits.mean(1, keepdim=True) if spec.from_names else logits,
        "centres": inverse_sigmoid(mean[:, :2]) - inverse_sigmoid(anchors),
        "sides": inverse_sigmoid(mean[:, 2:]) - SMALL,
    }
    return slots | ({"inside": torch.full((1,), INSIDE)} if spec.read == "masks" else {})


def _objects_shapes(spec: QuerySpec) -> dict[str, tuple[int, ...]]:
    queries, classes = spec.queries, 1 if spec.from_names else len(spec.names)
    found: dict[str, tuple[int, ...]] = {"logits": (queries, classes), "centres": (queries, 2), "sides": (queries, 2)}
    return found | ({"inside": (1,)} if spec.read == "masks" else {})


KINDS: dict[str, Kind] = {
    "classes": Kind(_classes_shapes, _classes),
    "points": Kind(_points_shapes, _points),
    "bins": Kind(_maps_shape, _bins),
    "directions": Kind(_maps_shape, _directions),
    "share": Kind(_maps_shape, _share),
    "pixels": Kind(_pixels_shapes, _pixels),
    "density": Kind(_maps_shape, _density),
    "boxes": Kind(_objects_shapes, _objects),
    "masks": Kind(_objects_shapes, _objects),
    "presence": Kind(_logits_shape, _presence),
    "places": Kind(_places_shapes, _places),
}
"""By what `Map.map` and `Regress.regress` name."""
