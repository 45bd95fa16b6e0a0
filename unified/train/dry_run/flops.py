"""Floating-point operations of training steps, and what this machine can do at best."""

import time
from collections.abc import Iterable
from functools import cache

import torch
from torch import nn

from unified.core import seed
from unified.nn.moe.experts import ConditionalLinear
from unified.nn.moe.routing import AttributeRouter, NameRouter


def matrix_parameters(module: nn.Module, experts: int = 1) -> int:
    """Numbers in the matrices that every token is multiplied with; tables of embeddings are looked up instead.

    `experts`: those of a conditional linear that a token is sent to; 1 where they are merged. Routers that do not look
    at tokens are asked once for each kind of token, which does not count.
    """
    if isinstance(module, (nn.Embedding, AttributeRouter, NameRouter)):
        return 0
    if isinstance(module, ConditionalLinear):
        return experts * module.weight[0].numel()
    own = sum(parameter.numel() for parameter in module.parameters(recurse=False) if parameter.dim() > 1)
    return own + sum(matrix_parameters(child, experts) for child in module.children())


def forward_flops(sequences: Iterable[tuple[int, int]], *, matrices: int, depth: int, width: int) -> int:
    """Operations of a forward pass over `sequences`, pairs of (how many, tokens of each).

    2 a token and matrix parameter, and 4 · tokens · width a token and layer for attention (its two products, all
    pairs). A multiplication with an addition counts as two, as peak rates do; padding counts like any token.
    """
    return sum(count * length * (2 * matrices + 4 * length * width * depth) for count, length in sequences)


def training_flops(sequences: Iterable[tuple[int, int]], *, matrices: int, depth: int, width: int) -> int:
    """Operations of forward and backward pass: the backward pass has two products for each one of the forward pass.

    What recomputed activations cost is not counted: it is no progress.
    """
    return 3 * forward_flops(sequences, matrices=matrices, depth=depth, width=width)


@cache
def gemm_peak(dtype: torch.dtype, device: torch.device, threads: int, seconds: float = 0.3) -> float:
    """The highest rate of square matrix products measured here, in operations a second; once for each process.

    `threads`: what `torch.get_num_threads()` says; the measurement runs with them.
    """
    size = 8192 if device.type == "cuda" else 1024
    rng = seed.torch_generator("gemm", device=device)
    a, b = (torch.rand(size, size, generator=rng, device=device).to(dtype) for _ in range(2))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            return 2 * size**3 / _fastest(a, b, seconds)
    finally:
        torch.set_num_threads(before)


def _fastest(a: torch.Tensor, b: torch.Tensor, seconds: float) -> float:
    """The shortest time of a product, over as many as fit; at least three, of which the first warms up."""
    best, begin, count = float("inf"), time.perf_counter(), 0
    while count < 3 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        torch.mm(a, b)
        if a.is_cuda:
            torch.cuda.synchronize(a.device)
        if count:
            best = min(best, time.perf_counter() - start)
        count += 1
    return best
