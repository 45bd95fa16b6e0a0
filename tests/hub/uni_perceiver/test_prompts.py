"""Prompt-tuned checkpoints answer as the published arithmetic does."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import official_files as files
from tests.official_network import Official
from unified.answers.match import generation
from unified.answers.match.caption import read_caption
from unified.answers.match.similarity import similarity
from unified.core import seed
from unified.core.errors import UserError
from unified.hub.load import load
from unified.hub.uni_perceiver.to_hub import convert
from unified.modalities.image.patches import patches
from unified.modalities.sequence import Attributes
from unified.modalities.text.tokenizer import text_tokens
from unified.model.pretrained import UnifiedModel

CLASSES = 5
STATES: dict[str, Callable[[], files.State]] = {
    "classes": lambda: files.tuned(files.dense(), CLASSES, candidates=False),
    "separate": lambda: files.tuned(files.dense(own_attention=True), 0, candidates=True),
    "experts, classes": lambda: files.tuned(files.moe(), CLASSES, candidates=False),
    "experts, separate": lambda: files.tuned(files.moe(), 0, candidates=True),
}


@pytest.fixture(scope="module", params=STATES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[UnifiedModel, Official]:
    folder = tmp_path_factory.mktemp("tuned")
    state = STATES[request.param]()
    torch.save({"model": state}, folder / "in.pth")
    convert(folder / "in.pth", folder / "out", heads=files.HEADS)
    return load(folder / "out")[0], Official(state, files.HEADS, files.SPE, files.END)


def draw_video(rows: int) -> Tensor:
    shape = (rows, 1, 3, 224, 224)
    return torch.randint(0, 256, shape, generator=seed.torch_generator("tuned"), dtype=torch.uint8)


def draw_ids(rows: int, length: int) -> Tensor:
    return torch.randint(0, files.END, (rows, length), generator=seed.torch_generator("tuned ids"))


REAL = torch.arange(6)[None] < torch.tensor([6, 2, 4, 3, 5])[:, None]


def test_classification(pair: tuple[UnifiedModel, Official]) -> None:
    model, official = pair
    video, names = draw_video(2), draw_ids(5, 6)
    expected = official.classify(video, names, REAL, "img_cls")
    found = model.classify({"pixel_values": video[:, 0]}, text_tokens(names, REAL), family="img_cls")
    torch.testing.assert_close(found, expected.softmax(1), atol=1e-4, rtol=0)
    assert (model.classifier is None) == ("fc_prompt.weight" not in official.w)


def test_features_of_both_sides(pair: tuple[UnifiedModel, Official]) -> None:
    model, official = pair
    video, texts = draw_video(2), draw_ids(5, 6)
    with torch.no_grad():
        found = model(pixel_values=video[:, 0], input_ids=texts, attention_mask=REAL, family="retrieve")
    expected = official.features(official.picture_states(video)[:, 0])
    torch.testing.assert_close(found.image_embeds, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.text_embeds, official.names(texts, REAL), atol=1e-5, rtol=0)


def test_captions(pair: tuple[UnifiedModel, Official], monkeypatch: pytest.MonkeyPatch) -> None:
    model, official = pair
    video, ids, real = draw_video(2), draw_ids(2, 5), REAL[[4, 3]][:, :5]
    with torch.no_grad():
        parts = [(Attributes("image"), patches(video[:, 0], files.PATCH))]
        states, _ = read_caption(model, parts, text_tokens(ids, real))
    torch.testing.assert_close(states[real], official.caption(video, ids, real)[real], atol=1e-4, rtol=0)
    steps: list[Tensor] = []

    def recorded(*arguments: Tensor) -> Tensor:
        steps.append(similarity(*arguments))
        return steps[-1].clone()

    monkeypatch.setattr(generation, "similarity", recorded)
    inputs = {"image": patches(video[:1, 0], files.PATCH)}
    found = generation.generate(model, inputs, max_length=3, family="caption", vocabulary="encoder")[0]
    words = official.vocabulary()
    for step, logits in enumerate(steps):
        expected = official.next_word(video[:1], found[:step], words)
        torch.testing.assert_close(logits[0], expected, atol=1e-4, rtol=0)


def test_hidden_words_with_the_bias_of_the_mask(pair: tuple[UnifiedModel, Official]) -> None:
    model, official = pair
    ids = draw_ids(5, 6)
    ids[:, 1] = files.SPE
    with torch.no_grad():
        found = model.encode([(Attributes("text"), text_tokens(ids, REAL))]).states[:, 1:]
    expected = official.text_states(ids, REAL, "text")[:, 1:]
    torch.testing.assert_close(found[REAL], expected[REAL], atol=1e-4, rtol=0)


def test_prompts_matter_and_are_not_what_an_untuned_model_has(pair: tuple[UnifiedModel, Official]) -> None:
    """Otherwise leaving them out would go unseen above."""
    _, official = pair
    plain = {key: value for key, value in official.w.items() if "prompt" not in key and key != "s_token_bias"}
    video = draw_video(1)
    other = Official(plain, files.HEADS, files.SPE, files.END).picture_states(video)
    assert float((official.picture_states(video) - other).abs().max()) > 0.05


def test_a_classifier_wants_all_its_classes(tmp_path: Path) -> None:
    torch.save({"model": STATES["classes"]()}, tmp_path / "in.pth")
    found = convert(tmp_path / "in.pth", tmp_path / "out", heads=files.HEADS)
    assert any("10 for each layer, a bias of [SPE], a classifier of 5 classes" in line for line in found.lines())
    model, _ = load(tmp_path / "out")
    pixels = {"pixel_values": draw_video(1)[:, 0]}
    with pytest.raises(UserError, match=r"5 classes, found 2 candidates.*model\.classifier = None"):
        model.classify(pixels, draw_ids(2, 3))
    model.classifier = None
    assert model.classify(pixels, draw_ids(2, 3)).shape == (1, 2)


def test_experts_that_tokens_are_sent_to_take_no_prompts() -> None:
    from unified.model.config import UnifiedConfig
    from unified.model.routing_attributes import plain
    from unified.nn.moe.settings import ExpertSettings

    settings = ExpertSettings(count=4, router="token")
    prompts = {"tokens": 2, "candidates": False, "spe_bias": False, "classes": None}
    config = UnifiedConfig(width=32, depth=1, heads=2, hidden=32, experts=plain(settings, 1), prompts=prompts)
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(UserError, match="'qkv' that tokens are sent to do not go together"):
        UnifiedModel(config).embed(input_ids=ids)
