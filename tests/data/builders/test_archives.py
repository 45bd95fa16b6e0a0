"""Zips as people have them: encrypted, of other methods, damaged, named by other systems, or no zips at all."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unified.core.errors import DataError
from unified.data.builders.archives import EntryError, ZipArchive
from unified.data.builders.dense import Options
from unified.data.builders.folders import build_imagefolder
from unified.data.shards.shards import Shards

LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
FLAGS, METHOD, CRC = (6, 8), (8, 10), (14, 16)  # places in a local header and in the list


def image(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (colour, 0, 90)).save(buffer, "BMP")
    return buffer.getvalue()


def zipped(files: Mapping[str, bytes] | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in (
            files or {f"{name}/{n}.bmp": image(9 * n) for n, name in enumerate(("a", "a", "b"))}
        ).items():
            entry = zipfile.ZipInfo("x")
            entry.filename, entry.compress_type = name, method
            archive.writestr(entry, data)
    return buffer.getvalue()


def marked(data: bytes, entry: int, places: tuple[int, int], value: int) -> bytes:
    """A zip with two bytes of both headers of one entry changed."""
    changed = bytearray(data)
    for signature, offset in zip((LOCAL, CENTRAL), places, strict=True):
        start = -1
        for _ in range(entry + 1):
            start = changed.index(signature, start + 1)
        changed[start + offset : start + offset + 2] = struct.pack("<H", value)
    return bytes(changed)


def damaged(method: int) -> bytes:
    """A zip whose second entry has other bytes than it had, of the same number."""
    data = bytearray(zipped(method=method))
    start = data.index(LOCAL, data.index(LOCAL) + 1) + 30 + len("a/1.bmp")
    data[start + 12 : start + 20] = bytes(8)
    return bytes(data)


BAD = {
    "encrypted": (marked(zipped(), 1, FLAGS, 1), "got an encrypted one"),
    "deflate64": (marked(zipped(), 1, METHOD, 9), "got Deflate64"),
    "zstandard": (marked(zipped(), 1, METHOD, 93), "got Zstandard"),
    "unknown method": (marked(zipped(), 1, METHOD, 77), "got method 77"),
    "checksum": (marked(zipped(), 1, CRC, 7), "got damaged data.*CRC"),
    "stored": (damaged(zipfile.ZIP_STORED), "got damaged data"),
    "deflate": (damaged(zipfile.ZIP_DEFLATED), "got damaged data"),
    "bzip2": (damaged(zipfile.ZIP_BZIP2), "got damaged data"),
    "lzma": (damaged(zipfile.ZIP_LZMA), "got damaged data"),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_unreadable_entry_is_a_bad_sample(tmp_path: Path, kind: str) -> None:
    data, message = BAD[kind]
    source = tmp_path / "a.zip"
    source.write_bytes(data)
    with pytest.raises(DataError, match=rf"1 × unreadable file\n  unreadable file: .*a/1.bmp.*{message}"):
        build_imagefolder(source, tmp_path / "refused", Options())
    build_imagefolder(source, tmp_path / "out", Options(skip_bad=True))
    shards = Shards.open(tmp_path / "out")
    assert sorted(shards[number]["__key__"] for number in range(len(shards))) == ["a/0", "b/2"]


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.99])
def test_a_cut_zip_is_refused(tmp_path: Path, keep: float) -> None:
    data = zipped()
    (tmp_path / "a.zip").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(DataError, match=r"a\.zip: expected a whole zip, got one that is cut off or damaged"):
        ZipArchive(tmp_path / "a.zip")


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "got an empty file"),
        (tarred(), "got a tar archive. Hint: unpack it with tar xf"),
        (gzip.compress(tarred(), mtime=0), "got gzip-compressed data. Hint: unpack it"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "got a 7z archive"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
            "got a pointer of git-lfs.*git lfs pull",
        ),
        (b"<!DOCTYPE html><html>", "got a web page"),
        (b"something", "got another file"),
    ],
    ids=["empty", "tar", "gzip", "7z", "pointer", "page", "other"],
)
def test_files_that_are_no_zips_say_what_they_are(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.zip: expected a folder or a zip, {message}"):
        ZipArchive(tmp_path / "a.zip")


def test_an_entry_that_comes_twice_with_other_bytes_is_refused(tmp_path: Path) -> None:
    data = zipped({"a": b"1", "c": b"2", "b": b"3", "d": b"3"}).replace(b"\0c", b"\0a").replace(b"\0d", b"\0b")
    (tmp_path / "a.zip").write_bytes(data)
    with ZipArchive(tmp_path / "a.zip") as found:
        assert (found.names, found.read("b")) == (["a", "b"], b"3")
        with pytest.raises(EntryError, match="'a': expected one entry of this name, got 2"):
            found.read("a")


def named(name: bytes, flags: int = 0, extra: bytes = b"") -> bytes:
    """A zip of one entry whose name is these bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo("x" * len(name))
        entry.extra = extra
        archive.writestr(entry, b"1")
    data = buffer.getvalue().replace(b"x" * len(name), name)
    return marked(data, 0, FLAGS, flags)


GBK = "狗.png".encode("gbk")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (named("é.png".encode(), 0x800), "é.png"),
        (named("é.png".encode()), "é.png"),  # as macOS packs
        (named(GBK), GBK.decode("utf-8", "surrogateescape")),
        (named(GBK, extra=struct.pack("<HHBI", 0x7075, 12, 1, zlib.crc32(GBK)) + "狗.png".encode()), "狗.png"),
        (named(b"cats\\1.png"), "cats/1.png"),
        (named(b"./cats//1.png"), "cats/1.png"),
        (named(b"/cats/1.png"), "cats/1.png"),
    ],
)
def test_names_are_those_that_people_see(tmp_path: Path, data: bytes, name: str) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    with ZipArchive(tmp_path / "a.zip") as found:
        assert (found.names, found.read(name)) == ([name], b"1")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (named(b"../a.png"), r"expected entries inside the zip, got '\.\./a\.png'"),
        (named(GBK, 0x800), "expected a whole zip, got one that is cut off or damaged"),
    ],
)
def test_names_that_cannot_be_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=message):
        ZipArchive(tmp_path / "a.zip")


def test_folders_with_backslashes_are_classes(tmp_path: Path) -> None:
    files: dict[str, Any] = {"cats\\0.bmp": image(1), "dogs\\1.bmp": image(2)}
    (tmp_path / "a.zip").write_bytes(zipped(files))
    assert build_imagefolder(tmp_path / "a.zip", tmp_path / "out", Options())[""]["classes"] == ["cats", "dogs"]


def bomb(name: str, size: int, method: int) -> bytes:
    """A zip of a few kilobytes with an entry of zeros, whose bytes are made on the way."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive, archive.open(name, "w", force_zip64=True) as file:
        block = bytes(1 << 20)
        for _ in range(size >> 20):
            file.write(block)
    return buffer.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_an_entry_of_zeros_is_refused_before_it_is_unpacked(tmp_path: Path, method: int) -> None:
    path = tmp_path / "z.zip"
    path.write_bytes(bomb("a/1.bmp", 80 << 20, method))
    with ZipArchive(path) as archive, pytest.raises(EntryError, match=r"83,886,080 bytes that [\d,]+ in the archive"):
        archive.read("a/1.bmp")


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("a/1.png", 3_000_000_000, "at most 268,435,456 bytes, got 3,000,000,000"),
        ("a/1.txt", 300_000_000, "at most 268,435,456 bytes"),
        ("a/1.json", 1_500_000_000, "at most 1,073,741,824 bytes"),
        ("a/1.json", 300_000_000, "that 117 in the archive stand for"),
        ("a/1.bmp", 50, "damaged data"),
    ],
)
def test_sizes_that_entries_tell_are_compared_first(tmp_path: Path, name: str, size: int, message: str) -> None:
    data = bytearray(zipped({name: b"x" * 117}))
    for signature, at in ((LOCAL, 22), (CENTRAL, 24)):
        place = data.index(signature) + at
        data[place : place + 4] = struct.pack("<I", size)
    path = tmp_path / "z.zip"
    path.write_bytes(bytes(data))
    with ZipArchive(path) as archive, pytest.raises(EntryError, match=message):
        archive.read(name)


def test_files_of_a_folder_have_the_same_limit(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / "s" / label).mkdir(parents=True)
        (tmp_path / "s" / label / "1.bmp").write_bytes(image(9))
    with (tmp_path / "s" / "a" / "2.bmp").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(
        DataError, match=r"unreadable file: .*2\.bmp: expected at most 268,435,456 bytes, got 1,000,000,"
    ):
        build_imagefolder(tmp_path / "s", tmp_path / "o", Options())
    manifests = build_imagefolder(tmp_path / "s", tmp_path / "o", Options(skip_bad=True))
    assert [len(manifests[""]["skipped"]), manifests[""]["samples"]] == [1, 2]


def test_what_was_skipped_stands_in_the_manifest_of_its_part(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for number in range(2):
            file = tmp_path / "s" / part / "a" / f"{number}.bmp"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(image(9) if number else b"BM")
    (tmp_path / "s" / "test" / "a" / "0.bmp").write_bytes(image(8))
    manifests = build_imagefolder(tmp_path / "s", tmp_path / "o", Options(skip_bad=True))
    assert "skipped" not in manifests["test"]
    assert len(manifests["train"]["skipped"]) == 1
