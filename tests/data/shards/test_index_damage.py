"""What lies beside a tar is compared when it is opened."""

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unified.core.errors import DataError
from unified.data.shards import index as index_module
from unified.data.shards.index import (
    HEADER,
    TABLES_ONLY,
    Header,
    Index,
    build_index,
    index_path,
    open_index,
    read_header,
    write_index,
)
from unified.data.shards.shards import Shards
from unified.data.shards.write import ShardWriter


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    with ShardWriter(tmp_path / "data", kind="x", source="x") as writer:
        for number in range(20):
            writer.write(f"{number:02d}", {"cls": number % 10, "txt": f"number {number}"})
    return tmp_path / "data" / "shard-00000.tar"


def test_a_bit_that_flipped_anywhere_in_an_index_is_found_or_changes_nothing(tar: Path) -> None:
    path, right = index_path(tar), list(Shards.open(tar))
    whole, names = path.read_bytes(), (HEADER.size, read_header(path).tables_start)
    messages = []
    places = [*range(HEADER.size), *range(*names), *range(names[1], len(whole), 7)]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert list(Shards.open(tar)) == right
        except DataError as error:
            messages.append(str(error))
    assert all("unified shards index" in message and "\n" not in message for message in messages)
    assert len(messages) >= len(places) - 2  # a line break between names may become another white space


def test_an_index_that_changes_after_opening_is_found_when_it_is_mapped_again(tar: Path) -> None:
    shards = Shards.open(tar)
    path = index_path(tar)
    data = path.read_bytes()
    path.write_bytes(data[:-3] + b"999")
    with pytest.raises(DataError, match="damaged index"):
        shards[0]


def test_an_index_is_compared_once_while_it_stays_as_it_is(tar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Shards.open(tar)
    monkeypatch.setattr(index_module, "tables_problem", lambda *_: "looked at again")
    shards = Shards.open(tar)
    assert shards[3]["txt"] == b"number 3"
    shutil.copy(index_path(tar), tar.with_name("copy"))
    tar.with_name("copy").replace(index_path(tar))
    with pytest.raises(DataError, match="looked at again"):
        Shards.open(tar)


def test_indexes_of_the_first_format_are_read_and_their_tables_compared(tar: Path) -> None:
    path, index = index_path(tar), build_index(tar)
    facts = Header(**{**vars(index.header), "format": TABLES_ONLY})
    fields = [index.tar_bytes, len(index), len(index.members), len(index.keys), index.digest]
    start = path.read_bytes()[: facts.tables_start]
    head = HEADER.pack(start[:8], TABLES_ONLY, facts.tables_start - HEADER.size, *fields, facts.sealed(index.body))
    old = head + start[HEADER.size :] + index.body
    path.write_bytes(old)
    assert Shards.open(tar)[7]["txt"] == b"number 7"
    path.write_bytes(old[:-1] + b"\0")
    with pytest.raises(DataError, match="damaged index"):
        Shards.open(tar)


def changed(index: Index, name: str, place: Any, value: int) -> Index:
    tables = {field: np.array(getattr(index, field)) for field in ("bounds", "members")}
    tables[name][place] = value
    return Index(index.tar_bytes, index.digest, index.columns, **tables, keys=bytes(index.keys))


def with_keys(index: Index, keys: bytes) -> Index:
    return Index(index.tar_bytes, index.digest, index.columns, index.bounds, index.members, keys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: changed(index, "bounds", (3, 0), 10**9), "do not follow one another"),
        (lambda index: changed(index, "bounds", (3, 1), 2**64 - 1), "do not follow one another"),
        (lambda index: changed(index, "bounds", (0, 0), 1), "do not follow one another"),
        (lambda index: changed(index, "bounds", (20, 1), 39), "do not follow one another"),
        (lambda index: changed(index, "members", (5, 0), 2), "of no column"),
        (lambda index: changed(index, "members", (5, 1), 2**63), "outside the tar"),
        (lambda index: changed(index, "members", (5, 2), 2**64 - 1), "outside the tar"),
        (lambda index: with_keys(index, b"\xff" * 40), "not UTF-8"),
        (lambda index: with_keys(changed(index, "bounds", (3, 0), 5), "ä".encode() * 20), "within a letter"),
    ],
)
def test_tables_that_cannot_be_those_of_the_tar_are_refused_though_their_digest_fits(
    tar: Path, change: Callable[[Index], Index], message: str
) -> None:
    write_index(change(build_index(tar)), index_path(tar))
    with pytest.raises(DataError, match=message):
        open_index(index_path(tar))


def test_an_index_of_another_tar_of_its_very_size_is_refused(tmp_path: Path) -> None:
    for name, word in (("a", "red"), ("b", "big")):
        with ShardWriter(tmp_path / name, kind="x", source="x") as writer:
            for number in range(5):
                writer.write(f"{name}{number}", {"txt": f"a {word} square"})
        (tmp_path / name / "manifest.json").unlink()
    one, other = (tmp_path / name / "shard-00000.tar" for name in "ab")
    assert one.stat().st_size == other.stat().st_size
    index_path(one).write_bytes(index_path(other).read_bytes())
    with pytest.raises(DataError, match="expected 'b0' at byte 512, as its index says, got another member"):
        Shards.open(one)


@pytest.mark.parametrize(
    "name", ["./a/b.txt", "ä" * 60 + ".txt", "x" * 180 + ".txt", "a/" * 90 + "b.txt", "A.TXT", "größe.txt"]
)
@pytest.mark.parametrize("layout", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_names_of_any_length_are_known_again(tmp_path: Path, name: str, layout: int) -> None:
    path = tmp_path / "a.tar"
    try:
        with tarfile.open(path, "w", format=layout) as tar:
            member = tarfile.TarInfo(name)
            member.size = 5
            tar.addfile(member, io.BytesIO(b"hello"))
    except ValueError:
        pytest.skip("a name that this layout cannot hold")
    first = Shards.open(path)[0]
    assert Shards.open(path)[0] == first
    assert first["txt"] == b"hello"
