"""What an optimizer step did: on its way to the host, and as numbers."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from unified.core.distributed import gather_objects
from unified.core.timer import Lap
from unified.core.transfers import HostCopy
from unified.core.types import Batch
from unified.pipeline.schedule import Slot

Slots = Sequence[tuple[Slot, Batch]]


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What one optimizer step did, over all ranks."""

    losses: dict[str, float]  # mean loss of each task's terms
    metrics: dict[str, float]
    samples: int
    tokens: int  # through the encoder, with candidates and the padding that buckets of like length leave
    flops: dict[str, int]
    seconds: dict[str, float] = dataclasses.field(compare=False)
    """Of the forward pass of each task on this rank; `WAITING`: spent in exchanges within it."""
    seen: dict[str, int]  # samples of each task since its first one
    norm: float
    norms: dict[str, float]  # by part of the network, where they were asked for
    lr: float

    def values(self) -> dict[str, Any]:
        """The fields by name, as `Progress.step` takes them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True)
class Launched:
    """A step that the device may still be making, and its numbers on their way to the host."""

    step: int  # counted from 1
    slots: Slots
    lr: float
    lap: Lap
    numbers: HostCopy  # the sums of `StepModel`, slot by slot, the norm of the gradient, and the norms of its parts
    parts: tuple[str, ...]

    def read(self) -> tuple[Tensor, float, dict[str, float]]:
        """Return the sums (slots, 4), the norm, and the norms by part; waits where they have not arrived."""
        count = 4 * len(self.slots)
        values = self.numbers.read()
        norm, *norms = values[count:].tolist()
        return values[:count].view(-1, 4), norm, dict(zip(self.parts, norms, strict=True))


def not_finite(step: int, slots: Slots, sums: Tensor) -> str | None:
    """Return what loss is not finite: the same on all ranks, as the sums are. It names samples of the ranks at fault.

    Args:
        step: the step, counted from 1.
        slots: those of the step.
        sums: (slots, 4) of `StepModel`, on the host.
    """
    finite = torch.isfinite(sums)
    if bool(finite[:, 0].all()):
        return None
    own = [pair for pair, fine in zip(slots, finite[:, 3].tolist(), strict=True) if not fine]
    whole = [pair for pair, fine in zip(slots, finite[:, 0].tolist(), strict=True) if not fine]
    # Finite losses may still have a sum that is none.
    bad = own if any(gather_objects(bool(own))) else whole
    return f"step {step}: the loss is not finite. {where(bad)}"


def where(slots: Iterable[tuple[Slot, Batch]]) -> str:
    """Return the tasks and samples of slots of all ranks, for a message."""
    parts = gather_objects([f"task {slot.task!r}, samples {json.dumps(list(batch.keys))}" for slot, batch in slots])
    return "; ".join(dict.fromkeys(text for of_rank in parts for text in of_rank))
