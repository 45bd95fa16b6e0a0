"""Shards from a folder of images and index PNGs of the same names, whose numbers are classes."""

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from unified.core.errors import DataError
from unified.core.log import logger
from unified.data.builders.annotations import check_size, index_picture, read_map, read_picture
from unified.data.builders.dense import Found, Options, class_names
from unified.data.builders.pairing import Pair, Words, by_place, pair_places
from unified.data.builders.sources import BadSampleError, Files, Item, Problems

IMAGE_FOLDERS = ("images", "image", "img", "JPEGImages")
NONE = 255  # means no label in any source, unless the list of classes goes so far
WORDS = Words("mask", "missing mask", "mask without image")


class Numbers:
    """What the numbers in the masks of a source mean."""

    def __init__(self, classes: list[str], ignore: int | None) -> None:
        self.classes = classes
        self.none = {ignore} | ({NONE} if len(classes) <= NONE else set())
        self.places = {number: number for number in range(len(classes))}
        self.undecided = False
        """Whether a mask of 0 and 255 alone could mean either: 255 was not said to be no label."""

    def become_binary(self) -> None:
        """Make 255 the second class."""
        self.none -= {NONE}
        self.places = {0: 0, NONE: 1}


def find_masks(files: Files, problems: Problems, options: Options) -> Found:
    """The pictures of one folder, each with the index PNG of the same path in the other.

    255 means no label. Where all masks hold 0 and 255 alone, as drawing tools write them, it is the second of two
    classes, unless `options.ignore` says otherwise.
    """
    classes = class_names(options)
    if classes is None:
        raise DataError(f"{files.source}: name the classes in the order of their numbers: --classes sky,road,car")
    if options.ignore is not None and 0 <= options.ignore < len(classes):
        raise DataError(f"--ignore {options.ignore} is the class {classes[options.ignore]!r} in the list of --classes")
    pairs = _pairs(files, problems)
    numbers = Numbers(classes, options.ignore)
    if options.ignore != NONE and len(classes) <= NONE:
        _read_binary(files, [pair.annotation for pair in pairs], numbers)
    return Found([_item(files, pair, numbers) for pair in pairs], {"classes": classes})


def _read_binary(files: Files, masks: Iterable[str], numbers: Numbers) -> None:
    """Find out whether masks are of 0 and 255 alone; the first that holds another number ends the search."""
    found: set[int] = set()
    for name in masks:
        try:
            found |= set(np.unique(read_map(files.read(name), name, "mask")).tolist())
        except BadSampleError:
            continue  # packing tells what is wrong with it
        if found - {0, NONE, *numbers.none}:
            numbers.undecided = len(numbers.classes) == 2
            return
    if NONE not in found:
        return
    if len(numbers.classes) != 2:
        raise DataError(
            f"{files.source}: expected masks of the numbers of {len(numbers.classes)} classes, got 0 and {NONE} alone. "
            f"Hint: name two classes, for 0 and {NONE}, or say --ignore {NONE} where it is no label"
        )
    numbers.become_binary()
    logger.info("%s: masks of 0 and %d alone; %d is the class %r", files.source, NONE, NONE, numbers.classes[1])


def _pairs(files: Files, problems: Problems) -> list[Pair]:
    """Images and masks of one path below their folders."""
    names = files.images()
    tops = sorted({PurePosixPath(name).parts[0] for name in names if "/" in name})
    first = [top for top in tops if top in IMAGE_FOLDERS]
    if len(tops) != 2 or len(first) != 1:
        raise DataError(
            f"{files.source}: expected two folders with pictures, of which one is called {', '.join(IMAGE_FOLDERS)}; "
            f"found {', '.join(tops) or 'none'}"
        )
    images = [name for name in names if name.startswith(f"{first[0]}/")]
    others = [name for name in names if "/" in name and not name.startswith(f"{first[0]}/")]
    return pair_places(by_place(images, _below), by_place(others, _below), problems, WORDS)


def _below(name: str) -> str:
    """The path below the top folder, without suffix."""
    path = PurePosixPath(name.partition("/")[2])
    return path.with_name(path.stem).as_posix()


def _item(files: Files, pair: Pair, numbers: Numbers) -> Item:
    mask = pair.annotation

    def load() -> dict[str, Any]:
        picture = read_picture(files, pair.image)
        stored = read_map(files.read(mask), mask, "mask")
        check_size(mask, "mask", stored.shape, picture)
        if numbers.undecided and set(np.unique(stored).tolist()) in ({0, NONE}, {NONE}):
            raise BadSampleError(
                "ambiguous mask", f"{mask}: 0 and {NONE} alone, among masks of 0 and 1; --ignore {NONE}: it is no label"
            )
        made = index_picture(stored, mask, numbers.places, numbers.none, len(numbers.classes))
        return {**picture.columns(), "classes.png": made}

    return Item(pair.key, pair.image, load)
