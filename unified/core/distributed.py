"""Collectives that are the identity at world size 1, so that one code path serves one process and many."""

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as distributed
from jaxtyping import Shaped
from torch import Tensor

from unified.core.timer import Stopwatch


def world_size() -> int:
    """Number of processes of this run."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def rows_of_rank(count: int, number: int | None = None, ranks: int | None = None) -> range:
    """This rank's part of so many rows, or all of them on every rank where some would have none."""
    number, ranks = rank() if number is None else number, world_size() if ranks is None else ranks
    return range(count) if count < ranks else range(number * count // ranks, (number + 1) * count // ranks)


WAITING = ".waiting"  # no task has this name
_watch: list[Stopwatch] = []


@contextmanager
def waits_measured(watch: Stopwatch) -> Iterator[None]:
    """Measure the exchanges of this block as `WAITING`: they last until the slowest process is there."""
    _watch.append(watch)
    try:
        yield
    finally:
        _watch.pop()


def _waiting() -> AbstractContextManager[None]:
    return _watch[-1].measure(WAITING) if _watch and world_size() > 1 else nullcontext()


def reduce_sum(value: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, without gradient."""
    value = value.detach().clone()
    if world_size() > 1:
        with _waiting():
            distributed.all_reduce(value)
    return value


def totals(*numbers: float | int) -> list[float]:
    """The sum of each number over all ranks."""
    if world_size() == 1:
        return [float(number) for number in numbers]
    device = "cpu" if "gloo" in distributed.get_backend() else "cuda"
    return reduce_sum(torch.tensor(numbers, dtype=torch.float64, device=device)).tolist()


def of_ranks(*numbers: float) -> list[list[float]]:
    """The numbers of every rank, in rank order, on every rank."""
    if world_size() == 1:
        return [list(numbers)]
    device = "cpu" if "gloo" in distributed.get_backend() else "cuda"
    own = torch.tensor(numbers, dtype=torch.float64, device=device)
    found = [torch.empty_like(own) for _ in range(world_size())]
    distributed.all_gather(found, own)
    return [row.tolist() for row in found]


class _GatherRows(torch.autograd.Function):
    """All-gather along the first axis; the backward pass sums the gradient over ranks and takes this rank's rows."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.rows = value.shape[0]
        parts = [torch.empty_like(value) for _ in range(world_size())]
        with _waiting():
            distributed.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        distributed.all_reduce(gradient)
        return gradient[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gather_rows(value: Tensor) -> Tensor:
    """The rows of all ranks, in rank order, with gradient; every rank holds equally many (b, ...) -> (b * ranks, ...).

    With gradients averaged over ranks, a loss of local rows against all columns has the exact global gradient.
    """
    return value if world_size() == 1 else _GatherRows.apply(value)  # type: ignore[no-any-return]


class _AllToAll(torch.autograd.Function):
    """Rows to and from the processes of a group; the gradient goes the other way."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: Sequence[int], received: Sequence[int], group: Any) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return _all_to_all(rows, sent, received, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _all_to_all(gradients[0], ctx.received, ctx.sent, ctx.group), None, None, None


def _all_to_all(rows: Tensor, sent: Sequence[int], received: Sequence[int], group: Any) -> Tensor:
    found = rows.new_empty(sum(received), *rows.shape[1:])
    with _waiting():
        distributed.all_to_all_single(found, rows.contiguous(), list(received), list(sent), group=group)
    return found


def exchange_rows(
    rows: Shaped[Tensor, "s *d"], sent: Sequence[int], received: Sequence[int], group: Any
) -> Shaped[Tensor, "r *d"]:
    """Rows that the processes of a group give each other, with gradient.

    The first `sent[0]` rows go to process 0 of the group, and so on; the first `received[0]` come from there.
    """
    return _AllToAll.apply(rows, sent, received, group)  # type: ignore[no-any-return]


def gather_parts(value: Tensor, count: int) -> Tensor:
    """All rows, on every rank, of the parts that `rows_of_rank` gave, with gradient."""
    if world_size() == 1 or count < world_size():
        return value
    longest = -(-count // world_size())
    filled = torch.cat([value, value.new_zeros(longest - len(value), *value.shape[1:])])
    rows = [(longest * number, len(rows_of_rank(count, number))) for number in range(world_size())]
    places = torch.cat([torch.arange(start, start + size, device=value.device) for start, size in rows])
    return gather_rows(filled)[places]


def broadcast_object(value: Any) -> Any:
    """Rank 0's value on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]


def gather_objects(value: Any) -> list[Any]:
    """The values of all ranks, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    box: list[Any] = [None] * world_size()
    distributed.all_gather_object(box, value)
    return box


def barrier() -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        distributed.barrier()


def leave() -> None:
    """End all groups of this process; `let_go` frees their threads once nothing uses them."""
    if not distributed.is_initialized():
        return
    # DeepSpeed keeps groups of its own, which its own end alone forgets.
    deepspeed = sys.modules.get("deepspeed.comm")
    if deepspeed is not None and deepspeed.is_initialized():
        deepspeed.destroy_process_group()
    else:
        distributed.destroy_process_group()


def let_go() -> None:
    """Free what still refers to groups that were left, at the end of a program.

    A thread of gloo lets go of the last tensor of a collective. Where the interpreter ends meanwhile, that aborts the
    process (SIGABRT, "terminate called without an active exception"). The thread ends with the last reference to its
    group: in wrapped models, in their engines, and in the traceback of an error.
    """
    gc.collect()
