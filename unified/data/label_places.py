"""Where labels stand in an image, so that none covers another."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Rect(NamedTuple):
    """Pixels from the left and top edge; right and bottom are the first ones outside."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Rect") -> bool:
        """Whether the two have a pixel in common."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


def place_labels(
    image: tuple[int, int], marked: Sequence[Rect], sizes: Sequence[tuple[float, float]], reach: float = 60.0
) -> list[Rect | None]:
    """Return a place for each label; earlier ones choose first.

    A label stands at its box where there is room: above it, inside its top, below it, at either side. Where all that is
    taken it moves up or down along the edges, up to `reach` pixels.

    Args:
        image: Width and height in pixels.
        marked: The box, or the point without an area, that each label belongs to.
        sizes: Width and height of each label.
        reach: Farthest way of a label from the nearest of its own places.

    Returns:
        The places; None for a label that finds no room.
    """
    placed: list[Rect | None] = []
    for box, (width, height) in zip(marked, sizes, strict=True):
        taken = [rect for rect in placed if rect is not None]
        fits = (
            rect
            for rect in _candidates(box, width, height, reach)
            if rect.left >= 0 and rect.right <= image[0] and rect.top >= 0 and rect.bottom <= image[1]
        )
        placed.append(next((rect for rect in fits if not any(rect.meets(other) for other in taken)), None))
    return placed


def _candidates(box: Rect, width: float, height: float, reach: float) -> Iterator[Rect]:
    lefts = (box.left, box.right - width, box.right, box.left - width, (box.left + box.right - width) / 2)
    tops = (box.top - height, box.top, box.bottom, box.bottom - height)
    starts = [(left, top) for top in tops for left in lefts]
    for left, top in starts:
        yield Rect(left, top, left + width, top + height)
    for step in range(1, int(reach // height) + 1):
        for left, top in starts:
            for way in (step, -step):
                yield Rect(left, top + way * height, left + width, top + (way + 1) * height)
