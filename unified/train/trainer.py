"""One training run: step, save, resume."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from unified import checkpoint
from unified.answers.match.similarity import TEMPERATURES
from unified.answers.workload import Work
from unified.config.recipe import Recipe
from unified.core.errors import NonFiniteError
from unified.core.log import logger
from unified.core.transfers import HostCopy
from unified.core.types import Batch
from unified.model.task_queries import NEWER
from unified.pipeline.schedule import Slot
from unified.train.build import Parts
from unified.train.dry_run.flops import Cost
from unified.train.dry_run.workload import bucketed_on, work
from unified.train.engines.accelerator import check_running, collective_timeout
from unified.train.engines.expert_parallel import ExpertShare, beside_experts
from unified.train.engines.zero import wrapped
from unified.train.expert_load import ExpertLoad
from unified.train.faults.loss_scale import LossScale
from unified.train.faults.skipped_steps import LASTS, Skipped
from unified.train.monitor.gradient_norms import parts as parts_of
from unified.train.optim import (
    MOMENTS,
    Ema,
    GroupSkipAdamW,
    learning_rate,
    parameter_groups,
    uses_from_gradients,
)
from unified.train.out_of_memory import Load, told
from unified.train.outcome import Launched, Slots, StepResult, not_finite, where
from unified.train.step import TASK_METRICS, Item, StepModel, draw_noise, in_chunks

_NEXT = (
    "Nothing was changed by this step: look at these samples, or lower optim.lr, and start again from the last "
    "checkpoint; --train.skip-steps passes over steps, --train.non-finite skip over all that are not finite"
)


class Trainer:
    """Model, optimizer and counters of a run; knows nothing of files but checkpoints, nothing of printing."""

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        parts: Parts,
        probe: Sequence[tuple[Slot, Batch]],
        enter: Callable[[str], None] = lambda _phase: None,
    ) -> None:
        """`probe`: a batch of every task, from which the parameters that each task uses are found.

        `enter` is told what a step begins with: forward, backward.
        """
        self.recipe, self.accelerator, self.enter = recipe, accelerator, enter
        self.step = 0
        self.skipped = Skipped()
        self.scale = LossScale() if recipe.train.precision == "fp16" else None
        self.new_temperatures = False  # whether the loaded checkpoint has others than the model
        self.slot_mean_from = 0  # the step after which the loss is the mean over slots of weight × loss
        self.cost = Cost(parts.model)
        size = recipe.engine.expert_parallel
        # Before a device would have to hold all experts.
        share = ExpertShare(parts.model, size, collective_timeout(recipe)) if size > 1 else None
        self.model = parts.model.to(self.accelerator.device)
        self.model.train()
        if recipe.train.checkpoint_activations:
            self.model.activation_checkpointing_enable()
        self.label_tokens = parts.label_tokens  # on the CPU, where their lengths cost no wait
        self.labels = {name: tokens.to(self.model.device) for name, tokens in parts.label_tokens.items()}
        self.experts = ExpertLoad(self.model)
        step_model = StepModel(self.model, recipe.tasks, recipe.train.precision)
        step_model.whole_batches = share is not None
        self._watch = step_model.watch
        runs = {slot.task: partial(self._probe, step_model, slot, batch) for slot, batch in probe}
        sizes = {slot.task: len(batch) for slot, batch in probe}
        uses = uses_from_gradients(
            self.model,
            runs,
            lambda task: told(recipe, Load("before the first step", [(task, sizes[task])]), accelerator.device),
        )
        if recipe.train.compile:  # after the probe, whose batches would be compiled for nothing
            self.model.encoder.compile_blocks()
        groups = parameter_groups(self.model, uses, recipe.optim, depth=recipe.model.depth)
        self.optimizer = GroupSkipAdamW(groups, lr=recipe.optim.lr, betas=recipe.optim.betas, eps=recipe.optim.eps)
        self._may_lack = {
            name: tensor.clone()
            for name, tensor in self.model.state_dict().items()
            if name.startswith((TEMPERATURES, *NEWER))
        }
        self.engine = (
            wrapped(accelerator, step_model, self.optimizer, recipe.optim.clip)
            if share is None
            else beside_experts(accelerator, step_model, self.optimizer, recipe.optim.clip, share)
        )
        looks = self.optimizer.defaults["fused"]  # whether its kernels see a gradient that is not finite
        self.at_once = self.model.device.type == "cpu" or self.scale is not None or self.engine.waits or not looks
        """Whether the norm of the gradient is read before the weights change: on a CPU nobody has to wait for it."""
        self._halted = torch.zeros((), device=self.model.device)
        self.whole_batches = step_model.whole_batches
        self._parts = parts_of(self.model)
        self._watch.lap()  # that of the probe is of no step
        check_running(recipe, accelerator, self.engine.module)
        self.ema = Ema(self.model, recipe.optim.ema) if recipe.optim.ema is not None else None

    def _probe(self, step_model: StepModel, slot: Slot, batch: Batch) -> Tensor:
        return step_model([self._item(slot, batch)])[0]  # type: ignore[no-any-return]

    def _item(self, slot: Slot, batch: Batch) -> Item:
        task = self.recipe.tasks[slot.task]
        labels = self.labels.get(slot.task)
        noise = draw_noise(
            task,
            rate=self.recipe.model.drop_path,
            depth=self.recipe.model.depth,
            labels=0 if labels is None else len(labels),
            seed_value=self.recipe.seed,
            step=self.step,
            slot=slot.ordinal,
            device=self.model.device,
            gates=self.experts.gates,
        )
        return Item(slot.task, batch.to(self.model.device, non_blocking=True), labels, noise)

    def train_step(
        self, slots: Slots, *, moved: Sequence[Batch] | None = None, norms_by_part: bool = False
    ) -> StepResult:
        """One change of the weights, and what it was; see `launch`."""
        return self.finish(self.launch(slots, moved=moved, norms_by_part=norms_by_part))

    def launch(self, slots: Slots, *, moved: Sequence[Batch] | None = None, norms_by_part: bool = False) -> Launched:
        """Make a forward and a backward pass over the slots, or over each chunk of them, and one change of the weights.

        An accelerator is not waited for, unless `at_once`: its numbers are read by `finish`, best a step later.

        Args:
            slots: those of the step, with this rank's batches on the host.
            moved: the same batches on the device; None: they are copied here.
            norms_by_part: measure the norm of the gradient by part of the network, too.

        Raises:
            NonFiniteError: a gate is not finite, where asking costs no wait.
        """
        optim = self.recipe.optim
        tasks = {slot.task for slot, _ in slots}
        lr = learning_rate(self.step, optim, self.recipe.max_steps) * self.skipped.factor(self.step + 1)
        for group in self.engine.param_groups():
            group["active"] = bool(tasks & set(group["tasks"]))
            group["lr"] = lr * group["lr_scale"]
        sums, load = self._gradients(slots, [batch for _, batch in slots] if moved is None else moved)
        parts, norms = self.engine.norms(self._parts) if norms_by_part else ((), sums.new_empty(0))
        norm, held = self._change()
        settings = self.recipe.model.experts
        self.experts.step(load, settings.bias_rate if settings else 0.0, held)
        if norms_by_part:
            self.experts.take()
        if self.ema is not None:
            self.ema.update(self.model, held)
        self.step += 1
        kind = torch.float64 if self.at_once else torch.float32  # engines may tell the norm in more digits
        numbers = HostCopy(torch.cat([part.flatten().to(sums.device, kind) for part in (sums, norm, norms)]))
        return Launched(self.step, slots, lr, self._watch.lap(), numbers, parts)

    def _change(self) -> tuple[Tensor, bool | Tensor]:
        """Clip the gradients and change the weights; return their norm, and whether nothing was changed, as it is not
        finite."""
        if self.at_once:
            norm = self.engine.step()
            return torch.tensor(norm, dtype=torch.float64), not math.isfinite(norm)
        norm_there, held = self.engine.step_unread(self._halted)
        if self.recipe.train.non_finite == "stop":
            self._halted = held  # whatever is launched until the host reads of it changes nothing either
        return norm_there, held

    def finish(self, launched: Launched) -> StepResult:
        """Read what a launched step did.

        Args:
            launched: of `launch`; steps are finished in their order, by all ranks.

        Raises:
            NonFiniteError: a loss or the gradient is not finite, and the run is to end. Nothing was changed by that
                step, nor by one that was launched after it.
        """
        sums, norm, norms = launched.read()
        changed = math.isfinite(norm)
        wrong = not_finite(launched.step, launched.slots, sums)
        if wrong is None and not changed and (self.scale is None or self.scale.smallest):
            wrong = f"step {launched.step}: the gradient is not finite. {where(launched.slots)}"
        if wrong is not None:
            self._skip(launched.step, wrong)
        elif self.scale is not None:
            self._adapt_scale(launched.step, finite=changed)
        return self._result(launched, sums.tolist(), norm, norms if changed else {})

    def pass_over(self) -> None:
        """Go on after a step that is not made: nothing changes but its number."""
        self.step += 1

    def _gradients(self, slots: Slots, moved: Sequence[Batch]) -> tuple[Tensor, Tensor | None]:
        """Forward and backward passes of a step; the sums and loads of `StepModel`, of all its slots.

        Where a loss is not finite the gradient is not either.
        """
        chunks, batches = in_chunks(slots, self.recipe.engine.chunks), iter(moved)
        found: list[tuple[Tensor, Tensor | None]] = []
        for number, chunk in enumerate(chunks, start=1):
            items = [self._item(slot, next(batches)) for slot, _ in chunk]
            scale = self.scale.value if self.scale is not None else 1.0
            with self.engine.part(last=number == len(chunks), scale=scale):
                self.enter("forward")
                try:
                    loss, sums, load = self.engine.module(items, self.recipe.slots)
                except NonFiniteError as error:  # weights are those of all ranks, so all end here
                    raise NonFiniteError(f"step {self.step + 1}: {error}. {where(slots)}. {_NEXT}") from error
                # A loss may be infinite and its gradient not, and engines look at that.
                loss = loss * torch.where(torch.isfinite(sums[:, 0]).all(), 1.0, math.nan)
                self.enter("backward")
                self.engine.backward(loss)
            found.append((sums, load))
        loads = [load for _, load in found if load is not None]
        return torch.cat([sums for sums, _ in found]), sum(loads[1:], loads[0]) if loads else None

    def _skip(self, step: int, wrong: str) -> None:
        """Count a step that changed nothing, or end the run with what was `wrong`."""
        train = self.recipe.train
        if train.non_finite == "stop":
            raise NonFiniteError(f"{wrong}. {_NEXT}")
        row = self.skipped.add(step)
        if row > train.max_skipped:
            raise NonFiniteError(
                f"{wrong}. So are {row} steps in a row; train.max_skipped = {train.max_skipped}. {_NEXT}"
            )
        logger.warning("%s. The step changed nothing; the learning rate is halved for %d steps", wrong, LASTS)

    def _adapt_scale(self, step: int, *, finite: bool) -> None:
        assert self.scale is not None
        self.scale.update(finite=finite)
        if not finite:
            logger.info(
                "step %d: changed nothing, as a gradient overflowed fp16; the loss is scaled by %g from now on",
                step,
                self.scale.value,
            )

    def _result(self, launched: Launched, sums: list[list[float]], norm: float, norms: dict[str, float]) -> StepResult:
        whole: dict[str, list[float]] = {}
        flops: dict[str, int] = {}
        ranks, tokens = self.accelerator.num_processes, 0
        for (slot, batch), row in zip(launched.slots, sums, strict=True):
            before = whole.get(slot.task, [0.0] * 3)
            whole[slot.task] = [a + b for a, b in zip(before, row[:3], strict=True)]
            done = self._work(slot.task, batch)
            tokens += ranks * done.tokens
            flops[slot.task] = flops.get(slot.task, 0) + ranks * 3 * self.cost.forward(done)
        whole = {task: row for task, row in whole.items() if math.isfinite(row[0])}  # others are of a skipped step
        return StepResult(
            losses={task: loss / max(terms, 1.0) for task, (loss, terms, _) in whole.items()},
            metrics={
                f"{task}.{self.recipe.tasks[task].metric}": TASK_METRICS[self.recipe.tasks[task].metric](
                    loss, max(terms, 1.0), hits
                )
                for task, (loss, terms, hits) in whole.items()
            },
            samples=sum(len(slot) for slot, _ in launched.slots),
            tokens=tokens,
            flops=flops,
            seconds=launched.lap.seconds(),
            seen={slot.task: slot.stop for slot, _ in launched.slots},
            norm=norm,
            norms=norms,
            lr=launched.lr,
        )

    def _work(self, task: str, batch: Batch) -> Work:
        """What a slot sends through the network on this rank."""
        return work(
            self.recipe.tasks[task],
            batch,
            self.label_tokens.get(task),
            self.model.config.vocabulary_size,
            bucketed=bucketed_on(self.model.device) and not self.whole_batches,
            ranks=self.accelerator.num_processes,
        )

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """Group, name and tensor of everything that a checkpoint holds, each whole; every rank iterates to the end."""
        for name, tensor in self.engine.weights():
            yield "weights", name, tensor
        yield from self.engine.moments()
        if self.ema is not None:
            for name, tensor in self.engine.whole(self.ema.tensors()):
                yield "ema", name, tensor

    def save(self, writer: checkpoint.Writer, state: dict[str, Any]) -> None:
        """Begin a checkpoint of this step."""
        groups = ["weights", *MOMENTS, "steps", *(["ema"] if self.ema is not None else [])]
        scale = {"loss_scale": self.scale.state()} if self.scale else {}
        own = {"step": self.step, "skipped": [*self.skipped.steps], "slot_mean_from": self.slot_mean_from}
        state = {**own, **scale, **state}
        writer.save(self.step, groups, self.tensors(), state)

    def load(self, path: checkpoint.Location) -> dict[str, Any]:
        """Continue from a checkpoint that `newest` or `verify` found whole; returns the state that was saved with it.

        Temperatures may come and go with the tasks: one that the checkpoint lacks starts as in a new run. What an
        older one lacks of queries (`NEWER`) changes nothing. Any other difference is a `CheckpointError`.
        """
        found = checkpoint.opened(path, hashes=False)
        stored = {group: self._known(named) for group, named in found.tensors.items()}
        self.new_temperatures = found.tensors["weights"].keys() != self.model.state_dict().keys()
        try:
            self.engine.load_weights(self._with_lacking(stored["weights"]))
        except RuntimeError as error:
            raise checkpoint.CheckpointError(
                f"{path}: not a checkpoint of this model: {error}. Resume with the recipe of the run, or train into "
                "another folder with --out"
            ) from error
        self.engine.load_moments(stored)
        if self.ema is not None:
            if "ema" in stored:
                average = self._with_lacking(stored["ema"])
                self.ema.load(checkpoint.Lazy(average, lambda name: self.engine.parts({name: average[name]})[name]))
            else:
                logger.warning("%s has no moving average of the weights; it starts from the weights there", path)
                self.ema = Ema(self.model, self.ema.decay)
        if self.scale is not None and "loss_scale" in found.state:
            self.scale.load(found.state["loss_scale"])
        self.skipped.steps = list(found.state.get("skipped", []))
        self.step = found.step
        self.slot_mean_from = found.state.get("slot_mean_from", found.step)
        self._tell_of_weights(path)
        return dict(found.state)

    def _tell_of_weights(self, path: checkpoint.Location) -> None:
        """Say where a part of the run was trained with factors that depended on the other tasks of each step."""
        uneven = [f"{name} {task.loss_weight:g}" for name, task in self.recipe.tasks.items() if task.loss_weight != 1]
        if self.slot_mean_from and uneven:
            logger.warning(
                "%s: up to step %d this run divided the weighted losses of a step by the sum of their weights; since "
                "then by its number of slots, so that these loss weights act as they are written: %s",
                path,
                self.slot_mean_from,
                ", ".join(uneven),
            )

    def _known(self, named: Mapping[str, Tensor]) -> checkpoint.Lazy:
        """Tensors of a checkpoint without those of temperatures that no task of the recipe has any more."""
        own = self._may_lack
        known = [name for name in named if name in own or not name.startswith(TEMPERATURES)]
        return checkpoint.Lazy(known, named.__getitem__)

    def _with_lacking(self, named: Mapping[str, Tensor]) -> checkpoint.Lazy:
        """The same with what it may lack, as the model has them before it is loaded."""
        own = self._may_lack
        return checkpoint.Lazy([*named, *own], lambda name: named[name] if name in named else own[name])
