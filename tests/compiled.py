"""Compiles, exports or trains small models, for tests: types of arguments, checked there, are what no compiler reads.

`python compiled.py HOW KIND …` prints what differs, and fails where something does.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from small_models import random_inputs, small_model, written

from unified.hub.fold import fold
from unified.hub.load import load
from unified.model.pretrained import UnifiedModel
from unified.nn.moe.settings import ExpertSettings


def model_of(kind: str) -> UnifiedModel:
    """A small model: dense, of a router, or folded."""
    if kind == "dense":
        return small_model()
    router = "attribute" if kind == "folded" else kind
    made = small_model(ExpertSettings(count=4, router=router, layers=(0, 2)))
    if kind != "folded":
        return made
    with tempfile.TemporaryDirectory() as name:
        source = written(made, Path(name) / "moe")
        fold(source, Path(name) / "folded")
        return load(Path(name) / "folded")[0]


def answers(call: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """What a model says of pictures and texts."""
    found: torch.Tensor = call(**inputs).logits_per_image
    return found


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Fail where they differ."""
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def compile_(kind: str, backend: str = "aot_eager") -> None:
    """Forward and backward pass of a whole graph, but for routers that look at tokens."""
    model = model_of(kind)
    inputs = random_inputs(model)
    expected = answers(model, inputs)
    expected.sum().backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    compiled = torch.compile(model, backend=backend, fullgraph=kind not in ("token", "context"))
    found = answers(compiled, inputs)
    same(found, expected)
    found.sum().backward()
    for name, parameter in model.named_parameters():
        if name in wanted:
            torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-3, rtol=1e-3, msg=lambda m, n=name: n + m)


class Embed(torch.nn.Module):
    """`embed` as a module, which is what export takes."""

    def __init__(self, model: UnifiedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The features of pictures."""
        return self.model.embed(pixel_values=pixel_values)


@torch.no_grad()
def export(kind: str) -> None:
    """`forward` and `embed` with other numbers of pictures and texts than they were exported with."""
    model = model_of(kind)
    inputs = random_inputs(model)
    images, texts = (torch.export.Dim(name, min=2, max=64) for name in ("images", "texts"))
    sizes = {"pixel_values": {0: images}, "input_ids": {0: texts}, "attention_mask": {0: texts}}
    program = torch.export.export(model, (), inputs, dynamic_shapes=sizes).module()
    more = {**inputs, "pixel_values": torch.cat([inputs["pixel_values"]] * 2)}
    same(answers(program, more), answers(model, more))
    pixels = {"pixel_values": inputs["pixel_values"]}
    program = torch.export.export(Embed(model), (), pixels, dynamic_shapes={"pixel_values": {0: images}}).module()
    same(program(pixel_values=more["pixel_values"]), model.embed(pixel_values=more["pixel_values"]))


if __name__ == "__main__":
    how, *kinds = sys.argv[1:]
    for kind in kinds:
        {"compile": compile_, "export": export, "inductor": lambda kind: compile_(kind, "inductor")}[how](kind)
