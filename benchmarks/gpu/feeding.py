"""Whether data keep up with the step: the loader alone, copies to the device, and a run with both.

The shards are made on the spot: JPEGs of 224 pixels with captions, cut and flipped as recipes do.
"""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState

from benchmarks.gpu.made import write_photographs
from benchmarks.gpu.setting import Setting, pinned, recipe_of, seconds_of, slots_of
from unified.config.recipe import DataSettings, Recipe, TrainSettings
from unified.core.types import Tokens
from unified.modalities import load_tokenizers
from unified.pipeline.loader import StepLoader
from unified.train import loop

SHARE = 0.9
"""Of the cores for loader processes."""


def measure(part: str, setting: Setting) -> dict[str, Any]:
    """Samples a second of the loader, GB/s of copies, or what a run of the real loop reaches."""
    if part == "copies":
        return copies(setting)
    recipe = _recipe(setting)
    return loader(setting, recipe) if part == "loader" else in_a_run(setting, recipe)


def _recipe(setting: Setting) -> Recipe:
    """The recipe of the steps over shards, which are written when absent."""
    shards, shape = setting.folder / "photographs", setting.shape
    if not shards.exists():
        write_photographs(shards, 32 if setting.tiny else 4096, shape.size, 8 if setting.tiny else 256)
    recipe = recipe_of(setting)
    views: list[dict[str, Any]] = [{"kind": "crop", "size": shape.size, "area": [0.5, 1.0]}, {"kind": "flip"}]
    task = replace(recipe.tasks["retrieve"], data=str(shards), augment=views)
    data = DataSettings(workers=0 if setting.tiny else max(1, int(SHARE * (os.cpu_count() or 1))), prefetch=2)
    train = TrainSettings(precision=recipe.train.precision, log_every=2 if setting.tiny else 20, save_every=1000)
    return replace(recipe, tasks={"retrieve": task}, max_steps=4 if setting.tiny else 60, data=data, train=train)


def loader(setting: Setting, recipe: Recipe) -> dict[str, Any]:
    """Batches as fast as the loader processes make them, after the first ones."""
    tokenizers = load_tokenizers(recipe.model.modalities)
    batches = iter(StepLoader(recipe, tokenizers, {}))
    warm = 1 if setting.tiny else 15
    for _ in range(warm):
        next(batches)
    begin = time.perf_counter()
    count = sum(len(slot) for _, slots, _ in batches for slot, _ in slots)
    return {"samples/s": count / (time.perf_counter() - begin), "workers": recipe.data.workers}


def copies(setting: Setting) -> dict[str, Any]:
    """A step's batch from pinned memory to the device, one after the other."""
    slots = pinned(setting, slots_of(setting.shape))
    batch = slots[0][1]
    tokens: list[Tokens] = [*batch.inputs.values(), batch.target["tokens"]]
    size = sum(t.values.nbytes + t.mask.nbytes + t.position.nbytes for t in tokens)
    seconds = seconds_of(setting, lambda: batch.to(setting.device, non_blocking=True), seconds=1.0)
    return {"MB": size / 1e6, "ms": 1e3 * seconds, "GB/s": size / seconds / 1e9}


def in_a_run(setting: Setting, recipe: Recipe) -> dict[str, Any]:
    """What the last record of a run says: the loop with loader, copies, steps, log and a checkpoint at the end."""
    setting.free()
    record = last_records(recipe, setting.folder / "run")[-1]
    return {
        "samples/s": record["samples_per_second"],
        "tokens/s": record["tokens_per_second"],
        "data wait": record["data_wait"],
        "MFU": record["mfu"],
    }


def last_records(recipe: Recipe, out: Path) -> list[dict[str, Any]]:
    """The records of a run of the recipe."""
    AcceleratorState._reset_state(reset_partial_state=True)
    loop.run(recipe, out)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if "samples_per_second" in record]
