"""Steps that are fetched ahead come in the same order with the same bytes, and change nothing of a run."""

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny import losses, tiny_recipe

from tests.train.test_loop import short
from unified import checkpoint
from unified.config.recipe import Recipe
from unified.core.errors import DataError
from unified.data.pinned import tensors
from unified.pipeline.loader import StepLoader
from unified.pipeline.schedule import schedule
from unified.train import feeding, loop
from unified.train.build import build
from unified.train.faults.stop_signal import StopRequest
from unified.train.feeding import Feeder, steps_ahead

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an accelerator would have it, on a CPU."""
    monkeypatch.setattr(feeding, "steps_ahead", lambda _: 1)


def loader(recipe: Recipe) -> StepLoader:
    parts = build(recipe)
    return StepLoader(recipe, parts.tokenizers, parts.labels)


def spoil(recipe: Recipe, step: int) -> None:
    """Make an image that a step reads unreadable."""
    own = loader(recipe).steps
    slot = next(slot for slot in schedule(recipe, recipe.seed, step, own.origin) if slot.task == "colour")
    shards = own.sources["colour"].shards
    place, _ = shards.locate(own.positions(slot)[0])
    image = shards[own.positions(slot)[0]]["png"]
    path = Path(shards.files[place].name)
    path.write_bytes(path.read_bytes().replace(bytes(image), b"\0" * len(image)))


def run(recipe: Recipe, out: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # one for a process, and a test makes several runs
    loop.run(recipe, out)


def test_a_cpu_fetches_nothing_ahead_and_accelerators_one_step() -> None:
    assert steps_ahead(CPU) == 0
    assert steps_ahead(META) == steps_ahead(torch.device("cuda")) == 1


@pytest.mark.parametrize("number", [0, 1, 3])
def test_order_and_bytes_are_those_of_the_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(feeding, "steps_ahead", lambda _: number)
    recipe = tiny_recipe(tmp_path)
    plain = list(loader(recipe))
    with Feeder(loader(recipe), CPU) as feeder:
        fed = list(feeder)
    assert [step.number for step in fed] == [number for number, _, _ in plain] == list(range(recipe.max_steps))
    for step, (_, slots, _) in zip(fed, plain, strict=True):
        assert [slot for slot, _ in step.slots] == [slot for slot, _ in slots]
        for (_, host), moved, (_, batch) in zip(step.slots, step.moved, slots, strict=True):
            assert host.keys == moved.keys == batch.keys
            pairs = zip(tensors(host), tensors(batch), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
            pairs = zip(tensors(moved), tensors(batch.to("cpu")), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)


def test_the_next_step_is_on_the_device_while_this_one_computes(tmp_path: Path) -> None:
    own = loader(tiny_recipe(tmp_path, slots=1))
    with Feeder(own, META) as feeder:
        first = next(feeder)
        assert {tensor.device.type for batch in first.moved for tensor in tensors(batch)} == {"meta"}
        assert {tensor.device.type for _, batch in first.slots for tensor in tensors(batch)} == {"cpu"}
        assert [len(batch.keys) for _, batch in first.slots] == [len(batch.keys) for batch in first.moved]
        waiting = feeder._queue[0]
        assert {tensor.device.type for batch in waiting.moved for tensor in tensors(batch)} == {"meta"}
        assert own.seen == waiting.seen > feeder.counts[0] == first.seen
        assert next(feeder) is waiting
        assert feeder.counts == (waiting.seen, 0)


def test_an_error_comes_at_its_own_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: None) -> None:
    own = loader(tiny_recipe(tmp_path))
    batch = own.steps.batch
    counted = iter(range(100))

    def broken(*arguments: object) -> object:
        if next(counted) == 5:  # the second slot of the third step
            raise DataError("shard b: gone")
        return batch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(own.steps, "batch", broken)
    with Feeder(own, CPU) as feeder:
        assert [next(feeder).number, next(feeder).number] == [0, 1]
        for _ in range(2):
            with pytest.raises(DataError, match="shard b: gone"):
                next(feeder)
        assert feeder.counts == (own.seen, 0), "of the second step"


def test_leaving_ends_the_loader(tmp_path: Path, ahead: None) -> None:
    with Feeder(loader(tiny_recipe(tmp_path)), CPU) as feeder:
        next(feeder)
        steps = feeder._steps
    assert next(steps, None) is None


def test_a_run_that_is_stopped_and_goes_on_is_that_without_feeding_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = short(tmp_path, max_steps=6, train={"log_every": 1, "save_every": 1, "keep_last": 9})
    spoil(recipe, 2)
    run(recipe, tmp_path / "whole")
    monkeypatch.setattr(feeding, "steps_ahead", lambda _: 1)
    with monkeypatch.context() as patched:
        asked = iter([False, False, True])
        patched.setattr(StopRequest, "agreed", lambda *_: next(asked))
        run(recipe, tmp_path / "run")
    newest = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert newest is not None
    assert str(newest).endswith("step_00000003")
    run(recipe, tmp_path / "run")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    found = {
        name: [checkpoint.load(tmp_path / name / "checkpoints" / f"step_{step:08d}") for step in range(1, 7)]
        for name in ("whole", "run")
    }
    for one, other in zip(found["whole"], found["run"], strict=True):
        assert one.state == other.state
        for group, named in one.tensors.items():
            assert all(tensor.equal(other.tensors[group][name]) for name, tensor in named.items()), group
    bad = [one.state["bad_samples"] for one in found["run"]]
    assert bad == [0, 0, 1, 1, 1, 1], "counted in the step that it belongs to, not when it was fetched"
    assert [one.state["seen_samples"] for one in found["run"]] == [12 * step for step in range(1, 7)]
