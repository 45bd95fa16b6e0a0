"""The one walk of a folder of users' files, for builders, evaluation and prediction, and how files are found by name.

Links are followed, hidden files and the litter of systems are left out, nothing but regular files is named, and what
had to be passed over is told: a name that is not UTF-8 can be no key, and a link in a circle has no end.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unified.core.errors import DataError
from unified.core.text_files import is_text, same_text, shown_text

LITTER = frozenset(
    {
        *("__macosx", "icon\r", "network trash folder", "temporary items"),  # macOS; its other names begin with a dot
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),  # Windows
        *("@eadir", "#recycle", "#snapshot", "@tmp", "lost+found", "__pycache__"),  # network drives, Linux, Python
    }
)
"""Names, in lower case, that systems and tools leave in folders of data; those with a dot in front are hidden."""
NOT_UTF_8 = "name that is not UTF-8"
NO_TARGET = "link without a target"
CIRCLE = "link in a circle"
NO_FILE = "neither file nor folder"
UNREADABLE = "unreadable folder"


@dataclass(frozen=True)
class PassedOver:
    """A file or folder that could not be taken, and why."""

    name: str
    """Path below the folder, with a slash at the end where it is a folder."""
    kind: str
    """One of the constants of this module: NOT_UTF_8, NO_TARGET and so on."""
    where: str
    """The name as a message may print it, and what was found."""

    @property
    def suffix(self) -> str:
        """The ending of a file's name in lower case; empty for folders."""
        return suffix_of(self.name)


@dataclass(frozen=True)
class Folder:
    """What lies in a folder, by path below it with slashes, sorted."""

    files: tuple[str, ...]
    folders: tuple[str, ...]
    passed_over: tuple[PassedOver, ...]
    hidden: tuple[str, ...]
    """Hidden files, hidden folders and litter; nothing inside of them is listed."""


def suffix_of(name: str) -> str:
    """Return the ending of a file's name in lower case, with its dot; empty where there is none."""
    return PurePosixPath(name).suffix.lower() if not name.endswith("/") else ""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or litter of a system: `.DS_Store`, `._a.png`, `Thumbs.db`."""
    return name.startswith(".") or name.lower() in LITTER


def walk_folder(folder: Path) -> Folder:
    """List a folder with all that lies below it; raise `DataError` where it is none or cannot be read."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    return sort_names(_walk(folder))


def subfolders(folder: Path) -> list[Path]:
    """Return the folders that lie in a folder, links to some among them, sorted, without hidden ones and litter."""
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name) and path.is_dir())


def holds_file(folder: Path, suffixes: Iterable[str], depth: int = 1) -> bool:
    """Return whether a file lies somewhere below a folder, without a walk through all of it.

    Args:
        folder: Where to look.
        suffixes: Endings of the files that count, in lower case with a dot.
        depth: Folders that the file must at least lie in, below `folder`.
    """
    wanted = frozenset(suffixes)
    entries = (entry for entry in _walk(folder) if isinstance(entry, str))
    return any(suffix_of(name) in wanted and name.count("/") >= depth and not _has_hidden(name) for name in entries)


def sort_names(entries: Iterable[str | PassedOver]) -> Folder:
    """Return what a folder or an archive lists as a `Folder`.

    Args:
        entries: Paths with slashes, those of folders with one at the end, and what was passed over already. Folders
            that are not listed themselves are added.
    """
    files, folders, passed, hidden = set[str](), set[str](), dict[str, PassedOver](), set[str]()
    for entry in entries:
        if isinstance(entry, PassedOver):
            passed.setdefault(entry.name, entry)
            continue
        parts = entry.split("/")
        if first := next((place for place, part in enumerate(parts, start=1) if is_hidden(part)), None):
            hidden.add("/".join(parts[:first]))
            continue
        if wrong := next((place for place, part in enumerate(parts, start=1) if not is_text(part)), None):
            name = "/".join(parts[:wrong]) + "/" * (wrong < len(parts))
            passed.setdefault(name, PassedOver(name, NOT_UTF_8, f"{shown_text(name)}: rename it"))
            continue
        folders.update("/".join(parts[:place]) for place in range(1, len(parts)))
        if parts[-1]:
            files.add(entry)
    told = tuple(passed[name] for name in sorted(passed))
    return Folder(tuple(sorted(files)), tuple(sorted(folders)), told, tuple(sorted(hidden)))


def _walk(folder: Path) -> Iterator[str | PassedOver]:
    """Each file and folder below a folder; hidden folders are named, and not entered."""
    pending: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(folder),))]
    while pending:
        inside, above = pending.pop()
        try:
            with os.scandir(folder / inside) as listing:
                entries = list(listing)
        except OSError as error:
            if not inside:
                raise DataError(f"{folder}: expected a folder that can be read, got {error.strerror}") from error
            yield PassedOver(inside, UNREADABLE, f"{shown_text(inside)}: {error.strerror}")
            continue
        for entry in entries:
            name = f"{inside}{entry.name}"
            if is_hidden(entry.name) or not is_text(entry.name):
                yield f"{name}/" if _is_folder(entry) else name
                continue
            taken = _taken(entry, name, above)
            yield taken
            if isinstance(taken, str) and taken.endswith("/"):
                real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(above[-1], entry.name)
                pending.append((taken, (*above, real)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links that lead to each other
        return False


def _taken(entry: os.DirEntry[str], name: str, above: tuple[str, ...]) -> str | PassedOver:
    """The path of a file or folder, or why it is passed over; `above`: the real places of the folders it lies in."""
    shown = shown_text(name)
    try:
        if entry.is_dir():
            if entry.is_symlink() and _leads_up(os.path.realpath(entry.path), above):
                return PassedOver(f"{name}/", CIRCLE, f"{shown}: leads to a folder that it lies in; remove the link")
            return f"{name}/"
        if entry.is_file():
            return name
        if entry.is_symlink() and not os.path.exists(entry.path):
            target = shown_text(os.readlink(entry.path))
            return PassedOver(name, NO_TARGET, f"{shown}: leads to {target}, which does not exist")
    except OSError as error:
        return PassedOver(name, CIRCLE if entry.is_symlink() else NO_FILE, f"{shown}: {error.strerror}")
    return PassedOver(name, NO_FILE, f"{shown}: expected a regular file, got a pipe, a socket or a device")


def _leads_up(target: str, above: tuple[str, ...]) -> bool:
    """Whether a link leads to one of these folders, or to one that holds it."""
    start = os.path.join(target, "")
    return any(os.path.join(folder, "").startswith(start) for folder in above)


def _has_hidden(name: str) -> bool:
    return any(map(is_hidden, name.split("/")))


class FileFinder:
    """Finds the files that a table or a document names: as written, with slashes for backslashes, in either form of
    Unicode."""

    def __init__(self, folder: Path) -> None:
        """Relative names begin at `folder`."""
        self.folder = folder
        self._listed: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> Path:
        """Return the regular file of a name; raise `DataError` that says why there is none, and what is there."""
        for written in dict.fromkeys((name, name.replace("\\", "/"))):
            try:
                exact = self.folder / written
                if exact.is_file():
                    return exact
                found = self._in_other_form(Path(written))
            except (OSError, ValueError) as error:  # a name of too many characters, or with a zero byte
                raise DataError(f"{shown_text(name)}: expected the name of a file, got one that none has") from error
            if len(found) == 1:
                return found[0]
            if found:
                raise DataError(
                    f"{shown_text(name)}: expected one file, got {len(found)} whose names differ in their Unicode form"
                )
        raise DataError(f"{shown_text(name)}: {self._why_missing(name)}")

    def _in_other_form(self, written: Path) -> list[Path]:
        """The files whose path is `written` but for composed and decomposed letters."""
        if written.as_posix().isascii():
            return []
        places = [Path(written.anchor) if written.is_absolute() else self.folder]
        for part in written.parts[bool(written.anchor) :]:
            if part == ".." or part.isascii():
                places = [place / part for place in places]
            else:
                places = [place / name for place in places for name in self._names(place).get(same_text(part), ())]
        return [place for place in places if place.is_file()]

    def _names(self, folder: Path) -> dict[str, list[str]]:
        """The names in a folder by their composed form."""
        if folder not in self._listed:
            self._listed[folder] = by_composed_name(sorted(os.listdir(folder)) if folder.is_dir() else ())
        return self._listed[folder]

    def _why_missing(self, name: str) -> str:
        """What is wrong with a name that no file has."""
        path = self.folder / name.replace("\\", "/")
        if "\\" in name and name[1:2] == ":":
            return "expected a path below the table, got one of a Windows drive"
        if "://" in name:
            return "expected a file, got a URL; download it first"
        if path.is_dir():
            return "expected a file, got a folder"
        if os.path.lexists(path):
            return "expected a regular file, got a link without a target, a pipe or a device"
        wanted = same_text(path.name).casefold()
        near = [
            one for names in self._names(path.parent).values() for one in names if same_text(one).casefold() == wanted
        ]
        return f"no such file; there is {shown_text(near[0])}" if near else "no such file"


def by_composed_name(names: Iterable[str]) -> dict[str, list[str]]:
    """Return names by their composed form (NFC), under which those that another file writes are looked up."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(same_text(name), []).append(name)
    return found
