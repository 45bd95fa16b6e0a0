"""One picture with all answers about it: objects and points drawn over it, maps as panels beside it, words below."""

import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from unified.data.commands.visualize import LINE, OPACITY, RADIUS, label_font, name_colour, write_label
from unified.data.label_places import Rect, place_labels
from unified.reports.prediction.facts import Shown, class_shares

SIDE = 400  # pixels of a panel's longer side
LEAST = 240  # of its width, for words
COLUMNS = 4
MARGIN = 10
LETTER = 6.4  # of the width of one
ROWS = 12  # lines about one answer
PAPER, INK, GREY = (255, 255, 255), (20, 20, 20), (110, 110, 110)
Colour = tuple[int, int, int]
Line = tuple[str, Colour | None]
"""A line of text, with the colour of a mark before it."""
BAR = 10  # pixels of a scale's height


@dataclass(frozen=True)
class Panel:
    """A picture with a title above and lines below it."""

    title: str
    picture: Image.Image
    lines: tuple[Line, ...] = ()
    scale: "Scale | None" = None


@dataclass(frozen=True)
class Scale:
    """What the colours of a map mean."""

    low: float
    high: float
    unit: str
    colours: str  # a colour map of matplotlib


def sheet(picture: UInt8[Tensor, "3 h w"], found: Sequence[Shown], threshold: float) -> Image.Image:
    """Everything about one picture; objects and points below `threshold` are left out.

    Each task has a panel of its own: two that name the same things would draw over each other.
    """
    whole = _fitted(Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()))
    scale = whole.width / picture.shape[2], whole.height / picture.shape[1]
    lines: list[Line] = []
    for shown in found:
        if shown.read in _WORDS:
            lines += [(f"{shown.task}:", None), *_WORDS[shown.read](shown)[:ROWS]]
    panels = [Panel("image", whole, tuple(lines))] if lines else []
    for shown in found:
        if "boxes" in shown.answer or "points" in shown.answer:
            panels.append(_drawn(whole, shown, threshold, scale))
        elif shown.read in _MAPS:
            panels.append(replace(_MAPS[shown.read](shown, whole), title=shown.task))
    return _arranged(panels or [Panel("image", whole)])


def _drawn(whole: Image.Image, shown: Shown, threshold: float, scale: tuple[float, float]) -> Panel:
    """The objects or points of one task over the image, and what its colours mean."""
    sure = shown.sure(threshold)
    made = _with_masks(whole, shown, threshold) if "masks" in shown.answer else whole.copy()
    if "boxes" in shown.answer:
        names = [shown.names[int(shown.answer["labels"][number])] for number in sure]
        unplaced = _draw_boxes(made, shown, sure, names, scale)
    else:
        names = [shown.names[number] for number in sure]
        unplaced = _draw_points(made, shown, sure, scale)
    counts = Counter(names)
    legend: list[Line] = [(f"{name} ({counts[name]})", name_colour(name)) for name in counts]
    if not sure:
        legend = [(f"nothing with a score of {threshold:g} or more", None)]
    hidden = len(legend) - ROWS
    legend = legend[:ROWS] + ([(f"and {hidden} more names", None)] if hidden > 0 else [])
    if unplaced:
        legend.append((f"without room for a label: {', '.join(unplaced)}", None))
    return Panel(shown.task, made, tuple(legend))


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


def _draw_boxes(
    picture: Image.Image, shown: Shown, sure: Sequence[int], names: Sequence[str], scale: tuple[float, float]
) -> list[str]:
    """Draw boxes and labels, the best on top; returns the labels that found no room."""
    pen = ImageDraw.Draw(picture)
    boxes = []
    for number in sure:
        x0, y0, x1, y1 = (edge * scale[place % 2] for place, edge in enumerate(shown.answer["boxes"][number].tolist()))
        boxes.append(Rect(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))
    for name, box in reversed([*zip(names, boxes, strict=True)]):
        corners = (box.left, box.top, max(box.right - 1, box.left), max(box.bottom - 1, box.top))
        pen.rectangle(corners, outline=name_colour(name), width=2)
    texts = [f"{name} {float(shown.answer['scores'][number]):.2f}" for name, number in zip(names, sure, strict=True)]
    return _mark_all(pen, picture.size, boxes, texts, names)


def _draw_points(picture: Image.Image, shown: Shown, sure: Sequence[int], scale: tuple[float, float]) -> list[str]:
    """Draw points, the lines between them and their names; returns the names that found no room."""
    pen = ImageDraw.Draw(picture)
    places = (shown.answer["points"] * shown.answer["points"].new_tensor(scale)).tolist()
    for first, second in shown.skeleton:
        if first in sure and second in sure:
            pen.line((*places[first], *places[second]), fill="white", width=2)
    radius = 2 * RADIUS
    names = [shown.names[number] for number in sure]
    for name, number in reversed([*zip(names, sure, strict=True)]):
        x, y = places[number]
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=name_colour(name), outline="white")
    beside = radius + 1  # labels leave the point itself visible
    around = [Rect(x - beside, y - beside, x + beside, y + beside) for x, y in (places[number] for number in sure)]
    return _mark_all(pen, picture.size, around, names, names)


def _mark_all(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    marked: Sequence[Rect],
    texts: Sequence[str],
    names: Sequence[str],
) -> list[str]:
    """Write labels in the colours of their names, none over another; returns those without room."""
    sizes = [(pen.textlength(text, font=label_font()) + 4, LINE) for text in texts]
    places = place_labels(size, marked, sizes)
    unplaced = []
    for place, text, name in zip(places, texts, names, strict=True):
        if place is None:
            unplaced.append(text)
            continue
        write_label(pen, place, text, name_colour(name))
    return unplaced


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
    scale = Scale(float(values.min()), float(values.max()), "", "viridis")
    return replace(_panel(_coloured(values, scale.low, scale.high), whole), scale=scale)


def _directions(shown: Shown, whole: Image.Image) -> Panel:
    vectors = shown.answer["vectors"].permute(1, 2, 0).float().numpy()
    return _panel(((vectors + 1) * 127.5).clip(0, 255).astype(np.uint8), whole)


def _share(shown: Shown, whole: Image.Image) -> Panel:
    drawn = _panel((shown.answer["share"].float().numpy() * 255).astype(np.uint8), whole)
    return replace(drawn, scale=Scale(0.0, 1.0, "fraction", "gray"))


def _image(shown: Shown, whole: Image.Image) -> Panel:
    image = shown.answer["image"].permute(1, 2, 0).float().numpy()
    height, width = image.shape[:2]
    return _panel((image * 255).round().astype(np.uint8), whole, (f"{width} × {height} pixels", None))


def _density(shown: Shown, whole: Image.Image) -> Panel:
    density = shown.answer["density"]
    scale = Scale(0.0, float(density.max()), "objects a cell", "inferno")
    height, width = density.shape[-2:]
    text = f"count {shown.answer['count']:.1f}: the sum over {width} × {height} cells"
    drawn = _panel(_coloured(density, scale.low, scale.high, scale.colours), whole, (text, None))
    return replace(drawn, scale=scale)


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
    bars = [0 if panel.scale is None else BAR + LINE + 4 for panel in panels]
    heights = [
        max(panels[n].picture.height + bars[n] + (2 + len(wrapped[n])) * LINE for n in row) + MARGIN for row in rows
    ]
    made = Image.new("RGB", (MARGIN + min(COLUMNS, len(panels)) * (width + MARGIN), MARGIN + sum(heights)), PAPER)
    pen = ImageDraw.Draw(made)
    for row, numbers in enumerate(rows):
        for place, number in enumerate(numbers):
            left, top = MARGIN + place * (width + MARGIN), MARGIN + sum(heights[:row])
            panel = panels[number]
            pen.text((left, top), textwrap.shorten(panel.title, int(width / LETTER), placeholder=" …"), fill=INK,
                     font=label_font())  # fmt: skip
            made.paste(panel.picture, (left, top + LINE + 2))
            below = top + LINE + panel.picture.height + 6
            if panel.scale is not None:
                _draw_scale(made, panel.scale, left, below, panel.picture.width)
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
