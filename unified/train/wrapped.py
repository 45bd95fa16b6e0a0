"""The model as the engine of a run holds it: whole in every process, or split over them by DeepSpeed's ZeRO.

Weights and moments go in and out whole, by parameter name and one after the other, so that nothing else needs to know
and no process holds more than one that it does not keep. Whatever is called on one rank is called on all, and iterated
over to the end in the same order: what is split is gathered on the way.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from unified import seed
from unified.dist import rank, world_size
from unified.model import UnifiedModel
from unified.train import gradient_norms
from unified.train.optim import (
    MOMENTS,
    Ema,
    GroupSkipAdamW,
    check_moment,
    check_moments,
    clip_gradients,
    load_optimizer_tensors,
    optimizer_tensors,
)
from unified.train.step import StepModel

Named = dict[str, Tensor]


class Whole:
    """The whole model and all moments in every process: one process, DDP, and DeepSpeed without ZeRO."""

    split = False
    """Whether each process has a part of the gradients alone."""

    def __init__(self, accelerator: Accelerator, step_model: StepModel, optimizer: GroupSkipAdamW, clip: float) -> None:
        self.accelerator, self.optimizer, self.clip = accelerator, optimizer, clip
        self.model: UnifiedModel = step_model.model
        self.parameters: dict[str, Any] = dict(self.model.named_parameters())
        self.names = {parameter: name for name, parameter in self.parameters.items()}
        self.module: Any = self._wrap(step_model)
        self._scale = 1.0

    def _wrap(self, step_model: StepModel) -> nn.Module:
        alone = self.accelerator.num_processes == 1  # torchrun may start a single one, which needs no DDP
        return self.accelerator.prepare_model(step_model, evaluation_mode=alone)  # type: ignore[no-any-return]

    @contextmanager
    def part(self, *, last: bool, scale: float = 1.0) -> Iterator[None]:
        """Around forward and backward pass of a part of a step, whose gradients are added to those of earlier parts.

        `scale`: a factor of the loss, which `step` takes out of the gradients again.
        """
        self._scale = scale
        with contextlib.nullcontext() if last else self.accelerator.no_sync(self.module):
            yield

    def backward(self, loss: Tensor) -> None:
        """The gradients of a loss; within `part`."""
        self.accelerator.backward(loss * self._scale)

    def norms(self, parts: Mapping[str, str]) -> dict[str, float]:
        """The norm of the gradient by part, before `step`; `parts`: that of each parameter, by its name."""
        device = self.accelerator.device
        found = gradient_norms.norms(self._gradients(), parts, device, split=self.split)
        return {part: norm / self._scale for part, norm in found.items()}

    def _gradients(self) -> Iterator[tuple[str, Tensor]]:
        """What this process has of each parameter's gradient, times the scale of the loss."""
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                yield name, parameter.grad

    def step(self) -> float:
        """Clipping and one step of the optimizer; returns the norm of the gradient before clipping.

        Where that is not finite, nothing was changed.
        """
        norm = self._clipped()
        if math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def _clipped(self) -> float:
        self._unscale()
        return float(clip_gradients(self.optimizer, self.clip))

    def _unscale(self) -> None:
        if self._scale != 1.0:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            torch._foreach_mul_(gradients, 1.0 / self._scale)

    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of `parameter_groups`, whose `active` and `lr` are set before every step."""
        return self.optimizer.param_groups

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The state of the model."""
        yield from self.model.state_dict().items()

    def moments(self) -> Iterator[tuple[str, str, Tensor]]:
        """Moments and step counts of the parameters that had a step: key, name and tensor."""
        for key, named in optimizer_tensors(self.optimizer, self.model).items():
            for name, tensor in named.items():
                yield key, name, tensor

    @torch.no_grad()
    def load_weights(self, named: Mapping[str, Tensor]) -> None:
        """Put back what `weights` gave, reading one tensor at a time; `RuntimeError` where it is of another model."""
        state = self.model.state_dict()
        wrong = sorted(named.keys() ^ state.keys())
        if wrong:
            raise RuntimeError(f"missing or unknown: {', '.join(wrong)}")
        for name, place in state.items():
            self._load_weight(name, place, named[name])

    def _load_weight(self, name: str, place: Tensor, value: Tensor) -> None:
        check_shape(name, place.shape, value)
        place.copy_(value)

    def load_moments(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put back what `moments` gave; `CheckpointError` where it is of another model."""
        load_optimizer_tensors(self.optimizer, self.model, tensors)

    def whole(self, parts: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Tensors of this process's parts of parameters as whole ones."""
        yield from parts.items()

    def parts(self, whole: Mapping[str, Tensor]) -> Named:
        """What `whole` would make these of."""
        return dict(whole)

    @contextmanager
    def evaluated(self, ema: Ema | None) -> Iterator[UnifiedModel | None]:
        """The model to evaluate, with its average where one is kept: on rank 0; None elsewhere."""
        if rank() > 0:
            yield None
        elif ema is None:
            yield self.model
        else:
            with ema.swapped(self.model):
                yield self.model

    def close(self) -> None:
        """Let go of the model."""


class Plain(Whole):
    """DeepSpeed without ZeRO (stage 0), which only reduces the gradients."""

    def _wrap(self, step_model: StepModel) -> nn.Module:
        return self.accelerator.prepare(step_model, self.optimizer)[0]  # type: ignore[no-any-return]

    @contextmanager
    def part(self, *, last: bool, scale: float = 1.0) -> Iterator[None]:
        """As `Whole.part`."""
        self._scale = scale
        self.module.set_gradient_accumulation_boundary(last)  # stays so until it is set again
        yield

    def backward(self, loss: Tensor) -> None:
        """As `Whole.backward`."""
        self.module.backward(loss)

    def step(self) -> float:
        """As `Whole.step`; clipped here, as DeepSpeed would not tell the norm."""
        norm = self._clipped()
        if math.isfinite(norm):
            self.module.step()
        else:
            self.optimizer.zero_grad()  # the engine does so in its step
        return norm

    def close(self) -> None:
        """Take DeepSpeed's hooks off the model."""
        self.module.destroy()


class Zero(Plain):
    """ZeRO stages 1 and 2: each process keeps its part of the fp32 weights and moments, and the model as well."""

    split = True

    def __init__(self, accelerator: Accelerator, step_model: StepModel, optimizer: GroupSkipAdamW, clip: float) -> None:
        super().__init__(accelerator, step_model, optimizer, clip)
        self.zero: Any = self.module.optimizer
        if self.zero.optimizer is not optimizer:
            raise RuntimeError(f"DeepSpeed runs {type(self.zero.optimizer).__name__} instead of the given optimizer")
        self.flats, self.groups = self._split()
        for flat in self.flats:
            # As the first step of a group would begin; here all are there, to be filled by a checkpoint.
            step = torch.zeros((), device=flat.device)
            optimizer.state[flat] = {"step": step, **{key: torch.zeros_like(flat) for key in MOMENTS}}
        self._link()

    def _gradients(self) -> Iterator[tuple[str, Tensor]]:
        """As `Whole._gradients`; with offload the norm of each, which is all that DeepSpeed keeps."""
        for number, parameters in enumerate(self._parameters_here()):
            if self._offloaded:
                norms = self.zero.norm_for_param_grads
                here = [(p, norms.get(self.zero.get_param_id(p))) for p in parameters]
                yield from ((self.names[p], torch.as_tensor(norm)) for p, norm in here if norm is not None)
                continue
            gradients = self.zero.averaged_gradients.get(number) or []
            real = (gradient for gradient in gradients if not getattr(gradient, "_zero_padding", False))
            yield from ((self.names[p], gradient) for gradient, p in zip(real, parameters, strict=False))

    @property
    def _offloaded(self) -> bool:
        return bool(self.zero.cpu_offload)

    def _parameters_here(self) -> list[list[Any]]:
        """Those of which this process has a part, by group."""
        return list(self.zero.params_in_partition)

    def _split(self) -> tuple[list[Tensor], list[list[Any]]]:
        """For each group of the optimizer this process's part of it, and the parameters that it has."""
        return list(self.zero.single_partition_of_fp32_groups), list(self.zero.bit16_groups)

    def _link(self) -> None:
        """Let parameters know their places in the parts; DeepSpeed does so at its first step otherwise."""
        self.zero._lazy_init_hp_params_optimizer_state()

    def backward(self, loss: Tensor) -> None:
        """As `Whole.backward`."""
        if self._scale != 1.0:
            self.zero.override_loss_scale(self._scale)  # it scales the loss, and the gradients back
        self.module.backward(loss)

    def step(self) -> float:
        """As `Whole.step`; DeepSpeed skips the step where the norm is not finite."""
        self.module.step()
        self._forget_gradients()
        return math.inf if self.zero.overflow else float(self.module.get_global_grad_norm())

    def _forget_gradients(self) -> None:
        """Zero the gradients that DeepSpeed keeps: one that gets none in the next step would be applied again."""
        self._forget_offloaded(self.zero.single_partition_of_fp32_groups if self.zero.cpu_offload else [])

    def _forget_offloaded(self, flats: Sequence[Tensor]) -> None:
        for flat in flats:
            if flat.grad is not None:
                flat.grad.zero_()
        if flats:
            self.zero.norm_for_param_grads.clear()

    def moments(self) -> Iterator[tuple[str, str, Tensor]]:
        """As `Whole.moments`."""
        for flat, group in zip(self.flats, self.groups, strict=True):
            steps = self.optimizer.state[flat]["step"]
            for parameter in group if steps > 0 else ():
                name = self.names[parameter]
                yield "steps", name, steps.detach().clone()
                for key in MOMENTS:
                    yield key, name, self._moment(parameter, key)

    def _moment(self, parameter: Any, key: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        return safe_get_full_optimizer_state(parameter, key)  # type: ignore[no-any-return]

    def _set_moment(self, parameter: Any, key: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        safe_set_full_optimizer_state(parameter, value, key)

    def load_weights(self, named: Mapping[str, Tensor]) -> None:
        """As `Whole.load_weights`."""
        super().load_weights(named)
        self.zero.refresh_fp32_params()

    def load_moments(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """As `Whole.load_moments`."""
        check_moments({self.names[parameter] for group in self.groups for parameter in group}, tensors)
        for flat, group in zip(self.flats, self.groups, strict=True):
            there = [self.names[parameter] for parameter in group if self.names[parameter] in tensors["exp_avg"]]
            state = self.optimizer.state[flat]
            # Parameters of a group step together, unless they were in others before the tasks of the run changed.
            state["step"].fill_(max((float(tensors["steps"][name]) for name in there), default=0.0))
            for parameter in group:
                name = self.names[parameter]
                for key in MOMENTS:
                    value = tensors[key][name] if name in tensors[key] else torch.zeros(_shape(parameter))
                    check_moment(name, value, _shape(parameter))
                    self._set_moment(parameter, key, value.to(flat.device))


class Sharded(Zero):
    """ZeRO stage 3: each process keeps its part of the weights alone, and fetches the rest where it is used."""

    def __init__(self, accelerator: Accelerator, step_model: StepModel, optimizer: GroupSkipAdamW, clip: float) -> None:
        step_model.whole_batches = True
        super().__init__(accelerator, step_model, optimizer, clip)
        if not hasattr(self.zero, "grad_partitions_flat_buffer"):
            raise RuntimeError("this version of DeepSpeed keeps gradients elsewhere, where they would be applied twice")

    @property
    def _offloaded(self) -> bool:
        return bool(self.zero.offload_optimizer)

    def _parameters_here(self) -> list[list[Any]]:
        return self.groups

    def _split(self) -> tuple[list[Tensor], list[list[Any]]]:
        return list(self.zero.fp32_partitioned_groups_flat), list(self.zero.fp16_groups)

    def _link(self) -> None:
        self._places: dict[Any, Any] = {}
        for flat, group in zip(self.flats, self.groups, strict=True):
            start = 0
            for parameter in group:
                self._places[parameter] = (flat, start, parameter.partition_numel())
                start += parameter.partition_numel()

    def _forget_gradients(self) -> None:
        self.zero.grad_partitions_flat_buffer.zero_()
        self._forget_offloaded(self.zero.fp32_partitioned_groups_flat if self.zero.offload_optimizer else [])

    def _moment(self, parameter: Any, key: str) -> Tensor:
        return self._gathered(parameter, self._place(parameter, key))

    def _set_moment(self, parameter: Any, key: str, value: Tensor) -> None:
        self._place(parameter, key).copy_(_part(parameter, value))

    def _place(self, parameter: Any, key: str) -> Tensor:
        flat, start, size = self._places[parameter]
        return self.optimizer.state[flat][key].narrow(0, start, size)  # type: ignore[no-any-return]

    def _gathered(self, parameter: Any, part: Tensor) -> Tensor:
        own = part.detach().to(self.accelerator.device).contiguous()
        parts = [torch.empty_like(own) for _ in range(world_size())]
        distributed.all_gather(parts, own)
        return torch.cat(parts)[: parameter.ds_numel].view(parameter.ds_shape)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """As `Whole.weights`."""
        for name, tensor in self.model.state_dict().items():
            parameter = self.parameters.get(name)
            yield name, tensor if parameter is None else self._gathered(parameter, parameter.ds_tensor)

    def _load_weight(self, name: str, place: Tensor, value: Tensor) -> None:
        parameter = self.parameters.get(name)
        if parameter is None:
            super()._load_weight(name, place, value)
            return
        check_shape(name, parameter.ds_shape, value)
        parameter.ds_tensor.data.copy_(_part(parameter, value))
        if parameter.data.shape == value.shape:  # a small one, which every process keeps whole as well
            parameter.data.copy_(value)

    def whole(self, parts: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """As `Whole.whole`."""
        for name, part in parts.items():
            yield name, self._gathered(self.parameters[name], part)

    def parts(self, whole: Mapping[str, Tensor]) -> Named:
        """As `Whole.parts`."""
        return {name: _part(self.parameters[name], tensor) for name, tensor in whole.items()}

    @contextmanager
    def evaluated(self, ema: Ema | None) -> Iterator[UnifiedModel | None]:
        """As `Whole.evaluated`: a copy that rank 0 runs without the others."""
        yield whole_copy(self, ema)


def whole_copy(engine: Whole, ema: Ema | None) -> UnifiedModel | None:
    """A copy of the model with all its weights, or their average where one is kept, on rank 0; None elsewhere."""
    state: Named = {}
    for name, tensor in chain(engine.weights(), engine.whole(ema.tensors()) if ema is not None else ()):
        if rank() == 0:
            state[name] = tensor.cpu()
    if rank() > 0:
        return None
    with seed.seeded("copy to evaluate"):  # what is drawn is overwritten, and must not move other draws
        copy = UnifiedModel(engine.model.config)
    copy.load_state_dict(state)
    return copy.to(engine.accelerator.device)


def _shape(parameter: Any) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)  # type: ignore[no-any-return]


def _part(parameter: Any, whole: Tensor) -> Tensor:
    """This process's part of a tensor shaped like the parameter; the last one is filled up with zeros."""
    size = parameter.partition_numel()
    padded = F.pad(whole.flatten(), (0, size * world_size() - whole.numel()))
    return padded.narrow(0, rank() * size, size)


def check_shape(name: str, shape: torch.Size, value: Tensor) -> None:
    """Raise `RuntimeError` where a tensor of a checkpoint has another shape than the model's."""
    if shape != value.shape:
        raise RuntimeError(f"{name} has the shape {tuple(value.shape)}; expected {tuple(shape)}")


def wrapped(accelerator: Accelerator, step_model: StepModel, optimizer: GroupSkipAdamW, clip: float) -> Whole:
    """The model under the engine of an accelerator."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return Whole(accelerator, step_model, optimizer, clip)
    stage = accelerator.deepspeed_plugin.zero_stage
    return (Plain, Zero, Zero, Sharded)[stage](accelerator, step_model, optimizer, clip)
