"""COCO's panoptic annotations: a picture whose colours are segment numbers, and JSON that says what each one is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from unified.data.build.annotations import Picture, check_size, encode_mask
from unified.data.build.sources import BadSampleError, Files
from unified.data.decode import decode_image


@dataclass(frozen=True)
class Category:
    """What a category number stands for."""

    name: str
    thing: bool


def is_panoptic(document: Mapping[str, Any]) -> bool:
    """Whether the annotations of a COCO document are panoptic."""
    return any("segments_info" in annotation for annotation in document["annotations"])


def read_categories(document: Mapping[str, Any]) -> dict[int, Category]:
    """The categories by number, in that order; a category that does not say so is a thing."""
    found = {
        item["id"]: Category(item["name"], bool(item.get("isthing", 1))) for item in document.get("categories", ())
    }
    return dict(sorted(found.items()))


def read_entries(document: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The segments of each picture, by the name of its panoptic picture without suffix."""
    return {entry["file_name"].rpartition(".")[0]: entry["segments_info"] for entry in document["annotations"]}


def of_panoptic(name: str) -> bool:
    """Whether a file lies among panoptic pictures or masks."""
    return any("panoptic" in part or part == "masks" for part in PurePosixPath(name).parts[:-1])


def read_segments(
    files: Files,
    name: str,
    entries: Sequence[Mapping[str, Any]],
    categories: Mapping[int, Category],
    picture: Picture,
) -> list[dict[str, Any]]:
    """The segments of a picture, each with its name, whether it is a thing, and its mask as run lengths."""
    try:
        colours = decode_image(files.read(name)).numpy().astype(np.int64)
    except (ValueError, OSError, SyntaxError) as error:
        raise BadSampleError("unreadable panoptic picture", f"{name}: {error}") from error
    check_size(name, "panoptic picture", colours.shape[1:], picture)
    numbers = colours[0] + 256 * colours[1] + 256**2 * colours[2]
    if not all(isinstance(entry.get("id"), int) for entry in entries):
        raise BadSampleError("segment without a number", name)
    unlisted = sorted(set(np.unique(numbers).tolist()) - {0} - {entry["id"] for entry in entries})
    if unlisted:
        raise BadSampleError("segment without an entry", f"{name}: {unlisted[:3]}")
    return [_segment(name, numbers == entry["id"], entry, categories) for entry in entries]


def _segment(name: str, pixels: Any, entry: Mapping[str, Any], categories: Mapping[int, Category]) -> dict[str, Any]:
    category = categories.get(entry.get("category_id", -1))
    if category is None:
        raise BadSampleError("label beyond the list", f"{name}: category {entry.get('category_id')}")
    if not pixels.any():
        raise BadSampleError("segment without pixels", f"{name}: {entry['id']}, {category.name}")
    crowd = {"crowd": True} if entry.get("iscrowd") else {}
    return {"label": category.name, "thing": category.thing, "mask": encode_mask(pixels), **crowd}
