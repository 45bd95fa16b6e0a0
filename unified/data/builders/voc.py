"""Shards from Pascal VOC's XML: a file an image with the boxes of its objects."""

import codecs
import re
from functools import partial
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

from unified.core.errors import DataError
from unified.core.text_files import UTF_8, decode_text, shown_text
from unified.data.builders.annotations import (
    Picture,
    as_number,
    check_size,
    checked_box,
    class_label,
    read_picture,
    sound_objects,
)
from unified.data.builders.dense import Found, Options, class_names
from unified.data.builders.pairing import ROLES, Pair, Words, pair_files
from unified.data.builders.references import normalised
from unified.data.builders.sources import BadSampleError, Files, Item, Problems

ROOT = "annotation"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
FLAGS = ("difficult", "truncated", "occluded")
MASK_FOLDERS = re.compile(r"segmentation(class|object).*|masks?")
WORDS = Words("annotation", "missing annotation", "annotation without image")
OTHER_OBJECTS = frozenset(("object", "objects", "bndbox", "box", "bbox", "polygon", "xmin"))
"""Elements, in lower case, that tell of objects in another way than VOC's where there is no <object>."""
_DECLARED = re.compile(rb"^(?:\xef\xbb\xbf)?\s*<\?xml[^>]*?encoding\s*=\s*[\"']([^\"']*)[\"']")
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def find_voc(files: Files, problems: Problems, options: Options) -> Found:
    """The images that have an XML of the same place; classes are those named, or all that occur.

    VOC counts pixels from 1 and the last one belongs to the box: [xmin − 1, ymin − 1, xmax, ymax] are its edges. Index
    pictures of a devkit (SegmentationClass, SegmentationObject) are no images.
    """
    names = [name for name in files.names if name.lower().endswith(".xml")]
    trees: dict[str, ElementTree.Element] = {}
    for name in names:
        try:
            trees[name] = _tree(name, files.read(name))
        except DataError as error:
            problems.add("unreadable annotation", str(error))
    pairs = pair_files(_images(files, names), names, problems, WORDS, _file_names(trees))
    labels = {_label(found) for tree in trees.values() for found in tree.iter("object")}
    classes = class_names(options) or sorted(labels - {""})
    items = [
        _item(files, pair, trees[pair.annotation], classes, problems) for pair in pairs if pair.annotation in trees
    ]
    return Found(items, {"classes": classes})


def _images(files: Files, annotations: list[str]) -> list[str]:
    """All pictures but masks; what has an annotation beside it is no mask."""
    beside = {name.rpartition(".")[0] for name in annotations}
    return [name for name in files.images() if not _is_mask(name) or name.rpartition(".")[0] in beside]


def _is_mask(name: str) -> bool:
    """Whether the innermost folder that says what lies in it is one of masks."""
    folders = [folder.casefold() for folder in reversed(name.split("/")[:-1])]
    return next((MASK_FOLDERS.fullmatch(each) is not None for each in folders if _says(each)), False)


def _says(folder: str) -> bool:
    return folder in ROLES or MASK_FOLDERS.fullmatch(folder) is not None


def _tree(name: str, data: bytes) -> ElementTree.Element:
    """The root of an annotation; raises `DataError` where it is none of VOC's."""
    try:
        tree = ElementTree.fromstring(decode_text(data, name, _encoding(data)))
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{name}: {error}") from error
    if tree.tag != ROOT:
        raise DataError(f"{name}: expected VOC's root <{ROOT}>, got <{tree.tag}>. Hint: convert it to VOC or COCO")
    if tree.find(".//object") is None:
        tags = {str(each.tag).rpartition("}")[2].casefold(): each.tag for each in tree.iter()}
        other = sorted(OTHER_OBJECTS & set(tags))
        if other:
            raise DataError(f"{name}: expected objects as <object>, got <{tags[other[0]]}>. Hint: convert it to VOC")
    return tree


def _encoding(data: bytes) -> str:
    """The encoding that an XML declares, or that its byte-order mark says."""
    if data.startswith(_WIDE):
        return "utf-16"
    found = _DECLARED.match(data[:200])
    declared = found[1].decode("ascii", "replace").strip() if found else ""
    wide = declared.casefold().replace("_", "-").startswith(("utf-16", "ucs-2", "utf-8"))
    return UTF_8 if wide or not declared else declared  # a declaration that can be read byte by byte is not UTF-16


def _file_names(trees: dict[str, ElementTree.Element]) -> dict[str, str]:
    """The last part of the path of the image, as each annotation says."""
    said = {name: normalised((tree.findtext("filename") or "").strip()) for name, tree in trees.items()}
    return {name: PurePosixPath(path).name for name, path in said.items() if path}


def _label(found: ElementTree.Element) -> str:
    return class_label(found.findtext("name") or "")


def _item(files: Files, pair: Pair, tree: ElementTree.Element, classes: list[str], problems: Problems) -> Item:
    name = pair.annotation

    def load() -> dict[str, Any]:
        picture = read_picture(files, pair.image)
        size = tree.find("size")
        if size is not None:
            check_size(name, "annotation", [_number(name, size, side, "size") for side in ("height", "width")], picture)
        objects = []
        for number, found in enumerate(tree.iter("object")):
            where = f"{name}: object {number}"
            objects.append((where, partial(_object, where, found, classes, picture)))
        return picture.columns(objects=sound_objects(pair.image, objects, problems))

    return Item(pair.key, pair.image, load)


def _object(where: str, found: ElementTree.Element, classes: list[str], picture: Picture) -> dict[str, Any]:
    label, box = _label(found), found.find("bndbox")
    if label not in classes:
        raise BadSampleError("label beyond the list", f"{where}: {shown_text(label)}")
    if box is None:
        raise BadSampleError("missing box", where)
    x0, y0, x1, y1 = (_number(where, box, corner, "box") for corner in CORNERS)
    if x1 <= x0 or y1 <= y0:  # one pixel by VOC's count, but a slip of the mouse in truth
        raise BadSampleError("box without area", f"{where}: {[x0, y0, x1, y1]}")
    texts = {name: (found.findtext(name) or "").strip() for name in FLAGS}
    flags = {name: int(text) for name, text in texts.items() if text.isdecimal()}
    made = {"label": label, "box": checked_box(where, [x0 - 1, y0 - 1, x1, y1], picture), "crowd": False}
    return made | ({"attributes": flags} if flags else {})


def _number(where: str, parent: ElementTree.Element, name: str, what: str) -> float:
    text = parent.findtext(name)
    number = as_number(text)
    if number is None:
        raise BadSampleError(f"{what} that is not of finite numbers", f"{where}: {name} is {text!r}")
    return number
