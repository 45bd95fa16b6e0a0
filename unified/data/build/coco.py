"""Shards from COCO JSON: instances, person keypoints, captions and panoptic annotations, merged by image."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unified.data.build.annotations import (
    Names,
    Picture,
    checked_area,
    checked_box,
    checked_point,
    flip_pairs,
    polygons_mask,
    read_picture,
    run_lengths,
)
from unified.data.build.dense import Found, Options
from unified.data.build.panoptic import Category, is_panoptic, of_panoptic, read_categories, read_segments
from unified.data.build.sources import BadSampleError, Files, Item, Problems, sample_key
from unified.types import DataError

COORDINATES = 3  # of a keypoint: x, y, visible


@dataclass
class _Entry:
    """What all documents together say of one image."""

    size: tuple[Any, Any]  # width, height
    objects: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    captions: list[str] = field(default_factory=list)
    segments: tuple[str, Sequence[Mapping[str, Any]]] | None = None


@dataclass
class _Merged:
    """All documents of a source."""

    entries: dict[str, _Entry] = field(default_factory=dict)  # by file name
    classes: dict[str, bool] = field(default_factory=dict)  # whether it is a thing
    joints: list[str] = field(default_factory=list)
    skeleton: list[list[str]] = field(default_factory=list)
    categories: dict[int, Category] = field(default_factory=dict)  # of the panoptic document
    has: set[str] = field(default_factory=set)  # the facts of which the documents speak


def find_coco(files: Files, problems: Problems, _: Options) -> Found:
    """The images that the JSON documents of a folder list, with all that these say of each."""
    merged = _Merged()
    for name in files.names:
        document = _document(files, name) if name.lower().endswith(".json") else None
        if document is not None:
            try:
                _merge(merged, name, document, problems)
            except (KeyError, IndexError, TypeError, AttributeError) as error:
                raise DataError(f"{files.source}: {name}: not as COCO's ({type(error).__name__}: {error})") from error
    if not merged.entries:
        raise DataError(f"{files.source}: no COCO JSON (with images and annotations) in it")
    images = Names(name for name in files.images() if not of_panoptic(name))
    masks = Names(name for name in files.images() if of_panoptic(name))
    items = [_item(files, name, entry, merged, images, masks) for name, entry in sorted(merged.entries.items())]
    return Found(items, _facts(merged))


def _facts(merged: _Merged) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if merged.classes:
        facts |= {"classes": list(merged.classes)}
        stuff = [name for name, thing in merged.classes.items() if not thing]
        facts |= {"stuff": stuff} if stuff else {}
    if merged.joints:
        facts |= {"points": merged.joints, "skeleton": merged.skeleton, "flip": flip_pairs(merged.joints)}
    return facts


def _document(files: Files, name: str) -> dict[str, Any] | None:
    """A COCO document, or None for any other JSON."""
    try:
        document = json.loads(files.read(name))
    except ValueError as error:
        raise DataError(f"{files.source}: {name}: not JSON ({error})") from error
    lists = isinstance(document, dict) and all(isinstance(document.get(key), list) for key in ("images", "annotations"))
    return document if lists else None


def _merge(merged: _Merged, name: str, document: Mapping[str, Any], problems: Problems) -> None:
    """Add what a document says; an annotation of an image or a category that is not listed is a problem."""
    categories, panoptic = read_categories(document), is_panoptic(document)
    for category in categories.values():
        merged.classes[category.name] = merged.classes.get(category.name, True) and category.thing
    joints = {item["id"]: item["keypoints"] for item in document.get("categories", ()) if item.get("keypoints")}
    _merge_joints(merged, document)
    images = {}
    for image in document["images"]:
        size = (image.get("width"), image.get("height"))
        images[image["id"]] = known = merged.entries.setdefault(image["file_name"], _Entry(size))
        if known.size != size:
            problems.add("image of two sizes", f"{name}: {image['file_name']}: {size} and {known.size}")
    if panoptic:
        merged.categories |= categories
    for annotation in document["annotations"]:
        where = f"{name}: annotation {annotation.get('id', annotation.get('file_name'))}"
        entry = images.get(annotation.get("image_id"))
        if entry is None:
            problems.add("annotation without image", f"{where}: image {annotation.get('image_id')}")
        elif "caption" in annotation:
            entry.captions.append(annotation["caption"].strip())
        elif "segments_info" in annotation:
            entry.segments = annotation["file_name"], annotation["segments_info"]
        else:
            _merge_object(entry, where, annotation, categories, joints)
    captions = any("caption" in annotation for annotation in document["annotations"])
    merged.has.add("captions" if captions else "segments" if panoptic else "objects")


def _merge_joints(merged: _Merged, document: Mapping[str, Any]) -> None:
    for category in document.get("categories", ()):
        names = category.get("keypoints", ())
        merged.joints += [name for name in names if name not in merged.joints]
        bones = [[names[place - 1] for place in bone] for bone in category.get("skeleton", ())]  # counted from 1
        merged.skeleton += [bone for bone in bones if bone not in merged.skeleton]


def _merge_object(
    entry: _Entry,
    where: str,
    annotation: Mapping[str, Any],
    categories: Mapping[int, Category],
    joints: Mapping[int, Sequence[str]],
) -> None:
    """An object; keypoints repeat that of the instances, with number and box, and add to it."""
    number = annotation.get("category_id", -1)
    box = annotation.get("bbox")
    known = entry.objects.setdefault((annotation.get("id"), number, *(box or ())), {})
    category = categories.get(number)
    known |= {"where": where, "box": box, "label": category.name if category else None, "number": number}
    known["crowd"] = bool(annotation.get("iscrowd"))
    if annotation.get("segmentation"):
        known["mask"] = annotation["segmentation"]
    if annotation.get("area") is not None:
        known["area"] = annotation["area"]
    if "keypoints" in annotation:
        known["points"], known["joints"] = annotation["keypoints"], joints.get(number, ())


def _item(files: Files, name: str, entry: _Entry, merged: _Merged, images: Names, masks: Names) -> Item:
    def load() -> dict[str, Any]:
        picture = read_picture(files, images.find(name, "images"))
        if entry.size != (None, None) and entry.size != (picture.width, picture.height):
            width, height = entry.size
            raise BadSampleError(
                "image of another size",
                f"{name}: the JSON says {width}×{height}, it is {picture.width}×{picture.height}",
            )
        facts: dict[str, Any] = {}
        if "objects" in merged.has:
            facts["objects"] = [_object(found, picture) for found in entry.objects.values()]
        if "captions" in merged.has:
            facts["captions"] = entry.captions
        if "segments" in merged.has:
            if entry.segments is None:
                raise BadSampleError("missing panoptic annotation", name)
            file, entries = entry.segments
            facts["segments"] = read_segments(files, masks.find(file, name), entries, merged.categories, picture)
        return picture.columns(**facts)

    return Item(sample_key(name), name, load)


def _object(found: Mapping[str, Any], picture: Picture) -> dict[str, Any]:
    where, box = found["where"], found["box"]
    if found["label"] is None:
        raise BadSampleError("label beyond the list", f"{where}: category {found['number']}")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(value, int | float) for value in box):
        raise BadSampleError("box that is not four finite numbers", f"{where}: {box}")
    x, y, width, height = box
    made: dict[str, Any] = {
        "label": found["label"],
        "box": checked_box(where, [x, y, x + width, y + height], picture),
        "crowd": found["crowd"],
    }
    if "area" in found:
        made["area"] = checked_area(where, found["area"])
    mask = found.get("mask")
    if mask:
        made["mask"] = (run_lengths if isinstance(mask, Mapping) else polygons_mask)(where, mask, picture)
    if "points" in found:
        points = _points(where, found["points"], found["joints"], picture)
        made["points"] = points
    return made


def _points(where: str, values: Any, names: Sequence[str], picture: Picture) -> dict[str, list[float]]:
    """The labelled joints of an object; none of a body that is there, but whose joints nobody labelled."""
    if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
        raise BadSampleError("wrong joint", f"{where}: expected numbers, found {str(values)[:60]}")
    if len(values) != COORDINATES * len(names):
        raise BadSampleError(
            "missing joints", f"{where}: {len(values)} numbers for {len(names)} joints; expected {COORDINATES} each"
        )
    rows = [values[start : start + COORDINATES] for start in range(0, len(values), COORDINATES)]
    return {
        name: checked_point(f"{where}: {name}", x, y, visible, picture)
        for name, (x, y, visible) in zip(names, rows, strict=True)
        if visible
    }
