"""Decoding: pictures of every kind upright in RGB, other columns, and clear refusals."""

import io
import re
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from unified.core.errors import DataError
from unified.core.seed import generator
from unified.data.samples.decode import column, decode
from unified.modalities.image import files as module
from unified.modalities.image.files import ORIENTATION, decode_image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photograph(height: int = 40, width: int = 56) -> Image.Image:
    noise = generator("photograph").integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))


def raw(**columns: bytes) -> dict[str, Any]:
    return {"__key__": "k7", "__shard__": "s-00000.tar", **columns}


def expected(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_pictures_come_back(kind: str) -> None:
    image = photograph()
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = decode_image(encoded(image, kind, **options))
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, expected(image))


def test_fast_and_plain_jpeg_decoders_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(photograph(), "JPEG", quality=90)
    fast = decode_image(data)
    monkeypatch.setattr(module, "simplejpeg", None)
    plain = decode_image(data)
    assert fast.shape == plain.shape == (3, 40, 56)
    assert (fast.int() - plain.int()).abs().max() <= 2


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "P"])
def test_modes_become_rgb(mode: str) -> None:
    image = photograph().convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    pixels = decode_image(encoded(image, kind, **({"quality": 100} if mode == "CMYK" else {})))
    assert (pixels.int() - expected(image).int()).abs().max() <= (24 if mode == "CMYK" else 0)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    pixels = decode_image(encoded(Image.fromarray(ramp), "PNG"))
    assert torch.equal(pixels[0], torch.arange(256, dtype=torch.uint8).reshape(16, 16))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(mode: str) -> None:
    layer = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    layer.putpixel((0, 0), (0, 0, 0, 255))
    if mode == "P":
        image = Image.new("P", (4, 2), 1)
        image.putpalette([0, 0, 0, 10, 20, 30])
        image.putpixel((0, 0), 0)
        data = encoded(image, "PNG", transparency=1)
    else:
        data = encoded(layer.convert(mode), "PNG")
    pixels = decode_image(data)
    assert pixels[:, 0, 0].tolist() == [0, 0, 0]
    assert pixels[:, 1, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("orientation", "method"),
    [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90), (5, Image.Transpose.TRANSPOSE)],
)
def test_orientation_is_applied(kind: str, orientation: int, method: Image.Transpose) -> None:
    upright = photograph()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(upright.transpose(method), kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))
    difference = (decode_image(data).int() - expected(upright).int()).abs()
    assert difference.float().mean() < 3


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def huge_png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8001, 8000), (10_000, 10_000), (20_000, 20_000)])
def test_huge_pictures_are_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"s-00000\.tar: k7: column 'png': .*limit"):
        decode(raw(png=huge_png(*size)), ["png"])


def test_huge_jpeg_is_refused() -> None:
    data = encoded(photograph(), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    data = data[:at] + struct.pack(">HH", 20_000, 20_000) + data[at + 4 :]
    with pytest.raises(DataError, match=r"column 'jpg': .*limit"):
        decode(raw(jpg=data), ["jpg"])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("keep", [0, 3, 20, 0.5, 0.9])
def test_cut_pictures_are_refused(kind: str, keep: float) -> None:
    data = encoded(photograph(), kind)
    cut = data[: int(keep * len(data)) if isinstance(keep, float) else keep]
    with pytest.raises(DataError, match=re.escape(f"s-00000.tar: k7: column '{kind.lower()}'")):
        decode(raw(**{kind.lower(): cut}), [kind.lower()])


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow, of damaged TIFF and EXIF
def test_damaged_pictures_never_raise_anything_else() -> None:
    draw = generator("damage")
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM"):
        whole = encoded(photograph(), kind)
        refused = 0
        for _ in range(60):
            data = bytearray(whole)
            for at in draw.integers(0, min(len(data), 400), 4):
                data[at] = draw.integers(256)
            try:
                decode(raw(png=bytes(data)), ["png"])
            except DataError:
                refused += 1
        assert refused, kind


def test_other_columns() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(6.0).reshape(2, 3))
    sample = decode(
        raw(**{"txt": "größe".encode(), "cls": b"7\n", "json": b'{"a": [1, 2]}', "box.npy": buffer.getvalue()}),
        ["txt", "cls", "json", "box.npy"],
    )
    assert (sample["txt"], sample["cls"], sample["json"]) == ("größe", 7, {"a": [1, 2]})
    assert sample["box.npy"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (sample["__key__"], sample["__shard__"]) == ("k7", "s-00000.tar")


@pytest.mark.parametrize(
    ("name", "data"),
    [("txt", b"\xff\xfe"), ("cls", b"three"), ("json", b"{"), ("npy", b"\x93NUMPY"), ("exe", b"MZ")],
)
def test_columns_that_cannot_be_decoded(name: str, data: bytes) -> None:
    with pytest.raises(DataError, match=rf"s-00000\.tar: k7: column '{name}': "):
        decode(raw(**{name: data}), [name])


def test_pickled_arrays_are_refused() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="column 'npy'"):
        decode(raw(npy=buffer.getvalue()), ["npy"])


def test_only_what_is_named_is_decoded() -> None:
    sample = decode(raw(png=b"broken", txt=b"fine"), ["txt"])
    assert set(sample) == {"__key__", "__shard__", "txt"}


def test_alternatives_and_paths() -> None:
    data = raw(**{"jpg": encoded(photograph(), "JPEG"), "json": b'{"a": {"b": 3}}', "seg.png": huge_png(1, 1)[:0]})
    sample = decode(data, ["png;jpg", "json.a.b"])
    assert column(sample, "png;jpg").shape == (3, 40, 56)
    assert column(sample, "json.a.b") == 3
    assert column(sample, "json") == {"a": {"b": 3}}


def test_missing_columns_and_paths_say_what_there_is() -> None:
    with pytest.raises(DataError, match=r"s-00000\.tar: k7: column 'png;webp' is missing; found \['json', 'txt'\]"):
        decode(raw(txt=b"", json=b"{}"), ["png;webp"])
    sample = decode(raw(json=b'{"font": "x"}'), ["json.script"])
    with pytest.raises(DataError, match=r"column 'json\.script': no 'script' in 'json'; found \['font'\]"):
        column(sample, "json.script")
    with pytest.raises(DataError, match=r"column 'json\.font\.size': no 'size'.*found str"):
        column(sample, "json.font.size")
