"""A step that needs more memory than there is ends the run with what needs it and what would need less.

A CPU cannot be filled politely: a hook of a module raises what torch raises on a GPU, or asks for more than any machine
has, which torch's own allocator refuses.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny import losses

from tests.train.test_loop import short
from unified import checkpoint
from unified.cli.ends import guarded
from unified.config.recipe import EngineSettings, Recipe
from unified.train import loop
from unified.train.build import Parts
from unified.train.dry_run.plan import make_plan
from unified.train.out_of_memory import Load, OutOfMemoryError, is_out_of_memory, message, told

CPU = torch.device("cpu")
OF_CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.15 GiB of which 12.00 MiB is "
    "free. Of the allocated memory 70 GiB is allocated by PyTorch. If reserved memory is large try setting variables"
)


def full_gpu(*_: object) -> None:
    raise torch.OutOfMemoryError(OF_CUDA)


def full_host(*_: object) -> None:
    torch.empty(2**55)


def breaking(monkeypatch: pytest.MonkeyPatch, fail: Callable[..., None], after: int, backward: bool = False) -> None:
    """Let the encoder of a run fail after so many passes."""
    made = loop.build

    def build(recipe: Recipe, *, fresh: bool) -> Parts:
        parts, passes = made(recipe, fresh=fresh), iter(range(1000))

        def hook(*_: object) -> None:
            if next(passes) >= after:
                fail()

        block = parts.model.encoder.blocks[0]
        _ = block.register_full_backward_hook(hook) if backward else block.register_forward_pre_hook(hook)
        return parts

    monkeypatch.setattr(loop, "build", build)


def run(recipe: Recipe, out: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # one for a process, and a test makes several runs
    loop.run(recipe, out)


@pytest.mark.parametrize("fail", [full_gpu, full_host])
def test_a_step_names_tasks_batches_the_estimate_and_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Callable[..., None]
) -> None:
    recipe, out = short(tmp_path, max_steps=4, train={"log_every": 1, "save_every": 1}), tmp_path / "run"
    run(replace(recipe, max_steps=2), out)
    with monkeypatch.context() as patched:
        breaking(patched, fail, after=7)  # two tasks are tried before, and a step has two slots
        with pytest.raises(SystemExit) as caught:
            guarded(run, recipe, out)
    said = str(caught.value.code)
    assert said.startswith("error: step 4: out of memory on cpu, with task ")
    assert "task 'colour' with 8 of 8 samples" in said
    assert "task 'hidden' with 4 of 4 samples" in said
    assert ("capacity of 79.15 GiB" if fail is full_gpu else "can't allocate memory: you tried to allocate") in said
    assert "Of the allocated memory" not in said
    plan = make_plan(recipe)
    total = plan.states(plan.engines["none"]).total + plan.activations_of(["colour", "hidden"])
    assert f"estimate is {total / 2**30:.2f} GiB a process" in said
    for less in ("batch (now ", "engine.chunks: 2 (now 1)", "checkpoint_activations: true", "offload: optimizer"):
        assert less in said
    assert "\n" not in said
    found = checkpoint.newest(out / "checkpoints")
    assert str(found).endswith("step_00000003"), "what was saved before is kept"
    run(recipe, out)
    assert [row["step"] for row in losses(out)] == [1, 2, 3, 4]


@pytest.mark.parametrize("backward", [False, True])
def test_before_the_first_step_it_names_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backward: bool
) -> None:
    breaking(monkeypatch, full_gpu, after=0, backward=backward)
    with pytest.raises(
        OutOfMemoryError, match="before the first step: out of memory on cpu, with task 'colour' with 8"
    ):
        run(short(tmp_path), tmp_path / "run")


def test_other_errors_pass(tmp_path: Path) -> None:
    load = Load("step 1", [])
    with pytest.raises(RuntimeError, match="shapes differ"), told(short(tmp_path), load, CPU):
        raise RuntimeError("shapes differ")
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("out of memory"))
    for text in ("CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"):
        assert is_out_of_memory(RuntimeError(text))
    assert is_out_of_memory(MemoryError())


def test_hints_are_those_that_are_left(tmp_path: Path) -> None:
    recipe = short(tmp_path)
    used = replace(
        recipe,
        engine=EngineSettings("deepspeed", 2, "optimizer"),
        train=replace(recipe.train, checkpoint_activations=True),
    )
    said = message(used, Load("step 1", [("hidden", 4)]), CPU, MemoryError())
    assert "Hint: lower tasks.hidden.batch (now 4); the same" in said
    assert "MemoryError" in said
    passes = replace(recipe, engine=EngineSettings(chunks=2))
    assert "chunks" not in message(passes, Load("step 1", []), CPU, MemoryError()).split("Hint")[1]


def test_without_an_estimate_it_says_why(tmp_path: Path) -> None:
    recipe = short(tmp_path)
    lost = replace(recipe.tasks["colour"], target="nothing")
    said = message(replace(recipe, tasks={"colour": lost}), Load("step 1", [("colour", 8)]), CPU, MemoryError())
    assert "there is no estimate (" in said
    assert "Hint: lower tasks.colour.batch (now 8)" in said
