"""Training a small image classifier, loading and augmentation included: ours against `transformers`' ViT of its shape.

32 × 32 images in PNG shards, patch 4, width 192, 6 layers, 3 heads, batch 64, flip and shift, AdamW (fused), one
process that also loads. ViT reads the same shards through webdataset, with our decoder and our augmentation, and is
given the faster of its attention implementations. Ours compares with encoded class names; ViT has a linear head.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import webdataset
from accelerate.state import AcceleratorState
from transformers import ViTConfig, ViTForImageClassification

from benchmarks.drawn import glyph
from benchmarks.measure import Row, best_seconds
from benchmarks.step import precisions
from unified.config.model import ModelSettings
from unified.config.recipe import DataSettings, Recipe, TrainSettings
from unified.config.task import Answer, Task
from unified.core import seed
from unified.data.augment.augment import augment, build_transforms
from unified.data.shards.write import ShardWriter
from unified.modalities.image.files import decode_image
from unified.modalities.image.settings import ImageSettings
from unified.modalities.image.tokenizer import ImageSpec, ImageTokenizer
from unified.modalities.text.settings import TextSettings
from unified.pipeline.loader import StepLoader
from unified.train.build import build
from unified.train.engines.accelerator import make_accelerator
from unified.train.precision import PRECISIONS
from unified.train.trainer import Trainer

SIDE, PATCH, WIDTH, DEPTH, HEADS, BATCH, SAMPLES, STEPS = 32, 4, 192, 6, 3, 64, 2048, 8
AUGMENT = ({"kind": "flip"}, {"kind": "affine", "translate": 0.1, "fill": "white"})


def ours(folder: Path, precision: str) -> Callable[[], None]:
    """`STEPS` steps of a run, its loader in this process."""
    ImageTokenizer(ImageSpec(SIDE, SIDE, mean=(0.5,) * 3, std=(0.5,) * 3), PATCH).save(folder / "tokenizer")
    answer = Answer.of(candidates="labels/digits")
    task = Task(str(folder / "shards"), {"png": "image"}, "cls", answer, "accuracy", BATCH, augment=AUGMENT)
    model = ModelSettings(
        width=WIDTH, depth=DEPTH, heads=HEADS, hidden=4 * WIDTH, layer_scale=None,
        modalities={
            "image": ImageSettings(str(folder / "tokenizer"), PATCH, frames=1),
            "text": TextSettings(max_length=8, positions=8),
        },
    )  # fmt: skip
    train = replace(TrainSettings(), precision=precision)  # type: ignore[arg-type]
    recipe = Recipe({"classes": task}, 10**6, 1, model=model, data=DataSettings(workers=0), train=train)
    AcceleratorState._reset_state(reset_partial_state=True)
    parts = build(recipe)
    loader = StepLoader(recipe, parts.tokenizers, parts.labels)
    trainer = Trainer(recipe, make_accelerator(recipe, folder), parts, loader.probe())
    batches = iter(loader)

    def run() -> None:
        for _ in range(STEPS):
            trainer.train_step(next(batches)[1])

    return run


def theirs(folder: Path, precision: str, attention: str) -> Callable[[], None]:
    """As many steps of ViT."""
    config = ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, intermediate_size=4 * WIDTH,
        image_size=SIDE, patch_size=PATCH, num_labels=10, attn_implementation=attention,
    )  # fmt: skip
    with seed.seeded(0, "benchmark"):
        model = ViTForImageClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batches = _batches(folder / "shards")
    half = PRECISIONS[precision] != torch.float32

    def run() -> None:
        for _ in range(STEPS):
            pixels, labels = next(batches)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = model(pixel_values=(pixels.float() / 255 - 0.5) / 0.5, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss.item()  # whoever trains wants to see it

    return run


def _batches(shards: Path) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Augmented pixels and class numbers, epoch after epoch."""
    transforms = build_transforms(AUGMENT, "benchmark", ["image"])["image"]
    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    data = webdataset.WebDataset(urls, shardshuffle=False).map_dict(png=decode_image, cls=int).to_tuple("png", "cls")
    for epoch in count():
        for number, (images, labels) in enumerate(data.batched(BATCH, collation_fn=lambda rows: tuple(zip(*rows)))):  # noqa: B905
            index = np.arange(BATCH) + BATCH * (number + epoch * SAMPLES // BATCH)
            yield torch.stack(augment(images, transforms, index, 0, "benchmark")), torch.tensor(labels)


def rows() -> list[Row]:
    """Our samples a second over ViT's, in fp32, and in bf16 where this machine multiplies it."""
    found = []
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with ShardWriter(folder / "shards", kind="benchmark", source="made", samples_per_shard=SAMPLES) as writer:
            for number in range(SAMPLES):
                writer.write(f"{number:05d}", {"png": glyph(number, SIDE), "cls": number % 10})
        for precision in precisions():
            sides = {"ours": ours(folder, precision)}
            sides |= {f"ViT {way}": theirs(folder, precision, way) for way in ("sdpa", "eager")}
            rates = {name: STEPS * BATCH / seconds for name, seconds in best_seconds(sides, rounds=5).items()}
            peer = max(rate for name, rate in rates.items() if name != "ours")
            detail = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items()) + " samples/s"
            found.append(
                Row(f"small classifier / ViT of its shape, {precision}", rates["ours"] / peer, ">= 1.05", detail)
            )
    return found
