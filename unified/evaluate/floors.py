"""Floors: answers that no look at the picture is needed for, fitted on training data, in the form of a model's answers.

A number beside a floor says what was learned: the most frequent class at each place, the mean depth, the mean point.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unified.answers import map as maps
from unified.evaluate.map_scores import Answer
from unified.evaluate.truths import Truth
from unified.query_spec import QuerySpec
from unified.types import IGNORE

GRID = (32, 32)
"""Places of a picture of any size at which maps are averaged."""
TINY = 8
"""Height and width of a copy that stands for a picture."""
Floor = Callable[[Truth], Answer]


def _on_grid(of: Tensor) -> Tensor:
    """Values (c, h, w) at the places of the grid, of the nearest pixels."""
    rows, columns = (((torch.arange(n) + 0.5) * side / n).long() for n, side in zip(GRID, of.shape[-2:], strict=True))
    return of[:, rows[:, None], columns]


def _majority(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Floor:  # noqa: ARG001
    counts = torch.zeros(len(names), *GRID)
    for truth in truths:
        assert truth.scene.labels is not None
        labels = _on_grid(truth.scene.labels[None])[0]
        counts += F.one_hot(labels.masked_fill(labels == IGNORE, len(names)), len(names) + 1)[..., :-1].movedim(-1, 0)
    everywhere = counts.sum(dim=(1, 2), keepdim=True)
    best = (counts + 1e-6 * everywhere / everywhere.sum().clamp(min=1)).argmax(0)  # where nothing is known: overall
    return lambda truth: {"labels": F.interpolate(best[None, None].float(), truth.size, mode="nearest")[0, 0].long()}


def _size(of: Tensor) -> tuple[int, int]:
    return of.shape[-2], of.shape[-1]


def _mean_map(truths: Iterable[Truth]) -> Tensor:
    """The mean of known values at each place; where there are none, the mean of all."""
    total, count = torch.zeros(()), torch.zeros(())
    for truth in truths:
        assert truth.scene.values is not None
        assert truth.scene.valid is not None
        valid = _on_grid(truth.scene.valid).float()
        total = total + torch.where(valid > 0, _on_grid(truth.scene.values), 0.0)
        count = count + valid
    mean = total.sum(dim=(1, 2), keepdim=True) / count.sum().clamp(min=1)
    return torch.where(count > 0, total / count.clamp(min=1), mean)


def _mean(name: str) -> Callable[..., Floor]:
    def fit(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Floor:  # noqa: ARG001
        mean = _mean_map(truths)

        def answer(truth: Truth) -> Answer:
            if name == "image":  # which may be larger than the picture
                assert truth.scene.values is not None
                return {name: maps.resized(mean[None], _size(truth.scene.values))[0]}
            large = maps.resized(mean[None], truth.size)[0]
            return {name: F.normalize(large, dim=0) if name == "vectors" else large[0]}

        return answer

    return fit


def _mean_count(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Floor:  # noqa: ARG001
    counts = [len(truth.scene.boxes) for truth in truths if truth.scene.boxes is not None]
    mean = sum(counts) / max(len(counts), 1)
    return lambda _: {"count": mean}


def _mean_points(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Floor:  # noqa: ARG001
    total, count, pictures = torch.zeros(len(names), 2), torch.zeros(len(names)), 0
    for truth in truths:
        points = truth.scene.points
        assert points is not None
        known = points[:, 2] > 0
        total += torch.where(known[:, None], points[:, :2] / points.new_tensor([truth.size[1], truth.size[0]]), 0.0)
        count, pictures = count + known, pictures + 1
    mean = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], 0.5)
    scores = count / max(pictures, 1)
    return lambda truth: {"points": mean * mean.new_tensor([truth.size[1], truth.size[0]]), "scores": scores}


def _prior(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Floor:  # noqa: ARG001
    there = torch.stack([truth.presence for truth in truths if truth.presence is not None])
    known = there >= 0
    share = (there * known).sum(0) / known.sum(0).clamp(min=1)
    return lambda _: {"presence": share}


def _mean_boxes(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Floor:
    """The mean box of each class, as likely as pictures have the class."""
    boxes, count, having, pictures = torch.zeros(len(names), 4), torch.zeros(len(names)), torch.zeros(len(names)), 0
    for truth in truths:
        assert truth.objects is not None
        single = ~truth.objects.crowd
        labels, height, width = truth.objects.labels[single], *truth.size
        boxes.index_add_(0, labels, truth.objects.boxes[single] / boxes.new_tensor([width, height, width, height]))
        ones = torch.bincount(labels, minlength=len(names)).float()
        count, having, pictures = count + ones, having + (ones > 0), pictures + 1
    mean, labels = boxes / count.clamp(min=1)[:, None], torch.arange(len(names))

    def answer(truth: Truth) -> Answer:
        height, width = truth.size
        here = mean * mean.new_tensor([width, height, width, height])
        found: Answer = {"boxes": here, "labels": labels, "scores": having / max(pictures, 1)}
        if spec.read == "masks":
            y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
            x0, y0, x1, y1 = here.T[..., None, None]
            found["masks"] = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        return found

    return answer


FLOORS: dict[str, tuple[str, Callable[..., Floor]]] = {
    "classes": ("most frequent at each place", _majority),
    "bins": ("mean at each place", _mean("values")),
    "directions": ("mean at each place", _mean("vectors")),
    "share": ("mean at each place", _mean("share")),
    "pixels": ("mean at each place", _mean("image")),
    "density": ("mean count", _mean_count),
    "points": ("mean points", _mean_points),
    "places": ("mean points", _mean_points),
    "boxes": ("mean box of each class", _mean_boxes),
    "masks": ("mean box of each class", _mean_boxes),
    "presence": ("share of each", _prior),
}
"""How a floor is called, and how it is fitted to truths of training data, a spec and names; by what is read."""


def _input_itself(truth: Truth) -> Answer:
    """The picture as it is shown, at the size of the answer."""
    assert truth.scene.values is not None
    size, shown = truth.scene.values.shape[1:], truth.picture[None].float() / 255
    if tuple(shown.shape[2:]) != tuple(size):
        shown = F.interpolate(shown, tuple(size), mode="bicubic")
    return {"image": shown[0].clamp(0, 1)}


def _tiny_copy(truth: Truth) -> Answer:
    tiny = F.interpolate(truth.picture[None].contiguous().float(), (TINY, TINY), mode="bilinear", antialias=True)
    return {"features": F.normalize((tiny - tiny.mean()).flatten(), dim=0)}


UNFITTED: dict[str, tuple[str, Floor]] = {
    "pixels": ("input itself", _input_itself),
    "identity": (f"{TINY} × {TINY} pixels", _tiny_copy),
}
"""Floors where there is no training data, and of what has no others."""


def find_floor(
    spec: QuerySpec, names: Sequence[str], training: Callable[[], Iterable[Truth]] | None
) -> tuple[str, Any] | None:
    """The name and the answers of the floor of what is read; None without the `training` data that it needs."""
    if training is None or spec.read not in FLOORS:
        return UNFITTED.get(spec.read)
    name, fit = FLOORS[spec.read]
    return name, fit(training(), spec, names)
