"""A small model with drawn weights that has a task of every reading of queries."""

from functools import cache

import torch
from small_models import words_and_images

from unified.answers.table import make_spec
from unified.config.model import ModelSettings
from unified.core import seed
from unified.modalities.image.settings import ImageSettings
from unified.modalities.text.settings import TextSettings
from unified.model.config import UnifiedConfig
from unified.model.pretrained import UnifiedModel
from unified.model.processor import UnifiedProcessor
from unified.nn.queries.modules import ZeroLinear
from unified.nn.queries.settings import QuerySettings

SIZE = (32, 48)
CLASSES, POINTS = ("sky", "red square", "green square"), ("left eye", "right eye", "nose")
COMMON = {"size": SIZE, "family": "all"}
SPECS = {
    "classes": make_spec("classes", 3, names=CLASSES, softmax=True, **COMMON),
    "parts": make_spec("classes", 3, names=CLASSES, **COMMON),
    "open": make_spec("classes", 3, names=CLASSES, from_names=True, **COMMON),
    "points": make_spec("points", 3, names=POINTS, **COMMON),
    "likely points": make_spec("points", 3, names=POINTS, softmax=True, **COMMON),
    "bins": make_spec("bins", 8, limits=(0.5, 4.0), **COMMON),
    "directions": make_spec("directions", 3, **COMMON),
    "share": make_spec("share", 1, **COMMON),
    "pixels": make_spec("pixels", 48, operator="denoise", **COMMON),
    "larger": make_spec("pixels", 192, operator="identity", scale=2, **COMMON),
    "reshade": make_spec("pixels", 48, operator="reshade", **COMMON),
    "density": make_spec("density", 1, **COMMON),
    "boxes": make_spec("boxes", 6, names=CLASSES[1:], **COMMON),
    "masks": make_spec("masks", 6, names=CLASSES[1:], **COMMON),
    "presence": make_spec("presence", 2, names=CLASSES[1:], **COMMON),
    "places": make_spec("places", 3, names=POINTS, **COMMON),
    "identity": make_spec("identity", 2, identities=4, **COMMON),
}


def outspoken(model: UnifiedModel) -> None:
    """Draw the last linears of answers, which begin at zero, so that answers differ as learned ones do."""
    for name, module in model.named_modules():
        if isinstance(module, ZeroLinear):  # the last of several, or one alone
            torch.nn.init.xavier_uniform_(module.weight, gain=0.1 if ".layers." in name else 1.0)


@cache
def dense_model() -> UnifiedModel:
    """With patches of 8 pixels, and maps with a place for every 4."""
    settings = ModelSettings(
        width=32, depth=2, heads=2, hidden=48, layer_scale=None,
        modalities={
            "image": ImageSettings("image_glyph", 8, frames=1),
            "text": TextSettings(max_length=12, positions=16),
        },

        queries=QuerySettings(depth=2, width=32, heads=2, hidden=48, doublings=1),
    )  # fmt: skip
    with seed.seeded("dense model"):
        model = UnifiedModel(UnifiedConfig.from_settings(settings, words_and_images(), ["all"], {}, SPECS))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        outspoken(model)
    processor = UnifiedProcessor.from_tokenizers(words_and_images())
    model.processor = processor
    return model.eval()
