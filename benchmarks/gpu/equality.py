"""One step on the CPU and on the device, from the same weights and batches: losses and gradients must agree.

fp32: to rounding, without TF32. bf16: both sides round differently, so each is compared with the CPU's fp32, and the
device may be no farther from it than `BF16` times as far as the CPU is; or about one rounding, where that is nothing.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.made import CLASSES, write_squares
from benchmarks.gpu.setting import MissedError, Setting, experts_of
from benchmarks.step import Shape
from unified.config.model import ModelSettings
from unified.config.recipe import DataSettings, Recipe
from unified.config.task import Answer, Task
from unified.modalities.image.settings import ImageSettings
from unified.modalities.text.settings import TextSettings
from unified.nn.queries.settings import QuerySettings
from unified.pipeline.loader import StepLoader
from unified.train.build import Parts, build
from unified.train.step import Item, StepModel

FP32 = {"loss": 1e-5, "gradient": 1e-4}
"""Largest relative difference of the loss and of the whole gradient."""
BF16, LEAST = 2.0, {"loss": 1e-3, "gradient": 1e-2}
"""Factor of the CPU's own error, and limits that are never below."""
SAMPLES, SIDE = 16, 32
Step = tuple[float, dict[str, Tensor]]


def measure(part: str, setting: Setting) -> dict[str, Any]:
    """The differences of a kind of network in a precision; `MissedError` where they are larger than rounding."""
    kind, precision = part.split()
    if not (setting.folder / "data").exists():
        write_squares(setting.folder, SAMPLES, SIDE)
    recipe = _recipe(setting, kind)
    parts = build(recipe)
    batches = [batch for _, batch in StepLoader(recipe, parts.tokenizers, parts.labels).probe()]
    exact = _step(recipe, parts, batches, "fp32", torch.device("cpu"))
    torch.backends.cudnn.allow_tf32 = False
    found = _step(recipe, parts, batches, precision, setting.device)
    numbers = {"loss": exact[0], "device loss": found[0], **_differences(exact, found)}
    limits = FP32
    if precision != "fp32":
        own = _differences(exact, _step(recipe, parts, batches, precision, torch.device("cpu")))
        limits = {name: max(BF16 * own[f"{name} difference"], least) for name, least in LEAST.items()}
    numbers |= {f"{name} limit": limit for name, limit in limits.items()}
    wrong = [name for name, limit in limits.items() if not numbers[f"{name} difference"] <= limit]
    if wrong:
        raise MissedError(f"CPU and {setting.device} differ by more than rounding: {', '.join(wrong)}", numbers)
    return numbers


def _recipe(setting: Setting, kind: str) -> Recipe:
    """Tasks of every kind of words, or maps and boxes, over a network of four layers."""
    data, folder, image = str(setting.folder / "data"), setting.folder, {"png": "image"}
    words = {"caption": (image, "caption"), "masked": ({"txt": "text"}, "masked")}
    tasks = {"retrieve": Task(data, image, "txt", Answer.of(candidates="batch"), "accuracy", SAMPLES)}
    for name, (inputs, read) in words.items():
        tasks[name] = Task(data, inputs, "txt", Answer.of(candidates="vocabulary", read=read), "perplexity", SAMPLES)  # type: ignore[arg-type]
    if kind == "queries":
        objects, size = str(folder / "objects.txt"), (SIDE, SIDE)
        maps = Answer.of(map="classes", names=str(folder / "classes.txt"))
        boxes = Answer.of(regress="boxes", names=objects, queries=2 * len(CLASSES))
        tasks = {
            "classes": Task(data, image, "classes.png", maps, "score", SAMPLES, size=size),
            "boxes": Task(data, image, "json.objects", boxes, "score", SAMPLES, size=size),
        }
    shape = Shape(width=64, depth=4, heads=4)
    model = ModelSettings(
        width=shape.width, depth=shape.depth, heads=shape.heads, hidden=4 * shape.width, layer_scale=None,
        experts=experts_of(kind, shape) if kind != "queries" else None,
        queries=QuerySettings(depth=2, width=64, heads=4, hidden=128) if kind == "queries" else None,
        modalities={"image": ImageSettings("image_glyph", patch=4), "text": TextSettings(max_length=16, positions=16)},
    )  # fmt: skip
    return Recipe(tasks, 10, len(tasks), model=model, data=DataSettings(workers=0))


def _step(recipe: Recipe, parts: Parts, batches: Sequence[Any], precision: str, device: torch.device) -> Step:
    """The loss and the gradients of a step over all tasks."""
    model = StepModel(parts.model.to(device), recipe.tasks, precision).train()
    model.zero_grad()
    items = [Item(batch.task, batch.to(device)) for batch in batches]
    loss = model(items)[0]
    loss.backward()
    named = parts.model.named_parameters()
    return float(loss.detach()), {name: p.grad.detach().cpu().clone() for name, p in named if p.grad is not None}


def _differences(exact: Step, found: Step) -> dict[str, Any]:
    """Relative differences: of the loss, of the whole gradient, and of the parameter whose gradient differs most."""
    size = torch.stack([gradient.norm() for gradient in exact[1].values()]).norm()
    apart = {name: (found[1][name] - gradient).norm() for name, gradient in exact[1].items()}
    worst = max(apart, key=lambda name: float(apart[name]))
    return {
        "loss difference": abs(found[0] - exact[0]) / abs(exact[0]),
        "gradient difference": float(torch.stack([*apart.values()]).norm() / size),
        "worst parameter": worst,
        "worst of it": float(apart[worst] / size),
    }
