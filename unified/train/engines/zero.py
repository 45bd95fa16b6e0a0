"""The model under ZeRO: weights, gradients and moments in parts, which go in and out whole as `Whole` says."""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor

from unified.core.distributed import rank, world_size
from unified.model.pretrained import UnifiedModel
from unified.train.engines.base import Named, Plain, Whole, check_shape, whole_copy
from unified.train.optim import (
    MOMENTS,
    Ema,
    GroupSkipAdamW,
    check_moment,
    check_moments,
)
from unified.train.step import StepModel


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
        if self._scale != self.zero.loss_scale:
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

    def close(self) -> None:
        """As `Plain.close`, and let go of what DeepSpeed keeps for the whole program: modules, and with them groups."""
        super().close()
        from deepspeed.runtime.zero import parameter_offload, partitioned_param_coordinator

        parameter_offload.FWD_MODULE_STACK.clear()
        coordinator = partitioned_param_coordinator.PartitionedParameterCoordinator
        release = coordinator._PartitionedParameterCoordinator__params_to_release
        inspect.getclosurevars(release).nonlocals["func"].cache_clear()  # DeepSpeed wraps it for profilers

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


def _shape(parameter: Any) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)  # type: ignore[no-any-return]


def _part(parameter: Any, whole: Tensor) -> Tensor:
    """This process's part of a tensor shaped like the parameter; the last one is filled up with zeros."""
    size = parameter.partition_numel()
    padded = F.pad(whole.flatten(), (0, size * world_size() - whole.numel()))
    return padded.narrow(0, rank() * size, size)


def wrapped(accelerator: Accelerator, step_model: StepModel, optimizer: GroupSkipAdamW, clip: float) -> Whole:
    """The model under the engine of an accelerator."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return Whole(accelerator, step_model, optimizer, clip)
    stage = accelerator.deepspeed_plugin.zero_stage
    return (Plain, Zero, Zero, Sharded)[stage](accelerator, step_model, optimizer, clip)
