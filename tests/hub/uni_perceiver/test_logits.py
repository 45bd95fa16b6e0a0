"""Converted models give the logits of the published arithmetic, on every task, dense and with experts."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import official_files as files
from tests.official_network import ROWS, Official
from unified.answers.match import generation
from unified.answers.match.caption import read_caption
from unified.answers.match.similarity import similarity
from unified.core import seed
from unified.hub.load import load
from unified.hub.uni_perceiver.tasks import KINDS
from unified.hub.uni_perceiver.to_hub import convert
from unified.modalities.image.patches import patches
from unified.modalities.sequence import Attributes
from unified.modalities.text.tokenizer import text_tokens
from unified.model.pretrained import UnifiedModel
from unified.model.routing_attributes import bits

Pair = tuple[UnifiedModel, Official]
STATES: dict[str, Callable[[], files.State]] = {
    "dense": files.dense,
    "own attention": lambda: files.dense(own_attention=True),
    "experts": files.moe,
}


@pytest.fixture(scope="module", params=STATES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("official")
    state = STATES[request.param]()
    torch.save({"model": state}, folder / "in.pth")
    convert(folder / "in.pth", folder / "out", heads=files.HEADS)
    return load(folder / "out")[0], Official(state, files.HEADS, files.SPE, files.END)


def draw_video(rows: int, frames: int) -> Tensor:
    shape = (rows, frames, 3, 224, 224)
    return torch.randint(0, 256, shape, generator=seed.torch_generator("videos"), dtype=torch.uint8)


def draw_ids(rows: int, length: int, name: str) -> Tensor:
    return torch.randint(0, files.END, (rows, length), generator=seed.torch_generator(name))


def mask_of(*lengths: int) -> Tensor:
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


NAMES, NAMES_MASK = draw_ids(5, 6, "names"), mask_of(6, 2, 4, 3, 5)


def test_features_of_pictures_and_names(pair: Pair) -> None:
    model, official = pair
    video = draw_video(2, 1)
    with torch.no_grad():
        assert_close(
            model.embed(pixel_values=video[:, 0]), official.features(official.picture_states(video)[:, 0]), 1e-5
        )
        found = model.represent({"text": text_tokens(NAMES, NAMES_MASK)}, "candidate")
    assert_close(found, official.names(NAMES, NAMES_MASK), 1e-5)


@pytest.mark.parametrize(("frames", "family"), [(1, "img_cls"), (3, "video_cls"), (1, "downstream")])
def test_classification_of_pictures_and_videos(pair: Pair, frames: int, family: str) -> None:
    """A byte mask of the padding, as the published code makes it, works too."""
    model, official = pair
    video = draw_video(2, frames)
    given = video[:, 0] if frames == 1 else video
    with torch.no_grad():
        found = model(
            pixel_values=given, input_ids=NAMES, attention_mask=NAMES_MASK.to(torch.uint8), family=family
        ).logits_per_image
    expected = official.classify(video, NAMES, NAMES_MASK, family)
    assert_close(found, expected, 1e-4)
    names = text_tokens(NAMES, NAMES_MASK)
    assert_close(model.classify({"pixel_values": given}, names, family=family), expected.softmax(1), 1e-4)


def test_captioning_with_the_right_words_before(pair: Pair) -> None:
    model, official = pair
    video, ids, real = draw_video(2, 1), draw_ids(2, 5, "captions"), mask_of(5, 3)
    with torch.no_grad():
        parts = [(Attributes("image"), patches(video[:, 0], files.PATCH))]
        states, target = read_caption(model, parts, text_tokens(ids, real))
        expected = official.caption(video, ids, real)
        words = model.vocabulary("encoder")
        found = similarity(model.project(states[real]), words, model.scale("caption"))
    assert_close(words, official.vocabulary(), 1e-5)
    assert_close(states[real], expected[real], 1e-4)
    logits = official.features(expected) @ official.vocabulary().T * official.scale("caption")
    assert_close(found, logits[real], 1e-4)
    assert target.tolist() == ids.masked_fill(~real, -1).tolist()


@pytest.mark.parametrize("beams", [1, 2])
def test_generation_step_by_step(pair: Pair, beams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, official = pair
    video, steps = draw_video(1, 1), []

    def recorded(*arguments: Tensor) -> Tensor:
        steps.append(similarity(*arguments))
        return steps[-1].clone()

    monkeypatch.setattr(generation, "similarity", recorded)
    inputs = {"image": patches(video[:, 0], files.PATCH)}
    found = generation.generate(model, inputs, beams=beams, max_length=4, family="caption", vocabulary="encoder")[0]
    words = official.vocabulary()
    assert_close(steps[0][0], official.next_word(video, [], words), 1e-4)
    assert found == official.beam_search(video, beams, 4)[0]
    if beams == 1:
        for step, logits in enumerate(steps[1:], 1):
            assert_close(logits[0], official.next_word(video, found[:step], words), 1e-4)


def test_hidden_words_and_cloze(pair: Pair) -> None:
    model, official = pair
    ids, real = draw_ids(3, 9, "sentences"), mask_of(9, 7, 4)
    ids[:, 2] = files.SPE
    labels = draw_ids(3, 2, "labels")
    with torch.no_grad():
        encoded = model.encode([(Attributes("text"), text_tokens(ids, real))]).states[:, 1:]
        expected = official.text_states(ids, real, "text")[:, 1:]
        assert_close(encoded[real], expected[real], 1e-4)
        read = encoded[:, 2]
        found = similarity(model.project(read), model.vocabulary("encoder"), model.scale("text_mlm"))
        assert_close(
            found, official.features(expected[:, 2]) @ official.vocabulary().T * official.scale("text_mlm"), 1e-4
        )
        candidates = model.candidates(labels, given=["text"])
    assert_close(candidates, official.names(labels, torch.ones_like(labels, dtype=torch.bool), "word"), 1e-5)


def test_retrieval(pair: Pair) -> None:
    model, official = pair
    video = draw_video(3, 1)
    texts, real = draw_ids(3, 7, "texts"), mask_of(7, 5, 6)
    with torch.no_grad():
        found = model(pixel_values=video[:, 0], input_ids=texts, attention_mask=real, family="retrieve")
    assert_close(found.text_embeds, official.names(texts, real), 1e-5)
    expected = official.features(official.picture_states(video)[:, 0]) @ official.names(texts, real).T
    assert_close(found.logits_per_image, expected * official.scale("retrieve"), 1e-4)


def test_attributes_of_the_published_tasks_are_the_published_ones() -> None:
    expected = {
        "image_classification": ["picture", "name"],
        "video_classification": ["picture", "name"],
        "masked_language_modelling": ["text", "word"],
        "captioning": ["picture of caption", "caption", "caption", "word"],
        "retrieval": ["picture", "name"],
        "text_classification": ["text", "word"],
    }
    found = {name: [bits(kind) for kind in kinds] for name, kinds in KINDS.items()}
    assert found == {name: ["".join(map(str, ROWS[row])) for row in rows] for name, rows in expected.items()}


def test_rows_choose_different_experts(tmp_path: Path) -> None:
    """Otherwise a wrong row would go unseen in the tests above."""
    official = Official(files.moe(), files.HEADS, files.SPE, files.END)
    for layer in (0, 2):
        for module in ("self_attn.qkv_proj", "linear1"):
            gates = [official.gate(f"fused_encoder.layers.{layer}.{module}", row) for row in ROWS]
            assert len({tuple(sorted((e, round(g, 4)) for e, g in gate.items())) for gate in gates}) == len(ROWS)
