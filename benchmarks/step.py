"""A contrastive training step of ours against the vision and text towers of `transformers`' CLIP, equal in size.

Equal: width, depth, heads, feed-forward width, patches, image and text tokens, batch, AdamW (fused), precision. CLIP
has two towers, ours is one network that runs twice; so CLIP's towers are given the same depth each, and both sides do
the same number of token-layers. Forward, loss, backward and optimizer are timed.
"""

from collections.abc import Callable

import torch
from transformers import CLIPConfig, CLIPModel

from benchmarks.measure import Row, best_seconds
from unified import seed
from unified.configuration import UnifiedConfig
from unified.matching import score
from unified.model import UnifiedModel, text_tokens
from unified.modalities.image import patches
from unified.task import Match, Task
from unified.types import Batch

WIDTH, DEPTH, HEADS, SIZE, PATCH, TEXT, BATCH, WORDS = 384, 6, 6, 112, 16, 16, 32, 4096


def ours(pixels: torch.Tensor, ids: torch.Tensor, precision: torch.dtype | None) -> Callable[[], object]:
    """One training step of a `UnifiedModel` on a retrieval batch."""
    image = {"patch": PATCH, "positions": "sincos", "position_scale": 1.0, "grid": SIZE // PATCH, "frames": 8}
    config = UnifiedConfig(
        width=WIDTH, depth=DEPTH, heads=HEADS, hidden=4 * WIDTH, layer_scale=0.1, drop_path=0.0,
        image={**image, "height": SIZE, "width": SIZE, "mean": [0.5] * 3, "std": [0.5] * 3},
        text={"positions": 64, "max_length": TEXT}, vocabulary_size=WORDS, spe_token_id=0, end_token_id=1,
        families=["retrieve"],
    )  # fmt: skip
    with seed.seeded(0, "benchmark"):
        model = UnifiedModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    task = Task("", {"png": "image"}, "txt", Match("batch"), "accuracy", BATCH, family="retrieve")
    target = {"tokens": text_tokens(ids), "group": torch.arange(BATCH)}
    batch = Batch("retrieve", {"image": patches(pixels, PATCH)}, target, [str(i) for i in range(BATCH)])

    def run() -> None:
        with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
            loss = score(model, task, batch).loss.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def clip(pixels: torch.Tensor, ids: torch.Tensor, precision: torch.dtype | None) -> Callable[[], object]:
    """The same step of `transformers`' CLIP."""
    shape = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "hidden_act": "gelu",  # the same activation as ours: CLIP's own quick_gelu is slower on a CPU
    }
    config = CLIPConfig(
        text_config={**shape, "vocab_size": WORDS, "max_position_embeddings": 64, "eos_token_id": 1},
        vision_config={**shape, "image_size": SIZE, "patch_size": PATCH},
        projection_dim=WIDTH,
        attn_implementation="sdpa",
    )
    with seed.seeded(0, "benchmark"):
        model = CLIPModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    normalised = (pixels.float() / 255 - 0.5) / 0.5  # not timed: CLIP's processor does this ahead of the model
    visible = torch.ones_like(ids)

    def run() -> None:
        with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
            loss = model(input_ids=ids, pixel_values=normalised, attention_mask=visible, return_loss=True).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def rows() -> list[Row]:
    """The ratio of step times, ours / CLIP, in fp32 and bf16."""
    generator = seed.torch_generator(0, "benchmark data")
    pixels = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    # No text has padding: it would let ours skip nothing, and CLIP nothing either.
    ids = torch.randint(2, WORDS, (BATCH, TEXT), generator=generator)
    ids[:, -1] = 1
    found = []
    for name, precision in (("fp32", None), ("bf16", torch.bfloat16)):
        best = best_seconds({"ours": ours(pixels, ids, precision), "clip": clip(pixels, ids, precision)})
        ratio = best["ours"] / best["clip"]
        detail = f"ours {BATCH / best['ours']:.0f} pairs/s, CLIP {BATCH / best['clip']:.0f}"
        found.append(Row(f"training step / CLIP of equal size, {name}", ratio, "<= 1.00", detail))
    return found
