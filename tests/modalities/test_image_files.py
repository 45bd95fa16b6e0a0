"""The one opening of an image: grey values of any depth, upright by every kind of orientation, one error."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unified.core.errors import DataError
from unified.data.samples.decode import decode
from unified.modalities.image import files
from unified.modalities.image.files import ImageError, decode_frames, decode_image, read_pixels
from unified.modalities.image.formats import HAS_AVIF
from unified.modalities.image.frames import count_frames
from unified.modalities.image.reading import read_images

RAMP = np.linspace(0, 255, 64)[None].repeat(4, 0)


def encoded(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(values: np.ndarray, bits: int, sample_format: int = 1, photometric: int = 1) -> bytes:
    """A grey TIFF whose tags are these, in the byte order of `values`."""
    order, data = (">" if values.dtype.byteorder == ">" else "<"), values.tobytes()
    height, width = values.shape
    entries = [
        *((256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric)),
        *((273, 4, 8 + 2 + 12 * 10 + 4), (277, 3, 1), (278, 3, height), (279, 4, len(data)), (339, 3, sample_format)),
    ]
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}IH", 8, len(entries))
    for tag, kind, value in entries:
        form = f"{order}HHIHH" if kind == 3 else f"{order}HHII"
        head += struct.pack(form, tag, kind, 1, *((value, 0) if kind == 3 else (value,)))
    return head + bytes(4) + data


def seen(data: bytes, name: str, folder: Path) -> dict[str, Tensor]:
    """The pixels as shards, the processor and predictions have them: of bytes, a path and an opened file."""
    (folder / name).write_bytes(data)
    column = name.rpartition(".")[2]
    with Image.open(folder / name) as opened:
        return {
            "shard": decode({"__key__": "k", "__shard__": "s", column: data}, [column])[column],
            "path": read_images(folder / name)[0],
            "opened": read_images(opened)[0],
        }


sixteen = (RAMP * 257).round()
DEEP: dict[str, tuple[str, bytes]] = {
    "PGM of 65535": ("a.pgm", b"P5\n64 4\n65535\n" + sixteen.astype(">u2").tobytes()),
    "PGM of 4095": ("a.pgm", b"P5\n64 4\n4095\n" + (RAMP * 4095 / 255).round().astype(">u2").tobytes()),
    "PGM of 300": ("a.pgm", b"P5\n64 4\n300\n" + (RAMP * 300 / 255).round().astype(">u2").tobytes()),
    "PGM in digits": ("a.pgm", b"P2\n64 4\n65535\n" + " ".join(map(str, sixteen.astype(int).ravel())).encode()),
    "PNG": ("a.png", encoded(sixteen.astype(np.uint16))),
    "TIFF": ("a.tif", tiff(sixteen.astype("<u2"), 16)),
    "TIFF, big-endian": ("a.tif", tiff(sixteen.astype(">u2"), 16)),
    "TIFF, white is 0": ("a.tif", tiff((65535 - sixteen).astype("<u2"), 16, photometric=0)),
    "TIFF, 32 bits, 0 to 255": ("a.tif", tiff(RAMP.round().astype("<u4"), 32)),
    "TIFF, float": ("a.tif", tiff((RAMP / 255).astype("<f4"), 32, 3)),
    "PFM": ("a.pfm", b"Pf\n64 4\n-1.0\n" + (RAMP / 255).astype("<f4").tobytes()),
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_grey_is_scaled(tmp_path: Path, kind: str) -> None:
    name, data = DEEP[kind]
    found = {"bytes": decode_image(data)} if name.endswith("pfm") else seen(data, name, tmp_path)
    for who, pixels in found.items():
        assert pixels.shape == (3, 4, 64), who
        assert np.abs(pixels.numpy() - RAMP).max() < 1.1, who
        assert (pixels[:, 0, 0].tolist(), pixels[:, 0, 63].tolist()) == ([0] * 3, [255] * 3), who
        assert torch.equal(pixels, next(iter(found.values()))), who


def test_twelve_bits_of_a_tiff_have_their_own_white() -> None:
    packed = bytes.fromhex("000fff800000")  # 0, 4095, 2048, 0
    data = bytearray(tiff(np.frombuffer(packed, np.uint8)[None], 12))
    data[8 + 2 + 8 : 8 + 2 + 10] = struct.pack("<H", 4)  # the width
    assert decode_image(bytes(data))[0].tolist() == [[0, 255, 128, 0]]


REFUSED: dict[str, tuple[bytes, str]] = {
    "32 bits above 255": (tiff(sixteen.astype("<u4"), 32), "from 0 to 255 in an image of mode I, got 0 to 65535"),
    "signed": (tiff((RAMP - 9).round().astype("<i2"), 16, 2), "got -9 to 246"),
    "float above 1": (tiff(RAMP.astype("<f4"), 32, 3), "from 0 to 1 in an image of mode F, got 0 to 255"),
    "not a number": (tiff(np.full((4, 8), np.nan, "<f4"), 32, 3), "got nan to nan"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_values_without_a_scale_are_refused_everywhere(tmp_path: Path, kind: str) -> None:
    data, message = REFUSED[kind]
    (tmp_path / "a.tif").write_bytes(data)
    readers: list[Callable[[], Any]] = [
        lambda: decode({"__key__": "k", "__shard__": "s", "tif": data}, ["tif"]),
        lambda: read_images(tmp_path / "a.tif"),
        lambda: read_images(Image.open(tmp_path / "a.tif")),
    ]
    for reader in readers:
        with pytest.raises(DataError, match=f"expected grey values .*{message}.*Hint: scale it to 8 or 16 bits"):
            reader()


def test_images_in_memory_follow_the_same_rule() -> None:
    assert read_images(Image.fromarray(np.full((2, 2), 200, np.int32)))[0].unique().tolist() == [200]
    assert read_images(Image.fromarray(np.full((2, 2), 65535, np.uint16)))[0].unique().tolist() == [255]
    assert read_images(Image.fromarray(np.full((2, 2), 0.5, np.float32)))[0].unique().tolist() == [128]
    with pytest.raises(DataError, match=r"a Pillow image: .*mode I, got 300 to 300"):
        read_images(Image.fromarray(np.full((2, 2), 300, np.int32)))


def test_deep_grey_that_is_transparent_is_white() -> None:
    data = encoded(np.array([[0, 257, 514]], np.uint16), transparency=257)
    assert decode_image(data)[0].tolist() == [[0, 255, 2]]


def corners() -> Image.Image:
    """An image whose corners all differ, wider than it is high."""
    pixels = np.full((24, 40, 3), 128, np.uint8)
    pixels[:8, :8], pixels[:8, -8:], pixels[-8:, :8], pixels[-8:, -8:] = 255, 200, 60, 0
    return Image.fromarray(pixels)


METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def turned(kind: str, orientation: int, image: Image.Image | None = None) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    return encoded((image or corners()).transpose(METHODS[orientation]), kind, exif=exif, **options)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", *(["AVIF"] if HAS_AVIF else [])])
@pytest.mark.parametrize("orientation", METHODS)
def test_images_are_upright_in_every_form(tmp_path: Path, kind: str, orientation: int) -> None:
    found = seen(turned(kind, orientation), f"a.{kind.lower()}", tmp_path)
    upright = torch.from_numpy(np.array(corners())).permute(2, 0, 1)
    for who, pixels in found.items():
        assert pixels.shape == upright.shape, who
        assert (pixels.int() - upright.int()).abs().float().mean() < 4, who
        assert torch.equal(pixels, found["shard"]), who


def test_deep_grey_is_upright_too(tmp_path: Path) -> None:
    grey = corners().convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for kind, image in (("PNG", deep), ("TIFF", deep), ("TIFF", grey)):
        for who, pixels in seen(turned(kind, 6, image), f"a.{kind.lower()}", tmp_path).items():
            assert torch.equal(pixels[0], torch.from_numpy(np.array(grey))), (kind, who)


def segments(data: bytes, *added: bytes) -> bytes:
    """A JPEG with segments behind its start, before its EXIF."""
    body = b"".join(b"\xff" + kind + struct.pack(">H", len(rest) + 2) + rest for kind, rest in map(split, added))
    return data[:2] + body + data[2:]


def split(segment: bytes) -> tuple[bytes, bytes]:
    return segment[:1], segment[1:]


PADDING = b"\xe2" + b"ICC_PROFILE\0" + bytes(65_500)
XMP = b"\xe1http://ns.adobe.com/xap/1.0/\0" + b'<x:xmpmeta tiff:Orientation="6"/>'


@pytest.mark.parametrize(
    "before", [(), (PADDING,), (PADDING, PADDING, b"\xfe" + b"note" * 9000), (b"\xed" + bytes(9),)]
)
def test_orientation_is_found_behind_segments_of_any_size(tmp_path: Path, before: tuple[bytes, ...]) -> None:
    data = segments(turned("JPEG", 6), *before)
    for who, pixels in seen(data, "a.jpg", tmp_path).items():
        assert pixels.shape == (3, 24, 40), who
        assert pixels[0, 0, 0] > 240, who


def test_orientation_of_xmp_is_that_of_all_readers(tmp_path: Path) -> None:
    data = segments(encoded(corners().transpose(METHODS[6]), "JPEG"), PADDING, XMP)
    assert {tuple(pixels.shape) for pixels in seen(data, "a.jpg", tmp_path).values()} == {(3, 24, 40)}


def test_plain_jpegs_are_left_to_the_fast_decoder() -> None:
    plain = encoded(corners(), "JPEG")
    assert not files._may_be_turned(plain)
    assert not files._may_be_turned(segments(plain, PADDING, b"\xe1http://ns.adobe.com/xap/1.0/\0<x/>"))
    assert files._may_be_turned(turned("JPEG", 3))
    assert files._may_be_turned(plain[:8])


def test_an_opened_image_that_was_turned_by_hand_is_not_turned_again(tmp_path: Path) -> None:
    from PIL import ImageOps

    (tmp_path / "a.png").write_bytes(turned("PNG", 6))
    with Image.open(tmp_path / "a.png") as opened:
        upright = read_images(opened)[0]
        assert torch.equal(read_images(ImageOps.exif_transpose(opened))[0], upright)
        assert torch.equal(read_images(opened.convert("RGB"))[0], upright)


noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def wrong_chunk_length() -> bytes:
    data = bytearray(encoded(noise))
    start = data.index(b"IDAT")
    data[start - 4 : start] = (int.from_bytes(data[start - 4 : start], "big") - 40).to_bytes(4, "big")
    return bytes(data)


DAMAGED = {
    "chunk.png": wrong_chunk_length(),
    "values.pgm": b"P5\n64 48\n4095\n" + bytes(100),
    "header.pgm": b"P5\n64",
    "words.pgm": b"P2\n2 2\n255\n1 2 three 4\n",
    "cut.jpg": encoded(noise, "JPEG")[:400],
    "cut.gif": encoded(noise, "GIF")[:300],
    "cut.tif": encoded(noise, "TIFF")[:100],
    "cut.webp": encoded(noise, "WEBP")[:60],
    "cut.bmp": encoded(noise, "BMP")[:60],
    "palette.bmp": b"BM" + struct.pack("<IIIIIIHHIIIIII", 0, 0, 54, 40, 9, 9, 1, 7, 9, 0, 0, 0, 0, 0),
    "pointer.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "empty.png": b"",
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow, of cut TIFFs
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_image_has_one_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(DAMAGED[name])
    with pytest.raises(ImageError):
        decode_frames(DAMAGED[name])
    with pytest.raises(DataError, match=rf"{name}: not a readable image: ."):
        read_images(tmp_path / name)


def test_files_of_other_kinds_are_named() -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    with pytest.raises(
        ImageError, match=r"expected an image \(PNG, JPEG.*\), got HEIC. Hint: convert it to JPEG or PNG"
    ):
        decode_image(heic)
    with pytest.raises(ImageError, match=r"got a pointer of git-lfs\. Hint: .*git lfs pull"):
        decode_image(DAMAGED["pointer.jpg"])


@pytest.mark.skipif(not HAS_AVIF, reason="this Pillow was built without AVIF")
def test_avif_is_read_still_and_moving() -> None:
    assert (decode_image(encoded(corners(), "AVIF"))[:, 4, 4] > 240).all()
    moving = encoded(corners(), "AVIF", save_all=True, append_images=[corners().rotate(180)])
    assert decode_frames(moving).shape == (2, 3, 24, 40)


def test_pixels_are_counted_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    image = Image.new("RGB", (100, 100))
    with pytest.raises(ImageError, match="100×100 pixels are more than the limit of 9,999"):
        read_pixels(image, 9_999)
    assert count_frames(image) == 1
