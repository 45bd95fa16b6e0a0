"""What a run computes in: `auto` becomes what is fast on this machine, and a run keeps what it began with."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from unified.config.recipe import Recipe
from unified.core.distributed import gather_objects
from unified.core.errors import RecipeError
from unified.core.log import logger
from unified.nn.kernels import Capability
from unified.train.engines.deepspeed import deepspeed_settings
from unified.train.monitor.records import read_recipe

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What `train.precision` may name, once it is resolved: what products are computed in."""
TENSOR_CORES: Capability = (7, 0)
"""The first compute capability that multiplies fp16 in tensor cores (Volta; CUDA C++ Programming Guide, appendix)."""


def has_fast_bf16() -> bool:
    """Return whether this machine multiplies bf16 in hardware: its GPU, or a CPU with AMX or AVX512-bf16."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


def resolved(recipe: Recipe, out: Path | None = None) -> Recipe:
    """Return the recipe with `auto` resolved: as the run in `out` began, if there is one, else by this machine.

    Args:
        recipe: as given; one that names its precision is returned as it is.
        out: the folder of the run; None: of no run.
    """
    if recipe.train.precision != "auto":
        return recipe
    stored = read_recipe(out / "recipe.yaml") if out is not None else None
    if stored is not None and stored.train.precision != "auto":
        precision = stored.train.precision
    else:
        precision = _automatic(recipe)
    return replace(recipe, train=replace(recipe.train, precision=precision))


def _automatic(recipe: Recipe) -> Precision:
    """What `auto` is in a new run on this machine; says where it is not what a newer GPU would take."""
    if _needs_fp32(recipe):
        return "fp32"
    if has_fast_bf16():
        return "bf16"
    if not torch.cuda.is_available():
        return "fp32"
    capability = torch.cuda.get_device_capability()
    precision = instead_of_bf16(capability)
    scaled = ", with a scale of the loss that adapts," if precision == "fp16" else ""
    logger.info(
        "train.precision: auto is %s%s on this GPU, whose compute capability %d.%d does not multiply bf16 in hardware",
        precision,
        scaled,
        *capability,
    )
    return precision


def instead_of_bf16(capability: Capability) -> Precision:
    """Return what to compute in on a GPU without bf16: fp16 where it has tensor cores for it (7.0), else fp32."""
    return "fp16" if capability >= TENSOR_CORES else "fp32"


def _needs_fp32(recipe: Recipe) -> bool:
    """Whether the engine is exact in fp32 alone (`deepspeed_settings`)."""
    if recipe.engine.kind != "deepspeed":
        return False
    exact = replace(recipe, train=replace(recipe.train, precision="fp32"))
    return bool(deepspeed_settings(exact)["zero_optimization"]["stage"] == 0)


def check_precision(recipe: Recipe) -> None:
    """Refuse what this machine cannot compute in with a `RecipeError`; say where bf16 is slow.

    A run that began in bf16 elsewhere goes on in it, so a GPU that emulates it is no error.
    """
    if recipe.train.precision == "fp16" and not torch.cuda.is_available():
        raise RecipeError("train.precision: fp16 is for GPUs, and none is here; use bf16 or fp32")
    if recipe.train.precision != "bf16" or has_fast_bf16():
        return
    if torch.cuda.is_available():
        _check_emulated()
    else:
        logger.warning(
            "train.precision: bf16 is slower than fp32 on this machine, which does not multiply it in hardware. "
            "Hint: --train.precision fp32, or auto in a new run"
        )


def _check_emulated() -> None:
    """Of a GPU without bf16: refuse it where torch does not emulate it either, else say that it is slow."""
    capability = torch.cuda.get_device_capability()
    instead = instead_of_bf16(capability)
    where = f"train.precision: bf16, on a GPU of compute capability {capability[0]}.{capability[1]}"
    hint = f"Hint: --train.precision {instead}, or auto in a new run"
    if not torch.cuda.is_bf16_supported():
        raise RecipeError(f"{where}: expected at least 8.0, or an emulation, which this build of torch lacks. {hint}")
    logger.warning("%s, which does not multiply it in hardware: it is emulated, and slower than fp32. %s", where, hint)


def check_agreed(recipe: Recipe) -> None:
    """Stop with a `RecipeError` where processes on unlike machines resolved `auto` differently."""
    found = set(gather_objects(recipe.train.precision))
    if len(found) > 1:
        raise RecipeError(
            f"train.precision: expected one for all processes, got {', '.join(sorted(found))} from machines that "
            "differ. Hint: name one with --train.precision"
        )
