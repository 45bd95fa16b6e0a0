"""The model as the engine of a run holds it: whole in every process, or split over them by DeepSpeed's ZeRO.

Weights and moments go in and out whole, by parameter name and one after the other, so that nothing else needs to know
and no process holds more than one that it does not keep. Whatever is called on one rank is called on all, and iterated
over to the end in the same order: what is split is gathered on the way.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from unified.core import seed
from unified.core.distributed import rank
from unified.model.pretrained import UnifiedModel
from unified.train.monitor import gradient_norms
from unified.train.optim import (
    Ema,
    GroupSkipAdamW,
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
    waits = False
    """Whether a step has to ask the device for the norm of the gradient before it changes the weights."""

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

    def norms(self, parts: Mapping[str, str]) -> tuple[tuple[str, ...], Float[Tensor, "p"]]:
        """The parts, and the norm of the gradient of each, before `step`.

        `parts`: that of each parameter, by its name.
        """
        device = self.accelerator.device
        found = gradient_norms.norms(self._gradients(), parts, device, split=self.split)
        return tuple(dict.fromkeys(parts.values())), found / self._scale

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

    def step_unread(self, halted: Float[Tensor, ""]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Do what `step` does without asking the device, where the engine never `waits`.

        Args:
            halted: 1 where nothing is to be changed whatever the norm is, else 0.

        Returns:
            The norm, and 1 where nothing was changed, else 0: both on the device.
        """
        norm = clip_gradients(self.optimizer, self.clip)
        held = torch.maximum((~torch.isfinite(norm)).to(halted), halted)
        self.optimizer.step_unless(held)
        self.optimizer.zero_grad()
        return norm, held

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

    waits = True

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


def check_shape(name: str, shape: torch.Size, value: Tensor) -> None:
    """Raise `RuntimeError` where a tensor of a checkpoint has another shape than the model's."""
    if shape != value.shape:
        raise RuntimeError(f"{name} has the shape {tuple(value.shape)}; expected {tuple(shape)}")
