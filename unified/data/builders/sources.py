"""The user's files, in a folder or in a zip, and the list of what was wrong with them."""

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from unified.core.errors import DataError
from unified.core.folders import sort_names, walk_folder
from unified.core.log import logger
from unified.core.seed import key
from unified.core.text_files import check_texts, decode_text, shown_text
from unified.data.builders.archives import EntryError, ZipArchive, size_problem
from unified.data.samples.decode import decode_column
from unified.data.shards.write import ShardWriter, encode, progress
from unified.modalities.image.files import count_frames_in
from unified.modalities.image.formats import (
    ANNOTATIONS,
    ENDINGS,
    FORMATS,
    IMAGE_ENDINGS,
    IMAGES,
    describe_others,
    describe_unread,
    ending,
    image_column,
    read_start,
    sort_images,
)

SEED = "pack 1"
LISTED = 5  # problems that an error names
READ = IMAGE_ENDINGS | ANNOTATIONS
"""Endings of the files that builders read: others that cannot be read are no problem."""
RESERVED = re.compile("__[^/]*__(?=/|$)")  # at the start of a member's name: metadata, in webdataset's shards


class Files:
    """Files and folders by their path relative to a folder or to the root of a zip; hidden ones are left out."""

    def __init__(self, source: Path) -> None:
        self.source = source
        if not source.exists():
            raise DataError(f"{source}: no such folder or zip")
        self._sorted: tuple[list[str], list[str]] | None = None
        self._zip = ZipArchive(source) if source.is_file() else None
        self._listed = sort_names(self._zip.names) if self._zip else walk_folder(source)
        self._prefix = _wrapper(self._listed.files) if self._zip else ""
        self.names = [name.removeprefix(self._prefix) for name in self._listed.files]
        inside = [name for name in self._listed.folders if name.startswith(self._prefix)]
        self.folders = [name.removeprefix(self._prefix) for name in inside]

    def report(self, problems: "Problems") -> None:
        """Add what could not be taken: names that are not UTF-8, links that lead nowhere or in a circle."""
        for passed in self._listed.passed_over:
            if passed.name.endswith("/") or passed.suffix.removeprefix(".") in READ:
                problems.add(passed.kind, passed.where)
        others = [name for name in self._sort()[1] if ending(name) not in ANNOTATIONS]
        if others:
            logger.info("%s: %s", self.source, describe_others(others))
        if self._listed.hidden:
            first = ", ".join(map(shown_text, self._listed.hidden[:LISTED]))
            more = ", …" if len(self._listed.hidden) > LISTED else ""
            logger.info(
                "%s: %d hidden files and folders left out: %s%s", self.source, len(self._listed.hidden), first, more
            )

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises `BadSampleError` where they cannot be read."""
        try:
            if self._zip:
                return self._zip.read(self._prefix + name)
            return read_file(self.source / name)
        except EntryError as error:
            raise BadSampleError("unreadable file", str(error)) from error
        except OSError as error:
            raise BadSampleError("unreadable file", f"{self.source}: {name}: {error}") from error

    def images(self) -> list[str]:
        """The names of images: by their suffix, and by their first bytes where that does not say what they are."""
        return self._sort()[0]

    def _sort(self) -> tuple[list[str], list[str]]:
        """Images and other files."""
        if self._sorted is None:
            self._sorted = sort_images(self.names, self._start)
        return self._sorted

    def _start(self, name: str) -> bytes:
        """The first bytes of a file; none where it cannot be read."""
        return self._zip.start(self._prefix + name) if self._zip else read_start(self.source / name)

    def close(self) -> None:
        """Close the zip."""
        if self._zip:
            self._zip.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_file(path: Path) -> bytes:
    """Return the bytes of a user's file; raise `BadSampleError` where there are more than a file of a source has."""
    with path.open("rb") as file:
        facts = os.fstat(file.fileno())
        problem = size_problem(path.name, facts.st_size)
        if not stat.S_ISREG(facts.st_mode):
            problem = "expected a regular file, got a device or a pipe"
        if problem:
            raise BadSampleError("unreadable file", f"{path}: {problem}")
        return file.read(facts.st_size)


def _wrapper(names: Sequence[str]) -> str:
    """The folder that holds everything in a zip, where there are class folders inside it; otherwise nothing."""
    tops = {name.split("/", 1)[0] for name in names}
    deep = all(name.count("/") >= 2 for name in names)
    return f"{tops.pop()}/" if len(tops) == 1 and deep else ""


class BadSampleError(DataError):
    """A sample that cannot be packed, and the kind of trouble under which it is counted."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Item:
    """A sample to be: its key, the file or row it comes from, and how its columns are read (or `BadSampleError`)."""

    key: str
    name: str
    load: Callable[[], dict[str, Any]]


@dataclass
class Problems:
    """What was wrong with a source: gathered while building, then an error or, on request, a list in the manifest."""

    source: Path
    skip: bool
    found: list[tuple[str, str]] = field(default_factory=list)  # (kind, where and what)
    part: str | None = None
    """The part that is being packed; before, problems are of all parts."""
    _parts: list[str | None] = field(default_factory=list)  # of each problem
    _known: set[tuple[str, str]] = field(default_factory=set)

    def add(self, kind: str, where: str) -> None:
        """One thing that keeps a sample or one of its objects out; what is read twice is counted once.

        `where` is stored as text, with escapes for what is none.
        """
        where = where.encode(errors="backslashreplace").decode()
        if (kind, where) not in self._known:
            self._known.add((kind, where))
            self.found.append((kind, where))
            self._parts.append(self.part)

    def counts(self) -> dict[str, int]:
        """How many problems of each kind there are."""
        return dict(Counter(kind for kind, _ in self.found))

    def settle(self, written: int) -> Callable[[str], dict[str, Any]]:
        """What the manifest of a part says of them; `DataError` naming the first ones unless they are to be skipped."""
        if not self.found and written:
            return lambda _: {}
        counts = ", ".join(f"{count:,} × {kind}" for kind, count in self.counts().items()) or "nothing to pack in it"
        if not self.skip or not written:
            first = "".join(f"\n  {kind}: {where}" for kind, where in self.found[:LISTED])
            more = f"\n  … and {len(self.found) - LISTED:,} more" if len(self.found) > LISTED else ""
            hint = "\nMend these, or leave them out with --skip-bad." if written else ""
            raise DataError(f"{self.source}: {counts}{first}{more}{hint}")
        logger.warning("%s: skipped %s; listed in the manifest", self.source, counts)
        return self._skipped

    def _skipped(self, part: str) -> dict[str, Any]:
        found = zip(self.found, self._parts, strict=True)
        listed = [f"{kind}: {where}" for (kind, where), of in found if of in (None, part)]
        return {"skipped": listed} if listed else {}


def sample_key(name: str) -> str:
    """The key of a file's sample: its path without suffix, and "_" for dots in its name, which would cut the key.

    A first folder like `__background__` loses underscores: webdataset takes such members for metadata.
    """
    folder, slash, base = name.rpartition("/")
    stem = base.rpartition(".")[0] or base
    key = f"{folder}{slash}{stem.replace('.', '_')}"
    return RESERVED.sub(lambda found: f"_{found[0].strip('_')}_", key) if RESERVED.match(key) else key


def picture(data: bytes, name: str, place: str) -> tuple[str, bytes]:
    """The column of a picture and its untouched bytes; raises `BadSampleError` where it cannot be decoded."""
    return measured(data, name, place)[:2]


def measured(data: bytes, name: str, place: str) -> tuple[str, bytes, int, int]:
    """The same as `picture`, with the height and the width that it has when it stands upright."""
    column = image_column(name, data)
    if column is None:
        kind = describe_unread(data, name)
        raise BadSampleError(
            "unknown image format",
            f"{name}: expected an image ({', '.join(FORMATS)}), got {kind.name}. Hint: {kind.hint}",
        )
    try:
        pixels = decode_column({"__shard__": place, "__key__": name, column: data}, column)
    except DataError as error:
        raise BadSampleError("unreadable image", str(error)) from error
    return column, data, *pixels.shape[-2:]


def caption(files: Files, name: str) -> str:
    """A UTF-8 file without the white space around it; raises `BadSampleError` where it is empty or not UTF-8."""
    data = files.read(name)
    try:
        text = decode_text(data, name).strip()
    except DataError as error:
        raise BadSampleError("unreadable caption", str(error)) from error
    if not text:
        raise BadSampleError("missing caption", f"{name} is empty")
    return text


def pack(writer: ShardWriter, items: Sequence[Item], problems: Problems, series: str) -> int:
    """Write the samples in a keyed order, so that neighbours differ; returns how many could be written.

    Where pictures have several frames, the manifest says how many pictures have how many, and the log names the first.
    """
    first: dict[str, Item] = {}
    for item in items:
        other = first.setdefault(item.key, item)
        if other is not item:
            problems.add("duplicate key", f"{item.name} and {other.name} would both be sample {item.key!r}")
    written, frames, renamed = 0, list[tuple[str, int]](), list[tuple[str, str]]()
    ordered = sorted(first.values(), key=lambda item: key(SEED, item.key))
    for item in progress(ordered, len(ordered), f"packing {series}"):
        try:
            columns = item.load()
            stored = _stored(item, columns)
        except BadSampleError as error:
            problems.add(error.kind, str(error))
        else:
            writer.write(item.key, stored, series)
            written += 1
            frames += [(item.name, count) for count in map(count_frames_in, _pictures(columns).values()) if count > 1]
            renamed += [(item.name, column) for column in _pictures(columns) if _is_renamed(item.name, column)]
    _tell_frames(writer, frames, written, series)
    _tell_formats(renamed, series)
    return written


def _stored(item: Item, columns: Mapping[str, Any]) -> dict[str, bytes]:
    """The columns as bytes; raises `BadSampleError` where UTF-8 cannot store a text, or the key, or JSON a number."""
    try:
        item.key.encode()
        return {name: encode(value) for name, value in columns.items()}
    except UnicodeEncodeError:
        try:
            for name, value in (("key", item.key), *columns.items()):
                check_texts(value, f"{item.name}: {name}")
        except DataError as error:
            raise BadSampleError("text that is no Unicode", str(error)) from error
        raise
    except (ValueError, RecursionError) as error:  # NaN and infinity, which JSON of others cannot read
        raise BadSampleError("value that JSON cannot hold", f"{item.name}: expected finite numbers: {error}") from error


def _pictures(columns: Mapping[str, Any]) -> dict[str, bytes]:
    return {name: data for name, data in columns.items() if name in IMAGES}


def _is_renamed(name: str, column: str) -> bool:
    """Whether the ending of a file says another format than the one that it has."""
    return ending(name) in IMAGE_ENDINGS and not any({ending(name), column} <= {*known} for known in ENDINGS.values())


def _tell_formats(renamed: Sequence[tuple[str, str]], series: str) -> None:
    """Say which images are stored under another format than their name says."""
    if renamed:
        counts = Counter((ending(name), column) for name, column in renamed)
        told = ", ".join(f"{count:,} × .{given} as {column}" for (given, column), count in counts.most_common())
        logger.info("packing %s: images whose suffix is of another format: %s (%s)", series, told, renamed[0][0])


def _tell_frames(writer: ShardWriter, several: list[tuple[str, int]], written: int, series: str) -> None:
    """Say how many frames pictures have where some have several."""
    if several:
        counts = Counter({1: written - len(several)}) + Counter(count for _, count in several)
        writer.manifest["frames"] = {str(count): counts[count] for count in sorted(counts)}
        first = ", ".join(f"{name}: {count}" for name, count in sorted(several)[:LISTED])
        more = f" and {len(several) - LISTED:,} more" if len(several) > LISTED else ""
        logger.info("packing %s: frames of animated images: %s%s", series, first, more)


def describe_frames(counts: Mapping[str, int]) -> str:
    """Say what a manifest's `frames`, numbers of images by their frames, mean for training."""
    several = {int(frames): images for frames, images in counts.items() if int(frames) > 1}
    total, most = sum(counts.values()), max(several)
    frames = f"{min(several)} to {most} frames" if len(several) > 1 else f"{most} frames"
    return (
        f"{sum(several.values()):,} of {total:,} images are animated ({frames}). They are read as videos where "
        "model.modalities.image.frames is at least as many; else training names them as bad samples, and evaluation "
        "refuses them"
    )
