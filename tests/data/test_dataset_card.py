"""Folders of shards in other tools: Hugging Face `datasets` by their card, wids by its index."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unified.data.builders.dense import Options
from unified.data.commands import shards
from unified.data.dataset_card import CARD, SHARD_INDEX
from unified.data.shards.write import ShardWriter, complete_folder

datasets = pytest.importorskip("datasets", reason="loading a card needs Hugging Face datasets (extra dev)")


def image(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 30, 40)).save(buffer, kind)
    return buffer.getvalue()


def array(*shape: int) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    return buffer.getvalue()


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for name in ("dog", "cat"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(5):
            (tmp_path / "in" / name / f"{number}.png").write_bytes(image("PNG"))
    return tmp_path / "in"


def test_class_folders_load_with_the_names_of_their_classes(classes: Path, tmp_path: Path) -> None:
    shards.build(str(classes), tmp_path / "out", options=Options(held_out=0.4, samples_per_shard=4))
    found = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: part.num_rows for name, part in found.items()} == {"train": 6, "test": 4}
    assert found["train"].features["cls"].names == ["cat", "dog"]
    assert found["test"][0]["png"].size == (8, 6)
    one = datasets.load_dataset(str(tmp_path / "out" / "test"), cache_dir=str(tmp_path / "cache"))
    assert {name: part.num_rows for name, part in one.items()} == {"test": 4}


def test_a_folder_without_parts_is_the_split_train(classes: Path, tmp_path: Path) -> None:
    shards.build(str(classes), tmp_path / "out")
    found = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: part.num_rows for name, part in found.items()} == {"train": 10}


def test_columns_that_only_some_samples_have_load(tmp_path: Path) -> None:
    with complete_folder(tmp_path / "mixed") as folder:
        for part in ("train", "held-out"):
            with ShardWriter(folder / part, kind="test", source="here", samples_per_shard=5) as writer:
                for number in range(12):
                    objects = [{"label": "cup", "box": [1, 2.5, 3, 4]}] if number > 7 else []
                    facts = {"objects": objects, **({"identity": "ada"} if number % 3 else {})}
                    columns = {"png" if number % 2 else "jpg": image("PNG" if number % 2 else "JPEG"), "json": facts}
                    columns |= {"npy": array(2, number % 3 + 1), **({"bin": b"\0\1"} if number > 9 else {})}
                    writer.write(f"{number:02d}", columns)
    found = datasets.load_dataset(str(tmp_path / "mixed"), cache_dir=str(tmp_path / "cache"))
    assert {name: part.num_rows for name, part in found.items()} == {"train": 12, "held_out": 12}
    row = found["held_out"][11]
    assert row["json"] == {"objects": [{"box": [1, 2.5, 3, 4], "label": "cup"}], "identity": "ada"}
    assert np.array(row["npy"]).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (row["bin"], row["jpg"], row["png"].size) == (b"\0\1", None, (8, 6))


def test_the_index_of_wids_counts_the_samples_of_each_shard(classes: Path, tmp_path: Path) -> None:
    shards.build(str(classes), tmp_path / "out", options=Options(held_out=0.4, samples_per_shard=4))
    for part in ("train", "test"):
        content = json.loads((tmp_path / "out" / part / SHARD_INDEX).read_text())
        assert (content["__kind__"], content["wids_version"]) == ("wids-shard-index-v1", 1)
        for shard in content["shardlist"]:  # urls are relative to the index, as wids resolves them
            path = tmp_path / "out" / part / shard["url"]
            with tarfile.open(path) as tar:
                keys = {name.split(".")[0] for name in tar.getnames()}
            assert (len(keys), path.stat().st_size) == (shard["nsamples"], shard["filesize"])


def test_indexing_shards_of_others_adds_card_and_index_and_keeps_a_readme(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "theirs", kind="test", source="here") as writer:
        writer.write("0", {"txt": "a cup"})
    shards.index(str(tmp_path / "theirs"))
    found = datasets.load_dataset(str(tmp_path / "theirs"), cache_dir=str(tmp_path / "cache"))
    assert found["train"]["txt"][:] == ["a cup"]
    (tmp_path / "theirs" / CARD).write_text("mine")
    shards.index(str(tmp_path / "theirs"))
    assert (tmp_path / "theirs" / CARD).read_text() == "mine"
    assert json.loads((tmp_path / "theirs" / SHARD_INDEX).read_text())["shardlist"][0]["nsamples"] == 1
