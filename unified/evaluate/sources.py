"""Where evaluated samples come from: shards, or a plain folder of class folders read like shards."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from unified.core.errors import DataError
from unified.core.folders import Folder, holds_file, subfolders, walk_folder
from unified.core.log import logger
from unified.core.text_files import read_text
from unified.data.builders.sources import read_file, sample_key
from unified.data.class_folders import SPLITS, read_class_folders
from unified.data.class_lists import class_list_file, lists_of_shards, manifest_classes
from unified.data.shards.patterns import MANIFEST, tars_in
from unified.data.shards.shards import Shards
from unified.modalities.image.formats import (
    FORMATS,
    IMAGE_ENDINGS,
    describe_unread,
    image_column,
    read_start,
    sort_images,
)

SUFFIXES = frozenset(f".{ending}" for ending in IMAGE_ENDINGS)
COUNT = "nshards.txt"  # CLIP_benchmark's mark of a folder of shards
LISTED = 5


class Source(Protocol):
    """Numbered raw samples: bytes by column, with "__key__" and "__shard__"."""

    @property
    def digest(self) -> str:
        """A hash of all content."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> dict[str, Any]: ...


class ImageFolder:
    """FOLDER/CLASS/… as the samples that `unified shards build` makes of it.

    Where the folder is a part beside others (train, test), classes are numbered for all of them, as in shards.
    """

    def __init__(self, folder: Path) -> None:
        """Raises `DataError` where no class folder holds images, or one of them cannot be read."""
        self.folder = folder
        listed = walk_folder(folder)
        _check_passed_over(folder, listed)
        found = read_class_folders(_images(folder, listed), listed.folders)
        if not found.images:
            raise DataError(f"{folder}: no class folders with pictures ({', '.join(FORMATS)}) in it")
        self._left_out = {"images outside of class folders": found.loose, "empty class folders": found.empty}
        self.classes = sorted({*found.classes, *_classes_of_parts(folder)})
        number = {name: place for place, name in enumerate(self.classes)}
        self.files = sorted(((name, number[label]) for name, label in found.images.items()), key=lambda one: one[::-1])

    def warn(self) -> None:
        """Log what is left out."""
        for what, names in self._left_out.items():
            if names:
                more = ", …" if len(names) > LISTED else ""
                first = ", ".join(names[:LISTED])
                logger.warning("%s: %d %s left out: %s%s", self.folder, len(names), what, first, more)

    @property
    def digest(self) -> str:
        """A hash of all names and pictures."""
        total = hashlib.sha256()
        for name, _ in self.files:
            total.update(f"{name}\0".encode())
            total.update(hashlib.sha256((self.folder / name).read_bytes()).digest())
        return total.hexdigest()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> dict[str, Any]:
        name, label = self.files[number]
        data = read_file(self.folder / name)
        column = image_column(name, data)
        if column is None:
            kind = describe_unread(data, name)
            raise DataError(
                f"{self.folder / name}: expected an image ({', '.join(FORMATS)}), got {kind.name}. Hint: {kind.hint}"
            )
        return {
            "__key__": sample_key(name),
            "__shard__": str(self.folder),
            column: data,
            "cls": str(label).encode(),
            "txt": self.classes[label].encode(),
        }


def open_source(data: str | tuple[str, ...]) -> Source:
    """The samples that a spec's `data` names: shards (a folder, a pattern, several), or one folder of class folders."""
    names = (data,) if isinstance(data, str) else data
    if len(names) == 1 and Path(names[0]).is_dir():
        folder = Path(names[0])
        if (folder / COUNT).is_file():
            return _counted(folder)
        if not (folder / MANIFEST).is_file() and not any(tars_in(folder)) and holds_class_folders(folder):
            found = ImageFolder(folder)
            found.warn()
            return found
    return Shards.open(list(names))


def _counted(folder: Path) -> Shards:
    """The shards 0.tar … of a CLIP_benchmark folder; as many as it says."""
    text = read_text(folder / COUNT).strip()
    if not text.isdecimal():
        raise DataError(f"{folder / COUNT}: expected a number of shards, found {text!r}")
    shards = [folder / f"{number}.tar" for number in range(int(text))]
    missing = [path.name for path in shards if not path.is_file()]
    if missing or not shards:
        raise DataError(f"{folder}: {COUNT} says {text} shards; missing: {', '.join(missing[:5]) or 'all'}")
    return Shards.open(shards)


def holds_class_folders(folder: Path) -> bool:
    """Whether class folders with pictures lie in a folder, and not parts with class folders in them."""
    return any(top.name.lower() not in SPLITS and holds_file(top, SUFFIXES, depth=0) for top in subfolders(folder))


def class_names(data: str | tuple[str, ...]) -> list[str] | str | None:
    """The class names that come with data: of the manifest or the class folders, or a folder for `load_labels`."""
    folder = Path(data if isinstance(data, str) else data[0])
    if not folder.is_dir():
        return None
    if (listed := manifest_classes(folder)) is not None:
        return [*listed]
    if (file := class_list_file(folder)) is not None:
        return str(file.parent)
    if not any(tars_in(folder)) and holds_class_folders(folder):
        return ImageFolder(folder).classes
    return None


def class_lists(source: Source) -> Mapping[str, tuple[str, ...]]:
    """Return the class names that the shards of a source count, by their path, where these are known."""
    if isinstance(source, ImageFolder):
        return {str(source.folder): tuple(source.classes)}
    return lists_of_shards(file.name for file in source.files) if isinstance(source, Shards) else {}


def _images(folder: Path, listed: Folder) -> list[str]:
    return sort_images(listed.files, lambda name: read_start(folder / name))[0]


def _check_passed_over(folder: Path, listed: Folder) -> None:
    """Refuse to evaluate a part of the pictures without a word."""
    wrong = [one for one in listed.passed_over if one.name.endswith("/") or one.suffix in SUFFIXES]
    if wrong:
        first = "".join(f"\n  {one.kind}: {one.where}" for one in wrong[:LISTED])
        more = f"\n  … and {len(wrong) - LISTED:,} more" if len(wrong) > LISTED else ""
        raise DataError(
            f"{folder}: expected folders of pictures that can be read, got {len(wrong):,} others{first}{more}"
        )


def _classes_of_parts(folder: Path) -> set[str]:
    """The classes of the parts beside a part, which are counted together; none where the folder is no part."""
    if folder.resolve().name.lower() not in SPLITS or folder.name in ("", ".", ".."):
        return set()
    beside = [top for top in subfolders(folder.parent) if top.name != folder.name]
    parts = [top for top in beside if top.name.lower() in SPLITS]
    if any(holds_file(top, SUFFIXES, depth=0) for top in beside if top not in parts):
        return set()
    listings = {part: walk_folder(part) for part in parts}
    found = (read_class_folders(_images(part, listed), listed.folders) for part, listed in listings.items())
    return {name for folders in found for name in folders.classes}
