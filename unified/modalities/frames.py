"""The frames of animated images: how many a file has, and all of them as pixels."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from unified.modalities.image import rgb
from unified.types import DataError

PIXEL_LIMIT = 64_000_000
"""Of an image, all of its frames together."""
SEVERAL = ("GIF", "WEBP", "PNG", "TIFF")
"""Formats whose further images are frames or pages. Those in a JPEG (MPO) are previews and gain maps of the first."""
ORIENTATION = 0x0112  # the EXIF tag
SUBFILE_TYPE, REDUCED = 254, 1  # the tag of a TIFF's page, and its bit for a smaller version of another page (TIFF 6.0)


def check_pixels(width: int, height: int, limit: int, frames: int = 1) -> None:
    """Refuse, with `ValueError`, what would take too much memory to decode."""
    if width * height * frames > limit:
        size, hint = f"{width:,}×{height:,} pixels", "make the picture smaller"
        if frames > 1:
            size, hint = f"{frames} frames of {size}", f"{hint} or take fewer frames"
        raise ValueError(f"{size} are more than the limit of {limit:,}; {hint}")


def count_frames(image: Image.Image) -> int:
    """How many frames an opened file has; 1 of a still image."""
    if image.format not in SEVERAL or not getattr(image, "is_animated", False):
        return 1
    return len(_numbers(image))


def _numbers(image: Image.Image) -> list[int]:
    """The frames by Pillow's numbers, without the still image for old viewers of an APNG, and thumbnails in a TIFF."""
    numbers = list(range(int(getattr(image, "n_frames", 1))))
    if image.format == "PNG" and image.info.get("default_image"):
        numbers = numbers[1:]
    elif isinstance(image, TiffImageFile):
        numbers = [number for number in numbers if not _is_thumbnail(image, number)]
    return numbers if len(numbers) > 1 else [0]


def _is_thumbnail(image: TiffImageFile, number: int) -> bool:
    standing = image.tell()
    image.seek(number)
    kind = image.tag_v2.get(SUBFILE_TYPE, 0)
    image.seek(standing)
    return bool(kind & REDUCED)


def read_pixels(image: Image.Image, limit: int = PIXEL_LIMIT) -> UInt8[Tensor, "*t 3 h w"]:
    """Return the pixels of an opened file, each frame upright and in RGB.

    Args:
        image: A file opened by Pillow. It may stand at any frame, and stands there again afterwards.
        limit: The most pixels, all frames together.

    Returns:
        (3, h, w) of a still image, (t, 3, h, w) of one with t > 1 frames; the memory lies channels last.

    Raises:
        ValueError: There are more pixels than `limit`, or frames of different sizes.
        OSError: A frame is broken.
    """
    count = count_frames(image)
    check_pixels(*image.size, limit, count)
    if count == 1:
        return torch.from_numpy(_upright(image)).permute(2, 0, 1)
    standing = image.tell()
    frames = list(_frames(image))
    image.seek(standing)
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        found = ", ".join(f"{width}×{height}" for height, width in sorted(sizes))
        raise ValueError(f"{count} frames or pages of different sizes ({found}); expected one size. Store them apart")
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def _frames(image: Image.Image) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    for number in _numbers(image):
        image.seek(number)
        yield _upright(image)


def _upright(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    turned = ImageOps.exif_transpose(image) if ORIENTATION in image.getexif() else image
    return np.array(rgb(turned))


def check_frames(pixels: UInt8[Tensor, "*t 3 h w"], most: int | None, where: str) -> None:
    """Refuse, with `DataError`, more frames than a model reads; `most` is None where that is not known."""
    count = len(pixels) if pixels.dim() == 4 else 1
    if most is not None and count > most:
        raise DataError(
            f"{where}: expected at most {most} frame{'s' * (most > 1)} (model.image.frames), got {count}. Hint: "
            f"train with model.image.frames of at least {count}, or take fewer frames of it"
        )
