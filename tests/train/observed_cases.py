"""What tests/train/test_observed.py starts with torchrun: what is measured of steps, on one engine after another."""

import gc
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.train import counted, engine_cases
from tests.train.engine_cases import VARY, slots_of, start
from unified.config.recipe import Recipe
from unified.core.distributed import of_ranks, rank
from unified.train import step
from unified.train.monitor.progress import Progress, Record

SLEEP = 0.05
"""Seconds that rank 1 takes longer for each slot."""


def bytes_counted(recipe: Recipe, folder: Path) -> Any:
    """Bytes that are held and sent, and what a plan computes for them."""
    gc.collect()  # what ends later than here would give its place to what is to be counted
    before = counted.storages()
    recipe = replace(recipe, model=replace(recipe.model, width=256, hidden=1024, depth=3))
    trainer, loader = start(recipe, folder)
    with closing(trainer.engine):
        return counted.count(trainer, loader.probe(), before)


def norms(recipe: Recipe, folder: Path) -> Any:
    """Of each step the norm of the gradient, of all and by part."""
    trainer, loader = start(recipe, folder)
    with closing(trainer.engine):
        steps = [trainer.train_step(slots_of(loader, tasks), norms_by_part=True) for tasks in VARY]
    return [{"all": one.norm, **one.norms} for one in steps]


def slow(recipe: Recipe, folder: Path) -> Any:
    """The last record of a run in which rank 1 is slow."""
    trainer, loader = start(recipe, folder)
    told: list[Record] = []
    progress = Progress(3, every=3, tell=told.append, of_ranks=of_ranks, peak=1e9)
    begin = step.begin

    def slower(*arguments: Any, **named: Any) -> Any:
        time.sleep(SLEEP * rank())
        return begin(*arguments, **named)

    with closing(trainer.engine):
        for number in range(1, 4):
            done = trainer.train_step(loader.probe())
            progress.step(number, **done.values())
            step.begin = slower  # type: ignore[assignment]
        step.begin = begin
    return told[-1]


if __name__ == "__main__":
    engine_cases.WHAT = {"bytes": bytes_counted, "norms": norms, "slow": slow}
    engine_cases.main()
