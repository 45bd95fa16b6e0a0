"""Objects and keypoints in the form of COCO results."""

from collections.abc import Sequence
from typing import Any

from unified.core.errors import UserError
from unified.reports.prediction.drawing import Coco, Known, Prediction
from unified.reports.prediction.facts import object_facts, point_facts


def _category(found: Prediction, known: Known | None, name: str) -> int:
    if known is None:
        return list(found.names).index(name) + 1
    if name not in known.categories:
        raise UserError(
            f"--coco-annotations: expected the categories of task {found.task!r}, got none named {name!r}. Hint: "
            "leave it out to number them from 1"
        )
    return known.categories[name]


def _objects(found: Prediction, known: Known | None, threshold: float) -> list[dict[str, Any]]:
    rows = []
    for one in object_facts(found, threshold)["objects"]:
        x0, y0, x1, y1 = one["box"]
        # `loadRes` takes area and box from a mask only where no box stands beside it.
        place = {"segmentation": one["mask"]} if "mask" in one else {"bbox": [x0, y0, x1 - x0, y1 - y0]}
        rows.append({"category_id": _category(found, known, one["label"]), **place, "score": one["score"]})
    return rows


def _bodies(found: Prediction, known: Known | None, _: float) -> list[dict[str, Any]]:
    """One body an image: all of its keypoints, whatever their scores, and the mean of these."""
    points = point_facts(found, 0.0)["points"]
    body, names = _body(known, found.names)
    listed = [points.get(name, [0.0, 0.0, 0.0]) for name in names]
    numbers = [value for x, y, score in listed for value in (x, y, 2 if score > 0 else 0)]
    score = sum(score for *_, score in points.values()) / max(len(points), 1)
    category = 1 if known is None else known.categories[body]
    return [{"category_id": category, "keypoints": numbers, "score": round(score, 4)}]


def _body(known: Known | None, names: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The category of a body with these keypoints, and their order in it."""
    if known is None:
        return "body", names
    for category, joints in known.joints.items():
        if set(names) <= set(joints):
            return category, joints
    raise UserError(
        f"--coco-annotations: expected a category with the keypoints {', '.join(names)}, got none. Hint: leave it out"
    )


def _classes(found: Prediction) -> list[dict[str, Any]]:
    return [{"id": number + 1, "name": name} for number, name in enumerate(found.names)]


def _skeleton(found: Prediction) -> list[dict[str, Any]]:
    bones = [[a + 1, b + 1] for a, b in (() if found.spec is None else found.spec.skeleton)]
    return [{"id": 1, "name": "body", "keypoints": list(found.names), "skeleton": bones}]


OBJECTS = Coco(_objects, _classes)
BODIES = Coco(_bodies, _skeleton)
