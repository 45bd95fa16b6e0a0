"""What runs the steps: processes, engine, precision and trackers, through accelerate."""

import contextlib
import os
import socket
import warnings
from collections.abc import Iterator
from datetime import timedelta
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from unified.config.recipe import Recipe
from unified.core.distributed import world_size
from unified.core.errors import RecipeError
from unified.core.log import logger
from unified.nn.moe.experts import ConditionalLayer
from unified.train.devices import check_gpu, ways
from unified.train.engines.deepspeed import deepspeed_settings
from unified.train.monitor.trackers import check_trackers
from unified.train.precision import check_agreed, check_precision

_RUNS = count()
"""Numbers the runs of this process; all ranks start the same ones."""
SLACK = 60.0
"""Seconds by which a collective waits longer than the watchdog."""
_BY_LAUNCHER = "ACCELERATE_USE_DEEPSPEED"  # set by `accelerate launch` with a DeepSpeed configuration


def launched() -> int:
    """The number of processes that the launcher of this run speaks of."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def chosen(recipe: Recipe) -> str:
    """The engine of a run: the recipe's, or what fits the processes; `RecipeError` where it cannot be had."""
    asked, processes = recipe.engine.kind, launched()
    by_launcher = os.environ.get(_BY_LAUNCHER, "false").lower() == "true"
    if asked not in (None, "deepspeed") and by_launcher:
        raise RecipeError(f"engine.kind: {asked!r}, but the launcher was configured for DeepSpeed; leave one out")
    engine = asked or ("deepspeed" if by_launcher else "none" if processes == 1 else "ddp")
    if engine == "none" and processes > 1:
        raise RecipeError(f"engine.kind: 'none' runs in one process, found {processes}; use ddp or deepspeed")
    if engine == "ddp" and processes == 1:
        raise RecipeError(
            "engine.kind: 'ddp' needs several processes, found one; start with `torchrun --nproc-per-node N train.py` "
            "or use none"
        )
    for key in ("zero", "offload", "deepspeed"):
        value = getattr(recipe.engine, key)
        if asked is None and engine != "deepspeed" and value not in (None, "none"):
            raise RecipeError(
                f"engine.{key}: {value!r} is for DeepSpeed alone; ask for it with --engine.kind deepspeed"
            )
    return engine


def check_expert_parallel(recipe: Recipe) -> None:
    """Refuse to split experts where it would not be exact, or does not come out even; a `RecipeError`."""
    size, processes, engine = recipe.engine.expert_parallel, launched(), chosen(recipe)
    if size == 1:
        return
    where = f"engine.expert_parallel: {size}"
    if processes % size:
        raise RecipeError(
            f"{where} does not divide the number of processes, {processes}; start as many as a multiple of it with "
            "`torchrun --nproc-per-node N train.py`"
        )
    if engine != "deepspeed":
        return
    zero = deepspeed_settings(recipe)["zero_optimization"]
    if zero["stage"] not in (1, 2):
        why = "which splits all parameters alike" if zero["stage"] == 3 else "which averages all gradients alike"
        raise RecipeError(f"{where} does not go with ZeRO stage {zero['stage']}, {why}; use stage 1 or 2, or ddp")
    if (zero.get("offload_optimizer") or {}).get("device", "none") != "none":
        raise RecipeError(f"{where} does not go with offload, as experts stay on the device; leave one of them out")


def make_accelerator(recipe: Recipe, folder: Path) -> Accelerator:
    """Join the processes that a launcher started (one process needs none), for the engine that is asked for."""
    check_gpu()
    check_precision(recipe)
    check_trackers(recipe)
    check_expert_parallel(recipe)
    engine, cuda = chosen(recipe), torch.cuda.is_available()
    # Before any process group: imported with one there, the first may hang, and the second keeps it for ever.
    if recipe.train.compile:
        import_module("torch._dynamo")
    if engine == "deepspeed":
        import_deepspeed(cuda)
    _join_apart(recipe, cuda)
    common: dict[str, Any] = {"log_with": list(recipe.train.trackers) or None, "project_dir": folder}
    # A step may lack a task, so DDP must look for parameters without a gradient.
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True)
    try:
        if engine == "deepspeed":
            accelerator = _deepspeed(recipe, common, cuda)
        else:
            accelerator = Accelerator(
                cpu=not cuda,  # otherwise every process of a CPU run takes itself for the only one
                mixed_precision="no",  # the step itself computes in what the recipe says
                kwargs_handlers=[ddp, *([_group(recipe, cuda)] if "WORLD_SIZE" in os.environ else [])],
                **common,
            )
    except (ImportError, ValueError) as error:
        raise RecipeError(f"train: {error}") from error
    if not accelerator.num_processes == world_size() == launched():
        raise RuntimeError(
            f"accelerate sees {accelerator.num_processes} processes, torch.distributed {world_size()} and the launcher "
            f"{launched()}; start this run with torchrun"
        )
    check_agreed(recipe)
    return accelerator


def _deepspeed(recipe: Recipe, common: dict[str, Any], cuda: bool) -> Accelerator:
    settings = deepspeed_settings(recipe)
    stage = str(settings["zero_optimization"]["stage"])
    by_launcher = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", stage)
    if by_launcher != stage:
        raise RecipeError(
            f"engine.zero: the recipe asks for stage {stage}, and the launcher was configured for stage "
            f"{by_launcher}; give that with --engine.zero, or start with torchrun"
        )
    from transformers.integrations import unset_hf_deepspeed_config

    _join_alone()
    with _environment_kept(_BY_LAUNCHER):
        # `cpu=True` would make accelerate run DDP instead, without a word.
        plugin = DeepSpeedPlugin(hf_ds_config=settings, zero3_init_flag=False)
        accelerator = Accelerator(deepspeed_plugin=plugin, kwargs_handlers=[_group(recipe, cuda)], **common)
    # Models that are loaded later, such as the start of a run, are whole.
    unset_hf_deepspeed_config()
    return accelerator


def import_deepspeed(cuda: bool) -> None:
    """Import DeepSpeed, which takes seconds, as a run on this machine needs it."""
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is imported; it guesses otherwise
    import deepspeed

    # DeepSpeed still calls what torch has under a new name, and each call of each process would say so.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning, r"torch\.distributed\.c10d_logger")
    if not cuda:
        # Otherwise the first use compiles an operation for a minute, or waits for one that was killed meanwhile.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def collective_timeout(recipe: Recipe) -> timedelta:
    """How long a collective waits: longer than the watchdog does, which says more; a year where that never ends."""
    patience = recipe.train.hang_seconds
    return timedelta(days=365) if patience is None else timedelta(seconds=patience + SLACK)


def _group(recipe: Recipe, cuda: bool) -> InitProcessGroupKwargs:
    """How processes join."""
    return InitProcessGroupKwargs("nccl" if cuda else "gloo", timeout=collective_timeout(recipe))


def _join_apart(recipe: Recipe, cuda: bool) -> None:
    """Join the processes of this start apart from those of earlier ones, and each further run in them apart too.

    torchrun of torch 2.13 keeps one store over all starts, in which a process may find the address of one that is gone;
    and torch numbers groups anew once all are left, so that a second run would find addresses of the first.
    """
    found, number = os.environ, next(_RUNS)
    restarts = found.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    if found.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or not (restarts or number):
        return
    if restarts and found["GROUP_WORLD_SIZE"] != "1":  # each machine counts its own restarts
        raise RecipeError(
            "torchrun may start this run again on several machines, where processes would find addresses of the last "
            "start: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment of every torchrun, with --rdzv-backend "
            "c10d, as recipes/launch/slurm.sh does, or leave --max-restarts out"
        )
    if not distributed.is_initialized():
        store = TCPStore(found["MASTER_ADDR"], int(found["MASTER_PORT"]), is_master=False)
        group = _group(recipe, cuda)
        distributed.init_process_group(
            group.backend,
            store=PrefixStore(f"start {found['TORCHELASTIC_RESTART_COUNT']}, run {number}", store),
            rank=int(found["RANK"]),
            world_size=int(found["WORLD_SIZE"]),
            timeout=group.timeout,
        )


def _join_alone() -> None:
    """Be the one process of a group where no launcher started this one, as DeepSpeed works in a group only."""
    if "WORLD_SIZE" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(alone)


@contextlib.contextmanager
def _environment_kept(name: str) -> Iterator[None]:
    before = os.environ.get(name)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def check_running(recipe: Recipe, accelerator: Accelerator, wrapped: nn.Module) -> None:
    """Say what really runs the steps, and stop with a `RuntimeError` where it is not what was asked for."""
    engine, stage = chosen(recipe), None
    if engine == "deepspeed":
        from deepspeed import DeepSpeedEngine

        asked = deepspeed_settings(recipe)["zero_optimization"]["stage"]
        stage = wrapped.zero_optimization_stage() if isinstance(wrapped, DeepSpeedEngine) else None
        right = stage == asked
    else:
        right = isinstance(wrapped, DistributedDataParallel) == (engine == "ddp")
    kind = type(wrapped).__name__
    if not right:
        raise RuntimeError(f"engine.kind: {engine} was asked for, but {kind} (ZeRO stage {stage}) runs the steps")
    layers = [module for module in wrapped.modules() if isinstance(module, ConditionalLayer)]
    shared_by = {1 if layer.exchange is None else layer.exchange.processes for layer in layers} or {1}
    if shared_by != {recipe.engine.expert_parallel}:
        raise RuntimeError(
            f"engine.expert_parallel: {recipe.engine.expert_parallel} was asked for, but experts are shared by "
            f"{shared_by} processes"
        )
    logger.info(
        "running on %s: engine %s (%s%s%s), %d process(es), backend %s, %d thread(s) each, precision %s",
        accelerator.device,
        engine,
        kind,
        "" if stage is None else f", ZeRO stage {stage}",
        "" if shared_by == {1} else f", expert parallel {recipe.engine.expert_parallel}",
        accelerator.num_processes,
        distributed.get_backend() if distributed.is_initialized() else "none",
        torch.get_num_threads(),
        recipe.train.precision,
    )
    logger.info("%s", ways(recipe, accelerator.device))
