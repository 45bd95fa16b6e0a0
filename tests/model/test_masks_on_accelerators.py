"""Attention gets a mask only where something is hidden, decided on the host.

The meta device stands for an accelerator: it has shapes and no values, so whoever asks it for one fails.
"""

import pytest
import torch
import torch.nn.functional as F
from small_models import small_model, words_and_images
from torch import Tensor

from unified.core.types import Batch, Tokens
from unified.modalities.base import pad
from unified.modalities.image.patches import patches
from unified.modalities.sequence import Attributes, attention_mask, layout
from unified.modalities.text.tokenizer import text_tokens
from unified.model.pretrained import UnifiedModel

IDS = torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0]])
SEEN = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


@pytest.fixture(scope="module")
def model() -> UnifiedModel:
    return small_model().to("meta")


@pytest.fixture
def masked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each attention was given a mask."""
    asked: list[bool] = []
    plain = F.scaled_dot_product_attention

    def noted(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        asked.append(attn_mask is not None)
        return plain(query, key, value, attn_mask)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    return asked


def pixels(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"pixel_values": pixels(2, 3, 16, 16)}, False),
        ({"input_ids": IDS}, False),
        ({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}, False),
        ({"input_ids": IDS, "attention_mask": SEEN}, True),
        ({"pixel_values": pixels(2, 3, 16, 16), "input_ids": IDS}, False),
        ({"pixel_values": pixels(2, 3, 16, 16), "input_ids": IDS, "attention_mask": SEEN}, True),
    ],
)
@torch.no_grad()
def test_only_padded_inputs_get_a_mask(
    model: UnifiedModel, masked: list[bool], inputs: dict[str, Tensor], expected: bool
) -> None:
    model.embed(inputs)
    assert masked == [expected] * len(model.encoder.blocks)


@torch.no_grad()
def test_images_of_several_sizes_are_padded(model: UnifiedModel, masked: list[bool]) -> None:
    parts = [patches(pixels(1, 3, side, side), 8) for side in (8, 16)]
    model.represent({"image": pad(parts).to("meta")})
    assert all(masked)
    masked.clear()
    model.represent({"image": pad([parts[1], parts[1]]).to("meta")})
    assert not any(masked)


def test_a_batch_takes_along_what_the_host_knows() -> None:
    text = words_and_images()["text"].tokens([[5, 6, 1], [5, 1]])
    moved = Batch("", {"text": text}, text, ["a", "b"]).to("meta")
    assert moved.inputs["text"].padded
    assert moved.target.padded
    assert not text.rows(slice(0, 1)).may_be_padded, "the longest row alone has no padding"
    unknown = moved.inputs["text"].rows(slice(0, 1))
    assert unknown.padded is None
    assert unknown.may_be_padded, "a device is not asked"
    whole = text_tokens(IDS).to("meta")
    assert whole.padded is False
    assert whole.rows(slice(0, 1)).padded is False


def test_a_caption_without_padding_keeps_the_two_block_mask_alone() -> None:
    parts = [
        (Attributes("image"), 3),
        (Attributes("text", causal=True), 2),
        (Attributes("text", "query", causal=True), 2),
    ]
    real = torch.ones(4, 7, dtype=torch.bool)
    short, full = (attention_mask(layout(parts), real, None, padded=padded) for padded in (False, True))
    assert short is not None
    assert full is not None
    assert short.shape == (1, 7, 7)
    assert torch.equal(short.expand_as(full), full)


def test_tokens_that_are_made_by_hand_are_looked_at_on_the_cpu_alone() -> None:
    values, position = torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2, 3)
    for mask, expected in (([[True, True]], False), ([[True, False]], True)):
        tokens = Tokens("text", values, torch.tensor(mask), position)
        assert tokens.may_be_padded == expected
        assert tokens.to("meta").padded == expected
