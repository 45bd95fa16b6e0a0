"""The task-agnostic transformer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unified.nn.attention import Cache
from unified.nn.block import Block
from unified.types import Segment


@dataclass(frozen=True)
class Noise:
    """What training draws for one forward pass; drawn outside, so that the encoder itself is deterministic."""

    drop_path: Float[Tensor, "l 2 b"]  # factor of each residual branch: 0, or 1 / (1 - rate)

    def rows(self, index: Int[Tensor, "r"]) -> "Noise":
        """The noise of some of the samples."""
        return Noise(self.drop_path[:, :, index])


@dataclass(frozen=True)
class EncoderOutput:
    """States of all tokens, and keys and values of every layer to continue from."""

    states: Float[Tensor, "b n w"]
    past: tuple[Cache, ...]


class Encoder(nn.Module):
    """A stack of blocks; it has no final norm, which belongs to whoever reads the states."""

    def __init__(self, width: int, depth: int, heads: int, hidden: int, layer_scale: float | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, hidden, layer_scale) for _ in range(depth))
        self.gradient_checkpointing = False

    def forward(
        self,
        x: Float[Tensor, "b n w"],
        mask: Bool[Tensor, "b k"] | Bool[Tensor, "b n k"] | None,
        segments: Sequence[Segment],
        *,
        past: Sequence[Cache] | None = None,
        noise: Noise | None = None,
    ) -> EncoderOutput:
        """`mask`: True = may attend, for keys alone or for each pair; None = all. `segments` tile the n tokens."""
        assert sum(len(segment) for segment in segments) == x.shape[1], "segments must tile the sequence"
        if mask is not None:
            mask = mask[:, None, None] if mask.dim() == 2 else mask[:, None]
        caches = []
        for index, block in enumerate(self.blocks):
            before = None if past is None else past[index]
            drop = None if noise is None else noise.drop_path[index]
            if self.gradient_checkpointing and torch.is_grad_enabled():
                # Nothing inside a block draws random numbers, so there is no generator state to keep.
                x, cache = checkpoint(block, x, mask, before, drop, use_reentrant=False, preserve_rng_state=False)
            else:
                x, cache = block(x, mask, before, drop)
            caches.append(cache)
        return EncoderOutput(x, tuple(caches))
