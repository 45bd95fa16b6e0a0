"""Multi-head self-attention."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

Cache = tuple[Float[Tensor, "b h _ d"], Float[Tensor, "b h _ d"]]
"""Keys and values of tokens that were encoded before."""


class QueryKeyValue(nn.Linear):
    """The projections to queries, keys and values, fused; their matrices are initialised each on its own."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 3 * width)

    def matrices(self) -> tuple[Float[Tensor, "w w"], ...]:
        """The three matrices, as views of the weight."""
        return self.weight.chunk(3)


class Attention(nn.Module):
    """Self-attention with one fused projection of queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = QueryKeyValue(width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b n w"], mask: Bool[Tensor, "b 1 q k"] | None, past: Cache | None = None
    ) -> tuple[Float[Tensor, "b n w"], Cache]:
        """`mask`: True = may attend; None = everything. The keys of `past` come before those of `x`."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width)), (key, value)
