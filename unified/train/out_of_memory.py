"""Memory that does not suffice, told with what needs it and what would need less."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from unified.config.recipe import Recipe
from unified.core.distributed import world_size
from unified.core.errors import UserError
from unified.train.dry_run.plan import Plan, make_plan

GIB = 2**30
SAID = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
"""What errors say that are of no class of their own: allocators of CPUs and of pinned memory, cuBLAS, NCCL."""


class OutOfMemoryError(UserError):
    """A step, or what comes before the first one, needs more memory than there is."""


@dataclass(frozen=True)
class Load:
    """What a process runs: the tasks of its slots, and how many samples of each are its own."""

    where: str
    samples: Sequence[tuple[str, int]]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is one of memory, of a device or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)


@contextmanager
def told(recipe: Recipe, load: Load, device: torch.device) -> Iterator[None]:
    """Turn an error of memory into an `OutOfMemoryError` for people; other errors pass.

    Asks no other process anything: they wait elsewhere, until their launcher ends them.

    Args:
        recipe: of the run.
        load: what runs in this block.
        device: where it runs.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(message(recipe, load, device, error)) from error


def message(recipe: Recipe, load: Load, device: torch.device, error: BaseException) -> str:
    """Return what happened, the estimate of the dry run, and what would need less, in one line.

    Args:
        recipe: of the run.
        load: what ran.
        device: where.
        error: what was raised.
    """
    ran = ", ".join(f"task {name!r} with {count} of {recipe.tasks[name].batch} samples" for name, count in load.samples)
    tasks = [name for name, _ in load.samples] or list(recipe.tasks)
    try:
        plan = make_plan(recipe, world_size())
    except UserError as wrong:
        estimate, hints = f"there is no estimate ({wrong})", _hints(recipe, tasks, states_first=False)
    else:
        estimate, hints = _estimate(plan, tasks)
    return (
        f"{load.where}: out of memory on {device}{f', with {ran}' if ran else ''}: {_short(error)}. The dry run's "
        f"{estimate}. Hint: {', or '.join(hints)}; the same command goes on from the last checkpoint, if there is one"
    )


def _estimate(plan: Plan, tasks: Sequence[str]) -> tuple[str, list[str]]:
    """The estimate in words, and what would need less, what helps most first."""
    states = plan.states(next(iter(plan.engines.values()))).total
    activations = plan.activations_of(tasks)
    by_size = sorted(set(tasks), key=lambda name: -plan.slots[name].kept)
    words = (
        f"estimate is {(states + activations) / GIB:.2f} GiB a process: {states / GIB:.2f} of weights, gradients and "
        f"moments, {activations / GIB:.2f} of activations, most of task {by_size[0]!r}"
    )
    return words, _hints(plan.recipe, by_size, states_first=states > activations)


def _hints(recipe: Recipe, tasks: Sequence[str], *, states_first: bool) -> list[str]:
    engine, sharded = recipe.engine, recipe.engine.kind == "deepspeed"
    less = [f"lower tasks.{tasks[0]}.batch (now {recipe.tasks[tasks[0]].batch})"]
    if engine.chunks < recipe.slots and engine.offload == "none":
        less.append(f"set engine.chunks: {min(2 * engine.chunks, recipe.slots)} (now {engine.chunks})")
    if not recipe.train.checkpoint_activations:
        less.append("set train.checkpoint_activations: true")
    parts = []
    if world_size() > 1 and not sharded:
        parts.append("set engine.kind: deepspeed, whose ZeRO splits gradients and moments over processes")
    elif engine.offload == "none" and engine.deepspeed is None and engine.chunks == 1:
        parts.append(f"{'set' if sharded else 'set engine.kind: deepspeed with'} engine.offload: optimizer")
    return [*parts, *less] if states_first else [*less, *parts]


def _short(error: BaseException) -> str:
    """The first line of an error, without torch's advice on fragments."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(" Of the allocated memory")[0].rstrip(". ")
