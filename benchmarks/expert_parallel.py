"""Experts that two processes split, against experts that both keep whole and whose gradients they average.

Equal: tokens, width, experts, routing, multiplications and additions. Timed are forward and backward pass of one layer
and all that crosses between the processes: rows there and back where experts are split, the gradients of all experts
where they are whole. Over gloo, one thread a process, in fp32.
"""

import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, multiprocessing

from benchmarks.experts import Shape
from benchmarks.measure import Row, best_seconds
from unified.core import seed
from unified.nn.moe.dispatch import Plan, choose, expert_mlp, plan
from unified.nn.moe.exchange import Journey
from unified.train.engines.expert_parallel import GroupExchange

PROCESSES = 2
ROUNDS = 9


def rows() -> list[Row]:
    """The time of split experts / whole ones, for few and for many tokens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    context = multiprocessing.get_context("spawn")
    found = context.SimpleQueue()
    workers = [context.Process(target=_worker, args=(rank, port, found)) for rank in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise RuntimeError(f"a process of the measurement ended with {worker.exitcode}; see above")
    return found.get()  # type: ignore[no-any-return]


def _worker(rank: int, port: str, found: Any) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    measured = [_row(rank, Shape(tokens=tokens)) for tokens in (512, 2048)]
    if rank == 0:
        found.put(measured)
    distributed.destroy_process_group()


def _row(rank: int, shape: Shape) -> Row:
    own = slice(rank * shape.experts // PROCESSES, (rank + 1) * shape.experts // PROCESSES)
    whole = _experts(shape)
    split = [tensor.detach()[own].clone().requires_grad_() for tensor in whole]
    generator = seed.torch_generator(0, "tokens", rank)
    x = torch.randn(shape.tokens, shape.width, generator=generator).requires_grad_()
    weights, index = choose(torch.randn(shape.tokens, shape.experts, generator=generator), shape.top)
    gradient = torch.randn(shape.tokens, shape.width, generator=generator)
    sides = {
        "split": partial(_split, x, weights, index, split, gradient),
        "whole": partial(_whole, x, weights, index, whole, gradient),
    }
    best = best_seconds(sides, ROUNDS)
    share = (PROCESSES - 1) / PROCESSES
    sent = {
        "split": 4 * shape.top * shape.tokens * shape.width * 4 * share,
        "whole": 2 * sum(tensor.numel() for tensor in whole) * 4 * share,
    }
    detail = ", ".join(f"{side} {1e3 * best[side]:.0f} ms and {sent[side] / 1e6:.0f} MB a process" for side in sides)
    return Row(
        f"experts split over {PROCESSES} processes / whole, {shape.tokens} tokens each",
        best["split"] / best["whole"],
        "-",
        detail,
    )


def _experts(shape: Shape) -> list[Tensor]:
    count, width, hidden = shape.experts, shape.width, shape.hidden
    generator = seed.torch_generator(0, "experts")
    sizes = ((count, hidden, width), (count, hidden), (count, width, hidden), (count, width))
    return [(torch.randn(size, generator=generator) / 20).requires_grad_() for size in sizes]


def _split(x: Tensor, weights: Tensor, index: Tensor, experts: list[Tensor], gradient: Tensor) -> None:
    journey = Journey(plan(index, PROCESSES * len(experts[0])), GroupExchange(distributed.group.WORLD))
    out = journey.through(x, weights, partial(_mlp, experts))
    _back(out, gradient, [x, *experts], lambda _: None)


def _whole(x: Tensor, weights: Tensor, index: Tensor, experts: list[Tensor], gradient: Tensor) -> None:
    out = _mlp(experts, x, plan(index, len(experts[0])), weights)
    _back(out, gradient, [x, *experts], lambda found: [distributed.all_reduce(each) for each in found[1:]])


def _mlp(experts: list[Tensor], x: Tensor, where: Plan, weights: Tensor) -> Tensor:
    up_weight, up_bias, down_weight, down_bias = experts
    return expert_mlp(x, up_weight, up_bias, down_weight, down_bias, where, weights)


def _back(out: Tensor, gradient: Tensor, leaves: list[Tensor], reduce: Callable[[tuple[Tensor, ...]], Any]) -> None:
    reduce(torch.autograd.grad(out, leaves, gradient))
