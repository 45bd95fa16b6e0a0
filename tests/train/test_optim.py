"""Groups of parameters by the tasks that use them, and an AdamW that lets idle ones rest."""

import dataclasses
import itertools
import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conditional import model
from torch import Tensor, nn

from unified import checkpoint
from unified.config.recipe import OptimSettings
from unified.core.errors import CheckpointError
from unified.core.seed import seeded, torch_generator
from unified.train.optim import (
    Ema,
    GroupSkipAdamW,
    clip_gradients,
    decayed,
    layer_of,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
    parameter_groups,
    uses_from_gradients,
)

OPTIM = OptimSettings(lr=0.01, weight_decay=0.1, warmup=2)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.up = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.up(self.norm(x))


class Tiny(nn.Module):
    """Two tasks: both run the blocks, `word` reads the table of words, `sight` the projection of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(6, 4)
        self.pixels = nn.Linear(3, 4)
        self.table = nn.Parameter(torch.ones(2, 4))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.proj = nn.Linear(4, 4)
        self.log_scales = nn.ParameterDict({"word": nn.Parameter(torch.ones(1))})
        self.spare = nn.Parameter(torch.ones(3))

    def head(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.proj(x).square().mean()

    def loss(self, task: str, step: int = 0) -> Tensor:
        rng = torch_generator(step, task)
        if task == "word":
            return self.head(self.word(torch.randint(6, (5,), generator=rng))) * self.log_scales["word"].sum()
        return self.head(self.pixels(torch.randn(5, 3, generator=rng)) + self.table[0])

    def runs(self) -> dict[str, Callable[[], Tensor]]:
        return {task: lambda task=task: self.loss(task) for task in ("word", "sight")}


def tiny() -> Tiny:
    with seeded("tiny"):
        return Tiny()


def optimizer_of(model: Tiny, optim: OptimSettings = OPTIM) -> GroupSkipAdamW:
    groups = parameter_groups(model, uses_from_gradients(model, model.runs()), optim, depth=2)
    return GroupSkipAdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps)


def train(model: Tiny, optimizer: GroupSkipAdamW, tasks: list[str], step: int) -> float:
    for group in optimizer.param_groups:
        group["active"] = bool(set(tasks) & set(group["tasks"]))
    loss = torch.stack([model.loss(task, step) for task in tasks]).sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def test_uses_are_found_by_gradients() -> None:
    model = tiny()
    uses = uses_from_gradients(model, model.runs())
    assert uses["word.weight"] == uses["log_scales.word"] == {"word"}
    assert uses["pixels.bias"] == uses["table"] == {"sight"}
    assert uses["blocks.1.up.weight"] == {"word", "sight"}
    assert uses["spare"] == frozenset()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_loss_without_parameters_names_its_task() -> None:
    with pytest.raises(ValueError, match=r"task 'sight': its loss depends on no parameter"):
        uses_from_gradients(tiny(), {"sight": lambda: torch.zeros(())})


def test_groups_are_keyed_by_tasks_and_decay(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny()
    with caplog.at_level(logging.INFO, logger="unified"):
        groups = parameter_groups(model, uses_from_gradients(model, model.runs()), OPTIM, depth=2)
    assert "they stay as they are: spare" in caplog.text
    found = {(group["tasks"], group["weight_decay"]): group["params"] for group in groups}
    assert set(found) == {
        (("sight",), 0.1),
        (("sight",), 0.0),
        (("word",), 0.0),
        (("sight", "word"), 0.1),
        (("sight", "word"), 0.0),
        ((), 0.0),
    }
    assert {id(p) for p in found[(("word",), 0.0)]} == {id(model.word.weight), id(model.log_scales["word"])}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_matrices_of_experts_decay_and_their_biases_and_names_do_not() -> None:
    names = {name.removeprefix("encoder.blocks.0.") for name in decayed(model("task"))}
    parts = {"attention.qkv", "attention.out", "mlp.up", "mlp.down", "routers.attention.gate", "routers.mlp.gate"}
    assert {name for name in names if "blocks" not in name} - {"proj.weight", "embeddings.image.projection.weight"} == {
        f"{part}.weight" for part in parts
    }


def test_only_matrices_decay() -> None:
    assert decayed(tiny()) == {"pixels.weight", "blocks.0.up.weight", "blocks.1.up.weight", "proj.weight"}


def test_a_parameter_without_axis_is_refused_by_name() -> None:
    model = tiny()
    model.register_parameter("temperature", nn.Parameter(torch.tensor(1.0)))
    with pytest.raises(ValueError, match=r"'temperature' has no axis.*\(1,\)"):
        parameter_groups(model, dict.fromkeys(dict(model.named_parameters()), frozenset({"word"})), OPTIM, depth=2)


def test_frozen_parameters_are_in_no_group() -> None:
    model = tiny()
    model.word.requires_grad_(False)
    groups = parameter_groups(model, uses_from_gradients(model, model.runs()), OPTIM, depth=2)
    assert all(p is not model.word.weight for group in groups for p in group["params"])


def test_parameters_of_absent_tasks_stay_bit_equal() -> None:
    model = tiny()
    optimizer = optimizer_of(model)
    train(model, optimizer, ["word", "sight"], 0)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    moments = {g: {n: t.clone() for n, t in named.items()} for g, named in optimizer_tensors(optimizer, model).items()}
    train(model, optimizer, ["sight"], 1)
    after = optimizer_tensors(optimizer, model)
    idle = {"word.weight", "log_scales.word", "spare"}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name]) == (name in idle), name
        for group in ("exp_avg", "exp_avg_sq", "steps"):
            if name != "spare":
                assert torch.equal(after[group][name], moments[group][name]) == (name in idle), (group, name)
    assert after["steps"]["word.weight"] == 1
    assert after["steps"]["proj.weight"] == 2
    assert "spare" not in after["steps"]


def test_a_stale_gradient_in_an_idle_group_moves_nothing() -> None:
    model = tiny()
    optimizer = optimizer_of(model)
    model.word.weight.grad = torch.ones_like(model.word.weight)
    before = model.word.weight.detach().clone()
    for group in optimizer.param_groups:
        group["active"] = group["tasks"] == ("sight",)
    optimizer.step()
    assert torch.equal(model.word.weight, before)
    assert clip_gradients(optimizer, 1.0) == 0


def test_with_all_groups_active_it_is_torch_adamw() -> None:
    model, other = tiny(), tiny()
    optimizer = optimizer_of(model)
    matrices = decayed(other)
    plain = torch.optim.AdamW(
        [
            {"params": [p for n, p in other.named_parameters() if n in matrices], "weight_decay": 0.1},
            {"params": [p for n, p in other.named_parameters() if n not in matrices], "weight_decay": 0.0},
        ],
        lr=OPTIM.lr,
        betas=OPTIM.betas,
        eps=OPTIM.eps,
        fused=True,
    )
    for step in range(3):
        train(model, optimizer, ["word", "sight"], step)
        torch.stack([other.loss(task, step) for task in ("word", "sight")]).sum().backward()
        plain.step()
        plain.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_layer_decay_slows_lower_layers() -> None:
    names = ["word.weight", "blocks.0.up.weight", "encoder.blocks.1.scale", "model.proj.bias", "log_scales.word"]
    assert [layer_of(name, 2) for name in names] == [0, 1, 2, 3, 3]
    model = tiny()
    optim = dataclasses.replace(OPTIM, layer_decay=0.5)
    groups = parameter_groups(model, uses_from_gradients(model, model.runs()), optim, depth=2)
    factor = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert [factor[id(p)] for p in (model.word.weight, model.blocks[0].scale, model.blocks[1].scale)] == [
        0.125,
        0.25,
        0.5,
    ]
    assert factor[id(model.proj.weight)] == 1.0
    assert all(group["lr"] == optim.lr * group["lr_scale"] for group in groups)


def test_warm_up_then_cosine() -> None:
    optim = OptimSettings(lr=1.0, final_lr=0.1, warmup=4)
    rates = [learning_rate(step, optim, 15) for step in range(15)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[9] == pytest.approx(0.55)
    assert rates[14] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))
    assert learning_rate(99, optim, 15) == pytest.approx(0.1)
    assert learning_rate(0, dataclasses.replace(optim, warmup=0), 1) == 1.0


def test_clipping_uses_one_norm_of_all_active_gradients() -> None:
    model = tiny()
    optimizer = optimizer_of(model)
    for group in optimizer.param_groups:
        group["active"] = "word" in group["tasks"]
    model.proj.bias.grad = torch.full((4,), 3.0)
    model.log_scales["word"].grad = torch.tensor([8.0])
    model.table.grad = torch.full((2, 4), 100.0)
    assert clip_gradients(optimizer, 5.0) == 10.0
    assert model.proj.bias.grad.tolist() == pytest.approx([1.5] * 4, rel=1e-5)
    assert model.log_scales["word"].grad.item() == pytest.approx(4.0, rel=1e-5)
    assert model.table.grad.max() == 100.0


def test_resume_is_bit_exact(tmp_path: Path) -> None:
    schedule = [["word"], ["sight"], ["word", "sight"], ["sight"], ["word"], ["word"]]
    model = tiny()
    optimizer = optimizer_of(model)
    losses = []
    for step, tasks in enumerate(schedule):
        if step == 3:
            tensors = {"weights": model.state_dict(), **optimizer_tensors(optimizer, model)}
            path = checkpoint.save(tmp_path, step, tensors, {}, keep_last=1)
        losses.append(train(model, optimizer, tasks, step))
    again = tiny()
    train(again, fresh := optimizer_of(again), ["word"], 9)  # whatever was there before does not matter
    found = checkpoint.load(path).tensors
    again.load_state_dict(found["weights"])
    load_optimizer_tensors(fresh, again, found)
    assert [train(again, fresh, schedule[step], step) for step in range(3, 6)] == losses[3:]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_moments_of_another_model_are_refused() -> None:
    model = tiny()
    optimizer = optimizer_of(model)
    train(model, optimizer, ["word"], 0)
    tensors = optimizer_tensors(optimizer, model)
    with pytest.raises(CheckpointError, match=r"no 'steps'; found \['exp_avg', 'exp_avg_sq'\]"):
        load_optimizer_tensors(optimizer, model, {k: v for k, v in tensors.items() if k != "steps"})
    tensors["exp_avg"]["proj.weight"] = torch.zeros(2, 2)
    with pytest.raises(CheckpointError, match=r"'proj.weight' have the shape \(2, 2\).*\(4, 4\)"):
        load_optimizer_tensors(optimizer, model, tensors)
    tensors["exp_avg"] = {"gone": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"'gone'.*none that is trained"):
        load_optimizer_tensors(optimizer, model, tensors)


def test_moving_average() -> None:
    model = tiny()
    ema = Ema(model, 0.75)
    start = model.proj.bias.detach().clone()
    with torch.no_grad():
        model.proj.bias += 1.0
    ema.update(model)
    ema.update(model)
    expected = start + 1 - 0.75**2
    assert torch.allclose(ema.tensors()["proj.bias"], expected, atol=1e-6)
    weights = model.proj.bias.detach().clone()
    with pytest.raises(ZeroDivisionError), ema.swapped(model):
        1 / (torch.allclose(model.proj.bias, expected, atol=1e-6) - 1)  # raises when the average is in place
    assert torch.equal(model.proj.bias, weights)
    other = Ema(tiny(), 0.75)
    other.load(ema.tensors())
    assert torch.equal(other.tensors()["proj.bias"], ema.tensors()["proj.bias"])
    with pytest.raises(CheckpointError, match=r"differs in .*blocks\.0\.norm\.bias"):
        other.load({"proj.bias": start})


def test_learning_rate_is_finite_everywhere() -> None:
    optim = OptimSettings(warmup=10)
    assert all(math.isfinite(learning_rate(step, optim, steps)) for steps in (1, 10, 11, 12) for step in range(steps))
