"""What the sections share: device and sizes, made-up batches, and the trainer that steps over them."""

import gc
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState

from benchmarks.gemm import BASE
from benchmarks.step import Shape, draw
from unified.config.model import ModelSettings
from unified.config.recipe import Recipe, TrainSettings
from unified.config.task import Answer, Task
from unified.core.types import Batch
from unified.modalities.image.patches import patches
from unified.modalities.image.settings import ImageSettings
from unified.modalities.text.settings import TextSettings
from unified.modalities.text.tokenizer import text_tokens
from unified.nn.moe.settings import ExpertSettings
from unified.pipeline.loader import Report, Step
from unified.pipeline.schedule import Slot
from unified.train.build import Parts, build
from unified.train.engines.accelerator import make_accelerator
from unified.train.monitor.progress import used
from unified.train.precision import has_fast_bf16
from unified.train.trainer import Trainer

WORDS = 2048
"""Of the text tokenizer that comes with the project."""
Slots = list[tuple[Slot, Batch]]


class SkippedError(Exception):
    """Something that a part needs is not there; the message says what."""


class MissedError(Exception):
    """Numbers that are not what they should be."""

    def __init__(self, message: str, numbers: dict[str, Any]) -> None:
        super().__init__(message)
        self.numbers = numbers


@dataclass(frozen=True)
class Setting:
    """Where and how large the sections measure."""

    device: torch.device
    tiny: bool  # as small as it can be: to see that the script is right
    folder: Path  # for what a section writes
    shards: Path | None = None  # the quickstart's shards, where they are there

    @property
    def shape(self) -> Shape:
        """The sizes of a training step: the base model, or next to none."""
        if self.tiny:
            return Shape(width=32, depth=2, heads=2, size=16, patch=4, text=8, batch=8, words=WORDS)
        return replace(BASE, text=64, batch=512, words=WORDS)

    @property
    def precision(self) -> str:
        """What steps compute in: bf16 where it is fast, else fp32."""
        return "bf16" if has_fast_bf16() else "fp32"

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak(self) -> float:
        """The most bytes of the device that this process has had; of the host, where that is the device."""
        host, device = used()
        return device if self.device.type == "cuda" else host

    def free(self) -> None:
        """Give back what earlier parts held on the device, and begin to count its peak anew."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)


def experts_of(kind: str, shape: Shape) -> ExpertSettings | None:
    """The experts of a kind of network: none, merged by attributes, or with tokens sent to them, at equal work."""
    if kind == "dense":
        return None
    if kind == "attribute":
        return ExpertSettings()
    top = ExpertSettings.top
    return ExpertSettings(router="token", linears=("up", "down"), hidden=4 * shape.width // top)


def recipe_of(setting: Setting, kind: str = "dense", **changes: Any) -> Recipe:
    """A recipe of one task, images against texts, at the setting's sizes; its data are made by `slots_of`."""
    shape: Shape = changes.pop("shape", setting.shape)
    task = Task("", {"jpg": "image"}, "txt", Answer.of(candidates="batch"), "accuracy", shape.batch, family="retrieve")
    tokenizer = "image_glyph" if setting.tiny else "image"
    model = ModelSettings(
        width=shape.width, depth=shape.depth, heads=shape.heads, hidden=4 * shape.width, layer_scale=0.1,
        experts=experts_of(kind, shape),
        modalities={
            "image": ImageSettings(tokenizer, patch=shape.patch),
            "text": TextSettings(max_length=shape.text, positions=shape.text),
        },

    )  # fmt: skip
    train = TrainSettings(precision=setting.precision)  # type: ignore[arg-type]
    return Recipe(
        **{"tasks": {"retrieve": task}, "max_steps": 1000, "slots": 1, "model": model, "train": train, **changes}
    )


def slots_of(shape: Shape) -> Slots:
    """A step's batch of random pixels and words, on the host: [SPE] takes one place of the text, as in `step.ours`."""
    pixels, ids = draw(shape)
    target = {"tokens": text_tokens(ids[:, 1:]), "group": torch.arange(shape.batch)}
    keys = [str(number) for number in range(shape.batch)]
    batch = Batch("retrieve", {"image": patches(pixels, shape.patch)}, target, keys)
    return [(Slot("retrieve", 0, shape.batch, 0), batch)]


def trainer_of(recipe: Recipe, slots: Slots, folder: Path) -> tuple[Trainer, Parts]:
    """What trains a recipe over such batches; one after the other in a process."""
    AcceleratorState._reset_state(reset_partial_state=True)  # one for a process otherwise
    accelerator, parts = make_accelerator(recipe, folder), build(recipe)
    return Trainer(recipe, accelerator, parts, slots), parts


def stepping(trainer: Trainer, slots: Slots) -> Callable[[], None]:
    """A step as the loop makes it: on a GPU its numbers are read while the next one runs."""
    launched: deque[Any] = deque()

    def step() -> None:
        launched.append(trainer.launch(slots))
        if len(launched) > (0 if trainer.at_once else 1):
            trainer.finish(launched.popleft())

    return step


def pinned(setting: Setting, slots: Slots) -> Slots:
    """The batches in memory that a GPU reads directly, as the loader gives them."""
    return slots if setting.device.type == "cpu" else Step(0, slots, Report()).pin_memory().slots


def seconds_of(setting: Setting, step: Callable[[], object], *, warm: int = 3, seconds: float = 4.0) -> float:
    """The mean seconds of a step over as many as fit into `seconds`, between two waits for the device."""
    for _ in range(1 if setting.tiny else warm):
        step()
    setting.wait()
    begin, count = time.perf_counter(), 0
    while count < 2 or (not setting.tiny and time.perf_counter() - begin < seconds):
        step()
        count += 1
    setting.wait()
    return (time.perf_counter() - begin) / count
