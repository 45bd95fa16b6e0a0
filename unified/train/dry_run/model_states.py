"""What weights, gradients and moments need of a process's memory, by the engine that holds them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from unified.train.dry_run.activation_memory import FLOAT

BUCKET, LIVE = 500_000_000, 1_000_000_000
"""DeepSpeed's own values of `reduce_bucket_size` and `stage3_max_live_parameters`, for files that do not say."""


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters."""

    total: int
    largest: int  # of the largest parameter
    group: int  # of the largest group of the optimizer, which ZeRO flattens as one
    experts: int = 0  # among the total: of experts that processes share


@dataclass(frozen=True)
class States:
    """Bytes of one process by what they hold; numbers are fp32 in every precision (bf16 and fp16 are autocast)."""

    weights: float  # that a process computes with, or its part of them under ZeRO-3
    fetched: float  # of the other processes, the most at one time (ZeRO-3)
    copy: float  # this process's part of the weights, which the optimizer changes (ZeRO)
    gradients: float  # the most at one time
    buckets: float  # gradients on their way to the other processes (ZeRO)
    moments: float
    average: float
    host: float = 0.0  # in the memory of the host, with offload

    @property
    def total(self) -> float:
        """On the device."""
        return sum(getattr(self, field.name) for field in fields(self) if field.name != "host")


def states(
    sizes: Sizes, zero: Mapping[str, Any] | None, processes: int, *, average: bool, expert_parallel: int = 1
) -> States:
    """Of one of so many processes; `zero`: DeepSpeed's `zero_optimization`, None without DeepSpeed or for DDP.

    Read from the sources of DeepSpeed 0.19.8 and counted in tests: stages 1 and 2 keep whole fp32 weights and a copy
    of their part of them, stage 3 its part twice. Stage 1 has whole gradients until the end of the backward pass. A
    part of the gradients is flattened, group by group, when the optimizer runs.
    """
    shared = sizes.experts / expert_parallel if expert_parallel > 1 else 0.0
    rest = FLOAT * (sizes.total - (sizes.experts if shared else 0))
    stage = 0 if zero is None else zero["stage"]
    found = _whole(rest) if zero is None or stage == 0 else _split(rest, sizes, zero, stage, processes)
    own = FLOAT * shared  # experts that processes share are whole where they are, and out of ZeRO's hands
    kept = (rest / processes if stage == 3 else rest) + own if average else 0.0
    return States(
        found.weights + own, found.fetched, found.copy, found.gradients + own, found.buckets,
        found.moments + 2 * own, kept, found.host,
    )  # fmt: skip


def _whole(size: float) -> States:
    return States(size, 0.0, 0.0, size, 0.0, 2 * size, 0.0)


def _split(size: float, sizes: Sizes, zero: Mapping[str, Any], stage: int, processes: int) -> States:
    part, flat = size / processes, FLOAT * sizes.group / processes
    buffers = 2 if stage < 3 and zero.get("overlap_comm") else 1
    bucket = FLOAT * zero.get("reduce_bucket_size", BUCKET) * buffers
    live = min(max(zero.get("stage3_max_live_parameters", LIVE), sizes.largest), size / FLOAT)
    device = {
        1: States(size, 0.0, part, size + part, bucket, 2 * part, 0.0),
        2: States(size, 0.0, part, part + flat, bucket, 2 * part, 0.0),
        3: States(part, FLOAT * live, part, part + flat, bucket, 2 * part, 0.0),
    }[stage]
    if (zero.get("offload_optimizer") or {}).get("device", "none") == "none":
        return device
    largest = FLOAT * sizes.largest
    if stage == 3:  # gradients twice: as they come, and as the optimizer reads them
        weights = 0.0 if (zero.get("offload_param") or {}).get("device", "none") != "none" else part
        return States(weights, device.fetched, 0.0, 0.0, bucket, 0.0, 0.0, host=part - weights + 5 * part)
    # On the host also a buffer through which the changed weights go back.
    gradients = size if stage == 1 else largest
    return States(size, 0.0, 0.0, gradients + largest, bucket, 0.0, 0.0, host=5 * part + largest)
