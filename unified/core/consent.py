"""Which commands may run, and which addresses be fetched: those that the user named, and no others.

A recipe that is named on the command line is trusted with its `pipe:` commands and addresses; what comes with an
evaluation spec or with the folder of a run is not. `Shards.open` asks here before a command is first run, so that no
way to it is left out.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from unified.core.errors import UserError
from unified.core.locations import PIPE, is_elsewhere, program, shown

FLAG = "--allow-commands"
_allowed: ContextVar[frozenset[str] | None] = ContextVar("allowed commands", default=frozenset())
"""The commands that may run; None: all, and all addresses may be fetched."""


@contextmanager
def allow_commands(patterns: Iterable[str] | None) -> Iterator[None]:
    """Let commands run inside of a block.

    Args:
        patterns: The commands, beside those that may run already; None: all commands, and all addresses.
    """
    known = _allowed.get()
    token = _allowed.set(None if patterns is None or known is None else known | frozenset(patterns))
    try:
        yield
    finally:
        _allowed.reset(token)


def check_commands(patterns: Iterable[str], where: str) -> None:
    """Raise `UserError` for a command among patterns that may not run.

    Args:
        patterns: Patterns of shards; those that are no commands are passed over.
        where: What they come with, as the error names it.
    """
    known = _allowed.get()
    for pattern in commands_of(patterns):
        if known is not None and pattern not in known:
            raise UserError(
                f"{where}: expected data that no command makes, got {shown(pattern)}, which would run the program "
                f"{program(pattern)!r} here. Hint: read the whole command there; {FLAG} lets it run"
            )


def check_locations(locations: Iterable[str], where: str) -> None:
    """Raise `UserError` for a command or an address among locations that the user did not name.

    Args:
        locations: Commands, addresses, paths and patterns of them; those on this machine are passed over.
        where: As in `check_commands`.
    """
    listed = list(locations)
    check_commands(listed, where)
    elsewhere = [location for location in listed if is_elsewhere(location)]
    if elsewhere and _allowed.get() is not None:
        raise UserError(
            f"{where}: expected places on this machine, got {shown(elsewhere[0])}, which would be fetched. Hint: see "
            f"whose address it is; {FLAG} lets it be fetched (in Python: unified.core.consent.allow_commands)"
        )


def commands_of(patterns: Iterable[str]) -> list[str]:
    """Return the commands among patterns of shards."""
    return [pattern for pattern in patterns if pattern.startswith(PIPE)]
