"""Whole runs in this process: what a changed, damaged or stopped run does when it goes on."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from tiny import losses, tiny_recipe, with_experts

import unified
from unified import checkpoint
from unified.config.recipe import Recipe
from unified.core.errors import RecipeError, UserError
from unified.pipeline.loader import StepLoader
from unified.train import loop
from unified.train.dry_run.report import dry_run
from unified.train.faults.stop_signal import StopRequest


def run(recipe: Recipe, out: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # one for a process, and a test makes several runs
    loop.run(recipe, out)


def short(folder: Path, **changes: object) -> Recipe:
    """Two steps of two tasks."""
    recipe = tiny_recipe(folder, **{"max_steps": 2, **changes})
    return replace(recipe, tasks={name: recipe.tasks[name] for name in ("colour", "hidden")})


def files(folder: Path) -> dict[str, bytes]:
    """What describes a run."""
    names = ("recipe.yaml", "metrics.jsonl", "versions.json", "model/config.json", "model/tokenizer.json")
    return {name: (folder / name).read_bytes() for name in names}


def test_a_run_goes_on_when_a_task_comes_and_another_one_goes(tmp_path: Path) -> None:
    recipe, out = short(tmp_path), tmp_path / "run"
    run(recipe, out)
    before = checkpoint.load(out / "checkpoints" / "step_00000002")
    names = tiny_recipe(tmp_path).tasks
    changed = replace(recipe, tasks={"colour": names["colour"], "next": names["next"]}, max_steps=4)
    run(changed, out)
    after = checkpoint.load(out / "checkpoints" / "step_00000004")
    assert set(after.tensors["weights"]) - set(before.tensors["weights"]) == {"log_scales.next"}
    assert set(before.tensors["weights"]) - set(after.tensors["weights"]) == {"log_scales.hidden"}
    assert float(after.tensors["steps"]["log_scales.colour"]) > float(before.tensors["steps"]["log_scales.colour"])
    assert float(after.tensors["steps"]["log_scales.next"]) <= 2
    assert [row["step"] for row in losses(out)] == [1, 2, 3, 4]
    model, _ = unified.load(out)
    assert model.config.families == ["colour", "next"]


def test_a_run_goes_on_with_other_rates_and_losses_of_its_experts(tmp_path: Path) -> None:
    token = {"router": "token", "capacity": 1.0, "bias_rate": 1e-3}
    recipe, out = with_experts(short(tmp_path), **token), tmp_path / "run"
    run(recipe, out)
    changed = with_experts(recipe, **{**token, "capacity": 2.0, "balance": 0.5, "z_loss": 0.1, "bias_rate": 1e-4})
    run(replace(changed, max_steps=3, model=replace(changed.model, drop_path=0.3)), out)
    assert [row["step"] for row in losses(out)] == [1, 2, 3]
    config = unified.load(out)[0].config
    assert (config.drop_path, config.experts["capacity"], config.experts["balance"]) == (0.3, 2.0, 0.5)


def test_a_run_with_new_tasks_can_be_loaded_before_its_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = short(tmp_path), tmp_path / "run"
    run(recipe, out)

    def broken(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Trainer, "launch", broken)
    more = replace(recipe, tasks={**recipe.tasks, "next": tiny_recipe(tmp_path).tasks["next"]}, max_steps=4)
    with pytest.raises(KeyboardInterrupt):
        run(more, out)
    model, _ = unified.load(out)
    assert model.config.families == ["colour", "hidden"]


def test_a_network_that_does_not_fit_is_refused_and_the_run_stays_as_it_was(tmp_path: Path) -> None:
    recipe, out = short(tmp_path), tmp_path / "run"
    run(recipe, out)
    config = json.loads((out / "model" / "config.json").read_text())
    size = config["vocabulary_size"]
    (out / "model" / "config.json").write_text(json.dumps({**config, "vocabulary_size": size + 1}))
    before = files(out)
    with pytest.raises(RecipeError, match=f"vocabulary_size: {size + 1} in the run, {size} in the recipe"):
        run(replace(recipe, max_steps=4), out)
    wider = replace(recipe, max_steps=4, model=replace(recipe.model, width=64))
    with pytest.raises(RecipeError, match=r"model\.width: 32 in the run, 64 in the recipe"):
        run(wider, out)
    (out / "model" / "config.json").unlink()
    (out / "recipe.yaml").unlink()
    with pytest.raises(checkpoint.CheckpointError, match="not a checkpoint of this model"):
        run(wider, out)
    assert not (out / "recipe.yaml").exists()
    assert (out / "metrics.jsonl").read_bytes() == before["metrics.jsonl"]


def test_damaged_checkpoints_alone_stop_a_run_that_would_start_anew(tmp_path: Path) -> None:
    recipe, out = short(tmp_path), tmp_path / "run"
    run(recipe, out)
    weights = out / "checkpoints" / "step_00000002" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    before = files(out)
    with pytest.raises(checkpoint.CheckpointError, match=r"step_00000002 cannot be read.*--out"):
        run(replace(recipe, max_steps=4), out)
    assert files(out) == before
    shutil.rmtree(weights.parent)
    with pytest.raises(UserError, match="expected a checkpoint, as there are records of 2 steps, got none"):
        run(recipe, out)
    (out / "metrics.jsonl").unlink()
    run(recipe, out)  # nothing is there: a new run
    assert [row["step"] for row in losses(out)] == [1, 2]


def test_the_count_of_bad_samples_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, out = short(tmp_path), tmp_path / "run"
    run(recipe, out)
    state = checkpoint.load(out / "checkpoints" / "step_00000002", groups=()).state
    assert (state["bad_samples"], state["seen_samples"]) == (0, 2 * (8 + 4))
    counts = []
    count = StepLoader._count
    monkeypatch.setattr(StepLoader, "_count", lambda self, *new: (counts.append(self.seen), count(self, *new)))
    run(replace(recipe, max_steps=4), out)
    assert counts[0] == 2 * (8 + 4)


def test_stopping_at_a_step_with_an_evaluation_keeps_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = short(tmp_path, max_steps=4, evaluate=["digits"], train={"log_every": 1, "eval_every": 2})
    monkeypatch.setattr(loop, "evaluate", lambda *_, **__: {"results": []})
    monkeypatch.setattr(loop, "flat_metrics", lambda _: {"words": 1.0})
    asked = iter([False, True])
    monkeypatch.setattr(StopRequest, "agreed", lambda *_: next(asked))
    run(recipe, tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "eval/words" in r] == [2]
    assert (tmp_path / "run" / "checkpoints" / "step_00000002").is_dir()


@pytest.mark.parametrize("start", [run, lambda recipe, _: dry_run(recipe)])
def test_a_wrong_evaluation_is_said_before_training(tmp_path: Path, start: Callable[[Recipe, Path], None]) -> None:
    recipe = short(tmp_path, evaluate=["digitz"], train={"eval_every": 2})
    with pytest.raises(RecipeError, match="did you mean 'digits'"):
        start(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_steps_that_are_passed_over_change_nothing_else(tmp_path: Path) -> None:
    recipe = short(tmp_path, max_steps=6, train={"log_every": 1, "save_every": 2, "keep_last": 9})
    run(recipe, tmp_path / "whole")
    skipping = replace(recipe, train=replace(recipe.train, skip_steps=("3", "5-6")))
    run(skipping, tmp_path / "run")
    whole, found = losses(tmp_path / "whole"), losses(tmp_path / "run")
    assert [row["step"] for row in found] == [1, 2, 4]
    assert found[:2] == whole[:2]
    assert rates(tmp_path / "run") == {step: rates(tmp_path / "whole")[step] for step in (1, 2, 4)}
    expected = checkpoint.load(tmp_path / "whole" / "checkpoints" / "step_00000004", groups=())
    four, six = (checkpoint.load(tmp_path / "run" / "checkpoints" / f"step_{step:08d}") for step in (4, 6))
    assert float(four.tensors["steps"]["log_scales.colour"]) == 3
    assert four.state["schedule"] == expected.state["schedule"]
    assert four.state["seen_samples"] == expected.state["seen_samples"] * 3 / 4
    for group, named in four.tensors.items():
        assert all(tensor.equal(six.tensors[group][name]) for name, tensor in named.items()), group


def rates(run: Path) -> dict[int, float]:
    """The learning rate of each step."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record["lr"] for record in records if "lr" in record}


@pytest.mark.parametrize("text", ["", "0", "7-3", "a-b", "1200..1210", "5-"])
def test_steps_to_pass_over_that_cannot_be_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"skip_steps: expected numbers of steps such as 1200 or 1200-1210, found"):
        short(tmp_path, train={"skip_steps": [text]})
