"""Shards from COCO JSON: instances, person keypoints, captions and panoptic annotations, merged by image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from unified.core.errors import DataError
from unified.core.json_files import parse_json
from unified.core.log import logger
from unified.core.text_files import check_text, shown_text
from unified.data.builders.annotations import (
    Picture,
    as_flag,
    as_number,
    checked_area,
    checked_box,
    checked_point,
    flip_pairs,
    is_unlabelled,
    polygons_mask,
    read_picture,
    run_lengths,
    sound_objects,
)
from unified.data.builders.coco_joints import Joints
from unified.data.builders.dense import Found, Options
from unified.data.builders.pairing import sample_keys
from unified.data.builders.panoptic import (
    Category,
    Identifier,
    identifier,
    of_panoptic,
    read_categories,
    read_segments,
)
from unified.data.builders.references import Reference, find_files
from unified.data.builders.sources import BadSampleError, Files, Item, Problems

COORDINATES = 3  # of a keypoint: x, y, visible
Size = tuple[float | None, float | None]  # width, height


@dataclass(frozen=True)
class _Segments:
    """The panoptic annotation of an image, and what the category numbers of its document mean."""

    picture: Reference
    entries: Sequence[Mapping[str, Any]]
    categories: Mapping[Identifier, Category]


@dataclass
class _Entry:
    """What one document, or all together, say of an image."""

    where: str
    size: Size
    objects: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    captions: list[str] = field(default_factory=list)
    segments: _Segments | None = None
    undecided: bool = False
    """Whether it shares its number with another image, and annotations may be of either."""


@dataclass
class _Merged:
    """All documents of a source."""

    entries: dict[Reference, _Entry] = field(default_factory=dict)  # by the image as a document names it
    classes: dict[str, bool] = field(default_factory=dict)  # whether it is a thing
    joints: Joints = field(default_factory=Joints)
    has: set[str] = field(default_factory=set)  # the facts of which the documents speak


def find_coco(files: Files, problems: Problems, _: Options) -> Found:
    """The images that the JSON documents of a folder list, with all that these say of each.

    An image is looked up beside its document first, then below the source, then by its last folders and name.
    """
    merged = _Merged()
    for name in files.names:
        document = _document(files, name) if name.lower().endswith(".json") else None
        if document is not None:
            try:
                _merge(merged, name, document, problems)
            except (KeyError, IndexError, TypeError, AttributeError) as error:
                raise DataError(f"{files.source}: {name}: not as COCO's ({type(error).__name__}: {error})") from error
    if not merged.entries and not problems.found:
        raise DataError(f"{files.source}: no COCO JSON (with images and annotations) in it")
    images = [name for name in files.images() if not of_panoptic(name)]
    entries = _by_file(merged, images, problems)
    if len(entries) < len(images):
        alone = next(name for name in images if name not in entries)
        logger.warning(
            "%s: %d images are in no document: %s", files.source, len(images) - len(entries), shown_text(alone)
        )
    masks = _segment_files([name for name in files.images() if of_panoptic(name)], entries)
    keys = sample_keys(list(entries))
    items = [
        Item(keys[name], name, partial(_load, files, name, entry, merged.has, masks, problems))
        for name, entry in sorted(entries.items())
        if not entry.undecided
    ]
    return Found(items, _facts(merged))


def _facts(merged: _Merged) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if merged.classes:
        facts |= {"classes": list(merged.classes)}
        stuff = [name for name, thing in merged.classes.items() if not thing]
        facts |= {"stuff": stuff} if stuff else {}
    if merged.joints.names:
        names = merged.joints.names
        facts |= {"points": names, "skeleton": merged.joints.skeleton, "flip": flip_pairs(names)}
    return facts


def _document(files: Files, name: str) -> dict[str, Any] | None:
    """A COCO document, or None for any other JSON."""
    document = parse_json(files.read(name), f"{files.source}: {name}", kind=None)
    lists = isinstance(document, dict) and all(isinstance(document.get(key), list) for key in ("images", "annotations"))
    return document if lists else None


def _merge(merged: _Merged, name: str, document: Mapping[str, Any], problems: Problems) -> None:
    """Add what a document says; an annotation of an image or a category that is not listed is a problem."""
    categories = read_categories(document, name)
    for category in categories.values():
        merged.classes[category.name] = merged.classes.get(category.name, True) and category.thing
    joints = merged.joints.read(name, document, problems)
    images = _images(merged, name, document, problems)
    kinds = set()
    for place, annotation in enumerate(document["annotations"]):
        if not isinstance(annotation, Mapping):
            problems.add(
                "unreadable annotation", f"{name}: annotations[{place}]: expected an object, got {annotation!r}"
            )
            continue
        where = f"{name}: annotation {annotation.get('id', annotation.get('file_name'))}"
        entry = images.get(identifier(annotation.get("image_id")))
        if entry is None:
            problems.add("annotation without image", f"{where}: image {annotation.get('image_id')}")
            entry = _Entry(where, (None, None))  # of no image: what it says is of no use, but of which kind it is
        if "segments_info" in annotation:
            kinds.add("segments")
            _add_segments(entry, where, name, annotation, categories, problems)
            continue
        has_object = _is_object(annotation)
        if "caption" in annotation and (annotation["caption"] is not None or not has_object):
            kinds.add("captions")
            _add_caption(entry, where, annotation["caption"], problems)
        if has_object:
            kinds.add("objects")
            _add_object(entry, where, annotation, categories, joints)
    merged.has |= kinds or {"objects"}


def _images(merged: _Merged, name: str, document: Mapping[str, Any], problems: Problems) -> dict[Identifier, _Entry]:
    """The images of a document by number; those that share a number are a problem and are left out."""
    listed: dict[Identifier, dict[Reference, _Entry]] = {}
    for place, image in enumerate(document["images"]):
        if not isinstance(image, Mapping) or "id" not in image or not isinstance(image.get("file_name"), str):
            found = f"{name}: images[{place}]: expected an id and a file_name, got {str(image)[:60]}"
            problems.add("unreadable image entry", found)
            continue
        where = f"{name}: image {image['id']}"
        reference = Reference(f"{name}: images", image["file_name"], name)
        size = as_number(image.get("width")), as_number(image.get("height"))
        entry = merged.entries.setdefault(reference, _Entry(where, size))
        listed.setdefault(identifier(image["id"]), {})[reference] = entry
        _check_sizes(where, entry.size, size, problems)
    for number, same in listed.items():
        if len(same) > 1:
            names = ", ".join(reference.path for reference in same)
            problems.add("images of one number", f"{name}: image {number}: {names}")
            for entry in same.values():
                entry.undecided = True
    return {number: next(iter(same.values())) for number, same in listed.items() if len(same) == 1}


def _check_sizes(where: str, known: Size, size: Size, problems: Problems) -> None:
    if size != known and None not in (*size, *known):
        problems.add("image of two sizes", f"{where}: {size} and {known}")


def _is_object(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation is of a region; captions may carry empty fields of one."""
    if "caption" not in annotation:
        return True
    return any(annotation.get(name) for name in ("bbox", "segmentation", "keypoints"))


def _add_caption(entry: _Entry, where: str, caption: Any, problems: Problems) -> None:
    if not isinstance(caption, str) or not caption.strip():
        problems.add("missing caption", f"{where}: expected a text, got {caption!r}")
        return
    try:
        entry.captions.append(check_text(caption.strip(), where))
    except DataError as error:
        problems.add("unreadable caption", str(error))


def _add_segments(
    entry: _Entry,
    where: str,
    document: str,
    annotation: Mapping[str, Any],
    categories: Mapping[Identifier, Category],
    problems: Problems,
) -> None:
    path = annotation.get("file_name")
    if not isinstance(path, str):
        problems.add("missing panoptic picture", f"{where}: expected a file_name, got {path!r}")
    elif entry.segments is None:
        entry.segments = _Segments(Reference(where, path, document), annotation["segments_info"], categories)
    else:
        problems.add("two panoptic annotations", f"{entry.where}: {entry.segments.picture.path} and {path}")


def _add_object(
    entry: _Entry,
    where: str,
    annotation: Mapping[str, Any],
    categories: Mapping[Identifier, Category],
    joints: Mapping[Identifier, Sequence[str]],
) -> None:
    """An object; keypoints repeat that of the instances, with number and box, and add to it."""
    number = identifier(annotation.get("category_id", -1))
    box = annotation.get("bbox")
    edges = tuple(map(as_number, box)) if isinstance(box, list) else repr(box)  # documents write 10 and 10.0
    known = entry.objects.setdefault((identifier(annotation.get("id")), number, edges), {})
    category = categories.get(number)
    known |= {"where": where, "box": box, "label": category.name if category else None, "number": number}
    known["crowd"] = as_flag(annotation.get("iscrowd"))
    mask = annotation.get("segmentation")
    if isinstance(mask, list):
        mask = [polygon for polygon in mask if polygon != []]  # converters of boxes write [[]] where there is no mask
    if mask:
        known["mask"] = mask
    if annotation.get("area") is not None:
        known["area"] = annotation["area"]
    if "keypoints" in annotation:
        known["points"], known["joints"] = annotation["keypoints"], joints.get(number, ())


def _by_file(merged: _Merged, images: Sequence[str], problems: Problems) -> dict[str, _Entry]:
    """What all documents together say of each image that is there."""
    found: dict[str, _Entry] = {}
    for reference, file in zip(merged.entries, find_files(images, list(merged.entries)), strict=True):
        entry = merged.entries[reference]
        if isinstance(file, BadSampleError):
            problems.add(file.kind, str(file))
        elif file not in found:
            found[file] = entry
        else:
            known = found[file]
            _check_sizes(entry.where, known.size, entry.size, problems)
            for key, item in entry.objects.items():
                known.objects.setdefault(key, {}).update(item)
            known.undecided |= entry.undecided
            known.captions += entry.captions
            if known.segments and entry.segments:
                pictures = f"{known.segments.picture.path} and {entry.segments.picture.path}"
                problems.add("two panoptic annotations", f"{entry.where}: {pictures}")
            known.segments = known.segments or entry.segments
    return found


def _segment_files(masks: Sequence[str], entries: Mapping[str, _Entry]) -> dict[str, str | BadSampleError]:
    """The panoptic picture of each image."""
    wanted = {name: entry.segments.picture for name, entry in entries.items() if entry.segments}
    return dict(zip(wanted, find_files(masks, list(wanted.values())), strict=True))


def _load(
    files: Files,
    name: str,
    entry: _Entry,
    has: set[str],
    masks: Mapping[str, str | BadSampleError],
    problems: Problems,
) -> dict[str, Any]:
    picture = read_picture(files, name)
    if None not in entry.size and entry.size != (picture.width, picture.height):
        width, height = entry.size
        raise BadSampleError(
            "image of another size",
            f"{name}: the JSON says {width:g}×{height:g}, it is {picture.width}×{picture.height}",
        )
    facts: dict[str, Any] = {}
    if "objects" in has:
        objects = [(found["where"], partial(_object, found, picture)) for found in entry.objects.values()]
        facts["objects"] = sound_objects(name, objects, problems)
    if "captions" in has:
        facts["captions"] = entry.captions
    if "segments" in has:
        if entry.segments is None:
            raise BadSampleError("missing panoptic annotation", name)
        mask = masks[name]
        if isinstance(mask, BadSampleError):
            raise mask
        facts["segments"] = read_segments(files, mask, entry.segments.entries, entry.segments.categories, picture)
    return picture.columns(**facts)


def _object(found: Mapping[str, Any], picture: Picture) -> dict[str, Any]:
    where, box = found["where"], found["box"]
    if found["label"] is None:
        raise BadSampleError("label beyond the list", f"{where}: category {found['number']}")
    numbers = [as_number(value) for value in box] if isinstance(box, list) else []
    if len(numbers) != 4 or None in numbers:
        raise BadSampleError("box that is not four finite numbers", f"{where}: {box}")
    x, y, width, height = (number for number in numbers if number is not None)
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
    if "points" in found and (found["points"] or found["joints"]):
        made["points"] = _points(where, found["points"], found["joints"], picture)
    return made


def _points(where: str, values: Any, names: Sequence[str], picture: Picture) -> dict[str, list[float]]:
    """The labelled joints of an object; none of a body that is there, but whose joints nobody labelled."""
    numbers = [as_number(value) for value in values] if isinstance(values, list) else [None]
    found = [number for number in numbers if number is not None]
    if len(found) < len(numbers):
        raise BadSampleError("wrong joint", f"{where}: expected numbers, found {str(values)[:60]}")
    if len(found) != COORDINATES * len(names):
        raise BadSampleError(
            "missing joints", f"{where}: {len(found)} numbers for {len(names)} joints; expected {COORDINATES} each"
        )
    rows = [found[start : start + COORDINATES] for start in range(0, len(found), COORDINATES)]
    return {
        name: checked_point(f"{where}: {name}", x, y, visible, picture)
        for name, (x, y, visible) in zip(names, rows, strict=True)
        if not is_unlabelled(x, y, visible)
    }
