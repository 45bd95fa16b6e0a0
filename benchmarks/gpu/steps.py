"""A training step of base size in bf16 as the trainer makes it, and beside `transformers`' CLIP of equal size.

MFU: operations of forward and backward pass (`unified.train.dry_run.flops`) over time and peak, that of products
measured here and that of the data sheet. Stalls: calls that make the host wait, of which
`torch.cuda.set_sync_debug_mode` warns.
"""

import re
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.setting import Setting, pinned, recipe_of, seconds_of, slots_of, stepping, trainer_of
from benchmarks.measure import best_seconds
from benchmarks.step import clip, draw, ours
from unified.train.dry_run.flops import Cost, gemm_peak
from unified.train.dry_run.workload import bucketed_on, work
from unified.train.precision import PRECISIONS

DATA_SHEET = ((r"H[12]00(?!.*PCIe)", 989e12), (r"H100.*PCIe", 756e12), (r"A100|A800", 312e12), (r"L40S", 362e12))
"""Dense bf16 operations a second, by what the device's name holds (NVIDIA's data sheets)."""
KERNELS = 10


def measure(part: str, setting: Setting) -> dict[str, Any]:
    """Speed, memory, kernels and stalls of a kind of network; or the ratio of bare steps, ours / CLIP."""
    return beside_clip(setting) if part == "clip" else of_trainer(part, setting)


def of_trainer(kind: str, setting: Setting) -> dict[str, Any]:
    """The trainer's own step: with clipping, finite check and everything else that a run has."""
    setting.free()
    recipe, shape = recipe_of(setting, kind), setting.shape
    slots = pinned(setting, slots_of(shape))
    trainer, _ = trainer_of(recipe, slots, setting.folder)
    step = stepping(trainer, slots)
    seconds = seconds_of(setting, step)
    bucketed = bucketed_on(setting.device)
    done = work(recipe.tasks["retrieve"], slots[0][1], None, trainer.model.config.vocabulary_size, bucketed=bucketed)
    rate = 3 * Cost(trainer.model).forward(done) / seconds
    return {
        "ms": 1e3 * seconds,
        "samples/s": shape.batch / seconds,
        "tokens/s": done.tokens / seconds,
        "peak GiB": setting.peak() / 2**30,
        **shares_of_peaks(rate, setting),
        **stalls(setting, step),
        "kernels": kernels(setting, step),
    }


def shares_of_peaks(rate: float, setting: Setting) -> dict[str, float]:
    """Operations a second, and which share of the measured and the printed peak that is."""
    peak = gemm_peak(PRECISIONS[setting.precision], setting.device, torch.get_num_threads())
    found = {"TFLOP/s": rate / 1e12, "GEMM TFLOP/s": peak / 1e12, "MFU": rate / peak}
    if setting.device.type == "cuda":
        printed = data_sheet(torch.cuda.get_device_name(setting.device))
        found |= {} if printed is None else {"MFU of data sheet": rate / printed}
    return found


def data_sheet(name: str) -> float | None:
    """The printed peak of a device, by its name; None where it is not known."""
    return next((value for pattern, value in DATA_SHEET if re.search(pattern, name)), None)


def stalls(setting: Setting, step: Callable[[], object]) -> dict[str, Any]:
    """How often a step makes the host wait, and where; nothing on a CPU, which never waits."""
    if setting.device.type != "cuda":
        return {"stalls": None}
    setting.wait()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    where = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message))
    return {"stalls": where.total(), "stalls at": dict(where.most_common())}


def kernels(setting: Setting, step: Callable[[], object]) -> list[dict[str, Any]]:
    """The kernels that a step spends most of its time in; on a CPU, its operations."""
    cuda = setting.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]) as profiled:
        step()
        setting.wait()
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    rows = sorted(profiled.key_averages(), key=lambda row: getattr(row, key), reverse=True)
    whole = sum(getattr(row, key) for row in rows) or 1.0  # a profiler that may not look sees nothing
    return [
        {"name": row.key[:120], "ms": getattr(row, key) / 1e3, "share": getattr(row, key) / whole, "calls": row.count}
        for row in rows[:KERNELS]
    ]


def beside_clip(setting: Setting) -> dict[str, Any]:
    """The bare steps of `benchmarks.step` on the device, in turns; CLIP by the faster of its attentions."""
    setting.free()
    shape, precision = setting.shape, PRECISIONS[setting.precision]
    pixels, ids = draw(shape)
    sides = {"ours": ours(shape, pixels, ids, precision, setting.device)[1]}
    sides |= {f"CLIP {way}": clip(shape, pixels, ids, precision, way, setting.device) for way in ("sdpa", "eager")}

    def waited(run: Callable[[], object]) -> Callable[[], None]:
        def step() -> None:
            run()
            setting.wait()

        return step

    best = best_seconds({name: waited(run) for name, run in sides.items()}, 1 if setting.tiny else 9)
    peer = min(seconds for name, seconds in best.items() if name != "ours")
    return {"ours / CLIP": best["ours"] / peer, **{f"{name} pairs/s": shape.batch / s for name, s in best.items()}}
