"""Tables of what a package brings and what other installed packages add to it by entry points."""

import importlib.metadata
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint
from typing import Any, Protocol, TypeVar

from unified.core.errors import MOST_QUOTED, UserError, nearest, quoted
from unified.core.log import logger


class Named(Protocol):
    """A row of a table."""

    @property
    def name(self) -> str:
        """The name by which recipes and files mean it."""


R = TypeVar("R", bound=Named)


class Table(Mapping[str, R]):
    """Rows by name: the built-in ones, and those of other packages, imported when they are first used.

    A lookup imports the one package that has the name; iteration imports all, and leaves out with a warning those
    that cannot be used. A broken package harms nobody who does not use its name.
    """

    def __init__(self, group: str, noun: str, rows: Iterable[R], kind: type | None = None) -> None:
        """Make a table of rows.

        Args:
            group: The entry points by which other packages add rows, such as `unified.modalities`.
            noun: A row in the words of messages, such as "modality".
            rows: The built-in ones.
            kind: The class of which rows must be; None: any object that has a name.
        """
        self.group, self.noun, self._kind = group, noun, kind
        self._rows = {row.name: row for row in rows}
        self._loaded: dict[str, R | UserError] = {}
        self._sources: dict[str, str] = {}
        self._told: set[str] = set()

    def __getitem__(self, name: str) -> R:
        """Return a row; a `UserError` where the one package that has it cannot be used."""
        row, points = self._rows.get(name), self._points().get(name, ())
        if name in self._sources or not points:
            if row is None:
                raise KeyError(name)
            return row
        owners = [*(["unified"] if row is not None else []), *(_owner(point) for point in points)]
        if len(owners) > 1:
            raise UserError(
                f"{self.group}: expected one package with the {self.noun} {quoted(name)}, got {' and '.join(owners)}. "
                "Hint: uninstall one of them"
            )
        loaded = self._load(points[0])
        if isinstance(loaded, UserError):
            raise UserError(str(loaded)) from loaded
        return loaded

    def __contains__(self, name: object) -> bool:
        """Say whether there is a row of this name, without importing it."""
        return name in self._rows or name in self._points()

    def __iter__(self) -> Iterator[str]:
        for name in self.known():
            try:
                self[name]
            except UserError as error:
                if name not in self._told:
                    logger.warning("left out: %s", error)
                self._told.add(name)
            else:
                yield name

    __hash__ = object.__hash__  # a table is itself, whatever is installed: annotations of types hold it

    def __eq__(self, other: object) -> bool:
        return self is other

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def known(self) -> list[str]:
        """Return the names of all rows, also of those whose package cannot be imported."""
        return list(dict.fromkeys([*self._rows, *self._points()]))

    def find(self, name: str, where: str) -> R:
        """Return a row by its name.

        Args:
            name: The name that a recipe, a file or a flag has.
            where: Its place, which begins the message.

        Raises:
            UserError: There is no such row, or its package cannot be used.
        """
        if name not in self:
            others = f"Hint: others come with packages that have an entry point {self.group}"
            raise UserError(
                f"{where}: expected a {self.noun}, got {quoted(name)}{nearest(name, self.known())}. {others}"
            )
        return self[name]

    def resolve(self, path: str) -> R:
        """Return a row by where it lies, and keep it under its name. For recipes: never call it with text of a file.

        Args:
            path: `package.module:NAME`.

        Raises:
            UserError: There is no row at this place, or the table has another of its name.
        """
        attribute = path.partition(":")[2]
        if not attribute:
            raise UserError(f"{path}: expected package.module:NAME, got {quoted(path)}. Hint: write where it lies")
        row = self._load(EntryPoint(attribute, path, self.group), named=False)
        if isinstance(row, UserError):
            raise UserError(str(row)) from row
        if row.name in self and self[row.name] is not row:
            raise UserError(
                f"{path}: expected a new name of a {self.noun}, got {quoted(row.name)}. Hint: give it another"
            )
        if row.name not in self:
            self._rows[row.name], self._sources[row.name] = row, path
        return row

    def source(self, name: str) -> str | None:
        """Return the `package.module:NAME` from which a row was resolved; None of those that have a name by itself."""
        return self._sources.get(name)

    def _points(self) -> Mapping[str, tuple[EntryPoint, ...]]:
        return _found(self.group, tuple(sys.path))

    def _load(self, point: EntryPoint, *, named: bool = True) -> R | UserError:
        """The row of an entry point, or why there is none; either is found once."""
        if point.value not in self._loaded:
            self._loaded[point.value] = self._imported(point, named)
        return self._loaded[point.value]

    def _imported(self, point: EntryPoint, named: bool) -> R | UserError:
        where = f"{self.group}: {point.name} = {point.value} of {_owner(point)}" if named else point.value
        hint = f"Hint: {'repair or uninstall that package' if named else 'repair that module'}"
        try:
            row: Any = point.load()
        except Exception as error:  # noqa: BLE001 - a module of others may raise anything
            got = f"{type(error).__name__}: {str(error)[:MOST_QUOTED]}"
            return UserError(f"{where}: expected a {self.noun} that can be imported, got {got}. {hint}")
        name = getattr(row, "name", None)
        if not isinstance(name, str) or (self._kind is not None and not isinstance(row, self._kind)):
            return UserError(f"{where}: expected a {self.noun}, got a value of {type(row).__name__}. {hint}")
        if named and name != point.name:
            return UserError(f"{where}: expected a {self.noun} of that name, got {quoted(name)}. {hint}")
        found: R = row
        return found


@lru_cache(maxsize=16)
def _found(group: str, _path: tuple[str, ...]) -> Mapping[str, tuple[EntryPoint, ...]]:
    """The entry points of a group by name, found once for each `sys.path`: packages of a folder added later count."""
    named: dict[str, tuple[EntryPoint, ...]] = {}
    for point in importlib.metadata.entry_points(group=group):
        named[point.name] = (*named.get(point.name, ()), point)
    return named


def _owner(point: EntryPoint) -> str:
    """The distribution that has an entry point, with its version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unknown package"
