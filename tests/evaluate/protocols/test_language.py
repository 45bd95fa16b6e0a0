"""Baselines of words: n-grams of the training texts, and captions with another sample's image."""

import json
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny import tiny_recipe, write_shards

from unified.answers.match.masked import mask_words
from unified.core.errors import RecipeError
from unified.core.result_files import unpack
from unified.core.types import IGNORE
from unified.data.shards.shards import Shards
from unified.data.shards.write import ShardWriter
from unified.evaluate.language_baselines import other_images
from unified.evaluate.run import evaluate
from unified.evaluate.spec import Masked, load_spec
from unified.evaluate.table import results_table
from unified.modalities.text.tokenizer import TextTokenizer
from unified.train.build import build

TRAIN = ["a red square", "a red square number 1", "a blue square", "green and grey", "", "a grey circle in 1921"]


@pytest.fixture
def parts(tmp_path: Path) -> Any:
    return build(tiny_recipe(tmp_path))


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """Texts without images: baselines need no more."""
    with ShardWriter(tmp_path / "texts", kind="pairs", source="test") as writer:
        for number, text in enumerate(TRAIN):
            writer.write(f"{number}", {"txt": text})
    return tmp_path / "texts"


def run(parts: Any, folder: Path, **evaluation: Any) -> dict[str, dict[str, Any]]:
    """The rows of one evaluation by their features."""
    spec = folder / "spec.yaml"
    spec.write_text(yaml.safe_dump({"evaluations": {"a": {"data": str(folder / "data"), **evaluation}}}))
    results = evaluate(parts.model, parts.processor, [spec])
    assert results["results"][0]["features"] == "model"
    assert results_table(results).count("\n") > len(results["results"])
    return {e["features"]: {**e, "keys": results["keys"][e["items"]["keys"]]} for e in results["results"]}


def texts(folder: Path) -> list[str]:
    shards = Shards.open(folder)
    return [shards[n]["txt"].decode() for n in range(len(shards))]


def test_hidden_words_stand_beside_token_frequencies_and_ngrams(parts: Any, train: Path, tmp_path: Path) -> None:
    rows = run(parts, tmp_path, kind="masked", family="hidden", train=str(train))
    assert list(rows) == ["model", "unigram", "4-gram", "4-gram, both sides"]
    tokenizer: TextTokenizer = parts.processor.tokenizers["text"]
    count = np.ones(tokenizer.size)
    for text in TRAIN:
        count += np.bincount(tokenizer.prepare(text)[:-1], minlength=tokenizer.size)
    asked = tokenizer.tokens([tokenizer.prepare(text) for text in texts(tmp_path / "data")])
    hidden = mask_words(asked, tokenizer, 0.15, np.arange(len(asked)), 0, "evaluation")[0]
    ids = hidden[hidden != IGNORE].numpy()
    found = rows["unigram"]["metrics"]
    assert found["perplexity"] == pytest.approx(np.exp(-np.log(count[ids] / count.sum()).mean()))
    assert found["token_accuracy"] == pytest.approx((ids == count.argmax()).mean())
    assert all(row["notes"]["terms"] == len(ids) for row in rows.values())
    assert f"fitted on {int(count.sum()) - tokenizer.size} tokens of {train}" in rows["4-gram"]["notes"]["how"]
    assert rows["4-gram, both sides"]["metrics"]["perplexity"] < found["perplexity"]


def interpolated(rows: list[list[int]], ids: list[int], place: int, size: int) -> float:
    """A 4-gram probability, counted in a loop."""
    padded = [[-1] * 3 + row for row in rows]
    asked = [-1] * 3 + ids
    count = Counter(i for row in rows for i in row)
    p = (count[ids[place]] + 0.1) / (count.total() + 0.1 * size)
    for n in range(1, 4):
        context = asked[place + 3 - n : place + 3]
        after = [row[i] for row in padded for i in range(3, len(row)) if row[i - n : i] == context]
        if after:
            weight = len(after) / (len(after) + 3)
            p = (1 - weight) * p + weight * after.count(ids[place]) / len(after)
    return p


def test_captions_stand_beside_ngrams_that_see_no_image(parts: Any, train: Path, tmp_path: Path) -> None:
    rows = run(parts, tmp_path, kind="caption", family="caption", train=str(train), beams=[])
    assert list(rows) == ["model", "model, another sample's image", "unigram", "4-gram"]
    tokenizer: TextTokenizer = parts.processor.tokenizers["text"]
    known = [list(tokenizer.prepare(text)) for text in TRAIN]
    captions = [list(tokenizer.prepare(text)) for text in texts(tmp_path / "data")]
    logs = [
        np.log([interpolated(known, ids, place, tokenizer.size) for place in range(len(ids))]).sum()
        for ids in captions[:10]
    ]
    row = rows["4-gram"]
    assert unpack(row["items"]["values"]["perplexity"])[:10] == pytest.approx(-np.array(logs), abs=1e-5)
    assert unpack(row["items"]["terms"]["perplexity"])[:10].tolist() == [len(ids) for ids in captions[:10]]
    losses = [unpack(rows[name]["items"]["values"]["perplexity"]).sum() for name in ("model", "4-gram")]
    difference = (losses[0] - losses[1]) / row["notes"]["terms"]
    assert f"model {difference:+.2f} [" in row["notes"]["how"]


def test_another_samples_image_is_the_evaluation_of_exchanged_images(parts: Any, tmp_path: Path) -> None:
    rows = run(parts, tmp_path, kind="caption", family="caption", beams=[])
    shards = Shards.open(tmp_path / "data")
    raw = [shards[n] for n in range(len(shards))]
    other = other_images([sample["txt"].decode() for sample in raw], np.arange(len(raw)))
    assert other is not None
    with ShardWriter(tmp_path / "exchanged", kind="pairs", source="test") as writer:
        for sample, n in zip(raw, other, strict=True):
            writer.write(sample["__key__"], {"png": raw[n]["png"], "txt": sample["txt"].decode()})
    exchanged = run(parts, tmp_path, kind="caption", family="caption", beams=[], data=str(tmp_path / "exchanged"))
    losses = [
        unpack(row["items"]["values"]["perplexity"])
        for row in (rows["model, another sample's image"], exchanged["model"], rows["model"])
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0] != pytest.approx(losses[2], abs=1e-4)


@pytest.mark.parametrize("n", [2, 3, 40, 60])
def test_no_item_gets_an_image_of_its_group_nor_its_own(n: int) -> None:
    rng = np.random.default_rng(n)
    groups = [f"group {i}" for i in range(n)] if n < 7 else [f"group {i}" for i in rng.integers(0, n // 2, n)]
    images = np.arange(n) if n < 7 else np.minimum(np.arange(n), n - 3)  # three have one image
    other = other_images(groups, images)
    assert other is not None
    assert sorted(other.tolist()) == list(range(n))
    assert all(groups[a] != groups[b] and images[a] != images[b] for a, b in enumerate(other))
    assert np.array_equal(other, other_images(groups, images))  # type: ignore[arg-type]


def test_items_of_one_answer_have_no_other_image(parts: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert other_images(["a"] * 3 + ["b"], np.arange(4)) is None
    assert other_images(["a", "b", "c"], np.zeros(3, dtype=np.int64)) is None
    png = BytesIO()
    Image.new("RGB", (16, 16), "red").save(png, "png")
    with ShardWriter(tmp_path / "one", kind="pairs", source="test") as writer:
        for number in range(3):
            writer.write(f"{number}", {"png": png.getvalue(), "txt": "a red square"})
    assert list(run(parts, tmp_path, kind="caption", family="caption", beams=[], data=str(tmp_path / "one"))) == [
        "model"
    ]
    assert "none is shown another's" in caplog.text


def test_without_training_data_the_row_says_that_there_is_no_baseline(parts: Any, tmp_path: Path) -> None:
    (row,) = run(parts, tmp_path, kind="masked", family="hidden").values()
    assert row["notes"]["how"].startswith("no baseline")


def test_baselines_are_not_fitted_on_what_is_evaluated(parts: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="train: expected data apart"):
        run(parts, tmp_path, kind="masked", family="hidden", train=str(tmp_path / "data"))


def test_the_training_part_of_recognised_texts_is_found(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_shards(tmp_path / part, 4)
        manifest = json.loads((tmp_path / part / "manifest.json").read_text())
        del manifest["columns"]["png"], manifest["columns"]["cls"], manifest["columns"]["json"]
        (tmp_path / part / "manifest.json").write_text(json.dumps(manifest))
    (evaluation,) = load_spec(tmp_path).evaluations.values()
    assert isinstance(evaluation, Masked)
    assert evaluation.training == str(tmp_path / "train")
