"""Shards from Pascal VOC's XML: a file an image with the boxes of its objects."""

from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

from unified.data.build.annotations import Picture, check_size, checked_box, read_picture
from unified.data.build.dense import Found, Options, class_names
from unified.data.build.sources import BadSampleError, Files, Item, Problems, sample_key

CORNERS = ("xmin", "ymin", "xmax", "ymax")
FLAGS = ("difficult", "truncated", "occluded")


def find_voc(files: Files, problems: Problems, options: Options) -> Found:
    """The images beside whose name there is an XML, wherever both lie; classes are those named, or all that occur.

    VOC counts pixels from 1 and the last one belongs to the box: [xmin − 1, ymin − 1, xmax, ymax] are its edges.
    """
    annotations: dict[str, tuple[str, ElementTree.Element]] = {}
    for name in files.names:
        if name.lower().endswith(".xml"):
            try:
                annotations[PurePosixPath(name).stem] = name, ElementTree.fromstring(files.read(name))
            except (ElementTree.ParseError, BadSampleError) as error:
                problems.add("unreadable annotation", f"{name}: {error}")
    images = {PurePosixPath(name).stem: name for name in files.images()}
    for stem in sorted(set(annotations) - set(images)):
        problems.add("annotation without image", annotations[stem][0])
    for stem in sorted(set(images) - set(annotations)):
        problems.add("missing annotation", images[stem])
    labels = {_label(found) for _, tree in annotations.values() for found in tree.iter("object")}
    classes = class_names(options) or sorted(labels - {""})
    items = [_item(files, images[stem], *annotations[stem], classes) for stem in sorted(set(images) & set(annotations))]
    return Found(items, {"classes": classes})


def _label(found: ElementTree.Element) -> str:
    return (found.findtext("name") or "").strip()


def _item(files: Files, image: str, name: str, tree: ElementTree.Element, classes: list[str]) -> Item:
    def load() -> dict[str, Any]:
        picture = read_picture(files, image)
        size = tree.find("size")
        if size is not None:
            check_size(name, "annotation", (_number(name, size, "height"), _number(name, size, "width")), picture)
        found = [
            _object(f"{name}: object {number}", item, classes, picture)
            for number, item in enumerate(tree.iter("object"))
        ]
        return picture.columns(objects=found)

    return Item(sample_key(PurePosixPath(image).name), image, load)


def _object(where: str, found: ElementTree.Element, classes: list[str], picture: Picture) -> dict[str, Any]:
    label, box = _label(found), found.find("bndbox")
    if label not in classes:
        raise BadSampleError("label beyond the list", f"{where}: {label!r}")
    if box is None:
        raise BadSampleError("missing box", where)
    x0, y0, x1, y1 = (_number(where, box, corner) for corner in CORNERS)
    if x1 <= x0 or y1 <= y0:  # one pixel by VOC's count, but a slip of the mouse in truth
        raise BadSampleError("box without area", f"{where}: {[x0, y0, x1, y1]}")
    flags = {name: int(_number(where, found, name)) for name in FLAGS if (found.findtext(name) or "").strip().isdigit()}
    made = {"label": label, "box": checked_box(where, [x0 - 1, y0 - 1, x1, y1], picture), "crowd": False}
    return made | ({"attributes": flags} if flags else {})


def _number(where: str, parent: ElementTree.Element, name: str) -> float:
    text = parent.findtext(name)
    try:
        return float(text or "")
    except ValueError:
        raise BadSampleError("box that is not four finite numbers", f"{where}: {name} is {text!r}") from None
