"""Which image a file of annotations is of: told by their paths below the source, folder by folder.

Folders that say what lies in them (JPEGImages, Annotations) do not count: a file's place is its path without these and
without its suffix. Files of one place belong together. A folder of annotations without images of its own may be of the
folders below it. Anything else is a problem, never a choice.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from unified.core.text_files import same_text
from unified.data.builders.sources import Problems, sample_key

IMAGE_FOLDERS = frozenset(
    ("images", "image", "imgs", "img", "jpegimages", "pngimages", "photos", "pictures", "rgb", "color", "colour")
)
ANNOTATION_FOLDERS = frozenset(
    ("annotations", "annotation", "annots", "annot", "labels", "label", "xmls", "xml", "groundtruth", "ground_truth")
)
ROLES = IMAGE_FOLDERS | ANNOTATION_FOLDERS
SPLITS = frozenset(("train", "training", "trainval", "val", "valid", "validation", "dev", "test", "testing"))

Places = Mapping[str, Sequence[str]]


class Pair(NamedTuple):
    """An image, its file of annotations, and the key of the sample."""

    key: str
    image: str
    annotation: str


class Words(NamedTuple):
    """How a kind of annotations is called in problems."""

    name: str  # "annotation"
    missing: str  # "missing annotation"
    without: str  # "annotation without image"


def stem(name: str) -> str:
    """Return the last part of a path without its suffix."""
    return PurePosixPath(name).stem


def place(name: str, roles: Iterable[str] = ROLES) -> str:
    """Return the path of a file without its suffix and the folders that say what lies in them.

    Args:
        name: Path below the source.
        roles: Names of these folders, in lower case.
    """
    *folders, _ = name.split("/")
    return "/".join([folder for folder in folders if folder.casefold() not in roles] + [stem(name)])


def by_place(names: Iterable[str], place_of: Callable[[str], str]) -> dict[str, list[str]]:
    """Return all files of each place; composed and decomposed letters are the same."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        found[same_text(place_of(name))].append(name)
    return dict(found)


def pair_places(images: Places, annotations: Places, problems: Problems, words: Words) -> list[Pair]:
    """Return the pairs of equal places; several files of one place are a problem and are left out.

    Args:
        images: All images by place.
        annotations: All files of annotations by place.
        problems: Receives what has no counterpart, or several.
        words: How the annotations are called.
    """
    pairs = []
    for where in sorted({*images, *annotations}):
        found, others = images.get(where, ()), annotations.get(where, ())
        if len(found) > 1 or len(others) > 1:
            kind = f"ambiguous {'image' if len(found) > 1 else words.name}"
            problems.add(kind, f"{', '.join((*found, *others))}: expected one image and one {words.name} of this name")
        elif not others:
            problems.add(words.missing, found[0])
        elif not found:
            problems.add(words.without, others[0])
        else:
            pairs.append(Pair(sample_key(f"{where}."), found[0], others[0]))
    return pairs


def pair_files(
    images: Sequence[str],
    annotations: Sequence[str],
    problems: Problems,
    words: Words,
    file_names: Mapping[str, str] | None = None,
) -> list[Pair]:
    """Return images and the files of annotations that are theirs, wherever both lie.

    Args:
        images: Paths below the source.
        annotations: The same.
        problems: Receives what has no counterpart, or several.
        words: How the annotations are called.
        file_names: The last part of the image's path, where a file of annotations gives it.
    """
    search = _Search(images, annotations, file_names or {})
    claims: dict[str, list[str]] = defaultdict(list)
    told: set[str] = set()

    def claim(found: Mapping[str, Sequence[str]]) -> None:
        for name, candidates in found.items():
            if len(candidates) == 1:
                claims[candidates[0]].append(name)
            elif candidates:
                problems.add("ambiguous image", f"{name}: one of {', '.join(candidates[:3])}")
                told.update((name, *candidates))

    claim({name: search.candidates(name) for name in annotations})
    left = sorted({*annotations} - told - {name for names in claims.values() for name in names})
    claim(search.farther(left, [image for image in images if image not in claims]))
    for image, names in claims.items():
        if len(names) > 1:
            problems.add(f"ambiguous {words.name}", f"{image}: one of {', '.join(names[:3])}")
    told.update(claims, *claims.values())
    for name in (name for name in annotations if name not in told):
        problems.add(words.without, name)
    for image in (image for image in images if image not in told):
        problems.add(words.missing, image)
    keys = sample_keys(list(images), search.roles)
    return [Pair(keys[image], image, names[0]) for image, names in sorted(claims.items()) if len(names) == 1]


def sample_keys(names: Sequence[str], roles: Iterable[str] = ROLES) -> dict[str, str]:
    """Return the key of each image: its place, or its whole path where several have this place.

    Args:
        names: Paths below the source.
        roles: Names of folders that say what lies in them, in lower case.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        found[sample_key(f"{place(name, roles)}.")].append(name)
    return {name: key if len(same) == 1 else sample_key(name) for key, same in found.items() for name in same}


class _Search:
    """The images of a source by place and by stem."""

    def __init__(self, images: Sequence[str], annotations: Sequence[str], file_names: Mapping[str, str]) -> None:
        self.roles = ROLES | _learned(images, annotations) | _learned(annotations, images)
        self.images = by_place(images, self._place)
        self.folders = {_folder(where) for where in self.images}
        self.annotated = {_folder(self._same(name)) for name in annotations}
        self.file_names = file_names

    def _place(self, name: str) -> str:
        return place(name, self.roles)

    def _same(self, name: str) -> str:
        return same_text(self._place(name))

    def candidates(self, name: str) -> list[str]:
        """Return the images of the same place; of several those in the same folder, then the one of the file name."""
        found = self.images.get(self._same(name), [])
        found = [image for image in found if _folder(image) == _folder(name)] or found
        if len(found) > 1:
            found = [image for image in found if PurePosixPath(image).name == self.file_names.get(name)] or found
        return found

    def farther(self, annotations: Sequence[str], images: Sequence[str]) -> dict[str, list[str]]:
        """Return, of images that nothing claims, those with the file name, or with the same stem in a folder below."""
        by_stem: dict[str, list[str]] = defaultdict(list)
        by_name: dict[tuple[str, str], list[str]] = defaultdict(list)
        for image in images:
            by_stem[same_text(stem(image))].append(image)
            by_name[_folder(self._same(image)), same_text(PurePosixPath(image).name)].append(image)
        found = {}
        for name in annotations:
            where = self._same(name)
            named = by_name.get((_folder(where), same_text(self.file_names.get(name, ""))), [])
            related = [image for image in by_stem.get(same_text(stem(name)), ()) if self._related(image, name)]
            if where not in self.images and (named or related):
                found[name] = named or related
        return found

    def _related(self, image: str, annotation: str) -> bool:
        """Whether one lies in a folder below that of the other which has no counterpart of its own."""
        inner, outer = _folder(self._same(image)), _folder(self._same(annotation))
        if _inside(inner, outer):
            return inner not in self.annotated
        return _inside(outer, inner) and outer not in self.folders


def _learned(names: Sequence[str], others: Sequence[str]) -> frozenset[str]:
    """The topmost folder that all files of one side share and none of the other has, unless known ones say enough."""
    stems = {same_text(stem(name)) for name in others}
    paths = [_folder(name).casefold().split("/") for name in names if same_text(stem(name)) in stems]
    if not paths or all(ROLES & set(path) for path in paths):
        return frozenset()
    shared = set(paths[0]).intersection(*paths) - SPLITS - {""}
    shared -= {folder for name in others for folder in _folder(name).casefold().split("/")}
    return frozenset([folder for folder in paths[0] if folder in shared][:1])


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _inside(inner: str, outer: str) -> bool:
    return inner != outer and (not outer or inner.startswith(f"{outer}/"))
