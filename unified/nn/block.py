"""One layer of the encoder."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unified.nn.attention import Attention, Cache
from unified.nn.mlp import Mlp


class Block(nn.Module):
    """Pre-norm attention and feed-forward branches, each with a learned scale and drop path.

    x ← x + drop(γ₁ ⊙ attention(LN₁ x));  x ← x + drop(γ₂ ⊙ mlp(LN₂ x))   (Uni-Perceiver, CVPR 2022)
    """

    def __init__(self, width: int, heads: int, hidden: int, layer_scale: float | None) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = Mlp(width, hidden)
        self.scale1: nn.Parameter | None = None
        self.scale2: nn.Parameter | None = None
        if layer_scale is not None:
            self.scale1 = nn.Parameter(torch.full((width,), layer_scale))
            self.scale2 = nn.Parameter(torch.full((width,), layer_scale))

    def forward(
        self,
        x: Float[Tensor, "b n w"],
        mask: Bool[Tensor, "b 1 q k"] | None,
        past: Cache | None = None,
        drop: Float[Tensor, "2 b"] | None = None,
    ) -> tuple[Float[Tensor, "b n w"], Cache]:
        """`drop`: factor of each branch for each sample, 0 where drop path closes it."""
        drop1, drop2 = (None, None) if drop is None else (drop[0], drop[1])
        attended, cache = self.attention(self.norm1(x), mask, past)
        x = _add(x, attended, self.scale1, drop1)
        return _add(x, self.mlp(self.norm2(x)), self.scale2, drop2), cache


def _add(x: Tensor, branch: Tensor, scale: Tensor | None, drop: Tensor | None) -> Tensor:
    if drop is not None:
        branch = branch * drop.to(branch.dtype)[:, None, None]
    return x + branch if scale is None else torch.addcmul(x, branch, scale)
