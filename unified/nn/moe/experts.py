"""Conditional linears: stacked experts, and a router that chooses among them (Uni-Perceiver-MoE, NeurIPS 2022)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unified.core.errors import UserError
from unified.core.types import Conditions, Segment
from unified.nn.moe.dispatch import Plan, expert_linear, expert_mlp, plan
from unified.nn.moe.exchange import Exchange, Journey, Use
from unified.nn.moe.routing import (
    BY_TOKEN,
    FOLDED,
    AttributeRouter,
    Choice,
    ContextRouter,
    HashRouter,
    NameRouter,
    TokenRouter,
    Usage,
    mixture,
    row_usage,
)

T = TypeVar("T")
LINEARS = ("qkv", "out", "up", "down")
"""The linears of a block, in the order of its computation."""


@dataclass(frozen=True)
class Experts:
    """Plain numbers that decide the conditional linears of a layer."""

    count: int
    top: int
    router: str
    linears: tuple[str, ...] = LINEARS
    shared: bool = True  # `out` reuses the decision of `qkv`, `down` that of `up`
    inputs: int = 8  # attribute bits, or names of a table
    noise: float = 0.0  # of the gate: standard deviation times the number of experts
    hidden: int | None = None  # feed-forward width of an expert that tokens are sent to
    biased: bool = False
    capacity: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.top <= self.count:
            raise UserError(f"top {self.top} of {self.count} experts: expected 1 to {self.count}")
        if not self.linears:
            raise UserError(f"no linear is conditional; expected some of: {', '.join(LINEARS)}")
        if unknown := set(self.linears) - set(LINEARS):
            raise UserError(f"no linear is called {sorted(unknown)}; there are: {', '.join(LINEARS)}")

    @property
    def in_order(self) -> tuple[str, ...]:
        """The conditional linears, in the order of computation."""
        return tuple(name for name in LINEARS if name in self.linears)

    def decision(self, linear: str) -> str:
        """The name of the decision that a linear follows."""
        if not self.shared:
            return linear
        return "attention" if linear in ("qkv", "out") else "mlp"

    @property
    def decisions(self) -> tuple[str, ...]:
        """The decisions of a layer, in the order of its computation."""
        return tuple(dict.fromkeys(self.decision(name) for name in self.in_order))

    @property
    def whole_mlp(self) -> bool:
        """Whether tokens are sent once through both linears of an expert's MLP."""
        return self.router in BY_TOKEN and self.shared and {"up", "down"} <= set(self.linears)


class ConditionalLinear(nn.Module):
    """Linears of equal shape, stacked: `weight` (experts, outputs, inputs), `bias` (experts, outputs)."""

    def __init__(self, experts: int, inputs: int, outputs: int, parts: int = 1) -> None:
        """`parts`: matrices that are fused along the outputs and initialised each on its own."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(experts, outputs))
        self.parts = parts
        for matrix in self.matrices():
            nn.init.xavier_uniform_(matrix)

    def matrices(self) -> tuple[Float[Tensor, "o i"], ...]:
        """The matrices of all experts, as views of the weight."""
        return tuple(matrix for expert in self.weight.detach() for matrix in expert.chunk(self.parts))

    def forward(self, use: Callable[[Tensor, Tensor], T]) -> T:
        """`use` of weight and bias. A call, as accelerate and ZeRO bring weights that are kept elsewhere for calls."""
        return use(self.weight, self.bias)

    def merged(self, gates: Float[Tensor, "r e"]) -> list["Merged"]:
        """An ordinary linear for each row of weights: Σ gₑ Wₑ and Σ gₑ bₑ, which for a linear equals mixing outputs.

        One product with all experts, most of them times zero: it is bound by memory, as a gather of the chosen ones
        would be, and its backward pass writes every gradient once and in a fixed order.
        """
        merged: list[Merged] = self(lambda weight, bias: _merge(gates, weight, bias))
        return merged

    def selected(self, index: Sequence[int]) -> list["Merged"]:
        """The linears at these places."""
        found: list[Merged] = self(lambda weight, bias: [(weight[place], bias[place]) for place in index])
        return found


Merged = tuple[Float[Tensor, "o i"], Float[Tensor, "o"]]
"""Weight and bias of one ordinary linear."""


def _merge(gates: Float[Tensor, "r e"], weight: Float[Tensor, "e o i"], bias: Float[Tensor, "e o"]) -> list[Merged]:
    with torch.autocast(weight.device.type, enabled=False):
        shares = gates.to(weight)
        merged = (shares @ weight.flatten(1)).view(-1, *weight.shape[1:])
        return list(zip(merged.unbind(), (shares @ bias).unbind(), strict=True))


class Dense:
    """How a layer applies its linears: as they are."""

    def linear(self, name: str, module: nn.Module, x: Tensor) -> Tensor:  # noqa: ARG002 - layers with experts ask
        """`module`, called `name`, on tokens (b, n, inputs)."""
        return module(x)  # type: ignore[no-any-return]

    def leading(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        """`module` on vectors (…, inputs) that stand before all tokens, and are treated as the first of them."""
        return self.linear(name, module, x)

    def mlp(self, up: nn.Module, down: nn.Module, x: Tensor) -> Tensor:
        """Both linears of the MLP, with the exact (erf) GELU between them."""
        return self.linear("down", down, F.gelu(self.linear("up", up, x)))

    def within(self, read: slice) -> "Dense":  # noqa: ARG002 - layers that look at segments ask
        """How it applies them to a run of the tokens alone."""
        return self

    def context(self) -> dict[str, Tensor]:
        """What the routers keep to go on with the sequence."""
        return {}

    def usage(self) -> Usage | None:
        """What the routers chose; None where there are none."""
        return None


class ByRow(Dense):
    """Conditional linears whose experts were merged for each row: ordinary products on the tokens of each segment."""

    def __init__(
        self, merged: Mapping[str, Sequence[Merged]], segments: Sequence[Segment], usage: Usage | None = None
    ) -> None:
        self._merged, self._segments, self._usage = merged, segments, usage

    def linear(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        """One product for each segment; neighbours of one row are one segment (`Conditions`)."""
        merged = self._merged.get(name)
        if merged is None:
            return module(x)  # type: ignore[no-any-return]
        if len(self._segments) == 1:
            return F.linear(x, *merged[self._segments[0].row])
        parts = [F.linear(x[:, s.start : s.stop], *merged[s.row]) for s in self._segments]
        return torch.cat(parts, dim=1)

    def within(self, read: slice) -> "ByRow":
        """By the rows of the segments there."""
        cut = [(max(s.start, read.start) - read.start, min(s.stop, read.stop) - read.start) for s in self._segments]
        inside = [
            replace(segment, start=start, stop=stop)
            for segment, (start, stop) in zip(self._segments, cut, strict=True)
            if start < stop
        ]
        return ByRow(self._merged, inside, self._usage)

    def leading(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        """By the row of the first segment."""
        merged = self._merged.get(name)
        return module(x) if merged is None else F.linear(x, *merged[self._segments[0].row])

    def usage(self) -> Usage | None:
        """Sums over the tokens of the rows."""
        return self._usage


class ByToken(Dense):
    """Conditional linears that each token uses experts of its own of."""

    def __init__(self, layer: "ConditionalLayer", conditions: Conditions, before: Mapping[str, Tensor] | None) -> None:
        """`before`: the context of a sequence that these tokens continue."""
        self._experts, self._routers, self._conditions = layer.experts, layer, conditions
        self._before = before
        self._chosen: dict[str, tuple[Plan | Journey, Tensor]] = {}
        self._context: dict[str, Tensor] = {}
        self._usage: list[Usage] = []

    def linear(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        """Each token through its experts, and their outputs mixed."""
        if not isinstance(module, ConditionalLinear):
            return module(x)  # type: ignore[no-any-return]
        return self._through(
            self._experts.decision(name),
            x,
            lambda x, where, weights: module(lambda weight, bias: expert_linear(x, weight, bias, where, weights)),
        )

    def leading(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        """Not possible where vectors are no tokens that could be sent."""
        if not isinstance(module, ConditionalLinear):
            return module(x)  # type: ignore[no-any-return]
        raise UserError(
            f"learned prompts and experts in {name!r} that tokens are sent to do not go together; leave {name!r} out "
            "of model.experts.linears, or take a router that does not look at tokens"
        )

    def mlp(self, up: nn.Module, down: nn.Module, x: Tensor) -> Tensor:
        """Each token through the whole MLP of each of its experts, where both linears follow one decision."""
        if not self._experts.whole_mlp:
            return super().mlp(up, down, x)
        assert isinstance(up, ConditionalLinear)
        assert isinstance(down, ConditionalLinear)
        return self._through(
            "mlp",
            x,
            lambda x, where, weights: up(lambda w, b: down(lambda v, c: expert_mlp(x, w, b, v, c, where, weights))),
        )

    def _through(self, decision: str, x: Float[Tensor, "b n i"], use: Use) -> Float[Tensor, "b n o"]:
        """`use` of the tokens, here or where their experts are."""
        where, weights = self._decide(decision, x)
        flat = x.flatten(0, 1)
        found = where.through(flat, weights, use) if isinstance(where, Journey) else use(flat, where, weights)
        return found.unflatten(0, x.shape[:2])

    def _decide(self, name: str, x: Float[Tensor, "b n w"]) -> tuple[Plan | Journey, Tensor]:
        """The experts of each token; of two linears that share a decision the first one makes it."""
        if name in self._chosen:
            return self._chosen[name]
        experts, real = self._experts, self._conditions.real.to(x.device).flatten()
        before = self._before.get(name) if self._before else None
        choice: Choice = self._routers[name](x, self._conditions.common.to(x.device), before)
        if choice.context is not None:
            self._context[name] = choice.context
        first = choice.weights[:, 0].detach()
        # Only in training: elsewhere what a sample is answered must not depend on the others of its batch.
        capacity = experts.capacity if self._routers.training else None
        where = plan(choice.experts, experts.count, real=real, capacity=capacity, priority=first)
        self._usage.append(_token_usage(choice.logits, choice.experts, real))
        exchange = self._routers.exchange
        self._chosen[name] = (where if exchange is None else Journey(where, exchange), choice.weights)
        return self._chosen[name]

    def context(self) -> dict[str, Tensor]:
        """The pooled states, by decision."""
        return self._context

    def usage(self) -> Usage | None:
        """Sums over the tokens that are no padding, before any is left out for capacity."""
        parts = self._usage
        return Usage(
            torch.stack([part.load[0] for part in parts]),
            torch.stack([part.probability[0] for part in parts]),
            torch.stack([part.squared[0] for part in parts]),
            torch.stack([part.tokens[0] for part in parts]),
        )


def _token_usage(logits: Float[Tensor, "t e"], index: Tensor, real: Tensor) -> Usage:
    """The usage of one decision; a token counts 1 / k for each of its k experts."""
    counted = real.to(logits.dtype)
    load = torch.zeros_like(logits).scatter(1, index, 1.0 / index.shape[1])
    return Usage(
        (counted @ load)[None],
        (counted @ logits.softmax(dim=-1))[None],
        (counted @ logits.logsumexp(dim=-1).square())[None],
        counted.sum()[None],
    )


def _router(experts: Experts, name: str, width: int, sees: int, layer: int) -> nn.Module:
    """The router of a decision. `width` of its own vectors, `sees`: of the states that it looks at."""
    make: dict[str, Callable[[], nn.Module]] = {
        "attribute": lambda: AttributeRouter(experts.inputs, width, experts.count),
        "task": lambda: NameRouter(experts.inputs, width, experts.count),
        "modality": lambda: NameRouter(experts.inputs, width, experts.count),
        "hash": lambda: HashRouter(experts.count, experts.top, f"{layer} {name}"),
        "token": lambda: TokenRouter(sees, experts.count, experts.top, experts.biased),
        "context": lambda: ContextRouter(sees, experts.count, experts.top, experts.biased),
        FOLDED: nn.Identity,
    }
    if experts.router not in make:
        raise UserError(f"router {experts.router!r} does not exist; there are: {', '.join(sorted(make))}")
    return make[experts.router]()


class ConditionalLayer(nn.ModuleDict):
    """The routers of one layer, by the name of their decision, and what they do with its linears."""

    def __init__(self, experts: Experts, width: int, hidden: int, layer: int) -> None:
        """`layer`: its number, which a hash router draws by."""
        sees: dict[str, int] = {}  # a decision is made by what the first linear that follows it is given
        for name in experts.in_order:
            sees.setdefault(experts.decision(name), hidden if name == "down" else width)
        super().__init__({name: _router(experts, name, width, sees[name], layer) for name in sees})
        self.experts, self.number = experts, layer
        self.shared: dict[Any, Any] | None = None
        """Merged linears by row and noise, kept while a forward pass asks for them again; None: they are not kept."""
        self.exchange: Exchange | None = None
        """The way to the experts that other processes keep, for routers by token; None: all are here."""

    def apply_to(
        self,
        linears: Mapping[str, nn.Module],
        segments: Sequence[Segment],
        conditions: Conditions,
        noise: Float[Tensor, "d m e"] | None,
        before: Mapping[str, Tensor] | None,
    ) -> Dense:
        """How this layer applies its linears to one sequence."""
        if self.experts.router in BY_TOKEN:
            return ByToken(self, conditions, before)
        conditional = {name: linear for name, linear in linears.items() if isinstance(linear, ConditionalLinear)}
        if self.experts.router == FOLDED:
            return ByRow({name: linear.selected(conditions.index) for name, linear in conditional.items()}, segments)
        return self._by_row(conditional, segments, conditions, noise)

    def gates(
        self, conditions: Conditions, noise: Float[Tensor, "d m e"] | None = None
    ) -> tuple[Float[Tensor, "d r e"], Float[Tensor, "d r e"]]:
        """The weights of the experts for each decision and row, and the logits that they come from.

        Noise is added to the logits before both the choice and the softmax (V-MoE, as the published code has it).
        """
        logits = []
        for number, router in enumerate(self.values()):
            found = router(conditions)
            if noise is not None and self.experts.noise and not isinstance(router, HashRouter):
                found = found + noise[number, : len(conditions.keys)] * (self.experts.noise / self.experts.count)
            logits.append(found)
        stacked = torch.stack(logits)
        gates = mixture(stacked.flatten(0, 1), self.experts.top, f"encoder.blocks.{self.number}.routers")
        return gates.view_as(stacked), stacked

    def _by_row(
        self,
        linears: Mapping[str, ConditionalLinear],
        segments: Sequence[Segment],
        conditions: Conditions,
        noise: Tensor | None,
    ) -> ByRow:
        if self.shared is None:
            merged, gates, logits = self._merged(linears, conditions, noise)
            return ByRow(merged, segments, row_usage(gates, logits, conditions.tokens))
        # What was merged without a graph gives the experts no gradient.
        key = (conditions.keys, None if noise is None else noise.data_ptr(), torch.is_grad_enabled())
        if key not in self.shared:
            # Held with the result, the noise keeps its memory, and so the key, from another's use.
            merged, gates, logits = self._merged(linears, conditions, noise)
            self.shared[key] = (merged, gates, logits, noise)
        merged, gates, logits, _ = self.shared[key]
        return ByRow(merged, segments, row_usage(gates, logits, conditions.tokens))

    def _merged(
        self, linears: Mapping[str, ConditionalLinear], conditions: Conditions, noise: Tensor | None
    ) -> tuple[dict[str, list[Merged]], Float[Tensor, "d r e"], Float[Tensor, "d r e"]]:
        """Ordinary linears for each row, and the gates and logits that made them, which take no gradient."""
        gates, logits = self.gates(conditions, noise)
        place = {name: number for number, name in enumerate(self.keys())}
        merged = {name: linear.merged(gates[place[self.experts.decision(name)]]) for name, linear in linears.items()}
        return merged, gates.detach(), logits.detach()
