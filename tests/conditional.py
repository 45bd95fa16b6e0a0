"""Small networks with conditional experts, and what they are asked about."""

from typing import Any

import torch
from torch import Tensor

from unified.core import seed
from unified.core.types import Conditions, Segment, Tokens
from unified.modalities.sequence import Attributes, Layout, layout, visibility
from unified.modalities.text.tokenizer import text_tokens
from unified.model.config import UnifiedConfig
from unified.model.pretrained import UnifiedModel
from unified.model.routing_attributes import Conditioner, plain, shape
from unified.nn.encoder import Encoder
from unified.nn.moe.settings import ExpertSettings

ROUTERS = ("attribute", "task", "modality", "hash", "token", "context")
BY_ROW, BY_TOKEN = ROUTERS[:4], ROUTERS[4:]
FAMILIES = ("names", "words")
WIDTH, HEADS, HIDDEN, DEPTH = 16, 2, 24, 2
WORDS, SPE, END = 23, 22, 21
IMAGE = Attributes("image", given=("image", "text"), family="names")
TEXT = Attributes("text", given=("image", "text"), family="words")


def settings(router: str = "attribute", **changes: Any) -> dict[str, Any]:
    """The experts of a configuration: four, two of them chosen."""
    given: dict[str, Any] = {"count": 4, "top": 2, "layers": "all", **changes}
    return plain(ExpertSettings(router=router, **given), given.pop("depth", DEPTH))  # type: ignore[arg-type]


def encoder(experts: dict[str, Any], depth: int = DEPTH) -> Encoder:
    """An encoder whose weights are all drawn."""
    made = Encoder(WIDTH, depth, HEADS, HIDDEN, None, shape(experts, FAMILIES), experts["layers"])
    return draw(made)


def model(router: str | None = "attribute", **changes: Any) -> UnifiedModel:
    """A model for images of 16 pixels and a few words; None: dense."""
    image = {"patch": 8, "positions": "sincos", "position_scale": 1.0, "grid": 2, "frames": 1}
    config = UnifiedConfig(
        width=WIDTH,
        depth=DEPTH,
        heads=HEADS,
        hidden=HIDDEN,
        layer_scale=0.7,
        experts=settings(router, **changes) if router else None,
        modalities={
            "image": {**image, "height": 16, "width": 16, "mean": [0.5] * 3, "std": [0.25] * 3},
            "text": {"positions": 12, "max_length": 8},
        },
        vocabulary_size=WORDS,
        spe_token_id=SPE,
        end_token_id=END,
        families=list(FAMILIES),
    )
    made: UnifiedModel = draw(UnifiedModel(config))
    return made.eval()


@torch.no_grad()
def draw(module: Any) -> Any:
    """Every parameter drawn, so that none is at a value where mistakes do not show."""
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=seed.torch_generator(0, "conditional", name))
        base = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        if "log_scales" not in name:
            parameter.copy_(base + noise / (parameter.shape[-1] ** 0.5 if parameter.dim() > 1 else 4))
    return module


def normal(*size: int, name: str = "x", dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*size, generator=seed.torch_generator(0, name, *size), dtype=torch.float64).to(dtype)


def about(
    experts: dict[str, Any], parts: list[tuple[Attributes, int]], real: Tensor
) -> tuple[tuple[Segment, ...], Conditions, Layout]:
    """The segments and conditions of parts, as a model makes them."""
    whole = layout(parts)
    return *Conditioner(experts, FAMILIES)(whole, real, visibility(whole, real.device)), whole


def texts(*lengths: int, most: int = 0) -> Tokens:
    """Texts of these lengths, padded."""
    longest = max(*lengths, most)
    ids = torch.randint(0, END, (len(lengths), 12), generator=seed.torch_generator(0, "texts", *lengths))[:, :longest]
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    return text_tokens(ids.masked_fill(~mask, END), mask)


def pixels(rows: int) -> Tensor:
    generator = seed.torch_generator(0, "pixels")
    return torch.randint(0, 256, (rows, 3, 16, 16), dtype=torch.uint8, generator=generator)
