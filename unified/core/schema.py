"""YAML to frozen dataclasses: strict, with `extends`, and with errors that say what would fit."""

import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Interval

from unified.core.errors import DataError, RecipeError, nearest, quoted
from unified.core.paths import find
from unified.core.yaml_files import read_yaml_file

T = TypeVar("T")
ENTRIES = ("tasks", "evaluations")
"""Sections whose keys are names that a file gives: a null there leaves out what was inherited."""


MOST_FILES = 200
"""That one recipe may extend, directly and through others."""


def read_yaml(path: Path | str, names: str = "recipes") -> dict[str, Any]:
    """Return the mapping in a YAML file, merged over the files that its `extends:` names.

    An entry of `tasks` or `evaluations` that is null leaves out the inherited one of that name.

    Args:
        path: The file.
        names: Folder of the project whose files `extends:` may name without path and ending (`extends: quickstart`).

    Raises:
        RecipeError: The file or one that it extends is missing or wrong, or a null entry leaves out nothing.
    """
    content = _read(Path(path), names, (), frozenset(), count(1))
    for section in ENTRIES:
        if isinstance(content.get(section), Mapping):
            content[section] = {name: value for name, value in content[section].items() if value is not None}
    return content


def _read(
    path: Path, names: str, above: tuple[Path, ...], inherited: frozenset[tuple[str, str]], files: Iterator[int]
) -> dict[str, Any]:
    """The merged content of a file.

    `inherited`: section and name of entries that it may leave out besides its own. `files` counts what is read.
    """
    if next(files) > MOST_FILES:
        raise RecipeError(
            f"{path}: extends: expected at most {MOST_FILES} files in all, got more. Hint: name each once"
        )
    if path.resolve() in above:
        raise RecipeError(f"{path}: extends itself through {' -> '.join(p.name for p in above)}")
    content = _content(path)
    bases = content.pop("extends", [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        file = _extended(path, base, names)
        merged = merge(merged, _read(file, names, (*above, path.resolve()), inherited | _entries(merged), files))
    known = inherited | _entries(merged)
    for section, name in _entries(content):
        if content[section][name] is None and (section, name) not in known:
            there = nearest(name, sorted(other for of, other in known if of == section))
            raise RecipeError(
                f"{path}: {section}.{name}: null leaves out an entry of a file that is extended, and none has it{there}"
            )
    return merge(merged, content)


def _entries(content: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """Section and name of the named entries of a file."""
    parts = {section: content.get(section) for section in ENTRIES}
    return frozenset((section, name) for section, part in parts.items() if isinstance(part, Mapping) for name in part)


def _extended(path: Path, base: Any, names: str) -> Path:
    """The file that `extends: base` in `path` means: one beside it, or one of the project by its name."""
    if not isinstance(base, str) or not base:
        raise RecipeError(f"{path}: extends: expected a file or a name in {names}, got {quoted(base)}")
    beside = path.parent / base
    if beside.is_file():
        return beside
    try:
        found = find(names, base, ".yaml", at=path.parent)
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: extends: {error}") from error
    if not found.is_file():
        raise RecipeError(f"{path}: extends: expected a file, got the folder {found}")
    return found


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RecipeError(f"{path}: no such file{nearest(path.name, [p.name for p in path.parent.glob('*.yaml')])}")
    try:
        content = read_yaml_file(path)
    except DataError as error:
        raise RecipeError(str(error)) from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: expected a mapping of keys to values, found {type(content).__name__}")
    return content


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`; mappings merge key by key, and a key set to null in `over` keeps null."""
    result = dict(base)
    for name, value in over.items():
        old = result.get(name)
        result[name] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


@typing.runtime_checkable
class Chooser(typing.Protocol):
    """A dataclass whose subclass follows from the keys that are given."""

    def chosen(self, content: Mapping[str, Any], where: str) -> type[Any]:
        """Return the class that is built."""


def build(kind: type[T], value: Any, where: str) -> T:
    """`value` (of YAML or JSON) as an instance of the dataclass `kind`; `where` begins every error message."""
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: expected the keys of {kind.__name__}, found {quoted(value)}")
    if isinstance(kind, Chooser):
        kind = kind.chosen(value, where)
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind, include_extras=True)
    renamed = getattr(kind, "RENAMED", {})
    for name in value:
        if name in renamed:
            raise RecipeError(f"{where}: expected the key {renamed[name]}, got {name}. Hint: it was renamed")
        if name not in known:
            raise RecipeError(
                f"{where}: {quoted(name)} is not a key of {kind.__name__}{nearest(str(name), list(known))}"
            )
    missing = [
        name
        for name, field in known.items()
        if name not in value and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise RecipeError(f"{where}: {', '.join(missing)} must be given")
    try:
        return kind(**{name: coerce(hints[name], item, f"{where}.{name}") for name, item in value.items()})
    except RecipeError as error:
        raise error if str(error).startswith(where) else RecipeError(f"{where}: {error}") from error


def coerce(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `hint`, or a `RecipeError`. YAML reads 1e-4 as text: text may become a number.

    The bounds of numbers stand in the hint: `Annotated[int, Interval(ge=1)]`.
    """
    if hint is Any:
        return value
    if is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated and hasattr(arguments[1], "read"):  # a table, whose rows say what their settings are
        return arguments[1].read(value, where)
    if origin is Annotated:
        return _within(arguments[1:], coerce(arguments[0], value, where), where)
    if origin is Literal:
        if value in arguments:
            return value
        raise RecipeError(f"{where}: {quoted(value)} does not fit{nearest(str(value), [str(a) for a in arguments])}")
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(arguments, value, where)
    if origin is tuple or (isinstance(origin, type) and issubclass(origin, Sequence)):
        return _coerce_sequence(arguments, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where}: expected keys and values, found {quoted(value)}")
        return {str(name): coerce(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
    return _coerce_scalar(hint, value, where)


def check_bounds(settings: Any, where: str = "") -> None:
    """Refuse numbers beyond the bounds of their fields, which flags and code set without `build`.

    Args:
        settings: A dataclass, with others in its fields.
        where: Its place in the recipe.

    Raises:
        RecipeError: A number is beyond its bounds; the message names its key.
    """
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        value, place = getattr(settings, field.name), f"{where}.{field.name}".removeprefix(".")
        for key, part in value.items() if isinstance(value, Mapping) else [("", value)]:
            if is_dataclass(part):
                check_bounds(part, f"{place}.{key}".removesuffix("."))
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float):
                _within(_bounds(hints[field.name]), number, place)


def _bounds(hint: Any) -> tuple[Any, ...]:
    """The bounds in a type, or in the first of its parts that has some."""
    if typing.get_origin(hint) is Annotated:
        return tuple(bound for bound in typing.get_args(hint)[1:] if isinstance(bound, Interval))
    return next((found for part in typing.get_args(hint) if (found := _bounds(part))), ())


def _within(bounds: Sequence[Any], value: Any, where: str) -> Any:
    """A number that lies in all intervals; none holds what is not finite."""
    for bound in bounds:
        least, above = (-math.inf if limit is None else limit for limit in (bound.ge, bound.gt))
        most, below = (math.inf if limit is None else limit for limit in (bound.le, bound.lt))
        if not (least <= value <= most and above < value < below):
            got = f"{value:,}" if abs(value) < 10**18 else quoted(value)
            raise RecipeError(f"{where}: expected {_range(bound, value)}, got {got}")
    return value


def _range(bound: Interval, value: float) -> str:
    """The numbers of an interval, in words."""
    if bound.ge is not None and bound.le is not None:
        return f"{bound.ge:,} to {bound.le:,}"
    if bound.lt is not None:
        return f"at least {bound.ge} and below {bound.lt}"
    if bound.gt is not None:
        return f"a finite number above {bound.gt:,}"
    finite = "" if isinstance(value, int) else "a finite number"
    return finite if bound.ge is None else f"{finite} of at least {bound.ge:,}".removeprefix(" of ")


def _coerce_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    if isinstance(value, Mapping):
        arguments = _named_by_first_key(arguments, value) or arguments
    problems = []
    for option in arguments:
        if option is not type(None):
            try:
                return coerce(option, value, where)
            except RecipeError as error:
                problems.append(str(error))
    raise RecipeError(" or ".join(problems))


def _named_by_first_key(arguments: tuple[Any, ...], value: Mapping[Any, Any]) -> tuple[Any, ...]:
    """Of several dataclasses the one whose first field is given: that says which is meant."""
    return tuple(option for option in arguments if is_dataclass(option) and fields(option)[0].name in value)


def _coerce_sequence(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise RecipeError(f"{where}: expected a list, found {quoted(value)}")
    fixed = len(arguments) > 1 and arguments[-1] is not Ellipsis
    if fixed and len(value) != len(arguments):
        raise RecipeError(f"{where}: expected {len(arguments)} values, found {len(value)}")
    kinds = arguments if fixed else [arguments[0]] * len(value)
    return tuple(coerce(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _coerce_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            raise RecipeError(f"{where}: expected a number, found {quoted(value)}") from None
    if isinstance(value, hint) and not (hint in (int, float) and isinstance(value, bool)):
        return value
    raise RecipeError(f"{where}: expected {hint.__name__}, found {quoted(value)}")
