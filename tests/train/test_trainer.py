"""Steps of several tasks: what they change and leave alone, and that one and two processes compute the same."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny import tensors_of, tiny_recipe, with_experts
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unified.checkpoint import Writer, newest
from unified.config.recipe import Recipe
from unified.core.errors import NonFiniteError
from unified.core.types import IGNORE, Batch, Tokens
from unified.pipeline.loader import StepLoader
from unified.pipeline.schedule import Slot
from unified.train import outcome
from unified.train.build import build
from unified.train.engines.accelerator import make_accelerator
from unified.train.optim import learning_rate
from unified.train.step import StepModel
from unified.train.trainer import Trainer

ROOT = Path(__file__).parent.parent.parent


def start(recipe: Recipe, folder: Path) -> tuple[Trainer, StepLoader]:
    AcceleratorState._reset_state(reset_partial_state=True)  # one for a process, and a test makes several runs
    accelerator = make_accelerator(recipe, folder)
    parts = build(recipe)
    loader = StepLoader(recipe, parts.tokenizers, parts.labels)
    return Trainer(recipe, accelerator, parts, loader.probe()), loader


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def copied(trainer: Trainer) -> dict[str, Tensor]:
    """Everything that a checkpoint holds."""
    return {f"{group}/{name}": tensor.clone() for group, name, tensor in trainer.tensors()}


def only(loader: StepLoader, task: str) -> list[tuple[Slot, Batch]]:
    return [(slot, batch) for slot, batch in loader.probe() if slot.task == task]


def test_a_step_leaves_parameters_of_absent_tasks_bit_equal_moments_included(tmp_path: Path) -> None:
    trainer, loader = start(tiny_recipe(tmp_path), tmp_path)
    trainer.train_step(loader.probe())  # every task once, so that all moments exist
    before, moments = weights(trainer), tensors_of(trainer)
    trainer.train_step(only(loader, "next"))
    after, later = weights(trainer), tensors_of(trainer)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    idle = {
        "embeddings.image.projection.weight",
        "embeddings.image.temporal.weight",
        "log_scales.retrieve",
        "log_scales.hidden",
    }
    assert idle.isdisjoint(changed)
    for group in ("exp_avg", "exp_avg_sq", "steps"):
        for name in idle:
            assert torch.equal(moments[group][name], later[group][name]), (group, name)
    assert {"embeddings.text.word.weight", "log_scales.next", "encoder.blocks.0.mlp.up.weight"} <= changed


def weighted(recipe: Recipe, **weights: float) -> Recipe:
    """The recipe with other loss weights."""
    changed = {name: replace(recipe.tasks[name], loss_weight=weight) for name, weight in weights.items()}
    return replace(recipe, tasks={**recipe.tasks, **changed})


def test_the_loss_of_a_step_is_the_mean_over_its_slots_of_weight_times_loss(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    plain, loader = start(recipe, tmp_path)
    pairs = only(loader, "caption") + only(loader, "colour")
    single = [plain.engine.module([plain._item(slot, batch)])[0].item() for slot, batch in pairs]
    trainer, _ = start(weighted(recipe, caption=3.0, colour=0.01), tmp_path)
    items = [trainer._item(slot, batch) for slot, batch in pairs]
    whole = trainer.engine.module(items)[0]
    assert whole.item() == pytest.approx((3 * single[0] + 0.01 * single[1]) / 2, rel=1e-5)
    parts = [trainer.engine.module([item], len(items))[0].item() for item in items]
    assert sum(parts) == pytest.approx(whole.item(), rel=1e-6), "chunks add up to the step"


@pytest.mark.parametrize("weight", [0.01, 0.5, 7.0])
def test_the_factor_of_a_task_is_its_weight_whatever_tasks_share_the_step(tmp_path: Path, weight: float) -> None:
    recipe = tiny_recipe(tmp_path)

    def gradient(changed: Recipe, *tasks: str) -> Tensor:
        """That of the temperature of `colour`, which no other task uses."""
        trainer, loader = start(changed, tmp_path)
        pairs = [pair for task in tasks for pair in only(loader, task)]
        trainer.engine.module([trainer._item(slot, batch) for slot, batch in pairs], recipe.slots)[0].backward()
        found = trainer.model.log_scales["colour"].grad
        assert found is not None
        return found

    expected = gradient(recipe, "colour") * weight
    changed = weighted(recipe, colour=weight, caption=30.0)
    torch.testing.assert_close(gradient(changed, "colour"), expected)
    torch.testing.assert_close(gradient(changed, "colour", "caption"), expected)
    torch.testing.assert_close(gradient(changed, "next", "colour", "colour"), 2 * expected)


def test_a_run_that_began_with_the_sum_of_weights_says_so_where_weights_are_not_1(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = tiny_recipe(tmp_path)
    trainer, loader = start(weighted(recipe, colour=0.5), tmp_path)
    trainer.train_step(loader.probe())
    trainer.save(Writer(tmp_path / "new", keep_last=1), {})
    trainer.save(Writer(tmp_path / "old", keep_last=1), {"slot_mean_from": 1})  # as after a resume of an older run
    for folder, changed, told in (("new", 0.5, False), ("old", 0.5, True), ("old", 1.0, False)):
        resumed, _ = start(weighted(recipe, colour=changed), tmp_path)
        caplog.clear()
        found = newest(tmp_path / folder)
        assert found is not None
        resumed.load(found)
        assert ("up to step 1" in caplog.text and "colour 0.5" in caplog.text) == told, (folder, changed)


def test_the_loss_falls_on_every_kind_of_answer(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, max_steps=40, slots=5)
    optim = replace(recipe.optim, lr=3e-3, warmup=1)
    model = replace(recipe.model, drop_path=0.0, layer_scale=None)
    trainer, loader = start(replace(recipe, optim=optim, model=model), tmp_path)
    batch = loader.probe()
    first = trainer.train_step(batch).losses
    for _ in range(38):
        trainer.train_step(batch)
    last = trainer.train_step(batch).losses
    assert set(first) == {"retrieve", "colour", "caption", "hidden", "next"}
    for task in first:
        # The texts of the retrieval batch repeat, so its floor is the entropy of its right answers, not 0.
        assert last[task] < 0.6 * first[task], (task, first[task], last[task])


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path: Path) -> None:
    trainer, loader = start(tiny_recipe(tmp_path), tmp_path)
    with torch.no_grad():
        trainer.model.log_scales["colour"].fill_(math.nan)
    before = weights(trainer)
    batch = only(loader, "next") + only(loader, "colour")
    with pytest.raises(NonFiniteError, match="task 'colour'") as error:
        trainer.train_step(batch)
    assert batch[1][1].keys[0] in str(error.value)
    assert "'next'" not in str(error.value)
    for name, value in weights(trainer).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gate_that_is_not_finite_stops_with_task_and_samples(tmp_path: Path, value: float) -> None:
    trainer, loader = start(with_experts(tiny_recipe(tmp_path)), tmp_path)
    with torch.no_grad():
        trainer.model.encoder.conditional_layers()[0]["mlp"].gate.weight[0, 0] = value  # type: ignore[union-attr, index]
    before = weights(trainer)
    batch = only(loader, "next")
    with pytest.raises(
        NonFiniteError, match=r"step 1: encoder\.blocks\.0\.routers: .*not finite.*task 'next'"
    ) as error:
        trainer.train_step(batch)
    assert batch[0][1].keys[0] in str(error.value)
    for name, found in weights(trainer).items():
        torch.testing.assert_close(found, before[name], rtol=0, atol=0, equal_nan=True)


def test_only_ranks_whose_own_loss_is_not_finite_name_their_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, loader = start(tiny_recipe(tmp_path), tmp_path)
    slots = only(loader, "next")
    other = "task 'next', samples [\"of the other rank\"]"
    monkeypatch.setattr(outcome, "gather_objects", lambda value: [value, True if isinstance(value, bool) else [other]])
    sums = torch.tensor([[math.nan, 8.0, 0.0, 1.0]])  # over all ranks it is not, on this one it is finite
    wrong = outcome.not_finite(1, slots, sums)
    assert wrong is not None
    assert "of the other rank" in wrong
    assert f'"{slots[0][1].keys[0]}"' not in wrong


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]) -> None:
    """Change the loss of the next slot alone."""
    left = [change]

    plain = StepModel._finish

    def finished(*arguments: Any) -> Any:
        found = plain(*arguments)
        return replace(found, loss=left.pop()(found.loss)) if left else found

    monkeypatch.setattr(StepModel, "_finish", finished)


def steep(loss: Tensor) -> Tensor:
    """Finite, with a gradient that is not."""
    loss.register_hook(lambda gradient: gradient * math.inf)
    return loss


@pytest.mark.parametrize("change", [lambda loss: loss * math.nan, lambda loss: loss + math.inf, steep])
@pytest.mark.parametrize("model", ["dense", "token"])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_skipped_step_changes_nothing_but_the_rate_of_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, change: Callable[[Tensor], Tensor], at_once: bool
) -> None:
    recipe = tiny_recipe(tmp_path, train={"non_finite": "skip"})
    recipe = with_experts(recipe, "token", bias_rate=0.01) if model == "token" else recipe
    trainer, loader = start(recipe, tmp_path)
    trainer.at_once = at_once
    trainer.train_step(loader.probe())
    before = copied(trainer)
    spoil(monkeypatch, change)
    result = trainer.train_step(loader.probe())
    after = copied(trainer)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert not math.isfinite(result.norm)
    assert all(math.isfinite(loss) for loss in result.losses.values())
    assert (trainer.step, trainer.skipped.steps, trainer.skipped.record()) == (2, [2], {"skipped_steps": 1})
    passed, _ = start(recipe, tmp_path)
    passed.at_once = at_once
    passed.train_step(loader.probe())
    passed.pass_over()
    passed.skipped.add(2)
    assert trainer.train_step(loader.probe()) == passed.train_step(loader.probe())
    assert trainer.train_step(loader.probe()).lr == 0.5 * learning_rate(3, recipe.optim, recipe.max_steps)


def test_a_step_whose_numbers_are_read_later_changes_the_same(tmp_path: Path) -> None:
    recipe = with_experts(tiny_recipe(tmp_path, optim={"ema": 0.9}), "token", bias_rate=0.01)
    (now, loader), (later, _) = start(recipe, tmp_path), start(recipe, tmp_path)
    later.at_once = False
    for _ in range(3):
        assert now.train_step(loader.probe(), norms_by_part=True) == later.train_step(
            loader.probe(), norms_by_part=True
        )
        assert now.experts.record() == later.experts.record()
    expected = copied(now)
    for name, found in copied(later).items():
        exact = not name.startswith("ema/")  # whose arithmetic is another one
        torch.testing.assert_close(found, expected[name], rtol=0 if exact else 1e-6, atol=0 if exact else 1e-7)


def test_nothing_changes_after_a_step_that_ends_the_run_and_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, loader = start(tiny_recipe(tmp_path), tmp_path)
    trainer.at_once = False
    trainer.train_step(loader.probe())
    before, batch = copied(trainer), only(loader, "colour")
    spoil(monkeypatch, lambda loss: loss * math.nan)
    wrong = trainer.launch(batch)
    trainer.launch(loader.probe())
    with pytest.raises(NonFiniteError, match=r"step 2: the loss is not finite\. task 'colour'") as error:
        trainer.finish(wrong)
    assert batch[0][1].keys[0] in str(error.value)
    assert [name for name, value in copied(trainer).items() if not torch.equal(value, before[name])] == []


def test_too_many_skipped_steps_in_a_row_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, loader = start(tiny_recipe(tmp_path, train={"non_finite": "skip", "max_skipped": 2}), tmp_path)
    batch = only(loader, "colour")
    for _ in range(2):
        for _ in range(2):
            spoil(monkeypatch, lambda loss: loss * math.nan)
            trainer.train_step(batch)
        trainer.train_step(batch)
    assert trainer.skipped.steps == [1, 2, 4, 5]
    for _ in range(2):
        spoil(monkeypatch, lambda loss: loss * math.nan)
        trainer.train_step(batch)
    before = copied(trainer)
    spoil(monkeypatch, lambda loss: loss * math.nan)
    with pytest.raises(NonFiniteError, match=r"step 9: .*task 'colour'.*3 steps in a row.*train\.max_skipped = 2"):
        trainer.train_step(batch)
    assert [name for name, value in copied(trainer).items() if not torch.equal(value, before[name])] == []


def test_skipped_steps_are_kept_in_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(tmp_path, train={"non_finite": "skip"})
    trainer, loader = start(recipe, tmp_path)
    for step in range(3):
        if step == 1:
            spoil(monkeypatch, steep)
        trainer.train_step(loader.probe())
    trainer.save(Writer(tmp_path / "checkpoints", keep_last=1), {})
    other, _ = start(recipe, tmp_path)
    other.load(tmp_path / "checkpoints" / "step_00000003")
    assert other.skipped.steps == [2]
    assert other.train_step(loader.probe()) == trainer.train_step(loader.probe())


def test_operations_are_those_that_torch_counts_buckets_included(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    tasks = {name: replace(task, batch=64) for name, task in recipe.tasks.items()}
    model = replace(
        recipe.model,
        drop_path=0.0,
        modalities={**recipe.model.modalities, "text": replace(recipe.model.modalities["text"], max_length=16)},
    )
    trainer, loader = start(replace(recipe, tasks=tasks, model=model), tmp_path)
    for slot, batch in loader.probe():
        for text in texts(batch):  # half of the texts become short, so that they are encoded in buckets
            text.mask[::2, text.mask.shape[1] // 3 :] = False
        if isinstance(batch.target, Tensor) and batch.target.dim() == 2:
            batch.target[::2, batch.target.shape[1] // 3 :] = IGNORE
        done = trainer._work(slot.task, batch)
        if slot.task != "colour":
            assert len(done.sequences) > (2 if slot.task == "retrieve" else 1)
        plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
        with torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
            trainer.engine.module([trainer._item(slot, batch)])
        assert trainer.cost.forward(done) == pytest.approx(counter.get_total_flops(), rel=0.02), slot.task


def texts(batch: Batch) -> list[Tokens]:
    found = [tokens for tokens in batch.inputs.values() if tokens.modality == "text"]
    if isinstance(batch.target, Tokens):
        found.append(batch.target)
    return [*found, batch.target["tokens"]] if isinstance(batch.target, dict) else found


def test_bf16_computes_in_bf16_and_keeps_fp32_weights(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    exact, loader = start(recipe, tmp_path)
    rough, _ = start(replace(recipe, train=replace(recipe.train, precision="bf16")), tmp_path)
    a, b = exact.train_step(loader.probe()).losses, rough.train_step(loader.probe()).losses
    assert a != b
    for task in a:
        assert b[task] == pytest.approx(a[task], rel=0.05)
    assert {parameter.dtype for parameter in rough.model.parameters()} == {torch.float32}


def test_recomputed_activations_give_the_same_step(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    plain, loader = start(recipe, tmp_path)
    saving, _ = start(replace(recipe, train=replace(recipe.train, checkpoint_activations=True)), tmp_path)
    assert saving.model.encoder.gradient_checkpointing
    for _ in range(2):
        assert plain.train_step(loader.probe()) == saving.train_step(loader.probe())


WORKER = """
import sys, json
sys.path[:0] = [{tests!r}]
from pathlib import Path
from tiny import tiny_recipe, with_experts
from unified.core import distributed as dist
sys.path[:0] = [{here!r}]
from tests.train.test_trainer import start
folder = Path({folder!r})
dense = tiny_recipe(folder, max_steps=4, slots=3)
attribute = with_experts(dense)
token = with_experts(dense, "token", balance=1.0, z_loss=0.1, bias_rate=0.01)
results = []
for recipe in (dense, attribute, token):
    trainer, loader = start(recipe, folder)
    for _, slots, _ in loader:
        result = trainer.train_step(slots)
        results.append([result.losses, result.norm, result.samples])
    results[-1].append(trainer.experts.record())
if dist.rank() == 0:
    (folder / f"results{{dist.world_size()}}.json").write_text(json.dumps(results))
"""


@pytest.mark.distributed
def test_two_processes_compute_what_one_computes(tmp_path: Path) -> None:
    tiny_recipe(tmp_path)
    script = tmp_path / "worker.py"
    here = Path(__file__).parent
    script.write_text(WORKER.format(tests=str(here.parent), here=str(here), folder=str(tmp_path)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    for processes in ("1", "2"):
        command = [*launch, processes, str(script)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr[:3000]
    one, two = (json.loads((tmp_path / f"results{n}.json").read_text()) for n in (1, 2))
    assert len(one) == len(two) == 3 * 4
    for (losses, norm, samples, *loads), (losses2, norm2, samples2, *loads2) in zip(one, two, strict=True):
        assert losses2 == pytest.approx(losses, abs=1e-5)
        assert norm2 == pytest.approx(norm, rel=1e-4)
        assert samples2 == samples
        for load, load2 in zip(loads, loads2, strict=True):  # of the experts, over all ranks
            assert load.keys() == load2.keys()
            for name, value in load.items():
                assert load2[name] == pytest.approx(value, abs=1e-4), name
    assert len(two[-1][3]) == 2 * 4
