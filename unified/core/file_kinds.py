"""What a file is by its first bytes, for errors about files that are something else than their name says."""

from dataclasses import dataclass

START = 512
"""Bytes that tell the kind of a file."""
_FETCH = "fetch the file itself with `git lfs pull`, or download it again"
_AGAIN = "download it again; the server sent a page in place of the file"


@dataclass(frozen=True)
class FileKind:
    """A kind of file, and the next step of somebody who expected another."""

    name: str
    hint: str


TAR = FileKind("a tar archive", "unpack it with tar xf")
ZIP = FileKind("a zip archive", "unpack it with unzip")
_KINDS: tuple[tuple[bytes, FileKind], ...] = (
    (b"version https://git-lfs", FileKind("a pointer of git-lfs", _FETCH)),
    (b"/annex/objects/", FileKind("a pointer of git-annex", "fetch the file itself with `git annex get`")),
    (b"\x1f\x8b", FileKind("gzip-compressed data", "unpack it: gunzip -c FILE > NEW")),
    (b"BZh", FileKind("bzip2-compressed data", "unpack it: bunzip2 -c FILE > NEW")),
    (b"\xfd7zXZ\x00", FileKind("xz-compressed data", "unpack it: unxz -c FILE > NEW")),
    (b"\x28\xb5\x2f\xfd", FileKind("zstd-compressed data", "unpack it: unzstd -c FILE > NEW")),
    (b"\x04\x22\x4d\x18", FileKind("lz4-compressed data", "unpack it: unlz4 -c FILE > NEW")),
    (b"7z\xbc\xaf\x27\x1c", FileKind("a 7z archive", "unpack it with 7z x")),
    (b"Rar!\x1a\x07", FileKind("a RAR archive", "unpack it with unrar x")),
    (b"PK\x03\x04", ZIP),
    (b"PK\x05\x06", FileKind("an empty zip archive", "pack it again")),
    (b"%PDF-", FileKind("a PDF document", "save its pages as images")),
)
_PAGES = (b"<!doctype html", b"<html", b"<?xml")
_TAR_MAGIC = (257, b"ustar")


def file_kind(start: bytes) -> FileKind | None:
    """Return the kind of a file by its first `START` bytes; None where it is none of those that are told."""
    if not start:
        return FileKind("an empty file", "copy or download it again")
    if start[_TAR_MAGIC[0] :].startswith(_TAR_MAGIC[1]):
        return TAR
    known = next((kind for signature, kind in _KINDS if start.startswith(signature)), None)
    if known is not None:
        return known
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return FileKind("a web page or XML", _AGAIN)
    return None
