"""The bytes of a sample's columns as values: images and their frames as tensors, text, JSON, class numbers, arrays."""

import io
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8, UInt16
from PIL import Image
from torch import Tensor

from unified.core.errors import DataError, UserError, quoted
from unified.core.json_files import parse_json
from unified.core.text_files import check_texts, shown_text
from unified.core.types import Sample
from unified.data.samples.foreign import PICKLED, decode_array, decode_msgpack
from unified.modalities import MODALITIES
from unified.modalities.image.files import PNG_SIGNATURE, ImageError, whole_image
from unified.modalities.image.frames import PIXEL_LIMIT, check_frames, check_pixels, count_frames

PNG_HEADER = 33  # bytes up to the end of the first chunk
PNG_GREY, PNG_PALETTE = 0, 3
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
MOST_JSON = 1 << 25
"""Bytes of JSON in a sample; some 20 times as many are taken when it is read."""


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


def read_image(sample: Sample, wanted: str, most: int | None = None) -> UInt8[Tensor, "*t 3 h w"]:
    """Return an image or a video of a decoded sample.

    Args:
        sample: As `decode` makes it.
        wanted: A column as for `column`: of an image, or of an array, uint8 (3, h, w) or (t, 3, h, w).
        most: Frames that the model reads (model.modalities.image.frames); None: any number.

    Returns:
        (3, h, w), or (t, 3, h, w) where there are t > 1 frames.

    Raises:
        DataError: Another type, shape or number of frames; it names shard, key and column.
    """
    value, where = column(sample, wanted), f"{place(sample)}: column {wanted!r}"
    pixels = torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype == np.uint8 else value
    fits = isinstance(pixels, Tensor) and pixels.dtype == torch.uint8 and pixels.dim() in (3, 4)
    if not fits or pixels.shape[-3] != 3 or not pixels.numel():
        found = f"{value.dtype} {tuple(value.shape)}" if hasattr(value, "shape") else type(value).__name__
        raise DataError(
            f"{where}: expected an image or a video, uint8 (3, h, w) or (t, 3, h, w), got {found}. Hint: convert "
            "values to 0 to 255 and lay the axes in this order"
        )
    check_frames(pixels, most, where)
    return pixels[0] if len(pixels) == 1 else pixels


def read_string(sample: Sample, wanted: str) -> str:
    """Return the text in a column of a decoded sample; raise `DataError` naming shard, key and column for others."""
    value = column(sample, wanted)
    if not isinstance(value, str):
        raise DataError(f"{place(sample)}: column {quoted(wanted)}: expected a text, found {type(value).__name__}")
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


@contextmanager
def using(sample: Mapping[str, Any]) -> Iterator[None]:
    """Make a bad sample of whatever is raised in the block: `DataError` naming shard and key.

    What others wrote breaks decoders and readers of annotations in ways that nobody lists; a sample may never end more
    than itself. Errors for people pass as they are.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found = f"{type(error).__name__} ({error})" if str(error) else type(error).__name__
        raise DataError(f"{place(sample)}: expected a sample that can be used, got {found}") from error


def decode_column(raw: Mapping[str, Any], name: str) -> Any:
    """One column of a raw sample, decoded by the last part of its name ("seg.png" is a picture).

    Maps are told by the last two parts: "classes.png", "depth.png" and "edges.png" are numbers of a pixel, not colours,
    and come as uint8 or uint16 (h, w) as they are stored; "normals.png" is a picture like any other.
    """
    decoder = MAPS.get(".".join(name.split(".")[-2:])) or _decoder(name.rpartition(".")[2])
    if decoder is None and name.rpartition(".")[2] in PICKLED:
        raise DataError(
            f"{place(raw)}: column {name!r}: expected plain data, got a pickle, which could run anything and is never "
            "read. Hint: store it as npy, msgpack or json"
        )
    if decoder is None:
        raise DataError(f"{place(raw)}: column {name!r}: no decoder for it; there are: {', '.join(sorted(DECODERS))}")
    try:
        return decoder(raw[name])
    except Exception as error:  # of numpy, Pillow, msgpack and others, which have a class for each way to be damaged
        kind = "" if isinstance(error, OSError | SyntaxError | ValueError) and str(error) else type(error).__name__
        found = ": ".join(part for part in (kind, str(error)) if part)
        raise DataError(f"{place(raw)}: column {quoted(name)}: {found}") from error


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
    with whole_image(), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        if (count := count_frames(image)) > 1:
            raise ImageError(f"expected one map, got {count} frames. Hint: store the one that is meant by itself")
        if colours == PNG_PALETTE:
            return torch.from_numpy(np.array(image, dtype=np.uint8))
        if depth == 16:
            return torch.from_numpy(np.array(image, dtype=np.uint16))
        scale = 255 // (2**depth - 1)  # by which Pillow spreads fewer bits over eight
        return torch.from_numpy(np.array(image.convert("L"), dtype=np.uint8) // scale)


def _decoder(ending: str) -> Callable[[bytes], Any] | None:
    """The decoder of an ending; that of another package's modality where none of this package knows it."""
    if ending in DECODERS:
        return DECODERS[ending]
    return next((row.decoders[ending] for row in MODALITIES.values() if ending in row.decoders), None)


def _decode_json(data: bytes) -> Any:
    if len(data) > MOST_JSON:
        raise ValueError(f"expected at most {MOST_JSON:,} bytes of JSON, got {len(data):,}")
    value = parse_json(data, "JSON", None)
    if _ESCAPED_SURROGATE.search(data):  # rare, and the only way by which JSON in UTF-8 can hold a lone one
        check_texts(value, "JSON")
    return value


def _decode_number(data: bytes) -> int:
    try:
        return int(data)
    except ValueError:
        raise ValueError(f"expected the number of a class, got {shown_text(data.decode(errors='replace'))}") from None


DECODERS: dict[str, Callable[[bytes], Any]] = {
    **{ending: decode for name in MODALITIES.built_in for ending, decode in MODALITIES[name].decoders.items()},
    **dict.fromkeys(("json", "jsn"), _decode_json),
    **dict.fromkeys(("cls", "cls2", "index", "inx", "id"), _decode_number),
    **dict.fromkeys(("npy",), decode_array),
    **dict.fromkeys(("mp", "msg", "msgpack"), decode_msgpack),
}

MAPS: dict[str, Callable[[bytes], Any]] = {
    "classes.png": decode_map,
    "depth.png": partial(decode_map, bits=(16,)),
    "edges.png": partial(decode_map, bits=(8,)),
}
