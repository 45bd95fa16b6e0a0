"""Small shards and a small recipe with every kind of match answer, for tests of training."""

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from torch import Tensor

from unified.config.recipe import Recipe
from unified.core import seed
from unified.core.distributed import rank
from unified.core.schema import build
from unified.data.shards.write import ShardWriter
from unified.nn.moe.settings import ExpertSettings
from unified.train.trainer import Trainer

COLOURS = {"red": (230, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 230), "grey": (128, 128, 128)}


def write_shards(folder: Path, samples: int = 48, samples_per_shard: int = 20) -> Path:
    """Noisy pictures of colours with captions."""
    with ShardWriter(folder, kind="pairs", source="test", samples_per_shard=samples_per_shard) as writer:
        for number in range(samples):
            name = list(COLOURS)[number % len(COLOURS)]
            draw = seed.generator("picture", number).integers(-20, 20, (16, 16, 3))
            pixels = np.clip(np.array(COLOURS[name]) + draw, 0, 255).astype(np.uint8)
            png = BytesIO()
            Image.fromarray(pixels).save(png, "png")
            columns = {
                "png": png.getvalue(),
                "txt": f"a {name} square number {number % 7}",
                "cls": number % len(COLOURS),
                "json": {"colour": name},
            }
            writer.write(f"{number:05d}", columns)
    return folder


def recipe_content(data: Path, labels: Path, **changes: Any) -> dict[str, Any]:
    """The recipe as YAML would hold it."""
    labels.write_text(yaml.safe_dump({"names": list(COLOURS)}))
    image = {"data": str(data), "inputs": {"png": "image"}, "target": "txt", "metric": "accuracy", "batch": 8}
    words = {"data": str(data), "inputs": {"txt": "text"}, "target": "txt", "metric": "perplexity", "batch": 4}
    answer = {"candidates": "vocabulary"}
    content = {
        "max_steps": 6,
        "slots": 2,
        "seed": 5,
        "model": {
            "width": 32,
            "depth": 2,
            "heads": 2,
            "hidden": 64,
            "drop_path": 0.1,
            "modalities": {
                "image": {"tokenizer": "image_glyph", "patch": 8, "frames": 1},
                "text": {"max_length": 16, "positions": 16},
            },
        },
        "optim": {"lr": 1e-3, "warmup": 2, "ema": 0.9},
        "data": {"workers": 0},
        "train": {"log_every": 1, "save_every": 2, "keep_last": 2},
        "tasks": {
            "retrieve": {**image, "answer": {"candidates": "batch"}, "augment": [{"kind": "flip"}]},
            "colour": {**image, "target": "json.colour", "answer": {"candidates": str(labels)}},
            "caption": {**image, "batch": 4, "metric": "perplexity", "answer": {**answer, "read": "caption"}},
            "hidden": {**words, "answer": {**answer, "read": "masked"}},
            "next": {**words, "answer": {**answer, "read": "causal"}},
        },
    }
    return {**content, **changes}


def tiny_recipe(folder: Path, **changes: Any) -> Recipe:
    """The recipe over shards in `folder` (written when absent)."""
    data = folder / "data"
    if not data.exists():
        write_shards(data)
    return build(Recipe, recipe_content(data, folder / "colours.yaml", **changes), "tiny.yaml")


def with_experts(recipe: Recipe, router: str = "attribute", **changes: Any) -> Recipe:
    """The recipe with four experts, two of them chosen, in its first layer."""
    content = {"count": 4, "top": 2, "router": router, **changes}
    return replace(recipe, model=replace(recipe.model, experts=build(ExpertSettings, content, "experts")))


def write_recipe(folder: Path, **changes: Any) -> Path:
    """The same as a YAML file, for commands."""
    data = folder / "data"
    if not data.exists():
        write_shards(data)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe_content(data, folder / "colours.yaml", **changes)))
    return path


def tensors_of(trainer: Trainer) -> dict[str, dict[str, Tensor]]:
    """Copies of everything that a checkpoint holds, by group and name: on rank 0, while the others take part."""
    found: dict[str, dict[str, Tensor]] = {}
    for group, name, tensor in trainer.tensors():
        if rank() == 0:
            found.setdefault(group, {})[name] = tensor.detach().clone()
    return found


def losses(run: Path) -> list[dict[str, float]]:
    """The losses of each step in a run's metrics.jsonl."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k == "step" or k.startswith("loss/")} for r in records if "lr" in r]
