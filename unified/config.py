"""YAML to frozen dataclasses: strict, with `extends`, and with errors that say what would fit."""

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from unified.errors import UserError

T = TypeVar("T")


class RecipeError(UserError):
    """A recipe, a spec or a flag says something that cannot be; the message says where and what would fit."""


def nearest(word: str, known: Sequence[str]) -> str:
    """«; did you mean 'x'?» followed by all that exists: the end of an error about an unknown name."""
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} There are: {', '.join(sorted(known)) or 'none'}"


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is written twice is an error."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        name = loader.construct_object(key_node, deep=True)
        if name in seen:
            raise RecipeError(f"{key_node.start_mark.name}:{key_node.start_mark.line + 1}: {name!r} is written twice")
        seen[name] = loader.construct_object(value_node, deep=True)
    return seen


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file merged over the files that its `extends:` names (paths relative to it)."""
    return _read(Path(path), ())


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in above:
        raise RecipeError(f"{path}: extends itself through {' -> '.join(p.name for p in above)}")
    if not path.is_file():
        raise RecipeError(f"{path}: no such file{nearest(path.name, [p.name for p in path.parent.glob('*.yaml')])}")
    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.load(file, Loader=_Loader) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: expected a mapping of keys to values, found {type(content).__name__}")
    bases = content.pop("extends", [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        merged = merge(merged, _read(path.parent / base, (*above, path.resolve())))
    return merge(merged, content)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`; mappings merge key by key, and a key set to null in `over` keeps null."""
    result = dict(base)
    for name, value in over.items():
        old = result.get(name)
        result[name] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def build(kind: type[T], value: Any, where: str) -> T:
    """`value` (of YAML or JSON) as an instance of the dataclass `kind`; `where` begins every error message."""
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: expected the keys of {kind.__name__}, found {value!r}")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    for name in value:
        if name not in known:
            raise RecipeError(f"{where}: {name!r} is not a key of {kind.__name__}{nearest(str(name), list(known))}")
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
    """`value` as the annotated type `hint`, or a `RecipeError`. YAML reads 1e-4 as text: text may become a number."""
    if hint is Any:
        return value
    if is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value in arguments:
            return value
        raise RecipeError(f"{where}: {value!r} does not fit{nearest(str(value), [str(a) for a in arguments])}")
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(arguments, value, where)
    if origin is tuple or (isinstance(origin, type) and issubclass(origin, Sequence)):
        return _coerce_sequence(arguments, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where}: expected keys and values, found {value!r}")
        return {str(name): coerce(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
    return _coerce_scalar(hint, value, where)


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
        raise RecipeError(f"{where}: expected a list, found {value!r}")
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
        except ValueError:
            raise RecipeError(f"{where}: expected a number, found {value!r}") from None
    if isinstance(value, hint) and not (hint in (int, float) and isinstance(value, bool)):
        return value
    raise RecipeError(f"{where}: expected {hint.__name__}, found {value!r}")
