"""Tables of text: columns as wide as their longest cell, two spaces apart."""

import re
from collections.abc import Collection, Sequence

_NUMBER = re.compile(r"[\d.,×]+( %)?")


def aligned(
    head: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] | None = None, *, rule: bool = True
) -> str:
    """Return the lines of a table.

    Args:
        head: The heading of each column; none where the table has no heading.
        rows: The cells of each row.
        left: Columns that begin at the left, as words do; None: all but those of numbers alone.
        rule: Whether a line stands under the heading.
    """
    lines = [head, *rows] if head else rows
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if left is None:
        left = [
            place for place in range(len(widths)) if not (rows and all(_NUMBER.fullmatch(row[place]) for row in rows))
        ]
    if head and rule:
        lines = [head, ["─" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
