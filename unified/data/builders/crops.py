"""One sample an object, cut out with a margin, for joints that are asked for body by body (top-down)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from unified.data.builders.annotations import DIGITS, png
from unified.data.builders.sources import BadSampleError, Item
from unified.data.cuts import Beside, write_cut
from unified.data.samples.annotations import ANNOTATION, measure_area
from unified.modalities.image.files import decode_image
from unified.modalities.image.formats import IMAGES

MARGIN = 1.25
"""Sides of a cut, in those of the object's box, as is usual for poses."""


def crops(item: Item, label: str) -> list[Item]:
    """The objects of a class that have joints, each as an item of its own; what cannot be read stays as it is.

    Crowds and bodies without a labelled joint are no items: the others of their image tell of them.
    """
    try:
        found = item.load()["json"].get("objects", ())
    except BadSampleError:
        return [item]  # packing tells what is wrong with it
    bodies = [(n, known) for n, known in enumerate(found) if known["label"] == label and "points" in known]
    chosen = [n for n, known in bodies if known["points"] and not known["crowd"]]
    beside = tuple(
        Beside(tuple(known["box"]), _area(known)[0], known["crowd"]) for n, known in bodies if n not in chosen
    )
    return [Item(f"{item.key}-{n}", f"{item.name}, object {n}", partial(_crop, item, n, beside)) for n in chosen]


def _crop(item: Item, number: int, beside: tuple[Beside, ...]) -> dict[str, Any]:
    columns = item.load()
    known = columns["json"]["objects"][number]
    picture = decode_image(next(columns[name] for name in IMAGES if name in columns))
    height, width = picture.shape[1:]
    left, top, right, bottom = _enlarged(known["box"], height, width)
    part = picture[:, top:bottom, left:right].permute(1, 2, 0).numpy()
    inside = {n: p for n, p in known["points"].items() if left <= p[0] <= right and top <= p[1] <= bottom}
    facts = {
        "width": right - left,
        "height": bottom - top,
        "points": _moved(inside, left, top),
        "objects": [_body(known, left, top)],
        "cut": write_cut(item.key, left, top, beside),
    }
    return {"png": png(part), "json": facts}


def _body(known: Mapping[str, Any], left: int, top: int) -> dict[str, Any]:
    """The object as the cut shows it: with all its joints, also those beyond the cut, which OKS counts."""
    area, source = _area(known)
    x0, y0, x1, y1 = known["box"]
    return {
        "label": known["label"],
        "box": [round(value, DIGITS) for value in (x0 - left, y0 - top, x1 - left, y1 - top)],
        "crowd": known["crowd"],
        "area": area,
        **({} if source == ANNOTATION else {"area_source": source}),
        "points": _moved(known["points"], left, top),
    }


def _area(known: Mapping[str, Any]) -> tuple[float, str]:
    return measure_area(known.get("area"), known.get("mask"), known["box"])


def _enlarged(box: list[float], height: int, width: int) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = box
    across, down = (x1 - x0) * (MARGIN - 1) / 2, (y1 - y0) * (MARGIN - 1) / 2
    left, top = max(int(x0 - across), 0), max(int(y0 - down), 0)
    return left, top, min(max(round(x1 + across), left + 1), width), min(max(round(y1 + down), top + 1), height)


def _moved(points: Mapping[str, list[float]], left: int, top: int) -> dict[str, list[float]]:
    return {name: [round(x - left, DIGITS), round(y - top, DIGITS), seen] for name, (x, y, seen) in points.items()}
