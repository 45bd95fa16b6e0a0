"""What a training step may move between the host and an accelerator, in one place; all else stays where it is.

A number that the host asks a device for costs a wait until everything that was queued is done. What the host knows
already (sizes, lengths, places of words) travels with `Tokens` and `Batch` instead.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")

ALLOWED = {
    "batches": "to the device, while the step before computes: nobody waits",
    "noise": "to the device: drawn on the host by (seed, step, slot), alike for all devices; nobody waits",
    "constants": "to the device, once for each: rows of routers, centres of bins, ratios of classes",
    "matching": "to the host, waited for, once a step for all tasks and layers: Hungarian matching is a program of the "
    "host; the assignments go back without a wait",
    "log": "to the host, read a step later, when they have long arrived: losses, the norm of the gradient, whether it "
    "was finite, the load of experts",
    "stop": "to the host, read a step later: whether any rank was asked to stop",
    "bad samples": "to the host, waited for, once a step of several ranks: how many were replaced, as all end together "
    "where there are too many",
    "ranks": "to the host, waited for, once a record of several ranks: their times and memory, to name the slowest",
    "expert parallelism": "to the host, waited for, once a routed layer: how many rows come from each process",
    "fp16": "to the host, waited for, once a step: whether the gradient overflowed, as the next loss is scaled by it",
    "DeepSpeed": "to the host, waited for, once a step: its engine asks for the norm of the gradient itself",
}
"""Every transfer of a step, with its reason; a test runs steps on a device without values, where any other fails."""


def kept(most: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator for functions of hashable arguments whose last results are kept, outside of compiled code.

    Compilers run functions on tensors without values, which must not be kept, and see through no cache.

    Args:
        most: how many results are kept.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        cached = lru_cache(maxsize=most)(function)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            if torch.compiler.is_compiling():
                return function(*args, **kwargs)
            return cached(*args, **kwargs)  # type: ignore[arg-type]

        return call

    return decorate


class HostCopy:
    """A tensor on its way to the host; whoever reads it later does not wait."""

    def __init__(self, value: Tensor) -> None:
        """Begin the copy; `value` must not be changed in place before the work that is queued now is done."""
        self._value = value.detach()
        self._arrived: Any = None
        if value.device.type == "cuda":
            self._value = torch.empty_like(value, device="cpu", pin_memory=True).copy_(self._value, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> Tensor:
        """Return the tensor on the host; waits for it where it has not arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._value.cpu()


def sent(value: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on the device, without a wait."""
    if device.type == "cuda" and value.device.type == "cpu":
        value = value.pin_memory()
    return value.to(device, non_blocking=True)


def constant(numbers: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return numbers, or rows of them, as a tensor on the device, where they are kept: never change it in place."""
    return _constant(_hashable(numbers), device, dtype)


@kept(4096)
def _constant(numbers: tuple[Any, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    if torch.compiler.is_compiling():
        return torch.tensor(numbers, dtype=dtype).to(device)
    with torch.inference_mode(False):  # training may ask for it next
        return torch.tensor(numbers, dtype=dtype).to(device)


def _hashable(numbers: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(_hashable(row) if isinstance(row, Sequence) else row for row in numbers)
