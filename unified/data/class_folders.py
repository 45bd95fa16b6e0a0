"""Class folders: which folders are classes and which are parts, and how classes are called, for builder and evaluation.

A class is the name that a model is asked by: that of its folder in composed form, with spaces for underscores.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from unified.config.labels import name_key
from unified.core.text_files import same_text

SPLITS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing")


@dataclass(frozen=True)
class ClassFolders:
    """The images of a folder of class folders, or of one of its parts."""

    images: dict[str, str]
    """The class of each image, by its path."""
    loose: tuple[str, ...]
    """Images that lie outside of class folders."""
    empty: tuple[str, ...]
    """Folders without images where class folders lie."""

    @property
    def classes(self) -> list[str]:
        """The names of classes, sorted: the order of their numbers."""
        return sorted(set(self.images.values()))


def class_name(text: str) -> str:
    """Return the name that a model is asked by for a folder's: `golden_retriever` is "golden retriever"."""
    return name_key(text) or same_text(text)


def class_names(folders: Iterable[str]) -> dict[str, str]:
    """Return the class of each folder by its name; folders whose names differ in underscores alone keep them."""
    composed = {folder: same_text(folder) for folder in folders}
    known: dict[str, set[str]] = {}
    for name in composed.values():
        known.setdefault(class_name(name), set()).add(name)
    return {
        folder: class_name(name) if len(known[class_name(name)]) == 1 else name for folder, name in composed.items()
    }


def split_folders(images: Sequence[str], folders: Sequence[str]) -> list[str]:
    """Return the parts at the top (train, test, …), or "" where the class folders lie there.

    They are parts where every folder with images is called like one; folders without, such as one of annotations, are
    passed over beside them.
    """
    holding = {name.split("/", 1)[0] for name in images if "/" in name}
    tops = sorted(folder for folder in folders if "/" not in folder)
    known = [top for top in tops if top.lower() in SPLITS]
    return known if known and holding <= set(known) else [""]


def read_class_folders(images: Sequence[str], folders: Sequence[str], split: str = "") -> ClassFolders:
    """Return the images of a part by class.

    Args:
        images: Paths of all images, with slashes.
        folders: Paths of all folders.
        split: The part, as `split_folders` names it.
    """
    start = f"{split}/" if split else ""
    inside = {name: name.removeprefix(start) for name in images if name.startswith(start)}
    labels = {name: below.split("/", 1)[0] for name, below in inside.items() if "/" in below}
    known = {folder.removeprefix(start).split("/")[0] for folder in folders if folder.startswith(start)}
    names = class_names(set(labels.values()))
    return ClassFolders(
        {name: names[label] for name, label in labels.items()},
        tuple(name for name, below in inside.items() if "/" not in below),
        tuple(f"{start}{folder}" for folder in sorted(known - set(labels.values()))),
    )
