"""Pictures of annotations: masks, boxes and joints over an image, and maps as colours."""

import colorsys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8, UInt16
from matplotlib import get_data_path
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unified.core.seed import key
from unified.core.types import Sample
from unified.data.label_places import Rect, place_labels
from unified.data.samples.annotations import decode_masks

OPACITY = 0.45  # of a mask over the image
RADIUS = 2  # pixels of a joint
LINE = 16  # pixels of a label's height
BRIGHT = 150  # luma from which on black letters are read better than white ones
GOLDEN = 0.618034  # neighbouring numbers get hues far apart


def colour(number: int) -> tuple[int, int, int]:
    """A colour for a class; those of neighbouring numbers differ."""
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN % 1, 0.75, 0.95 - 0.25 * (number % 3) / 2)
    return round(255 * red), round(255 * green), round(255 * blue)


def name_colour(name: str) -> tuple[int, int, int]:
    """A colour for a name, the same in every picture."""
    return colour(key("colour", name) % 997)


def overlay(image: Image.Image, sample: Sample) -> Image.Image:
    """Return the image, of any scale, with the segments, objects and joints of the sample's facts drawn over it.

    The class stands at each box, where there is room for it.
    """
    facts = sample["json"]
    parts = [*facts.get("segments", ()), *facts.get("objects", ())]
    made = _with_masks(image, sample, [part for part in parts if part.get("mask")])
    pen = ImageDraw.Draw(made)
    across, down = made.width / facts["width"], made.height / facts["height"]
    for found in facts.get("objects", ()):
        x0, y0, x1, y1 = found["box"]
        corners = (x0 * across, y0 * down, max(x1 * across - 1, x0 * across), max(y1 * down - 1, y0 * down))
        pen.rectangle(corners, outline=name_colour(found["label"]), width=2)
    for points in [facts.get("points") or {}, *(found.get("points") or {} for found in facts.get("objects", ()))]:
        for name, (x, y, visible) in points.items():
            if visible:
                left, top = x * across, y * down
                circle = (left - RADIUS, top - RADIUS, left + RADIUS, top + RADIUS)
                pen.ellipse(circle, fill=name_colour(name), outline="white" if visible == 2 else "black")
    objects = facts.get("objects", ())
    scaled = [[edge * (across, down)[n % 2] for n, edge in enumerate(found["box"])] for found in objects]
    _write_names(pen, made.size, scaled, [found["label"] for found in objects])
    return made


def _write_names(
    pen: ImageDraw.ImageDraw, size: tuple[int, int], boxes: Sequence[Sequence[float]], names: Sequence[str]
) -> None:
    """Write the class of each box, none over another; large objects choose their places last."""
    order = sorted(range(len(boxes)), key=lambda n: (boxes[n][2] - boxes[n][0]) * (boxes[n][3] - boxes[n][1]))
    sizes = [(pen.textlength(names[n], font=label_font()) + 4, LINE) for n in order]
    places = place_labels(size, [Rect(*boxes[n]) for n in order], sizes)
    for number, place in zip(order, places, strict=True):
        if place is not None:
            write_label(pen, place, names[number], name_colour(names[number]))


def write_label(pen: ImageDraw.ImageDraw, place: Rect, text: str, fill: tuple[int, int, int]) -> None:
    """Write a text on a ground of a colour, in black or white, whichever can be read on it (ITU-R BT.601 luma)."""
    red, green, blue = fill
    ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > BRIGHT else "white"
    pen.rectangle((place.left, place.top, place.right - 1, place.bottom - 1), fill=fill)
    pen.text((place.left + 2, place.top + 1), text, fill=ink, font=label_font())


@cache
def label_font(size: int = 11) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which has the letters of many scripts, at so many pixels an em."""
    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _with_masks(image: Image.Image, sample: Sample, parts: Sequence[Mapping[str, Any]]) -> Image.Image:
    made = image.convert("RGB")
    for part, pixels in zip(parts, decode_masks(sample, [part["mask"] for part in parts]), strict=True):
        shape = Image.fromarray(pixels.numpy().astype(np.uint8) * round(255 * OPACITY)).resize(made.size)
        made.paste(Image.new("RGB", made.size, name_colour(part["label"])), mask=shape)
    return made


def map_picture(stored: UInt8[Tensor, "h w"] | UInt16[Tensor, "h w"], column: str) -> Image.Image:
    """A map as a picture: classes in colours, all other numbers from black to white at their highest."""
    values = stored.numpy()
    if column.endswith("classes.png"):
        return Image.fromarray(_palette(int(values.max()))[values])
    top = max(int(values.max()), 1) if column.endswith("depth.png") else torch.iinfo(stored.dtype).max
    return Image.fromarray((values.astype(np.float32) * (255 / top)).astype(np.uint8)).convert("RGB")


def _palette(highest: int) -> UInt8[NDArray[Any], "n 3"]:
    colours = np.array([colour(number) for number in range(highest + 1)], dtype=np.uint8)
    if highest in (255, 65535):
        colours[highest] = 0  # no label
    return colours
