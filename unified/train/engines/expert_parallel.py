"""Expert parallelism: the experts that tokens are sent to, split over processes.

Every `size` neighbouring processes keep all experts of a layer among them; processes in the same place of such a group
keep the same ones. Neither DDP nor ZeRO knows of experts: both leave these parameters alone, and here their gradients
are summed over the processes that keep the same ones, counted in the norm, and applied.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed
from accelerate import Accelerator
from accelerate.utils import DistributedType
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unified.core.distributed import exchange_rows, rank, world_size
from unified.model.pretrained import UnifiedModel
from unified.nn.moe.exchange import Exchange
from unified.nn.moe.experts import ConditionalLinear
from unified.train.engines.base import Named, Whole, check_shape, whole_copy
from unified.train.engines.zero import Zero
from unified.train.optim import (
    Ema,
    GroupSkipAdamW,
    active,
    load_optimizer_tensors,
    optimizer_tensors,
)
from unified.train.step import StepModel


class GroupExchange(Exchange):
    """Rows for the processes of a group."""

    def __init__(self, group: Any) -> None:
        self._group, self.processes = group, distributed.get_world_size(group)

    def counts(self, counts: Int[Tensor, "p e"]) -> Int[Tensor, "p e"]:
        """As `Exchange.counts`."""
        each = [1] * self.processes
        return exchange_rows(counts, each, each, self._group)

    def rows(self, rows: Float[Tensor, "s d"], sent: Sequence[int], received: Sequence[int]) -> Float[Tensor, "r d"]:
        """As `Exchange.rows`."""
        return exchange_rows(rows, sent, received, self._group)


class ExpertShare:
    """The experts of a model that this process keeps, equally many of each layer; the others are let go."""

    def __init__(self, model: UnifiedModel, size: int, timeout: timedelta) -> None:
        """`size`: processes that share all experts; it divides their number, and that of the experts.

        `timeout`: of exchanges between them.
        """
        world = world_size()
        self._size, self._place = size, rank() % size
        self._group = _group_of([range(start, start + size) for start in range(0, world, size)], timeout)
        self._replicas = _group_of([range(place, world, size) for place in range(size)], timeout)
        self.shapes: dict[str, torch.Size] = {}
        """Of the parameters that are split, as they are in a whole model."""
        for layer in model.encoder.conditional_layers().values():
            layer.exchange = GroupExchange(self._group)
        for name, module in model.named_modules():
            if isinstance(module, ConditionalLinear):
                for part, parameter in module.named_parameters():
                    self.shapes[f"{name}.{part}"] = parameter.shape
                    parameter.data = self._own(parameter.data).clone()

    def _own(self, whole: Tensor) -> Tensor:
        return whole.chunk(self._size)[self._place]

    def part(self, name: str, whole: Tensor) -> Tensor:
        """What this process keeps of a whole tensor; `RuntimeError` where it is of another shape."""
        if name not in self.shapes:
            return whole
        check_shape(name, self.shapes[name], whole)
        return self._own(whole)

    def whole(self, name: str, part: Tensor) -> Tensor:
        """The whole tensor, on every rank, as any may be the one to save it; called on all ranks."""
        if name not in self.shapes:
            return part
        own = part.detach().contiguous()
        parts = [torch.empty_like(own) for _ in range(self._size)]
        distributed.all_gather(parts, own, group=self._group)
        # In the memory of the host, as a device may have no room for all experts.
        return torch.cat([each.cpu() for each in parts])

    def average(self, gradients: list[Tensor]) -> None:
        """Average gradients over all processes, as engines do with those of other parameters.

        Those of all tokens of this process's group are in them already; the rest is on the processes that keep the same
        experts. One by one, as there may be no room for another copy.
        """
        works = [distributed.all_reduce(each, group=self._replicas, async_op=True) for each in gradients]
        for work in works:
            work.wait()
        torch._foreach_mul_(gradients, 1.0 / world_size())

    def norm(self, gradients: Sequence[Tensor]) -> Float[Tensor, ""]:
        """The norm of the gradients of all experts, the same bits on all ranks."""
        own = nn.utils.get_total_norm(gradients).square()
        distributed.all_reduce(own)
        return (own * self._size / world_size()).sqrt()

    def close(self) -> None:
        """Let go of the groups."""
        for group in (self._group, self._replicas):
            distributed.destroy_process_group(group)


def _group_of(groups: Sequence[Sequence[int]], timeout: timedelta) -> Any:
    """The group that this process is in."""
    return distributed.new_subgroups_by_enumeration([list(group) for group in groups], timeout)[0]


class _Picked(Mapping[str, Tensor]):
    """Moments of the experts of a share, in parts, or those of all other parameters; each is read when asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], share: ExpertShare, of_experts: bool) -> None:
        self._tensors, self._share = tensors, share
        self._names = dict.fromkeys(name for name in tensors if (name in share.shapes) == of_experts)

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        # A count of steps has no experts.
        return self._share.part(name, tensor) if tensor.dim() else tensor

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _WithExperts(Whole):
    """What both engines do with the experts of a share."""

    waits = True

    def __init__(
        self,
        accelerator: Accelerator,
        step_model: StepModel,
        optimizer: GroupSkipAdamW,
        clip: float,
        share: ExpertShare,
    ) -> None:
        """`optimizer`: of all parameters; experts get one of their own."""
        self.share = share
        named = dict(step_model.model.named_parameters())
        own = {named[name] for name in share.shapes}
        groups = optimizer.param_groups
        of_experts = [{**group, "params": [p for p in group["params"] if p in own]} for group in groups]
        for group in groups:
            group["params"] = [p for p in group["params"] if p not in own]
        optimizer.param_groups = [group for group in groups if group["params"]]
        defaults = {key: optimizer.defaults[key] for key in ("lr", "betas", "eps")}
        self.experts = GroupSkipAdamW([group for group in of_experts if group["params"]], **defaults)
        super().__init__(accelerator, step_model, optimizer, clip)

    def param_groups(self) -> list[dict[str, Any]]:
        """As `Whole.param_groups`."""
        return [*super().param_groups(), *self.experts.param_groups]

    def _change_experts(self, norm: float, scale: float) -> None:
        """One step of the experts; `norm` is that of all gradients, and `scale` a factor that is still in these."""
        if math.isfinite(norm):
            factor = min(self.clip / (norm + 1e-6), 1.0) / scale
            torch._foreach_mul_(self._gradients_of_experts(), factor)
            self.experts.step()
        self.experts.zero_grad()

    def norms(self, parts: Mapping[str, str]) -> tuple[tuple[str, ...], Float[Tensor, "p"]]:
        """As `Whole.norms`, without the experts that are split: their gradients are averaged by `step`."""
        return super().norms({name: part for name, part in parts.items() if name not in self.share.shapes})

    def _gradients_of_experts(self) -> list[Tensor]:
        return [parameter.grad for parameter in active(self.experts) if parameter.grad is not None]

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """As `Whole.weights`."""
        for name, tensor in super().weights():
            yield name, self.share.whole(name, tensor)

    def _load_weight(self, name: str, place: Tensor, value: Tensor) -> None:
        super()._load_weight(name, place, self.share.part(name, value))

    def moments(self) -> Iterator[tuple[str, str, Tensor]]:
        """As `Whole.moments`."""
        yield from super().moments()
        for key, named in optimizer_tensors(self.experts, self.model).items():
            for name, tensor in named.items():
                yield key, name, tensor if key == "steps" else self.share.whole(name, tensor)

    def load_moments(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """As `Whole.load_moments`."""
        of_experts, others = (
            {key: _Picked(named, self.share, own) for key, named in tensors.items()} for own in (True, False)
        )
        super().load_moments(others)
        load_optimizer_tensors(self.experts, self.model, of_experts)

    def whole(self, parts: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """As `Whole.whole`."""
        for name, tensor in super().whole(parts):
            yield name, self.share.whole(name, tensor)

    def parts(self, whole: Mapping[str, Tensor]) -> Named:
        """As `Whole.parts`."""
        return super().parts({name: self.share.part(name, tensor) for name, tensor in whole.items()})

    @contextmanager
    def evaluated(self, ema: Ema | None) -> Iterator[UnifiedModel | None]:
        """As `Whole.evaluated`: a copy with all experts, which rank 0 runs without the others."""
        yield whole_copy(self, ema)

    def close(self) -> None:
        """As `Whole.close`."""
        super().close()
        self.share.close()


class ExpertsWithDdp(_WithExperts):
    """Experts in parts beside DDP."""

    def _wrap(self, step_model: StepModel) -> nn.Module:
        alone = [f"model.{name}" for name in self.share.shapes]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(step_model, alone)
        return super()._wrap(step_model)

    def step(self) -> float:
        """As `Whole.step`."""
        norm = super().step()
        self._change_experts(norm, 1.0)
        return norm

    def _clipped(self) -> float:
        self._unscale()
        of_experts, others = self._gradients_of_experts(), active(self.optimizer)
        self.share.average(of_experts)
        norm = nn.utils.get_total_norm([parameter.grad for parameter in others if parameter.grad is not None])
        norm = torch.hypot(norm, self.share.norm(of_experts))
        nn.utils.clip_grads_with_norm_(others, self.clip, norm)
        return float(norm)


class ExpertsWithZero(_WithExperts, Zero):
    """Experts in parts beside ZeRO stages 1 and 2."""

    def _wrap(self, step_model: StepModel) -> nn.Module:
        named = dict(step_model.model.named_parameters())
        own = {name: named[name].detach().clone() for name in self.share.shapes}
        module: Any = super()._wrap(step_model)
        with torch.no_grad():
            for name, tensor in own.items():
                named[name].copy_(tensor)  # DeepSpeed has put those of rank 0 everywhere
        norm_of_others = module.optimizer.scaled_global_norm

        def norm() -> Tensor:
            """What DeepSpeed clips by, and where it is not finite changes nothing."""
            others: Tensor = norm_of_others()
            return torch.hypot(others, self.share.norm(self._gradients_of_experts()).to(others))

        module.optimizer.scaled_global_norm = norm
        return module  # type: ignore[no-any-return]

    def step(self) -> float:
        """As `Whole.step`."""
        self.share.average(self._gradients_of_experts())
        norm = super().step()
        self._change_experts(norm, self._scale)
        return norm


def beside_experts(
    accelerator: Accelerator, step_model: StepModel, optimizer: GroupSkipAdamW, clip: float, share: ExpertShare
) -> Whole:
    """The model under the engine of an accelerator, with a share of the experts."""
    kind = ExpertsWithZero if accelerator.distributed_type == DistributedType.DEEPSPEED else ExpertsWithDdp
    return kind(accelerator, step_model, optimizer, clip, share)
