"""Settings of conditional experts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from unified.core.bounds import Count, NotNegative, Positive, Width


@dataclass(frozen=True)
class ExpertSettings:
    """Conditional experts: which linears of which layers have them, and what chooses among them (Uni-Perceiver-MoE)."""

    count: Count = 8
    """Experts of each conditional linear."""
    top: Count = 2
    """Experts that are chosen."""
    router: Literal["attribute", "task", "modality", "context", "token", "hash"] = "attribute"
    """What the choice looks at. The first three and `hash` (a fixed draw by attributes) do not look at the data: the
    weights of the experts are merged before the products, at the cost of a dense layer. `context` and `token` send
    each token to experts of its own."""
    layers: Literal["even", "odd", "all"] | Sequence[int] = "even"
    """Layers with experts: even numbers (0, 2, 4 …), odd ones, all, or a list."""
    linears: Sequence[Literal["qkv", "out", "up", "down"]] = ("qkv", "out", "up", "down")
    """What is conditional: fused queries, keys and values; attention output; both linears of the MLP."""
    shared_decisions: bool = True
    """`out` reuses the choice made for `qkv`, and `down` that for `up`; false: each linear has a router of its own."""
    noise: NotNegative = 1.0
    """Gate noise in training of routers that do not look at the data: standard deviation times the experts (V-MoE)."""
    bits: Sequence[str] = ()
    """Attributes after the eight published: `query`, `modality:NAME` or `family:NAME`; their weights start at 0."""
    hidden: Width | None = None
    """Feed-forward width of one expert where tokens are sent to experts; null: `model.hidden`. With `model.hidden`
    divided by `top` the layer does the work of a dense one."""
    balance: NotNegative = 0.01
    """Weight of the load-balance loss (Switch Transformer) of routers that look at the data."""
    z_loss: NotNegative = 0.0
    """Weight of the squared log-sum of the gate's logits (ST-MoE), likewise."""
    bias_rate: NotNegative = 0.0
    """Step of the bias that balances the load without a loss (DeepSeek-V3), likewise; 0: no bias."""
    capacity: Positive | None = None
    """Most tokens of an expert in training, in multiples of an even share, likewise; the tokens with the lowest gates
    are left out. Shares are those of one pass of one process: other numbers of processes leave out other tokens. null:
    every token reaches its experts, as it always does outside of training."""
