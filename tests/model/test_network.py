"""The model as others call it: through transformers, accelerate, and with words."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unified.config.model import ModelSettings
from unified.core import seed
from unified.modalities import load_tokenizers
from unified.modalities.image.settings import ImageSettings
from unified.modalities.text.settings import TextSettings
from unified.model.config import UnifiedConfig
from unified.model.network import UnifiedOutput
from unified.model.pretrained import UnifiedModel
from unified.model.processor import UnifiedProcessor

SETTINGS = ModelSettings(
    width=32,
    depth=2,
    heads=2,
    hidden=64,
    modalities={
        "image": ImageSettings("image_glyph", 8, positions="learned", grid=2),
        "text": TextSettings(max_length=12),
    },
)
NAMES = ["digit zero", "latin small letter e"]


@pytest.fixture(scope="module")
def model() -> UnifiedModel:
    tokenizers = load_tokenizers(SETTINGS.modalities)
    with seed.seeded("model of the calls"):
        made = UnifiedModel(UnifiedConfig.from_settings(SETTINGS, tokenizers, ["names", "words"])).eval()
    made.processor = UnifiedProcessor.from_tokenizers(tokenizers)
    return made


def pixels(rows: int = 2) -> Tensor:
    generator = seed.torch_generator(0, "pictures")
    return torch.randint(0, 256, (rows, 3, 16, 16), dtype=torch.uint8, generator=generator)


def features(model: UnifiedModel, rows: int = 2) -> dict[str, Any]:
    return {"pixel_values": pixels(rows), **model.processor(text=NAMES)}


def test_transformers_finds_and_replaces_the_table_of_words(model: UnifiedModel) -> None:
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    assert table is model.embeddings["text"].word
    other = nn.Embedding(table.num_embeddings, table.embedding_dim)
    model.set_input_embeddings(other)
    assert model.get_input_embeddings() is other
    model.set_input_embeddings(table)
    assert model.embeddings["text"].word is table


@torch.no_grad()
def test_forward_returns_fields_or_a_tuple_of_them(model: UnifiedModel) -> None:
    fields = model(**features(model), output_hidden_states=False, output_attentions=None)
    assert isinstance(fields, UnifiedOutput)
    values = model(**features(model), return_dict=False)
    assert type(values) is tuple
    assert len(values) == 4
    assert all(torch.equal(value, field) for value, field in zip(values, fields.to_tuple(), strict=True))


@pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions"])
def test_outputs_that_do_not_exist_are_refused_by_name(model: UnifiedModel, name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}: this model returns representations alone"):
        model(**features(model), **{name: True})


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        ("a cat", ["{}"], r"labels: the string 'a cat'.*\['a cat'\]"),
        (NAMES, "a photo of {}", "templates: the string"),
        (NAMES, ["a photo"], r"templates: 'a photo' has no \{\}"),
        (NAMES, [], "templates: the list is empty"),
        ([], ["{}"], "labels: the list is empty"),
    ],
)
def test_candidates_that_cannot_be_told_apart_are_refused(
    model: UnifiedModel, labels: Any, templates: Any, message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        model.classify({"pixel_values": pixels()}, labels, templates=templates)


def test_inputs_of_unlike_numbers_of_samples_are_named(model: UnifiedModel) -> None:
    with pytest.raises(ValueError, match="1 of image, 2 of text"):
        model.embed(**features(model, rows=1))


def test_captions_use_the_temperature_and_the_vocabulary_asked_for(
    model: UnifiedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str | None, str]] = []
    scale, vocabulary = UnifiedModel.scale, UnifiedModel.vocabulary

    def spy(self: UnifiedModel, family: str | None = None) -> Tensor:
        asked.append((family, "scale"))
        return scale(self, family)

    def spy_vocabulary(self: UnifiedModel, how: str = "embedding", **given: Any) -> Tensor:
        asked.append((how, "vocabulary"))
        return vocabulary(self, how, **given)

    monkeypatch.setattr(UnifiedModel, "scale", spy)
    monkeypatch.setattr(UnifiedModel, "vocabulary", spy_vocabulary)
    texts = model.caption({"pixel_values": pixels()}, max_length=2, family="words", vocabulary="encoder")
    assert len(texts) == 2
    assert set(asked) == {("words", "scale"), ("encoder", "vocabulary")}
    with pytest.raises(KeyError, match="no temperature"):
        model.caption({"pixel_values": pixels()}, max_length=2, family="word")


PLACES = {
    "all on one device": "cpu",
    "embeddings and head on disk": {
        "encoder": "cpu",
        "embeddings": "disk",
        "norm": "disk",
        "ln_post": "disk",
        "proj": "disk",
        "log_scales": "disk",
    },
    "a block on disk": {
        "embeddings": "cpu",
        "norm": "cpu",
        "encoder.blocks.0": "disk",
        "encoder.blocks.1": "cpu",
        "ln_post": "cpu",
        "proj": "cpu",
        "log_scales": "cpu",
    },
}


@pytest.mark.parametrize("place", list(PLACES))
@torch.no_grad()
def test_weights_that_accelerate_places_give_the_same_answers(model: UnifiedModel, tmp_path: Path, place: str) -> None:
    model.save_pretrained(tmp_path / "model")
    placed = UnifiedModel.from_pretrained(
        tmp_path / "model", device_map=PLACES[place], offload_folder=tmp_path / "offload"
    )
    placed.processor = model.processor
    if place != "all on one device":
        assert any(parameter.is_meta for parameter in placed.parameters()), "nothing was offloaded"
    expected = model(**features(model), family="words")
    found = placed(**features(model), family="words")
    torch.testing.assert_close(found.logits_per_image, expected.logits_per_image)
    assert math.isfinite(float(found.logits_per_image.sum()))
    given = {"pixel_values": pixels()}
    torch.testing.assert_close(placed.classify(given, NAMES), model.classify(given, NAMES))
    for how in ("embedding", "encoder"):
        options: Any = {"max_length": 3, "vocabulary": how}
        assert placed.caption(given, **options) == model.caption(given, **options)
