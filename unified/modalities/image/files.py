"""The one opening of an image, for builders, shards, the processor and predictions.

An image becomes uint8 RGB, upright by its EXIF orientation, with white where it is transparent. Its pixels are counted
before they are decoded. Grey values of more than 8 bits are scaled by what the file says is white:

- 16 bits: 65535, or what the bits that a TIFF names can hold (4095 of 12 bits);
- 32 bits, whole numbers: 0 to 255 as they are; a PGM or PNG of 16 bits that Pillow opens so has 65535 for white;
- 32 bits, floating point: 0 to 1;
- other values of 32 bits are refused, as nothing says which of them is white.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from unified.modalities.image.formats import FORMATS, describe_unread
from unified.modalities.image.frames import PIXEL_LIMIT, check_pixels, count_frames, frame_numbers

try:
    import simplejpeg
except (
    ImportError
):  # the extra `fast` is not installed: Pillow decodes the same pixels, at about two thirds of the rate
    simplejpeg = None

JPEG_START = b"\xff\xd8\xff"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ANIMATION = b"acTL"  # the chunk that every APNG has
ORIENTATION = 0x0112  # the EXIF tag
BITS, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of a TIFF, and a value (TIFF 6.0)
_SCAN, _APP1 = 0xDA, 0xE1  # markers of a JPEG: its pixels begin; EXIF and XMP
_BARE = (0x01, *range(0xD0, 0xD9))  # markers without a segment
_PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, ArithmeticError, AttributeError),
    *(RuntimeError, AssertionError, struct.error, zlib.error),
)
"""What Pillow's plugins raise at damaged bytes: each reads headers in its own way."""
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)  # Pillow's own, higher limits


class ImageError(ValueError):
    """An image cannot be read: it is damaged, too large, of another format, or of values that have no scale."""


def decode_image(data: bytes, pixel_limit: int = PIXEL_LIMIT) -> UInt8[Tensor, "3 h w"]:
    """Return a still image as RGB; the memory lies channels last.

    Args:
        data: The bytes of its file.
        pixel_limit: The most pixels that are decoded.

    Raises:
        ImageError: It cannot be read, or has several frames.
    """
    pixels = decode_frames(data, pixel_limit)
    if pixels.dim() == 4:
        raise ImageError(f"expected one image, got {len(pixels)} frames. Hint: store the one that is meant by itself")
    return pixels


def decode_frames(data: bytes, pixel_limit: int = PIXEL_LIMIT) -> UInt8[Tensor, "*t 3 h w"]:
    """Do the same, and return all frames of an animated image: a GIF, WebP, APNG, AVIF or TIFF of several pages."""
    if data[:3] == JPEG_START:
        pixels = _decode_jpeg(data, pixel_limit)
        if pixels is not None:
            return torch.from_numpy(pixels).permute(2, 0, 1)
    with _opened(data) as image:
        return read_pixels(image, pixel_limit)


def count_frames_in(data: bytes) -> int:
    """Return how many frames the bytes of an image hold, without decoding them; raise `ImageError` as decoding does."""
    if data[:3] == JPEG_START or (data[:8] == PNG_SIGNATURE and ANIMATION not in data):
        return 1
    with _opened(data) as image:
        return count_frames(image)


def read_pixels(image: Image.Image, pixel_limit: int = PIXEL_LIMIT) -> UInt8[Tensor, "*t 3 h w"]:
    """Return the pixels of an opened image, each frame upright and in RGB.

    Args:
        image: An image of Pillow. It may stand at any frame, and stands there again afterwards.
        pixel_limit: The most pixels, all frames together.

    Returns:
        (3, h, w) of a still image, (t, 3, h, w) of one with t > 1 frames; the memory lies channels last.

    Raises:
        ImageError: It is broken, has more pixels, or frames of different sizes.
    """
    with whole_image():
        count = count_frames(image)
        check_pixels(*image.size, pixel_limit, count)
        if count == 1:
            return torch.from_numpy(_upright(image)).permute(2, 0, 1)
        standing = image.tell()
        frames = list(_frames(image))
        image.seek(standing)
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        found = ", ".join(f"{width}×{height}" for height, width in sorted(sizes))
        raise ImageError(f"{count} frames or pages of different sizes ({found}); expected one size. Store them apart")
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


@contextmanager
def whole_image() -> Iterator[None]:
    """Make an `ImageError` of all that Pillow raises in the block."""
    try:
        yield
    except ImageError:
        raise
    except _BOMBS as error:
        raise ImageError(f"expected at most {PIXEL_LIMIT:,} pixels, the limit, got more: {error}") from error
    except UnidentifiedImageError as error:  # its message names an object
        raise ImageError("expected a whole image, got a damaged one") from error
    except _PILLOW_ERRORS as error:
        raise ImageError(str(error) or type(error).__name__) from error


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    with whole_image():
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            kind = describe_unread(data)
            raise ImageError(f"expected an image ({', '.join(FORMATS)}), got {kind.name}. Hint: {kind.hint}") from None
        with image:
            yield image


def _decode_jpeg(data: bytes, pixel_limit: int) -> UInt8[np.ndarray, "h w 3"] | None:
    """A plain JPEG by the fast decoder; None leaves it to Pillow: no such decoder, turned by EXIF, CMYK, or broken."""
    if simplejpeg is None or _may_be_turned(data):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        check_pixels(width, height, pixel_limit)
        if colours not in ("YCbCr", "Gray", "RGB"):
            return None
        return simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None


def _may_be_turned(data: bytes) -> bool:
    """Whether a JPEG has EXIF or XMP with an orientation, behind segments of any size, or segments that are broken."""
    at = 2
    while at + 4 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF:
            return True
        if marker == 0xFF:  # fills up
            at += 1
        elif marker in _BARE:
            at += 2
        elif marker == _SCAN:
            return False
        else:
            stop = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if marker == _APP1 and (data.startswith(b"Exif", at + 4) or data.find(b"tiff:Orientation", at, stop) >= 0):
                return True
            at = stop
    return True


def _frames(image: Image.Image) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    for number in frame_numbers(image):
        image.seek(number)
        yield _upright(image)


def _upright(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    _load(image)
    white = _white(image) if _is_deep(image) else None
    turned = ImageOps.exif_transpose(image) if ORIENTATION in image.getexif() else image
    return np.array(_rgb(turned)) if white is None else _scaled(turned, *white)


def _load(image: Image.Image) -> None:
    """Decode an image. Pillow would map the file of a plain TIFF, with its sides exchanged where it is to be turned."""
    if isinstance(image, TiffImageFile):
        name, image.filename = image.filename, ""  # without a name it is read
        image.load()
        image.filename = name
    else:
        image.load()


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _white(image: Image.Image) -> tuple[float, bool]:
    """The value of white in a grey image of more than 8 bits, and whether the scale is turned around, as in a TIFF."""
    if image.mode == "F":
        white = 1.0
    elif image.mode == "I":
        white = 65535.0 if image.format in ("PPM", "PNG") else 255.0
    else:
        white = 65535.0
    if not isinstance(image, TiffImageFile):
        return white, False
    if image.mode.startswith("I;16"):
        white = 2.0 ** max(image.tag_v2.get(BITS, (16,))) - 1
    return white, image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO


def _scaled(image: Image.Image, white: float, turned_around: bool) -> UInt8[np.ndarray, "h w 3"]:
    """Grey values from 0 to `white` as 0 to 255, a value that stands for transparent pixels as white."""
    values = np.asarray(image)
    least, most = float(values.min()), float(values.max())
    if not (least >= 0 and most <= white):  # NaN too
        raise ImageError(
            f"expected grey values from 0 to {white:g} in an image of mode {image.mode}, got {least:g} to {most:g}. "
            "Hint: scale it to 8 or 16 bits"
        )
    if image.mode == "F":
        grey = np.round((white - values if turned_around else values) * 255).astype(np.uint8)
    else:
        levels = np.round(np.arange(int(white) + 1) * (255 / white)).astype(np.uint8)
        grey = (levels[::-1] if turned_around else levels)[values]
    clear: Any = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return np.repeat(grey[..., None], 3, axis=2)


def _rgb(image: Image.Image) -> Image.Image:
    """An image of 8 bits in RGB; what is transparent becomes white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
