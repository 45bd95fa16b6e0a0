"""Files are told to be images by their content, and stored under the column of what they are."""

import io

import numpy as np
import pytest
from PIL import Image

from unified.modalities.image.formats import (
    FORMATS,
    HAS_AVIF,
    IMAGES,
    describe_unread,
    image_column,
    image_format,
    sort_images,
)

FTYP = b"\0\0\0\x1cftyp%s\0\0\0\0%smiafMiHB"


def encoded(kind: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "MPO"])
def test_formats_are_told_by_content(kind: str) -> None:
    assert image_format(encoded(kind)[:512]) == {"MPO": "JPEG"}.get(kind, kind)


@pytest.mark.parametrize(
    ("name", "kind", "column"),
    [
        ("a.jpg", "JPEG", "jpg"),
        ("a.JPEG", "JPEG", "jpeg"),
        ("a.jfif", "JPEG", "jpg"),
        ("a.jpe", "JPEG", "jpg"),
        ("a.heic", "JPEG", "jpg"),
        ("a.avif", "JPEG", "jpg"),
        ("a.png", "JPEG", "jpg"),
        ("a", "JPEG", "jpg"),
        ("n02084071_1", "JPEG", "jpg"),
        ("a.v2.jpg_large", "JPEG", "jpg"),
        ("a.jpg", "PNG", "png"),
        ("a.tif", "TIFF", "tif"),
        ("a.tiff", "TIFF", "tiff"),
        ("a.dib", "BMP", "bmp"),
        ("a", "GIF", "gif"),
        ("a.pgm", "PPM", "pgm"),
        ("a.pnm", "PPM", "ppm"),
    ],
)
def test_columns_are_those_that_readers_know(name: str, kind: str, column: str) -> None:
    assert image_column(name, encoded(kind)) == column
    assert column in IMAGES


@pytest.mark.skipif(not HAS_AVIF, reason="this Pillow was built without AVIF")
def test_avif_is_read_where_pillow_can() -> None:
    assert "AVIF" in FORMATS
    assert image_column("a.heic", encoded("AVIF")) == "avif"


OTHERS = {
    "HEIC": FTYP % (b"heic", b"mif1"),
    "JPEG XL": b"\xff\x0a\xfa\x1f",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "Photoshop": b"8BPS\0\1",
    "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    "DICOM": b"\0" * 128 + b"DICM",
    "a raw file of a camera": b"II*\0\x10\0\0\0CR\2\0",
    "a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "an empty file": b"",
    "a web page or XML": b"<!DOCTYPE html><html>not found</html>",
    "a PNG that is damaged, or of a kind that Pillow does not read": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_read_has_a_name(kind: str) -> None:
    found = describe_unread(OTHERS[kind])
    assert found.name == kind
    assert found.hint
    if kind != "a PNG that is damaged, or of a kind that Pillow does not read":
        assert image_column("a.jfif", OTHERS[kind]) is None


def test_avif_brands_are_not_heic() -> None:
    assert image_format(FTYP % (b"mif1", b"avif")) == "AVIF"
    assert image_format(FTYP % (b"isom", b"mp42")) is None  # a film


def test_raw_files_are_not_taken_for_their_thumbnails() -> None:
    assert image_column("a.NEF", encoded("TIFF")) is None
    assert describe_unread(encoded("TIFF"), "a.dng").name == "a raw file of a camera"


def test_names_are_sorted_by_suffix_and_then_by_content() -> None:
    files = {
        "a.jpg": b"broken",
        "b.heic": b"",
        "c/IMG_1": encoded("JPEG"),
        "c/README": b"about",
        "d.jpg_large": encoded("PNG"),
        "e.txt": encoded("PNG"),
        "f.mp5": FTYP % (b"isom", b"mp42"),
        "g.jxl": b"",
    }
    looked_at: list[str] = []

    def start(name: str) -> bytes:
        looked_at.append(name)
        return files[name][:512]

    images, others = sort_images(files, start)
    assert images == ["a.jpg", "b.heic", "c/IMG_1", "d.jpg_large", "g.jxl"]
    assert others == ["c/README", "e.txt", "f.mp5"]
    assert looked_at == ["c/IMG_1", "c/README", "d.jpg_large", "f.mp5"]
