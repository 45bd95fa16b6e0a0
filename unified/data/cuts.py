"""Where a cut lies in its image, and the bodies there that have no cut of their own: what COCO's OKS wants to know."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unified.core.errors import DataError, quoted
from unified.core.types import Sample
from unified.data.samples.annotations import FACTS
from unified.data.samples.decode import place

NAME = "cut"  # of the fact


@dataclass(frozen=True)
class Beside:
    """A body without a labelled joint, or a crowd, in pixels of the image."""

    box: tuple[float, float, float, float]  # x0, y0, x1, y1
    area: float
    crowd: bool


@dataclass(frozen=True)
class Cut:
    """A cut is a part of an image; cuts of one image have the same name for it."""

    image: str
    left: float
    top: float
    beside: tuple[Beside, ...] = ()


def read_cut(sample: Sample) -> Cut | None:
    """The cut that a sample is, or None of a whole image. Raises `DataError` naming shard, key and column."""
    found = sample[FACTS].get(NAME)
    if found is None:
        return None
    try:
        beside = tuple(Beside(_box(one["box"]), float(one["area"]), bool(one["crowd"])) for one in found["beside"])
        return Cut(str(found["image"]), float(found["left"]), float(found["top"]), beside)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{place(sample)}: column {FACTS!r}: {NAME}: expected image, left, top and beside, got {quoted(found)}. "
            "Hint: build the shards again"
        ) from error


def write_cut(image: str, left: int, top: int, beside: tuple[Beside, ...]) -> dict[str, Any]:
    """The same as a fact."""
    bodies: list[Mapping[str, Any]] = [{"box": [*one.box], "area": one.area, "crowd": one.crowd} for one in beside]
    return {"image": image, "left": left, "top": top, "beside": bodies}


def _box(values: Any) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = map(float, values)
    return x0, y0, x1, y1
