"""Images as people have them in folders: by other suffixes, without one, of formats that are not read, and deep."""

import io
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unified.core.errors import DataError
from unified.data.builders.dense import Options
from unified.data.builders.folders import build_imagefolder
from unified.data.commands import shards as commands
from unified.data.samples.decode import decode_column
from unified.data.shards.shards import Shards
from unified.data.shards.verify import verify

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


def encoded(kind: str, colour: int = 9) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (colour, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def columns(out: Path) -> dict[str, str]:
    """The image column of each sample by its key."""
    shards = Shards.open(out)
    found = [shards[number] for number in range(len(shards))]
    return {
        raw["__key__"]: next(name for name in raw if name not in ("__key__", "__shard__", "cls", "txt"))
        for raw in found
    }


PHOTOS = {
    "cat/a.jpg": encoded("JPEG"),
    "cat/b.jfif": encoded("JPEG"),
    "cat/c.heic": encoded("JPEG"),
    "cat/d.avif": encoded("JPEG"),
    "cat/e.JPG": encoded("JPEG"),
    "cat/f": encoded("JPEG"),
    "cat/g.jpg_large": encoded("JPEG"),
    "dog/h.jpe": encoded("JPEG"),
    "dog/i.png": encoded("PNG"),
    "dog/j.jpg": encoded("PNG"),
    "dog/README": b"about these dogs",
    "dog/notes.md": b"more",
    "dog/film.mp4": b"\0\0\0\x18ftypmp42",
}
STORED = {
    **dict.fromkeys(["cat/a", "cat/b", "cat/c", "cat/d", "cat/e", "cat/f", "cat/g", "dog/h"], "jpg"),
    **dict.fromkeys(["dog/i", "dog/j"], "png"),
}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_images_are_told_by_content_and_none_vanishes(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = fill(tmp_path / "photos", PHOTOS)
    if kind == "zip":
        source = tmp_path / "photos.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for name, data in PHOTOS.items():
                archive.writestr(name, data)
    with caplog.at_level(logging.INFO):
        build_imagefolder(source, tmp_path / "out", Options())
    assert columns(tmp_path / "out") == STORED
    assert verify(tmp_path / "out").problems == []
    assert "3 files are no images" in caplog.text
    for part in ("1 × no suffix", "1 × .md", "1 × .mp4", "1 × .heic as jpg", "1 × .avif as jpg", "1 × .jpg as png"):
        assert part in caplog.text


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("IMG_1.HEIC", HEIC, "IMG_1.HEIC: expected an image .*, got HEIC. Hint: convert it to JPEG or PNG"),
        ("IMG_1", HEIC, "got HEIC"),
        ("a.jpg", HEIC, "got HEIC"),
        ("a.jxl", b"\xff\x0a" + bytes(9), "got JPEG XL"),
        ("a.CR2", encoded("TIFF"), "got a raw file of a camera"),
        ("a.jfif", b"nothing", "got another file"),
        ("a.jpg", b"version https://git-lfs.github.com/spec/v1\n", r"got a pointer of git-lfs\. Hint: .*git lfs pull"),
        ("a.png", b"", "got an empty file"),
        ("a.pgm", b"P5\n64", "column 'pgm': ."),
    ],
)
def test_images_that_are_not_read_are_bad_samples(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    source = fill(tmp_path / "photos", {"cat/whole.png": encoded("PNG"), f"cat/{name}": data})
    with pytest.raises(DataError, match=rf"1 × un(known|readable) image.*\n.*{message}"):
        build_imagefolder(source, tmp_path / "refused", Options())
    manifest = build_imagefolder(source, tmp_path / "out", Options(skip_bad=True))[""]
    assert columns(tmp_path / "out") == {"cat/whole": "png"}
    assert name in manifest["skipped"][0]


def test_files_without_suffix_are_class_folders(tmp_path: Path) -> None:
    source = fill(tmp_path / "photos", {"cat/0": encoded("JPEG"), "dog/0": encoded("PNG")})
    assert commands.guess_kind(source) == "imagefolder"


def test_deep_grey_in_shards_is_no_white_image(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 64)[None].repeat(4, 0)
    data = b"P5\n64 4\n65535\n" + (ramp * 257).round().astype(">u2").tobytes()
    build_imagefolder(fill(tmp_path / "scans", {"a/1.pgm": data}), tmp_path / "out", Options())
    raw: dict[str, Any] = Shards.open(tmp_path / "out")[0]
    assert raw["pgm"] == data
    assert np.abs(decode_column(raw, "pgm").numpy() - ramp).max() < 1.1
