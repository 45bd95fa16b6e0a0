"""Small models that folding and starting are tested with, and inputs for them."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from unified.answers.score import token_kinds
from unified.config.model import ModelSettings
from unified.config.task import Answer, Task
from unified.core import seed
from unified.hub.load import Loaded, write
from unified.modalities import load_tokenizers
from unified.modalities.base import Tokenizer
from unified.modalities.image.settings import ImageSettings
from unified.modalities.text.settings import TextSettings
from unified.model.config import UnifiedConfig
from unified.model.pretrained import UnifiedModel
from unified.model.processor import UnifiedProcessor
from unified.nn.moe.settings import ExpertSettings

IMAGE = ImageSettings("image_glyph", 8, frames=1)
SETTINGS = ModelSettings(
    width=32,
    depth=3,
    heads=2,
    hidden=48,
    layer_scale=0.5,
    modalities={"image": IMAGE, "text": TextSettings(max_length=12, positions=16)},
)
TASKS = {
    "classify": Task("", {"png": "image"}, "txt", Answer.of(candidates="batch"), "accuracy", 2),
    "caption": Task("", {"png": "image"}, "txt", Answer.of(candidates="vocabulary", read="caption"), "perplexity", 2),
    "hidden": Task(
        "",
        {"txt": "text"},
        "txt",
        Answer.of(candidates="vocabulary", read="masked", vocabulary="encoder"),
        "perplexity",
        2,
    ),
}


@cache
def words_and_images() -> dict[str, Tokenizer]:
    """The tokenizers of all these models."""
    return load_tokenizers(SETTINGS.modalities)


def small_model(
    experts: ExpertSettings | None = None,
    *,
    tasks: Mapping[str, Task] = TASKS,
    name: str = "small",
    settings: ModelSettings = SETTINGS,
) -> UnifiedModel:
    """A model of 3 layers with drawn weights, biases and norms included, so that nothing is hidden by a 0 or a 1."""
    tokenizers = words_and_images()
    kinds = {task: token_kinds(what, task) for task, what in tasks.items()}
    shape = replace(settings, experts=experts)
    with seed.seeded(name):
        model = UnifiedModel(UnifiedConfig.from_settings(shape, tokenizers, list(tasks), kinds))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1 or parameter.shape[-1] != parameter.shape[-2]:
                    parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def written(model: UnifiedModel, folder: Path) -> Path:
    """The model as a folder for `unified.load`."""
    folder.mkdir(parents=True)
    write(Loaded(model, UnifiedProcessor.from_tokenizers(words_and_images()), "a test"), folder, folder.name)
    return folder


def random_inputs(model: UnifiedModel, *key: str) -> dict[str, Any]:
    """Three pictures and three texts, one of them padded."""
    generator = seed.torch_generator("inputs", *key)
    image = model.config.spatial
    size = (3, 3, image["height"], image["width"])
    mask = torch.ones(3, 8, dtype=torch.long)
    mask[1, 5:] = 0
    return {
        "pixel_values": torch.randint(0, 256, size, dtype=torch.uint8, generator=generator),
        "input_ids": torch.randint(0, model.config.vocabulary_size, (3, 8), generator=generator),
        "attention_mask": mask,
    }
