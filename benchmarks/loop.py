"""What our loop costs around the step of the bare DeepSpeed engine, and bookkeeping beside a step of 100 ms.

The loop is the real one (`unified.train.loop.run`: watchdog, data order, noise, checks, records, log file), with ZeRO 2
in one process. Its batches are there already: where it asks for the next one, the bare engine makes a step of the same
model on the same batch first, forward, backward and optimizer alone, so both sides run in turns on one machine. Medians
over all steps, of which every 20th writes a record; no checkpoints.

Bookkeeping is what a step costs beyond the network: schedule and order of the samples, the work that it did (for
tokens/s and MFU), and a record every 20 steps (`train.log_every`), with gradient norms by part.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.drawn import glyph
from benchmarks.measure import Row, best_seconds, table
from unified.config.model import ModelSettings
from unified.config.recipe import EngineSettings, Recipe, TrainSettings
from unified.config.task import Answer, Task
from unified.core.transfers import HostCopy
from unified.data.shards.write import ShardWriter
from unified.modalities.image.settings import ImageSettings
from unified.modalities.text.settings import TextSettings
from unified.pipeline.loader import StepLoader
from unified.pipeline.permutation import positions
from unified.pipeline.schedule import schedule
from unified.train import loop
from unified.train.monitor.progress import Progress
from unified.train.monitor.run_folder import RunFolder
from unified.train.outcome import Launched
from unified.train.trainer import Trainer

STEPS, SAMPLES, SIDE, BATCH = 61, 64, 32, 8
EVERY = TrainSettings.log_every
STEP = 0.1
"""Seconds of the step that bookkeeping is compared with."""


def recipe_of(folder: Path) -> Recipe:
    """Two tasks over shards of glyphs, which are written: a step of about 100 ms on one core."""
    with ShardWriter(folder, kind="benchmark", source="made", samples_per_shard=SAMPLES) as writer:
        for number in range(SAMPLES):
            columns = {"png": glyph(number, SIDE), "cls": number % 10, "txt": f"the glyph of number {number}"}
            writer.write(f"{number:04d}", columns)
    image = {"png": "image"}
    tasks = {
        "classify": Task(str(folder), image, "cls", Answer.of(candidates="digits"), "accuracy", BATCH),
        "retrieve": Task(str(folder), image, "txt", Answer.of(candidates="batch"), "accuracy", BATCH),
    }
    model = ModelSettings(
        width=256, depth=4, heads=4, hidden=1024,
        modalities={"image": ImageSettings("image_glyph", patch=8), "text": TextSettings(max_length=16)},
    )  # fmt: skip
    train = TrainSettings(save_every=10 * STEPS)
    return Recipe(tasks, STEPS, 2, model=model, train=train, engine=EngineSettings("deepspeed", 2))


class Sides:
    """The seconds of each step, of the bare engine and of the loop."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.bare: list[float] = []
        self.ours: list[float] = []

    def step(self, items: Any) -> None:
        """One of the bare engine."""
        module = self.trainer.engine.module
        begin = time.perf_counter()
        loss, sums, _ = module(items)
        module.backward(loss)
        module.step()
        sums.tolist()  # whoever trains wants to see a loss
        self.bare.append(time.perf_counter() - begin)


def in_turns(recipe: Recipe, out: Path) -> Sides:
    """A run in which the bare engine makes a step before each step of the loop."""
    sides = Sides()

    class Made(StepLoader):
        """Batches that are there."""

        def __iter__(self) -> Generator[Any, None, None]:
            slots, before = self.probe(), 0.0
            items = [sides.trainer._item(slot, batch) for slot, batch in slots]
            for number in range(self.recipe.max_steps):
                if number:
                    sides.ours.append(time.perf_counter() - before)
                for group in sides.trainer.optimizer.param_groups:
                    group["active"] = True
                sides.step(items)
                before = time.perf_counter()
                yield number, slots, None

    class Seen(Trainer):
        """The trainer of the run, whose engine both sides use."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            sides.trainer = self

    with patch.object(loop, "StepLoader", Made), patch.object(loop, "Trainer", Seen):
        loop.run(recipe, out)
    return sides


def bookkeeping(recipe: Recipe, trainer: Trainer, out: Path) -> dict[str, float]:
    """Seconds a step of what is not the network, by what it is."""
    sizes, numbers = [SAMPLES] * 16, iter(range(10**9))
    slots = trainer_slots(recipe)
    norms = tuple(f"layers {number}" for number in range(8))
    numbers_of_step = HostCopy(torch.ones(4 * len(slots) + 1 + len(norms)))
    launched = Launched(1, slots, 1e-3, trainer._watch.lap(), numbers_of_step, norms)
    with RunFolder(out) as folder:
        progress = Progress(10**9, every=EVERY, tell=folder.append, peak=1e12, more=trainer.experts.record)
        result = trainer.finish(launched)

        def order() -> None:
            for slot in schedule(recipe, recipe.seed, next(numbers)):
                positions(recipe.seed, slot.task, np.arange(slot.start, slot.stop), sizes)

        def logged() -> None:
            for _ in range(EVERY):
                progress.step(next(numbers) + 2, **result.values())

        def worked() -> None:
            trainer.finish(launched)

        # Short sides and many rounds: other processes of the machine interrupt the fewest of them.
        best = best_seconds({"order of the data": order, "work done": worked, "log": logged}, rounds=300)
    return {**best, "log": best["log"] / EVERY}


def trainer_slots(recipe: Recipe) -> Any:
    """A batch of every task."""
    from unified.train.build import build

    parts = build(recipe)
    return StepLoader(recipe, parts.tokenizers, parts.labels).probe()


def measured() -> list[Row]:
    """Both rows; in a process of its own, which DeepSpeed makes a group of one."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        recipe = recipe_of(Path(temporary) / "shards")
        sides = in_turns(recipe, Path(temporary) / "run")
        pairs = list(zip(sides.ours, sides.bare, strict=False))[5:]
        ours, bare = (median(side) for side in zip(*pairs, strict=True))
        detail = f"{1000 * ours:.1f} / {1000 * bare:.1f} ms, {len(pairs)} steps in turns"
        found = [Row("loop / bare DeepSpeed engine", ours / bare, "<= 1.03", detail)]
        parts = bookkeeping(recipe, sides.trainer, Path(temporary) / "log")
    detail = ", ".join(f"{name} {1e6 * seconds:.0f} µs" for name, seconds in parts.items())
    return [*found, Row("bookkeeping / step of 100 ms", sum(parts.values()) / STEP, "<= 0.01", detail)]


def rows() -> list[Row]:
    """The loop over the bare engine, and bookkeeping over a step."""
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.loop", "--json"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def main() -> None:
    """Measure and print, with --json for another process."""
    found = measured() if "--json" in sys.argv else rows()
    print(json.dumps([asdict(row) for row in found]) if "--json" in sys.argv else table(found))


if __name__ == "__main__":
    main()
