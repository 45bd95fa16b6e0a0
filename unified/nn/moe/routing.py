"""Routers: which experts a row of tokens, or each token, gets, and with what weight.

A router that does not look at the data chooses once for each *row*, a kind of token (`Conditions`), and the weights of
its experts are merged. The others choose for each token (`nn/dispatch.py`). Gates are fp32 whatever the autocast.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unified.core import seed
from unified.core.errors import NonFiniteError
from unified.core.transfers import constant
from unified.core.types import Conditions
from unified.nn.moe.dispatch import choose

BY_TOKEN = ("token", "context")
"""Routers that look at the data: tokens are sent to experts. Those of the others are merged, and can be folded."""
FOLDED = "rows"
"""What a folded model has in a router's place: one linear for each row."""


@dataclass(frozen=True)
class Usage:
    """What the routers of one layer chose in one forward pass: sums over tokens, which ranks and passes may add up.

    The axis d has the decisions of the layer, in the order of its routers.
    """

    load: Float[Tensor, "d e"]  # tokens that each expert got, in parts where several share one
    probability: Float[Tensor, "d e"]  # the router's probabilities before the choice; has a gradient
    squared: Float[Tensor, "d"]  # squared log-sum of the logits, for the z-loss
    tokens: Float[Tensor, "d"]

    def scaled(self, factor: float) -> "Usage":
        """As if it had been so much of it."""
        return replace(self, **{f.name: getattr(self, f.name) * factor for f in fields(self)})

    def __add__(self, other: "Usage") -> "Usage":
        return replace(self, **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


def mixture(logits: Float[Tensor, "r e"], top: int, where: str = "a layer") -> Float[Tensor, "r e"]:
    """Weights of the `top` most probable experts of each row, the others 0: softmax over all, renormalised over those.

    `where`: whose gates these are. Raises `NonFiniteError` for logits that are not finite; on an accelerator, where
    asking would be a wait, and in compiled code they become weights that are no numbers, and the loss tells.
    """
    if not torch.compiler.is_compiling() and logits.device.type == "cpu" and not bool(torch.isfinite(logits).all()):
        raise NonFiniteError(
            f"{where}: the logits of a gate are not finite, so no expert can be chosen: the router's weights, or what "
            "they are given, hold a nan or an infinity. Load an earlier checkpoint, or train with a lower optim.lr"
        )
    probability = logits.softmax(dim=-1)
    chosen, index = probability.topk(top, dim=-1)
    chosen = chosen / chosen.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(chosen.dtype).eps)
    return torch.zeros_like(probability).scatter(-1, index, chosen)


class _ExactLinear(nn.Linear):
    """A linear that computes in fp32 whatever the autocast and the dtype of its weights.

    It is called, never read, as accelerate brings offloaded weights around calls alone.
    """

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight.float(), None if self.bias is None else self.bias.float())


class _ExactNorm(nn.LayerNorm):
    """A LayerNorm that computes in fp32, likewise."""

    def forward(self, x: Float[Tensor, "*n w"]) -> Float[Tensor, "*n w"]:
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)


class _RowRouter(nn.Module, ABC):
    """h = LN(embedded row); logits = G h  (Uni-Perceiver-MoE, NeurIPS 2022)."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.norm = _ExactNorm(width)
        self.gate = _ExactLinear(width, experts, bias=False)

    @abstractmethod
    def embedded(self, conditions: Conditions) -> Float[Tensor, "r w"]:
        """What the rows are, as vectors."""

    def forward(self, conditions: Conditions) -> Float[Tensor, "r e"]:
        """The logits of each row, in fp32."""
        logits: Tensor = self.gate(self.norm(self.embedded(conditions)))
        return logits


class AttributeTransform(_ExactLinear):
    """A a + b of attribute bits a."""


class AttributeRouter(_RowRouter):
    """Chooses by attribute bits: what a token is and what the task asks (Uni-Perceiver-MoE, NeurIPS 2022)."""

    def __init__(self, bits: int, width: int, experts: int) -> None:
        super().__init__(width, experts)
        self.transform = AttributeTransform(bits, width)

    def embedded(self, conditions: Conditions) -> Float[Tensor, "r w"]:
        """The bits of each row, transformed."""
        return self.transform(conditions.values)  # type: ignore[no-any-return]


class NameRouter(_RowRouter):
    """Chooses by a learned vector of a name: that of the task family, or of the modality."""

    def __init__(self, names: int, width: int, experts: int) -> None:
        super().__init__(width, experts)
        self.embedding = nn.Embedding(names, width)

    def embedded(self, conditions: Conditions) -> Float[Tensor, "r w"]:
        """The vector of each row's name."""
        return self.embedding(conditions.values)  # type: ignore[no-any-return]


class HashRouter(nn.Module):
    """Chooses by a fixed draw for each row and decision, all chosen experts alike: a control that learns nothing."""

    def __init__(self, experts: int, top: int, name: str) -> None:
        super().__init__()
        self.experts, self.top, self.name = experts, top, name

    def forward(self, conditions: Conditions) -> Float[Tensor, "r e"]:
        """Logits whose `top` largest are equal, the others far below."""
        rows = [_drawn(self.experts, self.top, self.name, key) for key in conditions.keys]
        return constant(rows, conditions.real.device)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # no compiler draws as numpy does
def _drawn(experts: int, top: int, name: str, key: str) -> list[float]:
    return _cached(experts, top, name, key)


@lru_cache(maxsize=4096)  # beneath the mark, as compilers look into a cached function itself
def _cached(experts: int, top: int, name: str, key: str) -> list[float]:
    chosen = seed.generator("hash router", name, key).permutation(experts)[:top]
    return [0.0 if expert in chosen else -1e4 for expert in range(experts)]


class Choice(NamedTuple):
    """What a router chose for each of the tokens, those of all samples in one axis."""

    logits: Float[Tensor, "t e"]
    weights: Float[Tensor, "t k"]
    experts: Int[Tensor, "t k"]  # best first
    context: Float[Tensor, "b w"] | None  # of each sequence, to continue it with


class _TokenGate(nn.Linear):
    """G x of each token's state, or G [x; c] with its sequence's context c, in fp32 (see `_ExactLinear`)."""

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "b n w"], context: Float[Tensor, "b w"] | None
    ) -> Float[Tensor, "b n e"]:
        with torch.autocast(x.device.type, enabled=False):
            if context is None:
                return F.linear(x.float(), self.weight.float())
            own, pooled = self.weight.float().chunk(2, dim=1)
            return F.linear(x.float(), own) + F.linear(context.float(), pooled)[:, None]


class TokenRouter(nn.Module):
    """Chooses for each token by its state: logits = G x (Switch Transformer, JMLR 2022)."""

    bias: Tensor | None

    def __init__(self, sees: int, experts: int, top: int, biased: bool) -> None:
        super().__init__()
        self.top = top
        self.gate = _TokenGate(sees, experts, bias=False)
        # Moved by the trainer against the load, not by a gradient; it decides who is chosen, not with what weight.
        self.register_buffer("bias", torch.zeros(experts) if biased else None)

    def forward(
        self, x: Float[Tensor, "b n w"], common: Bool[Tensor, "b n"], before: Float[Tensor, "b w"] | None = None
    ) -> Choice:
        """The experts of each token, with logits in fp32.

        `common`: tokens that every token sees. `before`: the context of the sequence that these tokens continue.
        """
        context = self.context(x, common) if before is None else before
        logits = self.gate(x, context).flatten(0, 1)
        return Choice(logits, *choose(logits, self.top, self.bias), context)

    def context(self, x: Float[Tensor, "b n w"], common: Bool[Tensor, "b n"]) -> Float[Tensor, "b w"] | None:  # noqa: ARG002
        """What a token is told of its sequence: nothing."""
        return None


class ContextRouter(TokenRouter):
    """Chooses for each token by its state and a pooled state of its sequence: logits = G [x; pool(X)].

    The pool is attention with one learned query over the tokens that every token may see, so that no token learns of
    words that are hidden from it (Uni-Perceiver-MoE names the strategy; its published code has none).
    """

    def __init__(self, width: int, experts: int, top: int, biased: bool) -> None:
        super().__init__(2 * width, experts, top, biased)
        self.query = nn.Parameter(torch.zeros(width))

    def context(self, x: Float[Tensor, "b n w"], common: Bool[Tensor, "b n"]) -> Float[Tensor, "b w"]:
        """The pooled state of each sequence, in fp32."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            score = (x @ self.query.float()) / x.shape[-1] ** 0.5
            share = score.masked_fill(~common, -torch.inf).softmax(dim=1)
            return torch.bmm(share[:, None], x)[:, 0]


def row_usage(
    gates: Float[Tensor, "d r e"], logits: Float[Tensor, "d r e"], tokens: Int[Tensor, "r"] | Float[Tensor, "r"]
) -> Usage:
    """The usage of routers that choose by row; `tokens` of each row."""
    counts = tokens.to(gates)
    total = counts.sum().expand(gates.shape[0])
    probability = (logits.softmax(dim=-1) * counts[:, None]).sum(dim=1)
    squared = (logits.logsumexp(dim=-1).square() * counts).sum(dim=1)
    return Usage((gates * counts[:, None]).sum(dim=1), probability, squared, total)
