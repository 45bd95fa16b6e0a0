"""What runs the steps: processes, precision and trackers, through accelerate."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from unified.config import RecipeError
from unified.dist import world_size
from unified.log import logger
from unified.recipe import Recipe


def make_accelerator(recipe: Recipe, folder: Path) -> Accelerator:
    """Join the processes that a launcher started (one process needs none), and say what really runs."""
    try:
        accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),  # otherwise every process of a CPU run takes itself for the only one
            mixed_precision="bf16" if recipe.train.precision == "bf16" else "no",
            log_with=list(recipe.train.trackers) or None,
            project_dir=folder,
            # A step may lack a task, so DDP must look for parameters without a gradient.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True)],
        )
    except (ImportError, ValueError) as error:
        raise RecipeError(f"train: {error}") from error
    if accelerator.num_processes != world_size():
        raise RuntimeError(
            f"accelerate sees {accelerator.num_processes} processes and torch.distributed {world_size()}; start this "
            "run with torchrun"
        )
    logger.info(
        "running on %s: %d process(es), %d thread(s) each, precision %s",
        accelerator.device,
        accelerator.num_processes,
        torch.get_num_threads(),
        recipe.train.precision,
    )
    return accelerator
