"""Texts of users' files: what is read, what is refused, and where lines end."""

import os
from pathlib import Path

import pytest

from unified.core.errors import DataError
from unified.core.text_files import check_text, decode_text, read_text, same_text, shown_text, split_lines


def test_byte_order_marks_are_no_part_of_a_text() -> None:
    assert decode_text("\ufeffcafé".encode(), "a.txt") == "café"


def test_what_a_file_declares_is_followed() -> None:
    assert decode_text("猫".encode("gb2312"), "a.xml", "gb2312") == "猫"


@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        ("café".encode("latin-1"), "utf-8-sig", r"a.txt: expected text in UTF-8, got b'\\xe9' at byte 3"),
        ("café".encode("utf-16"), "utf-8-sig", "a.txt: expected text in UTF-8, got UTF-16"),
        ("café".encode("utf-32"), "utf-8-sig", "a.txt: expected text in UTF-8, got UTF-32"),
        (b"a", "klingon", "a.txt: expected a known encoding, got 'klingon'"),
    ],
)
def test_other_bytes_are_refused(data: bytes, encoding: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode_text(data, "a.txt", encoding)


def test_lines_end_at_line_ends_alone() -> None:
    assert split_lines("a\x0cb\r\nc\u2028d\n\ne\rf") == ["a\x0cb", "c\u2028d", "", "e", "f"]
    assert split_lines("a\n") == ["a"]
    assert split_lines("") == []


def test_lone_surrogates_are_refused() -> None:
    assert check_text("😀", "row 3") == "😀"
    with pytest.raises(
        DataError, match=r"row 3: expected Unicode text, got the lone surrogate '\\ud83d' in 'a\\ud83d'"
    ):
        check_text("a\ud83d", "row 3")


def test_texts_in_messages_are_cut_and_escaped() -> None:
    assert shown_text("a\x1b[1m\ud83d") == r"'a\x1b[1m\ud83d'"
    assert len(shown_text("b" * 200)) == 82


def test_composed_and_decomposed_names_are_the_same() -> None:
    assert same_text("cafe\u0301") == same_text("caf\u00e9")


@pytest.mark.parametrize("kind", ["pipe", "zeros", "large", "folder"])
def test_texts_are_read_from_regular_files_of_a_size(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "names.txt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "zeros":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(10**11)
    with pytest.raises(DataError, match=r"names\.txt: expected (a file|at most)"):
        read_text(path)
