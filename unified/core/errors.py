"""Errors that are meant for people: a command ends with their message alone, without a traceback."""

import difflib
from collections.abc import Sequence

from unified.core.printed import MOST_QUOTED, printable

MOST_LISTED = 40
"""Names that an error lists; of label sets there may be 200,000."""


class UserError(ValueError):
    """Something that a user gave cannot be; the message says where, what was found, what fits, and the next step."""

    def __init__(self, message: object = "") -> None:
        """Keep the message as it may be printed, whatever it quotes."""
        super().__init__(printable(str(message)))


class DataError(UserError):
    """Something is wrong with data that a user supplied; the message names the shard, the key and the column."""


def nearest(word: str, known: Sequence[str]) -> str:
    """«; did you mean 'x'?» followed by what exists: the end of an error about an unknown name."""
    close = difflib.get_close_matches(word[:MOST_QUOTED], known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    listed = [name[:MOST_QUOTED] for name in sorted(known)[:MOST_LISTED]]
    more = [f"and {len(known) - MOST_LISTED:,} more"] if len(known) > MOST_LISTED else []
    return f"{hint} There are: {', '.join([*listed, *more]) or 'none'}"
