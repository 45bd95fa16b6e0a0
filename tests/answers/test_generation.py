"""Decoding word by word with a cache gives what the whole caption in one pass gives."""

from typing import Any

import pytest
import torch
from conditional import END as LAST
from conditional import ROUTERS, pixels
from conditional import SPE as ASKS
from conditional import model as conditional
from torch import Tensor

from tests.model.test_official_arithmetic import END, SPE, draw_video, model
from unified.answers.match import generation
from unified.answers.match.caption import read_caption
from unified.answers.match.generation import generate
from unified.answers.match.similarity import similarity
from unified.core.types import Tokens
from unified.modalities.base import pad
from unified.modalities.image.patches import patches
from unified.modalities.sequence import Attributes
from unified.modalities.text.tokenizer import text_tokens
from unified.model.pretrained import UnifiedModel

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


CONDITIONAL: list[dict[str, Any]] = [
    *({"router": router} for router in ROUTERS),
    {"router": "attribute", "bits": ("query", "modality:text")},
    {"router": "token", "shared_decisions": False},
    {"router": "context", "shared_decisions": False, "bias_rate": 0.1},
]


@pytest.mark.parametrize("experts", CONDITIONAL, ids=lambda given: ", ".join(map(str, given.values())))
@torch.no_grad()
def test_routers_choose_step_by_step_as_in_one_pass(experts: dict[str, Any]) -> None:
    """What beams add up is what the whole caption scores, and greedy words are the best at each place."""
    network = conditional(**experts)
    images = {"image": patches(pixels(3), 8)}
    for beams in (1, 3):
        found = generate(network, images, beams=beams, max_length=5, family="words")
        assert max(map(len, found)) > 1
        for row, caption in enumerate(found):
            ids = torch.tensor([[*caption, LAST][:5]])
            one = {"image": images["image"].rows(slice(row, row + 1))}
            parts = [(Attributes("image"), one["image"])]
            states, _ = read_caption(network, parts, text_tokens(ids), family="words")
            logits = similarity(network.project(states[0]), network.vocabulary(), network.scale("words"))
            logits[:, ASKS] = -torch.inf
            if beams == 1:
                assert logits.argmax(-1).tolist() == ids[0].tolist()


@pytest.mark.parametrize("experts", CONDITIONAL, ids=lambda given: ", ".join(map(str, given.values())))
@torch.no_grad()
def test_states_of_cached_steps_are_those_of_one_pass(experts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    network = conditional(**experts)
    images = {"image": patches(pixels(2), 8)}
    steps: list[tuple[Tensor, Tensor]] = []
    ask = generation._ask

    def spy(model: UnifiedModel, state: Any, step: int, kind: Attributes) -> Tensor:
        found = ask(model, state, step, kind)
        steps.append((state.ids, found))
        return found

    monkeypatch.setattr(generation, "_ask", spy)
    beams = 2
    generate(network, images, beams=beams, max_length=5, family="words")
    assert len(steps) > 2
    pictures = images["image"].rows(torch.arange(2).repeat_interleave(beams))
    for ids, found in steps:
        asked = torch.cat([ids, ids.new_full((len(ids), 1), ASKS)], dim=1)  # the last word is not seen by its query
        states, _ = read_caption(network, [(Attributes("image"), pictures)], text_tokens(asked), family="words")
        torch.testing.assert_close(found, states[:, -1], atol=1e-4, rtol=1e-4)
