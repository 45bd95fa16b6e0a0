"""What a run computes in: `auto` becomes bf16 where products of it are fast, and a run keeps what it began with."""

from dataclasses import replace
from pathlib import Path

import torch

from unified.config import RecipeError
from unified.dist import gather_objects
from unified.log import logger
from unified.recipe import Recipe
from unified.train.run_folder import read_recipe

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What `train.precision` may name, once it is resolved: what products are computed in."""


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
        precision = "bf16" if has_fast_bf16() else "fp32"
    return replace(recipe, train=replace(recipe.train, precision=precision))


def check_precision(recipe: Recipe) -> None:
    """Refuse fp16 where it has no fast products with a `RecipeError`; say where bf16 has none."""
    if recipe.train.precision == "fp16" and not torch.cuda.is_available():
        raise RecipeError("train.precision: fp16 is for GPUs, and none is here; use bf16 or fp32")
    if recipe.train.precision == "bf16" and not has_fast_bf16():
        logger.warning(
            "train.precision: bf16 is slower than fp32 on this machine, which does not multiply it in hardware. "
            "Hint: --train.precision fp32, or auto in a new run"
        )


def check_agreed(recipe: Recipe) -> None:
    """Stop with a `RecipeError` where processes on unlike machines resolved `auto` differently."""
    found = set(gather_objects(recipe.train.precision))
    if len(found) > 1:
        raise RecipeError(
            f"train.precision: expected one for all processes, got {', '.join(sorted(found))} from machines that "
            "differ. Hint: name one with --train.precision"
        )
