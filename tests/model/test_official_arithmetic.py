"""The model is Uni-Perceiver's arithmetic, to rounding: compared with the restatement in tests/official.py."""

import math

import official
import pytest
import torch
from torch import Tensor

from unified.answers.match.caption import read_caption
from unified.core import seed
from unified.modalities.image.patches import patches
from unified.modalities.sequence import Attributes
from unified.modalities.text.tokenizer import text_tokens
from unified.model.config import UnifiedConfig
from unified.model.pretrained import UnifiedModel

WIDTH, DEPTH, HEADS, PATCH, WORDS, SPE, END = 64, 4, 4, 8, 97, 96, 95
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(scope="module")
def model() -> UnifiedModel:
    image = {"patch": PATCH, "positions": "sincos", "position_scale": 160 / 224, "grid": 4, "frames": 8}
    config = UnifiedConfig(
        width=WIDTH,
        depth=DEPTH,
        heads=HEADS,
        hidden=4 * WIDTH,
        layer_scale=1e-3,
        drop_path=0.1,
        modalities={
            "image": {**image, "height": 32, "width": 32, "mean": MEAN, "std": STD},
            "text": {"positions": 512, "max_length": 20},
        },
        vocabulary_size=WORDS,
        spe_token_id=SPE,
        end_token_id=END,
        families=["img_cls", "caption"],
    )
    model = UnifiedModel(config).eval()
    generator = seed.torch_generator(3, "weights of the arithmetic test")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            spread = 1 / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 0.3
            base = 1.0 if ("norm" in name or "ln_post" in name) and name.endswith("weight") else 0.0
            if "log_scales" not in name:
                parameter.copy_(base + spread * draw)
    return model


@pytest.fixture(scope="module")
def weights(model: UnifiedModel) -> official.Weights:
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def draw_ids(rows: int, length: int, name: str) -> Tensor:
    return torch.randint(0, END, (rows, length), generator=seed.torch_generator(0, name))


def draw_video(rows: int, frames: int, height: int, width: int) -> Tensor:
    shape = (rows, frames, 3, height, width)
    return torch.randint(0, 256, shape, generator=seed.torch_generator(0, "video"), dtype=torch.uint8)


def expected_image(weights: official.Weights, video: Tensor) -> Tensor:
    vectors = official.image_vectors(weights, video, PATCH, torch.tensor(MEAN), torch.tensor(STD), 160 / 224)
    x = torch.cat([official.spe(weights, len(video), SPE), vectors], 1)
    return official.encoder(weights, x, torch.zeros(len(x), x.shape[1], x.shape[1], dtype=torch.bool), HEADS, DEPTH)


def expected_text(weights: official.Weights, ids: Tensor, mask: Tensor) -> Tensor:
    x = torch.cat([official.spe(weights, len(ids), SPE), official.text_vectors(weights, ids)], 1)
    keys = torch.cat([torch.ones(len(ids), 1, dtype=torch.bool), mask], 1)
    blocked = ~keys[:, None].expand(-1, x.shape[1], -1)
    return official.encoder(weights, x, blocked, HEADS, DEPTH)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 32, 32), (1, 24, 40), (3, 16, 24)])
def test_image_and_video_features(
    model: UnifiedModel, weights: official.Weights, frames: int, height: int, width: int
) -> None:
    video = draw_video(2, frames, height, width)
    given = video[:, 0] if frames == 1 else video
    expected = official.features(weights, expected_image(weights, video)[:, 0])
    torch.testing.assert_close(model.embed(pixel_values=given), expected, atol=1e-5, rtol=0)


def test_classification_logits_with_padded_names(model: UnifiedModel, weights: official.Weights) -> None:
    video, ids = draw_video(3, 1, 32, 32), draw_ids(5, 6, "names")
    mask = torch.arange(6)[None] < torch.tensor([6, 2, 4, 3, 5])[:, None]
    images = official.features(weights, expected_image(weights, video)[:, 0])
    names = official.features(weights, expected_text(weights, ids, mask)[:, 0])
    expected = images @ names.T * min(math.exp(math.log(1 / 0.07)), 100)
    got = model(pixel_values=video[:, 0], input_ids=ids, attention_mask=mask.long(), family="img_cls")
    assert got.logits_per_image is not None
    torch.testing.assert_close(got.logits_per_image, expected, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(got.logits_per_image.argmax(1), expected.argmax(1))


def test_captioning_with_the_two_block_mask_and_padding(model: UnifiedModel, weights: official.Weights) -> None:
    video, ids = draw_video(2, 1, 16, 24), draw_ids(2, 5, "captions")
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    image = official.image_vectors(weights, video, PATCH, torch.tensor(MEAN), torch.tensor(STD), 160 / 224)
    queries = official.text_vectors(weights, torch.full_like(ids, SPE))
    x = torch.cat([official.spe(weights, 2, SPE), image, official.text_vectors(weights, ids), queries], 1)
    blocked = official.caption_blocked(1 + image.shape[1], 5)[None].repeat(2, 1, 1)
    keys = torch.cat([torch.ones(2, 1 + image.shape[1], dtype=torch.bool), mask, mask], 1)
    blocked |= ~keys[:, None] & ~torch.eye(x.shape[1], dtype=torch.bool)
    expected = official.encoder(weights, x, blocked, HEADS, DEPTH)[:, -5:]
    tokens = text_tokens(ids, mask)
    states, target = read_caption(model, [(Attributes("image"), patches(video[:, 0], PATCH))], tokens)
    torch.testing.assert_close(states[mask], expected[mask], atol=1e-4, rtol=1e-4)
    assert target.tolist() == ids.masked_fill(~mask, -1).tolist()


def test_vocabulary_candidates_are_entries_with_an_end_token(model: UnifiedModel, weights: official.Weights) -> None:
    ids = torch.tensor([[word, END] for word in range(WORDS)])
    expected = official.features(weights, expected_text(weights, ids, torch.ones_like(ids, dtype=torch.bool))[:, 0])
    torch.testing.assert_close(model.vocabulary("encoder", chunk=40), expected, atol=1e-5, rtol=0)
    cheap = official.features(weights, official.norm(weights, "norm", weights["embeddings.text.word.weight"]))
    torch.testing.assert_close(model.vocabulary("embedding"), cheap, atol=1e-5, rtol=0)


def test_scale_is_capped_and_its_gradient_vanishes_there(model: UnifiedModel) -> None:
    assert model.scale("img_cls").item() == pytest.approx(1 / 0.07, rel=1e-4)
    log_scale = torch.full((1,), 5.0, requires_grad=True)
    from unified.answers.match.similarity import similarity_scale

    scale = similarity_scale(log_scale)
    scale.backward()
    assert scale.item() == 100.0
    assert log_scale.grad is not None
    assert log_scale.grad.item() == 0.0


def test_parameter_count_of_the_base_model() -> None:
    """The closed form of the dense base model, less what the official file holds and this model does not."""
    image = {"patch": 16, "positions": "sincos", "position_scale": 1.0, "grid": 14, "frames": 8}
    with torch.device("meta"):
        config = UnifiedConfig(
            width=768, depth=12, heads=12, hidden=3072, layer_scale=1e-3, drop_path=0.1,
            modalities={
                "image": {**image, "height": 224, "width": 224, "mean": MEAN, "std": STD},
                "text": {"positions": 512, "max_length": 50},
            },
            vocabulary_size=49411, spe_token_id=49410, end_token_id=49407,
            families=[f"family{i}" for i in range(11)],
        )  # fmt: skip
        total = sum(parameter.numel() for parameter in UnifiedModel(config).parameters())
    width, depth = 768, 12
    official_total = 50901 * width + depth * (12 * width**2 + 15 * width) + width**2 + 3 * width + 11
    assert official_total == 124_757_003
    fixed_positions, visual_type = 196 * width, width
    text_types = 2 * width  # both rows of the official table are kept
    assert text_types == 1536
    assert total == official_total - fixed_positions - visual_type
