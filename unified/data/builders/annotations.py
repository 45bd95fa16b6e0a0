"""Parts of annotations that several formats share: numbers, objects, boxes, masks, joints and index pictures."""

import io
import json
import math
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from unified.config.labels import partners
from unified.core.errors import quoted
from unified.core.text_files import split_lines
from unified.data.builders.sources import BadSampleError, Files, Problems, measured
from unified.data.samples.annotations import SLACK, clip_box
from unified.data.samples.decode import decode_map
from unified.data.samples.run_lengths import lengths_problem
from unified.modalities.image.files import count_frames_in

UNLABELLED = -1.0  # both coordinates of a joint that nobody labelled, as MPII's tools write it
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)
NO_CLASS = {8: 255, 16: 65535}  # by bits of the index picture
FAR = 4  # sides of the image by which a corner of a polygon may lie away
DIGITS = 3  # decimals of a coordinate


class Picture(NamedTuple):
    """A picture's column and bytes, and its size as shown."""

    column: str
    data: bytes
    height: int
    width: int

    def columns(self, **facts: Any) -> dict[str, Any]:
        """The columns of a sample with this picture and these facts."""
        return {self.column: self.data, "json": {"width": self.width, "height": self.height, **facts}}


def read_picture(files: Files, name: str) -> Picture:
    """A still picture of the source; raises `BadSampleError` where it cannot be read, or has several frames."""
    picture = Picture(*measured(files.read(name), name, str(files.source)))
    if (count := count_frames_in(picture.data)) > 1:
        raise BadSampleError(
            "animated image", f"{name}: {count} frames; annotations are of one. Store the annotated frame by itself"
        )
    return picture


def as_number(value: Any) -> float | None:
    """Return a number that is stored as one or as text ("12.5"); None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def as_flag(value: Any) -> bool:
    """Return whether a flag is set that is stored as true, 1 or their texts."""
    return value is True or bool(as_number(value)) or (isinstance(value, str) and value.strip().casefold() == "true")


def class_label(text: str) -> str:
    """Return the name of a class on one line: lists of names have a line each."""
    return " ".join(line.strip() for line in split_lines(text) if line.strip())


def sound_objects(
    image: str, objects: Iterable[tuple[str, Callable[[], dict[str, Any]]]], problems: Problems
) -> list[dict[str, Any]]:
    """Return the objects of an image that can be read; each of the others is a problem of its own.

    Args:
        image: The name of the image.
        objects: Where each object is written, and how it is read (or `BadSampleError`).
        problems: Receives the objects that cannot be read, and exact repetitions.

    Raises:
        BadSampleError: None of several can be read: the image would seem to show nothing.
    """
    found: dict[str, dict[str, Any]] = {}
    count = 0
    for where, read in objects:
        count += 1
        try:
            made = read()
        except BadSampleError as error:
            problems.add(error.kind, str(error))
            continue
        text = json.dumps(made, sort_keys=True)
        if text in found:
            problems.add("duplicate object", f"{where}: the same as another one of {image}")
        found[text] = made
    if count and not found:
        raise BadSampleError("image without a readable object", f"{image}: expected 1 to {count}, got none")
    return list(found.values())


def check_size(where: str, what: str, found: Sequence[Any], picture: Picture) -> None:
    """Refuse what has another size, as (height, width), than the picture."""
    if tuple(found) != (picture.height, picture.width):
        size = "×".join(str(value) for value in reversed(found))
        raise BadSampleError(
            f"{what} of another size than the image", f"{where}: {size}, the image has {picture.width}×{picture.height}"
        )


def checked_box(where: str, box: Sequence[float], picture: Picture) -> list[float]:
    """[x0, y0, x1, y1] within the picture, cut where it is up to a pixel beyond."""
    wrong, clipped = clip_box(list(box), picture.height, picture.width)
    if wrong:
        raise BadSampleError(wrong, f"{where}: {list(box)}, the image has {picture.width}×{picture.height}")
    return [round(value, DIGITS) for value in clipped]


def checked_area(where: str, area: Any) -> float:
    """The area of an object in square pixels, from 0."""
    number = as_number(area)
    if number is None or not math.isfinite(number) or number < 0:
        raise BadSampleError("wrong area", f"{where}: {quoted(area)}; expected square pixels, from 0")
    return round(number, DIGITS)


def is_unlabelled(x: float, y: float, visible: float) -> bool:
    """Return whether a joint has no label: not visible, not a number, or at (−1, −1).

    Args:
        x: Pixels from the left edge.
        y: Pixels from the top edge.
        visible: 0 unlabelled, 1 occluded, 2 visible.
    """
    return visible == 0 or (math.isnan(x) and math.isnan(y)) or x == y == UNLABELLED


def checked_point(where: str, x: float, y: float, visible: float, picture: Picture) -> list[float]:
    """[x, y, v] within the picture, moved to its edge where it is up to a pixel beyond."""
    inside = -SLACK <= x <= picture.width + SLACK and -SLACK <= y <= picture.height + SLACK
    if not (math.isfinite(x) and math.isfinite(y)) or visible not in (0, 1, 2):
        raise BadSampleError("wrong joint", f"{where}: [{x}, {y}, {visible}]; expected x, y and 0, 1 or 2")
    if not inside:
        raise BadSampleError(
            "joint outside the image", f"{where}: [{x}, {y}], the image has {picture.width}×{picture.height}"
        )
    x, y = min(max(x, 0.0), float(picture.width)), min(max(y, 0.0), float(picture.height))
    return [round(x, DIGITS), round(y, DIGITS), int(visible)]


def encode_mask(pixels: NDArray[np.bool_]) -> dict[str, Any]:
    """Pixels as COCO's compressed run lengths."""
    return _as_text(coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8)))


def polygons_mask(where: str, polygons: Any, picture: Picture) -> dict[str, Any]:
    """The union of polygons [x, y, x, y, …] as run lengths."""
    try:
        corners = [np.asarray(polygon, dtype=np.float64) for polygon in polygons]
    except (TypeError, ValueError, OverflowError) as error:
        raise BadSampleError("broken polygon", f"{where}: {error}") from error
    farthest = FAR * max(picture.height, picture.width)
    for values in corners:
        if values.ndim != 1 or len(values) < 6 or len(values) % 2 or not np.isfinite(values).all():
            raise BadSampleError("broken polygon", f"{where}: expected x, y of at least three corners")
        if np.abs(values).max() > farthest:  # pycocotools takes memory by the length of an edge
            raise BadSampleError("polygon outside the image", f"{where}: corners up to {np.abs(values).max():g} pixels")
    parts = coco_mask.frPyObjects([values.tolist() for values in corners], picture.height, picture.width)
    return _as_text(coco_mask.merge(parts))


def run_lengths(where: str, mask: Mapping[str, Any], picture: Picture) -> dict[str, Any]:
    """Run lengths, plain or compressed, as compressed ones of the picture's size."""
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list):
        raise BadSampleError("broken mask", f"{where}: expected a size of [height, width], got {quoted(size)}")
    check_size(where, "mask", size, picture)
    pixels = picture.height * picture.width
    if isinstance(counts, list):
        whole = all(type(count) is int and 0 <= count <= pixels for count in counts)
        if not whole or sum(counts) != pixels:
            raise BadSampleError("broken mask", f"{where}: expected whole lengths of {pixels:,} pixels, got others")
        return _as_text(coco_mask.frPyObjects({"size": size, "counts": counts}, picture.height, picture.width))
    if not isinstance(counts, str):
        raise BadSampleError("broken mask", f"{where}: expected run lengths as counts, got {quoted(counts)}")
    if problem := lengths_problem(counts, pixels):
        raise BadSampleError("broken mask", f"{where}: expected run lengths of the image, got {problem}")
    return {"size": [picture.height, picture.width], "counts": counts}


def _as_text(mask: Mapping[str, Any]) -> dict[str, Any]:
    counts = mask["counts"]
    return {"size": [int(n) for n in mask["size"]], "counts": counts.decode() if isinstance(counts, bytes) else counts}


def read_map(data: bytes, where: str, what: str, **options: Any) -> NDArray[Any]:
    """The numbers of an index, depth or edge picture; raises `BadSampleError` where it cannot be one."""
    try:
        return decode_map(data, **options).numpy()
    except (ValueError, OSError, SyntaxError) as error:
        raise BadSampleError(f"unreadable {what}", f"{where}: {error}") from error


def index_picture(
    stored: NDArray[Any], where: str, places: Mapping[int, int], none: Container[int | None], count: int
) -> bytes:
    """The index picture of `count` classes: each number becomes its place, those in `none` become no label."""
    bits = 8 if count < NO_CLASS[8] else 16
    made = np.full(stored.shape, NO_CLASS[bits], dtype=np.uint8 if bits == 8 else np.uint16)
    for number in np.unique(stored).tolist():
        if number in none:
            continue
        if number not in places:
            raise BadSampleError("label beyond the list", f"{where}: {number}; the list has {count} classes")
        made[stored == number] = places[number]
    return png(made)


def png(values: NDArray[Any]) -> bytes:
    """An array (h, w) or (h, w, 3) as a PNG of its own depth."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def flip_pairs(names: Sequence[str]) -> list[list[str]]:
    """Return the pairs of joints that a mirror exchanges, each once."""
    return [[names[place], names[other]] for place, other in enumerate(partners(names)) if place < other]
