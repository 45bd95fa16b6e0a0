"""Where evaluated samples come from: shards, or a plain folder of class folders read like shards."""

import hashlib
from pathlib import Path
from typing import Any, Protocol

from unified.data.patterns import MANIFEST, read_manifest
from unified.data.shards import Shards
from unified.labels import CLASS_NAMES
from unified.modalities.image_formats import IMAGES
from unified.types import DataError

COUNT = "nshards.txt"  # CLIP_benchmark's mark of a folder of shards


class Source(Protocol):
    """Numbered raw samples: bytes by column, with "__key__" and "__shard__"."""

    @property
    def digest(self) -> str:
        """A hash of all content."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> dict[str, Any]: ...


class ImageFolder:
    """FOLDER/CLASS/picture as samples with the picture's column and `cls`, the place of the class in sorted order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.classes = class_folders(folder)
        if not self.classes:
            raise DataError(f"{folder}: no class folders with pictures ({', '.join(IMAGES[:4])}, …) in it")
        self.files = [(path, number) for number, name in enumerate(self.classes) for path in _pictures(folder / name)]

    @property
    def digest(self) -> str:
        """A hash of all names and pictures."""
        total = hashlib.sha256()
        for path, _ in self.files:
            total.update(f"{path.relative_to(self.folder)}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> dict[str, Any]:
        path, label = self.files[number]
        return {
            "__key__": path.relative_to(self.folder).with_suffix("").as_posix(),
            "__shard__": str(self.folder),
            path.suffix.lower().lstrip("."): path.read_bytes(),
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
        if not (folder / MANIFEST).is_file() and not any(folder.glob("*.tar")) and class_folders(folder):
            return ImageFolder(folder)
    return Shards.open(list(names))


def _counted(folder: Path) -> Shards:
    """The shards 0.tar … of a CLIP_benchmark folder; as many as it says."""
    text = (folder / COUNT).read_text(encoding="utf-8").strip()
    if not text.isdecimal():
        raise DataError(f"{folder / COUNT}: expected a number of shards, found {text!r}")
    shards = [folder / f"{number}.tar" for number in range(int(text))]
    missing = [path.name for path in shards if not path.is_file()]
    if missing or not shards:
        raise DataError(f"{folder}: {COUNT} says {text} shards; missing: {', '.join(missing[:5]) or 'all'}")
    return Shards.open(shards)


def class_folders(folder: Path) -> list[str]:
    """Names of the folders that directly hold pictures, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and next(_pictures(path), None) is not None)


def class_names(data: str | tuple[str, ...]) -> list[str] | str | None:
    """The class names that come with data: of the manifest or the class folders, or a folder for `load_labels`."""
    folder = Path(data if isinstance(data, str) else data[0])
    if not folder.is_dir():
        return None
    if (folder / MANIFEST).is_file() and "classes" in (manifest := read_manifest(folder)):
        return [str(name) for name in manifest["classes"]]
    for place in (folder, folder.parent):
        if (place / CLASS_NAMES).is_file():
            return str(place)
    if not any(folder.glob("*.tar")) and (names := class_folders(folder)):
        return [name.replace("_", " ") for name in names]
    return None


def _pictures(folder: Path) -> Any:
    return (path for path in sorted(folder.iterdir()) if path.suffix.lower().lstrip(".") in IMAGES and path.is_file())
