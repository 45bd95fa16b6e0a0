"""Batches go into pinned memory whole: every tensor, and rows that samples share as one.

Without a GPU nothing can be pinned; `as_torch_pins` copies as `Tensor.pin_memory` does, strides included.
"""

from collections import namedtuple

import pytest
import torch
from torch import Tensor

from unified.core.types import Batch, Tokens
from unified.data.pinned import pinned, tensors
from unified.modalities.base import timeline
from unified.pipeline.loader import Report, Step
from unified.pipeline.schedule import Slot

Pair = namedtuple("Pair", "left right")


def as_torch_pins(tensor: Tensor) -> Tensor:
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    memory = torch.empty(extent if tensor.numel() else 0, dtype=tensor.dtype)
    return memory.as_strided(tensor.shape, tensor.stride()).copy_(tensor)


def batch() -> Batch:
    values, mask = torch.arange(12).view(3, 4), torch.ones(1, 4, dtype=torch.bool).expand(3, -1)
    words = torch.arange(12).view(3, 4)
    tokens = Tokens("text", values.t().contiguous().t(), mask, timeline(3, 4), padded=False, words=words)
    target = {"tokens": tokens, "pair": Pair(torch.ones(2), [torch.zeros(0, 4)]), "names": ["a"], "grey": grey()}
    return Batch("task", {"text": tokens}, target, ["k0", "k1", "k2"])


def grey() -> Tensor:
    """One channel that is shown as three."""
    return torch.arange(8.0).view(2, 1, 4).expand(-1, 3, -1)


def test_all_tensors_are_copied_with_their_numbers_and_strides() -> None:
    own = batch()
    found = pinned(own, as_torch_pins)
    before, after = list(tensors(own)), list(tensors(found))
    assert len(before) == len(after) == 11
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old, new)
        assert old.stride() == new.stride() or not old.numel()
        assert old.data_ptr() != new.data_ptr() or not old.numel()
    assert (found.task, found.keys, found.target["names"]) == (own.task, own.keys, ["a"])
    assert found.inputs["text"].padded is False
    assert isinstance(found.target["pair"], Pair)


def test_memory_that_numbers_share_is_copied_once() -> None:
    with pytest.raises(RuntimeError, match="single memory location"):  # the reason for it
        as_torch_pins(grey())
    assert pinned(grey(), as_torch_pins).untyped_storage().nbytes() == grey().untyped_storage().nbytes()


def test_a_step_with_a_failure_has_nothing_to_pin() -> None:
    step = Step(3, [], Report(bad=["one"]))
    assert step.pin_memory() == step
    slots = [(Slot("task", 0, 3, 0), batch())]
    found = pinned(slots, as_torch_pins)
    assert found[0][0] == slots[0][0]
    assert torch.equal(found[0][1].inputs["text"].values, slots[0][1].inputs["text"].values)
