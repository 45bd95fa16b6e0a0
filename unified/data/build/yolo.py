"""Shards from YOLO's layout: a text file an image with boxes or polygons, index pictures and panoptic annotations.

A file's top folder says what it is:
images/ · labels/ or object_detection/ (a line "class cx cy w h", in shares of the image, or a polygon) ·
instance_segmentation/ (a line "class x y x y …") · semantic_segmentation/ (index PNGs) · panoptic_segmentation/ (COCO's
JSON and PNGs). Below it equal paths belong together, "masks/" left out; an image without a text file has no objects.
What a class number means is said by the YAML file (`names` or `classes`) in the same folder, or else at the top.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from scipy.optimize import linear_sum_assignment

from unified.data.build.annotations import (
    Picture,
    by_stem,
    check_size,
    checked_box,
    index_picture,
    polygons_mask,
    read_map,
    read_picture,
)
from unified.data.build.dense import Found, Options
from unified.data.build.panoptic import Category, is_panoptic, read_categories, read_entries, read_segments
from unified.data.build.sources import BadSampleError, Files, Item, Problems, sample_key
from unified.types import DataError

IMAGES, BOXES, POLYGONS = "images/", ("labels/", "object_detection/"), "instance_segmentation/"
INDEX, PANOPTIC = "semantic_segmentation/", "panoptic_segmentation/"
NO_LABEL = ("unlabeled", "unlabelled", "void", "ignore")
BOX_NUMBERS = 4
SAME = 0.5  # overlap from which a box and a polygon of one class are one object


@dataclass(frozen=True)
class _Folder:
    """The files of a top folder by their path in it, and what its class numbers mean."""

    files: dict[str, str]
    names: dict[int, str]


class _Source:
    """The files of a source by what they are, and its classes."""

    def __init__(self, files: Files) -> None:
        texts, pictures = [name for name in files.names if name.endswith(".txt")], files.images()
        self.files = files
        self.images = by_stem(pictures, IMAGES)
        boxes = [start for start in BOXES if any(name.startswith(start) for name in texts)]
        self.texts = [_folder(files, start, by_stem(texts, start)) for start in (*boxes[:1], POLYGONS)]
        self.texts = [folder for folder in self.texts if folder.files]
        self.index = _folder(files, INDEX, _masks(pictures, INDEX))
        self.panoptic = _masks(pictures, PANOPTIC)
        self.segments, self.categories = self._panoptic_documents()
        self.classes = self._classes()

    def _panoptic_documents(self) -> tuple[dict[str, list[Mapping[str, Any]]], dict[int, Category]]:
        segments: dict[str, list[Mapping[str, Any]]] = {}
        categories: dict[int, Category] = {}
        for name in self.files.names:
            if name.startswith(PANOPTIC) and name.endswith(".json"):
                try:
                    document = json.loads(self.files.read(name))
                    if is_panoptic(document):
                        categories |= read_categories(document)
                        segments |= read_entries(document)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise DataError(f"{self.files.source}: {name}: no panoptic JSON ({error})") from error
        return segments, categories

    def _classes(self) -> list[str]:
        """All names, those of the panoptic annotations first, in the order of their numbers."""
        names = [category.name for category in self.categories.values()]
        for folder in (*self.texts, self.index):
            names += [name for _, name in sorted(folder.names.items()) if name.lower() not in NO_LABEL]
        return list(dict.fromkeys(names))


def _folder(files: Files, start: str, found: dict[str, str]) -> _Folder:
    if not found:
        return _Folder({}, {})
    yamls = [name for name in files.names if name.endswith((".yaml", ".yml"))]
    inside = [name for name in yamls if name.startswith(start)] or [name for name in yamls if "/" not in name]
    names = {number: label for name in inside for number, label in _names(files, name).items()}
    if not names:
        raise DataError(
            f"{files.source}: no class names for {start}; expected a YAML file with `names` in it, or at the top"
        )
    return _Folder(found, names)


def _masks(names: list[str], start: str) -> dict[str, str]:
    return {stem.removeprefix("masks/"): name for stem, name in by_stem(names, start).items()}


def _names(files: Files, name: str) -> dict[int, str]:
    """Class names by number, of a list or a mapping."""
    try:
        content = yaml.safe_load(files.read(name))
    except yaml.YAMLError as error:
        raise DataError(f"{files.source}: {name}: not YAML ({error})") from error
    found = (content.get("names") or content.get("classes")) if isinstance(content, dict) else None
    if isinstance(found, list):
        found = dict(enumerate(found))
    if not isinstance(found, dict):
        return {}
    return {int(number): str(label) for number, label in found.items()}


def find_yolo(files: Files, problems: Problems, options: Options) -> Found:
    """The pictures below images/ with all that the other folders say of each."""
    source = _Source(files)
    if not source.images:
        raise DataError(f"{files.source}: no pictures below {IMAGES}")
    for what, names in (
        *(("labels", folder.files) for folder in source.texts),
        ("mask", source.index.files),
        ("panoptic picture", source.panoptic),
    ):
        for stem in sorted(set(names) - set(source.images)):
            problems.add(f"{what} without image", names[stem])
    items = [_item(source, stem, name, options.ignore) for stem, name in source.images.items()]
    stuff = [category.name for category in source.categories.values() if not category.thing]
    return Found(items, {"classes": source.classes, **({"stuff": stuff} if stuff else {})})


def _item(source: _Source, stem: str, image: str, ignore: int | None) -> Item:
    files = source.files

    def load() -> dict[str, Any]:
        picture = read_picture(files, image)
        facts: dict[str, Any] = {}
        maps: dict[str, bytes] = {}
        if source.texts:
            facts["objects"] = _merged([_objects(files, folder, stem, picture) for folder in source.texts])
        if source.index.files:
            maps["classes.png"] = _class_map(source, _listed(source.index.files, stem, "mask"), picture, ignore)
        if source.segments:
            entries = source.segments.get(stem.rpartition("/")[2])
            if entries is None:
                raise BadSampleError("missing panoptic annotation", image)
            name = _listed(source.panoptic, stem, "panoptic picture")
            facts["segments"] = read_segments(files, name, entries, source.categories, picture)
        return {**picture.columns(**facts), **maps}

    return Item(sample_key(image.removeprefix(IMAGES)), image, load)


def _listed(names: Mapping[str, str], stem: str, what: str) -> str:
    if stem not in names:
        raise BadSampleError(f"missing {what}", stem)
    return names[stem]


def _class_map(source: _Source, name: str, picture: Picture, ignore: int | None) -> bytes:
    stored = read_map(source.files.read(name), name, "mask")
    check_size(name, "mask", stored.shape, picture)
    none = {number for number, label in source.index.names.items() if label.lower() in NO_LABEL} | {ignore}
    places = {number: source.classes.index(label) for number, label in source.index.names.items() if number not in none}
    return index_picture(stored, name, places, none, len(source.classes))


def _objects(files: Files, folder: _Folder, stem: str, picture: Picture) -> list[dict[str, Any]]:
    if stem not in folder.files:
        return []
    name = folder.files[stem]
    text = files.read(name).decode("utf-8", errors="replace")
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), start=1)]
    return [_object(f"{name}:{number}", parts, folder.names, picture) for number, parts in lines if parts]


def _object(where: str, parts: list[str], names: Mapping[int, str], picture: Picture) -> dict[str, Any]:
    try:
        number, values = int(parts[0]), [float(part) for part in parts[1:]]
    except ValueError:
        raise BadSampleError("unreadable line", f"{where}: expected numbers, found {' '.join(parts)[:60]!r}") from None
    if number not in names:
        raise BadSampleError("label beyond the list", f"{where}: class {number}; the list has {len(names)}")
    if len(values) == BOX_NUMBERS:
        cx, cy, w, h = values
        shares = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        box = [share * size for share, size in zip(shares, [picture.width, picture.height] * 2, strict=True)]
        return {"label": names[number], "box": checked_box(where, box, picture), "crowd": False}
    if len(values) < 6 or len(values) % 2:
        raise BadSampleError(
            "broken polygon", f"{where}: {len(values)} numbers; expected x, y of at least three corners"
        )
    scale = [picture.width, picture.height] * (len(values) // 2)
    corners = [share * size for share, size in zip(values, scale, strict=True)]
    xs, ys = corners[::2], corners[1::2]
    box = checked_box(where, [min(xs), min(ys), max(xs), max(ys)], picture)
    mask = polygons_mask(where, [corners], picture)
    return {"label": names[number], "box": box, "crowd": False, "mask": mask}


def _merged(found: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Objects told by a box and by a polygon as one: it has the box and the mask; all others stay as they are."""
    if len(found) == 1:
        return found[0]
    boxes, polygons = found
    overlap = np.array([[_overlap(box, polygon) for polygon in polygons] for box in boxes])
    pairs = zip(*linear_sum_assignment(overlap.reshape(len(boxes), len(polygons)), maximize=True), strict=True)
    same = {int(box): int(polygon) for box, polygon in pairs if overlap[box, polygon] >= SAME}
    merged = [
        box | ({"mask": polygons[same[number]]["mask"]} if number in same else {}) for number, box in enumerate(boxes)
    ]
    return merged + [polygon for number, polygon in enumerate(polygons) if number not in same.values()]


def _overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Intersection over union of two boxes of one class."""
    if one["label"] != other["label"]:
        return 0.0
    a, b = one["box"], other["box"]
    inside = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return inside / (areas - inside)
