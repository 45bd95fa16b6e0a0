"""Dropless dispatch of tokens to experts: every token runs through the experts chosen for it.

Rows (copies of tokens, one for each choice) are sorted by expert, each expert multiplies its own stretch, and the
results are gathered back. Nothing scatters, so results and gradients are the same bit for bit in every run. On an
accelerator nothing here waits for the host: rows are multiplied by `torch.nn.functional.grouped_mm` where it has a
kernel that does not wait either (bf16 on Hopper and data-centre Blackwell), in blocks elsewhere (`kernels.TABLE`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from unified.nn.blocks import Blocks, lay, outer, product
from unified.nn.kernels import EXPERTS, chosen, has_whole_rows


@dataclass(frozen=True)
class Plan:
    """Where the rows of a batch go; one plan serves every layer that makes the same choice.

    Row r is a copy of token `tokens[r]` for expert `experts[r]`; `experts` ascends. Choice j of token t is row
    `inverse[t * k + j]`, and `order` is the inverse of that. Expert e has the rows from `offsets[e - 1]` (0 for the
    first) up to `offsets[e]`.
    """

    index: Int[Tensor, "t k"]
    order: Int[Tensor, "r"]
    inverse: Int[Tensor, "r"]
    tokens: Int[Tensor, "r"]
    experts: Int[Tensor, "r"]
    offsets: Int[Tensor, "e"]  # int32
    kept: Bool[Tensor, "t k"] | None = None  # False: beyond the capacity of its expert, contributes nothing
    blocks: Blocks | None = None  # where rows lie that are multiplied in blocks


def choose(
    logits: Float[Tensor, "t e"], top: int, bias: Float[Tensor, "e"] | None = None
) -> tuple[Float[Tensor, "t k"], Int[Tensor, "t k"]]:
    """The `top` experts of each token, best first, and their weights, which sum to 1 (GShard, arXiv 2006.16668).

    The softmax runs over all experts in fp32 or better, the weights are renormalised over the chosen ones. `bias` moves
    the choice alone, never the weights (DeepSeek-V3, arXiv 2412.19437). Ties go to the expert that comes first. A
    logit that is NaN or +inf makes all weights of its token NaN: asking for it would make a GPU wait.
    """
    exact = torch.promote_types(logits.dtype, torch.float32)
    probability = logits.to(exact).softmax(-1)
    score = probability.detach() if bias is None else probability.detach() + bias.detach()
    index = score.argsort(dim=-1, descending=True, stable=True)[:, :top]
    chosen = probability.gather(1, index)
    return chosen / chosen.sum(-1, keepdim=True).clamp(min=torch.finfo(exact).eps), index


def plan(
    index: Int[Tensor, "t k"],
    experts: int,
    *,
    real: Bool[Tensor, "t"] | None = None,
    capacity: float | None = None,
    priority: Float[Tensor, "t"] | None = None,
) -> Plan:
    """Sort the choices by expert; with a `capacity`, say which of them an expert has room for.

    `index`: chosen experts, best first, each below `experts`. An expert takes ceil(capacity · k · t / experts) rows:
    real tokens before padding (`real` False), first choices before second ones, then tokens of high `priority`, then
    those that come first (batch-prioritised routing, V-MoE, arXiv 2106.05974).
    """
    flat = index.reshape(-1)
    order = flat.argsort(stable=True)
    by_expert = flat.index_select(0, order)
    # The number of entries up to each expert: a search, since bincount waits for the host on a GPU.
    names = torch.arange(experts, device=flat.device, dtype=flat.dtype)
    offsets = torch.searchsorted(by_expert, names, right=True).to(torch.int32)
    kept = None
    if capacity is not None:
        room = math.ceil(capacity * flat.numel() / experts)
        kept = _within(index, offsets, room, real, priority)
    tokens = order // max(index.shape[1], 1)
    return Plan(index, order, order.argsort(), tokens, by_expert, offsets, kept)


def _within(
    index: Int[Tensor, "t k"],
    offsets: Int[Tensor, "e"],
    room: int,
    real: Bool[Tensor, "t"] | None,
    priority: Float[Tensor, "t"] | None,
) -> Bool[Tensor, "t k"]:
    """Whether each choice is among the first `room` of its expert."""
    # Stable sorts, from the criterion that counts least to the one that counts most.
    count, top = index.shape
    queue = torch.arange(count, device=index.device)
    if priority is not None:
        queue = priority.detach().argsort(descending=True, stable=True)
    choices = (queue * top + torch.arange(top, device=index.device)[:, None]).reshape(-1)
    if real is not None:
        choices = choices[(~real)[choices // max(top, 1)].to(torch.uint8).argsort(stable=True)]
    expert = index.reshape(-1)[choices]
    by_expert = expert.argsort(stable=True)
    starts = F.pad(offsets, (1, 0))[:-1]
    place = torch.arange(len(choices), device=index.device) - starts[expert[by_expert]]
    inside = (place < room)[choices[by_expert].argsort()]
    return inside.view(count, top)


def expert_linear(
    x: Float[Tensor, "t d"],
    weight: Float[Tensor, "e o d"],
    bias: Float[Tensor, "e o"] | None,
    plan: Plan,
    weights: Float[Tensor, "t k"],
) -> Float[Tensor, "t o"]:
    """Σ_k w_k (W_e x + b_e), e the k-th expert of the token.

    Computes in the dtype of autocast where it is on. Keeps `x` alone for the backward pass.
    """
    x, weights = entry(x, plan, weights)
    return _Linear.apply(x, weight, bias, weights, _laid(plan, x.dtype, weight))


def expert_mlp(
    x: Float[Tensor, "t d"],
    up_weight: Float[Tensor, "e h d"],
    up_bias: Float[Tensor, "e h"] | None,
    down_weight: Float[Tensor, "e d h"],
    down_bias: Float[Tensor, "e d"] | None,
    plan: Plan,
    weights: Float[Tensor, "t k"],
) -> Float[Tensor, "t d"]:
    """Σ_k w_k (V_e gelu(W_e x + b_e) + c_e), e the k-th expert of the token; the GELU is the exact (erf) one.

    Computes in the dtype of autocast where it is on. Keeps for the backward pass what a dense layer of width k·h does:
    `x` and the hidden rows before and after the GELU.
    """
    x, weights = entry(x, plan, weights)
    plan = _laid(plan, x.dtype, up_weight, down_weight)
    return _Mlp.apply(x, up_weight, up_bias, down_weight, down_bias, weights, plan)


def entry(
    x: Float[Tensor, "t d"], plan: Plan, weights: Float[Tensor, "t k"]
) -> tuple[Float[Tensor, "t d"], Float[Tensor, "t k"]]:
    """The tokens in the dtype of the products; weights of choices beyond the capacity set to zero."""
    device = x.device.type
    available = torch.amp.is_autocast_available(device)  # not on the meta device
    if available and torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(device))
    return x, weights if plan.kept is None else weights.masked_fill(~plan.kept, 0)


class _Linear(torch.autograd.Function):
    """The gradient of a choice's weight is found from inputs, not outputs, so that no output is kept."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, weights: Tensor, plan: Plan
    ) -> Float[Tensor, "t o"]:
        ctx.save_for_backward(x, weight, bias, weights)
        ctx.plan = plan
        matrix = weight.to(x.dtype)
        rows = x.new_empty(len(plan.tokens), weight.shape[1])
        for part, expert in _groups(plan, matrix):
            rows[part] = _product(x.index_select(0, plan.tokens[part]), matrix[expert], plan)
        return _add_bias(combine(rows, weights, plan), bias, weights, plan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "t o"]) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        x, weight, bias, weights = ctx.saved_tensors
        matrix, shares = weight.to(x.dtype), _by_row(weights, plan, x.dtype)
        weight_gradient = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        inner, share_gradient = x.new_empty(len(plan.tokens), x.shape[1]), torch.empty_like(shares)
        for part, expert in _groups(plan, matrix):
            outer, rows = (each.index_select(0, plan.tokens[part]) for each in (gradient, x))
            inner[part] = back = _product_back(outer, matrix[expert], plan)
            share_gradient[part] = (back * rows).sum(-1)
            if weight_gradient is not None:
                weight_gradient[expert] = _outer(outer, rows.mul_(shares[part, None]), matrix[expert], plan)
        bias_gradient, through_bias = _bias_gradients(gradient, bias, weights, plan)
        weights_gradient = _by_choice(share_gradient, plan).to(weights.dtype) + through_bias
        return combine(inner, weights, plan), weight_gradient, bias_gradient, weights_gradient, None


class _Mlp(torch.autograd.Function):
    """As `_Linear`: the weight of a choice is applied to the narrow rows at both ends, never to the hidden ones."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        up_weight: Tensor,
        up_bias: Tensor | None,
        down_weight: Tensor,
        down_bias: Tensor | None,
        weights: Tensor,
        plan: Plan,
    ) -> Float[Tensor, "t d"]:
        up, down = up_weight.to(x.dtype), down_weight.to(x.dtype)
        rows = x.new_empty(len(plan.tokens), down.shape[1])
        hidden = []
        for part, expert in _groups(plan, up, down):
            before = _product(x.index_select(0, plan.tokens[part]), up[expert], plan)
            if up_bias is not None:
                before += _bias_of(up_bias.to(x.dtype), expert, plan)
            after = F.gelu(before)
            rows[part] = _product(after, down[expert], plan)
            hidden += [before, after]
        ctx.save_for_backward(x, up_weight, up_bias, down_weight, down_bias, weights, *hidden)
        ctx.plan = plan
        return _add_bias(combine(rows, weights, plan), down_bias, weights, plan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "t d"]) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        x, up_weight, up_bias, down_weight, down_bias, weights, *hidden = ctx.saved_tensors
        up, down, shares = up_weight.to(x.dtype), down_weight.to(x.dtype), _by_row(weights, plan, x.dtype)
        inner, share_gradient = x.new_empty(len(plan.tokens), x.shape[1]), torch.empty_like(shares)
        need = ctx.needs_input_grad
        up_gradient = torch.empty_like(up_weight) if need[1] else None
        up_bias_gradient = torch.empty_like(up_bias) if need[2] else None
        down_gradient = torch.empty_like(down_weight) if need[3] else None
        for number, (part, expert) in enumerate(_groups(plan, up, down)):
            before, after = hidden[2 * number : 2 * number + 2]
            outer, rows = (each.index_select(0, plan.tokens[part]) for each in (gradient, x))
            share = shares[part, None]
            back = _product_back(outer, down[expert], plan)
            share_gradient[part] = (back * after).sum(-1)
            if down_gradient is not None:
                down_gradient[expert] = _outer(outer.mul_(share), after, down[expert], plan)
            back = torch.ops.aten.gelu_backward(back, before)
            if up_gradient is not None:
                up_gradient[expert] = _outer(back, rows.mul_(share), up[expert], plan)
            if up_bias_gradient is not None:
                up_bias_gradient[expert] = _sums(back, share, up[expert], plan)
            inner[part] = _product_back(back, up[expert], plan)
        down_bias_gradient, through_bias = _bias_gradients(gradient, down_bias, weights, plan)
        weights_gradient = _by_choice(share_gradient, plan).to(weights.dtype) + through_bias
        x_gradient = combine(inner, weights, plan)
        return x_gradient, up_gradient, up_bias_gradient, down_gradient, down_bias_gradient, weights_gradient, None


def _groups(plan: Plan, *matrices: Float[Tensor, "e _ _"]) -> Iterator[tuple[slice, int | slice]]:
    """Rows and experts to multiply at once: expert by expert where that is the way, else all."""
    if all(_way(each, each.dtype) != "loop" for each in matrices):
        yield slice(None), slice(None)
        return
    start = 0
    for expert, stop in enumerate(plan.offsets.tolist()):
        yield slice(start, stop), expert
        start = stop


def _way(matrix: Float[Tensor, "e _ _"], dtype: torch.dtype) -> str:
    """The way to multiply rows by the matrices of their experts (`kernels.TABLE`): loop, grouped_mm or blocks."""
    return chosen(EXPERTS, matrix.device, dtype, whole_rows=has_whole_rows(dtype, *matrix.shape[1:])).name


def _laid(plan: Plan, dtype: torch.dtype, *weights: Float[Tensor, "e _ _"]) -> Plan:
    """The plan, with blocks where they are the way; laid before the first pass, and used in both."""
    if plan.blocks is not None or all(_way(each, dtype) != "blocks" for each in weights):
        return plan
    return replace(plan, blocks=lay(plan.offsets, plan.experts))


def _product(rows: Float[Tensor, "r d"], matrix: Tensor, plan: Plan) -> Float[Tensor, "r o"]:
    """W x of each row; `matrix` is one expert's, or those of all."""
    if matrix.dim() == 2:
        return rows @ matrix.t()
    if _way(matrix, matrix.dtype) == "grouped_mm":
        return F.grouped_mm(rows, matrix.transpose(1, 2), offs=plan.offsets)
    assert plan.blocks is not None
    return product(rows, matrix.transpose(1, 2), plan.blocks)


def _bias_of(bias: Float[Tensor, "e o"], expert: int | slice, plan: Plan) -> Tensor:
    """What to add to the rows of an expert, or of all."""
    return bias[expert] if isinstance(expert, int) else bias.index_select(0, plan.experts)


def _product_back(rows: Float[Tensor, "r o"], matrix: Tensor, plan: Plan) -> Float[Tensor, "r d"]:
    """Wᵀ x of each row."""
    if matrix.dim() == 2:
        return rows @ matrix
    if _way(matrix, matrix.dtype) == "grouped_mm":
        return F.grouped_mm(rows, matrix, offs=plan.offsets)
    assert plan.blocks is not None
    return product(rows, matrix, plan.blocks)


def _outer(left: Float[Tensor, "r o"], right: Float[Tensor, "r d"], matrix: Tensor, plan: Plan) -> Tensor:
    """The sum of a bᵀ over the rows of each expert, in the shape of `matrix`."""
    if matrix.dim() == 2:
        return left.t() @ right
    if _way(matrix, matrix.dtype) == "grouped_mm":
        return F.grouped_mm(left.t(), right, offs=plan.offsets)
    assert plan.blocks is not None
    return outer(left, right, len(matrix), plan.blocks)


def _sums(rows: Float[Tensor, "r o"], share: Float[Tensor, "r 1"], matrix: Tensor, plan: Plan) -> Tensor:
    """The sum of the rows of each expert, times their share; as a product, which needs no scatter."""
    if matrix.dim() == 2:
        return (share.t() @ rows)[0]
    names = torch.arange(len(matrix), device=rows.device)
    return torch.where(plan.experts == names[:, None], share.t(), 0) @ rows


def _by_row(weights: Float[Tensor, "t k"], plan: Plan, dtype: torch.dtype) -> Float[Tensor, "r"]:
    return weights.reshape(-1).index_select(0, plan.order).to(dtype)


def _by_choice(values: Float[Tensor, "r"], plan: Plan) -> Float[Tensor, "t k"]:
    return values.index_select(0, plan.inverse).view(plan.index.shape)


def combine(rows: Float[Tensor, "r d"], weights: Float[Tensor, "t k"], plan: Plan) -> Float[Tensor, "t d"]:
    """The weighted sum of each token's rows; a gather, so the order of the sum is fixed."""
    # Two numbers lose nothing in bf16 that the result keeps; a long sum does.
    exact = rows.dtype if weights.shape[1] <= 4 else torch.promote_types(rows.dtype, torch.float32)
    places, weights = plan.inverse.view(plan.index.shape), weights.to(exact)
    total = rows.index_select(0, places[:, 0]).to(exact).mul_(weights[:, :1])
    for choice in range(1, places.shape[1]):
        total.addcmul_(rows.index_select(0, places[:, choice]).to(exact), weights[:, choice, None])
    return total.to(rows.dtype)


def _by_expert(weights: Float[Tensor, "t k"], plan: Plan, experts: int) -> Float[Tensor, "t e"]:
    """The weight of every expert for every token, 0 where it is not chosen."""
    names = torch.arange(experts, device=weights.device)
    return torch.where(plan.index[:, :, None] == names, weights[:, :, None], 0).sum(1)


def _add_bias(total: Float[Tensor, "t o"], bias: Tensor | None, weights: Tensor, plan: Plan) -> Float[Tensor, "t o"]:
    """Σ_k w_k b_e, as one small product."""
    if bias is None:
        return total
    return total.addmm_(_by_expert(weights, plan, len(bias)).to(total.dtype), bias.to(total.dtype))


def _bias_gradients(
    gradient: Float[Tensor, "t o"], bias: Tensor | None, weights: Tensor, plan: Plan
) -> tuple[Tensor | None, Tensor | float]:
    """The gradients of `bias`, and of `weights` through it."""
    if bias is None:
        return None, 0.0
    of_bias = _by_expert(weights, plan, len(bias)).to(gradient.dtype).t() @ gradient
    of_weights = (gradient @ bias.to(gradient.dtype).t()).gather(1, plan.index)
    return of_bias.to(bias.dtype), of_weights.to(weights.dtype)
