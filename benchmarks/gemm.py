"""The share of the machine's measured matrix-product peak that a base-size training step reaches, in fp32 and bf16."""

import torch

from benchmarks.measure import Row, best_seconds
from benchmarks.step import Shape, draw, ours, precisions
from unified.answers.workload import Work
from unified.modalities import MODALITIES
from unified.train.dry_run.flops import Cost, gemm_peak
from unified.train.precision import PRECISIONS

BASE = Shape(width=768, depth=12, heads=12, size=224, patch=16, text=16, batch=4, words=8192)
TARGETS = {"fp32": ">= 0.82", "bf16": ">= 0.70"}


def rows() -> list[Row]:
    """Achieved rate of one step (forward, loss, backward, optimizer) over the peak of that precision."""
    pixels, ids = draw(BASE)
    found = []
    for name in precisions():
        precision = PRECISIONS[name]
        model, run = ours(BASE, pixels, ids, precision)
        patches = (BASE.size // BASE.patch) ** 2
        sequences = ((BASE.batch, 1 + patches, 1), (BASE.batch, BASE.text, 1))
        flops = 3 * Cost(model).forward(
            Work(sequences, {MODALITIES.spatial: BASE.batch * patches}, 2 * BASE.batch, 2 * BASE.batch**2)
        )
        peak = gemm_peak(precision, torch.device("cpu"), torch.get_num_threads())
        seconds = best_seconds({"step": run}, rounds=3)["step"]
        detail = f"{flops / seconds / 1e9:.0f} of {peak / 1e9:.0f} GFLOP/s, {torch.get_num_threads()} threads"
        found.append(Row(f"base-size step / GEMM peak, {name}", flops / seconds / peak, TARGETS[name], detail))
    return found
