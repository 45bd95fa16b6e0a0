"""Answers about one image as plain numbers and names, for JSON.

Masks are COCO's run lengths, and of other maps a few numbers are told.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from torch import Tensor

from unified.reports.prediction.drawing import Prediction

DIGITS = 4


def run_lengths(mask: Tensor) -> dict[str, Any]:
    """A mask (h, w) in the compressed form of COCO."""
    encoded = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def plain(values: Tensor) -> Any:
    """Return rounded numbers."""
    return np.round(values.double().numpy(), DIGITS).tolist()


def class_shares(found: Prediction) -> list[tuple[int, float]]:
    """The classes of a picture and the shares of its pixels, the largest first."""
    labels: Tensor = found.answer["labels"]
    counts = labels.flatten().bincount(minlength=len(found.names))
    order = counts.argsort(descending=True, stable=True).tolist()
    return [(number, float(counts[number]) / labels.numel()) for number in order if counts[number]]


def class_facts(found: Prediction, _: float) -> dict[str, Any]:
    """The classes with their shares and masks."""
    labels = found.answer["labels"]
    return {
        "classes": [
            {"label": found.names[number], "share": round(share, DIGITS), "mask": run_lengths(labels == number)}
            for number, share in class_shares(found)
        ]
    }


def object_facts(found: Prediction, threshold: float) -> dict[str, Any]:
    """Label, score, box and mask of each object."""
    objects, answer = [], found.answer
    for number in found.sure(threshold):
        item = {
            "label": found.names[int(answer["labels"][number])],
            "score": plain(answer["scores"][number]),
            "box": plain(answer["boxes"][number]),
        }
        objects.append(item | ({"mask": run_lengths(answer["masks"][number])} if "masks" in answer else {}))
    return {"objects": objects}


def point_facts(found: Prediction, _: float) -> dict[str, Any]:
    """Place and score of each point."""
    rows = zip(found.names, found.answer["points"], found.answer["scores"], strict=True)
    return {"points": {name: [*plain(point), plain(score)] for name, point, score in rows}}


def attribute_facts(found: Prediction, _: float) -> dict[str, Any]:
    """How likely each attribute is."""
    return {"presence": dict(zip(found.names, plain(found.answer["presence"]), strict=True))}


def spread_facts(key: str) -> Callable[[Prediction, float], dict[str, Any]]:
    """Return what tells the range of a map; `key`: of the map in an answer."""

    def told(found: Prediction, _: float) -> dict[str, Any]:
        values = found.answer[key].flatten()
        return {"least": plain(values.min()), "median": plain(values.median()), "most": plain(values.max())}

    return told


def size_facts(found: Prediction, _: float) -> dict[str, Any]:
    """Height and width of an image."""
    height, width = found.answer["image"].shape[1:]
    return {"height": height, "width": width}


def label_facts(found: Prediction, _: float) -> dict[str, Any]:
    """The most probable labels."""
    best = zip(found.answer["labels"].tolist(), found.answer["scores"], strict=True)
    return {"labels": [{"label": found.names[number], "score": plain(score)} for number, score in best]}
