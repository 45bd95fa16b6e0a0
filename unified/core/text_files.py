"""One reading of text for all files of users: bytes to str, lines, and what no text may hold.

Text is UTF-8 with or without a byte-order mark, or what the file itself declares (XML does). Nothing is guessed, and
nothing is replaced: a wrong guess changes names without a word.
"""

import codecs
import re
import stat
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unified.core.errors import DataError

UTF_8 = "utf-8-sig"
SMALL = 1 << 24
"""Bytes of configurations, notes and manifests at most."""
MOST_TEXT = 1 << 26
"""Bytes of lists and other texts."""
_WIDE = ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"), (codecs.BOM_UTF16_LE, "UTF-16"))
_MARKS = (*_WIDE, (codecs.BOM_UTF16_BE, "UTF-16"))
_LINE_ENDS = re.compile("\r\n|\r|\n")
_SURROGATE = re.compile("[\ud800-\udfff]")


def decode_text(data: bytes, where: str, encoding: str = UTF_8) -> str:
    """Return the text of a file, without its byte-order mark.

    Args:
        data: The bytes of the file.
        where: The file, as an error names it.
        encoding: What the file itself declares.

    Raises:
        DataError: The bytes are not of this encoding, or no such encoding is known.
    """
    wide = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    named = "UTF-8" if encoding == UTF_8 else encoding
    if wide is not None and encoding == UTF_8:
        raise DataError(f"{where}: expected text in UTF-8, got {wide}. Hint: store it as UTF-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        found = f"{data[error.start : error.start + 1]!r} at byte {error.start:,}"
        raise DataError(f"{where}: expected text in {named}, got {found}. Hint: store it as UTF-8") from error
    except LookupError as error:
        raise DataError(f"{where}: expected a known encoding, got {encoding!r}. Hint: store it as UTF-8") from error


def read_bytes(path: Path, most: int = SMALL) -> bytes:
    """Return the bytes of a regular file; raise `DataError` for any other and for more than `most` bytes."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path}: expected a file, got {'a folder' if path.is_dir() else 'a device or a pipe'}")
    if found.st_size > most:
        raise DataError(f"{path}: expected at most {most:,} bytes, got {found.st_size:,}")
    return path.read_bytes()


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """Return the text of a regular file in UTF-8; raise `DataError` where it is of another encoding, or too large."""
    return decode_text(read_bytes(path, most), str(path))


def split_lines(text: str) -> list[str]:
    r"""Return the lines of a text, which end in "\n", "\r\n" or "\r" and nowhere else.

    `str.splitlines` also cuts at form feeds, U+0085 and U+2028, which stand inside names and captions.
    """
    lines = _LINE_ENDS.split(text)
    return lines[:-1] if lines[-1] == "" else lines


def is_text(text: str) -> bool:
    """Whether a text can be stored as UTF-8: names of files that are not UTF-8 arrive with lone surrogates."""
    return text.isascii() or _SURROGATE.search(text) is None


def check_text(text: str, where: str) -> str:
    """Return a text that can be stored and tokenized; raise `DataError` for lone surrogates, which UTF-8 cannot hold.

    JSON can write them ("\\ud83d"), and names of files that are not UTF-8 arrive with them.
    """
    found = _SURROGATE.search(text)
    if found is None:
        return text
    raise DataError(
        f"{where}: expected Unicode text, got the lone surrogate {found[0]!a} in {shown_text(text)}. Hint: write "
        "both halves of the character, or leave it out"
    )


def check_texts(value: Any, where: str) -> None:
    """Raise `DataError` where a text in a value of JSON holds a lone surrogate, keys included.

    Args:
        value: Anything that `json.loads` returns; other values hold no text.
        where: What the error begins with.
    """
    if isinstance(value, str):
        check_text(value, where)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            check_text(str(name), where)
            check_texts(item, f"{where}.{shown_text(str(name))[1:-1]}")
    elif isinstance(value, list | tuple):
        for item in value:
            check_texts(item, where)


def shown_text(text: str, most: int = 80) -> str:
    """Return a text as a message may print it: in quotes, escaped where it has no glyph, cut at `most` characters."""
    cut = text if len(text) <= most else f"{text[: most - 1]}…"
    return "'" + "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in cut) + "'"


def same_text(text: str) -> str:
    """Return the form in which names are compared: composed (NFC), as macOS stores decomposed names of files."""
    return unicodedata.normalize("NFC", text)
