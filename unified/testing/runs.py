"""Small shards, recipes and models for tests of what other packages add."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from torch import Tensor

from unified import checkpoint
from unified.config.model import ModelSettings
from unified.config.recipe import Recipe
from unified.core.schema import build
from unified.data.shards.write import ShardWriter
from unified.modalities import MODALITIES, load_tokenizers
from unified.model.config import UnifiedConfig
from unified.model.pretrained import UnifiedModel
from unified.model.processor import UnifiedProcessor

COLOURS = {"red": (230, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 230), "grey": (128, 128, 128)}
FAMILIES = ("pictures", "words")
"""Of the tasks that are there without the modality under test."""
SAMPLES = 16
NETWORK: dict[str, Any] = {"width": 32, "depth": 2, "heads": 2, "hidden": 64}
BUILT_IN: dict[str, dict[str, Any]] = {
    MODALITIES.spatial: {"tokenizer": "image_glyph", "patch": 8, "frames": 1},
    MODALITIES.language: {"max_length": 16, "positions": 16},
}


def write_shards(folder: Path, column: str, values: Sequence[bytes]) -> Path:
    """Write pictures of colours with captions and classes, and beside each a value of a modality; returns the folder.

    Args:
        folder: A new folder.
        column: The ending of the column of the values.
        values: As they lie in shards, taken in turn.
    """
    with ShardWriter(folder, kind="pairs", source="test", samples_per_shard=SAMPLES) as writer:
        for number in range(SAMPLES):
            name = list(COLOURS)[number % len(COLOURS)]
            png = BytesIO()
            Image.fromarray(np.full((16, 16, 3), COLOURS[name], np.uint8)).save(png, "png")
            columns = {"png": png.getvalue(), "txt": f"a {name} square", "cls": number % len(COLOURS)}
            writer.write(f"{number:05d}", {**columns, column: values[number % len(values)]})
    return folder


def recipe_of(data: Path, name: str = "", column: str = "", settings: Any = None, **changes: Any) -> Recipe:
    """Return a recipe of a few steps on images and texts, and on one more modality where it is named.

    Args:
        data: The folder of `write_shards`.
        name: The modality.
        column: Its column.
        settings: Its settings; None: the defaults.
        changes: Further keys of the recipe.
    """
    labels = data.parent / "colours.yaml"
    labels.write_text(yaml.safe_dump({"names": list(COLOURS)}), encoding="utf-8")
    colours = {"data": str(data), "target": "cls", "metric": "accuracy", "batch": 4}
    colours |= {"answer": {"candidates": str(labels)}}
    words = {"candidates": "vocabulary", "read": "masked"}
    picture, text = {"png": MODALITIES.spatial}, {"txt": MODALITIES.language}
    tasks: dict[str, Any] = {
        FAMILIES[0]: {**colours, "inputs": picture},
        FAMILIES[1]: {**colours, "inputs": text, "target": "txt", "metric": "perplexity", "answer": words},
    }
    modalities: dict[str, Any] = dict(BUILT_IN)
    if name:
        tasks[name] = {**colours, "inputs": {column: name}}
        tasks[f"{name} and picture"] = {**colours, "inputs": {**picture, column: name}, "family": name}
        modalities[name] = {} if settings is None else asdict(settings)
    experts = {"count": 4, "top": 2, "router": "attribute"}
    content = {
        "max_steps": 6,
        "slots": 1,
        "model": {**NETWORK, "experts": experts, "modalities": modalities},
        "data": {"workers": 0},
        "train": {"log_every": 1, "save_every": 1, "keep_last": 10},
        "tasks": tasks,
    }
    return build(Recipe, {**content, **changes}, "recipe")


def spec_of(data: Path, name: str, column: str, folder: Path) -> Path:
    """Write and return a spec of one evaluation: which colour is it, from a modality alone.

    Args:
        data: The folder of `write_shards`.
        name: The modality.
        column: Its column.
        folder: Where the spec goes.
    """
    colours = {"kind": "classification", "data": str(data), "inputs": {column: name}, "labels": list(COLOURS)}
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump({"evaluations": {"colours": {**colours, "family": name}}}), encoding="utf-8")
    return path


def model_of(name: str, settings: Any) -> tuple[UnifiedModel, UnifiedProcessor]:
    """Return a small model with images, texts and one more modality, and its processor.

    Args:
        name: The modality.
        settings: Its settings.
    """
    modalities = MODALITIES.read({**BUILT_IN, name: asdict(settings)}, "modalities")
    whole = build(ModelSettings, {**NETWORK, "modalities": {**BUILT_IN, name: asdict(settings)}}, "model")
    tokenizers = load_tokenizers(modalities)
    model = UnifiedModel(UnifiedConfig.from_settings(whole, tokenizers, ["default"]))
    return model.eval(), UnifiedProcessor.from_tokenizers(tokenizers, modalities)


def steps_of(out: Path) -> Mapping[int, str]:
    """Return the tasks of each step of a run, joined by spaces."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {r["step"]: " ".join(key for key in r if key.startswith("loss/")) for r in records if "lr" in r}


def groups_by_step(out: Path) -> Mapping[int, dict[str, Tensor]]:
    """Return the weights and moments of all checkpoints of a run, by step and by group and name."""
    found = {}
    for path in checkpoint.listed(out / "checkpoints"):
        read = checkpoint.load(path)
        found[read.step] = {f"{g}/{n}": tensor for g, group in read.tensors.items() for n, tensor in group.items()}
    return found
