"""Parts of annotations that several formats share: boxes, masks, joints, index pictures, and files by their names."""

import io
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from unified.data.build.sources import BadSampleError, Files, measured
from unified.data.decode import decode_map, frames_in
from unified.data.scene import SLACK, clip_box

NO_CLASS = {8: 255, 16: 65535}  # by bits of the index picture
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
    if (count := frames_in(picture.data)) > 1:
        raise BadSampleError(
            "animated image", f"{name}: {count} frames; annotations are of one. Store the annotated frame by itself"
        )
    return picture


class Names:
    """Files of a source by what tables and lists call them: the whole path, its end, or the last part alone."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = set(names)
        self._by_base: dict[str, list[str]] = {}
        for name in sorted(self.names):
            self._by_base.setdefault(PurePosixPath(name).name, []).append(name)

    def find(self, wanted: str, where: str) -> str:
        """The one file that is meant; raises `BadSampleError` where there is none, or several."""
        if wanted in self.names:
            return wanted
        found = self._by_base.get(PurePosixPath(wanted).name, [])
        ends = [name for name in found if name.endswith(f"/{wanted}")] or found
        if len(ends) != 1:
            which = f"one of {', '.join(ends[:3])}" if ends else "no file of this name"
            raise BadSampleError("ambiguous image" if ends else "missing image", f"{where}: {wanted}: {which}")
        return ends[0]


def by_stem(names: Iterable[str], start: str = "") -> dict[str, str]:
    """Files by their path below `start`, without suffix."""
    inside = {name.removeprefix(start): name for name in names if name.startswith(start)}
    return {short.rpartition(".")[0] or short: name for short, name in inside.items()}


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
    if isinstance(area, bool) or not isinstance(area, int | float) or not math.isfinite(area) or area < 0:
        raise BadSampleError("wrong area", f"{where}: {area!r}; expected square pixels, from 0")
    return round(float(area), DIGITS)


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
    except (TypeError, ValueError) as error:
        raise BadSampleError("broken polygon", f"{where}: {error}") from error
    for values in corners:
        if values.ndim != 1 or len(values) < 6 or len(values) % 2 or not np.isfinite(values).all():
            raise BadSampleError("broken polygon", f"{where}: expected x, y of at least three corners")
    parts = coco_mask.frPyObjects([values.tolist() for values in corners], picture.height, picture.width)
    return _as_text(coco_mask.merge(parts))


def run_lengths(where: str, mask: Mapping[str, Any], picture: Picture) -> dict[str, Any]:
    """Run lengths, plain or compressed, as compressed ones of the picture's size."""
    check_size(where, "mask", mask.get("size") or (), picture)
    counts = mask.get("counts")
    try:
        if isinstance(counts, list) and sum(counts) != picture.height * picture.width:
            raise ValueError("the lengths do not add up to the pixels of the picture")
        made = coco_mask.frPyObjects(dict(mask), picture.height, picture.width) if isinstance(counts, list) else mask
        coco_mask.decode(made)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise BadSampleError("broken mask", f"{where}: {error}") from error
    return _as_text(made)


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
    """The pairs that a mirror exchanges, told by "left" and "right" in their names."""
    swapped = ((name, name.replace("left", "right").replace("Left", "Right")) for name in names)
    return [[name, other] for name, other in swapped if other != name and other in names]
