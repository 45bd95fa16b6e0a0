"""The held-out part of a user's own files: each class is in both parts, groups stay in one, and what cannot be."""

import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unified.core import seed
from unified.core.errors import DataError
from unified.data.builders.dense import Options
from unified.data.builders.folders import build_imagefolder
from unified.data.builders.held_out import split_items
from unified.data.builders.sources import Item
from unified.data.commands import shards as commands
from unified.data.shards.patterns import read_manifest
from unified.data.shards.shards import Shards
from unified.data.shards.verify import verify


def png(*key: object) -> bytes:
    buffer = io.BytesIO()
    pixels = seed.generator("held out test", *map(str, key)).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def folders(folder: Path, sizes: Mapping[str, int]) -> Path:
    """Class folders of so many images."""
    for name, count in sizes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.png").write_bytes(png(name, number))
    return folder


def keys(folder: Path) -> list[str]:
    shards = Shards.open(folder)
    return sorted(str(shards[number]["__key__"]) for number in range(len(shards)))


def classes(folder: Path) -> Counter[str]:
    return Counter(key.split("/")[0] for key in keys(folder))


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_each_class_is_in_both_parts(tmp_path: Path, fraction: float) -> None:
    sizes = {"ant": 20, "bee": 3, "cow": 2, "dog": 7}
    out = tmp_path / "out"
    commands.build(str(folders(tmp_path / "s", sizes)), out, kind="imagefolder", options=Options(held_out=fraction))
    train, test = classes(out / "train"), classes(out / "test")
    assert train + test == Counter(sizes)
    assert test == {name: max(1, int(fraction * count + 0.5)) for name, count in sizes.items()}
    assert not set(keys(out / "train")) & set(keys(out / "test"))
    for part, counts in (("train", train), ("test", test)):
        manifest = read_manifest(out / part)
        assert (manifest["classes"], manifest["class_counts"]) == (sorted(sizes), dict(sorted(counts.items())))
        assert manifest["held_out"] == {"fraction": fraction, "by": "key", "seed": "held out 1"}
    assert (out / "classnames.txt").read_text().split() == sorted(sizes)
    assert verify(out).problems == []


def test_the_parts_are_the_same_every_time_and_by_order_the_last(tmp_path: Path) -> None:
    source = folders(tmp_path / "s", {"ant": 12, "bee": 12})
    for name, by in (("a", "key"), ("b", "key"), ("end", "end")):
        commands.build(str(source), tmp_path / name, options=Options(held_out=0.25, held_out_by=by))
    assert keys(tmp_path / "a" / "test") == keys(tmp_path / "b" / "test")
    assert keys(tmp_path / "end" / "test") == ["ant/10", "ant/11", "ant/9", "bee/10", "bee/11", "bee/9"]
    assert keys(tmp_path / "a" / "test") != keys(tmp_path / "end" / "test")


def test_a_class_of_one_image_is_trained_on_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "out"
    commands.build(str(folders(tmp_path / "s", {"ant": 5, "rare": 1})), out, options=Options(held_out=0.4))
    assert classes(out / "train") == {"ant": 3, "rare": 1}
    assert "all are in the training part: rare" in caplog.text


def test_a_fraction_that_leaves_a_class_without_a_training_item_is_refused(tmp_path: Path) -> None:
    source = folders(tmp_path / "s", {"ant": 50, "bee": 3, "cow": 2})
    with pytest.raises(
        DataError, match=r"for the classes bee \(3\), cow \(2\), got none. Hint: hold out less than 0.75"
    ):
        commands.build(str(source), tmp_path / "out", options=Options(held_out=0.9))
    assert not (tmp_path / "out").exists()
    commands.build(str(source), tmp_path / "out", options=Options(held_out=0.74))
    assert classes(tmp_path / "out" / "train") == {"ant": 13, "bee": 1, "cow": 1}


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, 3.0, float("nan")])
@pytest.mark.parametrize("kind", ["imagefolder", "pairs", "table"])
def test_what_is_no_fraction_is_refused(tmp_path: Path, kind: str, fraction: float) -> None:
    source = folders(tmp_path / "s", {"ant": 3})
    for path in list(source.glob("*/*.png")):
        path.with_suffix(".txt").write_text("an ant")
    (tmp_path / "t.csv").write_text("a\n1\n2\n")
    given = Options(held_out=fraction, columns="a=txt" if kind == "table" else None)
    with pytest.raises(DataError, match="--held-out: expected a fraction between 0 and 1, got"):
        commands.build(str(tmp_path / "t.csv" if kind == "table" else source), tmp_path / "o", kind=kind, options=given)
    assert not (tmp_path / "o").exists()


def test_pairs_are_parted(tmp_path: Path) -> None:
    source = folders(tmp_path / "s", {"a": 10})
    for path in list(source.glob("*/*.png")):
        path.with_suffix(".txt").write_text(f"image {path.stem}")
    commands.build(str(source), tmp_path / "out", kind="pairs", options=Options(held_out=0.3))
    parts = [keys(tmp_path / "out" / part) for part in ("train", "test")]
    assert [len(part) for part in parts] == [7, 3]
    assert sorted(parts[0] + parts[1]) == [f"a/{number}" for number in range(10)]


def test_rows_of_a_group_stay_in_one_part(tmp_path: Path) -> None:
    rows = [f"text {n},{n % 3},person {n // 4}" for n in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["words,label,person", *rows]))
    given = Options(held_out=0.2, held_out_by="person", columns="words=txt,label=cls,person=json")
    commands.build(str(tmp_path / "t.csv"), tmp_path / "out", options=given)
    found = {}
    for part in ("train", "test"):
        shards = Shards.open(tmp_path / "out" / part)
        samples = [shards[number] for number in range(len(shards))]
        found[part] = {sample["json"] for sample in samples}
        assert {sample["cls"] for sample in samples} == {b"0", b"1", b"2"}
    assert not found["train"] & found["test"]
    assert len(Shards.open(tmp_path / "out" / "test")) == 12
    with pytest.raises(DataError, match="got 'persn'; did you mean 'person'"):
        commands.build(
            str(tmp_path / "t.csv"),
            tmp_path / "o",
            options=Options(held_out=0.2, held_out_by="persn", columns="words=txt"),
        )


def items_of(groups: Mapping[str, list[str]]) -> tuple[list[Item], dict[str, str], dict[str, str]]:
    """Items with the classes of each group's."""
    named = [(f"{group}.{place}", label, group) for group, of in groups.items() for place, label in enumerate(of)]
    return [Item(n, n, dict) for n, _, _ in named], {n: c for n, c, _ in named}, {n: g for n, _, g in named}


def test_groups_of_several_classes_leave_each_class_to_train_on(tmp_path: Path) -> None:
    labels = ["a", "b", "c", "d"]
    for trial in range(50):
        draw = seed.generator("groups", trial)
        groups = {f"g{n}": [labels[i] for i in draw.integers(0, 4, draw.integers(1, 6))] for n in range(8)}
        items, classes, of = items_of(groups)
        parts = split_items(tmp_path, items, Options(held_out=0.25), classes, of)
        train, test = ({of[item.key] for item in parts[part]} for part in ("train", "test"))
        assert not train & test
        assert {classes[item.key] for item in parts["train"]} == set(classes.values())


def test_a_large_group_is_no_test_part(tmp_path: Path) -> None:
    items, classes, of = items_of({"large": ["a"] * 9, "small": ["a"]})
    parts = split_items(tmp_path, items, Options(held_out=0.2), classes, of)
    assert [item.key for item in parts["test"]] == ["small.0"]


def test_what_cannot_be_parted_is_refused(tmp_path: Path) -> None:
    items, classes, of = items_of({"all": ["a"] * 5})
    with pytest.raises(DataError, match=r"expected at least two items \(or groups\) of a class, got 1\."):
        split_items(tmp_path, items, Options(held_out=0.2), classes, of)
    items, classes, of = items_of({"a": ["a"] * 5, "b": ["b"] * 5})
    with pytest.raises(DataError, match="got each class in one group alone"):
        split_items(tmp_path, items, Options(held_out=0.2), classes, of)
    source = folders(tmp_path / "s" / "train", {"ant": 3}).parent
    folders(source / "test", {"ant": 3})
    with pytest.raises(DataError, match="got the parts test, train with classes in them"):
        build_imagefolder(source, tmp_path / "out", Options(held_out=0.2))
    with pytest.raises(DataError, match="expected key or end, got 'identity'"):
        build_imagefolder(source / "train", tmp_path / "out", Options(held_out=0.2, held_out_by="identity"))


def test_unreadable_images_may_not_empty_a_class(tmp_path: Path) -> None:
    source = folders(tmp_path / "s", {"ant": 4, "bee": 2})
    parts = Options(held_out=0.5, held_out_by="end", skip_bad=True)
    (source / "bee" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="a readable training item for each class, got none for bee"):
        build_imagefolder(source, tmp_path / "out", parts)
    (source / "bee" / "2.png").write_bytes(png("more"))
    (source / "bee" / "3.png").write_bytes(png("still more"))
    manifests = build_imagefolder(source, tmp_path / "out", parts)
    assert manifests["train"]["class_counts"] == {"ant": 2, "bee": 1}


def test_a_folder_without_parts_is_not_taken_for_one_with(tmp_path: Path) -> None:
    source = folders(tmp_path / "s", {"ant": 4})
    commands.build(str(source), tmp_path / "out")
    with pytest.raises(DataError, match="expected the parts train and test"):
        commands.build(str(source), tmp_path / "out", options=Options(held_out=0.5), skip_existing=True)
