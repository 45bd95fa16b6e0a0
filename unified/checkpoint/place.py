"""Where checkpoints lie: a folder of this machine, or one of an object store, by a URL of fsspec.

A folder is written under another name and renamed when it is complete. Stores cannot rename: files go there under
their final names, the manifest last, and what has no manifest is no checkpoint; for the same reason the manifest is
removed first.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any, BinaryIO, cast

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from unified.core.consent import check_locations
from unified.core.errors import CheckpointError, quoted
from unified.core.locations import shown
from unified.core.log import logger
from unified.core.schema import read_yaml

Location = Path | str
"""A folder, or the URL of one: `s3://bucket/run`, `hf://buckets/org/name/run`, `file:///data/run`."""
STEP = re.compile(r"step_(\d{8,})")
MANIFEST = "manifest.json"
_WRITING, _REMOVING = ".writing_", ".removing_"  # folders under these names are never read


def checkpoints_of(run: Path, place: str = "") -> Location:
    """Return where a run keeps its checkpoints.

    Args:
        run: The folder of the run.
        place: As `train.checkpoints`: a path, relative ones to the run's folder, or a URL; "": as the recipe in its
            folder says.

    Raises:
        UserError: The recipe in its folder names an address, and consent was not given.
    """
    place = place or _recorded_place(run / "recipe.yaml") or "checkpoints"
    return place if "://" in place else run / place


def _recorded_place(recipe: Path) -> str:
    """The `train.checkpoints` of a run's recipe; "" where it names none."""
    train = (read_yaml(recipe).get("train") or {}) if recipe.is_file() else {}
    found = (train.get("checkpoints") or "") if isinstance(train, Mapping) else train
    if not isinstance(found, str):
        key = "checkpoints" if isinstance(train, Mapping) else "train"
        raise CheckpointError(f"{recipe}: {key}: expected a folder or a URL, got {quoted(found)}")
    check_locations([found], str(recipe))
    return found


class Place:
    """A folder of this machine's file system, or of one that all its processes share."""

    ahead = 0
    """Bytes that are read at once where fewer are asked for."""
    mend = "Make room on the disk (or lower train.keep_last)"
    """What people do where writing failed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    @property
    def location(self) -> Location:
        """What `place` makes this of."""
        return self.path

    def __str__(self) -> str:
        return shown(str(self.location))

    def child(self, name: str) -> "Place":
        """The folder `name` in this one."""
        return Place(self.path / name)

    @property
    def parent(self) -> "Place":
        """The folder that this one is in."""
        return Place(self.path.parent)

    def names(self) -> list[str]:
        """What is here; nothing where there is no such folder."""
        return [path.name for path in self.path.iterdir()] if self.path.is_dir() else []

    def checkpoints(self) -> list[str]:
        """What is here and is named like a checkpoint."""
        return [name for name in self.names() if STEP.fullmatch(name)]

    def size(self, file: str) -> int | None:
        """Bytes of a file; None where there is none."""
        path = self.path / file
        return path.stat().st_size if path.is_file() else None

    def read(self, file: str, start: int = 0, end: int | None = None) -> bytearray:
        """Bytes `start` to `end` of a file."""
        with (self.path / file).open("rb") as content:
            content.seek(start)
            data = bytearray(max((os.fstat(content.fileno()).st_size if end is None else end) - start, 0))
            del data[content.readinto(data) :]
            return data

    def hash(self, file: str) -> str:
        """The blake2b of a file."""
        with (self.path / file).open("rb") as content:
            return _hash(content)

    def put(self, file: str, write: Callable[[Path], None]) -> dict[str, Any]:
        """Have a file written; waits until it is safe, and returns its size and hash for the manifest."""
        path = self.path / file
        write(path)
        with path.open("rb") as content:
            os.fsync(content.fileno())
            return {"bytes": os.fstat(content.fileno()).st_size, "blake2b": _hash(content)}

    def prepare(self, name: str) -> None:
        """Make ready to write the checkpoint `name` here: remove what killed processes left."""
        self.path.mkdir(parents=True, exist_ok=True)
        for prefix in (_WRITING, _REMOVING):
            for path in self.path.glob(f"{prefix}*"):
                shutil.rmtree(path)
        (self.path / f"{_WRITING}{name}").mkdir()

    def draft(self, name: str, *, standing: bool) -> "Place":  # noqa: ARG002 - a store has only one place for both
        """Where the files of a checkpoint are written; `standing`: a complete one of that name stays as it is."""
        return self.child(f"{_WRITING}{name}")

    def publish(self, name: str, *, standing: bool) -> None:
        """Give a complete draft its name, or drop it where another stands."""
        draft = self.path / f"{_WRITING}{name}"
        if standing:
            self.draft(name, standing=True).remove()
            return
        _sync(draft)
        os.replace(draft, self.path / name)
        _sync(self.path)

    def remove(self) -> None:
        """Remove this folder so that no moment shows half of it under the name of a checkpoint."""
        path = self.path
        if not path.exists():
            return
        try:
            if STEP.fullmatch(path.name):
                path = path.rename(path.with_name(f"{_REMOVING}{path.name}"))
            shutil.rmtree(path)
        except OSError as error:
            logger.warning("%s could not be removed (%s); the next checkpoint tries again", path, error)


class Store(Place):
    """A folder of an object store."""

    ahead = 2**23  # a request takes as long as some MB
    mend = "See that the store can be reached and written to"

    def __init__(self, files: AbstractFileSystem, path: str, *, standing: bool = False) -> None:
        """`standing`: nothing is written here, as what is here is complete."""
        self.files, self.root, self.standing = files, path.rstrip("/"), standing
        self.name = self.root.rsplit("/", maxsplit=1)[-1]

    @property
    def location(self) -> Location:
        """As `Place.location`."""
        return str(self.files.unstrip_protocol(self.root))

    def child(self, name: str) -> Place:
        """As `Place.child`."""
        return Store(self.files, f"{self.root}/{name}")

    @property
    def parent(self) -> Place:
        """As `Place.parent`."""
        return Store(self.files, self.root.rsplit("/", maxsplit=1)[0])

    def names(self) -> list[str]:
        """As `Place.names`."""
        with self._asked():
            self.files.invalidate_cache()
            try:
                found = self.files.ls(self.root, detail=False)
            except FileNotFoundError:
                return []
            return [name for path in found if (name := str(path).rstrip("/").rsplit("/", maxsplit=1)[-1])]

    def checkpoints(self) -> list[str]:
        """As `Place.checkpoints`."""
        return [name for name in super().checkpoints() if self.child(name).size(MANIFEST) is not None]

    def size(self, file: str) -> int | None:
        """As `Place.size`."""
        with self._asked(file):
            try:
                return int(self.files.info(f"{self.root}/{file}")["size"])
            except FileNotFoundError:
                return None

    def read(self, file: str, start: int = 0, end: int | None = None) -> bytearray:
        """As `Place.read`."""
        with self._asked(file):
            return bytearray(self.files.cat_file(f"{self.root}/{file}", start=start, end=end))

    def hash(self, file: str) -> str:
        """As `Place.hash`."""
        with self._asked(file), self.files.open(f"{self.root}/{file}", "rb") as content:
            return _hash(content)

    def put(self, file: str, write: Callable[[Path], None]) -> dict[str, Any]:
        """As `Place.put`; the file is made on this machine's disk first (`TMPDIR`), as stores may have to be asked
        again."""
        with tempfile.TemporaryDirectory(prefix="unified-checkpoint-") as folder:
            sealed = Place(Path(folder)).put(file, write)
            if not self.standing:
                with self._asked(file):
                    self.files.put_file(str(Path(folder) / file), f"{self.root}/{file}")
                    self.files.invalidate_cache()
        return sealed

    def prepare(self, name: str) -> None:
        """As `Place.prepare`."""
        complete = self.checkpoints()
        for unfinished in super().checkpoints():
            if unfinished not in complete:
                self.child(unfinished).remove()
        with self._asked():
            self.files.makedirs(f"{self.root}/{name}", exist_ok=True)

    def draft(self, name: str, *, standing: bool) -> Place:
        """As `Place.draft`."""
        return Store(self.files, f"{self.root}/{name}", standing=standing)

    def publish(self, name: str, *, standing: bool) -> None:
        """As `Place.publish`: the manifest did so."""

    def remove(self) -> None:
        """As `Place.remove`."""
        if self.standing:
            return
        try:
            with self._asked():
                if self.size(MANIFEST) is not None:
                    self.files.rm_file(f"{self.root}/{MANIFEST}")
                if self.names():
                    self.files.rm(self.root, recursive=True)
        except OSError as error:
            logger.warning("%s could not be removed (%s); the next checkpoint tries again", self, error)

    @contextmanager
    def _asked(self, file: str = "") -> Iterator[None]:
        """Errors of clients of stores, which have many bases, as those of the operating system."""
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{self}{f'/{file}' if file else ''}: {type(error).__name__}: {error}") from error


def place(location: Location) -> Place:
    """The folder at a location; `CheckpointError` where the URL is of a kind that is not known here."""
    if isinstance(location, Path) or "://" not in location:
        return Place(Path(location))
    try:
        files, path = url_to_fs(location)
    except OSError:
        raise
    except Exception as error:  # clients of stores have errors of their own, also where they only connect
        raise CheckpointError(f"{location}: {error}. Checkpoints go to folders and to URLs of fsspec") from error
    return Place(Path(path)) if type(files) is LocalFileSystem else Store(files, path)


def _hash(content: BinaryIO) -> str:
    return file_digest(cast(Any, content), lambda: blake2b(digest_size=32)).hexdigest()  # type: ignore[arg-type]


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
