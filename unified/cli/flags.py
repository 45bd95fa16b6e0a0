"""Command-line flags for every value of a recipe: `--optim.lr 1e-3 --tasks.caption.batch 64`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from unified.cli.wrong_flags import explained
from unified.config.model import ModelSettings
from unified.config.recipe import Recipe
from unified.core.errors import RecipeError
from unified.core.schema import coerce

_WORDS = Sequence[str]
_WORD_OR_WORDS = str | Sequence[str]
_MAPPINGS = Sequence[dict[str, Any]]

_REGISTRY = ConstructorRegistry()


@_REGISTRY.primitive_rule
def _texts(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Lists of words become tuples, as in recipes; where one word may stand alone it stays alone."""
    if info.type not in (_WORDS, _WORD_OR_WORDS):
        return None
    alone = info.type == _WORD_OR_WORDS
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="STR [STR ...]" if alone else "[STR [STR ...]]",
        instance_from_str=lambda words: words[0] if alone and len(words) == 1 else tuple(words),
        is_instance=lambda value: isinstance(value, str | list | tuple),
        str_from_instance=lambda value: [value] if isinstance(value, str) else list(value),
    )


@_REGISTRY.primitive_rule
def _mappings(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """A list of free mappings (`augment`) is given whole, as JSON, and is untouched otherwise."""
    if info.type != _MAPPINGS:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda words: coerce(_MAPPINGS, json.loads(words[0]), "JSON"),
        is_instance=lambda value: isinstance(value, list | tuple),
        str_from_instance=lambda value: [json.dumps(value)],
    )


def with_flags(recipe: Recipe, arguments: Sequence[str], prog: str) -> Recipe:
    """The recipe with the values that `arguments` give; `prog` is what help calls the command.

    `--help` shows each value of the recipe. As commands do, help and wrong flags or values print a message and raise
    `SystemExit`.
    """
    _refuse_parts_of_null(recipe, arguments)
    _refuse_renamed(arguments)
    name = next(iter(recipe.tasks))
    example = f"{prog} --optim.lr 1e-3 --max-steps 20 --tasks.{name}.batch {recipe.tasks[name].batch}"
    known = [*flags_of(recipe), "--help", "--out", "--dry-run", "--processes", "--allow-commands"]
    with explained(prog, arguments, known):
        return tyro.cli(
            Recipe,
            default=recipe,
            args=list(arguments),
            prog=prog,
            description=f"Values of the recipe, shown as they are in it; a flag changes one. Example: {example}",
            registry=_REGISTRY,
            config=(
                tyro.conf.AvoidSubcommands,
            ),  # parts that may be null (`model.experts`) have flags where they are not
        )


def flags_of(recipe: Recipe) -> list[str]:
    """Return the flags of all values of a recipe."""
    return [f"--{name.replace('_', '-')}" for name in _values(recipe)]


def _values(part: Any, above: str = "") -> Iterator[str]:
    """The names of all values of a recipe that have flags, joined by dots."""
    for name, value in part.items() if isinstance(part, Mapping) else vars(part).items():
        if is_dataclass(value) or (isinstance(value, Mapping) and value):
            yield from _values(value, f"{above}{name}.")
        else:
            yield above + name


def _refuse_parts_of_null(recipe: Recipe, arguments: Sequence[str]) -> None:
    """A `RecipeError` for a flag of a part that the recipe does not have, such as `--model.experts.count`."""
    for flag in arguments:
        for part in _null_parts(recipe):
            if flag.replace("_", "-").startswith(f"--{part}."):
                raise RecipeError(
                    f"{flag}: the recipe has no {part}, so there is no value to change. Write it into a recipe that "
                    "extends this one (`extends: NAME.yaml`), after which its flags are there"
                )


def _refuse_renamed(arguments: Sequence[str]) -> None:
    """A `RecipeError` for an earlier flag of the model, such as `--model.image.patch`."""
    for flag in arguments:
        for earlier, now in ModelSettings.RENAMED.items():
            rest = flag.removeprefix(f"--model.{earlier}.")
            if rest != flag:
                raise RecipeError(f"{flag}: expected --model.{now}.{rest}, got {flag}. Hint: the flag was renamed")


def _null_parts(part: Any, above: str = "") -> Iterator[str]:
    """The names of parts with keys of their own that are null."""
    for name, hint in get_type_hints(type(part)).items():
        value = getattr(part, name)
        if value is None and any(map(is_dataclass, get_args(hint))):
            yield above + name
        elif is_dataclass(value):
            yield from _null_parts(value, f"{above}{name}.")
