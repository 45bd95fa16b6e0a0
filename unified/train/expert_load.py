"""How busy the experts are: the losses that balance them, and what a run tells about them."""

from collections import deque
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unified.core.distributed import reduce_sum, world_size
from unified.core.transfers import HostCopy
from unified.model.pretrained import UnifiedModel
from unified.nn.moe.balance import (
    balance_loss,
    dead_experts,
    effective_experts,
    entropy,
    updated_bias,
    z_loss,
)
from unified.nn.moe.experts import ConditionalLayer
from unified.nn.moe.routing import BY_TOKEN, FOLDED, HashRouter, TokenRouter, Usage


def routing_loss(
    passes: Sequence[tuple[Usage, ...]], experts: Mapping[str, Any] | None
) -> tuple[Float[Tensor, ""] | None, Float[Tensor, "m d e"] | None]:
    """The loss of routers that look at the data, and the load of all experts over all ranks; None where there is none.

    `passes`: what the routers of each layer chose in each pass of the encoder; `experts`: of the configuration. Shares
    and mean probabilities are those of the global batch of the step. As engines average gradients over ranks, the
    local part is multiplied by their number.
    """
    layers = [reduce(add, usages) for usages in zip(*passes, strict=True)]
    if not layers or experts is None:
        return None, None
    load, tokens = (torch.stack([getattr(usage, name).detach() for usage in layers]) for name in ("load", "tokens"))
    whole = reduce_sum(torch.cat([load, tokens[..., None]], dim=-1))
    load, tokens = whole[..., :-1], whole[..., -1]
    if experts["router"] not in BY_TOKEN:
        return None, load
    probability = torch.stack([usage.probability for usage in layers])
    squared = torch.stack([usage.squared for usage in layers])
    balance = balance_loss(load, probability, tokens, experts["count"]).sum()
    loss = experts["balance"] * balance + experts["z_loss"] * z_loss(squared, tokens).sum()
    return loss * world_size(), load


class ExpertLoad:
    """Adds up the load of a model's experts over steps, and tells of it."""

    def __init__(self, model: UnifiedModel) -> None:
        self._layers: dict[int, ConditionalLayer] = model.encoder.conditional_layers()
        self._sum: Tensor | None = None
        self._taken: deque[HostCopy] = deque()

    @property
    def gates(self) -> tuple[int, int, int] | None:
        """Layers with noisy gates, decisions of each, experts; None where the gates have no noise."""
        for layer in self._layers.values():
            experts = layer.experts
            quiet = experts.router in (*BY_TOKEN, FOLDED) or any(isinstance(r, HashRouter) for r in layer.values())
            return None if quiet or not experts.noise else (len(self._layers), len(layer), experts.count)
        return None

    @torch.no_grad()
    def step(
        self, load: Float[Tensor, "m d e"] | None, bias_rate: float, held: bool | Float[Tensor, ""] = False
    ) -> None:
        """Take in the load of a step over all ranks, and move the biases of routers that have one against it.

        Args:
            load: of each layer, decision and expert; None: there are no experts.
            bias_rate: by how much a bias moves.
            held: whether the step changed nothing, and its load does not count; on the device 1 or 0.
        """
        if load is None or held is True:
            return
        if isinstance(held, Tensor):
            load = torch.where(held > 0, 0.0, load)
        self._sum = load if self._sum is None else self._sum + load
        for layer, of_layer in zip(self._layers.values(), load, strict=True):
            for router, of_decision in zip(layer.values(), of_layer, strict=True):
                if isinstance(router, TokenRouter) and router.bias is not None:
                    router.bias.copy_(updated_bias(router.bias, of_decision, bias_rate))

    def take(self) -> None:
        """Begin to bring what the experts did until now to the host, for the next record."""
        if self._sum is not None:
            self._taken.append(HostCopy(self._sum))
            self._sum = None

    def record(self) -> dict[str, Any]:
        """What the experts did between two records, by layer and decision: shares of the load, its entropy in nats,
        the number of experts that would be as diverse if equally busy, and of those that nothing reached."""
        if not self._taken:
            self.take()
        if not self._taken:
            return {}
        load = self._taken.popleft().read()
        found: dict[str, Any] = {}
        for (number, layer), of_layer in zip(self._layers.items(), load, strict=True):
            for name, busy in zip(layer.keys(), of_layer, strict=True):
                where = f"experts/{number}.{name}"
                found[f"{where}/load"] = (busy / busy.sum().clamp(min=1)).tolist()
                found[f"{where}/entropy"] = float(entropy(busy))
                found[f"{where}/effective"] = float(effective_experts(busy))
                found[f"{where}/dead"] = int(dead_experts(busy))
        return found
