"""Images that measurements read: photographs as JPEG, and glyphs as PNG."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unified.core.seed import generator


def photograph(number: int, side: int) -> bytes:
    """A JPEG with the sizes of detail of a photograph: noise at every scale, weaker the finer."""
    draw = generator("benchmark", number)
    pixels = np.zeros((side, side, 3), dtype=np.float32)
    for cells in (4, 8, 16, 32, 64, 128):
        noise = draw.normal(0, 100 / cells**0.5, (cells, cells, 3)).clip(-127, 127) + 128
        pixels += (
            np.asarray(Image.fromarray(noise.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)) - 128.0
        )
    stream = io.BytesIO()
    Image.fromarray((pixels + 128).clip(0, 255).astype(np.uint8)).save(stream, "jpeg", quality=90)
    return stream.getvalue()


def glyph(number: int, side: int) -> bytes:
    """A PNG of a character, drawn in a font of matplotlib's."""
    import matplotlib  # other images need none

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    font = ImageFont.truetype(path, side * 2 // 3, layout_engine=ImageFont.Layout.BASIC)
    image = Image.new("L", (side, side), 255)
    ImageDraw.Draw(image).text((side // 2, side // 2), chr(0x21 + number % 500), fill=0, font=font, anchor="mm")
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()
