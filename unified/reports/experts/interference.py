"""Task interference: how a step for one task changes the loss of another (Uni-Perceiver-MoE, NeurIPS 2022).

With gradients g of N batches of each task,

    Δ_{j→i}(k) = 1/(N−1) · Σ_{m≠k} ⟨g_j^m, g_i^k⟩ / ‖g_j^m‖        I[i, j] = mean_k Δ_{j→i}(k) / Δ_{i→i}(k)

is the decrease of task i's loss by a small step of unit length along task j, as a share of that along i itself: 1 on
the diagonal, 0 where tasks do not touch, negative where they conflict. Batch k is left out for every j.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from unified.core.errors import UserError
from unified.evaluate.context import evaluating
from unified.model.pretrained import UnifiedModel
from unified.reports.source import Questions, Ticker

LINEARS = {"down": "mlp.down", "up": "mlp.up", "qkv": "attention.qkv", "out": "attention.out"}
"""Where the linears of a block lie in it."""
VANISHING = 1e-3
"""Δ_{i→i}(k) is a mean cosine times ‖g_i^k‖. Below this mean cosine a ratio would be noise, and is left out."""
ALL = "all"
"""The name of the matrix of all layers, whose gradients are taken as one vector."""
KEPT = 2**30
"""Bytes of gradients that are kept; where more are needed they are computed twice."""
PIECE = 2**20
"""Numbers that are turned to fp64 at once."""

Gradient = Callable[[int, int], Float[Tensor, "p"]]
"""The gradient of a task (by place) on a batch (by number): one vector of all layers."""


@dataclass(frozen=True)
class Interference:
    """One matrix: row i is affected, column j causes."""

    ratios: NDArray[np.float64]
    """(tasks, tasks, batches): Δ_{j→i}(k) / Δ_{i→i}(k), NaN where the denominator vanishes."""
    flips: NDArray[np.int64]
    """(tasks,): batches on which Δ_{i→i}(k) is negative, so that the ratio has the wrong sign."""

    @property
    def dropped(self) -> NDArray[np.int64]:
        """(tasks,): batches on which Δ_{i→i}(k) vanishes."""
        return np.isnan(self.ratios[:, 0]).sum(axis=-1)

    def mean(self) -> NDArray[np.float64]:
        """I: the mean over batches; NaN where all were dropped."""
        return self._over_batches(np.mean)

    def median(self) -> NDArray[np.float64]:
        """The median over batches, which single small denominators do not move."""
        return self._over_batches(np.median)

    def standard_error(self) -> NDArray[np.float64]:
        """Of the mean, by the spread over the batches of the affected task; NaN for fewer than two."""
        return self._over_batches(lambda kept, axis: _spread(kept, axis))

    def _over_batches(self, function: Callable[..., Any]) -> NDArray[np.float64]:
        rows = []
        for row in self.ratios:
            kept = row[:, ~np.isnan(row[0])]
            rows.append(function(kept, axis=1) if kept.shape[1] else np.full(len(row), np.nan))
        return np.stack(rows)


def _spread(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    count = values.shape[axis]
    if count < 2:
        return np.full(values.shape[0], np.nan)
    return np.asarray(values.std(axis=axis, ddof=1) / np.sqrt(count))


def interference(gradient: Gradient, tasks: int, batches: int, parts: Mapping[str, slice]) -> dict[str, Interference]:
    """The matrix of each part of the gradient vectors.

    Two rounds: the unit gradients of each task are summed first; then each batch's gradients are set against the sums
    less their own batch. So no more than a sum and a gradient a task are held, however many batches there are.
    Products are summed in fp64. A gradient that is exactly zero has no direction and adds nothing to its task's sum.
    """
    if batches < 2:
        raise UserError(f"--batches: {batches}; batch k is set against the others, so at least 2 are needed")
    sums: dict[str, Tensor] = {}
    for k in range(batches):
        for task in range(tasks):
            vector = gradient(task, k)
            for name, where in parts.items():
                total = sums.setdefault(name, vector.new_zeros(tasks, len(vector[where])))
                total[task] += _unit(vector[where])
    found = {name: np.zeros((tasks, tasks, batches)) for name in parts}
    lengths = {name: np.zeros((tasks, batches)) for name in parts}
    for k in range(batches):
        vectors = torch.stack([gradient(task, k) for task in range(tasks)])
        for name, where in parts.items():
            others = sums[name] - torch.stack([_unit(vector) for vector in vectors[:, where]])
            found[name][:, :, k] = _products(vectors[:, where], others) / (batches - 1)
            lengths[name][:, k] = [_length(vector) for vector in vectors[:, where]]
    return {name: ratios(found[name], lengths[name]) for name in parts}


def ratios(change: NDArray[np.float64], length: NDArray[np.float64]) -> Interference:
    """From Δ_{j→i}(k) (i, j, k) and ‖g_i^k‖ (i, k) to ratios, without those whose denominators vanish."""
    own = np.einsum("iik->ik", change)
    fine = np.abs(own) > VANISHING * length
    safe = np.where(fine, own, 1.0)
    return Interference(np.where(fine[:, None], change / safe[:, None], np.nan), (own < 0).sum(axis=1))


def _length(vector: Tensor) -> float:
    return float(sum(piece.double().square().sum() for piece in vector.split(PIECE))) ** 0.5


def _unit(vector: Float[Tensor, "p"]) -> Float[Tensor, "p"]:
    length = _length(vector)
    return vector / length if length else vector


def _products(a: Float[Tensor, "i p"], b: Float[Tensor, "j p"]) -> NDArray[np.float64]:
    """Inner products of all rows."""
    total = sum(x.double() @ y.double().T for x, y in zip(a.split(PIECE, 1), b.split(PIECE, 1), strict=True))
    assert isinstance(total, Tensor)
    return np.asarray(total.numpy())


def measure(
    questions: Questions, *, linear: str = "down", layers: Sequence[int] = (), batches: int = 16
) -> dict[str, Interference]:
    """The interference of a model's tasks in the weights of one linear: of all layers together, then of each.

    The gradient is that of the weights that exist, which for a conditional linear are its stacked experts: two tasks
    whose tokens use different experts cannot interfere there, and their inner product is exactly zero. The model's
    weights, modes, gradients and random numbers are left as they were. Raises `UserError` for layers that do not
    exist and for fewer than two batches.
    """
    model = questions.model
    weights = [_weight(model, layer, linear) for layer in _layers(model, layers)]
    sizes = np.cumsum([0, *(weight.numel() for weight in weights)])
    parts = {ALL: slice(0, int(sizes[-1]))}
    for layer, start, stop in zip(_layers(model, layers), sizes, sizes[1:], strict=False):
        parts[str(layer)] = slice(int(start), int(stop))
    tasks = questions.tasks
    keeps = len(tasks) * batches * int(sizes[-1]) * 4 <= KEPT
    kept: dict[tuple[int, int], Tensor] = {}
    ticker = Ticker("interference: gradients", len(tasks) * batches * (1 if keeps else 2))

    def gradient(task: int, number: int) -> Tensor:
        if (task, number) in kept:
            return kept[task, number]
        loss = questions.loss(tasks[task], number)
        found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        vector = torch.cat([part.flatten().to("cpu", torch.float32) for part in found])
        ticker.tick()
        if keeps:
            kept[task, number] = vector
        return vector

    with evaluating(model), torch.enable_grad(), _followed(weights):
        return interference(gradient, len(tasks), batches, parts)


@contextmanager
def _followed(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Gradients reach these weights even where they are frozen."""
    before = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_()
    try:
        yield
    finally:
        for weight, followed in zip(weights, before, strict=True):
            weight.requires_grad_(followed)


def _layers(model: UnifiedModel, layers: Sequence[int]) -> list[int]:
    depth = model.config.depth
    if wrong := [layer for layer in layers if not 0 <= layer < depth]:
        raise UserError(f"--layers: {wrong[0]} is not a layer of this model, which has 0 to {depth - 1}")
    return sorted(set(layers)) or list(range(depth))


def _weight(model: UnifiedModel, layer: int, linear: str) -> nn.Parameter:
    weight = model.get_parameter(f"encoder.blocks.{layer}.{LINEARS[linear]}.weight")
    assert isinstance(weight, nn.Parameter)
    return weight
