"""Shards from YOLO's layout: a text file an image with boxes or polygons, index pictures and panoptic annotations.

The first folder of one of these names in a file's path says what it is:
images/ · labels/ or object_detection/ (a line "class cx cy w h", in shares of the image, or a polygon) ·
instance_segmentation/ (a line "class x y x y …") · semantic_segmentation/ (index PNGs) · panoptic_segmentation/ (COCO's
JSON and PNGs). Files whose paths are equal without these folders belong together (images/train/a.jpg and
labels/train/a.txt, or train/images/a.jpg and train/labels/a.txt), "masks/" left out; an image without a text file has
no objects. What a class number means is said by the YAML file (`names` or `classes`) in the same folder, or else at
the top, or else by a classes.txt beside the labels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from unified.core.errors import DataError
from unified.core.json_files import parse_json
from unified.core.log import logger
from unified.core.text_files import decode_text, shown_text, split_lines
from unified.data.builders.annotations import (
    Picture,
    as_number,
    check_size,
    checked_box,
    index_picture,
    polygons_mask,
    read_map,
    read_picture,
    sound_objects,
)
from unified.data.builders.class_numbers import check_no_pose, merge_names, read_list
from unified.data.builders.dense import Found, Options
from unified.data.builders.pairing import Places, by_place, place
from unified.data.builders.panoptic import Category, Identifier, is_panoptic, read_categories, read_segments
from unified.data.builders.references import Reference, find_files
from unified.data.builders.sources import BadSampleError, Files, Item, Problems, sample_key

IMAGES, BOXES, POLYGONS = "images", ("labels", "object_detection"), "instance_segmentation"
INDEX, PANOPTIC = "semantic_segmentation", "panoptic_segmentation"
ROLES = frozenset((IMAGES, *BOXES, POLYGONS, INDEX, PANOPTIC))
MASKS = "masks"  # a folder in those of index and panoptic pictures
CLASS_LIST = "classes.txt"  # beside labels, a name a line, as LabelImg writes it
NO_LABEL = ("unlabeled", "unlabelled", "void", "ignore")
BOX_NUMBERS = 4
SAME = 0.5  # overlap from which a box and a polygon of one class are one object


@dataclass(frozen=True)
class _Folder:
    """The files of one role by place, and what their class numbers mean."""

    files: Places
    names: Mapping[int, str]


@dataclass(frozen=True)
class _Segments:
    """The panoptic annotation of a picture, and what the category numbers of its document mean."""

    entries: Sequence[Mapping[str, Any]]
    categories: Mapping[Identifier, Category]


class _Source:
    """The files of a source by what they are, and its classes."""

    def __init__(self, files: Files, problems: Problems) -> None:
        self.files = files
        self.problems = problems
        texts, pictures = [name for name in files.names if name.lower().endswith(".txt")], files.images()
        self.images = _of_role(pictures, IMAGES)
        other = [name for name in pictures if _role(name) is None]
        if other:
            logger.warning("%s: %d images lie outside %s/: %s", files.source, len(other), IMAGES, shown_text(other[0]))
        boxes = [role for role in BOXES if _of_role(texts, role)]
        if len(boxes) > 1:
            raise DataError(f"{files.source}: expected boxes in {' or '.join(BOXES)}, got both. Hint: leave one out")
        self.texts = [self._folder(role, self._labels(texts, role)) for role in (*boxes, POLYGONS)]
        self.texts = [folder for folder in self.texts if folder.files]
        self.index = self._folder(INDEX, _of_role(pictures, INDEX))
        self.panoptic = _of_role(pictures, PANOPTIC)
        self.segments, self.categories = self._panoptic_documents()
        self.classes = self._classes()

    def _folder(self, role: str, found: Places) -> _Folder:
        if not found:
            return _Folder({}, {})
        yamls = [name for name in self.files.names if name.lower().endswith((".yaml", ".yml"))]
        top = [name for name in yamls if "/" not in name]
        inside = [name for name in yamls if _role(name) == role]
        check_no_pose(self.files, [*inside, *top])
        names = merge_names(self.files, inside or top)
        lists = [name for name in self.files.names if _role(name) == role and name.endswith(f"/{CLASS_LIST}")]
        if not names and len(lists) == 1:
            names = read_list(self.files, lists[0])
        if not names:
            raise DataError(
                f"{self.files.source}: no class names for {role}/; expected a YAML file with `names` in it, or at the "
                "top"
            )
        return _Folder(found, names)

    def _labels(self, texts: Sequence[str], role: str) -> Places:
        """The texts of a role, but a list of classes."""
        found = _of_role(texts, role)
        lists = [name for name in texts if name.endswith(f"/{CLASS_LIST}")]
        return {where: names for where, names in found.items() if where in self.images or not {*names} & {*lists}}

    def _panoptic_documents(self) -> tuple[dict[str, _Segments], dict[str, Category]]:
        """The segments by the path of the panoptic picture, and all categories by name."""
        entries: list[tuple[Reference, _Segments]] = []
        known: dict[str, Category] = {}
        for name in self.files.names:
            if _role(name) == PANOPTIC and name.lower().endswith(".json"):
                where = f"{self.files.source}: {name}"
                try:
                    document = parse_json(self.files.read(name), where)
                    if is_panoptic(document):
                        categories = read_categories(document, where)
                        known = {category.name: category for category in categories.values()} | known
                        entries += [
                            (_reference(name, entry), _Segments(entry["segments_info"], categories))
                            for entry in document["annotations"]
                        ]
                except (KeyError, TypeError, AttributeError) as error:
                    raise DataError(f"{where}: no panoptic JSON ({error})") from error
        pictures = [name for names in self.panoptic.values() for name in names]
        segments: dict[str, _Segments] = {}
        found = find_files(pictures, [reference for reference, _ in entries])
        for file, (reference, entry) in zip(found, entries, strict=True):
            if isinstance(file, BadSampleError):
                self.problems.add("missing panoptic picture", str(file))
            elif segments.setdefault(file, entry) is not entry:
                self.problems.add("two panoptic annotations", f"{reference.where}: {file} has another one")
        return segments, known

    def _classes(self) -> list[str]:
        """All names, those of the panoptic annotations first, in the order of their numbers."""
        names = [category.name for category in self.categories.values()]
        for folder in (*self.texts, self.index):
            names += [name for _, name in sorted(folder.names.items()) if name.lower() not in NO_LABEL]
        return list(dict.fromkeys(names))


def _reference(document: str, entry: Mapping[str, Any]) -> Reference:
    path = entry["file_name"]
    if not isinstance(path, str):
        raise TypeError(f"expected a file_name, got {path!r}")
    return Reference(f"{document}: {path}", path, document)


def _role(name: str) -> str | None:
    """What a file is, by the first folder of such a name in its path."""
    return next((folder.casefold() for folder in name.split("/")[:-1] if folder.casefold() in ROLES), None)


def _of_role(names: Sequence[str], role: str) -> dict[str, list[str]]:
    roles = ROLES | {MASKS} if role in (INDEX, PANOPTIC) else ROLES
    return by_place([name for name in names if _role(name) == role], lambda name: place(name, roles))


def find_yolo(files: Files, problems: Problems, options: Options) -> Found:
    """The pictures below images/ with all that the other folders say of each."""
    source = _Source(files, problems)
    if not source.images:
        raise DataError(f"{files.source}: no pictures below {IMAGES}/")
    for what, places in (
        *(("labels", folder.files) for folder in source.texts),
        ("mask", source.index.files),
        ("panoptic picture", source.panoptic),
    ):
        for where in sorted(set(places) - set(source.images)):
            problems.add(f"{what} without image", ", ".join(places[where]))
    items = []
    for where, names in source.images.items():
        if len(names) > 1:
            problems.add("ambiguous image", f"{', '.join(names)}: expected one image of this name")
        else:
            items.append(_item(source, where, names[0], options.ignore))
    stuff = [category.name for category in source.categories.values() if not category.thing]
    return Found(items, {"classes": source.classes, **({"stuff": stuff} if stuff else {})})


def _item(source: _Source, where: str, image: str, ignore: int | None) -> Item:
    files = source.files

    def load() -> dict[str, Any]:
        picture = read_picture(files, image)
        facts: dict[str, Any] = {}
        maps: dict[str, bytes] = {}
        if source.texts:
            facts["objects"] = _merged([_objects(source, folder, where, picture) for folder in source.texts])
        if source.index.files:
            maps["classes.png"] = _class_map(source, _listed(source.index.files, where, "mask"), picture, ignore)
        if source.segments:
            name = _listed(source.panoptic, where, "panoptic picture")
            if name not in source.segments:
                raise BadSampleError("missing panoptic annotation", image)
            known = source.segments[name]
            facts["segments"] = read_segments(files, name, known.entries, known.categories, picture)
        return {**picture.columns(**facts), **maps}

    return Item(sample_key(f"{place(image, ROLES)}."), image, load)


def _listed(places: Places, where: str, what: str) -> str:
    names = places.get(where, ())
    if not names:
        raise BadSampleError(f"missing {what}", where)
    if len(names) > 1:
        raise BadSampleError(f"ambiguous {what}", f"{', '.join(names)}: expected one of this name")
    return names[0]


def _class_map(source: _Source, name: str, picture: Picture, ignore: int | None) -> bytes:
    stored = read_map(source.files.read(name), name, "mask")
    check_size(name, "mask", stored.shape, picture)
    none = {number for number, label in source.index.names.items() if label.lower() in NO_LABEL} | {ignore}
    places = {number: source.classes.index(label) for number, label in source.index.names.items() if number not in none}
    return index_picture(stored, name, places, none, len(source.classes))


def _objects(source: _Source, folder: _Folder, where: str, picture: Picture) -> list[dict[str, Any]]:
    if where not in folder.files:
        return []
    name = _listed(folder.files, where, "labels")
    try:
        text = decode_text(source.files.read(name), name)
    except DataError as error:
        raise BadSampleError("unreadable labels", str(error)) from error
    lines = [(f"{name}:{number}", line.split()) for number, line in enumerate(split_lines(text), start=1)]
    read: list[tuple[str, Callable[[], dict[str, Any]]]]
    read = [(line, partial(_object, line, parts, folder.names, picture)) for line, parts in lines if parts]
    return sound_objects(name, read, source.problems)


def _object(where: str, parts: list[str], names: Mapping[int, str], picture: Picture) -> dict[str, Any]:
    number, values = _numbers(where, parts)
    if number not in names:
        raise BadSampleError("label beyond the list", f"{where}: class {number}; the list has {len(names)}")
    if len(values) == BOX_NUMBERS:
        cx, cy, w, h = values
        shares = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        box = [share * size for share, size in zip(shares, [picture.width, picture.height] * 2, strict=True)]
        return {"label": names[number], "box": checked_box(where, box, picture), "crowd": False}
    if len(values) == BOX_NUMBERS + 1:
        raise BadSampleError("box with a confidence", f"{where}: expected class cx cy w h, got a sixth number")
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


def _numbers(where: str, parts: list[str]) -> tuple[int, list[float]]:
    """The class number, which may be written 0.0, and the numbers after it."""
    values = [float(part) if part.casefold() in ("nan", "inf", "-inf") else as_number(part) for part in parts]
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(parts):
        raise BadSampleError("unreadable line", f"{where}: expected numbers, found {' '.join(parts)[:60]!r}")
    if not numbers[0].is_integer():
        raise BadSampleError("unreadable line", f"{where}: expected a whole number as the class, found {parts[0]}")
    return int(numbers[0]), numbers[1:]


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
