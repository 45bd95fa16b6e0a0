"""Braces in the names of shards, as bash and webdataset expand them: "s-{000..012}.tar", "{a,b}", ranges with steps."""

import re
from itertools import islice

from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]

from unified.core.errors import DataError
from unified.core.text_files import shown_text

MOST_NAMES = 1_000_000
"""Names that one pattern may stand for; data sets of some 10⁹ samples have a tenth of it as shards."""
_DEEPEST = 20
_TOKEN = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?\}|(\{[A-Za-z]\.\.[A-Za-z](?:\.\.-?\d+)?\})|[{},]")
_LETTERS = 52  # that a range of letters may have at most
_LONGEST_NUMBER = 18  # digits


def expand_braces(pattern: str) -> list[str]:
    """Return all names of a brace pattern; braces that are no pattern stay as they are.

    Unlike in webdataset, a backslash is a letter like any other: patterns are also commands (`pipe:`).

    Raises:
        DataError: It stands for more than `MOST_NAMES`; they are counted before any is made.
    """
    if "{" not in pattern:
        return [pattern]
    count = _count(pattern)
    if count > MOST_NAMES:
        raise DataError(
            f"{shown_text(pattern)}: expected braces for at most {MOST_NAMES:,} names, got {_shown(count)}. Hint: "
            "look at the numbers in them, or name a folder"
        )
    try:
        return list(islice(braceexpand(pattern, escape=False), MOST_NAMES))
    except UnbalancedBracesError:
        return [pattern]


def _count(pattern: str) -> float:
    """The number of names: a product over braces that stand side by side, a sum over those between commas."""
    levels = [(0.0, 1.0)]  # of each open brace: names up to the last comma, and since then
    for token in _TOKEN.finditer(pattern):
        before, now = levels[-1]
        if token[1]:
            levels[-1] = before, now * _length(token[1], token[2], token[3] or "1")
        elif token[4]:
            levels[-1] = before, now * _LETTERS
        elif token[0] == "{":
            levels.append((0.0, 1.0))
        elif token[0] == "," and len(levels) > 1:
            levels[-1] = before + now, 1.0
        elif token[0] == "}" and len(levels) > 1:
            levels.pop()
            levels[-1] = levels[-1][0], levels[-1][1] * (before + now)
        if len(levels) > _DEEPEST:
            return float("inf")
    return max(before + now for before, now in levels)


def _length(first: str, last: str, step: str) -> float:
    if max(map(len, (first, last, step))) > _LONGEST_NUMBER:
        return float("inf")
    return abs(int(last) - int(first)) // (int(step) or 1) + 1


def _shown(count: float) -> str:
    return f"{count:,.0f}" if count < 1e15 else "too many to count"
