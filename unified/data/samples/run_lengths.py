"""COCO's compressed run lengths, looked at before pycocotools makes pixels of them.

Its decoder leaves memory as it found it where the lengths are of too few pixels: those would be other data.
"""

import numpy as np

FIRST, LAST = 48, 111
"""Letters that hold six bits: five of a number, and whether more follow."""
MORE, SIGN, BITS = 0x20, 0x10, 5
MOST_LETTERS = 7  # of a number below 2³²


def lengths_problem(counts: str, pixels: int) -> str | None:
    """Return what is wrong with run lengths, in words, or None.

    Args:
        counts: The text of lengths, of which those from the fourth on are differences to the one before the last.
        pixels: The number of pixels that they must make together.
    """
    if not counts.isascii():
        return "letters that are none of run lengths"
    letters = np.frombuffer(counts.encode(), np.uint8).astype(np.int64)
    if not len(letters):
        return f"no lengths for {pixels:,} pixels"
    if letters.min() < FIRST or letters.max() > LAST:
        return "letters that are none of run lengths"
    letters -= FIRST
    last = letters & MORE == 0
    if not last[-1]:
        return "lengths that are cut off"
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() >= MOST_LETTERS:
        return "a length without end"
    place = np.arange(len(letters)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((letters & (MORE - 1)) << (BITS * place), starts)
    values -= np.where(letters[ends] & SIGN, 1 << (BITS * (place[ends] + 1)), 0)
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    if values.min() < 0:
        return "a length below 0"
    found = int(values.sum())
    return None if found == pixels else f"lengths for {found:,} of {pixels:,} pixels"
