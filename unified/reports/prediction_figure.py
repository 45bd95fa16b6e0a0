"""One picture with all answers about it: objects and points drawn over it, maps as panels beside it, words below."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib import colormaps, get_data_path
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unified.data.draw import OPACITY, RADIUS, name_colour
from unified.reports.prediction_facts import Shown, class_shares

SIDE = 400  # pixels of a panel's longer side
LEAST = 240  # of its width, for words
COLUMNS = 4
MARGIN = 10
LINE = 16  # pixels from line to line
LETTER = 6.4  # of the width of one
ROWS = 12  # lines about one answer
PAPER, INK, GREY = (255, 255, 255), (20, 20, 20), (110, 110, 110)
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Panel:
    """A picture with a title above and lines below it."""

    title: str
    picture: Image.Image
    lines: tuple[tuple[str, Colour | None], ...] = ()  # with the colour of a mark before them


def sheet(picture: UInt8[Tensor, "3 h w"], found: Sequence[Shown], threshold: float) -> Image.Image:
    """Everything about one picture; objects and points below `threshold` are left out."""
    whole = _fitted(Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()))
    across, down = whole.width / picture.shape[2], whole.height / picture.shape[1]
    first = whole
    for shown in found:  # boxes and points would be hidden by masks
        if "masks" in shown.answer:
            first = _with_masks(first, shown, threshold)
    lines: list[tuple[str, Colour | None]] = []
    for shown in found:
        if "boxes" in shown.answer:
            _draw_boxes(first, shown, threshold, (across, down))
        elif "points" in shown.answer:
            _draw_points(first, shown, threshold, (across, down))
        if shown.read in _WORDS:
            lines += [(f"{shown.task}:", None), *_WORDS[shown.read](shown)[:ROWS]]
    drawn = [shown.task for shown in found if "boxes" in shown.answer or "points" in shown.answer]
    panels = [Panel(", ".join(drawn) or "picture", first, tuple(lines))]
    panels += [replace(_MAPS[shown.read](shown, whole), title=shown.task) for shown in found if shown.read in _MAPS]
    return _arranged(panels)


def _fitted(picture: Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    scale = SIDE / max(picture.size)
    size = size or (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def _with_masks(picture: Image.Image, shown: Shown, threshold: float) -> Image.Image:
    made = picture.copy()
    for number in reversed(shown.sure(threshold)):
        mask = Image.fromarray(shown.answer["masks"][number].numpy().astype(np.uint8) * round(255 * OPACITY))
        colour = name_colour(shown.names[int(shown.answer["labels"][number])])
        made.paste(Image.new("RGB", made.size, colour), mask=_fitted(mask, made.size))
    return made


def _draw_boxes(picture: Image.Image, shown: Shown, threshold: float, scale: tuple[float, float]) -> None:
    pen = ImageDraw.Draw(picture)
    for number in reversed(shown.sure(threshold)):
        name = shown.names[int(shown.answer["labels"][number])]
        x0, y0, x1, y1 = (edge * scale[place % 2] for place, edge in enumerate(shown.answer["boxes"][number].tolist()))
        pen.rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), outline=name_colour(name), width=2)
        _mark(pen, picture.size, (x0, y0 - LINE), f"{name} {float(shown.answer['scores'][number]):.2f}")


def _draw_points(picture: Image.Image, shown: Shown, threshold: float, scale: tuple[float, float]) -> None:
    pen = ImageDraw.Draw(picture)
    sure = shown.sure(threshold)
    places = (shown.answer["points"] * shown.answer["points"].new_tensor(scale)).tolist()
    for first, second in shown.skeleton:
        if first in sure and second in sure:
            pen.line((*places[first], *places[second]), fill="white", width=2)
    for number in reversed(sure):
        x, y = places[number]
        radius = 2 * RADIUS
        name = shown.names[number]
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=name_colour(name), outline="white")
        _mark(pen, picture.size, (x + radius + 1, y - LINE / 2), name)


def _mark(pen: ImageDraw.ImageDraw, size: tuple[int, int], corner: tuple[float, float], text: str) -> None:
    """A name in its colour, moved into the picture."""
    width = pen.textlength(text, font=_font()) + 4
    left, top = min(max(corner[0], 0), max(size[0] - width, 0)), min(max(corner[1], 0), max(size[1] - LINE, 0))
    pen.rectangle((left, top, left + width, top + LINE - 1), fill=name_colour(text.rpartition(" ")[0] or text))
    pen.text((left + 2, top + 1), text, fill="white", font=_font())


@cache
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which has the letters of many scripts."""
    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 11)


# maps


def _panel(values: NDArray[np.uint8], whole: Image.Image, *lines: tuple[str, Colour | None]) -> Panel:
    return Panel("", _fitted(Image.fromarray(values), whole.size), tuple(lines))


def _coloured(values: Tensor, low: float, high: float, colours: str = "viridis") -> NDArray[np.uint8]:
    shares = ((values - low) / max(high - low, 1e-12)).clamp(0, 1).float().numpy()
    return (colormaps[colours](shares)[..., :3] * 255).astype(np.uint8)


def _classes(shown: Shown, whole: Image.Image) -> Panel:
    colours = np.array([name_colour(name) for name in shown.names], dtype=np.uint8)
    drawn = _fitted(Image.fromarray(colours[shown.answer["labels"].numpy()]), whole.size)
    shares = class_shares(shown)
    lines = [(f"{shown.names[number]} {share:.1%}", name_colour(shown.names[number])) for number, share in shares]
    grey = whole.convert("L").convert("RGB")  # its own colours would be taken for those of classes
    return Panel("", Image.blend(grey, drawn, 0.6), tuple(lines[:ROWS]))


def _values(shown: Shown, whole: Image.Image) -> Panel:
    values = shown.answer["values"]
    low, high = float(values.min()), float(values.max())
    ends = _coloured(values.new_tensor([0.0, 1.0]), 0, 1)
    marks = [(f"{value:.3g}", tuple(end.tolist())) for value, end in zip((low, high), ends, strict=True)]
    return _panel(_coloured(values, low, high), whole, *marks)


def _directions(shown: Shown, whole: Image.Image) -> Panel:
    vectors = shown.answer["vectors"].permute(1, 2, 0).float().numpy()
    return _panel(((vectors + 1) * 127.5).clip(0, 255).astype(np.uint8), whole)


def _share(shown: Shown, whole: Image.Image) -> Panel:
    return _panel((shown.answer["share"].float().numpy() * 255).astype(np.uint8), whole)


def _image(shown: Shown, whole: Image.Image) -> Panel:
    image = shown.answer["image"].permute(1, 2, 0).float().numpy()
    height, width = image.shape[:2]
    return _panel((image * 255).round().astype(np.uint8), whole, (f"{width} × {height} pixels", None))


def _density(shown: Shown, whole: Image.Image) -> Panel:
    density = shown.answer["density"]
    drawn = _coloured(density, 0.0, float(density.max()), "inferno")
    return _panel(drawn, whole, (f"count {shown.answer['count']:.1f}", None))


_MAPS: dict[str, Callable[[Shown, Image.Image], Panel]] = {
    "classes": _classes,
    "bins": _values,
    "directions": _directions,
    "share": _share,
    "pixels": _image,
    "density": _density,
}


# words


def _scored(shown: Shown, key: str) -> list[tuple[str, Colour | None]]:
    scores: Tensor = shown.answer[key]
    order = scores.argsort(descending=True, stable=True).tolist()
    names = [shown.names[int(shown.answer["labels"][n])] if "labels" in shown.answer else shown.names[n] for n in order]
    return [(f"  {float(scores[n]):.2f} {name}", None) for n, name in zip(order, names, strict=True)]


_WORDS: dict[str, Callable[[Shown], list[tuple[str, Colour | None]]]] = {
    "presence": lambda shown: _scored(shown, "presence"),
    "labels": lambda shown: _scored(shown, "scores"),
    "caption": lambda shown: [(f"  {shown.answer['caption']}", None)],
}


def _arranged(panels: Sequence[Panel]) -> Image.Image:
    """Panels in rows, each as high as its highest panel."""
    width = max(LEAST, *(panel.picture.width for panel in panels))
    wrapped = [
        [
            (part, mark if number == 0 else None)
            for text, mark in panel.lines
            for number, part in enumerate(textwrap.wrap(text, int((width - LINE) / LETTER), drop_whitespace=False))
        ]
        for panel in panels
    ]
    rows = [range(start, min(start + COLUMNS, len(panels))) for start in range(0, len(panels), COLUMNS)]
    heights = [max(panels[n].picture.height + (2 + len(wrapped[n])) * LINE for n in row) + MARGIN for row in rows]
    made = Image.new("RGB", (MARGIN + min(COLUMNS, len(panels)) * (width + MARGIN), MARGIN + sum(heights)), PAPER)
    pen = ImageDraw.Draw(made)
    for row, numbers in enumerate(rows):
        for place, number in enumerate(numbers):
            left, top = MARGIN + place * (width + MARGIN), MARGIN + sum(heights[:row])
            panel = panels[number]
            pen.text((left, top), textwrap.shorten(panel.title, int(width / LETTER), placeholder=" …"), fill=INK,
                     font=_font())  # fmt: skip
            made.paste(panel.picture, (left, top + LINE + 2))
            _write(pen, wrapped[number], left, top + 2 * LINE + panel.picture.height - LINE + 6)
    return made


def _write(pen: ImageDraw.ImageDraw, lines: Sequence[tuple[str, Colour | None]], left: int, top: int) -> None:
    for number, (text, mark) in enumerate(lines):
        at = top + number * LINE
        if mark is not None:
            pen.rectangle((left, at + 2, left + 10, at + 12), fill=mark, outline=GREY)
        pen.text((left + (LINE if mark else 0), at), text, fill=INK, font=_font())
