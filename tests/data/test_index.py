"""The index of a tar: what it holds, and every tar that it refuses."""

import io
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from webdataset.tariterators import group_by_keys, tar_file_expander

from unified.data.index import build_index, index_path, open_index, read_header, split_name, write_index
from unified.types import DataError

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


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, b"\x1f\x8b" + b"\0" * 1000])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"s\.tar: cut off, damaged or no plain tar"):
        build_index(path)


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
        (whole[:8] + b"\x02" + whole[9:], "index format 2, this version of unified reads 1"),
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
