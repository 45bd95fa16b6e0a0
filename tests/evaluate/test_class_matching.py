"""Class numbers in evaluations: of folders and shards that number their own classes, and of lists with equal names."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny import COLOURS

from tests.evaluate.oracle import PROCESSOR, Oracle
from unified.core.errors import DataError, RecipeError
from unified.data.commands import shards as commands
from unified.data.shards.write import ShardWriter
from unified.evaluate.run import evaluate


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), COLOURS[colour]).save(buffer, "PNG")
    return buffer.getvalue()


def fill(folder: Path, *names: str) -> Path:
    """Class folders with three images of the colour that stands in their names."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(3):
            (folder / name / f"{number}.png").write_bytes(png(next(c for c in COLOURS if c in name)))
    return folder


def shards(folder: Path, colours: list[str], names: list[str]) -> Path:
    """CLIP_benchmark's layout: samples of these colours, each its own class, and the list of names."""
    with ShardWriter(folder / "made", kind="x", source="x") as writer:
        for number, colour in enumerate(colours * 4):
            writer.write(str(number), {"png": png(colour), "cls": number % len(colours)})
    (folder / "test").mkdir()
    (folder / "made" / "shard-00000.tar").rename(folder / "test" / "0.tar")
    (folder / "test" / "nshards.txt").write_bytes(b"\xef\xbb\xbf1\n")
    (folder / "classnames.txt").write_text("\n".join(names) + "\n")
    return folder


def rows(data: Path, **options: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = evaluate(Oracle(), PROCESSOR, [data], **options)["results"]
    return [row for row in found if row["features"] == "model"]


def built(source: Path, out: Path) -> Path:
    """Shards of each part, built apart."""
    for part in ("train", "test"):
        commands.build(str(source / part), out / part, kind="imagefolder")
    return out


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
    ("train", "test"),
    [
        (["blue", "green", "grey", "red"], ["green", "red"]),
        (["a blue", "grey", "red"], ["grey", "red"]),
        (["the_grey", "blue", "red"], ["red", "the grey"]),
        (["blue cafe\u0301", "green", "red"], ["blue caf\u00e9", "red"]),
    ],
)
def test_probes_take_classes_by_name(tmp_path: Path, train: list[str], test: list[str], apart: bool) -> None:
    fill(tmp_path / "data" / "train", *train)
    source = fill(tmp_path / "data" / "test", *test).parent
    data = built(source, tmp_path / "shards") if apart else source
    found = rows(data, shots=(0, 3), seeds=1)
    assert len(found) == 4
    assert {row["label"]: row["metrics"].get("lp_acc1", row["metrics"].get("acc1")) for row in found} == {
        row["label"]: 1.0 for row in found
    }


@pytest.mark.parametrize("apart", [False, True])
def test_a_tested_class_that_nobody_labelled_is_named(tmp_path: Path, apart: bool) -> None:
    fill(tmp_path / "data" / "train", "green", "red")
    source = fill(tmp_path / "data" / "test", "blue", "green", "red").parent
    data = built(source, tmp_path / "shards") if apart else source
    with pytest.raises(RecipeError, match="a labelled item of each class that is tested, got none of blue"):
        rows(data, shots=(2,))


def test_a_folder_and_its_shards_have_the_same_results(tmp_path: Path) -> None:
    source = fill(tmp_path / "photos", "dark_red", "light_green", ".ipynb_checkpoints/red", "@eaDir/red")
    (source / "dark_red" / "._0.png").write_bytes(b"\0\5\x16\7")
    (source / "dark_red" / "more").mkdir()
    (source / "dark_red" / "more" / "3.PNG").write_bytes(png("red"))
    commands.build(str(source), tmp_path / "shards")
    of_folder, of_shards = (rows(data)[0] for data in (source, tmp_path / "shards"))
    assert of_folder["n"] == 7
    assert list(of_folder["per_class"]) == ["dark red", "light green"]
    for name in ("n", "per_class", "metrics"):
        assert of_folder[name] == of_shards[name]


def test_names_of_several_classes_stay_usable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["green", "red missile", "grey", "red missile"]
    data = shards(tmp_path / "set", ["green", "red", "grey", "blue"], names)
    (row,) = rows(data, shots=(0,))[:1]
    assert row["n"] == 16
    assert row["per_class"] == {"green": 1.0, "red missile": 1.0, "grey": 1.0, "red missile (2)": 0.0}
    assert "1 names are those of several classes" in caplog.text
    assert rows(data, shots=(1,))[0]["metrics"]["lp_acc1"] == 1.0  # probes tell them apart


def test_class_folders_are_matched_with_a_list_beside_them(tmp_path: Path) -> None:
    source = fill(tmp_path / "data" / "test", "green", "red", "grey_sky")
    (tmp_path / "data" / "classnames.txt").write_text("red\ngrey sky\nblue\ngreen\n")
    (row,) = rows(source, shots=(0,))[:1]
    assert row["per_class"] == {"red": 1.0, "grey sky": 1.0, "blue": None, "green": 1.0}
    (tmp_path / "data" / "classnames.txt").write_text("red\nblue\ngrey\n")
    with pytest.raises(DataError, match="number 0 is 'green' in the class list of these data"):
        rows(source, shots=(0,))


@pytest.mark.parametrize("blank", ["red\n\ngreen\n", "\nred\ngreen\n"])
def test_a_blank_name_shifts_nothing(tmp_path: Path, blank: str) -> None:
    data = shards(tmp_path / "set", ["red", "green"], [])
    (data / "classnames.txt").write_text(blank)
    with pytest.raises(RecipeError, match=r"classnames\.txt: line \d: expected a name, got a blank line"):
        rows(data, shots=(0,))


def test_a_mark_at_the_start_of_a_list_is_no_part_of_a_name(tmp_path: Path) -> None:
    data = shards(tmp_path / "set [1]", ["red", "green"], [])
    (data / "classnames.txt").write_bytes(b"\xef\xbb\xbfred\r\ngreen\r\n")
    assert list(rows(data, shots=(0,))[0]["per_class"]) == ["red", "green"]
