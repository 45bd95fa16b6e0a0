"""Both ways of attention on this machine, by dtype and length: forward and backward of one layer's core.

Which way runs is decided in `unified/nn/kernels.py`. A row of the shapes that a quickstart, a small
classifier and a base-size image have; its ratio is the way that was chosen over the faster of the two.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.measure import Row, best_seconds
from benchmarks.step import precisions
from unified.core import seed
from unified.nn import scaled_dot_product
from unified.nn.kernels import ATTENTION
from unified.nn.scaled_dot_product import attend_fused, by_products
from unified.train.precision import PRECISIONS

SHAPES = ((128, 4, 17, 32), (64, 4, 30, 32), (48, 4, 65, 32), (64, 3, 65, 64), (16, 6, 130, 64), (16, 6, 197, 64))
"""Samples, heads, tokens and width of a head."""


def core(shape: tuple[int, int, int, int], dtype: torch.dtype, *, products: bool) -> Callable[[], None]:
    """Forward and backward pass of attention by one way."""
    samples, heads, tokens, width = shape
    generator = seed.torch_generator(0, "benchmark attention")
    projected = torch.randn(samples, tokens, 3, heads, width, generator=generator).to(dtype).requires_grad_()
    gradient = torch.randn(samples, tokens, heads * width, generator=generator).to(dtype)

    def run() -> None:
        chosen: Callable[..., bool] = scaled_dot_product.by_products
        scaled_dot_product.by_products = lambda *_: products
        try:
            out: Tensor = attend_fused(projected)
        finally:
            scaled_dot_product.by_products = chosen
        out.backward(gradient)  # type: ignore[no-untyped-call]
        projected.grad = None

    return run


def rows() -> list[Row]:
    """One row for each dtype and shape; bf16 where this CPU multiplies it."""
    found = []
    for name in precisions():
        dtype = PRECISIONS[name]
        for shape in SHAPES:
            sides = {way: core(shape, dtype, products=way == "products") for way in ("fused", "products")}
            best = best_seconds(sides)
            chosen = "products" if by_products(ATTENTION, torch.device("cpu"), dtype, shape[2]) else "fused"
            samples, heads, tokens, width = shape
            what = f"attention {samples} × {heads} heads, {tokens} tokens of {width}, {name}: {chosen} / faster way"
            detail = ", ".join(f"{way} {1e3 * seconds:.1f} ms" for way, seconds in best.items())
            found.append(Row(what, best[chosen] / min(best.values()), "<= 1.10", detail))
    return found
