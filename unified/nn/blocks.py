"""Products of experts where no grouped kernel is: one batched product of blocks of equal size.

Rows that are sorted by expert are laid into blocks, each of one expert alone, and filled up with rows that count
nothing. The host knows how many blocks there can be at most, so nothing waits for the device, whatever dtype and
compute capability it has. As in `dispatch.py` nothing scatters: results are the same bit for bit in every run.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PER_EXPERT = 4
"""Blocks that the mean expert fills: more of them copy weights more often, fewer multiply more filling."""
MULTIPLE = 16
"""Rows of a block are a multiple of it, as tensor cores multiply tiles."""


@dataclass(frozen=True)
class Blocks:
    """Where sorted rows lie in blocks."""

    size: int  # rows of a block
    experts: Int[Tensor, "n"]  # of each block
    sources: Int[Tensor, "p"]  # the row at each place of all blocks; 0 where none is
    real: Bool[Tensor, "p"]  # False: filling
    places: Int[Tensor, "r"]  # the place of each row


def lay(offsets: Int[Tensor, "e"], experts: Int[Tensor, "r"]) -> Blocks:
    """Return the blocks of rows that are sorted by expert.

    Args:
        offsets: where the rows of each expert end.
        experts: the expert of each row, ascending.
    """
    rows, count = len(experts), len(offsets)
    size = MULTIPLE * max(1, -(-rows // (PER_EXPERT * count * MULTIPLE)))
    most = (rows + count * (size - 1)) // size  # each expert begins a block
    stops = offsets.long()
    numbers = stops.diff(prepend=stops.new_zeros(1))
    starts = stops - numbers
    filled = (numbers + (size - 1)).div(size, rounding_mode="floor")
    ends = filled.cumsum(0)
    firsts = ends - filled
    block = torch.arange(most, device=offsets.device)
    of_block = torch.searchsorted(ends, block, right=True).clamp(max=count - 1)
    within = (block - firsts[of_block])[:, None] * size + torch.arange(size, device=offsets.device)
    real = within < numbers[of_block][:, None]
    sources = torch.where(real, starts[of_block][:, None] + within, 0).flatten()
    places = firsts[experts] * size + torch.arange(rows, device=offsets.device) - starts[experts]
    return Blocks(size, of_block, sources, real.flatten(), places)


def product(rows: Float[Tensor, "r d"], matrices: Float[Tensor, "e d o"], blocks: Blocks) -> Float[Tensor, "r o"]:
    """Return each row times the matrix of its expert.

    Args:
        rows: sorted by expert.
        matrices: of all experts.
        blocks: of these rows.
    """
    if not len(rows):
        return rows.new_empty(0, matrices.shape[2])
    found = torch.bmm(_laid(rows, blocks), matrices.index_select(0, blocks.experts))
    return found.flatten(0, 1).index_select(0, blocks.places)


def outer(left: Float[Tensor, "r o"], right: Float[Tensor, "r d"], count: int, blocks: Blocks) -> Tensor:
    """Return the sum of a bᵀ over the rows of each expert (e, o, d).

    Args:
        left, right: rows a and b, sorted by expert.
        count: how many experts there are.
        blocks: of these rows.
    """
    if not len(left):
        return left.new_zeros(count, left.shape[1], right.shape[1])
    counted = torch.where(blocks.real.view(-1, blocks.size, 1), _laid(left, blocks), 0)
    parts = torch.bmm(counted.transpose(1, 2), _laid(right, blocks))
    # A product with ones and zeros sums blocks of an expert in a fixed order, without a scatter.
    names = torch.arange(count, device=left.device)
    of_expert = (blocks.experts == names[:, None]).to(left.dtype)
    return (of_expert @ parts.flatten(1)).view(count, *parts.shape[1:])


def _laid(rows: Float[Tensor, "r d"], blocks: Blocks) -> Float[Tensor, "n s d"]:
    return rows.index_select(0, blocks.sources).unflatten(0, (-1, blocks.size))
