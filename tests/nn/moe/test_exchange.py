"""Experts that are kept by several processes against experts that are all in one; here the processes are threads."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unified.core import seed
from unified.nn.moe.dispatch import Plan, choose, expert_linear, expert_mlp, plan
from unified.nn.moe.exchange import Exchange, Journey

EXPERTS, WIDTH, HIDDEN, SECONDS = 4, 8, 12, 30
NAMES = ("up_weight", "up_bias", "down_weight", "down_bias")
Run = Callable[[dict[str, Tensor], Tensor, Plan, Tensor], Tensor]


class Table:
    """Where threads lay down rows for each other."""

    def __init__(self, processes: int) -> None:
        self.barrier = threading.Barrier(processes, timeout=SECONDS)
        self.laid: dict[tuple[int, int], Tensor] = {}

    def give(self, process: int, rows: Tensor, sent: Sequence[int]) -> Tensor:
        for other, part in enumerate(rows.split(list(sent))):
            self.laid[process, other] = part.clone()
        self.barrier.wait()
        found = torch.cat([self.laid[other, process] for other in range(len(sent))])
        self.barrier.wait()
        return found


class Given(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, exchange: "AmongThreads", sent: list[int], received: list[int]) -> Tensor:
        ctx.exchange, ctx.received = exchange, received
        return exchange.table.give(exchange.process, rows, sent)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return ctx.exchange.table.give(ctx.exchange.process, gradient, ctx.received), None, None, None


class AmongThreads(Exchange):
    def __init__(self, table: Table, process: int, processes: int) -> None:
        self.table, self.process, self.processes = table, process, processes
        self.counted = 0

    def counts(self, counts: Tensor) -> Tensor:
        self.counted += 1
        return self.table.give(self.process, counts, [1] * self.processes)

    def rows(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        found: Tensor = Given.apply(rows, self, sent, received)
        assert len(found) == sum(received)
        return found


def together(processes: int, work: Callable[[int, AmongThreads], Any]) -> list[Any]:
    """What each of some processes finds."""
    table, found = Table(processes), [RuntimeError("did not end")] * processes

    def run(process: int) -> None:
        try:
            found[process] = work(process, AmongThreads(table, process, processes))
        except BaseException as error:  # noqa: BLE001 - raised below
            table.barrier.abort()
            found[process] = error  # type: ignore[call-overload]

    threads = [threading.Thread(target=run, args=(process,)) for process in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return found


def normal(name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=seed.torch_generator(0, "exchange", name), dtype=torch.float64)


def experts() -> dict[str, Tensor]:
    shapes = ((EXPERTS, HIDDEN, WIDTH), (EXPERTS, HIDDEN), (EXPERTS, WIDTH, HIDDEN), (EXPERTS, WIDTH))
    return {name: normal(name, *shape).requires_grad_() for name, shape in zip(NAMES, shapes, strict=True)}


def mlp(kept: dict[str, Tensor], x: Tensor, where: Plan, weights: Tensor) -> Tensor:
    return expert_mlp(x, *(kept[name] for name in NAMES), where, weights)


def linear(kept: dict[str, Tensor], x: Tensor, where: Plan, weights: Tensor) -> Tensor:
    return expert_linear(x, kept["up_weight"], kept["up_bias"], where, weights)


def tokens_of(process: int, count: int, index: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """States, chosen experts and their weights."""
    weights, chosen = choose(normal(f"logits {process}", count, EXPERTS), 2)
    x = normal(f"x {process}", count, WIDTH)
    return x.requires_grad_(), chosen if index is None else index.expand(count, 2), weights.requires_grad_()


def assert_as_here(run: Run, counts: Sequence[int], index: Tensor | None = None, *, recomputed: bool = False) -> None:
    """Outputs and all gradients of processes with so many tokens each, with and without the exchange."""
    whole, processes = experts(), len(counts)
    expected = []
    for process, count in enumerate(counts):
        x, chosen, weights = tokens_of(process, count, index)
        out = run(whole, x, plan(chosen, EXPERTS, capacity=0.75), weights)
        out.sin().sum().backward()
        expected.append((out.detach(), x.grad, weights.grad))
    each = EXPERTS // processes

    def work(process: int, exchange: AmongThreads) -> Any:
        own = slice(process * each, (process + 1) * each)
        kept = {name: tensor.detach()[own].clone().requires_grad_() for name, tensor in whole.items()}
        x, chosen, weights = tokens_of(process, counts[process], index)

        def forward(x: Tensor, weights: Tensor) -> Tensor:
            home = plan(chosen, EXPERTS, capacity=0.75)
            return Journey(home, exchange).through(x, weights, lambda *given: run(kept, *given))

        out = checkpoint(forward, x, weights, use_reentrant=False) if recomputed else forward(x, weights)
        out.sin().sum().backward()
        return (out.detach(), x.grad, weights.grad), {name: tensor.grad for name, tensor in kept.items()}

    found = together(processes, work)
    for (own, _), right in zip(found, expected, strict=True):
        torch.testing.assert_close(own, right)
    for name, tensor in whole.items():
        if tensor.grad is not None:
            torch.testing.assert_close(torch.cat([gradients[name] for _, gradients in found]), tensor.grad)


@pytest.mark.parametrize("run", [linear, mlp])
@pytest.mark.parametrize("counts", [(7,), (9, 5), (0, 6), (0, 0), (3, 0, 8, 1)])
def test_experts_elsewhere_compute_what_experts_here_do(run: Run, counts: tuple[int, ...]) -> None:
    assert_as_here(run, counts)


@pytest.mark.parametrize("run", [linear, mlp])
def test_all_rows_may_go_to_one_process(run: Run) -> None:
    assert_as_here(run, (6, 5), torch.tensor([3, 2]))


def test_what_is_recomputed_travels_again() -> None:
    assert_as_here(mlp, (9, 5), recomputed=True)


def test_rows_travel_in_the_dtype_of_autocast() -> None:
    whole = {name: tensor.detach().float() for name, tensor in experts().items()}
    dtypes = set()

    def work(process: int, exchange: AmongThreads) -> Any:
        x, chosen, weights = (tensor.detach() for tensor in tokens_of(process, 9, None))
        own = {name: tensor[2 * process : 2 * process + 2] for name, tensor in whole.items()}

        def use(x: Tensor, where: Plan, weights: Tensor) -> Tensor:
            dtypes.add(x.dtype)
            return mlp(own, x, where, weights)

        home = plan(chosen, EXPERTS)
        with torch.autocast("cpu", torch.bfloat16):
            found = Journey(home, exchange).through(x.float(), weights.float(), use)
            return found, mlp(whole, x.float(), home, weights.float())

    for found, right in together(2, work):
        assert float((found - right).norm() / right.norm()) < 0.01
    assert dtypes == {torch.bfloat16}


def test_the_counts_are_told_once_for_all_linears_of_a_decision() -> None:
    kept = experts()

    def work(process: int, exchange: AmongThreads) -> int:
        x, chosen, weights = tokens_of(process, 5, None)
        own = {name: tensor[2 * process : 2 * process + 2] for name, tensor in kept.items()}
        journey = Journey(plan(chosen, EXPERTS), exchange)
        for _ in range(2):
            journey.through(x, weights, lambda *given: linear(own, *given))
        return exchange.counted

    assert together(2, work) == [1, 1]
