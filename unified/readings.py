"""What each kind of answer reads from task queries: its loss in training, and the answer itself.

A reading knows what its queries stand for, never which task they belong to. Losses are one number a sample, the mean
over the layers that learn; scores say for people how well the last layer does, from 0 to 1.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unified.answers import boxes as box
from unified.answers import map as maps
from unified.answers import masks, objects, presence, regress
from unified.dist import gather_rows, rank, world_size
from unified.nn.queries import RARE, grid_points
from unified.queries import QueryStates
from unified.types import IGNORE

Target = Mapping[str, Tensor]
Size = tuple[int, int]

MASKS = masks.MaskWeights(presence=0.25, mask=5.0, dice=5.0)  # UniHCP
OBJECTS = regress.SetWeights(classes=2.0, box=5.0, overlap=2.0, mask=5.0, dice=5.0)  # UniHCP and Mask2Former
PRESENCE_OF_POINTS = 0.001  # UniHCP
SIGMA = 1.5
"""Of the heat maps of points, in places of the maps."""
HEAT = 100.0
"""What a heat map counts: its squares are small numbers."""
COUNTED = (1.0, 0.5)
"""What map and count of a density count."""
POINTS = 112
"""Masks are compared at a grid of at most so many points along each axis: as many points as Mask2Former draws."""
NEAR = 0.1
"""Of the picture's sides: how near a point must be to count as found."""
MOST = 100
"""Detections of a picture."""


def _grid(target: Tensor) -> Float[Tensor, "1 p 2"]:
    rows, columns = (min(side, POINTS) for side in target.shape[-2:])
    return grid_points(rows, columns, target.device)[None]


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean(0)


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
    labels, points = target["labels"], _grid(target["labels"])
    if found.spec.softmax:
        loss = _mean([maps.class_loss(found.maps(states), labels) for states in found.states])
    else:
        loss = _mean(
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
        return where + PRESENCE_OF_POINTS * presence.presence_loss(found.presence(states), seen)

    loss = _mean([of_layer(states) for states in found.states])
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
    centres = maps.bin_centres(found.spec.queries, low, high, log=True).to(states.device)
    return maps.expected_value(found.maps(states), centres, size)


def _bins_loss(found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
    value, valid = target["map"], target["valid"]
    loss = _mean([maps.sig_loss(_values(found, s, _size(value)), value, valid, warm=True) for s in found.states])
    with torch.no_grad():
        ours, theirs = _values(found, found.states[-1], _size(value)), torch.where(valid, value, 1.0)
        right = torch.maximum(ours / theirs, theirs / ours) < 1.25
    return loss, maps.mean_of_valid(right.float(), valid)


def _bins(found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    return [{"values": _values(found.row(row), found.states[-1][row : row + 1], size)[0, 0]}
            for row, size in enumerate(sizes)]  # fmt: skip


def _directions_loss(found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
    vectors, valid = target["map"], target["valid"]
    loss = _mean([maps.direction_loss(found.maps(s), vectors, valid) for s in found.states])
    with torch.no_grad():
        ours = maps.directions(found.maps(found.states[-1]), _size(vectors))
        right = (ours * F.normalize(vectors, dim=1)).sum(1, keepdim=True) > 3**0.5 / 2  # within 30 degrees
    return loss, maps.mean_of_valid(right.float(), valid)


def _directions(found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    of_all = found.maps(found.states[-1])
    return [{"vectors": maps.directions(of_all[row : row + 1], size)[0]} for row, size in enumerate(sizes)]


def _share_loss(found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
    share, valid = target["map"], target["valid"]
    loss = _mean([maps.edge_loss(found.maps(s), share, valid) for s in found.states])
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
    loss = _mean([maps.pixel_loss(_picture(found, s), picture, valid, 1e-3) for s in found.states])
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
    return _mean(losses), score


def _density(found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    of_all = maps.density(_counting_maps(found, found.states[-1]))
    return [{"density": of[0], "count": float(of.sum())} for of, _ in zip(of_all, sizes, strict=True)]


# objects


def object_queries(found: QueryStates, states: Tensor) -> regress.ObjectQueries:
    """What the queries say of objects in the states of one layer."""
    assert found.anchors is not None
    boxes = found.boxes(states, found.anchors)
    logits = found.maps(states) if found.spec.read == "masks" else None
    if logits is not None and found.baseline.inside is not None:  # a mask begins as its box, and leaves that alone
        logits = logits + found.baseline.inside * box.inwards(boxes.detach(), _size(logits))
    return regress.ObjectQueries(found.class_logits(states), boxes, logits)


def _objects_loss(found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
    there = regress.Objects(target["labels"], target["boxes"], target.get("masks"))
    points = _grid(there.masks) if there.masks is not None else None
    of_layers = [object_queries(found, states) for states in found.states]
    loss = _mean([regress.set_loss(queries, there, OBJECTS, points) for queries in of_layers])
    with torch.no_grad():
        score = _found_objects(of_layers[-1], there)
    return loss, score


def _found_objects(queries: regress.ObjectQueries, there: regress.Objects) -> Float[Tensor, "b"]:
    """The share of objects that one of the likeliest detections, as many as there are objects, has with IoU 0.5."""
    assert queries.boxes is not None
    assert there.boxes is not None
    scores = []
    for classes, boxes, labels, right in zip(queries.classes, queries.boxes, there.labels, there.boxes, strict=True):
        real = labels != IGNORE
        count = int(real.sum())
        best = objects.detections(classes[None], max(count, 1))
        ours = box.corners(boxes[best.queries[0]])
        same = best.labels[0][:, None] == labels[real][None]
        overlap = box.overlap(ours[:, None], box.corners(right[real])[None])[0] * same
        scores.append((overlap.amax(0) > 0.5).float().mean() if count else overlap.new_ones(()))
    return torch.stack(scores)


def _boxes(found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    queries = object_queries(found, found.states[-1])
    assert queries.boxes is not None
    best = objects.detections(queries.classes, MOST)
    corners = objects.boxes_of(best.queries, queries.boxes)
    answers = []
    for row, (height, width) in enumerate(sizes):
        scaled = corners[row] * corners.new_tensor([width, height, width, height])
        answer = {"boxes": scaled, "labels": best.labels[row], "scores": best.scores[row]}
        if queries.maps is not None:
            only = slice(row, row + 1)
            inside, sure = objects.masks_of(best.queries[only], queries.maps[only], (height, width))
            answer |= {"masks": inside[0], "scores": best.scores[row] * sure[0]}
        answers.append(answer)
    return answers


# one answer a query


def _presence_loss(found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
    there = target["presence"]
    ratio = there.new_tensor(found.spec.positives, dtype=torch.float32) if found.spec.positives else None
    loss = _mean([presence.presence_loss(found.presence(s), there, ratio) for s in found.states])
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
    loss = _mean([regress.point_loss(_places(found, states), points) for states in found.states])
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
    apart = regress.triplet_loss(features, who, gather_rows(features), everyone, own)
    return regress.identity_loss(logits, who) + apart, (logits.argmax(1) == who).float()


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
    "boxes": (_objects_loss, _boxes),
    "masks": (_objects_loss, _boxes),
    "presence": (_presence_loss, _presence),
    "places": (_direct_points_loss, _direct_points),
    "identity": (_identity_loss, _identity),
}
"""The loss and the answer of what `Map.map` and `Regress.regress` name."""


def loss_and_score(found: QueryStates, target: Target) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """The loss of each sample, and for people how well it was answered, from 0 to 1."""
    with torch.autocast(found.features.device.type, enabled=False):
        return READINGS[found.spec.read][0](found, target)


@torch.no_grad()
def answers(found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
    """The answer for each sample, for a picture of its (height, width); boxes and points are in pixels of that."""
    with torch.autocast(found.features.device.type, enabled=False):
        return READINGS[found.spec.read][1](found, sizes)
