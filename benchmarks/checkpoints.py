"""What a checkpoint costs training: written in step, or beside the next steps.

A model with AdamW's moments and a moving average is trained on drawn rows; one step of twelve is saved, to the disk
that `TMPDIR` is on. Lost is what the loop waits for: the whole writing in step; the copy of the tensors, and what is
left of the writing before, beside. Beside, hashing and writing also take a core: on a machine with few of them the
steps that run meanwhile are slower, which is told apart.
"""

import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.measure import Row, best_seconds
from unified.checkpoint import Writer
from unified.core import seed

WIDTH, LAYERS, ROWS = 1024, 12, 512
SAVES, EVERY = 4, 12
GROUPS = ("weights", "exp_avg", "exp_avg_sq", "ema")


@dataclass
class Times:
    """Seconds of each save as the loop sees it, and of the steps while nothing and while something was written."""

    saves: list[float]
    quiet: list[float]
    busy: list[float]


def network() -> tuple[nn.Module, torch.optim.Optimizer, dict[str, Tensor]]:
    """Linears of 50 MB together, whose states are 200 MB."""
    with seed.seeded("benchmark", "checkpoints"):
        model = nn.Sequential(*[layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.GELU())])
    average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    return model, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True), average


def train(folder: Path, *, background: bool) -> Times:
    """Train and save; `Times` leaves out the first save, which fills memory."""
    model, optimizer, average = network()
    rows = torch.randn(ROWS, WIDTH, generator=seed.torch_generator("benchmark", "rows"))
    writer = Writer(folder, keep_last=2, background=background)
    times = Times([], [], [])
    for step in range(1, (SAVES + 1) * EVERY + 1):
        start = time.perf_counter()
        model(rows).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), list(model.parameters()), 0.01)
        busy = writer.writing
        writer.check()
        (times.busy if busy else times.quiet).append(time.perf_counter() - start)
        if step % EVERY == 0:
            start = time.perf_counter()
            writer.save(step, GROUPS, tensors(model, optimizer, average), {})
            times.saves.append(time.perf_counter() - start)
    writer.wait()
    writer.close()
    return Times(times.saves[1:], times.quiet, times.busy)


def tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]
) -> list[tuple[str, str, Tensor]]:
    """All that is saved."""
    found = []
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        of = (parameter, state["exp_avg"], state["exp_avg_sq"], average[name])
        found += [(group, name, tensor) for group, tensor in zip(GROUPS, of, strict=True)]
    return found


def copy_seconds() -> float:
    """The copy alone, into memory that is there."""
    model, optimizer, average = network()
    model(torch.ones(1, WIDTH)).sum().backward()
    optimizer.step()
    found = [tensor.detach() for _, _, tensor in tensors(model, optimizer, average)]
    copies = [tensor.clone() for tensor in found]
    return best_seconds({"copy": lambda: [copy.copy_(t) for copy, t in zip(copies, found, strict=True)]})["copy"]


def rows() -> list[Row]:
    """Time lost to a checkpoint, and steps beside the writing."""
    with tempfile.TemporaryDirectory() as folder:
        inside = train(Path(folder) / "in step", background=False)
        beside = train(Path(folder) / "beside", background=True)
    lost, whole = statistics.median(beside.saves), statistics.median(inside.saves)
    slow, quick = statistics.median(beside.busy), statistics.median(beside.quiet)
    written = len(beside.busy) * slow / SAVES
    return [
        Row(
            "checkpoint: time lost beside / in step",
            lost / whole,
            "<= 0.05",
            f"{lost:.3f} s of {whole:.2f} s; the copy alone {copy_seconds():.3f} s",
        ),
        Row(
            "steps while one is written / other steps",
            slow / quick,
            "-",
            f"{slow * 1000:.0f} ms against {quick * 1000:.0f}, for about {written:.1f} s; {os.cpu_count()} cores",
        ),
    ]
