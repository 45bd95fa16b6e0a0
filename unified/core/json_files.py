"""One reading of JSON from outside: limits before anything is built, and one line that says what is wrong."""

import json
from pathlib import Path
from typing import Any

from unified.core.errors import DataError
from unified.core.file_kinds import START, file_kind
from unified.core.text_files import SMALL as SMALL
from unified.core.text_files import decode_text
from unified.core.text_files import read_bytes as read_bytes

MOST_BYTES = 1 << 30
"""COCO's documents of 120,000 images have half of it."""
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "null"}


def kind_of(value: Any) -> str:
    """Return what JSON calls a value."""
    return _KINDS.get(type(value), "a number")


def parse_json(data: bytes | str, where: str, kind: type | None = dict) -> Any:
    """Return the value of a JSON document.

    Args:
        data: Its bytes or its text.
        where: The file, as an error names it.
        kind: What the document must be, `dict` or `list`; None: anything.

    Raises:
        DataError: It is no JSON, nested too deeply to be read, no UTF-8, or of another kind.
    """
    try:
        value = _parsed(data, where)
    except DataError as error:
        start = data[:START] if isinstance(data, bytes) else data[:START].encode(errors="replace")
        other = file_kind(start) if start else None
        if other is None:
            raise
        raise DataError(f"{where}: expected JSON, got {other.name}. Hint: {other.hint}") from error
    if kind is not None and not isinstance(value, kind):
        raise DataError(f"{where}: expected {_KINDS[kind]}, got {kind_of(value)}")
    return value


def _parsed(data: bytes | str, where: str) -> Any:
    text = decode_text(data, where) if isinstance(data, bytes) else data
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        found = f"damaged or other text ({error.msg} in {place})" if text.strip() else "nothing"
        raise DataError(f"{where}: expected JSON, got {found}") from error
    except RecursionError:
        raise DataError(f"{where}: expected JSON, got brackets in too many levels") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise DataError(f"{where}: expected JSON, got a number of thousands of digits") from error


def read_json(path: Path, kind: type | None = dict, most: int = SMALL) -> Any:
    """Return the value of a JSON file.

    Args:
        path: The file.
        kind: What it must be, `dict` or `list`; None: anything.
        most: Bytes at most.

    Raises:
        DataError: As of `parse_json` and `read_bytes`.
        OSError: It cannot be read.
    """
    return parse_json(read_bytes(path, most), str(path), kind)
