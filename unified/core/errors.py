"""Errors that are meant for people, and what they and other output quote.

A command that meets such an error ends with the message alone, without a traceback. Messages, records of the log and
tables hold no secrets and no control characters, and are no longer than people read, whatever they quote: data decide
neither what a terminal does nor how much is written.
"""

import difflib
import re
import reprlib
import sys
from collections.abc import Sequence
from typing import Any

from unified.core.locations import shown

MOST_QUOTED = 80
"""Characters of a quoted value."""
MOST_LISTED = 40
"""Names that an error lists; of label sets there may be 200,000."""
MOST = 20_000
"""Characters of a message; lists of problems have some thousand."""
_READ = 1_000_000
"""Characters of a message that are looked at; aliases of YAML can make some hundred million."""
_PATH = 1_000
"""Characters of a quoted path: people copy it."""
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves the cursor, sets colours and titles, or turns the direction of writing; a line end does no harm."""
_REPR = re.compile(r"\b(?:Pure)?(?:Posix|Windows)?Path\(('[^'\n]*'|\"[^\"\n]*\")\)")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = MOST_QUOTED
# A quotation begins after no letter, as an apostrophe does, and holds its own quotes escaped, as `repr` writes them.
_QUOTED = re.compile(r"(?<!\w)(['\"])((?:(?!\1)[^\\\n]|\\.){81,}?)\1(?!\w)")


def escaped(text: str) -> str:
    """Return a text whose control characters are written as escapes; line ends stay."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """Return a text of data as a cell of a table or a part of a line holds it: escaped, line ends too."""
    return escaped(text).replace("\n", "\\n")


def printable(message: str) -> str:
    """Return a message as it may reach a terminal and a log."""
    message = _QUOTED.sub(_cut, _REPR.sub(r"\1", shown(message[:_READ])))
    return escaped(message if len(message) <= MOST else f"{message[:MOST]}…")


def quoted(value: Any) -> str:
    """Return a value of data, such as of YAML and JSON, as a message quotes it: as Python writes it, but short."""
    if isinstance(value, str):
        return repr(value if len(value) <= MOST_QUOTED else f"{value[: MOST_QUOTED - 1]}…")
    try:
        text = _SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= MOST_QUOTED else f"{text[: MOST_QUOTED - 1]}…"


def say(text: str) -> None:
    """Print to standard output, as all commands do."""
    sys.stdout.write(f"{escaped(shown(text))}\n")


def _cut(found: re.Match[str]) -> str:
    quote, value = found[1], found[2]
    path = value.startswith("/") or ("/" in value and not re.search(r"\s", value))
    most = _PATH if path else MOST_QUOTED
    return f"{quote}{value if len(value) <= most else value[: most - 1] + '…'}{quote}"


class UserError(ValueError):
    """Something that a user gave cannot be; the message says where, what was found, what fits, and the next step."""

    def __init__(self, message: object = "") -> None:
        """Keep the message as it may be printed, whatever it quotes."""
        super().__init__(printable(str(message)))


class DataError(UserError):
    """Something is wrong with data that a user supplied; the message names the shard, the key and the column."""


class RecipeError(UserError):
    """A recipe, a spec or a flag says something that cannot be; the message says where and what would fit."""


class CheckpointError(UserError):
    """A checkpoint cannot be written or read; the message names the file, what was expected and what else is there."""


class HubError(UserError):
    """A model cannot be found, read or published; the message says what was found and what would fit."""


class NonFiniteError(UserError):
    """A gate, a loss or a gradient is not a finite number; the optimizer changed nothing."""


def nearest(word: str, known: Sequence[str]) -> str:
    """«; did you mean 'x'?» followed by what exists: the end of an error about an unknown name."""
    close = difflib.get_close_matches(word[:MOST_QUOTED], known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    listed = [name[:MOST_QUOTED] for name in sorted(known)[:MOST_LISTED]]
    more = [f"and {len(known) - MOST_LISTED:,} more"] if len(known) > MOST_LISTED else []
    return f"{hint} There are: {', '.join([*listed, *more]) or 'none'}"
