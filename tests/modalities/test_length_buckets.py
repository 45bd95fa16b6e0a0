import pytest
import torch

from tests.model.test_official_arithmetic import END, draw_ids, draw_video, model
from unified.answers.base import Drawn
from unified.answers.score import score
from unified.config.task import Answer, Task
from unified.core.types import Batch, Tokens
from unified.modalities.image.patches import patches
from unified.modalities.text.length_buckets import by_length, trimmed, whole_batches
from unified.modalities.text.tokenizer import text_tokens
from unified.model.pretrained import UnifiedModel
from unified.nn.encoder import Noise

__all__ = ["model"]  # the fixture


def texts(rows: int = 48, longest: int = 14) -> Tokens:
    lengths = torch.tensor([2 + (7 * row) % (longest - 1) if row % 8 else longest for row in range(rows)])
    mask = torch.arange(longest)[None] < lengths.clamp(max=longest)[:, None]
    return text_tokens(draw_ids(rows, longest, "bucket texts").masked_fill(~mask, END), mask)


def test_buckets_hold_every_row_once_and_save_padding() -> None:
    text = texts()
    buckets = by_length(text)
    assert buckets is not None
    assert sorted(torch.cat(buckets).tolist()) == list(range(len(text)))
    parts = [trimmed(text, rows) for rows in buckets]
    assert sum(part.values.numel() for part in parts) < 0.9 * text.values.numel()
    assert sum(int(part.mask.sum()) for part in parts) == int(text.mask.sum())


def test_equal_lengths_and_small_batches_stay_whole() -> None:
    assert by_length(text_tokens(draw_ids(64, 5, "equal"))) is None
    assert by_length(texts(rows=16)) is None
    assert by_length(texts(), extra=100) is None, "padding is little beside 100 other tokens"


def test_batches_stay_whole_where_they_are_asked_to() -> None:
    with whole_batches():
        assert by_length(texts()) is None
        with whole_batches(False):
            assert by_length(texts()) is not None
    assert by_length(texts()) is not None


@torch.no_grad()
def test_texts_padded_on_the_left_stay_whole(model: UnifiedModel) -> None:
    text = texts()
    ids, mask = text.values.flip(1), text.mask.flip(1)
    assert by_length(text_tokens(ids, mask)) is None
    alone = [model.embed(input_ids=ids[row : row + 1], attention_mask=mask[row : row + 1]) for row in range(3)]
    found = model.embed(input_ids=ids, attention_mask=mask)
    torch.testing.assert_close(found[:3], torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("read", ["caption", "masked", "causal", "prefix"])
def test_buckets_change_no_score(model: UnifiedModel, read: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = texts()
    family = {"family": "caption"}
    words = Task(
        "",
        {"txt": "text"},
        "txt",
        Answer.of(candidates="vocabulary", read="masked" if read == "prefix" else read),
        "accuracy",
        48,
        **family,
    )
    image = {"image": patches(draw_video(48, 1, 16, 16)[:, 0], 8)}
    labels = text.values.masked_fill(~text.mask, -1)
    drop = torch.where(torch.arange(4 * 2 * 48).view(4, 2, 48) % 5 == 0, 0.0, 1.25)
    keys = [str(row) for row in range(48)]
    batches = {
        "caption": (words, Batch("a", image, text, keys)),
        "masked": (words, Batch("a", {"text": text}, labels.masked_fill(labels % 3 != 0, -1), keys)),
        "causal": (words, Batch("a", {"text": text}, labels, keys)),
        "prefix": (
            Task("", {"png": "image"}, "txt", Answer.of(candidates="batch"), "accuracy", 48, **family),
            Batch("a", image, {"tokens": text, "group": torch.arange(48)}, keys),
        ),
    }
    task, batch = batches[read]
    noise = Drawn(Noise(drop), Noise(drop))
    bucketed = score(model, task, batch, noise=noise)
    for module in ("unified.answers.match.words", "unified.model.network"):
        monkeypatch.setattr(f"{module}.by_length", lambda *_: None)
    whole = score(model, task, batch, noise=noise)
    torch.testing.assert_close(bucketed.loss, whole.loss, rtol=1e-4, atol=1e-4)
    assert torch.equal(bucketed.terms, whole.terms)
    assert torch.equal(bucketed.correct, whole.correct)
