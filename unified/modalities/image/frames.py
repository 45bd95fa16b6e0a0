"""The frames of animated images: how many a file has, and how many are too many."""

from jaxtyping import UInt8
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from unified.core.errors import DataError

PIXEL_LIMIT = 64_000_000
"""Of an image, all of its frames together."""
SEVERAL = ("GIF", "WEBP", "PNG", "TIFF", "AVIF")
"""Formats whose further images are frames or pages. Those in a JPEG (MPO) are previews and gain maps of the first."""
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
    return len(frame_numbers(image))


def frame_numbers(image: Image.Image) -> list[int]:
    """Return the frames by Pillow's numbers, without an APNG's still image for old viewers, and a TIFF's thumbnails."""
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


def check_frames(pixels: UInt8[Tensor, "*t 3 h w"], most: int | None, where: str) -> None:
    """Refuse, with `DataError`, more frames than a model reads; `most` is None where that is not known."""
    count = len(pixels) if pixels.dim() == 4 else 1
    if most is not None and count > most:
        raise DataError(
            f"{where}: expected at most {most} frame{'s' * (most > 1)} (model.modalities.image.frames), got {count}. "
            f"Hint: train with model.modalities.image.frames of at least {count}, or take fewer frames of it"
        )
