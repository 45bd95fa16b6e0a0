"""Looking at shards: a table of samples as text, and their pictures on one sheet."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from unified.core.errors import DataError
from unified.core.text_files import same_text
from unified.data.commands.visualize import label_font, map_picture, overlay
from unified.data.samples import annotations as scene
from unified.data.samples.annotations import annotated
from unified.data.samples.decode import DECODERS, decode_column, place, using
from unified.data.shards.shards import Shards
from unified.modalities.image.formats import IMAGES

CELL = 128  # pixels of a picture on the sheet
ANNOTATED = 320  # pixels of one with objects or joints, whose names are written at them
LINES = 4  # below it: key and caption
LETTERS = 22  # in a line
LINE_HEIGHT = 13
CAPTION_EM = 9
MARGIN = 8
COLUMNS = 8  # pictures in a row
EXCERPT = 60  # characters of a text in the table
LOOKED_AT = 10_000  # characters of which these are taken
SHOWN = 4  # frames of a video


def choose(shards: Shards, count: int) -> list[dict[str, Any]]:
    """`count` raw samples, spread evenly over all shards."""
    count = min(count, len(shards))
    return [shards[number * len(shards) // count] for number in range(count)]


def check_sample(raw: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a raw sample without the columns that cannot be read, and what is wrong with each of these."""
    sound, wrong, decoded = dict(raw), dict[str, str](), {name: raw[name] for name in raw if name.startswith("__")}
    for name in raw:
        if name in decoded or name.rpartition(".")[2] not in DECODERS:
            continue
        try:
            decoded[name] = decode_column(raw, name)
        except DataError as error:
            wrong[name] = str(error)
    annotations = list(scene.problems(decoded, None))
    if annotations and "json" in decoded:
        wrong["json"] = annotations[0]
    for name in wrong:
        del sound[name]
    return sound, wrong


def describe(raw: Mapping[str, Any], wrong: Mapping[str, str]) -> dict[str, str]:
    """Return the key and each column of a sample in a few words; what cannot be read says why.

    Args:
        raw: The sample, as `check_sample` returns it.
        wrong: What is wrong with its other columns.
    """
    described = {"key": str(raw["__key__"])}
    for name in sorted(column for column in (*raw, *wrong) if not column.startswith("__")):
        if name in wrong:
            reason = wrong[name].removeprefix(f"{place(raw)}: ").removeprefix(f"column {name!r}: ")
            described[name] = textwrap.shorten(f"cannot be read: {reason}", EXCERPT, placeholder=" …")
        elif name.rpartition(".")[2] not in DECODERS:
            described[name] = f"{len(raw[name]):,} bytes"
        else:
            with using(raw):
                described[name] = _excerpt(decode_column(raw, name))
    return described


def _excerpt(value: Any) -> str:
    if isinstance(value, Tensor):
        depth = f" {value.element_size() * 8} bit" if value.dim() == 2 else ""
        frames = f"{len(value)} frames of " if value.dim() == 4 else ""
        return f"{frames}{value.shape[-1]}×{value.shape[-2]}{depth}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {'×'.join(map(str, value.shape))}"
    if isinstance(value, Mapping):
        value = {name: _counted(item) for name, item in value.items()}
        value = ", ".join(f"{name}={item}" for name, item in value.items())
    return textwrap.shorten(str(value)[:LOOKED_AT], EXCERPT, placeholder=" …")


def _counted(value: Any) -> Any:
    """How many there are where a list would not fit into a table."""
    return f"{len(value)} of them" if isinstance(value, list | dict) and len(str(value)) > EXCERPT else value


def contact_sheet(samples: Sequence[Mapping[str, Any]], out: Path) -> int:
    """Write the pictures of the samples, each with key and caption, as one PNG; returns how many there were."""
    decoded = [decode_column(raw, "json") if "json" in raw else None for raw in samples]
    side = ANNOTATED if any(annotated({"json": facts}) for facts in decoded) else CELL
    letters = LETTERS * side // CELL
    cells = [(picture, _caption(raw, letters)) for raw in samples for picture in _pictures(raw, side)]
    if cells:
        width, height = side + MARGIN, side + LINES * LINE_HEIGHT + MARGIN
        across = min(COLUMNS * CELL // side, len(cells))
        rows = -(-len(cells) // across)
        sheet = Image.new("RGB", (across * width + MARGIN, rows * height + MARGIN), (222, 226, 232))
        for number, (picture, lines) in enumerate(cells):
            corner = (MARGIN + number % across * width, MARGIN + number // across * height)
            _paste(sheet, picture, lines, corner, side)
        out.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(out, "PNG")
    return len(cells)


def _pictures(raw: Mapping[str, Any], side: int) -> list[Image.Image]:
    """The pictures of a sample at the size of a cell, annotations drawn over those that are no maps.

    Of videos, up to four frames lie in one cell.
    """
    endings = (*IMAGES, "npy")
    names = sorted((name for name in raw if name.rpartition(".")[2] in endings), key=lambda name: ("." in name, name))
    facts = decode_column(raw, "json") if "json" in raw else None
    sample = {**raw, "json": facts}
    pictures = []
    for name in names:
        value = decode_column(raw, name)
        if isinstance(value, np.ndarray):
            if value.dtype != np.uint8 or value.ndim not in (3, 4) or value.shape[-3] != 3 or not value.size:
                continue  # an array that is no picture
            value = torch.from_numpy(value)
        if value.dim() == 4:
            pictures.append(_fitted(Image.fromarray(_mosaic(value).permute(1, 2, 0).numpy()), side))
            continue
        if value.dim() == 2:
            pictures.append(_fitted(map_picture(value, name), side, nearest="classes" in name))
            continue
        picture = _fitted(Image.fromarray(value.permute(1, 2, 0).contiguous().numpy()), side)
        pictures.append(overlay(picture, sample) if "." not in name and annotated(sample) else picture)
    return pictures


def _mosaic(video: UInt8[Tensor, "t 3 h w"]) -> UInt8[Tensor, "3 H W"]:
    """Up to four frames, spread evenly over all, in two rows."""
    frames = [video[number * len(video) // SHOWN] for number in range(SHOWN)] if len(video) > SHOWN else [*video]
    frames += [torch.zeros_like(video[0])] * (-len(frames) % 2)
    rows = [torch.cat(frames[start : start + 2], dim=2) for start in range(0, len(frames), 2)]
    return torch.cat(rows, dim=1).contiguous()


def _fitted(picture: Image.Image, side: int, nearest: bool = False) -> Image.Image:
    scale = min(side / picture.width, side / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    smooth = Image.Resampling.LANCZOS if scale < 1 and not nearest else Image.Resampling.NEAREST  # small: show pixels
    return picture.resize(size, smooth)


def _caption(raw: Mapping[str, Any], letters: int) -> list[tuple[str, str]]:
    """Lines with their colours."""
    text = next((_excerpt(decode_column(raw, name)) for name in ("txt", "cls") if name in raw), "")
    key = [(line, "black") for line in textwrap.wrap(str(raw["__key__"]), letters)[:2]]
    return [*key, *((line, "dimgrey") for line in textwrap.wrap(text, letters))][:LINES]


def _paste(
    sheet: Image.Image, picture: Image.Image, lines: Sequence[tuple[str, str]], corner: tuple[int, int], side: int
) -> None:
    left, top = corner
    sheet.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))
    pen, font = ImageDraw.Draw(sheet), label_font(CAPTION_EM)
    for number, (line, colour) in enumerate(lines):
        text = same_text(line)  # fonts have no place for accents of their own
        pen.text((left, top + side + 2 + number * LINE_HEIGHT), text, fill=colour, font=font)
