"""What a decoded sample says of its picture, as arrays: objects, segments, joints, attributes and maps.

The columns are those of docs/data-format.md; all functions are pure and raise `DataError` naming shard, key and column.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco_mask
from torch import Tensor

from unified.core.errors import DataError, nearest, quoted
from unified.core.types import IGNORE, Sample
from unified.data.samples.decode import MAPS, place, using
from unified.data.samples.run_lengths import lengths_problem
from unified.modalities.image.frames import PIXEL_LIMIT

FACTS = "json"  # the column with everything that is not a picture
ANNOTATIONS = {"objects", "segments", "points", "attributes"}
SLACK = 1.0  # pixels by which a box or a point may lie beyond the edge
UNKNOWN = -1.0
LARGEST = 1e9
"""Of a coordinate in pixels, or of an area; beyond 32-bit floating point a loss would be infinite."""
MASK_LIMIT = 1_000_000_000
"""Pixels of all masks of an image: 120 objects in one of 8 megapixels."""
ANNOTATION, MASK, BOX = "annotation", "mask", "box"
"""Where the area of an object comes from, the best first."""


@dataclass(frozen=True)
class Objects:
    """The objects of one picture; `masks` and `points` hold nothing for objects that have none.

    Areas that are not given are those of the masks, and those of the boxes where there is no mask either.
    """

    boxes: Float[Tensor, "n 4"]  # x0, y0, x1, y1 in pixels
    labels: Int[Tensor, "n"]
    crowd: Bool[Tensor, "n"]  # a region of many that were not told apart
    masks: tuple[Mapping[str, Any] | None, ...]  # run lengths; `decode_masks` makes pixels of them
    points: Float[Tensor, "n j 3"]  # x, y in pixels, and 0 unlabelled, 1 occluded, 2 visible
    area: Float[Tensor, "n"] = field(default=None, kw_only=True)  # type: ignore[assignment]  # in square pixels
    area_sources: tuple[str, ...] = field(default=(), kw_only=True)  # `ANNOTATION`, `MASK` or `BOX` of each object

    def __post_init__(self) -> None:
        given = [None] * len(self.boxes) if self.area is None else self.area.tolist()
        areas = [measure_area(*one) for one in zip(given, self.masks, self.boxes.tolist(), strict=True)]
        object.__setattr__(self, "area", torch.tensor([area for area, _ in areas], dtype=torch.float32))
        if not self.area_sources:
            object.__setattr__(self, "area_sources", tuple(source for _, source in areas))


@dataclass(frozen=True)
class Segments:
    """The regions that share out one picture: things one by one, and stuff."""

    labels: Int[Tensor, "n"]
    things: Bool[Tensor, "n"]
    masks: tuple[Mapping[str, Any], ...]


def image_size(sample: Sample) -> tuple[int, int]:
    """Height and width of the picture, as its facts say."""
    facts = _facts(sample)
    height, width = facts.get("height"), facts.get("width")
    if not (type(height) is int and type(width) is int and height > 0 and width > 0):
        raise _wrong(
            sample, f"width and height: expected whole numbers above 0, found {quoted(width)} and {quoted(height)}"
        )
    if height * width > PIXEL_LIMIT:
        raise _wrong(sample, f"width and height: expected at most {PIXEL_LIMIT:,} pixels, found {width:,}×{height:,}")
    return height, width


def objects(sample: Sample, classes: Mapping[str, int], joints: Sequence[str] = ()) -> Objects:
    """The objects, labelled by their places in `classes`; joints that an object does not name are unlabelled."""
    size, found = image_size(sample), _list(sample, "objects")
    boxes = [check_box(sample, item.get("box"), size) for item in found]
    masks = tuple(check_mask(sample, item["mask"], size) if item.get("mask") else None for item in found)
    areas = [_area(sample, *one) for one in zip(found, masks, boxes, strict=True)]
    return Objects(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(len(found), 4),
        labels=_labels(sample, found, classes),
        crowd=torch.tensor([bool(item.get("crowd")) for item in found], dtype=torch.bool),
        masks=masks,
        area=torch.tensor([area for area, _ in areas], dtype=torch.float32),
        area_sources=tuple(source for _, source in areas),
        points=torch.stack([_points(sample, _mapping_in(sample, item, "points"), joints) for item in found])
        if found
        else torch.zeros(0, len(joints), 3),
    )


def labels_of(sample: Sample, name: str) -> list[str]:
    """Return the labels of the objects or segments that are texts; raise `DataError` where there are no such facts."""
    return [item["label"] for item in _list(sample, name) if isinstance(item.get("label"), str)]


def measure_area(area: float | None, mask: Mapping[str, Any] | None, box: Sequence[float]) -> tuple[float, str]:
    """Return the area of an object and where it comes from.

    Args:
        area: What the annotation says, in square pixels, or None.
        mask: COCO's compressed run lengths, or None.
        box: x0, y0, x1, y1 in pixels.

    Returns:
        Square pixels, and `ANNOTATION`, `MASK` or `BOX`.
    """
    if area is not None:
        return float(area), ANNOTATION
    if mask is not None:
        return float(coco_mask.area(mask)), MASK
    x0, y0, x1, y1 = box
    return float((x1 - x0) * (y1 - y0)), BOX


def segments(sample: Sample, classes: Mapping[str, int]) -> Segments:
    """The regions of the picture, labelled by their places in `classes`."""
    size, found = image_size(sample), _list(sample, "segments")
    return Segments(
        labels=_labels(sample, found, classes),
        things=torch.tensor([bool(item.get("thing")) for item in found], dtype=torch.bool),
        masks=tuple(check_mask(sample, item.get("mask"), size) for item in found),
    )


def decode_masks(sample: Sample, masks: Sequence[Mapping[str, Any] | None]) -> Bool[Tensor, "n h w"]:
    """The pixels of masks of the sample's objects or segments; all False for an object without one."""
    size = image_size(sample)
    if len(masks) * math.prod(size) > MASK_LIMIT:
        raise _wrong(sample, f"masks: expected at most {MASK_LIMIT:,} pixels in all, found {len(masks)} of {size}")
    pixels = np.zeros((len(masks), *size), dtype=np.bool_)
    for number, mask in enumerate(masks):
        if mask is not None:
            try:
                pixels[number] = coco_mask.decode(mask)
            except ValueError as error:
                raise _wrong(sample, f"mask {number}: {error}") from error
    return torch.from_numpy(pixels)


def joints(sample: Sample, names: Sequence[str]) -> Float[Tensor, "j 3"]:
    """The joints of the one body in the picture: x, y in pixels, and 0 unlabelled, 1 occluded, 2 visible."""
    return _points(sample, _mapping(sample, "points"), names)


def presence(sample: Sample, names: Sequence[str]) -> Float[Tensor, "q"]:
    """Each attribute: 1, 0, or -1 where it is unknown or not mentioned."""
    found = _mapping(sample, "attributes")
    for name, value in found.items():
        if isinstance(value, bool | list | dict) or value not in (0, 1, -1):
            raise _wrong(sample, f"attribute {quoted(name)}: expected 1, 0 or -1 for unknown, found {quoted(value)}")
    return torch.tensor([float(found.get(name, UNKNOWN)) for name in names])


def identity(sample: Sample) -> str:
    """Who or what it is: equal for pictures of the same."""
    found = _facts(sample).get("identity")
    if not isinstance(found, str) or not found:
        raise _wrong(sample, f"identity: expected a text, found {quoted(found)}")
    return found


def class_map(sample: Sample, classes: int, column: str = "classes.png") -> Int[Tensor, "h w"]:
    """The class of each pixel, `IGNORE` where there is no label; `classes` is how many there are."""
    stored = _map(sample, column)
    none = torch.iinfo(stored.dtype).max
    labels = stored.to(torch.int64)
    labels = torch.where(labels == none, IGNORE, labels)
    highest = int(labels.max())
    if highest >= classes:
        raise _wrong(sample, f"class {highest} is beyond the list of {classes}; no label is {none}", column)
    return labels


def depth_map(sample: Sample, column: str = "depth.png") -> tuple[Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """Depth in metres, and where there is a reading."""
    unit: Any = _facts(sample).get("depth_unit")
    if not _numbers([unit], 1) or unit <= 0:
        raise _wrong(sample, f"depth_unit: expected metres a step of {column}, found {quoted(unit)}")
    depth = _map(sample, column).to(torch.float32)
    return depth * unit, depth > 0


def normal_map(sample: Sample, column: str = "normals.png") -> tuple[Float[Tensor, "3 h w"], Bool[Tensor, "h w"]]:
    """Unit normals in the camera's axes (x right, y down, z away), and where there is one."""
    stored = _value(sample, column)
    if not isinstance(stored, Tensor) or stored.shape[0] != 3:
        raise _wrong(sample, "expected a picture in RGB", column)
    _check_shape(sample, column, stored)
    vectors = stored.to(torch.float32) / 127.5 - 1
    valid = (stored != 0).any(0)
    return torch.nn.functional.normalize(vectors, dim=0) * valid, valid


def edge_map(sample: Sample, column: str = "edges.png") -> Float[Tensor, "h w"]:
    """The share of people who drew a boundary at each pixel, 0 to 1."""
    return _map(sample, column).to(torch.float32) / 255


def annotated(sample: Sample) -> bool:
    """Whether the sample is an annotated picture: it has a size, and annotations or a map."""
    facts = sample.get(FACTS)
    if not isinstance(facts, Mapping) or not {"width", "height"} <= set(facts):
        return False
    return bool(ANNOTATIONS & set(facts)) or any(".".join(name.split(".")[-2:]) in MAPS for name in sample)


def problems(sample: Sample, classes: Sequence[str] | None = None) -> Iterator[str]:
    """All that is wrong with the facts, masks and maps of a decoded sample; nothing where it is not annotated.

    Labels are checked where `classes` are given.
    """
    if not annotated(sample):
        return
    wrong = list(dict.fromkeys(_told(sample, _sizes(sample))))
    yield from wrong or _told(sample, _checks(sample, sample[FACTS], classes))  # masks are of a size that is so


def _told(sample: Sample, checks: Iterator[Callable[[], object]]) -> Iterator[str]:
    for check in checks:
        try:
            with using(sample):
                check()
        except DataError as error:
            yield str(error)


def _sizes(sample: Sample) -> Iterator[Callable[[], object]]:
    yield lambda: image_size(sample)
    for column, value in sample.items():
        last = ".".join(column.split(".")[-2:])
        if isinstance(value, Tensor) and ("." not in column or last in MAPS or last == "normals.png"):
            yield partial(_check_shape, sample, column, value)


def _checks(sample: Sample, facts: Mapping[str, Any], classes: Sequence[str] | None) -> Iterator[Callable[[], object]]:
    def labels(name: str) -> dict[str, int]:
        if classes is not None:
            return {label: place for place, label in enumerate(classes)}
        return {label: place for place, label in enumerate(labels_of(sample, name))}

    if "objects" in facts:
        yield lambda: decode_masks(sample, objects(sample, labels("objects")).masks)
    if "segments" in facts:
        yield lambda: decode_masks(sample, segments(sample, labels("segments")).masks)
    if "points" in facts:
        yield lambda: joints(sample, sorted(_mapping(sample, "points")))
    if "attributes" in facts:
        yield lambda: presence(sample, ())
    for column in sample if classes is not None else ():
        if ".".join(column.split(".")[-2:]) == "classes.png":
            yield partial(class_map, sample, len(classes or ()), column)


def check_box(sample: Sample, box: Any, size: tuple[int, int]) -> list[float]:
    """A box within the picture, cut where it is up to a pixel beyond it; raises `DataError` for any other."""
    wrong, clipped = clip_box(box, *size)
    if wrong:
        raise _wrong(sample, f"{wrong}: {quoted(box)}; expected [x0, y0, x1, y1] in an image of {size[1]}×{size[0]}")
    return clipped


def clip_box(box: Any, height: int, width: int) -> tuple[str, list[float]]:
    """What is wrong with [x0, y0, x1, y1], or "", and the box cut at the edges of the picture."""
    if not _numbers(box, 4):
        return "box that is not four finite numbers", []
    x0, y0, x1, y1 = (float(value) for value in box)
    if x1 <= x0 or y1 <= y0:
        return "box without area", []
    clipped = [max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))]
    beyond = max(abs(before - after) for before, after in zip((x0, y0, x1, y1), clipped, strict=True))
    if beyond > SLACK or clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        return "box outside the image", []
    return "", clipped


def check_mask(sample: Sample, mask: Any, size: tuple[int, int]) -> Mapping[str, Any]:
    """Run lengths of the picture's size; raises `DataError` for any other."""
    if not isinstance(mask, Mapping) or not isinstance(mask.get("counts"), str):
        raise _wrong(sample, f"mask: expected run lengths as size and counts, found {type(mask).__name__}")
    if not isinstance(mask.get("size"), list) or mask["size"] != list(size):
        raise _wrong(sample, f"mask of {quoted(mask.get('size'))}, the image has [height, width] = {list(size)}")
    if problem := lengths_problem(mask["counts"], math.prod(size)):
        raise _wrong(sample, f"mask: expected run lengths of the image, found {problem}")
    return mask


def _facts(sample: Sample) -> Mapping[str, Any]:
    facts = _value(sample, FACTS)
    if not isinstance(facts, Mapping):
        raise _wrong(sample, f"expected an object, found {type(facts).__name__}")
    return facts


def _value(sample: Sample, column: str) -> Any:
    if column not in sample:
        raise _wrong(sample, "missing; build the shards with a kind that writes it", column)
    return sample[column]


def _list(sample: Sample, name: str) -> list[Mapping[str, Any]]:
    found = _facts(sample).get(name)
    if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
        raise _wrong(sample, f"{name}: expected a list of objects, found {quoted(found)}")
    return found


def _area(
    sample: Sample, item: Mapping[str, Any], mask: Mapping[str, Any] | None, box: Sequence[float]
) -> tuple[float, str]:
    """The area of an object and where it comes from; "area_source" says so of one that no annotation gave."""
    area, source = item.get("area"), item.get("area_source", ANNOTATION)
    if area is not None and (not _numbers([area], 1) or area < 0):
        raise _wrong(sample, f"area: expected square pixels from 0, found {quoted(area)}")
    if source not in (ANNOTATION, MASK, BOX):
        raise _wrong(sample, f"area_source: expected {ANNOTATION}, {MASK} or {BOX}, found {quoted(source)}")
    found, derived = measure_area(area, mask, box)
    return found, derived if area is None else source


def _mapping(sample: Sample, name: str) -> Mapping[str, Any]:
    found = _facts(sample).get(name)
    if not isinstance(found, Mapping):
        raise _wrong(sample, f"{name}: expected an object, found {type(found).__name__}")
    return found


def _mapping_in(sample: Sample, item: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = item.get(name) or {}
    if not isinstance(found, Mapping):
        raise _wrong(sample, f"{name} of an object: expected an object, found {type(found).__name__}")
    return found


def _labels(sample: Sample, found: Sequence[Mapping[str, Any]], classes: Mapping[str, int]) -> Int[Tensor, "n"]:
    for item in found:
        label = item.get("label")
        if not isinstance(label, str):
            raise _wrong(sample, f"label: expected a text, found {quoted(label)}")
        if label not in classes:
            raise _wrong(
                sample, f"label {quoted(label)} is none of the {len(classes)} classes{nearest(label, list(classes))}"
            )
    return torch.tensor([classes[item["label"]] for item in found], dtype=torch.int64)


def _points(sample: Sample, found: Mapping[str, Any], names: Sequence[str]) -> Float[Tensor, "j 3"]:
    for name, point in found.items():
        if not _numbers(point, 3) or point[2] not in (0, 1, 2):
            raise _wrong(sample, f"point {quoted(name)}: expected [x, y, 0 | 1 | 2], found {quoted(point)}")
    rows = [found.get(name, (0.0, 0.0, 0.0)) for name in names]
    return torch.tensor(rows, dtype=torch.float32).reshape(len(names), 3)


def _map(sample: Sample, column: str) -> Tensor:
    stored = _value(sample, column)
    if not isinstance(stored, Tensor) or stored.dim() != 2:
        raise _wrong(sample, "expected a map of one channel", column)
    _check_shape(sample, column, stored)
    return stored


def _check_shape(sample: Sample, column: str, stored: Tensor) -> None:
    size = image_size(sample)
    if stored.dim() == 4:
        raise _wrong(sample, f"{len(stored)} frames; annotations are of one image. Store it by itself", column)
    if stored.shape[-2:] != size:
        height, width = stored.shape[-2:]
        raise _wrong(sample, f"{width}×{height} pixels, the image has {size[1]}×{size[0]}", column)


def _numbers(value: Any, count: int) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == count
        and all(isinstance(item, int | float) and not isinstance(item, bool) and abs(item) <= LARGEST for item in value)
    )


def _wrong(sample: Sample, what: str, column: str = FACTS) -> DataError:
    return DataError(f"{place(sample)}: column {quoted(column)}: {what}")
