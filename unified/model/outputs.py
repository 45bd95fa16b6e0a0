"""What the model returns."""

from dataclasses import dataclass, fields
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers.utils import ModelOutput

from unified.modalities.sequence import (
    Layout,
)
from unified.nn.attention import Cache
from unified.nn.moe.routing import Usage


@dataclass(frozen=True)
class Encoded:
    """States of a sequence, what its tokens are, the cache to continue it, and what routers chose."""

    states: Float[Tensor, "b s w"]
    layout: Layout
    past: tuple[Cache, ...]
    routing: tuple[Usage, ...]
    layers: tuple[Float[Tensor, "b n w"], ...] = ()


@dataclass
class UnifiedOutput(ModelOutput):  # type: ignore[misc]
    """What `UnifiedModel.forward` returns; a field is None when its inputs were not given."""

    loss: Any = None  # (), where `labels` or `return_loss` ask for it; copies are made by giving a mapping here
    logits_per_image: Tensor | None = None  # (images, texts)
    logits_per_text: Tensor | None = None
    image_embeds: Tensor | None = None  # unit length
    text_embeds: Tensor | None = None
    logits: Tensor | None = None  # of a task's own answers

    def in_order(self) -> "UnifiedOutput":
        """Return it with its fields in order, also those that were set late: clients take the loss as the first."""
        return UnifiedOutput(**{field.name: getattr(self, field.name) for field in fields(self)})
