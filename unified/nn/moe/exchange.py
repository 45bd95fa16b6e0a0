"""Experts that other processes keep: rows are sent to them, go through them there, and come back.

Every process of a group keeps as many experts as the others, in the order of the processes. Rows that are sorted by
expert (`nn/dispatch.py`) are therefore sorted by process as well, and go out as they are. As there, nothing scatters.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from unified.nn.moe.dispatch import Plan, combine, entry, plan

Use = Callable[[Float[Tensor, "t d"], Plan, Float[Tensor, "t k"]], Float[Tensor, "t o"]]
"""What experts make of tokens, their plan and the weights of their choices: `expert_linear` or `expert_mlp`."""


class Exchange(ABC):
    """Rows that all processes of a group give each other; each of them makes the same calls in the same order."""

    processes: int

    @abstractmethod
    def counts(self, counts: Int[Tensor, "p e"]) -> Int[Tensor, "p e"]:
        """Row p goes to process p of the group; row p of the result is what came from there."""

    @abstractmethod
    def rows(self, rows: Float[Tensor, "s d"], sent: Sequence[int], received: Sequence[int]) -> Float[Tensor, "r d"]:
        """The first `sent[0]` rows go to process 0, and so on; the first `received[0]` come from there.

        With gradient, which goes the other way.
        """


class Journey:
    """The way of the rows of one decision to the processes that keep their experts, and back.

    To know how many come is the one thing that an accelerator has to wait for.
    """

    def __init__(self, home: Plan, exchange: Exchange) -> None:
        """`home`: the plan for all experts of the tokens of this process."""
        counts = home.offsets.diff(prepend=home.offsets.new_zeros(1)).long().view(exchange.processes, -1)
        arriving = exchange.counts(counts)
        self.sent, self.received = torch.stack([counts.sum(1), arriving.sum(1)]).tolist()
        self.home, self.exchange = home, exchange
        experts = counts.shape[1]
        # From each process they come sorted by expert.
        names = torch.arange(experts, device=counts.device).repeat(exchange.processes)
        of_row = names.repeat_interleave(arriving.flatten(), output_size=sum(self.received))
        self.away = plan(of_row[:, None], experts)

    def through(self, x: Float[Tensor, "t d"], weights: Float[Tensor, "t k"], use: Use) -> Float[Tensor, "t o"]:
        """`use` of all tokens, computed where their experts are.

        The weight of a choice travels with its row, so that no output has to be kept for the weight's gradient.
        """
        x, weights = entry(x, self.home, weights)
        rows = self.exchange.rows(_ToRows.apply(x, self.home), self.sent, self.received)
        shares = self.exchange.rows(_ByRow.apply(weights, self.home), self.sent, self.received)
        found = use(rows, self.away, shares)
        return _ToTokens.apply(self.exchange.rows(found, self.received, self.sent), self.home)  # type: ignore[no-any-return]


class _ToRows(torch.autograd.Function):
    """A copy of each token for each of its choices, sorted by expert."""

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "t d"], home: Plan) -> Float[Tensor, "r d"]:
        ctx.home = home
        return x.index_select(0, home.tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "r d"]) -> tuple[Tensor, None]:
        return _sum(gradient, ctx.home), None


class _ToTokens(torch.autograd.Function):
    """The sum of the rows of each token: `_ToRows` backwards."""

    @staticmethod
    def forward(ctx: Any, rows: Float[Tensor, "r o"], home: Plan) -> Float[Tensor, "t o"]:
        ctx.home = home
        return _sum(rows, home)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "t o"]) -> tuple[Tensor, None]:
        return gradient.index_select(0, ctx.home.tokens), None


class _ByRow(torch.autograd.Function):
    """The weight of each row."""

    @staticmethod
    def forward(ctx: Any, weights: Float[Tensor, "t k"], home: Plan) -> Float[Tensor, "r 1"]:
        ctx.home = home
        return weights.reshape(-1, 1).index_select(0, home.order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "r 1"]) -> tuple[Tensor, None]:
        return gradient.index_select(0, ctx.home.inverse).view(ctx.home.index.shape), None


def _sum(rows: Float[Tensor, "r d"], home: Plan) -> Float[Tensor, "t d"]:
    return combine(rows, rows.new_ones(home.index.shape), home)
