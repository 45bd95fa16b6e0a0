"""Scaled dot-product attention, softmax(q kᵀ / √d) v, by the way that is fastest where it runs.

On CPUs torch's fused kernel is slower than two batched products and a softmax for short sequences, which keep the
probabilities of the forward pass instead of computing them twice. `python -m benchmarks attention` measures both ways.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from unified.nn.kernels import ATTENTION, CAPTION, CROSS, MASKED, chosen

EAGER = "eager"
"""The name that transformers has for attention by plain products, whatever is fastest."""


def set_eager(model: nn.Module, on: bool) -> None:
    """Have the attentions of a model computed by plain products.

    Args:
        model: the model; its modules that have an attribute `eager` are told.
        on: whether to.
    """
    for module in model.modules():
        if hasattr(module, EAGER):
            module.eager = on  # type: ignore[assignment]


def by_products(operation: str, device: torch.device, dtype: torch.dtype, keys: int) -> bool:
    """Return whether products are the way of `kernels.TABLE` for an attention; compiled code leaves it to torch.

    Args:
        operation: which attention.
        device: where queries and keys are.
        dtype: their type.
        keys: how many each query sees.
    """
    return not torch.compiler.is_compiling() and chosen(operation, device, dtype, keys=keys).name == "products"


def attend(
    query: Float[Tensor, "b h q d"],
    key: Float[Tensor, "b h k d"],
    value: Float[Tensor, "b h k e"],
    mask: Bool[Tensor, "_ 1 #q k"] | None = None,
    *,
    eager: bool = False,
) -> Float[Tensor, "b h q e"]:
    """Return the values that each query attends to.

    Args:
        query, key, value: as projected; keys are compared with queries over √d.
        mask: True: may be attended; None: all may. A query that may attend to nothing gets zeros.
        eager: by plain products, whatever is fastest.
    """
    if eager:
        return _attend_eagerly(query, key, value, mask)
    if mask is not None or not by_products(CROSS, query.device, query.dtype, key.shape[2]):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    with torch.autocast(query.device.type, enabled=False):
        flat, keys, values = (x.flatten(0, 1) for x in (query, key, value))
        return torch.bmm(_scores(flat, keys).softmax(dim=-1), values).unflatten(0, query.shape[:2])


def attend_fused(
    projected: Float[Tensor, "b n 3 h d"], mask: Bool[Tensor, "_ 1 #n n"] | None = None, *, eager: bool = False
) -> Float[Tensor, "b n w"]:
    """Return what `attend` does for queries, keys and values of one projection, with the heads joined again.

    Args:
        projected: queries, keys and values of each token.
        mask: as in `attend`, but that each token may attend to some.
        eager: by plain products, whatever is fastest.
    """
    if eager:
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind()
        return _attend_eagerly(query, key, value, mask).transpose(1, 2).flatten(2)
    operation = ATTENTION if mask is None else MASKED if mask.shape[2] == 1 else CAPTION
    if by_products(operation, projected.device, projected.dtype, projected.shape[1]):
        return _Products.apply(projected, mask)  # type: ignore[no-any-return]
    query, key, value = projected.permute(2, 0, 3, 1, 4).unbind()
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


def _attend_eagerly(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """`attend` in the operations of its formula."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is None:
        return scores.softmax(dim=-1) @ value
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1).masked_fill(~mask, 0.0) @ value


def _scores(query: Float[Tensor, "r q d"], key: Float[Tensor, "r k d"]) -> Float[Tensor, "r q k"]:
    """The products over √d, in one call; what is added, times 0, is not read."""
    return torch.baddbmm(query.new_empty(()), query, key.transpose(1, 2), beta=0, alpha=query.shape[2] ** -0.5)


class _Products(torch.autograd.Function):
    """Attention by products, whose layouts autograd would copy twice as often: once in, once out, in both passes."""

    @staticmethod
    def forward(ctx: FunctionCtx, projected: Tensor, mask: Tensor | None) -> Tensor:
        samples, tokens, _, heads, width = projected.shape
        with torch.autocast(projected.device.type, enabled=False):
            split = projected.permute(2, 0, 3, 1, 4).reshape(3, samples * heads, tokens, width)
            query, key, value = split.unbind()
            scores = _scores(query, key)
            if mask is not None:
                scores.view(samples, heads, tokens, tokens).masked_fill_(~mask, -math.inf)
            probabilities = scores.softmax(dim=-1)
            ctx.save_for_backward(split, probabilities)
            return _joined(torch.bmm(probabilities, value), heads)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        split, probabilities = ctx.saved_tensors  # type: ignore[attr-defined]
        query, key, value = split.unbind()
        rows, tokens, width = query.shape
        samples = gradient.shape[0]
        heads, scale = rows // samples, width**-0.5
        with torch.autocast(gradient.device.type, enabled=False):
            out = gradient.reshape(samples, tokens, heads, width).transpose(1, 2).reshape(rows, tokens, width)
            found = torch.empty_like(split)
            torch.bmm(probabilities.transpose(1, 2), out, out=found[2])
            of_probabilities = torch.bmm(out, value.transpose(1, 2))
            of_scores = torch._softmax_backward_data(of_probabilities, probabilities, -1, probabilities.dtype)
            torch.baddbmm(found[0], of_scores, key, beta=0, alpha=scale, out=found[0])
            torch.baddbmm(found[1], of_scores.transpose(1, 2), query, beta=0, alpha=scale, out=found[1])
            return found.view(3, samples, heads, tokens, width).permute(1, 3, 0, 2, 4).contiguous(), None


def _joined(x: Float[Tensor, "r n d"], heads: int) -> Float[Tensor, "b n w"]:
    """The outputs of all heads, side by side."""
    return x.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)
