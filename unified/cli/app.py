"""The `unified` command, which the files beside this one add their commands to."""

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from typing import ParamSpec, TypeVar, get_args

from tyro.conf import FlagCreatePairsOff
from tyro.extras import SubcommandApp

from unified.cli.wrong_flags import explained
from unified.core.errors import RecipeError, nearest

P = ParamSpec("P")
R = TypeVar("R")
_GROUPS: dict[str, SubcommandApp] = {"": SubcommandApp()}
_NAMES: dict[str, list[str]] = {"": []}
"""The commands of each group; the group "" is `unified` itself."""
_FLAGS: dict[str, list[str]] = {}
"""The flags of each command, by its whole name."""


def group(name: str, text: str) -> None:
    """Add a group of commands, such as `unified shards`, with its line of help."""
    _GROUPS[name] = SubcommandApp()
    _NAMES[name] = []
    _NAMES[""].append(name)
    _GROUPS[""].command(_GROUPS[name], name=name, help=text)


def command(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Add the decorated function as a command: `eval`, or `shards build` in a group that was added."""
    above, _, own = name.rpartition(" ")

    def add(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def prepare(*arguments: P.args, **options: P.kwargs) -> Callable[[], R]:
            return functools.partial(function, *arguments, **options)

        _GROUPS[above].command(name=own)(prepare)
        _NAMES[above].append(own)
        _FLAGS[name] = list(_flags(function))
        return function

    return add


def commands() -> dict[str, list[str]]:
    """Return the flags of each command, by its whole name."""
    return {name: list(flags) for name, flags in _FLAGS.items()}


def _flags(function: Callable[..., object]) -> Iterator[str]:
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.POSITIONAL_ONLY:
            yield f"--{name.replace('_', '-')}"
            if parameter.default is False and FlagCreatePairsOff not in get_args(parameter.annotation):
                yield f"--no-{name.replace('_', '-')}"


def call(arguments: Sequence[str], description: str) -> None:
    """Run the command that the arguments name; help and wrong arguments end with `SystemExit`."""
    check_names(arguments)
    names = (" ".join(arguments[:2]), *arguments[:1])
    name = next((name for name in names if name in _FLAGS or name in _NAMES), "")  # of a command or of a group
    with explained(f"unified {name}".strip(), arguments, [*_FLAGS.get(name, ["--version"]), "--help"]):
        run = _GROUPS[""].cli(prog="unified", description=description, args=list(arguments))
    make_ready()
    run()


def make_ready() -> None:
    """Set up the process for a command that runs; help and wrong arguments do without, as this imports torch."""
    import torch

    if not torch.cuda.is_available():
        # transformers and accelerate import deepspeed where it is installed, which otherwise prints what it guesses.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def check_names(arguments: Sequence[str]) -> None:
    """Refuse a command that does not exist, with a `RecipeError` that names the nearest."""
    above = ""
    for word in arguments[:2]:
        if above not in _NAMES or word.startswith("-"):
            return
        if word not in _NAMES[above]:
            raise RecipeError(f"{' '.join(['unified', above]).strip()}: {word!r} is not a command{_hint(word, above)}")
        above = word


def _hint(word: str, above: str) -> str:
    """What may have been meant: a command of this group, otherwise one of another group that has this very name."""
    elsewhere = [f"{name} {word}".strip() for name, commands in _NAMES.items() if name != above and word in commands]
    if elsewhere:
        return f"; did you mean 'unified {elsewhere[0]}'? There are: {', '.join(sorted(_NAMES[above]))}"
    return nearest(word, _NAMES[above])
