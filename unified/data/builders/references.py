"""Files that tables and documents name: the path as somebody wrote it, and the one file of the source that it means.

Written paths are of other machines: absolute, with ../, with the separators of Windows, or the last part alone. The
best that fits counts: the path from the document's folder, the path from the source, its last folders, its last part.
Two written paths never share a file that the better one of them names.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from enum import IntEnum
from pathlib import PurePosixPath
from typing import NamedTuple

from unified.core.text_files import same_text, shown_text
from unified.data.builders.pairing import place, stem
from unified.data.builders.sources import BadSampleError

LISTED = 3  # candidates that a message names
SPLITS = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing"))
_TOKEN = re.compile("[a-z]+")
_DRIVE = re.compile(r"^[A-Za-z]:(?=/)")


class Reference(NamedTuple):
    """A path as a document writes it."""

    where: str
    """What an error names: document and row."""
    path: str
    document: str
    """Path of the document below the source."""


class Rank(IntEnum):
    """How well a file fits a written path, the best first."""

    BESIDE = 0
    EXACT = 1
    NEAR = 2
    END = 3
    BASE = 4


class _Claim(NamedTuple):
    file: str
    rank: Rank
    path: str
    folder: str


def find_files(names: Iterable[str], references: Sequence[Reference]) -> list[str | BadSampleError]:
    """Return the one file that each written path means, or what is wrong with it.

    Args:
        names: Paths below the source.
        references: What documents name.
    """
    search = _Search(names)
    found = [search.find(reference) for reference in references]
    claims: dict[str, set[_Claim]] = defaultdict(set)
    for claim in found:
        if isinstance(claim, _Claim):
            claims[claim.file].add(claim)
    return [_settled(claim, claims, reference) for claim, reference in zip(found, references, strict=True)]


def _settled(
    claim: _Claim | BadSampleError, claims: dict[str, set[_Claim]], reference: Reference
) -> str | BadSampleError:
    """The file, unless it is another's: one that fits worse is of a file that is not there."""
    if isinstance(claim, BadSampleError):
        return claim
    other = next((other for other in claims[claim.file] if _contradicts(claim, other)), None)
    if other is None:
        return claim.file
    return _missing(reference, f"{claim.file} is that of {shown_text(other.path)} in {other.folder or 'the source'}")


def _contradicts(claim: _Claim, other: _Claim) -> bool:
    """Whether a file that fits by its last parts alone is that of another written path."""
    if claim.rank < Rank.END or claim == other:
        return False
    if claim.rank == Rank.BASE and "/" in claim.path and "/" in other.path:
        one, two = f"/{claim.path}", f"/{other.path}"
        if not one.endswith(two) and not two.endswith(one):
            return True
    apart = claim.folder and claim.folder != other.folder and not other.folder.startswith(f"{claim.folder}/")
    return bool(apart) and other.rank in (Rank.BESIDE, Rank.NEAR)


class _Search:
    def __init__(self, names: Iterable[str]) -> None:
        self.by_path: dict[str, list[str]] = defaultdict(list)
        self.by_base: dict[str, list[str]] = defaultdict(list)
        for name in sorted(names):
            self.by_path[same_text(name)].append(name)
            self.by_base[same_text(PurePosixPath(name).name)].append(name)
        self.folders = {part for name in self.by_path for part in name.split("/")[:-1]}

    def find(self, reference: Reference) -> _Claim | BadSampleError:
        """Return the file that fits best, or `BadSampleError` where there is none, or several."""
        folder = same_text(posixpath.dirname(reference.document))
        for written in dict.fromkeys((same_text(reference.path), normalised(reference.path))):
            for rank, path in ((Rank.BESIDE, posixpath.join(folder, written)), (Rank.EXACT, written)):
                found = self.by_path.get(_inside(path), [])
                if found:
                    return self._one(found, rank, written, reference)
        written = normalised(reference.path)
        candidates = self.by_base.get(PurePosixPath(written).name, [])
        candidates = [name for name in candidates if _same_split(posixpath.join(reference.document, written), name)]
        shared = max((_shared(written, name) for name in candidates), default=0)
        parent = PurePosixPath(_inside(written)).parent.name
        if shared < 2 and parent in self.folders:
            candidates = []
        ends = [name for name in candidates if _shared(written, name) == shared]
        if not ends:
            return _missing(reference, "no file of this name")
        return self._one(ends, Rank.END if shared > 1 else Rank.BASE, written, reference)

    def _one(self, found: list[str], rank: Rank, written: str, reference: Reference) -> _Claim | BadSampleError:
        if rank > Rank.EXACT:
            near = _near(found, written, reference)
            if near:
                found, rank = near, Rank.NEAR
        if len(found) > 1:
            which = f"one of {', '.join(found[:LISTED])}"
            return BadSampleError("ambiguous image", f"{reference.where}: {reference.path}: {which}")
        return _Claim(found[0], rank, _inside(written), _below_roles(posixpath.dirname(reference.document)))


def _near(found: Sequence[str], written: str, reference: Reference) -> list[str]:
    """The one candidate that lies where the document does: in its place, below its folder, or in one of its name."""
    folder = _below_roles(posixpath.dirname(reference.document))
    same = [name for name in found if same_text(place(name)) == place(posixpath.join(folder, _inside(written)))]
    if len(same) == 1:
        return same
    own = [name for name in found if folder and f"{_below_roles(posixpath.dirname(name))}/".startswith(f"{folder}/")]
    if len(own) == 1:
        return own
    title = stem(reference.document).casefold()
    named = [name for name in found if title.endswith(PurePosixPath(name).parent.name.casefold() or "/")]
    return named if len(named) == 1 else []


def _same_split(written: str, name: str) -> bool:
    """Whether a file may be meant: not one in train/ by a document of the validation part."""
    one, other = (
        {token[:3] for token in _TOKEN.findall(text.casefold()) if token in SPLITS}
        for text in (written, posixpath.dirname(name))
    )
    return not one or not other or bool(one & other)


def normalised(path: str) -> str:
    """Return a written path with slashes, composed letters and without a drive."""
    return _DRIVE.sub("", same_text(path).replace("\\", "/"))


def _inside(path: str) -> str:
    """The path without steps out of the source."""
    parts = posixpath.normpath(path).split("/")
    while parts and parts[0] in ("..", "", "."):
        parts.pop(0)
    return "/".join(parts)


def _below_roles(folder: str) -> str:
    return posixpath.dirname(place(f"{same_text(folder)}/x")) if folder else ""


def _shared(written: str, name: str) -> int:
    """How many last parts two paths share."""
    count = 0
    for one, other in zip(reversed(_inside(written).split("/")), reversed(same_text(name).split("/")), strict=False):
        if one != other:
            break
        count += 1
    return count


def _missing(reference: Reference, why: str) -> BadSampleError:
    windows = " (backslashes were read as separators)" if "\\" in reference.path else ""
    return BadSampleError("missing image", f"{reference.where}: {reference.path}: {why}{windows}")
