"""What tasks may share between the trunk and their queries: a projector for tasks of one type, or one attention map.

The other two structures need no module of their own: all tasks share the decoder (`query_decoder`), or each has a plain
head (`MapHead` and `PresenceHead` in `queries`).
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unified.core.errors import UserError
from unified.nn.queries.modules import mean_of_real
from unified.nn.scaled_dot_product import attend

Refine = Literal["none", "se", "cbam"]
SQUEEZE = 16
"""How many times narrower a gate of channels is inside."""


class ChannelGate(nn.Module):
    """Squeeze and excitation (CVPR 2018): each channel times a gate that sees the mean of all, or also the maximum."""

    def __init__(self, width: int, *, maximum: bool) -> None:
        super().__init__()
        hidden = max(width // SQUEEZE, 4)  # one alone may be dead for all inputs
        self.down, self.up, self.maximum = nn.Linear(width, hidden), nn.Linear(hidden, width), maximum

    def forward(self, x: Float[Tensor, "b n r"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b n r"]:
        """`mask`: True = a real token, which alone are seen; None = all."""
        logits = self.up(F.relu(self.down(mean_of_real(x, mask))))
        if self.maximum:
            real = x if mask is None else x.masked_fill(~mask[..., None], -torch.inf)
            highest = real.amax(dim=1).nan_to_num(neginf=0.0)
            logits = logits + self.up(F.relu(self.down(highest)))
        return x * logits.sigmoid()[:, None]


class SpatialGate(nn.Module):
    """The second gate of CBAM (ECCV 2018): each position of a grid times one number, from a 7×7 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Float[Tensor, "b n r"], grid: tuple[int, int]) -> Float[Tensor, "b n r"]:
        """`grid`: height and width, of n positions row by row."""
        seen = torch.stack([x.mean(dim=2), x.amax(dim=2)], dim=1).unflatten(2, grid)
        return x * self.convolution(seen).sigmoid().flatten(1)[..., None]


class LadderBlock(nn.Module):
    """A narrow pre-norm transformer block: attention without biases of queries, keys and values, then GELU."""

    eager = False

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "b n r"], mask: Bool[Tensor, "b 1 1 n"] | None) -> Float[Tensor, "b n r"]:
        """`mask`: True = may be attended; None = all."""
        y = self.norm1(x)
        query, key, value = (_heads(part(y), self.heads) for part in (self.query, self.key, self.value))
        mixed = attend(query, key, value, mask=mask, eager=self.eager)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class LadderProjector(nn.Module):
    """A narrow side network over the states of all layers, one for each type of task (PATH, CVPR 2023).

    f₀ = R₀ z₀;  fᵢ = Tᵢ(sᵢ fᵢ₋₁ + (1 − sᵢ) Rᵢ zᵢ) with sᵢ = σ(αᵢ);  out = Linear(f). Released: reduction 8, 2 heads,
    no gates of channels or positions after the reduction, which "se" and "cbam" add.
    """

    def __init__(self, width: int, levels: int, reduction: int, heads: int, refine: Refine = "none") -> None:
        """`levels`: states that are given, the embedding and the output of each block among them."""
        super().__init__()
        narrow = width // reduction
        self.reduce = nn.ModuleList(nn.Linear(width, narrow) for _ in range(levels))
        self.blocks = nn.ModuleList(LadderBlock(narrow, heads) for _ in range(levels - 1))
        self.gate = nn.Parameter(torch.zeros(levels - 1))
        self.out = nn.Linear(narrow, width)
        gates = 0 if refine == "none" else levels
        self.channels = nn.ModuleList(ChannelGate(narrow, maximum=refine == "cbam") for _ in range(gates))
        self.places = nn.ModuleList(SpatialGate() for _ in range(levels if refine == "cbam" else 0))

    @torch.no_grad()
    def reset(self) -> None:
        """The start of the gates: half from below, half from the level itself."""
        nn.init.zeros_(self.gate)

    def forward(
        self,
        states: Sequence[Float[Tensor, "b n w"]],
        mask: Bool[Tensor, "b n"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "b n w"]:
        """`states`: of each level. `mask`: True = a real token; None = all. `grid`: height and width, for "cbam"."""
        if len(states) != len(self.reduce):
            raise UserError(f"states of {len(states)} levels: this projector was made for {len(self.reduce)}")
        if self.places and (grid is None or grid[0] * grid[1] != states[0].shape[1]):
            raise UserError(f"{states[0].shape[1]} states in a grid of {grid}: 'cbam' needs states in a whole grid")
        keys = None if mask is None else mask[:, None, None]
        narrow = self._reduced(0, states[0], mask, grid)
        for level, block in enumerate(self.blocks, start=1):
            share = self.gate[level - 1].sigmoid()
            narrow = block(share * narrow + (1 - share) * self._reduced(level, states[level], mask, grid), keys)
        return self.out(narrow)

    def _reduced(self, level: int, x: Tensor, mask: Tensor | None, grid: tuple[int, int] | None) -> Tensor:
        x = self.reduce[level](x)
        if self.channels:
            x = self.channels[level](x, mask)
        if self.places:
            x = self.places[level](x, grid)
        return x


class SharedAttention(nn.Module):
    """One attention map for several groups of tasks, each with values and an output of its own (MulT, CVPR 2022).

    A = softmax(q kᵀ / √d) of the reference and the memory;  x_g = out_g(A value_g(stream_g)).
    """

    eager = False

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.values = nn.ModuleList(nn.Linear(width, width) for _ in range(groups))
        self.outs = nn.ModuleList(nn.Linear(width, width) for _ in range(groups))

    def forward(
        self,
        reference: Float[Tensor, "b q w"],
        memory: Float[Tensor, "b n w"],
        streams: Sequence[Float[Tensor, "b n w"]],
        groups: Sequence[int],
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[Float[Tensor, "b q w"], ...]:
        """What each of `groups` gets from its stream; `mask`: True = may be attended, None = all.

        Groups that are not named compute nothing.
        """
        if len(streams) != len(groups):
            raise UserError(f"{len(streams)} streams for {len(groups)} groups: expected one each")
        values: list[Callable[[Tensor], Tensor]] = [self.values[group] for group in groups]
        split = [_heads(value(stream), self.heads) for value, stream in zip(values, streams, strict=True)]
        # Side by side they are one matrix of values: the map is computed once and multiplies them all.
        mixed = attend(
            _heads(self.query(reference), self.heads),
            _heads(self.key(memory), self.heads),
            torch.cat(split, dim=-1),
            mask=None if mask is None else mask[:, None, None],
            eager=self.eager,
        )
        parts = mixed.chunk(len(groups), dim=-1)
        return tuple(self.outs[g](part.transpose(1, 2).flatten(2)) for g, part in zip(groups, parts, strict=True))


class SharedMemory(nn.Module):
    """A memory for each group of tasks: the states of the trunk, and what one shared attention map adds to them."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = SharedAttention(width, heads, groups)

    def forward(
        self, memory: Float[Tensor, "b n w"], groups: Sequence[int], mask: Bool[Tensor, "b n"] | None = None
    ) -> tuple[Float[Tensor, "b n w"], ...]:
        """That of each of `groups`; `mask`: True = a real token, None = all."""
        normed = self.norm(memory)
        return tuple(memory + x for x in self.attention(normed, normed, [normed] * len(groups), groups, mask))


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
