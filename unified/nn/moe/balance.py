"""Keeping experts equally busy: losses, the bias that needs none, and figures that say how busy they are.

All functions take sums over tokens, never means, so that the sums of several ranks, or of several parts of a batch, can
be added first: the result is then that of the whole batch.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def balance_loss(
    load: Float[Tensor, "... e"] | Int[Tensor, "... e"],
    probability: Float[Tensor, "... e"],
    tokens: float | int | Float[Tensor, "..."],
    experts: int,
) -> Float[Tensor, "..."]:
    """E · Σ_e f_e · p_e: 1 where experts are equally busy, up to E where one does all (Switch, arXiv 2101.03961).

    `load`: sum over tokens of the choices of each expert; f is its share of all choices and has no gradient.
    `probability`: sum over tokens of the router's softmax; p is its mean over the `tokens` that were summed. Without
    tokens the loss is 0.
    """
    count = torch.as_tensor(tokens, dtype=probability.dtype, device=probability.device).clamp(min=1)
    return experts * (_shares(load).to(probability.dtype) * probability).sum(-1) / count


def z_loss(squared: Float[Tensor, "..."], tokens: float | int | Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The mean of logsumexp(logits)², which keeps the gate's logits small (ST-MoE, arXiv 2202.08906).

    `squared`: sum over tokens of the squared log-sum of their logits, over the `tokens` that were summed. Without
    tokens the loss is 0.
    """
    return squared / torch.as_tensor(tokens, dtype=squared.dtype, device=squared.device).clamp(min=1)


def updated_bias(
    bias: Float[Tensor, "... e"], load: Float[Tensor, "... e"] | Int[Tensor, "... e"], rate: float
) -> Float[Tensor, "... e"]:
    """b + rate · sign(mean load − load): busy experts are chosen less, idle ones more (DeepSeek-V3, arXiv 2412.19437).

    `load`: sum over the tokens of a whole step of the choices of each expert. Call it once a step.
    """
    load = load.detach().to(torch.promote_types(bias.dtype, torch.float32))
    return bias + rate * (load.mean(-1, keepdim=True) - load).sign().to(bias.dtype)


def entropy(load: Float[Tensor, "... e"] | Int[Tensor, "... e"]) -> Float[Tensor, "..."]:
    """Entropy in nats of the shares of a load, a sum over tokens: log E where experts are equally busy.

    Without load it is 0.
    """
    return torch.special.entr(_shares(load)).sum(-1)


def effective_experts(load: Float[Tensor, "... e"] | Int[Tensor, "... e"]) -> Float[Tensor, "..."]:
    """exp(entropy): how many equally busy experts would be as diverse; from 1 to E."""
    return entropy(load).exp()


def dead_experts(load: Float[Tensor, "... e"] | Int[Tensor, "... e"]) -> Int[Tensor, "..."]:
    """The number of experts that no token chose; `load`: a sum over tokens."""
    return (load == 0).sum(-1)


def _shares(load: Tensor) -> Tensor:
    load = load.detach().to(torch.promote_types(load.dtype, torch.float32))
    return load / load.sum(-1, keepdim=True).clamp(min=torch.finfo(load.dtype).tiny)
