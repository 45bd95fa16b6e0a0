"""Decoding word by word with a cache gives what the whole caption in one pass gives."""

import pytest
import torch
from test_official_arithmetic import END, SPE, draw_video, model
from torch import Tensor

from unified.answers.match import similarity
from unified.generation import generate
from unified.layout import Attributes
from unified.matching import read_caption
from unified.modalities.image import pad, patches
from unified.model import UnifiedModel, text_tokens
from unified.types import Tokens

__all__ = ["model"]  # the fixture


@pytest.fixture
def images() -> dict[str, Tokens]:
    """Pictures of two sizes, so that one row has padding."""
    return {"image": pad([patches(draw_video(1, 1, 16, 24)[:, 0], 8), patches(draw_video(1, 1, 32, 32)[:, 0], 8)])}


def log_probabilities(model: UnifiedModel, images: dict[str, Tokens], ids: Tensor) -> Tensor:
    """Of every word at every place, by one pass over the given captions."""
    states, _ = read_caption(model, [(Attributes("image"), images["image"])], text_tokens(ids))
    logits = similarity(model.project(states.flatten(0, 1)), model.vocabulary(), model.scale("caption"))
    logits = logits.view(*ids.shape, -1)
    logits[..., SPE] = -torch.inf
    return logits.log_softmax(-1)


@torch.no_grad()
def test_greedy_captions_are_the_best_word_at_each_place(model: UnifiedModel, images: dict[str, Tokens]) -> None:
    found = generate(model, images, max_length=6, family="caption")
    assert len(found) == 2
    longest = max(len(ids) for ids in found)
    assert longest > 1
    ids = torch.tensor([[*row, *[END] * (longest - len(row))] for row in found])
    best = log_probabilities(model, images, ids).argmax(-1)
    for row, caption in enumerate(found):
        assert best[row, : len(caption)].tolist() == caption


@torch.no_grad()
def test_more_beams_never_find_a_less_probable_caption(model: UnifiedModel, images: dict[str, Tokens]) -> None:
    totals = []
    for beams in (1, 4):
        found = generate(model, images, beams=beams, max_length=4, family="caption")
        for row in range(2):
            one = {"image": images["image"].rows(slice(row, row + 1))}
            ids = torch.tensor([[*found[row], END][:4]])
            scores = log_probabilities(model, one, ids)
            totals.append(scores.gather(-1, ids[..., None]).sum().item())
    assert totals[2] >= totals[0] - 1e-4
    assert totals[3] >= totals[1] - 1e-4


def test_a_number_of_beams_below_one_is_refused(model: UnifiedModel, images: dict[str, Tokens]) -> None:
    with pytest.raises(ValueError, match="expected 1"):
        generate(model, images, beams=0)


@torch.no_grad()
def test_the_length_is_bounded_and_the_question_token_never_written(
    model: UnifiedModel, images: dict[str, Tokens]
) -> None:
    for ids in generate(model, images, beams=2, max_length=5, family="caption"):
        assert len(ids) <= 5
        assert SPE not in ids
        assert END not in ids


@pytest.mark.parametrize("length", [0, -1, 513])
def test_a_length_outside_the_position_table_is_refused(
    model: UnifiedModel, images: dict[str, Tokens], length: int
) -> None:
    with pytest.raises(ValueError, match=f"max_length: {length}; expected 1 to 512"):
        generate(model, images, max_length=length)
