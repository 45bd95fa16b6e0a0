"""Which commands of `pipe:` data may run: those that the user named, and no others.

A recipe that is named on the command line is trusted with its commands; what comes with an evaluation spec or with the
folder of a run is not. `Shards.open` asks here before a command is first run, so that no way to it is left out.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from unified.core.locations import PIPE, program, shown
from unified.errors import UserError

FLAG = "--allow-commands"
_allowed: ContextVar[frozenset[str] | None] = ContextVar("allowed commands", default=frozenset())
"""The commands that may run; None: all."""


class ConsentError(UserError):
    """A command would run that the user did not name; the message names its program, and the flag that allows it."""


@contextmanager
def allow_commands(patterns: Iterable[str] | None) -> Iterator[None]:
    """Let commands run inside of a block.

    Args:
        patterns: The commands, beside those that may run already; None: all commands.
    """
    known = _allowed.get()
    token = _allowed.set(None if patterns is None or known is None else known | frozenset(patterns))
    try:
        yield
    finally:
        _allowed.reset(token)


def check_commands(patterns: Iterable[str], where: str) -> None:
    """Raise `ConsentError` for a command among patterns that may not run.

    Args:
        patterns: Patterns of shards; those that are no commands are passed over.
        where: What they come with, as the error names it.
    """
    known = _allowed.get()
    for pattern in commands_of(patterns):
        if known is not None and pattern not in known:
            raise ConsentError(
                f"{where}: expected data that no command makes, got {shown(pattern)}, which would run the program "
                f"{program(pattern)!r} here. Hint: read the whole command there; {FLAG} lets it run"
            )


def commands_of(patterns: Iterable[str]) -> list[str]:
    """Return the commands among patterns of shards."""
    return [pattern for pattern in patterns if pattern.startswith(PIPE)]
