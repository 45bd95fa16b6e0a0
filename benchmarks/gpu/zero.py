"""ZeRO-2 through DeepSpeed in one process: the same steps as without an engine, and what they cost."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.setting import MissedError, Setting, pinned, recipe_of, seconds_of, slots_of, stepping, trainer_of
from unified.config.recipe import EngineSettings

STEPS = 5
APART = 0.05
"""Largest difference of what the steps changed, as a share of it: in bf16 small moments of AdamW have noisy signs."""


def measure(_part: str, setting: Setting) -> dict[str, Any]:
    """Time and memory of both; `MissedError` where they change the weights differently."""
    plain, zero = _trained(setting, EngineSettings()), _trained(setting, EngineSettings("deepspeed", 2))
    numbers = {
        "ms": plain["ms"],
        "ZeRO-2 ms": zero["ms"],
        "ZeRO-2 / none": zero["ms"] / plain["ms"],
        "peak GiB": plain["peak"],
        "ZeRO-2 peak GiB": zero["peak"],
        "weights apart": _apart(plain["before"], plain["after"], zero["after"]),
    }
    if not numbers["weights apart"] <= APART:
        raise MissedError(f"{STEPS} steps under ZeRO-2 change the weights differently", numbers)
    return numbers


def _trained(setting: Setting, engine: EngineSettings) -> dict[str, Any]:
    """Weights before and after some steps, on the host, then speed and peak."""
    setting.free()
    slots = pinned(setting, slots_of(setting.shape))
    trainer, parts = trainer_of(recipe_of(setting, engine=engine), slots, setting.folder)
    before = _weights(parts.model.named_parameters())
    for _ in range(STEPS):
        trainer.train_step(slots)  # reads what it did at once
    after = _weights(parts.model.named_parameters())
    seconds = seconds_of(setting, stepping(trainer, slots))
    peak = setting.peak() / 2**30
    trainer.engine.close()
    return {"before": before, "after": after, "ms": 1e3 * seconds, "peak": peak}


def _weights(named: Any) -> dict[str, Tensor]:
    return {name: parameter.detach().float().cpu().clone() for name, parameter in named}


def _apart(before: Mapping[str, Tensor], one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The difference of two ways, as a share of the way."""
    way = torch.stack([(one[name] - before[name]).norm() for name in before]).norm()
    return float(torch.stack([(one[name] - other[name]).norm() for name in before]).norm() / way)
