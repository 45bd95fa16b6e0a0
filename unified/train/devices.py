"""Whether this machine's GPU can be used by this build of torch, and by which kernels a run computes on it."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from unified.config.recipe import Recipe
from unified.core.errors import RecipeError
from unified.core.log import logger
from unified.nn.kernels import Capability, describe, has_whole_rows, machine
from unified.nn.moe.routing import BY_TOKEN
from unified.train.precision import PRECISIONS

_BUILDS = "Hint: install a build of torch that fits, see https://pytorch.org/get-started/locally"


def run_device() -> torch.device:
    """Return where this process would train: its GPU if torch can use one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def check_gpu() -> None:
    """Say why a GPU that seems to be here is not used; `RecipeError` where torch has no kernels for the one it uses."""
    if torch.cuda.is_available() and torch.version.hip is None:
        check_architecture(torch.cuda.get_device_name(), torch.cuda.get_device_capability(), torch.cuda.get_arch_list())
    reason = unusable_gpu(seems_here=seems_here())
    if reason is not None:
        logger.warning("this run is on the CPU, though an NVIDIA GPU seems to be here: %s. %s", reason, _BUILDS)


def seems_here() -> bool:
    """Return whether this machine has an NVIDIA GPU or its tools, which nobody has hidden from this process."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    there = any(Path("/dev").glob("nvidia[0-9]*")) or shutil.which("nvidia-smi") is not None
    return there and not hidden


def unusable_gpu(*, seems_here: bool) -> str | None:
    """Return torch's reason, in one line, not to use a GPU that seems to be here; None where it uses one."""
    if not seems_here or torch.cuda.is_available():
        return None
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built for CPUs alone"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # torch's own check of build and driver
        return f"torch {torch.__version__}: {one_line(error)}"
    return f"torch {torch.__version__} finds no device"


def one_line(error: BaseException) -> str:
    """Return the first line of an error, which has the reason; advice on debugging follows it."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def check_architecture(name: str, capability: Capability, architectures: Sequence[str]) -> None:
    """Raise `RecipeError` where a build of torch has no kernels that a GPU runs.

    Args:
        name: of the GPU.
        capability: its compute capability.
        architectures: those of the build, such as sm_90 or compute_90 (`torch.cuda.get_arch_list`).
    """
    if architectures and not any(runs_on(architecture, capability) for architecture in architectures):
        raise RecipeError(
            f"{name}: expected a compute capability that torch {torch.__version__} is built for "
            f"({' '.join(architectures)}), got {capability[0]}.{capability[1]}. {_BUILDS}, or hide the GPU with "
            "CUDA_VISIBLE_DEVICES=-1 to run on the CPU"
        )


def runs_on(architecture: str, capability: Capability) -> bool:
    """Return whether a GPU runs what was compiled for an architecture (CUDA C++ Programming Guide, 5.1 and 5.9).

    Machine code (sm_XY) runs on the same major version and newer minor ones, with the suffix `a` on the same minor
    version alone; intermediate code (compute_XY) is compiled for any newer one when it is loaded.

    Args:
        architecture: such as sm_80, sm_90a, sm_100f or compute_120.
        capability: that of the GPU.
    """
    kind, _, version = architecture.partition("_")
    suffix = version[-1] if version[-1:].isalpha() else ""
    digits = version.removesuffix(suffix)
    own = (int(digits[:-1]), int(digits[-1]))
    if suffix == "a":
        return own == capability
    if kind == "compute" and not suffix:
        return own <= capability
    return own[0] == capability[0] and own[1] <= capability[1]


def ways(recipe: Recipe, device: torch.device) -> str:
    """Return a line for people: the kernels by which a run computes, and what the device is too old for.

    Args:
        recipe: whose precision is resolved.
        device: where it runs.
    """
    model, experts = recipe.model, recipe.model.experts
    dtype = PRECISIONS[recipe.train.precision]
    hidden = model.hidden if experts is None or experts.hidden is None else experts.hidden
    sent = experts is not None and experts.router in BY_TOKEN
    return describe(machine(device), dtype, experts=sent, whole_rows=has_whole_rows(dtype, model.width, hidden))
