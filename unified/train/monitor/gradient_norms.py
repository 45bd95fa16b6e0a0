"""Norms of the gradient by part of the network: where it explodes or vanishes."""

import re
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from unified.core.distributed import reduce_sum
from unified.core.transfers import constant
from unified.model.pretrained import UnifiedModel
from unified.nn.moe.experts import ConditionalLinear

THIRDS = 3


def parts(model: UnifiedModel) -> dict[str, str]:
    """Of each parameter: a modality's embedding, a third of the layers, experts, routers, head or temperatures."""
    layers = model.encoder.conditional_layers()
    routers = {id(parameter) for layer in layers.values() for parameter in layer.parameters()}
    experts = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, ConditionalLinear)
        for parameter in module.parameters()
    }
    found = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in experts:
            found[name] = "experts"
        elif id(parameter) in routers:
            found[name] = "routers"
        else:
            found[name] = _by_name(name, model.config.depth)
    return found


def _by_name(name: str, depth: int) -> str:
    if block := re.search(r"(?:^|\.)blocks\.(\d+)\.", name):
        third = int(block[1]) * THIRDS // depth
        first, last = -(-third * depth // THIRDS), -(-(third + 1) * depth // THIRDS) - 1
        return f"layers {first}-{last}" if last > first else f"layer {first}"
    top, *below = name.split(".")
    return below[0] if top == "embeddings" else "temperatures" if top == "log_scales" else "head"


def norms(
    gradients: Iterable[tuple[str, Tensor]], parts: Mapping[str, str], device: torch.device, *, split: bool
) -> Float[Tensor, "p"]:
    """The norm of each part's gradient, in the order in which `parts` names them; a part that no task used has 0.

    Args:
        gradients: by the parameter's name; those of parameters that are in no part are left out.
        parts: that of each parameter, by its name.
        device: where the norms are wanted.
        split: whether gradients are split over the processes, which then all call this.
    """
    names = list(dict.fromkeys(parts.values()))
    sums = torch.zeros(len(names), device=device)
    found = [(name, gradient) for name, gradient in gradients if name in parts]
    if found:
        place = constant([names.index(parts[name]) for name, _ in found], device, torch.long)
        squares = torch.stack(torch._foreach_norm([gradient.detach() for _, gradient in found])).float().square()
        sums.index_add_(0, place, squares.to(device))
    return (reduce_sum(sums) if split else sums).sqrt()
