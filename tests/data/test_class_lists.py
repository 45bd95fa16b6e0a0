"""Class numbers: those of data that number their own classes are taken by name, whatever the order of lists."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unified.config.labels import Labels, check_unique, load_labels
from unified.config.recipe import DataSettings, Recipe
from unified.config.task import Answer, Task
from unified.core.errors import DataError, RecipeError
from unified.data.class_lists import ClassNumbers, match_names
from unified.data.shards.write import ShardWriter
from unified.modalities.image.tokenizer import ImageSpec, ImageTokenizer
from unified.modalities.text.tokenizer import TextTokenizer
from unified.pipeline.loader import StepLoader


@pytest.mark.parametrize(
    ("names", "known", "places"),
    [
        (("b", "a", "c"), ("a", "b"), [1, 0, None]),
        (("red_fox", "cafe\u0301"), ("caf\u00e9", "red fox"), [1, 0]),
        (("a_b", "a b"), ("a b", "a_b"), [1, 0]),
        (("x", "missile", "missile"), ("missile", "x", "missile"), [1, 0, 2]),
        (("missile", "missile", "missile"), ("missile", "missile"), [0, 1, None]),
        (("missile",), ("missile", "missile"), [0]),
    ],
)
def test_names_are_matched_and_repeated_ones_by_order(names: Any, known: Any, places: Any) -> None:
    assert match_names(names, known) == places


def test_numbers_are_those_of_the_data_s_own_list() -> None:
    classes = ClassNumbers(Labels(("apple", "leaf", "sky")), {"a.tar": ("leaf", "sky"), "b.tar": ("sky", "pear")})
    assert [classes.number(n, "a.tar") for n in (0, 1)] == [1, 2]
    assert classes.number(0, "b.tar") == 2
    assert classes.number(0, "c.tar") == classes.number(0) == 0  # no list of its own
    assert classes.number(" leaf ", "b.tar") == 1
    with pytest.raises(DataError, match="number 1 is 'pear' in the class list of these data, which is not a class of"):
        classes.number(1, "b.tar")
    with pytest.raises(DataError, match="a number below 2, found 2"):
        classes.number(2, "a.tar")
    with pytest.raises(DataError, match="found True"):
        classes.number(True)


def test_a_label_set_may_call_classes_by_other_words(caplog: pytest.LogCaptureFixture) -> None:
    classes = ClassNumbers(Labels(("tench", "goldfish")), {"a": ("n01440764", "n01443537")})
    assert [classes.number(n, "a") for n in (0, 1)] == [0, 1]
    assert "none of its class names (n01440764, …) is in the label set" in caplog.text
    classes.add({"b": ("n01443537", "n01440764")})  # by the names of the first list
    assert [classes.number(n, "b") for n in (0, 1)] == [1, 0]


@pytest.mark.parametrize("listed", [("leaf", "cat"), ("leaf",)])
def test_a_list_with_no_name_in_common_is_refused(listed: Any) -> None:
    with pytest.raises(DataError, match="expected class names of the label set"):
        ClassNumbers(Labels(("apple", "sky")), {"a": ("sky", "apple"), "b": listed})


def test_names_of_several_classes_are_told_apart() -> None:
    labels = Labels(("hen", "missile", "missile", "missile (2)", "missile", "sunglasses", "sunglasses"))
    assert labels.told_apart == (
        *("hen", "missile", "missile (3)", "missile (2)", "missile (4)", "sunglasses", "sunglasses (2)"),
    )
    assert labels.repeated == ("missile", "sunglasses")
    assert labels.number("hen") == 0
    with pytest.raises(
        DataError, match=r"'missile', which is that of 3 \(numbers 1, 2, 4\). Hint: store class numbers"
    ):
        labels.number("missile")
    with pytest.raises(RecipeError, match="names: names appear more than once: 'missile', 'sunglasses'"):
        check_unique(labels, "names")


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"\xef\xbb\xbfred fox\r\n cat \r\n\r\n\n", ("red fox", "cat")),
        ("a\u2028b\nc\x0cd\n".encode(), ("a\u2028b", "c\x0cd")),
        (b"a\rb\r", ("a", "b")),
    ],
)
def test_lines_of_a_class_list(tmp_path: Path, data: bytes, names: Any) -> None:
    (tmp_path / "classnames.txt").write_bytes(data)
    assert load_labels(tmp_path).names == load_labels(tmp_path / "classnames.txt").names == names


@pytest.mark.parametrize(("text", "line"), [("\na\n", 1), ("a\n\nb\n", 2), ("a\nb\n \t\n\nc", 3)])
def test_a_blank_line_between_names_is_refused(tmp_path: Path, text: str, line: int) -> None:
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(RecipeError, match=rf"names\.txt: line {line}: expected a name, got a blank line"):
        load_labels(tmp_path / "names.txt")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("name", ["classnames.txt", "zeroshot_classification_templates.txt", "labels.yaml"])
def test_lists_that_are_not_utf_8_are_refused(tmp_path: Path, encoding: str, name: str) -> None:
    (tmp_path / "classnames.txt").write_text("thé\n")
    text = "names: [café]\n" if name.endswith("yaml") else "café {}\n"
    (tmp_path / name).write_bytes(text.encode(encoding))
    if encoding == "utf-16-le":  # without a mark it is UTF-8 with zero bytes but for the é
        assert b"\xe9\x00" in (tmp_path / name).read_bytes()
    with pytest.raises((DataError, RecipeError), match=rf"{name}: expected text in UTF-8"):
        load_labels(tmp_path / name if name.endswith("yaml") else tmp_path)


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    spec = ImageSpec(height=8, width=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resample=2)
    return {"image": ImageTokenizer(spec, patch=4), "text": TextTokenizer.load("text", max_length=16)}


def shards(folder: Path, classes: list[str], *, texts: dict[int, str] | None = None) -> str:
    """Eight samples whose classes take turns; JSON as it is written, which encoders of JSON would not write."""
    with ShardWriter(folder, kind="imagefolder", source="test") as writer:
        for number in range(8):
            png = io.BytesIO()
            Image.new("RGB", (8, 8), (number, 0, 0)).save(png, "PNG")
            text = (texts or {}).get(number, '{"caption": "fine"}')
            columns = {"png": png.getvalue(), "cls": number % len(classes), "json": text.encode()}
            writer.write(f"{folder.name}{number}", columns)
        writer.manifest["classes"] = classes
    return str(folder)


def batches(data: Any, target: str, answer: Answer, tokenizers: Any, labels: dict[str, Labels]) -> StepLoader:
    task = Task(data=data, inputs={"png": "image"}, target=target, metric="accuracy", batch=8, answer=answer)
    recipe = Recipe(max_steps=1, slots=1, tasks={"t": task}, data=DataSettings(workers=0))
    return StepLoader(recipe, tokenizers, labels, rank=0, world=1)


def test_training_takes_class_numbers_by_name(tmp_path: Path, tokenizers: Any) -> None:
    data = [shards(tmp_path / "a", ["leaf", "sky"]), shards(tmp_path / "b", ["sky", "apple"])]
    labels = {"t": Labels(("apple", "leaf", "sky"))}
    loader = batches(data, "cls", Answer.of(candidates="labels/fruit"), tokenizers, labels)
    ((_, batch),) = loader.probe()
    named = {"a0": 1, "a1": 2, "b0": 2, "b1": 0}
    assert {key[0] for key in batch.keys} == {"a", "b"}
    assert [named[f"{key[0]}{int(key[1]) % 2}"] for key in batch.keys] == batch.target.tolist()


def test_texts_with_lone_surrogates_are_bad_samples(
    tmp_path: Path, tokenizers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broken = {
        3: '{"caption": "\\ud83d"}',
        5: '{"caption": "fine", "more": [{"\\udc00": 1}]}',
        6: '{"caption": "\\ud83d\\ude00"}',
    }
    folder = shards(tmp_path / "a", ["x"], texts=broken)
    ((_, batch),) = batches(folder, "json.caption", Answer.of(candidates="batch"), tokenizers, {}).probe()
    assert set(batch.keys) == {f"a{number}" for number in (0, 1, 2, 4, 6, 7)}
    assert "a3: column 'json': JSON.caption: expected Unicode text, got the lone surrogate" in caplog.text
    assert len(caplog.messages) == 2
