"""A run from its recipe to its last checkpoint: resume, train, evaluate, log, save."""

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from unified import checkpoint
from unified.checkpoint.place import checkpoints_of
from unified.config.recipe import Recipe
from unified.core.atomic_files import replacing_files
from unified.core.consent import allow_commands
from unified.core.distributed import barrier, broadcast_object, leave, of_ranks, rank, world_size
from unified.core.errors import DataError, NonFiniteError
from unified.core.log import logger
from unified.core.training_record import joined, read_record, write_record
from unified.data.shards.contents import read_contents
from unified.evaluate.run import evaluate, flat_metrics
from unified.evaluate.training_data import check_unseen
from unified.hub.uni_perceiver.kept import keep_of_start
from unified.pipeline.loader import StepLoader
from unified.pipeline.schedule import START, record, resume
from unified.pipeline.sources import TaskData, open_data
from unified.train.build import Parts, build
from unified.train.dry_run.flops import gemm_peak
from unified.train.engines.accelerator import make_accelerator
from unified.train.faults.stop_signal import StopRequest
from unified.train.faults.watchdog import Watchdog
from unified.train.feeding import Feeder
from unified.train.first_samples import begin_at_baselines
from unified.train.monitor.progress import Progress
from unified.train.monitor.run_folder import RunFolder
from unified.train.monitor.trackers import Trackers
from unified.train.origins import check_origins, describe_origins
from unified.train.out_of_memory import Load, OutOfMemoryError, told
from unified.train.outcome import Launched
from unified.train.precision import PRECISIONS, resolved
from unified.train.trainer import Trainer
from unified.train.training_data import record_before, record_training, with_pinned_start


def run(recipe: Recipe, out: Path) -> None:
    """Train `recipe` in the folder `out`; continues there when it holds a complete checkpoint.

    The commands of its own data may run; those of the specs in `recipe.evaluate` need `allow_commands`.
    """
    recipe = resolved(recipe, out)
    accelerator = make_accelerator(recipe, out)
    with contextlib.ExitStack() as stack:
        stack.callback(leave)
        stack.enter_context(allow_commands(recipe.commands))
        folder = stack.enter_context(RunFolder(out)) if rank() == 0 else None
        barrier()
        watchdog = stack.enter_context(Watchdog(recipe.train.hang_seconds, out / "log.txt"))
        stop = stack.enter_context(StopRequest())
        recipe = broadcast_object(with_pinned_start(recipe, out) if rank() == 0 else None)
        found = broadcast_object(_newest(checkpoints_of(out, recipe.train.checkpoints)) if rank() == 0 else None)
        parts = build(recipe, fresh=found is None)
        start = checkpoint.opened(found, groups=(), hashes=False).step if found else 0
        if folder is not None:
            folder.check(recipe, parts.model.config) if found else folder.check_new(recipe)
        if start >= recipe.max_steps:
            logger.info("%s is at step %d of %d: nothing is left to train", out, start, recipe.max_steps)
            return
        session = _Session(recipe, out, accelerator, parts, folder, found, watchdog)
        stack.callback(session.trackers.finish)
        stack.callback(session.trainer.engine.close)
        stack.callback(session.writer.close)
        session.begin(start)  # only now, as until here a wrong recipe must leave the run as it was
        session.train(stop)


def _newest(folder: checkpoint.Location) -> checkpoint.Location | None:
    """The checkpoint to go on from, None in a new run; damaged ones alone are an error, as they are all there is."""
    found = checkpoint.newest(folder)
    damaged = [str(path).rsplit("/", maxsplit=1)[-1] for path in checkpoint.listed(folder)]
    if found is None and damaged:
        raise checkpoint.CheckpointError(
            f"{folder}: no complete checkpoint to go on from; {', '.join(damaged)} cannot be read (see above). "
            "Move them away to start this run anew, or train into another folder with --out"
        )
    return found


class _Session:
    """One stretch of a run, from its first or a resumed step on."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        accelerator: Accelerator,
        parts: Parts,
        folder: RunFolder | None,
        found: checkpoint.Location | None,
        watchdog: Watchdog,
    ) -> None:
        self.recipe, self.out, self.accelerator, self.folder, self.parts = recipe, out, accelerator, folder, parts
        self.watchdog = watchdog
        stored = checkpoint.opened(found, groups=(), hashes=False) if found else None
        start, state = (stored.step, stored.state) if stored else (0, {})
        mixed, data = open_data(recipe)
        self.origin = resume(mixed, recipe.seed, start, state["schedule"]) if stored else START
        self.loader = StepLoader(
            mixed, parts.tokenizers, parts.labels, start_step=start, origin=self.origin, data=data
        )  # fmt: skip
        self._know_origins(data, state)
        if not stored:
            begin_at_baselines(parts, self.loader)
        self.feeder = Feeder(self.loader, accelerator.device)
        with told(recipe, Load("before the first step", []), accelerator.device):
            self.trainer = Trainer(recipe, accelerator, parts, self.loader.probe(), enter=watchdog.enter)
        self.writer = checkpoint.Writer(
            checkpoints_of(out, recipe.train.checkpoints),
            keep_last=recipe.train.keep_last,
            keep_every=recipe.train.keep_every,
            background=recipe.train.async_save,
        )
        if found:
            self.trainer.load(found)
            # The share of bad samples is one of the whole run.
            self.loader.bad, self.loader.seen = state.get("bad_samples", 0), state.get("seen_samples", 0)
            logger.info("continuing %s from step %d of %d", out, start, recipe.max_steps)
        self._launched: deque[Launched] = deque()
        self.trackers = Trackers(accelerator, recipe, out.name)
        peak = (
            gemm_peak(PRECISIONS[recipe.train.precision], accelerator.device, torch.get_num_threads())
            * accelerator.num_processes
        )
        self.progress = Progress(
            recipe.max_steps, every=recipe.train.log_every, tell=self._tell, start=start, peak=peak,
            more=self._more, of_ranks=of_ranks,
        )  # fmt: skip

    def _know_origins(self, data: Mapping[str, TaskData], state: Mapping[str, Any]) -> None:
        """Hash what is trained on, and compare it with the state of the checkpoint to go on from, {} in a new run."""
        recipe, parts = self.recipe, self.parts
        files = {name: found.shards.files for name, found in data.items()}
        contents = read_contents(files, alive=lambda: self.watchdog.enter("reading shards"))
        self.watchdog.enter("starting")
        self.digests = contents.digests()
        self.origins = describe_origins(recipe, contents, parts.labels, parts.tokenizers)
        if state:
            check_origins(state, self.origins, contents, self.loader.digests(), recipe)
        self.record = record_training(recipe, parts.labels, data, contents)
        self.unchanged = not state or state["data"] in (self.digests, self.loader.digests())

    def _more(self) -> dict[str, Any]:
        trainer = self.trainer
        return {**trainer.experts.record(), **trainer.skipped.record(), **self.loader.epochs(trainer.step)}

    def begin(self, start: int) -> None:
        """Write what describes the run from its step `start` on."""
        if self.folder is not None:
            before = record_before(self.recipe, read_record(self.folder.model), start > 0, self.unchanged)
            self.record = joined(before, self.record)
            check_unseen(self.recipe.evaluate, self.record)  # not hours later, at the first evaluation
            self.folder.start(self.recipe, start)
            self.folder.model.mkdir(exist_ok=True)
            write_record(self.folder.model, self.record)
            with replacing_files(self.folder.model) as part:
                self.parts.processor.save_pretrained(part)
                if self.recipe.start is not None and start == 0:
                    keep_of_start(self.recipe.start.model, self.parts.model.config.families, part)
            if not self.trainer.new_temperatures:
                self._write_config()

    def _write_config(self) -> None:
        """Write the model's configuration: always that of the newest checkpoint, so that the run can be loaded."""
        if self.folder is not None:
            with replacing_files(self.folder.model) as part:
                self.parts.model.config.save_pretrained(part)

    def train(self, stop: StopRequest) -> None:
        """Step until the recipe's end, or until someone asks to stop; either way the last step is saved.

        An evaluation comes before the checkpoint of its step: a run that goes on from there has its numbers.
        """
        with self.feeder:
            self._train(stop)

    def _train(self, stop: StopRequest) -> None:
        train, last = self.recipe.train, self.recipe.max_steps
        passed = train.passed_over()
        for step in range(self.trainer.step + 1, last + 1):
            self.watchdog.begin(step)
            if step in passed:
                self._finish()
                self.trainer.pass_over()
                logger.info("step %d: passed over, as train.skip_steps says", step)
            else:
                self._step(step)
            stopping = stop.agreed(self.accelerator.device)
            self.writer.check()
            evaluating = train.eval_every and (step % train.eval_every == 0 or step == last)
            saving = step == last or stopping or step % train.save_every == 0
            if evaluating or saving:
                self._finish()
            if evaluating:
                self.watchdog.enter("evaluating")
                with self.progress.paused():
                    self._evaluate()
            if saving:
                self.watchdog.enter("saving")
                with self.progress.paused():
                    self._save()
                    if step == last or stopping:
                        self.writer.wait()
            if stopping and step < last:
                logger.info("stopped after step %d; the same command goes on from there", step)
                return

    def _step(self, step: int) -> None:
        with self._keeping_checkpoints():
            with self.progress.waiting():
                fed = next(self.feeder)
            self.watchdog.has(slot.task for slot, _ in fed.slots)
            recorded = self.progress.recorded(step)
            load = Load(f"step {step}", [(slot.task, len(batch)) for slot, batch in fed.slots])
            with told(self.recipe, load, self.accelerator.device):
                self._launched.append(self.trainer.launch(fed.slots, moved=fed.moved, norms_by_part=recorded))
        self._finish(0 if self.trainer.at_once else 1)

    def _finish(self, but: int = 0) -> None:
        """Report the steps that were launched, `but` the last of which may still be under way."""
        while len(self._launched) > but:
            launched = self._launched.popleft()
            with self._keeping_checkpoints():
                done = self.trainer.finish(launched)
            self.progress.step(launched.step, **done.values())

    @contextlib.contextmanager
    def _keeping_checkpoints(self) -> Iterator[None]:
        try:
            yield
        except (DataError, NonFiniteError):
            self.writer.wait()  # all ranks end here, and the run goes on from the last checkpoint that is complete
            raise
        except OutOfMemoryError:
            if world_size() == 1:  # other ranks may be elsewhere, and waiting asks all of them
                self.writer.wait()
            raise

    def _save(self) -> None:
        seen, bad = self.feeder.counts
        state = {
            "schedule": record(self.loader.recipe, self.recipe.seed, self.trainer.step, self.origin),
            "data": self.digests,
            "origins": self.origins,
            "bad_samples": bad,
            "seen_samples": seen,
        }
        self.trainer.save(self.writer, state)
        if self.trainer.new_temperatures:
            self.writer.wait()
            self._write_config()
            self.trainer.new_temperatures = False

    def _evaluate(self) -> None:
        """Run the recipe's evaluation specs; on rank 0, while the others wait."""
        if not self.recipe.evaluate:
            return
        with self.trainer.engine.evaluated(self.trainer.ema) as model:
            specs, processor = self.recipe.evaluate, self.parts.processor
            results = evaluate(model, processor, specs, record=self.record) if model is not None else None
        if results is not None:
            metrics = flat_metrics(results)
            logger.info(
                "step %d evaluation: %s", self.trainer.step, "  ".join(f"{k} {v:.3f}" for k, v in metrics.items())
            )
            self._tell({"step": self.trainer.step, **{f"eval/{name}": value for name, value in metrics.items()}})
        barrier()

    def _tell(self, entry: dict[str, Any]) -> None:
        """Write a record to metrics.jsonl and to the trackers."""
        if self.folder is not None:
            self.folder.append(entry)
        self.trackers.log(entry)
