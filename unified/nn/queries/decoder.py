"""The decoder that task queries pass through (UniHCP, CVPR 2023): to the memory, to one another, each on its own."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unified.nn.scaled_dot_product import attend

Norm = Literal["post", "pre"]
Activation = Literal["relu", "gelu"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class Remembered(NamedTuple):
    """Keys and values of a memory in one layer, which any number of groups of queries may look at."""

    key: Float[Tensor, "b h n e"]
    value: Float[Tensor, "b h n e"]


class QueryAttention(nn.Module):
    """Attention with positions in queries and keys alone, never in values."""

    eager = False

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def remember(self, keyed: Float[Tensor, "b n d"], memory: Float[Tensor, "b n d"]) -> Remembered:
        """Keys of states with their positions, and values of the states themselves."""
        return Remembered(self._split(self.key(keyed)), self._split(self.value(memory)))

    def forward(
        self, queries: Float[Tensor, "b q d"], seen: Remembered, mask: Bool[Tensor, "b 1 1 n"] | None = None
    ) -> Float[Tensor, "b q d"]:
        """`queries` with their positions; `mask`: True = may attend, None = all."""
        mixed = attend(self._split(self.query(queries)), *seen, mask=mask, eager=self.eager)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class QueryLayer(nn.Module):
    """Cross-attention, self-attention and feed-forward, each added and normed after (post) or normed before (pre)."""

    def __init__(self, width: int, heads: int, hidden: int, norm: Norm, activation: Activation) -> None:
        super().__init__()
        self.cross = QueryAttention(width, heads)
        self.own = QueryAttention(width, heads)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.post = norm == "post"
        self.activation = ACTIVATIONS[activation]

    def forward(
        self,
        x: Float[Tensor, "b q d"],
        position: Float[Tensor, "_ q d"],
        seen: Remembered,
        mask: Bool[Tensor, "b 1 1 n"] | None,
    ) -> Float[Tensor, "b q d"]:
        """`position`: of the queries, of each sample or the same for all. `seen`: the memory in this layer."""

        def cross(y: Tensor) -> Tensor:
            return self.cross(y + position, seen, mask)

        def own(y: Tensor) -> Tensor:
            placed = y + position
            return self.own(placed, self.own.remember(placed, y))

        def feed_forward(y: Tensor) -> Tensor:
            return self.down(self.activation(self.up(y)))

        for norm, branch in zip(self.norms, (cross, own, feed_forward), strict=True):
            x = norm(x + branch(x)) if self.post else x + branch(norm(x))
        return x


class QueryDecoder(nn.Module):
    """A stack of layers and one norm, which the states after each of them pass before they are read.

    Official UniHCP: depth 9, width 256, 8 heads, hidden 2048, post-norm, ReLU.
    """

    def __init__(
        self, depth: int, width: int, heads: int, hidden: int, norm: Norm = "post", activation: Activation = "relu"
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(QueryLayer(width, heads, hidden, norm, activation) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        queries: Float[Tensor, "b q d"],
        query_position: Float[Tensor, "_ q d"],
        memory: Float[Tensor, "b n d"],
        memory_position: Float[Tensor, "_ n d"],
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[Float[Tensor, "b q d"], ...]:
        """Normed states: of the initial queries, then after each layer. `mask`: True = may be attended; None = all."""
        return self.decode(queries, query_position, self.remember(memory, memory_position), mask)

    def remember(
        self, memory: Float[Tensor, "b n d"], memory_position: Float[Tensor, "_ n d"]
    ) -> tuple[Remembered, ...]:
        """What all layers see of a memory, computed once for however many groups of queries."""
        keyed = memory + memory_position
        return tuple(layer.cross.remember(keyed, memory) for layer in self.layers)  # type: ignore[union-attr, operator]

    def decode(
        self,
        queries: Float[Tensor, "b q d"],
        query_position: Float[Tensor, "_ q d"],
        seen: Sequence[Remembered],
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[Float[Tensor, "b q d"], ...]:
        """The same as `forward` for a memory that was remembered."""
        keys = None if mask is None else mask[:, None, None]
        states = [self.norm(queries)]
        for layer, of_layer in zip(self.layers, seen, strict=True):
            queries = layer(queries, query_position, of_layer, keys)
            states.append(self.norm(queries))
        return tuple(states)
