"""Shards that are made on the spot, in a second: photographs with captions, and glyphs with their names."""

import importlib.util
import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from benchmarks.drawn import glyph, photograph
from benchmarks.gpu.setting import SkippedError
from unified.core import seed
from unified.data.builders import characters
from unified.data.shards.write import ShardWriter

CLASSES = ("ground", "red", "green")
NAMES = ("one", "two", "three", "four", "five", "six", "seven", "eight")


def write_photographs(folder: Path, count: int, side: int, distinct: int) -> None:
    """Shards of JPEGs with captions; only so many are distinct, as drawing one takes longer than reading it."""
    drawn = [photograph(number, side) for number in range(distinct)]
    with ShardWriter(folder, kind="benchmark", source="made", samples_per_shard=-(-count // 4)) as writer:
        for number in range(count):
            caption = " ".join(NAMES[(number // 8**place) % 8] for place in range(6))
            writer.write(f"{number:06d}", {"jpg": drawn[number % distinct], "txt": caption})


def write_squares(folder: Path, count: int, side: int) -> None:
    """Shards of images of two squares, with a map of their classes, their boxes and captions, and lists of names."""
    with ShardWriter(folder / "data", kind="benchmark", source="made") as writer:
        for number in range(count):
            draw = seed.generator("benchmark squares", number)
            image = draw.integers(0, 255, (side, side, 3)).astype(np.uint8)
            classes, objects = np.zeros((side, side), np.uint8), []
            for place, name in enumerate(CLASSES[1:]):
                length, left, top = (int(draw.integers(side // 8, side // 4)) for _ in range(3))
                left += place * side // 2
                classes[top : top + length, left : left + length] = place + 1
                objects.append({"label": name, "box": [float(v) for v in (left, top, left + length, top + length)]})
            caption = " ".join(NAMES[int(draw.integers(8))] for _ in range(6))
            facts = {"width": side, "height": side, "objects": objects}
            columns = {"png": _png(image), "classes.png": _png(classes), "txt": caption, "json": facts}
            writer.write(f"{number:03d}", columns)
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    (folder / "objects.txt").write_text("\n".join(CLASSES[1:]) + "\n")


def write_quickstart(folder: Path) -> None:
    """What the quickstart reads, far less of it: a font's characters with their names, and sentences about them.

    Raises `SkippedError` without matplotlib, whose fonts are drawn.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise SkippedError("neither the quickstart's shards nor matplotlib, whose fonts would be drawn, are here")
    known = [code for code in range(0x21, 0x21 + 500) if characters.name(code)]
    scripts = sorted({characters.script(code) for code in known})
    for name, codes in (("ascii", [code for code in known if code in characters.ASCII]), ("glyphs", known)):
        with ShardWriter(folder / name, kind="glyphs", source="made") as writer:
            for code in codes:
                facts = {"group": code, "script": characters.script(code)}
                columns = {"png": glyph(code - 0x21, 32), "txt": characters.name(code), "json": facts}
                writer.write(f"{code:06x}", columns)
    with ShardWriter(folder / "documentation", kind="documentation", source="made") as writer:
        for number, text in enumerate(_sentences(known)):
            writer.write(f"{number:06d}", {"txt": text})
    (folder / "scripts.yaml").write_text(yaml.safe_dump({"format": 1, "names": scripts}))


def _sentences(codes: list[int]) -> Iterator[str]:
    names = [characters.name(code) for code in codes]
    for one, other in pairwise(names):
        yield f"The character before {other} is {one}."


def _png(values: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "png")
    return stream.getvalue()
