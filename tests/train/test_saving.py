"""Whole runs in this process: where checkpoints go, when, and that nothing else is needed to go on."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from tiny import losses, tensors_of, tiny_recipe, with_experts

import unified
from unified import checkpoint
from unified.checkpoint.place import Place, place
from unified.config.recipe import Recipe
from unified.core.errors import DataError, NonFiniteError, RecipeError, UserError
from unified.hub.export import export
from unified.pipeline import loader
from unified.pipeline.loader import StepLoader
from unified.pipeline.schedule import Origin, schedule
from unified.reports.run.read import read_run
from unified.train import loop
from unified.train.build import build
from unified.train.engines.accelerator import make_accelerator
from unified.train.trainer import Trainer


def run(recipe: Recipe, out: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # one for a process, and a test makes several runs
    loop.run(recipe, out)


def short(folder: Path, **train: object) -> Recipe:
    """Six steps of two tasks, of which every second is saved."""
    recipe = tiny_recipe(folder, train={"log_every": 1, "save_every": 2, "keep_last": 2, **train})
    return replace(recipe, tasks={name: recipe.tasks[name] for name in ("colour", "hidden")})


def test_beside_training_the_same_checkpoints_are_written(tmp_path: Path) -> None:
    for name, beside in (("sync", False), ("async", True)):
        run(short(tmp_path, async_save=beside), tmp_path / name)
    found = {name: tmp_path / name / "checkpoints" for name in ("sync", "async")}
    paths = {name: sorted(path.relative_to(folder) for path in folder.rglob("*")) for name, folder in found.items()}
    assert paths["sync"] == paths["async"]
    assert [path.name for path in paths["async"] if path.parent == Path()] == ["step_00000004", "step_00000006"]
    for path in paths["sync"]:
        if (found["sync"] / path).is_file():
            assert (found["sync"] / path).read_bytes() == (found["async"] / path).read_bytes(), path


def test_a_full_disk_beside_training_ends_the_run_at_a_later_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Place.put

    def full(self: Place, file: str, write: Callable[[Path], None]) -> dict[str, Any]:
        if "00000004" in self.name:
            raise OSError(28, "No space left on device")
        return put(self, file, write)

    monkeypatch.setattr(Place, "put", full)
    with pytest.raises(checkpoint.CheckpointError, match=r"step_00000004: could not be written: .*No space left"):
        run(short(tmp_path, async_save=True), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_00000002"]


@pytest.mark.parametrize("end", [NonFiniteError, DataError])
def test_a_run_that_ends_beside_its_writing_still_has_that_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: type[UserError]
) -> None:
    step = Trainer.launch

    def nan(self: Trainer, slots: Any, **options: Any) -> Any:
        if self.step == 2:
            raise NonFiniteError("step 3: the loss is not finite.")
        return step(self, slots, **options)

    def gone(recipe: Recipe, seed: int, number: int, origin: Origin) -> Any:
        if number == 2:
            raise DataError("a shard is gone")
        return schedule(recipe, seed, number, origin)

    if end is NonFiniteError:
        monkeypatch.setattr(Trainer, "launch", nan)
    else:
        monkeypatch.setattr(loader, "schedule", gone)
    with pytest.raises(end, match="not finite" if end is NonFiniteError else "gone"):
        run(short(tmp_path, async_save=True), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_00000002"]


def test_a_run_keeps_its_checkpoints_in_a_store_and_is_used_from_there(tmp_path: Path) -> None:
    url, out = f"memory://{tmp_path}/run", tmp_path / "run"
    recipe = short(tmp_path, checkpoints=url, keep_every=2, keep_last=1, async_save=True)
    run(recipe, out)
    whole = losses(out)
    place(f"{url}/step_00000006").remove()
    run(recipe, out)
    assert not (out / "checkpoints").exists()
    assert [str(path) for path in checkpoint.listed(url)] == [f"{url}/step_0000000{step}" for step in (2, 4, 6)]
    assert len(whole) == 6
    assert losses(out) == whole, "it went on from step 4 in the store"
    model, _ = unified.load(out)
    average = checkpoint.load(f"{url}/step_00000006").tensors["ema"]
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in average.items())
    export(out, tmp_path / "exported")
    assert torch.equal(unified.load(tmp_path / "exported")[0].state_dict()["norm.weight"], average["norm.weight"])
    seen = checkpoint.state(f"{url}/step_00000006")["seen_samples"]
    assert read_run(out).samples.seen == seen > 0


def test_steps_to_keep_must_be_saved(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"keep_every: 3 is not a multiple of train\.save_every 2"):
        short(tmp_path, keep_every=3)


def test_training_draws_nothing_from_global_generators(tmp_path: Path) -> None:
    """A checkpoint holds no state of random generators: every draw is a function of seed, step and slot."""
    recipe = with_experts(tiny_recipe(tmp_path))
    assert recipe.model.drop_path > 0
    assert recipe.model.experts is not None
    assert recipe.model.experts.noise > 0
    assert any(task.augment for task in recipe.tasks.values())
    results = []
    for disturbed in (False, True):
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator, parts = make_accelerator(recipe, tmp_path), build(recipe)
        loader = StepLoader(recipe, parts.tokenizers, parts.labels)
        trainer = Trainer(recipe, accelerator, parts, loader.probe())
        steps, batches = [], iter(loader)
        for step in range(recipe.max_steps):
            if disturbed:
                torch.manual_seed(1000 + step)
                np.random.seed(1000 + step)
                random.seed(1000 + step)
            # Not python's: beartype draws from it which items of a list it checks, in tests alone.
            before = (torch.get_rng_state(), np.random.get_state()[1])
            _, slots, _ = next(batches)
            done = trainer.train_step(slots)
            steps.append((done.losses, done.norm))
            assert torch.equal(torch.get_rng_state(), before[0]), "torch's generator was drawn from"
            assert np.array_equal(np.random.get_state()[1], before[1]), "numpy's generator was drawn from"
        results.append((steps, tensors_of(trainer)))
    assert results[0][0] == results[1][0]
    for group, named in results[0][1].items():
        assert all(torch.equal(tensor, results[1][1][group][name]) for name, tensor in named.items()), group
