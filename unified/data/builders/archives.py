"""Reading zips: names as people see them, entries one by one, and one error for each way in which these cannot be read.

Names are UTF-8, as the flag of the entry says or as its bytes are; others keep their bytes as lone surrogates, as names
of files do, and are refused where such names are. Backslashes, which some tools of Windows write, separate folders.
"""

import lzma
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Self

from unified.core import json_files
from unified.core.errors import DataError
from unified.core.file_kinds import START, file_kind
from unified.core.text_files import shown_text

ENCRYPTED, UTF_8_NAME = 0x1, 0x800  # flags of an entry (APPNOTE 4.4.4)
METHODS = {9: "Deflate64", 93: "Zstandard", 95: "XZ", 96: "JPEG", 97: "WavPack", 98: "PPMd", 99: "AES encryption"}
MOST_BYTES = 1 << 28
"""Of an entry, or of a file: an image of 64 megapixels without compression has 192 MB."""
MOST_DOCUMENT = json_files.MOST_BYTES
"""Of JSON."""
UNUSUAL, BOMB_RATIO = 1 << 26, 100
"""Bytes from which on an entry that is so many times smaller in the archive is no data of anybody."""
UNICODE_PATH = 0x7075  # an extra field: version 1, the CRC of the name in the header, the name in UTF-8 (APPNOTE 4.6.9)
READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, RuntimeError, ValueError, OverflowError),
)


class EntryError(DataError):
    """An entry of an archive cannot be read; the others may be."""


class ZipArchive:
    """The entries of a zip by name; folders end in a slash."""

    def __init__(self, source: Path) -> None:
        """Read the list of entries. Raises `DataError` where `source` is no zip, or its list is damaged."""
        self.source = source
        try:
            self._zip = zipfile.ZipFile(source)
        except _DAMAGED as error:
            raise DataError(_no_zip(source, error)) from error
        self._entries: dict[str, list[zipfile.ZipInfo]] = {}
        for entry in self._zip.infolist():
            self._entries.setdefault(_name(source, entry), []).append(entry)

    @property
    def names(self) -> list[str]:
        """The names of all entries, each once."""
        return list(self._entries)

    def read(self, name: str) -> bytes:
        """Return the bytes of an entry; raise `EntryError` where they cannot be had whole."""
        where = f"{self.source}: {shown_text(name)}"
        entry, *others = self._entries[name]
        if any((other.CRC, other.file_size) != (entry.CRC, entry.file_size) for other in others):
            raise EntryError(f"{where}: expected one entry of this name, got {1 + len(others)}. Hint: pack it again")
        if entry.flag_bits & ENCRYPTED:
            raise EntryError(
                f"{where}: expected a plain entry, got an encrypted one. Hint: unpack it with its password"
            )
        if entry.compress_type not in READABLE:
            method = METHODS.get(entry.compress_type, f"method {entry.compress_type}")
            raise EntryError(
                f"{where}: expected an entry that is stored, or compressed by Deflate, bzip2 or LZMA, got {method}. "
                "Hint: unpack the zip with 7z x, and name the folder"
            )
        if problem := size_problem(name, entry.file_size, entry.compress_size):
            raise EntryError(f"{where}: {problem}")
        try:
            with self._zip.open(entry) as file:
                data = file.read(entry.file_size + 1)  # what an entry holds beyond its size is no part of it
                if len(data) != entry.file_size:
                    raise EOFError(f"{len(data):,} bytes of {entry.file_size:,}")
                return data
        except _DAMAGED as error:
            found = str(error) or type(error).__name__
            raise EntryError(
                f"{where}: expected a whole entry, got damaged data ({found}). Hint: copy it again"
            ) from error

    def start(self, name: str) -> bytes:
        """Return the first `START` bytes of an entry, by which its kind is told; none where it cannot be read."""
        try:
            with self._zip.open(self._entries[name][0]) as file:
                return file.read(START)
        except _DAMAGED:
            return b""

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def size_problem(name: str, size: int, compressed: int | None = None) -> str | None:
    """Return what is wrong with the size of a file of a source, in words, or None; nothing of it was read yet.

    Args:
        name: The file: documents of JSON may be larger than others.
        size: Its bytes.
        compressed: Its bytes in an archive.
    """
    most = MOST_DOCUMENT if name.lower().endswith(".json") else MOST_BYTES
    if size > most:
        return f"expected at most {most:,} bytes, got {size:,}"
    if compressed is not None and size > max(UNUSUAL, BOMB_RATIO * compressed):
        return (
            f"expected data, got {size:,} bytes that {compressed:,} in the archive stand for. Hint: unpack it yourself"
        )
    return None


def _no_zip(source: Path, error: Exception) -> str:
    """Say what a file is that is no zip, or no whole one."""
    try:
        with source.open("rb") as file:
            start = file.read(START)
    except OSError:
        return f"{source}: expected a folder or a zip, got a file that cannot be read ({error})"
    kind = file_kind(start)
    if start.startswith(b"PK"):
        return f"{source}: expected a whole zip, got one that is cut off or damaged ({error}). Hint: copy it again"
    if kind is not None:
        return f"{source}: expected a folder or a zip, got {kind.name}. Hint: {kind.hint}"
    return f"{source}: expected a folder or a zip, got another file ({error})"


def _name(source: Path, entry: zipfile.ZipInfo) -> str:
    """Return the path of an entry below the root of its zip; raise `DataError` where it leads outside."""
    name = entry.orig_filename
    if not entry.flag_bits & UTF_8_NAME:
        data = name.encode("cp437")  # as zipfile read the bytes
        name = (_unicode_path(entry.extra, zlib.crc32(data)) or data).decode("utf-8", "surrogateescape")
    parts = name.partition("\0")[0].replace("\\", "/").split("/")
    if ".." in parts:
        raise DataError(
            f"{source}: expected entries inside the zip, got {shown_text(name)}. Hint: pack it again without '..'"
        )
    kept = [part for part in parts[:-1] if part not in ("", ".")]
    return "/".join([*kept, parts[-1]])


def _unicode_path(extra: bytes, checksum: int) -> bytes | None:
    """Return the name in UTF-8 that stands beside one of another encoding, if it belongs to it."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == UNICODE_PATH and len(field) > 5 and struct.unpack_from("<BI", field) == (1, checksum):
            return field[5:]
    return None
