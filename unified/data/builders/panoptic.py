"""COCO's panoptic annotations: a picture whose colours are segment numbers, and JSON that says what each one is."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from unified.core.errors import DataError, quoted
from unified.core.text_files import check_text
from unified.data.builders.annotations import (
    Picture,
    as_flag,
    as_number,
    check_size,
    class_label,
    encode_mask,
)
from unified.data.builders.sources import BadSampleError, Files
from unified.modalities.image.files import decode_image

Identifier = int | str


@dataclass(frozen=True)
class Category:
    """What a category number stands for."""

    name: str
    thing: bool


def is_panoptic(document: Mapping[str, Any]) -> bool:
    """Whether the annotations of a COCO document are panoptic."""
    return any("segments_info" in item for item in document["annotations"] if isinstance(item, Mapping))


def read_categories(document: Mapping[str, Any], where: str) -> dict[Identifier, Category]:
    """Return the categories by number, in that order; a category that does not say so is a thing.

    Args:
        document: As COCO's.
        where: What an error names.

    Raises:
        DataError: A number comes twice, or a name is none.
    """
    found: dict[Identifier, Category] = {}
    for place, item in enumerate(categories_of(document, where)):
        if not isinstance(item, Mapping) or "id" not in item or "name" not in item:
            raise DataError(f"{where}: categories[{place}]: expected an id and a name, got {quoted(item)}")
        number, name = identifier(item["id"]), item["name"]
        if number in found:
            raise DataError(f"{where}: expected categories of different numbers, got {number!r} twice")
        if isinstance(name, bool) or not isinstance(name, str | int | float) or not str(name).strip():
            raise DataError(f"{where}: expected a name of category {number!r}, got {quoted(name)}")
        label = check_text(class_label(str(name)), f"{where}: category {number!r}")
        found[number] = Category(label, as_flag(item.get("isthing", 1)))
    return dict(sorted(found.items(), key=lambda entry: (isinstance(entry[0], str), entry[0])))


def categories_of(document: Mapping[str, Any], where: str) -> list[Any]:
    """Return the categories that a document lists; raise `DataError` where they are no list."""
    listed = document.get("categories") or []
    if not isinstance(listed, list):
        raise DataError(f"{where}: categories: expected a list, got {quoted(listed)}")
    return listed


def identifier(value: Any) -> Identifier:
    """Return the number of an image, a category or an annotation, also where it is stored as text or as 3.0."""
    number = as_number(value)
    if number is not None and number.is_integer():
        return int(number)
    return value if isinstance(value, str) else quoted(value)  # lists, objects and null identify nothing else


def of_panoptic(name: str) -> bool:
    """Whether a file lies among panoptic pictures or masks."""
    return any("panoptic" in part or part == "masks" for part in PurePosixPath(name).parts[:-1])


def read_segments(
    files: Files,
    name: str,
    entries: Sequence[Mapping[str, Any]],
    categories: Mapping[Identifier, Category],
    picture: Picture,
) -> list[dict[str, Any]]:
    """The segments of a picture, each with its name, whether it is a thing, and its mask as run lengths."""
    try:
        colours = decode_image(files.read(name)).numpy().astype(np.int64)
    except (ValueError, OSError, SyntaxError) as error:
        raise BadSampleError("unreadable panoptic picture", f"{name}: {error}") from error
    check_size(name, "panoptic picture", colours.shape[1:], picture)
    numbers = colours[0] + 256 * colours[1] + 256**2 * colours[2]
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise BadSampleError("unreadable segments", f"{name}: expected a list of objects, got {str(entries)[:60]}")
    listed = [identifier(entry.get("id")) for entry in entries]
    if not all(isinstance(number, int) for number in listed):
        raise BadSampleError("segment without a number", name)
    if len(set(listed)) < len(listed):
        raise BadSampleError("segment with two entries", f"{name}: {Counter(listed).most_common(1)[0][0]}")
    unlisted = sorted(set(np.unique(numbers).tolist()) - {0} - set(listed))
    if unlisted:
        raise BadSampleError("segment without an entry", f"{name}: {unlisted[:3]}")
    return [_segment(name, numbers == number, entry, categories) for number, entry in zip(listed, entries, strict=True)]


def _segment(
    name: str, pixels: Any, entry: Mapping[str, Any], categories: Mapping[Identifier, Category]
) -> dict[str, Any]:
    category = categories.get(identifier(entry.get("category_id", -1)))
    if category is None:
        raise BadSampleError("label beyond the list", f"{name}: category {entry.get('category_id')}")
    if not pixels.any():
        raise BadSampleError("segment without pixels", f"{name}: {entry['id']}, {category.name}")
    crowd = {"crowd": True} if as_flag(entry.get("iscrowd")) else {}
    return {"label": category.name, "thing": category.thing, "mask": encode_mask(pixels), **crowd}
