import hashlib
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as distributed
from tiny import write_shards

from unified.core import file_hashes
from unified.core.errors import DataError
from unified.data.shards import contents
from unified.data.shards.contents import read_contents
from unified.data.shards.shards import Shards


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_contents_are_those_of_the_tars_whatever_their_indexes_say(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = Shards.open(write_shards(tmp_path / "data")).files
    found = read_contents({"a": files, "b": files[:1]})
    assert [shard.sha256 for shard in found.shards["a"]] == [file.digest.hex() for file in files]
    assert found.shards["b"] == found.shards["a"][:1]
    assert found.digests()["a"] == Shards(files).digest
    assert caplog.text == ""
    tar = tmp_path / "data" / "shard-00001.tar"
    tar.write_bytes(tar.read_bytes().replace(b"a red square", b"a big circle"))
    changed = read_contents({"a": files})
    assert [shard.sha256 for shard in changed.shards["a"]] == [sha256(Path(file.name)) for file in files]
    assert changed.digests()["a"] != found.digests()["a"]
    assert f"unified shards index {tar}" in caplog.text
    assert caplog.text.count("expected the tar that its index was made for") == 1


def test_long_reading_is_told_and_what_was_read_stays_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(contents, "TOLD_SECONDS", 0.0)
    monkeypatch.setattr(file_hashes, "SMALL_BYTES", 100)
    monkeypatch.setattr(file_hashes, "SETTLED_NS", -1)
    files = Shards.open(write_shards(tmp_path / "data", samples=12, samples_per_shard=2)).files
    alive: list[int] = []
    with caplog.at_level("INFO", "unified"):
        first = read_contents({"a": files}, alive=lambda: alive.append(1))
    assert f"reading {len(files)} shards once" in caplog.text
    assert len(alive) > 1
    caplog.clear()
    with caplog.at_level("INFO", "unified"):
        assert read_contents({"a": files}) == first
    assert caplog.text == ""


def test_a_shard_that_cannot_be_read_is_an_error_with_its_name(tmp_path: Path) -> None:
    files = Shards.open(write_shards(tmp_path / "data")).files
    (tmp_path / "data" / "shard-00002.tar").unlink()
    with pytest.raises(DataError, match=r"shard-00002\.tar.*the same command goes on"):
        read_contents({"a": files})


def _rank(number: int, folder: Path, answers: Any) -> None:
    """One of two processes: the contents, then those with a shard that is gone."""
    place = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", init_method=place, rank=number, world_size=2)
    reads = 0
    whole = file_hashes.FileHashes.read

    def counted(*given: Any) -> bytes:
        nonlocal reads
        reads += 1
        return whole(*given)

    file_hashes.FileHashes.read = counted  # type: ignore[method-assign]
    files = Shards.open(folder / "data").files
    found = read_contents({"a": files, "b": files[1:]})
    distributed.barrier()
    if number == 0:
        Path(files[0].name).unlink()
    distributed.barrier()
    try:
        read_contents({"a": files})
        problem = ""
    except DataError as error:
        problem = str(error)
    answers.put((number, found.digests(), reads, problem))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_one_process_reads_for_all_and_its_errors_are_those_of_all(tmp_path: Path) -> None:
    expected = read_contents({"a": Shards.open(write_shards(tmp_path / "data")).files})
    forked = multiprocessing.get_context("fork")
    answers = forked.SimpleQueue()
    ranks = [forked.Process(target=_rank, args=(number, tmp_path, answers)) for number in range(2)]
    for rank in ranks:
        rank.start()
    found = {number: rest for number, *rest in (answers.get() for _ in ranks)}
    for rank in ranks:
        rank.join()
    assert found[0][0] == found[1][0]
    assert found[0][0]["a"] == expected.digests()["a"]
    assert [found[0][1] >= 3, found[1][1]] == [True, 0], "rank 0 alone reads"
    for number in range(2):
        assert "shard-00000.tar" in found[number][2]
        assert "the same command goes on" in found[number][2]
