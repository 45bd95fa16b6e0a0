"""Batches in memory that a GPU reads directly, so that copies to it need not be waited for."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


def pinned(value: T, pin: Callable[[Tensor], Tensor] = Tensor.pin_memory) -> T:
    """Return the value with all its tensors in pinned memory.

    Args:
        value: a tensor, or what holds tensors: dataclasses, dicts, lists and tuples, to any depth.
        pin: copies one tensor.
    """
    found: Any = value
    if isinstance(value, Tensor):
        found = _pinned(value, pin)
    elif not any(True for _ in tensors(value)):
        return value
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        found = replace(value, **{name: pinned(part, pin) for name, part in parts.items()})  # type: ignore[type-var]
    elif isinstance(value, dict):
        found = {name: pinned(part, pin) for name, part in value.items()}
    elif isinstance(value, list | tuple):
        parts_of = [pinned(part, pin) for part in value]
        found = type(value)(*parts_of) if hasattr(value, "_fields") else type(value)(parts_of)
    return found  # type: ignore[no-any-return]


def tensors(value: Any) -> Iterator[Tensor]:
    """Iterate over the tensors of what `pinned` takes."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors(getattr(value, field.name))
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, list | tuple) and not (value and isinstance(value[0], str)):
        for part in value:
            yield from tensors(part)


def _pinned(tensor: Tensor, pin: Callable[[Tensor], Tensor]) -> Tensor:
    """Numbers that share their memory stay so: it could not be written to as if each had its own."""
    once = tensor
    for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if size > 1 and stride == 0:
            once = once.narrow(axis, 0, 1)
    return pin(once).expand(tensor.shape)
