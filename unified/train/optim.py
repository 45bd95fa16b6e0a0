"""AdamW for steps that use some parameters only: what no slot of a step uses stays bit-equal, moments included."""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unified.config.recipe import OptimSettings
from unified.core.errors import CheckpointError
from unified.core.log import logger
from unified.nn.kernels import OPTIMIZER, chosen

MOMENTS = ("exp_avg", "exp_avg_sq")
HEAD = ("ln_post", "proj", "log_scales")  # modules after the last block; all else outside the blocks comes before them


class GroupSkipAdamW(torch.optim.AdamW):
    """AdamW that leaves groups with `active` False alone: no decay, no change of moments, no step count.

    Decay in idle steps would grow with all steps instead of a task's own, and fading second moments would make the
    steps of rare tasks several times too large. `active` is set before the backward pass of every step.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float) -> None:
        """The kernel is that of `kernels.TABLE`: fused where it is so for all parameters, else foreach."""
        parameters = [parameter for group in groups for parameter in group["params"]]
        fused = all(chosen(OPTIMIZER, p.device, p.dtype).name == "fused AdamW" for p in parameters)
        super().__init__(groups, lr=lr, betas=betas, eps=eps, fused=fused, foreach=not fused)

    def step(self, closure: Any = None) -> Any:
        """One step of the active groups."""
        everything = self.param_groups
        self.param_groups = [group for group in everything if group["active"]]
        try:
            return super().step(closure)
        finally:
            self.param_groups = everything

    def step_unless(self, held: Float[Tensor, ""]) -> None:
        """One step of the active groups, which changes nothing where `held` is 1: the kernels look, not the host."""
        self.found_inf = held  # what fused kernels look at; GradScaler names it so
        try:
            self.step()
        finally:
            del self.found_inf


def decayed(model: nn.Module) -> frozenset[str]:
    """Names of the parameters with weight decay: matrices, but no table of embeddings.

    Norms, biases, scales and temperatures have one axis; biases of experts, which have two, and tables that are
    parameters by themselves are not named `weight`.
    """
    return frozenset(
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if not isinstance(module, nn.Embedding)
        for name, parameter in module.named_parameters(recurse=False)
        if name == "weight" and parameter.dim() > 1
    )


def layer_of(name: str, depth: int) -> int:
    """The layer of a parameter: 0 for embeddings, 1 … depth for the blocks, depth + 1 for what follows them."""
    block = re.search(r"(?:^|\.)blocks\.(\d+)\.", name)
    if block:
        return int(block[1]) + 1
    return depth + 1 if any(part in HEAD for part in name.split(".")) else 0


def parameter_groups(
    model: nn.Module, uses: Mapping[str, frozenset[str]], optim: OptimSettings, *, depth: int
) -> list[dict[str, Any]]:
    """Groups for `GroupSkipAdamW`, one for each set of tasks, decay or none, and factor of the learning rate.

    `uses`: the tasks that use each trained parameter, of `uses_from_gradients`. A group's `tasks` say in which steps
    it is active, its `lr_scale` is the layer decay. A parameter that no task uses is in a group that is never active.
    """
    with_decay = decayed(model)
    groups: dict[tuple[tuple[str, ...], bool, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.dim() == 0:
            raise ValueError(
                f"parameter {name!r} has no axis, which sharded engines cannot split; give it the shape (1,)"
            )
        tasks, decay = tuple(sorted(uses[name])), name in with_decay
        scale = optim.layer_decay ** (depth + 1 - layer_of(name, depth))
        group = groups.setdefault(
            (tasks, decay, scale),
            {
                "params": [],
                "tasks": tasks,
                "active": False,
                "lr": optim.lr * scale,
                "lr_scale": scale,
                "weight_decay": optim.weight_decay if decay else 0.0,
            },
        )
        group["params"].append(parameter)
    unused = sorted(name for name, tasks in uses.items() if not tasks)
    if unused:
        logger.info("no task of the recipe uses these parameters, and they stay as they are: %s", ", ".join(unused))
    return list(groups.values())


def uses_from_gradients(
    model: nn.Module,
    run_task: Mapping[str, Callable[[], Tensor]],
    around: Callable[[str], AbstractContextManager[None]] = lambda _task: nullcontext(),
) -> dict[str, frozenset[str]]:
    """The tasks that give each trained parameter a gradient, found by one backward pass a task.

    Args:
        model: whose gradients are None afterwards.
        run_task: for each task a function that returns a loss.
        around: a context for both passes of a task.
    """
    uses: dict[str, set[str]] = {name: set() for name, p in model.named_parameters() if p.requires_grad}
    for task, run in run_task.items():
        model.zero_grad(set_to_none=True)
        with around(task):
            loss = run()
            if not loss.requires_grad:
                raise ValueError(f"task {task!r}: its loss depends on no parameter that is trained")
            loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                uses[name].add(task)
    model.zero_grad(set_to_none=True)
    return {name: frozenset(tasks) for name, tasks in uses.items()}


def learning_rate(step: int, optim: OptimSettings, max_steps: int) -> float:
    """The learning rate of the update after `step` earlier ones: linear warm-up, then a cosine down to `final_lr`."""
    if step < optim.warmup:
        return optim.lr * (step + 1) / optim.warmup
    done = min((step - optim.warmup) / max(max_steps - 1 - optim.warmup, 1), 1.0)
    return optim.final_lr + (optim.lr - optim.final_lr) * 0.5 * (1 + math.cos(math.pi * done))


def active(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters of the active groups."""
    return [parameter for group in optimizer.param_groups if group["active"] for parameter in group["params"]]


def clip_gradients(optimizer: torch.optim.Optimizer, limit: float) -> Float[Tensor, ""]:
    """Scale the gradients of the active groups to a common norm of at most `limit`; returns the norm before."""
    return torch.nn.utils.clip_grad_norm_(active(optimizer), limit)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """The moments and step counts by parameter name, for a checkpoint; a parameter without a step so far has none."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors: dict[str, dict[str, Tensor]] = {"exp_avg": {}, "exp_avg_sq": {}, "steps": {}}
    for parameter, state in optimizer.state.items():
        for key, named in tensors.items():
            named[names[parameter]] = state["step" if key == "steps" else key]
    return tensors


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Put back what `optimizer_tensors` took, bit for bit; other groups in `tensors` are left alone.

    Reads one tensor at a time. Raises `CheckpointError` as `check_moments` and `check_moment` do.
    """
    trained = {p: bool(group["fused"]) for group in optimizer.param_groups for p in group["params"]}
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter in trained}
    check_moments(parameters, tensors)
    optimizer.state.clear()
    for name, average in tensors["exp_avg"].items():
        parameter = parameters[name]
        check_moment(name, average, parameter.shape)
        place = parameter.device
        optimizer.state[parameter] = {
            # A fused step counts on the device, any other on the CPU.
            "step": tensors["steps"][name].to(place if trained[parameter] else "cpu", copy=True),
            "exp_avg": average.to(place, copy=True),
            "exp_avg_sq": tensors["exp_avg_sq"][name].to(place, copy=True),
        }


def check_moments(trained: Collection[str], tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise `CheckpointError` when moments are missing, or belong to none of the trained parameters."""
    for key in (*MOMENTS, "steps"):
        if key not in tensors:
            raise CheckpointError(f"the checkpoint has no {key!r}; found {sorted(tensors)}. Start a new run instead")
    for name in tensors["exp_avg"]:
        if name not in trained:
            check_moment(name, tensors["exp_avg"][name], None)


def check_moment(name: str, moment: Tensor, shape: torch.Size | None) -> None:
    """Raise `CheckpointError` unless a moment has the shape of its parameter; None where none is trained."""
    if shape != moment.shape:
        found = "none that is trained" if shape is None else tuple(shape)
        raise CheckpointError(
            f"moments of {name!r} have the shape {tuple(moment.shape)}; the model's parameter: {found}. "
            "Resume with the recipe of the run"
        )


class Ema:
    """An exponential moving average of the trained weights, in fp32; of this process's part of them where ZeRO splits
    them."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._average = {name: _own(parameter).float().clone() for name, parameter in _trained(model)}

    @torch.no_grad()
    def update(self, model: nn.Module, held: bool | Float[Tensor, ""] = False) -> None:
        """Move the average towards the weights: average ← decay · average + (1 − decay) · weights.

        Args:
            model: whose weights.
            held: whether the step changed nothing, and the average stays too; on the device 1 or 0.
        """
        if held is True:
            return
        weights = [_own(parameter).float() for _, parameter in _trained(model)]
        average = list(self._average.values())
        if held is False:
            torch._foreach_lerp_(average, weights, 1 - self.decay)
            return
        moves = torch._foreach_sub(weights, average)
        torch._foreach_mul_(moves, (1 - self.decay) * (1 - held))
        torch._foreach_add_(average, moves)

    def tensors(self) -> dict[str, Tensor]:
        """The average by parameter name, for a checkpoint."""
        return dict(self._average)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        if tensors.keys() != self._average.keys():
            differ = sorted(set(tensors) ^ set(self._average))
            raise CheckpointError(f"the moving average is of another model; it differs in {', '.join(differ)}")
        for name, average in self._average.items():
            average.copy_(tensors[name])

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """Run the model with the average in place of its weights, and put the weights back, bit for bit."""
        kept = {name: parameter.detach().clone() for name, parameter in _trained(model)}
        try:
            _put(model, self._average)
            yield
        finally:
            _put(model, kept)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _own(parameter: nn.Parameter) -> Tensor:
    """What this process keeps of a parameter."""
    return getattr(parameter, "ds_tensor", parameter).detach()  # type: ignore[no-any-return]


@torch.no_grad()
def _put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for name, parameter in _trained(model):
        parameter.copy_(tensors[name])
