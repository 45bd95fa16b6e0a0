"""JSON and files that are replaced: what is read, what is refused in a line, and what a failure leaves."""

import os
from pathlib import Path
from typing import Any

import pytest

from unified.core.atomic_files import replace_file, replacing
from unified.core.errors import DataError
from unified.core.json_files import parse_json, read_json


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.json: expected JSON, got nothing"),
        (b'{"a": [1,', r"x.json: expected JSON, got damaged or other text \(Expecting value in line 1, column 10\)"),
        (b"[]", "x.json: expected an object, got a list"),
        (b"3.5", "x.json: expected an object, got a number"),
        (b"[" * 200_000, "x.json: expected JSON, got brackets in too many levels"),
        (b'{"a": ' * 200_000, "x.json: expected JSON, got brackets in too many levels"),
        (b'{"a": ' + b"9" * 5000 + b"}", "x.json: expected JSON, got a number of thousands of digits"),
        (b'{"a": "\xe1"}', "x.json: expected text in UTF-8"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            r"expected JSON, got a pointer of git-lfs\. Hint: .*lfs pull",
        ),
        (b"\x1f\x8b\x08", "x.json: expected JSON, got gzip-compressed data"),
        (b"<!DOCTYPE html>", "x.json: expected JSON, got a web page"),
    ],
)
def test_what_is_no_json_is_told_in_a_line(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        parse_json(content, "x.json")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("content", "kind", "value"), [(b"\xef\xbb\xbf{}", dict, {}), (b"[1]", list, [1]), ("2", None, 2)]
)
def test_what_is_asked_for_is_read(content: Any, kind: type | None, value: Any) -> None:
    assert parse_json(content, "x.json", kind) == value


def test_only_regular_files_of_a_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="expected a file, got a device or a pipe"):
        read_json(tmp_path / "pipe")
    with pytest.raises(DataError, match="expected a file, got a folder"):
        read_json(tmp_path)
    (tmp_path / "a.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="expected at most 5 bytes, got 6"):
        read_json(tmp_path / "a.json", most=5)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    replace_file(path, "é")
    replace_file(path, b"two")
    with pytest.raises(TypeError), replacing(path) as file:
        file.writelines([b"half", "no bytes"])
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]
