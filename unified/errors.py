"""Errors that are meant for people: a command ends with their message alone, without a traceback."""

import difflib
from collections.abc import Sequence


class UserError(ValueError):
    """Something that a user gave cannot be; the message says where, what was found, what fits, and the next step."""


class DataError(UserError):
    """Something is wrong with data that a user supplied; the message names the shard, the key and the column."""


def nearest(word: str, known: Sequence[str]) -> str:
    """«; did you mean 'x'?» followed by all that exists: the end of an error about an unknown name."""
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} There are: {', '.join(sorted(known)) or 'none'}"
