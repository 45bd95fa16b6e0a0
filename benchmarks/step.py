"""A contrastive training step of ours against the vision and text towers of `transformers`' CLIP, equal in size.

CLIP is given the faster of its attention implementations. bf16 is measured where the machine multiplies it in hardware.

Equal: width, depth, heads, feed-forward width, patches, tokens of images and texts (with [SPE], with the class token),
batch, AdamW (fused), precision. CLIP has two towers, ours is one network that runs twice; so each of CLIP's towers is
given the same depth, and both sides do the same number of token-layers. Timed are normalising the pixels, forward,
loss, backward and optimizer. Ours has a learned scale on each branch, as in Uni-Perceiver; CLIP has none.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import CLIPConfig, CLIPModel

from benchmarks.measure import Row, best_seconds
from unified.answers.score import score
from unified.config.task import Answer, Task
from unified.core import seed
from unified.core.types import Batch
from unified.modalities.image.patches import patches
from unified.modalities.text.tokenizer import text_tokens
from unified.model.config import UnifiedConfig
from unified.model.pretrained import UnifiedModel
from unified.train.precision import PRECISIONS, has_fast_bf16

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Shape:
    """What both sides have in common."""

    width: int = 384
    depth: int = 6
    heads: int = 6
    size: int = 112
    patch: int = 16
    text: int = 16
    batch: int = 32
    words: int = 4096


def precisions() -> tuple[str, ...]:
    """What is worth measuring here."""
    return ("fp32", "bf16") if has_fast_bf16() else ("fp32",)


def draw(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and text ids; no text has padding, so that neither side computes more than the other."""
    generator = seed.torch_generator(0, "benchmark data")
    pixels = torch.randint(0, 256, (shape.batch, 3, shape.size, shape.size), dtype=torch.uint8, generator=generator)
    ids = torch.randint(2, shape.words, (shape.batch, shape.text), generator=generator)
    ids[:, -1] = 1
    return pixels, ids


def ours(
    shape: Shape, pixels: torch.Tensor, ids: torch.Tensor, precision: torch.dtype, device: torch.device = CPU
) -> tuple[UnifiedModel, Callable[[], object]]:
    """A `UnifiedModel` and one training step of it on a retrieval batch."""
    image = {"patch": shape.patch, "positions": "sincos", "position_scale": 1.0, "grid": 14, "frames": 8}
    config = UnifiedConfig(
        width=shape.width, depth=shape.depth, heads=shape.heads, hidden=4 * shape.width, layer_scale=0.1,
        modalities={
            "image": {**image, "height": shape.size, "width": shape.size, "mean": [0.5] * 3, "std": [0.5] * 3},
            "text": {"positions": 64, "max_length": shape.text},
        },
        vocabulary_size=shape.words, spe_token_id=0, end_token_id=1,
        families=["retrieve"],
    )  # fmt: skip
    with seed.seeded(0, "benchmark"):
        model = UnifiedModel(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    task = Task("", {"png": "image"}, "txt", Answer.of(candidates="batch"), "accuracy", shape.batch, family="retrieve")
    # [SPE] takes one place of the text, so that both sides encode sequences of `shape.text` tokens.
    target = {"tokens": text_tokens(ids[:, 1:]), "group": torch.arange(shape.batch)}
    images = {"image": patches(pixels, shape.patch)}
    batch = Batch("retrieve", images, target, [str(i) for i in range(shape.batch)]).to(device)

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = score(model, task, batch).loss.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, run


def clip(
    shape: Shape,
    pixels: torch.Tensor,
    ids: torch.Tensor,
    precision: torch.dtype,
    attention: str,
    device: torch.device = CPU,
) -> Callable[[], object]:
    """The same step of `transformers`' CLIP, by one of its attention implementations."""
    towers = {
        "hidden_size": shape.width,
        "intermediate_size": 4 * shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "hidden_act": "gelu",  # the same activation as ours: CLIP's own quick_gelu is slower on a CPU
    }
    config = CLIPConfig(
        text_config={
            **towers,
            "vocab_size": shape.words,
            "max_position_embeddings": 64,
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
        vision_config={**towers, "image_size": shape.size, "patch_size": shape.patch},
        projection_dim=shape.width,
        attn_implementation=attention,
    )
    with seed.seeded(0, "benchmark"):
        model = CLIPModel(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    pixels, ids = pixels.to(device), ids.to(device)
    visible = torch.ones_like(ids)

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            normalised = (pixels.float() / 255 - 0.5) / 0.5  # as part of the step, like ours
            loss = model(input_ids=ids, pixel_values=normalised, attention_mask=visible, return_loss=True).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def rows() -> list[Row]:
    """The ratio of step times, ours / CLIP, in fp32 and bf16."""
    shape = Shape()
    pixels, ids = draw(shape)
    found = []
    for name in precisions():
        sides = {"ours": ours(shape, pixels, ids, PRECISIONS[name])[1]}
        sides |= {f"CLIP {way}": clip(shape, pixels, ids, PRECISIONS[name], way) for way in ("sdpa", "eager")}
        best = best_seconds(sides)
        peer = min(seconds for side, seconds in best.items() if side != "ours")
        detail = ", ".join(f"{side} {shape.batch / seconds:.0f}" for side, seconds in best.items()) + " pairs/s"
        found.append(Row(f"training step / CLIP of equal size, {name}", best["ours"] / peer, "<= 0.92", detail))
    return found
