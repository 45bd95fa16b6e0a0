"""Reading shards: patterns, order, processes, and what does not fit together."""

import json
import logging
import os
import pickle
import tarfile
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from webdataset.tariterators import group_by_keys, tar_file_expander

from unified.core.errors import DataError
from unified.data.shards import shards as module
from unified.data.shards.index import build_index, index_path, write_index
from unified.data.shards.patterns import natural, parts, read_manifest, shard_paths
from unified.data.shards.shards import Shards
from unified.data.shards.verify import verify
from unified.data.shards.write import ShardWriter, write_json


def write(folder: Path, samples: int, per_shard: int = 4) -> Path:
    with ShardWriter(folder, kind="test", source="test", samples_per_shard=per_shard) as writer:
        for number in range(samples):
            writer.write(f"{number:03d}", {"txt": f"text {number}", "cls": number})
    return folder


def keys(shards: Shards) -> list[str]:
    return [shards[number]["__key__"] for number in range(len(shards))]


def test_samples_are_numbered_through(tmp_path: Path) -> None:
    shards = Shards.open(write(tmp_path / "d", 10))
    assert (len(shards), shards.sizes, shards.columns) == (10, (4, 4, 2), ("cls", "txt"))
    assert keys(shards) == [f"{number:03d}" for number in range(10)]
    raw = shards[5]
    assert raw == {
        "__key__": "005",
        "__shard__": str(tmp_path / "d" / "shard-00001.tar"),
        "txt": b"text 5",
        "cls": b"5",
    }
    assert [len(list(shards)), shards.locate(9)] == [10, (2, 1)]


@pytest.mark.parametrize("number", [-1, 10])
def test_numbers_outside_are_refused(tmp_path: Path, number: int) -> None:
    with pytest.raises(IndexError, match="of 10"):
        Shards.open(write(tmp_path / "d", 10))[number]


def test_patterns(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", 10)
    braces = Shards.open(f"{folder}/shard-{{00000..00001}}.tar")
    glob = Shards.open(f"{folder}/shard-0000[12].tar")
    assert (len(braces), len(glob), len(Shards.open([folder, f"{folder}/shard-00002.tar"]))) == (8, 6, 12)
    assert keys(glob)[0] == "004"


def test_relative_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "d", 5)
    monkeypatch.chdir(tmp_path)
    assert len(Shards.open("d")) == len(Shards.open("d/*.tar")) == len(Shards.open("d/shard-{00000,00001}.tar")) == 5


def test_numbered_shards_are_sorted_by_number() -> None:
    names = [Path(f"d/{number}.tar") for number in (10, 9, 1, 100, 0)]
    assert [path.stem for path in sorted(names, key=natural)] == ["0", "1", "9", "10", "100"]


def test_folder_without_a_manifest_is_read(tmp_path: Path) -> None:
    write(tmp_path / "d", 10)
    (tmp_path / "d" / "manifest.json").unlink()
    for number in range(3):
        (tmp_path / "d" / f"shard-{number:05d}.tar").rename(tmp_path / "d" / f"{number}.tar")
    assert keys(Shards.open(tmp_path / "d"))[:5] == ["000", "001", "002", "003", "004"]


@pytest.mark.parametrize("pattern", ["nothing", "d/none-*.tar", "d/shard-{00000..00009}.tar", "d/shard-00009.tar"])
def test_missing_shards_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    write(tmp_path / "d", 10)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no shard .*expected a folder, a tar, a glob"):
        Shards.open(pattern)


def test_empty_lists_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no shard pattern"):
        Shards.open([])
    with pytest.raises(DataError, match=r"expected \*\.tar"):
        Shards.open(tmp_path)
    write(tmp_path / "splits" / "train", 3)
    with pytest.raises(DataError, match="one of its parts: train"):
        Shards.open(tmp_path / "splits")
    write(tmp_path / "empty", 0)
    with pytest.raises(DataError, match="no samples"):
        Shards.open(tmp_path / "empty")


def test_missing_index_is_built_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path / "d", 3)
    index_path(folder / "shard-00000.tar").unlink()
    with caplog.at_level(logging.INFO, "unified"):
        assert len(Shards.open(folder)) == 3
    assert [record.getMessage() for record in caplog.records] == [f"{folder}/shard-00000.tar: indexed 3 samples"]
    assert index_path(folder / "shard-00000.tar").is_file()


def test_read_only_folder_keeps_the_index_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "d", 3)
    index_path(folder / "shard-00000.tar").unlink()

    def refuse(*_: object) -> None:  # root, as whom tests may run, is not stopped by permissions
        raise PermissionError("read-only")

    monkeypatch.setattr(module, "write_index", refuse)
    with caplog.at_level(logging.INFO, "unified"):
        shards = Shards.open(folder)
    assert "in memory only (read-only)" in caplog.text
    assert keys(pickle.loads(pickle.dumps(shards))) == ["000", "001", "002"]
    assert not index_path(folder / "shard-00000.tar").exists()


def test_index_of_another_tar_is_refused(tmp_path: Path) -> None:
    small, large = (write(tmp_path / name, size, 20) / "shard-00000.tar" for name, size in (("a", 2), ("b", 12)))
    sizes = small.stat().st_size, large.stat().st_size
    assert sizes[0] != sizes[1]
    large.replace(small)
    message = rf"{sizes[1]:,} bytes, its index was made for {sizes[0]:,}.*unified shards index {small}"
    with pytest.raises(DataError, match=message):
        Shards.open(tmp_path / "a")
    write_index(build_index(small), index_path(small))
    with pytest.raises(DataError, match=rf"expected {sizes[0]:,} bytes, as its manifest.json says, got {sizes[1]:,}"):
        Shards.open(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").unlink()
    assert len(Shards.open(tmp_path / "a")) == 12


def test_tar_that_changes_after_opening_is_refused(tmp_path: Path) -> None:
    shards = Shards.open(write(tmp_path / "d", 2))
    with (tmp_path / "d" / "shard-00000.tar").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(DataError, match="1,000 bytes"):
        shards[0]


def test_manifest_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", 10)
    (folder / "shard-00001.tar").rename(folder / "other.tar")
    with pytest.raises(DataError, match=r"shard-00001\.tar: listed in manifest\.json but missing"):
        Shards.open(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for change, message in [
        ({"format": 2}, "expected a format up to 1, got 2"),
        ({"shards": [{"path": "../x.tar"}]}, "outside its folder"),
        ({"format": None}, "expected a format up to 1, got None"),
        ({"shards": 3}, "shards: expected a list, got 3"),
        ({"shards": [5]}, r"shards\[0\]: expected a mapping with `path`, got 5"),
        ({"shards": [{"path": 5}]}, r"shards\[0\]: path: expected a text, got 5"),
        ({"shards": [{"path": "x", "bytes": "x"}]}, "bytes: expected a whole number from 0, got 'x'"),
        ({"shards": [{"path": "x", "sha256": 5}]}, "sha256: expected a text, got 5"),
        ({"shards": [{"path": "x", "sha256": "zz"}]}, "sha256: expected 64 hexadecimal digits, got 'zz'"),
        ({"samples": None}, "samples: expected a whole number from 0, got None"),
        ({"samples": -5}, "samples: expected a whole number from 0, got -5"),
        ({"samples": True}, "samples: expected a whole number from 0, got True"),
        ({"columns": [1]}, r"columns: expected a mapping, got \[1\]"),
        ({"columns": {"txt": "x"}}, "columns: expected a mapping"),
        ({"classes": "ab"}, "classes: expected a list, got 'ab'"),
    ]:
        (folder / "manifest.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(DataError, match=message):
            read_manifest(folder)


def test_parts_of_a_folder_of_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / "d" / split, 2)
    assert parts(tmp_path / "d") == [tmp_path / "d" / "test", tmp_path / "d" / "train"]
    assert parts(tmp_path / "d" / "test") == [tmp_path / "d" / "test"]
    assert shard_paths(tmp_path / "d" / "test") == [tmp_path / "d" / "test" / "shard-00000.tar"]


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_loader_workers_read_the_same(tmp_path: Path, context: str) -> None:
    shards = Shards.open(write(tmp_path / "d", 10))
    expected = [shards[number] for number in range(10)]  # opened before the fork
    torch.set_num_threads(1)
    loader = DataLoader(
        shards,  # type: ignore[arg-type]
        batch_size=None,
        sampler=range(10),
        num_workers=1,
        multiprocessing_context=context,
    )
    assert list(loader) == expected


def test_few_shards_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OPEN_SHARDS", 3)
    shards = Shards.open(write(tmp_path / "d", 40))
    before = len(os.listdir("/proc/self/fd"))
    assert keys(shards) == [f"{number:03d}" for number in range(40)]
    shards[39], shards[0]
    assert len(os.listdir("/proc/self/fd")) <= before + 2 * 3


def test_digest_follows_the_content(tmp_path: Path) -> None:
    first, same = Shards.open(write(tmp_path / "a", 6)), Shards.open(write(tmp_path / "b", 6))
    assert first.digest == same.digest != Shards.open(write(tmp_path / "c", 7)).digest


def test_webdataset_reads_our_shards(tmp_path: Path) -> None:
    shards = Shards.open(write(tmp_path / "d", 4))
    with Path(shards.files[0].name).open("rb") as stream:
        theirs = list(group_by_keys(tar_file_expander([{"url": shards.files[0].name, "stream": stream}])))
    for sample in theirs:
        sample["__shard__"] = sample.pop("__url__")
    assert theirs == [shards[number] for number in range(4)]


def test_reading_is_fast(tmp_path: Path) -> None:
    shards = Shards.open(write(tmp_path / "d", 2000, per_shard=500))
    order = [number * 7 % 2000 for number in range(2000)]
    best = min(timed(shards, order) for _ in range(5))
    assert best / 2000 < 30e-6  # 3 µs on an idle core; the goal is 10


def timed(shards: Shards, order: list[int]) -> float:
    start = time.perf_counter()
    for number in order:
        shards[number]
    return time.perf_counter() - start


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bytes": 512}, r"shard-00000\.tar: expected 512 bytes, as its manifest\.json says"),
        ({"samples": 3}, r"shard-00000\.tar: expected 3 samples, as its manifest\.json says, got 2"),
        (None, r"a: expected 9 samples, as its manifest\.json says, got 2"),
    ],
)
def test_what_a_manifest_counts_is_compared_with_the_shards(
    tmp_path: Path, change: dict[str, int] | None, message: str
) -> None:
    folder = write(tmp_path / "a", 2, 20)
    manifest = read_manifest(folder)
    if change is None:
        manifest["samples"] = 9
    else:
        manifest["shards"][0] |= change
    write_json(folder / "manifest.json", manifest)
    for pattern in (folder, folder / "shard-00000.tar", folder / "*.tar"):
        with pytest.raises(DataError, match=message):
            Shards.open(pattern)
    assert any("manifest.json says" in problem for problem in verify(folder).problems)


def test_a_manifest_of_another_tool_is_none_of_a_named_tar(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", 2, 20)
    (folder / "manifest.json").write_text('{"name": "an app"}')
    assert len(Shards.open(folder / "shard-00000.tar")) == 2
    with pytest.raises(DataError, match="expected a format up to 1, got None"):
        Shards.open(folder)


def test_verify_refuses_a_tar_without_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w"):
        pass
    assert "a.tar: expected samples, got none" in verify(path).problems[0]
    with pytest.raises(DataError, match="no samples"):
        Shards.open(path)
