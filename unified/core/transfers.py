"""What a training step may move between the host and an accelerator, in one place; all else stays where it is.

A number that the host asks a device for costs a wait until everything that was queued is done. What the host knows
already (sizes, lengths, places of words) travels with `Tokens` and `Batch` instead. docs/gpu.md lists every transfer of
a step with its reason; a test runs steps on a device without values, where any other fails.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


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
