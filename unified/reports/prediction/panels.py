"""Panels of a figure: an image with a title above it, and a scale and lines of text below."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from unified.data.commands.visualize import LINE, label_font

SIDE = 400  # pixels of a panel's longer side
LEAST = 240  # of its width, for words
COLUMNS = 4
MARGIN = 10
LETTER = 6.4  # of the width of one
PAPER, INK, GREY = (255, 255, 255), (20, 20, 20), (110, 110, 110)
Colour = tuple[int, int, int]
Line = tuple[str, Colour | None]
"""A line of text, with the colour of a mark before it."""
BAR = 10  # pixels of a scale's height


@dataclass(frozen=True)
class Scale:
    """What the colours of a map mean."""

    low: float
    high: float
    unit: str
    colours: str  # a colour map of matplotlib


@dataclass(frozen=True)
class Panel:
    """An image with a title above and lines below it."""

    title: str
    image: Image.Image
    lines: tuple[Line, ...] = ()
    scale: Scale | None = None


def fitted(image: Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    """Return an image at the size of a panel, or at a size (width, height)."""
    scale = SIDE / max(image.size)
    size = size or (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def coloured(values: Tensor, scale: Scale) -> NDArray[np.uint8]:
    """Return the colours (h, w, 3) of values (h, w) on a scale."""
    shares = ((values - scale.low) / max(scale.high - scale.low, 1e-12)).clamp(0, 1).float().numpy()
    return (colormaps[scale.colours](shares)[..., :3] * 255).astype(np.uint8)


def arranged(panels: Sequence[Panel]) -> Image.Image:
    """Panels in rows, each as high as its highest panel."""
    width = max(LEAST, *(panel.image.width for panel in panels))
    wrapped = [
        [
            (part, mark if number == 0 else None)
            for text, mark in panel.lines
            for number, part in enumerate(textwrap.wrap(text, int((width - LINE) / LETTER), drop_whitespace=False))
        ]
        for panel in panels
    ]
    rows = [range(start, min(start + COLUMNS, len(panels))) for start in range(0, len(panels), COLUMNS)]
    bars = [0 if panel.scale is None else BAR + LINE + 4 for panel in panels]
    heights = [
        max(panels[n].image.height + bars[n] + (2 + len(wrapped[n])) * LINE for n in row) + MARGIN for row in rows
    ]
    made = Image.new("RGB", (MARGIN + min(COLUMNS, len(panels)) * (width + MARGIN), MARGIN + sum(heights)), PAPER)
    pen = ImageDraw.Draw(made)
    for row, numbers in enumerate(rows):
        for place, number in enumerate(numbers):
            left, top = MARGIN + place * (width + MARGIN), MARGIN + sum(heights[:row])
            panel = panels[number]
            pen.text((left, top), textwrap.shorten(panel.title, int(width / LETTER), placeholder=" …"), fill=INK,
                     font=label_font())  # fmt: skip
            made.paste(panel.image, (left, top + LINE + 2))
            below = top + LINE + panel.image.height + 6
            if panel.scale is not None:
                _draw_scale(made, panel.scale, left, below, panel.image.width)
            _write(pen, wrapped[number], left, below + bars[number])
    return made


def _draw_scale(made: Image.Image, scale: Scale, left: int, top: int, width: int) -> None:
    """A bar of all colours, with the numbers of its ends below."""
    width = max(width, LEAST // 2)
    ramp = (colormaps[scale.colours](np.linspace(0, 1, width))[None, :, :3] * 255).astype(np.uint8)
    made.paste(Image.fromarray(np.repeat(ramp, BAR, axis=0)), (left, top))
    pen = ImageDraw.Draw(made)
    high = f"{scale.high:.3g} {scale.unit}".strip()
    pen.text((left, top + BAR + 1), f"{scale.low:.3g}", fill=INK, font=label_font())
    pen.text((left + width - pen.textlength(high, font=label_font()), top + BAR + 1), high, fill=INK, font=label_font())


def _write(pen: ImageDraw.ImageDraw, lines: Sequence[tuple[str, Colour | None]], left: int, top: int) -> None:
    for number, (text, mark) in enumerate(lines):
        at = top + number * LINE
        if mark is not None:
            pen.rectangle((left, at + 2, left + 10, at + 12), fill=mark, outline=GREY)
        pen.text((left + (LINE if mark else 0), at), text, fill=INK, font=label_font())
