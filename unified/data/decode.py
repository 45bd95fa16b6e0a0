"""The bytes of a sample's columns as values: pictures as tensors, text, JSON, class numbers, arrays."""

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from unified.modalities.image import rgb
from unified.types import DataError, Sample

try:
    import simplejpeg
except ImportError:  # the extra `fast` is not installed: Pillow decodes, at about two thirds of the rate
    simplejpeg = None

PIXEL_LIMIT = 64_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
IMAGES = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm")
ORIENTATION = 0x0112  # the EXIF tag
PNG_SIGNATURE, PNG_HEADER = b"\x89PNG\r\n\x1a\n", 33  # bytes up to the end of the first chunk
PNG_GREY, PNG_PALETTE = 0, 3
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, OverflowError, IndexError, TypeError)


def decode(raw: Mapping[str, Any], columns: Iterable[str]) -> Sample:
    """The named columns of a raw sample, decoded by their extension, with "__key__" and "__shard__".

    A column may be given as for `column`: alternatives "png;jpg", or a path into JSON "json.script". Raises `DataError`
    naming shard, key and column where one is missing or cannot be decoded.
    """
    sample: dict[str, Any] = {name: raw[name] for name in ("__key__", "__shard__") if name in raw}
    for wanted in columns:
        name = wanted if wanted in raw else resolve(raw, wanted)[0]
        if name not in sample:
            sample[name] = decode_column(raw, name)
    return sample


def column(sample: Sample, wanted: str) -> Any:
    """The value of a column: "txt", the first of "png;jpg" that there is, or what lies in JSON at "json.script"."""
    if wanted in sample:
        return sample[wanted]
    name, path = resolve(sample, wanted)
    value = sample[name]
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            keys = sorted(value) if isinstance(value, Mapping) else type(value).__name__
            raise DataError(f"{place(sample)}: column {wanted!r}: no {part!r} in {name!r}; found {keys}")
        value = value[part]
    return value


def resolve(sample: Mapping[str, Any], wanted: str) -> tuple[str, list[str]]:
    """The column that `wanted` names in this sample, and the path within its value."""
    for choice in wanted.split(";"):
        name, path = choice, list[str]()
        while name:
            if name in sample:
                return name, path
            name, _, last = name.rpartition(".")
            path = [last, *path]
    found = sorted(name for name in sample if not name.startswith("__"))
    raise DataError(
        f"{place(sample)}: column {wanted!r} is missing; found {found}. Name another column in the task, or build the "
        "shards again"
    )


def place(sample: Mapping[str, Any]) -> str:
    """Where a sample lies, as errors name it: shard and key."""
    return f"{sample.get('__shard__', 'sample')}: {sample.get('__key__', '?')}"


def decode_column(raw: Mapping[str, Any], name: str) -> Any:
    """One column of a raw sample, decoded by the last part of its name ("seg.png" is a picture).

    Maps are told by the last two parts: "classes.png", "depth.png" and "edges.png" are numbers of a pixel, not colours,
    and come as uint8 or uint16 (h, w) as they are stored; "normals.png" is a picture like any other.
    """
    decoder = MAPS.get(".".join(name.split(".")[-2:])) or DECODERS.get(name.rpartition(".")[2])
    if decoder is None:
        raise DataError(f"{place(raw)}: column {name!r}: no decoder for it; there are: {', '.join(sorted(DECODERS))}")
    try:
        return decoder(raw[name])
    except _BROKEN as error:
        raise DataError(f"{place(raw)}: column {name!r}: {error or type(error).__name__}") from error


def decode_image(data: bytes, pixel_limit: int = PIXEL_LIMIT) -> UInt8[Tensor, "3 h w"]:
    """A picture as RGB, turned upright by its EXIF orientation, transparent parts on white.

    The memory lies channels last. Raises `ValueError` or `OSError` where it is broken or has more than `pixel_limit`
    pixels; these are counted before any is decoded.
    """
    pixels = _decode_jpeg(data, pixel_limit) if data[:3] == b"\xff\xd8\xff" else None
    if pixels is None:
        pixels = _decode_any(data, pixel_limit)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _decode_jpeg(data: bytes, pixel_limit: int) -> UInt8[np.ndarray, "h w 3"] | None:
    """A plain JPEG by the fast decoder; None leaves it to Pillow: no such decoder, turned by EXIF, CMYK, or broken."""
    if simplejpeg is None or b"Exif\x00\x00" in data[: 1 << 16]:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        check_pixels(width, height, pixel_limit)
        if colours not in ("YCbCr", "Gray", "RGB"):
            return None
        return simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None


def _decode_any(data: bytes, pixel_limit: int) -> UInt8[np.ndarray, "h w 3"]:
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"not a picture; expected one of {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow's own, higher limit
        raise ValueError(f"{error}; the limit here is {pixel_limit:,}; make the picture smaller") from error
    with opened as image:
        check_pixels(*image.size, pixel_limit)
        upright = ImageOps.exif_transpose(image) if ORIENTATION in image.getexif() else image
        return np.array(rgb(upright))


def check_pixels(width: int, height: int, limit: int) -> None:
    """Refuse what would take too much memory to decode."""
    if width * height > limit:
        raise ValueError(f"{width:,}×{height:,} pixels are more than the limit of {limit:,}; make the picture smaller")


def decode_map(data: bytes, bits: Sequence[int] = (8, 16)) -> UInt8[Tensor, "h w"] | UInt16[Tensor, "h w"]:
    """The numbers in a PNG of one channel, or the indices of one with a palette, at the depth at which they are stored.

    Less than 8 bits become 8 with the same numbers. Raises `ValueError` for colours, other formats, and a depth that
    is not in `bits`: 16 bits read as 8 have lost what they said.
    """
    if data[:8] != PNG_SIGNATURE or len(data) < PNG_HEADER:
        raise ValueError("not a PNG; maps are PNGs of one channel")
    width, height, depth, colours = struct.unpack(">IIBB", data[16:26])
    if colours not in (PNG_GREY, PNG_PALETTE):
        raise ValueError("a picture in colours; expected a PNG of one channel, or of indices into a palette")
    if max(depth, 8) not in bits:
        raise ValueError(f"{depth} bits a pixel; expected {' or '.join(map(str, bits))}")
    check_pixels(width, height, PIXEL_LIMIT)
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        if colours == PNG_PALETTE:
            return torch.from_numpy(np.array(image, dtype=np.uint8))
        if depth == 16:
            return torch.from_numpy(np.array(image, dtype=np.uint16))
        scale = 255 // (2**depth - 1)  # by which Pillow spreads fewer bits over eight
        return torch.from_numpy(np.array(image.convert("L"), dtype=np.uint8) // scale)


def _decode_text(data: bytes) -> str:
    return data.decode("utf-8")


def _decode_number(data: bytes) -> int:
    return int(data)


def _decode_array(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False)


DECODERS: dict[str, Callable[[bytes], Any]] = {
    **dict.fromkeys(IMAGES, decode_image),
    **dict.fromkeys(("txt", "text"), _decode_text),
    **dict.fromkeys(("json",), json.loads),
    **dict.fromkeys(("cls", "index"), _decode_number),
    **dict.fromkeys(("npy",), _decode_array),
}

MAPS: dict[str, Callable[[bytes], Any]] = {
    "classes.png": decode_map,
    "depth.png": partial(decode_map, bits=(16,)),
    "edges.png": partial(decode_map, bits=(8,)),
}
