"""What each kind of answer reads from task queries: its loss in training, and the answer itself.

A reading knows what its queries stand for, never which task they belong to. Losses are one number a sample, the mean
over the layers that learn; scores say for people how well the last layer does, from 0 to 1.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unified.answers import masks
from unified.answers.base import QueryStates
from unified.answers.map import maps
from unified.answers.regress import attributes, set_prediction
from unified.answers.regress.object_readings import (
    Begun,
    Size,
    Target,
    begin_objects,
    found_boxes,
    layer_mean,
    mask_points,
    objects_loss,
)
from unified.core.distributed import gather_rows, rank, world_size
from unified.core.transfers import constant, kept
from unified.core.types import IGNORE
from unified.nn.queries.modules import RARE

MASKS = masks.MaskWeights(presence=0.25, mask=5.0, dice=5.0)  # UniHCP
PRESENCE_OF_POINTS = 0.001  # UniHCP
SIGMA = 1.5
"""Of the heat maps of points, in places of the maps."""
HEAT = 100.0
"""What a heat map counts: its squares are small numbers."""
COUNTED = (1.0, 0.5)
"""What map and count of a density count."""
NEAR = 0.1
"""Of the picture's sides: how near a point must be to count as found."""


def _size(target: Tensor) -> Size:
    return target.shape[-2], target.shape[-1]


# classes


def class_logits(found: QueryStates, size: Size) -> Float[Tensor, "b c H W"]:
    """How much each class is at each pixel: the highest one is the answer."""
    states = found.states[-1]
    if found.spec.softmax:
        return maps.resized(found.maps(states), size)
    return masks.class_scores(found.maps(states), found.presence(states), size)


def _classes_loss(found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
    labels, points = target["labels"], mask_points(target["labels"])
    if found.spec.softmax:
        loss = layer_mean([maps.class_loss(found.maps(states), labels) for states in found.states])
    else:
        loss = layer_mean(
            [masks.class_mask_loss(found.maps(s), found.presence(s), labels, points, MASKS) for s in found.states]
        )
    with torch.no_grad():
        right = class_logits(found, _size(labels)).argmax(1) == labels
    return loss, maps.mean_of_valid(right.float(), labels != IGNORE)


def _classes(found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    return [{"labels": class_logits(found.row(row), size)[0].argmax(0)} for row, size in enumerate(sizes)]


# heat maps of points


def _points_loss(found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
    points = target["points"]
    seen = (points[..., 2] > 0).float()

    def of_layer(states: Tensor) -> Tensor:
        heat = found.maps(states)
        where = (
            maps.place_loss(heat, points, SIGMA) if found.spec.softmax else HEAT * maps.heat_loss(heat, points, SIGMA)
        )
        return where + PRESENCE_OF_POINTS * attributes.presence_loss(found.presence(states), seen)

    loss = layer_mean([of_layer(states) for states in found.states])
    with torch.no_grad():
        near = _near(maps.heat_points(found.maps(found.states[-1])), points)
    return loss, near


def _near(found: Float[Tensor, "b j _"], points: Float[Tensor, "b j 3"]) -> Float[Tensor, "b"]:
    known = points[..., 2] > 0
    close = (found[..., :2] - points[..., :2]).norm(dim=-1) < NEAR
    return (close & known).sum(1) / known.sum(1).clamp(min=1)


def heat_maps(found: QueryStates) -> Float[Tensor, "b k j h w"]:
    """How much each point is at each place; where that is a logit, a second map says everywhere how sure it is."""
    heat = found.maps(found.states[-1]).float()
    if not found.spec.softmax:
        return heat[:, None]
    sure = found.presence(found.states[-1]).float().sigmoid()
    return torch.stack([heat, sure[..., None, None].expand_as(heat)], dim=1)


def highest(heat: Float[Tensor, "b k j h w"]) -> Float[Tensor, "b j 3"]:
    """The places of points, x and y in 0..1, and how sure each is; of what `heat_maps` gives."""
    places = maps.heat_points(heat[:, 0])
    if heat.shape[1] == 1:
        return places
    return torch.cat([places[..., :2], heat[:, 1].mean(dim=(2, 3))[..., None]], dim=-1)


def _points(found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    return _in_pixels(highest(heat_maps(found)), sizes)


def _in_pixels(points: Float[Tensor, "b j 3"], sizes: Sequence[Size]) -> list[dict[str, Any]]:
    return [
        {"points": torch.stack([of[:, 0] * width, of[:, 1] * height], -1), "scores": of[:, 2]}
        for of, (height, width) in zip(points, sizes, strict=True)
    ]


# numbers and vectors of each place


def _values(found: QueryStates, states: Tensor, size: Size) -> Float[Tensor, "b 1 H W"]:
    low, high = found.spec.limits
    centres = _centres(found.spec.queries, low, high, states.device)
    return maps.expected_value(found.maps(states), centres, size)


@kept(256)
def _centres(count: int, low: float, high: float, device: torch.device) -> Float[Tensor, "{count}"]:
    return constant(maps.bin_centres(count, low, high, log=True).tolist(), device)


def _bins_loss(found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
    value, valid = target["map"], target["valid"]
    loss = layer_mean([maps.sig_loss(_values(found, s, _size(value)), value, valid, warm=True) for s in found.states])
    with torch.no_grad():
        ours, theirs = _values(found, found.states[-1], _size(value)), torch.where(valid, value, 1.0)
        right = torch.maximum(ours / theirs, theirs / ours) < 1.25
    return loss, maps.mean_of_valid(right.float(), valid)


def _bins(found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    return [{"values": _values(found.row(row), found.states[-1][row : row + 1], size)[0, 0]}
            for row, size in enumerate(sizes)]  # fmt: skip


def _directions_loss(found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
    vectors, valid = target["map"], target["valid"]
    loss = layer_mean([maps.direction_loss(found.maps(s), vectors, valid) for s in found.states])
    with torch.no_grad():
        ours = maps.directions(found.maps(found.states[-1]), _size(vectors))
        right = (ours * F.normalize(vectors, dim=1)).sum(1, keepdim=True) > 3**0.5 / 2  # within 30 degrees
    return loss, maps.mean_of_valid(right.float(), valid)


def _directions(found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    of_all = found.maps(found.states[-1])
    return [{"vectors": maps.directions(of_all[row : row + 1], size)[0]} for row, size in enumerate(sizes)]


def _share_loss(found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
    share, valid = target["map"], target["valid"]
    loss = layer_mean([maps.edge_loss(found.maps(s), share, valid) for s in found.states])
    with torch.no_grad():
        ours = (maps.resized(found.maps(found.states[-1]), _size(share)) > 0) & valid
        there = (share > 0.5) & valid
        both, all_ = (ours & there).flatten(1).sum(1), ours.flatten(1).sum(1) + there.flatten(1).sum(1)
        score = torch.where(all_ > 0, 2 * both / all_.clamp(min=1), 1.0)
    return loss, score


def _share(found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    of_all = found.maps(found.states[-1])
    return [{"share": maps.resized(of_all[row : row + 1], size)[0, 0].sigmoid()} for row, size in enumerate(sizes)]


def _picture(found: QueryStates, states: Tensor) -> Float[Tensor, "b 3 H W"]:
    said = maps.pixels(found.maps(states), 3)
    if found.baseline.colours is not None:
        said = said + maps.resized(found.baseline.colours[None], _size(said))
    if found.picture is None:
        return said
    # As large pictures are made without learning; one of the same size stays as it is.
    return said + F.interpolate(found.picture, said.shape[2:], mode="bicubic", align_corners=False)


def _pixels_loss(found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
    picture, valid = target["map"], target["valid"]
    loss = layer_mean([maps.pixel_loss(_picture(found, s), picture, valid, 1e-3) for s in found.states])
    with torch.no_grad():
        ours = _picture(found, found.states[-1]).clamp(0, 1)
        away = maps.mean_of_valid((ours - picture).abs(), valid)
    return loss, 1 - away


def _pixels(found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    pictures = _picture(found, found.states[-1]).clamp(0, 1)
    scale = found.spec.scale
    return [
        {"image": maps.resized(pictures[row : row + 1], (scale * size[0], scale * size[1]))[0].clamp(0, 1)}
        for row, size in enumerate(sizes)
    ]


def _counting_maps(found: QueryStates, states: Tensor) -> Float[Tensor, "b 1 h w"]:
    """Nearly nothing at each place before anything is learned: half a thing there would be hundreds in all."""
    return found.maps(states) + RARE


def _density_loss(found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
    losses = []
    first = _counting_maps(found, found.states[0])
    right = maps.density_maps(target["points"], _size(first), SIGMA)
    everywhere = torch.ones_like(right, dtype=torch.bool)
    for states in found.states:
        of_layer = _counting_maps(found, states)
        losses.append(
            maps.density_loss(of_layer, right, everywhere, map_weight=HEAT * COUNTED[0], count_weight=COUNTED[1])
            + maps.whereabouts_loss(of_layer, right)
        )
    with torch.no_grad():
        count, true = maps.density(of_layer).sum(dim=(1, 2, 3)), right.sum(dim=(1, 2, 3))
        score = (1 - (count - true).abs() / true.clamp(min=1)).clamp(min=0)
    return layer_mean(losses), score


def _density(found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    of_all = maps.density(_counting_maps(found, found.states[-1]))
    return [{"density": of[0], "count": float(of.sum())} for of, _ in zip(of_all, sizes, strict=True)]


# one answer a query


def _presence_loss(found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
    there = target["presence"]
    ratio = constant(found.spec.positives, there.device) if found.spec.positives else None
    loss = layer_mean([attributes.presence_loss(found.presence(s), there, ratio) for s in found.states])
    with torch.no_grad():
        known = there >= 0
        right = ((found.presence(found.states[-1]) > 0) == (there > 0.5)) & known
    return loss, right.sum(1) / known.sum(1).clamp(min=1)


def _presence(found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    shares = found.presence(found.states[-1]).float().sigmoid()
    return [{"presence": of} for of, _ in zip(shares, sizes, strict=True)]


def _places(found: QueryStates, states: Tensor) -> Float[Tensor, "b j 2"]:
    middle = states.new_full((states.shape[1], 2), 0.5)  # other names than those of training may be as many as wanted
    return found.boxes(states, middle)[..., :2]


def _direct_points_loss(found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
    points = target["points"]
    loss = layer_mean([set_prediction.point_loss(_places(found, states), points) for states in found.states])
    with torch.no_grad():
        near = _near(_places(found, found.states[-1]), points)
    return loss, near


def _direct_points(found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    places = _places(found, found.states[-1])
    sure = found.presence(found.states[-1]).float().sigmoid()
    return _in_pixels(torch.cat([places, sure[..., None]], -1), sizes)


def identity_features(states: Tensor) -> Float[Tensor, "b e"]:
    """What all queries of an identity say, one after the other, at unit length."""
    return F.normalize(states.float().flatten(1), dim=-1)


IDENTITY_SCALE = 16.0
"""Of the cosines with the rows of identities."""


def _identity_loss(found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
    who: Int[Tensor, b] = target["identity"]
    assert found.identities is not None
    rows = F.normalize(found.identities.float(), dim=-1)
    own = torch.arange(len(who), device=who.device) + rank() * len(who)
    features = identity_features(found.states[-1])
    logits = IDENTITY_SCALE * features @ rows.T
    everyone = gather_rows(who.float()).long() if world_size() > 1 else who
    apart = set_prediction.triplet_loss(features, who, gather_rows(features), everyone, own)
    return set_prediction.identity_loss(logits, who) + apart, (logits.argmax(1) == who).float()


def _identity(found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    features = identity_features(found.states[-1])
    return [{"features": of} for of, _ in zip(features, sizes, strict=True)]


Loss = Callable[[QueryStates, Target], tuple[Float[Tensor, "b"], Float[Tensor, "b"]]]
Answer = Callable[[QueryStates, Sequence[Size]], list[dict[str, Any]]]
READINGS: dict[str, tuple[Loss, Answer]] = {
    "classes": (_classes_loss, _classes),
    "points": (_points_loss, _points),
    "bins": (_bins_loss, _bins),
    "directions": (_directions_loss, _directions),
    "share": (_share_loss, _share),
    "pixels": (_pixels_loss, _pixels),
    "density": (_density_loss, _density),
    "boxes": (objects_loss, found_boxes),
    "masks": (objects_loss, found_boxes),
    "presence": (_presence_loss, _presence),
    "places": (_direct_points_loss, _direct_points),
    "identity": (_identity_loss, _identity),
}
"""The loss and the answer of what `Map.map` and `Regress.regress` name."""
SETS: dict[str, Callable[[QueryStates, Target], Begun]] = {"boxes": begin_objects, "masks": begin_objects}
"""Of them those whose queries are assigned to objects first."""


def begin(found: QueryStates, target: Target) -> Begun:
    """Return what `loss_and_score` does up to the assignment of queries to objects, if there is one."""
    read = found.spec.read
    with torch.autocast(found.features.device.type, enabled=False):
        begun = SETS[read](found, target) if read in SETS else None
        result = None if begun else READINGS[read][0](found, target)

    def finish(matched: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        if begun is None:
            assert result is not None
            return result
        with torch.autocast(found.features.device.type, enabled=False):
            return begun.finish(matched)

    return Begun(finish, begun.costs if begun else ())


def loss_and_score(found: QueryStates, target: Target) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """The loss of each sample, and for people how well it was answered, from 0 to 1."""
    with torch.autocast(found.features.device.type, enabled=False):
        return READINGS[found.spec.read][0](found, target)


@torch.no_grad()
def answers(found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    """The answer for each sample, for a picture of its (height, width); boxes and points are in pixels of that."""
    with torch.autocast(found.features.device.type, enabled=False):
        return READINGS[found.spec.read][1](found, sizes)
