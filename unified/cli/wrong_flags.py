"""The last line of a refused command line: what was wrong, and the flag that is nearest.

The boxes of `tyro` explain at length and end with where help is. They are left as they are, and read once more here:
what they say is no interface of tyro, so whatever is not recognised is told in tyro's own words, in one line.
"""

import contextlib
import difflib
import io
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from unified.core.errors import printable, quoted
from unified.core.locations import shown

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_EDGES = " │╭╮╰╯"
_RULE = re.compile(r"[─-]{3,}$")
_PARSING = re.compile(r"Error parsing (\S+?): (.*)")
_CHOICE = re.compile(r"invalid choice .* for argument '(\S+)'\. Expected one of \((.*)\)\.")
_NO_VALUE = re.compile(r"Missing value for argument '(\S+)'")
_MISSING = re.compile(r"Missing from [^:]*: (.*?)(?: \(required\))?$")


class _Copy(io.StringIO):
    """Passes on what is written, and keeps it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(shown(text))  # an address may be where none belongs
        return super().write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()


@contextlib.contextmanager
def explained(prog: str, arguments: Sequence[str], known: Sequence[str]) -> Iterator[None]:
    """Add the last line where the arguments are refused inside of the block; nothing else may be done there.

    Args:
        prog: What help calls the command.
        arguments: Those of the command line.
        known: The flags of the command.
    """
    told = _Copy(sys.stderr)
    try:
        with contextlib.redirect_stderr(told):
            yield
    except SystemExit as end:
        if end.code == 2:
            sys.stderr.write(f"error: {printable(f'{prog}: {describe(told.getvalue(), arguments, known)}')}\n")
        raise


def describe(box: str, arguments: Sequence[str], known: Sequence[str]) -> str:
    """Return in one line what a box of tyro says; the arguments are as of `explained`."""
    title, *parts = _parts(box)
    body = " ".join(parts[0]) if parts else " ".join(title)
    if title == ["Unrecognized options"]:
        return _unknown(arguments, known, body)
    if found := _CHOICE.search(body):
        flag, choices = found[1], re.findall(r"'([^']*)'", found[2])
        given = _given(flag, arguments)
        return f"{flag}: expected one of {', '.join(sorted(choices))}, got {given}{_near(given, choices)}"
    if (found := _PARSING.search(body)) and len(parts) > 1 and len(parts[1]) > 1:
        usage = parts[1][1].removeprefix(found[1]).strip()
        return f"{found[1]}: expected {usage or 'another value'}, got {_given(found[1], arguments)}"
    if found:  # by a check of the recipe itself, which names the value
        return found[2]
    if found := _NO_VALUE.search(body):
        return f"{found[1]}: expected a value, got nothing"
    if found := _MISSING.match(body):
        names = [line.split()[0] for line in found[1].split("(required) ")]
        return f"expected {' '.join(names)}, got nothing. Hint: --help tells what they are"
    return body


def _parts(box: str) -> list[list[str]]:
    """The title of a box, and the lines between its rules, without the words about help at its end."""
    parts: list[list[str]] = [[]]
    for line in (written.strip(_EDGES) for written in _COLOURS.sub("", box).splitlines()):
        if _RULE.search(line):
            title = line.strip("─- ")  # stands inside of the upper edge where there is one
            parts += [[title], []] if title else [[]]
        elif line:
            parts[-1].append(line)
    return [part for part in parts if part and not part[0].startswith("For full helptext")] or [[box.strip()]]


def _unknown(arguments: Sequence[str], known: Sequence[str], body: str) -> str:
    """The first argument that the command does not have; tyro also lists the values of unknown flags."""
    names = {_name(flag) for flag in known}
    for argument in arguments:
        if re.match(r"--?[A-Za-z]", argument) and _name(argument) not in names:
            flag = argument.partition("=")[0]
            below = [name for name in known if name.startswith(f"{_name(flag)}.")]
            near = below or difflib.get_close_matches(_name(flag), known, n=1, cutoff=0.0)
            hint = f". Hint: the nearest is {near[0]}" if near else ""
            return f"expected one of its flags, got {quoted(flag)}{hint}"
    left = body.partition(": ")[2]
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if equals and _name(flag) in names and left in (argument, value):
            return f"{flag}: expected no value, got {quoted(value)}"
        if left.split(", ")[0] == argument and _name(flag) in names:
            return f"{flag}: expected it once, got it again"
    return f"expected no further value, got {left}"


def _name(flag: str) -> str:
    return flag.partition("=")[0].replace("_", "-")


def _given(flag: str, arguments: Sequence[str]) -> str:
    """The values that the arguments give a flag, in quotes; of a flag that is given twice, the last ones."""
    values: list[str] = []
    inside = False
    for argument in arguments:
        if argument.startswith("--"):
            inside = _name(argument) in flag.replace("_", "-").split("/")
            if inside:
                values = [argument.partition("=")[2]] if "=" in argument else []
        elif inside:
            values.append(argument)
    return ", ".join(quoted(value) for value in values) or "nothing"


def _near(given: str, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(given.strip("'\""), choices, n=1)
    return f". Hint: the nearest is {close[0]!r}" if close else ""
