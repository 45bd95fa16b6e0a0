"""Experts that are merged by row against a dense network of the same shape: training, and inference after folding.

Equal: width, depth, tokens, batch, optimizer (fused AdamW), threads. The training step is one classification slot:
32 images of 224 pixels (14 x 14 patches and [SPE]) against 8 labels of 4 words, so that nearly all products are on
image tokens while both rows, of images and of labels, are merged. Experts: 8, 2 of them chosen by attributes, for all
four linears of every second layer, whose noise is drawn as training does. They are merged once a step and row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.measure import Row, best_seconds
from unified.answers.match.caption import read_caption
from unified.answers.match.similarity import loss_of_class, similarity
from unified.core import seed
from unified.hub.fold import folded_config, merged_state
from unified.modalities.image.patches import patches
from unified.modalities.sequence import Attributes
from unified.modalities.text.tokenizer import text_tokens
from unified.model.config import UnifiedConfig
from unified.model.pretrained import UnifiedModel
from unified.model.routing_attributes import plain
from unified.nn.encoder import Noise
from unified.nn.moe.settings import ExpertSettings

SPE, END = 0, 1
PICTURE, NAME = "10011000", "10010110"
CAPTIONED, WORD = "11011000", "11010101"
LABELS, LABEL_LENGTH, CAPTION_LENGTH = 8, 4, 24
SIDES = ("dense", "experts")


@dataclass(frozen=True)
class Shape:
    """What both sides have in common."""

    width: int = 384
    depth: int = 12
    heads: int = 6
    size: int = 224
    batch: int = 32
    words: int = 4096


def network(shape: Shape, experts: bool) -> UnifiedModel:
    """A network with drawn weights, dense or with experts in every second layer."""
    image = {"patch": 16, "positions": "sincos", "position_scale": 1.0, "grid": 14, "frames": 1}
    config = UnifiedConfig(
        width=shape.width, depth=shape.depth, heads=shape.heads, hidden=4 * shape.width, layer_scale=0.1,
        experts=plain(ExpertSettings(count=8, top=2), shape.depth) if experts else None,
        modalities={
            "image": {**image, "height": shape.size, "width": shape.size, "mean": [0.5] * 3, "std": [0.5] * 3},
            "text": {"positions": 64, "max_length": 32},
        },
        vocabulary_size=shape.words, spe_token_id=SPE, end_token_id=END,
        families=["classify"],
    )  # fmt: skip
    with seed.seeded(0, "benchmark"):
        return UnifiedModel(config)


def inputs(shape: Shape) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels, labels, which of them are right, and captions."""
    generator = seed.torch_generator(0, "benchmark data")
    size = (shape.batch, 3, shape.size, shape.size)
    return (
        torch.randint(0, 256, size, dtype=torch.uint8, generator=generator),
        torch.randint(2, shape.words, (LABELS, LABEL_LENGTH), generator=generator),
        torch.randint(0, LABELS, (shape.batch,), generator=generator),
        torch.randint(2, shape.words, (shape.batch, CAPTION_LENGTH), generator=generator),
    )


def training_step(shape: Shape, model: UnifiedModel, *, optimize: bool) -> Callable[[], object]:
    """One step of classification; without the optimizer gradients are dropped."""
    pixels, labels, right, _ = inputs(shape)
    images, texts = {"image": patches(pixels, 16)}, {"text": text_tokens(labels)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    generator = seed.torch_generator(0, "benchmark noise")
    layers = len(model.encoder.conditional_layers())

    def run() -> None:
        noise = Noise(gates=torch.randn(layers, 2, 2, 8, generator=generator)) if layers else None
        with model.encoder.sharing():
            features = model.represent(images, noise=noise)
            candidates = model.represent(texts, "candidate", noise, given=("image",))
            loss = loss_of_class(similarity(features, candidates, model.scale()), right).mean()
        loss.backward()
        if optimize:
            optimizer.step()
        optimizer.zero_grad()

    return run


def folded(model: UnifiedModel, rows: tuple[str, ...]) -> UnifiedModel:
    """The model folded for these rows."""
    made = UnifiedModel(folded_config(model.config, rows))
    made.load_state_dict(merged_state(model, rows))
    return made.eval()


def image_features(shape: Shape, model: UnifiedModel) -> Callable[[], object]:
    """The features of a batch of images."""
    images = {"image": patches(inputs(shape)[0], 16)}
    return lambda: _quietly(lambda: model.represent(images))


def caption_states(shape: Shape, model: UnifiedModel) -> Callable[[], object]:
    """The states that answer for the words of captions: image, words and queries, in one pass over two rows."""
    pixels, _, _, captions = inputs(shape)
    parts, words = [(Attributes("image"), patches(pixels, 16))], text_tokens(captions)
    return lambda: _quietly(lambda: read_caption(model, parts, words))


@torch.inference_mode()
def _quietly(run: Callable[[], object]) -> object:
    return run()


def rows(rounds: int = 5) -> list[Row]:
    """The ratios of times, experts / dense."""
    shape = Shape()
    found = []
    for name, optimize in (("", True), (" without optimizer", False)):
        sides = {
            side: training_step(shape, network(shape, side == "experts").train(), optimize=optimize) for side in SIDES
        }
        found.append(_row(f"training step, 8 experts by attribute / dense{name}", "<= 1.10", sides, rounds))
    dense, conditional = network(shape, experts=False).eval(), network(shape, experts=True).eval()
    for name, keys, target, make in (
        ("image features, folded for two rows / dense", (PICTURE, NAME), "<= 1.01", image_features),
        ("captions, folded for two rows / dense", (CAPTIONED, WORD), "-", caption_states),
    ):
        sides = {"dense": make(shape, dense), "experts": make(shape, folded(conditional, keys))}
        found.append(_row(name, target, sides, 2 * rounds))
    return found


def _row(name: str, target: str, sides: dict[str, Callable[[], object]], rounds: int) -> Row:
    best = best_seconds(sides, rounds)
    detail = f"{best['experts']:.2f} s, dense {best['dense']:.2f} s"
    return Row(name, best["experts"] / best["dense"], target, detail)
