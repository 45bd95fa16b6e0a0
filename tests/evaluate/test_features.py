from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import write_shards

from tests.evaluate.oracle import TOKENIZERS, Oracle
from unified.config.labels import Labels
from unified.core.errors import DataError
from unified.data.class_lists import ClassNumbers
from unified.evaluate.features import ModelEncoder, PixelEncoder, embed_items, embed_texts, weights_hash
from unified.evaluate.items import ceiling, clusters_of, read_items, targets

INPUTS = {"png": "image"}


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(write_shards(tmp_path / "data", 24, 10))


class Counting(Oracle):
    calls = 0

    def embed(self, inputs):  # type: ignore[no-untyped-def]
        self.calls += 1
        return super().embed(inputs)


def test_features_do_not_depend_on_the_batch(data: str) -> None:
    items = read_items(data, INPUTS, ["cls"])
    first, second = (
        embed_items(ModelEncoder(Oracle(), TOKENIZERS, None), items, INPUTS, TOKENIZERS, n) for n in (5, 24)
    )
    assert first.shape == (24, 4)
    assert first.dtype == np.float32
    assert np.array_equal(first, second)


def test_the_cache_hits_only_when_nothing_changed(data: str, tmp_path: Path) -> None:
    cache, model = tmp_path / "cache", Counting()
    items = read_items(data, INPUTS, [])

    def features(identity: str | None, these=items):  # type: ignore[no-untyped-def]
        return embed_items(ModelEncoder(model, TOKENIZERS, identity), these, INPUTS, TOKENIZERS, 24, cache)

    first = features("weights 1")
    assert np.array_equal(features("weights 1"), first)
    assert model.calls == 1
    features("weights 2")
    features(None)
    features("weights 1", read_items(data, INPUTS, [], limit=10))
    assert model.calls == 4
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_a_damaged_cache_file_is_computed_again(data: str, tmp_path: Path, damage: str) -> None:
    cache, model = tmp_path / "cache", Counting()
    items = read_items(data, INPUTS, [])
    encoder = ModelEncoder(model, TOKENIZERS, "weights")
    first = embed_items(encoder, items, INPUTS, TOKENIZERS, 24, cache)
    (path,) = cache.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
    path.write_bytes(content[:-8] if damage == "truncate" else content)
    assert np.array_equal(embed_items(encoder, items, INPUTS, TOKENIZERS, 24, cache), first)
    assert model.calls == 2


def test_pixels_are_those_of_the_prepared_image(data: str) -> None:
    features = embed_items(PixelEncoder(), read_items(data, INPUTS, []), INPUTS, TOKENIZERS, 24)
    assert features.shape == (24, 3 * 16 * 16)
    assert 0 <= features.min() < features.max() <= 1


def test_features_that_are_not_finite_are_refused(data: str) -> None:
    class Broken(Oracle):
        def embed(self, inputs):  # type: ignore[no-untyped-def]
            return super().embed(inputs) * float("nan")

    with pytest.raises(DataError, match="not finite"):
        embed_items(ModelEncoder(Broken(), TOKENIZERS, None), read_items(data, INPUTS, []), INPUTS, TOKENIZERS, 24)


def test_equal_texts_are_encoded_once_and_come_back_in_order() -> None:
    model = Oracle()
    features = embed_texts(model, ["a red thing", "blue", "a red thing"], TOKENIZERS["text"], 2)
    assert sorted(model.texts) == ["a red thing", "blue"]
    assert torch.equal(features[0], features[2])
    assert torch.equal(features[1], Oracle()._colour("blue"))


def test_a_limit_is_a_fixed_choice_inside_larger_ones(data: str) -> None:
    few, many = (set(read_items(data, INPUTS, [], limit=n).keys) for n in (6, 12))
    assert len(few) == 6
    assert few < many


def test_targets_are_numbers_or_names_and_others_are_named(data: str) -> None:
    items = read_items(data, INPUTS, ["cls", "json.colour"])
    labels = ClassNumbers(Labels(("red", "green", "blue", "grey")))
    assert np.array_equal(targets(items, "cls", labels), targets(items, "json.colour", labels))
    with pytest.raises(DataError, match=r"\.tar: 00003: column 'cls': expected .* number below 3, found 3"):
        targets(items, "cls", ClassNumbers(Labels(("red", "green", "blue"))))


def test_repeated_keys_are_refused(data: str) -> None:
    with pytest.raises(DataError, match="keys occur more than once"):
        read_items((data, data), INPUTS, [])


def test_ceiling_counts_equal_pictures_with_different_answers() -> None:
    pictures, answers = [0, 0, 0, 1], ["a", "a", "b", "c"]
    assert ceiling(pictures, answers) == 3 / 4
    assert ceiling(pictures, answers, k=2) == 1.0


def test_single_items_are_no_clusters() -> None:
    assert clusters_of(["a", "b"]) is None
    found = clusters_of(["a", "b", "a"])
    assert found is not None
    assert found.tolist() == [0, 1, 0]


def test_weights_hash_sees_every_bit() -> None:
    layer = torch.nn.Linear(2, 2)
    before = weights_hash(layer)
    with torch.no_grad():
        layer.bias[0] = torch.nextafter(layer.bias[0], torch.tensor(9.0))
    assert weights_hash(layer) != before
    assert weights_hash(Oracle()) is None
