"""Answers about one picture as plain numbers and names, for JSON."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from torch import Tensor

DIGITS = 4


@dataclass(frozen=True)
class Shown:
    """The answer of one task about one picture, in the form of `unified.answers.table.answers`, on the CPU."""

    task: str
    read: str  # as `QuerySpec.read`; "caption" and "labels" for tasks that match
    answer: dict[str, Any]
    names: Sequence[str] = ()  # of classes, points, attributes or labels
    skeleton: Sequence[tuple[int, int]] = ()  # pairs of points that a line joins

    def sure(self, threshold: float) -> list[int]:
        """The places of objects or points with a score of at least `threshold`, the best first."""
        scores: Tensor = self.answer["scores"]
        return [number for number in scores.argsort(descending=True).tolist() if scores[number] >= threshold]


def facts(shown: Shown, threshold: float) -> dict[str, Any]:
    """An answer as JSON holds it; masks are COCO's run lengths, and of other maps a few numbers are told."""
    return _FACTS[shown.read](shown, threshold)


def run_lengths(mask: Tensor) -> dict[str, Any]:
    """A mask (h, w) in the compressed form of COCO."""
    encoded = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def _plain(values: Tensor) -> Any:
    return np.round(values.double().numpy(), DIGITS).tolist()


def class_shares(shown: Shown) -> list[tuple[int, float]]:
    """The classes of a picture and the shares of its pixels, the largest first."""
    labels: Tensor = shown.answer["labels"]
    counts = labels.flatten().bincount(minlength=len(shown.names))
    order = counts.argsort(descending=True, stable=True).tolist()
    return [(number, float(counts[number]) / labels.numel()) for number in order if counts[number]]


def _classes(shown: Shown, _: float) -> dict[str, Any]:
    labels = shown.answer["labels"]
    return {
        "classes": [
            {"label": shown.names[number], "share": round(share, DIGITS), "mask": run_lengths(labels == number)}
            for number, share in class_shares(shown)
        ]
    }


def _objects(shown: Shown, threshold: float) -> dict[str, Any]:
    found, answer = [], shown.answer
    for number in shown.sure(threshold):
        item = {
            "label": shown.names[int(answer["labels"][number])],
            "score": _plain(answer["scores"][number]),
            "box": _plain(answer["boxes"][number]),
        }
        found.append(item | ({"mask": run_lengths(answer["masks"][number])} if "masks" in answer else {}))
    return {"objects": found}


def _points(shown: Shown, _: float) -> dict[str, Any]:
    rows = zip(shown.names, shown.answer["points"], shown.answer["scores"], strict=True)
    return {"points": {name: [*_plain(point), _plain(score)] for name, point, score in rows}}


def _presence(shown: Shown, _: float) -> dict[str, Any]:
    return {"presence": dict(zip(shown.names, _plain(shown.answer["presence"]), strict=True))}


def _spread(key: str) -> Callable[[Shown, float], dict[str, Any]]:
    def told(shown: Shown, _: float) -> dict[str, Any]:
        values = shown.answer[key].flatten()
        return {"least": _plain(values.min()), "median": _plain(values.median()), "most": _plain(values.max())}

    return told


def _size(shown: Shown, _: float) -> dict[str, Any]:
    height, width = shown.answer["image"].shape[1:]
    return {"height": height, "width": width}


def _labels(shown: Shown, _: float) -> dict[str, Any]:
    best = zip(shown.answer["labels"].tolist(), shown.answer["scores"], strict=True)
    return {"labels": [{"label": shown.names[number], "score": _plain(score)} for number, score in best]}


_FACTS: dict[str, Callable[[Shown, float], dict[str, Any]]] = {
    "classes": _classes,
    "boxes": _objects,
    "masks": _objects,
    "points": _points,
    "places": _points,
    "presence": _presence,
    "bins": _spread("values"),
    "share": _spread("share"),
    "directions": lambda shown, _: {"mean": _plain(shown.answer["vectors"].mean(dim=(1, 2)))},
    "pixels": _size,
    "density": lambda shown, _: {"count": round(shown.answer["count"], DIGITS)},
    "identity": lambda shown, _: {"features": _plain(shown.answer["features"])},
    "caption": lambda shown, _: {"caption": shown.answer["caption"]},
    "labels": _labels,
}
