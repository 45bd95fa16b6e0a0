"""What programs that know CLIP-like models call: processors, features, losses, Trainer and sentence-transformers."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense_models import CLASSES, SIZE, dense_model
from small_models import TASKS, random_inputs, small_model, words_and_images, written
from transformers import AutoModel, AutoProcessor, Trainer, TrainingArguments

import unified
from unified.answers.score import score
from unified.config.task import Answer, Task
from unified.core.errors import DataError
from unified.core.types import IGNORE, Batch
from unified.hub.load import load
from unified.model.pretrained import UnifiedModel
from unified.model.processor import UnifiedProcessor
from unified.model.task_loss import class_loss

WORDS = ["red", "a long text of many words that no model of this length can read to its end", ""]
NAMES = ["one", "two", "three"]
PROCESSOR = UnifiedProcessor.from_tokenizers(words_and_images())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(small_model(), tmp_path_factory.mktemp("clients") / "model")


@pytest.fixture
def model(folder: Path) -> UnifiedModel:
    return load(folder)[0]


def pictures() -> list[Any]:
    return list(random_inputs(small_model())["pixel_values"])


@pytest.mark.parametrize(
    "options",
    [
        {"padding": True, "truncation": True, "return_tensors": "pt"},
        {"padding": "longest", "truncation": "longest_first", "verbose": False},
        {"do_convert_rgb": True, "do_normalize": None, "size": {"height": 16, "width": 16}},
        {"text_kwargs": {"padding": True}, "images_kwargs": {}, "audio_kwargs": {"padding": True}, "videos_kwargs": {}},
        {"common_kwargs": {"return_tensors": "pt"}, "videos": None, "audio": None},
    ],
)
def test_keywords_that_ask_for_what_is_done_anyway_change_nothing(options: dict[str, Any]) -> None:
    plain, found = PROCESSOR(pictures(), WORDS), PROCESSOR(text=WORDS, images=pictures(), **options)
    assert found.keys() == plain.keys()
    for name, value in plain.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "max_length", "truncation": True},
        {"padding": True, "truncation": True, "max_length": 10},
    ],
)
def test_texts_and_images_take_the_usual_keywords_together(options: dict[str, Any]) -> None:
    usual = PROCESSOR(text=WORDS, images=pictures())
    inputs = PROCESSOR(text=WORDS, images=pictures(), return_tensors="pt", **options)
    assert inputs["input_ids"].shape[0] == len(WORDS)
    assert torch.equal(inputs["pixel_values"], usual["pixel_values"])


def test_keywords_of_texts_are_followed_as_tokenizers_do() -> None:
    fixed = PROCESSOR(text=WORDS, padding="max_length", max_length=10, truncation=True, return_tensors="np")
    assert fixed["input_ids"].shape == (3, 10)
    assert fixed["attention_mask"].sum(axis=1).tolist()[1:] == [10, 1]
    lists = PROCESSOR(text=WORDS, padding=False, return_attention_mask=False, return_tensors=None)
    assert list(lists) == ["input_ids"]
    assert len({len(ids) for ids in lists["input_ids"]}) > 1
    whole = PROCESSOR(text=WORDS, truncation=False)["input_ids"]
    assert whole.shape[1] > PROCESSOR(text=WORDS)["input_ids"].shape[1]


@pytest.mark.parametrize("options", [{"paddding": True}, {"text_kwargs": {"paddding": True}}])
def test_a_keyword_that_does_not_exist_lists_those_that_do(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"'paddding' does not exist; did you mean 'padding'\? There are: .*max_length"):
        PROCESSOR(text=WORDS, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_normalize": False}, "do_normalize: expected True"),
        ({"image_mean": [0.0, 0.0, 0.0]}, "image_mean: expected"),
        ({"size": {"shortest_edge": 16}}, "size: expected"),
        ({"padding_side": "left", "text": WORDS}, "padding_side: expected 'right'"),
        ({"videos": pictures()}, "give videos as images="),
    ],
)
def test_what_a_model_cannot_be_given_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        PROCESSOR(images=pictures(), **options)


@torch.no_grad()
def test_features_are_the_representations_that_forward_compares(model: UnifiedModel) -> None:
    inputs = random_inputs(model)
    output = model(**inputs)
    image = model.get_image_features(pixel_values=inputs["pixel_values"])
    text = model.get_text_features(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    torch.testing.assert_close(image.pooler_output, output.image_embeds)
    torch.testing.assert_close(text.pooler_output, output.text_embeds)
    assert image.last_hidden_state.shape == (3, 5, model.config.width)
    states, pooled = model.get_image_features(inputs["pixel_values"], return_dict=False)
    assert torch.equal(pooled, model.project(states[:, 0]))


def test_pairs_have_the_symmetric_contrastive_loss(model: UnifiedModel) -> None:
    inputs = random_inputs(model)
    output = model(**inputs, return_loss=True)
    right = torch.arange(3)
    expected = (F.cross_entropy(output.logits_per_image, right) + F.cross_entropy(output.logits_per_text, right)) / 2
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert model.embeddings["text"].word.weight.grad is not None
    assert model(**inputs).loss is None
    with pytest.raises(ValueError, match="expected one text an image, got 2 images and 3 texts"):
        model(**{**inputs, "pixel_values": inputs["pixel_values"][:2]}, return_loss=True)
    with pytest.raises(TypeError, match="expected images and texts"):
        model(pixel_values=inputs["pixel_values"], return_loss=True)


def test_labels_have_the_loss_of_their_task(model: UnifiedModel) -> None:
    images, texts = {"pixel_values": random_inputs(model)["pixel_values"]}, PROCESSOR(text=NAMES)
    labels = torch.tensor([2, 0, -100])
    among_texts = model(**images, **texts, labels=labels, task="classify")
    expected = F.cross_entropy(model(**images, **texts, family="classify").logits_per_image[:2], labels[:2])
    torch.testing.assert_close(among_texts.loss, expected)
    model.config.tasks["classify"] = {"id2label": {str(number): name for number, name in enumerate(NAMES)}}
    for task in ("classify", None):
        by_name = model(**images, labels=labels, task=task, return_dict=False)
        torch.testing.assert_close(by_name[0], expected)
    assert model(**images, labels=torch.full((3,), -100), task="classify").loss == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": torch.zeros(3, 2, dtype=torch.long)}, ValueError, r"expected whole numbers of shape \(3,\)"),
        ({"labels": torch.zeros(3)}, ValueError, "got torch.float32"),
        ({"labels": torch.tensor([0, 1, 7])}, ValueError, r"expected classes from 0 to 2, got \[0, 1, 7\]"),
        ({"task": "clasify"}, KeyError, "did you mean 'classify'"),
        ({"input_ids": None, "attention_mask": None}, ValueError, "a task whose classes this model knows"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    model: UnifiedModel, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {**random_inputs(model), "labels": torch.tensor([0, 1, 2]), "task": "classify", **change}
    with pytest.raises(error, match=message):
        model(**given)


def test_tasks_that_queries_answer_have_their_loss_too() -> None:
    model = dense_model()
    pixels = torch.zeros(2, 3, *SIZE, dtype=torch.uint8)
    task = next(name for name, spec in model.queries.specs.items() if spec.read == "classes")
    output = model(pixel_values=pixels, labels=torch.zeros(2, *SIZE, dtype=torch.long), task=task)
    assert output.loss.isfinite()
    assert output.logits.shape == (2, len(CLASSES), *SIZE)
    with pytest.raises(ValueError, match="labels: expected shape"):
        model(pixel_values=pixels, labels=torch.zeros(2, dtype=torch.long), task=task)


READINGS = {
    read: Task("", inputs, "txt", Answer.of(candidates="vocabulary", read=read, vocabulary=vocabulary), "perplexity", 2)
    for read, vocabulary, inputs in (
        ("masked", "encoder", {"txt": "text"}),
        ("causal", "embedding", {"txt": "text"}),
        ("caption", "embedding", {"png": "image"}),
    )
}


@pytest.fixture(scope="module")
def reader() -> UnifiedModel:
    return small_model(tasks={**READINGS, **TASKS})


def language_inputs(model: UnifiedModel, task: str) -> tuple[dict[str, Any], torch.Tensor]:
    """Inputs of a task that predicts tokens, and its labels."""
    inputs = random_inputs(model)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    if task == "masked":
        labels[:, ::2] = -100
    return (inputs if task == "caption" else {**inputs, "pixel_values": None}), labels


@pytest.mark.parametrize("task", READINGS)
def test_labels_of_tokens_have_the_loss_of_training(reader: UnifiedModel, task: str) -> None:
    inputs, labels = language_inputs(reader, task)
    output = reader(**inputs, labels=labels, task=task)
    tokens = reader.tokens(**inputs)
    text = tokens.pop("text") if task == "caption" else tokens["text"]
    target = text if task == "caption" else labels.masked_fill(labels == -100, IGNORE)
    scores = score(reader, READINGS[task], Batch(task, tokens, target, ["a", "b", "c"]))
    torch.testing.assert_close(output.loss, scores.loss.sum() / scores.terms.sum())
    assert output.logits.shape == (*labels.shape, reader.config.vocabulary_size)
    output.loss.backward()


def test_captions_alone_are_labels(reader: UnifiedModel) -> None:
    inputs, labels = language_inputs(reader, "caption")
    output = reader(pixel_values=inputs["pixel_values"], labels=labels, task="caption")
    torch.testing.assert_close(output.loss, reader(**inputs, labels=labels, task="caption").loss)


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("causal", {"labels": torch.zeros(3, 9, dtype=torch.long)}, r"expected token ids of shape \(3, 8\)"),
        ("causal", {"labels": torch.full((3, 8), 10**6)}, "expected token ids from 0 to"),
        ("causal", {"labels": torch.zeros(3, 8)}, "got torch.float32"),
        ("masked", {"input_ids": None, "attention_mask": None, "pixel_values": 0}, "it reads texts"),
        ("caption", {"pixel_values": None}, "it captions images"),
    ],
)
def test_labels_of_tokens_that_do_not_fit_are_refused(
    reader: UnifiedModel, task: str, change: dict[str, Any], message: str
) -> None:
    inputs, labels = language_inputs(reader, task)
    if change.get("pixel_values") == 0:
        change = {**change, "pixel_values": random_inputs(reader)["pixel_values"]}
    with pytest.raises(ValueError, match=message):
        reader(**{**inputs, "labels": labels, "task": task, **change})


def test_the_loss_of_no_labels_is_zero() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    class_loss(logits, [-1, -100]).backward()
    assert torch.equal(logits.grad, torch.zeros(2, 3))


def test_long_lists_of_candidates_are_encoded_in_parts(model: UnifiedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    names, templates = [f"name {number}" for number in range(7)], ["{}", "a {}"]
    whole = model.candidates(names, templates)
    monkeypatch.setattr("unified.model.network.TEXTS_AT_ONCE", 5)
    sizes: list[int] = []
    represent = model.represent

    def counted(tokens: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        sizes.append(len(tokens["text"]))
        return represent(tokens, *arguments, **options)

    monkeypatch.setattr(model, "represent", counted)
    torch.testing.assert_close(model.candidates(names, templates), whole)
    assert sizes == [5, 5, 4]


def test_eager_attention_never_calls_the_fused_kernel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr("unified.nn.kernels.TABLE", ())
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or kernel(*a, **k))
    monkeypatch.setattr("unified.nn.scaled_dot_product.by_products", lambda *_: False)
    fused, eager = (AutoModel.from_pretrained(folder, attn_implementation=name) for name in ("sdpa", "eager"))
    inputs = random_inputs(fused)
    expected = fused(**inputs).logits_per_image
    assert calls
    calls.clear()
    torch.testing.assert_close(eager(**inputs).logits_per_image, expected, atol=1e-4, rtol=1e-4)
    assert not calls
    eager.set_attn_implementation("sdpa")
    assert torch.equal(eager(**inputs).logits_per_image, expected)


def test_a_loaded_model_saves_a_folder_that_loads(folder: Path, tmp_path: Path) -> None:
    model, _ = unified.load(folder)
    model.save_pretrained(tmp_path / "again")
    inputs = random_inputs(model)
    again, processor = unified.load(tmp_path / "again")
    assert torch.equal(again(**inputs).logits_per_image, model(**inputs).logits_per_image)
    assert torch.equal(processor(text=WORDS)["input_ids"], PROCESSOR(text=WORDS)["input_ids"])


@pytest.mark.parametrize("asked", [{"return_loss": True}, {"labels": torch.tensor([2, 0, 1]), "task": "classify"}])
def test_trainer_takes_a_step_and_saves(folder: Path, tmp_path: Path, asked: dict[str, Any]) -> None:
    model = AutoModel.from_pretrained(folder)
    before = model.proj.weight.detach().clone()
    batch = {**random_inputs(model), **asked}
    settings = TrainingArguments(
        str(tmp_path / "run"), max_steps=1, learning_rate=1e-3, report_to=[], use_cpu=True, disable_tqdm=True,
        remove_unused_columns=False, save_steps=1,
    )  # fmt: skip
    processor = AutoProcessor.from_pretrained(folder)
    trainer = Trainer(model, settings, lambda _: batch, [0, 1], processing_class=processor)
    assert trainer.train().training_loss > 0
    assert not torch.equal(model.proj.weight, before)
    saved, _ = unified.load(tmp_path / "run" / "checkpoint-1")
    assert torch.equal(saved.proj.weight, model.proj.weight)


def test_trainer_names_a_task_that_the_model_lacks(folder: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    batch = {**random_inputs(model), "labels": torch.tensor([2, 0, 1]), "task": "colour"}
    settings = TrainingArguments(
        str(tmp_path), max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True, remove_unused_columns=False
    )
    with pytest.raises(KeyError, match=r"'colour' is not one of this model.* There are: caption, classify, hidden"):
        Trainer(model, settings, lambda _: batch, [0, 1]).train()


def test_sentence_transformers_encodes_texts_and_images(folder: Path, tmp_path: Path) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is a test-only package")
    encoder = library.SentenceTransformer(str(folder), device="cpu")
    model = AutoModel.from_pretrained(folder)
    images = random_inputs(model)["pixel_values"]
    from PIL import Image

    files = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    with torch.no_grad():
        expected = model(pixel_values=images, **PROCESSOR(text=WORDS))
    torch.testing.assert_close(torch.from_numpy(encoder.encode(WORDS)), expected.text_embeds)
    torch.testing.assert_close(torch.from_numpy(encoder.encode(files)), expected.image_embeds)
    assert encoder.get_embedding_dimension() == model.config.width
