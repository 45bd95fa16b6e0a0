"""What a message may show of a location: never a user, a password, a query or the arguments of a command.

Every message of the project goes through `shown` (`core/errors.py`), so that no place has to remember it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

PIPE = "pipe:"
_REMOTE = re.compile(r"pipe:|[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_HERE = re.compile(r"(?:file|local|memory)://(?!.*::)", re.IGNORECASE)
_COMMAND = re.compile(r"(?<![^\s'\"\[(,=])pipe:[ ]?(?=[^\s`'\"])(?!\S* …)([^\n]*)")
"""A command with its arguments, which may be quoted: all the rest of its line."""
_CUT = re.compile(r"pipe:\S* …")
# `Path` makes one slash of two. A password may hold slashes, as people forget to write them as %2F; a port may not.
_PARTS = r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]*:/{1,3})"
_USER = re.compile(_PARTS + r"(?:[^/\s]+|[^/\s@:'\"]*:(?!\d+/)[^\s'\"]*)@")
# Clients of HTTP also name the path alone: "Max retries exceeded with url: /x?sig=…".
_QUERY = re.compile(r"((?:\b[a-zA-Z][a-zA-Z0-9+.-]*:|\burl: )/[^\s'\"?]*)\?[^\s'\"]+?(?=[:;,.)\]]*(?:[\s'\"]|$))")


def is_remote(pattern: str) -> bool:
    """Whether a pattern is a URL or a `pipe:` command, and no path."""
    return bool(_REMOTE.match(pattern))


def is_elsewhere(location: str) -> bool:
    """Whether a location is an address that is fetched: a URL of another machine, and no path or command."""
    return "://" in location and not location.startswith(PIPE) and _HERE.match(location) is None


def program(command: str) -> str:
    """Return the first word of a `pipe:` command, as a message may name it."""
    words = command.removeprefix(PIPE).split()
    return words[0] if words else ""


def named(patterns: str | Sequence[object]) -> str:
    """Return one pattern or some as a message names them: a, b."""
    return patterns if isinstance(patterns, str) else ", ".join(map(str, patterns))


def shown(text: str) -> str:
    """Return a URL, or a message with URLs in it, without users, passwords, queries and commands."""
    if text.startswith(PIPE) and not _CUT.match(text):
        return _shown_command(text)  # of several lines, too
    text = _COMMAND.sub(lambda found: _shown_command(found[0]), text)
    return _QUERY.sub(r"\1?…", _USER.sub(r"\g<scheme>…@", text))


def without_secrets(value: Any) -> Any:
    """Return a recipe, or a part of one, with its locations as they may be printed and given away."""
    if isinstance(value, Mapping):
        return {name: without_secrets(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return shown(value) if isinstance(value, str) else value


def _shown_command(command: str) -> str:
    tar = re.search(r"[\w.-]+\.tar\b", command)
    return f"{PIPE}{program(command)} … {tar[0] if tar else ''}".rstrip()
