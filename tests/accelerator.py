"""The meta device in the place of an accelerator: it has shapes and no values, so whoever asks it for one fails.

What it cannot show by itself, a copy from the host that is waited for, `OnlyAllowed` refuses.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor
from torch.optim import adam, adamw, optimizer
from torch.overrides import TorchFunctionMode

from unified.core import transfers
from unified.train import step as step_module

META = torch.device("meta")
MADE_OF_NUMBERS = (torch.tensor, torch.as_tensor, Tensor.new_tensor, torch.scalar_tensor)
MOVING = (Tensor.to, Tensor.cuda, Tensor.type)


class WaitError(Exception):
    """A copy to or from the device that is waited for."""


class OnlyAllowed(TorchFunctionMode):
    """Within it nothing goes to the device but by `unified.core.transfers`, and nothing in a way that is waited for."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if not isinstance(found, Tensor) or found.device != META:
            return found
        given = args[-1] if function is Tensor.new_tensor else args[0] if args else None
        from_host = not isinstance(given, Tensor) or given.device.type == "cpu"
        sent = function in MOVING and from_host and not (kwargs or {}).get("non_blocking")
        if sent or (function in MADE_OF_NUMBERS and from_host):
            where = sys._getframe(1)
            if where.f_code.co_filename != transfers.__file__:
                raise WaitError(
                    f"{where.f_code.co_filename}:{where.f_lineno}: {function.__name__} copies to the device"
                )
        return found


def fixed(costs: Sequence[Tensor]) -> list[Tensor]:
    """An assignment that looks at no cost: the first object for the first query, and so on."""
    return [torch.arange(cost.shape[2], device=cost.device).expand(len(cost), -1) for cost in costs]


@contextlib.contextmanager
def meta_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Accelerator]]:
    """Runs that are made within are made on the meta device; gives what makes their accelerator."""
    autocast = torch.autocast

    def none_on_meta(device: str, *arguments: Any, **named: Any) -> Any:
        return contextlib.nullcontext() if device == "meta" else autocast(device, *arguments, **named)

    monkeypatch.setattr(torch, "autocast", none_on_meta)  # torch has none for this device
    for module in (adam, adamw, optimizer):  # it has the shapes of fused kernels, and no constructor takes it
        if hasattr(module, "_get_fused_kernels_supported_devices"):
            monkeypatch.setattr(module, "_get_fused_kernels_supported_devices", lambda: ["cpu", "cuda", "meta"])
    monkeypatch.setattr(step_module, "assign", fixed)

    def make(*_: Any) -> Accelerator:
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(cpu=True)
        for state in (PartialState, AcceleratorState):
            state._shared_state["device"] = META
        return accelerator

    try:
        yield make
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
