"""Multi-head self-attention."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unified.nn.moe.experts import Dense
from unified.nn.scaled_dot_product import attend, attend_fused

MakeLinear = Callable[[str, int, int], nn.Module]
"""Makes the linear of a name from inputs to outputs."""


class Cache(NamedTuple):
    """What a layer keeps of tokens that were encoded before."""

    key: Float[Tensor, "b h m d"]
    value: Float[Tensor, "b h m d"]
    context: Mapping[str, Float[Tensor, "b w"]]  # pooled states, where routers look at them

    def rows(self, index: Int[Tensor, "r"]) -> "Cache":
        """That of some of the samples, or of samples repeated."""
        context = {name: pooled[index] for name, pooled in self.context.items()}
        return Cache(self.key[index], self.value[index], context)

    def without_last(self) -> "Cache":
        """As if the last token had not been there."""
        return self._replace(key=self.key[:, :, :-1], value=self.value[:, :, :-1])


class QueryKeyValue(nn.Linear):
    """The projections to queries, keys and values, fused; their matrices are initialised each on its own."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 3 * width)

    def matrices(self) -> tuple[Float[Tensor, "w w"], ...]:
        """The three matrices, as views of the weight."""
        return self.weight.chunk(3)


class Attention(nn.Module):
    """Self-attention with one fused projection of queries, keys and values."""

    eager = False

    def __init__(self, width: int, heads: int, make: MakeLinear) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = make("qkv", width, 3 * width)
        self.out = make("out", width, width)

    def forward(
        self,
        x: Float[Tensor, "b n w"],
        mask: Bool[Tensor, "_ 1 q k"] | None,
        layer: Dense,
        past: Cache | None = None,
        read: slice | None = None,
    ) -> tuple[Float[Tensor, "b s w"], Float[Tensor, "b h m d"], Float[Tensor, "b h m d"]]:
        """Attended states, and all keys and values, those of `past` first. `mask`: True = may attend; None = all.

        `read`: the tokens whose states are wanted; None: all n.
        """
        batch, length, width = x.shape
        qkv = layer.linear("qkv", self.qkv, x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()
        if past is not None:
            key, value = torch.cat([past.key, key], dim=2), torch.cat([past.value, value], dim=2)
        if read is not None:
            layer, query = layer.within(read), query[:, :, read]
            mask = mask if mask is None or mask.shape[2] == 1 else mask[:, :, read]
        if past is None and read is None:
            mixed = attend_fused(qkv, mask, eager=self.eager)
        else:
            mixed = attend(query, key, value, mask, eager=self.eager).transpose(1, 2).flatten(2)
        return layer.linear("out", self.out, mixed), key, value

    def remember(self, prompts: Float[Tensor, "p w"], layer: Dense, batch: int) -> Cache:
        """Keys and values of normed prompts, the same for all samples, as if they had been encoded before."""
        count, width = prompts.shape
        qkv = layer.leading("qkv", self.qkv, prompts).view(1, count, 3, self.heads, width // self.heads)
        _, key, value = qkv.permute(2, 0, 3, 1, 4).expand(-1, batch, -1, -1, -1).unbind()
        return Cache(key, value, {})
