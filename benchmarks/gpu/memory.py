"""The largest batch whose estimate (`--dry-run`) fits the device, and whether it does.

The estimate leaves out what libraries and fragments take, so it is asked for `SHARE` of the memory that is free. On a
CPU the device is a made-up one of `PRETENDED` bytes, and the peak is what the process grows by.
"""

import ctypes
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.setting import MissedError, Setting, pinned, recipe_of, slots_of, trainer_of
from unified.core.errors import UserError
from unified.train.dry_run.plan import make_plan

SHARE, PRETENDED = 0.95, 64 * 2**20
SMALLER = 0.9
"""The next batch to try where one does not fit."""
STEPS = 2


def measure(kind: str, setting: Setting) -> dict[str, Any]:
    """Estimate and peak of the largest batch; `MissedError` where only a smaller one fits, which is named."""
    setting.free()
    budget = SHARE * free(setting)
    promised = largest(kind, setting, budget)
    numbers: dict[str, Any] = {"promised batch": promised, "budget GiB": budget / 2**30}
    batch = promised
    while not (peak := _peak(kind, setting, batch)) and batch > 1:
        batch = int(SMALLER * batch)
    estimate = estimated(kind, setting, batch)
    numbers |= {
        "batch": batch,
        "estimate GiB": estimate / 2**30,
        "peak GiB": peak / 2**30,
        "peak / estimate": peak / estimate,
    }
    if batch < promised:
        raise MissedError(f"a batch of {promised} was promised, and {batch} fits", numbers)
    return numbers


def free(setting: Setting) -> int:
    """Bytes of the device that nothing holds."""
    return torch.cuda.mem_get_info(setting.device)[0] if setting.device.type == "cuda" else PRETENDED


def estimated(kind: str, setting: Setting, batch: int) -> float:
    """The bytes that a dry run says for this batch."""
    recipe = recipe_of(setting, kind, shape=replace(setting.shape, batch=batch))
    plan = make_plan(recipe, processes=1)
    return plan.states(recipe.engine).total + plan.activations


def largest(kind: str, setting: Setting, budget: float) -> int:
    """The largest batch whose estimate is within the budget, by halving."""
    low, high = 1, 2
    while estimated(kind, setting, high) <= budget:
        low, high = high, 2 * high
    while high - low > max(1, low // 64):
        middle = (low + high) // 2
        low, high = (middle, high) if estimated(kind, setting, middle) <= budget else (low, middle)
    return low


def _peak(kind: str, setting: Setting, batch: int) -> float:
    """The most bytes that steps of this batch take; 0 where they do not fit."""
    setting.free()
    shape = replace(setting.shape, batch=batch)
    slots = pinned(setting, slots_of(shape))
    before = _begin(setting)
    try:
        trainer, _ = trainer_of(recipe_of(setting, kind, shape=shape), slots, setting.folder)
        for _ in range(STEPS):
            trainer.train_step(slots)
    except (RuntimeError, UserError) as error:
        if "out of memory" not in str(error):
            raise
        return 0.0
    return (setting.peak() if setting.device.type == "cuda" else resident("VmHWM")) - before


def _begin(setting: Setting) -> float:
    """Bytes that are taken already; the peak is counted from here on."""
    if setting.device.type == "cuda":
        return 0.0
    ctypes.CDLL(None).malloc_trim(0)  # what earlier parts had would be taken again without growing
    Path("/proc/self/clear_refs").write_text("5")  # Linux counts the peak anew
    return resident("VmRSS")


def resident(name: str) -> float:
    """Bytes of this process in memory, now (`VmRSS`) or at most (`VmHWM`)."""
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return float(next(1024 * int(line.split()[1]) for line in lines if line.startswith(name)))
