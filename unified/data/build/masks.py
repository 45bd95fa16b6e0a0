"""Shards from a folder of images and index PNGs of the same names, whose numbers are classes."""

from collections.abc import Container
from pathlib import PurePosixPath
from typing import Any

from unified.data.build.annotations import by_stem, check_size, index_picture, read_map, read_picture
from unified.data.build.dense import Found, Options, class_names
from unified.data.build.sources import Files, Item, Problems, sample_key
from unified.types import DataError

IMAGE_FOLDERS = ("images", "image", "img", "JPEGImages")
NONE = 255  # means no label in any source, unless the list of classes goes so far


def find_masks(files: Files, problems: Problems, options: Options) -> Found:
    """The pictures of one folder, each with the index PNG of the same path in the other."""
    classes = class_names(options)
    if classes is None:
        raise DataError(f"{files.source}: name the classes in the order of their numbers: --classes sky,road,car")
    if options.ignore is not None and 0 <= options.ignore < len(classes):
        raise DataError(f"--ignore {options.ignore} is the class {classes[options.ignore]!r} in the list of --classes")
    images, masks = _folders(files)
    for stem in sorted(set(images) - set(masks)):
        problems.add("missing mask", images[stem])
    for stem in sorted(set(masks) - set(images)):
        problems.add("mask without image", masks[stem])
    none = {options.ignore} | ({NONE} if len(classes) <= NONE else set())
    items = [_item(files, images[stem], masks[stem], classes, none) for stem in sorted(set(images) & set(masks))]
    return Found(items, {"classes": classes})


def _folders(files: Files) -> tuple[dict[str, str], dict[str, str]]:
    """Images and masks by their paths below their folders."""
    names = files.images()
    tops = sorted({PurePosixPath(name).parts[0] for name in names if "/" in name})
    first = [top for top in tops if top in IMAGE_FOLDERS]
    if len(tops) != 2 or len(first) != 1:
        raise DataError(
            f"{files.source}: expected two folders with pictures, of which one is called {', '.join(IMAGE_FOLDERS)}; "
            f"found {', '.join(tops) or 'none'}"
        )
    (other,) = set(tops) - set(first)
    return by_stem(names, f"{first[0]}/"), by_stem(names, f"{other}/")


def _item(files: Files, image: str, mask: str, classes: list[str], none: Container[int | None]) -> Item:
    def load() -> dict[str, Any]:
        picture = read_picture(files, image)
        stored = read_map(files.read(mask), mask, "mask")
        check_size(mask, "mask", stored.shape, picture)
        places = {number: number for number in range(len(classes))}
        made = index_picture(stored, mask, places, none, len(classes))
        return {**picture.columns(), "classes.png": made}

    return Item(sample_key(image.partition("/")[2]), image, load)
