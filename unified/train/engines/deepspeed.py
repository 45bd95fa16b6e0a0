"""The settings of DeepSpeed: a file of the user's, completed by what the recipe decides."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unified.config.recipe import EngineSettings, Recipe
from unified.core.errors import RecipeError, nearest, quoted
from unified.core.paths import find
from unified.core.schema import read_yaml

BY_RECIPE = {
    "train_batch_size": "tasks.*.batch and slots decide the samples of a step",
    "train_micro_batch_size_per_gpu": "tasks.*.batch and slots decide the samples of a step",
    "gradient_accumulation_steps": "set engine.chunks, in how many passes the slots of a step are run",
    "gradient_clipping": "set optim.clip",
    "bf16": "set train.precision",
    "fp16": "set train.precision",
    "torch_autocast": "set train.precision",
    "optimizer": "AdamW is set by optim.*",
    "scheduler": "the learning rate is set by optim.*",
    "managed_gradient_accumulation": "set engine.chunks, in how many passes the slots of a step are run",
}
"""Keys of DeepSpeed that the recipe decides, and what to do instead."""


_OFFLOADED = {"none": "", "optimizer": "_offload", "all": "_offload_all"}


def deepspeed_settings(recipe: Recipe) -> dict[str, Any]:
    """What DeepSpeed is started with: the file of the stage or the one that is named, and the recipe's clipping.

    Raises `RecipeError` for a file that is not there, keys that the recipe decides, and stages that would not compute
    what a run without an engine computes.
    """
    path = _file(recipe.engine)
    content = read_yaml(path)
    for key, instead in BY_RECIPE.items():
        if key in content:
            raise RecipeError(f"{path}: {quoted(key)} is not for this file; {instead}")
    _check_stage(content.get("zero_optimization"), recipe, str(path))
    stage = content["zero_optimization"]["stage"]
    return {
        **content,
        # Bookkeeping of DeepSpeed alone: slots differ in their samples, and counters of this package count them.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": recipe.optim.clip if stage else 0.0,  # without ZeRO the trainer clips
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def _file(engine: EngineSettings) -> Path:
    """The file of the recipe's stage and offload, or the one that it names."""
    if engine.deepspeed is not None:
        if engine.zero is not None or engine.offload != "none":
            raise RecipeError(
                f"engine.deepspeed: {engine.deepspeed} says stage and offload itself; leave out engine.zero and "
                "engine.offload, or the file"
            )
        try:
            return find("recipes/launch", engine.deepspeed, ".yaml")
        except FileNotFoundError as error:
            raise RecipeError(f"engine.deepspeed: {error}") from error
    stage = 2 if engine.zero is None else engine.zero
    if engine.offload != "none" and (stage == 0 or (engine.offload == "all" and stage != 3)):
        needed = "stage 3" if engine.offload == "all" else "a stage of 1, 2, 3"
        raise RecipeError(f"engine.offload: {quoted(engine.offload)} needs {needed} (engine.zero), found {stage}")
    return find("recipes/launch", f"zero{stage}{_OFFLOADED[engine.offload]}", ".yaml")


def _check_stage(zero: Any, recipe: Recipe, where: str) -> None:
    if not isinstance(zero, Mapping) or zero.get("stage") not in (0, 1, 2, 3):
        found = zero.get("stage") if isinstance(zero, Mapping) else zero
        raise RecipeError(f"{where}: zero_optimization.stage: expected 0, 1, 2 or 3, found {quoted(found)}")
    stage = zero["stage"]
    if stage == 0 and recipe.train.precision != "fp32":
        raise RecipeError(
            f"{where}: ZeRO stage 0 is exact in fp32 only, found train.precision {recipe.train.precision}; use the "
            "engine ddp, which is the same without DeepSpeed, or stage 1"
        )
    for key in ("mics_shard_size", "zero_hpz_partition_size"):
        if zero.get(key, 0) > 1:
            raise RecipeError(f"{where}: {key}: parts over fewer than all processes are not supported; leave it out")
    for part, stages in (("offload_optimizer", (1, 2, 3)), ("offload_param", (3,))):
        device = (zero.get(part) or {}).get("device", "none")
        if device not in ("none", "cpu"):
            raise RecipeError(
                f"{where}: {part}.device: expected cpu or none, found {quoted(device)}{nearest(device, ['cpu'])}"
            )
        if device == "cpu" and stage not in stages:
            raise RecipeError(f"{where}: {part} needs a stage of {', '.join(map(str, stages))}, found {stage}")
        if device == "cpu" and recipe.engine.chunks > 1:
            raise RecipeError(
                f"engine.chunks: {recipe.engine.chunks} passes with offload would not be exact, as DeepSpeed drops "
                "gradients of earlier ones; set 1, or leave out the offload"
            )
    if stage == 1 and zero.get("overlap_comm") and recipe.engine.chunks > 1:
        raise RecipeError(
            f"{where}: stage 1 with overlap_comm loses gradients of all passes but the last, found engine.chunks "
            f"{recipe.engine.chunks}; set overlap_comm: false, or stage 2"
        )
