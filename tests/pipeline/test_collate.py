from typing import Any

import numpy as np
import pytest
import torch

from unified.answers.match.masked import mask_words
from unified.config.labels import Labels
from unified.config.task import Answer, Task
from unified.core.errors import DataError, RecipeError
from unified.core.types import IGNORE, Batch, Sample
from unified.modalities.base import Tokenizer
from unified.modalities.image.prepare import prepare_images
from unified.modalities.image.tokenizer import ImageSpec, ImageTokenizer
from unified.modalities.text.tokenizer import TextTokenizer
from unified.pipeline.collate import Collator

TEXTS = ["latin small letter a", "greek capital letter omega with tonos", "comma", "digit one"]


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    spec = ImageSpec(height=8, width=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resample=2)
    return {"image": ImageTokenizer(spec, patch=4), "text": TextTokenizer.load("text", max_length=24)}


@pytest.fixture
def samples() -> list[Sample]:
    pixels = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return [
        {
            "__key__": f"k{i}",
            "__shard__": "s.tar",
            "png": pixels[i].permute(2, 0, 1),
            "txt": TEXTS[i],
            "cls": i,
            "json": {"script": ["latin", "greek"][i % 2], "group": i // 2},
        }
        for i in range(4)
    ]


def task(answer: Answer, **changes: Any) -> Task:
    plain = {"data": "x", "inputs": {"png": "image"}, "target": "txt", "metric": "accuracy", "batch": 4}
    return Task(answer=answer, **{**plain, **changes})


def made(
    task: Task, samples: list[Sample], tokenizers: Any, labels: Labels | None = None, indices: Any = None
) -> Batch:
    rows = np.arange(len(samples)) if indices is None else indices
    collator = Collator("a", task, tokenizers, labels, 3)
    return collator.batch([collator.example(sample) for sample in samples], np.asarray(rows, dtype=np.int64))


def test_labels_become_class_numbers(samples: Any, tokenizers: Any) -> None:
    scripts = Labels(("greek", "latin"))
    batch = made(task(Answer.of(candidates="labels/scripts"), target="json.script"), samples, tokenizers, scripts)
    assert batch.target.tolist() == [1, 0, 1, 0]
    assert batch.keys == ["k0", "k1", "k2", "k3"]
    assert batch.inputs["image"].values.shape == (4, 4, 48)
    numbers = made(
        task(Answer.of(candidates="labels/x"), target="cls"), samples, tokenizers, Labels(("a", "b", "c", "d"))
    )
    assert numbers.target.tolist() == [0, 1, 2, 3]


def test_alternatives_of_a_column(samples: Any, tokenizers: Any) -> None:
    batch = made(task(Answer.of(candidates="batch"), inputs={"jpg;png": "image"}), samples, tokenizers)
    assert torch.equal(
        batch.inputs["image"].values,
        made(task(Answer.of(candidates="batch")), samples, tokenizers).inputs["image"].values,
    )


def test_retrieval_has_texts_and_groups(samples: Any, tokenizers: Any) -> None:
    batch = made(task(Answer.of(candidates="batch")), [*samples, samples[0]], tokenizers)
    text, group = batch.target["tokens"], batch.target["group"]
    assert [tokenizers["text"].text(ids) for ids in text.values.tolist()] == [*TEXTS, TEXTS[0]]
    assert len(set(group.tolist())) == 4
    assert group[0] == group[4]
    assert int(group.min()) >= 0
    grouped = made(task(Answer.of(candidates="batch", group="json.group")), samples, tokenizers).target["group"]
    assert grouped[0] == grouped[1] != grouped[2] == grouped[3]


def test_caption_has_the_tokens_of_the_text(samples: Any, tokenizers: Any) -> None:
    batch = made(task(Answer.of(candidates="vocabulary", read="caption")), samples, tokenizers)
    assert [tokenizers["text"].text(ids) for ids in batch.target.values.tolist()] == TEXTS
    assert set(batch.inputs) == {"image"}


def test_causal_asks_for_every_id_and_none_of_the_padding(samples: Any, tokenizers: Any) -> None:
    batch = made(task(Answer.of(candidates="vocabulary", read="causal"), inputs={"txt": "text"}), samples, tokenizers)
    text = batch.inputs["text"]
    assert torch.equal(batch.target == IGNORE, ~text.mask)
    assert torch.equal(batch.target[text.mask], text.values[text.mask])


def masked(samples: list[Sample], tokenizers: Any, indices: Any = None, fraction: float = 0.15) -> Batch:
    answer = Answer.of(candidates="vocabulary", read="masked", mask_fraction=fraction)
    return made(task(answer, inputs={"txt": "text"}), samples, tokenizers, indices=indices)


def test_masking_hides_whole_words_at_least_one(samples: Any, tokenizers: Any) -> None:
    many = [samples[i % 4] for i in range(400)]
    batch = masked(many, tokenizers)
    tokenizer = tokenizers["text"]
    for row in range(400):
        ids = tokenizer.prepare(TEXTS[row % 4])
        hidden = (batch.target[row, : len(ids)] != IGNORE).tolist()
        assert any(hidden)
        assert not hidden[-1], "the end token is never hidden"
        assert batch.target[row, len(ids) :].eq(IGNORE).all()
        for word in range(max(ids.words) + 1):
            parts = {gone for gone, of in zip(hidden, ids.words, strict=True) if of == word}
            assert len(parts) == 1, "a word is hidden whole or not at all"
        kept = [i for i, gone in enumerate(hidden) if not gone]
        assert batch.inputs["text"].values[row, kept].tolist() == [ids[i] for i in kept]
        assert [int(batch.target[row, i]) for i, gone in enumerate(hidden) if gone] == [
            token for token, gone in zip(ids, hidden, strict=True) if gone
        ]


def test_of_the_hidden_words_most_become_the_mask(samples: Any, tokenizers: Any) -> None:
    batch = masked([samples[1]] * 4000, tokenizers, fraction=0.5)
    hidden = batch.target != IGNORE
    written, original = batch.inputs["text"].values[hidden], batch.target[hidden]
    assert float((written == tokenizers["text"].spe).float().mean()) == pytest.approx(0.8, abs=0.02)
    assert float((written == original).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_the_share_of_hidden_words_is_that_asked_for(tokenizers: Any) -> None:
    long = " ".join(["word"] * 20)
    text = tokenizers["text"].tokens([tokenizers["text"].prepare(long)] * 2000)
    target, _ = mask_words(text, tokenizers["text"], 0.23, np.arange(2000), 0, "a")
    words = int(text.mask[0].sum()) - 1
    assert float((target != IGNORE).sum()) / 2000 / words == pytest.approx(0.23, abs=0.01)


def test_numbers_are_hidden_whole_and_digits_apart_are_not(samples: Any, tokenizers: Any) -> None:
    tokenizer = tokenizers["text"]
    for text, fates in (("in 1921 ,", {1}), ("in 1 9 2 1 ,", {1, 2})):
        hidden = masked([{**samples[0], "txt": text}] * 200, tokenizers, fraction=0.4).target != IGNORE
        digits = [n for n, i in enumerate(tokenizer.prepare(text)) if tokenizer.text([i]).isdigit()]
        assert len(digits) == 4
        assert {len(set(row)) for row in hidden[:, digits].tolist()} == fates


def test_words_cannot_be_hidden_among_ids_alone(tokenizers: Any) -> None:
    tokenizer = tokenizers["text"]
    ids = tokenizer.tokens([list(tokenizer.prepare("in 1921"))])
    with pytest.raises(DataError, match="ids alone"):
        mask_words(ids, tokenizer, 0.15, np.arange(1), 0, "a")


def test_masking_depends_on_the_global_index_alone(samples: Any, tokenizers: Any) -> None:
    whole = masked(samples, tokenizers, indices=[5, 6, 7, 8])
    for row, index in enumerate([5, 6, 7, 8]):
        alone = masked([samples[row]], tokenizers, indices=[index])
        length = alone.target.shape[1]
        assert torch.equal(whole.target[row, :length], alone.target[0])
        assert torch.equal(whole.inputs["text"].values[row, :length], alone.inputs["text"].values[0])
    other = masked([samples[1]] * 20, tokenizers).target
    assert any(not torch.equal(other[0], row) for row in other)


def test_an_empty_text_hides_nothing(samples: Any, tokenizers: Any) -> None:
    batch = masked([{**samples[0], "txt": ""}], tokenizers)
    assert batch.target.eq(IGNORE).all()


def test_long_texts_are_cut(samples: Any, tokenizers: Any) -> None:
    batch = made(task(Answer.of(candidates="batch")), [{**samples[0], "txt": "a b " * 100}], tokenizers)
    assert batch.target["tokens"].values.shape == (1, 24)


def test_augmentation_is_keyed_by_the_global_index(samples: Any, tokenizers: Any) -> None:
    turned = task(Answer.of(candidates="batch"), augment=[{"kind": "affine", "degrees": 30}, {"kind": "stroke"}])
    whole = made(turned, samples, tokenizers, indices=[9, 8, 7, 6]).inputs["image"].values
    part = made(turned, samples[2:], tokenizers, indices=[7, 6]).inputs["image"].values
    assert torch.equal(whole[2:], part)
    assert not torch.equal(whole, made(task(Answer.of(candidates="batch")), samples, tokenizers).inputs["image"].values)


def test_images_are_resized_alike_alone_and_together(tokenizers: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    images = [torch.randint(0, 256, (3, s, s + 4), dtype=torch.uint8, generator=generator) for s in (30, 9, 30, 9, 8)]
    images[2] = images[2].permute(1, 2, 0).contiguous().permute(2, 0, 1)  # as a decoder lays them
    for together, image in zip(prepare_images(images, tokenizers["image"]), images, strict=True):
        assert torch.equal(together, tokenizers["image"].prepare(image))


@pytest.mark.parametrize(
    ("changes", "answer", "words"),
    [
        ({"txt": None}, Answer.of(candidates="batch"), "column 'txt': expected a text, found NoneType"),
        (
            {"png": "text"},
            Answer.of(candidates="batch"),
            "column 'png': expected an image or a video, uint8 (3, h, w) or",
        ),
        ({"json": {}}, Answer.of(candidates="batch", group="json.group"), "no 'group' in 'json'"),
        (
            {"txt": "gree"},
            Answer.of(candidates="labels/x"),
            "'gree' is not a class of the label set; did you mean 'greek'",
        ),
        ({"txt": 7}, Answer.of(candidates="labels/x"), "a number below 2, found 7"),
        ({"txt": -1}, Answer.of(candidates="labels/x"), "found -1"),
    ],
)
def test_errors_name_shard_key_and_column(
    samples: Any, tokenizers: Any, changes: dict[str, Any], answer: Answer, words: str
) -> None:
    with pytest.raises(DataError, match=r"s\.tar: k0") as error:
        made(task(answer), [{**samples[0], **changes}], tokenizers, Labels(("latin", "greek")))
    assert words in str(error.value)


def test_an_unknown_class_among_very_many_is_a_short_error(samples: Any, tokenizers: Any) -> None:
    with pytest.raises(DataError, match="There are 5,000 classes") as error:
        made(
            task(Answer.of(candidates="labels/x")),
            samples,
            tokenizers,
            Labels(tuple(f"class {i}" for i in range(5000))),
        )
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("changes", "read", "words"),
    [
        ({"inputs": {"png": "imag"}}, None, "no tokenizer for 'imag'; did you mean 'image'"),
        ({"inputs": {"png": "image", "jpg": "image"}}, None, "two columns of one modality"),
        ({"inputs": {"txt": "text"}, "target": "json"}, "masked", "asks for the words of a text input"),
        ({"augment": [{"kind": "turn"}]}, None, "tasks.a.augment[0].kind"),
    ],
)
def test_tasks_that_cannot_be_are_errors(tokenizers: Any, changes: dict[str, Any], read: Any, words: str) -> None:
    with pytest.raises(RecipeError) as error:
        Collator(
            "a",
            task(
                Answer.of(**({"candidates": "vocabulary", "read": read} if read else {"candidates": "batch"})),
                **changes,
            ),
            tokenizers,
            None,
            0,
        )
    assert words in str(error.value)
