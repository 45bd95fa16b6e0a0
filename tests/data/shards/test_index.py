"""The index of a tar: what it holds, and every tar that it refuses."""

import bz2
import gzip
import io
import lzma
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from webdataset.tariterators import group_by_keys, tar_file_expander

from unified.core.errors import DataError
from unified.data.shards.index import (
    build_index,
    index_path,
    open_index,
    read_header,
    split_name,
    write_index,
)
from unified.data.shards.patterns import parts, shard_paths

Members = Sequence[tuple[str, bytes]]


def make_tar(path: Path, members: Members, tar_format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def entries(path: Path) -> list[tuple[str, dict[str, bytes]]]:
    index, data = build_index(path), path.read_bytes()
    found = []
    for number in range(len(index)):
        key, members = index.entry(number)
        found.append((key, {index.columns[column]: data[at : at + size] for column, at, size in members}))
    return found


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_and_bytes_are_found(tmp_path: Path, tar_format: int) -> None:
    members = [("a/1.png", b"picture"), ("a/1.seg.PNG", b"mask"), ("a/2.png", b""), ("a/2.txt", b"x" * 1500)]
    path = make_tar(tmp_path / "s.tar", members, tar_format)
    assert entries(path) == [
        ("a/1", {"png": b"picture", "seg.png": b"mask"}),
        ("a/2", {"png": b"", "txt": b"x" * 1500}),
    ]


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(tmp_path: Path, tar_format: int) -> None:
    key = "f" * 180 + "/" + "größe" * 30
    path = make_tar(tmp_path / "s.tar", [(f"{key}.txt", b"one"), (f"{key}.cls", b"7")], tar_format)
    assert entries(path) == [(key, {"txt": b"one", "cls": b"7"})]


def test_grouping_is_that_of_webdataset(tmp_path: Path) -> None:
    names = [
        "a.b/c.d.e",
        "a.b/c.f",
        "x.png",
        "./y.png",
        "./y.txt",
        "z/.hidden",
        "README",
        "q.tar.gz",
        "__meta__",
        "q.x",
    ]
    path = make_tar(tmp_path / "s.tar", [(name, name.encode()) for name in names])
    with path.open("rb") as stream:
        samples = list(group_by_keys(tar_file_expander([{"url": "s.tar", "stream": stream}])))
    theirs = [
        (sample["__key__"], {name: value for name, value in sample.items() if not name.startswith("__")})
        for sample in samples
    ]
    assert [(key, columns) for key, columns in theirs if key != "z/"] == entries(path)


def test_split_name() -> None:
    assert split_name("a.b/c.seg.PNG") == ("a.b/c", "seg.png")
    assert [split_name(name) for name in ("README", ".hidden", "a/.x.png", "a.", "__meta__/a.json")] == [None] * 5


def test_written_index_reads_back_equal(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "s.tar", [(f"{n:03d}.{c}", b"x" * n) for n in range(20) for c in ("txt", "cls")])
    built = build_index(path)
    write_index(built, index_path(path))
    read = open_index(index_path(path))
    assert (read.tar_bytes, read.digest, read.columns) == (built.tar_bytes, built.digest, built.columns)
    assert [read.entry(n) for n in range(20)] == [built.entry(n) for n in range(20)]
    assert read_header(index_path(path)) == built.header
    assert [file.name for file in tmp_path.iterdir() if "partial" in file.name] == []


def test_empty_columns_are_no_samples(tmp_path: Path) -> None:
    assert len(build_index(make_tar(tmp_path / "s.tar", [("README", b"")]))) == 0


def good(tmp_path: Path) -> Path:
    return make_tar(tmp_path / "s.tar", [(f"{n}.txt", b"t" * 700) for n in range(4)])


@pytest.mark.parametrize("keep", [600, 3 * 1536 + 100, 3 * 1536 + 700, 4 * 1536, 4 * 1536 + 511])
def test_truncated_tail_is_refused(tmp_path: Path, keep: int) -> None:
    path = good(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"s\.tar.*cut off"):
        build_index(path)


def test_cut_at_a_header_is_refused(tmp_path: Path) -> None:
    path = good(tmp_path)
    path.write_bytes(path.read_bytes()[: 3 * 1536 + 5])  # tarfile stops here without an error
    with pytest.raises(DataError, match="marker"):
        build_index(path)


def test_damaged_header_and_joined_tars_are_refused(tmp_path: Path) -> None:
    path = good(tmp_path)
    data = bytearray(path.read_bytes())
    data[2 * 1536 + 3] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged header"):
        build_index(path)
    whole = good(tmp_path).read_bytes()
    path.write_bytes(whole + whole)
    with pytest.raises(DataError, match="joined"):
        build_index(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a plain tar, got an empty file"),
        (b"no tar at all" * 100, "cut off, damaged or no plain tar"),
        (b"\x1f\x8b" + b"\0" * 1000, r"expected a plain tar, got gzip-compressed data\. Hint: unpack it: gunzip -c"),
        (bz2.compress(b"tar"), "got bzip2-compressed data"),
        (lzma.compress(b"tar"), "got xz-compressed data"),
        (b"\x28\xb5\x2f\xfd" + b"\0" * 600, "got zstd-compressed data"),
        (b"PK\x03\x04" + b"\0" * 600, "got a zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "got a pointer of git-lfs.*git lfs pull"),
        (b"<html><body>Sign in</body></html>", "got a web page"),
    ],
)
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"s\.tar: (expected a plain tar, )?{message}"):
        build_index(path)


SONG = "song 1.0 (live)"
ODD = [
    "Screenshot 10.30.15\u202fAM",  # as macOS names them
    "a.b\u2028c",
    "a.b\x85c",
    "a.\u3000b\x0cc\x1cd\ve",
    "a. b ",
    "a.caf\u00e9 cafe\u0301",
    "line\nbreak.in its key",
]


def stored(path: Path) -> list[dict[str, bytes]]:
    """The samples by the index as it is read from its file."""
    write_index(build_index(path), index_path(path))
    index, data = open_index(index_path(path)), path.read_bytes()
    members = [index.entry(number)[1] for number in range(len(index))]
    return [{index.columns[column]: data[at : at + size] for column, at, size in found} for found in members]


def test_each_column_holds_its_own_bytes_whatever_its_name(tmp_path: Path) -> None:
    files = [(f"{SONG}.{kind}", kind.encode()) for kind in ("txt", "json", "png")]
    assert stored(make_tar(tmp_path / "s.tar", files)) == [
        {"0 (live).txt": b"txt", "0 (live).json": b"json", "0 (live).png": b"png"}
    ]


@pytest.mark.parametrize("name", ODD)
def test_names_may_hold_any_letters(tmp_path: Path, name: str) -> None:
    path = make_tar(tmp_path / "s.tar", [(f"{name}.txt", b"first"), (f"{name}.png", b"second")])
    key, _, column = name.partition(".")
    expected = {f"{column}.{kind}".lstrip(".").lower(): data for kind, data in (("txt", b"first"), ("png", b"second"))}
    assert stored(path) == [expected]
    assert open_index(index_path(path)).entry(0)[0] == key
    assert [entries(path)[0][1]] == [expected]


def test_an_index_of_very_many_columns_is_read(tmp_path: Path) -> None:
    names = [f"{number}.{number} {'long' * 20}.txt" for number in range(1000)]
    path = make_tar(tmp_path / "s.tar", [(name, name.encode()) for name in names])
    assert [next(iter(found.values())).decode() for found in stored(path)] == names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.t\nxt", r"member 'a\.t\\nxt': expected a name on one line"),
        ("caf\udce9.txt", r"member 'caf\\udce9\.txt': expected a name in UTF-8, got other bytes"),
        ("a.caf\udce9", r"expected a name in UTF-8, got other bytes"),
    ],
)
def test_names_that_an_index_cannot_hold_are_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"s\.tar: .*{message}"):
        build_index(make_tar(tmp_path / "s.tar", [(name, b"1")], tarfile.GNU_FORMAT))


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A header of a ustar member with a checksum that fits, whatever it claims."""
    block = bytearray(512)
    block[: len(name)], block[100:108], block[108:124] = name, b"0000644\0", b"0000000\0" * 2
    block[124:136], block[136:148] = size.ljust(12, b"\0")[:12], b"00000000000\0"
    block[148:156], block[156:157], block[257:265] = b" " * 8, kind, b"ustar\00000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(record: bytes) -> bytes:
    return header(b"p", b"%011o\0" % len(record), b"x") + record.ljust(512, b"\0")


@pytest.mark.parametrize(
    "content",
    [
        pax(b"12 comment=a\n") * 1500,
        header(b"p", b"\xff" + (2**88 - 512).to_bytes(11, "big"), b"x"),
        pax(b"22 GNU.sparse.map=0,x\n"),
    ],
    ids=["chain of pax records", "negative pax record", "sparse map"],
)
def test_headers_that_break_the_reader_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.tar").write_bytes(content + header(b"a.txt", b"00000000000\0") + bytes(1024))
    with pytest.raises(DataError, match=r"s\.tar: cut off, damaged or no plain tar|sparse file"):
        build_index(tmp_path / "s.tar")


def test_compressed_tars_in_a_folder_are_not_passed_over(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", [("1.txt", b"one")])
    for name in ("a.tar.gz", "b.tar.gz"):
        (tmp_path / name).write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    with pytest.raises(DataError, match=r"expected plain tars, got 1 compressed ones, such as b\.tar\.gz"):
        shard_paths(tmp_path)
    (tmp_path / "b.tar.gz").rename(tmp_path / "b.TGZ")
    with pytest.raises(DataError, match=r"such as b\.TGZ"):
        shard_paths(tmp_path)
    (tmp_path / "b.TGZ").unlink()
    assert shard_paths(tmp_path) == [tmp_path / "a.tar"]
    (tmp_path / "test").mkdir()
    (tmp_path / "a.tar").rename(tmp_path / "test" / "a.tar.gz")
    (tmp_path / "a.tar.gz").unlink()
    assert parts(tmp_path) == [tmp_path / "test"]


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/etc/evil.txt"])
def test_paths_outside_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"member '.*evil\.txt' lies outside"):
        build_index(make_tar(tmp_path / "s.tar", [("a.txt", b"x"), (name, b"x")]))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("a.txt")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(DataError, match=r"member 'a\.txt' is a link, a device"):
        build_index(path)


def test_folders_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        tar.addfile(tarfile.TarInfo("a/1.txt"))
    assert entries(path) == [("a/1", {"txt": b""})]


@pytest.mark.parametrize("size", [10_000_000, 1 << 40])
def test_absurd_sizes_are_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "s.tar"
    member = tarfile.TarInfo("a.txt")
    member.size = size
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + b"\0" * 2048)
    with pytest.raises(DataError, match=rf"member 'a\.txt' claims {size:,} bytes"):
        build_index(path)


def test_duplicate_column_is_refused(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "s.tar", [("a.txt", b"1"), ("a.png", b""), ("a.TXT", b"2")])
    with pytest.raises(DataError, match=r"s\.tar: member 'a\.TXT': sample 'a' has two columns 'txt'"):
        build_index(path)


def test_unsorted_members_are_refused_and_repeated_samples_are_not(tmp_path: Path) -> None:
    halves = [("a.png", b""), ("b.png", b""), ("a.txt", b""), ("b.txt", b"")]
    with pytest.raises(DataError, match=r"of sample 'a' do not lie together.*--sort=name"):
        build_index(make_tar(tmp_path / "s.tar", halves))
    twice = [("a.png", b"1"), ("b.png", b"2"), ("a.png", b"3")]
    assert len(entries(make_tar(tmp_path / "t.tar", twice))) == 3


def spoil(path: Path, changes: Mapping[int, int]) -> None:
    data = bytearray(path.read_bytes())
    for at, value in changes.items():
        data[at] = value
    path.write_bytes(data)


def test_newer_damaged_and_cut_indexes_are_refused(tmp_path: Path) -> None:
    path = good(tmp_path)
    index = index_path(path)
    write_index(build_index(path), index)
    whole = index.read_bytes()
    for data, message in [
        (whole[:8] + b"\x03" + whole[9:], "expected a format up to 2, got 3"),
        (b"garbage!" + whole[8:], "not an index"),
        (whole[:50], "not an index"),
        (whole[:-3], "its header says"),
    ]:
        index.write_bytes(data)
        with pytest.raises(DataError, match=rf"s\.tar\.idx: .*{message}.*unified shards index .*s\.tar$"):
            open_index(index)


def test_large_tars_are_indexed_quickly(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "s.tar", [(f"{n:05d}.txt", b"x") for n in range(3000)])
    start = time.perf_counter()
    build_index(path)
    assert time.perf_counter() - start < 5  # far above the usual 0.1 s; a quadratic scan would take longer
