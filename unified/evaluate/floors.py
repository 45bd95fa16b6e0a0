"""Floors: answers that nothing learned is needed for, in the form of a model's answers.

A number beside a floor says what was learned: more than the most frequent class at each place, the mean depth, the
mean point, which need no look at the picture; and more than to remember the training picture that is most like it.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from unified.answers import map as maps
from unified.evaluate.map_scores import Answer
from unified.evaluate.nearest import NEAREST, SIDE, Copies, nearest_picture, small_copy
from unified.evaluate.truths import Truth
from unified.query_spec import QuerySpec
from unified.types import IGNORE

GRID = (32, 32)
"""Places of a picture of any size at which maps are averaged."""
Floor = Callable[[UInt8[Tensor, "3 h w"]], Answer]
"""Answers about a picture; what is right of it is not told."""
Floors = dict[str, Floor]
"""By what they are called."""


def _on_grid(of: Tensor) -> Tensor:
    """Values (c, h, w) at the places of the grid, of the nearest pixels."""
    rows, columns = (((torch.arange(n) + 0.5) * side / n).long() for n, side in zip(GRID, of.shape[-2:], strict=True))
    return of[:, rows[:, None], columns]


def _majority(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Floors:  # noqa: ARG001
    counts = torch.zeros(len(names), *GRID)
    for truth in truths:
        assert truth.scene.labels is not None
        labels = _on_grid(truth.scene.labels[None])[0]
        counts += F.one_hot(labels.masked_fill(labels == IGNORE, len(names)), len(names) + 1)[..., :-1].movedim(-1, 0)
    everywhere = counts.sum(dim=(1, 2), keepdim=True)
    best = (counts + 1e-6 * everywhere / everywhere.sum().clamp(min=1)).argmax(0)  # where nothing is known: overall

    def answer(picture: Tensor) -> Answer:
        return {"labels": F.interpolate(best[None, None].float(), _size(picture), mode="nearest")[0, 0].long()}

    return {"most frequent at each place": answer}


def _size(of: Tensor) -> tuple[int, int]:
    return of.shape[-2], of.shape[-1]


def _whole(of: Tensor) -> Tensor:
    """Width and height."""
    return torch.tensor([of.shape[-1], of.shape[-2]])


def _mean_maps(truths: Iterable[Truth]) -> tuple[Tensor, Tensor]:
    """The mean of known values at each place, where there are none that of all; and that of all at each place."""
    total, count = torch.zeros(()), torch.zeros(())
    for truth in truths:
        assert truth.scene.values is not None
        assert truth.scene.valid is not None
        valid = _on_grid(truth.scene.valid).float()
        total = total + torch.where(valid > 0, _on_grid(truth.scene.values), 0.0)
        count = count + valid
    mean = total.sum(dim=(1, 2), keepdim=True) / count.sum().clamp(min=1)
    return torch.where(count > 0, total / count.clamp(min=1), mean), mean.expand(total.shape)


def _means(name: str) -> Callable[..., Floors]:
    """Both: with few pictures, one number for all places may be the better answer."""

    def fit(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Floors:  # noqa: ARG001
        def floor(mean: Tensor) -> Floor:
            def answer(picture: Tensor) -> Answer:
                height, width = _size(picture)
                large = maps.resized(mean[None], (spec.scale * height, spec.scale * width))[0]
                if name == "image":
                    return {name: large}
                return {name: F.normalize(large, dim=0) if name == "vectors" else large[0]}

            return answer

        each, of_all = _mean_maps(truths)
        return {"mean at each place": floor(each), "mean of all": floor(of_all)}

    return fit


def _mean_count(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Floors:  # noqa: ARG001
    counts = [len(truth.scene.boxes) for truth in truths if truth.scene.boxes is not None]
    mean = sum(counts) / max(len(counts), 1)
    return {"mean count": lambda _: {"count": mean}}


def _mean_points(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Floors:  # noqa: ARG001
    total, count, pictures = torch.zeros(len(names), 2), torch.zeros(len(names)), 0
    for truth in truths:
        points = truth.scene.points
        assert points is not None
        known = points[:, 2] > 0
        total += torch.where(known[:, None], points[:, :2] / _whole(truth.picture), 0.0)
        count, pictures = count + known, pictures + 1
    mean = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], 0.5)
    scores = count / max(pictures, 1)
    return {"mean points": lambda picture: {"points": mean * _whole(picture), "scores": scores}}


def _prior(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Floors:  # noqa: ARG001
    there = torch.stack([truth.presence for truth in truths if truth.presence is not None])
    known = there >= 0
    share = (there * known).sum(0) / known.sum(0).clamp(min=1)
    return {"share of each": lambda _: {"presence": share}}


def _mean_boxes(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Floors:
    """The mean box of each class, as likely as pictures have the class."""
    boxes, count, having, pictures = torch.zeros(len(names), 4), torch.zeros(len(names)), torch.zeros(len(names)), 0
    for truth in truths:
        assert truth.objects is not None
        single = ~truth.objects.crowd
        labels = truth.objects.labels[single]
        boxes.index_add_(0, labels, truth.objects.boxes[single] / _whole(truth.picture).repeat(2))
        ones = torch.bincount(labels, minlength=len(names)).float()
        count, having, pictures = count + ones, having + (ones > 0), pictures + 1
    mean, labels = boxes / count.clamp(min=1)[:, None], torch.arange(len(names))

    def answer(picture: Tensor) -> Answer:
        height, width = _size(picture)
        here = mean * _whole(picture).repeat(2)
        found: Answer = {"boxes": here, "labels": labels, "scores": having / max(pictures, 1)}
        if spec.read == "masks":
            y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
            x0, y0, x1, y1 = here.T[..., None, None]
            found["masks"] = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        return found

    return {"mean box of each class": answer}


FLOORS: dict[str, Callable[..., Floors]] = {
    "classes": _majority,
    "bins": _means("values"),
    "directions": _means("vectors"),
    "share": _means("share"),
    "pixels": _means("image"),
    "density": _mean_count,
    "points": _mean_points,
    "places": _mean_points,
    "boxes": _mean_boxes,
    "masks": _mean_boxes,
    "presence": _prior,
}
"""How floors are fitted to truths of training data, a spec and names; by what is read."""


def _input_itself(spec: QuerySpec) -> Floor:
    """The picture as it is shown, at the size of the answer."""

    def answer(picture: Tensor) -> Answer:
        shown = picture[None].float() / 255
        if spec.scale > 1:
            height, width = _size(picture)
            shown = F.interpolate(shown, (spec.scale * height, spec.scale * width), mode="bicubic")
        return {"image": shown[0].clamp(0, 1)}

    return answer


def _copy(spec: QuerySpec) -> Floor:  # noqa: ARG001
    def answer(picture: Tensor) -> Answer:
        copy = small_copy(picture).float()
        return {"features": F.normalize(copy - copy.mean(), dim=0)}

    return answer


UNFITTED: dict[str, tuple[str, Callable[[QuerySpec], Floor]]] = {
    "pixels": ("input itself", _input_itself),
    "identity": (f"{SIDE} × {SIDE} pixels", _copy),
}
"""Floors that need no training data. That of identities is the nearest picture already."""


def find_floors(spec: QuerySpec, names: Sequence[str], training: Sequence[Truth] | None) -> Floors:
    """The floors of what is read.

    `training`: what is right of training pictures, each read when it is asked for: all once in their order, and those
    that are nearest to a picture again. Without it there are only the floors that need none.
    """
    found: Floors = {}
    if spec.read in UNFITTED:
        name, make = UNFITTED[spec.read]
        found[name] = make(spec)
    if training is not None and spec.read in FLOORS:
        copies = Copies()
        fitted = FLOORS[spec.read](copies.of_all(training), spec, names)
        found |= fitted
        found[NEAREST] = nearest_picture(spec.read, training, copies, next(iter(fitted.values())))
    return found
