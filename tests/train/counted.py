"""Bytes that really are held and sent, counted on one process; for tests/train/engine_cases.py."""

import gc
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unified.core.distributed import world_size
from unified.train.dry_run.communication import of_candidates, of_states
from unified.train.dry_run.model_states import Sizes, states
from unified.train.engines.deepspeed import deepspeed_settings
from unified.train.trainer import Trainer


def storages() -> dict[int, int]:
    """The bytes of every storage that a tensor of this process has, by its address."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # objects of other libraries warn when they are asked for their class
        tensors = [each for each in gc.get_objects() if isinstance(each, Tensor)]
    for tensor in tensors:
        for each in (tensor, tensor.grad if tensor.is_leaf else None):
            if each is not None and each.device.type == "cpu" and each.layout == torch.strided:
                found[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
    return found


def held(before: dict[int, int]) -> int:
    """Bytes of storages that were not there before."""
    return sum(size for place, size in storages().items() if place not in before)


KINDS = {
    "allreduce_": ("all-reduce", 0),
    "allgather_": ("all-gather", 0),
    "_allgather_base_": ("all-gather", 0),
    "allgather_into_tensor_coalesced_": ("all-gather", 0),
    "_reduce_scatter_base_": ("reduce-scatter", 1),
    "reduce_scatter_": ("reduce-scatter", 1),
    "reduce_scatter_tensor_coalesced_": ("reduce-scatter", 1),
    "alltoall_base_": ("all-to-all", 1),
    "reduce_": ("reduce", 0),
    "broadcast_": ("broadcast", 0),
}
"""What a call of torch is, and at which place it is given whole tensors."""


class Sent(TorchDispatchMode):
    """Adds up the whole tensors of collectives, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            kind, place = KINDS.get(func._opname, (func._opname, None))
            size = 0 if place is None else sum(t.numel() * t.element_size() for t in _flat(args[place]))
            self.bytes[kind] = self.bytes.get(kind, 0) + size
        return func(*args, **(kwargs or {}))


def _flat(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _flat(each)


@contextmanager
def watched(owner: Any, name: str, look: Any) -> Iterator[None]:
    """Call `look` before every call of a method."""
    method = getattr(owner, name)

    def called(*arguments: Any, **named: Any) -> Any:
        look()
        return method(*arguments, **named)

    setattr(owner, name, called)
    try:
        yield
    finally:
        delattr(owner, name)


def count(trainer: Trainer, slots: Any, before: dict[int, int]) -> dict[str, Any]:
    """What a trainer holds beside activations, at most and between steps, and what a step of these slots sends; with
    what is computed for it."""
    for _ in range(2):
        trainer.train_step(slots)
    gc.collect()
    found = [between := held(before)]
    engine: Any = trainer.engine
    zero = getattr(engine, "zero", None)

    def look_early() -> None:
        if len(found) < 4:
            found.append(held(before))

    looks = [watched(trainer.optimizer, "step", lambda: found.append(held(before)))]
    if getattr(zero, "partition_gradients", True) is False:  # later stages reduce while there are activations
        looks.append(watched(zero, "reduce_ipg_grads", look_early))
    with Sent() as sent, ExitStack() as stack:
        for look in looks:
            stack.enter_context(look)
        trainer.train_step(slots)
    recipe, sizes = trainer.recipe, sizes_of(trainer)
    settings = deepspeed_settings(recipe)["zero_optimization"] if recipe.engine.kind == "deepspeed" else None
    need = states(sizes, settings, world_size(), average=True)
    batches = [
        recipe.tasks[slot.task].batch for slot, _ in slots if recipe.tasks[slot.task].answer.candidates == "batch"
    ]
    labels = sum(len(trainer.labels[slot.task]) for slot, _ in slots if slot.task in trainer.labels)
    exchanged = [
        *of_states(sizes, settings, world_size(), passes=7),  # two of each task with candidates
        *of_candidates(2 * sum(batches) + labels, recipe.model.width, world_size()),
    ]
    computed: dict[str, float] = {}
    for one in exchanged:
        computed[one.kind] = computed.get(one.kind, 0) + one.size
    return {
        "between": between,
        "most": max(found),
        "computed": need.total + need.host - need.fetched,  # none is fetched while the optimizer runs
        "rest": need.weights + need.copy + need.moments + need.average,
        "sent": sent.bytes,
        "computed sent": computed,
    }


def sizes_of(trainer: Trainer) -> Sizes:
    def numbers(parameters: Any) -> list[int]:
        return [getattr(parameter, "ds_numel", parameter.numel()) for parameter in parameters]

    every = numbers(trainer.model.parameters())
    groups = getattr(trainer.engine, "groups", [group["params"] for group in trainer.optimizer.param_groups])
    return Sizes(sum(every), max(every), max(sum(numbers(group)) for group in groups))
