"""Shards of letters and digits in Computer Modern, drawn in many sizes: for evaluation only.

The fonts are matplotlib's. They are not among those of the glyphs, so a model that learned glyphs has never seen them.
"""

import string
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from unified.core.seed import key
from unified.data.builders.glyphs import BASELINE, SIZE, png
from unified.data.shards.write import ShardWriter, complete_folder

FONTS = ("cmr10", "cmss10", "cmtt10", "cmb10")
CHARACTERS = string.ascii_letters + string.digits
EMS = range(14, 31, 2)
"""Sizes in pixels an em; glyphs are drawn at 24."""
SEED = "computer modern 1"


def build_computer_modern(out: Path, samples_per_shard: int) -> dict[str, dict[str, Any]]:
    """Draw every character in every font and size, and write them as one split `test`.

    Args:
        out: the folder of the data set, complete or absent afterwards.
        samples_per_shard: the most samples of a tar.

    Returns:
        The manifest of the split.
    """
    names = [unicodedata.name(character).lower() for character in CHARACTERS]
    work = [(em, font, number) for em in EMS for font in FONTS for number in range(len(CHARACTERS))]
    with complete_folder(out) as folder:
        writer = ShardWriter(
            folder / "test", kind="computer_modern", source="matplotlib fonts", samples_per_shard=samples_per_shard
        )
        with writer:
            writer.manifest |= {"classes": names, "fonts": list(FONTS)}
            for em, font, number in sorted(work, key=lambda drawn: key(SEED, *drawn)):
                columns = {
                    "png": png(draw(font, em, CHARACTERS[number])),
                    "cls": number,
                    "txt": names[number],
                    "json": {"character": CHARACTERS[number], "font": font, "em_px": em},
                }
                writer.write(f"{font}-{em:02d}-{ord(CHARACTERS[number]):02x}", columns, "letters")
    return {"test": writer.manifest}


def draw(font: str, em: int, character: str) -> bytes:
    """Draw a character black on white, on the baseline of the glyphs, centred across.

    Args:
        font: the name of one of matplotlib's fonts.
        em: its size in pixels.
        character: what is drawn.

    Returns:
        32 × 32 grey pixels, 0 is ink.
    """
    pen = _pen(font, em)
    left, _, right, _ = pen.getbbox(character, anchor="ls")
    image = Image.new("L", (SIZE, SIZE), 255)
    place = ((SIZE - (right - left)) // 2 - left, BASELINE)
    ImageDraw.Draw(image).text(place, character, fill=0, font=pen, anchor="ls")
    return image.tobytes()


@cache
def _pen(font: str, em: int) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    return ImageFont.truetype(str(path), em, layout_engine=ImageFont.Layout.BASIC)
