"""What is printed: free of secrets, without control characters, and no longer than people read.

Errors, records of the log and tables go through here, whatever they quote: data decide neither what a terminal does
nor how much is written.
"""

import re
import reprlib
import sys
from typing import Any

from unified.core.locations import shown

MOST_QUOTED = 80
"""Characters of a quoted value."""
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
