"""What the fault tests start with torchrun: `train.py` itself, with faults in it.

`worker.py FAULTS ARGUMENT...`: the arguments are those of train.py, of several runs where `--` stands between them.
Faults are `none` or `kind:step:rank,...`. Each comes once: a file beside the run says that it has been, so that the
same command, started again, runs through.
"""

import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread, Timer
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from unified.cli.train import train
from unified.core import seed
from unified.core.distributed import rank
from unified.data.shards.shards import Shards
from unified.pipeline.loader import Steps
from unified.train import loop
from unified.train.outcome import Launched
from unified.train.step import StepModel
from unified.train.trainer import Trainer


def out() -> Path:
    return Path(sys.argv[sys.argv.index("--out") + 1])


def once(name: str) -> bool:
    """Whether this has not been yet; from now on it has."""
    try:
        out().with_name(f"{out().name}.{name}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def at(kind: str, step: int, of: int, act: Callable[[Trainer, Sequence[Any]], None]) -> None:
    """Let rank `of` act when it begins `step`, counted from 1."""

    class Faulty(loop.Trainer):  # type: ignore[misc, name-defined]
        def launch(self, slots: Sequence[Any], **options: Any) -> Launched:
            if self.step + 1 == step and rank() == of and once(kind):
                act(self, slots)
            return super().launch(slots, **options)  # type: ignore[no-any-return]

    loop.Trainer = Faulty  # type: ignore[misc]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill(step: int, of: int) -> None:
    """kill -9 of one rank, at a moment of the step or soon after that its numbers decide."""

    def act(*_: object) -> None:
        moment = Timer(0.1 * seed.generator("kill", step, of).random(), die)
        moment.daemon = True
        moment.start()

    at("kill", step, of, act)


def kill_saving(step: int, milliseconds: int) -> None:
    """kill -9 of rank 0, so long after it began to write the checkpoint of `step`."""
    folder = out() / "checkpoints" / f".writing_step_{step:08d}"

    def watch() -> None:
        while not folder.exists():
            time.sleep(0.0002)
        time.sleep(milliseconds / 1000)
        if once("kill_saving"):
            die()

    if os.environ["RANK"] == "0":
        Thread(target=watch, daemon=True).start()


def hang(step: int, of: int) -> None:
    """One rank waits for what does not come, while the other one is in a collective."""
    at("hang", step, of, lambda *_: time.sleep(600))


def slow(step: int, of: int) -> None:
    """One rank loses some seconds."""
    at("slow", step, of, lambda *_: time.sleep(4))


def notice(step: int, of: int) -> None:
    """SIGTERM to one rank."""
    at("notice", step, of, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def notice_all(step: int, of: int) -> None:
    """SIGTERM to torchrun, which passes it on to all and gives them 30 seconds."""
    at("notice_all", step, of, lambda *_: os.kill(os.getppid(), signal.SIGTERM))


def vanish(step: int, of: int) -> None:
    """The shards are removed, and one rank has to open them again."""
    load, read = Steps.__getitem__, Shards.__getitem__
    gone: list[bool] = []

    def loading(self: Steps, number: int) -> Any:
        if number + 1 == step and rank() == of and once("vanish"):
            gone.append(True)
            for path in (out().parent / "data").glob("*.tar"):
                path.unlink()
        return load(self, number)

    def reading(self: Shards, number: int) -> Any:
        if gone:
            self._open.clear()
        return read(self, number)

    Steps.__getitem__, Shards.__getitem__ = loading, reading  # type: ignore[method-assign]


def full_disk(step: int, of: int) -> None:
    """From a step on no file of one rank can grow beyond some bytes."""

    def act(*_: object) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    at("full_disk", step, of, act)


def not_finite(step: int, of: int) -> None:
    """The loss of one task is NaN in a step, for the samples of one rank."""
    _spoil("not_finite", step, of, lambda loss: loss * math.nan)


def steep(step: int, of: int) -> None:
    """The loss of one task is finite, and its gradient is not."""

    def spoilt(loss: torch.Tensor) -> torch.Tensor:
        loss.register_hook(lambda gradient: gradient * math.inf)
        return loss

    _spoil("steep", step, of, spoilt)


def _spoil(kind: str, step: int, of: int, spoil: Callable[[torch.Tensor], torch.Tensor]) -> None:
    score = StepModel._finish
    armed: list[bool] = []

    def scored(*arguments: Any, **options: Any) -> Any:
        found = score(*arguments, **options)
        return replace(found, loss=spoil(found.loss)) if armed and armed.pop() else found

    StepModel._finish = scored
    at(kind, step, of, lambda *_: armed.append(True))


def main() -> None:
    faults, *arguments = sys.argv[1:]
    torch.set_num_threads(1)
    for fault in faults.split(",") if faults != "none" else ():
        kind, step, number = fault.split(":")
        globals()[kind](int(step), int(number))
    if "--" in arguments:
        Accelerator.end_training = lambda _self: None  # it would end the group of processes, which have more runs to do
    while arguments:
        end = arguments.index("--") if "--" in arguments else len(arguments)
        AcceleratorState._reset_state(reset_partial_state=True)
        train(arguments[:end])
        arguments = arguments[end + 1 :]


if __name__ == "__main__":
    main()
